"""Tables and figures of a sweep, without JAX.

Runs are compared by their validation metric; that of the test split is in sweep.csv.
"""

import csv
import math
import pathlib
import statistics
import time
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from experiments.runs import files, folder, progress
from experiments.sweep import drawing
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


_SIZES = ("num_params", "num_independent_params")


class Run(NamedTuple):
    """A run of the sweep; `value` of a pruned one is its last."""

    number: int
    state: str  # one of those above, or "killed" where no attempt is left
    value: float | None
    point: dict[str, Any]
    best_step: int | None
    seconds: float | None
    attempts: int
    kills: int
    error: str | None
    result: dict[str, Any]  # of its result.json: parameters, metrics at the best step
    loss: float | None = None  # on validation data at the best step


class Group(NamedTuple):
    """Runs that differ in seed or fold alone; numbers of the completed ones."""

    point: dict[str, Any]
    mean: float | None
    std: float | None  # of a sample: divided by one less than their number
    low: float | None
    high: float | None
    complete: int
    runs: int
    loss: float | None  # mean, where all completed ones have one


def runs(study: optuna.Study, workdir: pathlib.Path | None = None) -> list[Run]:
    """Every run of the sweep, by number, with the results that the workdir has."""
    result = []
    for number, tried in sorted(storages.attempts(study).items()):
        chosen = next(filter(storages.settled, tried), None)
        live = [trial for trial in tried if not trial.state.is_finished()]
        trial = chosen or (live or tried)[0 if live else -1]
        state = _STATES[trial.state]
        if chosen is None and not live:
            state = "waiting" if "interrupted" in trial.user_attrs else "killed"
        # What waits has not drawn what its plan gives it.
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        point = dict(sorted(spaces.field_values(params).items()))
        if trial.user_attrs.get("seed") is not None:
            point[spaces.SEED] = trial.user_attrs["seed"]
        attrs = trial.user_attrs
        result.append(
            Run(
                number=number,
                state=state,
                value=trial.value if chosen else None,
                point=point,
                best_step=attrs.get("best_step"),
                seconds=attrs.get("seconds"),
                attempts=len(tried),
                kills=storages.killed(tried),
                error=attrs.get("error"),
                result=_result(workdir, number) if state == "complete" else {},
                loss=attrs.get("best_loss"),
            )
        )
    return result


def _result(workdir: pathlib.Path | None, number: int) -> dict[str, Any]:
    """Parameters, and the task's metrics at the best step, of both splits.

    Empty where there is no such file: a run may be on another machine's disk.
    """
    path = None if workdir is None else run_folder(workdir, number) / "result.json"
    if path is None or not path.exists():
        return {}
    content = folder.read_result(path)
    kept = {name: content.get(name) for name in _SIZES}
    for split in ("valid", "test"):
        metrics = content["best"][split]
        kept |= {f"{split}_{name}": value for name, value in metrics.items()}
    return kept


def run_folder(workdir: pathlib.Path, number: int) -> pathlib.Path:
    """Where a run of the sweep is."""
    return workdir / "runs" / f"{number:04d}"


def groups(members: list[Run], higher_is_better: bool) -> list[Group]:
    """Runs joined over seeds and folds, the best mean first and those without one last.

    Of equal means the one with the lower mean loss goes first.
    """
    joined: dict[tuple, list[Run]] = {}
    for run in members:
        point = {n: v for n, v in run.point.items() if n not in spaces.AVERAGED}
        if point or run.state == "complete":  # TPE has not drawn what waits
            joined.setdefault(tuple(point.items()), []).append(run)
    rows = [_group(dict(point), repeats) for point, repeats in joined.items()]
    return sorted(rows, key=lambda g: _rank(g.mean, g.loss, higher_is_better))


def _rank(
    value: float | None, loss: float | None, higher_is_better: bool
) -> tuple[float, ...]:
    """The lower the better: by the value, then by the loss; None is last of all."""
    value = -value if value is not None and higher_is_better else value
    return tuple(math.inf if number is None else number for number in (value, loss))


def _group(point: dict[str, Any], members: list[Run]) -> Group:
    counted = [
        run for run in members if run.state == "complete" and run.value is not None
    ]
    values = [run.value for run in counted if run.value is not None]
    losses = [run.loss for run in counted if run.loss is not None]
    return Group(
        point=point,
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=min(values, default=None),
        high=max(values, default=None),
        complete=len(values),
        runs=len(members),
        loss=statistics.fmean(losses)
        if values and len(losses) == len(values)
        else None,
    )


