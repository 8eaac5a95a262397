"""Figures drawn from records. Records here are made up."""

import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

from experiments.reproduce import panels, registry, status
from experiments.reproduce.figures import drawing
from experiments.runs import pictures
from tests.experiments.reproduce.invented import invent

ROOT = pathlib.Path(__file__).resolve().parents[3]


PANELS = {"F1": 12, "F2": 8, "F3": 12, "F3_leak": 3, "F4": 4, "F5": 9}


@pytest.mark.slow
@pytest.mark.parametrize("figure", PANELS)
def test_figures_are_drawn_from_what_there_is(figure, tmp_path):
    runs = registry.FIGURES[figure].runs("cpu")
    assert drawing.draw(registry.FIGURES[figure], "cpu", tmp_path) is None
    for i, run in enumerate(runs):
        if i % 7 != 3:
            invent(run, tmp_path, diverged=2 if i % 5 == 1 else None)
    output = drawing.draw(registry.FIGURES[figure], "cpu", tmp_path)
    assert output == tmp_path / "figures" / f"{figure}_cpu.png"
    files = {path.suffix: path.read_bytes() for path in output.parent.iterdir()}
    assert files.keys() == {".png", ".pdf", ".svg", ".md"}
    assert all(len(content) < 300_000 for content in files.values())
    assert registry.FIGURES[figure].title in files[".md"].decode()
    with Image.open(output) as image:
        assert image.width == pictures.PAGE * pictures.DPI
    drawn = re.findall("<text[^>]*>([^<]*)</text>", files[".svg"].decode())
    letters = [text[1] for text in drawn if re.match(r"\([a-z]\)", text)]
    assert letters == list("abcdefghijkl"[: PANELS[figure]])
    if figure == "F4":
        assert drawing.redraw(tmp_path) == [output]
        again = {path.suffix: path.read_bytes() for path in output.parent.iterdir()}
        assert again == files  # to the byte


def test_curves_show_median_range_and_divergence(tmp_path):
    from matplotlib.figure import Figure

    runs = registry.FIGURES["F1"].runs("cpu")[:3]  # three seeds of rnn
    for run, diverged in zip(runs, (None, None, 3), strict=True):
        invent(run, tmp_path, diverged=diverged)
    found = [status.find(run, tmp_path)[0] for run in runs]
    for point in found[1]["valid"]:
        point["mse"] *= 3
    panel = Figure().subplots()
    panels.curves(panel, panels.by_model(found), "valid", "mse")
    median, cross = panel.get_lines()
    assert (median.get_label(), median.get_marker()) == ("RNN", ".")
    assert list(median.get_xdata()) == [1, 2, 3]
    # Not the means, which are 5/3 and 5/6 of three; of two both are the same.
    assert median.get_ydata() == pytest.approx([1, 1 / 2, 2 / 3])
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([2], [0.5])
    band = panel.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 3 and band[:, 1].min() == pytest.approx(1 / 3)
    named = {run.name: record for run, record in zip(runs, found, strict=True)}
    named = {name: r | {"protocol": "tuned"} for name, r in named.items()}
    text = drawing.caption(registry.FIGURES["F1"], "cpu", named)
    assert "Protocol `paper`: not run." in text
    asked = len(registry.FIGURES["F1"].runs("cpu"))
    assert (
        f"`cpu`, seeds 0, 1, 2, 3 of {asked} runs of 1,000 iterations, on cpu," in text
    )
    assert "Lines are medians over seeds, bands from the least to the greatest" in text
    diverged = runs[2].name.removeprefix("cpu/")
    assert (
        f"Diverged (a cross; beyond it, the other seeds): {diverged} at step 3." in text
    )
    one = drawing.caption(
        registry.FIGURES["F1"], "cpu", {runs[0].name: named[runs[0].name]}
    )
    assert "seed 0, 1 of" in one and "bands" not in one and "Diverged" not in one


@pytest.mark.parametrize("left", [[], [{"step": 1, "mse": 0.0}]])
def test_a_run_that_diverged_before_any_point_has_a_cross_at_the_bottom(tmp_path, left):
    from matplotlib.figure import Figure

    runs = registry.FIGURES["F1"].runs("cpu")[:2]
    for run, diverged in zip(runs, (None, 2), strict=True):
        invent(run, tmp_path, diverged=diverged)
    found = [status.find(run, tmp_path)[0] for run in runs]
    found[1]["valid"] = left
    panel = Figure().subplots()
    panels.curves(panel, panels.by_model(found), "valid", "mse")
    _, cross = panel.get_lines()
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([2], [0.02])
    assert cross.get_transform() == panel.get_xaxis_transform()
    panel = Figure().subplots()  # of what the model does not have at all
    panels.curves(panel, panels.by_model(found), "valid", "other")
    assert not panel.get_lines()


