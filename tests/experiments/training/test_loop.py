"""A whole small run: what it writes, what it refuses, and how it diverges."""

import ast
import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import matplotlib.image
import numpy as np
import pytest

import experiments
from configs import common, deep_mlp, ptb_word
from experiments import tasks
from experiments.data import stand_in
from experiments.models import registry
from experiments.runs import files, folder, identity
from experiments.tasks import addition
from experiments.training import assembly, checkpoints, evaluation, loop
from tests.experiments.runs.test_logs import hparams, written_events
from tests.experiments.small import strict_lines, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "new" / "run"
    return workdir, loop.train(tiny_config(), workdir)


@pytest.mark.slow
def test_result(finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    assert result["task"] == "addition" and result["model"] == "spectral"
    assert result["backend"] == jax.default_backend()
    assert result["steps"] == 60 and result["seed"] == 0
    assert result["wall_seconds"] > 0
    assert 0 < result["num_independent_params"] <= result["num_params"]
    assert result["baseline"] == pytest.approx(1 / 6)
    assert set(result["metrics"]) == {"valid", "test"}
    for metrics in (result["metrics"], result["best"]):
        for split in ("valid", "test"):
            assert set(metrics[split]) == {"loss", "mse"}
            assert metrics[split]["loss"] == metrics[split]["mse"]
    assert result["metrics"]["valid"] != result["metrics"]["test"]
    assert result["diagnostics"]["spectral_margin"] >= 0
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["hidden"] == 8
    assert (workdir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(workdir.glob("events.out.tfevents.*"))
    assert (workdir / "checkpoints" / "60").is_dir()


def test_metrics_lines(finished):
    workdir, result = finished
    lines = strict_lines(workdir / "metrics.jsonl")
    by_split = {
        split: [each for each in lines if each["split"] == split]
        for split in ("train", "valid", "event")
    }
    assert len(lines) == sum(map(len, by_split.values()))
    assert [each["event"] for each in by_split["event"]] == ["started", "finished"]
    assert [each["step"] for each in by_split["train"]] == [1, 20, 40, 60]
    assert [each["step"] for each in by_split["valid"]] == [20, 40, 60]
    for each in by_split["train"]:
        assert each["loss"] == each["mse"]
        for name in ("grad_norm", "update_norm", "carry_grad_norm"):
            assert each[name] > 0
        assert each["spectral_margin"] >= 0
        assert each["learning_rate"] == pytest.approx(3e-3)
        assert each["seconds"] > 0
    assert all(each["examples_per_second"] > 0 for each in by_split["train"][1:])
    losses = {each["step"]: each["mse"] for each in by_split["valid"]}
    best = min(losses, key=lambda step: (losses[step], step))
    assert result["best"]["step"] == best
    assert result["best"]["valid"]["mse"] == losses[best]
    assert result["metrics"]["valid"]["mse"] == losses[60]


def test_a_kill_at_the_result_loses_nothing(tmp_path, monkeypatch):
    write = files.write_json

    def killed(path, content):
        if path.name == "result.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny_config(steps=2), tmp_path)
    assert (tmp_path / "learning_curve.png").exists()
    values = [v for event in written_events(tmp_path) for v in event.summary.value]
    assert len(hparams(values)) == 3
    assert loop.train(tiny_config(steps=2), tmp_path)["steps"] == 2


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tensorboard_has_the_result_once(finished, tmp_path, resumed):
    workdir, result = finished
    if resumed:

        def leave(step, metrics):
            if step == 40:
                raise KeyboardInterrupt

        workdir = tmp_path
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny_config(), workdir, leave)
        loop.train(tiny_config(), workdir)
    values = [v for event in written_events(workdir) for v in event.summary.value]
    parts = hparams(values)
    assert len(parts) == 3 and sum("_hparams_/" in v.tag for v in values) == 3
    start = parts["session_start_info"].hparams
    content = identity.read_part(identity.to_dict(tiny_config()))
    assert set(start) == set(identity.flatten(content))
    assert start["model.hidden"].number_value == 8
    tags = [each.name.tag for each in parts["experiment"].metric_infos]
    assert tags == [f"best/{s}/{n}" for s in ("valid", "test") for n in ("mse", "loss")]
    for tag in tags:
        (value,) = (v.simple_value for v in values if v.tag == tag)
        _, split, name = tag.split("/")
        assert value == pytest.approx(result["best"][split][name])
    (shown,) = (v.image for v in values if v.tag == "learning_curve")
    drawn = matplotlib.image.imread(io.BytesIO(shown.encoded_image_string), "png")
    kept = matplotlib.image.imread(workdir / "learning_curve.png")
    np.testing.assert_array_equal(drawn, kept)


def test_finished_workdir_is_left_alone(finished, capsys):
    workdir, result = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    moved = tiny_config()
    moved.data_dir = "/elsewhere"  # a place, not part of the run
    assert loop.train(moved, workdir) == result
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}


