"""The figure of a sweep, from its sweep.csv alone. No JAX."""

import csv
import math
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

_CATEGORIES = 8  # most values of a swept field that are drawn side by side


def draw(
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
        mine = [row for row in rows if row[field]]  # a field may depend on another
        _draw_runs(panel, mine, field)
        if "seed" in fields and field != "seed":
            _draw_means(panel, mine, field, [name for name in fields if name != "seed"])
        panel.set_xlabel(field)
        panel.grid(alpha=0.3)
    if _spans([float(row["value"]) for row in rows]):
        panels[0].set_yscale("log")
    if rows:
        panels[0].legend()
    figure.savefig(output, dpi=120)
    return pathlib.Path(output)


def _draw_runs(panel: Any, rows: list[dict], field: str) -> None:
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


def _draw_means(panel: Any, rows: list[dict], field: str, fields: list[str]) -> None:
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
