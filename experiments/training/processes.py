"""The processes of a run on many machines: how they meet, agree and end.

All do the same things in the same order; the first of them writes.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
from absl import logging

from experiments.training import exchange

ALONE = 5  # exit code where another process is gone, or has not come
SILENCE = 100  # seconds without a sign of life after which XLA ends the others
LEAVING = 10  # seconds that a process which fails waits for the others to end as well
TAKEN = 10  # seconds that a port may be taken, by what has just ended
STEPS = 16  # of a Slurm job at once that have ports of their own


# ---- How they meet.


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    timeout: int,
) -> None:
    """Joins the other processes of a run; before JAX is used.

    They are those of the arguments or, without any, of the Slurm step that this is one
    of, or of the TPU pod that JAX finds. Where they have not all come in time, the
    process ends with the exit code `ALONE`.

    Args:
      coordinator: host:port at which the first process listens.
      num_processes: of the whole run.
      process_id: of this one, 0 the first.
      timeout: seconds within which all have to come.

    Raises:
      ValueError: some of the arguments without the others, one that no run has, or a
        port that is taken.
    """
    arguments = (coordinator, num_processes, process_id)
    if arguments == (None, None, None):
        _join_cluster(timeout)
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "--coordinator, --num_processes and --process_id must be given together,"
            f" got {coordinator!r}, {num_processes!r} and {process_id!r}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not _is_port(port):
        raise ValueError(f"--coordinator must be host:port, got {coordinator!r}")
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id must be less than --num_processes {num_processes}, got"
            f" {process_id}"
        )
    if process_id == 0:
        _wait_for_port("--coordinator", int(port))
    _initialize(timeout, coordinator, num_processes, process_id)


def _join_cluster(timeout: int) -> None:
    """As `join`, of a Slurm step with several tasks or a TPU pod; else nothing."""
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1"):
        # By itself JAX would take one port for all steps of a job.
        name = "JAX_COORDINATOR_PORT"
        port = os.environ.setdefault(name, str(_port_of_step()))
        if not _is_port(port):
            raise ValueError(f"{name} must be a port, got {port!r}")
        if os.environ.get("SLURM_PROCID") == "0":
            _wait_for_port(name, int(port))
        _initialize(timeout)
        return
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if "tpu" in (platforms or ""):  # as JAX has it where there are TPUs
        try:
            _initialize(timeout)
        except Exception as error:
            if jax.distributed.is_initialized():
                raise
            logging.warning(
                "this host trains alone: JAX finds no TPU pod around it (%s)", error
            )


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 2**16


def _port_of_step() -> int:
    """A port for each step of a Slurm job, above those that systems give out.

    `STEPS` of a job, and so many of each of 256 jobs in a row, have different ones.
    """
    job, step = (int(os.environ[f"SLURM_{name}_ID"]) for name in ("JOB", "STEP"))
    return 2**16 - 2**12 + (STEPS * job + step % STEPS) % 2**12


def _wait_for_port(name: str, port: int) -> None:
    """Raises ValueError where the port stays taken.

    JAX itself would share it: the processes of two runs would meet, and end each other.
    """
    deadline = time.monotonic() + TAKEN
    while True:
        try:
            socket.create_server(("", port)).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ValueError(
                    f"{name} must have a port that is free here, got {port}:"
                    f" {os.strerror(error.errno or 0)}"
                ) from error
        time.sleep(0.5)


def _initialize(
    timeout: int,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """JAX's own joining, which by itself aborts with a stack when the time is over."""
    executor = futures.ThreadPoolExecutor(1)  # signals are handled meanwhile
    joining = executor.submit(
        jax.distributed.initialize,
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=timeout + 60,
        heartbeat_timeout_seconds=SILENCE,
    )
    try:
        joining.result(timeout)
    except TimeoutError:
        line = f"the processes of this run did not all come within {timeout} s"
        print(f"error: {line} (--join_timeout)", file=sys.stderr, flush=True)
        os._exit(ALONE)
    finally:
        executor.shutdown(wait=False)


# ---- How they end.


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the process where one of several fails.

    The others notice that it is gone: what they wait for fails as well, with the exit
    code `ALONE`. Where the first is gone XLA is faster, and aborts them.
    """
    try:
        yield
    except SystemExit as ending:
        _leave(int(ending.code or 0))
        raise
    except jax.errors.JaxRuntimeError as error:
        if jax.distributed.is_initialized():
            first_line = str(error).partition("\n")[0]
            print(
                f"error: another process of this run has ended ({first_line})",
                file=sys.stderr,
            )
            _leave(ALONE)
        raise
    except Exception:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            _leave(1)
        raise


def _leave(code: int) -> None:
    """Ends a process of several, of which none may wait for it; of one, nothing.

    Those that fail at one time meet once more: XLA aborts what is still at work when
    the first has gone.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        meeting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        meeting.start()
        meeting.join(LEAVING)
        os._exit(code)


# ---- What they do together.


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def by_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, plain JSON values, in all of them.

    Raises:
      ValueError: in the other processes, where the first raises anything.
    """
    if jax.process_count() == 1:
        return make()
    answer, error = {}, None
    if first():
        try:
            answer = {"made": make()}
        except Exception as raised:
            error = raised
            answer = {"error": str(raised)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = exchange.gathered(np.int32(len(text)))[0]
    text = exchange.gathered(np.resize(text, length))[0]
    if error is not None:
        raise error
    answer = json.loads(text.tobytes())
    if "error" in answer:
        raise ValueError(f"the first process refused: {answer['error']}")
    return answer["made"]


def agreed(signal: int | None, waits: bool) -> int | None:
    """The number of a signal that has come to any of the processes, in all of them.

    Several processes tell each other only where they wait in any case.

    Args:
      signal: the number of the one that has come to this process, if any.
      waits: whether the processes wait for their devices here.
    """
    if jax.process_count() == 1:
        return signal
    if not waits:
        return None
    signals = exchange.gathered(np.int32(signal or 0))
    return int(np.max(signals)) or None
