"""How every picture looks and is kept: names, colours, style, files. No JAX."""

import contextlib
import io
import logging
import os
import pathlib
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    **{"xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8},
    **{"lines.linewidth": 1.3, "lines.markersize": 3},
    **{"axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6},
    **{"legend.frameon": False, "axes.prop_cycle": f"cycler('color', {PALETTE})"},
    "figure.constrained_layout.use": True,
    # Text stays text, and nothing in a file depends on when it was drawn.
    **{"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "svdrnn"},
}
DPI = 200
COLUMN, PAGE = 3.5, 7.0  # inches that a figure is wide in print
_METADATA: dict[str, dict] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = ("png", "pdf", "svg")


def style() -> contextlib.AbstractContextManager[None]:
    """The look of all pictures, in force while one is drawn and saved.

    It is matplotlib's own with `STYLE`, whatever the user's matplotlibrc says.
    """
    matplotlib = _matplotlib()
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE})


def _matplotlib() -> Any:
    """The package, imported when something is drawn.

    A notebook names its backend in MPLBACKEND, for its commands too, and where it is
    not installed the import fails. Files need none; the user's own drawing has it where
    it is there.
    """
    if "matplotlib" not in sys.modules:
        backend = os.environ.pop("MPLBACKEND", "")
        import matplotlib

        if backend:
            os.environ["MPLBACKEND"] = backend
            with contextlib.suppress(ValueError):
                matplotlib.rcParams["backend"] = backend
    return sys.modules["matplotlib"]


def figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, with a layout that keeps texts apart."""
    _matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# Ahead of a "_", with which begins what matplotlib leaves out of a legend.
_SHOWN = "\N{ZERO WIDTH SPACE}"


def plain(text: Any, most: int | None = None) -> str:
    """Text that comes from data, as a label that is drawn as it stands.

    A dollar begins no mathematics, what cannot be printed is written as Python writes
    it, and a leading "_" hides nothing from a legend.

    Args:
      text: of data, as the name of a folder.
      most: letters, beyond which the middle is left out; None: any number.
    """
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )
    if most is not None and len(shown) > most:
        shown = f"{shown[: most // 2]}…{shown[len(shown) - most // 2 + 1 :]}"
    shown = shown.replace("$", r"\$")
    return _SHOWN + shown if shown.startswith("_") else shown


def title(model: str) -> str:
    """What figures call a model: one of one's own by its name."""
    return TITLES.get(model) or plain(model, 40)


def model_style(model: str, which: int = 0) -> dict[str, Any]:
    """Colour and dashes of a model's lines; `which` of several series of it."""
    dashes = DASHES[(which + (model in DASHED)) % len(DASHES)]
    return {"color": COLORS.get(model, GRAY), "linestyle": dashes}


def spans(values: Iterable[float]) -> bool:
    """Whether positive numbers span so much that a logarithmic axis shows them."""
    numbers = list(values)
    return bool(numbers) and min(numbers) > 0 and max(numbers) >= 30 * min(numbers)


# Inches of a legend, about: a letter's width, that of the line drawn before the label,
# the height of a line of text.
_LETTER, _HANDLE, _LINE = 0.066, 0.4, 0.16
_ROWS = 4  # of a legend, for which a figure has room


def legend(figure: "Figure") -> None:
    """One legend for all panels, above them; equal labels are one entry.

    Labels that are wider than the figure go on in further lines, for which it grows, as
    for more than a few rows.
    """
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, line)
    if handles:
        where: Any = "outside upper center"
        width = figure.get_figwidth()
        most = max(20, int((width - _HANDLE) / _LETTER))
        labels = [_wrapped(label, most) for label in handles]
        columns = _columns(labels, width)
        rows = -(-len(labels) // columns)
        further = sum(label.count("\n") for label in labels) + max(0, rows - _ROWS)
        figure.set_figheight(figure.get_figheight() + _LINE * further)
        figure.legend(
            list(handles.values()),
            labels,
            loc=where,
            ncols=columns,
            handlelength=1.8,
            columnspacing=1.2,
            handletextpad=0.5,
        )


def _wrapped(label: str, most: int) -> str:
    """The label in lines of so many letters; the dollar of `plain` is one of them."""
    dollar = "\ue000"  # of no script
    text = label.removeprefix(_SHOWN).replace(r"\$", dollar)
    lines = textwrap.fill(text, most, break_on_hyphens=False)
    return lines.replace(dollar, r"\$")


def _columns(labels: list[str], width: float) -> int:
    """As many as fit into so many inches."""
    longest = [max(map(len, label.split("\n"))) for label in labels]
    lengths = [_LETTER * length + _HANDLE for length in longest]
    for count in range(len(labels), 1, -1):
        if sum(map(max, np.array_split(lengths, count))) <= width:
            return count
    return 1


def save(
    figure: "Figure", output: str | pathlib.Path, formats: Sequence[str] = ()
) -> pathlib.Path:
    """Writes `output` in `formats` (or `FORMATS`), with their endings; returns the PNG.

    The same figure gives the same bytes with the same version of matplotlib.
    """
    output = pathlib.Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with style(), warnings.catch_warnings():
        # A name may have letters that the font lacks: boxes, text in the SVG.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        _few_ticks(figure)
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


def _few_ticks(figure: "Figure") -> None:
    """Labels of logarithmic axes that do not run into each other: no minor ones.

    An axis that spans less than two decades has 1 and 3 of each as major ones, one that
    spans less than one has 1, 2 and 5; one of powers of 2 keeps its places.
    """
    from matplotlib import ticker

    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            if not isinstance(axis.get_major_locator(), ticker.LogLocator):
                continue
            axis.set_minor_formatter(ticker.NullFormatter())
            low, high = sorted(axis.get_view_interval())
            transform: Any = axis.get_transform()
            if high < 100 * low:
                axis.set_major_formatter("{x:g}")
                if transform.base == 10:
                    shown = (1, 2, 5) if high < 10 * low else (1, 3)
                    axis.set_major_locator(ticker.LogLocator(subs=shown))


def _save_png(figure: "Figure", path: pathlib.Path) -> None:
    """128 colours, at a third of the size."""
    from PIL import Image  # of matplotlib's own requirements

    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=DPI)
        Image.open(buffer).convert("RGB").quantize(128).save(
            path, format="png", optimize=True
        )


@contextlib.contextmanager
def picture(
    width: float, height: float, output: str | pathlib.Path, *formats: str
) -> Iterator["Figure"]:
    """A figure of so many inches to draw into; saved with its legend at the end."""
    with style():
        drawing = figure(width, height)
        yield drawing
        legend(drawing)
        save(drawing, output, formats)
