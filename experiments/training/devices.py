"""The devices of a run: how many, and what lies where.

Every device holds all parameters and a share of every batch. A step computes the
gradient of its share alone, and one sum over the devices follows: nothing else crosses
between them, and an evaluation has no sum.

The rule of CPU devices: no program of a process waits for another program of the same
process. XLA runs the programs of all CPU devices of a process by as many threads as
there are devices, and a program that is launched waits in one of these threads while
too many are in flight. If another waits in a collective for the program of a second
device, that one may have no thread left, and the run stands still for ever. So the
devices of a process share a sum without a collective: each has its row of summands, the
rows are copied to every device, and a second program adds them up there, in the order
of the devices, and makes the update. Between processes there is a collective, of one
device each. On accelerators, which have no such threads, it is one collective a step.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import checks
from experiments.runs import cores
from experiments.training import exchange

BATCH = "batch"  # the axis of the mesh
WORTHWHILE = 8  # least examples of a batch for a device that is a core
MOST = 64  # CPU devices on a machine of fewer cores; each takes memory


def start(wanted: int | None = None) -> None:
    """Makes JAX start with a CPU device a core, or as many as `config.train.devices`.

    Those are `MOST` at the most, or the cores, and `choose` refuses what is beyond.
    Where it has started already there is what there is, so this comes first.

    Raises:
      ValueError: no such number of devices.
    """
    checks.check_field("train.devices", wanted)
    with contextlib.suppress(RuntimeError):  # it has started
        already = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
        least = min(wanted or 1, MOST)
        if already < least:
            count = max(cores.count(), least)
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
    return _spread(count)


def _spread(count: int) -> "Spread":
    """The first so many devices of each process."""
    chosen = [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process_index=process)[:count]
    ]
    if len(chosen) == 1:
        return ONE
    collective = jax.default_backend() != "cpu"
    return Spread(Mesh(np.array(chosen), (BATCH,)), collective)


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
    """How the arrays of a run lie on its devices, and how sums cross between them.

    `examples` and `vary` are for use inside of the functions that `step` and `over`
    take. Everything does the least on one device, where there is no mesh.

    Attributes:
      mesh: the devices of all processes, in one axis; None: one device.
      collective: whether a step is one program that sums over the devices by a
        collective. CPU devices of one process must not: see the rule of this module.
    """

    mesh: Mesh | None = None
    collective: bool = False

    @property
    def count(self) -> int:
        """The number of devices, of all processes."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def own_devices(self) -> list[jax.Device]:
        """The devices of this process, in the order of the mesh."""
        if self.mesh is None:
            return jax.local_devices()[:1]
        here = jax.process_index()
        return [d for d in self.mesh.devices.flat if d.process_index == here]

    def narrowed(self, examples: int) -> "Spread":
        """The first of the devices, as many as so many examples are worth.

        A CPU device is worth its use with `WORTHWHILE` examples, an accelerator with
        any number. At least one device of every process remains.
        """
        if self.mesh is None or self.collective:
            return self
        processes, there = jax.process_count(), len(self.own_devices)
        for count in range(there, 1, -1):
            if -(-examples // (count * processes)) >= WORTHWHILE:
                break
        else:
            count = 1
        return self if count == there else _spread(count)

    # ---- Where arrays lie.

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

    def held(self, tree: Any) -> Any:
        """Arrays that lie whole on these devices and others, as those of these alone.

        Nothing is copied.
        """
        devices = self.own_devices

        def hold(leaf: jax.Array) -> jax.Array:
            pieces = {shard.device: shard.data for shard in leaf.addressable_shards}
            if self.mesh is None:
                return pieces[devices[0]]
            return self._whole([pieces[device] for device in devices])

        return jax.tree.map(hold, tree)

    def _whole(self, pieces: list[jax.Array]) -> jax.Array:
        """One array, whole on every device, of what lies on those of this process."""
        assert self.mesh is not None
        return jax.make_array_from_single_device_arrays(
            pieces[0].shape, NamedSharding(self.mesh, PartitionSpec()), pieces
        )

    def read(self, tree: Any) -> Any:
        """What `over` returned of the devices of this process, as numpy arrays."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        return jax.tree.map(
            lambda leaf: np.concatenate([s.data for s in leaf.addressable_shards]), tree
        )

    # ---- Programs.

    def over(self, function: Callable, arguments: tuple, result: Any) -> Callable:
        """The function, jitted, on every device's share of its arguments.

        Args:
          function: takes some trees and a batch; nothing crosses between devices.
          arguments: specs of those trees, as `jax.shard_map` takes them.
          result: spec of what it returns.
        """
        if self.mesh is None:
            return jax.jit(function)

        def spread(*trees: Any) -> Any:
            specs = (*arguments, jax.tree.map(_share, trees[-1]))
            return self._shared(function, specs, result)(*trees)

        return jax.jit(spread)

    def step(
        self, share: Callable, update: Callable, state_lies: Any, kept_lie: Any
    ) -> Callable:
        """One step of training, jitted: (state, settings, batch) -> (state, numbers).

        The state's buffers are donated.

        Args:
          share: (state, settings, batch) -> (summands, kept) of a device's share of the
            batch; `summands` are what is summed over the devices.
          update: (state, settings, sums, kept) -> (state, numbers), the same on every
            device.
          state_lies: specs of the state.
          kept_lie: specs of `kept`.
        """
        whole = PartitionSpec()
        if self.mesh is None:
            return jax.jit(
                lambda state, settings, batch: update(
                    state, settings, *share(state, settings, batch)
                ),
                donate_argnums=0,
            )

        if self.collective:

            def step(state: Any, settings: Any, batch: Any) -> Any:
                summands, kept = share(state, settings, batch)
                sums = jax.lax.psum(exchange.pack(summands), BATCH)
                return update(state, settings, exchange.unpack(sums), kept)

            def spread(state: Any, settings: Any, batch: Any) -> Any:
                specs = (state_lies, whole, jax.tree.map(_share, batch))
                shared = self._shared(step, specs, (state_lies, whole))
                return shared(state, settings, batch)

            return jax.jit(spread, donate_argnums=0)

        def packed_share(
            state: Any, settings: Any, batch: Any
        ) -> tuple[exchange.Packed, Any]:
            summands, kept = share(state, settings, batch)
            rows = jax.tree.map(lambda vector: vector[None], exchange.pack(summands))
            return rows, kept

        def add_and_update(
            state: Any, settings: Any, rows: list[exchange.Packed], kept: Any
        ) -> Any:
            vectors = jax.tree.map(lambda *pieces: self._in_order(pieces), *rows)
            return update(state, settings, exchange.unpack(vectors), kept)

        of_device = PartitionSpec(BATCH)
        first = self.over(packed_share, (state_lies, whole), (of_device, kept_lie))
        specs = (state_lies, whole, of_device, kept_lie)
        # Unchecked: that the sums are alike on all devices is by their order.
        second = jax.jit(
            self._shared(add_and_update, specs, (state_lies, whole), check_vma=False),
            donate_argnums=0,
        )

        def in_two(state: Any, settings: Any, batch: Any) -> Any:
            rows, kept = first(state, settings, batch)
            return second(state, settings, self._exchanged(rows), kept)

        return in_two

    def _shared(
        self, function: Callable, arguments: tuple, result: Any, check_vma: bool = True
    ) -> Callable:
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=arguments,
            out_specs=result,
            check_vma=check_vma,
        )

    def _exchanged(self, rows: exchange.Packed) -> list[exchange.Packed]:
        """What every device has to add up: its own row, that of the next, and so on.

        Of several processes it is one row: each adds up its own, and one device of each
        takes part in a sum over the processes.
        """
        devices = self.own_devices
        count = len(devices)
        if jax.process_count() > 1:
            of_devices = [
                jax.tree.map(lambda vector, i=i: vector.addressable_data(i), rows)
                for i in range(count)
            ]
            on_first = jax.device_put(of_devices, devices[0])
            total = exchange.summed(_added_at_once(on_first))
            copies = jax.device_put([total] * count, devices)
            return [jax.tree.map(lambda *pieces: self._rows(pieces), *copies)]

        def shifted(vector: jax.Array, by: int) -> jax.Array:
            pieces = [vector.addressable_data((i + by) % count) for i in range(count)]
            return self._rows(jax.device_put(pieces, devices))

        others = range(1, count)
        return [
            rows,
            *(jax.tree.map(lambda v, j=j: shifted(v, j), rows) for j in others),
        ]

    def _rows(self, pieces: Sequence[jax.Array]) -> jax.Array:
        """One array, split over the devices, of what lies on those of this process."""
        assert self.mesh is not None
        shape = (self.mesh.size, *pieces[0].shape[1:])
        sharding = NamedSharding(self.mesh, PartitionSpec(BATCH))
        return jax.make_array_from_single_device_arrays(shape, sharding, list(pieces))

    def _in_order(self, rows: Sequence[jax.Array]) -> jax.Array:
        """The sum of what `_exchanged` gave a device, in the order of the devices."""
        stack = jnp.roll(jnp.concatenate(rows), jax.lax.axis_index(BATCH), axis=0)
        return functools.reduce(jnp.add, stack if len(rows) > 1 else rows[0])

    # ---- Inside of them.

    def own(self, tree: Any) -> Any:
        """Scalars as arrays of one entry, so that `over` returns an entry a device.

        The host adds them up.
        """
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: leaf[None], tree)

    def vary(self, tree: Any) -> Any:
        """Arrays that count as another one on every device.

        A gradient with respect to them is that of the device's share of the batch.
        """
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, BATCH, to="varying"), tree)

    def examples(self, count: int) -> jax.Array:
        """The numbers within the batch of a device's `count` examples."""
        places = jnp.arange(count)
        if self.mesh is None:
            return places
        return places + count * jax.lax.axis_index(BATCH)


ONE = Spread()


def _share(leaf: Any) -> PartitionSpec:
    return PartitionSpec(BATCH) if jnp.ndim(leaf) else PartitionSpec()


def _added(trees: list[Any]) -> Any:
    """The sum of trees of arrays, in their order."""
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), trees)


_added_at_once = jax.jit(_added)
