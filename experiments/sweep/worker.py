"""A worker of a sweep: takes up runs until all are settled."""

import contextlib
import os
import pathlib
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from experiments.runs import files, folder, streams
from experiments.sweep import contact, setup, summary
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages


class Surplus(Exception):
    """An attempt at a run that another attempt holds or has settled."""


def work(sweep: setup.Sweep, progress: summary.Progress | None = None) -> None:
    """Takes up runs until all are settled.

    Raises:
      contact.DatabaseAway: the database stayed away.
      files.Unwritable: the folder of a run cannot be written.
      signals.Stopped: a signal came.
    """
    unclaimed: dict[int, float] = {}
    while True:
        _end_lost(sweep, unclaimed)
        left = queue(sweep)
        if progress is not None:
            progress.show()
        if TrialState.WAITING in left:
            _attempt_next(sweep)
        elif left:
            time.sleep(1)
        else:
            return


def queue(sweep: setup.Sweep) -> set[TrialState]:
    """Queues every run that is neither settled nor queued nor held by a worker.

    That is all of them at the start, and later those whose worker was killed or
    interrupted. Two workers may queue the same run: of its attempts the first
    counts, and the others end as surplus.

    Returns:
      The states of what is left: waiting, running or none.
    """
    attempts = storages.attempts(sweep.study)
    left = set()
    for number, planned in enumerate(sweep.plan):
        tried = attempts.get(number, [])
        if any(storages.settled(attempt) for attempt in tried):
            continue
        live = [attempt for attempt in tried if not attempt.state.is_finished()]
        if live:
            left |= {attempt.state for attempt in live}
        elif storages.killed(tried) <= sweep.options.max_retries:
            sweep.study.add_trial(_next_attempt(number, planned, tried))
            left.add(TrialState.WAITING)
    return left


def _next_attempt(
    number: int, planned: dict, earlier: list[optuna.trial.FrozenTrial]
) -> optuna.trial.FrozenTrial:
    """A waiting trial, with the values and the reports of the last attempt, if any."""
    inherited: dict[str, Any] = {"system_attrs": {"fixed_params": planned["params"]}}
    if earlier:
        last = earlier[-1]
        inherited = {
            "params": last.params,
            "distributions": last.distributions,
            "system_attrs": last.system_attrs,
            "intermediate_values": last.intermediate_values,
        }
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        user_attrs={"run": number, "seed": planned["seed"]},
        **inherited,
    )


def _sampler(sweep: setup.Sweep, number: int) -> optuna.samplers.BaseSampler:
    """For an attempt; where the plan has all values, none is drawn.

    The seed depends on the attempt's number, so that no resumed sweep and no two
    workers draw the same numbers again, and one worker alone always the same.
    """
    if sweep.options.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=sweep.options.seed)
    seed = np.random.SeedSequence((sweep.options.seed, number)).generate_state(1)[0]
    return optuna.samplers.TPESampler(seed=int(seed))


def _attempt_next(sweep: setup.Sweep) -> None:
    """Takes one run from the queue and brings it to an end.

    Not by Optuna's `optimize`, which fails where it cannot reach the database.
    """
    with warnings.catch_warnings(action="ignore"):  # that optimize() is to ask
        trial = sweep.study.ask()
    # After the attempt has its number: values are drawn where they are asked for.
    sweep.study.sampler = _sampler(sweep, trial.number)
    try:
        with _signs_of_life(sweep, trial):
            value, state = _attempt(sweep, trial)
            sweep.study.tell(trial, value, state, skip_if_finished=True)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # given to another, because this process did not show a sign of life
    except (KeyboardInterrupt, files.Unwritable, contact.DatabaseAway):
        _give_back(sweep, trial)  # no fault of the run: it is taken up again
        raise


