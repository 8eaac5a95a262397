"""Sequences of one's own: arrays by name, of an .npz file or a folder of .npy files.

The arrays of a folder stay in their files and may be larger than memory; whatever goes
through all of an array does so block by block.
"""

import contextlib
import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data import files, stand_in

SPLITS = ("train", "valid", "test")
KINDS = ("inputs", "targets", "lengths", "weights")
SERIES = "series"
BLOCK = 2**22  # numbers that are read at once
MOST = float(np.finfo(np.float32).max)

Arrays = dict[str, np.ndarray]


def find(path: str, data_dir: str | None) -> pathlib.Path:
    """Where the arrays are: at the path itself, else in the data folder.

    There they have the same path below the folder, or only the same name: data that
    were moved are named by `data_dir` alone.

    Args:
      path: `config.task.path`.
      data_dir: `config.data_dir`; see `files.data_root`.

    Raises:
      ValueError: no path, or nothing there.
    """
    if not path or not isinstance(path, str):
        raise ValueError(
            "config.task.path must be an .npz file or a folder of .npy files, got"
            f" {path!r}"
        )
    if data_dir == stand_in.NAME:
        raise ValueError(
            "config.data_dir must be a folder: arrays have no stand-in, got"
            f" {data_dir!r}"
        )
    try:
        places = [pathlib.Path(path).expanduser()]
    except RuntimeError:  # of a home folder that is not known
        raise ValueError(f"config.task.path must be a path, got {path!r}") from None
    root = files.data_root(data_dir)
    if root is not None:
        places += [root / places[0], root / places[0].name]
    for place in places:
        with contextlib.suppress(OSError):  # a name that is too long
            if place.exists():
                return place
    where = ", ".join(dict.fromkeys(map(str, places)))
    raise ValueError(
        f"config.task.path must be there, got {path!r}: nothing at {where}"
    )


def read(path: pathlib.Path, single: str | None = None) -> Arrays:
    """The arrays by their names; those of a folder are not read yet.

    Args:
      path: an .npz file or a folder of .npy files.
      single: the name of the array of an .npy file, if that is taken too.

    Raises:
      ValueError: a file is cut, of another format, or holds what is no number; an array
        has a name that nothing reads. The text names it.
    """
    if path.is_dir():
        places = {file.stem: file for file in sorted(path.glob("*.npy"))}
        _check_names(path, places)
        return {name: _read_file(place, name) for name, place in places.items()}
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(
            f"{path} must be an .npz file or a folder of .npy files, got neither"
        )
    with _reading(path):
        archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        if single is not None:
            return {single: _read_file(path, single)}
        raise ValueError(f"{path} must be an .npz file, got a single array")
    with archive:
        _check_names(path, archive.files)
        return {name: _read_member(archive, path, name) for name in archive.files}


def _read_file(path: pathlib.Path, name: str) -> np.ndarray:
    with _reading(path):
        return _checked(name, np.load(path, mmap_mode="r", allow_pickle=False))


def _read_member(archive: Any, path: pathlib.Path, name: str) -> np.ndarray:
    with _reading(f"{name} of {path}"):
        return _checked(name, archive[name])


@contextlib.contextmanager
def _reading(what: Any) -> Iterator[None]:
    """A context in which whatever goes wrong is the fault of a file."""
    try:
        yield
    except _NotNumbers as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise ValueError(
            f"{what} must fit into memory, or be .npy files in a folder, got more"
        ) from None
    except Exception as error:  # archives, their compression and headers have many
        if "Object arrays" in str(error):
            cause = "Python objects"
        elif "pickle" in str(error):  # what numpy takes a file of another format for
            cause = "a file of another format"
        else:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"{what} must be whole arrays of numbers as numpy saves them, got {cause}"
        ) from None


class _NotNumbers(ValueError):
    """An array of something else."""


def _checked(name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):  # a member of another kind
        raise _NotNumbers(f"{name} must be an array, got {type(array).__name__}")
    if array.dtype.kind not in "biuf":
        kind = "text" if array.dtype.kind in "US" else "no real numbers"
        raise _NotNumbers(f"{name} must be numbers, got {kind} ({array.dtype})")
    return array


def _check_names(path: pathlib.Path, names: Any) -> None:
    allowed = {SERIES, *KINDS}
    allowed |= {f"{split}_{kind}" for split in SPLITS for kind in KINDS}
    for name in names:
        if name not in allowed:
            raise ValueError(
                f"{path}: arrays must be named {', '.join(KINDS)}, each with train_,"
                f" valid_ or test_ before it where splits are named, or {SERIES}, got"
                f" {name!r}"
            )
    if not names:
        raise ValueError(f"{path} must hold inputs and targets, or {SERIES}, got none")


# ---- Whole arrays, block by block.


def blocks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(which rows, the rows) of consecutive blocks."""
    rows = max(1, BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        which = slice(start, min(start + rows, len(array)))
        yield which, np.asarray(array[which])


def digest(arrays: Arrays) -> str:
    """A digest of names, types, shapes and values."""
    content = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        content.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for _, block in blocks(array):
            content.update(np.ascontiguousarray(block).data)
    return content.hexdigest()[:16]


def check_values(
    name: str,
    values: np.ndarray,
    first: int,
    inside: np.ndarray | None,
    axes: tuple[str, ...],
    *,
    missing: bool,
) -> None:
    """Raises ValueError for a value that float32 does not hold, with its place.

    Args:
      name: of the array.
      values: a block of it, float64.
      first: the row of the array with which the block begins.
      inside: which entries count, of the shape of `values` or of its first axes.
      axes: what the axes are called.
      missing: whether NaN is allowed.
    """
    bad = np.abs(values) > MOST
    if not missing:
        bad |= np.isnan(values)
    if inside is not None:
        bad &= inside.reshape(inside.shape + (1,) * (bad.ndim - inside.ndim))
    if not bad.any():
        return
    place = np.argwhere(bad)[0]
    value = values[tuple(place)]
    place[0] += first
    where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, place, strict=True))
    advice = ""
    if np.isnan(value) and name.endswith(("inputs", SERIES)):
        advice = "; config.task.fill says what takes the place of missing values"
    raise ValueError(
        f"{name} must be finite numbers that float32 holds, got {value:g} at"
        f" {where}{advice}"
    )
