"""The optimizer, one training step, and a whole small run."""

import itertools
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import addition
from experiments import (
    checkpoints,
    configuration,
    logs,
    models,
    optimizers,
    tasks,
    train,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def tiny_config(**changes):
    """Addition of six numbers with eight hidden units."""
    config = addition.get_config()
    config.task.length = 6
    config.model.hidden = 8
    config.model.reflectors = 3
    config.train.batch_size = 16
    config.train.learning_rate = 3e-3
    config.train.steps = 60
    config.train.schedule = "constant"
    config.train.log_every = 20
    config.train.eval_every = 20
    config.train.checkpoint_every = 30
    config.train.update(changes)
    return config


def train_config(**changes):
    config = tiny_config(**changes)
    return config.train


def strict_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(each, parse_constant=refuse) for each in text.splitlines()]


# ---- Schedules and learning rates.


def test_constant_schedule():
    rate = optimizers.schedule(train_config(), 0.1, steps=10, steps_per_epoch=None)
    assert [float(rate(step)) for step in (0, 9)] == pytest.approx([0.1, 0.1])


def test_exponential_schedule_falls_once_an_epoch():
    config = train_config(schedule="exponential", decay_rate=0.9)
    rate = optimizers.schedule(config, 0.1, steps=10, steps_per_epoch=4)
    expected = [0.1] * 4 + [0.09] * 4 + [0.081] * 2
    assert [float(rate(step)) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_schedule(warmup):
    config = train_config(schedule="cosine", warmup_steps=warmup)
    rate = optimizers.schedule(config, 0.1, steps=20, steps_per_epoch=None)
    expected = [
        0.1 * step / warmup
        if step < warmup
        else 0.05 * (1 + math.cos(math.pi * (step - warmup) / (20 - warmup)))
        for step in range(21)
    ]
    found = [float(rate(step)) for step in range(21)]
    assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"schedule": "linear"}, "schedule must be one of .*'linear'"),
        ({"schedule": "exponential"}, "steps_per_epoch"),
        ({"schedule": "cosine", "warmup_steps": 10}, "less than .* 10, got 10"),
    ],
)
def test_schedules_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        optimizers.build(train_config(**changes), steps=10, steps_per_epoch=None)


def updates_of(**changes):
    """The first update where every gradient is 1, under the given config."""
    params = {
        "layer": {"u_vectors": jnp.ones((2, 3)), "v_vectors": jnp.ones((1, 3))},
        "skew": {"skew_entries": jnp.ones(3)},
        "sigma": jnp.ones(3),
        "readout": {"kernel": jnp.ones((3, 1))},
    }
    config = train_config(learning_rate=0.1, **changes)
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    return updates


