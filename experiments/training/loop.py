"""The training loop: config and workdir to a result, whatever the task."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.data import stand_in
from experiments.models import build as models
from experiments.runs import (
    curves,
    files,
    folder,
    identity,
    logs,
    progress,
    records,
    summary,
)
from experiments.tasks import base
from experiments.training import (
    assembly,
    checkpoints,
    evaluation,
    fields,
    optimizers,
    steps,
)


class NonFiniteLoss(Exception):
    """The loss or its gradient is no longer finite; the message names the step."""


def train(
    config: Any,
    workdir: str | pathlib.Path,
    on_validation: Callable[[int, dict[str, float]], None] | None = None,
) -> dict:
    """Trains what the config says and returns the content of result.json.

    A workdir that holds an unfinished run of the same config is taken up from its
    last checkpoint; on the CPU it ends bit for bit as if it had not stopped. One
    that holds a finished run is left as it is.

    Args:
      config: as `configs/common.py` gives it, with a task.
      workdir: folder of the run; made where there is none.
      on_validation: called with the step and the metrics of every validation that
        this session makes; what it raises ends the session.

    Returns:
      task, model, backend, seed, steps; num_params (stored numbers) and
      num_independent_params (free ones); wall_seconds (of all sessions up to the
      checkpoints they were taken up from: set-up, compilation, training and
      evaluation); metrics {"valid": {...}, "test": {...}} of the final parameters;
      best, the same for the step that was best on validation data, with that
      "step"; diagnostics of the final model; baseline; data, where it is stand-in.

    Raises:
      ValueError: a field or the data do not fit, or the workdir is not this run's.
      NonFiniteLoss: training diverged; the checkpoints before it are kept.
    """
    began = time.monotonic()
    workdir = pathlib.Path(workdir)

    # ---- Checks, before anything is written or compiled.
    fields.check(config)
    content = identity.to_dict(config)
    known = folder.check(workdir, content)
    finished = workdir / "result.json"
    if known and finished.exists():
        print(f"{workdir} holds the finished run of this config: nothing to do")
        return json.loads(finished.read_text())

    # ---- The data, the model and its state.
    parts = assembly.assemble(config)
    task, count, graph, state = parts.task, parts.steps, parts.graph, parts.state
    sizes = {
        "num_params": models.count_params(parts.model),
        "num_independent_params": models.count_independent_params(parts.model),
    }
    train_step = steps.make_train_step(graph, task, parts.optimizer, parts.dropout_key)
    eval_step = steps.make_eval_step(graph, task)
    observe = optimizers.make_observe(config.train)
    averaged = optimizers.make_averaged(config.train)
    diagnose = jax.jit(lambda *state: nnx.merge(graph, *state).diagnostics())

    # ---- What the workdir holds of this run.
    workdir.mkdir(parents=True, exist_ok=True)
    if not known:
        files.write_json(workdir / "config.json", identity.read_part(content))
    saved = checkpoints.Checkpoints(workdir / "checkpoints")
    best_params = jax.tree.map(jnp.copy, state.params)
    record: dict[str, Any] = {"best": None, "seconds": 0.0}
    restored = saved.restore(state, best_params)
    if restored is not None:
        state, best_params, record = restored
    start = int(state.step)
    seconds_before = record["seconds"]
    log = logs.MetricLog(workdir, start if known else None)
    print(summary.beginning(config, task, sizes, (count, parts.steps_per_epoch)))
    if start == 0:
        log.event(0, "started", **_description(config, task))
    if known:
        print(f"resumed from step {start} of {count}")
        log.event(start, "resumed_from", **_origin())
    per_step = task.units(config.train.batch_size)
    shown = progress.Progress(count, per_step, task.unit)
    if start < count:
        print("compiling the first step ...", flush=True)

    def seconds() -> float:
        return seconds_before + time.monotonic() - began

    def stop(step: int, what: str) -> NoReturn:
        log.event(
            step, "non_finite", what=what, loss=None, last_checkpoint=saved.latest()
        )
        raise NonFiniteLoss(_non_finite_message(step, what, saved))

    # ---- The loop. The host prepares the next batch while the device works; it
    # waits for the device only where something is logged, evaluated or saved.
    closing = contextlib.closing
    with closing(saved), closing(log), closing(shown):
        for step in range(start + 1, count + 1):
            state, numbers = train_step(state, task.train_batch(step - 1))
            if step == start + 1:
                jax.block_until_ready(state)  # compiled: the rate counts from here
                stopwatch = progress.Stopwatch(step)

            last = step == count
            log_now = last or step == 1 or step % config.train.log_every == 0
            eval_now = last or step % config.train.eval_every == 0
            save_now = last or step % config.train.checkpoint_every == 0
            if not (log_now or eval_now or save_now):
                continue

            bad_step = int(state.first_bad_step)
            if bad_step >= 0:
                stop(bad_step, "the loss or its gradient")

            if log_now:
                sums, norms = jax.device_get(numbers)
                rate = stopwatch.read(step)
                with stopwatch.paused():
                    diagnostics = jax.device_get(diagnose(state.params, state.rest))
                    values = task.metrics(sums) | norms | diagnostics
                    scale = optimizers.plateau_scale(state.opt_state)
                    values["learning_rate"] = parts.learning_rate(step - 1) * scale
                    values["seconds"] = seconds()
                    values[f"{task.unit}_per_second"] = rate and rate * per_step
                    log.write(step, "train", values)

            with stopwatch.paused():
                if eval_now:
                    evaluated = averaged(state)
                    metrics = evaluation.evaluate(eval_step, task, evaluated, "valid")
                    record["last"] = {"step": step, "valid": metrics}
                    log.write(step, "valid", metrics | {"seconds": seconds()})
                    if not all(map(math.isfinite, metrics.values())):
                        stop(step, "a validation metric")
                    shown.validation(task.primary, metrics[task.primary])
                    if evaluation.better(task, metrics, record["best"]):
                        record["best"] = {"step": step, "valid": metrics}
                        best_params = jax.tree.map(jnp.copy, evaluated.params)
                    opt_state = observe(state.opt_state, metrics["loss"])
                    state = state._replace(opt_state=opt_state)
                    if on_validation is not None:
                        on_validation(step, metrics)
                if save_now:
                    record["seconds"] = seconds()
                    saved.save(step, state, best_params, record)
            if log_now:
                shown.show(step, values["loss"], rate)

        # ---- The end: the test split, once for the final and once for the best.
        evaluated = averaged(state)
        metrics, best = evaluation.final_metrics(
            eval_step, task, evaluated, best_params, record
        )
        diagnostics = jax.device_get(diagnose(evaluated.params, state.rest))
        result = {
            "task": task.name,
            "model": config.model.name,
            "backend": jax.default_backend(),
            "seed": config.seed,
            **sizes,
            "steps": count,
            "wall_seconds": seconds(),
            "metrics": metrics,
            "best": best,
            "diagnostics": evaluation.storable(diagnostics),
            "baseline": task.baseline,
        }
        if summary.stands_in(config, task):
            result["data"] = stand_in.NAME
        log.event(count, "finished")
        curves.learning_curve(workdir / "metrics.jsonl", workdir / "learning_curve.png")
        files.write_json(finished, result)
    print(summary.text(result, workdir))
    return result


def _description(config: Any, task: base.Task) -> dict[str, Any]:
    """What figures and records need to know besides the curves."""
    return {
        "task": task.name,
        "model": config.model.name,
        "primary": task.primary,
        "baseline": task.baseline,
        **_origin(),
    }


def _origin() -> dict[str, Any]:
    """Which code runs, and on what."""
    return {"revision": records.revision(), "machine": records.machine()}


def _non_finite_message(step: int, what: str, saved: checkpoints.Checkpoints) -> str:
    latest = saved.latest()
    kept = "there is no checkpoint before it"
    if latest is not None:
        kept = f"the last finite checkpoint is of step {latest} in {saved.directory}"
    return (
        f"{what} is not finite at step {step}; {kept}. The run is the same when it is"
        " repeated: try a smaller config.train.learning_rate in a new workdir"
    )
