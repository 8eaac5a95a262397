"""Sets of the UCR and UEA archives, as the package aeon reads them, to arrays by name.

Nothing here needs aeon: `experiments/sets.py` is where it is called.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Cases = tuple[Any, Any]  # (sequences of (features, steps), a label or number each)


def arrays(train: Cases, test: Cases) -> dict[str, np.ndarray]:
    """The arrays of `configs/arrays.py`, with the archive's own test split.

    Labels that are numbers with a fractional part, or of a floating-point type, stay
    numbers to be predicted; all others become classes 0 ... K-1 in the order of their
    names in the training split.

    Args:
      train: what aeon's `load_from_ts_file` returns: an array (items, features, steps),
        or a list of (features, steps) of unequal lengths, and their labels (items,).
      test: the same of the test split.

    Returns:
      `train_inputs`, `train_targets`, `test_inputs` and `test_targets`; also
      `train_lengths` and `test_lengths` where lengths differ, in one split or between
      them. What stands behind an item's end is 0.

    Raises:
      ValueError: a label of the test split that the training split lacks.
    """
    longest = max(case.shape[1] for cases, _ in (train, test) for case in cases)
    shortest = min(case.shape[1] for cases, _ in (train, test) for case in cases)
    train_labels, test_labels = np.asarray(train[1]), np.asarray(test[1])
    if train_labels.dtype.kind != "f":
        classes = np.unique(train_labels)
        absent = np.setdiff1d(test_labels, classes)
        if len(absent):
            raise ValueError(
                f"labels of test must be among {', '.join(map(str, classes))}, those"
                f" of train, got {absent[0]}"
            )
        train_labels = np.searchsorted(classes, train_labels)
        test_labels = np.searchsorted(classes, test_labels)
    named = {}
    for split, cases, labels in (
        ("train", train[0], train_labels),
        ("test", test[0], test_labels),
    ):
        named[f"{split}_inputs"] = _padded(cases, longest)
        named[f"{split}_targets"] = labels
        if shortest < longest:
            named[f"{split}_lengths"] = np.array([case.shape[1] for case in cases])
    return named


def _padded(cases: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """(items, steps, features), with zeros behind the end of an item."""
    inputs = np.zeros((len(cases), steps, cases[0].shape[0]))
    for row, case in zip(inputs, cases, strict=True):
        row[: case.shape[1]] = case.T
    return inputs
