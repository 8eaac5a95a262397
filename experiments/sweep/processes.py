"""Several workers of a sweep on this machine, each the command itself."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

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
    outputs = [sweep.workdir / f"worker-{index}.log" for index in range(count)]
    processes: dict[int, subprocess.Popen] = {}
    try:
        for index, log in enumerate(outputs):
            processes[index] = _start_worker(index, log)
        print(f"workers: {', '.join(str(each.pid) for each in processes.values())}")
        running = dict(processes)
        while running:
            time.sleep(1)
            shown.show()
            for index, process in list(running.items()):
                code = process.poll()
                if code:
                    _report_end(index, code, outputs[index])
                if code is not None:
                    del running[index]
        shown.show()
    finally:
        _stop(list(processes.values()))
    left = shown.left()
    if left:
        raise ValueError(
            f"every worker has ended and {left} runs are left; the same command goes on"
        )


def _start_worker(index: int, log: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:]]
    with log.open("a") as file:
        return subprocess.Popen(
            [*command, f"--worker={index}"],
            stdin=subprocess.PIPE,  # which ends with this process, see below
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,  # Ctrl-C comes from here, once
        )


def end_with_parent() -> None:
    """Makes this worker end, as by SIGTERM, with the command that started it."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _report_end(index: int, code: int, log: pathlib.Path) -> None:
    how = f"with exit code {code}"
    if code < 0:
        how = f"by {signal.Signals(-code).name}; its run goes to another"
    print(f"worker {index} ended {how} (see {log})", file=sys.stderr, flush=True)


def _stop(processes: list[subprocess.Popen]) -> None:
    """Interrupts the workers that still run, and kills those that do not end."""
    for process in processes:
        if process.poll() is None:
            process.terminate()  # SIGINT is ignored by what runs in the background
    for process in processes:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
