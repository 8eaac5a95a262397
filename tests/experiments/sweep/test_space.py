"""What is searched: spaces that cannot be, and the plan of those that can."""

import optuna
import pytest

from experiments.sweep import space as spaces
from experiments.training import fields
from tests.experiments.sweep.base import make_config


@pytest.mark.parametrize(
    "space,message",
    [
        ({}, "a dict with a field"),
        ([1], "a dict with a field"),
        ({"train.lr": [1.0]}, "no field 'train.lr'"),
        ({"lr": [1.0]}, "no field 'lr'"),
        ({"train.steps.more": [1]}, "no field 'train.steps.more'"),
        ({"train": [1.0]}, "train is a group of fields"),
        ({"task.name": ["copying"]}, "task.name is the same in all runs"),
        ({"train.learning_rate": []}, "list of values or a range.* got \\[\\]"),
        ({"train.learning_rate": 0.1}, "list of values or a range.* got 0.1"),
        ({"train.learning_rate": ["fast"]}, "type of the config's 0.01, got 'fast'"),
        ({"model.hidden": [8, 8.5]}, "type of the config's 4, got 8.5"),
        ({"model.hidden": [8, 8]}, "lists 8 twice"),
        ({"model.reflectors": [{1}]}, "plain values"),
        ({"model.reflectors": [{"a": 1}]}, "plain values"),
        ({"model.radius": {"low": 0.1}}, '"low" < "high"'),
        ({"model.radius": {"low": 0.1, "high": 0.1}}, '"low" < "high"'),
        ({"model.radius": {"low": 0, "high": 1, "log": True}}, '"low" < "high"'),
        ({"model.radius": {"low": 0, "high": 1, "step": 1}}, '"low" < "high"'),
        ({"model.hidden": {"low": 2, "high": 8}}, "type of the config's 4, got 2.0"),
        ({"seed": {"low": 0, "high": 9, "int": True}}, "a list under seed"),
    ],
)
def test_spaces_that_cannot_be(space, message):
    with pytest.raises(ValueError, match=message):
        spaces.check(space, make_config(), "random")


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_folds_are_for_a_grid(sampler):
    with pytest.raises(ValueError, match=f"--sampler must be grid .*, got {sampler}"):
        spaces.check({"task.fold": [0, 1]}, make_config(), sampler)


def test_a_grid_has_no_ranges():
    space = {"model.radius": {"low": 0.1, "high": 0.3}}
    with pytest.raises(ValueError, match="must be a list in a grid"):
        spaces.check(space, make_config(), "grid")


def test_a_value_must_be_valid_with_some_of_the_others():
    config = make_config(**{"model.hidden": 4})
    pairs = {"model.reflectors": [[8, 8], 2], "model.hidden": [4, 8]}
    space = spaces.check(pairs, config, "grid")
    spaces.check_values(space, config, fields.check)
    space = spaces.check(pairs | {"model.hidden": [4, 6]}, config, "grid")
    with pytest.raises(
        ValueError, match=r"model.reflectors=\[8, 8\]: config.model.reflectors"
    ):
        spaces.check_values(space, config, fields.check)


def test_configure_makes_epochs_count_and_leaves_the_base_alone():
    config = make_config()
    changed = spaces.configure(config, {"train.epochs": 3, "model.reflectors": [2, 3]})
    assert (changed.train.steps, changed.train.epochs) == (None, 3)
    assert list(changed.model.reflectors) == [2, 3]
    assert (config.train.steps, config.train.epochs) == (100, None)


def grid(**more):
    return {"model.reflectors": [1, [2, 3], None], "model.init": ["random"]} | more


def test_a_grid_holds_every_point_once_with_every_seed():
    plan = spaces.plan(grid(seed=[3, 4]), "grid", None, seed=0)
    found = [(p["params"]["model.reflectors"], p["seed"]) for p in plan]
    assert sorted(found, key=str) == sorted(
        [(value, seed) for value in (1, "[2, 3]", None) for seed in (3, 4)], key=str
    )
    assert found != [
        (p["params"]["model.reflectors"], p["seed"])
        for p in spaces.plan(grid(seed=[3, 4]), "grid", None, seed=1)
    ]
    assert spaces.plan(grid(seed=[3, 4]), "grid", 4, seed=0) == plan[:4]
    with pytest.raises(ValueError, match="at most 6, the size of the grid, got 7"):
        spaces.plan(grid(seed=[3, 4]), "grid", 7, seed=0)
    assert [p["seed"] for p in spaces.plan({"seed": [5, 6]}, "grid", None, 0)] == [5, 6]


def test_random_points_are_run_with_every_seed_and_can_be_continued():
    space = {
        "model.radius": {"low": 0.01, "high": 1.0, "log": True},
        "model.hidden": {"low": 2, "high": 9, "int": True},
        "seed": [0, 1],
    }
    plan = spaces.plan(space, "random", 7, seed=2)
    assert [p["seed"] for p in plan] == [0, 1, 0, 1, 0, 1, 0]
    assert plan[0]["params"] == plan[1]["params"] != plan[2]["params"]
    for planned in plan:
        assert 0.01 <= planned["params"]["model.radius"] <= 1
        assert planned["params"]["model.hidden"] in range(2, 10)
    assert spaces.plan(space, "random", 9, seed=2)[:7] == plan
    with pytest.raises(ValueError, match="--trials must be given"):
        spaces.plan(space, "random", None, seed=2)
    with pytest.raises(ValueError, match="only seeds"):
        spaces.plan({"seed": [0, 1]}, "random", 2, seed=2)


