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
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    data_dir: str | None = None,
    config_file: str | None = None,
) -> Run:
    """The model, the task with its data, and the config of a run, finished or not.

        model, task, config = experiments.load("runs/addition")
        batch = next(task.eval_batches("test"))
        outputs, carry = model(batch["inputs"])

    Nothing is written, and the run may be going on. A config of an older version has
    the defaults in fields that came since. A task or a model of one's own is registered
    by the config file of the run, which is imported, unless it was registered before.

    Args:
      workdir: folder of the run.
      which: "best" on validation data so far, or "last": of the newest checkpoint.
      data_dir: where the data are, if not at the place that the config names.
      config_file: that of the run, with `:argument` where it has one, if it registers a
        task or a model and is not where it was.

    Raises:
      ValueError: `workdir` holds no checkpoint of a run that this version can read, the
        data do not fit, there was no validation to find the best by, or the file that
        registers the run's own task or model is gone.
    """
    from experiments.training import loading  # with JAX

    loaded = loading.load(workdir, which, data_dir=data_dir, config_file=config_file)
    return Run(*loaded[:3])
