"""F1 to F4 from records alone. No JAX.

Curves are means over seeds, with a band from the least to the greatest; the legend
says how many seeds. A run that diverged ends at a cross.
"""

import io
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable

from matplotlib.figure import Figure
from PIL import Image

from experiments import records
from experiments.reproduction import protocols, status

Series = dict[str, list[dict]]  # label: its records, one a seed

COLORS = {
    **{"rnn": "C0", "irnn": "C1", "lstm": "C2", "ornn": "C3", "spectral": "C4"},
    **{"mlp": "C0", "resnet": "C1", "spectral_mlp": "C3", "spectral_resnet": "C4"},
}
SHADES = ("C4", "C5", "C6", "C8", "C9", "C7")  # of several radii


def redraw(results: pathlib.Path = records.RESULTS) -> list[pathlib.Path]:
    """Draws every figure of which some run is recorded, and returns their paths."""
    drawn = []
    for scale in protocols.SCALES:
        for figure in DRAWINGS:
            path = draw(figure, scale, results)
            if path is not None:
                drawn.append(path)
    return drawn


def draw(figure: str, scale: str, results: pathlib.Path) -> pathlib.Path | None:
    """Draws a figure from the records there are; None where there is none.

    A record that cannot be used is left out, with a warning on stderr.
    """
    asked = protocols.runs(figure, scale)
    found = usable(asked, results)
    if not found:
        return None
    drawing = DRAWINGS[figure](found, scale)
    drawing.suptitle(caption(figure, scale, found, len(asked)), fontsize=9)
    output = results / "figures" / f"{figure}_{scale}.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    _save(drawing, output)
    return output


