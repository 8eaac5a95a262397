"""Several workers of a sweep on this machine, each the command itself."""

import pathlib
import subprocess
import sys
import time

from experiments.runs import cores, workers
from experiments.sweep import setup, summary


def progress(sweep: setup.Sweep) -> summary.Progress:
    """What shows the runs that end."""
    return summary.Progress(sweep.study, len(sweep.plan), sweep.options.max_retries)


def spawn(sweep: setup.Sweep, count: int) -> None:
    """Starts workers, each this command again, and prints what they finish.

    Raises:
      ValueError: all workers ended, but not all runs.
    """
    shown = progress(sweep)
    logs = [sweep.workdir / f"worker-{index}.log" for index in range(count)]
    processes: dict[int, subprocess.Popen] = {}
    try:
        for index, log in enumerate(logs):
            arguments = [*sys.argv[1:], f"--worker={index}"]
            share = cores.share(index, count)
            processes[index] = workers.start("experiments.sweep", arguments, log, share)
        print(f"workers: {', '.join(str(each.pid) for each in processes.values())}")
        running = dict(processes)
        while running:
            time.sleep(1)
            shown.show()
            for index, process in list(running.items()):
                code = process.poll()
                if code:
                    _report_end(index, code, logs[index])
                if code is not None:
                    del running[index]
        shown.show()
    finally:
        workers.stop(processes.values())
    left = shown.left()
    if left:
        raise ValueError(
            f"every worker has ended and {left} runs are left; the same command goes on"
        )


def _report_end(index: int, code: int, log: pathlib.Path) -> None:
    how = workers.how_it_ended(code)
    if code < 0:
        how += "; its run goes to another"
    print(f"worker {index} ended {how} (see {log})", file=sys.stderr, flush=True)
