"""Tables of step times, from the benchmark's records. No JAX."""

import math
import pathlib
import statistics
from typing import Any

from experiments.reproduce import markdown
from experiments.runs import files

# As the benchmark's records call them: nnx.RNN with the activation of all others, with
# its own, and the layer that is compared with them.
BASELINE = "nnx.RNN, leaky ReLU"
TANH = "nnx.RNN(SimpleCell)"
LINEAR = "nnx.RNN, identity"
OWN = "SpectralRNN low_rank m=16"

# Columns of the table of all cells: contender (m=n stands for as many reflectors as
# hidden units), name, and the contender that it is divided by.
LAYERS = (
    (BASELINE, "`nnx.RNN`", None),
    ("nnx.RNN(OptimizedLSTMCell)", "LSTM", None),
    ("DenseRNN", "`DenseRNN`", None),
    (OWN, "`SpectralRNN`, 16", None),
    (OWN, "to `nnx.RNN`", BASELINE),
    (OWN, "to `DenseRNN`", "DenseRNN"),
    ("SpectralRNN dense m=n", "`SpectralRNN`, n", None),
    ("SpectralRNN dense m=n", "to `nnx.RNN`", BASELINE),
    (TANH, "`nnx.RNN`, tanh", None),
    ("paper m=16", "the paper's loop, 16", None),
)


# What the README has of it: the first columns, at one length.
FEW_COLUMNS, FEW_STEPS, FEW_SIZES = 6, 784, (128, 512, 1024)


# Names in the table of what a constraint costs, and what each row is compared with.
COSTLY = {
    "transformer": "transformer, 2 blocks of width 128, 16 × 64 tokens",
    "convolutions": "three 3 × 3 convolutions, 16 images of 32 × 32",
    "lstm": "LSTM, 128 units, 100 steps, batch 128: the recurrent kernel",
}


def constraints(results: pathlib.Path) -> str:
    """A step of each model of `benchmark constraints`, fastest call to fastest."""
    record = _record("benchmark_constraints", results)
    rows = []
    for name, timings in record["models"].items():
        for label, timing in timings.items():
            torch = label.startswith("torch ")
            base = timings["torch unconstrained" if torch else "unconstrained"]
            ratio = timing["low"] / base["low"]
            where = COSTLY[name] if label == "unconstrained" else ""
            rows.append(
                [
                    where,
                    label.replace("torch ", "PyTorch, "),
                    _milliseconds(timing["low"]),
                    "" if timing is base else f"{ratio:.2f}",
                ]
            )
    return markdown.table(["model", "kernels", "ms", "to unconstrained"], rows)


def few_cells(results: pathlib.Path) -> str:
    """The rows and columns of `cells` that the README has."""
    lines = cells(results).splitlines()
    wanted = [f"| {n} | {FEW_STEPS} |" for n in FEW_SIZES]
    rows = [line for line in lines if any(line.startswith(start) for start in wanted)]
    return "\n".join(
        "|".join(line.split("|")[: 4 + FEW_COLUMNS]) + "|"
        for line in [*lines[:2], *rows]
    )


def cells(results: pathlib.Path) -> str:
    """A training step of every cell of `benchmark_grid`, in milliseconds and ratios."""
    cells: dict[tuple[int, int, int], dict[str, Any]] = {}
    for row in _benchmark("benchmark_grid", results):
        if row["kind"] == "layer":
            place = (row["n"], row["steps"], _devices(row))
            cell = cells.setdefault(place, {})
            cell[row["contender"]] = row.get("seconds")

    def text(cell, n, contender, base):
        contender = contender.replace("m=n", f"m={n}")
        if contender not in cell:
            return ""  # measured on one device alone
        seconds = cell[contender]
        if seconds is None:
            return "skipped"
        if base is None:
            return _milliseconds(seconds)
        return f"{seconds / cell[base]:.2f}" if cell[base] else ""

    rows = [
        [
            *(str(n), f"{steps:,}", str(devices)),
            *(text(cell, n, contender, base) for contender, _, base in LAYERS),
        ]
        for (n, steps, devices), cell in sorted(cells.items())
    ]
    return markdown.table(["n", "T", "devices", *(name for _, name, _ in LAYERS)], rows)


def headline(results: pathlib.Path, more: str) -> str:
    """The speed of wide layers in a sentence, with a link to more.

    Raises:
      ValueError: the sentence does not hold of the record.
    """
    widths = _widths(results)
    record = _record("benchmark_sizes", results)
    lengths = sorted({row["steps"] for row in record["rows"] if row["kind"] == "layer"})
    machine = record["machine"]
    if len(lengths) > 1 or any(ours >= theirs for theirs, ours in widths.values()):
        raise ValueError(
            "benchmark_sizes must be of one T and faster than nnx.RNN at every n, got"
            f" T of {lengths} and seconds {widths}"
        )
    parts = []
    for devices in sorted({devices for _, devices in widths}):
        ratios = {n: t / ours for (n, on), (t, ours) in widths.items() if on == devices}
        times = _listed([f"{ratio:.1f}" for ratio in ratios.values()])
        where = "one device" if devices == 1 else f"{devices} devices"
        parts.append(f"{times} times at n = {_listed(list(ratios))} on {where}")
    return markdown.wrapped(
        "The constraint costs no speed: with 16 reflectors a side, a training step of"
        " `SpectralRNN` is faster than one of `nnx.RNN` with the same activation,"
        f" {'; '.join(parts)} ({machine['device'].upper()}, {machine['cores']} cores,"
        f" batch {record['batch']}, T = {lengths[0]}; see [Speed]({more}))."
    )


