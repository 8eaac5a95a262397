"""The training loop: config and workdir to a result, whatever the task."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import (
    checkpoints,
    configuration,
    figures,
    logs,
    models,
    optimizers,
    records,
    tasks,
)


class NonFiniteLoss(Exception):
    """The loss or its gradient is no longer finite; the message names the step."""


class TrainState(NamedTuple):
    """All that changes from step to step, as a pytree.

    Nothing random is kept: the batch and the dropout key of a step are functions
    of (seed, step).
    """

    params: Any
    opt_state: Any
    step: jax.Array  # updates done
    carry: Any  # hidden state between the batches of a stateful task, else None
    rest: Any  # what the model keeps besides parameters
    first_bad_step: jax.Array  # -1 while losses are finite; then nothing changes


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
      "step"; diagnostics of the final model; baseline.

    Raises:
      ValueError: a field or the data do not fit, or the workdir is not this run's.
      NonFiniteLoss: training diverged; the checkpoints before it are kept.
    """
    began = time.monotonic()
    workdir = pathlib.Path(workdir)

    # ---- Checks, before anything is written or compiled.
    configuration.validate(config)
    identity = configuration.to_dict(config)
    known = configuration.check_workdir(workdir, identity)
    finished = workdir / "result.json"
    if known and finished.exists():
        print(f"{workdir} holds the finished run of this config: nothing to do")
        return json.loads(finished.read_text())
    task = tasks.build(config)
    steps_per_epoch = configuration.resolve_epoch(config.train, task)
    steps = configuration.resolve_steps(config.train, steps_per_epoch)
    optimizer, learning_rate = optimizers.build(
        config.train, steps=steps, steps_per_epoch=steps_per_epoch
    )

    # ---- The model and its state.
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    model = models.build(config.model, task, rngs=nnx.Rngs(params=init_key))
    counts = {
        "num_params": models.count_params(model),
        "num_independent_params": models.count_independent_params(model),
    }
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    state = initial_state(
        nnx.to_pure_dict(params),
        nnx.to_pure_dict(rest),
        optimizer,
        model.initialize_carry(config.train.batch_size) if task.stateful else None,
    )
    train_step = make_train_step(graph, task, optimizer, dropout_key)
    eval_step = make_eval_step(graph, task)
    observe = optimizers.make_observe(config.train)
    diagnose = jax.jit(lambda *state: nnx.merge(graph, *state).diagnostics())

    # ---- What the workdir holds of this run.
    workdir.mkdir(parents=True, exist_ok=True)
    if not known:
        logs.write_json(workdir / "config.json", identity)
    saved = checkpoints.Checkpoints(workdir / "checkpoints")
    best_params = jax.tree.map(jnp.copy, state.params)
    record = {"best": None, "seconds": 0.0}
    restored = saved.restore(state, best_params)
    if restored is not None:
        state, best_params, record = restored
    start = int(state.step)
    seconds_before = record["seconds"]
    log = logs.MetricLog(workdir, start if known else None)
    if start == 0:
        log.event(0, "started", **_description(config, task))
    if known:
        print(f"resumed from step {start} of {steps}")
        log.event(start, "resumed_from", **_origin())
    progress = logs.Progress(steps, config.train.batch_size)

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
    with closing(saved), closing(log), closing(progress):
        for step in range(start + 1, steps + 1):
            state, numbers = train_step(state, task.train_batch(step - 1))
            if step == start + 1:
                jax.block_until_ready(state)  # compiled: the rate counts from here
                stopwatch = logs.Stopwatch(step)

            last = step == steps
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
                    values["learning_rate"] = learning_rate(step - 1) * scale
                    values["seconds"] = seconds()
                    values["examples_per_second"] = (
                        rate and rate * config.train.batch_size
                    )
                    log.write(step, "train", values)

            with stopwatch.paused():
                if eval_now:
                    metrics = evaluate(eval_step, task, state, "valid")
                    log.write(step, "valid", metrics | {"seconds": seconds()})
                    if not all(map(math.isfinite, metrics.values())):
                        stop(step, "a validation metric")
                    progress.validation(task.primary, metrics[task.primary])
                    if _better(task, metrics, record["best"]):
                        record["best"] = {"step": step, "valid": metrics}
                        best_params = jax.tree.map(jnp.copy, state.params)
                    opt_state = observe(state.opt_state, metrics["loss"])
                    state = state._replace(opt_state=opt_state)
                    if on_validation is not None:
                        on_validation(step, metrics)
                if save_now:
                    record["seconds"] = seconds()
                    saved.save(step, state, best_params, record)
            if log_now:
                progress.show(step, values["loss"], rate)

        # ---- The end: the test split, once for the final and once for the best.
        metrics, best = final_metrics(
            eval_step, task, state, best_params, record["best"]
        )
        diagnostics = jax.device_get(diagnose(state.params, state.rest))
        result = {
            "task": task.name,
            "model": config.model.name,
            "backend": jax.default_backend(),
            "seed": config.seed,
            **counts,
            "steps": steps,
            "wall_seconds": seconds(),
            "metrics": metrics,
            "best": best,
            "diagnostics": _storable(diagnostics),
            "baseline": task.baseline,
        }
        log.event(steps, "finished")
        figures.learning_curve(
            workdir / "metrics.jsonl", workdir / "learning_curve.png"
        )
        logs.write_json(finished, result)
    print(summary(result, workdir))
    return result


