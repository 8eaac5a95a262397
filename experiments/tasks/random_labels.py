"""Pixel MNIST with labels that say nothing: the control of a certificate."""

from typing import Any

import numpy as np

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


def build(config: Any) -> pixel_mnist.PixelMNIST:
    """The task of a config."""
    return pixel_mnist.build(config, RandomLabels)
