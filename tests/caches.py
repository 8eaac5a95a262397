"""What is done to the folder of compiled programs, and what is left of the runs.

    python -m tests.caches --count=10 [--full=FOLDER]

Runs start together on an empty folder; others are killed at random moments, their
folder taken by the next; every entry is cut in the middle; the folder is full, where
--full names one on a file system of 60 kB (`mount -t tmpfs -o size=60k`), cannot be
made, or is JAX's own. Each run has to come to the digits of one that keeps nothing.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tests import faults

FIELDS = faults.FIELDS | {
    **{"train.steps": 4, "train.log_every": 1},
    **{"train.eval_every": 2, "train.checkpoint_every": 2},
}
NOWHERE = "/proc/nowhere"
TOGETHER = 6


class Run:
    """A small run, in a process of its own."""

    def __init__(self, workdir: pathlib.Path, cache: object = None, **settings: str):
        kept = () if cache is None else (f"--compilation_cache={cache}",)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
        self.workdir = workdir
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.run", f"--workdir={workdir}"),
                *("--config=configs/addition.py", *kept),
                *(f"--config.{name}={value}" for name, value in FIELDS.items()),
            ],
            cwd=faults.ROOT,
            env=environment | {"JAX_PLATFORMS": "cpu"} | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def digits(self) -> tuple[list[dict], str]:
        """The log of the run, which has to end well, and what it says on stderr."""
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        kept = [json.loads(line) for line in lines if '"loss"' in line]
        numbers = [
            {name: value for name, value in line.items() if "second" not in name}
            for line in kept
        ]
        return numbers, errors


def inject(folder: pathlib.Path, count: int, full: str | None) -> None:
    """Does all that the module says, and prints a line of each."""
    expected, errors = Run(folder / "without", "none").digits()
    assert expected and not errors

    def check(what: str, *runs: Run, says: str = "", times: int = 0) -> None:
        for run in runs:
            numbers, errors = run.digits()
            assert numbers == expected, what
            assert errors.count(says) == times if says else not errors, errors
        print(f"{what}: the same digits", flush=True)

    cache = folder / "together"
    together = [Run(folder / f"cold-{i}", cache) for i in range(TOGETHER)]
    check(f"{TOGETHER} at once on an empty folder", *together)
    check("a full folder", Run(folder / "warm", cache))
    cache = folder / "killed"
    generator = random.Random(0)
    for i in range(count):
        run = Run(folder / f"killed-{i}", cache)
        time.sleep(generator.uniform(3.0, 9.0))
        run.process.kill()
        run.process.communicate()
    check(f"after {count} kills", Run(folder / "after", cache))
    entries = list(cache.glob("*-cache"))
    for path in entries:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reading = "Error reading persistent compilation cache"
    cut = Run(folder / "cut", cache)
    programs = {path.name.split("-")[0] for path in entries}  # one warning a name
    check("every entry cut", cut, says=reading, times=len(programs))
    check("the next run", Run(folder / "healed", cache))
    kept = "compiled programs are not kept"
    nowhere = Run(folder / "nowhere", XDG_CACHE_HOME=NOWHERE)
    check("no folder", nowhere, says=kept, times=1)
    own, home = folder / "own", folder / "home"
    own_settings = {"JAX_COMPILATION_CACHE_DIR": str(own), "XDG_CACHE_HOME": str(home)}
    check("JAX's own folder", Run(folder / "jax", **own_settings))
    assert not (home / "svdrnn").exists()
    if full:
        run = Run(folder / "full", pathlib.Path(full) / "compiled")
        check("a full disk", run, says=kept, times=1)


def main() -> None:
    """Injects what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inject(pathlib.Path(folder), arguments.count, arguments.full)


if __name__ == "__main__":
    main()