def test_another_config_is_refused(finished):
    workdir, _ = finished
    config = tiny_config(learning_rate=0.5)
    config.model.radius = 0.2
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    with pytest.raises(ValueError) as raised:
        loop.train(config, workdir)
    assert "config.train.learning_rate: 0.003 -> 0.5" in str(raised.value)
    assert "config.model.radius: 0.3 -> 0.2" in str(raised.value)
    assert "hidden" not in str(raised.value)
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}


def test_foreign_files_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("draft")
    with pytest.raises(ValueError, match="thesis.tex"):
        loop.train(tiny_config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_config_leaves_no_trace(tmp_path):
    with pytest.raises(ValueError, match="config.task.length"):
        config = tiny_config()
        config.task.length = 1
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("higher", [False, True])
def test_best_is_by_validation_then_by_loss_then_the_later(higher):
    task = tasks.build(tiny_config())
    task.higher_is_better = higher

    def better(mse, loss):
        best = {"step": 1, "valid": {"mse": 0.5, "loss": 0.3}}
        return evaluation.better(task, {"mse": mse, "loss": loss}, best)

    assert better(0.4, 0.9) is not higher and better(0.6, 0.9) is higher
    assert better(0.5, 0.2) and not better(0.5, 0.4)
    assert better(0.5, 0.3)
    assert evaluation.better(task, {"mse": 0.5, "loss": 0.3}, None)


@pytest.mark.slow
def test_the_best_step_of_a_run_whose_metric_stands_still(tmp_path, monkeypatch):
    losses = {2: 0.5, 4: 0.2, 6: 0.3, 8: 0.2, 10: 0.4}
    evaluate = evaluation.evaluate

    def still(eval_step, task, state, split, *others):
        metrics = evaluate(eval_step, task, state, split, *others)
        return {**metrics, "mse": 0.5, "loss": losses[int(state.step)]}

    monkeypatch.setattr(evaluation, "evaluate", still)
    config = tiny_config(steps=10, eval_every=2, checkpoint_every=2)

    def leave(step, metrics):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "run", leave)
    best = loop.train(config, tmp_path / "run")["best"]
    assert (best["step"], best["valid"]) == (8, {"loss": 0.2, "mse": 0.5})


# ---- Early stopping.

# (mse, loss) of the evaluations at steps 2, 4, ...: better, tied in the metric and
# better by the loss, tied in both, worse, better, tied in both twice.
STALLING = [*((0.5, 0.5), (0.4, 0.9), (0.4, 0.8), (0.4, 0.8), (0.6, 0.1))]
STALLING += [*((0.3, 0.7), (0.3, 0.7), (0.3, 0.7), (0.2, 0.1), (0.1, 0.1))]


