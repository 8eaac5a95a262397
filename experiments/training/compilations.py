"""Compiled programs, kept in a folder from run to run.

JAX finds, reads and makes the entries of its compilation cache; here is how they lie in
the folder. JAX itself writes them in place: what a kill or a full disk cuts off stays
there, and a process that starts meanwhile reads half of one. An entry's name holds a
digest of all that its program depends on: the program, the versions, the flags of XLA
and the features of the processor.
"""

import contextlib
import os
import pathlib
import tempfile

import jax
from absl import logging
from jax._src import compilation_cache  # the place of an own one has no public name
from jax._src.compilation_cache_interface import CacheInterface

from experiments.runs import files

MOST_BYTES = 2**30  # of a folder; what was not used for the longest goes first
OFF = "none"


def keep(where: str | None = None) -> None:
    """Makes JAX take programs from a folder, and put there what it compiles.

    Args:
      where: the folder, or "none" for no folder. None: JAX's own as its settings have
        it, such as JAX_COMPILATION_CACHE_DIR, else one in the user's cache folder.

    Raises:
      ValueError: a folder that cannot be made or written.
    """
    if where == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if where is None and jax.config.jax_compilation_cache_dir:  # type: ignore
        return
    try:
        folder = default_folder() if where is None else pathlib.Path(where)
        entries = Entries(folder.expanduser())
    except (OSError, RuntimeError) as error:
        if where is None:
            logging.warning("compiled programs are not kept: %s", error)
            return
        raise ValueError(
            f"--compilation_cache must be a folder that can be written or {OFF!r}, got"
            f" {where!r}: {error}"
        ) from None
    if where is not None:
        jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(entries.folder))
    # Small programs too: reading one takes a tenth of the time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    compilation_cache._cache = entries
    compilation_cache._cache_initialized = True


def default_folder() -> pathlib.Path:
    """The folder of the user's own, by the rules of XDG; ~ stands for the home."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(home) / "svdrnn" / "compilations"


class Entries(CacheInterface):
    """The entries of a folder, each a file that is whole or not there.

    Args:
      folder: made where there is none, for its owner alone: who writes to it has code
        run by those who read it.
      most_bytes: to which the folder is cut here.

    Raises:
      OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: pathlib.Path, most_bytes: int = MOST_BYTES):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = self._path = folder.absolute()
        tempfile.TemporaryFile(dir=self.folder).close()
        self._writes = True
        _shrink(self.folder, most_bytes)

    def get(self, key: str) -> bytes | None:
        """The content of an entry, or None where there is none."""
        path = self._entry(key)
        try:
            value = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used last
        return value

    def put(self, key: str, value: bytes) -> None:
        """Writes an entry; from the first failure on the run goes on without."""
        if not self._writes:
            return
        try:
            with files.replacing(self._entry(key)) as temporary:
                temporary.write_bytes(value)
        except OSError as error:
            self._writes = False
            logging.warning(
                "compiled programs are not kept in %s: %s", self.folder, error.strerror
            )

    def _entry(self, key: str) -> pathlib.Path:
        return self.folder / f"{key}-cache"


def _shrink(folder: pathlib.Path, most_bytes: int) -> None:
    """Removes what was not used for the longest; others may do so at the same time."""
    entries = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            entries.append((stat.st_mtime, stat.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in entries)
    for _, bytes_, path in sorted(entries):
        if size <= most_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= bytes_
