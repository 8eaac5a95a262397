"""Pixel MNIST with labels that say nothing: the control of a certificate."""

from typing import Any

import numpy as np

from experiments.data import mnist as data_set
from experiments.tasks import base, mnist, pixel_mnist


class RandomLabels(pixel_mnist.PixelMNIST):
    """The digits of `PixelMNIST`, each with a label drawn at random from the ten.

    Whatever is learned, the error on new digits is 0.9: what is below it in training is
    memory, and no certificate may be. The labels depend on the seed alone.

    Source: Zhang et al., "Understanding deep learning requires rethinking
    generalization", 2017.
    """

    name = "random_labels"

    def __init__(self, data: Any, *, seed: int, **options: Any):
        super().__init__(data, seed=seed, **options)
        for split, (pixels, labels) in self._splits.items():
            # Index 0 of the training stream draws the first epoch's order.
            generator = base.generator(seed, split, 2**32)
            drawn = generator.integers(0, mnist.CLASSES, len(labels), np.int32)
            self._splits[split] = (pixels, drawn)


def build(config: Any) -> RandomLabels:
    """The task of a config."""
    pixel_mnist.check_steps(config.task.steps)  # before the data are read
    return RandomLabels(
        data_set.load(config.data_dir, config.allow_other_data),
        steps=config.task.steps,
        permuted=config.task.permuted,
        seed=config.seed,
        batch_size=config.train.batch_size,
        shift=config.task.shift,
    )
