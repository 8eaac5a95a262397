"""What a task has taken from its training data, kept in the folder of its runs.

`base.Task.fitted` gives it. A run goes on, and its model is opened, only where the data
give the same again: what the parameters mean depends on it.
"""

import math
import pathlib
from typing import Any

from experiments.runs import files, identity

NAME = "task.json"


def keep(workdir: pathlib.Path, fitted: dict[str, Any]) -> None:
    """Writes it into the folder of a run, unless it is there; checks it where it is.

    Raises:
      ValueError: as `check`.
      files.Unwritable: it cannot be written.
    """
    if not fitted:
        return
    check(workdir, fitted)
    if not (workdir / NAME).exists():
        files.write_json(workdir / NAME, fitted)


def check(workdir: pathlib.Path, fitted: dict[str, Any]) -> None:
    """Raises ValueError where a run was begun on data that gave something else."""
    path = workdir / NAME
    if not path.exists():
        return
    kept = identity.flatten(files.read_object(path))
    present = identity.flatten(fitted)
    for field in sorted(kept.keys() | present.keys()):
        before, now = (fields.get(field, identity.ABSENT) for fields in (kept, present))
        if not _same(before, now):
            raise ValueError(
                f"the data must be those of the run, got others: {field} of {path} is"
                f" {before!r}, that of the data now {now!r}"
            )


def _same(before: Any, now: Any) -> bool:
    """Whether two JSON values are the same; numbers may differ by rounding."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_same, before, now))
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-300)
    return type(before) is type(now) and before == now
