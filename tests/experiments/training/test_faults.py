"""What ends a run from outside: signals, another process, files that go wrong."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from experiments.runs import curves, files, folder, logs, signals
from experiments.tasks import addition
from experiments.training import checkpoints, loop, steps
from tests.experiments.small import strict_lines, tiny_config

ROOT = pathlib.Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


def without_time(result):
    return {name: value for name, value in result.items() if name != "wall_seconds"}


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(tiny_config(), workdir)


def at_step(monkeypatch, step, do):
    """Calls `do` once, when the batch of an update is asked for."""
    original = addition.Addition.train_batch
    left = [do]

    def train_batch(self, at):
        if at == step - 1 and left:
            left.pop()()
        return original(self, at)

    monkeypatch.setattr(addition.Addition, "train_batch", train_batch)


# ---- Signals.


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_saves_the_step_and_the_run_goes_on(
    tmp_path, monkeypatch, whole, number
):
    before = {each: signal.getsignal(each) for each in signals.ENDING}
    at_step(monkeypatch, 7, lambda: signal.raise_signal(number))
    # nohup and a shell's background ignore some, and what is ignored stays ignored.
    signal.signal(number, signal.SIG_DFL)
    # As a sweep does; the handlers of the tests are put back below.
    signals.raise_at_once()
    try:
        with pytest.raises(signals.Stopped, match="step 7, which is saved") as raised:
            loop.train(tiny_config(), tmp_path)
        assert raised.value.code == 128 + number
        assert steps_saved(tmp_path) == [7]
        with pytest.raises(signals.Stopped):  # nothing is noted any more
            signal.raise_signal(number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert strict_lines(tmp_path / "metrics.jsonl")[-1]["event"] == "stopped"
    again = loop.train(tiny_config(), tmp_path)
    assert without_time(again) == without_time(whole[1])


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.noted() as ending:
            signal.raise_signal(signal.SIGHUP)
            assert ending.asked is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_signal_is_noted_outside_the_main_thread():
    noted = []

    def other():
        with signals.noted() as ending:
            noted.append(ending.asked)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert noted == [None]


def command(workdir, *more):
    fields = {
        **{"task.length": 6, "model.hidden": 8, "model.reflectors": 3},
        **{"train.steps": 400_000, "train.batch_size": 16, "train.log_every": 10},
    }
    return [
        *(sys.executable, "-m", "experiments.run", "--config=configs/addition.py"),
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *("--config.train.eval_every=400000", f"--workdir={workdir}", *more),
        "--config.train.checkpoint_every=400000",
    ]


def start(workdir, *more):
    """The command as a process that has begun to train."""
    process = subprocess.Popen(
        command(workdir, *more),
        **{"cwd": ROOT, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )
    deadline = time.monotonic() + 120
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_the_command_ends_by_a_signal_with_its_code_and_refuses_a_second(tmp_path):
    process = start(tmp_path)
    second = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 2
    assert second.stderr == (
        f"error: --workdir {tmp_path} is in use by process {process.pid} on"
        f" {os.uname().nodename}\n"
    )
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 138
    [step] = steps_saved(tmp_path)
    assert errors == (
        f"error: stopped by SIGUSR1 after step {step}, which is saved; the same command"
        " goes on\n"
    )


@pytest.mark.parametrize("wait", [0.0, 0.5, 1.5, 3.0])
def test_a_signal_at_the_start_is_one_line(tmp_path, wait):
    process = subprocess.Popen(
        # Tests in the background of a shell are started to ignore some.
        ["env", "--default-signal", *command(tmp_path / "run", "--verbosity=0")],
        **{"cwd": ROOT, "stderr": subprocess.PIPE, "text": True},
    )
    handled = "0000000000004001"  # HUP and TERM, with USR1 and INT beside them
    status = pathlib.Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc to see when the command listens")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        caught = status.read_text().partition("SigCgt:")[2].split()[0]
        if int(caught, 16) & int(handled, 16) == int(handled, 16):
            break
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.fullmatch(
        r"error: stopped by SIGINT( after step \d+, which is saved)?;"
        " the same command goes on",
        errors.splitlines()[-1],
    )
    assert "Traceback" not in errors


def test_training_ends_as_it_would_without_a_reader(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(tmp_path, "--config.train.steps=20"),
        **{"cwd": ROOT, "env": {**os.environ, "JAX_PLATFORMS": "cpu"}},
        **{"stdout": writer, "stderr": writer},
    )
    os.close(writer)
    assert done.returncode == 0
    assert steps_saved(tmp_path) == [20]
    assert (tmp_path / "result.json").exists()
    assert (tmp_path / "learning_curve.png").exists()


# ---- Two processes at one workdir.


def test_a_folder_in_use_is_refused_and_a_dead_holder_is_not_in_the_way(tmp_path):
    (tmp_path / folder.LOCK).write_text("process 1 on elsewhere\n")  # of a dead one
    with folder.held(tmp_path):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
            loop.train(tiny_config(), tmp_path)
    assert os.listdir(tmp_path) == [folder.LOCK]
    assert not folder.check(tmp_path, {})  # still a new folder
    with folder.held(tmp_path):
        pass


# ---- Files that go wrong.


@pytest.mark.parametrize("damage", ["missing", "empty", "foreign", "binary"])
def test_a_log_that_is_damaged_costs_no_result(tmp_path, monkeypatch, whole, damage):
    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 40, stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny_config(), tmp_path)
    log = tmp_path / "metrics.jsonl"
    if damage == "missing":
        log.unlink()
    elif damage == "empty":
        log.write_text("")
    else:
        line = "not mine\n" if damage == "foreign" else b"\xff\xfe\n".decode("latin-1")
        log.write_text(line + log.read_text(), encoding="latin-1")
    assert without_time(loop.train(tiny_config(), tmp_path)) == without_time(whole[1])
    assert (tmp_path / "result.json").exists()


def test_a_figure_costs_no_result(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(curves, "learning_curve", broken)
    result = loop.train(tiny_config(), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", "{", "5", '{"seed": 1}', '{"task": "addition"}', "\x00"],
)
def test_another_result_is_refused_by_name(tmp_path, whole, text):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    (workdir / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json") as raised:
        loop.train(tiny_config(), workdir)
    assert "\n" not in str(raised.value)
    (workdir / "result.json").unlink()  # as the message says
    assert without_time(loop.train(tiny_config(), workdir)) == without_time(whole[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seed", 1), ("steps", 61), ("model", "rnn")),
        *(("the result.best", {}), ("the result.metrics", None)),
    ],
)
def test_a_result_of_another_run_is_refused(tmp_path, whole, field, value):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    other = json.dumps(whole[1] | {field.rpartition(".")[2]: value})
    (workdir / "result.json").write_text(other)
    with pytest.raises(ValueError, match=f"result of this config: {field} must"):
        loop.train(tiny_config(), workdir)


@pytest.mark.parametrize(
    "text", ["[]", "5", "null", "[[1]]", '{"seed": {"a": 1}}', '{"train": 5}']
)
def test_a_config_that_is_none_is_one_error(tmp_path, whole, text):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    (workdir / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json must hold|another config"):
        loop.train(tiny_config(), workdir)


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "result.json"])
def test_a_link_in_the_place_of_what_a_run_writes_is_refused(tmp_path, whole, name):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    (workdir / "result.json").unlink()
    other = tmp_path / "other"
    (other / "5").mkdir(parents=True)
    (other / "5" / "thesis.tex").write_text("draft")
    path = workdir / name
    if path.exists():
        shutil.move(path, tmp_path / "moved")
    path.symlink_to(other)
    with pytest.raises(ValueError, match=f"{name} must be the run's own, got a link"):
        loop.train(tiny_config(), workdir)
    assert (other / "5" / "thesis.tex").read_text() == "draft"


@pytest.mark.parametrize("step", [7, 20, 30])  # the next write is of any kind
def test_a_workdir_that_vanishes_ends_the_run(tmp_path, monkeypatch, step):
    workdir = tmp_path / "run"
    at_step(monkeypatch, step, lambda: shutil.rmtree(workdir))
    with pytest.raises(files.Unwritable, match=f"^{workdir}.*cannot be written"):
        loop.train(tiny_config(), workdir)
    assert not workdir.exists()
    assert loop.train(tiny_config(steps=20), workdir)["steps"] == 20


def test_a_workdir_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(files.Unwritable, match="run cannot be written: Not a dir"):
        loop.train(tiny_config(), tmp_path / "file" / "run")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_ends_the_run_and_it_goes_on(tmp_path, monkeypatch, whole):
    original, full = logs.MetricLog.write, []

    def write(self, step, split, values):
        if step == 40 and not full:
            full.append(self._file)
            self._file = open("/dev/full", "a")
            monkeypatch.setattr(logs.MetricLog, "check", lambda self: None)
        original(self, step, split, values)

    with monkeypatch.context() as patch:
        patch.setattr(logs.MetricLog, "write", write)
        with pytest.raises(files.Unwritable, match="metrics.jsonl.*No space left"):
            loop.train(tiny_config(), tmp_path)
    assert steps_saved(tmp_path) == [30]
    assert without_time(loop.train(tiny_config(), tmp_path)) == without_time(whole[1])


def test_no_step_stands_twice_after_a_resume(tmp_path, monkeypatch, whole):
    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 58, stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(tiny_config(), tmp_path)
    assert steps_saved(tmp_path) == [30]
    loop.train(tiny_config(), tmp_path)

    def numbers(workdir):
        lines = strict_lines(workdir / "metrics.jsonl")
        times = ("seconds", "examples_per_second")
        return [
            {name: value for name, value in each.items() if name not in times}
            for each in lines
            if each["split"] != "event"
        ]

    assert numbers(tmp_path) == numbers(whole[0])


# ---- Losses that are not finite, and what is restored.


def poison(monkeypatch, step, times):
    """Makes the targets of an update NaN, so many times."""
    original = addition.Addition.train_batch
    left = [None] * times

    def train_batch(self, at):
        batch = original(self, at)
        if at == step - 1 and left:
            left.pop()
            batch["targets"][:] = np.nan
        return batch

    monkeypatch.setattr(addition.Addition, "train_batch", train_batch)


def events(workdir, name):
    lines = strict_lines(workdir / "metrics.jsonl")
    return [each for each in lines if each.get("event") == name]


@pytest.mark.parametrize(("step", "back"), [(35, 30), (5, 0)])
def test_a_bad_step_goes_back_with_lower_rates(tmp_path, monkeypatch, step, back):
    poison(monkeypatch, step, times=2)
    config = tiny_config(on_nonfinite="restore", rates={"reflectors": 1e-3})
    result = loop.train(config, tmp_path)
    assert result["steps"] == 60 and result["restores"] == 2
    found = events(tmp_path, "restored")
    assert found[-1]["step"] == back and found[-1]["restores"] == 2
    assert found[-1]["non_finite_at"] == step
    lines = strict_lines(tmp_path / "metrics.jsonl")
    rates = {x["step"]: x["learning_rate"] for x in lines if x["split"] == "train"}
    trained = [each["step"] for each in lines if each["split"] == "train"]
    assert trained == [1, 20, 40, 60]
    assert rates[60] == pytest.approx(3e-3 / 4)
    assert rates[20] == pytest.approx(3e-3 if back else 3e-3 / 4)


def test_what_was_restored_is_kept_by_a_resume(tmp_path, monkeypatch):
    config = tiny_config(on_nonfinite="restore", steps=90, checkpoint_every=10)
    with monkeypatch.context() as patch:
        poison(patch, 15, times=1)
        whole = loop.train(config, tmp_path / "whole")

    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        poison(patch, 15, times=1)
        at_step(patch, 45, stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "run")
    result = loop.train(config, tmp_path / "run")  # nothing is poisoned any more
    assert without_time(result) == without_time(whole)
    assert result["restores"] == 1


def test_restores_come_to_an_end(tmp_path, monkeypatch):
    poison(monkeypatch, 35, times=9)
    config = tiny_config(on_nonfinite="restore", restores=2)
    words = "not finite at step 35.*, or more than the 2 of config.train.restores"
    with pytest.raises(loop.NonFiniteLoss, match=words):
        loop.train(config, tmp_path)
    assert [each["restores"] for each in events(tmp_path, "restored")] == [1, 2]
    assert events(tmp_path, "non_finite")[0]["last_checkpoint"] == 30


def test_a_record_that_is_restored_says_so(tmp_path):
    saved = checkpoints.Checkpoints(tmp_path)
    state = steps.TrainState({}, {}, jax.numpy.int32(1), None, {}, jax.numpy.zeros(()))
    params = {"w": jax.numpy.ones(2)}
    record = checkpoints.FIRST_RECORD | {"restores": 2}
    saved.save(1, state, params, record)
    assert saved.restore(state, params)[2] == record
    saved.close()
