"""README.md and docs/*.md: the tables in them, from records alone. No JAX.

A table lies between `<!-- table: NAME -->` and `<!-- end -->`; `rewritten` makes every
one of them anew.
"""

import functools
import pathlib
import posixpath
import re
from collections.abc import Callable
from typing import NamedTuple

from experiments.reproduce import config_fields, markdown, protocol, registry
from experiments.reproduce.figures import drawing
from experiments.reproduce.tables import (
    accelerators,
    certificates,
    learned,
    sets,
    shipped,
    speed,
    targets,
    trials,
)
from experiments.runs import files, records

ROOT = pathlib.Path(__file__).parents[2]

_BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


class Place(NamedTuple):
    """Where a table is written.

    page: path from the project's root.
    homes: the page of every table.
    """

    page: str
    homes: dict[str, str]

    def link(self, target: str) -> str:
        """From this page to a file, whose path is from the project's root."""
        return posixpath.relpath(target, posixpath.dirname(self.page) or ".")

    def section(self, table: str, heading: str) -> str:
        """To the section of a table: its heading here, or the page that has it."""
        home = self.homes.get(table, self.page)
        return f"#{heading}" if home == self.page else self.link(home)


Table = Callable[[pathlib.Path, Place], str]


def read(root: pathlib.Path = ROOT) -> dict[str, str]:
    """{path from the root: text} of README.md and of every page in docs/."""
    paths = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return {str(path.relative_to(root)): path.read_text("utf-8") for path in paths}


def write(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """Rewrites the tables of all pages, and returns the paths of those that have any.

    Raises:
      ValueError: see `rewritten`.
    """
    pages = read(root)
    written = []
    for page, text in rewritten(pages).items():
        if _BLOCK.search(text):
            files.write(root / page, text)
            written.append(root / page)
    return written


def rewritten(
    pages: dict[str, str], results: pathlib.Path = records.RESULTS
) -> dict[str, str]:
    """The pages with the content of every table made from the records.

    Raises:
      ValueError: a table that is not one of `TABLES`, or a record that cannot be used.
    """
    homes = {name: page for page, text in pages.items() for name in tables_of(text)}

    def block(page: str, match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(
                f"a table of {page} must be one of {', '.join(TABLES)}, got {name!r}"
            )
        content = TABLES[name](results, Place(page, homes))
        return f"<!-- table: {name} -->\n{content}\n<!-- end -->"

    return {
        page: _BLOCK.sub(functools.partial(block, page), text)
        for page, text in pages.items()
    }


def tables_of(text: str) -> list[str]:
    """The names of the tables in a page."""
    return [match[1] for match in _BLOCK.finditer(text)]


def _pictures(results: pathlib.Path, place: Place) -> str:
    """The figures that are drawn, each with a line and a link to its caption."""
    drawn = [_picture(name, results, place, whole=False) for name in registry.FIGURES]
    return "\n\n".join(filter(None, drawn)) or "No run of a figure is recorded yet."


def _picture(
    name: str, results: pathlib.Path, place: Place, *, whole: bool = True
) -> str:
    """A figure at the greatest scale that is drawn, or nothing.

    Below it the whole caption, or its title and of what runs it is.
    """
    figure = registry.FIGURES[name]
    for scale in ("full", "cpu"):
        path = drawing.picture(figure, scale, results)
        if figure.draw is not None and path.exists():
            link = place.link(f"experiments/results/figures/{path.name}")
            records = drawing.usable(figure.runs(scale), results)
            if whole:
                text = drawing.caption(figure, scale, records)
                files = {"PDF": "pdf", "SVG": "svg"}
            else:
                made = drawing.made(figure, scale, records)
                text = f"**{figure.title}.** {made}."
                files = {"Caption": "md"}
            stem = posixpath.splitext(link)[0]
            links = [f"[{shown}]({stem}.{ending})" for shown, ending in files.items()]
            text += f" {', '.join(links)}"
            image = f"![{figure.title}, scale {scale}]({link})"
            return f"{image}\n\n{markdown.wrapped(text)}"
    return ""


def _plain(table: Callable[[pathlib.Path], str]) -> Table:
    """A table that is the same on every page."""
    return lambda results, place: table(results)


def _of_figure(figure: protocol.Figure) -> Table:
    table = figure.table
    assert table is not None, figure.name
    return lambda results, place: table(results, "cpu")


TABLES: dict[str, Table] = {
    "headline": lambda results, place: speed.headline(
        results, place.section("speed", "speed")
    ),
    "results": _plain(shipped.table),
    "readme_results": _plain(functools.partial(shipped.table, few=True)),
    "home_results": _plain(shipped.home),
    "targets": _plain(targets.table),
    "certificates": _plain(certificates.table),
    "sets": _of_figure(sets.FIGURE),
    **{
        name: _of_figure(figure)
        for name, figure in registry.FIGURES.items()
        if figure.table
    },
    **{name: _of_figure(figure) for name, figure in trials.FIGURES.items()},
    **{
        f"{task}_learned": _plain(functools.partial(learned.table, task))
        for task in learned.LEARNED
    },
    "speed": _plain(speed.cells),
    "readme_speed": _plain(speed.few_cells),
    "speed_peers": _plain(speed.peers),
    "speed_widths": _plain(speed.widths),
    "speed_linear": _plain(speed.linear),
    "speed_lengths": _plain(speed.lengths),
    "speed_startup": _plain(speed.startup),
    "speed_matrices": _plain(speed.matrices),
    "constraint_costs": _plain(speed.constraints),
    "accelerator_counts": _plain(accelerators.counts),
    "accelerator_speed": _plain(accelerators.speed),
    "accelerator_programs": _plain(accelerators.programs),
    "figures": _pictures,
    "readme_figure": functools.partial(_picture, "F2"),
    "config_fields": lambda results, place: config_fields.table(),
}
