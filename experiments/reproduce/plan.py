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
    compilation_cache: str | None = None


def show(request: Request) -> None:
    """Prints every run with its state and time, sums for each figure and in all."""
    seen: dict[str, status.Status] = {}
    print(
        f"scale {request.scale}; ~ is an estimate for two idle CPU cores without a"
        " record"
    )
    for figure in request.figures:
        states = states_of(figure, request)
        for state in states:
            print(_line(state))
        print(f"{figure.name}: {totals(states)}\n")
        seen |= {state.run.name: state for state in states}
    print(f"in all: {totals(list(seen.values()))}")
    for state in seen.values():
        if state.problem:
            print(f"cannot be used: {state.problem}")


def states_of(figure: protocol.Figure, request: Request) -> list[status.Status]:
    """The runs of a figure, as `seeds` and `protocol` leave them."""
    states = status.of_figure(figure, request.scale, request.results)
    if request.seeds is not None:
        states = [s for s in states if s.run.changes.get("seed", 0) < request.seeds]
    if request.protocol is not None:
        states = [s for s in states if s.run.protocol == request.protocol]
    return states


def totals(states: list[status.Status]) -> str:
    """'3 of 45 runs recorded; 1 h 40 min with them, 1 h 35 min to go'."""
    done = [state for state in states if state.record]
    whole = sum(state.seconds for state in states)
    left = whole - sum(state.seconds for state in done)
    return (
        f"{len(done)} of {len(states)} runs recorded; {progress.duration(whole)} with"
        f" them, {progress.duration(left)} to go"
    )


def _line(state: status.Status) -> str:
    text = "missing"
    if state.problem:
        text = "other config"
    elif state.record:
        text = "done" if state.record["result"] else "diverged"
    time = f"{'' if state.measured else '~'}{progress.duration(state.seconds)}"
    return f"  {text:<12} {time:>14}  {state.run.name}"
