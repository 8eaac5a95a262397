"""Checkpoints of a run: complete or absent, the newest two of them."""

import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

KEPT = 2
ITEMS = ("state", "best_params", "record")


class Checkpoints:
    """Saves and restores (state, best parameters, record) under a folder.

    The record is a small JSON object. Saving is synchronous: the arrays are few,
    and their buffers are donated to the next step. A folder appears under its
    step's name only when it is complete. `read_only` leaves the folder as it is: a
    run may be writing there.
    """

    def __init__(self, directory: str | pathlib.Path, *, read_only: bool = False):
        self.directory = pathlib.Path(directory).absolute()
        self._read_only = read_only
        if not read_only:
            _remove_unfinished(self.directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else KEPT,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
            ),
        )

    def save(self, step: int, state: Any, best_params: Any, record: dict) -> None:
        """Saves a checkpoint unless the step has one."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                best_params=ocp.args.StandardSave(best_params),
                record=ocp.args.JsonSave(record),
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, state: Any, best_params: Any) -> tuple[Any, Any, dict] | None:
        """The newest readable checkpoint, or None where there is none at all.

        A damaged one is passed over for the one before it, and removed unless this is
        `read_only`.

        Args:
          state: a train state with the structure, shapes and types to restore.
          best_params: parameters, likewise.

        Raises:
          ValueError: there are checkpoints, but none can be read.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(state)),
            best_params=ocp.args.StandardRestore(_abstract(best_params)),
            record=ocp.args.JsonRestore(),
        )
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._manager.restore(step, args=args)
            except Exception as error:  # orbax raises many kinds for a damaged one
                logging.warning("checkpoint %d cannot be read: %s", step, error)
                damaged[step] = error
                continue
            for other in [] if self._read_only else damaged:
                self._manager.delete(other)
            return found.state, found.best_params, found.record
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


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _remove_unfinished(directory: pathlib.Path) -> None:
    """Removes folders named like a step that lack an item of a checkpoint."""
    for folder in directory.glob("*"):
        complete = all((folder / item).exists() for item in ITEMS)
        if folder.name.isdigit() and folder.is_dir() and not complete:
            logging.warning("removing the unfinished checkpoint %s", folder)
            shutil.rmtree(folder)
