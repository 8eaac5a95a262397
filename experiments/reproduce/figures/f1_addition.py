"""F1, addition: error and gradient over iterations at three lengths.

`cpu` has the 10,000 iterations of `full` by the protocol `paper`, whose rate of 1e-3 is
slow, with one seed of the LSTM at T = 100 and 300, where it takes up to an hour, and
three of the others. By `tuned` it has 1,000 iterations at T = 30 and 100 and 1,500 at
300; the cosine schedule ends there.
"""

from typing import TYPE_CHECKING, Any

from experiments.reproduce import grids, panels, protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = {"smoke": 1, "cpu": 3, "full": 5}
STEPS = {
    "smoke": {6: 4},
    "cpu": {30: 1000, 100: 1000, 300: 1500},
    "full": {30: 10_000, 100: 10_000, 300: 10_000},
}
PAPER_STEPS = STEPS | {"cpu": STEPS["full"]}
SPARSE = {"train.log_every": 200, "train.eval_every": 500}  # of so many iterations
LONG = 300  # from here on a model has the settings of the longer trials


def runs(scale: str) -> list[protocol.Run]:
    """A run for every protocol, length, model and seed."""
    return [
        _run(scale, name, length, model, seed)
        for name in reversed(protocol.PROTOCOLS)
        for length in STEPS[scale]
        for model in protocol.models(name, scale, protocol.RECURRENT)
        for seed in range(SEEDS[scale])
        if seed == 0 or not _slow(scale, name, length, model)
    ]


def _slow(scale: str, name: str, length: int, model: str) -> bool:
    """Whether one seed has to do: a run takes more than a quarter of an hour."""
    return (scale, name, model) == ("cpu", "paper", "lstm") and length > 30


def _run(scale: str, name: str, length: int, model: str, seed: int) -> protocol.Run:
    changes: dict[str, Any] = {
        "seed": seed,
        "task.length": length,
        "model.name": model,
        "train.steps": STEPS[scale][length],
    }
    folder = f"{scale}/F1"
    if name == "paper":
        changes |= protocol.paper(model)
        changes["train.steps"] = PAPER_STEPS[scale][length]
        if changes["train.steps"] >= STEPS["full"][LONG]:
            changes |= SPARSE
        folder += "_paper"
    else:
        grid = "addition_grid_300" if length >= LONG else "addition_grid"
        changes |= grids.chosen(grid, model)
    place = f"{folder}/T{length}_{model}_seed{seed}"
    return protocol.Run(place, "addition", changes, protocol=name)


def draw(records: list[dict], scale: str) -> "Figure":
    """Validation MSE and ||dL/dh_0|| over iterations, by protocol and length."""
    del scale
    rows = (
        panels.Curve("valid", "mse", "validation MSE"),
        panels.Curve("train", "carry_grad_norm", panels.CARRY_GRADIENT),
    )
    return panels.lengths(records, rows, "T = {}", "always answering 1")


FIGURE = protocol.Figure(
    "F1",
    "F1: addition, 128 hidden units",
    runs,
    draw,
    caption=(
        "The mean squared error on validation data and below it the norm of the loss's"
        " gradient at the first state, of training batches, by each protocol. A line"
        " that leaves its panel downwards is zero in float32; one that leaves it"
        f" upwards has {panels.ABOVE_BASELINE} times the error of always answering 1."
    ),
)
