"""What a run is: its config as plain values, what it reads of it, and differences.

No JAX: plans, summaries and figures look at records without it.
"""

import json
from typing import Any

from configs import common
from experiments import models, tasks
from experiments.data import stand_in

ABSENT = "(absent)"

# Fields that say where things are, not what the run is.
PLACES = tuple(name for name, field in common.FIELDS.items() if field.place)

# Fields that are read only where another has one value.
READ_WITH = {
    name: field.read_with for name, field in common.FIELDS.items() if field.read_with
}

# Fields that are read unless another has one value.
READ_UNLESS = {
    name: field.read_unless
    for name, field in common.FIELDS.items()
    if field.read_unless
}

# Fields that have another name now, of the same meaning: {former: present}.
FORMER = {field.former: name for name, field in common.FIELDS.items() if field.former}

# Fields that decide which others are read.
DECIDING = {
    "task.name",
    "model.name",
    *(other for other, _ in (READ_WITH | READ_UNLESS).values()),
}


def to_dict(config: Any) -> dict:
    """The config as plain JSON values.

    Raises:
      ValueError: a field holds something else, as NaN or a complex number.
    """
    values = config.to_dict()
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        for field, value in flatten(values).items():
            if not _is_plain(value):
                raise ValueError(
                    f"config.{field} must be text, finite numbers, or lists of them,"
                    f" got {value!r}"
                ) from None
        raise


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"train.steps": 5} of {"train": {"steps": 5}}, with the present names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            field = prefix + name
            flat[FORMER.get(field, field)] = value
    return flat


def to_config(stored: dict, where: str) -> Any:
    """The config of a run from what its folder keeps of it.

    Fields that it lacks, because they came since or are not read, have the defaults of
    `configs/common.py`, or of the task's registration: those mean what the code did
    before there was the field. One that changes its meaning gets another name.

    Args:
      stored: the content of a config.json.
      where: its path, for the error.

    Raises:
      ValueError: it has a field that is not known any more, or a value of another type.
    """
    config = common.get_config()
    flat = _later(flatten(stored)) | flatten(stored)
    allowed = set(common.FIELDS)
    model = models.MODELS.get(str(flat.get("model.name")))
    if model:  # one's own may have fields of its own, as a task may
        allowed |= model.reads
    unknown = [
        field
        for field in sorted(flat.keys() - allowed)
        if not field.startswith("task.")
    ]
    if unknown:
        raise ValueError(
            f"{where} must have fields of this version, got config.{unknown[0]}, which"
            " was removed, or has another name because its meaning changed"
        )
    for field, value in flat.items():
        try:
            with config.unlocked():
                config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError, KeyError, AttributeError):
            raise ValueError(
                f"{where} must have a value of another type in config.{field}, got"
                f" {value!r}"
            ) from None
    return config


# ---- What is read.


def unread(config: dict) -> set[str]:
    """The fields, as "model.leak", that have no effect on what the run is.

    A task and a model read what their registries say; of an unknown one all counts.
    """
    flat = flatten(config)
    task = tasks.TASKS.get(str(flat.get("task.name")))
    model = models.MODELS.get(str(flat.get("model.name")))
    without_effect = {
        field
        for field, (other, value) in READ_WITH.items()
        if field in flat and flat.get(other) != value
    }
    without_effect |= {
        field
        for field, (other, value) in READ_UNLESS.items()
        if field in flat and flat.get(other) == value
    }
    for field in flat:
        section, _, name = field.partition(".")
        if task and section == "task" and name not in ("name", *task.reads):
            without_effect.add(field)
        if task and field in tasks.BESIDE and field not in task.beside:
            without_effect.add(field)
        of_model = section == "model" and name != "name" or field in models.BESIDE
        if model and of_model and field not in model.reads:
            without_effect.add(field)
    return without_effect


def read_part(config: dict) -> dict:
    """The config without the fields that are not read."""
    left_out = unread(config)
    flat = flatten(config)
    return unflatten({field: flat[field] for field in flat if field not in left_out})


