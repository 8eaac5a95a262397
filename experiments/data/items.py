"""Sequences with a target of their own, or one at every step, in three splits."""

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.data import arrays as files
from experiments.data import scaling, splits

Batch = dict[str, np.ndarray]

AXES = ("row", "step", "feature")


class Set(NamedTuple):
    """Arrays that belong together; they may lie in files.

    prefix: of their names, as "train_".
    inputs: (items, steps, features).
    targets: classes (items,) or (items, steps), or numbers (items, k) or (items, steps,
      k); None where new items have none.
    lengths: (items,) or None: how many steps of an item are its own.
    weights: (items,) or None.
    """

    prefix: str
    inputs: np.ndarray
    targets: Any
    lengths: np.ndarray | None
    weights: np.ndarray | None

    def inside(self, rows: Any) -> np.ndarray | None:
        """Which steps (of the rows, steps) are an item's own; None: all."""
        if self.lengths is None:
            return None
        return np.arange(self.inputs.shape[1]) < self.lengths[rows, None]


class Items:
    """The splits of one's own sequences, and what was fitted to the training part.

    Classes are the integers 0 ... K-1 of the training part, without gaps. Inputs and
    numbers to be predicted are standardized, each feature by its mean and standard
    deviation over the training part.

    Args:
      arrays: by name, as `arrays.read` gives them.
      every_step: whether there is a target at every step.
      normalize: whether inputs and targets are standardized.
      fill: see `scaling.fill`.
      options: how items are divided.

    Attributes:
      counts: items of each split.
      time_steps, in_features: of the inputs.
      every_step: as the argument.
      classes: K, or None where numbers are predicted.
      class_counts: (K,) how many targets of the training part have each class.
      target_shape: of a prediction: () or (k,).
      inputs_scaling, targets_scaling: what was fitted; of classes there is none.
      baseline: mean squared error of the training mean, standardized; None of classes.
      fill: as the argument.
      fill_values: what takes the place of a first missing value; None: nothing.

    Raises:
      ValueError: names the array, its value and what is allowed, or the field.
    """

    def __init__(
        self,
        arrays: files.Arrays,
        *,
        every_step: bool,
        normalize: bool,
        fill: str,
        options: splits.Options,
    ):
        self.every_step = every_step
        self.fill = fill
        prefixes = _prefixes(arrays)
        sets = {split: _set(arrays, prefix) for split, prefix in prefixes.items()}
        training = sets["train"]
        self.time_steps, self.in_features = training.inputs.shape[1:]
        self.classes: int | None = None
        self.target_shape: tuple[int, ...] = ()
        numbers = arrays[f"{training.prefix}targets"].dtype.kind == "f"
        for split, each in sets.items():
            _check_inputs(each, training)
            shape = _target_shape(each, numbers, every_step)
            if split == "train":
                self.target_shape = shape
            elif shape != self.target_shape:
                raise _other_shape(each, self.target_shape)
            if numbers and not shape:
                sets[split] = each._replace(targets=each.targets[..., None])
        self._parts = _divide(sets, numbers or every_step, options)
        self.counts = {split: len(self._parts[split][1]) for split in files.SPLITS}
        self._survey(sets, numbers, normalize)
        self._has_lengths = any(each.lengths is not None for each in sets.values())
        self._has_weights = any(each.weights is not None for each in sets.values())

    def _survey(self, sets: dict[str, Set], numbers: bool, normalize: bool) -> None:
        """Looks at every value once and fits what is fitted to the training part."""
        inputs = scaling.Moments(self.in_features)
        targets = scaling.Moments(int(np.prod(self.target_shape)) if numbers else 0)
        training, rows = self._parts["train"]
        chosen = np.zeros(len(training.inputs), bool)
        chosen[rows] = True
        for split, each in sets.items():
            mask = chosen if split == "train" else None
            missing = self.fill != "error"
            _measure(each, each.inputs, "inputs", mask, inputs, missing)
            if numbers:
                _measure(each, each.targets, "targets", mask, targets, False)
        name = f"{training.prefix}inputs"
        scaling.check_filled(name, inputs)
        self.inputs_scaling = scaling.fit(inputs, normalize)
        self._mean = inputs.mean
        self.fill_values = scaling.first_fill(self.fill, inputs.mean)
        self.baseline = None
        if numbers:
            fitted = scaling.fit(targets, normalize)
            self.targets_scaling: scaling.Scaling | None = fitted
            self.baseline = float(np.mean(targets.variance() / fitted.scale**2))
        else:
            self.targets_scaling = None
            self.class_counts = _count_classes(training, rows)
            self.classes = len(self.class_counts)
            for split in files.SPLITS:
                _check_classes(*self._parts[split], self.classes)

    def batch(self, split: str, places: np.ndarray) -> Batch:
        """Items of a split, by their places in it.

        Returns:
          "inputs" (count, steps, features) float32; "targets", int32 classes (count,)
          or (count, steps), or float32 (count, k) or (count, steps, k); "lengths"
          (count,) int32 and "item_weights" (count,) float32 where there are any.
          Behind the end of an item all is zero.
        """
        part, rows = self._parts[split]
        batch = self._batch(part, rows[places])
        if self._has_lengths and part.lengths is None:
            batch["lengths"] = np.full(len(places), self.time_steps, np.int32)
        if self._has_weights and part.weights is None:
            batch["item_weights"] = np.ones(len(places), np.float32)
        return batch

    def _batch(self, part: Set, rows: np.ndarray) -> Batch:
        """As `batch`, of rows of a set, with the arrays that it has."""
        inside = part.inside(rows)
        inputs = _own(np.asarray(part.inputs[rows], np.float64), inside)
        inputs = scaling.fill(inputs, self.fill, self._mean)
        batch = {"inputs": _own(self.inputs_scaling.apply(inputs), inside)}
        if part.targets is not None:
            of_targets = inside if self.every_step else None
            targets = _own(np.asarray(part.targets[rows]), of_targets)
            if self.targets_scaling is None:
                batch["targets"] = targets.astype(np.int32)
            else:
                scaled = self.targets_scaling.apply(targets.astype(np.float64))
                batch["targets"] = _own(scaled, of_targets)
        if part.lengths is not None:
            batch["lengths"] = part.lengths[rows]
        if part.weights is not None:
            batch["item_weights"] = part.weights[rows]
        return batch

    def new_batches(self, arrays: files.Arrays, size: int) -> Iterator[Batch]:
        """Batches of other items, as `batch` gives them, `size` at most in each.

        Args:
          arrays: "inputs" of as many features and of any steps, and where they are
            there "lengths", "targets" and "weights"; as `arrays.read` gives them.

        Raises:
          ValueError: names the array, its value and what is allowed.
        """
        part = self._new(arrays)
        for start in range(0, len(part.inputs), size):
            yield self._batch(part, np.arange(len(part.inputs))[start : start + size])

    def _new(self, arrays: files.Arrays) -> Set:
        """The set of other items, checked."""
        for name in arrays:
            if name not in files.KINDS:
                raise ValueError(
                    f"arrays of new items must be named {', '.join(files.KINDS)}, got"
                    f" {name!r}"
                )
        if "inputs" not in arrays:
            there = ", ".join(sorted(arrays))
            raise ValueError(f"inputs must be among the arrays, got {there}")
        if self._has_lengths and "lengths" not in arrays:
            raise ValueError(
                "lengths must be among the arrays, as in the data of the run, got"
                f" {', '.join(sorted(arrays))}"
            )
        part = _set(arrays, "")
        if part.inputs.shape[2] != self.in_features:
            raise ValueError(
                f"inputs must have the {self.in_features} features of the training"
                f" part, got {part.inputs.shape[2]}, of shape {arrays['inputs'].shape}"
            )
        missing = self.fill != "error"
        _measure(part, part.inputs, "inputs", None, None, missing)
        return part if part.targets is None else self._with_targets(part)

    def _with_targets(self, part: Set) -> Set:
        """A set of other items whose targets are of the kind that is predicted."""
        numbers = self.targets_scaling is not None
        rows = np.arange(len(part.inputs))
        shape = _target_shape(part, numbers, self.every_step)
        if shape != self.target_shape:
            raise _other_shape(part, self.target_shape)
        if part.weights is not None:
            _check_some_weight(part, rows, "file")
        if self.classes is not None:
            _check_classes(part, rows, self.classes)
            return part
        if not shape:
            part = part._replace(targets=part.targets[..., None])
        _measure(part, part.targets, "targets", None, None, False)
        return part


