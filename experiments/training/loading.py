"""From the workdir of a run to its model, while it goes on or after its end."""

import pathlib
from typing import Any, NamedTuple

from flax import nnx

from experiments.runs import config_file as config_files
from experiments.runs import files, fitted, identity
from experiments.tasks import base
from experiments.training import assembly, checkpoints, devices, fields, optimizers
from svdrnn import checks

WHICH = ("best", "last")


class Loaded(NamedTuple):
    """A run's model, its task with the data, its config, and the model's step."""

    model: Any
    task: base.Task
    config: Any
    step: int


def load(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    data_dir: str | None = None,
    config_file: str | None = None,
) -> Loaded:
    """See `experiments.load`; nothing is written."""
    checks.check_name("which", which, WHICH)
    workdir = pathlib.Path(workdir).expanduser()
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"workdir must hold a run, got {workdir}: no config.json")
    stored = files.read_object(path)
    config_files.register(workdir, stored, config_file)
    config = identity.to_config(stored, str(path))
    if data_dir is not None:
        if "data_dir" in identity.unread(identity.to_dict(config)):
            raise ValueError(
                "data_dir must be left out with config.task.name"
                f" {config.task.name!r}, which does not read it, got {data_dir!r}"
            )
        config.data_dir = data_dir
    devices.start(config.train.devices)  # or training after it would have one
    fields.check(config)
    parts = assembly.assemble(config, one_device=True)
    fitted.check(workdir, parts.task.fitted())
    restored = None
    if (workdir / "checkpoints").is_dir():
        saved = checkpoints.Checkpoints(workdir / "checkpoints", read_only=True)
        restored = saved.restore(parts.state, parts.state.params)
        saved.close()
    if restored is None:
        raise ValueError(f"workdir must hold a checkpoint, got {workdir}: none yet")
    state, params, record = restored
    step = int(state.step)
    if which == "last":
        params = optimizers.make_averaged(config.train)(state).params
    elif record["best"] is None:
        raise ValueError("which must be 'last' before a first validation, got 'best'")
    else:
        step = record["best"]["step"]
    model = nnx.merge(parts.graph, params, state.rest)
    return Loaded(model, parts.task, config, step)
