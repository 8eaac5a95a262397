"""Figures drawn from records alone, and their pictures. No JAX."""

import io
import pathlib
import sys
from collections.abc import Iterable

from matplotlib.figure import Figure
from PIL import Image

from experiments.reproduce import panels, protocol, registry, status
from experiments.runs import records


def redraw(results: pathlib.Path = records.RESULTS) -> list[pathlib.Path]:
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

    A record that cannot be used is left out, with a warning on stderr.
    """
    asked = figure.runs(scale)
    found = usable(asked, results)
    if not found or figure.draw is None:
        return None
    drawing = figure.draw(found, scale)
    drawing.suptitle(caption(figure.title, scale, found, len(asked)), fontsize=9)
    output = picture(figure, scale, results)
    output.parent.mkdir(parents=True, exist_ok=True)
    _save(drawing, output)
    return output


def picture(figure: protocol.Figure, scale: str, results: pathlib.Path) -> pathlib.Path:
    """Where the drawing lies."""
    return results / "figures" / f"{figure.name}_{scale}.png"


def _save(figure: Figure, output: pathlib.Path) -> None:
    """A PNG of 128 colours, a third of the size, for the repository."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=90)
        colours = Image.open(buffer).convert("RGB").quantize(128)
        colours.save(output, optimize=True)


def usable(runs: Iterable[protocol.Run], results: pathlib.Path) -> list[dict]:
    """The records of these runs; what is wrong with others goes to stderr."""
    found = []
    for run in runs:
        record, problem = status.find(run, results)
        if problem:
            print(f"warning: left out: {problem}", file=sys.stderr)
        elif record:
            found.append(record)
    return found


def caption(title: str, scale: str, found: list[dict], asked: int) -> str:
    """Title, scale, how many runs there are, and the machines."""
    seeds = sorted({record["config"]["seed"] for record in found})
    diverged = sum(record["result"] is None for record in found)
    parts = [
        f"scale {scale}",
        f"seeds {', '.join(map(str, seeds))}",
        f"{len(found)} of {asked} runs",
        panels.machines(found),
    ]
    if diverged:
        parts.insert(3, f"{diverged} diverged")
    if scale == "smoke":
        parts.append("stand-in data, no result")
    return f"{title}\n{'; '.join(parts)}"
