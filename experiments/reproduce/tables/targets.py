"""What recorded runs were to reach, and what they reached. No JAX."""

import pathlib
import statistics
from typing import NamedTuple

from experiments.reproduce import markdown, panels, protocol, status
from experiments.reproduce.figures import f1_addition
from experiments.reproduce.tables import certificates, ptb_word, shipped
from experiments.tasks import scoring


class Target(NamedTuple):
    """A figure that was set before the runs were made.

    task: what it is about.
    runs: names of runs of `shipped` or of a figure, one a seed. The primary metric of
      their task, on test data, has to reach the aim in the mean.
    aim: a number, or the names of the runs whose mean it is, one a seed. It is the
      least that is enough of a metric of which more is better, else the most.
    published: the best of others on a single layer that we know of.
    digits: of the metric, where it is printed with others than its own.
    certificate: whether it is the bound on the error of the rounded classifier that has
      to be at most the aim.
    """

    task: str
    runs: tuple[str, ...]
    aim: float | tuple[str, ...]
    published: str = ""
    digits: int | None = None
    certificate: bool = False


_WORDS = ("ptb_word/spectral_200_tuned",)
_WORDS_SPECTRAL_LSTM = (
    "ptb_word/spectral_lstm_200_tuned",
    "ptb_word/spectral_lstm_200_seed1_tuned",
)
_WORDS_LSTM = ("ptb_word/lstm_200_tuned", "ptb_word/lstm_200_seed1_tuned")
_WORDS_LONG = (
    "ptb_word/spectral_lstm_200_long",
    "ptb_word/spectral_lstm_200_long_seed1",
)

_EVERY = "an activation at every pixel"

_LEM_PERMUTED = "LEM, n = 128: 0.966"

_CERTIFICATE = "certificate_rounded"
_BOUND = scoring.Metric("bound", higher_is_better=False, digits=3, words="at most {}")

TARGETS = (
    Target(
        "permuted MNIST, n = 128",
        ("permuted_mnist_shifted_128", "permuted_mnist_shifted_128_seed1"),
        aim=0.962,
        published=f"{_LEM_PERMUTED}; expRNN, n = 170: 0.949",
    ),
    Target(
        f"permuted MNIST, n = 128, {_EVERY}",
        ("permuted_mnist_leaky",),
        aim=0.940,
        published="expRNN, n = 170: 0.949",
    ),
    Target(
        "permuted MNIST, n ≤ 256",
        ("permuted_mnist_shifted", "permuted_mnist_shifted_seed1"),
        aim=0.974,
        published=f"coRNN, n = 256: 0.9734; {_LEM_PERMUTED}; expRNN, n = 512: 0.966",
    ),
    Target(
        f"permuted MNIST, n ≤ 256, {_EVERY}",
        ("permuted_mnist_leaky",),
        aim=0.955,
        published="expRNN, n = 360: 0.962, n = 512: 0.966",
    ),
    Target(
        "pixel MNIST, 5,530 parameters",
        ("pixel_mnist_784_rows", "pixel_mnist_784_rows_seed1"),
        aim=0.986,
        published="expRNN, n = 170: 0.980; geotorch, n = 170: 0.985",
    ),
    Target(
        f"pixel MNIST, 5,530 parameters, {_EVERY}",
        ("pixel_mnist_784", "pixel_mnist_784_seed1"),
        aim=0.987,
        published="expRNN, n = 170: 0.980; geotorch, n = 170: 0.985",
    ),
    Target(
        "pixel MNIST, n ≤ 256",
        ("pixel_mnist_784_wide_shifted", "pixel_mnist_784_wide_shifted_seed1"),
        aim=0.994,
        published="coRNN, n = 256: 0.994; LEM, n = 128: 0.995; expRNN, n = 512: 0.987",
    ),
    Target(
        f"pixel MNIST, n ≤ 256, {_EVERY}",
        (
            "pixel_mnist_784_wide_every_step",
            "pixel_mnist_784_wide_every_step_seed1",
        ),
        aim=0.988,
        published="expRNN, n = 512: 0.987",
    ),
    Target(
        "pixel MNIST, four blocks of at most 200,000 parameters",
        ("pixel_mnist_784_stacked", "pixel_mnist_784_stacked_seed1"),
        aim=0.994,
        published="S4, several layers: 0.99 and more (not checked)",
    ),
    Target(
        "permuted MNIST, four blocks of at most 200,000 parameters",
        ("permuted_mnist_stacked", "permuted_mnist_stacked_seed1"),
        aim=0.980,
        published="LSSL, S4, several layers: 0.98 to 0.99 (not checked)",
    ),
    Target(
        "PTB characters, Spectral-LSTM, an hour and a half on two cores, bits",
        ("ptb_char_spectral_lstm", "ptb_char_spectral_lstm_seed1"),
        aim=1.45,
        published="coRNN: 1.46 (not checked); expRNN, T = 150: 1.43; LEM: 1.25",
    ),
    Target(
        "PTB words: Spectral-RNN, and the LSTM of as many parameters",
        _WORDS,
        aim=("ptb_word/lstm_equal_tuned",),
    ),
    Target(
        "PTB words, three tries or four: Spectral-RNN, and the LSTM of as many units",
        _WORDS,
        aim=_WORDS_LSTM,
    ),
    Target(
        "PTB words: Spectral-LSTM, and the LSTM of as many units and parameters",
        _WORDS_SPECTRAL_LSTM,
        aim=_WORDS_LSTM,
    ),
    Target(
        "PTB words, 8 epochs: Spectral-LSTM",
        _WORDS_LONG,
        aim=110.0,
        published="LEM: 72.8",
    ),
    Target(
        "PTB words, 8 epochs: Spectral-LSTM, and the LSTM of as many parameters",
        _WORDS_LONG,
        aim=("ptb_word/lstm_200_long", "ptb_word/lstm_200_long_seed1"),
    ),
    Target(
        "copy at a lag of 5,000, recall",
        ("copying_5000", "copying_5000_seed1", "copying_5000_seed2"),
        aim=0.99,
        published="expRNN to 2,000, n = 190",
    ),
    Target(
        "copy at a lag of 10,000, recall",
        ("copying_10000", "copying_10000_seed1"),
        aim=0.99,
        published="none found",
    ),
    Target(
        "addition, T = 300, 1,500 iterations",
        tuple(f"cpu/F1/T300_spectral_seed{seed}" for seed in range(3)),
        aim=0.005,
        digits=4,
    ),
    Target(
        "addition, T = 750",
        ("addition_750", "addition_750_seed1"),
        aim=0.01,
        published="scoRNN",
        digits=4,
    ),
    Target(
        "addition, T = 2,000",
        ("addition_2000", "addition_2000_seed1"),
        aim=0.01,
        published="T = 750: scoRNN",
        digits=4,
    ),
    Target(
        "certificate of the rounded classifier, 784 steps, n = 24",
        (
            "certificate/pixel_mnist_784_rows_24",
            "certificate/pixel_mnist_784_rows_24_seed1",
        ),
        aim=0.30,
        certificate=True,
    ),
    Target(
        "certificate of the rounded classifier, 28 steps",
        ("certificate/pixel_mnist_28",),
        aim=0.28,
        certificate=True,
    ),
)


