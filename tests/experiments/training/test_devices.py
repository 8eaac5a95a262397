"""Batches over several devices and several processes: the same run, to rounding."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import deep_mlp, ptb_char
from experiments.data import stand_in
from experiments.runs import cores, identity
from experiments.training import (
    assembly,
    devices,
    evaluation,
    exchange,
    loop,
    programs,
    steps,
)
from tests.experiments.small import strict_lines, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[3]


def stateful():
    """Tokens in a stream, with dropout. A kink would amplify rounding: tanh."""
    config = ptb_char.get_config()
    config.update_from_flattened_dict(
        {
            "data_dir": stand_in.NAME,
            "task.window": 7,
            "model.hidden": 12,
            "model.reflectors": 3,
            "model.dropout": 0.3,
            "model.activation": "tanh",
            "train.batch_size": 8,
        }
    )
    return config


def feed_forward():
    config = deep_mlp.get_config()
    config.update_from_flattened_dict(
        {
            "data_dir": stand_in.NAME,
            "model.name": "spectral_resnet",
            "model.hidden": 12,
            "model.layers": 4,
            "model.activation": "tanh",
            "train.batch_size": 8,
        }
    )
    return config


def gated():
    """A cell of flax, in its own loop."""
    config = tiny_config(batch_size=8)
    config.model.name = "lstm"
    return config


@pytest.fixture(autouse=True)
def light_compilation():
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


def losses(make, count, dtype, number=50):
    """Losses, norms and a validation of 50 updates on so many devices."""
    config = make()
    config.train.devices = count
    parts = assembly.assemble(config)

    def cast(tree):
        def wide(leaf):
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(dtype) if floating else leaf

        return jax.tree.map(wide, tree)

    state, graph = cast(parts.state), parts.graph
    if config.task.name == "ptb_char":
        parts.model.embedding.dtype = dtype  # flax keeps it at float32 else
        graph = nnx.graphdef(parts.model)
    parts = parts._replace(graph=graph)
    step, _ = programs.Programs(config, parts).make_train_step(0)
    found = []
    for i in range(number):
        batch = parts.spread.split(cast(parts.task.train_batch(i)))
        state, (sums, norms) = step(state, batch)
        sums, norms = jax.device_get((sums, norms))
        norms.pop("update_norm")  # Adam divides by what is near zero at first
        found.append([sums["loss"] / sums["count"], *norms.values()])
    eval_step = steps.make_eval_step(graph, parts.task, spread=parts.spread)
    metrics = evaluation.evaluate(eval_step, parts.task, state, "valid", parts.spread)
    return np.array(found), metrics["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, wide, tolerance",
    [
        (stateful, False, 1e-5),
        (stateful, True, 1e-10),
        (feed_forward, False, 1e-5),
        (feed_forward, True, 1e-10),
        (gated, False, 1e-5),
    ],
)
def test_losses_do_not_depend_on_the_number_of_devices(make, wide, tolerance):
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        expected, valid = losses(make, 1, dtype)
        assert expected[-1, 0] < expected[0, 0]
        for count in (2, 4):
            found, other = losses(make, count, dtype)
            np.testing.assert_allclose(found, expected, rtol=tolerance)
            assert other == pytest.approx(valid, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(4, 1), (1, 2)])
def test_a_run_goes_on_with_another_number(tmp_path, before, after):
    def config(count):
        config = tiny_config(batch_size=32, devices=count)
        config.model.activation = "tanh"
        return config

    class Enough(Exception):
        pass

    def stop(step, metrics):
        if step == 40:
            raise Enough

    with pytest.raises(Enough):
        loop.train(config(before), tmp_path / "run", stop)
    assert [each.name for each in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "30"
    ]
    result = loop.train(config(after), tmp_path / "run")
    expected = loop.train(config(1), tmp_path / "whole")
    assert result["devices"] == after and expected["devices"] == 1
    for split in ("valid", "test"):
        assert result["metrics"][split] == pytest.approx(
            expected["metrics"][split], rel=1e-4
        )


# ---- What crosses between devices.

TINY = {
    "task.length": 6,
    "model.hidden": 8,
    "model.reflectors": 3,
    "train.batch_size": 32,
}


def test_packed_arrays_are_as_they_were():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": [jnp.int32(7), jnp.float32(8)]}
    packed = jax.jit(exchange.pack)(tree)
    assert [each.shape for each in packed.vectors] == [(7,), (1,)]
    again = jax.jit(exchange.unpack)(packed)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for before, after in zip(*map(jax.tree.leaves, (tree, again)), strict=True):
        np.testing.assert_array_equal(before, after, strict=True)


@pytest.mark.parametrize("count", [2, 4])
def test_a_sum_in_two_programs_is_that_of_a_collective(count):
    spread = devices.choose(count, 4 * count)

    def share(state, rate, batch):
        rows = batch["x"] * spread.vary(state)
        return {"sum": jnp.sum(rows), "all": jnp.sum(rows, 0)}, rows

    def update(state, rate, sums, kept):
        return state - rate * sums["all"], (sums, jnp.float32(1))

    two, one = (
        dataclasses.replace(spread, collective=collective).step(
            share, update, jax.P(), jax.P(devices.BATCH)
        )
        for collective in (False, True)
    )
    x = np.random.default_rng(0).normal(size=(4 * count, 3)).astype(np.float32)
    batch = spread.split({"x": x})
    ended = []
    for step in (two, one):
        state = spread.everywhere(jnp.ones(3))
        for _ in range(3):
            state, (sums, _) = jax.block_until_ready(step(state, 0.1, batch))
        ended.append((np.asarray(state), sums["sum"]))
    np.testing.assert_allclose(*(state for state, _ in ended), rtol=1e-6)
    np.testing.assert_allclose(*(total for _, total in ended), rtol=1e-5)
    expected = np.ones(3)
    for _ in range(3):
        expected = expected - 0.1 * (x * expected).sum(0)
    np.testing.assert_allclose(ended[0][0], expected, rtol=1e-5)


COLLECTIVES = "all-reduce all-gather all-to-all collective-permute reduce-scatter"


@pytest.mark.slow
def test_no_program_of_cpu_devices_waits_for_another(tmp_path):
    """No collective in anything that a run compiles, its evaluations included."""
    fields = TINY | {
        "train.devices": 2,
        "train.ema": 0.9,
        "train.schedule": "plateau",
        "train.steps": 4,
        "train.log_every": 2,
        "train.eval_every": 2,
        "train.checkpoint_every": 2,
    }
    programs = tmp_path / "programs"
    run = start(
        tmp_path / "run",
        fields,
        "--config=configs/addition.py",
        JAX_ENABLE_COMPILATION_CACHE="0",
        XLA_FLAGS=f"--xla_dump_to={programs} --xla_dump_hlo_as_text",
    )
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "every batch over 2 devices" in output
    texts = [each.read_text() for each in programs.glob("*after_optimizations.txt")]
    assert sum("num_partitions=2" in text for text in texts) >= 3
    for text in texts:
        assert not [name for name in COLLECTIVES.split() if name in text], text


@pytest.mark.slow
def test_a_run_far_ahead_of_its_devices_ends(tmp_path):
    """With as few threads as XLA makes, and nothing that waits for 200 steps."""
    fields = TINY | {
        "task.length": 200,
        "model.hidden": 64,
        "train.devices": 2,
        "train.steps": 200,
        "train.log_every": 1000,
        "train.eval_every": 1000,
        "train.checkpoint_every": 1000,
    }
    config = "--config=configs/addition.py"
    run = start(tmp_path / "run", fields, config, PJRT_NPROC="1")
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors


# ---- How many devices.


@pytest.mark.parametrize(
    "there, batch, expected",
    [
        (2, 128, 2),
        (4, 20, 2),
        (8, 128, 8),
        (8, 20, 2),
        (3, 128, 2),
        (2, 15, 1),
        (2, 8, 1),
    ],
)
def test_as_many_cores_as_have_a_worthwhile_share(monkeypatch, there, batch, expected):
    monkeypatch.setattr(cores, "count", lambda: there)
    monkeypatch.setattr(jax, "local_device_count", lambda: there)
    assert max(devices.fitting(batch)) == expected


def test_no_more_cpu_devices_than_cores(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 2)
    assert jax.local_device_count() == 4
    assert devices.choose(None, 128).count == 2
    assert devices.choose(4, 128).count == 4


def test_checking_a_model_leaves_the_devices_to_the_run(tmp_path):
    """The first W of this one is made in one of two ways by the kind of device."""
    fields = TINY | {"train.devices": 3, "train.batch_size": 24}
    fields |= {"model.init": "cayley", "model.reflectors": 8}
    run = start(tmp_path / "run", fields, "--config=configs/addition.py", "--check")
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "every batch over 3 devices" in output


def test_accelerators_take_any_share(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.choose(None, 8).count == 4
    assert devices.choose(None, 6).count == 3


@pytest.mark.parametrize(
    "examples, expected",
    [(500, 4), (32, 4), (29, 4), (24, 3), (20, 2), (10, 1), (1, 1)],
)
def test_small_batches_of_an_evaluation_take_fewer_cpu_devices(examples, expected):
    spread = devices.choose(4, 128)
    narrow = spread.narrowed(examples)
    assert narrow.count == expected
    held = narrow.held(spread.everywhere({"w": jnp.arange(3.0)}))["w"]
    assert held.sharding.device_set == set(jax.local_devices()[:expected])
    np.testing.assert_array_equal(held, np.arange(3.0))
    collective = dataclasses.replace(spread, collective=True)
    assert collective.narrowed(examples) is collective


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError,
        match=r"config.train.batch_size must be a multiple of config.train.devices 4,"
        " got 10",
    ):
        devices.choose(4, 10)
    with pytest.raises(
        ValueError, match=r"config.train.devices must be at most 4, .* got 5"
    ):
        devices.choose(5, 10)


def test_the_number_is_no_part_of_what_a_run_is():
    one, two = (identity.to_dict(tiny_config(devices=n)) for n in (1, 2))
    assert identity.differences(one, two) == []


def test_a_filled_batch_counts_the_same():
    batch = {
        "inputs": np.arange(10).reshape(5, 2),
        "weights": np.array([1, 1, 1, 1, 0], np.float32),
        "reset": np.bool_(True),
        "lengths": np.array([1, 2, 2, 1, 1], np.int32),
    }
    filled = evaluation._filled(batch, 4)
    assert filled["inputs"].shape == (8, 2) and filled["reset"].shape == ()
    np.testing.assert_array_equal(filled["lengths"], [1, 2, 2, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(filled["weights"], [1, 1, 1, 1, 0, 0, 0, 0])
    assert evaluation._filled(batch, 5) is batch


# ---- Several processes.


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(workdir, fields, *more, **settings):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        **settings,
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.run",
            *more,
            *words,
            f"--workdir={workdir}",
        ],
        **{"cwd": ROOT, "env": environment, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def two(workdir, config, fields):
    """Two processes of one run; both, as (exit code, stdout, stderr)."""
    address = f"--coordinator=localhost:{free_port()}"
    processes = [
        start(
            workdir,
            fields,
            *(f"--config=configs/{config}.py", address),
            *("--num_processes=2", f"--process_id={i}"),
        )
        for i in range(2)
    ]
    ended = [each.communicate(timeout=300) for each in processes]
    return [(p.returncode, *both) for p, both in zip(processes, ended, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("config, devices", [("ptb_char", 2), ("deep_mlp", 1)])
def test_two_processes_make_one_run(tmp_path, config, devices):
    fields = {
        "data_dir": stand_in.NAME,
        "model.hidden": 12,
        "model.reflectors": 3,
        "model.activation": "tanh",
        "train.devices": devices,
        "train.batch_size": 8,
        "train.steps": 50,
        "train.log_every": 1,
        "train.eval_every": 25,
        "train.checkpoint_every": 25,
    }
    if config == "deep_mlp":
        fields |= {"model.name": "mlp", "model.layers": 3}
        del fields["model.reflectors"]
    ended = two(tmp_path / "two", config, fields)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert f"every batch over {2 * devices} devices" in ended[0][1]
    assert "test" in ended[0][1] and "test" not in ended[1][1]
    fields["train.devices"] = 1
    alone = start(tmp_path / "one", fields, f"--config=configs/{config}.py")
    assert alone.wait(timeout=300) == 0

    def curve(workdir):
        lines = strict_lines(workdir / "metrics.jsonl")
        return [(x["step"], x["split"]) for x in lines], [
            x["loss"] for x in lines if "loss" in x
        ]

    (places, found), (others, expected) = map(
        curve, (tmp_path / "two", tmp_path / "one")
    )
    assert places == others
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    checkpoints = tmp_path / "two" / "checkpoints"
    assert sorted(each.name for each in checkpoints.iterdir()) == ["25", "50"]

    # One process goes on with what two have saved.
    (tmp_path / "two" / "result.json").unlink()
    shorter = json.loads((tmp_path / "one" / "result.json").read_text())
    for step in ("50",):
        for each in sorted((checkpoints / step).rglob("*"), reverse=True):
            each.rmdir() if each.is_dir() else each.unlink()
        (checkpoints / step).rmdir()
    again = start(tmp_path / "two", fields, f"--config=configs/{config}.py")
    assert again.wait(timeout=300) == 0
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["devices"] == 1
    found, expected = (x["metrics"]["test"]["loss"] for x in (result, shorter))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_two_processes_stop_early_together(tmp_path):
    fields = {
        **{"data_dir": stand_in.NAME, "model.name": "mlp", "model.layers": 2},
        **{"train.devices": 1, "train.batch_size": 8, "train.patience": 2},
        **{"train.learning_rate": 1e-30, "train.steps": 50, "train.eval_every": 5},
    }  # no parameter changes: all metrics are the same
    ended = two(tmp_path, "deep_mlp", fields)
    assert [code for code, _, _ in ended] == [0, 0], ended
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 15 and result["stopped_early"]
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["15"]


@pytest.mark.slow
def test_a_refusal_ends_all_processes(tmp_path):
    fields = {"data_dir": stand_in.NAME, "train.devices": 1, "train.steps": 1}
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "other").touch()
    ended = two(tmp_path / "taken", "ptb_char", fields)
    assert [code for code, _, _ in ended] == [2, 2]
    assert "holds no config.json but other files" in ended[0][2]
    assert "the first process refused: --workdir" in ended[1][2]
