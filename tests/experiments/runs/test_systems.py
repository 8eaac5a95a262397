"""What a system lacks is done without: Windows has neither SIGHUP nor SIGUSR1."""

import os
import pathlib
import runpy
import signal
import subprocess
import sys

import pytest

from experiments.runs import signals
from experiments.training import memory

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_signals_are_those_that_there_are(monkeypatch):
    for name in ("SIGHUP", "SIGUSR1"):
        monkeypatch.delattr(signal, name)
    there = runpy.run_path(signals.__file__)
    assert there["ENDING"] == (signal.SIGTERM, signal.SIGINT)


def test_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    memory.check_bytes("a", (1,), 10**15)


COMMAND = """
import importlib, os, pathlib, runpy, signal, sys
import flax.nnx, jax, optuna, orbax.checkpoint  # which know the system they are on
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL"):
    delattr(signal, name)
for name in ("sched_getaffinity", "sched_setaffinity", "sysconf", "getuid", "uname"):
    delattr(os, name)
for path in sorted(pathlib.Path("experiments").rglob("*.py")):
    if "DEFINE_" not in path.read_text():  # flags are defined once
        parts = path.with_suffix("").parts
        importlib.import_module(".".join(p for p in parts if p != "__init__"))
runpy.run_module("experiments.run", run_name="__main__")
"""


@pytest.mark.slow
def test_commands_run_without_what_windows_lacks(tmp_path):
    fields = {"task.length": 4, "model.hidden": 8, "model.reflectors": 2}
    fields |= {"train.steps": 2, "train.batch_size": 8, "train.eval_every": 2}
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND, f"--workdir={tmp_path / 'run'}"),
            *("--config=configs/addition.py",),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()
