"""The certificates of generalization of a finished run, from its training split."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

import svdrnn
from experiments.models import recurrent
from experiments.runs import files, folder, identity
from experiments.tasks import mnist
from experiments.training import loading
from svdrnn import certificate

NAME = "certificate.json"
ROUNDED = "certificate_rounded.json"

_BATCH = 1000


def of_run(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    delta: float = 0.05,
    models: int = 1,
    data_dir: str | None = None,
    config_file: str | None = None,
) -> dict[str, Any]:
    """Computes the certificate of a finished run and writes it into the workdir.

    It takes the training split alone; the test error is the one that the run measured.

    Args:
      workdir: folder of the run.
      which: "best" on validation data, or "last": the final parameters.
      delta: the probability with which the bound may fail.
      models: of how many models this one was chosen.
      data_dir: where the data are, if not at the place that the config names.
      config_file: see `experiments.load`.

    Returns:
      The fields of `svdrnn.certificate.Certificate`; `inputs_bound`, `test_error`,
      `which` and `step` of the parameters.

    Raises:
      ValueError: the workdir holds no finished run, or none that there is a bound for.
    """
    workdir, run = _finished(workdir, which, data_dir, config_file)
    model, task, config, step = run
    if not isinstance(task, mnist.MNIST) or task.inputs_bound is None:
        raise ValueError(
            "config.task.name must be a task whose inputs have a bound, got"
            f" {task.name!r}"
        )
    assert isinstance(model, recurrent.SequenceModel)  # the inputs have a time axis
    for field, value in (
        *(("layers", 1), ("residual", False)),
        *(("bidirectional", False), ("pool", "last")),
    ):
        if config.model[field] != value:
            raise ValueError(
                f"config.model.{field} must be {value}, got {config.model[field]}"
            )
    readout: Any = model.readout
    inputs, labels = task.examples("train")
    bound = certificate.certify(
        model.layers[0],
        readout,
        inputs,
        labels,
        inputs_bound=task.inputs_bound,
        delta=delta,
        models=models,
        readout_activation=model.readout_activation,
    )
    result = folder.result(workdir, identity.to_dict(config)) or {}
    measured = result["metrics" if which == "last" else "best"]["test"]
    if measured.get("accuracy") is None:
        raise ValueError(
            f"{workdir / 'result.json'} must have a test accuracy, got {measured}"
        )
    values = {
        **dataclasses.asdict(bound),
        "inputs_bound": task.inputs_bound,
        "test_error": 1 - measured["accuracy"],
        "which": which,
        "step": step,
    }
    files.write_json(workdir / NAME, values)
    return values


def of_rounded_run(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    delta: float = 0.05,
    models: int = 1,
    data_dir: str | None = None,
    config_file: str | None = None,
) -> dict[str, Any]:
    """The certificate of a finished run's model, rounded to few bits, and its errors.

    It takes the training split alone to round and to bound; then the test error of the
    rounded model is measured. Writes all into the workdir.

    Args:
      workdir, which, delta, models, data_dir, config_file: see `of_run`.

    Returns:
      The fields of `svdrnn.certificate.RoundedCertificate`, `bits` of all parameters
      together; `test_error`, `which` and `step` of the parameters.

    Raises:
      ValueError: the workdir holds no finished run, or its task has no classes.
    """
    workdir, run = _finished(workdir, which, data_dir, config_file)

    def logits(model: Any, inputs: Any) -> Any:
        return svdrnn.bake(model)(inputs)[0]

    task: Any = run.task
    inputs, labels = task.examples("train")
    bound, rounded = certificate.certify_rounded(
        run.model, inputs, labels, logits=logits, delta=delta, models=models
    )
    inputs, labels = task.examples("test")
    wrong = [
        np.argmax(logits(rounded, inputs[at : at + _BATCH]), -1)
        != labels[at : at + _BATCH]
        for at in range(0, len(inputs), _BATCH)
    ]
    values = {
        **dataclasses.asdict(bound),
        "bits": bound.bits,
        "test_error": float(np.mean(np.concatenate(wrong))),
        "which": which,
        "step": run.step,
    }
    files.write_json(workdir / ROUNDED, values)
    return values


def _finished(
    workdir: str | pathlib.Path,
    which: str,
    data_dir: str | None,
    config_file: str | None,
) -> tuple[pathlib.Path, loading.Loaded]:
    """The folder of a finished run of a task of classes, and what it holds."""
    workdir = pathlib.Path(workdir).expanduser()
    if not (workdir / "result.json").exists():
        raise ValueError(f"workdir must hold a finished run, got {workdir}")
    run = loading.load(workdir, which, data_dir=data_dir, config_file=config_file)
    if not isinstance(run.task, mnist.MNIST) or "lengths" in run.task.train_batch(0):
        raise ValueError(
            "config.task.name must be a task of classes whose inputs have a bound and"
            f" one length, got {run.task.name!r}"
        )
    return workdir, run


def text(values: dict[str, Any], workdir: str | pathlib.Path) -> str:
    """The certificate in a few lines."""
    bound = f"{values['bound']:.4f} with probability {1 - values['delta']:g}"
    return "\n".join(
        [
            f"{workdir}, step {values['step']}: error at most {bound} over the"
            f" {values['examples']:,} training examples",
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


def rounded_text(values: dict[str, Any], workdir: str | pathlib.Path) -> str:
    """The certificate of a rounded model in a few lines."""
    bound = f"{values['bound']:.4f} with probability {1 - values['delta']:g}"
    return "\n".join(
        [
            f"{workdir}, step {values['step']}, rounded to {values['bits']:,} bits:"
            f" error at most {bound} over the {values['examples']:,} training examples",
            f"  measured, rounded: training error {values['training_error']:.4f}, test"
            f" error {values['test_error']:.4f}",
            f"  ln N {values['log_count']:,.0f}, choices {values['log_choices']:.1f}",
            "  bits "
            + ", ".join(f"{name} {g['bits']}" for name, g in values["grids"].items()),
        ]
    )
