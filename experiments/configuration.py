"""Checks of a config, its steps, and the comparison with the config of a workdir."""

import json
import math
import os
import pathlib
from typing import Any

from experiments import models, optimizers, tasks
from experiments.identity import differences, to_dict  # noqa: F401
from experiments.tasks.base import check_integer
from svdrnn import activations, initializers, transitions

# First transitions of a model. "random" is the default of each: a random orthogonal
# matrix for irnn, henaff for exprnn, cayley for scornn.
INITS = {name: ("random", "identity") for name in models.NAMES} | dict.fromkeys(
    ("spectral", "ornn", "exprnn", "scornn"),
    ("random", "identity", *initializers.BLOCK_ROTATIONS),
)


def validate(config: Any) -> None:
    """Checks every field but those of the task, which the task checks itself.

    Raises:
      ValueError: names the field, its value and what is allowed.
    """
    check_integer("config.seed", config.seed, 0)
    if config.seed >= 2**32:
        raise ValueError(f"config.seed must be less than 2**32, got {config.seed}")
    _check_name("config.task.name", config.task.name, tasks.NAMES)
    _validate_model(config.model)
    _validate_train(config.train)


def _validate_model(model: Any) -> None:
    _check_name("config.model.name", model.name, models.NAMES)
    check_integer("config.model.hidden", model.hidden, 1)
    _check_reflectors(model.reflectors, model.hidden)
    _check_number("config.model.radius", model.radius)
    _check_number("config.model.center", model.center)
    if model.center == model.radius == 0:
        raise ValueError(
            "config.model.center must not be 0 with config.model.radius 0: every"
            f" singular value would be 0, got {model.center}"
        )
    _check_name("config.model.activation", model.activation, activations.NAMES)
    _check_number("config.model.leak", model.leak, maximum=1)
    _check_number("config.model.input_scale", model.input_scale, positive=True)
    _check_name("config.model.method", model.method, transitions.METHODS)
    _check_init(model)
    _check_number("config.model.negative_fraction", model.negative_fraction, maximum=1)
    check_integer("config.model.layers", model.layers, 1)
    _check_number("config.model.dropout", model.dropout, below=1)
    _check_embedding(model)


def _validate_train(train: Any) -> None:
    if train.steps is None and train.epochs is None:
        raise ValueError("config.train.steps or config.train.epochs must be set")
    for name in ("steps", "epochs", "steps_per_epoch"):
        if train[name] is not None:
            check_integer(f"config.train.{name}", train[name], 1)
    for name in ("batch_size", "log_every", "eval_every", "checkpoint_every"):
        check_integer(f"config.train.{name}", train[name], 1)
    _check_number("config.train.learning_rate", train.learning_rate, positive=True)
    if train.reflector_learning_rate is not None:
        _check_number(
            "config.train.reflector_learning_rate",
            train.reflector_learning_rate,
            positive=True,
        )
    _check_name("config.train.schedule", train.schedule, optimizers.SCHEDULES)
    check_integer("config.train.warmup_steps", train.warmup_steps, 0)
    if train.warmup_steps and train.schedule != "cosine":
        raise ValueError(
            "config.train.warmup_steps must be 0 unless config.train.schedule is"
            f" 'cosine', got {train.warmup_steps}"
        )
    _check_number("config.train.decay_rate", train.decay_rate, maximum=1, positive=True)
    _check_number(
        "config.train.plateau_factor", train.plateau_factor, below=1, positive=True
    )
    check_integer("config.train.plateau_patience", train.plateau_patience, 1)
    if train.clip_norm is not None:
        _check_number("config.train.clip_norm", train.clip_norm)


def resolve_epoch(train: Any, task: tasks.Task) -> int | None:
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
            "config.train.epochs needs config.train.steps_per_epoch for a task"
            f" without epochs, got epochs={train.epochs}"
        )
    return train.epochs * steps_per_epoch


def check_workdir(workdir: pathlib.Path, config: dict) -> bool:
    """Whether `workdir` holds a run of this config; False if it is new or empty.

    Raises:
      ValueError: it is a file, holds a run of another config (each difference is
        named), or files that are not of a run.
    """
    if not workdir.exists():
        return False
    if not workdir.is_dir():
        raise ValueError(f"--workdir must be a directory, got the file {workdir}")
    path = workdir / "config.json"
    if not path.exists():
        foreign = sorted(set(os.listdir(workdir)) - {"config.json.tmp"})
        if foreign:
            raise ValueError(
                f"--workdir {workdir} holds no config.json but other files"
                f" ({', '.join(foreign[:5])}); name a new or an empty folder"
            )
        return False
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    changed = differences(found, config)
    if changed:
        raise ValueError(
            f"--workdir {workdir} holds a run of another config; name another folder"
            " or go back to these values (old -> new):\n  " + "\n  ".join(changed)
        )
    return True


def _check_name(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be one of {allowed}, got {value!r}")


def _check_number(
    field: str,
    value: Any,
    maximum: float = math.inf,
    below: float = math.inf,
    positive: bool = False,
) -> None:
    """Finite, at least 0 or above it, at most `maximum`, less than `below`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    low_enough = number and value <= maximum and value < below
    if not low_enough or value < 0 or (positive and value == 0):
        interval = "> 0" if positive else ">= 0"
        if math.isfinite(maximum):
            interval += f" and <= {maximum:g}"
        if math.isfinite(below):
            interval += f" and < {below:g}"
        raise ValueError(f"{field} must be a finite number {interval}, got {value!r}")


def _check_reflectors(value: Any, hidden: int) -> None:
    """None, a number, or a pair of numbers of at most `hidden`."""
    pair = isinstance(value, (tuple, list))
    counts = list(value) if pair else [value]
    integers = all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 1
        for count in counts
    )
    fits = not pair or (len(counts) == 2 and integers and max(counts) <= hidden)
    if value is not None and not (integers and fits):
        raise ValueError(
            "config.model.reflectors must be an integer >= 1, a pair of integers in"
            f" 1 ... {hidden} (config.model.hidden), or None, got {value!r}"
        )


def _check_init(model: Any) -> None:
    """An init that the model has, with the reflectors that it needs."""
    allowed = INITS[model.name]
    if model.init not in allowed:
        raise ValueError(
            f"config.model.init must be one of {allowed} with config.model.name"
            f" {model.name!r}, got {model.init!r}"
        )
    if model.name not in ("spectral", "ornn"):
        return
    full = model.reflectors is None or (
        min(model.reflectors) >= model.hidden
        if isinstance(model.reflectors, (tuple, list))
        else model.reflectors >= model.hidden
    )
    if model.init in initializers.BLOCK_ROTATIONS and not full:
        raise ValueError(
            f"config.model.init {model.init!r} needs config.model.reflectors None, or"
            f" {model.hidden} (config.model.hidden), got {model.reflectors!r}"
        )


def _check_embedding(model: Any) -> None:
    """A size or None; with `tied` that of the states, which the readout shares."""
    if model.embedding is not None:
        check_integer("config.model.embedding", model.embedding, 1)
    if model.tied and model.embedding not in (None, model.hidden):
        raise ValueError(
            "config.model.embedding must be None or config.model.hidden,"
            f" {model.hidden}, with config.model.tied, got {model.embedding}"
        )
