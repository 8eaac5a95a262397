"""The registry of tasks: from `config.task.name` to a task object.

A task is a file like those beside this one, a config, and a line below; a task of one's
own is registered in the same way by its config file, wherever that lies. No JAX: a
task's own file is imported when it is built.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiments.tasks import base

Build = Callable[[Any], "base.Task"]


class Entry(NamedTuple):
    """A registered task.

    build: from the whole config to the task, or "module:function" of it.
    reads: the fields of `config.task` that it reads, besides the name.
    """

    build: Build | str
    reads: tuple[str, ...]


TASKS: dict[str, Entry] = {}


def register(name: str, build: Build | str, reads: tuple[str, ...] = ()) -> None:
    """Adds a task, or replaces it, under a name for `config.task.name`.

    Args:
      name: as the task's own attribute `name`.
      build: function from the whole config to a `base.Task`, or the text
        "module:function", which is imported when the task is built.
      reads: the fields of `config.task` that it reads, besides the name.
    """
    TASKS[name] = Entry(build, reads)


register("addition", "experiments.tasks.addition:build", ("length",))
register("copying", "experiments.tasks.copying:build", ("length",))
register("mnist", "experiments.tasks.mnist:build")
register("pixel_mnist", "experiments.tasks.pixel_mnist:build", ("steps", "permuted"))
register(
    "random_labels", "experiments.tasks.random_labels:build", ("steps", "permuted")
)
register("ptb_word", "experiments.tasks.penn_treebank:words", ("window",))
register("ptb_char", "experiments.tasks.penn_treebank:characters", ("window",))

_SHIPPED = TASKS.copy()


def is_known(name: str) -> bool:
    """Whether a task of that name is registered."""
    return name in TASKS


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
        if field not in config.task:
            raise ValueError(
                f"config.task.{field} must be in the config with config.task.name"
                f" {name!r}, got none"
            )


def build(config: Any) -> "base.Task":
    """The task that `config.task` names, with its data.

    Raises:
      ValueError: unknown name, a field that is missing or out of range, or data that
        do not fit.
    """
    check(config)
    found = TASKS[config.task.name].build
    if isinstance(found, str):
        module, _, function = found.partition(":")
        found = getattr(importlib.import_module(module), function)
    return found(config)
