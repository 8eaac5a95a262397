"""Metrics by which runs are judged, and how they are printed. No JAX."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A number by which runs are compared.

    name: its key among the metrics of a task.
    higher_is_better: its direction.
    digits: how many are printed behind the decimal point of a result.
    words: a result in words, with {} in the place of the number.
    """

    name: str
    higher_is_better: bool
    digits: int
    words: str

    def number(self, value: float, digits: int | None = None) -> str:
        """The value as text, with other `digits` than its own where they are named."""
        return f"{value:.{self.digits if digits is None else digits}f}"

    def best(self, values: list[float]) -> float:
        """The best of several values."""
        return max(values) if self.higher_is_better else min(values)


ACCURACY = Metric("accuracy", higher_is_better=True, digits=4, words="accuracy {}")
BITS = Metric(
    "bits_per_character",
    higher_is_better=False,
    digits=3,
    words="{} bits per character",
)
LOSS = Metric("loss", higher_is_better=False, digits=5, words="loss {}")
MSE = Metric("mse", higher_is_better=False, digits=5, words="MSE {}")
PERPLEXITY = Metric(
    "perplexity", higher_is_better=False, digits=1, words="perplexity {}"
)
RECALL = Metric("recall", higher_is_better=True, digits=4, words="recall {}")
