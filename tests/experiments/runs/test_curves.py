"""Figures are drawn from logs alone."""

import json
import os
import pathlib
import re
import subprocess
import sys

import matplotlib
import pytest

from experiments.runs import curves, identity, logs, pictures
from tests.experiments import small

ROOT = pathlib.Path(__file__).resolve().parents[3]
STARTED = {
    **{"step": 0, "split": "event", "event": "started", "task": "copying"},
    **{"model": "spectral", "primary": "recall", "baseline": 0.1733},
}


def line(step, split, **values):
    return {"step": step, "split": split, **values}


LINES = [
    STARTED,
    line(1, "train", loss=2.3, recall=0.1),
    line(20, "train", loss=0.5, recall=0.2),
    line(20, "valid", loss=0.6, recall=0.2),
    line(40, "train", loss=9.0, recall=0.9),
    line(40, "valid", loss=9.0, recall=0.9),
    line(20, "event", event="resumed_from"),
    line(40, "train", loss=0.25, recall=0.5),
    line(40, "valid", loss=0.3, recall=0.4),
    line(60, "train", loss=None, recall=None),
]


def write(path, lines, end=""):
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + end)
    return path


def test_last_line_of_a_step_counts_and_an_unfinished_one_does_not(tmp_path):
    path = write(tmp_path / "metrics.jsonl", LINES, end='{"step": 80, "spl')
    lines, events = logs.read_metrics(path)
    assert [each["step"] for each in lines["train"]] == [1, 20, 40, 60]
    assert [each["loss"] for each in lines["valid"]] == [0.6, 0.3]
    assert lines["train"][2]["loss"] == 0.25
    assert [each["event"] for each in events] == ["started", "resumed_from"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"step": 3}', '{"split": "train"}'])
