"""Whether a run fits into memory, told from sizes before anything is made."""

import os
import sys
from typing import Any

import jax
from flax import nnx

import svdrnn
from experiments.models import build, recurrent
from experiments.tasks import base

# Parameters, their gradients, two moments of Adam and the best parameters so far.
COPIES = 5
BYTES = 4  # of a number


def check(config: Any, task: base.Task) -> None:
    """Raises ValueError where the run needs more memory than there is for certain."""
    check_bytes(
        "config.model.hidden, config.model.layers, config.train.batch_size and the"
        f" length of {task.name}",
        (
            *(config.model.hidden, config.model.layers),
            *(config.train.batch_size, task.time_steps),
        ),
        least_bytes(config, task),
    )


def least_bytes(config: Any, task: base.Task) -> int:
    """Bytes of memory that the run needs for certain.

    Counted are the parameters, `COPIES` times, and of a batch the inputs, the states of
    every layer in each direction and the outputs, once; no states of linear steps of
    which the last alone is read. A run needs more than that.
    """
    model = nnx.eval_shape(
        lambda: build.build(config.model, task, rngs=nnx.Rngs(params=0))
    )
    read = build.as_read(config.model)
    last = not task.sequential or task.readout == "last"
    outputs = task.out_features * (1 if last else task.time_steps)
    features = 1 if task.vocabulary is not None else task.in_features
    if task.sequential:
        kept = _kept(model.layers, task.time_steps, last and read.pool == "last")
    else:
        kept = read.layers
    states = task.time_steps * features + kept * read.hidden
    batch = config.train.batch_size * (states + outputs)
    return BYTES * (COPIES * build.count_params(model) + batch)


def _kept(layers: Any, steps: int, last: bool) -> int:
    """The fewest states that layers may keep; with `last` the last alone is read."""
    kept = 0
    for i, layer in enumerate(layers, 1):
        ways = recurrent.directions(layer)
        of_which = steps // recurrent.output_every(layer)
        if last and i == len(layers):
            kept += len(ways) * _kept_within(ways[0], steps)
        elif of_which == steps:
            kept += len(ways) * steps
        else:
            kept += len(ways) * max(of_which, _kept_within(ways[0], steps))
        steps = of_which
    return kept


def _kept_within(layer: Any, steps: int) -> int:
    """The fewest states that a layer may keep of which not every one is given on."""
    if not isinstance(layer, svdrnn.TransitionRNN):
        return steps
    cell: Any = layer.cell
    return 0 if cell.activation.linear else steps // layer.activation_every


def check_bytes(names: str, values: tuple[int, ...], needed: int) -> None:
    """Raises ValueError where values of those names need more than there is."""
    there = available()
    if needed > there:
        *first, last = map(str, values)
        raise ValueError(
            f"{names} must fit into {gigabytes(there)} of memory, got"
            f" {', '.join(first)} and {last}, which need {gigabytes(needed)} at least"
        )


def available() -> int:
    """Bytes of memory: of the devices where they have their own, else of the host."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    of_devices = sum(device.get("bytes_limit", 0) for device in stats)
    if of_devices:
        return of_devices
    if not hasattr(os, "sysconf"):  # Windows: nothing is refused
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gigabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.3g} GB"
