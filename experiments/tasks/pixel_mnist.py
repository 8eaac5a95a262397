"""MNIST read pixel by pixel, or several pixels a step, as a sequence."""

import math
from typing import Any

import numpy as np

from experiments.data import mnist as data_set
from experiments.tasks import mnist

STEPS = (784, 112, 28)
PERMUTATION_SEED = 92916  # that of the expRNN code, so that results compare


class PixelMNIST(mnist.MNIST):
    """The 784 pixels of a digit in `steps` equal pieces, row after row.

    The permuted task puts all pixels into one fixed order first, those of a shifted
    digit too; the rest is as in `MNIST`.

    Source: Le et al., "A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units", 2015.

    Args:
      data, seed, batch_size, shift: see `MNIST`.
      steps: 784, 112 or 28, so 1, 7 or 28 pixels a step.
      permuted: whether the pixels are permuted.

    Raises:
      ValueError: as `MNIST`, and for steps of another value.
    """

    name = "pixel_mnist"
    sequential = True
    readout = "last"

    def __init__(
        self,
        data: Any,
        *,
        steps: int,
        permuted: bool,
        seed: int,
        batch_size: int,
        shift: int = 0,
    ):
        check_steps(steps)
        super().__init__(data, seed=seed, batch_size=batch_size, shift=shift)
        self.steps = self.time_steps = steps
        self.in_features = mnist.PIXELS // steps
        self.inputs_bound = math.sqrt(self.in_features)  # pixels lie in [0, 1]
        self._order_of_pixels = permutation() if permuted else None

    def _inputs(self, pixels: np.ndarray) -> np.ndarray:
        if self._order_of_pixels is not None:
            pixels = pixels[:, self._order_of_pixels]
        return pixels.reshape(-1, self.steps, self.in_features)


def permutation() -> np.ndarray:
    """The fixed order of the 784 pixels in the permuted task."""
    return np.random.RandomState(PERMUTATION_SEED).permutation(mnist.PIXELS)


def check_steps(steps: Any) -> None:
    """Raises ValueError unless `steps` is 784, 112 or 28."""
    if not isinstance(steps, int) or steps not in STEPS:
        raise ValueError(f"config.task.steps must be one of {STEPS}, got {steps!r}")


def build(config: Any, kind: type[PixelMNIST] = PixelMNIST) -> PixelMNIST:
    """The task of a config, of a class that is made as `PixelMNIST` is."""
    check_steps(config.task.steps)  # before the data are read
    return kind(
        data_set.load(config.data_dir, config.allow_other_data),
        steps=config.task.steps,
        permuted=config.task.permuted,
        seed=config.seed,
        batch_size=config.train.batch_size,
        shift=config.task.shift,
    )