def test_a_field_that_no_run_reads_is_refused():
    config = make_config(**{"model.name": "rnn"})
    space = spaces.check({"model.radius": [0.1, 0.2]}, config, "grid")
    with pytest.raises(ValueError, match="model.radius=0.1: .* 'rnn', which does not"):
        spaces.check_values(space, config, fields.check)
    names = {"model.name": ["rnn", "spectral"]}
    space = spaces.check({"model.radius": [0.1, 0.2]} | names, config, "grid")
    spaces.check_values(space, config, fields.check)


# ---- Fields that depend on another.

DEPENDING = {
    "model.name": ["lstm", "spectral", "rnn"],
    "train.learning_rate": {"by": "model.name", "lstm": [1.0], "spectral": [2.0, 3.0]},
    "model.reflectors": {"by": "model.name", "spectral": [[1, 2], 3]},
    "seed": [0, 1],
}


def test_a_grid_of_fields_that_depend_on_another():
    config = make_config(**{"model.init": "random"})
    space = spaces.check(DEPENDING, config, "grid")
    spaces.check_values(space, config, fields.check)
    plan = spaces.plan(space, "grid", None, seed=0)
    found = []
    for planned in plan:
        fixed = optuna.trial.FixedTrial(planned["params"])
        point = spaces.suggest(fixed, space)
        found.append((dict(sorted(point.items())), planned["seed"]))
        named = spaces.field_values(planned["params"])
        assert named.keys() == found[-1][0].keys()
    expected = [{"model.name": "lstm", "train.learning_rate": 1.0}]
    expected += [{"model.name": "rnn"}]
    expected += [
        {
            "model.name": "spectral",
            "model.reflectors": reflectors,
            "train.learning_rate": rate,
        }
        for rate in (2.0, 3.0)
        for reflectors in ([1, 2], 3)
    ]
    pairs = [(point, seed) for point in expected for seed in (0, 1)]
    assert sorted(found, key=str) == sorted(pairs, key=str)
    assert plan != spaces.plan(space, "grid", None, seed=1)
    assert spaces.plan(space, "grid", 5, seed=0) == plan[:5]


def test_random_points_of_fields_that_depend_on_another():
    low, high = {"low": 0.1, "high": 0.2}, {"low": 3.0, "high": 4.0}
    rates = {"by": "model.hidden", 4: low, 8: high}
    space = {"model.hidden": [4, 8], "train.learning_rate": rates}
    space = spaces.check(space, make_config(), "random")
    spaces.check_values(space, make_config(), fields.check)
    seen = set()
    for planned in spaces.plan(space, "random", 12, seed=0):
        point = spaces.suggest(optuna.trial.FixedTrial(planned["params"]), space)
        hidden, rate = point["model.hidden"], point["train.learning_rate"]
        assert (0.1 <= rate <= 0.2) if hidden == 4 else (3 <= rate <= 4)
        seen.add(hidden)
    assert seen == {4, 8}


@pytest.mark.parametrize(
    "spec,message",
    [
        ({"by": "model.radius", "a": [1.0]}, '"by" a field that has a list'),
        ({"by": "seed", 0: [1.0]}, "neither the seed"),
        ({"by": "model.hidden", 5: [1.0]}, "values of model.hidden, 4, 8, got 5"),
        ({"by": "model.hidden"}, "must have values by model.hidden"),
        ({"by": "model.hidden", 4: ["a"]}, "of the type of the config's"),
        ({"by": "model.hidden", 4: {"low": 1}}, "a list in a grid"),
    ],
)
def test_dependencies_that_cannot_be(spec, message):
    space = {"model.hidden": [4, 8], "seed": [0], "train.learning_rate": spec}
    with pytest.raises(ValueError, match=message):
        spaces.check(space, make_config(), "grid")


def test_a_value_that_is_valid_in_a_far_corner_is_found():
    """Half of the points, those of 4 units, do not fit; they are the first 1,200."""
    space = {
        "model.hidden": [4, 8],
        "model.reflectors": [[8, 8]],
        "train.clip_norm": [float(i) for i in range(1, 31)],
        "train.learning_rate": [0.001 * i for i in range(1, 41)],
    }
    space = spaces.check(space, make_config(), "grid")
    with pytest.raises(ValueError, match="model.hidden=4: config.model.reflectors "):
        spaces.check_values(space, make_config(), fields.check)
    space["model.reflectors"] = [[4, 4], [8, 8]]
    spaces.check_values(space, make_config(), fields.check)


def test_a_field_that_a_condition_leaves_unread_is_refused():
    spec = {"by": "model.name", "rnn": [0.1], "spectral": [0.2]}
    space = {"model.name": ["rnn", "spectral"], "model.radius": spec}
    space = spaces.check(space, make_config(), "grid")
    with pytest.raises(ValueError, match="model.radius=0.1: .*'rnn', which does not"):
        spaces.check_values(space, make_config(), fields.check)
