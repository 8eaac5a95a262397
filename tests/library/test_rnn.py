"""Cells and whole-sequence layers: what they compute, beside nnx.RNN and a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import nnx

from svdrnn import (
    DenseMatrix,
    DenseRNN,
    DenseRNNCell,
    OrthogonalMatrix,
    OrthogonalRNN,
    OrthogonalRNNCell,
    SpectralRNN,
    SpectralRNNCell,
    TransitionCell,
    TransitionRNN,
    transitions,
)
from svdrnn.transitions import METHODS
from tests import oracles

BATCH, STEPS, FEATURES, N = 3, 5, 2, 6
LENGTHS = np.array([1, 3, STEPS])


def randomize(module, seed=1):
    """Other values for every parameter that starts at zero."""
    rng = np.random.default_rng(seed)
    for parameter in jax.tree.leaves(
        nnx.state(module, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Variable)
    ):
        if not np.any(parameter[...]):
            value = 0.5 * rng.normal(size=parameter.shape)
            parameter[...] = jnp.asarray(value, parameter.dtype)
    return module


def spectral_rnn(n_in=FEATURES, n=N, *, seed=0, **options):
    options = {"reflectors": (2, 3), "radius": 0.25, **options}
    if options.get("activation", "leaky_relu") == "leaky_relu":
        options = {"leak": 0.1, **options}
    options.setdefault("param_dtype", jnp.float64)
    return randomize(SpectralRNN(n_in, n, rngs=nnx.Rngs(seed), **options))


def draw_inputs(*shape, seed=2):
    shape = shape or (BATCH, STEPS, FEATURES)
    return np.random.default_rng(seed).normal(size=shape)


def call(module, inputs, **options):
    """The module called, or every one of several, compiled."""

    def run(module, inputs):
        return jax.tree.map(
            lambda m: m(inputs, **options),
            module,
            is_leaf=lambda m: isinstance(m, nnx.Module),
        )

    return oracles.jit(run)(module, inputs)


def numpy_matrix(weight):
    """W from its parameters, without the library's products."""
    if isinstance(weight, OrthogonalMatrix):
        a = np.zeros((weight.n, weight.n))
        a[np.triu_indices(weight.n, 1)] = weight.skew_entries[...]
        a, eye = a - a.T, np.eye(weight.n)
        cayley = weight.map == "cayley"
        w = np.linalg.solve(eye + a, eye - a) if cayley else scipy.linalg.expm(a)
        signs = np.where(np.arange(weight.n) < weight.n - weight.num_negative, 1, -1)
        return w * signs
    svd = weight.svd()
    return oracles.svd_matrix(svd.u_vectors, svd.v_vectors, np.asarray(svd.sigma))


def states_of(layer, inputs, carry=None):
    """h_1 ... h_T of one item (time, features) by the numpy loop."""
    cell = layer.cell
    w = numpy_matrix(cell.weight)
    carry = np.zeros(len(w)) if carry is None else carry
    states, _ = oracles.run_recurrence(
        w,
        inputs[:, None],
        carry[None],
        input_weights=np.asarray(cell.input_weights[...]),
        bias=None if cell.bias is None else np.asarray(cell.bias[...]),
        activation=cell.activation.name,
        leak=cell.activation.leak,
        offset=None if cell.offset is None else np.asarray(cell.offset[...]),
    )
    return states[:, 0]


def assert_same(actual, expected, atol=1e-12):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=atol),
        actual,
        expected,
    )


