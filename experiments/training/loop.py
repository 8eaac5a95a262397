"""The training loop: config and workdir to a result, whatever the task."""

import contextlib
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx

from experiments.data import stand_in
from experiments.models import build as models
from experiments.runs import config_file as config_files
from experiments.runs import (
    curves,
    files,
    folder,
    identity,
    logs,
    origin,
    progress,
    signals,
    summary,
)
from experiments.tasks import base
from experiments.training import (
    agreement,
    assembly,
    checkpoints,
    devices,
    evaluation,
    fields,
    optimizers,
    processes,
    steps,
)


class NonFiniteLoss(Exception):
    """The loss or its gradient is no longer finite; the message names the step."""


def train(
    config: Any,
    workdir: str | pathlib.Path,
    on_validation: Callable[[int, dict[str, float]], None] | None = None,
    *,
    config_file: str | None = None,
) -> dict:
    """Trains what the config says and returns the content of result.json.

    A workdir that holds an unfinished run of the same config is taken up from its
    last checkpoint; on the CPU it ends bit for bit as if it had not stopped, on the
    same number of devices. One that holds a finished run is left as it is.

    Where JAX has not been used before, it is started with a CPU device a core, over
    which `config.train.devices` splits the batches. In a run of several processes each
    calls this with the same arguments, after `processes.join`; the first one writes.

    Args:
      config: as `configs/common.py` gives it, with a task.
      workdir: folder of the run; made where there is none.
      on_validation: called with the step and the metrics of every validation that
        this session makes; what it raises ends the session.
      config_file: that the config came from, with `:argument` where it has one; it is
        imported when a run of a task or a model of one's own is opened.

    Returns:
      task, model, backend, devices, seed, steps; num_params (stored numbers) and
      num_independent_params (free ones); wall_seconds (of all sessions up to the
      checkpoints they were taken up from: set-up, compilation, training and
      evaluation); metrics {"valid": {...}, "test": {...}} of the final parameters;
      best, the same for the step that was best on validation data, with that
      "step"; diagnostics of the final model; baseline; data, where it is stand-in.

    Raises:
      ValueError: a field or the data do not fit, or the workdir is not this run's, or
        another process works in it.
      NonFiniteLoss: training diverged; the checkpoints before it are kept.
      files.Unwritable: the workdir is full, read-only or gone.
      signals.Stopped: a signal came; the step that was being made is saved.
    """
    with (
        # The random streams are those of the seed, whatever JAX is set to.
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        contextlib.ExitStack() as held,
    ):
        return _train(config, pathlib.Path(workdir), on_validation, held, config_file)


