"""One's own sequences from files: classes, numbers, or the next values of a series."""

import abc
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from experiments import checks, schema
from experiments.data import arrays as files
from experiments.data import forecasting, items, scaling, splits
from experiments.tasks import base, scoring
from svdrnn import checks as values

Source = items.Items | forecasting.Windows


class Arrays(base.Task):
    """Sequences with a target each, with one at every step, or windows of a series.

    Of a batch, "lengths" (items,) says how many steps of an item are its own, and
    "item_weights" (items,) how much it counts; each is there where the data have it.
    An item of weight w counts as w items in the loss and in the metrics.

    Args:
      source: the data, with what was fitted to their training part.
      digest: of the arrays in the files.
      seed: of the order of the training items.
      batch_size: items in a training batch; with fewer items the others weigh nothing.

    Raises:
      ValueError: a seed or a batch size that is none.
    """

    name = "arrays"

    def __init__(self, source: Source, digest: str, *, seed: int, batch_size: int):
        checks.check_field("seed", seed)
        checks.check_field("train.batch_size", batch_size)
        self.source = source
        self.batch_size = batch_size
        self.time_steps = source.time_steps
        self.in_features = source.in_features
        self.readout = "all" if source.every_step else "last"
        self.by_steps = source.fill != "previous"
        self._digest = digest
        self._order = base.Order(
            source.counts["train"], seed=seed, batch_size=batch_size
        )

    @override
    def describe(self) -> str:
        counts = ", ".join(f"{n} {split}" for split, n in self.source.counts.items())
        return (
            f"sequences: {counts}; {self.time_steps} steps, {self.in_features}"
            f" features; {self._describe_targets()}"
        )

    @abc.abstractmethod
    def _describe_targets(self) -> str: ...

    @override
    def steps_per_epoch(self, batch_size: int) -> int:
        return self._order.steps_per_epoch(batch_size)

    @override
    def train_batch(self, step: int) -> base.Batch:
        batch = self.source.batch("train", self._order.rows(step))
        full = len(batch["inputs"]) == self.batch_size
        return batch if full else base.pad(batch, self.batch_size)

    @override
    def eval_batches(self, split: str) -> Iterator[base.Batch]:
        base.check_split(split)
        counts = self.source.counts
        size = min(base.EVAL_BATCH, max(counts["valid"], counts["test"]))
        for start in range(0, counts[split], size):
            places = np.arange(start, min(start + size, counts[split]))
            yield base.pad(self.source.batch(split, places), size)

    @override
    def file_batches(self, path: pathlib.Path) -> Iterator[base.Batch]:
        windows = isinstance(self.source, forecasting.Windows)
        arrays = files.read(path, files.SERIES if windows else "inputs")
        size = None
        try:
            for batch in self.source.new_batches(arrays, base.EVAL_BATCH):
                size = size or len(batch["inputs"])
                yield base.pad(batch, size)
        except ValueError as error:
            raise ValueError(f"--input {path}: {error}") from None

    @override
    def fitted(self) -> dict[str, Any]:
        fill = self.source.fill_values
        return {
            "data": self._digest,
            "inputs": {
                **_plain(self.source.inputs_scaling),
                "fill": None if fill is None else fill.tolist(),
            },
            "targets": self._fitted_targets(),
        }

    @override
    def prepare(self, raw: jnp.ndarray) -> jnp.ndarray:
        filled = jnp.asarray(raw)
        if self.source.fill_values is not None:
            filled = _filled(filled, self.source.fill, self.source.fill_values)
        mean, scale = (np.asarray(x, np.float32) for x in self.source.inputs_scaling)
        return (filled - mean) / scale

    @abc.abstractmethod
    def _fitted_targets(self) -> dict[str, Any]: ...

    def _inside(self, batch: base.Batch) -> jnp.ndarray | None:
        """Which steps (items, steps) are an item's own, of outputs at every step."""
        if self.readout == "last" or "lengths" not in batch:
            return None
        steps = jnp.arange(batch["inputs"].shape[1])
        return steps < jnp.asarray(batch["lengths"])[:, None]

    def _weights(self, batch: base.Batch) -> jnp.ndarray:
        """What each target counts: (items,), or (items, steps) at every step."""
        weights = base.weights(batch)
        if "item_weights" in batch:
            weights = weights * batch["item_weights"]
        if self.readout == "last":
            return weights
        inside = self._inside(batch)
        if inside is None:
            inside = jnp.ones(batch["targets"].shape[:2], bool)
        return weights[:, None] * inside

    def _kept(
        self, arrays: dict[str, jnp.ndarray], batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        """Predictions with NaN, or -1, behind the ends of items, and their lengths."""
        if "lengths" not in batch:
            return arrays
        inside = self._inside(batch)
        if inside is not None:
            arrays = {name: _blanked(inside, array) for name, array in arrays.items()}
        return arrays | {"lengths": jnp.asarray(batch["lengths"])}


class Classification(Arrays):
    """Classes 0 ... K-1; the loss is the cross-entropy, weighted by class where asked.

        loss = sum_i w_i c_{y_i} l_i / sum_i w_i c_{y_i}

    with the weights w of items and c of classes. The accuracy knows no c.

    Args:
      source, digest, seed, batch_size: see `Arrays`.
      class_weights: c, (K,).
    """

    primary = scoring.ACCURACY.name
    higher_is_better = scoring.ACCURACY.higher_is_better

    def __init__(
        self, source: Source, digest: str, class_weights: np.ndarray, **options: Any
    ):
        super().__init__(source, digest, **options)
        self.out_features = len(class_weights)
        self.baseline = math.log(self.out_features)
        self.class_weights = class_weights.astype(np.float32)

    @override
    def _describe_targets(self) -> str:
        return f"{self.out_features} classes"

    @override
    def _fitted_targets(self) -> dict[str, Any]:
        return {"classes": self.out_features}

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        targets = jnp.asarray(batch["targets"])
        weights = self._weights(batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        weighted = weights * jnp.asarray(self.class_weights)[targets]
        correct = jnp.argmax(outputs, axis=-1) == targets
        return {
            "loss": jnp.sum(weighted * losses),
            "count": jnp.sum(weighted),
            "correct": jnp.sum(weights * correct),
            "targets": jnp.sum(weights),
        }

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        arrays = {"predictions": jnp.argmax(outputs, axis=-1)}
        if "targets" in batch:
            arrays["targets"] = jnp.asarray(batch["targets"])
        arrays["log_probabilities"] = jax.nn.log_softmax(outputs)
        return self._kept(arrays, batch)

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        return {
            "loss": float(sums["loss"] / sums["count"]),
            "accuracy": float(sums["correct"] / sums["targets"]),
        }


class Regression(Arrays):
    """Numbers; the loss is the mean squared error of what is standardized.

    The metrics mse, rmse and mae are in the units of the data, the mean over all
    outputs, and so are predictions and their targets.

    Args:
      source, digest, seed, batch_size: see `Arrays`.
    """

    primary = scoring.MSE.name
    higher_is_better = scoring.MSE.higher_is_better

    def __init__(self, source: Source, digest: str, **options: Any):
        super().__init__(source, digest, **options)
        assert source.targets_scaling is not None
        self.scaling = source.targets_scaling
        self.out_features = len(self.scaling.mean)
        self.baseline = source.baseline
        # The largest scale is multiplied in float64; the others are parts of it.
        self._unit = float(np.max(self.scaling.scale))
        self._parts = np.asarray(self.scaling.scale / self._unit, np.float32)

    @override
    def _describe_targets(self) -> str:
        shape = self.source.target_shape
        return f"targets of shape {shape}" if shape else "one number to predict"

    @override
    def _fitted_targets(self) -> dict[str, Any]:
        return {**_plain(self.scaling), "shape": list(self.source.target_shape)}

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        weights = self._weights(batch)
        errors = outputs - batch["targets"]
        in_units = errors * self._parts

        def total(losses: jnp.ndarray) -> jnp.ndarray:
            return jnp.sum(weights * jnp.mean(losses, axis=-1))

        return {
            "loss": total(jnp.square(errors)),
            "count": jnp.sum(weights),
            "squares": total(jnp.square(in_units)),
            "absolute": total(jnp.abs(in_units)),
        }

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        arrays = {"predictions": self._in_units(outputs)}
        if "targets" in batch:
            arrays["targets"] = self._in_units(jnp.asarray(batch["targets"]))
        return self._kept(arrays, batch)

    @override
    def finish(self, outputs: jnp.ndarray) -> jnp.ndarray:
        return self._in_units(outputs)

    def _in_units(self, numbers: jnp.ndarray) -> jnp.ndarray:
        """Numbers (..., out_features) in the units and the shape of the targets."""
        mean, scale = (np.asarray(x, np.float32) for x in self.scaling)
        shape = numbers.shape[:-1] + self.source.target_shape
        return (numbers * scale + mean).reshape(shape)

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        count = sums["count"]
        mse = float(sums["squares"] / count) * self._unit**2
        return {
            "loss": float(sums["loss"] / count),
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": float(sums["absolute"] / count) * self._unit,
        }


def _filled(values: jnp.ndarray, rule: str, first: np.ndarray) -> jnp.ndarray:
    """As `scaling.fill`, of what an exported model is given.

    Args:
      values: (items, steps, features).
      rule: one of `scaling.FILLS` that fills.
      first: (features,), what takes the place of a value that has none before it.
    """
    missing = jnp.isnan(values)
    first = np.asarray(first, np.float32)
    if rule != "previous":
        return jnp.where(missing, first, values)
    steps = jnp.arange(values.shape[1])[None, :, None]
    last = jax.lax.cummax(jnp.where(missing, -1, steps), axis=1)
    carried = jnp.take_along_axis(values, jnp.maximum(last, 0), axis=1)
    return jnp.where(last < 0, first, carried)


def _plain(fitted: scaling.Scaling) -> dict[str, list[float]]:
    return {"mean": fitted.mean.tolist(), "scale": fitted.scale.tolist()}


def _blanked(inside: jnp.ndarray, array: jnp.ndarray) -> jnp.ndarray:
    """The array (items, steps, ...) with -1, or NaN, in steps that are no item's."""
    blank = jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else -1
    steps = inside.reshape(inside.shape + (1,) * (array.ndim - 2))
    return jnp.where(steps, array, blank)


# ---- From a config.


def build(config: Any) -> Arrays:
    """The task of a config."""
    task = config.task
    _check(task)
    arrays = files.read(files.find(task.path, config.data_dir))
    of_source: dict[str, Any] = {
        "normalize": task.normalize,
        "fill": task.fill,
        "options": splits.Options(*(task[name] for name in splits.Options._fields)),
    }
    shared = {"seed": config.seed, "batch_size": config.train.batch_size}
    if files.SERIES in arrays:
        _check_series(arrays, task)
        sizes = {"window": task.window, "horizon": task.horizon}
        windows = forecasting.Windows(arrays, **sizes, **of_source)
        return Regression(windows, files.digest(arrays), **shared)
    for name in ("window", "horizon"):
        _check_left_out(task, name, None, f"without {files.SERIES}")
    source = items.Items(arrays, every_step=task.every_step, **of_source)
    _check_valid_batches(config.train.valid_batches, source)
    if source.classes is None:
        _check_left_out(task, "class_weights", None, "where numbers are predicted")
        return Regression(source, files.digest(arrays), **shared)
    weights = _class_weights(task.class_weights, source)
    return Classification(source, files.digest(arrays), weights, **shared)


def _check(task: Any) -> None:
    """Raises ValueError for a field that is out of range, before data are read."""
    for name in ("every_step", "normalize"):
        if not isinstance(task[name], bool):
            raise ValueError(
                f"config.task.{name} must be True or False, got {task[name]!r}"
            )
    values.check_name("config.task.fill", task.fill, scaling.FILLS)
    least = {"split_seed": 0, "folds": 2, "fold": 0, "window": 1, "horizon": 1}
    for name, bound in least.items():
        if task[name] is not None:
            checks.check_integer(f"config.task.{name}", task[name], bound)
    for name in ("valid_share", "test_share"):
        if task[name] is not None:
            values.check_finite(f"config.task.{name}", task[name], above=0, below=1)


def _check_series(arrays: files.Arrays, task: Any) -> None:
    """Raises ValueError for what does not go with a series."""
    others = sorted(set(arrays) - {files.SERIES})
    if others:
        raise ValueError(
            f"{files.SERIES} must be the only array, got {', '.join(others)} beside it"
        )
    for name in ("window", "horizon"):
        if task[name] is None:
            raise ValueError(
                f"config.task.{name} must be an integer of at least 1 with"
                f" {files.SERIES}, got None"
            )
    _check_left_out(task, "every_step", False, f"with {files.SERIES}")
    for name in ("split_seed", "folds", "fold", "class_weights"):
        _check_left_out(task, name, None, f"with {files.SERIES}")


def _check_left_out(task: Any, name: str, default: Any, reason: str) -> None:
    if task[name] != default:
        raise ValueError(
            f"config.task.{name} must be left out {reason}, got {task[name]!r}"
        )


def _check_valid_batches(count: int | None, source: items.Items) -> None:
    """Raises ValueError where validation would read items of weight zero alone."""
    if count is None:
        return
    places = np.arange(min(count * base.EVAL_BATCH, source.counts["valid"]))
    batches = (
        source.batch("valid", places[start : start + base.EVAL_BATCH])
        for start in range(0, len(places), base.EVAL_BATCH)
    )
    if not any(np.any(batch.get("item_weights", 1)) for batch in batches):
        raise ValueError(
            "config.train.valid_batches must reach a validation item of a weight above"
            f" 0, got {count}"
        )


def _class_weights(field: Any, source: items.Items) -> np.ndarray:
    """(K,): ones, N / (K n_c) of the training part, or those of the config.

    Raises:
      ValueError: something else.
    """
    counts = source.class_counts
    if field is None:
        return np.ones(len(counts))
    if isinstance(field, str) and field == "balanced":
        return counts.sum() / (len(counts) * counts)
    good = isinstance(field, list | tuple) and len(field) == len(counts)
    if not good:
        raise ValueError(
            f"config.task.class_weights must be None, 'balanced' or {len(counts)}"
            f" numbers, one for each class, got {field!r}"
        )
    for weight in field:
        most = schema.MOST_NUMBER
        values.check_finite("config.task.class_weights", weight, above=0, most=most)
    return np.array(field, np.float64)
