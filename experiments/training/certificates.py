"""The certificate of generalization of a finished run, from its training split."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import config_dict

from configs import common
from experiments import tasks
from experiments.models import build as models
from experiments.runs import files
from experiments.tasks import mnist
from experiments.training import checkpoints, fields, optimizers, steps
from svdrnn import certification

NAME = "certificate.json"


def of_run(
    workdir: str | pathlib.Path, *, delta: float = 0.05, data_dir: str | None = None
) -> dict[str, Any]:
    """Computes the certificate of a run's final parameters and writes it beside them.

    It takes the training split alone; the test error is the one that the run measured.

    Args:
      workdir: folder of a finished run.
      delta: the probability with which the bound may fail.
      data_dir: folder of the data, where it is not the run's.

    Returns:
      The fields of `svdrnn.generalization.Certificate`; `inputs_bound`; `test_error`.

    Raises:
      ValueError: the workdir holds no finished run, or none that there is a bound for.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "result.json").exists():
        raise ValueError(f"{workdir} holds no finished run: there is no result.json")
    config = common.get_config()
    config.update(config_dict.ConfigDict(files.read_json(workdir / "config.json")))
    if data_dir is not None:
        config.data_dir = data_dir
    task = tasks.build(config)
    if not isinstance(task, mnist.MNIST) or task.inputs_bound is None:
        raise ValueError(
            "config.task.name must be a task of classes whose inputs have a bound, got"
            f" {task.name!r}"
        )
    model = final_model(config, task, workdir)
    if len(model.layers) != 1:
        raise ValueError(f"config.model.layers must be 1, got {config.model.layers}")
    inputs, labels = task.examples("train")
    found = certification.certify(
        model.layers[0],
        model.readout,
        inputs,
        labels,
        inputs_bound=task.inputs_bound,
        delta=delta,
    )
    result = json.loads((workdir / "result.json").read_text())
    values = {
        **dataclasses.asdict(found),
        "inputs_bound": task.inputs_bound,
        "test_error": 1 - result["metrics"]["test"]["accuracy"],
    }
    files.write_json(workdir / NAME, values)
    return values


def final_model(config: Any, task: Any, workdir: pathlib.Path) -> Any:
    """The model of a run with the parameters of its newest checkpoint."""
    model = models.build(config.model, task, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    per_epoch = fields.resolve_epoch(config.train, task)
    optimizer, _ = optimizers.build(
        config.train,
        steps=fields.resolve_steps(config.train, per_epoch),
        steps_per_epoch=per_epoch,
    )
    state = steps.initial_state(
        nnx.to_pure_dict(params), nnx.to_pure_dict(rest), optimizer
    )
    saved = checkpoints.Checkpoints(workdir / "checkpoints")
    try:
        found = saved.restore(state, jax.tree.map(jnp.copy, state.params))
    finally:
        saved.close()
    if found is None:
        raise ValueError(f"{workdir} holds no checkpoint")
    return nnx.merge(graph, found[0].params, found[0].rest)


def text(values: dict[str, Any], workdir: str | pathlib.Path) -> str:
    """The certificate in a few lines."""
    sure = 1 - values["delta"]
    return "\n".join(
        [
            f"{workdir}: error at most {values['bound']:.4f} with probability"
            f" {sure:g} over the {values['examples']:,} training examples",
            f"  measured: training error {values['training_error']:.4f}, test error"
            f" {values['test_error']:.4f}",
            f"  ramp loss {values['ramp_loss']:.4f} at margin {values['gamma']:.3g};"
            f" inputs at most {values['inputs_bound']:.3g} long, an assumption",
            f"  {values['dimensions']:,} parameters, ln N {values['log_cover']:,.0f} at"
            f" eta {values['eta']:.2g} (slack {values['slack']:.2g}), choices"
            f" {values['log_choices']:.1f}",
            "  norms at most "
            + ", ".join(f"{name} {v:.3g}" for name, v in values["norms"].items()),
        ]
    )
