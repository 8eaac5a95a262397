"""The gated baselines against flax's own loop over the same cells."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments import gated


@pytest.mark.parametrize("features", [1, 5])
@pytest.mark.parametrize("cell", [nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_values_and_gradients_equal_flax(cell, features):
    cell = cell(features, 7, rngs=nnx.Rngs(0))
    ours, theirs = gated.GatedRNN(cell), nnx.RNN(cell, rngs=False)
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, 6, features))
    carry = cell.initialize_carry((3, features), nnx.Rngs(0))
    carry = jax.tree.map(lambda h: jax.random.normal(keys[1], h.shape), carry)
    graph, params = {}, {}
    for name, layer in (("ours", ours), ("theirs", theirs)):
        graph[name], params[name] = nnx.split(layer)

    def loss(params, x, carry, name):
        layer = nnx.merge(graph[name], params)
        last, states = layer(x, initial_carry=carry, return_carry=True)
        weights = jnp.arange(states.size).reshape(states.shape) / states.size
        return jnp.sum(jnp.sin(states) * weights) + sum(
            jnp.sum(jnp.cos(h)) for h in jax.tree.leaves(last)
        )

    def gradients(name):
        grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=3)
        return jax.tree.leaves(grad(params[name], x, carry, name))

    for mine, other in zip(gradients("ours"), gradients("theirs"), strict=True):
        assert jnp.allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_another_cell_is_refused():
    with pytest.raises(ValueError, match="cell must be an OptimizedLSTMCell"):
        gated.GatedRNN(nnx.SimpleCell(1, 2, rngs=nnx.Rngs(0)))
