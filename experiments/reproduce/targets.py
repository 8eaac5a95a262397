"""What recorded runs were to reach, and what they reached. No JAX."""

import operator
import pathlib
import statistics
from typing import NamedTuple

from experiments.reproduce import (
    f1_addition,
    markdown,
    panels,
    ptb_word,
    shipped,
    status,
)


class Target(NamedTuple):
    """A figure that was set before the runs were made.

    task: what it is about.
    names: runs of `shipped` or of a figure, one a seed.
    metric: of test data; its mean over the runs has to reach the aim.
    form: of a number.
    sign: ≥ where the aim is the least that is enough, ≤ where it is the most.
    aim: a number, or the runs whose mean it is, one a seed.
    published: the best of others on a single layer that we know of.
    """

    task: str
    names: tuple[str, ...]
    metric: str
    form: str
    sign: str
    aim: float | tuple[str, ...]
    published: str


_WORDS = ("ptb_word/spectral_200_tuned",)
_WORDS_SPECTRAL_LSTM = (
    "ptb_word/spectral_lstm_200_tuned",
    "ptb_word/spectral_lstm_200_seed1_tuned",
)
_WORDS_LSTM = ("ptb_word/lstm_200_tuned", "ptb_word/lstm_200_seed1_tuned")

_EVERY = "an activation at every pixel"

TARGETS = (
    Target(
        "permuted MNIST, n = 128",
        ("permuted_mnist_128", "permuted_mnist_128_seed1"),
        *("accuracy", "{:.4f}", "≥", 0.940),
        "expRNN, n = 170: 0.949",
    ),
    Target(
        f"permuted MNIST, n = 128, {_EVERY}",
        ("permuted_mnist_leaky",),
        *("accuracy", "{:.4f}", "≥", 0.940),
        "expRNN, n = 170: 0.949",
    ),
    Target(
        "permuted MNIST, n ≤ 256",
        ("permuted_mnist", "permuted_mnist_seed1"),
        *("accuracy", "{:.4f}", "≥", 0.955),
        "expRNN, n = 360: 0.962, n = 512: 0.966",
    ),
    Target(
        f"permuted MNIST, n ≤ 256, {_EVERY}",
        ("permuted_mnist_leaky",),
        *("accuracy", "{:.4f}", "≥", 0.955),
        "expRNN, n = 360: 0.962, n = 512: 0.966",
    ),
    Target(
        "pixel MNIST, 5,530 parameters",
        ("pixel_mnist_784_rows", "pixel_mnist_784_rows_seed1"),
        *("accuracy", "{:.4f}", "≥", 0.986),
        "expRNN, n = 170: 0.980; geotorch, n = 170: 0.985",
    ),
    Target(
        f"pixel MNIST, 5,530 parameters, {_EVERY}",
        ("pixel_mnist_784", "pixel_mnist_784_seed1"),
        *("accuracy", "{:.4f}", "≥", 0.986),
        "expRNN, n = 170: 0.980; geotorch, n = 170: 0.985",
    ),
    Target(
        "pixel MNIST, n ≤ 256",
        ("pixel_mnist_784_wide", "pixel_mnist_784_wide_seed1"),
        *("accuracy", "{:.4f}", "≥", 0.988),
        "expRNN, n = 512: 0.987",
    ),
    Target(
        f"pixel MNIST, n ≤ 256, {_EVERY}",
        (
            "pixel_mnist_784_wide_every_step",
            "pixel_mnist_784_wide_every_step_seed1",
        ),
        *("accuracy", "{:.4f}", "≥", 0.988),
        "expRNN, n = 512: 0.987",
    ),
    Target(
        "PTB characters, one hour on two cores, bits",
        ("ptb_char", "ptb_char_seed1"),
        *("bits_per_character", "{:.3f}", "≤", 1.58),
        "expRNN, 1.3 M parameters, many epochs: 1.43",
    ),
    Target(
        "PTB words: Spectral-RNN, and the LSTM of as many parameters",
        _WORDS,
        *("perplexity", "{:.1f}", "≤", ("ptb_word/lstm_equal_tuned",)),
        "",
    ),
    Target(
        "PTB words, three tries each: Spectral-RNN, and the LSTM of as many units",
        _WORDS,
        *("perplexity", "{:.1f}", "≤", _WORDS_LSTM),
        "",
    ),
    Target(
        "PTB words: Spectral-LSTM, and the LSTM of as many units and parameters",
        _WORDS_SPECTRAL_LSTM,
        *("perplexity", "{:.1f}", "≤", _WORDS_LSTM),
        "",
    ),
    Target(
        "copy at a lag of 5,000, recall",
        ("copying_5000", "copying_5000_seed1", "copying_5000_seed2"),
        *("recall", "{:.4f}", "≥", 0.99),
        "expRNN to 2,000, n = 190",
    ),
    Target(
        "addition, T = 300, 1,500 iterations",
        tuple(f"cpu/F1/T300_spectral_seed{seed}" for seed in range(3)),
        *("mse", "{:.4f}", "≤", 0.005),
        "",
    ),
    Target(
        "addition, T = 750",
        ("addition_750", "addition_750_seed1"),
        *("mse", "{:.4f}", "≤", 0.01),
        "scoRNN",
    ),
)


def table(results: pathlib.Path) -> str:
    """Each target with the mean and the range of what was reached."""
    figures = (*f1_addition.runs("cpu"), *ptb_word.runs("cpu"))
    known = {run.name: run for run in (*shipped.RUNS, *figures)}

    def usable(names: tuple[str, ...]) -> list[dict]:
        found = (status.usable(known[name], results) for name in names)
        return [record for record in found if record]

    rows = []
    for each in TARGETS:
        aim: float | None
        if isinstance(each.aim, tuple):
            others = _values(usable(each.aim), each.metric)
            aim = statistics.mean(others) if others else None
        else:
            aim = each.aim
        wanted = "not run" if aim is None else f"{each.sign} {each.form.format(aim)}"
        records = usable(each.names)
        cells = ["not run", "no"]
        if records:
            cells = [_spread(records, each), _verdict(each, records, aim)]
        rows.append([each.task, wanted, each.published, *cells])
    return markdown.table(["task", "to reach", "published", "test", "reached"], rows)


def _values(records: list[dict], metric: str) -> list[float]:
    """Those of the runs that did not diverge."""
    found = (panels.final(record, metric) for record in records)
    return [value for value in found if value is not None]


def _spread(records: list[dict], each: Target) -> str:
    """The mean, of several values their range, and how many seeds diverged."""
    values = _values(records, each.metric)
    texts = [each.form.format(statistics.mean(values))] if values else []
    if len(values) > 1:
        low, high = each.form.format(min(values)), each.form.format(max(values))
        texts[0] += f" ({low} to {high}, {len(values)} seeds)"
    if len(values) < len(records):
        texts.append(f"{len(records) - len(values)} of {len(records)} seeds diverged")
    return "; ".join(texts)


def _verdict(each: Target, records: list[dict], aim: float | None) -> str:
    """A seed that diverged reaches nothing, and then the mean does not either."""
    values = _values(records, each.metric)
    enough = {"≥": operator.ge, "≤": operator.le}[each.sign]
    if aim is None or len(values) < len(records):
        return "no"
    return "**yes**" if enough(statistics.mean(values), aim) else "no"
