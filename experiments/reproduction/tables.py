"""The README's tables, from records alone. No JAX.

A table lies in README.md between `<!-- table: NAME -->` and `<!-- end -->`; `rewritten`
makes every one of them anew.
"""

import functools
import json
import math
import pathlib
import re
import statistics
import textwrap
from collections.abc import Callable

from experiments import logs, records
from experiments.reproduction import drawings, protocols, status
from experiments.reproduction.protocols import Run

README = pathlib.Path(__file__).parents[2] / "README.md"

_BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def rewritten(text: str, results: pathlib.Path = records.RESULTS) -> str:
    """The text with the content of every table made from the records.

    Raises:
      ValueError: a table that is not one of `TABLES`, or a record that cannot be used.
    """

    def block(match):
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"README.md: no table is called {name!r}")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- end -->"

    return _BLOCK.sub(block, text)


# ---- Runs of the shipped configs.

# (record, what it is called, metric, digits, the paper's value)
SHIPPED_ROWS = {
    "addition_100": ("addition, T = 100", "mse", "MSE {:.5f}", ""),
    "addition_300": ("addition, T = 300", "mse", "MSE {:.5f}", ""),
    "copying_100": ("copy, T = 100", "recall", "recall {:.3f}", ""),
    "copying_500": ("copy, T = 500", "recall", "recall {:.4f}", ""),
    "copying_1000": ("copy, T = 1000", "recall", "recall {:.4f}", ""),
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
        "pixel MNIST, 784 steps, 256 units, 10 epochs",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist": (
        "permuted MNIST, 8 epochs",
        "accuracy",
        "accuracy {:.4f}",
        "",
    ),
    "permuted_mnist_wide": (
        "permuted MNIST, 256 units, 8 epochs",
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
    "ptb_word_smoke": ("PTB words, one minute", "perplexity", "perplexity {:.0f}", ""),
    "ptb_char": (
        "PTB characters",
        "bits_per_character",
        "{:.3f} bits per character",
        "",
    ),
}


def shipped(results: pathlib.Path) -> str:
    """Recorded runs of the shipped configs."""
    rows = []
    for run in protocols.SHIPPED:
        name, metric, form, paper = SHIPPED_ROWS[run.name]
        record, cells = _usable(run, results), ["", "not run", paper, ""]
        if record:
            cells = [
                f"{record['result']['num_independent_params']:,}",
                form.format(drawings.final(record, metric)),
                paper,
                logs.duration(record["result"]["wall_seconds"]),
            ]
        rows.append([name, f"`{command(run)}`", *cells])
    return markdown(
        [
            "task",
            "command (`python -m experiments.run --workdir=DIR --config=...`)",
            "independent parameters",
            "test",
            "the paper",
            "wall time",
        ],
        rows,
    )


def command(run: Run) -> str:
    """What follows `--config=` to run it."""
    file, _, variant = run.config.partition(":")
    text = f"configs/{file}.py" + (f":{variant}" if variant else "")
    return text + "".join(
        f" --config.{field}={value}" for field, value in run.changes.items()
    )


# ---- The two tables of the paper's comparison.

# Test accuracies of the paper: of the ICML text for spectral, of its earlier submission
# for the others, with the hidden units where they are not 128.
PIXEL_MNIST_PAPER = {
    "spectral": "0.977",
    "ornn": "0.972 (256 units)",
    "rnn": "0.941",
    "lstm": "0.973",
}
PIXEL_MNIST_SOURCE = (
    "The paper's values: Zhang et al., ICML 2018, for spectral (128 units, 16"
    " reflectors); their earlier submission for the others."
)


COLUMNS = ("model", "hidden", "parameters", "epochs", "learning rate")


def pixel_mnist(results: pathlib.Path, scale: str = "cpu") -> str:
    """Pixel MNIST, 784 steps."""
    head, rows = _comparison("pixel_mnist", scale, results, "accuracy", "{:.4f}")
    for row in rows:
        row.insert(-1, PIXEL_MNIST_PAPER.get(row[0], ""))
    table = markdown([*COLUMNS, "test accuracy", "the paper", "wall time"], rows)
    return f"{_wrapped(f'{head} {PIXEL_MNIST_SOURCE}')}\n\n{table}"