def test_captions_have_the_iterations_that_were_made(tmp_path):
    run = registry.FIGURES["F1"].runs("cpu")[0]
    invent(run, tmp_path)
    record = status.find(run, tmp_path)[0]
    record["result"]["steps"] = 77
    assert panels.iterations([record]) == "77 iterations"


def test_protocols_are_drawn_below_one_another(tmp_path):
    figure = registry.FIGURES["F2"]
    runs = [run for run in figure.runs("cpu") if run.changes["seed"] == 0]
    for run in runs:
        if run.protocol == "tuned" or run.changes["model.name"] == "lstm":
            invent(run, tmp_path)
    found = list(drawing.usable(runs, tmp_path).values())
    drawn = figure.draw(found, "cpu").axes
    assert [panel.get_title() for panel in drawn if panel.get_title()] == [
        f"{name}, lag T = {lag}" for name in ("paper", "tuned") for lag in (100, 500)
    ]
    assert len(drawn) == 8
    panels.letter(drawn[0].figure)
    assert drawn[1].get_title(loc="left") == "(b) paper, lag T = 500"
    assert drawn[2].get_title(loc="left") == "(c)"
    models = [sum("RNN" in x.get_label() for x in panel.lines) for panel in drawn]
    assert models == [0] * 4 + [4] * 4
    assert drawn[0].get_ylim() == drawn[4].get_ylim()  # of the same lag
    tuned = [record for record in found if record["protocol"] == "tuned"]
    assert len(figure.draw(tuned, "cpu").axes) == 4


def test_the_certificate_s_figure_says_what_was_not_run(tmp_path):
    figure = registry.FIGURES["F5"]
    runs = [run for run in figure.runs("cpu") if run.changes.get("task.steps") != 112]
    for run in runs:
        invent(run, tmp_path)
    found = list(drawing.usable(runs, tmp_path).values())
    drawn = figure.draw(found, "cpu").axes
    assert [panel.get_title() for panel in drawn[:3]] == [
        "T = 28",
        "T = 112",
        "T = 784",
    ]
    words = [[text.get_text() for text in panel.texts] for panel in drawn]
    assert words == [[], ["not run"], []] * 3
    gap = {line.get_label(): line for line in drawn[6].lines}
    assert list(gap) == [
        *("n = 16, m = 2", "n = 16, m = 2, random labels", "n = 32, m = 4")
    ]
    assert list(gap["n = 32, m = 4"].get_xdata()) == [0.001, 0.01, 0.1, 0.3]
    assert gap["n = 32, m = 4"].get_ydata() == pytest.approx([0.05] * 4)


def test_several_radii_are_told_apart_in_every_panel(tmp_path):
    from matplotlib.figure import Figure

    runs = [run for run in registry.FIGURES["F3"].runs("cpu") if "S28" in run.name]
    for run in runs:
        invent(run, tmp_path)
    found = [
        record
        for record in drawing.usable(runs, tmp_path).values()
        if record["config"]["model"]["name"] == "spectral"
    ]
    looks = panels.styles(panels.by_radius(found))
    spectral = [name for name in looks if name.startswith("Spectral-RNN, r = ")]
    assert len(spectral) == 3
    assert len({looks[name]["linestyle"] for name in spectral}) == 3
    assert {looks[name]["color"] for name in spectral} == {pictures.COLORS["spectral"]}
    widest = [r for r in found if r["config"]["model"]["radius"] == 0.3]
    panel = Figure().subplots()
    series = panels.by_radius(widest)
    panels.curves(panel, series, "valid", "accuracy", looks=looks)
    (line,) = {line.get_label(): line for line in panel.get_lines()}.values()
    assert (line.get_label(), line.get_linestyle()) == ("Spectral-RNN, r = 0.3", "-")


def test_another_config_is_left_out_of_a_figure_aloud(tmp_path, capsys):
    runs = registry.FIGURES["F1"].runs("cpu")[:2]
    invent(runs[0], tmp_path)
    invent(runs[1], tmp_path, **{"model.hidden": 64})
    assert len(drawing.usable(runs, tmp_path)) == 1
    assert "config.model.hidden: 64 -> 128" in capsys.readouterr().err


@pytest.mark.slow
def test_drawing_tables_and_plans_do_without_jax():
    code = (
        "import sys; from experiments import figures;"
        "from experiments.reproduce import documents, registry, status;"
        "documents.rewritten(documents.read());"
        "figure = registry.FIGURES['F1'];"
        "status.of_figure(figure, 'cpu', documents.records.RESULTS);"
        "assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'imports jax'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_iterations_are_those_that_were_made():
    config = {"train": {"steps": 500, "steps_per_epoch": None}}
    config["task"] = {"name": "addition"}
    results = (None, {"steps": 500}, {"steps": 60, "stopped_early": True})
    records = [{"config": config, "result": result} for result in results]
    assert panels.iterations(records[:2]) == "500 iterations"
    assert panels.iterations(records) == "60 to 500 iterations"