def write(
    workdir: pathlib.Path, url: str | None, max_outage: float = storages.MAX_OUTAGE
) -> None:
    """Prints the table; writes sweep.csv and sweep.png into the folder.

    Raises:
      ValueError: the folder holds no sweep, or its database cannot be read.
      contact.DatabaseAway: the database stayed away for more than `max_outage` seconds.
    """
    identity = storages.read(workdir)
    if identity is None:
        raise ValueError(f"--workdir {workdir} holds no sweep: there is no sweep.json")
    if identity["storage"] is not None and url is None:
        raise ValueError(
            f"the sweep is stored in {identity['storage']}: give --storage"
        )
    storage = storages.connect(workdir, url, max_outage=max_outage)
    try:
        study = optuna.load_study(study_name=identity["study"], storage=storage)
    except KeyError:
        name = identity["study"]
        raise ValueError(f"the storage has no sweep of the name {name!r}") from None
    members = runs(study, workdir)
    fields = list(identity["space"])
    print(table(members, fields, identity["metric"], identity["higher_is_better"]))
    write_csv(members, fields, workdir / "sweep.csv")
    drawn = drawing.draw(
        workdir / "sweep.csv",
        workdir / "sweep.png",
        identity["space"],
        identity["metric"],
        identity["higher_is_better"],
    )
    print(f"runs: {workdir / 'sweep.csv'}\nfigure: {drawn}")


def table(
    members: list[Run], fields: list[str], metric: str, higher_is_better: bool
) -> str:
    """Groups with mean and spread, the best first, then how many runs ended how."""
    shown = [name for name in fields if name not in spaces.AVERAGED]
    rows = [[*shown, "mean", "std", "min", "max", "complete"]]
    for group in groups(members, higher_is_better):
        values = [group.point.get(name, "") for name in shown]
        numbers = [group.mean, group.std, group.low, group.high]
        rows.append(
            [
                *map(_text, values),
                *("" if number is None else f"{number:.5g}" for number in numbers),
                f"{group.complete}/{group.runs}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    states = [run.state for run in members]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    better = "higher" if higher_is_better else "lower"
    head = f"validation {metric} at the best step, {better} is better"
    tail = [f"{len(members)} runs: {', '.join(sorted(counts))}"]
    tail += [
        f"run {run.number} failed: {run.error.splitlines()[0]}"
        for run in members
        if run.error
    ]
    return "\n".join([head, *lines, *tail])


def write_csv(members: list[Run], fields: list[str], path: pathlib.Path) -> None:
    """One line a run; of complete ones with all metrics of the task, at its best."""
    names = list(dict.fromkeys(name for run in members for name in run.result))
    with (
        files.replacing(path) as temporary,
        temporary.open("w", newline="", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        last = ("best_step", "seconds", "attempts", "error")
        writer.writerow(["run", "state", "value", *fields, *names, *last])
        for run in members:
            values = [_whole(run.point.get(name, "")) for name in fields]
            end = [run.best_step, run.seconds, run.attempts, run.error]
            own = [run.result.get(name, "") for name in names]
            writer.writerow([run.number, run.state, run.value, *values, *own, *end])


class Progress:
    """A line for every run that ends while this process looks on."""

    def __init__(self, study: optuna.Study, total: int, max_retries: int):
        self._study = study
        self._total = total
        self._max_retries = max_retries
        members = self._planned()
        self._shown = {run.number for run in members if self._over(run)}
        self._before = len(self._shown)
        self._since = time.monotonic()
        print(f"{total} runs: {self._counts(members)}", flush=True)

    def _planned(self) -> list[Run]:
        """Those of this command: the sweep may have had more runs before."""
        return [run for run in runs(self._study) if run.number < self._total]

    def show(self) -> None:
        """Prints the runs that have ended since the last call."""
        members = self._planned()
        complete = [run for run in members if run.state == "complete"]
        for run in members:
            if run.number in self._shown or not self._over(run):
                continue
            self._shown.add(run.number)
            text = f"run {run.number} ({len(self._shown)}/{self._total}): {run.state}"
            if run.value is not None:
                text += f" {run.value:.5g}"
            if run.seconds is not None:
                text += f" in {progress.duration(run.seconds)}"
            text += "".join(f" {n}={_text(v)}" for n, v in run.point.items())
            if run.error:
                text += f": {run.error.splitlines()[0]}"
            if complete:
                best = self._best(complete)
                text += f" | best {best.value:.5g} (run {best.number})"
            print(f"{text} | {self._counts(members)}", flush=True)

    def _counts(self, members: list[Run]) -> str:
        """How many runs are done, running and left, and the time that they will take.

        By the mean of those that ended while this process looked on, so that it counts
        in how many workers there are.
        """
        done, here = len(self._shown), len(self._shown) - self._before
        running = sum(
            run.state == "running" and run.number not in self._shown for run in members
        )
        left = self._total - done - running
        text = f"{done} done, {running} running, {left} left"
        if here and done < self._total:
            seconds = (time.monotonic() - self._since) / here * (self._total - done)
            text += f", about {progress.duration(seconds)}"
        return text

    def left(self) -> int:
        """Runs that have not ended."""
        return self._total - len(self._shown)

    def _best(self, complete: list[Run]) -> Run:
        maximize = self._study.direction == optuna.study.StudyDirection.MAXIMIZE
        return min(complete, key=lambda run: _rank(run.value, run.loss, maximize))

    def _over(self, run: Run) -> bool:
        if run.state == "killed":  # or about to be queued again
            return run.kills > self._max_retries
        return run.state not in ("running", "waiting")


def _whole(value: Any) -> Any:
    """A float as it is, which a CSV file has in full, and other values as text."""
    return value if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
