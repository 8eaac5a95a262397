"""The adding problem: remember two marked numbers and give their sum."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from experiments.tasks import base, registry, synthetic


class Addition(synthetic.SyntheticTask):
    """x_t = (value, marker): values uniform on [0, 1), one marker in each half.

    The target is the sum of the two marked values, the loss the mean squared
    error. Always answering 1 has the variance of that sum, 2/12 = 1/6.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997; fresh random
    batches as in Arjovsky et al., "Unitary Evolution RNNs", 2016.

    Args:
      length: time steps T, at least 2; the halves are [0, T//2) and [T//2, T).
      seed: of all random streams.
      batch_size: sequences in a training batch.

    Raises:
      ValueError: an argument is not an integer in its range.
    """

    name = "addition"
    metric = registry.metric(name)
    in_features = 2
    out_features = 1
    readout = "last"
    baseline = 1 / 6

    def __init__(self, *, length: int, seed: int, batch_size: int):
        super().__init__(
            length=length, minimum_length=2, seed=seed, batch_size=batch_size
        )

    @override
    def draw(self, generator: np.random.Generator, count: int) -> base.Batch:
        """`count` sequences: inputs (count, length, 2), targets (count,)."""
        values = generator.random((count, self.length), dtype=np.float32)
        half = self.length // 2
        first = generator.integers(0, half, size=count)
        second = generator.integers(half, self.length, size=count)
        rows = np.arange(count)
        inputs = np.zeros((count, self.length, 2), np.float32)
        inputs[..., 0] = values
        inputs[rows, first, 1] = 1
        inputs[rows, second, 1] = 1
        return {
            "inputs": inputs,
            "targets": values[rows, first] + values[rows, second],
        }

    @override
    def sums(self, outputs: jnp.ndarray, batch: base.Batch) -> base.Sums:
        weights = base.weights(batch)
        errors = jnp.square(outputs[:, 0] - batch["targets"])
        return {"loss": jnp.sum(weights * errors), "count": jnp.sum(weights)}

    @override
    def predictions(
        self, outputs: jnp.ndarray, batch: base.Batch
    ) -> dict[str, jnp.ndarray]:
        return super().predictions(outputs[:, 0], batch)

    @override
    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        mse = float(sums["loss"] / sums["count"])
        return {"loss": mse, "mse": mse}


def build(config: Any) -> Addition:
    """The task of a config."""
    return Addition(
        length=config.task.length,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )
