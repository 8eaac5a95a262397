"""The folder of a run: whether it is that of a config, and who works in it."""

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import filelock

from experiments.runs import config_file, files, fitted, identity

LOCK = "run.lock"

_PAUSE = 0.5  # seconds between looks at a folder that is in use

Made = TypeVar("Made")

# What a command that was killed at once leaves; the first is of older versions.
_OWN = {"config.json.tmp", LOCK}

# Metrics are null where they were not finite.
_METRICS = {str: (*files.NUMBER, *files.NONE)}
RESULT = {
    "metrics": {"valid": _METRICS, "test": _METRICS},
    "best": {"step": (int,), "valid": _METRICS, "test": _METRICS},
    **{"steps": (int,), "wall_seconds": files.NUMBER},
    **{"num_params": (int,), "num_independent_params": (int,)},
    "baseline": (*files.NUMBER, *files.NONE),
}

# What a run writes; a link there may lead to what is none of its own.
_WRITTEN = (
    *("config.json", config_file.NAME, fitted.NAME, "metrics.jsonl", "result.json"),
    *("checkpoints", LOCK),
)


def check(workdir: pathlib.Path, config: dict) -> bool:
    """Whether `workdir` holds a run of this config; False if it is new or empty.

    Raises:
      ValueError: it is a file, holds a run of another config (each difference is
        named), files that are not of a run, or links where a run writes.
    """
    if not workdir.exists():
        return False
    if not workdir.is_dir():
        raise ValueError(f"--workdir must be a directory, got the file {workdir}")
    _refuse_links(workdir)
    path = workdir / "config.json"
    if not path.exists():
        foreign = files.foreign(workdir, _OWN)
        if foreign:
            raise ValueError(
                f"--workdir {workdir} holds no config.json but other files"
                f" ({', '.join(foreign[:5])}); name a new or an empty folder"
            )
        return False
    stored = files.read_object(path)
    changed = identity.differences(stored, config)
    changed += identity.other_data(stored, config)
    if changed:
        raise ValueError(
            f"--workdir {workdir} holds a run of another config; name another folder"
            " or go back to these values (old -> new):\n  " + "\n  ".join(changed)
        )
    return True


def _refuse_links(workdir: pathlib.Path) -> None:
    """Raises ValueError where writing or removing would reach out of the folder."""
    written = [workdir / name for name in _WRITTEN]
    checkpoints = workdir / "checkpoints"
    if checkpoints.is_dir() and not checkpoints.is_symlink():
        written += checkpoints.iterdir()
    for path in written:
        if path.is_symlink():
            raise ValueError(
                f"{path} must be the run's own, got a link to {os.readlink(path)}"
            )


def result(workdir: pathlib.Path, config: dict) -> dict | None:
    """The result that `workdir` holds, or None where there is none.

    Args:
      workdir: folder of a run of `config`.
      config: as plain values.

    Raises:
      ValueError: result.json is damaged, or that of another run.
    """
    path = workdir / "result.json"
    if not path.exists():
        return None
    content = read_result(path)
    train = config["train"]
    expected: dict[str, Any] = {
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "seed": config["seed"],
    }
    early = train["patience"] is not None and content.get("stopped_early") is True
    if train["steps"] is not None and not early:
        expected["steps"] = train["steps"]
    for name, value in expected.items():
        if content.get(name) != value:
            raise _no_result(
                path, f"{name} must be {value!r}, got {content.get(name)!r}"
            )
    return content


def read_result(path: pathlib.Path) -> dict:
    """The content of a result.json, of whatever run.

    Raises:
      ValueError: it is of another form; the text names the part.
    """
    content = files.read_json(path)
    try:
        files.check_form(content, RESULT, "the result")
    except ValueError as error:
        raise _no_result(path, str(error)) from None
    return content


def _no_result(path: pathlib.Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is not the result of this config: {why}; remove the file, and the same"
        " command makes it again from the last checkpoint"
    )


class InUse(ValueError):
    """Another process works in a folder; the text names it."""


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of the folder for the length of a context.

    The lock is the operating system's: that of a process that died is free.

    Raises:
      InUse: another process works there.
    """
    path = workdir / LOCK
    lock = filelock.FileLock(path)
    with files.writing(workdir):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:  # a kind of OSError
            holder = path.read_text().strip() or "another process"
            raise InUse(f"--workdir {workdir} is in use by {holder}") from None
    try:
        with files.writing(path):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def is_held(workdir: pathlib.Path) -> bool:
    """Whether another process works in the folder now, as `held` tells them apart."""
    path = workdir / LOCK
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def when_free(workdir: pathlib.Path, work: Callable[[], Made]) -> Made:
    """What `work` returns, which is called again whenever the folder is in use.

    Args:
      workdir: the folder in which `work` makes a run.
      work: raises `InUse` where another process works there.
    """
    while True:
        try:
            return work()
        except InUse as error:
            print(f"waiting: {error}", flush=True)
            while is_held(workdir):
                time.sleep(_PAUSE)
