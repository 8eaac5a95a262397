"""What a model answers on a whole split, beside what it should."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.tasks import base
from experiments.training import evaluation, steps


def predict(
    model: Any, task: base.Task, split: str
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The task's `predictions` of a whole split, and its metrics.

    Returns:
      Arrays with an entry an example, or a token of a text or a step where those have
      weights, in the order of the split and without padding; the metrics of the split,
      as a run's result has them.
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    step = make_step(graph, task)
    carry = model.initialize_carry(1) if task.stateful else None
    sums, predictions = [], []
    for batch, result in evaluation.go_through(step, task, split, params, rest, carry):
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
    return joined, task.metrics(evaluation.total(jax.device_get(sums)))


def make_step(graph: Any, task: base.Task) -> Callable:
    """The step of a prediction, jitted; see `steps.make_eval_step`."""

    def read(outputs: jax.Array, batch: base.Batch) -> Any:
        return task.sums(outputs, batch), task.predictions(outputs, batch)

    return steps.make_eval_step(graph, task, read)
