"""Whether the processes of a run were started alike, before they compute together.

Processes of other configs, data, code or settings would train a run that is of none of
them, or wait for each other for ever. So each tells the first what must be the same in
all, and that one tells all what differs. They do so by the key-value store over which
JAX's processes have met: it needs no device, and nothing that differs can disturb it.
"""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the store has no public name

import svdrnn
from experiments.runs import folder, identity, origin, records
from experiments.tasks import base

Made = TypeVar("Made")

TIMEOUT = 600  # seconds that a process waits for the others, which may read data

_rounds = itertools.count()


def agree(make: Callable[[], Made], tell: Callable[[Made], dict[str, Any]]) -> Made:
    """What `make` gives in this process, where all processes of the run fit together.

    Where they do not, they part in order: none of them sees another one vanish. All
    have to call this in the same order. A process that is alone makes it and no more.

    Args:
      make: may raise, in some of the processes or in all.
      tell: {field: JSON value} of what `make` gave, to be the same in all processes.

    Raises:
      ValueError: in all processes, fields that differ, with the values of each; or
        what `make` or `tell` raised in another process. In that one, what was raised.
    """
    client = distributed.global_state.client
    if client is None:
        return make()
    error: Exception | None = None
    try:
        made = make()
        answer: dict[str, Any] = {"told": tell(made)}
    except Exception as raised:
        error = raised
        answer = {"error": str(raised)}
    key, wait = f"agreement/{next(_rounds)}", TIMEOUT * 1000
    index, count = _place()
    client.key_value_set(f"{key}/{index}", json.dumps(answer))
    if index == 0:
        texts = [
            client.blocking_key_value_get(f"{key}/{i}", wait) for i in range(count)
        ]
        problem = disagreement([json.loads(text) for text in texts])
        client.key_value_set(f"{key}/problem", json.dumps(problem))
    problem = json.loads(client.blocking_key_value_get(f"{key}/problem", wait))
    if problem is None:
        return made
    jax.distributed.shutdown()  # waits until all have come here
    raise error or ValueError(problem)


def _place() -> tuple[int, int]:
    """The number of this process and how many there are; no device is looked for."""
    state = distributed.global_state
    return state.process_id, state.num_processes  # type: ignore[return-value]


def disagreement(answers: list[dict[str, Any]]) -> str | None:
    """What keeps processes apart, in words; None where nothing does.

    Args:
      answers: of each process, {"told": {field: value}} or {"error": text}.
    """
    for index, answer in enumerate(answers):
        if "error" in answer:
            return f"process {index} refused: {answer['error']}"
    told = [answer["told"] for answer in answers]
    lines = []
    for field in dict.fromkeys(field for values in told for field in values):
        processes: dict[str, list[int]] = {}  # by value
        for index, values in enumerate(told):
            value = values.get(field, identity.ABSENT)
            processes.setdefault(repr(value), []).append(index)
        unknown = field == "revision" and "None" in processes  # git is not everywhere
        if len(processes) > 1 and not unknown:
            values = [
                f"{value} in {_named(which)}" for value, which in processes.items()
            ]
            lines.append(f"{field}: {', '.join(values)}")
    if not lines:
        return None
    return "the processes of a run must be started alike, got\n  " + "\n  ".join(lines)


def _named(processes: list[int]) -> str:
    """Some processes by their numbers, or how many they are."""
    if len(processes) > 3:
        return f"{len(processes)} processes"
    noun = "process" if len(processes) == 1 else "processes"
    return f"{noun} {', '.join(map(str, processes))}"


# ---- What has to be the same.


def of_start(content: dict) -> dict[str, Any]:
    """What is known before JAX is started: config, code, versions and settings.

    Args:
      content: the config as plain values. Where the data lie may differ.
    """
    config = identity.flatten(content)
    return {
        **{f"config.{name}": config[name] for name in config if name != "data_dir"},
        "revision": records.revision(),
        "code": _code(),
        **records.versions(),
        **origin.settings(),
        "jax_platforms": jax.config.jax_platforms,  # type: ignore[attr-defined]
    }


def of_machine(devices: list[jax.Device]) -> dict[str, Any]:
    """What is known once JAX is started; its own collectives ask for as many devices.

    Args:
      devices: of this process.
    """
    return {
        "devices (on a CPU JAX_NUM_CPU_DEVICES)": len(devices),
        "device": devices[0].device_kind,
    }


def of_parts(task: base.Task, devices: int) -> dict[str, Any]:
    """What is known before the first step: data and devices.

    Args:
      task: with its data.
      devices: of each process, over which a batch is split.
    """
    return {
        "config.train.devices": devices,
        "data": digest(task),
        "data files": task.fitted().get("data"),
    }


def of_folder(workdir: pathlib.Path) -> dict[str, Any]:
    """What is known once the first process holds the folder: whether all see it."""
    try:
        holder = (workdir / folder.LOCK).read_text().strip()
    except OSError:
        holder = None
    return {"--workdir, one folder that all see, is held by": holder}


def _code() -> str:
    """A digest of the files of this code, changed or not since its revision."""
    content = hashlib.sha256()
    for root in (pathlib.Path(__file__).parents[1], pathlib.Path(svdrnn.__path__[0])):
        for path in sorted(root.rglob("*.py")):
            content.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return content.hexdigest()[:12]


def digest(task: base.Task) -> str:
    """A digest of the data: of the arrays that the task holds, and of first batches.

    Arrays that lie in a file alone (`numpy.memmap`) are read in those batches only.
    """
    batches = [task.train_batch(0)]
    batches += [next(iter(task.eval_batches(split))) for split in ("valid", "test")]
    values = [np.asarray(value) for batch in batches for value in batch.values()]
    content = hashlib.sha256()
    for array in (*_arrays(vars(task)), *values):
        content.update(f"{array.dtype} {array.shape}\n".encode() + array.tobytes())
    return content.hexdigest()[:12]


def _arrays(tree: Any) -> Iterator[np.ndarray]:
    """The arrays of numbers among what is held in dicts, lists and tuples."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from _arrays(branch)
    elif type(tree) is np.ndarray and not tree.dtype.hasobject:
        yield tree
