"""Mean and scale of every feature, and what takes the place of missing values."""

from typing import NamedTuple

import numpy as np

FILLS = ("error", "zero", "mean", "previous")

# Values whose distance is at most this share of their size are one value, rounded: the
# mean of many float64 is no more exact, and float32 has 1e-7.
_ROUNDING = 1e-13


class Moments:
    """Number, mean and squared deviations of every feature, block after block.

    NaN is left out. The blocks are joined as in Chan, Golub and LeVeque, "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    def __init__(self, features: int):
        self.count = np.zeros(features, np.int64)
        self.mean = np.zeros(features)
        self._squares = np.zeros(features)
        self._low = np.full(features, np.inf)
        self._high = np.full(features, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Counts values (any number, features), float64."""
        there = ~np.isnan(values)
        count = there.sum(axis=0)
        mean = np.where(there, values, 0).sum(axis=0) / np.maximum(count, 1)
        squares = np.square(np.where(there, values - mean, 0)).sum(axis=0)
        total = self.count + count
        delta, share = mean - self.mean, count / np.maximum(total, 1)
        self._squares += squares + np.square(delta) * self.count * share
        self.mean += delta * share
        self.count = total
        if len(values):
            low, high = (np.where(there, values, sign) for sign in (np.inf, -np.inf))
            self._low = np.minimum(self._low, low.min(axis=0))
            self._high = np.maximum(self._high, high.max(axis=0))

    def variance(self) -> np.ndarray:
        """(features,), exactly zero of a feature that is constant up to rounding."""
        size = np.maximum(np.abs(self._low), np.abs(self._high))
        constant = self._high - self._low <= _ROUNDING * size
        return np.where(constant, 0, self._squares / np.maximum(self.count, 1))


class Scaling(NamedTuple):
    """x -> (x - mean) / scale, of every feature (features,) float64."""

    mean: np.ndarray
    scale: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The scaled values as float32; computed in float64."""
        return ((values - self.mean) / self.scale).astype(np.float32)


def fit(moments: Moments, normalize: bool) -> Scaling:
    """The standard scaling; what is constant has scale 1, and without it all have."""
    if not normalize:
        return Scaling(np.zeros_like(moments.mean), np.ones_like(moments.mean))
    deviation = np.sqrt(moments.variance())
    return Scaling(moments.mean, np.where(deviation > 0, deviation, 1))


def check_filled(name: str, moments: Moments) -> None:
    """Raises ValueError where the training part has no value of some feature."""
    if (moments.count == 0).any():
        feature = int(np.argmin(moments.count))
        raise ValueError(
            f"{name} must have a number in every feature of the training part, got none"
            f" in feature {feature}"
        )


def fill(values: np.ndarray, rule: str, mean: np.ndarray) -> np.ndarray:
    """Values (items, steps, features) without NaN.

    Args:
      values: float64.
      rule: "zero", "mean" of the training part, or "previous": the last real value of
        the same item and feature, the mean where there was none; "error": there is
        nothing to fill.
      mean: of every feature.
    """
    missing = np.isnan(values)
    if rule == "error" or not missing.any():
        return values
    if rule == "zero":
        return np.where(missing, 0, values)
    if rule == "mean":
        return np.where(missing, mean, values)
    steps = np.arange(values.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(missing, -1, steps), axis=1)
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    return np.where(last < 0, mean, carried)


def first_fill(rule: str, mean: np.ndarray) -> np.ndarray | None:
    """What takes the place of a value that is missing and has none before it."""
    if rule == "error":
        return None
    return np.zeros_like(mean) if rule == "zero" else mean
