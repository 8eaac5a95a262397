"""How pictures look and what their files hold."""

import os
import pathlib
import re
import subprocess
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import models
from experiments.runs import pictures

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_every_model_has_a_name_and_a_look_of_its_own():
    # Those of other tests come with a function, ours with its name.
    ours = [name for name, each in models.MODELS.items() if isinstance(each.make, str)]
    assert set(pictures.TITLES) == set(pictures.COLORS) == set(ours)
    for sequential in (True, False):
        names = [name for name in models.names(sequential) if name in ours]
        looks = {tuple(pictures.model_style(name).items()) for name in names}
        assert len(looks) == len(names)
    assert pictures.title("my_own") == "my_own"
    assert pictures.title("$own$") == r"\$own\$"


def test_colours_differ_without_colour_too():
    lightness = []
    for color in pictures.PALETTE:
        parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        lightness.append(sum(w * c for w, c in zip((3, 6, 1), parts, strict=True)))
    assert len(set(lightness)) == len(lightness)


def test_files_of_a_picture(tmp_path):
    with pictures.picture(3, 2, tmp_path / "sub" / "a.png") as figure:
        left, right = figure.subplots(1, 2)
        left.plot([1, 2], label="one")
        right.plot([1, 2], label="one")
        right.plot([2, 1], label="other")
        right.set_ylabel("‖∂L/∂h⁽⁰⁾‖")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
    assert left.get_legend() is None
    with Image.open(tmp_path / "sub" / "a.png") as image:
        assert image.size == (3 * pictures.DPI, 2 * pictures.DPI)
    svg = (tmp_path / "sub" / "a.svg").read_text()
    assert re.search("<text[^>]*>‖∂L/∂h⁽⁰⁾‖</text>", svg) and "<dc:date>" not in svg
    pdf = (tmp_path / "sub" / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf


@pytest.mark.parametrize("width,columns", [(7.2, 4), (3.0, 2), (0.5, 1)])
def test_a_legend_is_no_wider_than_its_figure(width, columns):
    figure = Figure(figsize=(width, 2), layout="constrained")
    panel = figure.subplots()
    for name in ("Spectral-RNN", "RNN", "Spectral-MLP", "oRNN"):
        panel.plot([1], label=name)
    pictures.legend(figure)
    assert figure.legends[0]._ncols == columns


def test_a_legend_wraps_what_is_wider_than_its_figure(tmp_path):
    with pictures.picture(3, 2, tmp_path / "a.png", "png") as figure:
        panel = figure.subplots()
        panel.plot([1], label=", ".join(f"field_{i} = {i}" for i in range(12)))
        panel.plot([1], label="other")
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.width
    assert box.y1 <= figure.bbox.height
    inside = figure.axes[0].get_window_extent().height
    with pictures.picture(3, 2, tmp_path / "b.png", "png") as plain:
        plain.subplots().plot([1], label="other")
    assert inside >= 0.8 * plain.axes[0].get_window_extent().height


@pytest.mark.parametrize(
    "high,shown", [(0.9, ["0.1", "0.2", "0.5"]), (2, ["0.1", "0.3", "1"])]
)
def test_labels_of_a_logarithmic_axis_stand_apart(high, shown, tmp_path):
    with pictures.picture(pictures.COLUMN, 1, tmp_path / "a.png") as figure:
        panel = figure.subplots()
        panel.plot([0.1, high], [0.1, high])
        panel.set(xscale="log", yscale="log", ylim=(0.1, high))
        panel.set_xticks([0.1, high], ["least", "most"])  # of one's own: they stay
    text = (tmp_path / "a.svg").read_text()
    labels = re.findall("<text[^>]*>([^<]*)</text>", text)
    assert labels == ["least", "most", *shown]


def test_numbers_that_span_much():
    assert pictures.spans([1, 30]) and pictures.spans(iter([1, 31]))
    assert not pictures.spans([1, 29]) and not pictures.spans([0, 30])
    assert not pictures.spans([])


# ---- Whatever the user's settings and names are.

HOSTILE = {
    **{"text.usetex": True, "font.family": ["serif"], "font.size": 20.0},
    **{"axes.facecolor": "pink", "lines.linestyle": ":", "xtick.direction": "in"},
    **{"savefig.bbox": "tight", "savefig.transparent": True, "figure.dpi": 37.0},
    **{"pdf.compression": 1, "path.sketch": (1, 100, 2), "legend.loc": "best"},
}


def files_of_a_picture(folder):
    with pictures.picture(3, 2, folder / "a.png") as figure:
        figure.subplots().plot([1e-3, 1], label="one")
        figure.axes[0].set(yscale="log", title="a title")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_matplotlibrc_changes_no_byte(tmp_path):
    plain = files_of_a_picture(tmp_path / "plain")
    with matplotlib.rc_context(HOSTILE):
        assert files_of_a_picture(tmp_path / "hostile") == plain
        assert matplotlib.rcParams["font.size"] == 20  # still the user's


def test_text_of_data_is_drawn_as_it_stands(tmp_path):
    names = ["_a", "cost_$5$_{", "$x^$ \\$", "new\nline", "\udcff", "日 é", "a" * 300]
    with pictures.picture(3, 2, tmp_path / "a.png") as figure:
        panel = figure.subplots()
        for name in names:
            panel.plot([1, 2], label=pictures.plain(name))
        panel.set_title(pictures.plain("$t$_{", 40))
        panel.set_xlabel(pictures.plain("b" * 99, 20))
    drawn = [text.get_text() for text in figure.legends[0].get_texts()]
    drawn = [text.replace("\n", "").replace(r"\$", "$") for text in drawn]
    assert drawn == [*names[:3], r"new\nline", r"\udcff", *names[5:]]
    texts = re.findall("<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
    assert {*names[:3], "$t$_{", "bbbbbbbbbb…bbbbbbbbb"} <= set(texts)
    assert figure.get_figheight() > 2 + 0.1 * 15  # room for the long one's lines


def test_matplotlib_comes_with_a_drawing_and_takes_any_backend(tmp_path):
    code = (
        "import os, sys\n"
        "from experiments.benchmark import drawing\n"
        "from experiments.reproduce import documents\n"
        "from experiments.runs import curves, pictures\n"
        "from experiments.sweep import summary\n"
        "assert not {'matplotlib', 'PIL'} & set(sys.modules)\n"
        "with pictures.picture(3, 2, sys.argv[1], 'png') as figure:\n"
        "    figure.subplots().plot([1, 2])\n"
        "print(os.environ['MPLBACKEND'])\n"
    )
    backend = "module://none_that_is_here.backend"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        env=os.environ | {"MPLBACKEND": backend},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{backend}\n"), done.stderr
    assert (tmp_path / "a.png").exists()
