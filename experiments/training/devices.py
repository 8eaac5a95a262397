"""The devices of a run: how many, what lies where, and who of many processes writes.

Every device holds all parameters and a share of every batch. A step computes the
gradient of its share alone, and one sum over the devices follows: nothing else crosses
between them. CPU devices share a pool of as many threads as there are devices, and a
sum that waits for the others holds one: two of them in flight could wait for ever. So
there is one in a step, each step needs what the last one made, and an evaluation has
none. The processes of a run on many hosts do the same things in the same order; the
first of them writes.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import checks
from experiments.runs import cores

BATCH = "batch"  # the axis of the mesh
ALONE = 5  # exit code where another process is gone
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


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of a run; before JAX is used.

    They are those of the arguments or, without any, of the Slurm step or the TPU pod
    that this is one of.

    Args:
      coordinator: host:port at which the first process listens.
      num_processes: of the whole run.
      process_id: of this one, 0 the first.

    Raises:
      ValueError: some of the arguments without the others, or a number that is none of
        the run's.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        if _cluster():
            jax.distributed.initialize()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "--coordinator, --num_processes and --process_id must be given together,"
            f" got {coordinator!r}, {num_processes!r} and {process_id!r}"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id must be less than --num_processes {num_processes}, got"
            f" {process_id}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the process where one of several fails, without waiting for the others.

    They notice that it is gone: what they wait for fails as well, with exit code
    `ALONE`.
    """
    try:
        yield
    except SystemExit as ending:
        _leave(int(ending.code or 0))
        raise
    except jax.errors.JaxRuntimeError as error:
        if jax.distributed.is_initialized():
            first_line = str(error).partition("\n")[0]
            print(
                f"error: another process of this run has ended ({first_line})",
                file=sys.stderr,
            )
            _leave(ALONE)
        raise


def _leave(code: int) -> None:
    """Ends a process of several at once; of one, nothing."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cluster() -> bool:
    """Whether this is one of several processes of a Slurm step or a TPU pod."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return tasks not in ("", "1") or "," in hosts


# ---- Processes.


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def by_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, plain JSON values, in all of them.

    Raises:
      ValueError: in the other processes, where the first raises anything.
    """
    if jax.process_count() == 1:
        return make()
    answer, error = {}, None
    if first():
        try:
            answer = {"made": make()}
        except Exception as raised:
            error = raised
            answer = {"error": str(raised)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    share = multihost_utils.broadcast_one_to_all
    length = int(share(np.int32(len(text))))
    text = np.asarray(share(np.resize(text, length)))
    if error is not None:
        raise error
    answer = json.loads(text.tobytes())
    if "error" in answer:
        raise ValueError(f"the first process refused: {answer['error']}")
    return answer["made"]


def agreed(asked: int | None, waits: bool) -> int | None:
    """The signal by which any of the processes was asked to end, for all of them.

    Several processes ask each other only where they wait in any case; one alone knows.
    """
    if jax.process_count() == 1:
        return asked
    if not waits:
        return None
    found = multihost_utils.process_allgather(np.int32(asked or 0))
    return int(np.max(found)) or None


# ---- Devices.


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
