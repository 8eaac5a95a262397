"""Skew-symmetric matrices, their two maps to rotations, and block rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdrnn import skew
from tests import oracles

rotation = oracles.jit(skew.rotation, static_argnames="map")


def draw_entries(n, scale=1.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=n * (n - 1) // 2)).astype(dtype)


def numpy_skew(entries, n):
    """A by a loop over the entries above the diagonal."""
    a, values = np.zeros((n, n)), iter(np.asarray(entries, np.float64))
    for i in range(n):
        for j in range(i + 1, n):
            a[i, j] = next(values)
            a[j, i] = -a[i, j]
    return a


def numpy_rotation(a, map):
    """The map by the eigenvalues i x of A: exp(i x), or (1 - i x) / (1 + i x)."""
    x, vectors = np.linalg.eigh(-1j * a)
    values = np.exp(1j * x) if map == "exponential" else (1 - 1j * x) / (1 + 1j * x)
    return (vectors * values @ vectors.conj().T).real


def numpy_blocks(angles, n):
    """The block rotation, one block after another."""
    w = np.eye(n)
    for k, t in enumerate(np.asarray(angles, np.float64)):
        plane = slice(2 * k, 2 * k + 2)
        w[plane, plane] = [[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]
    return w


# The matrix and its entries.


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_skew_matrix_and_its_entries(x64, n):
    entries = draw_entries(n)
    a = skew.skew_matrix(entries)
    np.testing.assert_array_equal(a, numpy_skew(entries, n))
    np.testing.assert_array_equal(skew.skew_entries(a), entries)


@pytest.mark.slow
def test_gradient_of_the_entries(x64):
    g = np.random.default_rng(1).normal(size=(5, 5))
    gradient = jax.grad(lambda e: jnp.sum(g * skew.skew_matrix(e)))(draw_entries(5))
    np.testing.assert_allclose(gradient, (g - g.T)[np.triu_indices(5, 1)], atol=1e-15)


# The maps.


@pytest.mark.slow
@pytest.mark.parametrize("map", skew.MAPS)
@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (9, 0.1), (9, 5.0)])
def test_rotation_against_eigenvalues(x64, map, n, scale):
    entries = draw_entries(n, scale)
    w = np.asarray(rotation(skew.skew_matrix(entries), map))
    expected = numpy_rotation(numpy_skew(entries, n), map)
    np.testing.assert_allclose(w, expected, atol=1e-12)
    np.testing.assert_allclose(w @ w.T, np.eye(n), atol=1e-12)
    assert np.linalg.det(w) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("map", skew.MAPS)
def test_rotation_in_float32(map):
    entries = draw_entries(64, 0.3, dtype=np.float32)
    w = rotation(skew.skew_matrix(entries), map)
    assert w.dtype == jnp.float32
    wide = np.asarray(w, np.float64)
    np.testing.assert_allclose(wide @ wide.T, np.eye(64), atol=2e-5)
    expected = numpy_rotation(numpy_skew(entries, 64), map)
    np.testing.assert_allclose(w, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("map", skew.MAPS)
def test_bfloat16_is_computed_in_float32(map):
    a = skew.skew_matrix(draw_entries(6)).astype(jnp.bfloat16)
    w = rotation(a, map)
    assert w.dtype == jnp.bfloat16
    expected = rotation(a.astype(jnp.float32), map).astype(jnp.bfloat16)
    np.testing.assert_array_equal(w, expected)


@pytest.mark.slow
@pytest.mark.parametrize("map", skew.MAPS)
def test_gradients_against_finite_differences(x64, strict, map):
    entries = draw_entries(4)
    target = np.random.default_rng(1).normal(size=(4, 4))

    def loss(entries):
        return jnp.sum(jnp.sin(target * skew.rotation(skew.skew_matrix(entries), map)))

    def oracle(entries):
        return np.sum(np.sin(target * numpy_rotation(numpy_skew(entries, 4), map)))

    expected = oracles.finite_difference(oracle, entries)
    gradient = oracles.jit(jax.grad(loss))(entries)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    direction = draw_entries(4, seed=2)
    forward = oracles.jit(lambda *args: jax.jvp(loss, args[:1], args[1:])[1])
    change = forward(entries, direction)
    np.testing.assert_allclose(change, expected @ direction, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("map", "factor"), [("exponential", 1), ("cayley", -2)])
def test_gradient_at_zero(x64, map, factor):
    # dW = dA for the exponential and -2 dA for the Cayley map.
    g = np.random.default_rng(1).normal(size=(3, 3))

    def loss(entries):
        return jnp.sum(g * skew.rotation(skew.skew_matrix(entries), map))

    expected = factor * (g - g.T)[np.triu_indices(3, 1)]
    gradient = oracles.jit(jax.grad(loss))(jnp.zeros(3))
    np.testing.assert_allclose(gradient, expected, atol=1e-14)


# Block rotations.


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 7, 8])
def test_block_rotation(x64, n):
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, n // 2)
    w = np.asarray(skew.block_rotation(angles, n))
    np.testing.assert_allclose(w, numpy_blocks(angles, n), atol=1e-15)
    found = np.sort(np.angle(np.linalg.eigvals(w)))
    expected = np.sort(np.concatenate([angles, -angles, np.zeros(n % 2)]))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for map in skew.MAPS:
        a = skew.block_skew(angles, n, map)
        np.testing.assert_array_equal(a, -a.T)
        np.testing.assert_allclose(rotation(a, map), w, atol=1e-12)


def test_block_skew_has_the_published_entries(x64):
    angles = np.array([0.1, 0.7, np.pi / 2])
    published = -np.sqrt((1 - np.cos(angles)) / (1 + np.cos(angles)))
    for map, expected in (("exponential", angles), ("cayley", published)):
        a = np.asarray(skew.block_skew(angles, 6, map))
        np.testing.assert_allclose(np.diag(a, 1)[::2], expected, atol=1e-15)
        assert np.count_nonzero(a) == 6


# Errors.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skew.skew_matrix(np.zeros(4)), r"\(n \(n - 1\) / 2,\), got \(4,\)"),
        (lambda: skew.skew_matrix(np.zeros((3, 3))), r"got \(3, 3\)"),
        (lambda: skew.skew_matrix(np.zeros(3, int)), "floating dtype .* got int"),
        (lambda: skew.exponential(np.zeros((2, 3))), r"shape \(n, n\), got \(2, 3\)"),
        (lambda: skew.cayley(np.zeros((2, 2, 2))), r"got \(2, 2, 2\)"),
        (lambda: skew.cayley(np.zeros((2, 2), complex)), "floating dtype .* complex"),
        (lambda: skew.rotation(np.eye(2), "qr"), "exponential, cayley, got 'qr'"),
        (lambda: skew.block_rotation(np.zeros(2), 6), r"shape \(3,\), got \(2,\)"),
        (lambda: skew.block_skew(np.zeros(1), 2, "qr"), "cayley, got 'qr'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
