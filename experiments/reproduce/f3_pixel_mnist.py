"""F3, pixel MNIST at 28 and 112 steps: accuracy, gradient and margin, radii and leaks.

`cpu` has 3 epochs instead of 26; three of the six radii, five of the eight leaks (at 28
steps; an LSTM has none).
"""

import functools
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from experiments.reproduce import panels, protocol

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
    """Runs over iterations for every radius, and over the leak."""
    settings = []  # (steps, model, radius, leak)
    for steps in (28,) if scale == "smoke" else (28, 112):
        for model in protocol.RECURRENT:
            radii = RADII[scale] if model == "spectral" else (RADIUS,)
            settings += [(steps, model, radius, LEAK) for radius in radii]
    for leak in LEAKS[scale]:
        for model in ("spectral",) if scale == "smoke" else protocol.RECURRENT:
            if leak != LEAK and model != "lstm":
                settings.append((LEAK_STEPS, model, RADIUS, leak))
    return [
        _run(scale, *setting, seed)
        for setting in settings
        for seed in range(SEEDS[scale])
    ]


def _run(
    scale: str, steps: int, model: str, radius: float, leak: float, seed: int
) -> protocol.Run:
    name = f"{scale}/F3/S{steps}_{model}"
    name += f"_r{radius:g}" if model == "spectral" else ""
    name += f"_leak{leak:g}" if model != "lstm" else ""
    changes = {
        "seed": seed,
        "task.steps": steps,
        "model.name": model,
        "model.radius": radius,
        "model.leak": leak,
        "train.epochs": EPOCHS[scale],
        "train.eval_every": 143,  # three times an epoch
    }
    return protocol.Run(f"{name}_seed{seed}", "pixel_mnist", changes)


def draw(found: list[dict], scale: str) -> Figure:
    """Accuracy, ||dL/dh_0|| and margin over iterations, and over the leak."""
    del scale
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    grid = figure.subplots(3, 3)
    looks = panels.styles(panels.by_radius(found))
    lengths = sorted({record["config"]["task"]["steps"] for record in found})
    for row, length in zip(grid, lengths, strict=False):
        mine = [
            record
            for record in found
            if record["config"]["task"]["steps"] == length and _leak(record) == LEAK
        ]
        series = panels.by_radius(mine)
        columns = (
            ("valid", "accuracy", "validation accuracy"),
            ("train", "carry_grad_norm", panels.CARRY_GRADIENT),
            ("train", "spectral_margin", MARGIN),
        )
        for panel, (split, key, name) in zip(row, columns, strict=True):
            log = key != "accuracy"
            panels.curves(panel, series, split, key, log=log, looks=looks)
            panels.label(panel, "iteration", name)
        row[0].set_title(f"{length} steps, {panels.iterations(mine)}")
    _over_leak(grid[2], found, looks)
    for panel in grid.flat:
        panels.not_run(panel)
    figure.align_ylabels(grid)
    return figure


def _over_leak(row: Any, found: list[dict], looks: panels.Styles) -> None:
    """The row over the leak, of the records that differ in it."""
    leaks = {_leak(record) for record in found} - {LEAK}
    steps = {r["config"]["task"]["steps"] for r in found if _leak(r) in leaks}
    mine = [
        record
        for record in found
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
    series = panels.by_radius(mine)
    shown = ", ".join(map(str, sorted(steps)))
    row[0].set_title(f"{shown} steps, {panels.iterations(mine)}")
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
        "Over iterations: accuracy on validation data, the norm of the loss's gradient"
        " at the first state, and the margin of the transition, which an LSTM does not"
        " have. Below over the leak: test accuracy, the median of that norm over"
        " training, the margin at the end."
    ),
)