def _save(figure: Figure, output: pathlib.Path) -> None:
    """A PNG of 128 colours, a third of the size, for the repository."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=90)
        colours = Image.open(buffer).convert("RGB").quantize(128)
        colours.save(output, optimize=True)


def usable(runs: Iterable, results: pathlib.Path) -> list[dict]:
    """The records of these runs; what is wrong with others goes to stderr."""
    found = []
    for run in runs:
        record, problem = status.find(run, results)
        if problem:
            print(f"warning: left out: {problem}", file=sys.stderr)
        elif record:
            found.append(record)
    return found


def caption(figure: str, scale: str, found: list[dict], asked: int) -> str:
    """Title, scale, how many runs there are, and the machines."""
    seeds = sorted({record["config"]["seed"] for record in found})
    diverged = sum(record["result"] is None for record in found)
    parts = [
        f"scale {scale}",
        f"seeds {', '.join(map(str, seeds))}",
        f"{len(found)} of {asked} runs",
        machines(found),
    ]
    if diverged:
        parts.insert(3, f"{diverged} diverged")
    if scale == "smoke":
        parts.append("stand-in data, no result")
    return f"{TITLES[figure]}\n{'; '.join(parts)}"


def machines(found: list[dict]) -> str:
    """The machines of records in general terms: device and cores."""
    names = {
        f"{record['machine']['device']}, {record['machine']['cores']} cores,"
        f" {record['machine']['architecture']}"
        for record in found
    }
    return " / ".join(sorted(names))


# ---- The figures.


def addition(found: list[dict], scale: str) -> Figure:
    """F1: validation MSE and ||dL/dh_0|| over iterations, a column for each length."""
    del scale
    lengths = sorted({record["config"]["task"]["length"] for record in found})
    figure = Figure(figsize=(4 * len(lengths) + 1, 6.5), layout="constrained")
    panels = figure.subplots(2, len(lengths), squeeze=False)
    for column, length in zip(panels.T, lengths, strict=True):
        mine = [r for r in found if r["config"]["task"]["length"] == length]
        curves(column[0], by_model(mine), "valid", "mse")
        baseline(column[0], mine, "always answering 1")
        curves(column[1], by_model(mine), "train", "carry_grad_norm", legend=False)
        column[0].set_title(f"T = {length}, {iterations(mine)}", fontsize=9)
        label(column[0], "iteration", "validation MSE")
        label(column[1], "iteration", r"$\|\partial L/\partial h^{(0)}\|$")
    return figure


def copying(found: list[dict], scale: str) -> Figure:
    """F2: validation loss and recall over iterations, a column for each lag."""
    del scale
    lags = sorted({record["config"]["task"]["length"] for record in found})
    figure = Figure(figsize=(4 * len(lags) + 1, 6.5), layout="constrained")
    panels = figure.subplots(2, len(lags), squeeze=False)
    for column, lag in zip(panels.T, lags, strict=True):
        mine = [r for r in found if r["config"]["task"]["length"] == lag]
        curves(column[0], by_model(mine), "valid", "loss")
        baseline(column[0], mine, "knows nothing")
        recall = {"log": False, "legend": False}
        curves(column[1], by_model(mine), "valid", "recall", **recall)
        column[0].set_title(f"lag T = {lag}, {iterations(mine)}", fontsize=9)
        label(column[0], "iteration", "validation loss")
        label(column[1], "iteration", "validation recall")
    return figure


def pixel_mnist(found: list[dict], scale: str) -> Figure:
    """F3: accuracy, ||dL/dh_0|| and margin over iterations, and over the leak."""
    del scale
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    panels = figure.subplots(3, 3)
    lengths = sorted({record["config"]["task"]["steps"] for record in found})
    for row, length in zip(panels, lengths, strict=False):
        mine = [
            record
            for record in found
            if record["config"]["task"]["steps"] == length
            and record["config"]["model"]["leak"] == protocols.F3_LEAK
        ]
        series = by_radius(mine)
        curves(row[0], series, "valid", "accuracy", log=False)
        curves(row[1], series, "train", "carry_grad_norm", legend=False)
        curves(row[2], series, "train", "spectral_margin", legend=False)
        row[0].set_title(f"{length} steps, {iterations(mine)}", fontsize=9)
        label(row[0], "iteration", "validation accuracy")
        label(row[1], "iteration", r"$\|\partial L/\partial h^{(0)}\|$")
        label(row[2], "iteration", r"margin $\max_i |\sigma_i - 1|$ of W")
    _over_leak(panels[2], found)
    for panel in panels.flat:
        if not panel.has_data():
            panel.set_axis_off()
    return figure


def _over_leak(row, found: list[dict]) -> None:
    """The row of F3 over the leak, of the records that differ in it."""
    leaks = {r["config"]["model"]["leak"] for r in found} - {protocols.F3_LEAK}
    steps = {
        record["config"]["task"]["steps"]
        for record in found
        if record["config"]["model"]["leak"] in leaks
    }
    mine = [
        record
        for record in found
        if record["config"]["task"]["steps"] in steps
        and record["config"]["model"]["name"] != "lstm"
        and record["config"]["model"]["radius"] == protocols.F3_RADIUS
    ]
    if not steps:
        return
    values = {
        "test accuracy": lambda record: final(record, "accuracy"),
        r"median $\|\partial L/\partial h^{(0)}\|$": lambda record: median(
            record, "carry_grad_norm"
        ),
        "margin at the end": lambda record: last(record, "spectral_margin"),
    }
    for panel, (name, value) in zip(row, values.items(), strict=True):
        first = name == "test accuracy"
        series = by_model(mine)
        over(panel, series, ("model", "leak"), value, log=not first, legend=first)
        label(panel, f"leak ({', '.join(map(str, sorted(steps)))} steps)", name)
        ticks = sorted(leaks | {protocols.F3_LEAK})
        # Evenly spread enough to be read: 0, 0.01 and 0.1 would fall together.
        panel.set_xscale("symlog", linthresh=0.01)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xlim(-0.002, 1.5)


def deep_mlp(found: list[dict], scale: str) -> Figure:
    """F4: accuracy over epochs at one shape, and test accuracy over depth."""
    shape = protocols.F4_SHAPE[scale]
    epoch = protocols.EPOCH_STEPS["mnist"]

    def fits(record):
        model = record["config"]["model"]
        return (model["layers"], model["hidden"]) == shape

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    one = [record for record in found if fits(record)]
    depths = [record for record in found if not fits(record)]
    curves(left, by_model(one), "valid", "accuracy", log=False, unit=epoch)
    left.set_title(f"{shape[0]} layers of {shape[1]} units", fontsize=9)
    label(left, "epoch", "validation accuracy")
    over(right, by_model(depths), ("model", "layers"), lambda r: final(r, "accuracy"))
    widths = sorted({record["config"]["model"]["hidden"] for record in depths})
    right.set_title(
        f"width {', '.join(map(str, widths))}, {iterations(depths)}", fontsize=9
    )
    label(right, "hidden layers", "test accuracy")
    for depth, name in ((35, "MLP"), (70, "ResNet")) if scale != "smoke" else ():
        right.axvline(depth, color="gray", linestyle=":", linewidth=1)
        right.text(
            depth,
            0.33,
            f" the paper: {name} fails beyond {depth}",
            rotation=90,
            fontsize=7,
            transform=_bottom(right),
        )
    return figure


DRAWINGS: dict[str, Callable[[list[dict], str], Figure]] = {
    "F1": addition,
    "F2": copying,
    "F3": pixel_mnist,
    "F4": deep_mlp,
}
TITLES = {
    "F1": "F1: addition, 128 hidden units",
    "F2": "F2: copy, 128 hidden units",
    "F3": "F3: pixel MNIST at several steps, radii and leaks, 128 hidden units",
    "F4": "F4: deep and residual networks of whole MNIST digits",
}


# ---- Series of records.


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
    counts = sorted({protocols.steps(record["config"]) for record in found})
    if not counts:
        return "no runs"
    ends = counts if len(counts) == 1 else (counts[0], counts[-1])
    return " to ".join(f"{count:,}" for count in ends) + " iterations"


# ---- What panels share.


# A figure has a legend where a series is first drawn: its other panels are of the same
# runs.


def curves(
    panel, series: Series, split: str, key: str, *, log=True, unit=1, legend=True
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
    panel, series: Series, field: tuple[str, str], value, *, log=False, legend=True
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


def baseline(panel, found: list[dict], name: str) -> None:
    """A dashed line at the loss of the model that knows nothing."""
    known = [r["result"]["baseline"] for r in found if r["result"]]
    if known:
        panel.axhline(known[0], color="gray", linestyle="--", linewidth=1, label=name)
        panel.legend(fontsize=7, framealpha=0.6)


def label(panel, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(alpha=0.3)


def _band(panel, points: dict, color: str, name: str, unit: int, **style) -> None:
    """The line of the means and the band from least to greatest."""
    places = sorted(points)
    x = [place / unit for place in places]
    means = [statistics.fmean(points[place]) for place in places]
    low, high = ([end(points[place]) for place in places] for end in (min, max))
    panel.plot(x, means, color=color, label=name, linewidth=1.4, markersize=3, **style)
    panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _mark_diverged(panel, found, split, key, color, unit) -> None:
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


def _bottom(panel):
    """Data across, a fraction of the panel up."""
    return panel.get_xaxis_transform()
