"""What is recorded, what is missing and what it takes. Records here are made up."""

import json
import pathlib

import pytest

from experiments.reproduce import estimates, plan, protocol, registry, status
from experiments.runs import progress
from tests.experiments.reproduce.invented import invent


def request(figure, results, seeds=None):
    return plan.Request(
        figures=[registry.FIGURES[figure]],
        scale="cpu",
        seeds=seeds,
        redo=False,
        workdir=pathlib.Path("runs"),
        results=results,
    )


def test_recorded_missing_and_other_configs(tmp_path):
    done, redo, free = (registry.FIGURES["ptb_word"].runs("cpu")[i] for i in (0, 1, 2))
    invent(done, tmp_path)
    invent(redo, tmp_path, **{"model.dropout": 0.5})
    invent(free, tmp_path, **{"train.learning_rate": 0.01})
    found = status.of_figure(registry.FIGURES["ptb_word"], "cpu", tmp_path)
    recorded = [each.run.name for each in found if each.record]
    assert recorded == [done.name, free.name]
    assert "config.model.dropout: 0.5 -> 0.2" in found[1].problem
    assert found[1].run.name in found[1].problem
    assert not any(each.problem for each in found[2:])


def test_fields_since_a_record_have_their_defaults(tmp_path):
    run = registry.FIGURES["F1"].runs("cpu")[0]
    path = invent(run, tmp_path, **{"train.plateau_patience": 7})  # read by "plateau"
    content = json.loads(path.read_text())
    del content["config"]["model"]["dropout"]
    path.write_text(json.dumps(content))
    assert status.find(run, tmp_path)[1] is None
    content["config"]["model"]["speed"] = 1
    path.write_text(json.dumps(content))
    assert "config.model.speed: 1 -> '(absent)'" in status.find(run, tmp_path)[1]


def test_stand_in_data_count_for_nothing_else(tmp_path):
    run = registry.FIGURES["F3"].runs("cpu")[0]
    invent(run, tmp_path, stands_in=True)
    assert "is not of real data" in status.find(run, tmp_path)[1]
    run = registry.FIGURES["F3"].runs("smoke")[0]
    invent(run, tmp_path)
    assert "is not of stand-in data" in status.find(run, tmp_path)[1]


def test_a_record_of_other_random_streams_counts_for_nothing(tmp_path):
    run = registry.FIGURES["F1"].runs("cpu")[0]
    path = invent(run, tmp_path)
    content = json.loads(path.read_text())
    for wide, problem in [
        (False, None),
        (True, "jax_enable_x64: True -> False"),
    ]:
        settings = {"jax_enable_x64": wide, "XLA_FLAGS": "--any"}
        path.write_text(json.dumps(content | {"settings": settings}))
        found = status.find(run, tmp_path)[1]
        assert found is None if problem is None else problem in found


def test_a_certificate_that_is_asked_for_must_be_there(tmp_path):
    run = registry.FIGURES["F5"].runs("cpu")[0]
    path = invent(run, tmp_path)
    assert status.find(run, tmp_path)[1] is None
    content = json.loads(path.read_text())
    del content["certificate"]
    path.write_text(json.dumps(content))
    assert status.find(run, tmp_path)[1] == f"{path} has no certificate"


def test_a_broken_record_is_named(tmp_path):
    run = registry.FIGURES["F1"].runs("cpu")[0]
    path = invent(run, tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "no config")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            status.find(run, tmp_path)


def test_time_comes_from_records_of_the_same_shape(tmp_path):
    runs = registry.FIGURES["F1"].runs("cpu")[:4]
    config = protocol.config_dict(runs[0])
    invent(runs[0], tmp_path, wall_seconds=100.0)
    invent(runs[1], tmp_path, wall_seconds=300.0)
    first, second, third, other = status.of_figure(
        registry.FIGURES["F1"], "cpu", tmp_path
    )[:4]
    assert (first.seconds, second.seconds) == (100.0, 300.0)
    assert third.seconds == pytest.approx(200.0) and third.measured
    assert not other.measured
    expected = estimates.estimate(protocol.config_dict(other.run))
    assert other.seconds == expected > 0
    assert config["model"]["name"] != protocol.config_dict(other.run)["model"]["name"]
    # A trial of ten updates, which all went into compilation, says nothing of them.
    short = protocol.Run("short", runs[0].config, runs[0].changes | {"train.steps": 10})
    invent(short, tmp_path, wall_seconds=100.0)
    assert status.of_figure(registry.FIGURES["F1"], "cpu", tmp_path)[2] == third


def test_plan_shows_every_run_and_sums(tmp_path, capsys):
    runs = registry.FIGURES["F2"].runs("cpu")
    invent(runs[0], tmp_path, wall_seconds=60.0)
    invent(runs[1], tmp_path, diverged=5)
    invent(runs[2], tmp_path, **{"model.hidden": 9})
    plan.show(request("F2", tmp_path))
    text = capsys.readouterr().out
    assert text.count("  missing ") == len(runs) - 3
    assert text.count("  done ") == text.count("  diverged ") == 1
    assert f"2 of {len(runs)} runs recorded" in text
    assert "other config" in text and "cannot be used" in text
    found = status.of_figure(registry.FIGURES["F2"], "cpu", tmp_path)
    left = sum(each.seconds for each in found[2:])
    assert f"{progress.duration(left)} to go" in text
    assert f"{progress.duration(left + 61)} with them" in text


def test_one_protocol_alone(tmp_path, capsys):
    paper = request("F2", tmp_path)._replace(protocol="paper")
    plan.show(paper)
    text = capsys.readouterr().out
    for run in registry.FIGURES["F2"].runs("cpu"):
        assert (f"  {run.name}\n" in text) == (run.protocol == "paper")


def test_the_first_seeds_alone(tmp_path, capsys):
    plan.show(request("F2", tmp_path, seeds=2))
    text = capsys.readouterr().out
    names = [run.name for run in registry.FIGURES["F2"].runs("cpu")]
    for name in names:
        assert (f"  {name}\n" in text) == (not name.endswith("seed2"))
    first = [name for name in names if not name.endswith("seed2")]
    assert f"0 of {len(first)} runs recorded" in text
