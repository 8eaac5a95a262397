"""F3, pixel MNIST at 28 and 112 steps: accuracy, gradient and margin, radii and leaks.

`cpu` has 3 epochs instead of 26; three of the six radii, five of the eight leaks (at 28
steps; an LSTM has none), both in the protocol `tuned` alone.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.reproduce import grids, panels, protocol
from experiments.runs import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = {"smoke": 1, "cpu": 2, "full": 5}
EPOCHS = {"smoke": None, "cpu": 3, "full": 26}
RADII = {
    "smoke": (0.1, 0.3),
    "cpu": (0.01, 0.1, 0.3),
    "full": (0.01, 0.05, 0.1, 0.2, 0.3, 0.5),
}
LEAKS = {
    "smoke": (0.1, 0.5),
    "cpu": (0.0, 0.01, 0.1, 0.5, 1.0),
    "full": (0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0),
}
LEAK = 0.1  # of the curves over iterations: that of the shipped config
RADIUS = 0.3
LEAK_STEPS = 28
MARGIN = "max |σᵢ − 1|"


def runs(scale: str) -> list[protocol.Run]:
    """Runs over iterations for every radius, over the leak, and those of `paper`."""
    settings = []  # (steps, model, radius, leak)
    lengths = (28,) if scale == "smoke" else (28, 112)
    for steps in lengths:
        for model in protocol.RECURRENT:
            radii = RADII[scale] if model == "spectral" else (RADIUS,)
            settings += [(steps, model, radius, LEAK) for radius in radii]
    for leak in LEAKS[scale]:
        for model in ("spectral",) if scale == "smoke" else protocol.RECURRENT:
            if leak != LEAK and model != "lstm":
                settings.append((LEAK_STEPS, model, RADIUS, leak))
    tuned = [
        _run(scale, *setting, seed)
        for setting in settings
        for seed in range(SEEDS[scale])
    ]
    return tuned + [
        _paper(scale, steps, model, seed)
        for steps in lengths
        for model in protocol.models("paper", scale, protocol.RECURRENT)
        for seed in range(SEEDS[scale])
    ]


def _run(
    scale: str, steps: int, model: str, radius: float, leak: float, seed: int
) -> protocol.Run:
    name = f"{scale}/F3/S{steps}_{model}"
    name += f"_r{radius:g}" if model == "spectral" else ""
    name += f"_leak{leak:g}" if model != "lstm" else ""
    changes = {
        **_length(scale, steps, seed),
        "model.name": model,
        "model.radius": radius,
        "model.leak": leak,
        **grids.chosen("pixel_mnist_grid", model),
    }
    return protocol.Run(f"{name}_seed{seed}", "pixel_mnist", changes)


def _paper(scale: str, steps: int, model: str, seed: int) -> protocol.Run:
    name = f"{scale}/F3_paper/S{steps}_{model}_seed{seed}"
    changes = _length(scale, steps, seed) | protocol.paper(model)
    return protocol.Run(name, "pixel_mnist", changes, protocol="paper")


def _length(scale: str, steps: int, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "task.steps": steps,
        "train.epochs": EPOCHS[scale],
        "train.eval_every": 143,  # three times an epoch
    }


COLUMNS = (
    panels.Curve("valid", "accuracy", "validation accuracy", log=False),
    panels.Curve("train", "carry_grad_norm", panels.CARRY_GRADIENT),
    panels.Curve("train", "spectral_margin", MARGIN),
)


def draw(records: list[dict], scale: str) -> "Figure":
    """Accuracy, ||dL/dh_0|| and margin over iterations, and over the leak."""
    del scale
    looks = panels.styles(panels.by_radius(records))
    rows = [
        (name, length, of_row)
        for name, of_protocol in panels.by_protocol(records).items()
        for length in sorted({r["config"]["task"]["steps"] for r in of_protocol})
        if (of_row := [r for r in of_protocol if _of_curves(r, name, length)])
    ]
    tuned = [record for record in records if record["protocol"] == "tuned"]
    height = 1.9 * (len(rows) + 1) + 0.5
    figure = pictures.figure(7.2, height)
    grid = figure.subplots(len(rows) + 1, 3)
    for row, (name, length, of_row) in zip(grid[:-1], rows, strict=True):
        series = panels.by_radius(of_row)
        for panel, curve in zip(row, COLUMNS, strict=True):
            split, key = curve.split, curve.key
            panels.curves(panel, series, split, key, log=curve.log, looks=looks)
            panels.label(panel, "iteration", curve.name)
        row[0].set_title(f"{name}, {length} steps, {panels.iterations(of_row)}")
    _over_leak(grid[-1], tuned, looks)
    for panel in grid.flat:
        panels.not_run(panel)
    figure.align_ylabels(grid)
    return figure


def _of_curves(record: dict, name: str, length: int) -> bool:
    """Whether a record is one of those over iterations, not over the leak."""
    steps = record["config"]["task"]["steps"]
    return steps == length and (name == "paper" or _leak(record) == LEAK)


def _over_leak(row: Any, records: list[dict], looks: panels.Styles) -> None:
    """The row over the leak, of the records that differ in it."""
    leaks = {_leak(record) for record in records} - {LEAK}
    steps = {r["config"]["task"]["steps"] for r in records if _leak(r) in leaks}
    drawn = [
        record
        for record in records
        if record["config"]["task"]["steps"] in steps
        and record["config"]["model"]["name"] != "lstm"
        and record["config"]["model"].get("radius", RADIUS) == RADIUS
    ]
    if not steps:
        return
    values: dict[str, Callable[[dict], float | None]] = {
        "test accuracy": lambda record: panels.final(record, "accuracy"),
        f"median {panels.CARRY_GRADIENT}": lambda record: panels.median(
            record, "carry_grad_norm"
        ),
        f"{MARGIN} at the end": lambda record: panels.last(record, "spectral_margin"),
    }
    series = panels.by_radius(drawn)
    shown = ", ".join(map(str, sorted(steps)))
    row[0].set_title(f"tuned, {shown} steps, {panels.iterations(drawn)}")
    for panel, (name, value) in zip(row, values.items(), strict=True):
        points = functools.partial(_point, value)
        panels.over(panel, series, points, log=name != "test accuracy", looks=looks)
        panels.label(panel, "leak", name)
        ticks = sorted(leaks | {LEAK})
        # Evenly spread enough to be read: 0, 0.01 and 0.1 would fall together.
        panel.set_xscale("symlog", linthresh=0.01)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlim(-0.002, 1.5)


def _point(
    value: Callable[[dict], float | None], record: dict
) -> tuple[float, float | None]:
    return _leak(record), value(record)


def _leak(record: dict) -> float:
    """That of a model without one counts as that of the curves."""
    return record["config"]["model"].get("leak", LEAK)


FIGURE = protocol.Figure(
    "F3",
    "F3: pixel MNIST at several steps, radii and leaks, 128 hidden units",
    runs,
    draw,
    caption=(
        "Over iterations, by each protocol: accuracy on validation data, the norm of"
        " the loss's gradient at the first state, and the margin of the transition,"
        " which an LSTM does not have. Below over the leak: test accuracy, the median"
        " of that norm over training, the margin at the end."
    ),
)