def _train(
    config: Any,
    workdir: pathlib.Path,
    on_validation: Callable[[int, dict[str, float]], None] | None,
    held: contextlib.ExitStack,
    config_file: str | None,
) -> dict:
    """As `train`; what has to be given back at the end goes to `held`."""
    began = time.monotonic()

    # ---- Checks, before anything is written or compiled.
    content = agreement.agree(lambda: _checked(config), agreement.of_start)
    devices.start(config.train.devices)
    agreement.agree(jax.local_devices, agreement.of_machine)
    if not processes.first():
        nowhere = held.enter_context(pathlib.Path(os.devnull).open("w"))
        held.enter_context(contextlib.redirect_stdout(nowhere))
    known, finished = processes.by_first(lambda: _look(workdir, content))
    if finished:
        return finished

    # ---- The data, the model and its state.
    parts = agreement.agree(
        lambda: assembly.assemble(config),
        lambda parts: agreement.of_parts(
            parts.task, parts.spread.count // jax.process_count()
        ),
    )
    task, count, graph, state = parts.task, parts.steps, parts.graph, parts.state
    learning_rate, spread = parts.learning_rate, parts.spread
    sizes = {
        "num_params": models.count_params(parts.model),
        "num_independent_params": models.count_independent_params(parts.model),
    }

    def make_train_step(optimizer: Any) -> Callable:
        return steps.make_train_step(graph, task, optimizer, parts.dropout_key, spread)

    def slowed(restores: int) -> tuple[Callable, Callable]:
        """Learning rate and step after so many restores."""
        optimizer, learning_rate = optimizers.build(
            optimizers.slowed(config.train, restores),
            steps=count,
            steps_per_epoch=parts.steps_per_epoch,
        )
        return learning_rate, make_train_step(optimizer)

    train_step = make_train_step(parts.optimizer)
    # Batches of an evaluation may be too small for all devices.
    reading = spread.narrowed(evaluation.batch_size(task))
    eval_step = steps.make_eval_step(graph, task, spread=reading)
    observe = optimizers.make_observe(config.train)
    averaged = optimizers.make_averaged(config.train)
    diagnostics_of = jax.jit(lambda *state: nnx.merge(graph, *state).diagnostics())

    def diagnose(state: steps.TrainState) -> dict:
        """The model's own numbers, by one device."""
        parts = devices.ONE.held((state.params, state.rest))
        return jax.device_get(diagnostics_of(*parts))

    # ---- What the workdir holds of this run.
    known, finished = processes.by_first(
        lambda: _enter(workdir, content, held, config_file)
    )
    if finished:
        return finished
    agreement.agree(lambda: workdir, agreement.of_folder)
    saved = checkpoints.Checkpoints(workdir / "checkpoints")
    held.enter_context(contextlib.closing(saved))
    best_params = jax.tree.map(jnp.copy, state.params)
    record = checkpoints.FIRST_RECORD.copy()
    restored = saved.restore(state, best_params)
    if restored is not None:
        state, best_params, record = restored
    if record["restores"]:
        learning_rate, train_step = slowed(record["restores"])
    start = int(state.step)
    seconds_before = record["seconds"]
    conditions = origin.present() | {"devices": spread.count}
    earlier = origin.of_last_session(workdir)  # before its lines may be cut off
    log: logs.Log = logs.Log()
    if processes.first():
        log = logs.MetricLog(workdir, start if known else None)
    lengths = (count, parts.steps_per_epoch)
    print(summary.beginning(config, task, sizes, lengths, spread.count))
    if start == 0:
        log.event(0, "started", **_description(config, task), **conditions)
    if known:
        print(f"resumed from step {start} of {count}")
        if changed := origin.notice(earlier, conditions):
            print(changed)
        log.event(start, "resumed_from", **conditions)
    per_step = task.units(config.train.batch_size)
    shown = progress.Progress(count, per_step, task.unit)
    stopwatch = progress.Stopwatch(start)
    if start < count:
        print("compiling the first step ...", flush=True)

    def seconds() -> float:
        return seconds_before + time.monotonic() - began

    def go_back(bad: int, what: str) -> int:
        """To the last checkpoint with lower rates, if the config says so; its step."""
        nonlocal state, best_params, record, learning_rate, train_step, stopwatch
        restores = record["restores"] + 1
        if config.train.on_nonfinite == "stop" or restores > config.train.restores:
            last = saved.latest()
            log.event(bad, "non_finite", what=what, loss=None, last_checkpoint=last)
            raise NonFiniteLoss(_non_finite_message(bad, what, saved))
        restored = saved.restore(state, best_params)
        if restored is None:
            _, state = assembly.first_state(config, task, parts.optimizer, spread)
            restored = (
                *(state, jax.tree.map(jnp.copy, state.params)),
                checkpoints.FIRST_RECORD.copy(),
            )
        state, best_params, record = restored
        record["restores"] = restores
        learning_rate, train_step = slowed(restores)
        step = int(state.step)
        stopwatch = progress.Stopwatch(step)
        log.go_back(step)
        if step == 0:
            log.event(0, "started", **_description(config, task), **conditions)
        log.event(step, "restored", what=what, non_finite_at=bad, restores=restores)
        logging.warning(
            "%s is not finite at step %d: back to step %d, rates halved %d times",
            *(what, bad, step, restores),
        )
        return step

    # ---- The loop. The host prepares the next batch while the device works; it
    # waits for the device only where something is logged, evaluated or saved.
    closing = contextlib.closing
    with closing(log), closing(shown), contextlib.ExitStack() as until_last_step:
        ending = until_last_step.enter_context(signals.noted())
        step = start
        while step < count:
            step += 1
            batch = spread.split(task.train_batch(step - 1))
            state, numbers = train_step(state, batch)
            if step == start + 1:
                jax.block_until_ready(state)  # compiled: the rate counts from here
                stopwatch = progress.Stopwatch(step)

            last = step == count
            log_now = last or step == 1 or step % config.train.log_every == 0
            eval_now = last or step % config.train.eval_every == 0
            save_now = last or step % config.train.checkpoint_every == 0
            waits = log_now or eval_now or save_now
            asked = processes.agreed(ending.asked, waits)
            if not (waits or asked):
                continue

            log.check()
            bad_step = int(state.first_bad_step)
            if bad_step >= 0:
                step = go_back(bad_step, "the loss or its gradient")
                continue

            if log_now:
                sums, norms = jax.device_get(numbers)
                rate = stopwatch.read(step)
                with stopwatch.paused():
                    diagnostics = diagnose(state)
                    values = task.metrics(sums) | norms | diagnostics
                    scale = optimizers.plateau_scale(state.opt_state)
                    values["learning_rate"] = learning_rate(step - 1) * scale
                    values["seconds"] = seconds()
                    values[f"{task.unit}_per_second"] = rate and rate * per_step
                    log.write(step, "train", values)

            with stopwatch.paused():
                if eval_now:
                    evaluated = averaged(state)
                    metrics = evaluation.evaluate(
                        *(eval_step, task, evaluated, "valid", reading)
                    )
                    record["last"] = {"step": step, "valid": metrics}
                    log.write(step, "valid", metrics | {"seconds": seconds()})
                    if not all(map(math.isfinite, metrics.values())):
                        step = go_back(step, "a validation metric")
                        continue
                    shown.validation(task.primary, metrics[task.primary])
                    if evaluation.better(task, metrics, record["best"]):
                        record["best"] = {"step": step, "valid": metrics}
                        best_params = jax.tree.map(jnp.copy, evaluated.params)
                    opt_state = observe(state.opt_state, metrics["loss"])
                    state = state._replace(opt_state=opt_state)
                    if on_validation is not None:
                        on_validation(step, metrics)
                if save_now or asked:
                    record["seconds"] = seconds()
                    saved.save(step, state, best_params, record)
            if log_now:
                shown.show(step, values["loss"], rate)
            if asked:
                log.event(step, "stopped")
                raise signals.Stopped(asked, f" after step {step}, which is saved")

        # ---- The end: the test split, once for the final and once for the best.
        until_last_step.close()
        evaluated = averaged(state)
        metrics, best = evaluation.final_metrics(
            eval_step, task, evaluated, best_params, record, reading
        )
        diagnostics = diagnose(evaluated)
        result = {
            "task": task.name,
            "model": config.model.name,
            "backend": jax.default_backend(),
            "seed": config.seed,
            **sizes,
            "devices": spread.count,
            "steps": count,
            "wall_seconds": seconds(),
            "metrics": metrics,
            "best": best,
            "diagnostics": evaluation.storable(diagnostics),
            "baseline": task.baseline,
            **({"restores": record["restores"]} if record["restores"] else {}),
        }
        if summary.stands_in(config, task):
            result["data"] = stand_in.NAME
        processes.by_first(lambda: files.write_json(workdir / "result.json", result))
        log.event(count, "finished")
    if processes.first():
        _draw(workdir)
    print(summary.text(result, workdir))
    return result


