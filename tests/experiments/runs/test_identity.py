"""What a run is: what is read of its config, what is kept, and what differs."""

import json

import pytest

from configs import common, pixel_mnist
from experiments import tasks
from experiments.models import registry
from experiments.runs import identity
from tests.experiments.small import changed_addition as changed


def plain(**fields):
    return identity.to_dict(changed(**fields))


def test_differences_name_old_and_new_but_no_places():
    old = plain(model__reflectors=(8, 16))
    assert identity.differences(old, json.loads(json.dumps(old))) == []
    new = changed(model__reflectors=[8, 8], model__hidden=32)
    new.data_dir = "/elsewhere"
    new = identity.to_dict(new)
    del new["train"]["clip_norm"]
    assert identity.differences(old, new) == [
        "config.model.hidden: 128 -> 32",
        "config.model.reflectors: [8, 16] -> [8, 8]",
        "config.train.clip_norm: 1.0 -> '(absent)'",
    ]


def test_a_field_that_came_since_has_its_default():
    old = plain()
    del old["model"]["dropout"], old["train"]["warmup_steps"]
    assert identity.differences(old, plain()) == []
    assert identity.differences(old, plain(model__dropout=0.5)) == [
        "config.model.dropout: 0.0 -> 0.5"
    ]


@pytest.mark.parametrize(
    "name,field,value",
    [
        ("lstm", "model__init", "random"),
        ("lstm", "model__activation", "tanh"),
        ("rnn", "model__init", "random"),
        ("rnn", "train__rates__reflectors", 1e-5),
        ("ornn", "train__rates__singular_values", 1e-5),
        ("spectral_mlp", "train__rates__inputs", 1e-5),
        ("ornn", "model__radius", 0.7),
        ("exprnn", "train__unit_reflectors", True),
        ("spectral", "model__negative_fraction", 0.1),
        ("spectral", "train__decay_rate", 0.5),  # of the exponential schedule
    ],
)
def test_what_is_not_read_is_no_part_of_a_run(name, field, value):
    old, new = plain(model__name=name), plain(model__name=name, **{field: value})
    field = field.replace("__", ".")
    assert identity.flatten(old)[field] != identity.flatten(new)[field]
    assert identity.differences(old, new) == []
    assert identity.read_part(old) == identity.read_part(new)
    assert field not in identity.flatten(identity.read_part(new))
    # A stored config lacks it, and one of before holds whatever the file said.
    assert identity.differences(identity.read_part(old), new) == []
    assert identity.differences(new, old) == []


def former(rate):
    """A config of before `train.rates`, as a workdir or a record keeps it."""
    config = plain()
    del config["train"]["rates"]
    config["train"]["reflector_learning_rate"] = rate
    return config


def test_a_field_that_has_another_name_now_is_still_known():
    for old in (former(1e-5), identity.read_part(former(1e-5))):
        assert identity.differences(old, plain(train__rates__reflectors=1e-5)) == []
        assert identity.differences(old, plain()) == [
            "config.train.rates.reflectors: 1e-05 -> None"
        ]
        config = identity.to_config(old, "config.json")
        assert config.train.rates.reflectors == 1e-5
        assert config.train.rates.inputs is None
    assert identity.differences(former(None), plain()) == []
    assert set(identity.FORMER) & identity.completed(plain()).keys() == set()
    assert set(identity.FORMER.values()) <= identity.completed({}).keys()


def test_runs_of_before_count_as_having_what_came_later_to_their_task():
    digits = pixel_mnist.get_config().to_dict()
    former = pixel_mnist.get_config().to_dict()
    del former["task"]["shift"]
    assert identity.differences(former, digits) == []
    assert identity.to_config(former, "config.json").task.shift == 0
    digits["task"]["shift"] = 1
    assert identity.differences(former, digits) == ["config.task.shift: 0 -> 1"]
    assert identity.to_config(digits, "config.json").task.shift == 1
    assert "task.shift" not in identity.completed(plain())


def test_what_one_of_two_runs_reads_counts():
    changes = identity.differences(plain(model__name="lstm"), plain())
    assert changes == ["config.model.name: 'lstm' -> 'spectral'"]
    assert identity.differences(plain(), plain(model__name="lstm")) == [
        "config.model.name: 'spectral' -> 'lstm'"
    ]
    stored = identity.read_part(plain(model__name="lstm"))
    assert "config.model.radius: 0.01 -> 0.3" in identity.differences(stored, plain())


def test_a_leak_is_read_by_the_leaky_relu_alone():
    assert "model.leak" not in identity.unread(plain())
    assert "model.leak" in identity.unread(plain(model__activation="tanh"))


def test_the_fields_of_another_task_are_not_read():
    assert "task.length" in identity.unread(plain(task__name="mnist"))
    assert identity.unread(plain(task__name="none", model__name="none")) == {
        *("train.decay_rate", "train.plateau_factor", "train.plateau_patience"),
        *("train.momentum", "train.decay_constrained", "train.restores"),
        "model.dropout_tied",
    }


def test_decay_of_constrained_is_read_with_a_decay_alone():
    decayed = plain(train__weight_decay=0.1)
    assert "train.decay_constrained" not in identity.unread(decayed)
    config = changed(train__decay_constrained=True)
    message = "config.train.decay_constrained must be .* config.train.weight_decay 0.0"
    with pytest.raises(ValueError, match=message):
        identity.check_overrides(config, {"train.decay_constrained": True})


def test_files_are_read_by_the_tasks_that_say_so():
    reads = {name: set(entry.beside) for name, entry in tasks.TASKS.items()}
    assert set().union(*reads.values()) == set(tasks.BESIDE)
    assert reads["addition"] == reads["copying"] == set()
    assert reads["arrays"] == {"data_dir"}
    assert "allow_other_data" not in identity.read_part(plain())
    digits = plain(task__name="mnist", allow_other_data=True)
    assert identity.read_part(digits)["allow_other_data"] is True


def test_every_field_of_a_model_is_read_by_some():
    known = {f"model.{name}" for name in common.get_config().model} - {"model.name"}
    read = [entry.reads for entry in registry.MODELS.values()]
    assert frozenset().union(*read) == known | set(registry.BESIDE)


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            {"model.init": "identity"},
            "config.model.init must be left out with config.model.name 'lstm', which"
            " does not read it, got 'identity'",
        ),
        ({"model.radius": 0.5}, "config.model.radius .*'lstm'.* got 0.5"),
        (
            {"train.decay_rate": 0.5},
            "config.train.decay_rate .*config.train.schedule 'cosine'.* got 0.5",
        ),
        (
            {"allow_other_data": True},
            "config.allow_other_data must be left out with config.task.name 'addition'",
        ),
        ({"data_dir": "/elsewhere"}, "config.data_dir must be left out .*'addition'"),
    ],
)
def test_overrides_that_are_not_read_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        identity.check_overrides(changed(model__name="lstm"), overrides)


def test_overrides_that_ask_for_nothing_or_are_read_are_not_refused():
    lstm = changed(model__name="lstm")
    identity.check_overrides(lstm, {"model.init": "random", "model.layers": 2})
    identity.check_overrides(changed(), {"model.init": "identity", "seed": 3})


def test_flat_and_back():
    tree = plain()
    assert identity.unflatten(identity.flatten(tree)) == tree
