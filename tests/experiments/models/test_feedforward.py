"""Feed-forward models against numpy loops over single layers."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import common
from experiments import tasks
from experiments.models import build as models
from experiments.models import feedforward, registry
from experiments.tasks.addition import Addition
from experiments.tasks.mnist import MNIST
from experiments.training import loop, optimizers
from tests import oracles

TASK = SimpleNamespace(
    name="vectors", sequential=False, vocabulary=None, in_features=7, out_features=3
)


def model_config(name, **changes):
    """Four layers of five units."""
    config = common.get_config().model
    config.update({"name": name, "hidden": 5, "layers": 4, "reflectors": 2})
    config.update({"radius": 0.5, "leak": 0.2, **changes})
    if name == "spectral_resnet":
        config.center = 0.0
    return config


def build(name, **changes):
    return models.build(model_config(name, **changes), TASK, rngs=nnx.Rngs(0))


@functools.cache
def split(name, **changes):
    """(graph, parameters as a dict), made by one program."""
    make = functools.partial(build, name, **changes)
    graph, _ = nnx.split(nnx.eval_shape(make))
    return graph, oracles.jit(lambda: nnx.to_pure_dict(nnx.state(make())))()


def moved(name, **changes):
    """The same in float64, and nothing where it started: biases do so at zero."""
    graph, params = split(name, **changes)
    rng = np.random.default_rng(5)
    return graph, jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64) + 0.1 * rng.normal(size=leaf.shape),
        params,
    )


def outputs(graph, params, x):
    return oracles.jit(lambda p, x: nnx.merge(graph, p)(x))(params, x)


def matrix_and_bias(layer, config, *, square, index=...):
    """W and b of a layer's parameters, or of those of place `index` in a stack."""
    if "kernel" in layer:
        return layer["kernel"][index].T, layer["bias"][index]
    weight = {name: values[index] for name, values in layer["weight"].items()}
    center = config.center if square else 1.0
    sigma = 2 * config.radius * (1 / (1 + np.exp(-weight["sigma_raw"])) - 0.5) + center
    w = oracles.svd_matrix(weight["u_vectors"], weight["v_vectors"], sigma)
    return w, layer["bias"][index]


def by_hand(params, config, x):
    """Logits (3,) of one input (7,), layer after layer."""

    def affine(h, layer, index=..., square=True):
        w, b = matrix_and_bias(layer, config, square=square, index=index)
        return w @ h + b

    def phi(z):
        return oracles.activate(config.activation, z, leak=config.leak)

    h = affine(x, params["first"], square=False)
    if config.name.endswith("resnet"):
        inner, outer = params["stacks"][0], params["stacks"][1]
        for i in range(config.layers // 2):
            h = h + affine(phi(affine(h, inner, i)), outer, i)
    else:
        h = phi(h)
        for i in range(config.layers - 1):
            h = phi(affine(h, params["stacks"][0], i))
    return affine(h, params["last"], square=False)


# ---- Values and gradients.


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("spectral_resnet", "leaky_relu"),
        *(
            pytest.param(name, activation, marks=pytest.mark.slow)
            for activation in ("leaky_relu", "tanh")
            for name in registry.names(False)
            if (name, activation) != ("spectral_resnet", "leaky_relu")
        ),
    ],
)
def test_scan_over_stacks_equals_a_loop_over_layers(name, activation, x64):
    graph, params = moved(name, activation=activation)
    x = np.random.default_rng(0).normal(size=(6, 7))
    found, carry = outputs(graph, params, x)
    config = model_config(name, activation=activation)
    expected = np.stack([by_hand(params, config, each) for each in x])
    assert carry is None
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wy", "low_rank", "dense"])
def test_gradients_of_stacked_reflectors(method, x64):
    graph, params = moved("spectral_resnet", method=method)
    x = np.random.default_rng(1).normal(size=(2, 7))
    own = params["stacks"][1]
    reflectors = own["weight"]["u_vectors"]

    def loss(vectors):
        weight = own["weight"] | {"u_vectors": vectors}
        stacks = params["stacks"] | {1: own | {"weight": weight}}
        return jnp.sum(nnx.merge(graph, params | {"stacks": stacks})(x)[0] ** 2)

    found = oracles.jit(jax.grad(loss))(reflectors)
    expected = oracles.finite_difference(oracles.jit(loss), reflectors)
    assert np.all(np.abs(expected).max(axis=(1, 2)) > 1e-3)  # of both layers
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_one_hidden_layer_is_an_mlp_without_a_stack(x64):
    graph, params = moved("mlp", layers=1)
    x = np.random.default_rng(2).normal(size=(1, 7))
    expected = by_hand(params, model_config("mlp", layers=1), x[0])
    np.testing.assert_allclose(outputs(graph, params, x)[0][0], expected, rtol=1e-12)


