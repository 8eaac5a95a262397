"""F2, copy: loss and recall over iterations at several lags.

`cpu` has the lags 100 and 500 of the three, with 400 and 300 iterations instead of
4,000.
"""

from matplotlib.figure import Figure

from experiments.reproduce import panels, protocol

SEEDS = {"smoke": 1, "cpu": 3, "full": 5}
STEPS = {
    "smoke": {5: 4},
    "cpu": {100: 400, 500: 300},
    "full": {100: 4000, 500: 4000, 1000: 4000},
}


def runs(scale: str) -> list[protocol.Run]:
    """A run for every lag, model and seed."""
    return [
        protocol.Run(
            f"{scale}/F2/T{lag}_{model}_seed{seed}",
            f"copying:{lag}" if lag >= 500 else "copying",
            {
                "seed": seed,
                "task.length": lag,
                "model.name": model,
                "train.steps": steps,
                "train.eval_every": 50 if lag >= 500 else 100,
            },
        )
        for lag, steps in STEPS[scale].items()
        for model in protocol.RECURRENT
        for seed in range(SEEDS[scale])
    ]


def draw(found: list[dict], scale: str) -> Figure:
    """Validation loss and recall over iterations, a column for each lag."""
    del scale
    lags = sorted({record["config"]["task"]["length"] for record in found})
    figure = Figure(figsize=(2.7 * len(lags) + 0.6, 4), layout="constrained")
    columns = figure.subplots(2, len(lags), squeeze=False, sharex="col").T
    for (above, below), lag in zip(columns, lags, strict=True):
        mine = [r for r in found if r["config"]["task"]["length"] == lag]
        series = panels.by_model(mine)
        panels.curves(above, series, "valid", "loss")
        panels.baseline(above, mine, "knows nothing")
        panels.curves(below, series, "valid", "recall", log=False)
        above.set_title(f"lag T = {lag}, {panels.iterations(mine)}")
        below.set_xlabel("iteration")
    columns[0][0].set_ylabel("validation loss")
    columns[0][1].set_ylabel("validation recall")
    return figure


FIGURE = protocol.Figure(
    "F2",
    "F2: copy, 128 hidden units",
    runs,
    draw,
    caption=(
        "Above the loss on validation data, below the share of the last ten symbols"
        " that are recalled."
    ),
)
