"""Tables and paragraphs in GitHub's Markdown."""

import textwrap
from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown."""
    lines: list[Sequence[str]] = [columns, ["---"] * len(columns), *rows]
    cells = ["|".join(f" {cell} " if cell else " " for cell in line) for line in lines]
    cells[1] = "|".join(["---"] * len(columns))
    return "\n".join(f"|{line}|" for line in cells)


def wrapped(text: str) -> str:
    """The text in lines of 88 characters."""
    return textwrap.fill(text, 88)
