"""The processes of a run on many machines: how they meet, agree and end.

All do the same things in the same order; the first of them writes.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

ALONE = 5  # exit code where another process is gone


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of a run; before JAX is used.

    They are those of the arguments or, without any, of the Slurm step or the TPU pod
    that this is one of.

    Args:
      coordinator: host:port at which the first process listens.
      num_processes: of the whole run.
      process_id: of this one, 0 the first.

    Raises:
      ValueError: some of the arguments without the others, or a number that is none of
        the run's.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        if _cluster():
            jax.distributed.initialize()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "--coordinator, --num_processes and --process_id must be given together,"
            f" got {coordinator!r}, {num_processes!r} and {process_id!r}"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id must be less than --num_processes {num_processes}, got"
            f" {process_id}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the process where one of several fails, without waiting for the others.

    They notice that it is gone: what they wait for fails as well, with exit code
    `ALONE`.
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


def _leave(code: int) -> None:
    """Ends a process of several at once; of one, nothing."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cluster() -> bool:
    """Whether this is one of several processes of a Slurm step or a TPU pod."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return tasks not in ("", "1") or "," in hosts


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
    share = multihost_utils.broadcast_one_to_all
    length = int(share(np.int32(len(text))))
    text = np.asarray(share(np.resize(text, length)))
    if error is not None:
        raise error
    answer = json.loads(text.tobytes())
    if "error" in answer:
        raise ValueError(f"the first process refused: {answer['error']}")
    return answer["made"]


def agreed(asked: int | None, waits: bool) -> int | None:
    """The signal by which any of the processes was asked to end, for all of them.

    Several processes ask each other only where they wait in any case; one alone knows.
    """
    if jax.process_count() == 1:
        return asked
    if not waits:
        return None
    found = multihost_utils.process_allgather(np.int32(asked or 0))
    return int(np.max(found)) or None
