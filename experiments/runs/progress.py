"""What a run shows while it goes: a line of progress, and how long things take."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import TextIO

LINE_INTERVAL = 10.0  # seconds between progress lines where none can be rewritten


class Progress:
    """One line: step of steps, loss, validation metric, rate, time left.

    A terminal's line is rewritten; elsewhere a new one is printed at most every
    `LINE_INTERVAL` seconds, and the last one always.
    """

    def __init__(self, steps: int, batch_size: int, stream: TextIO | None = None):
        self._steps = steps
        self._batch_size = batch_size
        self._stream = stream or sys.stdout
        self._rewrites = self._stream.isatty()
        self._printed = -math.inf
        self._width = 0
        self._validation = ""

    def validation(self, name: str, value: float) -> None:
        """The validation metric that the next lines show."""
        self._validation = f" | valid {name} {value:.4g}"

    def show(self, step: int, loss: float, steps_per_second: float | None) -> None:
        """Shows where the run is, unless a line was printed just before."""
        now, last = time.monotonic(), step == self._steps
        if not (self._rewrites or last or now - self._printed >= LINE_INTERVAL):
            return
        self._printed = now
        text = f"step {step}/{self._steps} | loss {loss:.4g}{self._validation}"
        if steps_per_second:
            left = (self._steps - step) / steps_per_second
            rate = steps_per_second * self._batch_size
            text += f" | {rate:.0f} examples/s | {duration(left)} left"
        if self._rewrites:
            padding = " " * (self._width - len(text))
            self._width = len(text)
            print(f"\r{text}{padding}", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends a line that was being rewritten."""
        if self._rewrites and self._width:
            print(file=self._stream, flush=True)


class Stopwatch:
    """Updates a second since the last reading, without what was paused."""

    def __init__(self, step: int):
        self._step = step
        self._since = time.monotonic()

    def read(self, step: int) -> float | None:
        """Updates a second since the last reading; None without one."""
        now = time.monotonic()
        updates, seconds = step - self._step, now - self._since
        self._step, self._since = step, now
        return updates / seconds if updates and seconds > 0 else None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count."""
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s or 2 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
