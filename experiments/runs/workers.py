"""Processes that a command starts to share its work, and their common end. No JAX."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

from experiments.runs import cores


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
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def how_it_ended(code: int) -> str:
    """The exit code in words: with exit code 2, by SIGKILL."""
    return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Interrupts the workers that still run, and kills those that do not end."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.terminate()  # SIGINT is ignored by what runs in the background
    for process in left:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
