"""Data files: where they lie, plain or gzipped, and whether they are intact."""

import gzip
import hashlib
import os
import pathlib
import zlib

VARIABLE = "SVDRNN_DATA"


class Damaged(ValueError):
    """A data set that was kept is no longer what was downloaded."""


def data_root(data_dir):
    """Returns the user's data folder as a path, or None where none is named.

    Args:
      data_dir: a folder (`config.data_dir`); None or "" stands for the
        environment variable SVDRNN_DATA.

    Raises:
      ValueError: the path exists and is not a folder.
    """
    named = data_dir or os.environ.get(VARIABLE)
    if not named:
        return None
    try:
        root = pathlib.Path(named).expanduser()
    except RuntimeError:  # of a home folder that is not known
        raise ValueError(f"data_dir must be a folder, got {named!r}") from None
    if root.exists() and not root.is_dir():
        raise ValueError(f"data_dir: {root} is not a folder")
    return root


def find(folder, name):
    """Returns `<folder>/<name>`, else `<folder>/<name>.gz`, else None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def local_folder(data_dir, dataset, names):
    """Returns `<data_dir>/<dataset>` where it holds every file, None where none.

    Args:
      data_dir: see `data_root`.
      dataset: name of the subfolder.
      names: file names without ".gz"; each may lie there plain or gzipped.

    Raises:
      FileNotFoundError: some of the files are there and others are missing.
      ValueError: data_dir is not a folder.
    """
    root = data_root(data_dir)
    if root is None:
        return None
    folder = root / dataset
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file")
    missing = [name for name in names if find(folder, name) is None]
    if len(missing) == len(names):
        return None
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} (plain or with .gz)"
        )
    return folder


def remote_or_explain(remote, data_dir, dataset, names):
    """Returns `remote()`, or raises one error that says what to put where.

    Args:
      remote: function without arguments that downloads the data set.
      data_dir: see `data_root`.
      dataset: name of the subfolder that was looked for.
      names: file names without ".gz".

    Raises:
      FileNotFoundError: the download failed; its error is the cause.
    """
    try:
        return remote()
    except Damaged:
        raise
    except (OSError, ValueError, ImportError) as error:
        root = data_root(data_dir)
        raise FileNotFoundError(
            f"{dataset}: no local files, and the download failed ({error}). Put "
            f"{', '.join(names)} (each plain or with .gz) into "
            f"{root or '<data folder>'}/{dataset}; the data folder is "
            f"config.data_dir or the environment variable {VARIABLE} "
            f"(now {root or 'not set'})."
        ) from error


def gunzip(data, name):
    """Returns the uncompressed bytes; ValueError naming the file if damaged."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: damaged gzip data ({error})") from error


OTHER = "; --config.allow_other_data takes other data"


def read_bytes(path):
    """Returns a file's bytes, uncompressed where its name ends in ".gz"."""
    data = path.read_bytes()
    return gunzip(data, path) if path.suffix == ".gz" else data


def check_md5(data, expected, name, advice=""):
    """Raises a ValueError naming the file unless MD5(data) is the expected one."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{name}: cut or altered: MD5 of the uncompressed content is {found}, "
            f"expected {expected} ({len(data)} bytes found){advice}"
        )
