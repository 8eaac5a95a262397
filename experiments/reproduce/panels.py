"""What the drawings share: series of records, and panels of them. No JAX.

Curves are medians over seeds, with a band from the least to the greatest. A run that
diverged ends at a cross. Who draws the figure adds one legend for all its panels, and
their letters.
"""

import statistics
import string
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.reproduce import estimates, protocol
from experiments.runs import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TICKS = ("bottom", "left", "labelbottom", "labelleft")

Series = dict[str, list[dict]]  # label: its records, one a seed
Styles = dict[str, dict]  # label: how its line is drawn

ABOVE_BASELINE = 100  # losses beyond so many times that of knowing nothing are cut off
CARRY_GRADIENT = "‖∂L/∂h⁽⁰⁾‖"


def by_model(records: list[dict]) -> Series:
    """A series for each model, in the order of the records."""
    series: Series = {}
    for record in records:
        series.setdefault(pictures.title(_model(record)), []).append(record)
    return series


def by_radius(records: list[dict]) -> Series:
    """A series for each model, and of spectral for each radius."""
    series: Series = {}
    for record in records:
        label = pictures.title(_model(record))
        if _model(record) == "spectral":
            label += f", r = {record['config']['model']['radius']:g}"
        series.setdefault(label, []).append(record)
    return series


def by_protocol(records: list[dict]) -> dict[str, list[dict]]:
    """The records of each protocol that has any."""
    groups = {
        name: [record for record in records if record["protocol"] == name]
        for name in protocol.PROTOCOLS
    }
    return {name: group for name, group in groups.items() if group}


def same_limits(panels: Iterable[Any]) -> None:
    """Gives panels of one kind the widest limits of their values."""
    drawn = [panel for panel in panels if panel.has_data()]
    ends = [panel.get_ylim() for panel in drawn]
    for panel in drawn:
        panel.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def styles(series: Series) -> Styles:
    """Each model's own colour; several series of one differ in their dashes."""
    looks: Styles = {}
    models = [_model(records[0]) for records in series.values()]
    for i, (label, model) in enumerate(zip(series, models, strict=True)):
        later = models[i + 1 :].count(model)
        looks[label] = pictures.model_style(model, later)
    return looks


def _model(record: dict) -> str:
    return record["config"]["model"]["name"]


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


def iterations(records: list[dict]) -> str:
    """'1,000 iterations', or the range where models differ."""
    counts = sorted({_iterations(record) for record in records})
    if not counts:
        return "no runs"
    ends = counts if len(counts) == 1 else (counts[0], counts[-1])
    return " to ".join(f"{count:,}" for count in ends) + " iterations"


def _iterations(record: dict) -> int:
    """The updates that a run made; of one that diverged, those that were planned."""
    result = record["result"]
    return result["steps"] if result else estimates.steps(record["config"])


def machines(records: list[dict]) -> str:
    """The machines of records in general terms: device and cores."""
    names = {
        f"{machine['device']}, {machine['cores']} cores, {machine['architecture']}"
        for machine in (record["machine"] for record in records)
        if machine is not None
    }
    return " / ".join(sorted(names))


# ---- What panels share.


def curves(
    panel: Any,
    series: Series,
    split: str,
    key: str,
    *,
    log: bool = True,
    unit: int = 1,
    looks: Styles | None = None,
) -> None:
    """Median and range over seeds of a metric over iterations divided by `unit`.

    Validations have a dot each.
    `looks` are those of `styles`, where other panels have series that this one lacks.
    """
    looks = looks or styles(series)
    for name, records in series.items():
        points: dict[int, list[float]] = {}
        for record in records:
            for point in record.get(split, []):
                if point.get(key) is not None:
                    points.setdefault(point["step"], []).append(point[key])
        if points:
            look = looks[name] | ({"marker": "."} if split == "valid" else {})
            _band(panel, points, name, unit, look)
            for record in records:
                if record["result"] is None:
                    _mark_diverged(panel, record, split, key, looks[name], unit, log)
    panel.set_xlim(left=0)  # as the panels above and below it
    if log:
        panel.set_yscale("log")


class Curve(NamedTuple):
    """What a panel shows over iterations: a metric of a split, named on the axis."""

    split: str
    key: str
    name: str
    log: bool = True


