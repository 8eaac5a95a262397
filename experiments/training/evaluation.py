"""Metrics of whole splits, and which step is the best."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.runs import logs
from experiments.tasks import base
from experiments.training import devices, exchange, steps


def evaluate(
    eval_step: Callable,
    task: base.Task,
    state: steps.TrainState,
    split: str,
    spread: devices.Spread = devices.ONE,
    batches: int | None = None,
) -> dict[str, float]:
    """The task's metrics over a split, summed in float64 and divided once.

    `batches` leaves all but the first so many; None takes the whole split.

    A stateful task's batches may differ in size from those of training; its state
    goes from zeros through the split, apart from `state.carry`. The parameters may lie
    on more devices than those of `spread`, see `devices.Spread.narrowed`.
    """
    params, rest = spread.held((state.params, state.rest))
    some = itertools.islice(task.eval_batches(split), batches)
    going = go_through(eval_step, task, some, params, rest, state.carry, spread)
    own = total(spread.read([sums for _, sums in going]))
    return task.metrics(exchange.added(own))


def batch_size(task: base.Task) -> int:
    """The examples of a batch of an evaluation."""
    return len(next(iter(task.eval_batches("valid")))["inputs"])


def go_through(
    eval_step: Callable,
    task: base.Task,
    batches: Iterable[base.Batch],
    params: Any,
    rest: Any,
    carry: Any,
    spread: devices.Spread = devices.ONE,
) -> Iterator[tuple[base.Batch, Any]]:
    """(batch, what the step reads of it) over batches of equal shape.

    A batch that the devices do not divide is filled up with examples of weight zero.

    Args:
      carry: of any batch size; only what is in it of shapes and types counts.
    """
    sized = None
    for batch in batches:
        base.check_lengths(task, batch)
        batch = _filled(batch, spread.count)
        if sized is None:
            sized = spread.split(_zeros(carry, len(batch["inputs"])))
        result, sized = eval_step(params, rest, sized, spread.split(batch))
        yield batch, result


def _zeros(carry: Any, size: int) -> Any:
    """Carries of zeros for a batch of that size."""
    return jax.tree.map(lambda h: np.zeros((size, *h.shape[1:]), h.dtype), carry)


def _filled(batch: base.Batch, divisor: int) -> base.Batch:
    """The batch with as many examples of weight zero behind it as the divisor wants."""
    count = len(batch["inputs"])
    missing = -count % divisor
    if not missing:
        return batch
    rows = np.minimum(np.arange(count + missing), count - 1)
    filled = {
        name: array[rows] if array.ndim else array for name, array in batch.items()
    }
    filled["weights"][count:] = 0
    return filled


def total(sums: list[base.Sums]) -> dict[str, Any]:
    """The sums of batches, on the host, added up in float64."""
    return {
        name: np.sum([of_batch[name] for of_batch in sums], dtype=np.float64)
        for name in sums[0]
    }


def final_metrics(
    eval_step: Callable,
    task: base.Task,
    state: steps.TrainState,
    best_params: Any,
    record: dict,
    spread: devices.Spread = devices.ONE,
    batches: int | None = None,
) -> tuple[dict, dict]:
    """Metrics of both splits for the final and for the best parameters.

    Nothing is evaluated twice: the last validation was that of the final parameters.

    Args:
      record: {"step", "valid"} of the "best" and of the "last" validation; older
        checkpoints lack the last one.
      batches: of validation data, see `evaluate`.

    Returns:
      {"valid", "test"} of the final parameters; {"step", "valid", "test"} of the
      best.
    """
    best = record["best"]
    valid = None
    for validation in (best, record.get("last")):
        if validation is not None and validation["step"] == int(state.step):
            valid = validation["valid"]
    if valid is None:
        valid = evaluate(eval_step, task, state, "valid", spread, batches)
    test = evaluate(eval_step, task, state, "test", spread)
    final = {"valid": storable(valid), "test": storable(test)}
    if best["step"] == int(state.step):
        return final, {"step": best["step"], **final}
    at_best = state._replace(params=best_params)
    test = evaluate(eval_step, task, at_best, "test", spread)
    return final, {**best, "test": storable(test)}


def better(task: base.Task, metrics: dict, best: dict | None) -> bool:
    """Whether metrics are better than the best so far, or as good and later.

    By the task's primary metric, and where that is the same by the loss: a small split
    has few accuracies, and the earliest of equal ones is the worst trained.
    """
    return best is None or _rank(task, metrics) <= _rank(task, best["valid"])


def improves(task: base.Task, metrics: dict, best: dict | None) -> bool:
    """Whether metrics are better than the best so far; as good and later is not."""
    return best is None or _rank(task, metrics) < _rank(task, best["valid"])


def _rank(task: base.Task, metrics: dict) -> tuple[float, float]:
    """The lower the better."""
    primary = metrics[task.primary]
    return -primary if task.higher_is_better else primary, metrics["loss"]


def storable(metrics: dict) -> dict:
    """Metrics as JSON takes them: None for what is not finite."""
    return {name: logs.finite(value) for name, value in metrics.items()}
