"""`SpectralRNN` beside `nnx.RNN`: it works wherever that one does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import svdrnn
from svdrnn import (
    DenseMatrix,
    DenseRNN,
    OrthogonalRNN,
    SpectralLinear,
    SpectralMatrix,
    SpectralRNN,
    SpectralRNNCell,
)
from tests import oracles

BATCH, STEPS, FEATURES, N = 4, 5, 2, 8
X = np.random.default_rng(0).normal(size=(BATCH, STEPS, FEATURES)).astype(np.float32)
H = np.random.default_rng(1).normal(size=(BATCH, N)).astype(np.float32)
FORMS = {
    "low_rank": {"method": "low_rank"},
    "dense": {"method": "dense"},
    "wy": {"method": "wy"},
    "scan": {"method": "scan"},
    "chunk": {"method": "low_rank", "chunk": 2},
    "autodiff": {"method": "low_rank", "custom_backward": False},
    "modrelu": {"method": "dense", "activation": "modrelu"},
    "callable": {"method": "low_rank", "activation": jax.nn.gelu},
    "features": {"method": "low_rank", "in_features": 3},
}
EVERY = {
    "every": {"method": "low_rank", "activation_every": 2},
    "outputs": {"method": "dense", "activation": "identity", "output_every": 2},
    "every in chunks": {"method": "dense", "activation_every": 2, "chunk": 2},
}

CALLS = {
    "lengths": {"seq_lengths": np.array([STEPS, 2, 0, 1])},
    "backwards": {
        "seq_lengths": np.array([STEPS, 2, 0, 1]),
        "reverse": True,
        "keep_order": True,
    },
}


def spectral(**options):
    options = {"reflectors": 2, "radius": 0.1, "in_features": FEATURES, **options}
    return SpectralRNN(options.pop("in_features"), N, rngs=nnx.Rngs(0), **options)


def flax_rnn():
    return nnx.RNN(nnx.SimpleCell(FEATURES, N, rngs=nnx.Rngs(0)), rngs=False)


def make(form):
    return flax_rnn() if form == "nnx.RNN" else spectral(**(FORMS | EVERY)[form])


def inputs_of(model):
    return np.resize(X, (BATCH, STEPS, model.cell.in_features))


def loss_of(model, inputs, carry=None, last_only=False, **options):
    if last_only and isinstance(model, SpectralRNN):
        last = model(inputs, initial_carry=carry, last_only=True, **options)
        return jnp.sum(last * last)
    last, states = model(inputs, initial_carry=carry, return_carry=True, **options)
    return jnp.sum(states * states) + jnp.sum(last)


def gradient(model, *arrays, wrap=lambda f: f, **options):
    """Loss and gradients with respect to parameters."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, *arrays):
        return loss_of(nnx.merge(graph, params, rest), *arrays, **options)

    return wrap(jax.value_and_grad(loss)), params, arrays


def close(actual, expected, tolerance=2e-4):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = 1 + np.abs(np.asarray(b, np.float64)).max(initial=0)
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


# ---- Devices.


def mesh_of(kind):
    return jax.make_mesh((2,), ("b",), axis_types=(kind,))


@pytest.fixture
def two_devices():
    if jax.device_count() < 2:
        pytest.skip("needs two devices: JAX was started before the tests' settings")


@pytest.mark.slow
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS])
@pytest.mark.usefixtures("two_devices")
def test_explicit_mesh(form, last_only):
    mesh = mesh_of(AxisType.Explicit)
    model = make(form)
    arrays = (inputs_of(model), H)
    step, params, _ = gradient(model, *arrays, last_only=last_only, wrap=oracles.jit)
    expected = step(params, *arrays)
    split = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("b"))) for a in arrays]
    shared = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    close(step(shared, *split), expected)
    with jax.set_mesh(mesh):
        close(step(shared, *split), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name in FORMS if name != "autodiff"])
