"""What a model answers on a whole split or file, beside what it should."""

import itertools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.tasks import base
from experiments.training import evaluation, steps

Answers = tuple[dict[str, np.ndarray], dict[str, float]]


def predict(model: Any, task: base.Task, split: str) -> Answers:
    """The task's `predictions` of a whole split, and its metrics.

    Returns:
      Arrays with an entry an example, or a token of a text or a step where those have
      weights, in the order of the split and without padding; the metrics of the split,
      as a run's result has them.
    """
    return _answers(model, task, task.eval_batches(split), scored=True)


def predict_file(model: Any, task: base.Task, path: str | pathlib.Path) -> Answers:
    """As `predict`, of new items in a file, see `base.Task.file_batches`.

    Returns:
      The same; no metrics where the file has no targets.

    Raises:
      ValueError: the file does not fit, or the task takes none.
    """
    batches = iter(task.file_batches(pathlib.Path(path)))
    first = next(batches)
    scored = "targets" in first
    try:
        return _answers(model, task, itertools.chain([first], batches), scored=scored)
    except ValueError as error:  # of the model, which not every number of steps fits
        raise ValueError(f"--input {path}: {error}") from error


def _answers(
    model: Any, task: base.Task, batches: Iterable[base.Batch], *, scored: bool
) -> Answers:
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    step = make_step(graph, task, scored)
    carry = model.initialize_carry(1) if task.stateful else None
    sums, predictions = [], []
    going = evaluation.go_through(step, task, batches, params, rest, carry)
    for batch, result in going:
        sums.append(result[0])
        present = np.asarray(base.weights(batch)) > 0
        predictions.append((present, jax.device_get(result[1])))
    # Windows of streams follow each other in time, other batches example by example.
    axis = predictions[0][0].ndim - 1 if task.stateful else 0
    present = np.concatenate([present for present, _ in predictions], axis)
    joined = {}
    for name in predictions[0][1]:
        arrays = [np.asarray(arrays[name]) for _, arrays in predictions]
        joined[name] = np.concatenate(arrays, axis)[present]
    total = evaluation.total(jax.device_get(sums))
    return joined, task.metrics(total) if scored else {}


def make_step(graph: Any, task: base.Task, scored: bool = True) -> Callable:
    """The step of a prediction, jitted; see `steps.make_eval_step`.

    Without `scored` the batches have no targets, and there are no sums.
    """

    def read(outputs: jax.Array, batch: base.Batch) -> Any:
        sums = task.sums(outputs, batch) if scored else {}
        return sums, task.predictions(outputs, batch)

    return steps.make_eval_step(graph, task, read)