def ends_at(values, patience):
    """The step at which a run ends by the plain rule, two steps an evaluation."""
    for i in range(len(values)):
        least = [min(values[: j + 1]) for j in range(i + 1)]
        new = [j for j in range(i + 1) if j == 0 or values[j] < least[j - 1]]
        if i - new[-1] >= patience:
            return 2 * (i + 1)
    return 2 * len(values)


def stalling(monkeypatch):
    """Validation metrics are those of `STALLING`."""
    evaluate = evaluation.evaluate

    def told(eval_step, task, state, split, *others):
        metrics = evaluate(eval_step, task, state, split, *others)
        if split == "test":
            return metrics
        mse, loss = STALLING[int(state.step) // 2 - 1]
        return {**metrics, "mse": mse, "loss": loss}

    monkeypatch.setattr(evaluation, "evaluate", told)


def patient(patience):
    own = {"steps": 20, "eval_every": 2, "checkpoint_every": 3, "log_every": 7}
    return tiny_config(patience=patience, **own)


def without_time(result):
    return {name: value for name, value in result.items() if name != "wall_seconds"}


@pytest.mark.parametrize(
    "patience, step, best",
    [(2, 10, 8), (4, 20, 20), pytest.param(None, 20, 20, marks=pytest.mark.slow)],
)
def test_a_run_ends_when_validation_stalls(
    tmp_path, monkeypatch, capsys, patience, step, best
):
    assert step == ends_at(STALLING, patience or 99)
    stalling(monkeypatch)
    result = loop.train(patient(patience), tmp_path)
    assert (result["steps"], result["best"]["step"]) == (step, best)
    assert result.get("stopped_early") is (True if step < 20 else None)
    assert result["metrics"]["valid"]["mse"] == STALLING[step // 2 - 1][0]
    assert (f"{step} steps, stopped early, in" in capsys.readouterr().out) is (
        step < 20
    )
    lines = strict_lines(tmp_path / "metrics.jsonl")
    events = [(x["step"], x["event"]) for x in lines if x["split"] == "event"]
    early = [(step, "stopped_early")] if step < 20 else []
    assert events == [(0, "started"), *early, (step, "finished")]
    assert (tmp_path / "checkpoints" / f"{step}").is_dir()
    assert loop.train(patient(patience), tmp_path) == result
    assert "nothing to do" in capsys.readouterr().out
    if early:
        with pytest.raises(ValueError, match="steps must be 20, got 10"):
            folder.result(tmp_path, identity.to_dict(patient(None)))


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 8, 10, "saved"])
def test_a_stopped_run_stalls_at_the_same_step(tmp_path, monkeypatch, at):
    stalling(monkeypatch)
    whole = loop.train(patient(2), tmp_path / "whole")

    def leave(step, metrics):
        if step == at:
            raise KeyboardInterrupt

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "saved":
            patch.setattr(evaluation, "final_metrics", broken)
        loop.train(patient(2), tmp_path / "run", leave)
    again = loop.train(patient(2), tmp_path / "run")
    assert without_time(again) == without_time(whole) and again["steps"] == 10
    lines = strict_lines(tmp_path / "run" / "metrics.jsonl")
    early = [x["step"] for x in lines if x.get("event") == "stopped_early"]
    assert early == [10]


# ---- Models of one unit.


def one_unit(name, **train):
    config = tiny_config()
    if not registry.MODELS[name].sequential:
        config = deep_mlp.get_config()
        config.data_dir = stand_in.NAME
        config.model.layers = 2
    config.model.update(name=name, hidden=1, reflectors=None)
    config.train.update(epochs=None, batch_size=8, **train)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_may_have_one_unit(tmp_path, name):
    state = assembly.assemble(one_unit(name, steps=1, devices=1)).state
    saved = checkpoints.Checkpoints(tmp_path)
    saved.save(0, state, state.params, {})
    found, best_params, _ = saved.restore(state, state.params)
    saved.close()
    jax.tree.map(np.testing.assert_array_equal, found, state)
    jax.tree.map(np.testing.assert_array_equal, best_params, state.params)