def _attempt(
    sweep: setup.Sweep, trial: optuna.Trial
) -> tuple[float | None, TrialState | None]:
    """Trains a run, or goes on with it; its value, or the state in which it ended."""
    try:
        _claim(sweep, trial)
        return _train(sweep, trial), None
    except Surplus:
        return None, TrialState.FAIL
    except optuna.TrialPruned:
        return None, TrialState.PRUNED
    except (files.Unwritable, optuna.exceptions.OptunaError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        trial.set_user_attr("error", f"{kind}{error}")
        return None, TrialState.FAIL


@contextlib.contextmanager
def _signs_of_life(sweep: setup.Sweep, trial: optuna.Trial) -> Iterator[None]:
    """A context in which the database is told that the attempt goes on.

    Optuna's own thread for it ends where the database is away.
    """
    over = threading.Event()

    def show() -> None:
        while not over.wait(sweep.options.heartbeat):
            # What is wrong ends the attempt where it matters, or has passed by then.
            with contextlib.suppress(Exception), sweep.storage.contact.at_once():
                sweep.storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _give_back(sweep: setup.Sweep, trial: optuna.Trial) -> None:
    """Ends the attempt as interrupted; by a note where the database is away."""
    try:
        with sweep.storage.contact.at_once():
            _end(sweep, trial._trial_id, interrupted=True)
    except optuna.exceptions.OptunaError:
        note = _note(sweep, trial)
        with contextlib.suppress(files.Unwritable), files.writing(note):
            note.parent.mkdir(exist_ok=True)
            files.write(note, "The worker could not tell the database.\n")


def _note(
    sweep: setup.Sweep, trial: optuna.Trial | optuna.trial.FrozenTrial
) -> pathlib.Path:
    """The file that says that the attempt was interrupted."""
    workdir = summary.run_folder(sweep.workdir, trial.user_attrs.get("run", -1))
    return workdir.with_suffix(f".attempt-{trial.number}.interrupted")


def _end(sweep: setup.Sweep, trial_id: int, *, interrupted: bool) -> None:
    """Ends an attempt, unless it has ended."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if interrupted:
            sweep.storage.set_trial_user_attr(trial_id, "interrupted", True)
        sweep.storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _claim(sweep: setup.Sweep, trial: optuna.Trial) -> None:
    """Marks the attempt as begun, unless another attempt at its run goes before.

    Attempts are numbered in the order of their making, so of two that both run the
    later one sees the earlier here.
    """
    run = trial.user_attrs.get("run")  # None: the queue was empty after all
    others = [] if run is None else storages.attempts(sweep.study).get(run, [])
    for other in others:
        earlier = other.number < trial.number and not other.state.is_finished()
        if earlier or storages.settled(other):
            run = None
    if run is None:
        trial.set_user_attr("surplus", True)
        raise Surplus
    # Before the mark, so that nothing marked lacks a heartbeat to be missed.
    sweep.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")


def _train(sweep: setup.Sweep, trial: optuna.Trial) -> float:
    """The validation metric at the best step of the run's training."""
    from experiments.training import loop  # with JAX

    point = spaces.suggest(trial, sweep.space)
    if spaces.SEED in sweep.space:
        point[spaces.SEED] = trial.user_attrs["seed"]
    config = spaces.configure(sweep.config, point)

    unreported: dict[int, float] = {}

    def report() -> None:
        for step in list(unreported):
            trial.report(unreported[step], step)
            del unreported[step]

    def on_validation(step: int, metrics: dict[str, float]) -> None:
        unreported[step] = metrics[sweep.metric]
        try:
            with sweep.storage.contact.at_once():
                report()
                poor = trial.should_prune()
        except contact.DatabaseAway:
            if sweep.storage.contact.left() <= 0:
                raise
            return  # training goes on; it is reported once the database is back
        if poor:
            raise optuna.TrialPruned(f"at step {step}")

    workdir = summary.run_folder(sweep.workdir, trial.user_attrs["run"])
    # A worker that stood still for longer than the grace has lost its run to another,
    # but learns it only at its next validation, and works in the folder until then.
    with _log(workdir.with_suffix(".log")):
        result = folder.when_free(
            workdir,
            lambda: loop.train(
                config, workdir, on_validation, config_file=sweep.options.config_file
            ),
        )
    report()
    trial.set_user_attr("best_step", result["best"]["step"])
    trial.set_user_attr("best_loss", result["best"]["valid"]["loss"])
    trial.set_user_attr("seconds", round(result["wall_seconds"], 1))
    return result["best"]["valid"][sweep.metric]


@contextlib.contextmanager
def _log(path: pathlib.Path) -> Iterator[None]:
    """What a run prints, and where it failed, goes to a file.

    Raises:
      files.Unwritable: there can be none. Where a disk is full later, the rest of the
        log is lost, and nothing else is.
    """
    with files.writing(path):
        path.parent.mkdir(exist_ok=True)
        opened = path.open("a")
    with (
        opened,
        streams.unread(opened) as file,
        contextlib.redirect_stdout(file),
    ):
        try:
            yield
        except optuna.exceptions.OptunaError:  # pruned, or given to another
            raise
        except Exception:
            traceback.print_exc(file=file)
            raise


def _end_lost(sweep: setup.Sweep, unclaimed: dict[int, float]) -> None:
    """Ends the attempts of workers that are gone, so that others take up their runs.

    They have left a note, or show no sign of life for the grace. While this worker did
    not reach the database perhaps no other could show one, so that a grace has to pass
    again since then; and since its start.

    Args:
      sweep: the sweep.
      unclaimed: {attempt: when this worker first saw that nobody had begun it}. Optuna
        misses only heartbeats that have begun; others end between queue and beginning.
    """
    now, database = time.monotonic(), sweep.storage.contact
    running = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        if _note(sweep, trial).exists():
            _end(sweep, trial._trial_id, interrupted=True)
            _note(sweep, trial).unlink(missing_ok=True)
    new = {trial.number: trial for trial in running if "worker" not in trial.user_attrs}
    for number in set(unclaimed) - set(new):
        del unclaimed[number]
    for number, trial in new.items():
        seen = unclaimed.setdefault(number, now)
        if now - max(seen, database.since) > sweep.options.grace:
            _end(sweep, trial._trial_id, interrupted=True)
    if running and database.held() > sweep.options.grace:
        for trial_id in sweep.storage._get_stale_trial_ids(sweep.study._study_id):
            _end(sweep, trial_id, interrupted=False)
