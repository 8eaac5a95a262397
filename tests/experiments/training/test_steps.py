"""One update: what changes, what is measured, and what a NaN leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import tasks
from experiments.models import build as models
from experiments.tasks import base
from experiments.training import (
    assembly,
    evaluation,
    fields,
    loop,
    optimizers,
    programs,
    steps,
)
from tests.experiments.small import tiny_config


@pytest.fixture(scope="module")
def compiled():
    """(task, function that makes a fresh state, jitted step) of the tiny config."""
    config = tiny_config()
    task = tasks.build(config)
    optimizer, _ = optimizers.build(config.train, steps=60, steps_per_epoch=None)

    def fresh():
        model = models.build(config.model, task, rngs=nnx.Rngs(0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        state = steps.initial_state(
            nnx.to_pure_dict(params), nnx.to_pure_dict(rest), optimizer
        )
        return graph, state

    graph, _ = fresh()
    step = train_step(graph, task, optimizer)
    return task, lambda: fresh()[1], step


def train_step(graph, task, optimizer):
    """(state, batch) -> (state, (sums, norms)) with an optimizer's own numbers."""
    step = steps.make_train_step(graph, task, lambda numbers: optimizer)
    settings = steps.Settings(jax.random.key_data(jax.random.key(1)))
    return lambda state, batch: step(state, settings, batch)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "init"), [("exprnn", "random"), ("scornn", "identity"), ("ornn", "henaff")]
)
def test_models_of_rotations_train(name, init):
    config = tiny_config(unit_reflectors=True, rates={"reflectors": 3e-4})
    config.model.update(
        {"name": name, "init": init, "activation": "modrelu", "reflectors": None}
    )
    fields.check(config)
    task = tasks.build(config)
    optimizer, _ = optimizers.build(config.train, steps=5, steps_per_epoch=None)
    model = models.build(config.model, task, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    step = train_step(graph, task, optimizer)
    state = steps.initial_state(params, rest, optimizer)
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


def test_a_gradient_that_is_not_finite_counts_where_the_loss_is(compiled):
    task, fresh, _ = compiled

    class Rooted:
        """The square root of the errors, of which the targets are one: slope 1 / 0."""

        stateful = False

        def sums(self, outputs, batch):
            error = outputs[:, 0] - jax.lax.stop_gradient(outputs[:, 0])
            return {"loss": jnp.sum(jnp.sqrt(error)), "count": jnp.float32(len(error))}

    config = tiny_config()
    optimizer, _ = optimizers.build(config.train, steps=60, steps_per_epoch=None)
    graph, *_ = nnx.split(
        models.build(config.model, task, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    state = fresh()
    before = jax.device_get(state.params)
    step = train_step(graph, Rooted(), optimizer)
    state, (sums, norms) = step(state, task.train_batch(0))
    assert float(sums["loss"]) == 0 and not np.isfinite(norms["grad_norm"])
    assert int(state.first_bad_step) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), before)


def test_a_step_after_two_returns_has_a_quarter_of_the_rate():
    config = tiny_config(optimizer="sgd", devices=1)
    parts = assembly.assemble(config)
    functions = programs.Programs(config, parts)
    moved = []
    for restores in (0, 2):
        step, learning_rate = functions.make_train_step(restores)
        state = jax.tree.map(jnp.copy, parts.state)
        _, (_, norms) = step(state, parts.task.train_batch(0))
        moved.append((float(norms["update_norm"]), float(learning_rate(0))))
    np.testing.assert_allclose(moved[0], 4 * np.array(moved[1]), rtol=1e-5)


def test_a_run_validates_on_so_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "EVAL_SEQUENCES", 40)
    monkeypatch.setattr(base, "EVAL_BATCH", 8)
    config = tiny_config(steps=4, eval_every=2, log_every=4, valid_batches=2)
    read, evaluate = [], evaluation.evaluate

    def counted(eval_step, task, state, split, *arguments, **options):
        def step(*given):
            read.append(split)
            return eval_step(*given)

        return evaluate(step, task, state, split, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    loop.train(config, tmp_path)
    # Two validations while it runs, and at the end those of the last and best steps.
    assert read.count("valid") % 2 == 0 and 4 <= read.count("valid") <= 8
    assert read.count("test") % 5 == 0 and read.count("test") > 0


def test_the_first_batches_of_validation_data_alone(monkeypatch):
    monkeypatch.setattr(base, "EVAL_SEQUENCES", 10)
    monkeypatch.setattr(base, "EVAL_BATCH", 4)
    task = tasks.build(tiny_config())

    def eval_step(params, rest, carry, batch):
        weights = np.ones(len(batch["inputs"])) * batch["weights"]
        return {"loss": 2 * weights.sum(), "count": weights.sum()}, carry

    read = []
    task.metrics = lambda sums: read.append(sums["count"]) or sums
    state = steps.TrainState({}, None, None, None, {}, None)
    for batches in (None, 1, 2, 9):
        evaluation.evaluate(eval_step, task, state, "valid", batches=batches)
    assert read == [10, 4, 8, 10]
