"""A task and a figure of one's own, in one's own files, with no other file touched."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[2]

TASK = '''
"""Parity: whether an even number of ones was read."""

import jax.numpy as jnp
import numpy as np
import optax

from configs import common
from experiments import tasks
from experiments.tasks import base, synthetic


class Parity(synthetic.SyntheticTask):
    name = "parity"
    primary = "parity_accuracy"
    higher_is_better = True
    in_features = 1
    out_features = 2
    readout = "last"

    def draw(self, generator, count):
        bits = generator.integers(0, 2, size=(count, self.length))
        inputs = bits[..., None].astype(np.float32)
        return {"inputs": inputs, "targets": bits.sum(1) % 2}

    def sums(self, outputs, batch):
        weights, labels = base.weights(batch), batch["targets"]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        right = jnp.argmax(outputs, -1) == labels
        return {
            "loss": jnp.sum(weights * loss),
            "count": jnp.sum(weights),
            "right": jnp.sum(weights * right),
        }

    def metrics(self, sums):
        names = {"loss": "loss", "parity_accuracy": "right"}
        return {name: float(sums[key] / sums["count"]) for name, key in names.items()}


def build(config):
    return Parity(
        length=config.task.bits,
        minimum_length=1,
        seed=config.seed,
        batch_size=config.train.batch_size,
    )


tasks.register("parity", build, ("bits",))


def get_config():
    config = common.get_config()
    config.task.name = "parity"
    config.task.bits = 4
    config.model.hidden = 8
    config.train.steps = 4
    config.train.eval_every = 2
    return config
'''

FIGURE = '''
"""F9: parity over iterations."""

from matplotlib.figure import Figure

from experiments.reproduce import panels, protocol


def runs(scale):
    return [
        protocol.Run(f"{scale}/F9/{model}", "CONFIG", {"model.name": model})
        for model in ("rnn", "spectral")
    ]


def draw(found, scale):
    figure = Figure()
    panel = figure.subplots()
    panels.curves(panel, panels.by_model(found), "valid", "parity_accuracy", log=False)
    assert panel.has_data()
    return figure


FIGURE = protocol.Figure("F9", "F9: parity", runs, draw)
'''


def command(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_a_task_and_its_metric_need_one_file(tmp_path):
    config = tmp_path / "parity.py"
    config.write_text(TASK)
    workdir = tmp_path / "run"
    done = command("run", f"--config={config}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    result = json.loads((workdir / "result.json").read_text())
    assert result["task"] == "parity"
    assert 0 <= result["best"]["valid"]["parity_accuracy"] <= 1
    kept = json.loads((workdir / "config.json").read_text())
    assert kept["task"] == {"name": "parity", "bits": 4}

    # Its fields are known as any other's.
    bits = command(
        "run", f"--config={config}", f"--workdir={tmp_path}/b", "--config.task.bits=0"
    )
    assert bits.returncode == 2 and "got 0" in bits.stderr

    sweep = tmp_path / "space.py"
    sweep.write_text("def get_space():\n    return {'task.length': [3]}\n")
    done = command(
        "sweep", f"--config={config}", f"--space={sweep}", f"--workdir={tmp_path}/s"
    )
    assert done.returncode == 2 and "no field 'task.length'" in done.stderr


def test_commands_open_runs_of_ones_own_task(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "parity.py").write_text(TASK)
    (project / "space.py").write_text("def get_space():\n    return {'seed': [0]}\n")
    done = command(
        *("sweep", f"--config={project}/parity.py", f"--space={project}/space.py"),
        f"--workdir={project}/sweep",
    )
    assert done.returncode == 0, done.stderr
    workdir = project.rename(tmp_path / "moved") / "sweep" / "runs" / "0000"
    output = tmp_path / "o.npz"
    done = command("predict", f"--workdir={workdir}", f"--output={output}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "parity, spectral, step" in done.stdout
    config = (tmp_path / "moved" / "parity.py").rename(tmp_path / "own.py")
    gone = command("certify", f"--workdir={workdir}")
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: --config (config_file in Python) must be ")
    assert gone.stderr.count("\n") == 1
    no_digits = command("certify", f"--workdir={workdir}", f"--config={config}")
    assert no_digits.returncode == 2
    assert "must be a task of classes whose inputs have a bound" in no_digits.stderr


def test_a_figure_needs_one_file(tmp_path):
    config = tmp_path / "parity.py"
    config.write_text(TASK)
    figure = tmp_path / "f9.py"
    figure.write_text(FIGURE.replace("CONFIG", str(config)))
    arguments = (figure, "--scale=smoke", f"--workdir={tmp_path}/runs")
    done = command("reproduce", *arguments)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "runs" / "smoke_results"
    record = json.loads((results / "smoke" / "F9" / "rnn.json").read_text())
    assert [point["step"] for point in record["valid"]] == [2, 4]
    assert all(set(p) == {"step", "loss", "parity_accuracy"} for p in record["valid"])
    drawn = results / "figures" / "F9_smoke.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")
    done = command("reproduce", *arguments, "--plan")
    assert done.returncode == 0 and "2 of 2 runs recorded" in done.stdout