def lengths(
    records: list[dict], rows: tuple[Curve, ...], title: str, nothing: str
) -> "Figure":
    """Curves over iterations: lengths of the task across, protocols and rows down.

    Args:
      records: of runs whose config has `task.length`.
      rows: of each protocol; the first has a line at the loss of the model that knows
        nothing.
      title: of a column, with {} for its length.
      nothing: the name of that line.
    """
    columns = sorted({record["config"]["task"]["length"] for record in records})
    groups = by_protocol(records)
    height = 1.75 * len(rows) * len(groups) + 0.5
    figure = pictures.figure(pictures.PAGE, height)
    shape = len(groups), len(rows), len(columns)
    grid = figure.subplots(shape[0] * shape[1], shape[2], squeeze=False)
    for block, (name, of_name) in zip(grid.reshape(shape), groups.items(), strict=True):
        for column, length in zip(block.T, columns, strict=True):
            group = [r for r in of_name if r["config"]["task"]["length"] == length]
            for panel, row in zip(column, rows, strict=True):
                curves(panel, by_model(group), row.split, row.key, log=row.log)
            baseline(column[0], group, nothing)
            column[0].set_title(f"{name}, {title.format(length)}")
            column[-1].set_xlabel("iteration")
        for panel, row in zip(block[:, 0], rows, strict=True):
            panel.set_ylabel(row.name)
    # The same panel of each protocol has the same limits.
    for panels in grid.reshape(shape).transpose(1, 2, 0).reshape(-1, len(groups)):
        same_limits(panels)
    baselines = [record["result"]["baseline"] for record in records if record["result"]]
    for panel in grid.reshape(shape)[:, 0].flat if baselines else ():
        # One run that leaves all bounds would leave no room for the others.
        panel.set_ylim(top=min(panel.get_ylim()[1], ABOVE_BASELINE * max(baselines)))
    for panel in grid.flat:
        not_run(panel)
    figure.align_ylabels(grid)
    return figure


def over(
    panel: Any,
    series: Series,
    value: Callable[[dict], tuple[float, float | None]],
    *,
    log: bool = False,
    looks: Styles | None = None,
) -> None:
    """Median and range over seeds of a number of each run over another.

    `value` gives both of a record, the second None where the run diverged.
    """
    looks = looks or styles(series)
    for name, records in series.items():
        points: dict[float, list[float]] = {}
        for record in records:
            place, number = value(record)
            if number is not None:
                points.setdefault(place, []).append(number)
            else:
                _cross(panel, place, 0.02, looks[name], panel.get_xaxis_transform())
        if points:
            _band(panel, points, name, 1, looks[name] | {"marker": "o"})
    if log:
        panel.set_yscale("log")


def baseline(panel: Any, records: list[dict], name: str) -> None:
    """A dashed line at the loss of the model that knows nothing."""
    losses = [r["result"]["baseline"] for r in records if r["result"]]
    if losses:
        look = {"color": "gray", "linestyle": "--", "linewidth": 1}
        panel.axhline(losses[0], label=name, **look)


def not_run(panel: Any) -> None:
    """Says in an empty panel that there is no record to draw."""
    if not panel.has_data():
        middle = {"ha": "center", "va": "center", "transform": panel.transAxes}
        panel.text(0.5, 0.5, "not run", color="gray", **middle)
        panel.tick_params(which="both", **dict.fromkeys(_TICKS, False))
        panel.grid(False)


def letter(figure: "Figure") -> None:
    """Letters several panels (a), (b), ... in front of their titles."""
    panels = figure.axes
    if len(panels) > 1:
        for name, panel in zip(string.ascii_lowercase, panels, strict=False):
            panel.set_title(f"({name}) {panel.get_title()}".rstrip(), loc="left")
            panel.set_title("")


def label(panel: Any, x: str, y: str) -> None:
    """Names of both axes."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def _band(panel: Any, points: dict, name: str, unit: int, look: dict) -> None:
    """The line of the medians and the band from least to greatest."""
    places = sorted(points)
    x = [place / unit for place in places]
    medians = [statistics.median(points[place]) for place in places]
    low, high = ([end(points[place]) for place in places] for end in (min, max))
    panel.plot(x, medians, label=name, **look)
    if low != high:  # of one seed there is no band
        panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _mark_diverged(
    panel: Any,
    record: dict,
    split: str,
    key: str,
    look: dict,
    unit: int,
    log: bool,
) -> None:
    """A cross at the last finite point of a run that diverged.

    Where that cannot be drawn, or there is none, at the bottom, where the run ended.
    """
    points = [p for p in record.get(split, []) if p.get(key) is not None]
    if points and (points[-1][key] > 0 or not log):
        _cross(panel, points[-1]["step"] / unit, points[-1][key], look)
    else:
        step = record["diverged"]["step"] / unit
        _cross(panel, step, 0.02, look, panel.get_xaxis_transform())


def _cross(panel: Any, x: float, y: float, look: dict, transform: Any = None) -> None:
    where = {"transform": transform} if transform else {}
    panel.plot(x, y, "x", color=look["color"], markersize=5, **where)
