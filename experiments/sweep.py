"""Runs a config over many values of its fields: grid, random or TPE search.

    python -m experiments.sweep --config=FILE --space=FILE --workdir=DIR \
        [--sampler=grid|random|tpe] [--trials=N] [--workers=N] [--pruner=median]
    python -m experiments.sweep summary --workdir=DIR

--space is a Python file whose get_space() returns {field: values}, as in
configs/spaces/; --config and --config.FIELD=VALUE are those of experiments.run. Every
run is an ordinary one, in DIR/runs/NUMBER; what it prints is in NUMBER.log beside it.
Its value is the task's metric on validation data at its best step.

Optuna samples, prunes and stores, in DIR/sweep.sqlite or the database of --storage.
The same command goes on with what is left, also after Ctrl-C or with a larger
--trials. Given again while it runs, on any machine that sees DIR (and with
--storage=postgresql://..., because SQLite needs a local disk), it adds workers.

A run that completed, was pruned, or failed for a cause (its error is kept) is settled
and never run again. One whose worker was killed is noticed by the missing heartbeat,
--grace seconds later, and taken up by another in the same folder, from its checkpoint,
--max_retries times at most.

Workers of one machine share its device: for several, start a command for each with
CUDA_VISIBLE_DEVICES, and for several workers on one GPU set
XLA_PYTHON_CLIENT_PREALLOCATE=false. Exit codes are those of experiments.run; 2 also
when workers ended before the runs did.
"""

import pathlib
import signal
import subprocess
import sys
import time
import warnings

import optuna
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import commandline
from experiments.sweeps import setup, summary, worker
from experiments.sweeps import space as spaces

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), as in configs/."
)
_SPACE = flags.DEFINE_string(
    "space", None, "Python file with get_space(), as in configs/spaces/."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.", required=True)
_SAMPLER = flags.DEFINE_enum(
    "sampler", "grid", ["grid", "random", "tpe"], "How values are chosen."
)
_TRIALS = flags.DEFINE_integer(
    "trials", None, "Runs in all; default: the whole grid.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the sampler, not the runs.", lower_bound=0)
_PRUNER = flags.DEFINE_enum(
    "pruner", "none", ["none", "median", "hyperband"], "What ends poor runs early."
)
_PRUNER_STARTUP = flags.DEFINE_integer(
    "pruner_startup", 5, "median: runs that complete before any is pruned."
)
_PRUNER_WARMUP = flags.DEFINE_integer(
    "pruner_warmup", 0, "Steps of a run before it can be pruned.", lower_bound=0
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Local processes.", lower_bound=1)
_WORKER = flags.DEFINE_integer("worker", None, "Set by --workers: a worker's index.")
_STORAGE = flags.DEFINE_string(
    "storage", None, "URL of a database; default: sweep.sqlite in the workdir."
)
_STUDY = flags.DEFINE_string(
    "study", None, "Name of the sweep in the database; default: that of the folder."
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat", 15, "Seconds between a worker's signs of life.", lower_bound=1
)
_GRACE = flags.DEFINE_integer(
    "grace", 60, "Seconds without one before a run is given to another.", lower_bound=2
)
_MAX_RETRIES = flags.DEFINE_integer(
    "max_retries", 3, "Most times that a run is taken up again.", lower_bound=0
)


def main(argv: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Heartbeats are marked experimental; a resumed run reports some steps twice.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        if argv[1:] == ["summary"]:
            summary.write(workdir, _STORAGE.value)
        elif len(argv) > 1:
            raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
        else:
            _sweep(workdir)
    except (ValueError, OSError, optuna.exceptions.OptunaError) as error:
        commandline.fail(2, error)
    except KeyboardInterrupt:
        commandline.fail(130, "interrupted; the same command goes on")


def _sweep(workdir: pathlib.Path) -> None:
    """Runs the sweep to its end and sums it up; a worker of another leaves that."""
    sweep = _prepare(workdir)
    worker.queue(sweep)
    if _WORKER.value is not None:
        worker.work(sweep)
        return
    if _WORKERS.value == 1:
        worker.work(sweep, _progress(sweep))
    else:
        _spawn(sweep, _WORKERS.value)
    summary.write(workdir, _STORAGE.value)


def _prepare(workdir: pathlib.Path) -> setup.Sweep:
    """The sweep that the flags describe."""
    for flag in (_CONFIG, _SPACE):
        if flag.value is None:
            raise ValueError(f"--{flag.name} must be given")
    config = _CONFIG.value
    commandline.choose_length(config.train, flags.FLAGS["config"].override_values)
    options = setup.Options(
        sampler=_SAMPLER.value,
        trials=_TRIALS.value,
        seed=_SEED.value,
        pruner=_PRUNER.value,
        pruner_startup=_PRUNER_STARTUP.value,
        pruner_warmup=_PRUNER_WARMUP.value,
        storage=_STORAGE.value,
        study=_STUDY.value,
        heartbeat=_HEARTBEAT.value,
        grace=_GRACE.value,
        max_retries=_MAX_RETRIES.value,
        worker=_WORKER.value or 0,
    )
    return setup.prepare(config, spaces.load(_SPACE.value), workdir, options)


# ---- Several workers on this machine.


def _progress(sweep: setup.Sweep) -> summary.Progress:
    return summary.Progress(sweep.study, len(sweep.plan), sweep.options.max_retries)


def _spawn(sweep: setup.Sweep, count: int) -> None:
    """Starts workers, each this command again, and prints what they finish.

    Raises:
      ValueError: all workers ended, but not all runs.
    """
    progress = _progress(sweep)
    outputs = [sweep.workdir / f"worker-{index}.log" for index in range(count)]
    processes: dict[int, subprocess.Popen] = {}
    try:
        for index, log in enumerate(outputs):
            processes[index] = _start_worker(index, log)
        print(f"workers: {', '.join(str(each.pid) for each in processes.values())}")
        running = dict(processes)
        while running:
            time.sleep(1)
            progress.show()
            for index, process in list(running.items()):
                code = process.poll()
                if code:
                    _report_end(index, code, outputs[index])
                if code is not None:
                    del running[index]
        progress.show()
    finally:
        _stop(list(processes.values()))
    left = progress.left()
    if left:
        raise ValueError(
            f"every worker has ended and {left} runs are left; the same command goes on"
        )


def _start_worker(index: int, log: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:]]
    with log.open("a") as file:
        return subprocess.Popen(
            [*command, f"--worker={index}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,  # Ctrl-C comes from here, once
        )


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


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
