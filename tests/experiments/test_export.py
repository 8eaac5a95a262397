"""A run's model as a file that JAX alone reads, whole or step by step."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from configs import copying, deep_mlp, pixel_mnist, ptb_char
from experiments import tasks
from experiments.data import stand_in
from experiments.models import registry
from experiments.training import exporting, loop
from tests.experiments.small import invented_model, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What a reader does, in a process that has neither this project nor flax.
READER = """
import sys
for name in ("svdrnn", "experiments", "configs", "flax"):
    sys.modules[name] = None
import pathlib
import jax
import jax.export
import numpy as np

path, kind, inputs, outputs = sys.argv[1:]
exported = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
x = np.load(inputs)
if kind == "whole":
    y = jax.jit(exported.call)(x)
else:
    (carry, _), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    carry = jax.tree.map(lambda h: np.zeros((len(x), *h.shape[1:]), h.dtype), carry)
    for t in range(x.shape[1]):
        carry, y = jax.jit(exported.call)(carry, x[:, t])
np.save(outputs, y)
"""


def made(config):
    """An untrained model and its task."""
    task = tasks.build(config)
    return invented_model(config.model, task), task


def small(module, **model):
    config = module.get_config()
    config.data_dir = stand_in.NAME
    config.model.update(hidden=8, reflectors=4, **model)
    config.train.batch_size = 4
    return config


def read(content):
    return jax.export.deserialize(bytearray(content))


def streamed(exported, x):
    """Outputs of the last step, one step after another."""
    (carry, _), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    carry = jax.tree.map(lambda h: jnp.zeros((len(x), *h.shape[1:]), h.dtype), carry)
    for t in range(x.shape[1]):
        carry, y = exported.call(carry, x[:, t])
    return y


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


# ---- The command.


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "experiments.export", *words],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    loop.train(tiny_config(steps=4, eval_every=2, checkpoint_every=4), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "streaming"])
def test_jax_alone_reads_the_file(trained, tmp_path, kind):
    file, inputs, outputs = (tmp_path / name for name in ("m.jax", "x.npy", "y.npy"))
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    flags = ["--streaming"] if kind == "streaming" else ["--platforms=cpu"]
    done = command(f"--workdir={trained}", f"--output={file}", *flags)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    lines = done.stdout.splitlines()
    assert re.fullmatch("addition, spectral, step [24]", lines[0])
    if kind == "whole":
        assert lines[1].endswith(" KiB for cpu")
        assert lines[2] == "float32[batch, time, 2] -> float32[batch, 1]"
        assert lines[3] == "time steps: any number"
    else:
        assert lines[1].endswith(" KiB for cpu, cuda, tpu")
        arrays = "float32[batch, 8], float32[batch, {}] -> float32[batch, 8], "
        assert lines[2] == arrays.format(2) + "float32[batch, 1]"
    x = np.random.default_rng(0).random((5, 11, 2), np.float32)
    np.save(inputs, x)
    words = [sys.executable, "-I", "-c", READER, file, kind, inputs, outputs]
    subprocess.run(words, cwd=tmp_path, check=True)
    model, _, _ = experiments.load(trained)
    close(np.load(outputs), model(x)[0])


@pytest.mark.slow
def test_which_parameters(trained, tmp_path):
    file = tmp_path / "last.jax"
    done = command(f"--workdir={trained}", f"--output={file}", "--which=last")
    assert done.returncode == 0 and "step 4" in done.stdout
    model, task, _ = experiments.load(trained, "last")
    x = task.train_batch(0)["inputs"]
    close(read(file.read_bytes()).call(x), model(x)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        (
            ("--platforms=cpu,gpu",),
            "platforms must be one of cpu, cuda, tpu, got 'gpu'",
        ),
        (("--output=.",), "--output must be a file, got the folder ."),
        (
            ("--output=none/model.jax",),
            "that is there, got none/model.jax: there is no",
        ),
        (("--workdir=none",), "workdir must hold a run, got none: no config.json"),
    ],
)
def test_what_cannot_be_exported_is_one_line(trained, tmp_path, flags, words):
    done = command(f"--workdir={trained}", f"--output={tmp_path / 'm'}", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_without_a_checkpoint_is_none(trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = command(f"--workdir={tmp_path}", f"--output={tmp_path / 'm'}")
    assert done.returncode == 2 and "must hold a checkpoint" in done.stderr


# ---- The function.


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_is_exported_for_any_batch_and_time(name):
    sequential = registry.MODELS[name].sequential
    config = small(copying if sequential else deep_mlp, name=name)
    if sequential:
        config.task.length = 5
    config.model.layers = 2
    model, task = made(config)
    exported = read(exporting.export(model, task).serialize())
    assert exported.platforms == exporting.PLATFORMS
    batch = next(iter(task.eval_batches("test")))["inputs"]
    for x in (batch[:3], batch[:1]):
        if sequential:
            x = x[:, :9]
        close(exported.call(x), model(x)[0])
    if sequential:
        step = read(exporting.export(model, task, streaming=True).serialize())
        x = batch[:3, :9]
        close(streamed(step, x), model(x)[0][:, -1])


def test_tokens_and_their_outputs_at_every_step():
    config = small(ptb_char, name="spectral_lstm")
    config.model.embedding = None
    model, task = made(config)
    exported = exporting.export(model, task, platforms=["cpu"])
    x = task.train_batch(0)["inputs"][:, :7]
    assert exported.in_avals[0].dtype == x.dtype == np.int32
    close(exported.call(x), model(x)[0])
    step = exporting.export(model, task, platforms=["cpu"], streaming=True)
    close(streamed(step, x), model(x)[0][:, -1])


def test_steps_at_once_have_the_length_of_the_task():
    config = small(pixel_mnist, activation="identity", readout_activation="relu")
    config.task.steps = 28
    model, task = made(config)
    exported = exporting.export(model, task, platforms=["cpu"])
    assert exported.in_avals[0].shape[1:] == (28, 28)
    x = next(iter(task.eval_batches("test")))["inputs"][:3]
    close(exported.call(x), model(x)[0])


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_outputs_of_some_steps_alone_go_with_any_batch(activation):
    config = small(pixel_mnist, layers=2, output_every=4, activation=activation)
    config.model.update(pool="mean", residual=True)
    config.task.steps = 28
    model, task = made(config)
    exported = exporting.export(model, task, platforms=["cpu"])
    x = next(iter(task.eval_batches("test")))["inputs"][:3]
    for batch in (x, x[:1]):
        close(exported.call(batch), model(batch)[0])
    step = exporting.export(model, task, platforms=["cpu"], streaming=True)
    close(streamed(step, x), model(x)[0])


def test_what_a_task_does_to_its_data_goes_with_the_model(monkeypatch):
    model, task = made(tiny_config())
    mean, scale = np.float32([0.5, 0.0]), np.float32([2.0, 1.0])
    monkeypatch.setattr(task, "prepare", lambda raw: (raw - mean) * scale)
    raw = task.train_batch(0)["inputs"]
    expected = model((raw - mean) * scale)[0]
    assert np.abs(expected - model(raw)[0]).max() > 1e-3
    close(exporting.export(model, task, platforms=["cpu"]).call(raw), expected)
    step = exporting.export(model, task, platforms=["cpu"], streaming=True)
    close(streamed(step, raw), expected)


def test_only_models_of_sequences_go_step_by_step():
    model, task = made(small(deep_mlp))
    with pytest.raises(ValueError, match="streaming must be False for mnist, whose"):
        exporting.export(model, task, streaming=True)
    config = tiny_config()
    config.model.update(activation="tanh", activation_every=3)
    model, task = made(config)
    with pytest.raises(ValueError, match="activation_every must be 1 for steps one"):
        exporting.export(model, task, streaming=True)


@pytest.mark.parametrize("platforms, got", [(["cpu", "gpu"], "gpu"), ([], "")])
def test_an_unknown_platform_is_named(platforms, got):
    model, task = made(tiny_config())
    words = f"platforms must be one of cpu, cuda, tpu, got '{got}'"
    with pytest.raises(ValueError, match=words):
        exporting.export(model, task, platforms=platforms)


def test_a_platform_that_a_model_cannot_be_lowered_for(monkeypatch):
    model, task = made(tiny_config())

    def prepare(raw):  # which the CPU alone has
        return jax.lax.platform_dependent(raw, cpu=lambda x: 2 * x)

    monkeypatch.setattr(task, "prepare", prepare)
    assert exporting.export(model, task).platforms == ("cpu",)
    with pytest.raises(ValueError, match="lowered for, got cpu, tpu: "):
        exporting.export(model, task, platforms=["cpu", "tpu"])
