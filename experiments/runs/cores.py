"""The cores that this process may use, and fair shares of them. No JAX.

XLA makes as many threads as its process has cores when it starts, so that a share has
to be given before: to a process that is being started (`only`), not to one at work.
"""

import contextlib
import os
from collections.abc import Iterator


def available() -> list[int]:
    """The numbers of the cores: those that taskset or a scheduler has left to it."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count() -> int:
    """How many there are."""
    return len(available())


def share(index: int, parts: int) -> set[int]:
    """The cores of part `index` of so many, side by side and of nearly equal number.

    More parts than cores take them in turn, one each.
    """
    cores = available()
    if parts >= len(cores):
        return {cores[index % len(cores)]}
    first, end = (i * len(cores) // parts for i in (index, index + 1))
    return set(cores[first:end])


@contextlib.contextmanager
def only(cores: set[int]) -> Iterator[None]:
    """Keeps this thread, and the processes that it starts meanwhile, to some cores.

    Those processes stay there. Where the system has no such thing, as macOS, nothing
    is kept to anything.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
