"""From a run to its model and to what it predicts, whatever state the run is in."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import experiments
from configs import deep_mlp, ptb_word
from experiments.data import ptb, stand_in
from experiments.tasks import addition
from experiments.training import (
    assembly,
    devices,
    evaluation,
    fields,
    loading,
    loop,
    prediction,
)
from tests.experiments.small import tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stops a run in this process; nothing catches it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose best step, 40, is not its last, and its result."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    better = evaluation.better
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluation,
            "better",
            lambda task, metrics, best: (
                better(task, metrics, None) if best is None else best["step"] < 40
            ),
        )
        config = tiny_config(ema=0.9, optimizer="adamw", devices=1)  # as a loaded one
        result = loop.train(config, workdir)
    assert result["best"]["step"] == 40
    return workdir, result


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_loading_first_leaves_training_its_devices(finished, monkeypatch):
    assemble, order = assembly.assemble, []

    def noted(*arguments, **options):
        order.append("assembled")
        return assemble(*arguments, **options)

    monkeypatch.setattr(devices, "start", order.append)
    monkeypatch.setattr(fields, "check", lambda config: order.append("checked"))
    monkeypatch.setattr(assembly, "assemble", noted)
    experiments.load(finished[0])
    # config.train.devices of the run
    assert order == [1, "checked", "assembled"]


def test_a_data_folder_of_a_task_without_files_is_refused(finished):
    with pytest.raises(ValueError, match="^data_dir must be .* 'addition'"):
        experiments.load(finished[0], data_dir="elsewhere")


@pytest.mark.slow
def test_models_have_the_metrics_of_the_result(finished):
    workdir, result = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    for which, known in (("best", result["best"]), ("last", result["metrics"])):
        model, task, config = experiments.load(workdir, which)
        for split in ("valid", "test"):
            _, metrics = prediction.predict(model, task, split)
            assert metrics == known[split]
    assert config.train.ema == 0.9 and config.model.hidden == 8
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    assert [loading.load(workdir, each).step for each in loading.WHICH] == [40, 60]


@pytest.mark.slow
def test_a_run_that_goes_on_can_be_loaded(tmp_path, monkeypatch):
    original = addition.Addition.train_batch
    seen = []

    def train_batch(self, step):
        if step in (10, 35):
            with monkeypatch.context() as patch:
                patch.setattr(addition.Addition, "train_batch", original)
                seen.append(step)
                if step == 10:
                    with pytest.raises(ValueError, match="must hold a checkpoint.*yet"):
                        experiments.load(tmp_path)
                else:
                    assert loading.load(tmp_path, "last").step == 30
                    assert loading.load(tmp_path).step == 20
        if step == 36:
            raise Killed
        return original(self, step)

    monkeypatch.setattr(addition.Addition, "train_batch", train_batch)
    with pytest.raises(Killed):
        loop.train(tiny_config(), tmp_path)
    assert seen == [10, 35]
    model, task, _ = experiments.load(tmp_path, "last")
    outputs, _ = model(task.train_batch(0)["inputs"])
    assert outputs.shape == (16, 1)


@pytest.mark.slow
def test_the_best_needs_a_validation(tmp_path, monkeypatch):
    def evaluate(*_):
        raise Killed

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    with pytest.raises(Killed):
        loop.train(tiny_config(eval_every=40), tmp_path)
    with pytest.raises(ValueError, match="'last' before a first validation"):
        experiments.load(tmp_path)
    assert loading.load(tmp_path, "last").step == 30
    with pytest.raises(ValueError, match="which must be .*got 'newest'"):
        experiments.load(tmp_path, "newest")


def edited(workdir, **train):
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    for name, value in train.items():
        del config["train"][name]
        if value is not None:
            config["train"][value] = 1
    path.write_text(json.dumps(config))


def test_a_config_that_lacks_fields_has_their_defaults(copied, finished):
    edited(copied, clip_norm=None, weight_decay=None)
    model, _, config = experiments.load(copied)
    assert config.train.clip_norm == 1.0 and config.train.weight_decay == 0.0
    expected, _, _ = experiments.load(finished[0])
    found = [jax.tree.leaves(each.layers[0].cell.bias) for each in (model, expected)]
    np.testing.assert_array_equal(*found)
    assert loop.train(tiny_config(ema=0.9, optimizer="adamw"), copied) == finished[1]


def test_a_config_with_a_field_that_is_no_more_is_refused(copied):
    edited(copied, clip_norm="clip")
    with pytest.raises(ValueError, match="config.json must .* got config.train.clip,"):
        experiments.load(copied)
    with pytest.raises(ValueError, match="config.train.clip: 1 -> '\\(absent\\)'"):
        loop.train(tiny_config(ema=0.9, optimizer="adamw"), copied)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workdir must hold a run"):
        experiments.load(tmp_path)


# ---- Predictions.


def short(config):
    config.data_dir = stand_in.NAME
    config.model.hidden, config.model.layers = 8, 2
    config.model.reflectors = 4
    config.train.update({"steps": 4, "batch_size": 16, "eval_every": 4})
    return config


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "experiments.predict", *words],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_predictions_of_a_text_are_its_tokens_in_order(tmp_path):
    config = short(ptb_word.get_config())
    config.model.embedding, config.task.window = None, 7
    result = loop.train(config, tmp_path / "run")
    output = tmp_path / "o.npz"
    done = command(f"--workdir={tmp_path / 'run'}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr and "ptb_word, spectral, step 4, test: loss" in done.stdout
    found = np.load(output)
    corpus = ptb.load_words(stand_in.NAME)
    np.testing.assert_array_equal(found["targets"], corpus.test)
    assert found["predictions"].shape == corpus.test.shape
    loss = -np.mean(found["log_probabilities"], dtype=np.float64)
    assert loss == pytest.approx(result["best"]["test"]["loss"], rel=1e-6)


@pytest.mark.slow
def test_predictions_of_digits(tmp_path):
    config = short(deep_mlp.get_config())
    result = loop.train(config, tmp_path)
    model, task, _ = experiments.load(tmp_path, "last")
    arrays, metrics = prediction.predict(model, task, "valid")
    # The run may have evaluated on several devices: equal to rounding.
    assert metrics == pytest.approx(result["metrics"]["valid"], rel=1e-6)
    right = np.mean(arrays["predictions"] == arrays["targets"])
    assert right == pytest.approx(metrics["accuracy"])
    expected = stand_in.digits()["valid"][1]
    np.testing.assert_array_equal(arrays["targets"], expected)
    chosen = arrays["log_probabilities"][np.arange(len(expected)), expected]
    assert -chosen.mean() == pytest.approx(metrics["loss"], rel=1e-5)


@pytest.mark.slow
def test_predictions_of_what_is_no_run(tmp_path):
    done = command(f"--workdir={tmp_path}", f"--output={tmp_path / 'o.npz'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: workdir must hold a run")
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
