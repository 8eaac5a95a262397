"""Runs shared between processes: each made once, and one failure is one alone."""

import subprocess
import sys

import pytest

from experiments.reproduce import plan, protocol, sharing
from experiments.runs import cores, records, workers
from tests.experiments.reproduce.test_command import command

# Stands for a run: notes that it began, and ends as its name says.
PROGRAM = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).open("a").write(sys.argv[2] + "\\n")
time.sleep(0.1)
sys.exit(int(sys.argv[2].rpartition("_")[2]))
"""


def test_every_run_is_made_once_and_failures_are_named(tmp_path, monkeypatch, capsys):
    shares = []

    def start(module, arguments, log, kept_to):
        assert module == "experiments.reproduce"
        shares.append(kept_to)
        name = arguments[-1].removeprefix("--run=")
        code = [sys.executable, "-c", PROGRAM, str(tmp_path / "made"), name]
        return subprocess.Popen(code)

    monkeypatch.setattr(workers, "start", start)
    monkeypatch.setattr(cores, "available", lambda: [3, 4])
    runs = [protocol.Run(f"{i}_{i % 3}", "addition", {}) for i in range(5)]
    request = plan.Request([], "smoke", None, False, tmp_path, tmp_path)
    failed = sharing._make(runs, request, 2)
    made = (tmp_path / "made").read_text().split()
    assert sorted(made) == sorted(run.name for run in runs)
    assert {tuple(each) for each in shares} == {(3,), (4,)}
    ends = {text.partition(" (see")[0] for text in failed}
    assert ends == {
        *("1_1 ended with exit code 1", "2_2 ended with exit code 2"),
        "4_1 ended with exit code 1",
    }
    printed = capsys.readouterr().out
    assert "3_0: recorded | " in printed and printed.endswith("0 running, 0 left\n")


def test_workers_do_not_outlive_the_command(tmp_path, monkeypatch):
    processes = []

    def start(*_):
        if processes:
            raise KeyboardInterrupt
        code = "import time; time.sleep(600)"
        processes.append(subprocess.Popen([sys.executable, "-c", code]))
        return processes[0]

    monkeypatch.setattr(workers, "start", start)
    request = plan.Request([], "smoke", None, False, tmp_path, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sharing._make([protocol.Run(x, "addition", {}) for x in "ab"], request, 2)
    assert processes[0].returncode is not None


FIGURE = """
from experiments.reproduce import protocol

def runs(scale):
    return [
        protocol.Run(f"{scale}/F9/{length}", "addition", {"task.length": length})
        for length in (1, 5, 6)
    ]

FIGURE = protocol.Figure("F9", "F9", runs, table=lambda results, scale: "a table")
"""


@pytest.mark.slow
def test_one_failing_run_loses_no_other(tmp_path):
    figure = tmp_path / "figure.py"
    figure.write_text(FIGURE)
    done = command(
        *(str(figure), "--scale=smoke", "--workers=2", f"--workdir={tmp_path / 'w'}")
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 1 of 3 runs failed: smoke/F9/1 ended with")
    assert "a table" in done.stdout
    results = tmp_path / "w" / "smoke_results"
    for length in (5, 6):
        assert records.read(f"smoke/F9/{length}", results)["result"]["steps"] == 4
    [log] = (tmp_path / "w" / "smoke" / "F9").glob("1-*.log")
    assert "config.task.length must be" in log.read_text()
    again = command(
        *(str(figure), "--scale=smoke", "--plan", f"--workdir={tmp_path / 'w'}")
    )
    assert "2 of 3 runs recorded" in again.stdout
