"""Lengths, pooling, both directions, fewer outputs: beside a loop over each item."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn
from experiments.models import build, recurrent, registry
from experiments.tasks.addition import Addition
from experiments.training import optimizers
from tests import oracles
from tests.experiments.small import invented_model, tiny_config

STEPS, FEATURES, HIDDEN = 6, 2, 4
LENGTHS = np.array([STEPS, 3, 1, 5], np.int32)


def built(name="spectral", readout="last", **fields):
    """A model of the config, in float64 under `x64`, with no parameter at zero."""
    config = tiny_config().model
    config.update({"name": name, "hidden": HIDDEN, "layers": 2, "reflectors": 2})
    config.update({"init": "random"} | fields)
    build.check(config)
    task = Addition(length=STEPS, seed=0, batch_size=len(LENGTHS))
    task.readout = readout
    return invented_model(config, task)


def padded():
    """Inputs (batch, time, features) with NaN behind the end of each item."""
    inputs = np.random.default_rng(2).normal(size=(len(LENGTHS), STEPS, FEATURES))
    inputs[np.arange(STEPS) >= LENGTHS[:, None]] = np.nan
    return inputs


def zeros(model, count, **options):
    first = model.initialize_carry(count, **options)
    return jax.tree.map(lambda h: h.astype(float), first)


def run(model, inputs, lengths=None):
    return model(inputs, zeros(model, len(inputs)), lengths=lengths)[0]


# ---- The loop, in numpy.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def gated(cell, inputs):
    """h_1 ... h_T of flax's cells."""
    w, m = (np.asarray(part.kernel[...]) for part in (cell.dense_h, cell.dense_i))
    biases = [part.bias for part in (cell.dense_h, cell.dense_i)]
    of_state, of_input = (0 if b is None else np.asarray(b[...]) for b in biases)
    c = h = np.zeros(HIDDEN)
    states = []
    for x in inputs:
        from_h, from_x = h @ w + of_state, x @ m + of_input
        if isinstance(cell, nnx.GRUCell):
            (r, z, n), (hr, hz, hn) = np.split(from_x, 3), np.split(from_h, 3)
            z = sigmoid(z + hz)
            h = (1 - z) * np.tanh(n + sigmoid(r + hr) * hn) + z * h
        else:
            i, f, g, o = np.split(from_h + from_x, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def one_way(layer, inputs):
    """The states (time, hidden) of one item (time, features)."""
    cell = layer.cell
    if not isinstance(cell, svdrnn.TransitionCell):
        return gated(cell, inputs)
    states, _ = oracles.run_recurrence(
        np.asarray(cell.weight.matrix()),
        inputs[:, None],
        np.zeros((1, HIDDEN)),
        input_weights=np.asarray(cell.input_weights[...]),
        bias=np.asarray(cell.bias[...]),
        activation=cell.activation.name,
        leak=cell.activation.leak,
    )
    return states[:, 0]


def alone(model, inputs):
    """{pool: output}, with "all" outputs too, of one item (time, features)."""
    x = inputs if model.embedding is None else linear(model.embedding, inputs)
    for layer in model.layers:
        block = layer if isinstance(layer, recurrent.Block) else None
        read = x if block is None else normalized(block.norm, x)
        forward, *backward = recurrent.directions(layer)
        every = recurrent.output_every(layer)
        given = slice(every - 1, None, every)
        halves = [one_way(forward, read)[given]]
        halves += [one_way(each, read[::-1])[given][::-1] for each in backward]
        z = np.hstack(halves)
        ends = np.hstack([half[at] for half, at in zip(halves, (-1, 0), strict=False)])
        if block is not None:
            z, ends = x[given] + gated_unit(block, z), x[-1] + gated_unit(block, ends)
        x = z
    read = {"last": ends, "mean": x.mean(0), "max": x.max(0), "all": x}
    return {name: linear(model.readout, states) for name, states in read.items()}


def linear(layer, x):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def normalized(norm, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def gated_unit(block, z):
    a, b = np.split(linear(block.gates, z), 2, axis=-1)
    return a * sigmoid(b)


# ---- Against it.

QUICK = [
    *(("spectral", True, "max"), ("lstm", True, "last"), ("rnn", False, "mean")),
    ("rnn", True, "all"),
]
# What is read is no matter of the model, but for the ends of both directions.
SLOW = [
    *((name, both, "last") for name in registry.names(True) for both in (False, True)),
    *(("spectral", both, pool) for pool in ("mean", "all") for both in (False, True)),
]


@pytest.mark.parametrize(
    "name, bidirectional, pool",
    [
        *QUICK,
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in SLOW
            if case not in QUICK
        ),
    ],
)
def test_every_model_is_a_loop_over_each_item_alone(x64, name, bidirectional, pool):
    check_alone(built(name, bidirectional=bidirectional), pool)


def check_alone(model, pool):
    inputs = padded()
    expected = [
        alone(model, x[:length]) for x, length in zip(inputs, LENGTHS, strict=True)
    ]
    if pool == "all":
        model.last_only = False
    else:
        model.pool = pool
    outputs = oracles.jit(run)(model, inputs, LENGTHS)
    whole = oracles.jit(run)(model, inputs[:1])  # without lengths
    for output, item, length in zip(outputs, expected, LENGTHS, strict=True):
        output = output[:length] if pool == "all" else output
        np.testing.assert_allclose(output, item[pool], rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole[0], expected[0][pool], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, bidirectional, pool",
    [
        ("spectral", True, "last"),
        ("rnn", False, "mean"),
        pytest.param("spectral_lstm", True, "all", marks=pytest.mark.slow),
    ],
)
def test_residual_blocks_are_a_loop_over_each_item_alone(
    x64, name, bidirectional, pool
):
    check_alone(built(name, bidirectional=bidirectional, residual=True), pool)


EVERY = [
    ({"layers": 3, "activation": "identity", "residual": True}, "mean"),
    ({"layers": 1}, "max"),
    ({"activation": "tanh", "bidirectional": True}, "last"),
]


@pytest.mark.parametrize("fields, pool", EVERY)
def test_outputs_of_every_third_step_are_a_loop_over_an_item(x64, fields, pool):
    model = built(output_every=3, pool=pool, **fields)
    inputs = padded()[:1]
    found = oracles.jit(run)(model, inputs)[0]
    np.testing.assert_allclose(found, alone(model, inputs[0])[pool], atol=1e-12)
    for refused, lengths, words in (
        (inputs[:, :5], None, "inputs must have a multiple of 3 steps, .* got 5"),
        (inputs, LENGTHS[:1], "lengths must be left out where output_every is 3"),
    ):
        with pytest.raises(ValueError, match=words):
            run(model, refused, lengths)


@pytest.mark.parametrize("pool, layers", [("mean", 1), ("last", 3)])
def test_outputs_of_every_third_step_go_step_by_step(x64, pool, layers):
    model = built(output_every=3, pool=pool, layers=layers, residual=True)
    inputs = padded()[:1]
    advance, carry = model.stream(), zeros(model, 1, streaming=True)
    expected = linear(model.readout, np.zeros(HIDDEN))  # nothing was given yet
    for t in range(STEPS):
        carry, outputs = advance(carry, inputs[:, t])
        if (t + 1) % 3 == 0:
            expected = alone(model, inputs[0, : t + 1])[pool]
        np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-12)


