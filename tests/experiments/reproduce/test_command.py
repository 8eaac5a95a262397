"""The command: what is missing is run, once, in order. Records here are made up."""

import math
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.reproduce import execution, plan, protocol, registry, status
from experiments.runs import pictures, records
from tests.experiments.reproduce.invented import invent, reads_data

ROOT = pathlib.Path(__file__).resolve().parents[3]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.reproduce", *arguments],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )


def smoke(folder, *figures, redo=False):
    return plan.Request(
        figures=[registry.FIGURES[name] for name in figures or ("F2",)],
        scale="smoke",
        seeds=None,
        redo=redo,
        workdir=folder,
        results=folder / "smoke_results",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message",
    [
        (["F1", "--scale=cpu", "--seeds=0"], "--seeds must be at least 1, got 0"),
        (["F9", "--scale=cpu"], "FIGURE must be one of F1, F2, .* got 'F9'"),
        (["F1", "--scale=cpu", "--protocol=p"], "--protocol must be one of paper, tun"),
        (["F1", "--scale=huge"], "--scale must be one of smoke, cpu, full, got 'huge'"),
        (["F1"], "--scale must be one of"),
        (["F1", "--scales=cpu"], "Unknown command line flag 'scales'"),
        ([], "FIGURE"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)


@pytest.mark.slow
def test_the_plan_of_everything_finds_the_records():
    done = command("all", "--scale=cpu", "--plan")
    assert done.returncode == 0, done.stderr
    assert "cannot be used" not in done.stdout and "other config" not in done.stdout
    runs = {r.name for f in registry.FIGURES.values() for r in f.runs("cpu")}
    found = [name for name in runs if (records.RESULTS / f"{name}.json").exists()]
    total = done.stdout.splitlines()[-1]
    assert total.startswith(f"in all: {len(found)} of {len(runs)} runs recorded")


def test_help_tells_of_every_flag():
    done = command("--help")
    assert done.returncode == 0
    for flag in ("scale", "plan", "redo", "seeds", "workers", "workdir", "results"):
        assert f"--{flag}" in done.stdout.replace("--[no]", "--")
    assert "FIGURE is F1" in done.stdout


@pytest.fixture
def pretend(monkeypatch):
    """Runs that are invented instead of made; returns the names in order."""
    made = []

    def run(each, request):
        if stop == len(made):
            raise KeyboardInterrupt
        made.append(each.name)
        diverged = 2 if "irnn" in each.name else None
        invent(each, request.results, diverged=diverged, stands_in=True)

    stop = 3
    monkeypatch.setattr(execution, "make", run)
    monkeypatch.setattr(pictures, "FORMATS", ("png",))

    def resume():
        nonlocal stop
        stop = None
        return made

    return resume, made


@pytest.mark.slow
def test_stop_and_go_on(tmp_path, pretend, capsys):
    resume, made = pretend
    with pytest.raises(KeyboardInterrupt):
        execution.reproduce(smoke(tmp_path))
    assert len(made) == 3
    resume()
    execution.reproduce(smoke(tmp_path))
    assert made == [run.name for run in registry.FIGURES["F2"].runs("smoke")]
    figure = tmp_path / "smoke_results" / "figures" / "F2_smoke.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    execution.reproduce(smoke(tmp_path))
    assert len(made) == len(registry.FIGURES["F2"].runs("smoke"))  # nothing again
    assert "6 of 6 runs recorded" in capsys.readouterr().out


def test_another_config_stops_unless_redone(tmp_path, pretend):
    resume, made = pretend
    resume()
    results = tmp_path / "smoke_results"
    invent(registry.FIGURES["F2"].runs("smoke")[1], results, **{"model.hidden": 9})
    with pytest.raises(ValueError, match="config.model.hidden: 9 -> 8"):
        execution.reproduce(smoke(tmp_path))
    assert not made
    execution.reproduce(smoke(tmp_path, redo=True))
    assert len(made) == len(registry.FIGURES["F2"].runs("smoke"))
    assert status.find(registry.FIGURES["F2"].runs("smoke")[1], results)[1] is None


@pytest.mark.slow
def test_a_run_that_diverges_is_recorded(tmp_path, capsys):
    fields = {"train.learning_rate": 1e30, "task.length": 6}
    run = protocol.Run("hopeless", "addition", protocol.SMOKE | fields)
    request = smoke(tmp_path)
    execution.make(run, request)
    record = records.read("hopeless", request.results)
    assert record["result"] is None
    assert record["diverged"]["step"] == 2
    assert record["diverged"]["what"] == "the loss or its gradient"
    assert "diverged: the loss or its gradient is not finite" in capsys.readouterr().out
    assert status.find(run, request.results) == (record, None)


# ---- The smoke scale, for real: every model, and every figure by its last run.


@pytest.mark.slow
def test_smoke_goes_through_every_figure(tmp_path, capsys, monkeypatch):
    whole = ("F1", "F4")  # which have every model
    last = {registry.FIGURES[name].runs("smoke")[-1].name for name in registry.FIGURES}
    tuned = "spectral_200_seed0_tuned"
    make, made = execution.make, []

    def run(each, request):
        figure, name = each.name.split("/")[1:]
        if figure in whole or each.name in last or name == tuned:
            made.append(each)
            make(each, request)
        else:
            invent(each, request.results, stands_in=True)

    monkeypatch.setattr(execution, "make", run)
    execution.reproduce(smoke(tmp_path, *registry.FIGURES))
    results = tmp_path / "smoke_results"
    models = {protocol.build_config(each).model.name for each in made}
    assert models == {*protocol.RECURRENT, *protocol.FEEDFORWARD}
    for each in made:
        record = records.read(each.name, results)
        assert ("data" in record) == reads_data(each)
        assert record["result"]["steps"] == 4
        deep = protocol.build_config(each).model.name in protocol.FEEDFORWARD
        norm = "grad_norm" if deep else "carry_grad_norm"
        norms = [point[norm] for point in record["train"]]
        assert len(norms) == 3 and all(map(math.isfinite, norms))
    drawn = {path.name for path in (results / "figures").glob("*.png")}
    assert drawn == {f"F{i}_smoke.png" for i in (1, 2, 3, "3_leak", 4, 5)}
    printed = capsys.readouterr().out
    assert "test perplexity" in printed and "not run" not in printed
