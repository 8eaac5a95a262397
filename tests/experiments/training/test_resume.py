"""A run that was stopped ends as one that was not, bit for bit on the CPU."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from configs import addition
from experiments.tasks import addition as task
from experiments.training import evaluation, loop

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[3]
OVERRIDES = {
    "task.length": 6,
    "model.hidden": 8,
    "model.reflectors": 3,
    "train.batch_size": 16,
    "train.learning_rate": 1e-2,
    "train.steps": 120,
    "train.log_every": 7,
    "train.eval_every": 15,
    "train.checkpoint_every": 20,
}


class Killed(BaseException):
    """Stops a run in this process; nothing catches it."""


def make_config(**train):
    config = addition.get_config()
    config.update_from_flattened_dict(OVERRIDES)
    config.train.update(train)
    return config


def events(workdir, name):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [each["step"] for each in lines if each.get("event") == name]


def trained_steps(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [each["step"] for each in lines if each["split"] == "train"]


def same(result, uninterrupted):
    """Whether everything but the time is equal, to the last bit."""
    names = set(result) | set(uninterrupted)
    different = {n for n in names if result.get(n) != uninterrupted.get(n)}
    return different <= {"wall_seconds"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return loop.train(make_config(), tmp_path_factory.mktemp("whole"))


def run_until(workdir, step, **train):
    """Trains in this process and stops when the batch of `step` is asked for."""
    original = task.Addition.train_batch

    def train_batch(self, at):
        if at == step:
            raise Killed
        return original(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.Addition, "train_batch", train_batch)
        with pytest.raises(Killed):
            loop.train(make_config(**train), workdir)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A workdir stopped after 50 steps, to be copied and never trained in."""
    workdir = tmp_path_factory.mktemp("stopped")
    run_until(workdir, 50)
    return workdir


@pytest.fixture
def workdir(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def test_resume_equals_uninterrupted(workdir, uninterrupted):
    # What a kill leaves: half a line, and a checkpoint that was being written.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 49, "split": "tr')
    shutil.copytree(
        workdir / "checkpoints" / "40",
        workdir / "checkpoints" / "60.orbax-checkpoint-tmp",
    )
    (workdir / "checkpoints" / "80").mkdir()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()[:-1]
    before = [line for line in lines if json.loads(line)["step"] <= 40]
    assert len(before) < len(lines)

    result = loop.train(make_config(), workdir)
    assert same(result, uninterrupted)
    assert events(workdir, "resumed_from") == [40]
    after = (workdir / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert trained_steps(workdir)[:9] == [1, 7, 14, 21, 28, 35, 42, 49, 56]
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert steps == [100, 120]


def test_averaged_parameters_resume(tmp_path, uninterrupted):
    own = {"optimizer": "lion", "weight_decay": 0.1, "ema": 0.9}
    whole = loop.train(make_config(**own), tmp_path / "whole")
    run_until(tmp_path / "stopped", 50, **own)
    assert same(loop.train(make_config(**own), tmp_path / "stopped"), whole)
    assert not same(whole, uninterrupted)


def test_the_last_validation_is_not_repeated(tmp_path, monkeypatch):
    splits = []
    evaluate = evaluation.evaluate

    def counted(eval_step, task, state, split, *others):
        splits.append(split)
        return evaluate(eval_step, task, state, split, *others)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    result = loop.train(make_config(steps=30, eval_every=30), tmp_path)
    assert result["best"]["step"] == 30 and splits == ["valid", "test"]


def test_a_damaged_checkpoint_is_passed_over(workdir, uninterrupted):
    for path in (workdir / "checkpoints" / "40" / "state").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    record = workdir / "checkpoints" / "20" / "record" / "metadata"
    saved = json.loads(record.read_text())
    old = {"best": saved["best"], "seconds": 1000.0}  # of before there were digests
    record.write_text(json.dumps(old))

    result = loop.train(make_config(), workdir)
    assert same(result, uninterrupted)
    assert events(workdir, "resumed_from") == [20]
    assert result["wall_seconds"] > 1000  # the sessions' times add up


def test_checkpoints_that_are_all_damaged_are_an_error(workdir):
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    with pytest.raises(ValueError, match="no checkpoint .* can be read"):
        loop.train(make_config(), workdir)
    assert (workdir / "checkpoints" / "40").exists()


def test_stopped_before_the_first_checkpoint(tmp_path, uninterrupted):
    run_until(tmp_path, 10)
    assert same(loop.train(make_config(), tmp_path), uninterrupted)
    assert events(tmp_path, "resumed_from") == [0]
    assert trained_steps(tmp_path)[:4] == [1, 7, 14, 21]


def test_stopped_after_the_last_step(tmp_path, uninterrupted, monkeypatch):
    def final_metrics(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "final_metrics", final_metrics)
        with pytest.raises(Killed):
            loop.train(make_config(), tmp_path)
    assert same(loop.train(make_config(), tmp_path), uninterrupted)
    assert events(tmp_path, "resumed_from") == [120]


def command(workdir):
    overrides = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    return [
        *(sys.executable, "-m", "experiments.run", "--config=configs/addition.py"),
        *(f"--workdir={workdir}", *overrides),
    ]


def test_kill_9_in_mid_run(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    settings = {"cwd": ROOT, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}}
    process = subprocess.Popen(
        command(workdir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings
    )
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "20").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "result.json").exists()

    done = subprocess.run(command(workdir), capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    [step] = events(workdir, "resumed_from")
    assert 20 <= step < 120 and step % 20 == 0
    assert f"resumed from step {step} of 120" in done.stdout
    assert same(json.loads((workdir / "result.json").read_text()), uninterrupted)

    again = subprocess.run(command(workdir), capture_output=True, text=True, **settings)
    assert again.returncode == 0 and "nothing to do" in again.stdout
