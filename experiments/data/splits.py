"""Which items are for training, which for validation and test.

All is a function of the number of items, their classes and the fields of the config.
"""

from typing import NamedTuple

import numpy as np

SHARE = 0.15  # of validation and of test where the config names none


class Options(NamedTuple):
    """The fields of `config.task` that divide items; None: not set."""

    valid_share: float | None = None
    test_share: float | None = None
    split_seed: int | None = None
    folds: int | None = None
    fold: int | None = None


def check(options: Options, named: set[str]) -> None:
    """Raises ValueError for a field that is missing, or that has nothing to divide.

    Args:
      options: whose values are in their ranges.
      named: the splits that have arrays of their own.
    """
    if (options.folds is None) != (options.fold is None):
        raise ValueError(
            "config.task.folds and config.task.fold must be given together, got"
            f" {options.folds} and {options.fold}"
        )
    folds, fold = options.folds, options.fold
    if folds is not None and fold is not None and fold >= folds:
        raise ValueError(
            f"config.task.fold must lie in 0 ... {folds - 1} with"
            f" config.task.folds={folds}, got {fold}"
        )
    without: dict[str, str] = {}
    for split in ("valid", "test"):
        if split in named:
            without[f"{split}_share"] = f"with {split}_inputs"
    if "valid" in named:
        without["folds"] = "with valid_inputs"
    if options.folds is not None:
        without["valid_share"] = "with config.task.folds"
    if {"valid", "test"} <= named:
        without["split_seed"] = "with valid_inputs and test_inputs"
    for field, reason in without.items():
        value = getattr(options, field)
        if value is not None:
            raise ValueError(
                f"config.task.{field} must be left out {reason}, got {value}"
            )


def divide(
    count: int, labels: np.ndarray | None, options: Options, named: set[str]
) -> dict[str, np.ndarray]:
    """The rows of a set that are for training, and of the splits that are not named.

    Each takes its share of every class, to within one item. In the order of the classes
    (a random one within each, or of all items where there are none) a share is spread
    evenly, and fold j of k takes every k-th item from the j-th on.

    Args:
      count: how many items are divided.
      labels: their classes (count,), or None.
      options: of the config.
      named: the splits that have arrays of their own, and take nothing.

    Returns:
      {split: rows in rising order}.

    Raises:
      ValueError: nothing is left for training, or there are more folds than items.
    """
    rest = np.random.default_rng(options.split_seed or 0).permutation(count)
    if labels is not None:
        rest = rest[np.argsort(labels[rest], kind="stable")]
    rows = {}
    for split in ("test", "valid"):
        if split in named:
            continue
        if split == "valid" and options.folds is not None:
            chosen = _fold(len(rest), options)
        else:
            share = getattr(options, f"{split}_share") or SHARE
            chosen = _spread(len(rest), max(1, round(share * count)))
        rows[split] = np.sort(rest[chosen])
        rest = rest[~chosen]
    if len(rest) == 0:
        raise ValueError(
            "config.task.valid_share and config.task.test_share must leave items for"
            f" training, got {count} items in all"
        )
    return rows | {"train": np.sort(rest)}


def _spread(count: int, chosen: int) -> np.ndarray:
    """A mask (count,) with `chosen` places at equal distances."""
    places = (np.arange(count + 1) * min(chosen, count) + count // 2) // max(1, count)
    return np.diff(places) > 0


def _fold(count: int, options: Options) -> np.ndarray:
    assert options.folds is not None
    if options.folds > count:
        raise ValueError(
            f"config.task.folds must be at most the {count} items, got {options.folds}"
        )
    return np.arange(count) % options.folds == options.fold
