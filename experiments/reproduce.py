"""The paper's figures and tables: runs what is missing, draws what is there.

    python -m experiments.reproduce FIGURE... --scale=smoke|cpu|full [--plan]
        [--seeds=N]
    python -m experiments.reproduce readme

FIGURE is F1, F2, F3, F4 (addition, copy, pixel MNIST, deep MLPs), pixel_mnist or
ptb_word (the tables), or all. --plan shows every run, whether it is recorded, and what
it takes; nothing is run. --seeds=N leaves all but the first N seeds for another time.
`readme` draws every figure anew and rewrites the tables of README.md.

Each run is recorded in experiments/results/ as it finishes or diverges, and a run that
was stopped goes on from its last checkpoint: the same command can be stopped and given
again at any time. Runs recorded on another machine count. A record of another config
is an error; with --redo that run is made and recorded again.

Scales (experiments/reproduction/protocols.py): `smoke` takes minutes and shows that all
of it works, on stand-in data, with results under the workdir; `cpu` fits two cores;
`full` is the paper's size.

Exit codes: 0 done (diverged runs are shown, not an error), 1 wrong arguments, 2 a
config, data or record that does not fit, 130 interrupted.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import sys
from typing import NoReturn

from experiments import logs, records
from experiments.reproduction import drawings, protocols, status, tables
from experiments.reproduction.status import Status


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    try:
        if arguments.figures == ["readme"]:
            readme()
        elif arguments.plan:
            plan(arguments)
        else:
            reproduce(arguments)
    except (ValueError, OSError) as error:
        _exit(2, error)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command goes on where it stopped")


class _Parser(argparse.ArgumentParser):
    """Whatever is wrong is one line."""

    def error(self, message: str) -> NoReturn:
        _exit(1, message)


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments, with `all` and the places of workdir and results filled in."""
    parser = _Parser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figures", nargs="+", metavar="FIGURE")
    parser.add_argument("--scale", help=", ".join(protocols.SCALES))
    parser.add_argument("--plan", action="store_true", help="show the runs only")
    parser.add_argument(
        "--redo", action="store_true", help="run again what has another config"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="only the first N seeds of each setting"
    )
    parser.add_argument(
        "--workdir",
        type=pathlib.Path,
        default=pathlib.Path("runs/reproduce"),
        help="folder of the runs' own workdirs (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        help="folder of the records (default: experiments/results; smoke:"
        " WORKDIR/smoke_results)",
    )
    arguments = parser.parse_args(argv)
    if arguments.figures == ["readme"]:
        return arguments
    if "all" in arguments.figures:
        arguments.figures = list(protocols.FIGURES)
    for figure in arguments.figures:
        if figure not in protocols.FIGURES:
            allowed = ", ".join((*protocols.FIGURES, "all"))
            parser.error(f"FIGURE must be one of {allowed}, got {figure!r}")
    if arguments.scale not in protocols.SCALES:
        allowed = ", ".join(protocols.SCALES)
        parser.error(f"--scale must be one of {allowed}, got {arguments.scale!r}")
    if arguments.seeds is not None and arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
    if arguments.results is None:
        smoke = arguments.scale == "smoke"
        place = arguments.workdir / "smoke_results"
        arguments.results = place if smoke else records.RESULTS
    return arguments


def readme() -> None:
    """Draws every figure and rewrites the tables of README.md."""
    for path in drawings.redraw():
        print(path)
    tables.README.write_text(tables.rewritten(tables.README.read_text()))
    print(tables.README)


# ---- The plan.


def plan(arguments: argparse.Namespace) -> None:
    """Prints every run with its state and time, sums for each figure and in all."""
    seen: dict[str, Status] = {}
    print(
        f"scale {arguments.scale}; ~ is an estimate for two idle CPU cores without a"
        " record"
    )
    for figure in arguments.figures:
        found = asked(figure, arguments)
        for each in found:
            print(_line(each))
        print(f"{figure}: {totals(found)}\n")
        seen |= {each.run.name: each for each in found}
    print(f"in all: {totals(list(seen.values()))}")
    for each in seen.values():
        if each.problem:
            print(f"cannot be used: {each.problem}")


def asked(figure: str, arguments: argparse.Namespace) -> list[Status]:
    """The runs of a figure, those of later seeds left out as --seeds says."""
    found = status.of_figure(figure, arguments.scale, arguments.results)
    if arguments.seeds is None:
        return found
    return [s for s in found if s.run.changes.get("seed", 0) < arguments.seeds]


def totals(found: list[Status]) -> str:
    """'3 of 45 runs recorded; 1 h 40 min with them, 1 h 35 min to go'."""
    done = [each for each in found if each.record]
    whole = sum(each.seconds for each in found)
    left = whole - sum(each.seconds for each in done)
    return (
        f"{len(done)} of {len(found)} runs recorded; {logs.duration(whole)} with"
        f" them, {logs.duration(left)} to go"
    )


def _line(each: Status) -> str:
    state = "missing"
    if each.problem:
        state = "other config"
    elif each.record:
        state = "done" if each.record["result"] else "diverged"
    time = f"{'' if each.measured else '~'}{logs.duration(each.seconds)}"
    return f"  {state:<12} {time:>14}  {each.run.name}"


# ---- Running.


def reproduce(arguments: argparse.Namespace) -> None:
    """Runs what is missing of each figure in turn, and draws it."""
    with _light_compilation() if arguments.scale == "smoke" else _nothing():
        for figure in arguments.figures:
            found = asked(figure, arguments)
            print(f"{figure}: {totals(found)}", flush=True)
            _refuse_problems(found, arguments.redo)
            for each in found:
                if not each.record:
                    run(each.run, arguments.workdir, arguments.results)
            show(figure, arguments.scale, arguments.results)


def run(each: protocols.Run, workdir: pathlib.Path, results: pathlib.Path) -> None:
    """Makes one run, or goes on with it, and records it, diverged or not."""
    from experiments import train  # after the arguments: errors and plans are quick

    config = protocols.build_config(each)
    content = json.dumps(protocols.config_dict(each) | {"data_dir": ""}, sort_keys=True)
    # Of its config, so that a workdir of a changed protocol is not in the way.
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    folder = workdir / f"{each.name}-{digest}"
    print(f"---- {each.name} in {folder}", flush=True)
    try:
        train.train(config, folder)
    except train.NonFiniteLoss as error:
        print(f"diverged: {error}", flush=True)
    print(records.record(folder, each.name, results), flush=True)


def show(figure: str, scale: str, results: pathlib.Path) -> None:
    """Draws a figure or prints a table, from what is recorded."""
    if figure in protocols.TABLES:
        print(tables.TABLES[figure](results, scale))
    else:
        print(drawings.draw(figure, scale, results))


def _refuse_problems(found: list[Status], redo: bool) -> None:
    problems = [each.problem for each in found if each.problem]
    if problems and not redo:
        raise ValueError(f"{problems[0]}\n--redo runs it again; or remove the file")


@contextlib.contextmanager
def _light_compilation():
    """Programs that run for a moment only are compiled without optimisation."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


_nothing = contextlib.nullcontext


def _exit(code: int, error) -> NoReturn:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
