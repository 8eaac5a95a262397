"""Makes the runs that are missing, records them, and draws.

Who holds the lock of a run's folder makes the run. So of several commands, on all
machines that see the folder, each takes the next run that is neither recorded nor made
by another.
"""

import contextlib
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator

from experiments.reproduce import plan, protocol, status
from experiments.reproduce.figures import drawing
from experiments.runs import folder, records, workers

IN_USE = 75  # exit code of a process whose run another process makes, as EX_TEMPFAIL
_PAUSE = 0.2  # seconds before it is looked again whether a run has ended


def reproduce(request: plan.Request) -> None:
    """Runs what is missing of each figure in turn, and draws it.

    Raises:
      ValueError: a record of another config, unless it is to be made again.
    """
    for figure in request.figures:
        left = missing(figure, request)
        while left:
            next_run = take(left, request)
            if next_run is None:
                _wait(left, request)
                continue
            try:
                make(next_run, request)
            except folder.InUse:  # another command was faster
                left.append(next_run)
        drawing.show(figure, request.scale, request.results)


def share(request: plan.Request, count: int) -> None:
    """As `reproduce`, `count` runs at a time; draws at the end.

    Raises:
      ValueError: a record of another config, unless it is to be made again; or runs
        that failed, when all others are made.
    """
    runs = {
        run.name: run for figure in request.figures for run in missing(figure, request)
    }
    failed = make_all(list(runs.values()), request, count)
    for figure in request.figures:
        drawing.show(figure, request.scale, request.results)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}; the same"
            " command goes on"
        )


def missing(figure: protocol.Figure, request: plan.Request) -> list[protocol.Run]:
    """The runs of a figure that are to be made; prints how many are there.

    Raises:
      ValueError: a record of another config, unless it is to be made again.
    """
    states = plan.states_of(figure, request)
    print(f"{figure.name}: {plan.totals(states)}", flush=True)
    problems = [state.problem for state in states if state.problem]
    if problems and not request.redo:
        raise ValueError(f"{problems[0]}\n--redo runs it again; or remove the file")
    return [state.run for state in states if not state.record]


def take(left: list[protocol.Run], request: plan.Request) -> protocol.Run | None:
    """Takes the next run out of the list that no other process makes.

    Runs that another command has recorded meanwhile are taken out, too. None where
    there is no run to be made now.
    """
    for run in list(left):
        if status.find(run, request.results)[0]:
            left.remove(run)
            print(f"{run.name}: recorded by another command", flush=True)
        elif not folder.is_held(place(run, request.workdir)):
            left.remove(run)
            return run
    return None


def _wait(left: list[protocol.Run], request: plan.Request) -> None:
    """Waits, where runs are left, until other commands no longer make all of them."""
    if left:
        print(f"waiting for {len(left)} runs that other commands make", flush=True)
    workdirs = [place(run, request.workdir) for run in left]
    while workdirs and all(map(folder.is_held, workdirs)):
        time.sleep(_PAUSE)


def make_all(runs: list[protocol.Run], request: plan.Request, count: int) -> list[str]:
    """Makes the runs, each in a process of its own, and returns in words what failed.

    A process is the command itself with one run.
    """
    left, failed = list(runs), []
    by_name = {run.name: run for run in runs}
    with workers.Pool("experiments.reproduce", count) as pool:
        while left or pool.running:
            while not pool.is_full and (run := take(left, request)):
                pool.start(_job(run, request))
            if not pool.running:
                _wait(left, request)
                continue
            time.sleep(_PAUSE)
            for job, code in pool.ended():
                how = "recorded"
                if code == IN_USE:
                    how = "another command was faster"
                    left.append(by_name[job.name])
                elif code:
                    how = f"ended {workers.how_it_ended(code)} (see {job.log})"
                    failed.append(f"{job.name} {how}")
                still = f"{pool.running} running, {len(left)} left"
                print(f"{job.name}: {how} | {still}", flush=True)
    return failed


def _job(run: protocol.Run, request: plan.Request) -> workers.Job:
    workdir = place(run, request.workdir)
    log = workdir.with_name(f"{workdir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"---- {run.name}, see {log}", flush=True)
    return workers.Job(run.name, [*sys.argv[1:], f"--run={run.name}"], log)


def find(name: str, request: plan.Request) -> protocol.Run:
    """The run of that name.

    Raises:
      ValueError: the figures of the request have no such run.
    """
    for figure in request.figures:
        for run in figure.runs(request.scale):
            if run.name == name:
                return run
    raise ValueError(f"--run must be a run of the figures asked for, got {name!r}")


def make(run: protocol.Run, request: plan.Request) -> None:
    """Makes one run, or goes on with it, and records it, diverged or not.

    Raises:
      folder.InUse: another process has begun with it meanwhile.
    """
    # Late: errors before are quick.
    from experiments.training import certificates, compilations, loop

    compilations.keep(request.compilation_cache)
    config = protocol.build_config(run)
    workdir = place(run, request.workdir)
    print(f"---- {run.name} in {workdir}", flush=True)
    light = request.scale == "smoke"
    with _light_compilation() if light else contextlib.nullcontext():
        try:
            loop.train(config, workdir, config_file=protocol.config_file(run))
            if run.certificate:
                certificates.of_run(workdir)
        except loop.NonFiniteLoss as error:
            print(f"diverged: {error}", flush=True)
    print(records.record(workdir, run.name, request.results), flush=True)


def place(run: protocol.Run, workdir: pathlib.Path) -> pathlib.Path:
    """Where a run works: a folder of its config, so that no older one is in the way."""
    content = json.dumps(protocol.config_dict(run) | {"data_dir": ""}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return workdir / f"{run.name}-{digest}"


@contextlib.contextmanager
def _light_compilation() -> Iterator[None]:
    """Programs that run for a moment only are compiled without optimisation."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