def _checked(config: Any) -> dict:
    """The config as plain values."""
    fields.check(config)
    return identity.to_dict(config)


def _look(workdir: pathlib.Path, content: dict) -> tuple[bool, dict | None]:
    """Whether the workdir holds a run of this config, and its result if it ended."""
    known = folder.check(workdir, content)
    if not known:
        return False, None
    earlier = origin.of_last_session(workdir)
    origin.check_streams(
        f"--workdir {workdir}", earlier.get("settings"), origin.settings()
    )
    found = folder.result(workdir, content)
    if found is not None:
        print(f"{workdir} holds the finished run of this config: nothing to do")
        if changed := origin.notice(earlier, origin.present()):
            print(changed)
    return known, found


def _enter(
    workdir: pathlib.Path,
    content: dict,
    held: contextlib.ExitStack,
    config_file: str | None,
) -> tuple[bool, dict | None]:
    """Takes the workdir for this process alone; then as `_look`."""
    with files.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    held.enter_context(folder.held(workdir))
    known, finished = _look(workdir, content)  # another process may have been faster
    if not known:
        files.write_json(workdir / "config.json", identity.read_part(content))
    if config_file is not None and not finished:
        config_files.keep(workdir, config_file, content)
    return known, finished


def _draw(workdir: pathlib.Path) -> None:
    """The learning curve, if it can be drawn."""
    try:
        curves.learning_curve(workdir / "metrics.jsonl", workdir / "learning_curve.png")
    except Exception as error:  # whatever it is: the result is there
        logging.warning("no learning curve: %s", error)


def _description(config: Any, task: base.Task) -> dict[str, Any]:
    """What figures and records need to know besides the curves."""
    return {
        "task": task.name,
        "model": config.model.name,
        "primary": task.primary,
        "baseline": task.baseline,
    }


def _non_finite_message(step: int, what: str, saved: checkpoints.Checkpoints) -> str:
    latest = saved.latest()
    kept = "there is no checkpoint before it"
    if latest is not None:
        kept = f"the last finite checkpoint is of step {latest} in {saved.directory}"
    advice = (
        "try a smaller config.train.learning_rate in a new workdir, or"
        " config.train.on_nonfinite=restore"
    )
    if step == 1:  # before any update
        advice = "config.model.center, config.model.input_scale or the data are too big"
    return (
        f"{what} is not finite at step {step}; {kept}. The run is the same when it is"
        f" repeated: {advice}"
    )