def test_residual_blocks_go_step_by_step(x64):
    model = built(residual=True, readout="all")
    inputs = padded()[:1]
    expected = alone(model, inputs[0])["all"]
    advance, carry = model.stream(), zeros(model, 1)
    for t, output in enumerate(expected):
        carry, outputs = advance(carry, inputs[:, t])
        np.testing.assert_allclose(outputs[0], output, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "pool, residual, name",
    [
        ("mean", True, "spectral"),
        ("max", False, "spectral"),
        pytest.param("mean", False, "lstm", marks=pytest.mark.slow),
        pytest.param("max", True, "spectral", marks=pytest.mark.slow),
    ],
)
def test_pooled_states_go_step_by_step(x64, pool, residual, name):
    model = built(name, pool=pool, residual=residual)
    inputs = padded()[:1]
    advance, carry = model.stream(), zeros(model, 1, streaming=True)
    for t in range(inputs.shape[1]):
        carry, outputs = advance(carry, inputs[:, t])
        expected = alone(model, inputs[0, : t + 1])[pool]
        np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, pool, bidirectional",
    [
        ("spectral", "mean", True),
        pytest.param("spectral", "last", False, marks=pytest.mark.slow),
        pytest.param("spectral", "max", True, marks=pytest.mark.slow),
        pytest.param("spectral", "last", True, marks=pytest.mark.slow),
        pytest.param("exprnn", "mean", False, marks=pytest.mark.slow),
        pytest.param("spectral_gru", "last", True, marks=pytest.mark.slow),
        pytest.param("lstm", "max", False, marks=pytest.mark.slow),
    ],
)
def test_what_stands_in_the_padding_is_in_no_gradient(x64, name, pool, bidirectional):
    """NaN: the gradient is the sum of those of the items by themselves."""
    model = built(name, pool=pool, bidirectional=bidirectional)
    graph, params = nnx.split(model)
    lengths = LENGTHS[:2]  # each length is a program
    weights = np.random.default_rng(3).normal(size=(len(lengths), 1))

    @oracles.jit
    def gradient(params, inputs, weights, lengths=None):
        def loss(params):
            model = svdrnn.bake(nnx.merge(graph, params))
            return jnp.sum(weights * run(model, inputs, lengths))

        return jax.grad(loss)(params)

    inputs = padded()[: len(lengths)]
    found = gradient(params, inputs, weights, lengths)
    items = [
        gradient(params, inputs[j : j + 1, :length], weights[j : j + 1])
        for j, length in enumerate(lengths)
    ]
    expected = jax.tree.map(lambda *parts: sum(parts), *items)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10),
        found,
        expected,
    )


