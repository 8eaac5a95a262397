r"""A bound on the error of a classifier whose parameters have few bits: numpy.

Tensor g of the parameters has d_g entries s_g j with s_g = 2^{e_g} and an integer j,
|j| < 2^{b_g - 1}: one of 2^{b_g} - 1 values. For given bits b_g and exponents e_g there
are finitely many classifiers, N, and with probability at least 1 - delta over the
training examples, drawn independently, all of them and of every other choice of bits
and exponents have

    error <= kl^{-1}(training error, (ln N + ln(1 / delta')) / examples),

    ln N = sum_g d_g ln(2^{b_g} - 1),
    ln(1 / delta') = ln(models / delta) + sum_g ln(2.3 (b_g + 1)^2)
                     + sum_g ln(2.3 (|e_g| + 1)^2).

Nothing is asked of the classifier: its layers, activations and inputs may be any. What
the bound is about is the classifier with the rounded parameters, as it is computed.
docs/generalization.md has the derivation.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from svdrnn import checks
from svdrnn._types import Count, Number
from svdrnn.certificate import generalization

MOST_BITS = 24  # what float32 holds, and its exponents
MOST_EXPONENT = 126
_PATIENCE = 2  # bits that are tried below the best


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that the entries of a tensor may have: 2^exponent j, |j| < 2^(bits-1).

    One bit leaves zero alone.

    Raises:
      ValueError: bits out of 1 ... 24, or an exponent out of -126 ... 126.
    """

    bits: int
    exponent: int

    def __post_init__(self):
        bits = checks.check_integer("bits", self.bits)
        if bits > MOST_BITS:
            raise ValueError(f"bits must be at most {MOST_BITS}, got {bits}")
        exponent = checks.check_integer("exponent", self.exponent, -MOST_EXPONENT)
        if exponent > MOST_EXPONENT:
            raise ValueError(
                f"exponent must be at most {MOST_EXPONENT}, got {exponent}"
            )

    @property
    def largest(self) -> int:
        """The largest j."""
        return 2 ** (self.bits - 1) - 1

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """The nearest values of the grid, of the same dtype."""
        values = np.asarray(values)
        places = np.rint(np.asarray(values, np.float64) * 2.0**-self.exponent)
        places = np.clip(places, -self.largest, self.largest)
        return np.asarray(places * 2.0**self.exponent, values.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundedCertificate:
    """A bound on the error of a rounded classifier, and what it is made of.

    Attributes:
      bound: on the probability of an error, at most 1.
      training_error: share of the training examples that are classified wrong.
      log_count: ln N.
      log_choices: ln(1 / delta'), for delta, the models, the bits and the exponents.
      grids: {name of a tensor: its grid}.
      sizes: {name of a tensor: its entries}.
      examples: training examples.
      delta: the probability with which the bound may fail.
      models: of how many models this one was chosen.
    """

    bound: float
    training_error: float
    log_count: float
    log_choices: float
    grids: dict[str, Grid]
    sizes: dict[str, int]
    examples: int
    delta: float
    models: int

    @property
    def bits(self) -> int:
        """The bits of all parameters together."""
        return sum(self.grids[name].bits * size for name, size in self.sizes.items())


def fitting(values: np.ndarray, bits: int) -> Grid:
    """The finest grid of so many bits that reaches the largest of the values.

    Where none does, which takes values above 2^126, the widest there is.

    Raises:
      ValueError: values that are not finite, or bits out of range.
    """
    values = np.asarray(values, np.float64)
    checks.check_finite_entries("values", values)
    largest = float(np.max(np.abs(values), initial=0.0))
    places = Grid(bits, 0).largest
    if largest == 0 or places == 0:
        return Grid(bits, 0)
    exponent = math.ceil(math.log2(largest / places))
    return Grid(bits, min(max(exponent, -MOST_EXPONENT), MOST_EXPONENT))


def bound(
    grids: Mapping[str, Grid],
    sizes: Mapping[str, int],
    training_error: Number,
    *,
    examples: Count,
    delta: Number = 0.05,
    models: Count = 1,
) -> RoundedCertificate:
    """The bound of a classifier whose parameters lie on these grids.

    Args:
      grids: {name of a tensor: its grid}.
      sizes: {name of a tensor: d_g}; the same names.
      training_error: share of the training examples that it classifies wrong.
      examples: training examples.
      delta: the probability with which the bound may fail.
      models: of how many models, whose sizes were fixed beforehand, this is the best.

    Raises:
      ValueError: a number out of range, or other names.
    """
    error = checks.check_finite("training_error", training_error, least=0, most=1)
    delta, models = generalization.check_chance(delta, models)
    examples = checks.check_integer("examples", examples)
    if grids.keys() != sizes.keys():
        raise ValueError(
            f"grids must have the names of sizes, {', '.join(sizes)}, got"
            f" {', '.join(grids)}"
        )
    counts = {
        name: checks.check_integer("sizes", size, 0) for name, size in sizes.items()
    }
    log_count = sum(
        size * math.log(2 * grids[name].largest + 1) for name, size in counts.items()
    )
    choices = generalization.log_choices(
        tuple(k for grid in grids.values() for k in (grid.bits, grid.exponent))
    )
    choices += math.log(models / delta)
    return RoundedCertificate(
        bound=generalization.kl_inverse(error, (log_count + choices) / examples),
        training_error=error,
        log_count=log_count,
        log_choices=choices,
        grids=dict(grids),
        sizes=counts,
        examples=examples,
        delta=delta,
        models=models,
    )


def search(
    parameters: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    error: Callable[[dict[str, np.ndarray]], float],
    *,
    examples: Count,
    bits: int = 12,
) -> dict[str, Grid]:
    """Grids with a small bound: bits are taken away as long as it falls.

    One tensor after another, and again until none has a bit too many. The search may
    look at all that there is: the bound holds for every choice at once.

    Args:
      parameters: {name of a tensor: its values}.
      sizes: see `bound`.
      error: the share of errors with other values of the parameters. Some of the
        training examples are enough here.
      examples: all training examples.
      bits: of every tensor at the start.
    """

    def value(grids: dict[str, Grid]) -> float:
        rounded = {name: grid.rounded(parameters[name]) for name, grid in grids.items()}
        return bound(grids, sizes, error(rounded), examples=examples).bound

    grids = {name: fitting(values, bits) for name, values in parameters.items()}
    least, changed = value(grids), True
    while changed:
        changed = False
        for name, values in parameters.items():
            # A bit less may do harm and two may not: errors are noisy.
            for fewer in range(grids[name].bits - 1, 0, -1):
                tried = grids | {name: fitting(values, fewer)}
                found = value(tried)
                if found < least:
                    grids, least, changed = tried, found, True
                elif fewer < grids[name].bits - _PATIENCE:
                    break
    return grids
