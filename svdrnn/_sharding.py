"""What a hand-written pass must say of arrays that are spread over devices.

Two things that JAX does by itself where it differentiates: inside `jax.shard_map`, a
carry of a loop must vary over the same mesh axes before and after a step; and under a
mesh with explicit axes every sum over the batch needs its sharding named.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def vary_alike(tree: Any, *others: Any) -> Any:
    """The tree, cast to vary over every manual mesh axis that it or others vary over.

    The cast's own derivative is the sum over those axes, which is what the gradient to
    a parameter that all devices share has to be.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves((tree, others))))

    def cast(leaf):
        missing = tuple(sorted(axes - _varying(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def _varying(x: Any) -> frozenset[str]:
    """The manual mesh axes that an array varies over."""
    return jax.typeof(x).manual_axis_type.varying


def replicated(array: jax.Array) -> jax.Array:
    """The array whole on every device of its mesh, if that has explicit axes.

    With automatic axes the partitioner sees to it where a function wants that.
    """
    sharding = jax.typeof(array).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types or not any(sharding.spec):
        return array
    return jax.sharding.reshard(array, PartitionSpec())


def over_batch(run: Callable, states: bool, inputs: Any, carry: Any):
    """A recurrence as a function that also takes arrays of a mesh with explicit axes.

    Inside, the partitioner chooses; outside, results are sharded over the batch like
    inputs or carry.

    Args:
      run: gives (states (time, batch, n) or None, last state (batch, n)).
      states: whether there are states.
      inputs: (time, batch, n_in), one of the arguments.
      carry: (batch, n), another.
    """
    batch_axes = ((inputs, 1), (carry, 0))
    shardings = [(jax.typeof(array).sharding, axis) for array, axis in batch_axes]
    meshes = [sharding.mesh for sharding, _ in shardings]
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return run
    batch = next(
        (
            sharding.spec[axis]
            for sharding, axis in shardings
            if len(sharding.spec) > axis and sharding.spec[axis] is not None
        ),
        None,
    )
    last = NamedSharding(explicit[0], PartitionSpec(batch, None))
    all_states = NamedSharding(explicit[0], PartitionSpec(None, batch, None))
    return jax.sharding.auto_axes(
        run, out_sharding=(all_states if states else None, last)
    )
