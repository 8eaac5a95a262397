"""Schedules, learning rates, clipping and the plateau, from config.train to optax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import deep_mlp
from experiments import tasks
from experiments.data import stand_in
from experiments.models import build as models
from experiments.training import optimizers, steps
from tests.experiments import small


def train_config(**changes):
    return small.tiny_config(**changes).train


def schedule(train, steps, steps_per_epoch=None):
    lengths = {"steps": steps, "steps_per_epoch": steps_per_epoch}
    return optimizers.schedule(train, 0.1, train.decay_rate, **lengths)


def test_constant_schedule():
    rate = schedule(train_config(), steps=10)
    assert [float(rate(step)) for step in (0, 9)] == pytest.approx([0.1, 0.1])


def test_exponential_schedule_falls_once_an_epoch():
    config = train_config(schedule="exponential", decay_rate=0.9)
    rate = schedule(config, steps=10, steps_per_epoch=4)
    expected = [0.1] * 4 + [0.09] * 4 + [0.081] * 2
    assert [float(rate(step)) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("steps_per_epoch", [110, 214, 429, 1328])
def test_the_first_step_of_an_epoch_has_its_rate_when_compiled(steps_per_epoch):
    # k * (1 / n) in float32, which XLA takes for k / n, is below 1 for some k = n.
    config = train_config(schedule="exponential", decay_rate=0.5)
    rate = jax.jit(schedule(config, steps=10_000, steps_per_epoch=steps_per_epoch))
    for epoch in range(6):
        assert float(rate(epoch * steps_per_epoch)) == pytest.approx(0.1 * 0.5**epoch)


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_schedule(warmup):
    config = train_config(schedule="cosine", warmup_steps=warmup)
    rate = schedule(config, steps=20)
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

    @jax.jit
    def first(params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    return first(params)


@pytest.mark.slow
def test_the_rate_of_reflectors_is_that_of_the_orthogonal_part():
    alike = updates_of()
    own = updates_of(rates={"reflectors": 0.01})
    for name in ("u_vectors", "v_vectors"):
        np.testing.assert_allclose(alike["layer"][name], -0.1, rtol=1e-5)
        np.testing.assert_allclose(own["layer"][name], -0.01, rtol=1e-5)
    np.testing.assert_allclose(alike["skew"]["skew_entries"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(own["skew"]["skew_entries"], -0.01, rtol=1e-5)
    for updates in (alike, own):
        np.testing.assert_allclose(updates["sigma"], -0.1, rtol=1e-5)
        np.testing.assert_allclose(updates["readout"]["kernel"], -0.1, rtol=1e-5)


def model_params(name):
    """Paths of the parameters of a model of addition, as the training loop has them."""
    config = small.changed_addition(model__name=name, model__init="random")
    task = tasks.build(config)
    model = nnx.eval_shape(lambda: models.build(config.model, task, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize(
    "name,groups",
    [
        (
            "spectral",
            {
                "orthogonal": ["u_vectors", "v_vectors"],
                "singular_values": ["sigma_raw"],
                "inputs": ["bias", "input_weights"],
                "readout": ["bias", "kernel"],
            },
        ),
        ("rnn", {"inputs": ["bias", "input_weights"], "rest": ["w"]}),
        ("lstm", {"inputs": ["bias", "kernel"], "rest": ["kernel"]}),
        ("gru", {"inputs": ["bias", "kernel"], "rest": ["kernel"]}),
    ],
)
def test_parts_of_a_model(name, groups):
    params = model_params(name)
    found = {}
    tree = optimizers.labels(params, train_config().rates.keys())
    for path, part in jax.tree_util.tree_leaves_with_path(tree):
        found.setdefault(part, []).append(path[-1].key)
    groups = {"readout": ["bias", "kernel"], **groups}
    assert {part: sorted(names) for part, names in found.items()} == groups
    assert set(jax.tree.leaves(optimizers.labels(params))) <= {"orthogonal", "rest"}


def test_parts_have_rates_of_their_own():
    rates = {"singular_values": 0.02, "inputs": 0.03, "readout": 0.04}
    config = train_config(learning_rate=0.1, optimizer="sgd", momentum=0.0, rates=rates)
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    cell = {"input_weights": 1.0, "bias": 1.0, "offset": 1.0}
    cell["weight"] = {"u_vectors": 1.0, "sigma_raw": 1.0}
    params = {"layers": {0: {"cell": cell}}, "readout": {"kernel": 1.0, "bias": 1.0}}
    params = jax.tree.map(lambda x: jnp.full(2, 1e-3 * x), params)
    found, _ = optimizer.update(params, optimizer.init(params), params)
    found = jax.tree.map(lambda x: round(-1e3 * float(x[0]), 6), found)
    weight = {"u_vectors": 0.1, "sigma_raw": 0.02}
    cell = {"input_weights": 0.03, "bias": 0.03, "offset": 0.1, "weight": weight}
    expected = {
        "layers": {0: {"cell": cell}},
        "readout": {"kernel": 0.04, "bias": 0.04},
    }
    assert jax.tree.all(jax.tree.map(math.isclose, found, expected)), found


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
def test_a_rate_of_a_part_may_be_any_whole_number(schedule):
    config = train_config(schedule=schedule)
    config.rates.readout = 2**31
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=2)
    params = {"readout": {"kernel": jnp.ones(3)}}
    update, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    rate = np.abs(update["readout"]["kernel"])
    np.testing.assert_allclose(rate, 2.0**31, rtol=1e-3)


def test_a_part_without_a_rate_leaves_the_state_as_it_was():
    # What checkpoints of before hold: the counts of two groups, set or not.
    params = {"u_vectors": jnp.ones((2, 3)), "sigma_raw": jnp.ones(3)}
    for rates in ({}, {"reflectors": 0.5}):
        config = train_config(rates=rates)
        optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
        _, _, groups = optimizer.init(params)
        assert groups.inner_states.keys() == {"orthogonal", "rest"}


def test_slowed_rates():
    config = train_config(rates={"reflectors": 1, "readout": 0.4}, weight_decay=0.1)
    slow = optimizers.numbers(config, restores=2)
    assert slow.peaks == pytest.approx(
        {"rest": 3e-3 / 4, "orthogonal": 0.25, "readout": 0.1}
    )
    assert slow.weight_decay == 0.1


@pytest.mark.slow
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


# ---- The plateau.


def plateau_config(**changes):
    known = {"schedule": "plateau", "plateau_factor": 0.25, "plateau_patience": 2}
    return train_config(**known | changes)


@pytest.mark.slow
def test_the_rate_falls_on_a_plateau():
    config = plateau_config(rates={"reflectors": 0.5}, learning_rate=0.1)
    optimizer, rate = optimizers.build(config, steps=9, steps_per_epoch=None)
    observe = optimizers.make_observe(config)
    params = {"u_vectors": jnp.ones((2, 3)), "kernel": jnp.ones(4)}
    state = optimizer.init(params)
    assert rate(7) == pytest.approx(0.1)
    scales = []
    for loss in (3.0, 2.0, 2.0, 1.9, 1.9, 1.9, 1.9, 1.8, 1.8):
        state = observe(state, loss)
        scales.append(float(optimizers.plateau_scale(state)))
    assert scales == [1, 1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25]
    updates, after = optimizer.update(params, state, params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.25, rtol=1e-5)
    np.testing.assert_allclose(updates["u_vectors"], -0.5 * 0.25, rtol=1e-5)
    assert float(optimizers.plateau_scale(after)) == 0.25  # updates do not count
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_other_schedules_know_no_plateau():
    config = plateau_config(schedule="constant")
    optimizer, _ = optimizers.build(config, steps=9, steps_per_epoch=None)
    state = optimizer.init({"kernel": jnp.ones(4)})
    observe = optimizers.make_observe(config)
    for _ in range(4):
        assert observe(state, 1.0) is state
    assert optimizers.plateau_scale(state) == 1


# ---- Which optimizer, weight decay, and averaged parameters.


@pytest.mark.parametrize(
    "name,plain",
    [
        ("adam", optax.adam(0.1)),
        ("adamw", optax.adamw(0.1, weight_decay=0)),
        ("rmsprop", optax.rmsprop(0.1)),
        ("sgd", optax.sgd(0.1, momentum=0.7)),
        ("lion", optax.lion(0.1, weight_decay=0)),
    ],
)
def test_optimizers_are_those_of_optax(name, plain):
    config = train_config(
        optimizer=name, momentum=0.7, learning_rate=0.1, clip_norm=None
    )
    ours, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    params = {"kernel": jnp.arange(6.0).reshape(2, 3)}
    states = [ours.init(params), plain.init(params)]
    for step in range(3):
        gradient = {"kernel": jnp.sin(params["kernel"] + step)}
        found, states[0] = ours.update(gradient, states[0], params)
        expected, states[1] = plain.update(gradient, states[1], params)
        np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-6)


def decayed(**changes):
    """The first update by a gradient of zero: what weight decay alone does."""
    params = {
        "layer": {"u_vectors": jnp.ones((2, 3)), "sigma_raw": jnp.ones(3)},
        "skew": {"skew_entries": jnp.ones(3)},
        "readout": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)},
    }
    config = train_config(learning_rate=0.1, weight_decay=0.5, **changes)
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    return jax.tree.map(lambda x: float(x.ravel()[0]), updates)


@pytest.mark.slow
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(
    "name,step",
    [("adamw", -0.05), ("lion", -0.05), ("sgd", -0.05), ("adam", -0.1)],
)
def test_weight_decay_is_for_free_matrices_unless_asked(name, step, constrained):
    # Adam makes steps of one size of a gradient, which the decay is part of.
    found = decayed(optimizer=name, decay_constrained=constrained)
    assert found["readout"]["kernel"] == pytest.approx(step, rel=1e-5)
    assert found["readout"]["bias"] == 0
    expected = pytest.approx(step if constrained else 0, rel=1e-5)
    for name in ("u_vectors", "sigma_raw"):
        assert found["layer"][name] == expected
    assert found["skew"]["skew_entries"] == expected


def test_averaged_parameters():
    config = train_config(optimizer="sgd", momentum=0.0, clip_norm=None, ema=0.75)
    optimizer, _ = optimizers.build(config, steps=10, steps_per_epoch=None)
    averaged = optimizers.make_averaged(config)
    state = steps.initial_state({"kernel": jnp.zeros((2, 2))}, {}, optimizer)
    seen = []
    for step in range(4):
        gradient = {"kernel": jnp.full((2, 2), 1.0 + step)}
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(params=params, opt_state=opt_state)
        seen.append(np.asarray(params["kernel"]))
        weights = 0.75 ** np.arange(step, -1, -1)
        expected = np.tensordot(weights / weights.sum(), seen, 1)
        np.testing.assert_allclose(averaged(state).params["kernel"], expected, 1e-5)
    assert optimizers.make_averaged(train_config())(state) is state


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_biases_of_stacked_layers_do_not_decay(name):
    config = deep_mlp.get_config(name)
    config.data_dir = stand_in.NAME
    config.model.update({"hidden": 8, "layers": 6})
    task = tasks.build(config)
    model = models.build(config.model, task, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    decays = jax.tree_util.tree_leaves_with_path(optimizers.decays(params, False))
    of_biases = [each for path, each in decays if path[-1].key == "bias"]
    assert len(of_biases) > 2 and not any(of_biases)
    assert any(each for _, each in decays)
