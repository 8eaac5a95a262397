"""What crosses between devices as one vector a dtype, and between processes.

Between processes it is one device of each that takes part: no program of a process
waits for another program of the same process, see `devices`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PROCESS = "process"  # the axis of one device a process


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["vectors"],
    meta_fields=["structure", "shapes"],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """The arrays of a tree behind one another.

    Attributes:
      vectors: one of every dtype, in the order of first appearance, the same in every
        process.
      structure: of the tree.
      shapes: of its leaves, with their dtypes.
    """

    vectors: tuple[jax.Array, ...]
    structure: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...]


def pack(tree: Any) -> Packed:
    """The tree's arrays behind one another."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    vectors = tuple(
        jnp.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype == dtype])
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves)
    )
    return Packed(vectors, structure, shapes)


def unpack(packed: Packed) -> Any:
    """The tree that was packed."""
    parts = {}
    for vector in packed.vectors:
        sizes = [s.size for s in packed.shapes if s.dtype == vector.dtype]
        parts[vector.dtype] = iter(jnp.split(vector, np.cumsum(sizes)[:-1]))
    leaves = [next(parts[s.dtype]).reshape(s.shape) for s in packed.shapes]
    return jax.tree.unflatten(packed.structure, leaves)


# ---- Between processes, each of which calls these with values of the same shapes.


def gathered(value: np.ndarray | np.generic) -> np.ndarray:
    """The arrays of all processes, in their order, along a new first axis."""
    value = np.asarray(value)
    if jax.process_count() == 1:
        return value[None]
    mesh = _first_devices()
    sharding = NamedSharding(mesh, PartitionSpec(PROCESS))
    row = jax.device_put(value[None], jax.local_devices()[0])
    shape = (mesh.size, *value.shape)
    rows = jax.make_array_from_single_device_arrays(shape, sharding, [row])
    return np.asarray(_gather()(rows).addressable_data(0))


def summed(tree: Any) -> Any:
    """The sums over the processes of arrays that lie on the first device of each.

    They lie there too.
    """
    mesh = _first_devices()
    sharding = NamedSharding(mesh, PartitionSpec(PROCESS))

    def row(leaf: jax.Array) -> jax.Array:
        shape = (mesh.size * leaf.shape[0], *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, [leaf])

    total = _sum()(jax.tree.map(row, tree))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), total)


def added(totals: dict[str, Any]) -> dict[str, Any]:
    """The sums over the processes of float64 numbers of the host."""
    if jax.process_count() == 1:
        return totals
    own = np.array(list(totals.values()), np.float64).view(np.uint8)
    rows = gathered(own).view(np.float64)
    return dict(zip(totals, np.sum(rows, axis=0), strict=True))


@functools.cache
def _first_devices() -> Mesh:
    """The first device of each process."""
    every = range(jax.process_count())
    devices = [jax.local_devices(process_index=index)[0] for index in every]
    return Mesh(np.array(devices), (PROCESS,))


@functools.cache
def _gather() -> Any:
    whole = NamedSharding(_first_devices(), PartitionSpec())
    return jax.jit(lambda rows: rows, out_shardings=whole)


@functools.cache
def _sum() -> Any:
    shared = jax.shard_map(
        lambda rows: jax.lax.psum(rows, PROCESS),
        mesh=_first_devices(),
        in_specs=PartitionSpec(PROCESS),
        out_specs=PartitionSpec(),
    )
    return jax.jit(shared)
