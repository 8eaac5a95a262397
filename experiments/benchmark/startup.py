"""What the run of a config takes before its first step, and beside its steps.

Each config is measured twice in a process of its own: with an empty compilation cache,
and with what the first has left there. Stages are those of `loop.train`, in its order.
"""

import importlib
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.runs import files, records

# A variant of each file in configs/, as behind the colon of --config.
CONFIGS = (
    *("addition", "addition:750", "copying", "copying:5000"),
    *("pixel_mnist", "pixel_mnist:rows", "pixel_mnist:permuted", "certificate"),
    *("deep_mlp", "ptb_char", "ptb_word", "ptb_word:spectral_lstm", "arrays"),
)

COLD, WARM = "cold", "warm"  # the compilation cache
STEPS, SECONDS = 5, 10.0  # after the first one: so many, or as many as take so long
OWN_ITEMS = 512  # sequences of the arrays config, which has no data by itself


def measure(names: list[str], out: pathlib.Path) -> None:
    """Measures configs, prints a line of each and writes benchmark_startup.json.

    Raises:
      ValueError: a process that failed.
    """
    print(f"{'seconds':<24}{'  '.join(Row._fields[1:])}")
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for cache in (COLD, WARM):
                row = _in_process(name, cache, pathlib.Path(folder))
                rows.append(row._asdict())
                print(_line(row), flush=True)
        record = {
            "machine": records.machine(),
            "revision": records.revision(),
            "rows": rows,
        }
        text = json.dumps(record, indent=1) + "\n"
        files.write(out / "benchmark_startup.json", text)
    print(f"\nwritten: {out / 'benchmark_startup.json'}")


class Row(NamedTuple):
    """What a config takes, in seconds where nothing else is said.

    Attributes:
      config: its name, as behind --config.
      cache: "cold" or "warm".
      imports: from the start of the process.
      data: reading or drawing the data.
      initialization: making the parameters, compilation included.
      first_update: the first update, compilation included.
      to_first_step: from the start of the process to the end of the first update.
      compiling: of all this and what follows, the time in which XLA compiles or reads.
      step: an update, the median of some.
      evaluation: the validation data for the first time: with tracing, but without
        compilation.
      checkpoint: saving one.
      programs: the number of programs that were compiled or read.
      gib: the most memory of the process, in GiB.
    """

    config: str
    cache: str
    imports: float
    data: float
    initialization: float
    first_update: float
    to_first_step: float
    compiling: float
    step: float
    evaluation: float
    checkpoint: float
    programs: int
    gib: float


def _line(row: Row) -> str:
    digits = {"programs": 0, "step": 3}
    numbers = [
        f"{value:>{len(name)}.{digits.get(name, 1)}f}"
        for name, value in zip(row._fields[2:], row[2:], strict=True)
    ]
    return "  ".join([f"{row.config:<24}{row.cache:>5}", *numbers])


def _in_process(name: str, cache: str, folder: pathlib.Path) -> Row:
    arguments = [name, cache, str(folder), str(time.time())]
    ended = subprocess.run(
        [sys.executable, "-m", __name__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ValueError(f"{name} ended with exit code {ended.returncode}")
    return Row(**json.loads(ended.stdout.splitlines()[-1]))


# ---- In that process.


def _main(name: str, cache: str, folder: pathlib.Path, began: float) -> None:
    """Prints the row of one config, as JSON on the last line."""
    from experiments import tasks
    from experiments.training import (
        assembly,
        checkpoints,
        compilations,
        devices,
        fields,
        programs,
        session,
    )

    stopwatch = _Stopwatch(began)
    imports = stopwatch.read()
    compilations.keep(str(folder / "compiled"))
    config = config_of(name, folder)
    devices.start(config.train.devices)
    fields.check(config)
    compiled = _Compiled()

    task = tasks.build(config)
    data = stopwatch.read()
    parts = assembly.assemble(config, task=task)
    initialization = stopwatch.read()
    saved = checkpoints.Checkpoints(folder / cache)
    functions = programs.Programs(config, parts)
    run = session.Session(config, parts, functions, saved, time.monotonic())
    run.update()  # waits for the device
    first_update = stopwatch.read()
    to_first_step = time.time() - began
    step = statistics.median(_steps(run))
    run.log_update()
    stopwatch.read()
    before = compiled.seconds
    run.validate()
    evaluation = stopwatch.read() - (compiled.seconds - before)
    run.save()
    checkpoint = stopwatch.read()
    functions.diagnose(functions.averaged(run.state))
    saved.close()
    row = Row(
        config=name,
        cache=cache,
        imports=imports,
        data=data,
        initialization=initialization,
        first_update=first_update,
        to_first_step=to_first_step,
        compiling=compiled.seconds,
        step=step,
        evaluation=evaluation,
        checkpoint=checkpoint,
        programs=compiled.count,
        gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )
    print(json.dumps(row._asdict()))


class _Stopwatch:
    """Seconds since it was read last."""

    def __init__(self, began: float):
        self._last = began

    def read(self) -> float:
        last, self._last = self._last, time.time()
        return self._last - last


class _Compiled:
    """Counts the programs that XLA compiles or reads from now on, and the seconds."""

    def __init__(self) -> None:
        from jax import monitoring

        self.count, self.seconds = 0, 0.0
        monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += duration_secs


def config_of(name: str, folder: pathlib.Path) -> Any:
    """The config of a name, with data where it has none."""
    file, _, variant = name.partition(":")
    get_config = importlib.import_module(f"configs.{file}").get_config
    config = get_config(variant) if variant else get_config()
    if file == "arrays":
        generator = np.random.default_rng(0)
        inputs = generator.normal(size=(OWN_ITEMS, 100, 3)).astype(np.float32)
        config.task.path = str(folder / "data.npz")
        np.savez(config.task.path, inputs=inputs, targets=np.arange(OWN_ITEMS) % 4)
    return config


def _steps(run: Any) -> Iterator[float]:
    """Seconds of some updates, each waited for."""
    import jax

    end = time.monotonic() + SECONDS
    for _ in range(STEPS):
        began = time.monotonic()
        run.update()
        jax.block_until_ready(run.state)
        yield time.monotonic() - began
        if time.monotonic() > end:
            return


if __name__ == "__main__":
    _name, _cache, _folder, _began = sys.argv[1:]
    _main(_name, _cache, pathlib.Path(_folder), float(_began))
