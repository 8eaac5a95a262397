"""What a field of a config is: its default, its meaning, what it may hold, its readers.

The fields themselves stand in `configs/common.py`. No JAX: plans, summaries and figures
read configs without it.
"""

import dataclasses
from typing import Any

# Counts are int32 and numbers float32 on a device.
MOST_INTEGER = 2**31 - 1
MOST_NUMBER = 3.4e38


@dataclasses.dataclass(frozen=True)
class Integer:
    """Integers from `least` to `most`."""

    least: int = 1
    most: int = MOST_INTEGER


@dataclasses.dataclass(frozen=True)
class Number:
    """Finite numbers within bounds: `least` and `most` are allowed themselves.

    Without an upper bound it is `MOST_NUMBER`.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None


@dataclasses.dataclass(frozen=True)
class Name:
    """One of some names."""

    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Field:
    """All there is to say of a field.

    Attributes:
      default: the value in a config that does not set it. A field that a run of an
        older version lacks counts as having it.
      meaning: plain sentences, for the documentation. What `allowed` says is added.
      allowed: the values that it may hold; None: whatever has the type of the default,
        or what the code that uses it checks.
      nullable: whether it may be None. The command line then takes any Python literal.
      place: whether it says where something is, and not what the run is.
      models: the models that read it, by name or by kind, where not every one does; of
        which kinds a model is, is said in `experiments/models/registry.py`.
      by_task: whether the line of a task in `experiments/tasks/registry.py` says that
        the task reads it; not every one does.
      read_with: another field and its value: the field is read with that alone.
      read_unless: another field and its value: the field is not read with that.
      former: its name in older versions, of the same meaning.
    """

    default: Any
    meaning: str
    allowed: Integer | Number | Name | None = None
    _: dataclasses.KW_ONLY
    nullable: bool = False
    place: bool = False
    models: tuple[str, ...] = ()
    by_task: bool = False
    read_with: tuple[str, Any] | None = None
    read_unless: tuple[str, Any] | None = None
    former: str | None = None
