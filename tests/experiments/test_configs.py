"""The shipped configs, their overrides, and what the command refuses in one line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import addition
from experiments import commandline
from experiments.models import registry
from experiments.runs import identity
from experiments.training import fields

ROOT = pathlib.Path(__file__).resolve().parents[2]


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


def test_two_lengths_are_refused():
    with pytest.raises(ValueError, match="must not both be given, got 5 and 2"):
        parse("addition.py", "--config.train.steps=5", "--config.train.epochs=2")
    one = parse("addition.py", "--config.train.steps=None", "--config.train.epochs=2")
    assert (one.train.steps, one.train.epochs) == (None, 2)


@pytest.mark.parametrize(
    "name,task",
    [
        ("arrays.py", "arrays"),
        ("addition.py", "addition"),
        ("addition.py:300", "addition"),
        ("addition.py:750", "addition"),
        ("addition.py:2000", "addition"),
        ("copying.py", "copying"),
        ("copying.py:5000", "copying"),
        ("pixel_mnist.py", "pixel_mnist"),
        ("pixel_mnist.py:rows", "pixel_mnist"),
        ("pixel_mnist.py:wide", "pixel_mnist"),
        ("pixel_mnist.py:permuted", "pixel_mnist"),
        ("pixel_mnist.py:stacked", "pixel_mnist"),
        ("pixel_mnist.py:permuted_stacked", "pixel_mnist"),
        ("certificate.py", "pixel_mnist"),
        ("certificate.py:784", "pixel_mnist"),
        ("certificate.py:rows", "pixel_mnist"),
        ("certificate.py:random_labels", "random_labels"),
        ("deep_mlp.py", "mnist"),
        ("deep_mlp.py:spectral_resnet", "mnist"),
        ("deep_mlp.py:mlp", "mnist"),
        ("deep_mlp.py:resnet", "mnist"),
        ("ptb_word.py", "ptb_word"),
        ("ptb_word.py:spectral_lstm", "ptb_word"),
        ("ptb_word.py:spectral_lstm_long", "ptb_word"),
        ("ptb_word.py:smoke", "ptb_word"),
        ("ptb_char.py", "ptb_char"),
        ("ptb_char.py:spectral_lstm", "ptb_char"),
    ],
)
def test_shipped_configs_are_valid_and_complete(name, task):
    config = parse(name)
    fields.check(config)
    assert config.task.name == task
    assert set(config.model) >= {
        *("name", "hidden", "reflectors", "radius", "activation", "leak", "method"),
        "init",
    }
    assert set(config.train) >= {
        *("steps", "batch_size", "learning_rate", "rates"),
        *("schedule", "clip_norm", "log_every", "eval_every", "checkpoint_every"),
    }
    assert json.loads(json.dumps(identity.to_dict(config)))["seed"] == 0


def test_variants_of_addition():
    lengths = [
        parse(f"addition.py{v}").task.length for v in ("", ":300", ":750", ":2000")
    ]
    assert lengths == [100, 300, 750, 2000]
    with pytest.raises(flags.Error, match=":750, :2000 or nothing, got :500"):
        parse("addition.py:500")


def test_variants_of_pixel_mnist():
    assert parse("pixel_mnist.py:permuted").task.permuted is True
    assert parse("pixel_mnist.py:permuted_stacked").task.permuted is True
    assert parse("pixel_mnist.py").task.permuted is False
    with pytest.raises(flags.Error, match="_stacked or nothing, got :shuffled"):
        parse("pixel_mnist.py:shuffled")


def test_variants_of_deep_mlp_choose_the_model():
    for name in registry.names(False):
        assert parse(f"deep_mlp.py:{name}").model.name == name
    assert parse("deep_mlp.py").model == parse("deep_mlp.py:spectral_mlp").model
    with pytest.raises(flags.Error, match="takes :spectral_mlp, .*, got :lstm"):
        parse("deep_mlp.py:lstm")


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
        ("train.rates.reflectors=2", "train.rates", "reflectors", 2),
        ("model.reflectors=8", "model", "reflectors", 8),
        ("model.reflectors=(8,16)", "model", "reflectors", (8, 16)),
        ("model.reflectors=[8,16]", "model", "reflectors", [8, 16]),
        ("model.reflectors=None", "model", "reflectors", None),
        ("model.name=lstm", "model", "name", "lstm"),
    ],
)
def test_overrides(override, section, name, value):
    config = parse("addition.py", "--config.model.init=random", f"--config.{override}")
    fields.check(config)
    for part in section.split("."):
        config = config[part]
    assert config[name] == value


def test_unknown_field_is_an_error():
    with pytest.raises(AttributeError, match="stepps"):
        parse("addition.py", "--config.train.stepps=3")


def test_overriding_one_length_sets_the_other_aside():
    config = parse("addition.py", "--config.train.epochs=2")
    assert fields.resolve_steps(config.train, 400) == 800
    config = parse("pixel_mnist.py", "--config.train.steps=7")
    assert fields.resolve_steps(config.train, 429) == 7
    assert fields.resolve_steps(parse("pixel_mnist.py").train, 429) == 26 * 429


# ---- The command itself.


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "override,code,message",
    [
        ("--config.train.stepps=3", 1, "no field 'stepps'; Did you mean \"steps\""),
        ("--config=configs/none.py", 1, "must be a Python file with get_config(), got"),
        (
            "--config=configs/copying.py:70",
            1,
            "ValueError: copying.py takes :500, :1000, :2000, :5000, :10000 or nothing",
        ),
        (
            "--config.model.negative_fraction=0.2",
            2,
            "config.model.negative_fraction must be left out with config.model.name",
        ),
        ("--config.model.radius=-1", 2, "config.model.radius must be finite"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, override, code, message):
    workdir = tmp_path / "run"
    done = command("--config=configs/addition.py", f"--workdir={workdir}", override)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not workdir.exists()


def test_command_needs_a_workdir():
    done = command("--config=configs/addition.py")
    assert done.returncode != 0
    assert "--workdir" in done.stderr
