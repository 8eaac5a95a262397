"""The training loop: config and workdir to a result, whatever the task."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

from experiments.data import stand_in
from experiments.runs import (
    config_file,
    curves,
    files,
    fitted,
    folder,
    identity,
    origin,
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
    memory,
    processes,
    programs,
    session,
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
      task, model, backend, devices, seed, steps (those made); num_params (stored
      numbers) and num_independent_params (free ones); wall_seconds (of all sessions up
      to the checkpoints they were taken up from: set-up, compilation, training and
      evaluation); metrics {"valid": {...}, "test": {...}} of the final parameters;
      best, the same for the step that was best on validation data, with that
      "step"; diagnostics of the final model; baseline; stopped_early, restores and
      data, where it did, how often it went back, and where they are stand-in.

    Raises:
      ValueError: a field or the data do not fit, or the workdir is not this run's, or
        another process works in it.
      NonFiniteLoss: training diverged; the checkpoints before it are kept.
      files.Unwritable: the workdir is full, read-only or gone.
      signals.Stopped: a signal came; the step that was being made is saved.
    """
    began = time.monotonic()
    workdir = pathlib.Path(workdir)
    with _streams_of_the_seed(), contextlib.ExitStack() as resources:
        # Checks, before anything is written or compiled.
        content = _start_processes(config, resources)
        _, result = processes.by_first(lambda: _inspect(workdir, content))
        if result:
            return result
        # The data, the model and its functions.
        parts = _assemble(config)
        functions = programs.Programs(config, parts)
        # The folder, from here on this process's own, and what it holds of the run.
        resumes, result = processes.by_first(
            lambda: _enter(workdir, content, parts.task, resources, config_file)
        )
        if result:
            return result
        agreement.agree(lambda: workdir, agreement.of_folder)
        saved = checkpoints.Checkpoints(workdir / "checkpoints")
        resources.enter_context(contextlib.closing(saved))
        run = session.Session(config, parts, functions, saved, began)
        with contextlib.closing(run):
            run.open_log(workdir, resumes)
            result = _train(run, workdir, content, on_validation)
        print(summary.text(result, workdir))
        return result


def check(config: Any, workdir: str | pathlib.Path | None = None) -> None:
    """Makes the checks of `train` and prints what it would train; nothing is written.

    The data are read and the first parameters are made.

    Args:
      config: see `train`.
      workdir: where the run would be made, if anywhere yet.

    Raises:
      ValueError: see `train`; a workdir in use is none.
    """
    with _streams_of_the_seed(), contextlib.ExitStack() as resources:
        content = _start_processes(config, resources)
        if workdir is not None:
            place = pathlib.Path(workdir)
            processes.by_first(lambda: _tell_of(place, content))
        parts = _assemble(config)
        print(parts.describe(config))
        least, there = memory.least_bytes(config, parts.task), memory.available()
        print(
            f"  memory: {memory.gigabytes(least)} at least, of"
            f" {memory.gigabytes(there)} (by shapes alone)"
        )
        print(identity.listing(content))


# ---- Before the first step.


@contextlib.contextmanager
def _streams_of_the_seed() -> Iterator[None]:
    """The random streams are those of the seed, whatever JAX is set to."""
    with jax.default_prng_impl("threefry2x32"), jax.threefry_partitionable(True):
        yield


def _start_processes(config: Any, resources: contextlib.ExitStack) -> dict:
    """Checks the config and starts JAX; processes that do not fit together part here.

    Only the first process prints from here on.

    Args:
      config: the config of the run.
      resources: gives back at the end what is taken here.

    Returns:
      The config as plain values.
    """

    def check() -> dict:
        devices.start(config.train.devices)  # a model of one's own may start JAX
        fields.check(config)
        return identity.to_dict(config)

    content = agreement.agree(check, agreement.of_start)
    agreement.agree(jax.local_devices, agreement.of_machine)
    if not processes.first():
        nowhere = resources.enter_context(pathlib.Path(os.devnull).open("w"))
        resources.enter_context(contextlib.redirect_stdout(nowhere))
    return content


