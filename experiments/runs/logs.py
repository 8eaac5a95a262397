"""metrics.jsonl: the lines that a run writes while it goes, and how they are read."""

import contextlib
import json
import math
import os
import pathlib
import time
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2, summary_pb2
from typing_extensions import override

from experiments.runs import files

Curves = dict[str, list[dict]]


class Log:
    """What a process writes that is not the first of a run: nothing."""

    def go_back(self, step: int) -> None:
        """Cuts off what lies behind a step, since it is computed again."""

    def check(self) -> None:
        """Raises `files.Unwritable` where the file is no longer in its folder."""

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Appends one line; `values` maps names to numbers or, for events, text."""

    def event(self, step: int, event: str, **values: Any) -> None:
        """Appends a line of split "event"."""
        self.write(step, "event", {"event": event, **values})

    def compare(
        self,
        step: int,
        fields: dict[str, Any],
        numbers: dict[str, float | None],
        picture: pathlib.Path | None,
    ) -> None:
        """Tells TensorBoard what the run is and what came of it, for its HParams tab.

        Args:
          step: the last of the run.
          fields: {field: value} of its config; what is no number, bool or text is
            shown as text.
          numbers: {name: metric} by which runs are compared; None is left out.
          picture: a PNG that is shown as an image under its name, if there is one.
        """

    def close(self) -> None:
        """Closes what is open."""


class MetricLog(Log):
    """Appends lines to metrics.jsonl, and their numbers to TensorBoard events.

    Every line is one JSON object with "step" and "split" ("train", "valid" or
    "event"), flushed at once. JSON has no NaN and no infinity: null stands for
    both. A run that is resumed computes what lies behind its checkpoint again, so that
    those lines are cut off, and what a kill left of a last one.

    Args:
      workdir: folder of the run.
      resumed_from: step of the checkpoint, 0 where a run begins again; None: a new run.
      restores: how often the run had gone back by that checkpoint. What came of later
        ones is computed again too, also where they went back to this very step.

    Raises:
      files.Unwritable: here and in `write`: the files cannot be written, or are no
        longer in the folder.
    """

    def __init__(
        self, workdir: pathlib.Path, resumed_from: int | None, restores: int = 0
    ):
        self._path = workdir / "metrics.jsonl"
        with files.writing(self._path):
            # Without the thread of a SummaryWriter, whose errors nobody would see.
            self._events = event_file_writer.EventsWriter(
                str(workdir.absolute() / "events"), f".{time.time_ns()}"
            )
        self._open(resumed_from, restores)

    def _open(self, resumed_from: int | None, restores: float = math.inf) -> None:
        if resumed_from is not None:
            _cut(self._path, resumed_from, restores)
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add_event(resumed_from + 1, session_log=start)
        with files.writing(self._path):
            self._file = self._path.open("a")

    @override
    def go_back(self, step: int) -> None:
        self._file.close()
        self._open(step)

    @override
    def check(self) -> None:
        with files.writing(self._path):
            if not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                raise OSError("it was replaced")

    @override
    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        self.check()
        line = {"step": step, "split": split}
        line |= {name: finite(value) for name, value in values.items()}
        with files.writing(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        if split != "event":
            numbers = {
                f"{split}/{name}": value
                for name, value in line.items()
                if name != "step" and isinstance(value, (int, float))
            }
            scalars = [summary.scalar(*pair).value[0] for pair in numbers.items()]
            self._add_event(step, summary=summary_pb2.Summary(value=scalars))

    @override
    def compare(
        self,
        step: int,
        fields: dict[str, Any],
        numbers: dict[str, float | None],
        picture: pathlib.Path | None,
    ) -> None:
        shown = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in fields.items()
        }
        scalars = {n: value for n, value in numbers.items() if value is not None}
        parts = [summary.scalar(*pair) for pair in scalars.items()]
        parts += summary.hparams(shown, scalars)
        values = [value for part in parts for value in part.value]
        if picture is not None:
            values.append(_image(picture))
        self._add_event(step, summary=summary_pb2.Summary(value=values))

    @override
    def close(self) -> None:
        # What could not be written was an error before.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()

    def _add_event(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(step=step, wall_time=time.time(), **content)
        with files.writing(self._path.parent):
            self._events.write_event(event)
            self._events.flush()


def read_metrics(path: str | pathlib.Path) -> tuple[Curves, list[dict]]:
    """The lines of a metrics.jsonl: {split: lines, steps ascending}, and the events.

    Of several lines of one split and step the last counts: runs of before 2026-11-26
    repeat some after a resume. The unfinished last line of a run that is going on is
    left out.

    Raises:
      ValueError: a line that is not such as a run writes.
    """
    curves: dict[str, dict[int, dict]] = {}
    events = []
    complete = pathlib.Path(path).read_text("utf-8", errors="replace").split("\n")[:-1]
    for number, text in enumerate(complete, 1):
        try:
            line = json.loads(text)
            _check_line(line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise ValueError(f"{path}, line {number}: not a metrics line") from None
        split, step = line["split"], line["step"]
        if split == "event":
            events.append(line)
        else:
            curves.setdefault(split, {})[step] = line
    ordered = {
        split: [lines[step] for step in sorted(lines)]
        for split, lines in curves.items()
    }
    return ordered, events


def last_session(events: list[dict]) -> dict | None:
    """The event by which the last session began, which says how the run is made."""
    return next((event for event in reversed(events) if "revision" in event), None)


# What is text in an event, where it is there.
_OF_EVENTS = {"started": ("task", "model", "primary"), "non_finite": ("what",)}


def _check_line(line: Any) -> None:
    """Raises ValueError, KeyError or TypeError for a line that no run writes."""
    if type(line["step"]) is not int or not isinstance(line["split"], str):
        raise ValueError
    if line["split"] == "event":
        for name in _OF_EVENTS.get(line["event"], ()):
            if not isinstance(line.get(name, ""), str):
                raise ValueError
        numbers = [line.get("baseline")]
    else:
        numbers = [value for name, value in line.items() if name != "split"]
    for number in numbers:
        if number is not None and not math.isfinite(number):
            raise ValueError


def finite(value: Any) -> Any:
    """A number as Python's own, None where it is not finite; the rest as it is."""
    if value is None or isinstance(value, (str, bool, int, dict)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _image(picture: pathlib.Path) -> summary_pb2.Summary.Value:
    """A PNG for TensorBoard, as it is."""
    import matplotlib.image  # most of what reads logs draws nothing

    height, width, channels = matplotlib.image.imread(picture).shape
    image = summary_pb2.Summary.Image(
        height=height,
        width=width,
        colorspace=channels,
        encoded_image_string=picture.read_bytes(),
    )
    return summary_pb2.Summary.Value(tag=picture.stem, image=image)


def _cut(path: pathlib.Path, step: int, restores: float) -> None:
    """Cuts the lines behind a step, all where it is 0, and an unfinished last one.

    So it does events of going back to the step more than `restores` times.
    """
    if not path.exists():
        return
    content = path.read_text("utf-8", errors="surrogateescape")
    lines = content.split("\n")[:-1]
    kept = "".join(
        f"{line}\n"
        for line in lines
        if step
        and _number(line, "step") <= step
        and _number(line, "restores") <= restores
    )
    if kept != content:
        files.write(path, kept)


def _number(line: str, name: str) -> int:
    """A number of a line; 0 of one that has none."""
    try:
        return int(json.loads(line)[name])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
