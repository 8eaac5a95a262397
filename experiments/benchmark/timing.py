"""Timing compiled functions against each other: in turn, compilation excluded."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax

Key = TypeVar("Key")

# T -> (function, arguments) for JAX to compile, or (call, None) ready to run.
Make = Callable[[int], tuple[Callable, tuple | None]]


class Contender(NamedTuple):
    """A rival in a cell: its name, and how to make its step for a length T."""

    name: str
    make: Make


@dataclasses.dataclass
class Timing:
    """Seconds of one call: median and range over `repeats` calls."""

    median: float
    low: float
    high: float
    repeats: int


def in_turn(
    calls: dict[Key, Callable], *, seconds: float, most: int = 15
) -> dict[Key, Timing]:
    """Times each call once a round, so that rivals share whatever else happens.

    Every call is made once before (compilation, first touch of memory). Rounds go on
    until each call has been repeated `most` times or `seconds` are over, whichever
    is first, but at least three times (a call of over `seconds`: once).
    """
    if not calls:
        return {}
    taken: dict[Key, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        _seconds(call)
    began = time.perf_counter()
    for round_ in range(most):
        if round_ >= 3 and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            if not taken[name] or taken[name][0] <= seconds:
                taken[name].append(_seconds(call))
    return {
        name: Timing(statistics.median(t), min(t), max(t), len(t))
        for name, t in taken.items()
    }


def _seconds(call: Callable) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began
