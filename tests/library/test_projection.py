"""Reflectors scaled to unit length after an update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from svdrnn import SpectralMatrix, projection
from tests import oracles


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def trees():
    """(parameters, updates): reflectors, of which some are stacked, and the rest."""
    shapes = {
        "cell": {"u_vectors": (3, 5), "sigma_raw": (5,)},
        "blocks": {"v_vectors": (2, 3, 4), "kernel": (4, 2)},
    }
    build = {
        seed: jax.tree.map(
            lambda shape: draw(*shape, seed=seed),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        for seed in (0, 1)
    }
    return build[0], build[1]


def project(updates, params):
    tx = projection.unit_reflectors()
    return tx.update(updates, tx.init(params), params)[0]


@pytest.mark.slow
def test_rows_have_unit_length_and_the_same_reflectors(x64, strict):
    params, updates = trees()
    params["cell"]["u_vectors"][1] = 0  # a reflector that does nothing ...
    updates["cell"]["u_vectors"][1] = 0  # ... and goes on doing nothing
    projected = project(updates, params)
    after = optax.apply_updates(params, projected)
    plain = optax.apply_updates(params, updates)

    u, v = after["cell"]["u_vectors"], after["blocks"]["v_vectors"]
    np.testing.assert_allclose(np.linalg.norm(u, axis=-1), [1, 0, 1], rtol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), np.ones((2, 3)), rtol=1e-15)
    for rows, free in ((u, plain["cell"]["u_vectors"]),
                       *zip(v, plain["blocks"]["v_vectors"], strict=True)):  # fmt: skip
        np.testing.assert_array_equal(np.tril(rows, -1), 0)
        found, expected = map(oracles.reflector_product, (rows, free))
        np.testing.assert_allclose(found, expected, atol=1e-14)
    for part, name in (("cell", "sigma_raw"), ("blocks", "kernel")):
        assert projected[part][name] is updates[part][name]


@pytest.mark.slow
def test_dtypes_are_kept():
    params = {"u_vectors": jnp.asarray(draw(3, 5), jnp.bfloat16)}
    updates = {"u_vectors": jnp.asarray(draw(3, 5, seed=1), jnp.float32)}
    projected = project(updates, params)
    assert projected["u_vectors"].dtype == jnp.float32
    after = optax.apply_updates(params, projected)["u_vectors"]
    assert after.dtype == jnp.bfloat16
    lengths = np.linalg.norm(np.asarray(after, np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-2)


@pytest.mark.slow
def test_in_a_chain_with_an_nnx_optimizer():
    weight = SpectralMatrix(5, 5, reflectors=3, radius=0.1, rngs=nnx.Rngs(0))
    tx = optax.chain(optax.sgd(0.5), projection.unit_reflectors())
    optimizer = nnx.Optimizer(weight, tx, wrt=nnx.Param)
    target = draw(5, 5).astype(np.float32)
    before = np.asarray(weight.u_vectors[...])
    gradient = nnx.grad(lambda weight: jnp.sum(weight.matrix() * target))
    gradient = oracles.jit(gradient)(weight)
    optimizer.update(weight, gradient)
    for rows in (weight.u_vectors[...], weight.v_vectors[...]):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    free = before - 0.5 * np.asarray(gradient.u_vectors[...])
    expected = free / np.linalg.norm(free, axis=1, keepdims=True)
    np.testing.assert_allclose(weight.u_vectors[...], expected, atol=1e-6)


def test_parameters_are_needed():
    with pytest.raises(ValueError, match="params must be given to unit_reflectors"):
        projection.unit_reflectors().update({}, optax.EmptyState())
