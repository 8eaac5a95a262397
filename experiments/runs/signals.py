"""Signals that ask a command to end: at once, or once what it does is saved. No JAX.

SIGTERM, SIGHUP, SIGUSR1 (which Slurm sends before a time limit, if asked to) and
SIGINT, as far as the system has them. One that the process was started to ignore, as
SIGINT in the background of a script and SIGHUP under nohup, stays ignored.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT")
    if hasattr(signal, name)  # Windows has neither SIGHUP nor SIGUSR1
)


class Stopped(KeyboardInterrupt):
    """A signal has ended what was being done.

    Args:
      number: of the signal.
      where: what had been done by then, as " after step 5".
    """

    def __init__(self, number: int, where: str = ""):
        self.name = signal.Signals(number).name
        super().__init__(f"stopped by {self.name}{where}")
        self.code = 128 + number  # of the exit, as shells count


class Ending:
    """Whether a signal has come: its number, or None."""

    asked: int | None = None


def exit_at_once(goes_on: str = "") -> None:
    """Makes each of the signals end the process with one line and its code.

    Nothing is raised: an exception in the midst of loading JAX crashes it.

    Args:
      goes_on: the end of the line.
    """

    def handle(number: int, _: Any) -> None:
        stopped = Stopped(number)
        with contextlib.suppress(OSError):  # nobody reads
            os.write(2, f"error: {stopped}{goes_on}\n".encode())
        os._exit(stopped.code)

    _install(handle)


def raise_at_once() -> None:
    """Makes each of the signals raise `Stopped` from now on."""

    def handle(number: int, _: Any) -> None:
        raise Stopped(number)

    _install(handle)


@contextlib.contextmanager
def noted() -> Iterator[Ending]:
    """A context in which a signal is noted only; a second SIGINT ends the process.

    It does so at once, also while the device works: what is saved is whole. Outside
    the main thread, which alone is sent signals, nothing is noted.
    """
    ending = Ending()

    def handle(number: int, _: Any) -> None:
        ending.asked = ending.asked or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = _install(handle)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(handle: Callable) -> dict[signal.Signals, Any]:
    """Sets the handler of each signal and returns those of before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handle)
    return before