@pytest.mark.slow
def test_a_matrix_without_parameters_is_resumed_and_loaded(tmp_path):
    config = one_unit("exprnn", steps=4, eval_every=2, checkpoint_every=2, devices=2)

    def leave(step, metrics):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path, leave)
    loop.train(config, tmp_path)
    events = [each.get("event") for each in strict_lines(tmp_path / "metrics.jsonl")]
    assert events.count("resumed_from") == 1
    model, _, _ = experiments.load(tmp_path)
    assert abs(float(model.layers[0].cell.weight.matrix()[0, 0])) == 1


# ---- Losses that are not finite.


@pytest.mark.slow
def test_divergence_stops_and_keeps_the_workdir_usable(tmp_path, monkeypatch):
    poisoned = _poison_from(monkeypatch, step=4)
    config = tiny_config(steps=20, checkpoint_every=3)
    message = "not finite at step 5; the last finite checkpoint is of step 3"
    with pytest.raises(loop.NonFiniteLoss, match=message):
        loop.train(config, tmp_path)
    lines = strict_lines(tmp_path / "metrics.jsonl")
    assert lines[-1]["event"] == "non_finite"
    assert lines[-1]["step"] == 5 and lines[-1]["last_checkpoint"] == 3
    assert lines[-1]["loss"] is None
    assert not (tmp_path / "result.json").exists()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3"]

    with pytest.raises(loop.NonFiniteLoss, match=message):  # the same again
        loop.train(config, tmp_path)
    poisoned.clear()  # the cause is gone: the run goes on to its end
    assert loop.train(config, tmp_path)["steps"] == 20


def _poison_from(monkeypatch, step):
    """Makes training targets NaN from a step on, until the returned set is empty."""
    poisoned = {step}
    original = addition.Addition.train_batch

    def train_batch(self, at):
        batch = original(self, at)
        if poisoned and at >= min(poisoned):
            batch["targets"][:] = np.nan
        return batch

    monkeypatch.setattr(addition.Addition, "train_batch", train_batch)
    return poisoned


