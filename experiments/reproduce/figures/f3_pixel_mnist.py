"""F3, pixel MNIST at 28 and 112 steps: accuracy, gradient and margin at several radii.

`cpu` has 3 epochs instead of 26, and three of the six radii.
"""

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
LEAK = 0.1  # that of the shipped config
RADIUS = 0.3  # of the models that have none
MARGIN = "max |σᵢ − 1|"


def runs(scale: str) -> list[protocol.Run]:
    """A run for every length, model, radius and seed, and those of `paper`."""
    lengths = (28,) if scale == "smoke" else (28, 112)
    found = [
        tuned(scale, steps, model, radius, LEAK, seed)
        for steps in lengths
        for model in protocol.RECURRENT
        for radius in (RADII[scale] if model == "spectral" else (RADIUS,))
        for seed in range(SEEDS[scale])
    ]
    return found + [
        _paper(scale, steps, model, seed)
        for steps in lengths
        for model in protocol.models("paper", scale, protocol.RECURRENT)
        for seed in range(SEEDS[scale])
    ]


def tuned(
    scale: str, steps: int, model: str, radius: float, leak: float, seed: int
) -> protocol.Run:
    """A run by the protocol `tuned`."""
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
    """Accuracy, ||dL/dh_0|| and margin over iterations, by protocol and length."""
    del scale
    looks = panels.styles(panels.by_radius(records))
    rows = [
        (name, length, of_row)
        for name, of_protocol in panels.by_protocol(records).items()
        for length in sorted({r["config"]["task"]["steps"] for r in of_protocol})
        if (
            of_row := [r for r in of_protocol if r["config"]["task"]["steps"] == length]
        )
    ]
    figure = pictures.figure(pictures.PAGE, 1.75 * len(rows) + 0.7)
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False)
    for row, (name, length, of_row) in zip(grid, rows, strict=True):
        series = panels.by_radius(of_row)
        for panel, curve in zip(row, COLUMNS, strict=True):
            split, key = curve.split, curve.key
            panels.curves(panel, series, split, key, log=curve.log, looks=looks)
            panel.set_ylabel(curve.name)
        row[0].set_title(f"{name}, {length} steps")
    for panel in grid[-1]:
        panel.set_xlabel("iteration")
    for panel in grid.flat:
        panels.not_run(panel)
    figure.align_ylabels(grid)
    return figure


FIGURE = protocol.Figure(
    "F3",
    "F3: pixel MNIST at several steps and radii, 128 hidden units",
    runs,
    draw,
    caption=(
        "By each protocol over iterations: on the left the accuracy on validation data,"
        " in the middle the norm of the loss's gradient at the first state, and on the"
        " right the margin of the transition, which is zero for oRNN; an LSTM has none."
    ),
)
