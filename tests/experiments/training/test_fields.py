"""What is refused before anything is made, and how many steps a run has."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs import addition, common
from experiments import models, schema
from experiments.reproduce import config_fields
from experiments.tasks.addition import Addition
from experiments.training import fields, optimizers
from tests.experiments.small import changed_addition as changed

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_no_check_of_a_config_starts_jax():
    """Before the run says how many devices there are, and a process joins others."""
    code = """if True:
        from jax._src import xla_bridge
        from configs import addition, copying, pixel_mnist
        from experiments.models import registry
        from experiments.training import fields

        shipped = [copying.get_config(), pixel_mnist.get_config("permuted_stacked")]
        for name, model in registry.MODELS.items():
            config = addition.get_config()
            if not model.sequential:
                continue
            config.model.name, config.model.reflectors = name, None
            shipped.append(config)
            if name in ("spectral", "ornn", "exprnn", "scornn"):
                rotated = config.copy_and_resolve_references()
                rotated.model.init = "cayley"
                shipped.append(rotated)
        for config in shipped:
            fields.check(config)
            assert not xla_bridge.backends_are_initialized(), config
        print(len(shipped))
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True},
    )
    assert (ran.returncode, ran.stdout) == (0, "16\n"), ran.stderr


@pytest.mark.parametrize(
    "field,value,limit",
    [
        ("train__steps", 0, "1"),
        ("train__steps", "many", "1"),
        ("train__steps", 2**31, "at most 2147483647"),
        ("train__batch_size", 10**26, "at most 2147483647"),
        ("train__plateau_patience", 10**12, "at most 2147483647"),
        ("model__hidden", 2**63, "at most 2147483647"),
        ("model__layers", 3000, "at most 200"),
        ("model__center", 1e300, "at most 3.4e"),
        ("train__learning_rate", 1e39, "at most 3.4e"),
        ("train__on_nonfinite", "go on", "stop, restore"),
        ("train__restores", 0, "1"),
        ("train__epochs", 1.5, "1"),
        ("train__patience", 0, "1"),
        ("train__patience", 1.5, "1"),
        ("train__batch_size", 0, "1"),
        ("train__learning_rate", 0.0, "0"),
        ("train__learning_rate", float("nan"), "finite"),
        ("train__rates__reflectors", -1.0, "0"),
        ("train__rates__singular_values", 0.0, "0"),
        ("train__rates__readout", float("nan"), "finite"),
        ("train__schedule", "linear", "constant, .*, plateau"),
        ("train__optimizer", "adamax", "adam, .*, lion"),
        ("train__ema", 1.0, "below 1"),
        ("train__momentum", 1.0, "below 1"),
        ("train__weight_decay", -0.1, "0"),
        ("train__decay_rate", 1.1, "1"),
        ("train__plateau_factor", 1.0, "0 .*1"),
        ("train__plateau_factor", 0.0, "0 .*1"),
        ("train__plateau_patience", 0, "1"),
        ("train__warmup_steps", -1, "0"),
        ("train__clip_norm", -1.0, "0"),
        ("train__log_every", 0, "1"),
        ("train__eval_every", -5, "1"),
        ("train__checkpoint_every", 0, "1"),
        ("task__name", "adding", "addition"),
        ("task__name", "pixel_mnist", "config.task.name 'pixel_mnist'"),
        ("model__name", "svd", "spectral, .*, mlp"),
    ],
)
def test_invalid_values_are_named(field, value, limit):
    name = "config." + field.replace("__", ".")
    shown = repr(value)
    if value == "pixel_mnist":  # which has no length, but steps
        name, shown = "config.task.steps", "none"
    message = rf"^{name} must be .*{limit}.*, got {re.escape(shown)}$"
    with pytest.raises(ValueError, match=message):
        fields.check(changed(**{field: value}))


@pytest.mark.parametrize("field", ["train__devices", "train__rates__inputs"])
def test_a_dict_in_the_place_of_a_value_is_named(field):
    name = "config." + field.replace("__", ".")
    with pytest.raises(ValueError, match=f"^{name} must be "):
        fields.check(changed(**{field: {"a": 1}}))


def test_warmup_is_for_the_cosine_alone():
    fields.check(changed(train__schedule="cosine", train__warmup_steps=10))
    with pytest.raises(ValueError, match="warmup_steps must be 0 unless .*got 10"):
        fields.check(changed(train__schedule="constant", train__warmup_steps=10))


def test_seed_must_fit_a_key():
    for seed in (-1, 2**32):
        config = addition.get_config()
        config.seed = seed
        with pytest.raises(ValueError, match=f"config.seed .*got {seed}"):
            fields.check(config)


# ---- The table of fields.


def test_an_entry_is_all_that_a_field_takes(monkeypatch):
    field = schema.Field(
        4, "How long it waits.", schema.Integer(least=2), nullable=True
    )
    monkeypatch.setitem(common.FIELDS, "train.waits.long", field)
    config = changed()
    assert config.train.waits.long == 4
    for value in (None, 2):
        config.train.waits.long = value
        fields.check(config)
    config.train.waits.long = 1
    match = r"^config.train.waits.long must be an integer of at least 2, got 1$"
    with pytest.raises(ValueError, match=match):
        fields.check(config)
    row = "| `train.waits.long` | `4` | How long it waits. | all |"
    assert row in config_fields.table().splitlines()


def test_readers_of_fields_are_models_or_kinds_of_them():
    readers = {name for field in common.FIELDS.values() for name in field.models}
    kinds = {"sequences", "vectors", "cells", "reflectors", "intervals"}
    assert readers <= kinds | set(models.MODELS)
    for field in common.FIELDS.values():
        for condition in (field.read_with, field.read_unless):
            assert condition is None or condition[0] in common.FIELDS


def test_optimizers_are_those_of_the_table():
    assert common.FIELDS["train.optimizer"].allowed == schema.Name(
        tuple(optimizers.OPTIMIZERS)
    )


# ---- Steps and epochs.


def test_steps_count_where_they_are_given():
    assert fields.resolve_steps(changed(train__epochs=3).train, 10) == 3000
    epochs = changed(train__steps=None, train__epochs=3)
    assert fields.resolve_steps(epochs.train, 10) == 30
    with pytest.raises(ValueError, match="steps_per_epoch must be given .*epochs=3"):
        fields.resolve_steps(epochs.train, None)
    with pytest.raises(ValueError, match="steps or config.train.epochs must be set"):
        fields.check(changed(train__steps=None))


def test_an_epoch_has_one_length():
    task = Addition(length=5, seed=0, batch_size=1)
    train = changed(train__steps_per_epoch=7).train
    assert fields.resolve_epoch(train, task) == 7
    task.steps_per_epoch = lambda batch_size: 9
    with pytest.raises(ValueError, match="has 9 steps, got 7"):
        fields.resolve_epoch(train, task)
    train.steps_per_epoch = None
    assert fields.resolve_epoch(train, task) == 9
