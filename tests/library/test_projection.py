"""Reflectors scaled to unit length after an update."""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import svdrnn
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


@pytest.mark.parametrize("size", [1e4, 1e8, 1e30])
@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 1e-3), (jnp.bfloat16, 0.1)])
def test_long_reflectors_come_down_and_do_not_vanish(strict, size, dtype, atol):
    direction = np.float32([[0.6, 0, 0.8], [0, -1, 0]])
    params = {"u_vectors": jnp.asarray(np.float32(size) * direction, dtype)}
    for _ in range(40):
        zeros = {"u_vectors": jnp.zeros(direction.shape, dtype)}
        params = optax.apply_updates(params, project(zeros, params))
    found = np.asarray(params["u_vectors"], np.float32)
    # Each of the steps down rounds the direction.
    np.testing.assert_allclose(found, direction, atol=atol)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=0.01)


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


@flax.struct.dataclass
class Parameters:
    u_vectors: Any
    kernel: Any


class Named(NamedTuple):
    vectors: Any
    kernel: Any


KINDS = {
    **dict.fromkeys(("nested", "tuples", "slashes", "dots", "frozen", "dataclass"), 1),
    **{"named tuple": 1, "list": 2, "nnx.State": 1, "nnx.Module": 1},
    **{"constrained tree": 1, "other rows": 0, "below": 0},
}


def tree(kind):
    rows, other, matrix = map(np.float32, (draw(3, 5), draw(3, 5, seed=1), draw(5, 5)))
    model = nnx.Dict(w=nnx.Linear(5, 5, rngs=nnx.Rngs(0)))
    svdrnn.constrain(model, svdrnn.Orthogonal())
    raw, _ = svdrnn.constrain_tree({"w": matrix}, "w", svdrnn.Orthogonal())
    nested = {"cell": {"u_vectors": rows, "kernel": other}}
    return {
        "nested": nested,
        "tuples": flax.traverse_util.flatten_dict(nested),
        "slashes": flax.traverse_util.flatten_dict(nested, sep="/"),
        "dots": flax.traverse_util.flatten_dict(nested, sep="."),
        "frozen": flax.core.freeze(nested),
        "dataclass": Parameters(rows, other),
        "named tuple": Named(rows, other),
        "list": {"v_vectors": [rows, other]},
        "nnx.State": nnx.state(model, nnx.Param),
        "nnx.Module": model,
        "constrained tree": raw,
        "other rows": {"vectors": matrix[:, :3], "words": {"vectors": matrix[0]}},
        "below": {"vectors": {"kernel": other}},
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_reflector_of_any_tree(kind):
    params = tree(kind)
    updates = jax.tree.map(lambda leaf: 0.3 * jnp.ones_like(leaf), params)
    after = optax.apply_updates(params, project(updates, params))
    unit = [
        bool(np.all(np.abs(np.linalg.norm(leaf, axis=-1) - 1) < 1e-6))
        for leaf in jax.tree.leaves(after)
    ]
    assert sum(unit) == KINDS[kind]


def test_names_of_ones_own():
    rows = draw(3, 5).astype(np.float32)
    params = {"mirrors": rows, "u_vectors": rows}
    tx = projection.unit_reflectors(lambda path: path[-1].key == "mirrors")
    after = optax.apply_updates(params, tx.update(params, tx.init(params), params)[0])
    np.testing.assert_allclose(np.linalg.norm(after["mirrors"], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(after["u_vectors"], 2 * rows)


def test_parameters_are_needed():
    with pytest.raises(ValueError, match="params must be given to unit_reflectors"):
        projection.unit_reflectors().update({}, optax.EmptyState())
