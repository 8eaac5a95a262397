"""Faults that are injected into a run, and what is left of it; larger than the tests.

    python -m tests.faults kills --count=20
    python -m tests.faults signals --count=20
    python -m tests.faults operations --count=1000
    python -m tests.faults record
    python -m tests.faults memory
    python -m tests.faults devices --count=50
    python -m tests.faults array --count=8
    python -m tests.faults database

`kills`: a small run is killed at random moments and started again until it ends; its
result must be that of an uninterrupted one, and no step may stand twice in its log.
`signals`: as `kills`, by SIGTERM, SIGHUP, SIGUSR1 and SIGINT in turn; nothing that was
done may be done again. `operations`: a smaller run is killed before its first file
operation, started again, another before its second, and so on through all of them;
then at random ones, several to a run, until `count` were killed. `record`: every bit of
a checkpoint's record is flipped, one at a time, and the checkpoint has to be refused or
read as it was. `memory`: 5,000 steps, with a log line every 10, an evaluation and a
checkpoint every 50, may not grow beyond what 1,000 of them took; nor may 5,000 that
are logged, evaluated and saved every 1,000, where the host runs far ahead. `devices`:
runs of 3,000 steps over a CPU device a core, two at least, with a log line every 1,000
and as few threads as XLA makes, five at once: each has to end, with one result.
`array`: `count` commands of one sweep start at once on a new folder, as the tasks of a
job array. They share the folder's SQLite file, and a PostgreSQL server where there is
one. `database`: PostgreSQL is taken away from the two workers of a sweep, for 9
seconds, for a minute, and for good; the runs must come to what they come to without
that, each at its first attempt or from its checkpoint, and none may be lost or doubled.
Without a PostgreSQL server it does nothing.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import gc
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests import postgresql

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIELDS = {
    **{"task.length": 6, "model.hidden": 8, "model.reflectors": 3},
    **{"train.batch_size": 16, "train.steps": 30_000, "train.log_every": 100},
    **{"train.eval_every": 5_000, "train.checkpoint_every": 300},
}
IN_SWEEP = FIELDS | {"train.steps": 6_000, "train.eval_every": 1_000}
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)


def start(
    workdir: pathlib.Path, cache: pathlib.Path, fields: dict = FIELDS, **settings: str
) -> subprocess.Popen:
    """The command of a run, by default of the small one."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.run", f"--workdir={workdir}"),
            *("--config=configs/addition.py",),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        cwd=ROOT,
        env=environment(cache) | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(cache: pathlib.Path) -> dict[str, str]:
    """That of a command on the CPU, with a cache of what is compiled."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def result(workdir: pathlib.Path) -> dict:
    """What does not depend on time."""
    found = json.loads((workdir / "result.json").read_text())
    return {name: value for name, value in found.items() if name != "wall_seconds"}


def repeated(workdir: pathlib.Path) -> list:
    """(split, step) that stand more than once in the log."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = collections.Counter(
        (line["split"], line["step"]) for line in lines if line["split"] != "event"
    )
    return [name for name, count in found.items() if count > 1]


def interrupt(count: int, by_signals: bool) -> None:
    """Ends runs until `count` were ended, and compares what they come to."""
    generator = random.Random(0)
    done = finished = 0
    codes: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "compiled"
        whole = pathlib.Path(folder) / "whole"
        assert start(whole, cache).wait() == 0
        while done < count:
            workdir = pathlib.Path(folder) / f"run-{finished}"
            code = None
            while code != 0:
                process = start(workdir, cache)
                if done < count:
                    time.sleep(generator.uniform(1.0, 9.0))
                    number = ENDING[done % 4] if by_signals else signal.SIGKILL
                    if process.poll() is None:
                        process.send_signal(number)
                        done += 1
                _, errors = process.communicate()
                code = process.returncode
                codes[code] += 1
                expected = {0, *(128 + n for n in ENDING), -signal.SIGKILL}
                assert code in expected, (code, errors)
                assert by_signals is False or "Traceback" not in errors, errors
            finished += 1
            assert result(workdir) == result(whole)
            assert not repeated(workdir), repeated(workdir)
            left = sorted(path.name for path in (workdir / "checkpoints").iterdir())
            assert len(left) == 2 and all(name.isdigit() for name in left), left
    print(f"{done} ends, {finished} runs finished, exit codes {dict(codes)}: all equal")