def _own(values: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """Values (items, steps, ...) with zeros in steps that are not an item's own."""
    if inside is None:
        return values
    steps = inside.reshape(inside.shape + (1,) * (values.ndim - 2))
    return np.where(steps, values, np.zeros((), values.dtype))


# ---- Names and shapes.


def _prefixes(arrays: files.Arrays) -> dict[str, str]:
    """{split: the prefix of its arrays}, of those that have arrays of their own."""
    named = {name.rpartition("_")[0] for name in arrays}
    if "" in named and len(named) > 1:
        other = next(name for name in arrays if "_" in name)
        raise ValueError(
            f"arrays must all begin with train_, valid_ or test_ where one does, got"
            f" {other} beside inputs"
        )
    if "" in named:
        prefixes = {"train": ""}
    else:
        prefixes = {
            split: f"{split}_"
            for split in files.SPLITS
            if split == "train" or split in named
        }
    for prefix in prefixes.values():
        for kind in ("inputs", "targets"):
            if prefix + kind not in arrays:
                there = ", ".join(sorted(arrays))
                raise ValueError(
                    f"{prefix}{kind} must be among the arrays, got {there}"
                )
    return prefixes


def _set(arrays: files.Arrays, prefix: str) -> Set:
    """The arrays of a prefix, each of the shape that it must have."""
    inputs, targets = arrays[f"{prefix}inputs"], arrays.get(f"{prefix}targets")
    if inputs.ndim not in (2, 3) or 0 in inputs.shape:
        raise ValueError(
            f"{prefix}inputs must be (items, steps) or (items, steps, features), none"
            f" of them 0, got {inputs.shape}"
        )
    others = {}
    if targets is not None:
        others["targets"] = targets
        if targets.ndim == 0:
            raise ValueError(f"{prefix}targets must be (items, ...), got one number")
    for kind in ("lengths", "weights"):
        if prefix + kind in arrays:
            others[kind] = arrays[prefix + kind]
            if others[kind].ndim != 1:
                raise ValueError(
                    f"{prefix}{kind} must be (items,), got {others[kind].shape}"
                )
    for kind, array in others.items():
        if len(array) != len(inputs):
            raise ValueError(
                f"{prefix}{kind} must have the {len(inputs)} items of {prefix}inputs,"
                f" got {len(array)}"
            )
    return Set(
        prefix,
        inputs[..., None] if inputs.ndim == 2 else inputs,
        targets,
        _lengths(f"{prefix}lengths", others.get("lengths"), inputs.shape[1]),
        _weights(f"{prefix}weights", others.get("weights")),
    )


def _lengths(name: str, lengths: np.ndarray | None, steps: int) -> np.ndarray | None:
    if lengths is None:
        return None
    if lengths.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {lengths.dtype}")
    wrong = (lengths < 1) | (lengths > steps)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must lie in 1 ... {steps}, the steps of the inputs, got"
            f" {lengths[row]} at row {row}"
        )
    return lengths.astype(np.int32)


