"""F3, pixel MNIST at 28 steps: accuracy, gradient and margin over the leak.

The protocol is `tuned`. `cpu` has 3 epochs instead of 26, and five of the eight leaks.
An LSTM has no leak.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.reproduce import panels, protocol
from experiments.reproduce.figures import f3_pixel_mnist as f3
from experiments.runs import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAKS = {
    "smoke": (0.1, 0.5),
    "cpu": (0.0, 0.01, 0.1, 0.5, 1.0),
    "full": (0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0),
}
STEPS = 28
MODELS = tuple(model for model in protocol.RECURRENT if model != "lstm")


def runs(scale: str) -> list[protocol.Run]:
    """A run for every leak, model and seed; F3 has some of them."""
    return [
        f3.tuned(scale, STEPS, model, f3.RADIUS, leak, seed)
        for leak in LEAKS[scale]
        for model in (("spectral",) if scale == "smoke" else MODELS)
        for seed in range(f3.SEEDS[scale])
    ]


def draw(records: list[dict], scale: str) -> "Figure":
    """Accuracy, ||dL/dh_0|| and margin over the leak."""
    series = panels.by_radius(records)
    values: dict[str, Callable[[dict], float | None]] = {
        "test accuracy": lambda record: panels.final(record, "accuracy"),
        f"median {panels.CARRY_GRADIENT}": lambda record: panels.median(
            record, "carry_grad_norm"
        ),
        f"{f3.MARGIN} at the end": lambda record: panels.last(
            record, "spectral_margin"
        ),
    }
    figure = pictures.figure(pictures.PAGE, 2.4)
    row = figure.subplots(1, len(values))
    ticks = LEAKS[scale]
    for panel, (name, value) in zip(row, values.items(), strict=True):
        points = functools.partial(_point, value)
        panels.over(panel, series, points, log=name != "test accuracy")
        panels.label(panel, "leak", name)
        # Evenly spread enough to be read: 0, 0.01 and 0.1 would fall together.
        panel.set_xscale("symlog", linthresh=0.01)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlim(-0.002, 1.5)
        panels.not_run(panel)
    return figure


def _point(
    value: Callable[[dict], float | None], record: dict
) -> tuple[float, float | None]:
    return record["config"]["model"]["leak"], value(record)


FIGURE = protocol.Figure(
    "F3_leak",
    f"F3: pixel MNIST at {STEPS} steps over the leak, 128 hidden units",
    runs,
    draw,
    caption=(
        "By the protocol `tuned`: the test accuracy, the median over training of the"
        " norm of the loss's gradient at the first state, and the margin of the"
        " transition at the end, which is zero for oRNN."
    ),
)
