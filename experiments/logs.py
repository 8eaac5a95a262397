"""What a run writes while it goes: metrics.jsonl, TensorBoard events, progress."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import tensorboardX

LINE_INTERVAL = 10.0  # seconds between progress lines where none can be rewritten


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON under a temporary name, then renames it into place."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class MetricLog:
    """Appends lines to metrics.jsonl, and their numbers to TensorBoard events.

    Every line is one JSON object with "step" and "split" ("train", "valid" or
    "event"), flushed at once. JSON has no NaN and no infinity: null stands for
    both. What a killed run left of a last line is cut off. Steps repeated after a
    resume appear twice; the last line of a split and step counts.
    """

    def __init__(self, workdir: pathlib.Path, resumed_from: int | None):
        path = workdir / "metrics.jsonl"
        if path.exists():
            _cut_last_line(path)
        self._file = path.open("a")
        purge = None if resumed_from is None else resumed_from + 1
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=purge)

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Appends one line; `values` maps names to numbers or, for events, text."""
        line = {"step": step, "split": split}
        line |= {name: finite(value) for name, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if split != "event":
            for name, value in line.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._events.add_scalar(f"{split}/{name}", value, step)
            self._events.flush()

    def event(self, step: int, event: str, **values: Any) -> None:
        """Appends a line of split "event"."""
        self.write(step, "event", {"event": event, **values})

    def close(self) -> None:
        self._file.close()
        self._events.close()


class Progress:
    """One line: step of steps, loss, validation metric, rate, time left.

    A terminal's line is rewritten; elsewhere a new one is printed at most every
    `LINE_INTERVAL` seconds, and the last one always.
    """

    def __init__(self, steps: int, batch_size: int, stream=None):
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
    def paused(self):
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


def finite(value: Any) -> Any:
    """A number as Python's own, None where it is not finite; the rest as it is."""
    if value is None or isinstance(value, (str, bool, int, dict)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _cut_last_line(path: pathlib.Path) -> None:
    """Cuts what follows the last line end."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
