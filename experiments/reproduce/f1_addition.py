"""F1, addition: error and gradient over iterations at three lengths.

`cpu` has 1,000 iterations at T = 30 and 100 and 1,500 at 300 instead of 10,000; the
cosine schedule ends there.
"""

from matplotlib.figure import Figure

from experiments.reproduce import panels, protocol

SEEDS = {"smoke": 1, "cpu": 3, "full": 5}
STEPS = {
    "smoke": {6: 4},
    "cpu": {30: 1000, 100: 1000, 300: 1500},
    "full": {30: 10_000, 100: 10_000, 300: 10_000},
}
# Chosen on validation data, at T = 100 and at T = 300: the records in
# experiments/results/addition_grid and addition_grid_300.
RATES = {
    **dict.fromkeys(("rnn", "irnn"), 3e-3),
    **dict.fromkeys(("ornn", "spectral"), 1e-2),
    "lstm": 3e-2,
}
RATES_LONG = RATES | {"rnn": 1e-3, "irnn": 3e-4}
LONG = 300


def runs(scale: str) -> list[protocol.Run]:
    """A run for every length, model and seed."""
    return [
        protocol.Run(
            f"{scale}/F1/T{length}_{model}_seed{seed}",
            "addition",
            {
                "seed": seed,
                "task.length": length,
                "model.name": model,
                "train.learning_rate": (RATES_LONG if length >= LONG else RATES)[model],
                "train.steps": steps,
            },
        )
        for length, steps in STEPS[scale].items()
        for model in protocol.RECURRENT
        for seed in range(SEEDS[scale])
    ]


def draw(found: list[dict], scale: str) -> Figure:
    """Validation MSE and ||dL/dh_0|| over iterations, a column for each length."""
    del scale
    lengths = sorted({record["config"]["task"]["length"] for record in found})
    figure = Figure(figsize=(2.3 * len(lengths) + 0.3, 4), layout="constrained")
    columns = figure.subplots(2, len(lengths), squeeze=False, sharex="col").T
    for (above, below), length in zip(columns, lengths, strict=True):
        mine = [r for r in found if r["config"]["task"]["length"] == length]
        series = panels.by_model(mine)
        panels.curves(above, series, "valid", "mse")
        panels.baseline(above, mine, "always answering 1")
        panels.curves(below, series, "train", "carry_grad_norm")
        above.set_title(f"T = {length}, {panels.iterations(mine)}")
        below.set_xlabel("iteration")
    columns[0][0].set_ylabel("validation MSE")
    columns[0][1].set_ylabel(panels.CARRY_GRADIENT)
    return figure


FIGURE = protocol.Figure(
    "F1",
    "F1: addition, 128 hidden units",
    runs,
    draw,
    caption=(
        "Above the mean squared error on validation data, below the norm of the loss's"
        " gradient at the first state, of training batches. A line that leaves its"
        " panel downwards is zero in float32."
    ),
)
