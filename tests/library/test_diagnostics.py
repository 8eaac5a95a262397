"""Singular values, spectral margin and gradient norms."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from svdrnn import DenseMatrix, SpectralMatrix, SpectralRNN, diagnostics, spectral
from tests import oracles


def test_singular_values_of_every_kind(x64):
    # Center zero: entries of sigma on both sides of zero.
    weight = SpectralMatrix(
        6, 6, reflectors=2, radius=0.5, center=0.0, param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    weight.sigma_raw[...] = jnp.array([2.0, -1.0, 0.3, -4.0, 0.0, 1.0])
    svd = weight.svd()
    w = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, np.asarray(svd.sigma))
    expected = np.linalg.svd(w, compute_uv=False)

    def every_kind(weight):
        methods = ("scan", "wy", "low_rank", "dense")
        kinds = [weight.transition(method) for method in methods]
        kinds += [weight.svd(), w, jnp.asarray(w)]
        return [diagnostics.singular_values(kind) for kind in kinds]

    for actual in [*oracles.jit(every_kind)(weight), weight.singular_values()]:
        np.testing.assert_allclose(actual, expected, atol=1e-13)


def test_singular_values_of_a_dense_matrix():
    weight = DenseMatrix(5, rngs=nnx.Rngs(0))
    expected = np.linalg.svd(weight.matrix(), compute_uv=False)
    np.testing.assert_allclose(weight.singular_values(), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_singular_values_of_a_rectangular_svd(x64, shape):
    rng = np.random.default_rng(0)
    svd = spectral.SVD(
        rng.normal(size=(2, shape[0])),
        rng.normal(size=(3, shape[1])),
        np.array([0.5, -1.5, 1.0]),
    )
    np.testing.assert_array_equal(diagnostics.singular_values(svd), [1.5, 1.0, 0.5])
    w = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, svd.sigma)
    np.testing.assert_allclose(diagnostics.singular_values(w), [1.5, 1.0, 0.5])


def test_spectral_margin():
    values = jnp.array([1.2, 1.0, 0.7])
    np.testing.assert_allclose(diagnostics.spectral_margin(values), 0.3, rtol=1e-6)
    margin = diagnostics.spectral_margin(values, center=0.5)
    np.testing.assert_allclose(margin, 0.7, rtol=1e-6)


@pytest.mark.slow
def test_state_gradient_norms(x64):
    # The identity activation: dL/dh_t = (W^T)^(T-t) dL/dh_T, by hand.
    batch, steps, n = 3, 5, 4
    layer = SpectralRNN(
        2, n, reflectors=2, radius=0.3, center=0.9, activation="identity",
        param_dtype=jnp.float64, rngs=nnx.Rngs(0),
    )  # fmt: skip
    layer.cell.weight.sigma_raw[...] = jnp.linspace(-2.0, 2.0, n)
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(size=(batch, steps, 2)), rng.normal(size=(batch, n))

    def loss(perturbations):
        last = layer(inputs, perturbations=perturbations, last_only=True)
        return 0.5 * ((last - target) ** 2).sum()

    norms = oracles.jit(
        lambda: diagnostics.state_gradient_norms(
            loss, (batch, steps, n), time_axis=1, dtype=jnp.float64
        )
    )()
    assert norms.shape == (steps,)
    svd = layer.cell.weight.svd()
    w = oracles.svd_matrix(svd.u_vectors, svd.v_vectors, np.asarray(svd.sigma))
    m = np.asarray(layer.cell.input_weights[...])
    h = np.zeros((batch, n))
    for t in range(steps):
        h = h @ w.T + inputs[:, t] @ m.T
    g, expected = h - target, []
    for _ in range(steps):
        expected.insert(0, np.linalg.norm(g))
        g = g @ w
    np.testing.assert_allclose(norms, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "dtype, sizes",
    [(jnp.float32, [1e-30, 1.0, 1e30, 0]), (jnp.float16, [1e-4, 1.0, 300.0, 0])],
)
def test_norms_of_vanishing_and_exploding_gradients(dtype, sizes):
    for shape in ((0, 2, 3), (4, 0, 3)):  # of no step, of no item
        none = diagnostics.state_gradient_norms(
            lambda h: jnp.sum(h), shape, time_axis=0, dtype=dtype
        )
        np.testing.assert_array_equal(none, np.zeros(shape[0]))
    weights = jnp.asarray(sizes, dtype)[:, None] * jnp.array([3, 4], dtype)
    found = diagnostics.state_gradient_norms(
        lambda h: jnp.sum(weights * h), (4, 2), time_axis=0, dtype=dtype
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 5 * np.array(sizes, np.float32), rtol=1e-2)