@pytest.mark.usefixtures("two_devices")
def test_explicit_mesh_without_a_first_carry(form):
    mesh = mesh_of(AxisType.Explicit)
    model = make(form)
    step, params, (x,) = gradient(model, inputs_of(model), wrap=oracles.jit)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("b")))
    with jax.set_mesh(mesh):
        shared = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        close(step(shared, split), step(params, x))


@pytest.mark.slow
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS])
@pytest.mark.usefixtures("two_devices")
def test_shard_map(form, last_only):
    model = make(form)
    arrays = (inputs_of(model), H)
    step, params, _ = gradient(model, *arrays, last_only=last_only)
    batch, every = PartitionSpec("b"), PartitionSpec()

    def part(params, *arrays):
        value, grads = step(params, *arrays)
        return jax.lax.psum(value, "b"), grads

    split = jax.shard_map(
        part,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(every, batch, batch),
        out_specs=(every, every),
    )
    close(oracles.jit(split)(params, *arrays), oracles.jit(step)(params, *arrays))


# ---- Transformations.


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nnx.RNN", "low_rank", "dense", "wy"])
def test_vmap_scan_and_remat_of_modules(form):
    def build(rngs):
        if form == "nnx.RNN":
            return nnx.RNN(nnx.SimpleCell(N, N, rngs=rngs), rngs=False)
        options = {"reflectors": 2, "radius": 0.1, **FORMS[form]}
        return SpectralRNN(N, N, rngs=rngs, **options)

    layers = nnx.vmap(build)(nnx.Rngs(0).split(3))
    x = np.resize(X, (2, STEPS, N))
    carry = jnp.zeros((2, N))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def through(x, layer):
        return nnx.remat(lambda layer, x: layer(x, initial_carry=carry))(layer, x)

    expected = x
    graph, state = nnx.split(layers)
    for i in range(3):
        layer = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        expected = layer(expected, initial_carry=carry)
    np.testing.assert_allclose(through(x, layers), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["low_rank", "dense", "wy", "chunk"])
def test_vmap_over_inputs(form):
    model = make(form)
    carry = jnp.zeros((N,))
    each = jax.vmap(lambda x: model(x, initial_carry=carry))(X)
    np.testing.assert_allclose(each, model(X), atol=1e-5)


def given_matrix(rngs):
    w = np.eye(N, dtype=np.float32) * 1.05
    return SpectralMatrix(N, N, reflectors=None, radius=0.1, init=w, rngs=rngs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jit", "vmap", "eval_shape", "dense"])
def test_creation_from_a_matrix_under_transformations(kind):
    match kind:
        case "jit":
            made = nnx.jit(given_matrix)(nnx.Rngs(0)).matrix()
            np.testing.assert_allclose(made, 1.05 * np.eye(N), atol=1e-6)
        case "vmap":
            made = nnx.vmap(given_matrix)(nnx.Rngs(0).split(3))
            assert made.u_vectors.shape == (3, N, N)
        case "eval_shape":
            made = nnx.eval_shape(lambda: given_matrix(nnx.Rngs(0)))
            assert made.u_vectors.shape == (N, N)
        case "dense":
            made = nnx.jit(lambda rngs: DenseMatrix(N, init=2 * np.eye(N), rngs=rngs))
            np.testing.assert_array_equal(made(nnx.Rngs(0)).matrix(), 2 * np.eye(N))


# ---- Lengths.


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS])
def test_traced_lengths_beyond_the_end_mean_the_last_state(form):
    model = make(form)
    x = inputs_of(model)
    carry = jnp.zeros((BATCH, N))
    lengths = np.array([1, STEPS + 4, STEPS, 2])

    @nnx.jit
    def last(model, lengths):
        out = model(x, seq_lengths=lengths, initial_carry=carry, return_carry=True)
        return out[0]

    found = last(model, lengths)
    bounded = last(model, np.minimum(lengths, STEPS))
    np.testing.assert_allclose(found, bounded, atol=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nnx.RNN", "low_rank", "chunk"])
def test_lengths_closed_over_as_an_array(form):
    model = make(form)
    lengths = jnp.array([1, 3, STEPS, 2])
    carry = jnp.zeros((BATCH, N))

    def last(model, x):
        out = model(x, seq_lengths=lengths, initial_carry=carry, return_carry=True)
        return out[0]

    np.testing.assert_allclose(nnx.jit(last)(model, X), last(model, X), atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        *("nnx.RNN", "low_rank"),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("dense", "wy", "autodiff")),
    ],
)
def test_no_step_at_all(form):
    model = make(form)
    empty = np.zeros((BATCH, 0, FEATURES), np.float32)
    carry, outputs = model(empty, initial_carry=jnp.asarray(H), return_carry=True)
    assert outputs.shape == (BATCH, 0, N)
    np.testing.assert_array_equal(carry, H)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["plain", *CALLS])
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS, *EVERY])
def test_no_item_at_all(form, call):
    model = make(form)
    options = {
        k: v[:0] if k == "seq_lengths" else v for k, v in CALLS.get(call, {}).items()
    }
    x, carry = inputs_of(model)[:0], jnp.zeros((0, N))
    step, params, _ = gradient(model, x, carry, last_only=True, **options)
    value, grads = jax.eval_shape(step, params, x, carry)
    assert value.shape == ()
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    last, states = model(x, initial_carry=carry, return_carry=True, **options)
    given = STEPS // getattr(model, "output_every", 1)
    assert (last.shape, states.shape) == ((0, N), (0, given, N))


