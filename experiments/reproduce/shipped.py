"""The table of recorded runs of the shipped configs. No JAX."""

import pathlib

from experiments.reproduce import markdown, panels, protocol, status
from experiments.runs import progress

PIXEL_MNIST = (
    protocol.Run("pixel_mnist_784", "pixel_mnist", {}),
    protocol.Run("pixel_mnist_784_seed1", "pixel_mnist", {"seed": 1}),
)

RUNS = (
    protocol.Run("addition_100", "addition", {}),
    protocol.Run("addition_300", "addition:300", {}),
    protocol.Run("addition_750", "addition:750", {}),
    protocol.Run("addition_750_seed1", "addition:750", {"seed": 1}),
    protocol.Run("copying_100", "copying", {}),
    protocol.Run("copying_500", "copying:500", {}),
    protocol.Run("copying_1000", "copying:1000", {}),
    protocol.Run("copying_2000", "copying:2000", {}),
    protocol.Run("copying_5000", "copying:5000", {}),
    protocol.Run("copying_5000_seed1", "copying:5000", {"seed": 1}),
    protocol.Run("copying_5000_seed2", "copying:5000", {"seed": 2}),
    *PIXEL_MNIST,
    protocol.Run(
        "pixel_mnist_784_long",
        "pixel_mnist",
        {"train.epochs": 40, "train.learning_rate": 1.5e-3},
    ),
    protocol.Run("pixel_mnist_784_wide", "pixel_mnist:wide", {}),
    protocol.Run("pixel_mnist_784_wide_seed1", "pixel_mnist:wide", {"seed": 1}),
    *(
        protocol.Run(
            f"pixel_mnist_784_wide_every_step{suffix}",
            "pixel_mnist:wide",
            {
                "model.activation_every": 1,
                "model.reflectors": 16,
                "train.rates.reflectors": None,
                "train.epochs": 34,
                **seed,
            },
        )
        for suffix, seed in (("", {}), ("_seed1", {"seed": 1}))
    ),
    protocol.Run(
        "pixel_mnist_784_192",
        "pixel_mnist",
        {"model.hidden": 192, "model.reflectors": 8},
    ),
    protocol.Run("pixel_mnist_784_rows", "pixel_mnist:rows", {}),
    protocol.Run("pixel_mnist_784_rows_seed1", "pixel_mnist:rows", {"seed": 1}),
    protocol.Run(
        "pixel_mnist_784_rows_irnn",
        "pixel_mnist:rows",
        {"model.name": "irnn", "model.hidden": 67, "train.learning_rate": 3e-4},
    ),
    protocol.Run("permuted_mnist", "pixel_mnist:permuted", {}),
    protocol.Run("permuted_mnist_seed1", "pixel_mnist:permuted", {"seed": 1}),
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
            "train.learning_rate": 4e-3,
            "train.rates.reflectors": 4e-5,
        },
    ),
    protocol.Run("permuted_mnist_128", "pixel_mnist:permuted", {"model.hidden": 128}),
    protocol.Run(
        "permuted_mnist_128_seed1",
        "pixel_mnist:permuted",
        {"model.hidden": 128, "seed": 1},
    ),
    protocol.Run("pixel_mnist_28", "pixel_mnist", {"task.steps": 28}),
    protocol.Run("deep_mlp_spectral_mlp", "deep_mlp", {}),
    protocol.Run("deep_mlp_spectral_resnet", "deep_mlp:spectral_resnet", {}),
    protocol.Run("deep_mlp_mlp", "deep_mlp:mlp", {}),
    protocol.Run("deep_mlp_resnet", "deep_mlp:resnet", {}),
    protocol.Run("ptb_word/spectral_200_tuned", "ptb_word", {}),
    protocol.Run("ptb_word/spectral_lstm_200_tuned", "ptb_word:spectral_lstm", {}),
    protocol.Run(
        "ptb_word/spectral_lstm_200_one_rate",
        "ptb_word:spectral_lstm",
        {"train.rates.reflectors": None},
    ),
    protocol.Run("ptb_word_smoke", "ptb_word:smoke", {}),
    protocol.Run("ptb_char", "ptb_char", {}),
    protocol.Run("ptb_char_seed1", "ptb_char", {"seed": 1}),
)

