"""The figures and tables that the command knows by name. No JAX.

A figure of one's own needs no line here: the command takes the path of its file, too.
"""

import importlib
import pathlib
import runpy

from experiments.reproduce import protocol
from experiments.reproduce.tables import sets, trials

# Files below this folder, each with a `FIGURE`, in the order in which `all` takes them.
_FILES = (
    "figures.f1_addition",
    "figures.f2_copying",
    "figures.f3_pixel_mnist",
    "figures.f3_leak",
    "figures.f4_deep_mlp",
    "figures.f5_certificate",
    "tables.pixel_mnist",
    "tables.ptb_word",
)


def _figure(file: str) -> protocol.Figure:
    return importlib.import_module(f"experiments.reproduce.{file}").FIGURE


FIGURES = {figure.name: figure for figure in map(_figure, _FILES)}


def find(name: str) -> protocol.Figure:
    """The figure of a name, or that of a Python file with `FIGURE`.

    Raises:
      ValueError: there is none.
    """
    if name.endswith(".py") and pathlib.Path(name).is_file():
        try:
            figure = runpy.run_path(name).get("FIGURE")
        except (Exception, SystemExit) as error:  # whatever the file does
            raise ValueError(f"{name}: {type(error).__name__}: {error}") from error
        if not isinstance(figure, protocol.Figure):
            raise ValueError(
                f"FIGURE must be a protocol.Figure in {name}, got {figure!r}"
            )
        return figure
    figures = FIGURES | trials.FIGURES | {sets.FIGURE.name: sets.FIGURE}
    if name not in figures:
        raise ValueError(
            f"FIGURE must be one of {', '.join(figures)}, all, trials, or a Python file"
            f" with FIGURE, got {name!r}"
        )
    return figures[name]


def named(words: list[str]) -> list[protocol.Figure]:
    """What the words of a command name; `all` and `trials` are several.

    Raises:
      ValueError: a word that names none, or no word.
    """
    if not words:
        raise ValueError("FIGURE must be given, got none")
    several = {"all": FIGURES, "trials": trials.FIGURES}
    figures: dict[str, protocol.Figure] = {}
    for word in words:
        figures |= several.get(word) or {word: find(word)}
    return list(figures.values())