def ptb_word(results: pathlib.Path, scale: str = "cpu") -> str:
    """Penn Treebank words."""
    splits = ("valid", "test")
    head, rows = _comparison("ptb_word", scale, results, "perplexity", "{:.1f}", splits)
    names = ["validation perplexity", "test perplexity", "wall time"]
    return f"{_wrapped(head)}\n\n{markdown([*COLUMNS, *names], rows)}"


# Trials that chose learning rates, by folder: models, metric, digits, what is best.
GRIDS = {
    "ptb_word_grid": (protocols.RECURRENT, "perplexity", "{:.0f}", min),
    "addition_grid": (protocols.RECURRENT, "mse", "{:.4f}", min),
    "addition_grid_300": (protocols.RECURRENT, "mse", "{:.4f}", min),
    "deep_mlp_grid": (protocols.FEEDFORWARD, "accuracy", "{:.3f}", max),
}


def grid(folder: str, results: pathlib.Path) -> str:
    """Validation metrics of trials over learning rates, the best of a model in bold."""
    models, metric, form, best = GRIDS[folder]
    found = {}
    for path in (results / folder).glob("*.json"):
        record = records.read(f"{folder}/{path.stem}", results)
        config, end = record["config"], record["result"]
        key = config["model"]["name"], config["train"]["learning_rate"]
        found[key] = end["metrics"]["valid"][metric] if end else None
    rates = sorted({rate for _, rate in found})
    rows = []
    for model in models:
        values = [found.get((model, rate), "not run") for rate in rates]
        numbers = [value for value in values if isinstance(value, float)]
        cells = []
        for value in values:
            text = value
            if value is None:
                text = "diverged"
            elif value in numbers:
                text = form.format(value)
                text = f"**{text}**" if value == best(numbers) else text
            cells.append(text)
        rows.append([model, *cells])
    return markdown(["model", *(f"{rate:g}" for rate in rates)], rows)


def _comparison(
    figure, scale, results, metric, form, splits=("test",)
) -> tuple[str, list[list[str]]]:
    """A line on scale, seeds and machines, and a row for each model.

    A row has `COLUMNS`, the value on each split and the wall time, of several seeds the
    mean and the range.
    """
    groups: dict[str, list[Run]] = {}
    for run in protocols.runs(figure, scale):
        config = protocols.config_dict(run)
        config["seed"] = None
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    found, rows = [], []
    for runs in groups.values():
        mine = [record for run in runs if (record := _usable(run, results))]
        found += mine
        rows.append(_row(runs, mine, metric, form, splits))
    seeds = protocols.SEEDS[scale][figure]
    text = f"Scale `{scale}`: {'one seed' if seeds == 1 else f'{seeds} seeds'}"
    where = f", on {drawings.machines(found)}" if found else ", no run recorded"
    return f"{text}{where}.", rows


def _row(runs: list[Run], found: list[dict], metric, form, splits) -> list[str]:
    config = found[0]["config"] if found else protocols.config_dict(runs[0])
    model, train = config["model"], config["train"]
    epochs = train["epochs"] if train["steps"] is None else f"{train['steps']} steps"
    finished = [record["result"] for record in found if record["result"]]
    parameters, wall, values = "", "", ["not run"] * len(splits)
    if finished:
        parameters = f"{finished[0]['num_independent_params']:,}"
        wall = logs.duration(statistics.fmean(end["wall_seconds"] for end in finished))
        values = [
            _mean([end["metrics"][split][metric] for end in finished], form)
            for split in splits
        ]
    diverged = [record["diverged"]["step"] for record in found if "diverged" in record]
    if diverged:
        text = f"diverged at step {', '.join(map(str, diverged))}"
        values[-1] = f"{values[-1]}; {text}" if finished else text
    rate = f"{train['learning_rate']:g}" if found else ""
    if found and train.get("reflector_learning_rate") is not None:
        rate += f", reflectors {train['reflector_learning_rate']:g}"
    about = [model["name"], str(model["hidden"]), parameters, str(epochs), rate]
    return [*about, *values, wall]


