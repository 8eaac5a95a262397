"""The figure of a sweep, from its sweep.csv alone. No JAX."""

import csv
import math
import pathlib
import statistics
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import optuna

from experiments.runs import pictures
from experiments.sweep import space as spaces

_CATEGORIES = 8  # most values of a swept field that are drawn side by side
_PANELS = 2  # most fields that have a panel each


class _Point(NamedTuple):
    """A point of the space: its fields, as texts, and the values of its runs."""

    fields: dict[str, str]
    complete: list[float]
    pruned: list[float]  # the last ones


def draw(
    runs: str | pathlib.Path,
    output: str | pathlib.Path,
    space: spaces.Space,
    metric: str,
    higher_is_better: bool = False,
) -> pathlib.Path:
    """Draws the values of a sweep's runs over the searched fields from its sweep.csv.

    One or two fields have a panel each, with pruned runs as crosses at their last
    value; of runs that differ in seed or fold alone, the mean and the range. Of two
    fields the colour is that of the other one. More fields are parallel axes, with a
    line for each point that some run completed. Returns the PNG; PDF and SVG lie beside
    it.
    """
    with pathlib.Path(runs).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["value"]]
    fields = list(space)
    averaged = [name for name in spaces.AVERAGED if name in fields]
    searched = [name for name in fields if name not in averaged] or fields
    points = _points(rows, searched)
    kinds = " and ".join(spaces.AVERAGED[name] for name in averaged)
    times = sorted({len(point.complete) for point in points if point.complete})
    over = ""
    if times and times[-1] > 1 and searched != fields:
        counted = " to ".join(map(str, dict.fromkeys((times[0], times[-1]))))
        over = f" over {counted} {kinds}"
    metric = pictures.plain(metric, 40)
    scales = {
        name: _scale({p.fields[name] for p in points} - {""}, space[name])
        for name in searched
    }
    if len(searched) > _PANELS and any(point.complete for point in points):
        name = f"validation {metric}{f', mean{over}' if over else ''}"
        return _draw_parallel(points, output, scales, name, higher_is_better)
    one = len(searched) == 1
    size = (pictures.COLUMN, 3.0) if one else (pictures.PAGE, 3.6)
    with pictures.picture(*size, output) as figure:
        panels = figure.subplots(1, len(searched), squeeze=False, sharey=True)[0]
        panels[0].set_ylabel(f"validation {metric}")
        if pictures.spans(float(row["value"]) for row in rows):
            panels[0].set_yscale("log")
        for panel, field in zip(panels, searched, strict=True):
            # A field may depend on another, and some points do without.
            present = [point for point in points if point.fields[field]]
            _draw_field(panel, present, field, scales, over)
    return pathlib.Path(output)


def _scale(texts: set[str], spec: list | dict) -> str:
    """How the axis of a field is: `log` or `linear`, or `categories` side by side."""
    ranges = spaces.ranges(spec)
    if not _numeric(texts) or not (ranges or _many(texts)):
        return "categories"
    if ranges:
        return "log" if any(part.get("log") for part in ranges) else "linear"
    return "log" if pictures.spans(map(float, texts)) else "linear"


def _points(rows: list[dict], fields: list[str]) -> list[_Point]:
    """The points in the order of their first runs."""
    points: dict[tuple, _Point] = {}
    for row in rows:
        key = tuple(row[name] for name in fields)
        point = points.setdefault(key, _Point({n: row[n] for n in fields}, [], []))
        if row["state"] in ("complete", "pruned"):
            getattr(point, row["state"]).append(float(row["value"]))
    return list(points.values())


def _draw_field(
    panel: Any, points: list[_Point], field: str, scales: dict[str, str], over: str
) -> None:
    """One panel: every run's value over a field, numbers in order, or categories."""
    places = _places({point.fields[field] for point in points}, scales[field])
    at = [places[point.fields[field]] for point in points]
    if scales[field] == "categories":
        at = _side_by_side(at)
    others = [name for name in scales if name != field]
    colors = _colors(panel, points, others[0], scales) if len(others) == 1 else None
    looks = {"complete": ("o", pictures.BLUE), "pruned": ("x", pictures.RED)}
    for state, (marker, color) in looks.items():
        drawn = [
            (x, value, colors[i] if colors else color)
            for i, (x, point) in enumerate(zip(at, points, strict=True))
            for value in getattr(point, state)
        ]
        if drawn:
            x, y, own = zip(*drawn, strict=True)
            panel.scatter(x, y, 12, own, marker=marker, alpha=0.8)
            shown = pictures.GRAY if colors else color
            panel.plot([], [], marker, color=shown, label=state)
    several = [
        (x, point.complete)
        for x, point in zip(at, points, strict=True)
        if len(point.complete) > 1
    ]
    if several and over:
        _draw_ranges(panel, several, f"mean and range{over}")
    panel.set_xlabel(pictures.plain(field, 40))
    if scales[field] == "categories":
        names = [pictures.plain(text, 30) for text in places]
        panel.set_xticks(list(places.values()), names)
        panel.set_xlim(-0.5, max(places.values(), default=0) + 0.5)
    else:
        panel.set_xscale(scales[field])


