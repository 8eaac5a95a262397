"""The table of recorded runs of the shipped configs. No JAX."""

import pathlib
from typing import Any, NamedTuple

from experiments.reproduce import markdown, protocol, status
from experiments.runs import progress

PAPER = "0.977"  # of pixel MNIST: the ICML text, n = 128, m = 16

# The wide network with the activation of the narrow one, at every step.
_EVERY_STEP: dict[str, Any] = {
    "model.activation_every": 1,
    "model.reflectors": 16,
    "train.rates.reflectors": None,
    "train.epochs": 34,
}


class Row(NamedTuple):
    """A row of the table.

    title: what the run is about.
    run: whose record is shown, with the primary metric of its task.
    seeds: how many of them are recorded; the others have lines of their own below it.
    paper: the paper's value.
    digits: of the metric, where it is printed with others than its own.
    readme: whether the README has the row, too, with the first seed.
    home: whether the site's first page has it as well.
    """

    title: str
    run: protocol.Run
    seeds: int = 1
    paper: str = ""
    digits: int | None = None
    readme: bool = False
    home: bool = False

    def runs(self) -> list[protocol.Run]:
        """The run with the seed of its config, and with the others."""
        others = [
            self.run._replace(
                name=f"{self.run.name}_seed{seed}",
                changes=self.run.changes | {"seed": seed},
            )
            for seed in range(1, self.seeds)
        ]
        return [self.run, *others]


PIXEL_MNIST = Row(
    "pixel MNIST, 784 steps",
    protocol.Run("pixel_mnist_784", "pixel_mnist", {}),
    seeds=2,
    paper=PAPER,
)

ROWS = (
    Row("addition, T = 100", protocol.Run("addition_100", "addition", {})),
    Row("addition, T = 300", protocol.Run("addition_300", "addition:300", {})),
    Row(
        "addition, T = 750",
        protocol.Run("addition_750", "addition:750", {}),
        readme=True,
        seeds=2,
    ),
    Row(
        "addition, T = 2000",
        protocol.Run("addition_2000", "addition:2000", {}),
        seeds=2,
    ),
    Row("copy, T = 100", protocol.Run("copying_100", "copying", {}), digits=3),
    Row("copy, T = 500", protocol.Run("copying_500", "copying:500", {})),
    Row("copy, T = 1000", protocol.Run("copying_1000", "copying:1000", {})),
    Row("copy, T = 2000", protocol.Run("copying_2000", "copying:2000", {})),
    Row(
        "copy, T = 5000",
        protocol.Run("copying_5000", "copying:5000", {}),
        seeds=3,
    ),
    Row(
        "copy, T = 10000",
        protocol.Run("copying_10000", "copying:10000", {}),
        readme=True,
        home=True,
        seeds=2,
    ),
    PIXEL_MNIST,
    Row(
        "pixel MNIST, 784 steps, 40 epochs",
        protocol.Run(
            "pixel_mnist_784_long",
            "pixel_mnist",
            {"train.epochs": 40, "train.learning_rate": 0.0015},
        ),
        paper=PAPER,
    ),
    Row(
        "pixel MNIST, 784 steps, 256 units, an activation a row",
        protocol.Run("pixel_mnist_784_wide", "pixel_mnist:wide", {}),
        seeds=2,
    ),
    Row(
        "pixel MNIST, 784 steps, 256 units, an activation a row, shifted in training",
        protocol.Run("pixel_mnist_784_wide_shifted", "pixel_mnist:wide_shifted", {}),
        seeds=2,
    ),
    Row(
        "pixel MNIST, 784 steps, 256 units",
        protocol.Run(
            "pixel_mnist_784_wide_every_step", "pixel_mnist:wide", _EVERY_STEP
        ),
        seeds=2,
    ),
    Row(
        "pixel MNIST, 784 steps, 192 units",
        protocol.Run(
            "pixel_mnist_784_192",
            "pixel_mnist",
            {"model.hidden": 192, "model.reflectors": 8},
        ),
    ),
    Row(
        "pixel MNIST, 784 steps, an activation a row",
        protocol.Run("pixel_mnist_784_rows", "pixel_mnist:rows", {}),
        paper=PAPER,
        readme=True,
        home=True,
        seeds=2,
    ),
    Row(
        "the same by the IRNN, 67 units from W = I",
        protocol.Run(
            "pixel_mnist_784_rows_irnn",
            "pixel_mnist:rows",
            {"model.name": "irnn", "model.hidden": 67, "train.learning_rate": 0.0003},
        ),
    ),
    Row(
        "permuted MNIST",
        protocol.Run("permuted_mnist", "pixel_mnist:permuted", {}),
        seeds=2,
    ),
    Row(
        "permuted MNIST, shifted in training",
        protocol.Run("permuted_mnist_shifted", "pixel_mnist:permuted_shifted", {}),
        seeds=2,
    ),
    Row(
        "permuted MNIST, 128 units, shifted in training",
        protocol.Run(
            "permuted_mnist_shifted_128",
            "pixel_mnist:permuted_shifted",
            {"model.hidden": 128, "train.epochs": 200},
        ),
        seeds=2,
    ),
    Row(
        "permuted MNIST, 128 units, an activation at every pixel",
        protocol.Run(
            "permuted_mnist_leaky",
            "pixel_mnist:permuted",
            {
                "model.hidden": 128,
                "model.radius": 0.3,
                "model.center": 1.025,
                "model.activation": "leaky_relu",
                "model.leak": 0.95,
                "model.readout_activation": "identity",
                "train.learning_rate": 0.004,
                "train.rates.reflectors": 4e-05,
            },
        ),
    ),
    Row(
        "permuted MNIST, 128 units",
        protocol.Run(
            "permuted_mnist_128", "pixel_mnist:permuted", {"model.hidden": 128}
        ),
        seeds=2,
    ),
    Row(
        "pixel MNIST, 784 steps, four blocks of 96 units, shifted in training",
        protocol.Run("pixel_mnist_784_stacked", "pixel_mnist:stacked", {}),
        seeds=2,
    ),
    Row(
        "permuted MNIST, four blocks of 96 units, shifted in training",
        protocol.Run("permuted_mnist_stacked", "pixel_mnist:permuted_stacked", {}),
        readme=True,
        seeds=2,
    ),
    Row(
        "pixel MNIST, 28 steps",
        protocol.Run("pixel_mnist_28", "pixel_mnist", {"task.steps": 28}),
    ),
    Row(
        "the same by the LSTM",
        protocol.Run(
            "pixel_mnist_28_lstm",
            "pixel_mnist",
            {"task.steps": 28, "model.name": "lstm", "train.learning_rate": 0.01},
        ),
    ),
    Row(
        "MNIST, spectral MLP, 100 × 128",
        protocol.Run("deep_mlp_spectral_mlp", "deep_mlp", {}),
    ),
    Row(
        "MNIST, spectral residual MLP, 100 × 128",
        protocol.Run("deep_mlp_spectral_resnet", "deep_mlp:spectral_resnet", {}),
    ),
    Row("MNIST, MLP, 100 × 128", protocol.Run("deep_mlp_mlp", "deep_mlp:mlp", {})),
    Row(
        "MNIST, residual MLP, 100 × 128",
        protocol.Run("deep_mlp_resnet", "deep_mlp:resnet", {}),
    ),
    Row("PTB words", protocol.Run("ptb_word/spectral_200_tuned", "ptb_word", {})),
    Row(
        "PTB words, Spectral-LSTM",
        protocol.Run("ptb_word/spectral_lstm_200_tuned", "ptb_word:spectral_lstm", {}),
    ),
    Row(
        "the same, one rate for all parts",
        protocol.Run(
            "ptb_word/spectral_lstm_200_one_rate",
            "ptb_word:spectral_lstm",
            {"train.rates.reflectors": None},
        ),
    ),
    Row(
        "PTB words, Spectral-LSTM, 8 epochs",
        protocol.Run(
            "ptb_word/spectral_lstm_200_long", "ptb_word:spectral_lstm_long", {}
        ),
        readme=True,
        home=True,
        seeds=2,
    ),
    Row(
        "the same by the LSTM",
        protocol.Run(
            "ptb_word/lstm_200_long",
            "ptb_word:spectral_lstm_long",
            {"model.name": "lstm", "train.rates.reflectors": None},
        ),
        seeds=2,
    ),
    Row(
        "PTB words, one minute",
        protocol.Run("ptb_word_smoke", "ptb_word:smoke", {}),
        digits=0,
    ),
    Row("PTB characters", protocol.Run("ptb_char", "ptb_char", {}), seeds=2),
    Row(
        "PTB characters, Spectral-LSTM",
        protocol.Run("ptb_char_spectral_lstm", "ptb_char:spectral_lstm", {}),
        seeds=2,
        readme=True,
    ),
)

