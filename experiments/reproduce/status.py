"""Which runs of a figure are recorded, and what the others will take. No JAX."""

import pathlib
import statistics
from typing import NamedTuple

from experiments.data import stand_in
from experiments.reproduce import estimates, protocol
from experiments.runs import identity, origin, records


class Status(NamedTuple):
    """record: that of the run, or None. problem: why one cannot be used, or None.

    seconds: what the run took, or an estimate; measured: from records.
    """

    run: protocol.Run
    record: dict | None
    problem: str | None
    seconds: float
    measured: bool


def find(run: protocol.Run, results: pathlib.Path) -> tuple[dict | None, str | None]:
    """The run's record, or None and, where a record cannot be used, why.

    Raises:
      ValueError: the file is not a record.
    """
    record = records.read(run.name, results)
    if record is None:
        return None, None
    config = protocol.config_dict(run)
    changed = identity.differences(record["config"], config, run.free)
    path = results / f"{run.name}.json"
    if changed:
        return None, (
            f"{path} is the record of another config (there -> asked for):\n  "
            + "\n  ".join(changed)
        )
    changed = origin.changed_streams(record.get("settings"), origin.STREAMS)
    if changed:
        return None, (
            f"{path} was made with other random streams (there -> asked for):\n  "
            + "\n  ".join(changed)
        )
    stands_in = identity.stands_in(config)
    if (record.get("data") == stand_in.NAME) != stands_in:
        kind = "stand-in" if stands_in else "real"
        return None, f"{path} is not of {kind} data"
    if run.certificate and record["result"] and "certificate" not in record:
        return None, f"{path} has no certificate"
    return record, None


def usable(run: protocol.Run, results: pathlib.Path) -> dict | None:
    """The run's record, or None where there is none.

    Raises:
      ValueError: the record cannot be used.
    """
    record, problem = find(run, results)
    if problem:
        raise ValueError(problem)
    return record


def of_figure(
    figure: protocol.Figure, scale: str, results: pathlib.Path
) -> list[Status]:
    """The status of every run of a figure, in order."""
    costs = measured_costs(results)
    return [_status(run, results, costs) for run in figure.runs(scale)]


def _status(run: protocol.Run, results: pathlib.Path, costs: dict) -> Status:
    record, problem = find(run, results)
    if record:
        seconds = (record["result"] or record["diverged"])["wall_seconds"]
        return Status(run, record, None, seconds, True)
    config = protocol.config_dict(run)
    cost = costs.get(estimates.shape(config))
    if cost is not None:
        return Status(run, None, problem, cost * estimates.steps(config), True)
    return Status(run, None, problem, estimates.estimate(config), False)


def measured_costs(results: pathlib.Path) -> dict[tuple, float]:
    """{shape: median wall seconds of an update} of the CPU's longer records.

    Short runs, of less than half of the updates of the longest of their shape, are
    mostly compilation and evaluation.
    """
    costs: dict[tuple, list[tuple[int, float]]] = {}
    for path in sorted(results.rglob("*.json")):
        name = path.relative_to(results).with_suffix("")
        try:
            record = records.read(str(name), results)
        except ValueError:
            continue  # a benchmark, or another file
        if (
            record is not None
            and record.get("result")
            and (record["machine"] or {}).get("backend") == "cpu"
        ):
            steps, seconds = record["result"]["steps"], record["result"]["wall_seconds"]
            try:
                shape = estimates.shape(record["config"])
            except (KeyError, TypeError):
                continue  # a config that is damaged
            costs.setdefault(shape, []).append((steps, seconds / steps))
    return {shape: _of_the_longer(values) for shape, values in costs.items()}


def _of_the_longer(costs: list[tuple[int, float]]) -> float:
    """The median cost of the runs with at least half of the most updates."""
    most = max(steps for steps, _ in costs)
    return statistics.median(cost for steps, cost in costs if 2 * steps >= most)
