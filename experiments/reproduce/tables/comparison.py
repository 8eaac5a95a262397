"""Tables that compare models: a row for each, of several seeds the mean. No JAX."""

import json
import pathlib
import statistics

from experiments.reproduce import panels, protocol, status
from experiments.runs import identity, progress
from experiments.tasks import scoring

COLUMNS = ("model", "hidden", "parameters", "epochs", "learning rate", "seeds")


def rows(
    runs: list[protocol.Run],
    scale: str,
    results: pathlib.Path,
    splits: tuple[str, ...] = ("test",),
) -> tuple[str, list[list[str]]]:
    """A line on scale and machines, and a row for each model.

    A row has `COLUMNS`, the primary metric of the task on each split and the wall time,
    of several seeds the mean and the range.
    """
    groups: dict[str, list[protocol.Run]] = {}
    for run in runs:
        config = protocol.config_dict(run)
        config["seed"] = None
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    all_records: list[dict] = []
    lines = []
    for group in groups.values():
        records = [record for run in group if (record := status.usable(run, results))]
        all_records += records
        lines.append(_row(group, records, splits))
    where = f"on {panels.machines(all_records)}" if all_records else "no run recorded"
    return f"Scale `{scale}`, {where}.", lines


def _row(
    runs: list[protocol.Run], records: list[dict], splits: tuple[str, ...]
) -> list[str]:
    metric = protocol.primary(runs[0])
    config = records[0]["config"] if records else protocol.config_dict(runs[0])
    model, train = config["model"], config["train"]
    epochs = train["epochs"] if train["steps"] is None else f"{train['steps']} steps"
    finished = [record["result"] for record in records if record["result"]]
    parameters, wall, values = "", "", ["not run"] * len(splits)
    if finished:
        parameters = f"{finished[0]['num_independent_params']:,}"
        wall = progress.duration(
            statistics.fmean(end["wall_seconds"] for end in finished)
        )
        values = [
            _mean([end["metrics"][split][metric.name] for end in finished], metric)
            for split in splits
        ]
    diverged = [
        record["diverged"]["step"] for record in records if "diverged" in record
    ]
    if diverged:
        text = f"diverged at step {', '.join(map(str, diverged))}"
        values[-1] = f"{values[-1]}; {text}" if finished else text
    rates = _rates(config) if records else ""
    seeds = str(len(finished) + len(diverged)) if records else ""
    about = [model["name"], str(model["hidden"]), parameters, str(epochs), rates]
    return [*about, seeds, *values, wall]


def _rates(config: dict) -> str:
    """'0.008, reflectors 0.002': that of all, and of parts that have their own."""
    flat = identity.flatten(config)
    part = "train.rates."
    own = [
        f", {field.removeprefix(part).replace('_', ' ')} {value:g}"
        for field, value in flat.items()
        if field.startswith(part) and value is not None
    ]
    return f"{flat['train.learning_rate']:g}{''.join(own)}"


def _mean(values: list[float], metric: scoring.Metric) -> str:
    """The mean and, of several values, the range."""
    text = metric.number(statistics.fmean(values))
    if len(values) > 1:
        text += f" ({metric.number(min(values))}–{metric.number(max(values))})"
    return text
