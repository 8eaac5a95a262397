"""Runs shared between processes: each made once, and one failure is one alone."""

import contextlib
import subprocess
import sys

import pytest

from experiments.reproduce import execution, plan, protocol
from experiments.runs import cores, folder, records, workers
from experiments.training import loop
from tests.experiments.reproduce.invented import invent
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
    failed = execution.make_all(runs, request, 2)
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
        execution.make_all([protocol.Run(x, "addition", {}) for x in "ab"], request, 2)
    assert processes[0].returncode is not None


# Holds the lock of a run's folder until its input ends.
HOLDER = """
import pathlib, sys
from experiments.runs import folder
path = pathlib.Path(sys.argv[1])
path.mkdir(parents=True)
with folder.held(path):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_what_another_command_makes_is_left_to_it(tmp_path, capsys):
    request = plan.Request([], "smoke", None, False, tmp_path / "w", tmp_path / "r")
    first, second = (protocol.Run(name, "addition", {}) for name in "ab")
    left = [first, second]
    with held_by_another(execution.place(first, request.workdir)) as other:
        assert execution.take(left, request) == second and left == [first]
        assert execution.take(left, request) is None and left == [first]
        other.kill()  # what it has not made is taken up
        other.wait()
        assert execution.take(left, request) == first and not left
    left = [first, second]
    invent(first, request.results)
    assert execution.take(left, request) == second and not left
    assert capsys.readouterr().out == "a: recorded by another command\n"


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_runs_of_another_command_are_waited_for(
    count, tmp_path, monkeypatch, capsys
):
    run = protocol.Run("a", "addition", {})
    figure = protocol.Figure("F9", "F9", lambda scale: [run], table=lambda *_: "")
    request = plan.Request([figure], "cpu", None, False, tmp_path / "w", tmp_path / "r")
    with held_by_another(execution.place(run, request.workdir)) as other:

        def sleep(seconds):
            invent(run, request.results)
            other.communicate()

        monkeypatch.setattr(execution.time, "sleep", sleep)
        if count == 1:
            execution.reproduce(request)
        else:
            execution.share(request, count)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "waiting for 1 runs that other commands make",
        "a: recorded by another command",
    ]


def test_a_run_that_another_command_has_just_begun_is_left_for_later(
    tmp_path, monkeypatch
):
    runs = [protocol.Run(name, "addition", {}) for name in "abc"]
    figure = protocol.Figure("F9", "F9", lambda scale: runs, table=lambda *_: "")
    request = plan.Request([figure], "cpu", None, False, tmp_path / "w", tmp_path / "r")
    began = []

    def train(config, workdir, config_file):
        began.append(workdir.name[0])
        if began == ["a"]:
            raise folder.InUse("in use")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(records, "record", lambda *_: "recorded")
    execution.reproduce(request)
    assert began == ["a", "b", "c", "a"]


def test_a_process_whose_run_is_in_use_is_no_failure(tmp_path, monkeypatch, capsys):
    began = []

    def start(module, arguments, log, kept_to):
        began.append(arguments[-1].removeprefix("--run="))
        code = execution.IN_USE if began == ["a"] else 0
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])

    monkeypatch.setattr(workers, "start", start)
    request = plan.Request([], "smoke", None, False, tmp_path, tmp_path)
    runs = [protocol.Run(name, "addition", {}) for name in "ab"]
    assert execution.make_all(runs, request, 1) == [] and began == ["a", "b", "a"]
    assert (
        "a: another command was faster | 0 running, 2 left" in capsys.readouterr().out
    )


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
