"""metrics.jsonl: the lines that a run writes while it goes, and how they are read."""

import json
import math
import os
import pathlib
from typing import Any

import tensorboardX

Curves = dict[str, list[dict]]


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
        """Closes both files."""
        self._file.close()
        self._events.close()


def read_metrics(path: str | pathlib.Path) -> tuple[Curves, list[dict]]:
    """The lines of a metrics.jsonl: {split: lines, steps ascending}, and the events.

    Of several lines of one split and step the last counts: a resumed run repeats
    some. The unfinished last line of a run that is going on is left out.

    Raises:
      ValueError: a line that is not a JSON object with "step" and "split".
    """
    curves: dict[str, dict[int, dict]] = {}
    events = []
    complete = pathlib.Path(path).read_text().split("\n")[:-1]
    for number, text in enumerate(complete, 1):
        try:
            line = json.loads(text)
            split, step = line["split"], int(line["step"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: not a metrics line") from None
        if split == "event":
            events.append(line)
        else:
            curves.setdefault(split, {})[step] = line
    ordered = {
        split: [found[step] for step in sorted(found)]
        for split, found in curves.items()
    }
    return ordered, events


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