def test_reflector_learning_rate_is_that_of_the_orthogonal_part():
    alike = updates_of()
    own = updates_of(reflector_learning_rate=0.01)
    for name in ("u_vectors", "v_vectors"):
        np.testing.assert_allclose(alike["layer"][name], -0.1, rtol=1e-5)
        np.testing.assert_allclose(own["layer"][name], -0.01, rtol=1e-5)
    np.testing.assert_allclose(alike["skew"]["skew_entries"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(own["skew"]["skew_entries"], -0.01, rtol=1e-5)
    for updates in (alike, own):
        np.testing.assert_allclose(updates["sigma"], -0.1, rtol=1e-5)
        np.testing.assert_allclose(updates["readout"]["kernel"], -0.1, rtol=1e-5)


@pytest.mark.parametrize("clip_norm,scale", [(None, 1), (0.0, 1), (1.0, 15**-0.5)])
def test_clipping_is_by_the_norm_of_all_gradients(clip_norm, scale):
    # Adam's first update forgets the scale; its second does not.
    config = train_config(learning_rate=0.1, clip_norm=clip_norm)
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    params = {"kernel": jnp.ones((5, 3))}
    small = {"kernel": jnp.full((5, 3), 0.1)}  # norm 0.387: never clipped
    _, state = optimizer.update(params, optimizer.init(params), params)
    updates, _ = optimizer.update(small, state, params)
    mean = (0.9 * 0.1 * scale + 0.1 * 0.1) / (1 - 0.9**2)
    square = (0.999 * 0.001 * scale**2 + 0.001 * 0.01) / (1 - 0.999**2)
    expected = -0.1 * mean / math.sqrt(square)
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_unit_reflectors_come_after_all_else(schedule):
    own = updates_of(unit_reflectors=True, schedule=schedule)
    rows = 1 + np.asarray(own["layer"]["u_vectors"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert rows[1, 0] == 0
    for name in ("skew", "sigma", "readout"):
        for found in jax.tree.leaves(own[name]):
            np.testing.assert_allclose(found, -0.1, rtol=1e-5)


# ---- One step.


@pytest.fixture(scope="module")
def compiled():
    """(task, function that makes a fresh state, jitted step) of the tiny config."""
    config = tiny_config()
    task = tasks.build(config)
    optimizer, _ = optimizers.build(config.train, steps=60, steps_per_epoch=None)

    def fresh():
        model = models.build(config.model, task, rngs=nnx.Rngs(0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        state = train.initial_state(
            nnx.to_pure_dict(params), nnx.to_pure_dict(rest), optimizer
        )
        return graph, state

    graph, _ = fresh()
    step = train.make_train_step(graph, task, optimizer, jax.random.key(1))
    return task, lambda: fresh()[1], step


def test_every_parameter_changes_and_the_loss_falls(compiled):
    task, fresh, train_step = compiled
    state = fresh()
    before = jax.device_get(state.params)
    losses = []
    for step in range(60):
        state, (sums, _) = train_step(state, task.train_batch(step))
        losses.append(task.metrics(jax.device_get(sums))["loss"])
    assert int(state.step) == 60 and int(state.first_bad_step) == -1
    unchanged = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before),
            jax.tree.leaves(state.params),
            strict=True,
        )
        if np.array_equal(old, new)
    ]
    assert unchanged == []
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_norm_of_the_gradient_at_the_first_state(compiled):
    task, fresh, train_step = compiled
    batch = task.train_batch(0)
    model = models.build(tiny_config().model, task, rngs=nnx.Rngs(0))
    (zeros,) = model.initialize_carry(16)

    @jax.jit
    def loss(carry):
        sums = task.sums(model(batch["inputs"], [carry])[0], batch)
        return sums["loss"] / sums["count"]

    # The slope along the gradient is its norm.
    direction = jax.grad(loss)(zeros)
    direction /= jnp.linalg.norm(direction)
    slope = (loss(2e-3 * direction) - loss(-2e-3 * direction)) / 4e-3
    _, (_, norms) = train_step(fresh(), batch)
    assert float(norms["carry_grad_norm"]) == pytest.approx(float(slope), rel=1e-2)


@pytest.mark.parametrize(
    ("name", "init"), [("exprnn", "random"), ("scornn", "identity"), ("ornn", "henaff")]
)
def test_models_of_rotations_train(name, init):
    config = tiny_config(unit_reflectors=True, reflector_learning_rate=3e-4)
    config.model.update(
        {"name": name, "init": init, "activation": "modrelu", "reflectors": None}
    )
    configuration.validate(config)
    task = tasks.build(config)
    optimizer, _ = optimizers.build(config.train, steps=5, steps_per_epoch=None)
    model = models.build(config.model, task, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    step = train.make_train_step(graph, task, optimizer, jax.random.key(1))
    state = train.initial_state(params, rest, optimizer)
    before = jax.device_get(state.params)
    for k in range(5):
        state, (sums, _) = step(state, task.train_batch(k))
    assert int(state.first_bad_step) == -1 and np.isfinite(sums["loss"])
    weight, old = (p["layers"][0]["cell"]["weight"] for p in (state.params, before))
    assert set(weight) == (
        {"u_vectors", "v_vectors"} if name == "ornn" else {"skew_entries"}
    )
    for key, found in weight.items():
        assert not np.array_equal(found, old[key])
        if name == "ornn":
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    model = nnx.merge(graph, state.params, state.rest)
    w = np.asarray(model.layers[0].cell.weight.matrix())
    np.testing.assert_allclose(w @ w.T, np.eye(8), atol=2e-6)
    assert float(model.diagnostics()["spectral_margin"]) == 0


def test_a_non_finite_loss_is_noted_and_changes_nothing(compiled):
    task, fresh, train_step = compiled
    state = fresh()
    for step in range(6):
        batch = task.train_batch(step)
        if step in (2, 4):
            batch["targets"][3] = np.nan
        state, (sums, _) = train_step(state, batch)
        if step == 1:
            healthy = jax.device_get((state.params, state.opt_state))
        assert np.isnan(sums["loss"]) == (step in (2, 4))
    assert int(state.first_bad_step) == 3  # the third update
    kept = jax.device_get((state.params, state.opt_state))
    jax.tree.map(np.testing.assert_array_equal, kept, healthy)


# ---- A whole run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "new" / "run"
    return workdir, train.train(tiny_config(), workdir)


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


def test_finished_workdir_is_left_alone(finished, capsys):
    workdir, result = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    moved = tiny_config()
    moved.data_dir = "/elsewhere"  # a place, not part of the run
    assert train.train(moved, workdir) == result
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}


def test_another_config_is_refused(finished):
    workdir, _ = finished
    config = tiny_config(learning_rate=0.5)
    config.model.radius = 0.2
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    with pytest.raises(ValueError) as raised:
        train.train(config, workdir)
    assert "config.train.learning_rate: 0.003 -> 0.5" in str(raised.value)
    assert "config.model.radius: 0.3 -> 0.2" in str(raised.value)
    assert "hidden" not in str(raised.value)
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}


def test_foreign_files_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("draft")
    with pytest.raises(ValueError, match="thesis.tex"):
        train.train(tiny_config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_config_leaves_no_trace(tmp_path):
    with pytest.raises(ValueError, match="config.task.length"):
        config = tiny_config()
        config.task.length = 1
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_best_is_by_validation_and_ties_keep_the_earlier():
    task = tasks.build(tiny_config())
    best = {"step": 1, "valid": {"mse": 0.5}}
    assert train._better(task, {"mse": 0.4}, best)
    assert not train._better(task, {"mse": 0.5}, best)
    task.higher_is_better = True
    assert train._better(task, {"mse": 0.6}, best)
    assert not train._better(task, {"mse": 0.5}, best)
    assert train._better(task, {"mse": 0.5}, None)


# ---- Losses that are not finite.


def test_divergence_stops_and_keeps_the_workdir_usable(tmp_path, monkeypatch):
    poisoned = _poison_from(monkeypatch, step=4)
    config = tiny_config(steps=20, checkpoint_every=3)
    message = "not finite at step 5; the last finite checkpoint is of step 3"
    with pytest.raises(train.NonFiniteLoss, match=message):
        train.train(config, tmp_path)
    lines = strict_lines(tmp_path / "metrics.jsonl")
    assert lines[-1]["event"] == "non_finite"
    assert lines[-1]["step"] == 5 and lines[-1]["last_checkpoint"] == 3
    assert lines[-1]["loss"] is None
    assert not (tmp_path / "result.json").exists()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3"]

    with pytest.raises(train.NonFiniteLoss, match=message):  # the same again
        train.train(config, tmp_path)
    poisoned.clear()  # the cause is gone: the run goes on to its end
    assert train.train(config, tmp_path)["steps"] == 20


def _poison_from(monkeypatch, step):
    """Makes training targets NaN from a step on, until the returned set is empty."""
    poisoned = {step}
    original = tasks.Addition.train_batch

    def train_batch(self, at):
        batch = original(self, at)
        if poisoned and at >= min(poisoned):
            batch["targets"][:] = np.nan
        return batch

    monkeypatch.setattr(tasks.Addition, "train_batch", train_batch)
    return poisoned


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


# ---- What is written while it runs.


def test_log_lines_are_strict_json(tmp_path):
    log = logs.MetricLog(tmp_path, None)
    log.write(3, "train", {"loss": float("nan"), "norm": np.float32("inf")})
    log.write(4, "valid", {"loss": jnp.float32(0.5), "count": 3})
    log.event(4, "note", text="so")
    lines = strict_lines(tmp_path / "metrics.jsonl")  # flushed: not closed yet
    log.close()
    assert lines == [
        {"step": 3, "split": "train", "loss": None, "norm": None},
        {"step": 4, "split": "valid", "loss": 0.5, "count": 3},
        {"step": 4, "split": "event", "event": "note", "text": "so"},
    ]


def test_log_cuts_an_unfinished_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "sp')
    log = logs.MetricLog(tmp_path, 1)
    log.event(1, "resumed_from")
    log.close()
    assert [each["step"] for each in strict_lines(path)] == [1, 1]


class Stream:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_line(terminal, monkeypatch):
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    stream = Stream(terminal)
    progress = logs.Progress(400, 128, stream)
    progress.show(1, 2.5, None)
    progress.validation("mse", 0.25)
    for step in (100, 200, 300, 400):
        progress.show(step, 0.125, 10.0)
    progress.close()
    separator = "\r" if terminal else "\n"
    shown = [part.rstrip() for part in stream.text.split(separator) if part.strip()]
    assert shown[0] == "step 1/400 | loss 2.5"
    assert shown[-1] == (
        "step 400/400 | loss 0.125 | valid mse 0.25 | 1280 examples/s | 0 s left"
    )
    assert len(shown) == (5 if terminal else 3)  # elsewhere every ten seconds
    assert stream.text.endswith("\n")


def test_duration():
    assert [logs.duration(each) for each in (12.4, 185, 7620)] == [
        *("12 s", "3 min 05 s", "2 h 07 min"),
    ]


def test_checkpoints_keep_two_and_skip_a_step_that_exists(tmp_path):
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    state = {"weights": jnp.arange(3.0), "nothing": None, "empty": {}}
    for step in (1, 2, 3):
        saved.save(step, state, {"weights": jnp.full(3, step)}, {"best": step})
    saved.save(3, state, {"weights": jnp.zeros(3)}, {"best": 0})
    assert saved.latest() == 3
    assert sorted(p.name for p in saved.directory.iterdir()) == ["2", "3"]
    found, best_params, record = saved.restore(state, {"weights": jnp.zeros(3)})
    saved.close()
    assert record == {"best": 3} and found["nothing"] is None
    np.testing.assert_array_equal(found["weights"], [0, 1, 2])
    np.testing.assert_array_equal(best_params["weights"], [3, 3, 3])
