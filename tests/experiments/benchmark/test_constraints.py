"""The benchmark of constraints: its contenders compute one thing, and its table."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmark import constraints, timing

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_baked_and_not_are_one_model(monkeypatch):
    monkeypatch.setattr(constraints, "UNITS", 4)
    monkeypatch.setattr(constraints, "STEPS", 3)
    monkeypatch.setattr(constraints, "BATCH", 2)
    calls = constraints.calls("lstm")
    assert list(calls) == [
        "unconstrained",
        *("Spectral, as it is", "Spectral, baked"),
        *("Orthogonal, as it is", "Orthogonal, baked"),
    ]
    for name in constraints.CONSTRAINTS:
        as_it_is, baked = (calls[f"{name}, {how}"]() for how in ("as it is", "baked"))
        np.testing.assert_allclose(as_it_is[0], baked[0], rtol=1e-5)
    assert calls["unconstrained"]()[0] != baked[0]


def test_table():
    times = {
        "unconstrained": timing.Timing(0.010, 0.009, 0.020, 5),
        "Spectral, baked": timing.Timing(0.012, 0.011, 0.013, 5),
        "torch unconstrained": timing.Timing(0.1, 0.1, 0.1, 5),
        "torch orthogonal": timing.Timing(0.2, 0.1, 0.3, 5),
    }
    lines = constraints.table({"lstm": times}).splitlines()
    assert lines[3] == "| lstm | Spectral, baked | 12.0 | 11.0–13.0 | 1.20 | 1.22 |"
    assert lines[5].endswith("| 2.00 | 1.00 |")


def test_results_are_printed_and_written(tmp_path, monkeypatch, capsys):
    asked = []

    def calls(name):
        asked.append(name)
        return {"unconstrained": lambda: 0.0, "Spectral, baked": lambda: 0.0}

    monkeypatch.setattr(constraints, "calls", calls)
    path = constraints.measure(["lstm"], peers=False, seconds=0.0, out=tmp_path)
    assert path == tmp_path / "benchmark_constraints.json" and asked == ["lstm"]
    record = json.loads(path.read_text())
    assert record["machine"]["backend"] == "cpu" and "revision" in record
    assert record["models"]["lstm"]["Spectral, baked"].keys() >= {"low", "median"}
    assert "| lstm | Spectral, baked |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,message",
    [
        (
            ["constraints", "--quick", "--n=4"],
            "this benchmark does not read --n, --quick",
        ),
        (["--model=lstm"], "this benchmark does not read --model"),
        (["constraints", "layers"], "unknown arguments: constraints layers"),
    ],
)
def test_flags_of_the_other_benchmark_are_refused(words, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *words, f"--out={tmp_path}"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert done.returncode == 1 and done.stderr.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
