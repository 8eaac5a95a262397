"""Files of a run: whole or not there, and one line where they cannot be written."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


class Unwritable(OSError):
    """The folder of a run can no longer be written; the message names the path."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """A context whose OSErrors become `Unwritable`: a full disk, a vanished folder."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        raise unwritable(path, error.strerror or error) from None


def unwritable(path: pathlib.Path, cause: Any) -> Unwritable:
    """The error that says so, in one line."""
    return Unwritable(
        f"{path} cannot be written: {cause}; what was saved before is whole, and the"
        " same command goes on"
    )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON under a temporary name, then renames it into place.

    Raises:
      Unwritable: it cannot be written; nothing is left of it.
    """
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write(path: pathlib.Path, text: str) -> None:
    """As `write_json`, for text."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        try:
            with temporary.open("w", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def read_json(path: pathlib.Path) -> Any:
    """The content of a file.

    Raises:
      ValueError: it is not JSON; the text names it.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_object(path: pathlib.Path) -> dict:
    """The content of a file that holds a JSON object.

    Raises:
      ValueError: it does not; the text names it.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {str(content)[:40]!r}")
    return content