# Values.


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "modrelu"])
def test_values_against_a_loop(x64, activation):
    layer = spectral_rnn(activation=activation)
    inputs, carry = draw_inputs(), draw_inputs(BATCH, N)
    last, outputs = call(layer, inputs, initial_carry=carry, return_carry=True)
    expected = [states_of(layer, x, h) for x, h in zip(inputs, carry, strict=True)]
    assert_same(outputs, np.stack(expected))
    assert_same(last, np.stack(expected)[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_layer_and_the_cell(x64, method):
    layer = spectral_rnn(method=method)
    inputs = draw_inputs()
    expected = np.stack([states_of(layer, x) for x in inputs])
    by_layer, by_cell = call((layer, nnx.RNN(layer.cell)), inputs)
    assert_same(by_layer, expected)
    assert_same(by_cell, expected)


def test_one_step_of_the_cell(x64):
    layer = spectral_rnn()
    inputs = draw_inputs()
    states = np.stack([states_of(layer, x) for x in inputs])
    h, y = oracles.jit(lambda cell: cell(states[:, 0], inputs[:, 1]))(layer.cell)
    assert_same((h, y), (states[:, 1], states[:, 1]))


def test_a_cell_applies_the_factors_where_nothing_is_prepared(x64):
    cell = spectral_rnn().cell
    prepared, one_step = nnx.eval_shape(
        lambda cell: (cell._operands()[0], cell._operands(one_step=True)[0]), cell
    )
    assert isinstance(prepared, transitions.Dense)
    assert isinstance(one_step, transitions.Factored) and one_step.method == "wy"


def test_input_scale(x64):
    scaled, plain = (
        spectral_rnn(input_scale=scale).cell.input_weights[...] for scale in (0.25, 1.0)
    )
    np.testing.assert_array_equal(scaled, 0.25 * plain)


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [True, False])
def test_many_input_features(x64, use_bias):
    layer = spectral_rnn(n_in=4, use_bias=use_bias)
    assert (layer.cell.bias is not None) == use_bias
    inputs = draw_inputs(BATCH, STEPS, 4)
    assert_same(call(layer, inputs)[2], states_of(layer, inputs[2]))


# The contract of nnx.RNN.

CONTRACT = {
    "carry": {"initial_carry": True, "return_carry": True},
    "reverse": {"reverse": True, "return_carry": True},
    "keep_order": {"reverse": True, "keep_order": True},
    "lengths": {"seq_lengths": True, "return_carry": True},
    "lengths_reverse": {"seq_lengths": True, "return_carry": True, "reverse": True},
    "everything": {
        "initial_carry": True,
        "keep_order": True,
        "return_carry": True,
        "reverse": True,
        "seq_lengths": True,
        "time_major": True,
    },
}


def arguments(options, batch=(BATCH,)):
    """Inputs and call arguments, with True replaced by arrays."""
    options = dict(options)
    inputs = draw_inputs(*batch, STEPS, FEATURES)
    if options.get("time_major"):
        inputs = np.moveaxis(inputs, -2, 0)
    if "initial_carry" in options:
        options["initial_carry"] = draw_inputs(*batch, N)
    if "seq_lengths" in options:
        options["seq_lengths"] = LENGTHS
    return inputs, options


@pytest.mark.slow
@pytest.mark.parametrize("options", CONTRACT.values(), ids=CONTRACT)
def test_equals_nnx_rnn(x64, options):
    layer = spectral_rnn()
    inputs, options = arguments(options)
    # The same cell, hence the same parameters.
    assert_same(*call((layer, nnx.RNN(layer.cell)), inputs, **options))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_equals_nnx_rnn_with_other_batch_axes(x64, batch):
    layer = spectral_rnn()
    inputs, options = arguments(CONTRACT["carry"], batch)
    actual, expected = call((layer, nnx.RNN(layer.cell)), inputs, **options)
    assert expected[1].shape == batch + (STEPS, N)
    assert_same(actual, expected)
    options = {"time_major": True, "reverse": True, **options}
    inputs = np.moveaxis(inputs, -2, 0)
    assert_same(*call((layer, nnx.RNN(layer.cell)), inputs, **options))


def test_defaults_given_at_construction(x64):
    defaults = {
        "time_major": True,
        "return_carry": True,
        "reverse": True,
        "keep_order": True,
    }
    layer = spectral_rnn(**defaults)
    inputs, _ = arguments({"time_major": True})
    assert_same(*call((layer, nnx.RNN(layer.cell, **defaults)), inputs))
    # An argument of the call overrides them.
    options = {"return_carry": False, "reverse": False, "keep_order": False}
    outputs = call(layer, inputs, **options)
    assert_same(outputs[:, 0], states_of(layer, inputs[:, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_of_several_batch_axes_and_of_zero(x64, reverse):
    layer = spectral_rnn()
    inputs, carry = draw_inputs(2, 3, STEPS, FEATURES), draw_inputs(2, 3, N)
    lengths = np.array([[0, 1, 2], [3, 4, STEPS]])
    options = {"initial_carry": carry, "reverse": reverse, "keep_order": True}
    run = oracles.jit(
        lambda layer, lengths: layer(
            inputs, seq_lengths=lengths, return_carry=True, **options
        )
    )
    # Lengths that are known and lengths that are traced.
    last, outputs = run(layer, lengths)
    for index in np.ndindex(2, 3):
        length = lengths[index]
        x = inputs[index][:length]
        expected = states_of(layer, x[::-1] if reverse else x, carry[index])
        end = expected[-1] if length else carry[index]
        assert_same(last[index], end)
        expected = expected[::-1] if reverse else expected
        assert_same(outputs[index][:length], expected)
    options = {"last_only": True, "seq_lengths": lengths, **options}
    assert_same(call(layer, inputs, **options), last)


def test_lengths_without_a_batch_axis(x64):
    layer = spectral_rnn()
    inputs = draw_inputs(STEPS, FEATURES)
    options = {"seq_lengths": np.array(2), "return_carry": True}
    last, outputs = call(layer, inputs, **options)
    assert_same(last, states_of(layer, inputs)[1])
    assert outputs.shape == (STEPS, N)


@pytest.mark.parametrize("chunk", [None, 2])
def test_last_only(x64, chunk):
    layer = spectral_rnn(chunk=chunk, unroll=2)
    inputs = draw_inputs()
    options = {"seq_lengths": np.array([0, 3, STEPS]), "time_major": True}
    last = call(layer, inputs.swapaxes(0, 1), last_only=True, **options)
    states = [states_of(layer, x) for x in inputs]
    assert_same(last, np.stack([np.zeros(N), states[1][2], states[2][-1]]))


def by_hand(forward, backward, inputs):
    """A bidirectional layer by two passes of the loop, item by item."""
    return [
        np.hstack([states_of(forward, x), states_of(backward, x[::-1])[::-1]])
        for x in inputs
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "cell"])
def test_bidirectional(x64, kind):
    forward, backward = spectral_rnn(), spectral_rnn(seed=3)
    layers = forward, backward
    if kind == "cell":
        layers = [nnx.RNN(layer.cell) for layer in layers]
    model = nnx.Bidirectional(*layers)
    inputs = draw_inputs()
    expected = by_hand(forward, backward, inputs)
    assert_same(call(model, inputs), np.stack(expected))
    # Padded: the backward pass of an item begins at its own end.
    options = {"seq_lengths": LENGTHS, "return_carry": True}
    carries, outputs = call(model, inputs, **options)
    padded = [x[:length] for x, length in zip(inputs, LENGTHS, strict=True)]
    expected = by_hand(forward, backward, padded)
    for j, (states, length) in enumerate(zip(expected, LENGTHS, strict=True)):
        assert_same(outputs[j, :length], states)
        assert_same(carries[0][j], states[-1, :N])
        assert_same(carries[1][j], states[0, N:])


@pytest.mark.slow
def test_dense_rnn_equals_nnx_simple_cell(x64):
    layer = randomize(
        DenseRNN(FEATURES, N, leak=0.1, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    )
    simple = nnx.SimpleCell(
        FEATURES,
        N,
        activation_fn=lambda z: jax.nn.leaky_relu(z, 0.1),
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(1),
    )
    simple.dense_h.kernel[...] = layer.cell.weight.matrix().T
    simple.dense_i.kernel[...] = layer.cell.input_weights[...].T
    simple.dense_i.bias[...] = layer.cell.bias[...]
    inputs = draw_inputs()

    def loss(module):
        carry = np.zeros((BATCH, N))
        options = {"initial_carry": carry, "reverse": True, "keep_order": True}
        outputs = module(inputs, **options)
        return (outputs**2).sum(), outputs

    compiled = oracles.jit(jax.grad(loss, has_aux=True))
    expected_grads, expected = compiled(nnx.RNN(simple, rngs=False))
    grads, outputs = compiled(layer)
    assert_same(outputs, expected)
    grads, expected_grads = grads.cell, expected_grads.cell
    assert_same(grads.weight.w[...].T, expected_grads.dense_h.kernel[...])
    assert_same(grads.input_weights[...].T, expected_grads.dense_i.kernel[...])
    assert_same(grads.bias[...], expected_grads.dense_i.bias[...])


def orthogonal_rnn(activation="modrelu", **options):
    options = {"param_dtype": jnp.float64, "activation": activation, **options}
    return randomize(OrthogonalRNN(FEATURES, N, rngs=nnx.Rngs(0), **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(orthogonal_rnn, init="henaff"),
        functools.partial(orthogonal_rnn, map="cayley", negative_fraction=0.5),
        functools.partial(orthogonal_rnn, map="cayley", init="identity"),
        functools.partial(
            spectral_rnn, reflectors=None, init="henaff", activation="modrelu"
        ),
    ],
    ids=["exprnn", "scornn", "scornn from zero", "spectral from rotation"],
)
def test_rotations_with_modrelu_against_a_loop(x64, make):
    layer, inputs = make(), draw_inputs()

    def loss(layer):
        outputs = layer(inputs)
        return jnp.sum(jnp.sin(outputs)), outputs

    gradients, outputs = oracles.jit(nnx.grad(loss, has_aux=True))(layer)
    assert_same(outputs, np.stack([states_of(layer, x) for x in inputs]))
    assert_same(call(nnx.RNN(layer.cell), inputs), outputs)

    gradients = gradients.cell
    weight, offset = layer.cell.weight, layer.cell.offset
    cases = [(offset, gradients.offset)]
    if isinstance(weight, OrthogonalMatrix):
        cases.append((weight.skew_entries, gradients.weight.skew_entries))
    else:
        cases.append((weight.v_vectors, gradients.weight.v_vectors))
    for parameter, gradient in cases:
        start = np.asarray(parameter[...])

        def of(value):
            parameter[...] = jnp.asarray(value)
            return sum(np.sum(np.sin(states_of(layer, x))) for x in inputs)

        expected = oracles.finite_difference(of, start)
        parameter[...] = jnp.asarray(start)
        assert_same(gradient[...], expected, 1e-7)


@pytest.mark.slow
def test_initialize_carry():
    cell = DenseRNNCell(FEATURES, N, rngs=nnx.Rngs(0))
    assert cell.num_feature_axes == 1
    for batch in ((), (3,), (2, 3)):
        carry = cell.initialize_carry((*batch, FEATURES), nnx.Rngs(0))
        np.testing.assert_array_equal(carry, np.zeros((*batch, N)))
        assert carry.dtype == jnp.float32
    narrow = DenseRNNCell(FEATURES, N, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert narrow.initialize_carry((FEATURES,), nnx.Rngs(0)).dtype == jnp.bfloat16
    ones = jax.nn.initializers.ones
    for rngs in (nnx.Rngs(0), nnx.Rngs(0).carry):
        carry = TransitionRNN(cell).initialize_carry((3, FEATURES), rngs, ones)
        np.testing.assert_array_equal(carry, np.ones((3, N)))
    with pytest.raises(ValueError, match="rngs must be given"):
        cell.initialize_carry((3, FEATURES), carry_init=ones)


# Derivatives through the modules.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["low_rank", "dense"])
def test_perturbations(x64, method):
    layer = spectral_rnn(method=method, activation="tanh")
    inputs, weights = draw_inputs(), draw_inputs(BATCH, STEPS, N, seed=5)
    zeros = jnp.zeros((BATCH, STEPS, N))

    def loss(perturbations, time_major):
        x, p = inputs, perturbations
        if time_major:
            x, p = x.swapaxes(0, 1), p.swapaxes(0, 1)
        outputs = layer(x, perturbations=p, time_major=time_major)
        return ((outputs.swapaxes(0, 1) if time_major else outputs) * weights).sum()

    actual = oracles.jit(jax.grad(loss), static_argnums=1)(zeros, False)
    # g_T is the weight of the last state, g_{t-1} = W^T (g_t phi'(z_t)) + its weight.
    svd = layer.cell.weight.svd()
    w = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, np.asarray(svd.sigma))
    for j in range(BATCH):
        h, g = states_of(layer, inputs[j]), np.zeros(N)
        for t in reversed(range(STEPS)):
            g = g + weights[j, t]
            assert_same(actual[j, t], g)
            g = (g * (1 - h[t] ** 2)) @ w
    if method == "dense":
        other = oracles.jit(jax.grad(loss), static_argnums=1)(zeros, True)
        assert_same(other, actual)


@pytest.mark.slow
def test_nnx_transforms(x64):
    layer = spectral_rnn()
    inputs = draw_inputs()

    def loss(layer):
        return (layer(inputs) ** 2).sum()

    value, grads = nnx.jit(nnx.value_and_grad(loss))(layer)
    graph, params = nnx.split(layer, nnx.Param)
    expected = oracles.jit(
        jax.value_and_grad(lambda params: loss(nnx.merge(graph, params)))
    )(params)
    assert_same(value, expected[0])
    assert_same(nnx.to_pure_dict(grads), nnx.to_pure_dict(expected[1]))
    assert set(nnx.to_pure_dict(params)["cell"]) == {"bias", "input_weights", "weight"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["low_rank", "dense"])
def test_forward_mode_without_the_custom_backward_pass(x64, method):
    layer = spectral_rnn(method=method, activation="tanh", custom_backward=False)
    inputs = draw_inputs()

    def loss(layer):
        return (layer(inputs, last_only=True) ** 2).sum()

    def slopes(layer):
        tangent = jax.tree.map(jnp.ones_like, layer)
        forward = jax.jvp(loss, (layer,), (tangent,))[1]
        return forward, sum(map(jnp.sum, jax.tree.leaves(jax.grad(loss)(layer))))

    np.testing.assert_allclose(*oracles.jit(slopes)(layer), rtol=1e-11)


# Training.


def addition_batch(rng, batch=16, steps=30):
    """(values and markers (batch, time, 2), sums of the two marked values)."""
    values = rng.random((batch, steps))
    first = rng.integers(0, steps // 2, size=batch)
    second = rng.integers(steps // 2, steps, size=batch)
    rows = np.arange(batch)
    markers = np.zeros((batch, steps))
    markers[rows, first] = markers[rows, second] = 1
    targets = values[rows, first] + values[rows, second]
    return np.stack([values, markers], axis=-1), targets


class Regression(nnx.Module):
    """An affine readout of the last state."""

    def __init__(self, rnn, features, param_dtype):
        self.rnn = rnn
        options = {"param_dtype": param_dtype, "rngs": nnx.Rngs(1)}
        self.readout = nnx.Linear(features, 1, **options)

    def __call__(self, inputs):
        return self.readout(self.rnn(inputs)[:, -1])[:, 0]


def train(wrap, *, dtype, n=32, updates=50, **options):
    """Losses, and parameters at the end, of clipped Adam on addition."""
    options = {"reflectors": 4, "radius": 0.01, "param_dtype": dtype, **options}
    model = Regression(
        wrap(SpectralRNNCell(2, n, rngs=nnx.Rngs(0), **options)), n, dtype
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, inputs, targets):
        predictions = nnx.merge(graph, params, rest)(inputs)
        return jnp.mean((predictions - targets) ** 2)

    def update(state, batch):
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        change, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, change), moments), value

    rng = np.random.default_rng(0)
    batches = [addition_batch(rng) for _ in range(updates)]
    batches = [
        jnp.asarray(np.stack(arrays), dtype) for arrays in zip(*batches, strict=True)
    ]
    run = oracles.jit(functools.partial(jax.lax.scan, update))
    (params, _), losses = run((params, optimizer.init(params)), batches)
    return losses, nnx.to_pure_dict(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "activation", "method", "atol"),
    [
        (jnp.float32, "tanh", "auto", 1e-5),
        # At the kink of leaky ReLU rounding decides between two slopes, and two
        # trainings in float32 that round differently part in the end.
        (jnp.float64, "leaky_relu", "dense", 1e-9),
    ],
)
def test_training_matches_the_papers_algorithm(x64, dtype, activation, method, atol):
    options = {"dtype": dtype, "activation": activation}
    # Reflector by reflector, at every step of nnx.RNN.
    expected_losses, expected = train(nnx.RNN, method="scan", **options)
    losses, params = train(TransitionRNN, method=method, **options)
    assert losses.dtype == dtype
    assert_same(losses, expected_losses, atol)
    assert_same(params, expected, atol)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["leaky_relu", "modrelu"])
def test_every_parameter_changes_under_training(x64, activation):
    layer = spectral_rnn(reflectors=(3, 5), activation=activation)
    inputs, targets = draw_inputs(), draw_inputs(BATCH, STEPS, N, seed=3)
    optimizer = optax.adam(1e-2)
    graph, params = nnx.split(layer)

    def loss(params):
        return ((nnx.merge(graph, params)(inputs) - targets) ** 2).sum()

    @oracles.jit
    def step(params, moments):
        change, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, change), moments

    start, moments = nnx.to_pure_dict(params), optimizer.init(params)
    for _ in range(3):
        params, moments = step(params, moments)
    end = nnx.to_pure_dict(params)
    changed = jax.tree.map(lambda a, b: np.asarray(a != b), start, end)
    weight = changed["cell"].pop("weight")
    for name in ("u_vectors", "v_vectors"):
        inside = np.triu(np.ones(weight[name].shape, bool))
        np.testing.assert_array_equal(weight[name], inside, err_msg=name)
        below = np.tril(end["cell"]["weight"][name], -1)
        np.testing.assert_array_equal(below, 0)
    assert weight["sigma_raw"].all()
    assert len(changed["cell"]) == (3 if activation == "modrelu" else 2)
    assert all(leaf.all() for leaf in changed["cell"].values())


def test_radius_zero_trains_an_orthogonal_transition(x64):
    layer = spectral_rnn(radius=0.0)
    inputs = draw_inputs()
    params = nnx.state(layer, nnx.Param)
    assert "sigma_raw" not in nnx.to_pure_dict(params)["cell"]["weight"]
    graph, params = nnx.split(layer)

    @oracles.jit
    def descend(params):
        grads = jax.grad(lambda p: (nnx.merge(graph, p)(inputs) ** 2).sum())(params)
        moved = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
        return [nnx.merge(graph, p).cell.weight.matrix() for p in (params, moved)]

    before, after = descend(params)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after @ after.T, np.eye(N), atol=1e-13)


