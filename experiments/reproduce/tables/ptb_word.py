"""The table of Penn Treebank words, at equal hidden size and equal parameter count.

`cpu` has 2 epochs each instead of 20.
"""

import pathlib
from typing import Any

from experiments.reproduce import grids, markdown, protocol
from experiments.reproduce.tables import comparison

SEEDS = {"smoke": 1, "cpu": 1, "full": 5}
TUNED_SEEDS = {"cpu": {"lstm": 2, "spectral_lstm": 2}}  # where they are more
EPOCHS = {"smoke": None, "cpu": 2, "full": 20}

# The cells of an LSTM that has as many parameters as the spectral model of 200: with
# n of them and the shared embedding, 10,000 (n + 1) + 8 n^2 + 4 n of 2,090,600.
EQUAL_LSTM = 182
# Besides what the short trials chose: the best on validation data of the tries of full
# length, because short ones favour rates that are too large for two epochs: four of
# spectral, three of lstm (results/ptb_word_log.md), with 182 cells two; of the spectral
# LSTM the first.
TUNED: dict[str, dict[str, Any]] = {
    "lstm": {"train.learning_rate": 8e-3},
    "spectral": {
        "train.learning_rate": 8e-3,
        "train.rates.reflectors": 1e-3,
        "model.radius": 1.0,
    },
    "lstm_equal": {"train.learning_rate": 8e-3},
    "spectral_lstm": {
        "train.learning_rate": 8e-3,
        "train.rates.reflectors": 1e-3,
        "model.radius": 1.0,
    },
}
UNTRIED = ("spectral_lstm",)  # in the short trials: there are tuned runs alone


def runs(scale: str) -> list[protocol.Run]:
    """A run for every row and seed, and the tuned ones."""
    runs = []
    for row in (*protocol.RECURRENT, *UNTRIED, "lstm_equal"):
        equal = row == "lstm_equal"
        model = "lstm" if equal else row
        free = ("train.learning_rate", *(["model.hidden"] if equal else []))
        tuned_seeds = TUNED_SEEDS.get(scale, {}).get(row, SEEDS[scale])
        for seed in range(max(SEEDS[scale], tuned_seeds)):
            name = row if equal else f"{row}_200"
            if scale == "cpu":
                name = f"ptb_word/{name}" + (f"_seed{seed}" if seed else "")
            else:
                name = f"{scale}/ptb_word/{name}_seed{seed}"
            changes = {
                "seed": seed,
                "model.name": model,
                "model.hidden": EQUAL_LSTM if equal else 200,
                **grids.chosen("ptb_word_grid", model),
                "train.epochs": EPOCHS[scale],
            }
            if row not in UNTRIED and seed < SEEDS[scale]:
                runs.append(protocol.Run(name, "ptb_word", changes, free))
            if row in TUNED:
                changes = changes | TUNED[row]
                runs.append(protocol.Run(f"{name}_tuned", "ptb_word", changes))
    return runs


def table(results: pathlib.Path, scale: str) -> str:
    """A row for each model and learning rate."""
    splits = ("valid", "test")
    head, rows = comparison.rows(FIGURE.runs(scale), scale, results, splits)
    names = ["validation perplexity", "test perplexity", "wall time"]
    text = markdown.table([*comparison.COLUMNS, *names], rows)
    return f"{markdown.wrapped(head)}\n\n{text}"


FIGURE = protocol.Figure("ptb_word", "Penn Treebank words", runs, table=table)