RUNS = tuple(run for row in ROWS for run in row.runs())


def table(results: pathlib.Path, few: bool = False) -> str:
    """Recorded runs of the shipped configs, all or the few of the README."""
    lines = []
    for row in ROWS:
        for run in row.runs():
            if few and not (row.readme and run is row.run):
                continue
            title = row.title if run is row.run else "the same, another seed"
            record = status.usable(run, results)
            cells = _cells(row, record) if record else ("", "not run", "", "")
            parameters, value, wall, revision = cells
            about = [title, f"`{command(run)}`", parameters, value, row.paper]
            lines.append([*about, wall, revision])
    columns = [
        "task",
        "command (`python -m experiments.run --workdir=DIR --config=...`)",
        "independent parameters",
        "test",
        "the paper",
        "wall time",
        "revision",
    ]
    if few:
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    return markdown.table(columns, lines)


def home(results: pathlib.Path) -> str:
    """What the site's first page has of them: task, test metric, wall time."""
    rows = []
    for row in ROWS:
        record = status.usable(row.run, results) if row.home else None
        if record:
            _, value, wall, _ = _cells(row, record)
            rows.append([row.title, value, wall])
    return markdown.table(["task", "test", "wall time"], rows)


def _cells(row: Row, record: dict) -> tuple[str, str, str, str]:
    """Parameters, the test metric or where the run diverged, wall time, revision."""
    revision = (record["revision"] or "")[:7]
    if not record["result"]:
        end = record["diverged"]
        wall = progress.duration(end["wall_seconds"])
        return "", f"diverged at step {end['step']:,}", wall, revision
    parameters = f"{record['result']['num_independent_params']:,}"
    metric = protocol.primary(row.run)
    test = record["result"]["metrics"]["test"]
    value = metric.words.format(metric.number(test[metric.name], row.digits))
    wall = progress.duration(record["result"]["wall_seconds"])
    return parameters, value, wall, revision


def command(run: protocol.Run) -> str:
    """What follows `--config=` to run it."""
    file, _, variant = run.config.partition(":")
    text = f"configs/{file}.py" + (f":{variant}" if variant else "")
    return text + "".join(
        f" --config.{field}={value}" for field, value in run.changes.items()
    )
