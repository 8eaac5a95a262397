"""Files of a run: whole or not there, and one line where they cannot be written."""

import contextlib
import fnmatch
import json
import math
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

# What is being written has a name of this form; a kill leaves it.
_TEMPORARY = ".svdrnn-*.tmp"
_LEFT = 600.0  # seconds after which nobody writes a temporary file any more

# What operating systems and file servers put into a folder by themselves.
_SYSTEM = (
    *(".DS_Store", "._*", ".AppleDouble", ".Spotlight-V100", ".fseventsd"),
    *(".TemporaryItems", ".Trash*", ".apdisk", ".directory", "lost+found"),
    *(".nfs*", ".fuse_hidden*", ".snapshot", ".snapshots", ".zfs", "@eaDir"),
    *("#recycle", "#snapshot", "Thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$RECYCLE.BIN", "System Volume Information"),
)


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


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, which takes its place at the end of a context.

    The temporary name belongs to this call alone, so that processes and threads that
    write one file at once do not disturb each other: the last one counts. Nothing is
    left where the context fails. What killed processes have left is removed.
    """
    _tidy(path.parent)
    own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(_TEMPORARY.replace("*", own))
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _tidy(folder: pathlib.Path) -> None:
    """Removes temporary files that nobody has written to for a while."""
    with contextlib.suppress(OSError):
        for path in folder.glob(_TEMPORARY):
            if time.time() - path.stat().st_mtime > _LEFT:
                path.unlink(missing_ok=True)


def foreign(folder: pathlib.Path, own: Iterable[str]) -> list[str]:
    """The names in a folder that are neither `own` nor temporary nor the system's."""
    expected = (*_SYSTEM, _TEMPORARY)
    return sorted(
        name
        for name in set(os.listdir(folder)).difference(own)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in expected)
    )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON under a temporary name, then renames it into place.

    Raises:
      Unwritable: it cannot be written; nothing is left of it.
    """
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write(path: pathlib.Path, text: str) -> None:
    """As `write_json`, for text."""
    with writing(path), replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


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


# ---- Of what form JSON is.

NUMBER = (int, float)
NONE = (type(None),)
_WORDS: dict[type, str] = {
    **{
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
    },
    **{dict: "an object", list: "a list", type(None): "null"},
}


def _is_finite(value: Any) -> bool:
    """Whether it is no number, or one that fits into a float."""
    try:
        return not isinstance(value, NUMBER) or math.isfinite(value)
    except OverflowError:
        return False


def check_form(value: Any, form: Any, name: str) -> None:
    """Refuses JSON of another form.

    Args:
      value: what was read.
      form: the types it may have, as a tuple; {key: form} of an object that has these
        keys, where the key `str` means all the others; [form] of a list.
      name: what the error calls it.

    Raises:
      ValueError: names the first part that is missing or of another form.
    """
    kinds = form if isinstance(form, tuple) else (type(form),)
    wrong = isinstance(value, bool) and bool not in kinds  # True is an int in Python
    if wrong or not isinstance(value, kinds) or not _is_finite(value):
        words = " or ".join(
            _WORDS[kind] for kind in kinds if kind is not int or float not in kinds
        )
        raise ValueError(f"{name} must be {words}, got {str(value)[:40]!r}")
    if isinstance(form, list):
        for at, item in enumerate(value):
            check_form(item, form[0], f"{name}[{at}]")
    if isinstance(form, dict):
        for key in [key for key in form if key is not str and key not in value]:
            raise ValueError(f"{name} must have {key!r}, which is missing")
        for key, item in value.items():
            if key in form or str in form:
                check_form(item, form.get(key, form.get(str)), f"{name}.{key}")
