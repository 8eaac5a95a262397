"""The folder of a run, and whether it is that of a config."""

import os
import pathlib

from experiments.runs import files, identity


def check(workdir: pathlib.Path, config: dict) -> bool:
    """Whether `workdir` holds a run of this config; False if it is new or empty.

    Raises:
      ValueError: it is a file, holds a run of another config (each difference is
        named), or files that are not of a run.
    """
    if not workdir.exists():
        return False
    if not workdir.is_dir():
        raise ValueError(f"--workdir must be a directory, got the file {workdir}")
    path = workdir / "config.json"
    if not path.exists():
        foreign = sorted(set(os.listdir(workdir)) - {"config.json.tmp"})
        if foreign:
            raise ValueError(
                f"--workdir {workdir} holds no config.json but other files"
                f" ({', '.join(foreign[:5])}); name a new or an empty folder"
            )
        return False
    changed = identity.differences(files.read_json(path), config)
    if changed:
        raise ValueError(
            f"--workdir {workdir} holds a run of another config; name another folder"
            " or go back to these values (old -> new):\n  " + "\n  ".join(changed)
        )
    return True
