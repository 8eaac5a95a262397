"""A worker of a sweep: takes up runs until all are settled."""

import contextlib
import functools
import os
import pathlib
import socket
import time
import traceback
from collections.abc import Iterator
from typing import Any

import filelock
import numpy as np
import optuna
from optuna.trial import TrialState

from experiments.runs import files
from experiments.sweep import setup, summary
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages


class Surplus(Exception):
    """An attempt at a run that another attempt holds or has settled."""


def work(sweep: setup.Sweep, progress: summary.Progress | None = None) -> None:
    """Takes up runs until all are settled."""
    unclaimed: dict[int, float] = {}
    while True:
        optuna.storages.fail_stale_trials(sweep.study)
        _fail_unclaimed(sweep, unclaimed)
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
        mine = attempts.get(number, [])
        if any(storages.settled(each) for each in mine):
            continue
        live = [each for each in mine if not each.state.is_finished()]
        if live:
            left |= {each.state for each in live}
        elif storages.killed(mine) <= sweep.options.max_retries:
            sweep.study.add_trial(_next_attempt(number, planned, mine))
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


def _sampler(sweep: setup.Sweep) -> optuna.samplers.BaseSampler:
    """For the next attempt; where the plan has all values, none is drawn.

    The seed depends on the runs begun, so that no resumed sweep and no two workers
    draw the same numbers again, and one worker alone always the same.
    """
    if sweep.options.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=sweep.options.seed)
    begun = len(sweep.study.get_trials(deepcopy=False)) - len(
        sweep.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    )
    entropy = (sweep.options.seed, sweep.options.worker, begun)
    seed = np.random.SeedSequence(entropy).generate_state(1)[0]
    return optuna.samplers.TPESampler(seed=int(seed))


def _attempt_next(sweep: setup.Sweep) -> None:
    """Takes one run from Optuna's queue and brings it to an end."""
    held: list[int] = []
    lost: list[files.Unwritable] = []
    sweep.study.sampler = _sampler(sweep)
    try:
        objective = functools.partial(_attempt, sweep, held, lost)
        sweep.study.optimize(objective, n_trials=1, catch=(Exception,))
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        # Given to another, because this process did not show a sign of life.
        trials = sweep.study.get_trials(deepcopy=False)
        if not held or trials[held[0]].state == TrialState.RUNNING:
            raise
    if lost:  # no fault of the run: it is left to be taken up again
        raise lost[0]


def _attempt(
    sweep: setup.Sweep,
    held: list[int],
    lost: list[files.Unwritable],
    trial: optuna.Trial,
) -> float:
    """Optuna's objective: trains a run, or goes on with it.

    Args:
      sweep: the sweep.
      held: gets the attempt's number.
      lost: gets the error where the run's folder cannot be written.
      trial: the attempt.
    """
    held.append(trial.number)
    try:
        _claim(sweep, trial)
        return _train(sweep, trial)
    except (KeyboardInterrupt, files.Unwritable) as error:
        lost += [error] if isinstance(error, files.Unwritable) else []
        with contextlib.suppress(optuna.exceptions.OptunaError):
            trial.set_user_attr("interrupted", True)
        raise
    except (Surplus, optuna.exceptions.OptunaError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        trial.set_user_attr("error", f"{kind}{error}")
        raise


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

    def on_validation(step: int, metrics: dict[str, float]) -> None:
        trial.report(metrics[sweep.metric], step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"at step {step}")

    folder = summary.run_folder(sweep.workdir, trial.user_attrs["run"])
    folder.parent.mkdir(exist_ok=True)
    with _held(folder.with_suffix(".lock")), _log(folder.with_suffix(".log")):
        result = loop.train(config, folder, on_validation)
    trial.set_user_attr("best_step", result["best"]["step"])
    trial.set_user_attr("best_loss", result["best"]["valid"]["loss"])
    trial.set_user_attr("seconds", round(result["wall_seconds"], 1))
    return result["best"]["valid"][sweep.metric]


@contextlib.contextmanager
def _log(path: pathlib.Path) -> Iterator[None]:
    """What a run prints, and where it failed, goes to a file."""
    with path.open("a") as file, contextlib.redirect_stdout(file):
        try:
            yield
        except optuna.exceptions.OptunaError:  # pruned, or given to another
            raise
        except Exception:
            traceback.print_exc(file=file)
            raise


def _held(path: pathlib.Path) -> filelock.BaseFileLock:
    """Waits until no living process of this file system works in the folder.

    A worker that stood still for longer than the grace has lost its run to another,
    but learns it only at its next validation; killed processes hold nothing.
    """
    return filelock.FileLock(path, poll_interval=0.5)


def _fail_unclaimed(sweep: setup.Sweep, since: dict[int, float]) -> None:
    """Ends attempts whose worker was killed between the queue and the first heartbeat.

    Optuna misses only heartbeats that have begun. Times are by this worker's clock.
    """
    now = time.monotonic()
    running = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    unclaimed = {each.number for each in running if "worker" not in each.user_attrs}
    for number in set(since) - unclaimed:
        del since[number]
    for number in unclaimed:
        if now - since.setdefault(number, now) > sweep.options.grace:
            with contextlib.suppress(
                ValueError, optuna.exceptions.UpdateFinishedTrialError
            ):
                sweep.study.tell(number, state=TrialState.FAIL)