def test_gradients_of_no_item_are_zero():
    for form in ("chunk", "every in chunks", "outputs"):
        model = make(form)
        step, params, arrays = gradient(
            model, inputs_of(model)[:0], last_only=True, wrap=oracles.jit
        )
        for leaf in jax.tree.leaves(step(params, *arrays)):
            np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


# ---- Numbers.


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS])
def test_nan_stays_nan(form):
    model = make(form)
    x = inputs_of(model).copy()
    x[:, 2] = np.nan
    states = model(x, initial_carry=jnp.asarray(H))
    assert np.isnan(states[:, 2:]).all() and np.isfinite(states[:, :2]).all()


@pytest.mark.slow
def test_nan_through_relu():
    x = np.where(np.arange(STEPS)[:, None] == 2, np.nan, X).astype(np.float32)
    for form in ({"method": "dense"}, {"method": "dense", "custom_backward": False}):
        model = spectral(activation="relu", **form)
        assert np.isnan(model(x)[:, 2:]).all()
        grads = jax.tree.leaves(nnx.grad(lambda m: jnp.sum(m(x)))(model))
        assert any(np.isnan(leaf).any() for leaf in grads)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_strict_promotion(form):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        model = make(form)
        step, params, arrays = gradient(model, inputs_of(model), last_only=True)
        value, grads = oracles.jit(step)(params, *arrays)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((value, grads)))


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", ["nnx.RNN", *FORMS, "every", "every in chunks"])
def test_strict_promotion_of_calls(form, call):
    model = make(form)
    carry = jnp.zeros((BATCH, N))
    for last_only in (False, True):
        options = {"carry": carry, "last_only": last_only, **CALLS[call]}
        step, params, arrays = gradient(model, inputs_of(model), **options)
        value, grads = jax.eval_shape(step, params, *arrays)
        assert jax.tree.structure(grads) == jax.tree.structure(params)
        assert value.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("make", [DenseRNN, OrthogonalRNN])
def test_strict_promotion_of_other_layers(make):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert make(FEATURES, N, rngs=nnx.Rngs(0))(X).shape == (BATCH, STEPS, N)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scan", "wy", "dense"])
def test_strict_promotion_of_a_narrow_linear_layer(method):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        layer = SpectralLinear(
            FEATURES,
            3,
            reflectors=1,
            radius=0.1,
            dtype=jnp.bfloat16,
            method=method,
            rngs=nnx.Rngs(0),
        )
        assert layer(X).dtype == jnp.bfloat16


