"""The trials that choose each model's settings of the tuned protocol. No JAX.

A grid has the same number of trials for every model. They are runs like those of the
figures, made by `python -m experiments.reproduce trials --scale=cpu` (or the name of a
grid), and judged by validation data alone, one seed.
"""

from typing import Any, NamedTuple

from experiments.reproduce import protocol
from experiments.tasks import scoring

Settings = dict[str, dict[str, Any]]  # what a trial is called: its changes


class Grid(NamedTuple):
    """Trials of several models at one task.

    title: of what.
    config: as that of a `protocol.Run`, with {model} where it depends on it.
    changes: of all trials, besides the model.
    settings: {model: its trials}.
    metric: what is compared instead of the primary metric of the task.
    """

    title: str
    config: str
    changes: dict[str, Any]
    settings: dict[str, Settings]
    metric: scoring.Metric | None = None


def _rates(*texts: str, own_rate: bool = True, **others: Any) -> Settings:
    """A trial for each learning rate, with other changes of `config.model`.

    Without `own_rate` the reflectors have no other, whatever the config gives them.
    """
    changes = {f"model.{name}": value for name, value in others.items()}
    if not own_rate:
        changes["train.rates.reflectors"] = None
    return {text: {"train.learning_rate": float(text), **changes} for text in texts}


# Where the shipped config starts with some singular values below 1, the others start
# with all at 1, the free ones from W = I, and with smaller input weights.
_ONES: dict[str, Any] = {"center": 1.0, "input_scale": 0.1}
_RATES = ("0.001", "0.003", "0.01", "0.03")
_SHORT = dict.fromkeys(protocol.RECURRENT, _rates(*_RATES, **_ONES)) | {
    "spectral": _rates(*_RATES)
}
# At T = 300: lower rates for the free transitions, the start of addition.py:300.
_LONG = dict.fromkeys(
    ("rnn", "irnn"), _rates("0.0001", "0.0003", "0.001", "0.003", **_ONES)
) | {"spectral": _rates(*_RATES, init_sigma=(0.3, 1.0))}
_WORDS = ("5e-4", "1e-3", "2e-3", "4e-3", "8e-3", "1.6e-2")
_COPY = _rates("0.0003", "0.001", "0.003", "0.01")

GRIDS = {
    "addition_grid": Grid(
        "addition, T = 100, 1,000 iterations",
        "addition",
        {"train.steps": 1000},
        _SHORT,
    ),
    "addition_grid_300": Grid(
        "addition, T = 300, 1,500 iterations",
        "addition",
        {"task.length": 300, "train.steps": 1500},
        _SHORT | _LONG,
    ),
    "copying_grid": Grid(
        "copy at a lag of 100, 200 iterations",
        "copying",
        {"train.steps": 200, "train.eval_every": 100},
        dict.fromkeys(protocol.RECURRENT, _COPY),
        metric=scoring.LOSS,
    ),
    "copying_grid_500": Grid(
        "copy at a lag of 500, 150 iterations",
        "copying:500",
        {"train.steps": 150},
        dict.fromkeys(protocol.RECURRENT, _COPY),
        metric=scoring.LOSS,
    ),
    "pixel_mnist_grid": Grid(
        "pixel MNIST, 28 steps, 1 epoch",
        "pixel_mnist",
        {"task.steps": 28, "train.epochs": 1},
        dict.fromkeys(protocol.RECURRENT, _COPY),
    ),
    "deep_mlp_grid": Grid(
        "whole digits, 100 layers of 128 units, 1 epoch",
        "deep_mlp:{model}",
        {"train.epochs": 1},
        dict.fromkeys(
            protocol.FEEDFORWARD, _rates("0.0001", "0.0003", "0.001", "0.003")
        ),
    ),
    "ptb_word_grid": Grid(
        "Penn Treebank words, 300 iterations",
        "ptb_word",
        {"train.epochs": 5, "train.steps": 300, "train.eval_every": 300},
        # The shipped config has what tries of full length chose, one rate among them
        # for the reflectors.
        dict.fromkeys(protocol.RECURRENT, _rates(*_WORDS))
        | {
            "ornn": _rates(*_WORDS, own_rate=False),
            "spectral": _rates(*_WORDS, own_rate=False, radius=0.5),
        },
    ),
}

# Which trial of each model was chosen; a figure takes the shipped settings of a model
# without a choice.
CHOSEN = {
    "addition_grid": {
        **dict.fromkeys(("rnn", "irnn"), "0.003"),
        **dict.fromkeys(("lstm", "spectral"), "0.03"),
        "ornn": "0.01",
    },
    "addition_grid_300": {
        **{"rnn": "0.001", "irnn": "0.0003", "lstm": "0.03"},
        **dict.fromkeys(("ornn", "spectral"), "0.01"),
    },
    "copying_grid": {
        **{"rnn": "0.003", "lstm": "0.01"},
        **dict.fromkeys(("irnn", "ornn", "spectral"), "0.001"),
    },
    "copying_grid_500": {
        **dict.fromkeys(("rnn", "irnn"), "0.003"),
        **dict.fromkeys(("lstm", "ornn", "spectral"), "0.01"),
    },
    "pixel_mnist_grid": {
        "rnn": "0.003",
        **dict.fromkeys(("irnn", "lstm", "ornn", "spectral"), "0.01"),
    },
    "ptb_word_grid": {
        **dict.fromkeys(("rnn", "irnn", "ornn"), "8e-3"),
        **dict.fromkeys(("lstm", "spectral"), "1.6e-2"),
    },
}


def chosen(grid: str, model: str) -> dict[str, Any]:
    """The changes of the trial that was chosen for a model; none without a choice."""
    name = CHOSEN.get(grid, {}).get(model)
    return {} if name is None else GRIDS[grid].settings[model][name]


def runs(name: str, scale: str) -> list[protocol.Run]:
    """All trials of a grid, the same at every scale; at `smoke` one of each model."""
    grid = GRIDS[name]
    return [
        protocol.Run(
            f"{name}/{model}_{setting}",
            grid.config.format(model=model),
            # A variant of a config names its model, and more.
            ({} if "{model}" in grid.config else {"model.name": model})
            | grid.changes
            | changes,
        )
        for model, settings in grid.settings.items()
        for setting, changes in list(settings.items())[
            : 1 if scale == "smoke" else None
        ]
    ]


def metric(name: str) -> scoring.Metric:
    """What the trials of a grid are compared by: of their task, if it says no other."""
    return GRIDS[name].metric or protocol.primary(runs(name, "cpu")[0])


def value(record: dict, metric: scoring.Metric) -> float | None:
    """The validation metric at the final parameters; None where the trial diverged."""
    result = record["result"]
    return result["metrics"]["valid"][metric.name] if result else None
