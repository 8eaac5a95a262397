"""Figures are drawn from logs alone."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.runs import curves, logs

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


@pytest.mark.slow
def test_command_draws_without_jax(tmp_path):
    write(tmp_path / "metrics.jsonl", LINES)
    code = (
        "import sys; from experiments import figures; figures.main(sys.argv[1:]);"
        "assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'imports jax'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    drawn = tmp_path / "learning_curve.png"
    assert done.stdout.strip() == str(drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    missing = subprocess.run(
        [sys.executable, "-m", "experiments.figures", str(tmp_path / "none")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert missing.returncode == 1 and missing.stderr.startswith("error: ")