def test_a_bad_line_is_named(tmp_path, text):
    path = write(tmp_path / "metrics.jsonl", LINES[:2], end=text + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 3"):
        logs.read_metrics(path)


def test_curve_needs_a_start_and_a_validation_line(tmp_path):
    output = tmp_path / "curve.png"
    for lines in (LINES[1:], LINES[:2]):
        path = write(tmp_path / "metrics.jsonl", lines)
        with pytest.raises(ValueError, match="no 'started' event or no validation"):
            curves.learning_curve(path, output)
    assert not output.exists()


def test_names_of_ones_own_are_drawn_as_they_stand(tmp_path):
    own = {"task": "$t$_{", "model": "_m", "primary": "$p$"}
    valid = line(20, "valid", loss=0.6, **{"$p$": 0.2})
    path = write(tmp_path / "metrics.jsonl", [STARTED | own, valid])
    with matplotlib.rc_context({"text.usetex": True}):
        curves.learning_curve(path, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").exists()


# ---- Several runs.


def workdir(folder, *, started=STARTED, **fields):
    """A folder with a log and a config that differs in `fields`, as model__hidden."""
    folder.mkdir(parents=True)
    write(folder / "metrics.jsonl", [started, *LINES[1:]])
    config = identity.to_dict(small.changed_addition(**fields))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def labels(*workdirs):
    found = curves._labels([curves._run(each) for each in workdirs])
    return [label.replace("\N{NO-BREAK SPACE}", " ") for label in found]


def test_runs_are_called_by_what_differs(tmp_path):
    spectral = workdir(tmp_path / "a")
    rnn = workdir(tmp_path / "b", model__name="rnn")
    assert labels(spectral, rnn) == ["Spectral-RNN", "RNN"]  # nor by the radius
    fast = workdir(tmp_path / "c", model__name="rnn", train__learning_rate=0.5)
    assert labels(spectral, rnn, fast) == [
        *("Spectral-RNN, learning_rate = 0.01", "RNN, learning_rate = 0.01"),
        "RNN, learning_rate = 0.5",
    ]
    twin = workdir(tmp_path / "d", model__name="rnn")
    assert labels(rnn, twin) == ["b", "d"]
    assert labels(spectral, rnn, twin) == ["a", "b", "d"]
    slow = {"train__rates__reflectors": 1e-3}
    few = workdir(tmp_path / "f", model__reflectors=4, **slow)
    assert labels(spectral, few) == [
        "model.reflectors = 16, train.rates.reflectors = None",
        "model.reflectors = 4, train.rates.reflectors = 0.001",
    ]
    deep = workdir(tmp_path / "e" / "b", model__name="rnn")
    assert labels(rnn, deep) == [str(rnn), str(deep)]


def test_models_have_their_colours_unless_one_comes_twice(tmp_path):
    pair = [workdir(tmp_path / name, model__name=name) for name in ("rnn", "lstm")]
    runs = [curves._run(each) for each in pair]
    looks = curves._looks(runs)
    assert [look["color"] for look in looks] == [pictures.BLUE, pictures.GREEN]
    looks = curves._looks([*runs, *runs])
    assert len({look["color"] for look in looks}) == 4


def test_several_runs_over_one_another(tmp_path):
    runs = [workdir(tmp_path / name, model__name=name) for name in ("rnn", "lstm")]
    output = curves.compare(runs, tmp_path / "both.png")
    assert output == tmp_path / "both.png"
    for ending in ("png", "pdf", "svg"):
        assert output.with_suffix(f".{ending}").stat().st_size > 1000
    text = output.with_suffix(".svg").read_text()
    for word in ("RNN", "LSTM", "training loss", "validation recall", "knows nothing"):
        assert f">{word}</text>" in text


def test_one_validation_is_a_point(tmp_path, monkeypatch):
    folders = [workdir(tmp_path / name) for name in "ab"]
    for folder in folders:
        write(folder / "metrics.jsonl", LINES[:4])
    markers = []
    draw = curves._draw

    def note(panel, *arguments, **style):
        draw(panel, *arguments, **style)
        markers.append([line.get_marker() for line in panel.lines][-1])

    monkeypatch.setattr(curves, "_draw", note)
    curves.compare(folders, tmp_path / "both.png")
    assert markers == ["None", "o"] * 2  # two training lines, one validation


def test_every_folder_has_its_label(tmp_path):
    names = ["_a", "cost_$5$_{", "a" * 200, "b\nb"]
    runs = [workdir(tmp_path / name) for name in names]
    output = curves.compare(runs, tmp_path / "all.png")
    text = output.with_suffix(".svg").read_text()
    for name in ("_a", "cost_$5$_{", "b\\nb"):
        assert f">{name}</text>" in text
    pieces = re.findall(">(a+)</text>", text)
    assert sum(map(len, pieces)) == 200


def test_runs_that_cannot_be_compared(tmp_path):
    one = workdir(tmp_path / "one")
    other = workdir(tmp_path / "other", started=STARTED | {"primary": "loss"})
    with pytest.raises(
        ValueError, match="WORKDIR must be runs with one metric, got .*"
    ):
        curves.compare([one, other], tmp_path / "a.png")
    with pytest.raises(ValueError, match="WORKDIR must be different folders, got"):
        curves.compare([one, one], tmp_path / "a.png")
    with pytest.raises(ValueError, match="WORKDIR must hold a run, got .*none: no con"):
        curves.compare([one, tmp_path / "none"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def command(*arguments, **more):
    code = (
        "import sys; from experiments import commandline, figures\n"
        "try: commandline.run(figures.main)\n"
        "finally: assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'jax'"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        **{"capture_output": True, "text": True, "env": os.environ | PATH, **more},
    )


PATH = {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_command_draws_without_jax(tmp_path):
    one, other = (workdir(tmp_path / f"{name}", model__hidden=name) for name in (1, 2))
    done = command(one)
    assert done.returncode == 0, done.stderr
    drawn = one / "learning_curve.png"
    assert done.stdout.strip() == str(drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    both = command(one, other, "--out=b.png", cwd=tmp_path)
    assert (both.returncode, both.stdout) == (0, "b.png\n"), both.stderr
    assert (tmp_path / "b.pdf").exists()
    missing = command(tmp_path / "none")
    message = f"error: WORKDIR must hold a run, got {tmp_path / 'none'}: no metrics"
    assert missing.returncode == 2 and missing.stderr.startswith(message)
    alone = command(one, "--out=b.png")
    assert alone.returncode == 1 and alone.stderr.count("\n") == 1
