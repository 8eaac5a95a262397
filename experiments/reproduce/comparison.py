"""Tables that compare models: a row for each, of several seeds the mean. No JAX."""

import json
import pathlib
import statistics

from experiments.reproduce import panels, protocol, status
from experiments.runs import identity, progress

COLUMNS = ("model", "hidden", "parameters", "epochs", "learning rate", "seeds")


def rows(
    runs: list[protocol.Run],
    scale: str,
    results: pathlib.Path,
    metric: str,
    form: str,
    splits: tuple[str, ...] = ("test",),
) -> tuple[str, list[list[str]]]:
    """A line on scale and machines, and a row for each model.

    A row has `COLUMNS`, the value on each split and the wall time, of several seeds the
    mean and the range.
    """
    groups: dict[str, list[protocol.Run]] = {}
    for run in runs:
        config = protocol.config_dict(run)
        config["seed"] = None
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    found: list[dict] = []
    lines = []
    for group in groups.values():
        mine = [record for run in group if (record := status.usable(run, results))]
        found += mine
        lines.append(_row(group, mine, metric, form, splits))
    where = f"on {panels.machines(found)}" if found else "no run recorded"
    return f"Scale `{scale}`, {where}.", lines


def _row(
    runs: list[protocol.Run],
    found: list[dict],
    metric: str,
    form: str,
    splits: tuple[str, ...],
) -> list[str]:
    config = found[0]["config"] if found else protocol.config_dict(runs[0])
    model, train = config["model"], config["train"]
    epochs = train["epochs"] if train["steps"] is None else f"{train['steps']} steps"
    finished = [record["result"] for record in found if record["result"]]
    parameters, wall, values = "", "", ["not run"] * len(splits)
    if finished:
        parameters = f"{finished[0]['num_independent_params']:,}"
        wall = progress.duration(
            statistics.fmean(end["wall_seconds"] for end in finished)
        )
        values = [
            _mean([end["metrics"][split][metric] for end in finished], form)
            for split in splits
        ]
    diverged = [record["diverged"]["step"] for record in found if "diverged" in record]
    if diverged:
        text = f"diverged at step {', '.join(map(str, diverged))}"
        values[-1] = f"{values[-1]}; {text}" if finished else text
    rates = _rates(config) if found else ""
    seeds = str(len(finished) + len(diverged)) if found else ""
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


def _mean(values: list[float], form: str) -> str:
    """The mean and, of several values, the range."""
    text = form.format(statistics.fmean(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))}–{form.format(max(values))})"
    return text
