"""The registry of tasks: from `config.task.name` to a task object.

A task is a file like those beside this one, a config, and a line below; a task of one's
own is registered in the same way by its config file, wherever that lies. No JAX: a
task's own file is imported when it is built.
"""

import importlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from configs import common
from experiments.tasks import scoring

if TYPE_CHECKING:
    from experiments.tasks import base

Build = Callable[[Any], "base.Task"]


class Entry(NamedTuple):
    """A registered task.

    build: from the whole config to the task, or "module:function" of it.
    reads: the fields of `config.task` that it reads, besides the name, each with its
      meaning.
    metric: chooses the best step on validation data, and is what tables print; None
      where the task itself says it, and tables have none of it.
    beside: those of `BESIDE` that it reads.
    later: of fields that came later, the values that runs of before count as having.
    """

    build: Build | str
    reads: dict[str, str]
    metric: scoring.Metric | None
    beside: tuple[str, ...]
    later: dict[str, Any]


TASKS: dict[str, Entry] = {}

# Fields outside the task's part that not every task reads.
BESIDE = tuple(name for name, field in common.FIELDS.items() if field.by_task)


def register(
    name: str,
    build: Build | str,
    reads: Mapping[str, str] | Iterable[str] = (),
    metric: scoring.Metric | None = None,
    *,
    beside: tuple[str, ...] = BESIDE,
    later: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Adds a task, or replaces it, under a name for `config.task.name`.

    Args:
      name: as the task's own attribute `name`.
      build: function from the whole config to a `base.Task`, or the text
        "module:function", which is imported when the task is built.
      reads: the fields of `config.task` that it reads, besides the name; a mapping
        says what each of them means.
      metric: one of `experiments.tasks.scoring` or of your own; None where the task
        has attributes `primary` and `higher_is_better`.
      beside: those of `BESIDE` that it reads; the others are an error on the command
        line.
      later: {field: value} of those of `reads` that came when there were runs without
        them, which count as having that value, as configs without them do.
    """
    meanings = reads if isinstance(reads, Mapping) else dict.fromkeys(reads, "")
    TASKS[name] = Entry(build, dict(meanings), metric, beside, dict(later))


_SHIFT = {
    "shift": "By how many pixels at most a training digit is shifted at random, down or"
    " up and to a side; what moves in is black."
}
_PIXELS = {
    "steps": "In how many steps a digit is read: 784, 112 or 28, of 1, 7 or 28 pixels.",
    "permuted": "Whether the pixels are put into one fixed random order.",
}

register(
    "addition",
    "experiments.tasks.addition:build",
    {"length": "How many numbers a sequence has, at least 2."},
    scoring.MSE,
    beside=(),
)
register(
    "copying",
    "experiments.tasks.copying:build",
    {"length": "The lag: how many steps lie between reading and repeating."},
    scoring.RECALL,
    beside=(),
)
register(
    "mnist",
    "experiments.tasks.mnist:build",
    _SHIFT,
    scoring.ACCURACY,
    later={"shift": 0},
)
for _name in ("pixel_mnist", "random_labels"):
    register(
        _name,
        f"experiments.tasks.{_name}:build",
        _PIXELS | _SHIFT,
        scoring.ACCURACY,
        later={"shift": 0},
    )
register(
    "ptb_word",
    "experiments.tasks.penn_treebank:words",
    {"window": "How many words a window has, within which gradients flow."},
    scoring.PERPLEXITY,
)
register(
    "ptb_char",
    "experiments.tasks.penn_treebank:characters",
    {"window": "How many characters a window has, within which gradients flow."},
    scoring.BITS,
)
register(
    "arrays",
    "experiments.tasks.arrays:build",
    {
        "path": "An .npz file or a folder of .npy files, itself or in the data folder.",
        "every_step": "Whether there is a target at every step, not one an item.",
        "valid_share": "The share of validation where no arrays are; None is 0.15.",
        "test_share": "The share of test where no arrays are; None is 0.15.",
        "split_seed": "Items are divided at random by it; None is 0.",
        "folds": "Into how many folds the training items are divided, for validation.",
        "fold": "Which of the folds is the validation part, from 0.",
        "window": "How many steps of a series are read.",
        "horizon": "How many steps behind a window are predicted.",
        "normalize": "Whether features, and numbers to predict, are standardized.",
        "fill": "What takes the place of NaN: error, zero, mean or previous.",
        "class_weights": "Weights of classes in the loss: balanced, or one a class.",
    },
    beside=("data_dir",),
)

_SHIPPED = TASKS.copy()


def is_known(name: str) -> bool:
    """Whether a task of that name is registered."""
    return name in TASKS


def metric(name: str) -> scoring.Metric:
    """The metric that a task was registered with.

    Raises:
      ValueError: it was registered with none.
    """
    entry = TASKS[name]
    if entry.metric is None:
        raise ValueError(
            f"metric must be given where the task {name!r} is registered, got None"
        )
    return entry.metric


def is_own(name: str) -> bool:
    """Whether it was registered elsewhere than here, in the place of ours or beside."""
    return name in TASKS and TASKS[name] != _SHIPPED.get(name)


def check(config: Any) -> None:
    """Raises ValueError for an unknown name, or where a field is missing."""
    name = config.task.name
    if not is_known(name):
        raise ValueError(
            f"config.task.name must be one of {', '.join(TASKS)}, got {name!r}"
        )
    for field in TASKS[name].reads:
        if field not in config.task and field not in TASKS[name].later:
            raise ValueError(
                f"config.task.{field} must be in the config with config.task.name"
                f" {name!r}, got none"
            )


def build(config: Any) -> "base.Task":
    """The task that `config.task` names, with its data.

    Raises:
      ValueError: unknown name, a field that is missing or out of range, data that do
        not fit, or a metric that is not the task's own.
    """
    check(config)
    entry = TASKS[config.task.name]
    for field, value in entry.later.items():
        if field not in config.task:
            with config.unlocked():
                config.task[field] = value
    make = entry.build
    if isinstance(make, str):
        module, _, function = make.partition(":")
        make = getattr(importlib.import_module(module), function)
    task = make(config)
    if entry.metric is not None:
        task.metric = entry.metric
        said = task.primary, task.higher_is_better
        if said != entry.metric[:2]:
            raise ValueError(
                "primary and higher_is_better of a task must be those of the metric"
                f" that it is registered with, {entry.metric[:2]}, got {said}"
            )
    return task