# Dtypes and precision.


@pytest.mark.parametrize(
    "method", ["low_rank", pytest.param("dense", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"unroll": 2}, {"chunk": 2}, {"activation_every": 3}, {"output_every": 2}],
    ids=str,
)
def test_the_precision_is_that_of_every_product(x64, method, options):
    layer = spectral_rnn(method=method, precision="highest", **options)
    graph, state = nnx.split(layer)

    def loss(state, inputs):
        return jnp.sum(nnx.merge(graph, state)(inputs) ** 2)

    def step(state, carry, x):
        return nnx.merge(graph, state).cell(carry, x)[0]

    inputs = draw_inputs()
    programs = [
        (loss, state, inputs),
        (jax.grad(loss, argnums=(0, 1)), state, inputs),
        (step, state, jnp.ones((BATCH, N)), inputs[:, 0]),
    ]
    for program in programs:
        precisions = oracles.dot_precisions(*program)
        assert precisions
        assert set(precisions) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize(
    ("param_dtype", "dtype", "input_dtype", "expected"),
    [
        (jnp.float32, None, jnp.float32, jnp.float32),
        (jnp.float32, None, jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, None, jnp.bfloat16, jnp.bfloat16),
        (jnp.float64, None, jnp.float32, jnp.float64),
        (jnp.float32, None, jnp.int32, jnp.float32),
    ],
)
def test_dtypes(x64, param_dtype, dtype, input_dtype, expected):
    def shapes():
        options = {"reflectors": 2, "radius": 0.1, "rngs": nnx.Rngs(0)}
        layer = SpectralRNN(
            FEATURES, N, param_dtype=param_dtype, dtype=dtype, **options
        )
        inputs = jnp.ones((BATCH, STEPS, FEATURES), input_dtype)
        grads = jax.grad(lambda layer: layer(inputs).astype(jnp.float32).sum())(layer)
        both = layer(inputs, return_carry=True), nnx.RNN(layer.cell)(inputs)
        return both, jax.tree.leaves(nnx.state(grads, nnx.Param))

    outputs, grads = nnx.eval_shape(shapes)
    assert all(leaf.dtype == expected for leaf in jax.tree.leaves(outputs))
    assert all(leaf.dtype == param_dtype for leaf in grads)