# ---- Kills at file operations, in processes that are forked with all imports done.

# What a file operation is: Python's own name of it, and whether it is one that writes.
WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")


def small_run(workdir: str, data: str, kill_before: int, counted: str) -> None:
    """Trains, and is killed before that file operation; writes how many there were."""
    from configs import arrays
    from experiments.training import loop

    config = arrays.get_config()
    config.task.path = data
    config.model.update(hidden=8, reflectors=3)
    config.train.update(steps=40, batch_size=16, warmup_steps=0)
    config.train.update(log_every=20, eval_every=20, checkpoint_every=10)
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in WRITES) or workdir not in str(arguments[0]):
            return
        count += 1
        if count == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(hook)
    loop.train(config, workdir, config_file=arrays.__file__)
    pathlib.Path(counted).write_text(str(count))
    os._exit(0)


def operations(wanted: int) -> None:
    """Kills runs before each of their file operations; compares what they come to."""
    generator = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.training.loop"])
    kills = finished = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder) / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        counted = str(pathlib.Path(folder) / "counted")
        data = str(pathlib.Path(folder) / "data.npz")
        inputs = np.random.default_rng(0).normal(size=(60, 6, 2))
        np.savez(data, inputs=inputs, targets=np.arange(60) % 2)

        def run(workdir: pathlib.Path, kill_before: int) -> int | None:
            given = (str(workdir), data, kill_before, counted)
            process = context.Process(target=small_run, args=given)
            process.start()
            process.join(120)
            assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
            return process.exitcode

        whole = pathlib.Path(folder) / "whole"
        assert run(whole, 0) == 0
        total = int(pathlib.Path(counted).read_text())
        while kills < wanted:
            workdir = pathlib.Path(folder) / f"run-{finished}"
            at = finished + 1 if finished < total else generator.randint(1, total)
            while run(workdir, at) != 0:
                kills += 1
                several = finished >= total and kills < wanted
                at = generator.randint(1, total) if several else 0
            finished += 1
            assert result(workdir) == result(whole)
            assert not repeated(workdir), repeated(workdir)
            left = sorted(path.name for path in (workdir / "checkpoints").iterdir())
            assert left == ["30", "40"], left
            shutil.rmtree(workdir)
            if finished % 50 == 0:
                print(f"{kills} kills, {finished} runs", flush=True)
    print(
        f"{kills} kills before {total} different file operations, {finished} runs"
        " finished: all equal"
    )


def record() -> None:
    """Flips every bit of a checkpoint's record."""
    import jax.numpy as jnp

    from experiments.training import checkpoints, steps

    state = steps.TrainState({}, {}, jnp.int32(40), None, {}, jnp.int32(-1))
    params = {"w": jnp.arange(3.0)}
    best = {"step": 30, "valid": {"loss": 0.123456789, "mse": 0.123456789}}
    content = {"best": best, "seconds": 12.345678901234567, "restores": 0}
    text = json.dumps(checkpoints._sealed(40, params, content)).encode()
    outcomes: collections.Counter = collections.Counter()
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            value = json.loads(bytes(damaged))
        except ValueError:
            outcomes["no JSON"] += 1
            continue
        try:
            assert checkpoints._opened(40, state, params, value) == content
            outcomes["as it was"] += 1
        except ValueError:
            outcomes["refused"] += 1
    print(f"{8 * len(text)} bits: {dict(outcomes)}")


def memory() -> None:
    """What a long run holds of memory, at a fifth of it and at its end."""
    often = {"log_every": 10, "eval_every": 50, "checkpoint_every": 50}
    seldom = dict.fromkeys(often, 1000)
    for intervals in (often, seldom):
        held = _held(intervals)
        sizes = ", ".join(f"step {n}: {kib / 1024:.0f} MiB" for n, kib in held.items())
        print(f"{intervals}: {sizes}", flush=True)
        growth = (held[5000] - held[1000]) / 1024
        assert growth < 16, f"{growth:.1f} MiB more in 4,000 steps"