def _mean(values: list[float], form: str) -> str:
    """The mean and, of several values, the range."""
    text = form.format(statistics.fmean(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))}–{form.format(max(values))})"
    return text


# ---- Speed.

# Columns of the table of all cells: contender (m=n stands for as many reflectors as
# hidden units), name, and the contender that it is divided by.
LAYERS = (
    ("nnx.RNN(SimpleCell)", "`nnx.RNN`", None),
    ("nnx.RNN(OptimizedLSTMCell)", "LSTM", None),
    ("DenseRNN", "`DenseRNN`", None),
    ("SpectralRNN low_rank m=16", "`SpectralRNN`, 16", None),
    ("SpectralRNN low_rank m=16", "to `nnx.RNN`", "nnx.RNN(SimpleCell)"),
    ("SpectralRNN low_rank m=16", "to `DenseRNN`", "DenseRNN"),
    ("SpectralRNN dense m=n", "`SpectralRNN`, n", None),
    ("SpectralRNN dense m=n", "to `nnx.RNN`", "nnx.RNN(SimpleCell)"),
    ("paper m=16", "the paper's loop, 16", None),
)


def speed(results: pathlib.Path) -> str:
    """A training step of every cell of `benchmark_grid`, in milliseconds and ratios."""
    cells: dict[tuple[int, int], dict[str, float]] = {}
    for row in _benchmark("benchmark_grid", results):
        if row["kind"] == "layer":
            cell = cells.setdefault((row["n"], row["steps"]), {})
            cell[row["contender"]] = row.get("seconds")

    def text(cell, n, contender, base):
        seconds = cell[contender.replace("m=n", f"m={n}")]
        if seconds is None:
            return "skipped"
        return f"{seconds / cell[base]:.2f}" if base else _milliseconds(seconds)

    rows = [
        [str(n), f"{steps:,}", *(text(cell, n, each, base) for each, _, base in LAYERS)]
        for (n, steps), cell in cells.items()
    ]
    return markdown(["n", "T", *(name for _, name, _ in LAYERS)], rows)


def headline(results: pathlib.Path) -> str:
    """The speed of wide layers in a sentence."""
    ratios = [
        f"{theirs / ours:.1f} times at n = {n}"
        for n, (theirs, ours) in _widths(results).items()
    ]
    return _wrapped(
        "The constraint costs no speed: with 16 reflectors a side, a training step of"
        f" `SpectralRNN` is faster than one of `nnx.RNN`, {' and '.join(ratios)} (two"
        " CPU cores, batch 128, T = 100; see [Speed](#speed))."
    )


def speed_widths(results: pathlib.Path) -> str:
    """A step of wider layers, of `benchmark_sizes`."""
    rows = [
        [str(n), f"{theirs * 1e3:.0f}", f"{ours * 1e3:.0f}", f"**{ours / theirs:.2f}**"]
        for n, (theirs, ours) in _widths(results).items()
    ]
    names = ["`nnx.RNN(nnx.SimpleCell)`, ms", "`SpectralRNN`, ms", "ratio"]
    return markdown(["n", *names], rows)


def _widths(results: pathlib.Path) -> dict[int, tuple[float, float]]:
    """{n: seconds of a step of nnx.RNN and of SpectralRNN} of `benchmark_sizes`."""
    found = {
        (row["n"], row["contender"]): row["seconds"]
        for row in _benchmark("benchmark_sizes", results)
        if row["kind"] == "layer" and "seconds" in row
    }
    return {
        n: (found[n, "nnx.RNN(SimpleCell)"], found[n, "SpectralRNN low_rank m=16"])
        for n in sorted({n for n, _ in found})
    }


def speed_peers(results: pathlib.Path) -> str:
    """A step of every contender of `benchmark_quick`, PyTorch's too."""
    rows = [
        row
        for row in _benchmark("benchmark_quick", results)
        if row["kind"] == "layer" and "seconds" in row
    ]
    ours = next(r for r in rows if r["contender"] == "SpectralRNN low_rank m=16")
    return markdown(
        ["n = 128, T = 784", "ms", "range", "`SpectralRNN`, 16, to it"],
        [
            [
                row["contender"],
                _milliseconds(row["seconds"]),
                f"{_milliseconds(row['low'])}–{_milliseconds(row['high'])}",
                f"{ours['seconds'] / row['seconds']:.2f}",
            ]
            for row in rows
        ],
    )


