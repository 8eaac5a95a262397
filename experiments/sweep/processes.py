"""Several workers of a sweep on this machine, each the command itself."""

import sys
import time

from experiments.runs import workers
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
    with workers.Pool("experiments.sweep", count) as pool:
        ids = [pool.start(_worker(sweep, index)) for index in range(count)]
        print(f"workers: {', '.join(map(str, ids))}")
        while pool.running:
            time.sleep(1)
            shown.show()
            for job, code in pool.ended():
                if code:
                    _report_end(job, code)
        shown.show()
    left = shown.left()
    if left:
        raise ValueError(
            f"every worker has ended and {left} runs are left; the same command goes on"
        )


def _worker(sweep: setup.Sweep, index: int) -> workers.Job:
    arguments = [*sys.argv[1:], f"--worker={index}"]
    log = sweep.workdir / f"worker-{index}.log"
    return workers.Job(f"worker {index}", arguments, log)


def _report_end(job: workers.Job, code: int) -> None:
    how = workers.how_it_ended(code)
    if code < 0:
        how += "; its run goes to another"
    print(f"{job.name} ended {how} (see {job.log})", file=sys.stderr, flush=True)
