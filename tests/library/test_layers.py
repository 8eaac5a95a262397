"""SpectralLinear against a dense product, in float64 unless named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from svdrnn import SpectralLinear
from svdrnn.transitions import METHODS
from tests import oracles

pytestmark = pytest.mark.usefixtures("x64")


def spectral_linear(n_in=4, n_out=6, **options):
    options = {"reflectors": (3, 2), "radius": 0.5, **options}
    options.setdefault("param_dtype", jnp.float64)
    layer = SpectralLinear(n_in, n_out, rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(1)
    if layer.weight.sigma_raw is not None:
        raw = rng.normal(size=min(n_in, n_out))
        layer.weight.sigma_raw[...] = jnp.asarray(raw, layer.weight.sigma_raw.dtype)
    if layer.bias is not None:
        bias = rng.normal(size=n_out)
        layer.bias[...] = jnp.asarray(bias, layer.bias.dtype)
    return layer


def numbers(layer):
    """The parameters as numpy arrays: u, v, raw singular values, bias."""
    weight, bias = layer.weight, layer.bias
    parameters = (weight.u_vectors, weight.v_vectors, weight.sigma_raw)
    zeros = np.zeros(layer.out_features)
    return [
        *(np.asarray(p[...], np.float64) for p in parameters),
        zeros if bias is None else np.asarray(bias[...], np.float64),
    ]


def dense(inputs, u_vectors, v_vectors, raw, bias, *, radius=0.5, center=1.0):
    sigma = 2 * radius * (1 / (1 + np.exp(-raw)) - 0.5) + center
    return inputs @ oracles.svd_matrix(u_vectors, v_vectors, sigma).T + bias


@oracles.jit
def call(layer, inputs):
    return layer(inputs)


def draw_inputs(*shape):
    return np.random.default_rng(2).normal(size=shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_values_of_every_method(shape):
    inputs = draw_inputs(2, 3, shape[0])
    methods = [m for m in METHODS if m != "low_rank" or shape == (5, 5)]
    layers = [spectral_linear(*shape, method=method) for method in methods]
    outputs = oracles.jit(lambda layers: [layer(inputs) for layer in layers])(layers)
    expected = dense(inputs, *numbers(layers[0]))
    for output in outputs:
        np.testing.assert_allclose(output, expected, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "shape"), [("scan", (6, 4)), ("wy", (4, 6)), ("dense", (6, 4))]
)
def test_gradients_of_every_method(method, shape):
    layer, inputs = spectral_linear(*shape, method=method), draw_inputs(3, shape[0])
    weights = np.random.default_rng(3).normal(size=(3, shape[1]))

    def loss(layer, inputs):
        return (layer(inputs) * weights).sum()

    grads, d_inputs = oracles.jit(jax.grad(loss, argnums=(0, 1)))(layer, inputs)
    values = [inputs, *numbers(layer)]
    for i, actual in enumerate([d_inputs, *numbers(grads)]):

        def loss_of(value, i=i):
            return (dense(*values[:i], value, *values[i + 1 :]) * weights).sum()

        expected = oracles.finite_difference(loss_of, values[i])
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)
    below = np.tril(numbers(grads)[0], -1)
    np.testing.assert_array_equal(below, 0)


def test_without_bias():
    layer, inputs = spectral_linear(use_bias=False), draw_inputs(4)
    assert layer.bias is None
    expected = dense(inputs, *numbers(layer))
    np.testing.assert_allclose(call(layer, inputs), expected, atol=1e-13)


@pytest.mark.slow
def test_center_zero():
    layer = SpectralLinear(
        6, 6, reflectors=2, radius=1.0, center=0.0, param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    raw = np.asarray(layer.weight.sigma_raw[...])
    assert np.all(raw != 0)
    inputs = draw_inputs(3, 6)
    expected = dense(inputs, *numbers(layer), radius=1.0, center=0.0)
    np.testing.assert_allclose(call(layer, inputs), expected, atol=1e-13)
    # A branch of two such layers has a gradient at the start.
    gradient = jax.grad(lambda layer: (layer(layer(inputs)) ** 2).sum())
    grads = oracles.jit(gradient)(layer)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("init", ["identity", "matrix"])
def test_init(init):
    given = np.diag([1.2, 1.0, 0.8, 0.9]) if init == "matrix" else np.eye(4)
    layer = SpectralLinear(
        4, 4, reflectors=4, radius=0.5, init=given if init == "matrix" else init,
        param_dtype=jnp.float64, rngs=nnx.Rngs(0),
    )  # fmt: skip
    np.testing.assert_array_equal(layer.bias[...], np.zeros(4))
    np.testing.assert_allclose(call(layer, np.eye(4)), given, atol=1e-14)


@pytest.mark.slow
def test_forward_mode_without_the_custom_backward_pass():
    options = {"method": "dense", "custom_backward": False}
    layer, inputs = spectral_linear(**options), draw_inputs(4)

    def total(layer):
        return (layer(inputs) ** 2).sum()

    def slopes(layer):
        tangent = jax.tree.map(jnp.ones_like, layer)
        forward = jax.jvp(total, (layer,), (tangent,))[1]
        return forward, sum(map(jnp.sum, jax.tree.leaves(jax.grad(total)(layer))))

    np.testing.assert_allclose(*oracles.jit(slopes)(layer), rtol=1e-12)


def test_dtypes():
    cases = [
        (jnp.float32, None, jnp.float32, jnp.float32),
        (jnp.float32, None, jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, None, jnp.bfloat16, jnp.bfloat16),
        (jnp.float64, None, jnp.float32, jnp.float64),
    ]
    for param_dtype, dtype, input_dtype, expected in cases:

        def outputs(param_dtype=param_dtype, dtype=dtype, input_dtype=input_dtype):
            layer = spectral_linear(param_dtype=param_dtype, dtype=dtype)
            return layer(jnp.ones((2, 4), input_dtype))

        assert nnx.eval_shape(outputs).dtype == expected


@pytest.mark.slow
def test_bfloat16_outputs_are_near_the_float32_ones():
    layer = spectral_linear(param_dtype=jnp.float32, dtype=jnp.bfloat16)
    inputs = draw_inputs(5, 4).astype(np.float32)
    expected = dense(inputs, *numbers(layer))
    actual = np.asarray(call(layer, inputs), np.float64)
    np.testing.assert_allclose(actual, expected, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fast"}, "method must be one of .*, got 'fast'"),
        ({"radius": -1.0}, "radius must be finite and at least 0, got -1.0"),
        ({"reflectors": 0}, "reflectors must be an integer of at least 1, got 0"),
        ({"reflectors": (7, 1)}, "reflectors of U must be at most 6, .*, got 7"),
        ({"n_in": 0}, "must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        spectral_linear(**options)


@pytest.mark.parametrize("shape", [(), (5,), (2, 6)])
def test_bad_inputs(shape):
    with pytest.raises(ValueError, match=r"inputs must have shape \(..., 4\), got"):
        spectral_linear()(np.zeros(shape))


def test_low_rank_is_of_square_matrices():
    with pytest.raises(ValueError, match=r"must not be low_rank .* got shape \(6, 4\)"):
        spectral_linear(method="low_rank")
