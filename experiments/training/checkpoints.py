"""Checkpoints of a run: complete or absent, the newest two of them."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from experiments.runs import files
from experiments.training import processes

KEPT = 2
OVERHEAD = 2**18  # bytes of a checkpoint besides its arrays, generously
ITEMS = ("state", "best_params", "record")
METADATA = "_CHECKPOINT_METADATA"  # orbax's own, beside the items
FIRST_RECORD: dict[str, Any] = {
    "best": None,  # {"step", "valid"} of the best validation
    "last": None,  # of the last one
    "stalled": 0,  # validations in a row that were not strictly better
    "seconds": 0.0,
    "restores": 0,
}

# Orbax looks for its parts by patterns, and TensorStore takes a backslash for a slash,
# which it is on Windows.
_MISREAD = set("*?[]\\") - {os.sep}


class Checkpoints:
    """Saves and restores (state, best parameters, record) under a folder.

    The record is a small JSON object, `FIRST_RECORD` with other values. It is kept with
    its own digest, its step and that of the best parameters. Saving is synchronous: the
    arrays are few, and their buffers are donated to the next step. A folder appears
    under its step's name only when it is complete. `read_only` leaves the folder as it
    is: a run may be writing there.
    """

    def __init__(self, directory: str | pathlib.Path, *, read_only: bool = False):
        self.directory = pathlib.Path(directory).absolute()
        self._read_only = read_only
        self._alias: tempfile.TemporaryDirectory | None = None
        if read_only:
            self._manager = self._open(max_to_keep=None, create=False)
            return
        processes.by_first(self._prepare)
        with files.writing(self.directory):
            self._manager = self._open(max_to_keep=KEPT, cleanup_tmp_directories=True)

    def _prepare(self) -> None:
        """Makes the folder, and removes what a kill has left in it."""
        with files.writing(self.directory):
            _remove_unfinished(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)

    def _open(self, **options: Any) -> ocp.CheckpointManager:
        path = self._readable_path()
        chosen = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, **options
        )
        try:
            return ocp.CheckpointManager(path, options=chosen)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # What it reads of a checkpoint by itself is when that was made, which we
            # do not need: what we do has digests.
            named = sorted(self.directory.glob(f"*/{METADATA}"))
            damaged = f"{self.directory}/*/{METADATA}"
            if self._read_only or not named:
                raise ValueError(f"{damaged} cannot be read: {error}") from error
            logging.warning("removing %s, of which one is damaged: %s", damaged, error)
            processes.by_first(lambda: _remove(named))
            return ocp.CheckpointManager(path, options=chosen)

    def _readable_path(self) -> pathlib.Path:
        """The folder, or a link to it under a name that is read as it stands."""
        name = str(self.directory)
        if not _MISREAD & set(name) and _is_text(name):
            return self.directory
        self._alias = tempfile.TemporaryDirectory(prefix="svdrnn-")
        link = pathlib.Path(self._alias.name) / "checkpoints"
        link.symlink_to(self.directory, target_is_directory=True)
        return link

    def save(self, step: int, state: Any, best_params: Any, record: dict) -> None:
        """Saves a checkpoint unless the step has one.

        Raises:
          files.Unwritable: it cannot be written; those before it are whole.
        """
        if step in self._manager.all_steps():
            return
        record = {**FIRST_RECORD, **record}
        processes.by_first(lambda: self._check_space(step, state, best_params))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_once(_stored(state))),
            best_params=ocp.args.StandardSave(_once(_stored(best_params))),
            record=ocp.args.JsonSave(_sealed(step, best_params, record)),
        )
        try:
            self._manager.save(step, args=args)
        except jax.errors.JaxRuntimeError:  # of devices or processes, not of the disk
            raise
        except Exception as error:  # TensorStore raises ValueError on a full disk
            cause = getattr(error, "strerror", None) or str(error)
            cause = cause.split("\n")[0].split(" [")[0]
            raise files.unwritable(self.directory / str(step), cause) from error

    def _check_space(self, step: int, *trees: Any) -> None:
        """Refuses what does not fit, before orbax's threads fail one by one."""
        path = self.directory / str(step)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) + OVERHEAD
        with files.writing(path):
            free = shutil.disk_usage(self.directory).free
        if free < needed:
            cause = f"No space left on device ({needed} bytes needed, {free} free)"
            raise files.unwritable(path, cause)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, state: Any, best_params: Any) -> tuple[Any, Any, dict] | None:
        """The newest intact checkpoint, or None where there is none at all.

        A damaged one is passed over for the one before it, and removed, as are those
        that a kill left beside the newest, unless this is `read_only`.

        Args:
          state: a train state with the structure, shapes and types to restore.
          best_params: parameters, likewise.

        Raises:
          ValueError: there are checkpoints, but none can be read.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(_stored(state))),
            best_params=ocp.args.StandardRestore(_abstract(_stored(best_params))),
            record=ocp.args.JsonRestore(),
        )
        damaged: dict[int, Exception] = {}
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                stored = self._manager.restore(step, args=args)
                restored = _like(state, stored.state)
                best = _like(best_params, stored.best_params)
                record = _opened(step, restored, best, stored.record)
            except jax.errors.JaxRuntimeError:  # nothing is wrong with the checkpoint
                raise
            except Exception as error:  # orbax raises many kinds for a damaged one
                logging.warning("checkpoint %d cannot be read: %s", step, error)
                damaged[step] = error
                continue
            surplus = [*damaged, *steps[len(damaged) + KEPT :]]
            for other in [] if self._read_only else surplus:
                self._manager.delete(other)
            return restored, best, record
        if damaged:
            step, cause = next(iter(damaged.items()))
            raise ValueError(
                f"no checkpoint under {self.directory} can be read (step {step}:"
                f" {type(cause).__name__}); remove the folder to begin again at step 0"
            )
        return None

    def close(self) -> None:
        """Waits for what is being deleted."""
        self._manager.close()
        if self._alias is not None:
            self._alias.cleanup()


def _is_text(name: str) -> bool:
    """Whether all bytes of a name are text, as TensorStore wants them."""
    return name.encode(errors="ignore").decode() == name


def _remove(paths: list[pathlib.Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _stored(tree: Any) -> Any:
    """The tree with a zero for every array without entries, which orbax refuses."""
    return jax.tree.map(lambda x: x if x.size else np.zeros((), x.dtype), tree)


def _once(tree: Any) -> Any:
    """The tree with one copy of every array that lies whole on all devices.

    Of several orbax would write a slice each, by a program for every shape.
    """

    def one(x: Any) -> Any:
        whole = isinstance(x, jax.Array) and x.is_fully_replicated
        return x.addressable_data(0) if whole and jax.process_count() == 1 else x

    return jax.tree.map(one, tree)


def _like(tree: Any, stored: Any) -> Any:
    """What `_stored` was made of, where the tree has its structure and shapes."""

    def whole(x: Any, kept: Any) -> Any:
        return kept if x.size else jnp.zeros(x.shape, x.dtype, device=x.sharding)

    return jax.tree.map(whole, tree, stored)


def _remove_unfinished(directory: pathlib.Path) -> None:
    """Removes folders named like a step that lack an item of a checkpoint."""
    for folder in directory.glob("*"):
        complete = all((folder / item).exists() for item in ITEMS)
        within = folder.is_dir() and not folder.is_symlink()
        if folder.name.isdigit() and within and not complete:
            logging.warning("removing the unfinished checkpoint %s", folder)
            shutil.rmtree(folder)


# ---- What the record says of itself and of what stands beside it.


def _sealed(step: int, best_params: Any, record: dict) -> dict:
    """The record with all that `_opened` verifies."""
    content = {**record, "step": step, "best_params": _digest_of_arrays(best_params)}
    return {**content, "digest": _digest(content)}


def _opened(step: int, state: Any, best_params: Any, stored: Any) -> dict:
    """The record as it was saved.

    What one of an older version lacks has its first value; one of before there were
    digests is taken as it is.

    Raises:
      ValueError: a part is damaged, or of another step.
    """
    if not isinstance(stored, dict):
        raise ValueError("the record is no object")
    kept = {name: stored[name] for name in FIRST_RECORD if name in stored}
    record = FIRST_RECORD | kept
    older = set(stored) <= {"best", "last", "seconds"}
    if not older and stored != _sealed(step, best_params, kept):
        raise ValueError("the record is damaged, or the parts are not of one step")
    if int(state.step) != step:
        raise ValueError(f"the state is of step {int(state.step)}")
    _check_values(step, record)
    return record


def _check_values(step: int, record: dict) -> None:
    """Raises ValueError unless the values are such as a run saves."""
    seconds = record["seconds"]
    if not isinstance(seconds, float | int) or not 0 <= seconds < math.inf:
        raise ValueError(f"the record's seconds are {seconds!r}")
    for which in ("best", "last"):
        _check_validation(step, which, record[which])


def _check_validation(step: int, which: str, validation: Any) -> None:
    """Raises ValueError unless it is a step so far with finite metrics, or None."""
    if validation is None:
        return
    complete = isinstance(validation, dict) and set(validation) == {"step", "valid"}
    if not complete or validation["step"] not in range(1, step + 1):
        raise ValueError(f"the record's {which} validation is {validation!r}")
    metrics = validation["valid"]
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ValueError(f"the record's {which} metrics are {metrics!r}")
    for value in metrics.values():
        if not isinstance(value, float | int) or not math.isfinite(value):
            raise ValueError(f"the record's {which} metrics are {metrics!r}")


def _digest(content: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_arrays(tree: Any) -> str:
    """SHA-256 of arrays, their names, types and shapes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} "
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()