def speed_lengths(results: pathlib.Path) -> str:
    """Time and memory over T, with all states and with chunks; exponents."""
    rows = [
        row for row in _benchmark("benchmark_grid", results) if row["kind"] == "scaling"
    ]
    series: dict[str, dict[int, dict]] = {}
    for row in rows:
        size = row["batch"] if row["series"] == "batch" else row["steps"]
        series.setdefault(row["series"], {})[size] = row
    cells = []
    for steps in series["all states kept"]:
        pair = [series[name][steps] for name in ("all states kept", "chunks")]
        numbers = [
            (f"{row['seconds'] * 1e3:.0f}", f"{row['temp_bytes'] / 2**20:.0f}")
            for row in pair
        ]
        cells.append([f"{steps:,}", *(text for both in numbers for text in both)])
    table = markdown(
        ["T", "ms", "temporaries, MiB", "ms in chunks of √T", "temporaries, MiB"],
        cells,
    )
    exponents = [_exponent(series[name]) for name in ("all states kept", "batch")]
    return (
        f"{table}\n\nTime grows with T to the {exponents[0]:.2f}, and with the batch"
        f" to the {exponents[1]:.2f}."
    )


def speed_matrices(results: pathlib.Path) -> str:
    """Value and gradient of an orthogonal matrix, of `benchmark_grid`."""
    found = {
        (row["n"], row["contender"]): row
        for row in _benchmark("benchmark_grid", results)
        if row["kind"] == "matrix"
    }
    rows = []
    for n in sorted({n for n, _ in found if n >= 256}):
        cells = []
        for name in ("svdrnn", "paper", "QR", "matrix exponential"):
            seconds = found[n, name].get("seconds")
            cells.append("skipped" if seconds is None else _milliseconds(seconds))
        rows.append([str(n), *cells])
    return markdown(
        ["n", "here", "one reflector at a time", "QR", "matrix exponential"], rows
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds < 9.95e-3 else 0}f}"


def _exponent(points: dict[int, dict]) -> float:
    """The slope of log(seconds) over log(size), by least squares."""
    sizes = [math.log(size) for size in points]
    times = [math.log(row["seconds"]) for row in points.values()]
    return statistics.linear_regression(sizes, times).slope


def _benchmark(name: str, results: pathlib.Path) -> list[dict]:
    return json.loads((results / f"{name}.json").read_text())["rows"]


# ---- Figures that are there.


def figures(results: pathlib.Path) -> str:
    """Links to the figures F1 to F4 that are drawn, the greatest scale of each."""
    lines = []
    for name, title in drawings.TITLES.items():
        for scale in ("full", "cpu"):
            path = results / "figures" / f"{name}_{scale}.png"
            if path.exists():
                link = f"experiments/results/figures/{path.name}"
                lines.append(f"![{title}, scale {scale}]({link})")
                break
    return "\n\n".join(lines) or "No run of F1 to F4 is recorded yet."


TABLES: dict[str, Callable[[pathlib.Path], str]] = {
    "headline": headline,
    "results": shipped,
    "pixel_mnist": pixel_mnist,
    "ptb_word": ptb_word,
    **{name: functools.partial(grid, name) for name in GRIDS},
    "speed": speed,
    "speed_peers": speed_peers,
    "speed_widths": speed_widths,
    "speed_lengths": speed_lengths,
    "speed_matrices": speed_matrices,
    "figures": figures,
}


# ---- What tables share.


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table in GitHub's Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ["|".join(f" {cell} " if cell else " " for cell in line) for line in lines]
    cells[1] = "|".join(["---"] * len(columns))
    return "\n".join(f"|{line}|" for line in cells)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 88)


def _usable(run: Run, results: pathlib.Path) -> dict | None:
    record, problem = status.find(run, results)
    if problem:
        raise ValueError(problem)
    return record