def _weights(name: str, weights: np.ndarray | None) -> np.ndarray | None:
    if weights is None:
        return None
    weights = weights.astype(np.float64)
    wrong = ~((weights >= 0) & (weights <= files.MOST))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must be finite and at least 0, got {weights[row]:g} at row {row}"
        )
    return weights.astype(np.float32)


def _check_inputs(each: Set, training: Set) -> None:
    if each.inputs.shape[1:] != training.inputs.shape[1:]:
        steps, features = training.inputs.shape[1:]
        raise ValueError(
            f"{each.prefix}inputs must have the {steps} steps and {features} features"
            f" of {training.prefix}inputs, got {each.inputs.shape[1:]}; lengths say"
            " where a shorter item ends"
        )


def _target_shape(each: Set, numbers: bool, every_step: bool) -> tuple[int, ...]:
    """The shape of one prediction, after the type and the axes of the targets."""
    name, targets = f"{each.prefix}targets", each.targets
    if (targets.dtype.kind == "f") != numbers:
        kind = "floats" if numbers else "integers"
        raise ValueError(
            f"{name} must be {kind} as those of the training part, got {targets.dtype}"
        )
    steps = each.inputs.shape[1]
    lead = (len(targets), steps) if every_step else (len(targets),)
    most = len(lead) + numbers  # classes have no axis of their own
    fits = targets.shape[: len(lead)] == lead and targets.ndim <= most
    if not fits or 0 in targets.shape:
        field = f"with config.task.every_step={every_step}"
        allowed = f"(items, {steps})" if every_step else "(items,)"
        if numbers:
            allowed += f" or {allowed[:-1].rstrip(',')}, k)"
        what = "numbers" if numbers else "integers, the classes,"
        raise ValueError(
            f"{name} must be {what} {allowed} {field}, got {targets.shape}"
        )
    return targets.shape[len(lead) :]