def _held(intervals: dict[str, int]) -> dict[int, int]:
    """KiB of memory at every 1,000th of 5,000 steps."""
    from experiments.training import loop
    from tests.experiments.small import tiny_config

    held: dict[int, int] = {}

    def note(step: int, metrics: dict) -> None:
        if step % 1000 == 0:
            gc.collect()
            status = pathlib.Path("/proc/self/status").read_text()
            held[step] = int(status.partition("VmRSS:")[2].split()[0])

    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(steps=5000, batch_size=32, **intervals)
        loop.train(config, pathlib.Path(folder) / "run", note)
    return held


# ---- Several devices, which share the threads of the process.

AHEAD = {
    **{"task.length": 200, "model.hidden": 64, "model.reflectors": 3},
    **{"train.batch_size": 32, "train.steps": 3000, "train.log_every": 1000},
    **{"train.eval_every": 3000, "train.checkpoint_every": 3000},
}
AT_ONCE = 5  # runs: each beside four others that keep the cores busy
STUCK = 900  # seconds after which a run is taken to stand still


def several_devices(count: int) -> None:
    """Runs whose host is far ahead of the devices, several at once on all cores."""
    fields = AHEAD | {"train.devices": max(2, os.cpu_count() or 1)}
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "compiled"

        def one(number: int) -> tuple[int | str, float]:
            began = time.monotonic()
            workdir = pathlib.Path(folder) / f"run-{number}"
            process = start(workdir, cache, fields, PJRT_NPROC="1")
            code: int | str
            try:
                process.communicate(timeout=STUCK)
                code = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                code = "stuck"
            seconds = time.monotonic() - began
            print(f"run {number + 1}: {code}, {seconds:.0f} s", flush=True)
            return code, seconds

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            ended = list(pool.map(one, range(count)))
        done = [number for number, (code, _) in enumerate(ended) if code == 0]
        results = [result(pathlib.Path(folder) / f"run-{number}") for number in done]
    seconds = [taken for _, taken in ended]
    codes = collections.Counter(code for code, _ in ended)
    print(
        f"{len(done)} of {count} runs over {fields['train.devices']} devices ended, in"
        f" {min(seconds):.0f} to {max(seconds):.0f} s; exit codes {dict(codes)}"
    )
    assert len(done) == count
    assert all(other == results[0] for other in results)


# ---- Sweeps by several commands.

SPACE = """
def get_space():
    return {"model.input_scale": [0.1, 0.2, 0.4], "seed": [0, 1]}
"""
RUNS = 6


class Worker:
    """A command of the sweep of small runs, and what it printed."""

    def __init__(self, folder: pathlib.Path, cache: pathlib.Path, *flags: str):
        space = folder / "space.py"
        space.write_text(SPACE)
        self._printed = tempfile.TemporaryFile("w+")
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.sweep", f"--space={space}"),
                *("--config=configs/addition.py", f"--workdir={folder / 'sweep'}"),
                *(f"--config.{name}={value}" for name, value in IN_SWEEP.items()),
                *("--config.train.devices=1", "--heartbeat=2", "--grace=20", *flags),
            ],
            **{"cwd": ROOT, "env": environment(cache)},
            **{"stdout": self._printed, "stderr": self._errors},
        )

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it printed on stdout and stderr."""
        code = self.process.wait()
        texts = []
        for file in (self._printed, self._errors):
            file.seek(0)
            texts.append(file.read())
        return code, *texts


def sweep_runs(workdir: pathlib.Path, url: str | None = None) -> list:
    """The sweep's runs, as its database has them."""
    import optuna

    from experiments.sweep import storage, summary

    kept = json.loads((workdir / "sweep.json").read_text())
    study = optuna.load_study(
        study_name=kept["study"], storage=storage.connect(workdir, url)
    )
    return summary.runs(study, workdir)


def check_complete(workdir: pathlib.Path, url: str | None, values: dict | None) -> dict:
    """Every run completed once, with the value that is given; returns the values."""
    runs = sweep_runs(workdir, url)
    assert [run.state for run in runs] == ["complete"] * RUNS, runs
    assert all(run.kills == 0 for run in runs), runs
    for run in runs:
        folder = workdir / "runs" / f"{run.number:04d}"
        events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        names = [event.get("event") for event in events]
        assert names.count("started") == names.count("finished") == 1, names
        assert not repeated(folder), repeated(folder)
        assert json.loads((folder / "result.json").read_text())["best"]["valid"][
            "mse"
        ] == (run.value)
    found = {str(run.point): run.value for run in runs}
    assert values is None or found == values, (found, values)
    return found


