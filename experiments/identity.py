"""What a run is: its config as plain values, and how two of them differ. No JAX."""

import json
from typing import Any

from configs import common

ABSENT = "(absent)"

# Fields that say where things are, not what the run is.
PLACES = ("data_dir",)

# Fields that are read only where another has one value.
READ_WITH = {
    "train.decay_rate": ("train.schedule", "exponential"),
    "train.plateau_factor": ("train.schedule", "plateau"),
    "train.plateau_patience": ("train.schedule", "plateau"),
    "model.negative_fraction": ("model.name", "scornn"),
}


def to_dict(config: Any) -> dict:
    """The config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict(), allow_nan=False))


def differences(old: dict, new: dict) -> list[str]:
    """'field: old -> new' for each field that differs, `PLACES` left out."""
    return _changes(flatten(old), flatten(new))


def differences_from_record(record: dict, config: dict, free=()) -> list[str]:
    """As `differences`, from the config of a record that may be older than the code.

    A field that `configs/common.py` got since counts as having its default, which is
    what the code did before. Fields that are not read, as `READ_WITH` says, and those
    named in `free` do not count.
    """
    old = flatten(to_dict(common.get_config())) | flatten(record)
    new = flatten(config)
    left_out = set(free)
    for field, (other, value) in READ_WITH.items():
        if value not in (old.get(other), new.get(other)):
            left_out.add(field)
    old, new = (
        {name: value for name, value in fields.items() if name not in left_out}
        for fields in (old, new)
    )
    return _changes(old, new)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"train.steps": 5} of {"train": {"steps": 5}}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _changes(old: dict, new: dict) -> list[str]:
    changed = []
    for name in sorted((old.keys() | new.keys()) - set(PLACES)):
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if before != after:
            changed.append(f"config.{name}: {before!r} -> {after!r}")
    return changed
