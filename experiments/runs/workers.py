"""Processes that a command starts to share its work, and their common end. No JAX."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import NamedTuple

from experiments.runs import cores


class Job(NamedTuple):
    """The work of one process.

    name: what the command calls it.
    arguments: of the process's own command line.
    log: the file to whose end everything goes that the process prints.
    """

    name: str
    arguments: list[str]
    log: pathlib.Path


class Pool:
    """Processes of one module, each on a part of the cores of its own.

    It is a context: at its end the processes that still run are stopped.

    Args:
      module: what each process runs, by `python -m`.
      size: how many processes there are at a time, at most.
    """

    def __init__(self, module: str, size: int):
        self._module = module
        self._size = size
        # By the number of the part of the cores.
        self._running: dict[int, tuple[Job, subprocess.Popen]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        stop(process for _, process in self._running.values())

    @property
    def running(self) -> int:
        """How many processes run, as far as `ended` has told."""
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether a job has to end before another one can start."""
        return self.running == self._size

    def start(self, job: Job) -> int:
        """Starts a job on a part of the cores that is free; returns the process id."""
        part = next(i for i in range(self._size) if i not in self._running)
        share = cores.share(part, self._size)
        process = start(self._module, job.arguments, job.log, share)
        self._running[part] = job, process
        return process.pid

    def ended(self) -> list[tuple[Job, int]]:
        """The jobs that have ended since the last call, with their exit codes."""
        jobs = []
        for part, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[part]
                jobs.append((job, code))
        return jobs


def start(
    module: str, arguments: Iterable[str], log: pathlib.Path, kept_to: set[int]
) -> subprocess.Popen:
    """Starts `python -m module`, what it prints appended to a log, on some cores."""
    with log.open("a") as file, cores.only(kept_to):
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,  # which ends with this process: `end_with_parent`
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C comes from here, once
        )


def end_with_parent() -> None:
    """Makes this worker end, as by SIGTERM, with the command that started it."""

    def wait() -> None:
        # Not sys.stdin's buffer: the lock that it holds meanwhile aborts our exit.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def how_it_ended(code: int) -> str:
    """The exit code in words: with exit code 2, by SIGKILL."""
    return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Interrupts the processes that still run, and kills those that do not end."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()  # SIGINT is ignored by what runs in the background
    for process in running:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
