"""What the drawings share: series of records, and panels of them. No JAX.

Curves are means over seeds, with a band from the least to the greatest; the legend
says how many seeds. A run that diverged ends at a cross.
"""

import statistics
from collections.abc import Callable
from typing import Any

from experiments.reproduce import estimates

Series = dict[str, list[dict]]  # label: its records, one a seed

COLORS = {
    **{"rnn": "C0", "irnn": "C1", "lstm": "C2", "ornn": "C3", "spectral": "C4"},
    **{"mlp": "C0", "resnet": "C1", "spectral_mlp": "C3", "spectral_resnet": "C4"},
}
SHADES = ("C4", "C5", "C6", "C8", "C9", "C7")  # of several radii


def by_model(found: list[dict]) -> Series:
    """A series for each model, in the order of the records."""
    series: Series = {}
    for record in found:
        series.setdefault(record["config"]["model"]["name"], []).append(record)
    return series


def by_radius(found: list[dict]) -> Series:
    """A series for each model, and of spectral for each radius."""
    series: Series = {}
    for record in found:
        model = record["config"]["model"]
        name = model["name"]
        name += f", r = {model['radius']:g}" if name == "spectral" else ""
        series.setdefault(name, []).append(record)
    return series


def colors(series: Series) -> dict[str, str]:
    """Each model's own colour, and shades for several series of one."""
    shades = iter(SHADES)
    return {name: COLORS.get(name) or next(shades, "C7") for name in series}


def final(record: dict, metric: str) -> float | None:
    """The test metric at the final parameters; None where the run diverged."""
    return record["result"] and record["result"]["metrics"]["test"].get(metric)


def median(record: dict, key: str) -> float | None:
    """The median over the training points."""
    values = [p[key] for p in record.get("train", []) if p.get(key) is not None]
    return statistics.median(values) if values and record["result"] else None


def last(record: dict, key: str) -> float | None:
    """The last training point."""
    values = [p[key] for p in record.get("train", []) if p.get(key) is not None]
    return values[-1] if values and record["result"] else None


def iterations(found: list[dict]) -> str:
    """'1,000 iterations', or the range where models differ."""
    counts = sorted({estimates.steps(record["config"]) for record in found})
    if not counts:
        return "no runs"
    ends = counts if len(counts) == 1 else (counts[0], counts[-1])
    return " to ".join(f"{count:,}" for count in ends) + " iterations"


def machines(found: list[dict]) -> str:
    """The machines of records in general terms: device and cores."""
    names = {
        f"{record['machine']['device']}, {record['machine']['cores']} cores,"
        f" {record['machine']['architecture']}"
        for record in found
    }
    return " / ".join(sorted(names))


# ---- What panels share.


# A figure has a legend where a series is first drawn: its other panels are of the same
# runs.


def curves(
    panel: Any,
    series: Series,
    split: str,
    key: str,
    *,
    log: bool = True,
    unit: int = 1,
    legend: bool = True,
) -> None:
    """Mean and range over seeds of a metric over iterations divided by `unit`."""
    for name, color in colors(series).items():
        found = series[name]
        points: dict[int, list[float]] = {}
        for record in found:
            for point in record.get(split, []):
                if point.get(key) is not None:
                    points.setdefault(point["step"], []).append(point[key])
        if not points:
            continue
        _band(panel, points, color, _legend(name, found), unit)
        _mark_diverged(panel, found, split, key, color, unit)
    if log:
        panel.set_yscale("log")
    if legend and panel.has_data():
        panel.legend(fontsize=7, framealpha=0.6)


def over(
    panel: Any,
    series: Series,
    field: tuple[str, str],
    value: Callable[[dict], float | None],
    *,
    log: bool = False,
    legend: bool = True,
) -> None:
    """Mean and range over seeds of a number of each run over a field of its config."""
    section, name = field
    for model, color in colors(series).items():
        points: dict[float, list[float]] = {}
        for record in series[model]:
            place, number = record["config"][section][name], value(record)
            if number is not None:
                points.setdefault(place, []).append(number)
            elif record["result"] is None:
                panel.plot(place, 0.02, "x", color=color, transform=_bottom(panel))
        if points:
            _band(panel, points, color, _legend(model, series[model]), 1, marker="o")
    if log:
        panel.set_yscale("log")
    if legend and panel.has_data():
        panel.legend(fontsize=7, framealpha=0.6)


def baseline(panel: Any, found: list[dict], name: str) -> None:
    """A dashed line at the loss of the model that knows nothing."""
    known = [r["result"]["baseline"] for r in found if r["result"]]
    if known:
        panel.axhline(known[0], color="gray", linestyle="--", linewidth=1, label=name)
        panel.legend(fontsize=7, framealpha=0.6)


def label(panel: Any, x: str, y: str) -> None:
    """Names of both axes, and a grid."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(alpha=0.3)


def _band(
    panel: Any, points: dict, color: str, name: str, unit: int, **style: Any
) -> None:
    """The line of the means and the band from least to greatest."""
    places = sorted(points)
    x = [place / unit for place in places]
    means = [statistics.fmean(points[place]) for place in places]
    low, high = ([end(points[place]) for place in places] for end in (min, max))
    panel.plot(x, means, color=color, label=name, linewidth=1.4, markersize=3, **style)
    panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _mark_diverged(
    panel: Any, found: list[dict], split: str, key: str, color: str, unit: int
) -> None:
    """A cross at the last finite point of every run that diverged."""
    for record in found:
        known = [p for p in record.get(split, []) if p.get(key) is not None]
        if record["result"] is None and known:
            panel.plot(known[-1]["step"] / unit, known[-1][key], "x", color=color)


def _legend(name: str, found: list[dict]) -> str:
    """'rnn (3 seeds, 1 diverged)'."""
    seeds = len({record["config"]["seed"] for record in found})
    diverged = sum(record["result"] is None for record in found)
    text = f"{name} ({seeds} seed{'s' if seeds > 1 else ''}"
    return text + (f", {diverged} diverged)" if diverged else ")")


def _bottom(panel: Any) -> Any:
    """Data across, a fraction of the panel up."""
    return panel.get_xaxis_transform()
