"""Records of runs: what is kept, and that an unfinished run is refused."""

import itertools
import json

import jax
import pytest

from experiments.runs import records


def event(step, name, **values):
    return {"step": step, "split": "event", "event": name, **values}


def workdir(path, finished=True):
    lines = [
        event(0, "started", revision="a", machine=1),
        {"step": 5, "split": "valid", "loss": 2.0, "mse": 2.0, "seconds": 1.0},
        event(5, "resumed_from", revision="b", machine=2, settings={"a": 1}),
        {
            "step": 9,
            "split": "train",
            "loss": 1.23456789,
            "mse": 1.5,
            "update_norm": 0.5,
            "seconds": 2.0,
            "examples_per_second": 9.0,
        },
        {"step": 9, "split": "valid", "loss": 1.0, "mse": 1.0, "seconds": 2.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    (path / "config.json").write_text(json.dumps({"seed": 3, "data_dir": "somewhere"}))
    if finished:
        (path / "result.json").write_text(json.dumps({"steps": 9}))
    return path


def test_a_record_holds_the_run_and_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    written = records.record(workdir(tmp_path), "group/run")
    assert written == tmp_path / "results" / "group" / "run.json"
    assert json.loads(written.read_text()) == {
        "config": {"seed": 3},
        "result": {"steps": 9},
        "revision": "b",
        "machine": 2,
        "settings": {"a": 1},
        "valid": [
            {"step": 5, "loss": 2.0, "mse": 2.0},
            {"step": 9, "loss": 1.0, "mse": 1.0},
        ],
        "train": [{"step": 9, "loss": 1.23457, "mse": 1.5, "update_norm": 0.5}],
    }
    assert records.read("group/run") == json.loads(written.read_text())
    assert records.read("group/none") is None


def test_a_record_of_a_run_of_before_has_no_settings(tmp_path):
    path = workdir(tmp_path)
    log = path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"settings"', '"other"'))
    assert "settings" not in json.loads(
        records.record(path, "run", tmp_path).read_text()
    )


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        records.record(workdir(tmp_path, finished=False), "run")


def test_a_diverged_run_is_recorded_with_its_step(tmp_path):
    path = workdir(tmp_path, finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        stop = event(11, "non_finite", what="the loss", last_checkpoint=None)
        file.write(json.dumps(stop) + "\n")
    written = records.record(path, "run", tmp_path / "elsewhere")
    content = json.loads(written.read_text())
    assert written == tmp_path / "elsewhere" / "run.json"
    assert content["result"] is None
    assert content["diverged"] == {"step": 11, "what": "the loss", "wall_seconds": 2.0}
    assert [point["step"] for point in content["valid"]] == [5, 9]


def test_stand_in_data_are_named(tmp_path):
    path = workdir(tmp_path)
    (path / "config.json").write_text(json.dumps({"data_dir": "stand-in"}))
    content = json.loads(records.record(path, "run", tmp_path).read_text())
    assert content["config"] == {} and content["data"] == "stand-in"


@pytest.mark.parametrize(("count", "most"), [(3, 5), (5, 5), (6, 5), (1000, 80)])
def test_thinned_lines_are_even_and_keep_the_ends(count, most):
    lines = list(range(count))
    found = records.thinned(lines, most)
    assert (found[0], found[-1]) == (0, count - 1)
    assert len(found) == min(count, most)
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert max(gaps) - min(gaps) <= 1


def test_the_machine_is_named_in_general_terms():
    found = records.machine()
    assert found["backend"] in ("cpu", "gpu", "tpu")
    assert found["cores"] >= 1
    assert set(found) == {
        "backend",
        "device",
        "cores",
        "architecture",
        *("jax", "jaxlib", "flax", "optax", "numpy", "python"),
    }
    assert found["jax"] == jax.__version__
