"""Which runs of a figure are recorded, and what the others will take. No JAX."""

import pathlib
import statistics
from typing import NamedTuple

from experiments import identity, records
from experiments.data import stand_in
from experiments.reproduction import protocols
from experiments.reproduction.protocols import Run


class Status(NamedTuple):
    """record: that of the run, or None. problem: why one cannot be used, or None.

    seconds: what the run took, or an estimate; measured: from records.
    """

    run: Run
    record: dict | None
    problem: str | None
    seconds: float
    measured: bool


def find(run: Run, results: pathlib.Path) -> tuple[dict | None, str | None]:
    """The run's record, or None and, where a record cannot be used, why.

    Raises:
      ValueError: the file is not a record.
    """
    record = records.read(run.name, results)
    if record is None:
        return None, None
    config = protocols.config_dict(run)
    changed = identity.differences_from_record(record["config"], config, run.free)
    path = results / f"{run.name}.json"
    if changed:
        return None, (
            f"{path} is the record of another config (there -> asked for):\n  "
            + "\n  ".join(changed)
        )
    stands_in = config["data_dir"] == stand_in.NAME
    if (record.get("data") == stand_in.NAME) != stands_in:
        asked = "stand-in" if stands_in else "real"
        return None, f"{path} is not of {asked} data"
    return record, None


def of_figure(figure: str, scale: str, results: pathlib.Path) -> list[Status]:
    """The status of every run of a figure, in order."""
    costs = measured_costs(results)
    return [_status(run, results, costs) for run in protocols.runs(figure, scale)]


def _status(run: Run, results: pathlib.Path, costs: dict) -> Status:
    record, problem = find(run, results)
    if record:
        seconds = (record["result"] or record["diverged"])["wall_seconds"]
        return Status(run, record, None, seconds, True)
    config = protocols.config_dict(run)
    cost = costs.get(protocols.shape(config))
    if cost is not None:
        return Status(run, None, problem, cost * protocols.steps(config), True)
    return Status(run, None, problem, protocols.estimate(config), False)


def measured_costs(results: pathlib.Path) -> dict[tuple, float]:
    """{shape: median wall seconds of an update} of the CPU's records."""
    found: dict[tuple, list[float]] = {}
    for path in sorted(results.rglob("*.json")):
        name = path.relative_to(results).with_suffix("")
        try:
            record = records.read(str(name), results)
        except ValueError:
            continue  # a benchmark, or another file
        if record.get("result") and record["machine"]["backend"] == "cpu":
            seconds = record["result"]["wall_seconds"] / record["result"]["steps"]
            found.setdefault(protocols.shape(record["config"]), []).append(seconds)
    return {shape: statistics.median(values) for shape, values in found.items()}