def _listed(values: list) -> str:
    """'1, 2 and 3'."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def widths(results: pathlib.Path) -> str:
    """A step of wider layers, of `benchmark_sizes`."""
    rows = [
        [
            *(str(n), str(devices), f"{theirs * 1e3:.0f}", f"{ours * 1e3:.0f}"),
            f"**{ours / theirs:.2f}**",
        ]
        for (n, devices), (theirs, ours) in _widths(results).items()
    ]
    names = ["devices", "`nnx.RNN`, ms", "`SpectralRNN`, ms", "ratio"]
    return markdown.table(["n", *names], rows)


def _widths(results: pathlib.Path) -> dict[tuple[int, int], tuple[float, float]]:
    """{(n, devices): seconds of `nnx.RNN` and of SpectralRNN} of `benchmark_sizes`."""
    seconds = {
        (row["n"], _devices(row), row["contender"]): row["seconds"]
        for row in _benchmark("benchmark_sizes", results)
        if row["kind"] == "layer" and "seconds" in row
    }
    return {
        (n, devices): (seconds[n, devices, BASELINE], seconds[n, devices, OWN])
        for n, devices in sorted({(n, devices) for n, devices, _ in seconds})
    }


def linear(results: pathlib.Path) -> str:
    """A step of linear recurrences, of `benchmark_linear` on one device."""
    measured = {
        (row["n"], row["steps"], row["contender"]): row["seconds"]
        for row in _benchmark("benchmark_linear", results)
        if row["kind"] == "layer" and "seconds" in row and _devices(row) == 1
    }
    rows = []
    for n, steps in sorted({(n, steps) for n, steps, _ in measured}):
        base = measured[n, steps, LINEAR]
        cells = []
        for m in (16, n):
            seconds = measured[n, steps, f"SpectralRNN identity m={m}"]
            cells += [_milliseconds(seconds), f"**{seconds / base:.2f}**"]
        rows.append([str(n), str(steps), _milliseconds(base), *cells])
    names = [f"`SpectralRNN`, {m}" for m in ("16", "n")]
    columns = [column for name in names for column in (name, "to `nnx.RNN`")]
    return markdown.table(["n", "T", "`nnx.RNN`", *columns], rows)


def _devices(row: dict) -> int:
    """On how many a row was measured; the first records had one alone."""
    return row.get("devices", 1)


def peers(results: pathlib.Path) -> str:
    """A step of every contender of `benchmark_quick` on one device, PyTorch's too."""
    rows = [
        row
        for row in _benchmark("benchmark_quick", results)
        if row["kind"] == "layer" and "seconds" in row and _devices(row) == 1
    ]
    ours = next(r for r in rows if r["contender"] == OWN)
    return markdown.table(
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


def startup(results: pathlib.Path) -> str:
    """What each config takes before its first step, of `benchmark startup`."""
    rows: dict[str, dict[str, dict]] = {}
    for row in _benchmark("benchmark_startup", results):
        rows.setdefault(row["config"], {})[row["cache"]] = row
    cells = []
    for config, by_cache in rows.items():
        cold, warm = by_cache["cold"], by_cache["warm"]
        seconds = ("imports", "data", "initialization", "compiling", "to_first_step")
        cells.append(
            [
                f"`{config}`",
                str(cold["programs"]),
                *(f"{cold[name]:.1f}" for name in seconds),
                f"{warm['to_first_step']:.1f}",
                _milliseconds(cold["step"]),
                f"{cold['evaluation']:.1f}",
                f"{cold['checkpoint']:.2f}",
                f"{cold['gib']:.1f}",
            ]
        )
    head = ["config", "programs", "import", "data", "initialization", "compilation"]
    head += ["first step", "with a warm cache", "a step, ms", "evaluation"]
    return markdown.table([*head, "checkpoint", "GiB"], cells)


def lengths(results: pathlib.Path) -> str:
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
    table = markdown.table(
        ["T", "ms", "temporaries, MiB", "ms in chunks of √T", "temporaries, MiB"],
        cells,
    )
    exponents = [_exponent(series[name]) for name in ("all states kept", "batch")]
    return (
        f"{table}\n\nTime grows with T to the {exponents[0]:.2f}, and with the batch"
        f" to the {exponents[1]:.2f}."
    )


def matrices(results: pathlib.Path) -> str:
    """Value and gradient of an orthogonal matrix, of `benchmark_grid`."""
    measured = {
        (row["n"], row["contender"]): row
        for row in _benchmark("benchmark_grid", results)
        if row["kind"] == "matrix"
    }
    rows = []
    for n in sorted({n for n, _ in measured if n >= 256}):
        cells = []
        for name in ("svdrnn", "paper", "QR", "matrix exponential"):
            seconds = measured[n, name].get("seconds")
            cells.append("skipped" if seconds is None else _milliseconds(seconds))
        rows.append([str(n), *cells])
    return markdown.table(
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
    return _record(name, results)["rows"]


def _record(name: str, results: pathlib.Path) -> dict:
    return files.read_object(results / f"{name}.json")
