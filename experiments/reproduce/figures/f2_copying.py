"""F2, copy: loss and recall over iterations at several lags.

`cpu` has the lags 100 and 500 of the three. By the protocol `paper`, whose rate of 1e-3
is slow, it has the 4,000 iterations of `full` at 100 and 2,000 at 500, with one seed of
the LSTM at 500, where it takes half an hour on a core, and three of the others. By
`tuned` it has 400 and 300 iterations and three seeds; the cosine schedule ends there.
"""

from typing import TYPE_CHECKING, Any

from experiments.reproduce import grids, panels, protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = {"smoke": 1, "cpu": 3, "full": 5}
STEPS = {
    "smoke": {5: 4},
    "cpu": {100: 400, 500: 300},
    "full": {100: 4000, 500: 4000, 1000: 4000},
}
PAPER_STEPS = STEPS | {"cpu": {100: 4000, 500: 2000}}
SPARSE = {"train.log_every": 100, "train.eval_every": 200}  # of thousands of iterations
LONG = 500  # from here on the shipped config is another


def runs(scale: str) -> list[protocol.Run]:
    """A run for every protocol, lag, model and seed."""
    return [
        _run(scale, name, lag, model, seed)
        for name in reversed(protocol.PROTOCOLS)
        for lag in STEPS[scale]
        for model in protocol.models(name, scale, protocol.RECURRENT)
        for seed in range(SEEDS[scale])
        if seed == 0 or not _slow(scale, name, lag, model)
    ]


def _slow(scale: str, name: str, lag: int, model: str) -> bool:
    """Whether one seed has to do: a run takes more than a quarter of an hour."""
    return (scale, name, model) == ("cpu", "paper", "lstm") and lag > 100


def _run(scale: str, name: str, lag: int, model: str, seed: int) -> protocol.Run:
    changes: dict[str, Any] = {
        "seed": seed,
        "task.length": lag,
        "model.name": model,
        "train.steps": STEPS[scale][lag],
        "train.eval_every": 50 if lag >= LONG else 100,
    }
    folder = f"{scale}/F2"
    if name == "paper":
        changes |= protocol.paper(model)
        changes["train.steps"] = PAPER_STEPS[scale][lag]
        if changes["train.steps"] >= 1000:
            changes |= SPARSE
        folder += "_paper"
    else:
        grid = "copying_grid_500" if lag >= LONG else "copying_grid"
        changes |= grids.chosen(grid, model)
    place = f"{folder}/T{lag}_{model}_seed{seed}"
    config = f"copying:{lag}" if lag >= LONG else "copying"
    return protocol.Run(place, config, changes, protocol=name)


def draw(records: list[dict], scale: str) -> "Figure":
    """Validation loss and recall over iterations: lags across, protocols down."""
    del scale
    rows = (
        panels.Curve("valid", "loss", "validation loss"),
        panels.Curve("valid", "recall", "validation recall", log=False),
    )
    return panels.lengths(records, rows, "lag T = {}", "knows nothing")


FIGURE = protocol.Figure(
    "F2",
    "F2: copy, 128 hidden units",
    runs,
    draw,
    caption=(
        "The loss on validation data and below it the share of the last ten symbols"
        " that are recalled, by each protocol."
    ),
)
