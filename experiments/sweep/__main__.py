r"""Runs a config over many values of its fields: grid, random or TPE search.

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

A database that is away costs time: runs go on, and what they report is kept until it is
back. One that stays away for longer than --max_outage seconds ends the worker with exit
code 6; its run counts as interrupted, and the same command goes on with it.

Each of --workers has its part of the cores. On a GPU they share the device: for several
GPUs, start a command for each with CUDA_VISIBLE_DEVICES, and for several workers on one
set XLA_PYTHON_CLIENT_PREALLOCATE=false. Exit codes are those of experiments.run; 2 also
when workers ended before the runs did.
"""

import pathlib
import warnings

import optuna
from absl import flags
from ml_collections import config_flags

from experiments import commandline
from experiments.runs import identity, signals, workers
from experiments.sweep import contact, processes, setup, summary, worker
from experiments.sweep import space as spaces

_DEFAULTS = setup.Options()

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), as in configs/."
)
_SPACE = flags.DEFINE_string(
    "space", None, "Python file with get_space(), as in configs/spaces/."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.", required=True)
_SAMPLER = flags.DEFINE_enum(
    "sampler", _DEFAULTS.sampler, ["grid", "random", "tpe"], "How values are chosen."
)
_TRIALS = flags.DEFINE_integer(
    "trials",
    _DEFAULTS.trials,
    "Runs in all; default: the whole grid.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    "seed", _DEFAULTS.seed, "Of the sampler, not the runs.", lower_bound=0
)
_PRUNER = flags.DEFINE_enum(
    "pruner",
    _DEFAULTS.pruner,
    ["none", "median", "hyperband"],
    "What ends poor runs early.",
)
_PRUNER_STARTUP = flags.DEFINE_integer(
    "pruner_startup",
    _DEFAULTS.pruner_startup,
    "median: runs that complete before any is pruned.",
    lower_bound=0,
)
_PRUNER_WARMUP = flags.DEFINE_integer(
    "pruner_warmup",
    _DEFAULTS.pruner_warmup,
    "Steps of a run before it can be pruned.",
    lower_bound=0,
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Local processes.", lower_bound=1)
_WORKER = flags.DEFINE_integer("worker", None, "Set by --workers: a worker's index.")
_STORAGE = flags.DEFINE_string(
    "storage",
    _DEFAULTS.storage,
    "URL of a database; default: sweep.sqlite in the workdir.",
)
_STUDY = flags.DEFINE_string(
    "study",
    _DEFAULTS.study,
    "Name of the sweep in its database; default: that of the folder with --storage,"
    " else sweep.",
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat",
    _DEFAULTS.heartbeat,
    "Seconds between a worker's signs of life.",
    lower_bound=1,
)
_GRACE = flags.DEFINE_integer(
    "grace",
    _DEFAULTS.grace,
    "Seconds without one before a run is given to another.",
    lower_bound=2,
)
_MAX_OUTAGE = flags.DEFINE_integer(
    "max_outage",
    _DEFAULTS.max_outage,
    "Most seconds for which a database that is away is waited for.",
    lower_bound=0,
)
_MAX_RETRIES = flags.DEFINE_integer(
    "max_retries",
    _DEFAULTS.max_retries,
    "Most times that a run is taken up again.",
    lower_bound=0,
)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Sweeps by the flags, or sums up a sweep."""
    commandline.quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Heartbeats are marked experimental; a resumed run reports some steps twice.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    signals.raise_at_once()  # that workers are ended, and attempts marked
    try:
        workdir = commandline.folder(_WORKDIR.value)
        if words == ["summary"]:
            commandline.refuse_flags("summary", ("workdir", "storage", "max_outage"))
            summary.write(workdir, _STORAGE.value, _MAX_OUTAGE.value)
        else:
            commandline.no_words(words)
            _sweep(workdir)
    except (ValueError, OSError) as error:
        commandline.refuse(error)
    except contact.DatabaseAway as error:
        commandline.fail(6, f"--storage: {error}; the same command goes on")
    except optuna.exceptions.OptunaError as error:
        cause = getattr(error.__cause__, "orig", None) or error
        commandline.fail(2, f"--storage, --study: {cause}")


def _sweep(workdir: pathlib.Path) -> None:
    """Runs the sweep to its end and sums it up; a worker of another leaves that."""
    sweep = _prepare(workdir)
    worker.queue(sweep)
    if _WORKER.value is not None:
        workers.end_with_parent()
    if _WORKER.value is not None or _WORKERS.value == 1:
        from experiments.training import compilations  # with JAX

        compilations.keep(_COMPILATION_CACHE.value)
    if _WORKER.value is not None:
        worker.work(sweep)
        return
    if _WORKERS.value == 1:
        worker.work(sweep, processes.progress(sweep))
    else:
        processes.spawn(sweep, _WORKERS.value)
    summary.write(workdir, _STORAGE.value, _MAX_OUTAGE.value)


def _prepare(workdir: pathlib.Path) -> setup.Sweep:
    """The sweep that the flags describe."""
    if _CONFIG.value is None:
        commandline.fail(1, "--config must be given, got none")
    if _SPACE.value is None:
        commandline.fail(1, "--space must be given, got none")
    config = _CONFIG.value
    overrides = commandline.overrides()
    commandline.choose_length(config.train, overrides)
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
        max_outage=_MAX_OUTAGE.value,
        config_file=commandline.config_file(),
    )
    space = spaces.load(_SPACE.value)
    if not identity.DECIDING & set(space or ()):  # else some run may read them
        identity.check_overrides(config, overrides)
    return setup.prepare(config, space, workdir, options)


if __name__ == "__main__":
    commandline.run(main, resumes=True)
