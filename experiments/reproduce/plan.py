"""Which runs a command asks for, and what of them there is. No JAX."""

import pathlib
from typing import NamedTuple

from experiments.reproduce import protocol, status
from experiments.runs import progress


class Request(NamedTuple):
    """What `experiments.reproduce` is asked for; its flags say what they mean."""

    figures: list[protocol.Figure]
    scale: str
    seeds: int | None
    redo: bool
    workdir: pathlib.Path
    results: pathlib.Path
    protocol: str | None = None


def show(request: Request) -> None:
    """Prints every run with its state and time, sums for each figure and in all."""
    seen: dict[str, status.Status] = {}
    print(
        f"scale {request.scale}; ~ is an estimate for two idle CPU cores without a"
        " record"
    )
    for figure in request.figures:
        found = asked(figure, request)
        for each in found:
            print(_line(each))
        print(f"{figure.name}: {totals(found)}\n")
        seen |= {each.run.name: each for each in found}
    print(f"in all: {totals(list(seen.values()))}")
    for each in seen.values():
        if each.problem:
            print(f"cannot be used: {each.problem}")


def asked(figure: protocol.Figure, request: Request) -> list[status.Status]:
    """The runs of a figure, as `seeds` and `protocol` leave them."""
    found = status.of_figure(figure, request.scale, request.results)
    if request.seeds is not None:
        found = [s for s in found if s.run.changes.get("seed", 0) < request.seeds]
    if request.protocol is not None:
        found = [s for s in found if s.run.protocol == request.protocol]
    return found


def totals(found: list[status.Status]) -> str:
    """'3 of 45 runs recorded; 1 h 40 min with them, 1 h 35 min to go'."""
    done = [each for each in found if each.record]
    whole = sum(each.seconds for each in found)
    left = whole - sum(each.seconds for each in done)
    return (
        f"{len(done)} of {len(found)} runs recorded; {progress.duration(whole)} with"
        f" them, {progress.duration(left)} to go"
    )


def _line(each: status.Status) -> str:
    state = "missing"
    if each.problem:
        state = "other config"
    elif each.record:
        state = "done" if each.record["result"] else "diverged"
    time = f"{'' if each.measured else '~'}{progress.duration(each.seconds)}"
    return f"  {state:<12} {time:>14}  {each.run.name}"
