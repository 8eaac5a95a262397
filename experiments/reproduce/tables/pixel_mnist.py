"""The table of pixel MNIST: 784 steps, 128 hidden units.

`cpu` has 4 epochs, of the LSTM 1, and Spectral-RNN also with the shipped 26, of two
seeds; the table prints them.
"""

import pathlib

from experiments.reproduce import markdown, protocol
from experiments.reproduce.tables import comparison, shipped

SEEDS = {"smoke": 1, "cpu": 3, "full": 5}
EPOCHS: dict[str, dict] = {  # of the rows besides that of the shipped config
    "smoke": dict.fromkeys(protocol.RECURRENT),
    "cpu": dict.fromkeys(protocol.RECURRENT, 4) | {"lstm": 1},
    "full": dict.fromkeys(protocol.RECURRENT, 26),
}

# Test accuracies of the paper: of the ICML text for spectral, of its earlier submission
# for the others, with the hidden units where they are not 128.
PAPER = {
    "spectral": shipped.PAPER,
    "ornn": "0.972 (256 units)",
    "rnn": "0.941",
    "lstm": "0.973",
}
SOURCE = (
    "The paper's values: Zhang et al., ICML 2018, for spectral (128 units, 16"
    " reflectors); their earlier submission for the others."
)


def runs(scale: str) -> list[protocol.Run]:
    """A run for every model and seed, and at `cpu` the shipped ones."""
    runs = []
    for model in protocol.RECURRENT:
        for seed in range(SEEDS[scale]):
            changes = {
                "seed": seed,
                "model.name": model,
                "train.epochs": EPOCHS[scale][model],
            }
            if scale == "smoke":
                changes["task.steps"] = 28
            name = f"{scale}/pixel_mnist/{model}_seed{seed}"
            runs.append(protocol.Run(name, "pixel_mnist", changes))
    return runs + (shipped.PIXEL_MNIST.runs() if scale == "cpu" else [])


def table(results: pathlib.Path, scale: str) -> str:
    """A row for each model, beside the paper's value."""
    head, rows = comparison.rows(FIGURE.runs(scale), scale, results)
    for row in rows:
        row.insert(-1, PAPER.get(row[0], ""))
    names = ["test accuracy", "the paper", "wall time"]
    text = markdown.table([*comparison.COLUMNS, *names], rows)
    return f"{markdown.wrapped(f'{head} {SOURCE}')}\n\n{text}"


FIGURE = protocol.Figure("pixel_mnist", "pixel MNIST", runs, table=table)
