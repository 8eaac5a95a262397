"""What a run shows while it goes: a line of progress, and how long things take."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import tqdm

LINE_INTERVAL = 10.0  # seconds between progress lines where none can be rewritten


class Progress:
    """One line: step of steps, loss, validation metric, rate, time left.

    A terminal's line is rewritten and never wider than it; elsewhere a new one is
    printed at most every `LINE_INTERVAL` seconds, and the last one always.

    Args:
      steps: of the whole run.
      per_step: what the rate counts of each step, as many `unit`.
      unit: "examples" or "tokens".
      stream: standard output where None; there may be none at all.
    """

    def __init__(
        self, steps: int, per_step: int, unit: str, stream: TextIO | None = None
    ):
        self._steps = steps
        self._per_step = per_step
        self._unit = unit
        self._stream = stream or sys.stdout
        self._bar: tqdm.tqdm | None = None
        self._rewrites = self._stream is not None and self._stream.isatty()
        self._printed = -math.inf
        self._metric: tuple[str, float] | None = None

    def validation(self, name: str, value: float) -> None:
        """The validation metric that the next lines show."""
        self._metric = name, value

    def show(self, step: int, loss: float, steps_per_second: float | None) -> None:
        """Shows where the run is, unless a line was printed just before."""
        now, last = time.monotonic(), step == self._steps
        if not (self._rewrites or last or now - self._printed >= LINE_INTERVAL):
            return
        self._printed = now
        if self._rewrites:
            self._rewrite(step, loss, steps_per_second)
        else:
            text = self._text(step, loss, steps_per_second)
            print(text, file=self._stream, flush=True)

    def _text(self, step: int, loss: float, steps_per_second: float | None) -> str:
        text = f"step {step}/{self._steps} | loss {loss:.4g}"
        if self._metric:
            text += " | valid {} {:.4g}".format(*self._metric)
        if steps_per_second:
            rate = steps_per_second * self._per_step
            left = (self._steps - step) / steps_per_second
            text += f" | {rate:.0f} {self._unit}/s | {duration(left)} left"
        return text

    def _rewrite(self, step: int, loss: float, steps_per_second: float | None) -> None:
        """Draws tqdm's bar: its text is cut to the width, the bar takes the rest."""
        parts = [f"{step}/{self._steps}", f"loss {loss:.4g}"]
        if self._metric:  # its name stands in the first lines of the run
            parts.append(f"valid {self._metric[1]:.4g}")
        if steps_per_second:
            rate = tqdm.tqdm.format_sizeof(steps_per_second * self._per_step)
            left = tqdm.tqdm.format_interval((self._steps - step) / steps_per_second)
            parts += [f"{rate} {self._unit}/s", f"{left} left"]
        text = " | ".join(parts) + " {bar}"
        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=self._steps,
                initial=step,
                file=self._stream,
                dynamic_ncols=True,
                bar_format=text,
            )
        else:
            self._bar.bar_format, self._bar.n = text, step
            self._bar.refresh()

    def close(self) -> None:
        """Ends a line that was being rewritten."""
        if self._bar is not None:
            self._bar.close()


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