@pytest.mark.slow
def test_divergence_exits_non_zero_without_a_traceback(tmp_path):
    arguments = [
        *("--config.task.length=6", "--config.model.hidden=8"),
        *("--config.model.reflectors=3", "--config.train.steps=30"),
        "--config.train.learning_rate=1e30",
    ]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.run"),
            *("--config=configs/addition.py", f"--workdir={tmp_path}", *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "not finite at step" in done.stderr and "Traceback" not in done.stderr
    assert "no checkpoint before it" in done.stderr


# ---- What a run says before its first step and at its end.


def said(config, workdir, capsys):
    loop.train(config, workdir)
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_first_lines_say_what_was_resolved(tmp_path, capsys):
    config = tiny_config(steps=None, epochs=3, steps_per_epoch=2)
    lines = said(config, tmp_path, capsys).splitlines()
    assert lines[0].startswith("addition, spectral, on ")
    assert lines[1] == (
        "  data: length 6, fresh random sequences; 10000 for validation and test each"
    )
    assert lines[2].startswith("  parameters: ") and "independent" in lines[2]
    assert lines[3] == "  steps: 6 of batch 16, 3 epochs of 2 (by config.train.epochs)"
    assert lines[4] == "  best step: by validation mse"
    assert lines[5] == "compiling the first step ..."
    assert lines[6].startswith("step 1/6 | loss ") and max(map(len, lines[:6])) <= 80


@pytest.mark.slow
def test_stand_in_data_say_so(tmp_path, capsys):
    config = ptb_word.get_config()
    config.data_dir = stand_in.NAME
    config.model.hidden = 8
    config.model.reflectors = 4
    config.model.embedding = None
    config.train.update({"steps": 2, "batch_size": 4})
    text = said(config, tmp_path / "text", capsys)
    assert "  data: stand-in, tokens: 660 train, 110 valid, 110 test; 21" in text
    assert "\n  stand-in data: random, so that the numbers mean nothing\n" in text
    assert " tokens/s | " in text
    lines = strict_lines(tmp_path / "text" / "metrics.jsonl")
    assert any("tokens_per_second" in each for each in lines)

    config = tiny_config(steps=2)
    config.data_dir = stand_in.NAME  # which addition does not read
    assert "stand-in" not in said(config, tmp_path / "numbers", capsys)


# ---- Checked and not trained.


def listed(text):
    """{field: value} of the lines of a check that name fields."""
    lines = [each.split(" = ", 1) for each in text.splitlines() if " = " in each]
    return {field: ast.literal_eval(value) for field, value in lines}


def test_a_check_says_what_would_be_trained_and_writes_nothing(finished, capsys):
    workdir, result = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.parent.rglob("*")}
    config = tiny_config(epochs=3, steps_per_epoch=2, steps=None)
    loop.check(config)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("addition, spectral, on cpu")
    sizes = "  parameters: {num_params} ({num_independent_params} independent)"
    assert lines[2] == sizes.format(**result)
    assert lines[3] == "  steps: 6 of batch 16, 3 epochs of 2 (by config.train.epochs)"
    # Parameters five times; of a batch six pairs, six states of eight, one output.
    least = 4 * (5 * result["num_params"] + 16 * (6 * 2 + 6 * 8 + 1)) / 1e9
    assert lines[5].startswith(f"  memory: {least:.3g} GB at least, of ")
    content = identity.to_dict(config)
    fields = listed(text)
    assert fields == identity.flatten(identity.read_part(content))
    assert "model.negative_fraction" not in fields
    names = [name for name in common.FIELDS if name in fields]
    names.insert(names.index("task.name") + 1, "task.length")
    assert list(fields) == names

    loop.check(tiny_config(), workdir)
    assert f"{workdir} holds the finished run of this" in capsys.readouterr().out
    loop.check(tiny_config(), workdir.parent / "none")
    assert f"{workdir.parent / 'none'} is a new folder" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in workdir.parent.rglob("*")}


def test_a_check_knows_an_unfinished_run_and_who_makes_it(tmp_path, capsys):
    def leave(step, metrics):
        loop.check(tiny_config(), tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny_config(), tmp_path, leave)
    unfinished = f"{tmp_path} holds an unfinished run of this config, to be gone on"
    text = capsys.readouterr().out
    assert unfinished in text and f"{tmp_path} is in use by another process" in text
    loop.check(tiny_config(), tmp_path)
    text = capsys.readouterr().out
    assert unfinished in text and "in use" not in text


def test_a_check_refuses_what_a_run_refuses(finished, tmp_path):
    too_long = tiny_config(batch_size=10**9)
    wrong = tiny_config(learning_rate=-1.0)
    unread = tiny_config()
    unread.task.length = 1
    (tmp_path / "thesis.tex").write_text("draft")
    for config, workdir in (
        *((too_long, tmp_path / "run"), (wrong, tmp_path / "run")),
        *((unread, tmp_path / "run"), (tiny_config(), tmp_path)),
        (tiny_config(learning_rate=0.5), finished[0]),
    ):
        errors = []
        for call in (loop.check, loop.train):
            with pytest.raises(ValueError) as raised:
                call(config, workdir)
            errors.append(str(raised.value))
        assert errors[0] == errors[1]
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_command_checks_without_a_workdir(tmp_path):
    words = (sys.executable, "-m", "experiments.run", "--config=configs/addition.py")
    settings = {"cwd": ROOT, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}}
    more = {"capture_output": True, "text": True}
    done = subprocess.run([*words, "--check"], **settings, **more)
    assert done.returncode == 0 and not done.stderr
    assert listed(done.stdout)["task.length"] == 100
    bad = [*words, "--check", "--config.model.radius=-1"]
    done = subprocess.run(bad, **settings, **more)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config.model.radius must be finite")
