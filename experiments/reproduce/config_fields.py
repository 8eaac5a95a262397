"""The documentation's table of all fields of a config. No JAX.

What a field means stands in `configs/common.py`, and where it is one of a task alone,
in the line of that task in `experiments/tasks/registry.py`.
"""

import importlib
import pathlib
from typing import Any

from configs import common
from experiments import models, schema, tasks
from experiments.reproduce import markdown
from experiments.runs import identity

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def table() -> str:
    """Every field with its default, what it means, and what reads it."""
    rows = []
    for name, field in common.FIELDS.items():
        rows.append(_row(name, field.default, _meaning(name, field), _readers(name)))
        if name == "task.name":
            rows += _rows_of_tasks()
    return markdown.table(["field", "default", "meaning", "read by"], rows)


def _row(name: str, default: Any, meaning: str, readers: str) -> list[str]:
    return [f"`{name}`", f"`{default}`" if default != "" else "", meaning, readers]


def _rows_of_tasks() -> list[list[str]]:
    """The fields of the task of each config file, with the defaults that it sets."""
    rows = []
    for path in sorted(CONFIGS.glob("*.py")):
        if path.stem in ("__init__", "common"):
            continue
        task = importlib.import_module(f"configs.{path.stem}").get_config().task
        for name, meaning in tasks.TASKS[task.name].reads.items():
            rows.append(_row(f"task.{name}", task[name], meaning, f"`{path.name}`"))
    return rows


def _meaning(name: str, field: schema.Field) -> str:
    """What the field means, and the names that it may hold."""
    if name == "model.name":
        sequences, vectors = (", ".join(models.names(kind)) for kind in (True, False))
        return f"{field.meaning} Of sequences: {sequences}; of vectors: {vectors}."
    if isinstance(field.allowed, schema.Name):
        return f"{field.meaning} One of {', '.join(field.allowed.names)}."
    return field.meaning


def _readers(name: str) -> str:
    """The value of another field, and the tasks or models, with which it is read."""
    condition = ""
    if name in identity.READ_WITH:
        other, value = identity.READ_WITH[name]
        condition = f"`{other}={value}`"
    if name in identity.READ_UNLESS:
        other, value = identity.READ_UNLESS[name]
        condition = f"`{other}` other than `{value}`"
    known = _known(name)
    if not condition:
        return known
    return condition if known == "all" else f"{condition}, of {known}"


def _known(name: str) -> str:
    """The tasks or models that read a field."""
    if name in tasks.BESIDE:
        all_names = list(tasks.TASKS)
        readers = [task for task, entry in tasks.TASKS.items() if name in entry.beside]
    else:
        all_names = list(models.MODELS)
        readers = [each for each, entry in models.MODELS.items() if name in entry.reads]
    if not readers or len(readers) == len(all_names):
        return "all"
    others = [each for each in all_names if each not in readers]
    if len(others) < len(readers) / 2:
        return f"all but {', '.join(others)}"
    return ", ".join(readers)