@pytest.mark.slow
def test_float16_gradients_to_sigma_are_scaled_before_they_are_narrowed():
    x = np.random.default_rng(0).normal(size=(16, 784, 1)).astype(np.float32)
    options = {"reflectors": 4, "radius": 0.01, "rngs": nnx.Rngs(0)}
    exact = SpectralRNN(1, 32, **options)
    narrow = SpectralRNN(1, 32, dtype=jnp.float16, param_dtype=jnp.float16, **(options))
    nnx.update(
        narrow,
        jax.tree.map(lambda leaf: leaf.astype(jnp.float16), nnx.state(exact)),
    )

    @nnx.jit
    def slope(model):
        def loss(model):  # to sigma itself the gradient is a hundred times larger
            return 0.05 * jnp.sum(model(x, last_only=True).astype(jnp.float32) ** 2)

        return nnx.grad(loss)(model)["cell"]["weight"]["sigma_raw"][...]

    found, expected = (np.asarray(slope(m), np.float32) for m in (narrow, exact))
    assert np.abs(expected).max() / 0.005 > np.finfo(np.float16).max
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral(init=np.eye(N) * 1j, reflectors=None), "init must be real"),
        (lambda: spectral()(X, initial_carry=H * 1j), "carry must be real"),
        (lambda: spectral()(X * 1j), "inputs must be real"),
        (lambda: linear(reflectors=None)(X * 1j), "inputs must be real"),
        (lambda: linear(reflectors=1)(X * 1j), "inputs must be real"),
    ],
)
def test_complex_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def linear(**options):
    return SpectralLinear(FEATURES, 3, radius=0.1, rngs=nnx.Rngs(0), **options)


@pytest.mark.slow
def test_numbers_are_numbers():
    model = spectral(
        leak=np.float32(0.25),
        radius=jnp.float32(0.5),
        center=np.float64(1),
        reflectors=np.int64(2),
        unroll=np.int32(1),
    )
    same = spectral(leak=0.25, radius=0.5, reflectors=2)
    np.testing.assert_array_equal(model(X), same(X))
    assert linear(reflectors=1)([[1.0, 2.0]]).shape == (1, 3)


# ---- Forward mode.


def tangent(model):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return jnp.sum(nnx.merge(graph, params, rest)(X))

    return jax.jvp(loss, (params,), (params,))[1]


@pytest.mark.slow
def test_forward_mode_works_or_says_what_to_pass():
    assert np.isfinite(tangent(spectral(custom_backward=False)))
    dense = spectral(reflectors=None, method="dense", custom_backward=False)
    assert np.isfinite(tangent(dense))
    with pytest.raises(TypeError, match="pass custom_backward=False"):
        tangent(spectral())
    weight = spectral().cell.weight
    graph, state = nnx.split(weight)

    def penalty(state, **options):
        return jnp.sum(nnx.merge(graph, state).matrix(**options))

    jax.jvp(lambda s: penalty(s, custom_backward=False), (state,), (state,))
    with pytest.raises(TypeError, match="pass custom_backward=False"):
        jax.jvp(penalty, (state,), (state,))


@pytest.mark.slow
def test_hessian_through_the_hand_written_pass(x64):
    def loss(raw, custom_backward):
        model = spectral(custom_backward=custom_backward, param_dtype=jnp.float64)
        model.cell.weight.sigma_raw[...] = raw
        return jnp.sum(model(X.astype(np.float64), last_only=True) ** 2)

    raw = jnp.linspace(-1.0, 1.0, N)
    hessians = [jax.hessian(loss)(raw, by_hand) for by_hand in (True, False)]
    np.testing.assert_allclose(*hessians, rtol=1e-8, atol=1e-9)


# ---- Activations.


def swish(z):
    return z * jax.nn.sigmoid(z)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"chunk": 2}, {"method": "dense"}])
