"""The tables of trials, a row for each model. No JAX."""

import functools
import pathlib

from experiments.reproduce import grids, markdown, protocol, status


def table(name: str, results: pathlib.Path, scale: str = "cpu") -> str:
    """Validation metrics of a grid's trials, the best of each model in bold.

    A trial is a short run of one seed, so that its metric is printed with one digit
    less than a result.
    """
    grid, metric = grids.GRIDS[name], grids.metric(name)
    records = {run.name: status.usable(run, results) for run in grids.runs(name, scale)}
    settings = {setting for trials in grid.settings.values() for setting in trials}
    columns = sorted(settings, key=_order)
    rows = []
    for model, trials in grid.settings.items():
        of_model = {s: records.get(f"{name}/{model}_{s}") for s in columns}
        values = {
            setting: grids.value(record, metric)
            for setting, record in of_model.items()
            if record is not None
        }
        numbers = [value for value in values.values() if value is not None]
        row = [model]
        for setting in columns:
            if setting not in values:
                row.append("not run" if setting in trials else "")
                continue
            value = values[setting]
            if value is None:
                row.append("diverged")
                continue
            text = metric.number(value, metric.digits - 1)
            row.append(f"**{text}**" if value == metric.best(numbers) else text)
        rows.append(row)
    return markdown.table(["model", *map(_heading, columns)], rows)


def _order(setting: str) -> tuple[float, str]:
    """Learning rates by size, then other settings by name."""
    try:
        return float(setting), ""
    except ValueError:
        return float("inf"), setting


def _heading(setting: str) -> str:
    number = _order(setting)[0]
    return setting if number == float("inf") else f"{number:g}"


FIGURES = {
    name: protocol.Figure(
        name,
        f"trials: {grid.title}",
        functools.partial(grids.runs, name),
        table=functools.partial(table, name),
    )
    for name, grid in grids.GRIDS.items()
}
