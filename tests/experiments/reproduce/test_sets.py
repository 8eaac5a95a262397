"""The table of sets: equal models, equal trials, and what its rows say."""

import json
import types

import pytest
from flax import nnx

from experiments.models import build
from experiments.reproduce import protocol, registry
from experiments.reproduce.tables import sets
from experiments.runs import records
from experiments.training import fields
from tests.experiments.reproduce.invented import invent


def test_every_run_has_a_valid_config_and_every_model_as_many_trials():
    runs = registry.find("sets").runs("cpu")
    trials = [run for run in runs if run.changes["seed"] == 0]
    assert len(trials) == len(sets.SETS) * len(sets.MODELS) * len(sets.SETTINGS)
    assert len({run.name for run in runs}) == len(runs)
    for run in runs[:: len(sets.SETTINGS)]:
        fields.check(protocol.build_config(run))
    assert set(sets.CHOSEN) <= set(sets.SETS)
    assert sets.FIGURE not in registry.named(["all"])


@pytest.fixture
def some(monkeypatch):
    """Two sets, one of classes and one of numbers, with a choice."""
    names = ("GunPoint", "solar")
    rates = {"a": 1e-3, "b": 2e-3, "c": 3e-3, "d": 4e-3}
    settings = {name: {"train.learning_rate": rate} for name, rate in rates.items()}
    monkeypatch.setattr(sets, "SETTINGS", settings)
    monkeypatch.setattr(sets, "SETS", {name: sets.SETS[name] for name in names})
    choice = {name: ("b",) * len(sets.MODELS) for name in names}
    monkeypatch.setattr(sets, "CHOSEN", choice)


def test_the_table_has_the_chosen_runs_and_the_other_methods(some, tmp_path):
    for run in sets.runs("cpu"):
        invent(run, tmp_path)
    peers = {
        "versions": {"aeon": "1.0"},
        "sets": {
            "GunPoint": {
                **{"sizes": [50, 150, 150, 1], "classes": 2},
                "1NN-DTW": {"values": [0.25], "seconds": 1.0},
                "MiniRocket": {"values": [0.75, 1.0, 0.8], "seconds": 1.0},
            },
            "solar": {
                **{"sizes": [193, 48, 48, 1], "classes": None},
                "naive": {"values": [0.125], "seconds": 0.0},
            },
        },
    }
    (tmp_path / sets.PEERS).write_text(json.dumps(peers))
    text = sets.table(tmp_path, "cpu")
    assert "1,234 to 1,234 independent parameters" in text and "aeon 1.0" in text
    gun, solar = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()[-2:]
    )
    networks = ["0.600 (0.500–0.700)"] * 4  # seeds 0, 1 and 2 of the invented runs
    about = ["GunPoint", "50 / 150, 150 × 1, 2 classes", "accuracy"]
    assert gun == [*about, *networks, "0.250", "**0.850 (0.750–1.000)**"]
    assert solar[1:3] == ["193 / 48, 48 × 1", "rmse"]
    # Of an error the least is the best.
    assert solar[3:] == ["0.6000 (0.5000–0.7000)"] * 4 + ["**0.1250**", "not run"]


def test_a_setting_is_chosen_by_the_best_validation_and_then_by_the_loss(
    some, tmp_path
):
    assert sets.chosen("GunPoint", "gru", tmp_path) is None
    values = [("a", 0.5, 0.1), ("b", 0.75, 0.3), ("c", 0.75, 0.2), ("d", 0.25, 0.0)]
    for setting, accuracy, loss in values:
        path = invent(sets.run("GunPoint", "gru", setting, 0), tmp_path)
        content = json.loads(path.read_text())
        content["result"]["best"]["valid"] = {"accuracy": accuracy, "loss": loss}
        path.write_text(json.dumps(content))
    assert sets.chosen("GunPoint", "gru", tmp_path) == "c"


@pytest.mark.parametrize("name", sets.CHOSEN)
def test_what_was_chosen_is_the_best_that_is_recorded(name):
    best = [sets.chosen(name, model, records.RESULTS) for model in sets.MODELS]
    assert list(sets.CHOSEN[name]) == best


def test_the_models_of_a_set_are_of_equal_size():
    peers = json.loads((records.RESULTS / sets.PEERS).read_text())["sets"]
    for name, about in sets.SETS.items():
        _, _, steps, features = peers[name]["sizes"]
        task = types.SimpleNamespace(
            **{"name": "arrays", "sequential": True, "vocabulary": None},
            **{"readout": "last", "stateful": False, "time_steps": steps},
            in_features=features,
            out_features=peers[name]["classes"] or about.changes.get("task.horizon", 1),
        )
        counts = []
        for model in sets.MODELS:
            run = sets.run(name, model, next(iter(sets.SETTINGS)), 0)
            config = protocol.build_config(run).model
            made = nnx.eval_shape(lambda: build.build(config, task, rngs=nnx.Rngs(0)))
            counts.append(build.count_independent_params(made))
        assert 2850 < min(counts) and max(counts) < 3100, (name, counts)