def test_any_callable_is_an_activation(options, x64):
    x = X.astype(np.float64)
    models = [
        spectral(
            activation=swish, param_dtype=jnp.float64, custom_backward=b, **options
        )
        for b in (True, False)
    ]
    found = [
        oracles.jit(step)(params, *arrays)
        for step, params, arrays in (gradient(m, x, last_only=True) for m in models)
    ]
    close(*found, tolerance=1e-12)
    w, m = (
        np.asarray(a)
        for a in (models[0].cell.weight.matrix(), models[0].cell.input_weights[...])
    )
    h = np.zeros((BATCH, N))
    for t in range(STEPS):
        z = h @ w.T + x[:, t] @ m.T
        h = z / (1 + np.exp(-z))
    np.testing.assert_allclose(models[0](x, last_only=True), h, atol=1e-12)


def test_an_activation_acts_on_every_entry_alone():
    with pytest.raises(ValueError, match="activation must act on every entry"):
        spectral(activation=jnp.sum)(X)
    with pytest.raises(ValueError, match="activation must be one of .*, got 'gelu'"):
        spectral(activation="gelu")


# ---- One step at a time.


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [(), (BATCH,), (2, 2)])
def test_prepared_steps_equal_the_sequence(form, batch):
    model = make(form)
    x = inputs_of(model).reshape(4, STEPS, -1)[: np.prod(batch, dtype=int)]
    x = x.reshape(*batch, STEPS, -1)
    step, carry = model.prepare(batch)
    assert carry.shape == (*batch, N)
    for t in range(STEPS):
        carry, output = step(carry, x[..., t, :])
        np.testing.assert_array_equal(carry, output)
    expected = model(x, last_only=True)
    np.testing.assert_allclose(carry, expected, atol=1e-5)


def test_a_prepared_step_goes_through_jit_and_scan_as_an_argument():
    model = spectral()
    step, carry = model.prepare((BATCH,))
    run = jax.jit(lambda step, h, xs: jax.lax.scan(step, h, xs))
    last, states = run(step, carry, np.swapaxes(X, 0, 1))
    np.testing.assert_allclose(last, model(X, last_only=True), atol=1e-5)
    np.testing.assert_allclose(states, np.swapaxes(model(X), 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("carry", "inputs", "message"),
    [
        (H, X[:, 0, :1], r"inputs must have shape \(..., 2\), got \(4, 1\)"),
        (H[:2], X[:, 0], r"carry must have shape \(4, 8\), got \(2, 8\)"),
        (H * 1j, X[:, 0], "carry must be real"),
        (H, X[:, 0] * 1j, "inputs must be real"),
    ],
)
def test_a_prepared_step_refuses(carry, inputs, message):
    step, _ = spectral().prepare((BATCH,))
    with pytest.raises(ValueError, match=message):
        step(carry, inputs)


# ---- What flax shows of a model.


LAYERS = {
    **{name: functools.partial(make, name) for name in ("low_rank", "dense", "wy")},
    "dense layer": lambda: DenseRNN(FEATURES, N, rngs=nnx.Rngs(0)),
    "orthogonal layer": lambda: OrthogonalRNN(FEATURES, N, rngs=nnx.Rngs(0)),
    "linear": lambda: SpectralLinear(FEATURES, N, **SMALL),
    "in nnx.RNN": lambda: nnx.RNN(SpectralRNNCell(FEATURES, N, **SMALL), rngs=False),
    "constrained": lambda: constrained(nnx.Linear(FEATURES, N, rngs=nnx.Rngs(0))),
}
SMALL = {"reflectors": 2, "radius": 0.1, "rngs": nnx.Rngs(0)}


def constrained(layer):
    svdrnn.constrain(layer, svdrnn.Spectral(0.1))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(layer, marks=[] if layer == "constrained" else pytest.mark.slow)
        for layer in LAYERS
    ],
)
def test_tabulate(layer):
    model = LAYERS[layer]()
    table = nnx.tabulate(model, X, console_kwargs={"force_terminal": False})
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert f"Total Parameters: {params} " in table


def test_tabulate_of_a_cell():
    cell = SpectralRNNCell(FEATURES, N, **SMALL)
    assert "Total Parameters" in nnx.tabulate(cell, H, X[:, 0])
