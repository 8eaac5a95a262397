"""Runs that local processes share, each the command itself with one run. No JAX."""

import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

from experiments.reproduce import execution, plan, protocol
from experiments.reproduce.figures import drawing
from experiments.runs import cores, workers


class Made(NamedTuple):
    """A run in the making: by which process, and where that prints."""

    run: protocol.Run
    process: subprocess.Popen
    log: pathlib.Path


def reproduce(request: plan.Request, count: int) -> None:
    """As `execution.reproduce`, `count` runs at a time; draws at the end.

    Raises:
      ValueError: a record of another config, unless it is to be made again; or runs
        that failed, when all others are made.
    """
    wanted = {
        run.name: run
        for figure in request.figures
        for run in execution.missing(figure, request)
    }
    failed = _make(list(wanted.values()), request, count)
    for figure in request.figures:
        drawing.show(figure, request.scale, request.results)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(wanted)} runs failed: {'; '.join(failed)}; the same"
            " command goes on"
        )


def find(name: str, request: plan.Request) -> protocol.Run:
    """The run of that name.

    Raises:
      ValueError: the figures that are asked for have no such run.
    """
    for figure in request.figures:
        for run in figure.runs(request.scale):
            if run.name == name:
                return run
    raise ValueError(f"--run must be a run of the figures asked for, got {name!r}")


def _make(runs: list[protocol.Run], request: plan.Request, count: int) -> list[str]:
    """Makes the runs and returns what failed, in words."""
    left = runs[::-1]
    at_work: dict[int, Made] = {}  # by the number of the part of the cores
    failed = []
    try:
        while left or at_work:
            for part in range(count):
                if left and part not in at_work:
                    at_work[part] = _start(left.pop(), request, part, count)
            time.sleep(0.2)
            for part, made in list(at_work.items()):
                code = made.process.poll()
                if code is None:
                    continue
                del at_work[part]
                how = "recorded"
                if code:
                    how = f"ended {workers.how_it_ended(code)} (see {made.log})"
                    failed.append(f"{made.run.name} {how}")
                still = f"{len(at_work)} running, {len(left)} left"
                print(f"{made.run.name}: {how} | {still}", flush=True)
    finally:
        workers.stop(made.process for made in at_work.values())
    return failed


def _start(run: protocol.Run, request: plan.Request, part: int, count: int) -> Made:
    folder = execution.folder(run, request.workdir)
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"---- {run.name}, see {log}", flush=True)
    arguments = [*sys.argv[1:], f"--run={run.name}"]
    share = cores.share(part, count)
    process = workers.start("experiments.reproduce", arguments, log, share)
    return Made(run, process, log)
