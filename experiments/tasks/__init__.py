"""The registry of tasks: from `config.task.name` to a task object."""

from collections.abc import Callable
from typing import Any

from experiments.data import ptb
from experiments.tasks import base, pixel_mnist
from experiments.tasks.addition import Addition
from experiments.tasks.base import Task
from experiments.tasks.copying import Copying
from experiments.tasks.mnist import MNIST
from experiments.tasks.penn_treebank import (
    PennTreebank,
    PennTreebankCharacters,
    PennTreebankWords,
)
from experiments.tasks.pixel_mnist import PixelMNIST


def _addition(config: Any) -> Task:
    return Addition(
        length=config.task.length,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )


def _copying(config: Any) -> Task:
    return Copying(
        length=config.task.length,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )


def _mnist(config: Any) -> Task:
    from experiments.data import mnist  # the other tasks need no data set

    return MNIST(
        mnist.load(config.data_dir),
        seed=config.seed,
        batch_size=config.train.batch_size,
    )


def _pixel_mnist(config: Any) -> Task:
    from experiments.data import mnist  # the other tasks need no data set

    pixel_mnist.check_steps(config.task.steps)
    return PixelMNIST(
        mnist.load(config.data_dir),
        steps=config.task.steps,
        permuted=config.task.permuted,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )


def _ptb_word(config: Any) -> Task:
    return _penn_treebank(config, PennTreebankWords, ptb.load_words)


def _ptb_char(config: Any) -> Task:
    return _penn_treebank(config, PennTreebankCharacters, ptb.load_characters)


def _penn_treebank(config: Any, kind: type[PennTreebank], load: Callable) -> Task:
    base.check_integer("config.task.window", config.task.window, 1)
    return kind(
        load(config.data_dir),
        window=config.task.window,
        batch_size=config.train.batch_size,
    )


_BUILDERS = {
    "addition": _addition,
    "copying": _copying,
    "mnist": _mnist,
    "pixel_mnist": _pixel_mnist,
    "ptb_word": _ptb_word,
    "ptb_char": _ptb_char,
}

NAMES = tuple(_BUILDERS)


def build(config: Any) -> Task:
    """The task that `config.task` names, with its data.

    Raises:
      ValueError: unknown name, a field out of range, or data that do not fit.
    """
    if config.task.name not in _BUILDERS:
        raise ValueError(
            f"config.task.name must be one of {NAMES}, got {config.task.name!r}"
        )
    return _BUILDERS[config.task.name](config)
