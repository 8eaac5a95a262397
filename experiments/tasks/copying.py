"""The copy memory task: repeat ten symbols after a long wait."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from typing_extensions import override

from experiments.tasks import base, registry, synthetic

SYMBOLS = 8
BLANK = 8
DELIMITER = 9
CLASSES = 10
RECALLED = 10  # symbols to remember


class Copying(synthetic.SyntheticTask):
    """Ten of eight symbols, T - 1 blanks, a delimiter, ten blanks: T + 20 steps.

    The target is blank throughout, then the ten symbols in their order. The loss
    is the cross-entropy over all steps, "recall" the accuracy over the last ten.
    Knowing the layout but no symbol costs 10 ln 8 / (T + 20).

    Source: Arjovsky et al., "Unitary Evolution Recurrent Neural Networks", 2016.

    Args:
      length: the lag T, at least 1.
      seed: of all random streams.
      batch_size: sequences in a training batch.

    Raises:
      ValueError: an argument is not an integer in its range.
    """

    name = "copying"
    metric = registry.metric(name)
    in_features = CLASSES
    out_features = CLASSES
    readout = "all"

    def __init__(self, *, length: int, seed: int, batch_size: int):
        super().__init__(
            length=length, minimum_length=1, seed=seed, batch_size=batch_size
        )
        self.time_steps = length + 2 * RECALLED
        self.baseline = RECALLED * math.log(SYMBOLS) / self.time_steps

    @override
    def draw(self, generator: np.random.Generator, count: int) -> base.Batch:
        """`count` sequences: inputs (count, T+20, 10), targets (count, T+20)."""
        steps = self.time_steps
        symbols = generator.integers(0, SYMBOLS, size=(count, RECALLED))
        sequence = np.full((count, steps), BLANK, np.int32)
        sequence[:, :RECALLED] = symbols
        sequence[:, steps - RECALLED - 1] = DELIMITER
        targets = np.full((count, steps), BLANK, np.int32)
        targets[:, -RECALLED:] = symbols
        inputs = np.eye(CLASSES, dtype=np.float32)[sequence]
        return {"inputs": inputs, "targets": targets}

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        targets = batch["targets"]
        weights = base.weights(batch)[:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        correct = jnp.argmax(outputs, axis=-1) == targets
        return {
            "loss": jnp.sum(weights * losses),
            "count": jnp.sum(weights) * targets.shape[1],
            "recalled": jnp.sum(weights * correct[:, -RECALLED:]),
            "recall_count": jnp.sum(weights) * RECALLED,
        }

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        return super().predictions(jnp.argmax(outputs, axis=-1), batch)

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        return {
            "loss": float(sums["loss"] / sums["count"]),
            "recall": float(sums["recalled"] / sums["recall_count"]),
        }


def build(config: Any) -> Copying:
    """The task of a config."""
    return Copying(
        length=config.task.length,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )
