"""How every picture looks and is kept: names, colours, style, files. No JAX."""

import contextlib
import io
import logging
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.figure import Figure
from PIL import Image

from experiments.runs import files

logging.getLogger("fontTools").setLevel(logging.WARNING)  # of every PDF

# What figures call the models.
TITLES = {
    **{"spectral": "Spectral-RNN", "ornn": "oRNN", "rnn": "RNN", "irnn": "IRNN"},
    **{"exprnn": "expRNN", "scornn": "scoRNN", "lstm": "LSTM", "gru": "GRU"},
    **{"spectral_lstm": "Spectral-LSTM", "spectral_gru": "Spectral-GRU"},
    **{"mlp": "MLP", "resnet": "ResNet"},
    **{"spectral_mlp": "Spectral-MLP", "spectral_resnet": "Spectral-ResNet"},
}

# Okabe and Ito, "Color Universal Design", 2008, without the yellow, which is too light
# for a line, and with a gray. Curves that are of no model take them in turn.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK, GRAY = "#CC79A7", "#56B4E9", "#000000", "#8C8C8C"
PALETTE = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, GRAY)

# Each model's colour; a network of vectors has that of its kin among those of
# sequences, a spectral LSTM or GRU that of the plain one, dashed.
COLORS = {
    **{"spectral": RED, "ornn": PINK, "rnn": BLUE, "irnn": SKY, "lstm": GREEN},
    **{"exprnn": ORANGE, "scornn": BLACK, "gru": GRAY},
    **{"spectral_lstm": GREEN, "spectral_gru": GRAY},
    **{"mlp": BLUE, "resnet": SKY, "spectral_mlp": ORANGE, "spectral_resnet": RED},
}
DASHED = ("spectral_lstm", "spectral_gru")

# Of several series of one model: the last one is solid.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))

STYLE: Any = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8},
    **{"xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 8},
    **{"lines.linewidth": 1.3, "lines.markersize": 3},
    **{"axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6},
    **{"legend.frameon": False, "axes.prop_cycle": rcsetup.cycler(color=list(PALETTE))},
    "figure.constrained_layout.use": True,
    # Text stays text, and nothing in a file depends on when it was drawn.
    **{"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "svdrnn"},
}
DPI = 200
_METADATA: dict[str, dict] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = ("png", "pdf", "svg")


def style() -> contextlib.AbstractContextManager[None]:
    """The look of all pictures, in force while one is drawn and saved."""
    return matplotlib.rc_context(STYLE)


def title(model: str) -> str:
    """What figures call a model: one of one's own by its name."""
    return TITLES.get(model, model)


def model_style(model: str, which: int = 0) -> dict[str, Any]:
    """Colour and dashes of a model's lines; `which` of several series of it."""
    dashes = DASHES[(which + (model in DASHED)) % len(DASHES)]
    return {"color": COLORS.get(model, GRAY), "linestyle": dashes}


def spans(values: Iterable[float]) -> bool:
    """Whether positive numbers span so much that a logarithmic axis shows them."""
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) >= 30 * min(found)


# Inches of a legend, about: a letter's width, that of the line drawn before the label,
# the height of a line of text.
_LETTER, _HANDLE, _LINE = 0.066, 0.4, 0.16
_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def legend(figure: Figure) -> None:
    """One legend for all panels, above them; equal labels are one entry.

    Labels that are wider than the figure go on in further lines, for which it grows.
    """
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, line)
    if found:
        where: Any = "outside upper center"
        width = figure.get_figwidth()
        most = max(20, int((width - _HANDLE) / _LETTER))
        labels = [textwrap.fill(label, most, **_WHOLE_WORDS) for label in found]
        further = sum(label.count("\n") for label in labels)
        figure.set_figheight(figure.get_figheight() + _LINE * further)
        figure.legend(
            list(found.values()),
            labels,
            loc=where,
            ncols=_columns(labels, width),
            handlelength=1.8,
            columnspacing=1.2,
            handletextpad=0.5,
        )


def _columns(labels: list[str], width: float) -> int:
    """As many as fit into so many inches."""
    longest = [max(map(len, label.split("\n"))) for label in labels]
    lengths = [_LETTER * length + _HANDLE for length in longest]
    for count in range(len(labels), 1, -1):
        if sum(map(max, np.array_split(lengths, count))) <= width:
            return count
    return 1


def save(
    figure: Figure, output: str | pathlib.Path, formats: Sequence[str] = ()
) -> pathlib.Path:
    """Writes `output` in `formats` (or `FORMATS`), with their endings; returns the PNG.

    The same figure gives the same bytes with the same version of matplotlib.
    """
    output = pathlib.Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for all of them
        for ending in formats or FORMATS:
            # Whole or not at all: several workers of a sweep draw its figure.
            with files.replacing(output.with_suffix(f".{ending}")) as path:
                if ending == "png":
                    _save_png(figure, path)
                else:
                    figure.savefig(path, format=ending, metadata=_METADATA[ending])
    return output.with_suffix(".png")


def _save_png(figure: Figure, path: pathlib.Path) -> None:
    """128 colours, at a third of the size."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=DPI)
        Image.open(buffer).convert("RGB").quantize(128).save(
            path, format="png", optimize=True
        )


@contextlib.contextmanager
def picture(
    width: float, height: float, output: str | pathlib.Path, *formats: str
) -> Iterator[Figure]:
    """A figure of so many inches to draw into; saved with its legend at the end."""
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        legend(figure)
        save(figure, output, formats)
