"""MNIST: whole digits as vectors."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from experiments import checks
from experiments.data import mnist
from experiments.tasks import base, registry

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10


class MNIST(base.Task):
    """The 784 pixels of a digit, row after row, scaled to [0, 1].

    The loss is the cross-entropy of ten classes. An epoch visits the training images
    in an order drawn from (seed, epoch) and drops what does not fill the last batch.

    Args:
      data: object with `train`, `valid` and `test`, each with `images` uint8
        (count, 28, 28) and `labels` (count,) in 0 ... 9.
      seed: of the order of the images.
      batch_size: images in a training batch.
      shift: each training image is moved by -shift to shift pixels down and to the
        right, drawn from (seed, step); zeros come in. Validation and test images stay,
        and so do the training images of `examples`.

    Raises:
      ValueError: data of another shape, type or range, or fewer than a batch; or a
        shift that is not an integer from 0 to 27.
    """

    name = "mnist"
    metric = registry.metric(name)
    sequential = False
    in_features = PIXELS
    out_features = CLASSES
    baseline = math.log(CLASSES)

    def __init__(self, data: Any, *, seed: int, batch_size: int, shift: int = 0):
        checks.check_field("seed", seed)
        checks.check_integer("config.task.shift", shift, least=0, most=SIDE - 1)
        images = len(data.train.labels)
        base.check_batch_size(batch_size, images, "training images")
        self.seed = seed
        self.batch_size = batch_size
        self._shift = shift
        self._splits = {
            split: _flat_split(getattr(data, split), split)
            for split in ("train", "valid", "test")
        }
        self._order = base.Order(images, seed=seed, batch_size=batch_size)

    @override
    def describe(self) -> str:
        sizes = ", ".join(
            f"{len(labels)} {split}" for split, (_, labels) in self._splits.items()
        )
        return f"images: {sizes}"

    def _inputs(self, pixels: np.ndarray) -> np.ndarray:
        """What the model reads of scaled pixels (batch, 784)."""
        return pixels

    def _batch(self, split: str, rows: Any) -> base.Batch:
        pixels, labels = self._splits[split]
        return self._scaled(pixels[rows], labels[rows])

    def _scaled(self, pixels: np.ndarray, labels: np.ndarray) -> base.Batch:
        scaled = pixels.astype(np.float32) / np.float32(255)
        return {"inputs": self._inputs(scaled), "labels": labels}

    def examples(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All inputs and labels of "train", "valid" or "test", in order."""
        batch = self._batch(split, slice(None))
        return batch["inputs"], batch["labels"]

    @override
    def steps_per_epoch(self, batch_size: int) -> int:
        return self._order.steps_per_epoch(batch_size)

    @override
    def train_batch(self, step: int) -> base.Batch:
        rows = self._order.rows(step)
        if not self._shift:
            return self._batch("train", rows)
        pixels, labels = self._splits["train"]
        # The streams of the first 2**32 indices draw the orders of epochs.
        generator = base.generator(self.seed, "train", 2**33 + step)
        by = generator.integers(-self._shift, self._shift + 1, (len(rows), 2))
        return self._scaled(shifted(pixels[rows], by), labels[rows])

    @override
    def eval_batches(self, split: str) -> Iterator[base.Batch]:
        base.check_split(split)
        for start in range(0, len(self._splits[split][1]), base.EVAL_BATCH):
            rows = slice(start, start + base.EVAL_BATCH)
            yield base.pad(self._batch(split, rows), base.EVAL_BATCH)

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        labels = batch["labels"]
        weights = base.weights(batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        correct = jnp.argmax(outputs, axis=-1) == labels
        return {
            "loss": jnp.sum(weights * losses),
            "count": jnp.sum(weights),
            "correct": jnp.sum(weights * correct),
        }

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        return {
            "predictions": jnp.argmax(outputs, axis=-1),
            "targets": jnp.asarray(batch["labels"]),
            "log_probabilities": jax.nn.log_softmax(outputs),
        }

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        return {
            "loss": float(sums["loss"] / sums["count"]),
            "accuracy": float(sums["correct"] / sums["count"]),
        }


def shifted(pixels: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Images moved down and to the right, with zeros where nothing was.

    Args:
      pixels: (count, 784).
      by: (count, 2), integers from -27 to 27.
    """
    most = int(np.abs(by).max(initial=0))
    images = pixels.reshape(-1, SIDE, SIDE)
    wide = np.pad(images, ((0, 0), (most, most), (most, most)))
    down, right = (most - by[:, axis, None] + np.arange(SIDE) for axis in (0, 1))
    items = np.arange(len(images))[:, None, None]
    return wide[items, down[:, :, None], right[:, None, :]].reshape(pixels.shape)


def _flat_split(part: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked pixels (count, 784) uint8 and labels (count,) int32."""
    images, labels = np.asarray(part.images), np.asarray(part.labels)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise ValueError(
            f"{split} images must be uint8 (count, 28, 28), got {images.dtype}"
            f" {images.shape}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{split} labels must be integers ({len(images)},), got {labels.dtype}"
            f" {labels.shape}"
        )
    if len(labels) == 0:
        raise ValueError(f"{split} has no images")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(
            f"{split} labels must lie in 0 ... 9, got {labels.min()} ... {labels.max()}"
        )
    return images.reshape(len(images), PIXELS), labels.astype(np.int32)


def build(config: Any) -> MNIST:
    """The task of a config."""
    return MNIST(
        mnist.load(config.data_dir, config.allow_other_data),
        seed=config.seed,
        batch_size=config.train.batch_size,
        shift=config.task.shift,
    )
