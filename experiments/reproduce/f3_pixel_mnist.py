"""F3, pixel MNIST at 28 and 112 steps: accuracy, gradient and margin, radii and leaks.

`cpu` has 3 epochs instead of 26; three of the six radii, five of the eight leaks (at 28
steps; an LSTM has none).
"""

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
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    grid = figure.subplots(3, 3)
    lengths = sorted({record["config"]["task"]["steps"] for record in found})
    for row, length in zip(grid, lengths, strict=False):
        mine = [
            record
            for record in found
            if record["config"]["task"]["steps"] == length and _leak(record) == LEAK
        ]
        series = panels.by_radius(mine)
        panels.curves(row[0], series, "valid", "accuracy", log=False)
        panels.curves(row[1], series, "train", "carry_grad_norm", legend=False)
        panels.curves(row[2], series, "train", "spectral_margin", legend=False)
        row[0].set_title(f"{length} steps, {panels.iterations(mine)}", fontsize=9)
        panels.label(row[0], "iteration", "validation accuracy")
        panels.label(row[1], "iteration", r"$\|\partial L/\partial h^{(0)}\|$")
        panels.label(row[2], "iteration", r"margin $\max_i |\sigma_i - 1|$ of W")
    _over_leak(grid[2], found)
    for panel in grid.flat:
        if not panel.has_data():
            panel.set_axis_off()
    return figure


def _over_leak(row: Any, found: list[dict]) -> None:
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
    values = {
        "test accuracy": lambda record: panels.final(record, "accuracy"),
        r"median $\|\partial L/\partial h^{(0)}\|$": lambda record: panels.median(
            record, "carry_grad_norm"
        ),
        "margin at the end": lambda record: panels.last(record, "spectral_margin"),
    }
    series = panels.by_model(mine)
    for panel, (name, value) in zip(row, values.items(), strict=True):
        first = name == "test accuracy"
        field = ("model", "leak")
        panels.over(panel, series, field, value, log=not first, legend=first)
        shown = ", ".join(map(str, sorted(steps)))
        panels.label(panel, f"leak ({shown} steps)", name)
        ticks = sorted(leaks | {LEAK})
        # Evenly spread enough to be read: 0, 0.01 and 0.1 would fall together.
        panel.set_xscale("symlog", linthresh=0.01)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xlim(-0.002, 1.5)


def _leak(record: dict) -> float:
    """That of a model without one counts as that of the curves."""
    return record["config"]["model"].get("leak", LEAK)


FIGURE = protocol.Figure(
    "F3",
    "F3: pixel MNIST at several steps, radii and leaks, 128 hidden units",
    runs,
    draw,
)