# ---- Depth.


@pytest.mark.parametrize("name", registry.names(False))
def test_programs_do_not_grow_with_depth(name):
    def equations(layers):
        make = functools.partial(build, name, layers=layers)
        graph, params = nnx.split(nnx.eval_shape(make))
        program = jax.make_jaxpr(lambda p, x: nnx.merge(graph, p)(x)[0])
        jaxpr = program(params, jnp.zeros((2, 7)))
        assert [each.shape for each in jaxpr.out_avals] == [(2, 3)]
        return len(str(jaxpr).splitlines())

    assert equations(100) == equations(6)


@pytest.mark.slow
def test_a_hundred_identities_pass_the_first_layer_on():
    graph, params = split("spectral_mlp", layers=100, init="identity", leak=0.0)
    x = jax.random.normal(jax.random.key(0), (8, 7))

    @oracles.jit
    def two_layers(params):
        model = nnx.merge(graph, params)
        return model.last(jax.nn.relu(model.first(x)))

    found, _ = outputs(graph, params, x)
    np.testing.assert_allclose(found, two_layers(params), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name,bound", [("mlp", 3), ("resnet", 6)])
def test_power_of_dense_layers_at_the_start(name, bound):
    graph, params = split(name, layers=40, hidden=200, leak=0.1)
    x = jax.random.normal(jax.random.key(0), (50, 7))

    @oracles.jit
    def powers(params):
        model = nnx.merge(graph, params)
        prepared = [feedforward.prepare(each) for each in model.stacks]
        first = model.enter(model.first(x))

        def step(h, layers):
            return (model.step(h, *layers), None)

        last, _ = jax.lax.scan(step, first, prepared)
        return jnp.mean(first**2), jnp.mean(last**2)

    first, last = powers(params)
    # phi leaves half of z^2 and leak^2 of the other half, which 2/(1 + leak^2) makes
    # good; 20 branches of 1/20 of the power of h multiply it by e at most.
    assert 1 / 3 < last / first < bound


# ---- Residual branches with sigma* = 0.


@pytest.mark.slow
def test_branches_around_zero_learn_where_zeros_would_be_stuck():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(40, 7)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 40))
    graph, params = split("spectral_resnet", radius=1.0, hidden=12)

    @oracles.jit
    @jax.value_and_grad
    def gradient(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            nnx.merge(graph, params)(x)[0], labels
        )
        return jnp.mean(losses)

    first_loss, grads = gradient(params)
    for stacked in grads["stacks"].values():
        for values in stacked["weight"].values():
            assert np.all(np.abs(values).max(axis=-1) > 0)

    optimizer = optax.adam(1e-2)
    update = oracles.jit(optimizer.update)
    trained, opt_state = params, optimizer.init(params)
    for _ in range(30):
        loss, grads = gradient(trained)
        updates, opt_state = update(grads, opt_state)
        trained = jax.tree.map(jnp.add, trained, updates)
    assert float(loss) < 0.6 * float(first_loss)

    zeros = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            0 * leaf
            if any(key.key == "stacks" for key in path) and path[-1].key == "sigma_raw"
            else leaf
        ),
        params,
    )
    _, grads = gradient(zeros)
    for stacked in grads["stacks"].values():
        assert not any(np.any(values) for values in stacked["weight"].values())