def test_padding_of_tokens_is_not_embedded():
    embedding = nnx.Embed(5, 3, rngs=nnx.Rngs(0))
    layer = nnx.RNN(nnx.SimpleCell(3, 4, rngs=nnx.Rngs(1)), rngs=False)
    model = recurrent.SequenceModel(
        [layer], nnx.Linear(4, 2, rngs=nnx.Rngs(2)), embedding=embedding, last_only=True
    )
    tokens = np.array([[1, 2, 3], [4, 77, -9]])
    outputs, (carry,) = model(tokens, lengths=np.array([3, 1]))
    expected, (end,) = model(tokens[1:, :1])
    np.testing.assert_allclose(outputs[1], expected[0], rtol=1e-6)
    np.testing.assert_allclose(carry[1], end[0], rtol=1e-6)


# ---- What walks over the layers.


def test_both_directions_have_parameters_of_their_own():
    one, both = built("spectral_gru"), built("spectral_gru", bidirectional=True)
    layers = [pair for layer in both.layers for pair in recurrent.directions(layer)]
    assert [layer.cell.in_features for layer in layers] == [
        *(FEATURES, FEATURES, 2 * HIDDEN, 2 * HIDDEN)
    ]
    assert both.readout.kernel.shape == (2 * HIDDEN, 1)
    kernels = [np.asarray(layer.cell.dense_h.kernel[...]) for layer in layers]
    assert not np.allclose(kernels[0], kernels[1])
    shapes = [h.shape for h in jax.tree.leaves(both.initialize_carry(3))]
    assert shapes == [(3, HIDDEN)] * 4
    # Below the diagonals of reflectors: of twice as many gates.
    redundant = [
        build.count_params(each) - build.count_independent_params(each)
        for each in (one, both)
    ]
    assert redundant[1] == 2 * redundant[0] > 0
    margins = [
        np.abs(np.linalg.svd(gate, compute_uv=False) - 1).max()
        for kernel in kernels
        for gate in np.split(kernel, 3, axis=1)
    ]
    found = both.diagnostics()["spectral_margin"]
    assert found == pytest.approx(max(margins), abs=1e-5)


@pytest.mark.parametrize("name", ["spectral", "lstm"])
def test_groups_of_parameters_hold_in_both_directions(name):
    params = nnx.to_pure_dict(nnx.state(built(name, bidirectional=True), nnx.Param))
    parts = optimizers.labels(params, ("singular_values", "inputs", "readout"))
    decays = optimizers.decays(params, constrained=False)
    plain = nnx.to_pure_dict(nnx.state(built(name), nnx.Param))
    expected = optimizers.labels(plain, ("singular_values", "inputs", "readout"))
    for tree, other in ((parts, expected), (decays, optimizers.decays(plain, False))):
        assert tree["readout"] == other["readout"]
        for index, layer in tree["layers"].items():
            way = {"cell": layer["forward_rnn"]["cell"]}
            assert way == {"cell": layer["backward_rnn"]["cell"]}
            assert way == other["layers"][index]


def test_blocks_have_no_part_in_the_rates_of_inputs_and_readout():
    params = nnx.to_pure_dict(nnx.state(built("lstm", residual=True), nnx.Param))
    parts = optimizers.labels(params, ("inputs", "readout"))
    assert parts["embedding"] == {"bias": "rest", "kernel": "rest"}
    for layer in parts["layers"].values():
        assert layer["norm"] == {"bias": "rest", "scale": "rest"}
        assert layer["gates"] == {"bias": "rest", "kernel": "rest"}
        assert "inputs" in jax.tree.leaves(layer["layer"])


def test_blocks_have_the_features_of_the_embedding():
    config = tiny_config().model
    config.update({"residual": True, "embedding": 3})
    with pytest.raises(ValueError, match=r"config.model.embedding must be .*residual"):
        build.check(config)


def test_a_layer_of_ones_own_runs_in_both_directions(monkeypatch, x64):
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))

    def own(config, features, *, rngs):
        return nnx.RNN(nnx.GRUCell(features, config.hidden, rngs=rngs), rngs=False)

    registry.register("own", own, ("hidden", "layers", "bidirectional", "pool"))
    model = built("own", bidirectional=True, layers=1)
    assert isinstance(model.layers[0], nnx.Bidirectional)
    inputs = padded()
    outputs = run(model, inputs, LENGTHS)
    expected = alone(model, inputs[1, : LENGTHS[1]])["last"]
    np.testing.assert_allclose(outputs[1], expected, atol=1e-12)
