"""The paper's figures and tables: runs what is missing, draws what is there.

    python -m experiments.reproduce FIGURE... --scale=smoke|cpu|full [--plan]
        [--seeds=N] [--protocol=paper|tuned] [--workers=N]
    python -m experiments.reproduce readme

FIGURE is F1, F2, F3, F3_leak, F4, F5 (addition, copy, pixel MNIST twice, deep MLPs,
certificates), pixel_mnist or ptb_word (the tables), all, sets (a table of eight sets of
sequences, which `all` leaves out), or the path of a Python file with FIGURE, as those
in experiments/reproduce/figures/. trials stands for the grids from which each model's
settings were chosen (experiments/reproduce/grids.py), and each can be named. --plan
shows every run, whether it is recorded, and what it takes; nothing is run. --seeds=N
leaves all but the first N seeds for another time, --protocol=paper the runs of the
other. --workers=N makes N runs at a time, each in a process of its own on its part of
the cores; what one prints is in a .log file beside its workdir, and where one fails the
others go on. The command given again meanwhile, on any machine that sees --workdir and
--results, makes the runs that no other one makes. `readme` draws every figure anew and
rewrites the tables of README.md and docs/*.md.

Each run is recorded in experiments/results/ as it finishes or diverges, and a run that
was stopped goes on from its last checkpoint: the same command can be stopped and given
again at any time. Runs recorded on another machine count. A record of another config
is an error; with --redo that run is made and recorded again.

Scales (experiments/reproduce/protocol.py): `smoke` takes minutes and shows that all
of it works, on stand-in data, with results under the workdir; `cpu` fits two cores;
`full` is the paper's size.

Exit codes: 0 done (diverged runs are shown, not an error), 1 wrong arguments, 2 a
config, data or record that does not fit, or a run that failed in a worker, 128 + N
stopped by the signal N.
"""

import pathlib

from absl import flags

from experiments import commandline
from experiments.reproduce import (
    documents,
    execution,
    plan,
    protocol,
    registry,
)
from experiments.reproduce.figures import drawing
from experiments.runs import folder, records, signals, workers

_SCALE = flags.DEFINE_string("scale", None, ", ".join(protocol.SCALES))
_PLAN = flags.DEFINE_bool("plan", False, "Show the runs only.")
_REDO = flags.DEFINE_bool("redo", False, "Run again what has another config.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Only the first N seeds of each setting.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Local processes.", lower_bound=1)
_RUN = flags.DEFINE_string("run", None, "Set by --workers: the run that is made.")
_PROTOCOL = flags.DEFINE_string(
    "protocol", None, f"Only the runs of one: {', '.join(protocol.PROTOCOLS)}."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/reproduce", "Folder of the runs' own workdirs."
)
_RESULTS = flags.DEFINE_string(
    "results",
    None,
    "Folder of the records; default: experiments/results; smoke:"
    " WORKDIR/smoke_results.",
)
_COMPILATION_CACHE = commandline.define_compilation_cache()


def main(words: list[str]) -> None:
    """Does what the words and flags ask for."""
    commandline.quiet()
    try:
        if words == ["readme"]:
            commandline.refuse_flags("readme", ())
            _readme()
            return
        request = _request(words)
        if _PLAN.value:
            plan.show(request)
        elif _RUN.value is not None:
            workers.end_with_parent()
            try:
                execution.make(execution.find(_RUN.value, request), request)
            except folder.InUse as error:
                commandline.fail(execution.IN_USE, error)
        elif _WORKERS.value > 1:
            signals.raise_at_once()  # that workers are ended
            execution.share(request, _WORKERS.value)
        else:
            execution.reproduce(request)
    except (ValueError, OSError) as error:
        commandline.refuse(error)


def _request(words: list[str]) -> plan.Request:
    """What is asked for, with `all` and the places of workdir and results filled in."""
    try:
        chosen = registry.named(words)
        if _SCALE.value not in protocol.SCALES:
            allowed = ", ".join(protocol.SCALES)
            raise ValueError(f"--scale must be one of {allowed}, got {_SCALE.value!r}")
        if _SEEDS.value is not None and _SEEDS.value < 1:
            raise ValueError(f"--seeds must be at least 1, got {_SEEDS.value}")
        if _PROTOCOL.value not in (None, *protocol.PROTOCOLS):
            allowed = ", ".join(protocol.PROTOCOLS)
            raise ValueError(
                f"--protocol must be one of {allowed}, got {_PROTOCOL.value!r}"
            )
    except ValueError as error:
        commandline.fail(1, error)
    workdir = commandline.folder(_WORKDIR.value)
    smoke = workdir / "smoke_results"
    results = smoke if _SCALE.value == "smoke" else records.RESULTS
    return plan.Request(
        figures=chosen,
        scale=_SCALE.value,
        seeds=_SEEDS.value,
        redo=_REDO.value,
        protocol=_PROTOCOL.value,
        workdir=workdir,
        results=pathlib.Path(_RESULTS.value) if _RESULTS.value else results,
        compilation_cache=_COMPILATION_CACHE.value,
    )


def _readme() -> None:
    """Draws every figure and rewrites the tables of README.md and docs/."""
    for path in (*drawing.redraw(), *documents.write()):
        print(path)


if __name__ == "__main__":
    commandline.run(main, resumes=True)