def listing(config: dict) -> str:
    """A line 'field = value' for each field that is read, in the table's order.

    Fields of a task's or a model's own stand at the end of their section.
    """
    flat = flatten(read_part(config))
    places = {field: place for place, field in enumerate(common.FIELDS)}

    def place(field: str) -> tuple[int, bool, str]:
        section = f"{field.partition('.')[0]}."
        of_section = [places[name] for name in places if name.startswith(section)]
        last = max(of_section, default=len(places))
        return places.get(field, last), field not in places, field

    return "\n".join(f"{field} = {flat[field]!r}" for field in sorted(flat, key=place))


def check_overrides(config: Any, overrides: dict[str, Any]) -> None:
    """Refuses what the command line sets and nothing would read.

    Args:
      config: with the overrides in it.
      overrides: {field: value} of the command line. A default of `configs/common.py`
        is not refused.

    Raises:
      ValueError: the first such field.
    """
    left_out = unread(to_dict(config))
    defaults = flatten(to_dict(common.get_config()))
    for field, value in overrides.items():
        if field in left_out and value != defaults.get(field, ABSENT):
            raise ValueError(
                f"config.{field} must be left out {_reason(field, config)}, which does"
                f" not read it, got {value!r}"
            )


def _reason(field: str, config: Any) -> str:
    """What does not read the field, as the end of a sentence."""
    flat = flatten(config.to_dict())
    by_task = field.startswith("task.") or field in tasks.BESIDE
    deciding = "task.name" if by_task else "model.name"
    if field in READ_WITH:
        other, value = READ_WITH[field]
        deciding = other if flat[other] != value else deciding
    if field in READ_UNLESS:
        other, value = READ_UNLESS[field]
        deciding = other if flat[other] == value else deciding
    return f"with config.{deciding} {flat[deciding]!r}"


# ---- How two configs differ.


def differences(old: dict, new: dict, free: tuple[str, ...] = ()) -> list[str]:
    """'field: old -> new' for each field in which two runs differ.

    A field that `old` lacks counts as having the default of `configs/common.py`, or of
    its task's registration, which is what the code did before there was one. `PLACES`,
    fields that neither reads, and those named in `free` do not count.
    """
    before = completed(old)
    left_out = unread(unflatten(before)) & unread(new)
    return changes(before, flatten(new), left_out | set(free))


def stands_in(config: dict) -> bool:
    """Whether its data are the random ones that only look like data."""
    # What a task without files has there says nothing.
    return read_part(config).get("data_dir") == stand_in.NAME


def other_data(old: dict, new: dict) -> list[str]:
    """As `differences`, of configs whose data are stand-in ones in one of both."""
    if stands_in(old) == stands_in(new):
        return []
    return [f"config.data_dir: {old.get('data_dir')!r} -> {new.get('data_dir')!r}"]


def completed(config: dict) -> dict[str, Any]:
    """The flat config, with the defaults of what it lacks."""
    flat = flatten(config)
    return flatten(to_dict(common.get_config())) | _later(flat) | flat


def _later(flat: dict[str, Any]) -> dict[str, Any]:
    """What a run of before counts as having of the fields of its task."""
    task = tasks.TASKS.get(str(flat.get("task.name")))
    return {f"task.{name}": value for name, value in task.later.items()} if task else {}


def changes(old: dict, new: dict, left_out: set[str] | None = None) -> list[str]:
    """As `differences`, of flat configs and field by field."""
    lines = []
    for name in sorted((old.keys() | new.keys()) - set(PLACES) - (left_out or set())):
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if before != after:
            lines.append(f"config.{name}: {before!r} -> {after!r}")
    return lines


def unflatten(flat: dict[str, Any]) -> dict:
    """The opposite of `flatten`."""
    tree: dict = {}
    for field, value in flat.items():
        *sections, name = field.split(".")
        part = tree
        for section in sections:
            if not isinstance(part.get(section), dict):  # of a config that is damaged
                part[section] = {}
            part = part[section]
        part[name] = value
    return tree