# ---- Diagnostics, counts, labels.


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names(False))
def test_spectral_margin_is_measured_from_each_center(name, x64):
    graph, params = moved(name)
    found = nnx.merge(graph, params).diagnostics()
    if not name.startswith("spectral"):
        assert found == {}
        return
    config = model_config(name)
    layers = [(params["first"], False, ...), (params["last"], False, ...)]
    for stacked in params["stacks"].values():
        layers += [(stacked, True, i) for i in range(len(stacked["bias"]))]
    margins = []
    for layer, square, index in layers:
        w, _ = matrix_and_bias(layer, config, square=square, index=index)
        values = np.linalg.svd(w, compute_uv=False)
        margins.append(np.abs(values - (config.center if square else 1)).max())
    np.testing.assert_allclose(found["spectral_margin"], max(margins), rtol=1e-10)
    assert 0 < max(margins) < config.radius


def test_independent_parameters_by_hand():
    # Layers 7 -> 5 (5 reflectors a side), three of 5 -> 5 (2 a side), 5 -> 3 (3 a
    # side): inside the trapezoids, sigma and bias.
    first = (5 * 5 - 10) + (5 * 7 - 10) + 5 + 5
    hidden = (2 * 5 - 1) + (2 * 5 - 1) + 5 + 5
    last = (3 * 3 - 3) + (3 * 5 - 3) + 3 + 3
    model = nnx.merge(*split("spectral_mlp"))
    assert models.count_independent_params(model) == first + 3 * hidden + last
    # Below the trapezoids: 10 + 10, 1 + 1 a layer, and 3 + 3.
    assert models.count_params(model) == first + 20 + 3 * (hidden + 2) + last + 6
    residual = nnx.merge(*split("spectral_resnet"))
    assert models.count_independent_params(residual) == first + 4 * hidden + last
    dense = nnx.merge(*split("mlp"))
    by_hand = (7 * 5 + 5) + 3 * (5 * 5 + 5) + (5 * 3 + 3)
    assert models.count_independent_params(dense) == by_hand


def test_stacked_reflectors_are_labelled():
    _, params = split("spectral_resnet")
    found = jax.tree_util.tree_leaves_with_path(optimizers.labels(params))
    assert {(path[-1].key, label) for path, label in found} == {
        ("u_vectors", "orthogonal"),
        ("v_vectors", "orthogonal"),
        ("sigma_raw", "rest"),
        ("bias", "rest"),
    }


# ---- A whole run.


@pytest.mark.slow
def test_trains_by_the_same_loop_as_sequences(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)

    def part(count):  # the class is how bright the digit is
        labels = rng.integers(0, 10, count)
        images = np.broadcast_to(labels[:, None, None] * 25, (count, 28, 28))
        return SimpleNamespace(images=images.astype(np.uint8), labels=labels)

    data = SimpleNamespace(train=part(80), valid=part(20), test=part(20))
    task = MNIST(data, seed=0, batch_size=8)
    monkeypatch.setattr(tasks, "build", lambda config: task)
    config = common.get_config()
    config.task.name = "mnist"
    config.model = model_config("spectral_mlp", radius=0.5, layers=2)
    config.train.update({"steps": 20, "eval_every": 10, "checkpoint_every": 20})
    config.train.batch_size = 8  # that of the task
    result = loop.train(config, tmp_path)
    assert result["task"] == "mnist" and result["model"] == "spectral_mlp"
    assert 0 < result["diagnostics"]["spectral_margin"] < 0.5
    assert result["metrics"]["test"]["loss"] < result["baseline"]


# ---- What is refused.


@pytest.mark.parametrize(
    "name,changes,message",
    [
        ("resnet", {"layers": 5}, "config.model.layers must be even for resnet.*got 5"),
        ("spectral_resnet", {"layers": 1}, "layers must be even.*got 1"),
        ("mlp", {"activation": "modrelu"}, "config.model.activation.*'modrelu'"),
        ("mlp", {"embedding": 4}, "config.model.embedding must be None.*got 4"),
        ("spectral", {}, "one of mlp, .* for vectors, .* time axis, got 'spectral'"),
        ("perceptron", {}, "config.model.name must be one of mlp.*'perceptron'"),
    ],
)
def test_models_that_cannot_be(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, **changes)


def test_a_sequence_needs_a_recurrent_model():
    task = Addition(length=4, seed=0, batch_size=1)
    with pytest.raises(ValueError, match="spectral, .* sequences, got 'mlp'"):
        models.build(model_config("mlp"), task, rngs=nnx.Rngs(0))