def initial_state(params, rest, optimizer, carry=None) -> TrainState:
    """The state before the first update; `params` and `rest` are pure dicts."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        carry=carry,
        rest=rest,
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def make_train_step(graph, task, optimizer, dropout_key):
    """One update, jitted: (state, batch) -> (state, (sums, norms)).

    The state's buffers are donated. `grad_norm` is taken before clipping;
    `carry_grad_norm` is ||dL/dh_0||, of the mean loss with respect to the first
    hidden state of the batch in every layer (of an LSTM also its cell), the
    "first-layer gradient" of the paper's figures; a feed-forward model has none. Once
    a loss or gradient is not finite its step is noted and the state stays as it was.
    """

    def loss_and_sums(params, carry, state, batch):
        model = nnx.merge(graph, params, state.rest)
        key = jax.random.fold_in(dropout_key, state.step)
        outputs, carry = model(batch["inputs"], carry, key=key)
        sums = task.sums(outputs, batch)
        rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        carry = carry if task.stateful else None
        return sums["loss"] / sums["count"], (sums, carry, rest)

    def first_carry(state, batch):
        if task.stateful:
            return reset(state.carry, batch)
        model = nnx.merge(graph, state.params, state.rest)
        return model.initialize_carry(len(batch["inputs"]))

    def train_step(state, batch):
        gradient = jax.value_and_grad(loss_and_sums, argnums=(0, 1), has_aux=True)
        (loss, (sums, carry, rest)), (grads, carry_grads) = gradient(
            state.params, first_carry(state, batch), state, batch
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        if jax.tree.leaves(carry_grads):
            norms["carry_grad_norm"] = optax.tree.norm(carry_grads)
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            step=state.step + 1,
            carry=carry,
            rest=rest,
            first_bad_step=state.first_bad_step,
        )
        healthy = state.first_bad_step < 0
        finite = jnp.isfinite(loss) & jnp.isfinite(norms["grad_norm"])
        old = state._replace(
            first_bad_step=jnp.where(healthy, state.step + 1, state.first_bad_step)
        )
        kept = jax.tree.map(lambda a, b: jnp.where(healthy & finite, a, b), new, old)
        return kept, (sums, norms)

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(graph, task):
    """Sums over one batch, jitted: (params, rest, carry, batch) -> (sums, carry)."""

    @jax.jit
    def eval_step(params, rest, carry, batch):
        model = nnx.merge(graph, params, rest)
        outputs, carry = model(batch["inputs"], reset(carry, batch))
        return task.sums(outputs, batch), carry if task.stateful else None

    return eval_step


def reset(carry, batch):
    """The carry, or zeros where the batch says so; None where there is no carry."""
    return jax.tree.map(lambda h: jnp.where(batch["reset"], 0, h), carry)


def evaluate(eval_step, task, state: TrainState, split: str) -> dict[str, float]:
    """The task's metrics over a whole split, summed in float64 and divided once.

    A stateful task's batches may differ in size from those of training; its state
    goes from zeros through the split, apart from `state.carry`.
    """
    carry = None
    found = []
    for batch in task.eval_batches(split):
        if carry is None:
            size = len(batch["inputs"])
            carry = jax.tree.map(
                lambda h, size=size: jnp.zeros((size, *h.shape[1:]), h.dtype),
                state.carry,
            )
        sums, carry = eval_step(state.params, state.rest, carry, batch)
        found.append(sums)
    found = jax.device_get(found)
    totals = {
        name: np.sum([sums[name] for sums in found], dtype=np.float64)
        for name in found[0]
    }
    return task.metrics(totals)


def final_metrics(eval_step, task, state, best_params, best) -> tuple[dict, dict]:
    """Metrics of both splits for the final and for the best parameters.

    Args:
      best: {"step", "valid"} of the best step.

    Returns:
      {"valid", "test"} of the final parameters; {"step", "valid", "test"} of the
      best.
    """
    final = {
        split: _storable(evaluate(eval_step, task, state, split))
        for split in ("valid", "test")
    }
    if best["step"] == int(state.step):
        return final, {"step": best["step"], **final}
    at_best = state._replace(params=best_params)
    test = evaluate(eval_step, task, at_best, "test")
    return final, {**best, "test": _storable(test)}


def summary(result: dict, workdir: pathlib.Path) -> str:
    """What a run ends with, in a few lines."""
    best = result["best"]
    rows = [
        ("final", result["steps"], result["metrics"]),
        ("best", best["step"], best),
    ]
    lines = [
        f"{result['task']}, {result['model']}: {result['steps']} steps in"
        f" {logs.duration(result['wall_seconds'])} on {result['backend']},"
        f" {result['num_params']} parameters"
        f" ({result['num_independent_params']} independent)"
    ]
    for name, step, metrics in rows:
        for split in ("valid", "test"):
            numbers = "  ".join(
                f"{key} {'not finite' if value is None else format(value, '.5g')}"
                for key, value in metrics[split].items()
            )
            lines.append(f"  {name:<5} step {step:<7} {split:<5}  {numbers}")
    if result["baseline"] is not None:
        lines.append(
            f"  loss of the model that knows nothing: {result['baseline']:.5g}"
        )
    lines.append(f"  learning curve: {workdir / 'learning_curve.png'}")
    return "\n".join(lines)


def _description(config: Any, task: tasks.Task) -> dict[str, Any]:
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


def _better(task: tasks.Task, metrics: dict, best: dict | None) -> bool:
    """Whether metrics beat the best so far; a tie does not."""
    if best is None:
        return True
    new, old = metrics[task.primary], best["valid"][task.primary]
    return new > old if task.higher_is_better else new < old


def _storable(metrics: dict) -> dict:
    return {name: logs.finite(value) for name, value in metrics.items()}


def _non_finite_message(step: int, what: str, saved: checkpoints.Checkpoints) -> str:
    latest = saved.latest()
    kept = "there is no checkpoint before it"
    if latest is not None:
        kept = f"the last finite checkpoint is of step {latest} in {saved.directory}"
    return (
        f"{what} is not finite at step {step}; {kept}. The run is the same when it is"
        " repeated: try a smaller config.train.learning_rate in a new workdir"
    )