def _inspect(workdir: pathlib.Path, content: dict) -> tuple[bool, dict | None]:
    """Whether the workdir holds a run of this config, and its result if it ended."""
    if not folder.check(workdir, content):
        return False, None
    earlier = origin.of_last_session(workdir)
    origin.check_streams(
        f"--workdir {workdir}", earlier.get("settings"), origin.settings()
    )
    result = folder.result(workdir, content)
    if result is not None:
        print(f"{workdir} holds the finished run of this config: nothing to do")
        if changed := origin.notice(earlier, origin.present()):
            print(changed)
    return True, result


def _tell_of(workdir: pathlib.Path, content: dict) -> None:
    """Prints what the workdir holds of the run; refuses another one as `train` does."""
    resumes, result = _inspect(workdir, content)
    if not resumes:
        print(f"{workdir} is a new folder, or an empty one")
    elif result is None:
        print(f"{workdir} holds an unfinished run of this config, to be gone on with")
    if folder.is_held(workdir):
        print(f"{workdir} is in use by another process")


def _assemble(config: Any) -> assembly.Assembly:
    """The parts of the run, of which all processes have the same."""

    def tell(parts: assembly.Assembly) -> dict[str, Any]:
        devices_here = parts.spread.count // jax.process_count()
        return agreement.of_parts(parts.task, devices_here)

    return agreement.agree(lambda: assembly.assemble(config), tell)


def _enter(
    workdir: pathlib.Path,
    content: dict,
    task: base.Task,
    resources: contextlib.ExitStack,
    source: str | None,
) -> tuple[bool, dict | None]:
    """Takes the workdir for this process alone; returns what `_inspect` does.

    `source` is the config file, with `:argument` where it has one, if it is known.
    """
    with files.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    resources.enter_context(folder.held(workdir))
    # Another process may have been faster.
    resumes, result = _inspect(workdir, content)
    if not resumes:
        files.write_json(workdir / "config.json", identity.read_part(content))
    if not result:
        fitted.keep(workdir, task.fitted())
    if source is not None and not result:
        config_file.keep(workdir, source, content)
    return resumes, result


# ---- The loop.


def _train(
    run: session.Session,
    workdir: pathlib.Path,
    content: dict,
    on_validation: Callable[[int, dict[str, float]], None] | None,
) -> dict:
    """Makes all updates of a run and returns its result, which is written last.

    `content` is the config as plain values.
    """
    with signals.noted() as ending:
        _make_updates(run, ending, on_validation)
    result = _evaluate(run)
    if processes.first():
        _show(run, workdir, content, result)
    # With it the run is over: what came after would be lost by a kill.
    processes.by_first(lambda: files.write_json(workdir / "result.json", result))
    run.log.event(run.step, "finished")
    return result


def _make_updates(
    run: session.Session,
    ending: signals.Ending,
    on_validation: Callable[[int, dict[str, float]], None] | None,
) -> None:
    """Trains up to the last step, or to the one at which the run stops early.

    The host prepares the next batch while the device works; it waits for the device
    only where something is logged, evaluated or saved.
    """
    train = run.config.train
    while not run.is_over():
        run.update()
        last = run.step == run.steps
        logs_now = last or run.step == 1 or run.step % train.log_every == 0
        validates_now = last or run.step % train.eval_every == 0
        saves_now = last or run.step % train.checkpoint_every == 0
        waits = logs_now or validates_now or saves_now
        signal = processes.agreed(ending.asked, waits)
        if not (waits or signal):
            continue

        run.log.check()
        bad_step = int(run.state.first_bad_step)
        if bad_step >= 0:
            _go_back(run, bad_step, "the loss or its gradient")
            continue

        if logs_now:
            loss, rate = run.log_update()
        with run.stopwatch.paused():
            if validates_now:
                metrics = run.validate()
                if metrics is None:
                    _go_back(run, run.step, "a validation metric")
                    continue
                if on_validation is not None:
                    on_validation(run.step, metrics)
            if run.stops_early():
                run.log.event(run.step, "stopped_early", patience=train.patience)
            if saves_now or signal or run.stops_early():
                run.save()
        if logs_now:
            run.progress.show(run.step, loss, rate)
        if signal:
            run.log.event(run.step, "stopped")
            raise signals.Stopped(signal, f" after step {run.step}, which is saved")


