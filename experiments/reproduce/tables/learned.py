"""Which models of F1 and F2 learn, after how many iterations, and where they end.

No JAX.
"""

import pathlib
from typing import NamedTuple

from experiments.reproduce import markdown, panels, protocol, status
from experiments.reproduce.figures import f1_addition, f2_copying
from experiments.tasks import scoring


class Learned(NamedTuple):
    """When a run of a figure has learned.

    figure: whose runs have `task.length`.
    enough: the primary metric of the task, on validation data, that says so.
    digits: of the metric at the end of a run, on test data.
    column: the heading of a length.
    """

    figure: protocol.Figure
    enough: float
    digits: int
    column: str


LEARNED = {
    # A tenth of the error of always answering 1.
    "addition": Learned(f1_addition.FIGURE, 1 / 60, 4, "T = {}"),
    "copying": Learned(f2_copying.FIGURE, 0.9, 3, "lag {}"),
}


def table(task: str, results: pathlib.Path, scale: str = "cpu") -> str:
    """A row for each protocol and model, a column for each length: see `_cell`."""
    about = LEARNED[task]
    groups: dict[tuple[str, str], dict[int, list[protocol.Run]]] = {}
    for run in about.figure.runs(scale):
        row = groups.setdefault((f"`{run.protocol}`", run.changes["model.name"]), {})
        row.setdefault(run.changes["task.length"], []).append(run)
    lengths = list(next(iter(groups.values())))
    rows = [
        [*key, *(_cell(row[length], about, results) for length in lengths)]
        for key, row in groups.items()
    ]
    header = ["protocol", "model", *map(about.column.format, lengths)]
    return markdown.table(header, rows)


def _cell(runs: list[protocol.Run], about: Learned, results: pathlib.Path) -> str:
    """'2 of 3 after 500–1,000 (0.0010–0.0020), 1 diverged at 341' of several seeds.

    That is how many learned, after how many iterations, the test metrics at the end of
    all that did not diverge, and where the others did.
    """
    records = [record for run in runs if (record := status.usable(run, results))]
    if not records:
        return "not run"
    metric = protocol.primary(runs[0])
    after = [_after(record, metric, about.enough) for record in records]
    steps = [step for step in after if step is not None]
    text = f"{len(steps)} of {len(records)}"
    if steps:
        text += f" after {_range([f'{step:,}' for step in sorted(steps)])}"
    ends = sorted(
        value
        for record in records
        if (value := panels.final(record, metric.name)) is not None
    )
    if ends:
        text += f" ({_range([metric.number(value, about.digits) for value in ends])})"
    diverged = [f"{r['diverged']['step']:,}" for r in records if "diverged" in r]
    if diverged:
        text += f", {len(diverged)} diverged at {', '.join(diverged)}"
    return text


def _after(record: dict, metric: scoring.Metric, enough: float) -> int | None:
    """The iterations of the first validation that is good enough, of a whole run."""
    for point in record["valid"] if record["result"] else ():
        if metric.best([point[metric.name], enough]) != enough:
            return point["step"]
    return None


def _range(ordered: list[str]) -> str:
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return "–".join(ends)
