"""What the tasks with fresh random batches share."""

import abc
from collections.abc import Iterator

import numpy as np
from typing_extensions import override

from experiments import checks
from experiments.tasks import base


class SyntheticTask(base.Task):
    """A task whose batches are drawn from a generator, never from files.

    A subclass gives `length` a meaning and defines `draw(generator, count)`.
    """

    def __init__(self, *, length: int, minimum_length: int, seed: int, batch_size: int):
        checks.check_integer("config.task.length", length, minimum_length)
        checks.check_field("seed", seed)
        checks.check_field("train.batch_size", batch_size)
        self.length = self.time_steps = length
        self.seed = seed
        self.batch_size = batch_size

    @override
    def describe(self) -> str:
        return (
            f"length {self.length}, fresh random sequences;"
            f" {base.EVAL_SEQUENCES} for validation and test each"
        )

    @abc.abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> base.Batch:
        """`count` examples, as `train_batch` describes them."""

    @override
    def steps_per_epoch(self, batch_size: int) -> int | None:
        del batch_size
        return None

    @override
    def train_batch(self, step: int) -> base.Batch:
        generator = base.generator(self.seed, "train", step)
        return self.draw(generator, self.batch_size)

    @override
    def eval_batches(self, split: str) -> Iterator[base.Batch]:
        base.check_split(split)
        for index, start in enumerate(range(0, base.EVAL_SEQUENCES, base.EVAL_BATCH)):
            count = min(base.EVAL_BATCH, base.EVAL_SEQUENCES - start)
            batch = self.draw(base.generator(self.seed, split, index), count)
            yield base.pad(batch, base.EVAL_BATCH)