def _go_back(run: session.Session, bad_step: int, what: str) -> None:
    """Goes back to the last checkpoint with lower rates, if the config says so.

    Raises:
      NonFiniteLoss: it does not, or the run has gone back as often as it may.
    """
    train = run.config.train
    if train.on_nonfinite == "stop" or run.record["restores"] >= train.restores:
        last = run.checkpoints.latest()
        run.log.event(
            bad_step, "non_finite", what=what, loss=None, last_checkpoint=last
        )
        raise NonFiniteLoss(_non_finite_message(run, bad_step, what))
    run.go_back(bad_step, what)


# ---- The end.


def _evaluate(run: session.Session) -> dict:
    """The result of a run.

    The test data are read once with the final and once with the best parameters.
    """
    functions = run.programs
    evaluated = functions.averaged(run.state)
    metrics, best = evaluation.final_metrics(
        functions.eval_step,
        run.task,
        evaluated,
        run.best_params,
        run.record,
        functions.eval_spread,
        run.config.train.valid_batches,
    )
    diagnostics = functions.diagnose(evaluated)
    result = {
        "task": run.task.name,
        "model": run.config.model.name,
        "backend": jax.default_backend(),
        "seed": run.config.seed,
        **run.parts.sizes(),
        "devices": run.parts.spread.count,
        "steps": run.step,
        "wall_seconds": run.seconds(),
        "metrics": metrics,
        "best": best,
        "diagnostics": evaluation.storable(diagnostics),
        "baseline": run.task.baseline,
    }
    if run.stops_early():
        result["stopped_early"] = True
    if run.record["restores"]:
        result["restores"] = run.record["restores"]
    if identity.stands_in(identity.to_dict(run.config)):
        result["data"] = stand_in.NAME
    return result


def _show(
    run: session.Session, workdir: pathlib.Path, content: dict, result: dict
) -> None:
    """Draws the learning curve, if it can be drawn, and tells TensorBoard the result.

    Runs are compared by what the best parameters reach.
    """
    picture: pathlib.Path | None = workdir / "learning_curve.png"
    try:
        curves.learning_curve(workdir / "metrics.jsonl", workdir / "learning_curve.png")
    except Exception as error:  # whatever it is: the result is there
        logging.warning("no learning curve: %s", error)
        picture = None
    numbers = {
        f"best/{split}/{name}": result["best"][split][name]
        for split in ("valid", "test")
        for name in (run.task.primary, "loss")
    }
    fields = identity.flatten(identity.read_part(content))
    run.log.compare(run.step, fields, numbers, picture)


def _non_finite_message(run: session.Session, step: int, what: str) -> str:
    saved = run.checkpoints
    latest = saved.latest()
    kept = "there is no checkpoint before it"
    if latest is not None:
        kept = f"the last finite checkpoint is of step {latest} in {saved.directory}"
    advice = "try a smaller config.train.learning_rate in a new workdir, or"
    if run.config.train.on_nonfinite == "stop":
        advice += " config.train.on_nonfinite=restore"
    else:
        advice += f" more than the {run.config.train.restores} of config.train.restores"
    if step == 1:  # before any update
        advice = "config.model.center, config.model.input_scale or the data are too big"
    return (
        f"{what} is not finite at step {step}; {kept}. The run is the same when it is"
        f" repeated: {advice}"
    )
