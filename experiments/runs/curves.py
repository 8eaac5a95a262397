"""Learning curves of runs, drawn from their logs alone. No JAX."""

import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.runs import files, identity, logs, pictures


def learning_curve(
    metrics: str | pathlib.Path, output: str | pathlib.Path
) -> pathlib.Path:
    """Draws loss and the task's own metric over steps from a metrics.jsonl.

    Training losses are those of single batches. A dashed line marks the loss of
    the model that knows nothing, where the log's "started" event gives one.

    Raises:
      ValueError: the log has no "started" event, no validation line, or one that
        cannot be read.
    """
    curves, started = _read(metrics)
    names = ["loss"]
    if any(
        line.get(started["primary"]) != line.get("loss") for line in curves["valid"]
    ):
        names.append(started["primary"])
    with pictures.picture(pictures.COLUMN * len(names), 2.8, output, "png") as figure:
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            thin = {"linewidth": 0.8, "color": pictures.SKY}
            thick = {"linewidth": 1.8, "color": pictures.BLUE, "marker": "o"}
            _draw(panel, curves.get("train", []), name, label="training", **thin)
            _draw(panel, curves["valid"], name, label="validation", **thick)
            panel.set(xlabel="step", ylabel=pictures.plain(name, 40))
        _baseline(panels[0], started)
        panels[0].set_yscale("log")
        task = pictures.plain(started["task"], 40)
        panels[0].set_title(f"{task}, {pictures.title(started['model'])}")
    return pathlib.Path(output)


class _Run(NamedTuple):
    folder: pathlib.Path
    curves: logs.Curves
    started: dict
    config: dict[str, Any]  # what the run reads, flat


def compare(
    workdirs: Sequence[str | pathlib.Path], output: str | pathlib.Path
) -> pathlib.Path:
    """Draws the training loss and the validation metric of several runs over steps.

    The legend has the fields in which the runs differ; where those do not tell them
    apart, the names of their folders. Returns the PNG; PDF and SVG lie beside it.

    Raises:
      ValueError: a folder without a log to draw or without a config, one that is given
        twice, or runs with different metrics.
    """
    runs = [_run(pathlib.Path(workdir)) for workdir in workdirs]
    metrics = {run.started["primary"] for run in runs}
    if len(metrics) > 1:
        raise ValueError(
            "WORKDIR must be runs with one metric, got "
            + ", ".join(f"{run.folder}: {run.started['primary']}" for run in runs)
        )
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError(
            f"WORKDIR must be different folders, got {', '.join(map(str, workdirs))}"
        )
    (metric,) = metrics
    with pictures.picture(pictures.PAGE, 3.2, output) as figure:
        left, right = figure.subplots(1, 2)
        for run, label, look in zip(runs, _labels(runs), _looks(runs), strict=True):
            thin = look | {"linewidth": 0.8}
            _draw(left, run.curves.get("train", []), "loss", label=label, **thin)
            _draw(right, run.curves["valid"], metric, label=label, **look)
        if len({(run.started["task"], run.started["baseline"]) for run in runs}) == 1:
            _baseline(left, runs[0].started)
        left.set(xlabel="step", ylabel="training loss", yscale="log")
        right.set(xlabel="step", ylabel=f"validation {pictures.plain(metric, 40)}")
        if pictures.spans([y for line in right.lines for y in line.get_ydata()]):
            right.set_yscale("log")
    return pathlib.Path(output).with_suffix(".png")


def _run(folder: pathlib.Path) -> _Run:
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"WORKDIR must hold a run, got {folder}: no config.json")
    config = files.read_object(path)
    flat = identity.flatten(identity.read_part(config))
    return _Run(folder, *_read(folder / "metrics.jsonl"), flat)


def _read(metrics: str | pathlib.Path) -> tuple[logs.Curves, dict]:
    """The curves of a log, and how the run started."""
    curves, events = logs.read_metrics(metrics)
    needed = {"task", "model", "primary", "baseline"}
    whole = (e for e in events if e["event"] == "started" and needed <= e.keys())
    started = next(whole, None)
    if started is None or "valid" not in curves:
        raise ValueError(f"{metrics} has no 'started' event or no validation line yet")
    return curves, started


def _labels(runs: list[_Run]) -> list[str]:
    """What tells the runs apart: fields, else folders' names, else their paths."""
    fields = [
        field
        for field in runs[0].config
        if field not in identity.PLACES
        and all(field in run.config for run in runs)
        and len({json.dumps(run.config[field]) for run in runs}) > 1
    ]
    names = _short(fields)
    named = [
        ", ".join(
            _value(field, name, run.config[field])
            for field, name in zip(fields, names, strict=True)
        )
        for run in runs
    ]
    for labels in (named, [pictures.plain(run.folder.resolve().name) for run in runs]):
        if len(set(labels)) == len(runs) and all(labels):
            return labels
    return [pictures.plain(run.folder) for run in runs]


def _short(fields: list[str]) -> list[str]:
    """Their last words; all of a name whose last word is another's too."""
    last = [field.rpartition(".")[2] for field in fields]
    return [
        word if last.count(word) == 1 else field
        for field, word in zip(fields, last, strict=True)
    ]


def _value(field: str, name: str, value: Any) -> str:
    """'Spectral-RNN' of model.name, 'learning_rate = 0.01' of another."""
    if field == "model.name":
        return pictures.title(value)
    words = pictures.plain(f"{name} = {value}")
    return words.replace(" ", "\N{NO-BREAK SPACE}")  # on one line


def _looks(runs: list[_Run]) -> list[dict[str, Any]]:
    """Each model's own colour, or where one comes twice, colours in turn."""
    models = [run.config.get("model.name") for run in runs]
    if len(set(models)) == len(models) and set(models) <= pictures.COLORS.keys():
        return [pictures.model_style(str(model)) for model in models]
    pairs = itertools.product(pictures.DASHES, pictures.PALETTE)
    looks = [{"color": color, "linestyle": dashes} for dashes, color in pairs]
    return [looks[i % len(looks)] for i in range(len(runs))]


def _draw(panel: Any, lines: list[dict], name: str, **style: Any) -> None:
    """A metric over steps."""
    points = [
        (line["step"], line[name]) for line in lines if line.get(name) is not None
    ]
    if len(points) == 1:  # of which there is no line
        style["marker"] = "o"
    if points:
        panel.plot(*zip(*points, strict=True), **style)


def _baseline(panel: Any, started: dict) -> None:
    """A dashed line at the loss of the model that knows nothing."""
    if started["baseline"] is not None:
        look = {"color": "gray", "linestyle": "--", "linewidth": 1}
        panel.axhline(started["baseline"], label="knows nothing", **look)