@pytest.mark.parametrize(
    "make",
    [
        SpectralRNNCell,
        pytest.param(DenseRNNCell, marks=pytest.mark.slow),
        pytest.param(OrthogonalRNNCell, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("param_dtype", "input_dtype"),
    [
        (jnp.float32, jnp.float64),
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.bfloat16),
        (jnp.float32, jnp.float16),
    ],
)
def test_a_cell_under_nnx_rnn_with_inputs_of_another_dtype(
    x64, make, param_dtype, input_dtype
):
    own = {"reflectors": 2, "radius": 0.1} if make is SpectralRNNCell else {}
    cell = make(FEATURES, N, param_dtype=param_dtype, rngs=nnx.Rngs(0), **own)
    x = jnp.asarray(draw_inputs(), input_dtype)
    layer, loop = TransitionRNN(cell), nnx.RNN(cell, rngs=False)

    @oracles.jit
    def run(layer, loop, x):
        return layer(x, return_carry=True)[1], loop(x, return_carry=True)

    expected, (carry, outputs) = run(layer, loop, x)
    assert carry.dtype == param_dtype
    assert outputs.dtype == expected.dtype == jnp.promote_types(param_dtype, x.dtype)
    wide = np.asarray(expected, np.float64)
    atol = 20 * float(jnp.finfo(param_dtype).eps)
    np.testing.assert_allclose(np.asarray(outputs, np.float64), wide, atol=atol)


@pytest.mark.slow
def test_bfloat16_values_and_gradients_are_near_the_float32_ones():
    inputs = draw_inputs().astype(np.float32)

    @oracles.jit
    def run(layer):
        def loss(layer):
            outputs = layer(inputs)
            return (outputs.astype(jnp.float32) ** 2).mean(), outputs

        return jax.grad(loss, has_aux=True)(layer)

    options = {"param_dtype": jnp.float32, "method": "dense"}
    expected_grads, expected = run(spectral_rnn(**options))
    grads, outputs = run(spectral_rnn(dtype=jnp.bfloat16, **options))
    assert outputs.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs.astype(np.float32), expected, atol=0.03 * scale)
    for a, b in zip(
        jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max())


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_in": 0}, "in_features must be an integer of at least 1, got 0"),
        ({"n": 0}, "hidden_features must be an integer of at least 1, got 0"),
        ({"n": -3}, "hidden_features must be an integer of at least 1, got -3"),
        ({"reflectors": 0}, "reflectors must be an integer of at least 1, got 0"),
        ({"reflectors": (7, 1)}, "reflectors of U must be at most 6, .*, got 7"),
        ({"radius": -0.01}, "radius must be finite and at least 0, got -0.01"),
        ({"center": float("nan")}, "center must be finite, got nan"),
        ({"init": "zeros"}, "init must be .*, got 'zeros'"),
        ({"activation": "gelu"}, "activation must be one of .*, got 'gelu'"),
        ({"leak": 2.0}, "leak must be finite .* at most 1, got 2.0"),
        ({"method": "fast"}, "method must be one of auto, .*, got 'fast'"),
        ({"input_scale": 0.0}, "input_scale must be finite and above 0, got 0.0"),
        ({"unroll": 0}, "unroll must be an integer of at least 1, got 0"),
        ({"chunk": -1}, "chunk must be an integer of at least 1, got -1"),
        ({"chunk": 2.0}, "chunk must be an integer of at least 1, got 2.0"),
    ],
)
def test_bad_arguments(options, message):
    options = {"n_in": FEATURES, "n": N, "param_dtype": jnp.float32, **options}
    with pytest.raises(ValueError, match=message):
        spectral_rnn(**options)


