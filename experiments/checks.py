"""Checks of a config's fields, each named as the command line names it."""

from collections.abc import Mapping
from typing import Any

from configs import common
from experiments import schema
from svdrnn import checks


def check_integer(
    name: str, value: Any, least: int = 1, most: int = schema.MOST_INTEGER
) -> None:
    """Raises ValueError unless the value is an integer within the bounds."""
    if checks.check_integer(name, value, least) > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")


def check_field(field: str, value: Any) -> None:
    """Checks what a field holds, by the table of `configs/common.py`.

    Args:
      field: its name in the table, as "train.steps".
      value: what it holds.

    Raises:
      ValueError: names the field, its value and what is allowed.
    """
    name = f"config.{field}"
    allowed = common.FIELDS[field].allowed
    if value is None and common.FIELDS[field].nullable:
        return
    if isinstance(allowed, schema.Integer):
        check_integer(name, value, allowed.least, allowed.most)
    if isinstance(allowed, schema.Number):
        most = allowed.most
        if most is None and allowed.below is None:
            most = schema.MOST_NUMBER
        checks.check_finite(
            name,
            value,
            least=allowed.least,
            above=allowed.above,
            most=most,
            below=allowed.below,
        )
    if isinstance(allowed, schema.Name):
        checks.check_name(name, value, allowed.names)


def check_fields(values: Mapping[str, Any]) -> None:
    """As `check_field`, of {field: value}; fields beside the table are left alone."""
    for field in common.FIELDS:
        if field in values:
            check_field(field, values[field])
