"""Checks of a config's fields, each named as the command line names it."""

from collections.abc import Container, Sequence
from typing import Any

from svdrnn import checks

# Counts are int32 and numbers float32 on a device.
MOST_INTEGER = 2**31 - 1
MOST_NUMBER = 3.4e38


def check_integer(
    name: str, value: Any, least: int = 1, most: int = MOST_INTEGER
) -> None:
    """Raises ValueError unless the value is an integer within the bounds."""
    if checks.check_integer(name, value, least) > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")


class Section:
    """Checks of the fields of one part of a config.

    Args:
      path: what the fields' names begin with, as "config.train".
      values: that part.
      read: the fields that are read; others are left alone. None: all are.
    """

    def __init__(self, path: str, values: Any, read: Container[str] | None = None):
        self._path = path
        self._values = values
        self._read = read

    def integer(
        self,
        *names: str,
        least: int = 1,
        most: int = MOST_INTEGER,
        optional: bool = False,
    ) -> None:
        """Raises ValueError unless each is an integer, or None where `optional`."""
        for name in names:
            if self._counts(name, optional):
                check_integer(self.path(name), self._values[name], least, most)

    def number(self, *names: str, optional: bool = False, **bounds: float) -> None:
        """Raises ValueError unless each is a finite number within the bounds.

        `bounds` are those of `svdrnn.checks.check_finite`.
        """
        bounds.setdefault("below" if "below" in bounds else "most", MOST_NUMBER)
        for name in names:
            if self._counts(name, optional):
                checks.check_finite(self.path(name), self._values[name], **bounds)

    def name(self, name: str, allowed: Sequence[str]) -> None:
        """Raises ValueError unless the field is one of the allowed names."""
        if self._counts(name, False):
            checks.check_name(self.path(name), self._values[name], allowed)

    def path(self, name: str) -> str:
        """The field as the command line names it."""
        return f"{self._path}.{name}"

    def _counts(self, name: str, optional: bool) -> bool:
        if self._read is not None and name not in self._read:
            return False
        return not (optional and self._values[name] is None)
