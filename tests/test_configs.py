"""Configs, their overrides, and what is refused before anything is compiled."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import addition
from experiments import commandline, configuration, feedforward
from experiments.tasks.addition import Addition

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(name, *overrides):
    """The config that the command line gives."""
    values = flags.FlagValues()
    argv = ["run", f"--config={ROOT}/configs/{name}", *overrides]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    values(argv)
    commandline.choose_length(holder.value.train, values["config"].override_values)
    return holder.value


def changed(**fields):
    """The addition config with fields set, as model__hidden=3."""
    config = addition.get_config()
    for path, value in fields.items():
        section, name = path.split("__")
        config[section][name] = value
    return config


@pytest.mark.parametrize(
    "name,task",
    [
        ("addition.py", "addition"),
        ("copying.py", "copying"),
        ("pixel_mnist.py", "pixel_mnist"),
        ("pixel_mnist.py:permuted", "pixel_mnist"),
        ("deep_mlp.py", "mnist"),
        ("deep_mlp.py:spectral_resnet", "mnist"),
        ("deep_mlp.py:mlp", "mnist"),
        ("deep_mlp.py:resnet", "mnist"),
        ("ptb_word.py", "ptb_word"),
        ("ptb_word.py:smoke", "ptb_word"),
        ("ptb_char.py", "ptb_char"),
    ],
)
def test_shipped_configs_are_valid_and_complete(name, task):
    config = parse(name)
    configuration.validate(config)
    assert config.task.name == task
    assert set(config.model) >= {
        *("name", "hidden", "reflectors", "radius", "activation", "leak", "method"),
        "init",
    }
    assert set(config.train) >= {
        *("steps", "batch_size", "learning_rate", "reflector_learning_rate"),
        *("schedule", "clip_norm", "log_every", "eval_every", "checkpoint_every"),
    }
    assert json.loads(json.dumps(configuration.to_dict(config)))["seed"] == 0


def test_variants_of_pixel_mnist():
    assert parse("pixel_mnist.py:permuted").task.permuted is True
    assert parse("pixel_mnist.py").task.permuted is False
    with pytest.raises(flags.Error, match="permuted or nothing, got :shuffled"):
        parse("pixel_mnist.py:shuffled")


def test_variants_of_deep_mlp_choose_the_model():
    for name in feedforward.NAMES:
        assert parse(f"deep_mlp.py:{name}").model.name == name
    assert parse("deep_mlp.py").model == parse("deep_mlp.py:spectral_mlp").model
    with pytest.raises(flags.Error, match="one of spectral_mlp, .*, got lstm"):
        parse("deep_mlp.py:lstm")


def test_radius_and_center_are_not_both_zero():
    configuration.validate(changed(model__center=0.0))
    configuration.validate(changed(model__radius=0.0))
    with pytest.raises(ValueError, match="config.model.center must not be 0 with"):
        configuration.validate(changed(model__center=0.0, model__radius=0.0))


def test_data_dir_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("SVDRNN_DATA", "/somewhere")
    assert addition.get_config().data_dir == "/somewhere"
    monkeypatch.delenv("SVDRNN_DATA")
    assert addition.get_config().data_dir == ""


@pytest.mark.parametrize(
    "override,section,name,value",
    [
        ("train.steps=500", "train", "steps", 500),
        ("train.clip_norm=None", "train", "clip_norm", None),
        ("train.reflector_learning_rate=2", "train", "reflector_learning_rate", 2),
        ("model.reflectors=8", "model", "reflectors", 8),
        ("model.reflectors=(8,16)", "model", "reflectors", (8, 16)),
        ("model.reflectors=[8,16]", "model", "reflectors", [8, 16]),
        ("model.reflectors=None", "model", "reflectors", None),
        ("model.name=lstm", "model", "name", "lstm"),
    ],
)
def test_overrides(override, section, name, value):
    config = parse("addition.py", f"--config.{override}")
    configuration.validate(config)
    assert config[section][name] == value


def test_unknown_field_is_an_error():
    with pytest.raises(AttributeError, match="stepps"):
        parse("addition.py", "--config.train.stepps=3")


@pytest.mark.parametrize(
    "field,value,allowed",
    [
        ("model__name", "svd", r"\('spectral', 'ornn', .*'gru', 'mlp', 'resnet', "),
        ("model__activation", "gelu", "'modrelu'"),
        ("model__method", "fast", "'low_rank'"),
        ("model__init", "zeros", "'identity'"),
        ("model__init", "henaff", "needs config.model.reflectors None, or 128"),
        ("model__negative_fraction", 1.5, "<= 1"),
        ("model__hidden", 0, ">= 1"),
        ("model__radius", -0.1, ">= 0"),
        ("model__radius", float("inf"), "finite"),
        ("model__radius", float("nan"), "finite"),
        ("model__center", -1.0, ">= 0"),
        ("model__center", float("inf"), "finite"),
        ("model__leak", 1.5, "<= 1"),
        ("model__leak", -0.1, ">= 0"),
        ("model__layers", 0, ">= 1"),
        ("model__dropout", 1.0, "< 1"),
        ("model__dropout", -0.5, ">= 0"),
        ("model__embedding", 0, ">= 1"),
        ("model__embedding", 2.5, "an integer"),
        ("model__reflectors", -1, ">= 1"),
        ("model__reflectors", 0, ">= 1"),
        ("model__reflectors", (0, 4), "1 ... 128"),
        ("model__reflectors", 2.5, "an integer"),
        ("model__reflectors", True, "an integer"),
        ("model__reflectors", "many", "a pair"),
        ("model__reflectors", (1, 2, 3), "a pair"),
        ("model__reflectors", (4, 129), "1 ... 128"),
        ("train__steps", 0, ">= 1"),
        ("train__steps", "many", ">= 1"),
        ("train__epochs", 1.5, ">= 1"),
        ("train__batch_size", 0, ">= 1"),
        ("train__learning_rate", 0.0, "> 0"),
        ("train__learning_rate", float("nan"), "finite"),
        ("train__reflector_learning_rate", -1.0, "> 0"),
        ("train__schedule", "linear", r"'constant', .*, 'plateau'\)"),
        ("train__decay_rate", 1.1, "<= 1"),
        ("train__plateau_factor", 1.0, "> 0 and < 1"),
        ("train__plateau_factor", 0.0, "> 0 and < 1"),
        ("train__plateau_patience", 0, ">= 1"),
        ("train__warmup_steps", -1, ">= 0"),
        ("train__clip_norm", -1.0, ">= 0"),
        ("train__log_every", 0, ">= 1"),
        ("train__eval_every", -5, ">= 1"),
        ("train__checkpoint_every", 0, ">= 1"),
        ("task__name", "adding", "'addition'"),
    ],
)
def test_invalid_values_are_named(field, value, allowed):
    with pytest.raises(ValueError) as raised:
        configuration.validate(changed(**{field: value}))
    message = str(raised.value)
    assert message.startswith("config." + field.replace("__", "."))
    pytest.raises(ValueError, configuration.validate, changed(**{field: value})).match(
        allowed
    )
    assert str(value) in message


INITS_OF_MODELS = {
    "spectral": ("random", "identity", "henaff", "cayley"),
    "ornn": ("random", "identity", "henaff", "cayley"),
    "exprnn": ("random", "identity", "henaff", "cayley"),
    "scornn": ("random", "identity", "henaff", "cayley"),
    "rnn": ("random", "identity"),
    "irnn": ("random", "identity"),
    "lstm": ("random", "identity"),
    "gru": ("random", "identity"),
}


@pytest.mark.parametrize(("name", "inits"), INITS_OF_MODELS.items())
def test_inits_fit_their_models(name, inits):
    for init in ("random", "identity", "henaff", "cayley"):
        config = changed(
            model__name=name, model__init=init, model__reflectors=(128, 128)
        )
        if init in inits:
            configuration.validate(config)
        else:
            message = rf"config.model.init .* config.model.name '{name}', got '{init}'"
            with pytest.raises(ValueError, match=message):
                configuration.validate(config)


@pytest.mark.parametrize("reflectors", [127, (128, 127)])
def test_block_rotations_need_all_reflectors(reflectors):
    fields = {"model__reflectors": reflectors, "model__init": "cayley"}
    with pytest.raises(ValueError, match="needs config.model.reflectors None, or 128"):
        configuration.validate(changed(model__name="ornn", **fields))
    configuration.validate(changed(model__name="scornn", **fields))


def test_warmup_is_for_the_cosine_alone():
    configuration.validate(changed(train__schedule="cosine", train__warmup_steps=10))
    with pytest.raises(ValueError, match="warmup_steps must be 0 unless .*got 10"):
        configuration.validate(
            changed(train__schedule="constant", train__warmup_steps=10)
        )


def test_seed_must_fit_a_key():
    for seed in (-1, 2**32):
        config = addition.get_config()
        config.seed = seed
        with pytest.raises(ValueError, match=f"config.seed .*got {seed}"):
            configuration.validate(config)


# ---- Steps and epochs.


def test_steps_count_where_they_are_given():
    assert configuration.resolve_steps(changed(train__epochs=3).train, 10) == 3000
    epochs = changed(train__steps=None, train__epochs=3)
    assert configuration.resolve_steps(epochs.train, 10) == 30
    with pytest.raises(ValueError, match="epochs=3"):
        configuration.resolve_steps(epochs.train, None)
    with pytest.raises(ValueError, match="steps or config.train.epochs must be set"):
        configuration.validate(changed(train__steps=None))


def test_overriding_one_length_sets_the_other_aside():
    config = parse("addition.py", "--config.train.epochs=2")
    assert configuration.resolve_steps(config.train, 400) == 800
    config = parse("pixel_mnist.py", "--config.train.steps=7")
    assert configuration.resolve_steps(config.train, 429) == 7
    assert configuration.resolve_steps(parse("pixel_mnist.py").train, 429) == 26 * 429


def test_an_epoch_has_one_length():
    task = Addition(length=5, seed=0, batch_size=1)
    train = changed(train__steps_per_epoch=7).train
    assert configuration.resolve_epoch(train, task) == 7
    task.steps_per_epoch = lambda batch_size: 9
    with pytest.raises(ValueError, match="has 9 steps, got 7"):
        configuration.resolve_epoch(train, task)
    train.steps_per_epoch = None
    assert configuration.resolve_epoch(train, task) == 9


# ---- Workdirs.


def test_differences_name_old_and_new_but_no_places():
    old = configuration.to_dict(changed(model__reflectors=(8, 16)))
    assert configuration.differences(old, json.loads(json.dumps(old))) == []
    new = changed(model__reflectors=[8, 8], model__hidden=32)
    new.data_dir = "/elsewhere"
    new = configuration.to_dict(new)
    del new["train"]["clip_norm"]
    assert configuration.differences(old, new) == [
        "config.model.hidden: 128 -> 32",
        "config.model.reflectors: [8, 16] -> [8, 8]",
        "config.train.clip_norm: 1.0 -> '(absent)'",
    ]


def test_check_workdir(tmp_path):
    config = configuration.to_dict(addition.get_config())
    assert not configuration.check_workdir(tmp_path / "new", config)
    assert not configuration.check_workdir(tmp_path, config)  # empty
    (tmp_path / "config.json.tmp").write_text("{")  # killed while writing
    assert not configuration.check_workdir(tmp_path, config)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no config.json.*notes.txt"):
        configuration.check_workdir(tmp_path, config)
    with pytest.raises(ValueError, match="got the file"):
        configuration.check_workdir(tmp_path / "notes.txt", config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert configuration.check_workdir(tmp_path, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        configuration.check_workdir(tmp_path, config)


# ---- The command itself.


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "override,code,message",
    [
        ("--config.train.stepps=3", 1, "stepps"),
        ("--config.model.radius=-1", 2, "config.model.radius must be a finite number"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, override, code, message):
    workdir = tmp_path / "run"
    done = command("--config=configs/addition.py", f"--workdir={workdir}", override)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert not workdir.exists()


def test_command_needs_a_workdir():
    done = command("--config=configs/addition.py")
    assert done.returncode != 0
    assert "--workdir" in done.stderr