def _other_shape(each: Set, shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{each.prefix}targets must be of the shape of the training part, (items,"
        f" {', '.join(map(str, shape))}), got {each.targets.shape}"
    )


# ---- Splits and values.


def _divide(
    sets: dict[str, Set], unlabelled: bool, options: splits.Options
) -> dict[str, tuple[Set, np.ndarray]]:
    """{split: (its arrays, its rows)}; training leaves out items of weight zero."""
    named = set(sets) - {"train"}
    splits.check(options, named)
    base = sets["train"]
    labels = None if unlabelled else np.asarray(base.targets)
    rows = splits.divide(len(base.inputs), labels, options, named)
    parts = {
        split: (base, rows[split])
        if split in rows
        else (sets[split], np.arange(len(sets[split].inputs)))
        for split in files.SPLITS
    }
    for split, (part, chosen) in parts.items():
        if part.weights is not None:
            _check_some_weight(part, chosen, f"{split} part")
    if base.weights is not None:
        chosen = parts["train"][1]
        parts["train"] = base, chosen[base.weights[chosen] > 0]
    return parts


def _check_some_weight(part: Set, rows: np.ndarray, where: str) -> None:
    assert part.weights is not None
    if not part.weights[rows].any():
        raise ValueError(
            f"{part.prefix}weights must have one above 0 in the {where}, got zeros"
            " alone"
        )


def _measure(
    each: Set,
    array: np.ndarray,
    kind: str,
    training: np.ndarray | None,
    moments: scaling.Moments | None,
    missing: bool,
) -> None:
    """Checks every value of an array, and counts those of the training rows.

    Args:
      each: the set of the array.
      array: (items, features) or (items, steps, features).
      kind: "inputs" or "targets".
      training: (items,) which rows count, or None.
      moments: to which they are added; None: the values are checked alone.
      missing: whether NaN is allowed.
    """
    axes = AXES if array.ndim == 3 else ("row", "column")
    for rows, block in files.blocks(array):
        values = block.astype(np.float64)
        inside = each.inside(rows) if array.ndim == 3 else None
        name = each.prefix + kind
        files.check_values(name, values, rows.start, inside, axes, missing=missing)
        if moments is None or training is None or not training[rows].any():
            continue
        values = values[training[rows]]
        if inside is not None:
            values = values[inside[training[rows]]]
        moments.add(values.reshape(-1, values.shape[-1]))


def _labels(part: Set, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The classes of the rows, of the steps that are theirs, block by block."""
    at_once = max(1, files.BLOCK // max(1, part.targets[:1].size))
    for start in range(0, len(rows), at_once):
        chosen = rows[start : start + at_once]
        labels = np.asarray(part.targets[chosen])
        inside = part.inside(chosen) if labels.ndim == 2 else None
        yield labels if inside is None else labels[inside]


def _count_classes(training: Set, rows: np.ndarray) -> np.ndarray:
    """(K,) how often the training part has each of its classes."""
    counts: collections.Counter[int] = collections.Counter()
    for labels in _labels(training, rows):
        classes, times = np.unique(labels, return_counts=True)
        counts.update(dict(zip(classes.tolist(), times.tolist(), strict=True)))
    name = f"{training.prefix}targets"
    rule = f"{name} must be the classes 0 ... K-1 without gaps in the training part"
    for expected, there in enumerate(sorted(counts)):
        if there != expected:
            missing = "" if there < 0 else f" and no {expected}"
            raise ValueError(f"{rule}, got {int(there)}{missing}")
    if len(counts) == 1:
        raise ValueError(f"{rule}, two at least, got 0 alone")
    return np.array([counts[label] for label in sorted(counts)])


def _check_classes(part: Set, rows: np.ndarray, classes: int) -> None:
    for labels in _labels(part, rows):
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            raise ValueError(
                f"{part.prefix}targets must be classes that the training part has, 0"
                f" ... {classes - 1}, got {labels[wrong][0]}"
            )
