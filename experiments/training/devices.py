"""The devices of a run: how many, and what lies where.

Every device holds all parameters and a share of every batch. A step computes the
gradient of its share alone, and one sum over the devices follows: nothing else crosses
between them. CPU devices share a pool of as many threads as there are devices, and a
sum that waits for the others holds one: two of them in flight could wait for ever. So
there is one in a step, each step needs what the last one made, and an evaluation has
none.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import checks
from experiments.runs import cores

BATCH = "batch"  # the axis of the mesh
WORTHWHILE = 8  # least examples of a batch for a device that is a core
MOST = 64  # CPU devices on a machine of fewer cores; each takes memory


def start(wanted: int | None = None) -> None:
    """Makes JAX start with a CPU device a core, or as many as `config.train.devices`.

    Those are `MOST` at the most, or the cores, and `choose` refuses what is beyond.
    Where it has started already, or the environment says how many, there is what there
    is.
    """
    with contextlib.suppress(RuntimeError):  # it has started
        already = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
        asked = min(wanted or 1, MOST)
        if already < asked:
            count = max(cores.count(), asked)
            jax.config.update("jax_num_cpu_devices", count)


def choose(wanted: int | None, batch_size: int) -> "Spread":
    """The devices that a batch is split over.

    `wanted` counts those of each process. None takes as many as divide the batch, of
    CPU devices no more than there are cores and only so many that each has
    `WORTHWHILE` examples.

    Raises:
      ValueError: more than there are, or a batch that does not divide.
    """
    there = jax.local_device_count()
    processes = jax.process_count()
    if wanted is None:
        count = max(fitting(batch_size), default=1)
    else:
        checks.check_integer("config.train.devices", wanted)
        count = wanted
        if count > there:
            raise ValueError(
                f"config.train.devices must be at most {there}, the devices there are,"
                f" got {count}"
            )
    if batch_size % (count * processes):
        of = f" of {processes} processes" if processes > 1 else ""
        raise ValueError(
            "config.train.batch_size must be a multiple of config.train.devices"
            f" {count}{of}, got {batch_size}"
        )
    if count * processes == 1:
        return Spread(None)
    chosen = [
        device
        for process in range(processes)
        for device in jax.local_devices(process_index=process)[:count]
    ]
    return Spread(Mesh(np.array(chosen), (BATCH,)))


def fitting(batch_size: int) -> list[int]:
    """The numbers of devices, of each process, that a batch may be split over."""
    there, processes, least = jax.local_device_count(), jax.process_count(), 1
    if jax.default_backend() == "cpu":
        there, least = min(there, cores.count()), WORTHWHILE
    return [
        count
        for count in range(1, there + 1)
        if batch_size % (count * processes) == 0
        and (count == 1 or batch_size >= least * count * processes)
    ]


@dataclasses.dataclass(frozen=True)
class Spread:
    """How arrays lie on the devices of a run.

    `sum`, `own`, `vary` and `examples` are for use inside what `over` returns; all do
    the least on one device, where there is no mesh.
    """

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """The number of devices, of all processes."""
        return 1 if self.mesh is None else self.mesh.size

    # ---- Outside.

    def everywhere(self, tree: Any) -> Any:
        """The arrays, whole on every device."""
        return self._place(tree, lambda leaf: PartitionSpec())

    def split(self, tree: Any) -> Any:
        """The arrays, with equal shares of the first axis; scalars everywhere."""
        return self._place(tree, _share)

    def _place(self, tree: Any, spec: Callable[[Any], PartitionSpec]) -> Any:
        if self.mesh is None:
            return tree
        mesh = self.mesh

        def place(leaf: Any) -> jax.Array:
            sharding = NamedSharding(mesh, spec(leaf))
            if jax.process_count() == 1:
                return jax.device_put(leaf, sharding)
            value = np.asarray(leaf)
            return jax.make_array_from_callback(
                value.shape, sharding, lambda index: value[index]
            )

        return jax.tree.map(place, tree)

    def fetch(self, tree: Any) -> Any:
        """What lies on the devices of all processes, as numpy arrays."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        return multihost_utils.process_allgather(tree, tiled=True)

    def over(
        self, step: Callable, given: tuple, result: Any, *, donate: bool = False
    ) -> Callable:
        """The step, jitted, on every device's share of its arguments.

        Args:
          step: takes some trees and a batch.
          given: specs of those trees, as `jax.shard_map` takes them.
          result: spec of what it returns.
          donate: whether the buffers of the first tree are given up.
        """
        donated = (0,) if donate else ()
        if self.mesh is None:
            return jax.jit(step, donate_argnums=donated)
        mesh = self.mesh

        def spread(*trees: Any) -> Any:
            specs = (*given, jax.tree.map(_share, trees[-1]))
            return jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=result)(
                *trees
            )

        return jax.jit(spread, donate_argnums=donated)

    # ---- Inside.

    def sum(self, tree: Any) -> Any:
        """The sums over the devices, of all arrays of a dtype at once."""
        if self.mesh is None:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        summed = list(leaves)
        # In one order in every process, as sums have to be.
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
            places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
            flat = jnp.concatenate([leaves[i].ravel() for i in places])
            flat = jax.lax.psum(flat, BATCH)
            ends = np.cumsum([leaves[i].size for i in places])
            for i, part in zip(places, jnp.split(flat, ends[:-1]), strict=True):
                summed[i] = part.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, summed)

    def own(self, tree: Any) -> Any:
        """Scalars as what `over` returns of each device, to be added up by the host."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: leaf[None], tree)

    def vary(self, tree: Any) -> Any:
        """The arrays as each device's own, so that their gradients are of its share."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, BATCH, to="varying"), tree)

    def examples(self, count: int) -> jax.Array:
        """The numbers within the batch of a device's `count` examples."""
        mine = jnp.arange(count)
        if self.mesh is None:
            return mine
        return mine + count * jax.lax.axis_index(BATCH)


ONE = Spread()


def _share(leaf: Any) -> PartitionSpec:
    return PartitionSpec(BATCH) if jnp.ndim(leaf) else PartitionSpec()
