"""Figures drawn from records alone, their pictures and captions. No JAX."""

import pathlib
import sys
from collections.abc import Iterable

from experiments.reproduce import markdown, panels, protocol, registry, status
from experiments.runs import files, pictures
from experiments.runs import records as stored


def redraw(results: pathlib.Path = stored.RESULTS) -> list[pathlib.Path]:
    """Draws every figure of which some run is recorded, and returns their paths."""
    drawings = [figure for figure in registry.FIGURES.values() if figure.draw]
    paths = [
        draw(figure, scale, results) for scale in protocol.SCALES for figure in drawings
    ]
    return [path for path in paths if path is not None]


def show(figure: protocol.Figure, scale: str, results: pathlib.Path) -> None:
    """Draws a figure or prints a table, from what is recorded."""
    if figure.table is not None:
        print(figure.table(results, scale))
    else:
        print(draw(figure, scale, results))


def draw(
    figure: protocol.Figure, scale: str, results: pathlib.Path
) -> pathlib.Path | None:
    """Draws a figure from the records there are; None where there is none.

    Beside the PNG, whose path is returned, lie PDF, SVG and the caption. A record that
    cannot be used is left out, with a warning on stderr.
    """
    records = usable(figure.runs(scale), results)
    if not records or figure.draw is None:
        return None
    output = picture(figure, scale, results)
    with pictures.style():
        drawing = figure.draw(list(records.values()), scale)
        panels.letter(drawing)
        pictures.legend(drawing)
        pictures.save(drawing, output)
    text = caption(figure, scale, records)
    files.write(output.with_suffix(".md"), f"{markdown.wrapped(text)}\n")
    return output


def picture(figure: protocol.Figure, scale: str, results: pathlib.Path) -> pathlib.Path:
    """Where the drawing lies."""
    return results / "figures" / f"{figure.name}_{scale}.png"


def usable(runs: Iterable[protocol.Run], results: pathlib.Path) -> dict[str, dict]:
    """{name: record} of these runs; what is wrong with others goes to stderr.

    A record has the run's `protocol` besides.
    """
    records = {}
    for run in runs:
        record, problem = status.find(run, results)
        if problem:
            print(f"warning: left out: {problem}", file=sys.stderr)
        elif record:
            records[run.name] = record | {"protocol": run.protocol}
    return records


def caption(figure: protocol.Figure, scale: str, records: dict[str, dict]) -> str:
    """What is drawn, of which runs, and on what machines they were made.

    Args:
      figure: the figure.
      scale: of the runs.
      records: {name: record} of the runs that are drawn.
    """
    runs, values = figure.runs(scale), list(records.values())
    parts = [
        f"**{figure.title}.** {figure.caption}",
        "Lines are medians over seeds, bands from the least to the greatest."
        * (len(_seeds(records)) > 1),
        f"{made(figure, scale, records)}, on {panels.machines(values)}.",
        _absent(runs, values),
        _diverged(records, scale),
        "Stand-in data, no result." * (scale == "smoke"),
    ]
    return " ".join(part for part in parts if part)


def made(figure: protocol.Figure, scale: str, records: dict[str, dict]) -> str:
    """'Scale `cpu`, seeds 0, 1, 84 of 84 runs of 1,000 iterations' of `caption`."""
    seeds = _seeds(records)
    return (
        f"Scale `{scale}`, {'seeds' if len(seeds) > 1 else 'seed'}"
        f" {', '.join(map(str, seeds))}, {len(records)} of {len(figure.runs(scale))}"
        f" runs of {panels.iterations(list(records.values()))}"
    )


def _seeds(records: dict[str, dict]) -> list[int]:
    return sorted({record["config"]["seed"] for record in records.values()})


def _absent(runs: list[protocol.Run], records: list[dict]) -> str:
    """Which protocols have no record yet."""
    recorded = {record["protocol"] for record in records}
    absent = {run.protocol for run in runs} - recorded
    text = " and ".join(f"`{name}`" for name in sorted(absent))
    return f"Protocol {text}: not run." if absent else ""


def _diverged(records: dict[str, dict], scale: str) -> str:
    """Which runs diverged, and when."""
    steps = [
        f"{name.removeprefix(f'{scale}/')} at step {record['diverged']['step']:,}"
        for name, record in records.items()
        if record["result"] is None
    ]
    return (
        f"Diverged (a cross; beyond it, the other seeds): {', '.join(steps)}."
        if steps
        else ""
    )
