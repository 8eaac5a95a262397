"""Checks of a whole config before anything is made of it, and the steps of a run."""

from typing import Any

from configs import common
from experiments import checks, tasks
from experiments.models import build
from experiments.tasks import base
from experiments.training import optimizers


def check(config: Any) -> None:
    """Checks every field but those that the task checks when it is built.

    Raises:
      ValueError: names the field, its value and what is allowed.
    """
    checks.check_field("seed", config.seed)
    tasks.check(config)
    build.check(config.model)
    if config.train.steps is None and config.train.epochs is None:
        raise ValueError(
            "config.train.steps or config.train.epochs must be set, got None for both"
        )
    of_train = [field for field in common.FIELDS if field.startswith("train.")]
    checks.check_fields({field: _value(config, field) for field in of_train})
    optimizers.check(config.train)


def _value(config: Any, field: str) -> Any:
    """What a field holds, be it a dict."""
    for name in field.split("."):
        config = config[name]
    return config


def resolve_epoch(train: Any, task: base.Task) -> int | None:
    """Updates in an epoch: the task's own, else `config.train.steps_per_epoch`.

    Raises:
      ValueError: the config gives a length to an epoch that has one.
    """
    own = task.steps_per_epoch(train.batch_size)
    if own is not None and train.steps_per_epoch is not None:
        raise ValueError(
            f"config.train.steps_per_epoch must be None: an epoch of {task.name} has"
            f" {own} steps, got {train.steps_per_epoch}"
        )
    return train.steps_per_epoch if own is None else own


def resolve_steps(train: Any, steps_per_epoch: int | None) -> int:
    """Updates in the run: `steps`, or where it is None, `epochs` in steps.

    Raises:
      ValueError: epochs of a task that has none.
    """
    if train.steps is not None:
        return train.steps
    if steps_per_epoch is None:
        raise ValueError(
            "config.train.steps_per_epoch must be given for config.train.epochs of a"
            f" task without epochs, got None with epochs={train.epochs}"
        )
    return train.epochs * steps_per_epoch
