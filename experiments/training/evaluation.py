"""Metrics of whole splits, and which step is the best."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import logs
from experiments.tasks import base
from experiments.training import steps


def evaluate(
    eval_step: Callable, task: base.Task, state: steps.TrainState, split: str
) -> dict[str, float]:
    """The task's metrics over a whole split, summed in float64 and divided once.

    A stateful task's batches may differ in size from those of training; its state
    goes from zeros through the split, apart from `state.carry`.
    """
    going = go_through(eval_step, task, split, state.params, state.rest, state.carry)
    return task.metrics(total([sums for _, sums in going]))


def go_through(
    eval_step: Callable, task: base.Task, split: str, params: Any, rest: Any, carry: Any
) -> Iterator[tuple[base.Batch, Any]]:
    """(batch, what the step reads of it) over a split.

    Args:
      carry: of any batch size; only what is in it of shapes and types counts.
    """
    sized = None
    for batch in task.eval_batches(split):
        if sized is None:
            size = len(batch["inputs"])
            sized = jax.tree.map(
                lambda h, size=size: jnp.zeros((size, *h.shape[1:]), h.dtype), carry
            )
        result, sized = eval_step(params, rest, sized, batch)
        yield batch, result


def total(sums: list[base.Sums]) -> dict[str, Any]:
    """The sums of batches added up in float64."""
    found = jax.device_get(sums)
    return {
        name: np.sum([each[name] for each in found], dtype=np.float64)
        for name in found[0]
    }


def final_metrics(
    eval_step: Callable,
    task: base.Task,
    state: steps.TrainState,
    best_params: Any,
    record: dict,
) -> tuple[dict, dict]:
    """Metrics of both splits for the final and for the best parameters.

    Nothing is evaluated twice: the last validation was that of the final parameters.

    Args:
      record: {"step", "valid"} of the "best" and of the "last" validation; older
        checkpoints lack the last one.

    Returns:
      {"valid", "test"} of the final parameters; {"step", "valid", "test"} of the
      best.
    """
    best = record["best"]
    found = [each for each in (record.get("last"), best) if each is not None]
    known = [each["valid"] for each in found if each["step"] == int(state.step)]
    valid = known[0] if known else evaluate(eval_step, task, state, "valid")
    test = evaluate(eval_step, task, state, "test")
    final = {"valid": storable(valid), "test": storable(test)}
    if best["step"] == int(state.step):
        return final, {"step": best["step"], **final}
    at_best = state._replace(params=best_params)
    test = evaluate(eval_step, task, at_best, "test")
    return final, {**best, "test": storable(test)}


def better(task: base.Task, metrics: dict, best: dict | None) -> bool:
    """Whether metrics beat the best so far; a tie does not."""
    if best is None:
        return True
    new, old = metrics[task.primary], best["valid"][task.primary]
    return new > old if task.higher_is_better else new < old


def storable(metrics: dict) -> dict:
    """Metrics as JSON takes them: None for what is not finite."""
    return {name: logs.finite(value) for name, value in metrics.items()}