def _colors(
    panel: Any, points: list[_Point], field: str, scales: dict[str, str]
) -> list[Any]:
    """Each point's colour by a field, whose colours stand above the panel."""
    texts = [point.fields[field] for point in points]
    places = _places(set(texts) - {""}, scales[field])
    if not places:
        return [pictures.GRAY] * len(points)
    name = pictures.plain(field, 40)
    if scales[field] == "categories":
        own = dict(zip(places, pictures.PALETTE, strict=False))
        panel.legend(
            [panel.plot([], [], "o", color=color)[0] for color in own.values()],
            [pictures.plain(text, 30) for text in own],
            title=name,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=4,
            handlelength=1,
            columnspacing=1,
        )
        return [own.get(text, pictures.GRAY) for text in texts]
    from matplotlib import cm, colors

    ends = min(places.values()), max(places.values())
    norm = colors.LogNorm(*ends) if scales[field] == "log" else colors.Normalize(*ends)
    scale: Any = cm.ScalarMappable(norm, "viridis")
    panel.figure.colorbar(scale, ax=panel, label=name, location="top", aspect=40)
    return [scale.to_rgba(places[text]) if text else pictures.GRAY for text in texts]


def _draw_ranges(panel: Any, several: list[tuple], label: str) -> None:
    """Mean and range of values at their places."""
    means = [statistics.fmean(values) for _, values in several]
    ends = [(min(values), max(values)) for _, values in several]
    low = [mean - end for mean, (end, _) in zip(means, ends, strict=True)]
    high = [end - mean for mean, (_, end) in zip(means, ends, strict=True)]
    style = {"fmt": "_", "markersize": 8, "capsize": 2, "color": "black"}
    x = [place for place, _ in several]
    panel.errorbar(x, means, yerr=[low, high], linewidth=1, label=label, **style)


def _side_by_side(places: list[float]) -> list[float]:
    """The same places, those that are equal spread over half of the room around."""
    moved = []
    for i, place in enumerate(places):
        before, equal = places[:i].count(place), places.count(place)
        moved.append(place + 0.5 * ((before + 0.5) / equal - 0.5))
    return moved


# ---- Parallel axes, which are Optuna's.


def _draw_parallel(
    points: list[_Point],
    output: str | pathlib.Path,
    scales: dict[str, str],
    name: str,
    higher_is_better: bool,
) -> pathlib.Path:
    """A line for each point with a completed run, from its value through its fields."""
    study = _study([p for p in points if p.complete], scales, higher_is_better)
    with pictures.style(), warnings.catch_warnings():
        from matplotlib import pyplot
        from optuna.visualization import matplotlib as optuna_figures

        pyplot.switch_backend("agg")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes = optuna_figures.plot_parallel_coordinate(
            study, params=list(scales), target_name=name
        )
        axes.set_title("")
        axes.set_facecolor("white")
        axes.grid(False)
        axes.collections[0].set_cmap("viridis" if higher_is_better else "viridis_r")
        figure: Any = axes.figure
        figure.axes[1].set_ylabel("")  # of the colours, which the first axis has
        axes.tick_params(axis="x", rotation=0)
        axes.set_xticks(*_broken(axes))
        for axis in figure.axes[2:]:
            for label in axis.get_yticklabels():  # lines run through them
                label.set_bbox({"facecolor": "white", "alpha": 0.8, "pad": 1, "lw": 0})
        figure.set_size_inches(pictures.PAGE, 3.4)
        pictures.save(figure, output)
        pyplot.close(figure)
    return pathlib.Path(output)


def _broken(axes: Any) -> tuple[list[float], list[str]]:
    """The names below the axes, in lines that do not run into each other."""
    first, *fields = [label.get_text() for label in axes.get_xticklabels()]
    names = [first, *map(pictures.plain, fields)]
    lines = [name.replace(".", ".\n").replace(", ", ",\n") for name in names]
    return list(axes.get_xticks()), lines


def _study(
    points: list[_Point], scales: dict[str, str], higher_is_better: bool
) -> optuna.Study:
    """A trial for each point, with the mean of its completed runs."""
    directions = optuna.study.StudyDirection
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        direction=directions.MAXIMIZE if higher_is_better else directions.MINIMIZE,
    )
    texts = {f: {p.fields[f] for p in points} - {""} for f in scales}
    kinds = {f: _distribution(texts[f], scales[f]) for f in scales if texts[f]}
    for point in points:
        own = {f: kinds[f] for f in kinds if point.fields[f]}
        trial = optuna.trial.create_trial(
            value=statistics.fmean(point.complete),
            params={f: _value(point.fields[f], texts[f], scales[f]) for f in own},
            distributions=own,
        )
        study.add_trial(trial)
    return study


def _distribution(texts: set[str], scale: str) -> optuna.distributions.BaseDistribution:
    """Choices, or the range of numbers."""
    if scale == "categories":
        choices = [_value(text, texts, scale) for text in sorted(texts)]
        return optuna.distributions.CategoricalDistribution(choices)
    values = sorted(map(float, texts))
    log = scale == "log"
    return optuna.distributions.FloatDistribution(values[0], values[-1], log=log)


def _value(text: str, column: set[str], scale: str) -> Any:
    """A number in a column of numbers, which Optuna draws in order, or the text."""
    if not _numeric(column):
        return pictures.plain(text)
    return int(text) if text.isdecimal() and scale == "categories" else float(text)


def _many(texts: set[str]) -> bool:
    """Whether they are too many to stand side by side."""
    return len(texts) > _CATEGORIES


def _places(texts: set[str], scale: str) -> dict[str, float]:
    """Each text of a column on the axis: in order, or at its number."""
    if not _numeric(texts):
        return {text: float(i) for i, text in enumerate(sorted(texts))}
    ordered = sorted(texts, key=float)
    side_by_side = scale == "categories"
    return {text: i if side_by_side else float(text) for i, text in enumerate(ordered)}


def _numeric(texts: Iterable[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False