def array(count: int) -> None:
    """Starts the commands of a sweep at once on a new folder, by each database."""
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        urls: dict[str, str | None] = {"the folder's SQLite file": None}
        try:
            urls["PostgreSQL"] = held.enter_context(postgresql.server()).url
        except postgresql.Unavailable as error:
            print(f"PostgreSQL skipped: {error}")
        for name, url in urls.items():
            place = folder / name.split()[-1]
            place.mkdir()
            flags = () if url is None else (f"--storage={url}",)
            workers = [Worker(place, folder / "compiled", *flags) for _ in range(count)]
            ends = [worker.end() for worker in workers]
            assert all(code == 0 and not errors for code, _, errors in ends), ends
            assert all(f"{RUNS} runs: {RUNS} complete" in out for _, out, _ in ends)
            check_complete(place / "sweep", url, None)
            left = [path.name for path in place.rglob("*.tmp")]
            assert not left, left
            print(
                f"{count} commands at once by {name}: all ended with 0, {RUNS} of"
                f" {RUNS} runs complete, once each",
                flush=True,
            )


def wait_for_mid_sweep(worker: Worker, workdir: pathlib.Path) -> None:
    """Until a run is complete and two others have a checkpoint."""
    deadline = time.monotonic() + 300
    while True:
        assert time.monotonic() < deadline and worker.process.poll() is None
        ended = {path.parent for path in workdir.glob("runs/*/result.json")}
        begun = {
            path.parents[2] for path in workdir.glob("runs/*/checkpoints/*/record")
        }
        if ended and len(begun - ended) == 2:
            return
        time.sleep(0.1)


def database() -> None:
    """Takes the database away from sweeps, for a while and for good."""
    with contextlib.ExitStack() as held:
        try:
            server = held.enter_context(postgresql.server())
        except postgresql.Unavailable as error:
            print(f"skipped: {error}")
            return
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        cache = folder / "compiled"
        (folder / "undisturbed").mkdir()
        code, _, errors = Worker(folder / "undisturbed", cache).end()
        assert code == 0, errors
        values = check_complete(folder / "undisturbed" / "sweep", None, None)
        for seconds in (9, 60, None):
            name = f"away-{seconds}"
            place = folder / name
            place.mkdir()
            flags = (f"--storage={server.url}", f"--study={name}")
            flags += ("--max_outage=600",) if seconds else ("--max_outage=15",)
            workers = [Worker(place, cache, *flags) for _ in range(2)]
            wait_for_mid_sweep(workers[0], place / "sweep")
            server.stop()
            stopped = time.monotonic()
            if seconds:
                time.sleep(seconds)
                server.start()
            ends = [worker.end() for worker in workers]
            lines = [line for _, _, errors in ends for line in errors.splitlines()]
            after = time.monotonic() - stopped
            if seconds:
                assert [code for code, _, _ in ends] == [0, 0] and not lines, ends
            else:
                assert [code for code, _, _ in ends] == [6, 6], ends
                assert len(lines) == 2, lines
                print(
                    f"for good: exit codes 6, 6 after {after:.0f} s, each with a line:"
                )
                print(f"  {lines[0]}")
                server.start()
                code, _, errors = Worker(place, cache, *flags).end()
                assert code == 0, errors
            assert check_complete(place / "sweep", server.url, values) == values
            runs = sweep_runs(place / "sweep", server.url)
            tried = sum(run.attempts for run in runs)
            how = f"for {seconds} s" if seconds else "for good, and the command again"
            print(
                f"{how}: {RUNS} of {RUNS} runs complete with the undisturbed values, in"
                f" {tried} attempts, no retry counted",
                flush=True,
            )


def main() -> None:
    """Does what the first word says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ("kills", "signals", "operations", "record", "memory", "devices", "array")
    parser.add_argument("what", choices=(*kinds, "database"))
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.what == "record":
        record()
    elif arguments.what == "memory":
        memory()
    elif arguments.what == "devices":
        several_devices(arguments.count)
    elif arguments.what == "array":
        array(arguments.count)
    elif arguments.what == "database":
        database()
    elif arguments.what == "operations":
        operations(arguments.count)
    else:
        interrupt(arguments.count, arguments.what == "signals")


if __name__ == "__main__":
    main()