# (record, what it is called, metric, digits, the paper's value)
ROWS = {
    "addition_100": ("addition, T = 100", "mse", "MSE {:.5f}", ""),
    "addition_300": ("addition, T = 300", "mse", "MSE {:.5f}", ""),
    "addition_750": ("addition, T = 750", "mse", "MSE {:.5f}", ""),
    "addition_750_seed1": ("the same, another seed", "mse", "MSE {:.5f}", ""),
    "copying_100": ("copy, T = 100", "recall", "recall {:.3f}", ""),
    "copying_500": ("copy, T = 500", "recall", "recall {:.4f}", ""),
    "copying_1000": ("copy, T = 1000", "recall", "recall {:.4f}", ""),
    "copying_2000": ("copy, T = 2000", "recall", "recall {:.4f}", ""),
    "copying_5000": ("copy, T = 5000", "recall", "recall {:.4f}", ""),
    "copying_5000_seed1": ("the same, another seed", "recall", "recall {:.4f}", ""),
    "copying_5000_seed2": ("the same, another seed", "recall", "recall {:.4f}", ""),
    "pixel_mnist_784": (
        "pixel MNIST, 784 steps",
        "accuracy",
        "accuracy {:.4f}",
        "0.977",  # the ICML text, n = 128, m = 16
    ),
    "pixel_mnist_784_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "0.977",
    ),
    "pixel_mnist_784_long": (
        "pixel MNIST, 784 steps, 40 epochs",
        "accuracy",
        "accuracy {:.4f}",
        "0.977",
    ),
    "pixel_mnist_784_wide": (
        "pixel MNIST, 784 steps, 256 units, an activation a row",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_784_wide_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_784_wide_every_step": (
        "pixel MNIST, 784 steps, 256 units",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_784_wide_every_step_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_784_192": (
        "pixel MNIST, 784 steps, 192 units",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_784_rows": (
        "pixel MNIST, 784 steps, an activation a row",
        "accuracy",
        "accuracy {:.4f}",
        "0.977",
    ),
    "pixel_mnist_784_rows_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "0.977",
    ),
    "pixel_mnist_784_rows_irnn": (
        "the same by the IRNN, 67 units from W = I",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist": ("permuted MNIST", "accuracy", "accuracy {:.4f}", ""),
    "permuted_mnist_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist_leaky": (
        "permuted MNIST, 128 units, an activation at every pixel",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist_128": (
        "permuted MNIST, 128 units",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist_128_seed1": (
        "the same, another seed",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "pixel_mnist_28": ("pixel MNIST, 28 steps", "accuracy", "accuracy {:.4f}", ""),
    "deep_mlp_spectral_mlp": (
        "MNIST, spectral MLP, 100 × 128",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "deep_mlp_spectral_resnet": (
        "MNIST, spectral residual MLP, 100 × 128",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "deep_mlp_mlp": ("MNIST, MLP, 100 × 128", "accuracy", "accuracy {:.4f}", ""),
    "deep_mlp_resnet": (
        "MNIST, residual MLP, 100 × 128",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "ptb_word/spectral_200_tuned": ("PTB words", "perplexity", "perplexity {:.1f}", ""),
    "ptb_word/spectral_lstm_200_tuned": (
        "PTB words, Spectral-LSTM",
        "perplexity",
        "perplexity {:.1f}",
        "",
    ),
    "ptb_word/spectral_lstm_200_one_rate": (
        "the same, one rate for all parts",
        "perplexity",
        "perplexity {:.1f}",
        "",
    ),
    "ptb_word_smoke": ("PTB words, one minute", "perplexity", "perplexity {:.0f}", ""),
    "ptb_char": (
        "PTB characters",
        "bits_per_character",
        "{:.3f} bits per character",
        "",
    ),
    "ptb_char_seed1": (
        "the same, another seed",
        "bits_per_character",
        "{:.3f} bits per character",
        "",
    ),
}


# The rows of the README.
FEW = (
    "addition_750",
    "copying_5000",
    "pixel_mnist_784_rows",
    "permuted_mnist",
    "ptb_word/spectral_lstm_200_tuned",
    "ptb_char",
)


def table(results: pathlib.Path, few: bool = False) -> str:
    """Recorded runs of the shipped configs, all or the few of the README."""
    rows = []
    for run in RUNS:
        if few and run.name not in FEW:
            continue
        name, metric, form, paper = ROWS[run.name]
        record = status.usable(run, results)
        about = _cells(record, metric, form) if record else ("", "not run", "", "")
        parameters, value, wall, revision = about
        cells = [parameters, value, paper, wall, revision]
        rows.append([name, f"`{command(run)}`", *cells])
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
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return markdown.table(columns, rows)


def _cells(record: dict, metric: str, form: str) -> tuple[str, str, str, str]:
    """Parameters, the test metric or where the run diverged, wall time, revision."""
    revision = (record["revision"] or "")[:7]
    if not record["result"]:
        end = record["diverged"]
        wall = progress.duration(end["wall_seconds"])
        return "", f"diverged at step {end['step']:,}", wall, revision
    parameters = f"{record['result']['num_independent_params']:,}"
    value = form.format(panels.final(record, metric))
    wall = progress.duration(record["result"]["wall_seconds"])
    return parameters, value, wall, revision


def command(run: protocol.Run) -> str:
    """What follows `--config=` to run it."""
    file, _, variant = run.config.partition(":")
    text = f"configs/{file}.py" + (f":{variant}" if variant else "")
    return text + "".join(
        f" --config.{field}={value}" for field, value in run.changes.items()
    )
