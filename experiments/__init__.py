"""Experiments: what is trained, how, and what of it is kept and drawn.

Folders stand in the order of the data's way: `data` and `tasks`, `models`, `training`,
`runs`, and above them the commands `sweep`, `reproduce` and `benchmark`.
"""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiments.tasks import base


class Run(NamedTuple):
    """What `load` gives."""

    model: Any
    task: "base.Task"
    config: Any


def load(
    workdir: str | pathlib.Path, which: str = "best", *, data_dir: str | None = None
) -> Run:
    """The model, the task with its data, and the config of a run, finished or not.

        model, task, config = experiments.load("runs/addition")
        batch = next(task.eval_batches("test"))
        outputs, carry = model(batch["inputs"])

    Nothing is written, and the run may be going on. A config of an older version has
    the defaults in fields that came since. A task or a model of one's own has to be
    registered before.

    Args:
      workdir: folder of the run.
      which: "best" on validation data so far, or "last": of the newest checkpoint.
      data_dir: where the data are, if not at the place that the config names.

    Raises:
      ValueError: `workdir` holds no checkpoint of a run that this version can read, the
        data do not fit, or there was no validation to find the best by.
    """
    from experiments.training import loading  # with JAX

    return Run(*loading.load(workdir, which, data_dir=data_dir)[:3])
