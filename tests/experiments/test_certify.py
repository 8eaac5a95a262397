"""The certificate of a run: its files, its errors, its control."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import experiments
from configs import certificate
from experiments import tasks
from experiments.data import stand_in
from experiments.models import recurrent
from experiments.runs import records
from experiments.tasks import random_labels
from experiments.training import certificates, loop
from svdrnn.certificate import certification, rounding
from tests.experiments import small

ROOT = pathlib.Path(__file__).parents[2]


def tiny(variant="", **model):
    config = certificate.get_config(variant)
    config.data_dir = stand_in.NAME
    config.task.steps = 28
    config.model.update({"hidden": 4, "reflectors": 1} | model)
    config.train.steps, config.train.epochs = 3, None
    config.train.batch_size = 16
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certify") / "run"
    loop.train(tiny(), folder)
    return folder


@pytest.mark.slow
def test_a_run_is_certified_and_its_record_has_it(workdir, tmp_path):
    values = certificates.of_run(workdir, "last")
    assert json.loads((workdir / "certificate.json").read_text()) == values
    result = json.loads((workdir / "result.json").read_text())
    assert values["test_error"] == 1 - result["metrics"]["test"]["accuracy"]
    assert values["training_error"] <= values["ramp_loss"] <= values["bound"] <= 1
    assert values["inputs_bound"] == np.sqrt(28)
    assert values["dimensions"] == result["num_independent_params"]
    found = json.loads(records.record(workdir, "x", tmp_path).read_text())
    assert found["certificate"] == values
    assert certificates.of_run(workdir, delta=0.5)["delta"] == 0.5


def test_a_rounded_run_is_certified_and_its_record_has_it(workdir, tmp_path):
    values = certificates.of_rounded_run(workdir, "last", models=5)
    assert json.loads((workdir / "certificate_rounded.json").read_text()) == values
    assert values["training_error"] <= values["bound"] <= 1
    assert values["models"] == 5
    result = json.loads((workdir / "result.json").read_text())
    assert sum(values["sizes"].values()) == result["num_independent_params"]
    found = json.loads(records.record(workdir, "x", tmp_path).read_text())
    assert found["certificate_rounded"] == values
    again = records.read("x", tmp_path)
    assert again is not None and again["certificate_rounded"] == values
    text = certificates.rounded_text(values, workdir)
    assert f"{values['bits']:,} bits" in text and "readout.kernel" in text


def test_the_test_error_of_a_rounded_run_is_that_of_the_rounded_model(
    workdir, monkeypatch
):
    """A search that leaves a bit to every tensor leaves a model that says 0."""

    def one_bit(parameters, *_, **options):
        return {name: rounding.Grid(1, 0) for name in parameters}

    monkeypatch.setattr(rounding, "search", one_bit)
    values = certificates.of_rounded_run(workdir)
    _, task, _ = experiments.load(workdir)
    assert values["test_error"] == np.mean(task.examples("test")[1] != 0)
    assert values["training_error"] == 1  # where all logits are the same none is right
    assert values["log_count"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("which", ["best", "last"])
def test_margins_in_float64_give_the_accuracy_that_was_measured(workdir, which):
    model, task, _ = experiments.load(workdir, which)
    inputs, labels = task.examples("test")
    margins = certification.margins(model.layers[0], model.readout, inputs, labels)
    values = certificates.of_run(workdir, which)
    assert np.mean(margins <= 0) == pytest.approx(values["test_error"], abs=1e-6)


@pytest.mark.slow
def test_an_activation_before_the_readout_is_certified(tmp_path):
    config = tiny(activation_every=7, readout_activation="relu")
    loop.train(config, tmp_path / "run")
    found = certificates.of_run(tmp_path / "run")
    model, task, _ = experiments.load(tmp_path / "run")
    assert isinstance(model, recurrent.SequenceModel)
    errors = []
    for split in ("train", "test"):
        inputs, labels = task.examples(split)
        predicted = np.argmax(model(inputs)[0], axis=-1)
        errors.append(np.mean(predicted != labels))
    measured = found["training_error"], found["test_error"]
    np.testing.assert_allclose(errors, measured, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_command_prints_the_bound_beside_what_was_measured(workdir):
    def certify(*words):
        return subprocess.run(
            [sys.executable, "-m", "experiments.certify", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )

    done = certify(f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    values = json.loads((workdir / "certificate.json").read_text())
    assert f"error at most {values['bound']:.4f} with probability 0.95" in done.stdout
    assert f"test error {values['test_error']:.4f}" in done.stdout
    for words, code in (
        ([f"--workdir={workdir}", "--delta=2"], 2),
        ([f"--workdir={workdir}/absent"], 2),
        ([f"--workdir={workdir}", "more"], 1),
        ([], 1),
    ):
        refused = certify(*words)
        assert refused.returncode == code
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr


@pytest.mark.slow
def test_runs_without_a_bound_are_refused(tmp_path, workdir):
    with pytest.raises(ValueError, match="workdir must hold a finished run"):
        certificates.of_run(tmp_path)
    loop.train(small.tiny_config(steps=2), tmp_path / "addition")
    with pytest.raises(ValueError, match="config.task.name must be a task of classes"):
        certificates.of_run(tmp_path / "addition")
    for model, words in (
        ({"layers": 2}, "config.model.layers must be 1, got 2"),
        ({"bidirectional": True}, "model.bidirectional must be False, got True"),
        ({"pool": "mean"}, "config.model.pool must be last, got mean"),
        ({"name": "irnn"}, "rnn must be a SpectralRNN, got DenseRNN"),
        ({"activation": "modrelu"}, "activation of rnn must be one of leaky_relu"),
    ):
        other = tmp_path / "-".join(model)
        loop.train(tiny(**model), other)
        with pytest.raises(ValueError, match=words):
            certificates.of_run(other)


@pytest.mark.slow
def test_random_labels_are_random_fixed_and_certified_as_such(tmp_path):
    config = tiny("random_labels")
    task, again = random_labels.build(config), random_labels.build(config)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(task.examples(split)[1], again.examples(split)[1])
    digits = tasks.build(tiny()).examples("train")
    np.testing.assert_array_equal(task.examples("train")[0], digits[0])
    assert np.mean(task.examples("train")[1] != digits[1]) > 0.5
    config.seed = 1
    other = random_labels.build(config).examples("train")[1]
    assert np.mean(other != task.examples("train")[1]) > 0.5
    loop.train(config, tmp_path / "run")
    assert certificates.of_run(tmp_path / "run")["bound"] > 0.8


def test_the_variants_of_the_config():
    assert certificate.get_config().task.steps == 28
    assert certificate.get_config("784").task.steps == 784
    rows = certificate.get_config("rows")
    assert (rows.task.steps, rows.model.activation_every) == (784, 28)
    with pytest.raises(
        ValueError, match="takes :784, :rows, :random_labels or nothing, got :x"
    ):
        certificate.get_config("x")