@pytest.mark.parametrize(
    ("n_in", "n", "init", "message"),
    [
        (0, 3, "identity", "in_features must be an integer of at least 1, got 0"),
        (1, 0, "identity", "hidden_features must be an integer of at least 1, got 0"),
        (1, 3, "random", "init must be one of .*, got 'random'"),
        (1, 3, np.eye(2), r"init must have shape \(3, 3\), got \(2, 2\)"),
    ],
)
def test_bad_arguments_of_the_dense_layer(n_in, n, init, message):
    with pytest.raises(ValueError, match=message):
        DenseRNN(n_in, n, init=init, rngs=nnx.Rngs(0))


X = np.zeros((BATCH, STEPS, FEATURES), np.float32)


@pytest.fixture(scope="module")
def dense_layer():
    return DenseRNN(FEATURES, N, init="identity", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (X[..., :1], {}, r"inputs must have 2 features .*, got shape \(3, 5, 1\)"),
        (np.zeros(()), {}, r"inputs must have 2 features .*, got shape \(\)"),
        (X[0, 0], {}, r"inputs must have a time and a feature axis, .* \(2,\)"),
        (X, {"initial_carry": X[:, 0]}, r"carry must have 6 features .* \(3, 2\)"),
        (X, {"initial_carry": np.zeros((2, N))}, r"carry .* \(3, 6\), got \(2, 6"),
        (X, {"seq_lengths": np.ones(4, int)}, r"seq_lengths .* \(3,\), got int.* \(4,"),
        (X, {"seq_lengths": np.ones(3)}, "seq_lengths must be integers .* got float"),
        (X, {"seq_lengths": np.array([0, 1, 6])}, r"lie in \[0, 5\], .* from 0 to 6"),
        (X, {"seq_lengths": [-1, 1, 2]}, r"lie in \[0, 5\], got values from -1 to 2"),
        (
            X,
            {"perturbations": np.zeros((STEPS, BATCH, N))},
            r"perturbations must have shape \(3, 5, 6\), got \(5, 3, 6\)",
        ),
        (
            X,
            {"perturbations": np.zeros((BATCH, STEPS, N)), "reverse": True},
            "perturbations must be None with reverse=True",
        ),
    ],
)
def test_bad_calls(dense_layer, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        dense_layer(inputs, **options)


def test_bad_calls_of_the_cell(dense_layer):
    cell = dense_layer.cell
    with pytest.raises(ValueError, match=r"inputs must have 2 features .* \(3, 1\)"):
        cell(np.zeros((3, N)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"carry must have 6 features .* \(3, 5\)"):
        cell(np.zeros((3, 5)), np.zeros((3, FEATURES)))


def test_the_dense_layer_has_one_method():
    weight = DenseMatrix(N, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must be one of auto, dense, got 'wy'"):
        weight.transition("wy")


# What once went wrong.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
@pytest.mark.parametrize("chunk", [None, 20])
def test_narrow_integer_lengths_do_not_wrap_around(dtype, chunk):
    layer = SpectralRNN(1, 4, reflectors=2, radius=0.1, chunk=chunk, rngs=nnx.Rngs(0))
    inputs = jnp.asarray(draw_inputs(2, 300, 1), jnp.float32)
    lengths = np.array([16, 40], dtype)
    last = layer(inputs, seq_lengths=lengths, last_only=True)
    outputs = layer(inputs)
    np.testing.assert_array_equal(last[0], outputs[0, 15])
    np.testing.assert_array_equal(last[1], outputs[1, 39])


def test_complex_inputs_are_refused():
    layer = spectral_rnn(param_dtype=jnp.float32)
    with pytest.raises(ValueError, match="inputs must be real, got complex64"):
        layer(jnp.ones((2, 3, FEATURES), jnp.complex64))


@pytest.mark.slow
def test_perturbations_take_the_dtype_of_the_computation():
    layer = spectral_rnn(param_dtype=jnp.float32, dtype=jnp.bfloat16)
    inputs = jnp.ones((2, 3, FEATURES))
    outputs = layer(inputs, perturbations=jnp.zeros((2, 3, N)))
    assert outputs.dtype == jnp.bfloat16


def test_a_weight_of_another_size_is_refused():
    weight = DenseMatrix(4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"hidden_features = 5, got shape \(4, 4\)"):
        TransitionCell(weight, 1, 5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["radius", "center", "leak", "input_scale"])
@pytest.mark.parametrize("value", [None, "a", float("nan")])
def test_a_number_that_is_none_is_named(name, value):
    if (name, value) == ("leak", None):
        return  # the default
    with pytest.raises(ValueError, match=name):
        spectral_rnn(**{name: value}, param_dtype=jnp.float32)


@pytest.mark.slow
def test_gradients_under_strict_dtype_promotion(x64):
    layer = spectral_rnn(dtype=jnp.float64)
    inputs = jnp.asarray(draw_inputs())
    graph, params = nnx.split(layer)

    def loss(params):
        return nnx.merge(graph, params)(inputs, last_only=True).sum()

    with jax.numpy_dtype_promotion("strict"):
        gradient = jax.grad(loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_chunks_keep_a_step_of_ten_thousand_under_128_mib():
    # Compiled and not run; the states alone would take 625 MiB.
    layer = SpectralRNN(1, 128, reflectors=16, radius=0.1, chunk=100, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)

    def loss(params, inputs):
        return nnx.merge(graph, params)(inputs, last_only=True).sum()

    inputs = jax.ShapeDtypeStruct((128, 10_000, 1), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 128 * 2**20


def test_an_activation_with_parameters_is_refused():
    with pytest.raises(ValueError, match="activation must be .*, got PReLU$"):
        SpectralRNN(
            2, 3, reflectors=2, radius=0.1, activation=nnx.PReLU(), rngs=nnx.Rngs(0)
        )
