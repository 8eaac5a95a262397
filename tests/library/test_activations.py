"""Activations: values, derivatives read off the output, Lipschitz constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import svdrnn
from svdrnn.activations import NAMES, Activation
from tests import oracles

pytestmark = pytest.mark.usefixtures("x64", "strict")

CASES = [
    Activation("leaky_relu", 0.01),
    Activation("leaky_relu", 0.0),
    Activation("leaky_relu", 1.0),
    Activation("relu"),
    Activation("tanh"),
    Activation("identity"),
    Activation("modrelu"),
]

# Away from every kink: 0, and |z| = -OFFSET for modReLU.
Z = np.array([-30.0, -2.3, -0.7, -1e-3, 1e-3, 0.7, 2.3, 30.0])
OFFSET = np.array([-0.5, -0.5, -0.71, 0.2, -0.2, -0.69, 0.3, 0.0])


def offset_of(activation):
    return OFFSET if activation.needs_offset else None


@pytest.mark.parametrize("activation", CASES, ids=str)
def test_values(activation):
    actual = activation(jnp.asarray(Z), offset_of(activation))
    expected = oracles.activate(activation.name, Z, leak=activation.leak, offset=OFFSET)
    np.testing.assert_allclose(actual, expected, rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("activation", CASES, ids=str)
def test_pull_back_is_the_derivative(activation):
    g = np.random.default_rng(0).normal(size=Z.shape)
    offset = offset_of(activation)
    h, pull_back = jax.vjp(lambda z: activation(z, offset), jnp.asarray(Z))
    actual = activation.pull_back(jnp.asarray(g), h)
    np.testing.assert_allclose(actual, pull_back(g)[0], rtol=1e-14)
    difference = oracles.finite_difference(
        lambda z: (
            g
            @ oracles.activate(activation.name, z, leak=activation.leak, offset=OFFSET)
        ),
        Z,
    )
    np.testing.assert_allclose(actual, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (Activation("leaky_relu", 0.1), 1.0),
        (Activation("leaky_relu", 0.0), 0.0),
        (Activation("relu"), 0.0),
    ],
    ids=str,
)
def test_derivative_at_the_kink(activation, expected):
    h, by_jax = jax.vjp(activation, jnp.zeros(1))
    assert activation.pull_back(jnp.ones(1), h) == expected
    assert by_jax(jnp.ones(1))[0] == expected


@pytest.mark.parametrize("name", [*NAMES[1:], jnp.sin], ids=[*NAMES[1:], "sin"])
def test_a_leak_without_effect_is_an_error(name):
    assert Activation(name).leak is None
    with pytest.raises(ValueError, match="leak must be None with activation"):
        Activation(name, 0.01)
    with pytest.raises(ValueError, match="leak must be None with activation"):
        svdrnn.DenseRNN(2, 4, activation=name, leak=0.1, rngs=nnx.Rngs(0))


def test_leak_one_is_the_identity_and_leak_zero_is_relu():
    z, g = jnp.asarray(Z), jnp.arange(1.0, 9.0)
    for leak, other in ((1.0, Activation("identity")), (0.0, Activation("relu"))):
        leaky = Activation("leaky_relu", leak)
        np.testing.assert_array_equal(leaky(z), other(z))
        np.testing.assert_array_equal(
            leaky.pull_back(g, leaky(z)), other.pull_back(g, other(z))
        )


@given(
    name=st.sampled_from(NAMES),
    leak=st.floats(0, 1),
    offset=st.floats(-2, 0),
    points=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_lipschitz(name, leak, offset, points):
    activation = Activation(name, leak if name == "leaky_relu" else None)
    a, b = (float(activation(jnp.array([z]), jnp.array([offset]))[0]) for z in points)
    bound = abs(points[0] - points[1])
    assert abs(a - b) <= bound * (1 + 1e-12) + 1e-300


def test_modrelu_with_a_positive_offset_jumps_at_zero():
    activation = Activation("modrelu")
    z, offset = jnp.array([-1e-9, 0.0, 1e-9]), jnp.full(3, 0.5)
    np.testing.assert_allclose(activation(z, offset), [-0.5, 0, 0.5], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_is_kept(dtype):
    z = jnp.asarray(Z, dtype)
    for activation in CASES:
        offset = z if activation.needs_offset else None
        h = activation(z, offset)
        assert h.dtype == activation.pull_back(z, h).dtype == dtype


def test_unknown_name():
    with pytest.raises(ValueError, match="activation must be one of .*got 'swish'"):
        Activation("swish")


@pytest.mark.parametrize("leak", [-0.01, 1.5, float("nan"), float("inf")])
def test_bad_leak(leak):
    rule = "finite and at least 0 and at most 1"
    with pytest.raises(ValueError, match=f"leak must be {rule}, got {leak}"):
        Activation("leaky_relu", leak)
