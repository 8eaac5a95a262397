"""Figures from logs alone; nothing here imports JAX.

    python -m experiments.figures
    python -m experiments.figures WORKDIR [WORKDIR ...]

draws the paper's figures anew from experiments/results, or `learning_curve.png` in each
workdir.
"""

import argparse
import csv
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Iterable

from matplotlib.figure import Figure

Curves = dict[str, list[dict]]

_CATEGORIES = 8  # most values of a swept field that are drawn side by side


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
    curves, events = read_metrics(metrics)
    started = next((e for e in events if e.get("event") == "started"), None)
    if started is None or "valid" not in curves:
        raise ValueError(f"{metrics} has no 'started' event or no validation line yet")
    names = ["loss"]
    if any(line.get(started["primary"]) != line["loss"] for line in curves["valid"]):
        names.append(started["primary"])
    figure = Figure(figsize=(5.5 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        _draw_curves(panel, curves, name)
    if started["baseline"] is not None:
        panels[0].axhline(
            started["baseline"], color="gray", linestyle="--", label="knows nothing"
        )
    panels[0].set_yscale("log")
    for panel in panels:
        panel.legend()
    figure.suptitle(f"{started['task']}, {started['model']}")
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_curves(panel, curves: Curves, name: str) -> None:
    """One panel: the metric over steps, training thin and validation thick."""
    styles = {
        "train": {"linewidth": 0.8, "alpha": 0.6},
        "valid": {"linewidth": 1.8, "marker": "o", "markersize": 3},
    }
    for split, style in styles.items():
        points = [
            (line["step"], line[name])
            for line in curves.get(split, [])
            if line.get(name) is not None
        ]
        if points:
            panel.plot(*zip(*points, strict=True), label=split, **style)
    panel.set_xlabel("step")
    panel.set_ylabel(name)
    panel.grid(alpha=0.3)


def benchmark(record: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Draws step times of recurrent layers over n and over T from a benchmark.json.

    Left: over n at the T that most sizes were measured at. Right: over T at the
    smallest n. Both logarithmic; skipped contenders are left out.
    """
    rows = json.loads(pathlib.Path(record).read_text())["rows"]
    rows = [r for r in rows if r["kind"] == "layer" and "seconds" in r]
    for row in rows:
        row["contender"] = row["contender"].replace(f"m={row['n']}", "m=n")
    steps = [row["steps"] for row in rows]
    common = max(sorted(set(steps)), key=steps.count)
    smallest = min(row["n"] for row in rows)
    figure = Figure(figsize=(12, 5), layout="constrained")
    over_n, over_t = figure.subplots(1, 2)
    _draw_times(over_n, [r for r in rows if r["steps"] == common], "n")
    over_n.set_title(f"T = {common}")
    over_n.set_xlabel("hidden size n")
    _draw_times(over_t, [r for r in rows if r["n"] == smallest], "steps")
    over_t.set_title(f"n = {smallest}")
    over_t.set_xlabel("sequence length T")
    over_t.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_times(panel, rows: list[dict], axis: str) -> None:
    """One panel: milliseconds of each contender over a column of the rows."""
    for name in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == name]
        points = sorted((row[axis], row["seconds"] * 1e3) for row in mine)
        style = "-" if name.startswith("SpectralRNN") else "--"
        panel.plot(*zip(*points, strict=True), style, marker="o", ms=3, label=name)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_ylabel("ms a step (loss and gradient)")
    panel.grid(alpha=0.3, which="both")


def sweep(
    runs: str | pathlib.Path,
    output: str | pathlib.Path,
    fields: list[str],
    metric: str,
) -> pathlib.Path:
    """Draws the value of a sweep's runs over each swept field from its sweep.csv.

    Pruned runs are crosses, at their last value. Where seeds are swept, completed
    runs that differ in nothing else are joined: mean and standard deviation.
    """
    with pathlib.Path(runs).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["value"]]
    figure = Figure(figsize=(4.5 * len(fields), 4), layout="constrained")
    panels = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    panels[0].set_ylabel(f"validation {metric}")
    for panel, field in zip(panels, fields, strict=True):
        _draw_runs(panel, rows, field)
        if "seed" in fields and field != "seed":
            _draw_means(panel, rows, field, [name for name in fields if name != "seed"])
        panel.set_xlabel(field)
        panel.grid(alpha=0.3)
    if _spans([float(row["value"]) for row in rows]):
        panels[0].set_yscale("log")
    if rows:
        panels[0].legend()
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_runs(panel, rows: list[dict], field: str) -> None:
    """One panel: every run's value over a field, numbers in order, or categories."""
    places = _places(rows, field)
    for state, marker in (("complete", "o"), ("pruned", "x")):
        mine = [row for row in rows if row["state"] == state]
        if mine:
            x = [places[row[field]] for row in mine]
            y = [float(row["value"]) for row in mine]
            panel.plot(x, y, marker, markersize=4, alpha=0.6, label=state)
    if len(places) <= _CATEGORIES or not _numeric(places):
        panel.set_xticks(list(places.values()), list(places))
    elif _spans(list(places.values())):
        panel.set_xscale("log")


def _draw_means(panel, rows: list[dict], field: str, fields: list[str]) -> None:
    """Mean and standard deviation of completed runs with equal values of `fields`."""
    places = _places(rows, field)
    joined: dict[tuple, list[float]] = {}
    for row in rows:
        if row["state"] == "complete":
            point = tuple(row[name] for name in fields)
            joined.setdefault(point, []).append(float(row["value"]))
    at = fields.index(field)
    spread = {point: values for point, values in joined.items() if len(values) > 1}
    if spread:
        panel.errorbar(
            [places[point[at]] for point in spread],
            [statistics.fmean(values) for values in spread.values()],
            yerr=[statistics.stdev(values) for values in spread.values()],
            **{"fmt": "_", "color": "black", "capsize": 3, "label": "mean, deviation"},
        )


def _places(rows: list[dict], field: str) -> dict[str, float]:
    """Each text of a column on the axis: in order, or, if many, at its number."""
    texts = {row[field] for row in rows}
    if not _numeric(texts):
        return {text: float(i) for i, text in enumerate(sorted(texts))}
    ordered = sorted(texts, key=float)
    few = len(ordered) <= _CATEGORIES
    return {text: float(i if few else text) for i, text in enumerate(ordered)}


def _numeric(texts: Iterable[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False


def _spans(values: list[float]) -> bool:
    """Whether positive numbers span so much that a logarithmic axis shows them."""
    return bool(values) and min(values) > 0 and max(values) >= 30 * min(values)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="*", metavar="WORKDIR", type=pathlib.Path)
    workdirs = parser.parse_args(argv).workdirs
    try:
        if not workdirs:
            from experiments.reproduction import drawings  # which needs records

            for path in drawings.redraw():
                print(path)
        for workdir in workdirs:
            output = workdir / "learning_curve.png"
            print(learning_curve(workdir / "metrics.jsonl", output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