def table(results: pathlib.Path) -> str:
    """Each target with the mean and the range of what was reached."""
    figures = (*f1_addition.runs("cpu"), *ptb_word.runs("cpu"))
    others = (*figures, *certificates.RUNS.values())
    runs = {run.name: run for run in (*shipped.RUNS, *others)}

    def usable(names: tuple[str, ...]) -> list[dict]:
        records = (status.usable(runs[name], results) for name in names)
        return [record for record in records if record]

    rows = []
    for target in TARGETS:
        metric = (
            _BOUND if target.certificate else protocol.primary(runs[target.runs[0]])
        )
        aim: float | None
        if isinstance(target.aim, tuple):
            compared = _values(usable(target.aim), metric)
            whole = len(compared) == len(target.aim)  # neither missing nor diverged
            aim = statistics.mean(compared) if whole else None
        else:
            aim = target.aim
        to_reach = "not run"
        if aim is not None:
            sign = "≥" if metric.higher_is_better else "≤"
            to_reach = f"{sign} {metric.number(aim, target.digits)}"
        records = usable(target.runs)
        if target.certificate:
            records = [r for r in records if _CERTIFICATE in r or not r["result"]]
        cells = ["not run", "no"]
        if records:
            missing = len(target.runs) - len(records)
            reached = not missing and _reaches(records, metric, aim)
            spread = _spread(records, metric, target.digits)
            if missing:
                spread += f"; {missing} of {len(target.runs)} seeds not run"
            cells = [spread, "**yes**" if reached else "no"]
        rows.append([target.task, to_reach, target.published, *cells])
    return markdown.table(["task", "to reach", "published", "test", "reached"], rows)


def _values(records: list[dict], metric: scoring.Metric) -> list[float]:
    """Those of the runs that did not diverge."""
    if metric is _BOUND:
        return [r[_CERTIFICATE]["bound"] for r in records if r["result"]]
    numbers = (panels.final(record, metric.name) for record in records)
    return [value for value in numbers if value is not None]


def _spread(records: list[dict], metric: scoring.Metric, digits: int | None) -> str:
    """The mean, of several values their range, and how many seeds diverged."""
    values = _values(records, metric)
    texts = [metric.number(statistics.mean(values), digits)] if values else []
    if len(values) > 1:
        low, high = (metric.number(end(values), digits) for end in (min, max))
        texts[0] += f" ({low} to {high}, {len(values)} seeds)"
    if len(values) < len(records):
        texts.append(f"{len(records) - len(values)} of {len(records)} seeds diverged")
    return "; ".join(texts)


def _reaches(records: list[dict], metric: scoring.Metric, aim: float | None) -> bool:
    """A seed that diverged reaches nothing, and then the mean does not either."""
    values = _values(records, metric)
    if aim is None or len(values) < len(records):
        return False
    mean = statistics.mean(values)
    return mean >= aim if metric.higher_is_better else mean <= aim
