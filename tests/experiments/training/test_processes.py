"""Processes of a run on many machines: how they find each other, and how they end."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from experiments.training import processes

ROOT = pathlib.Path(__file__).resolve().parents[3]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def joined(monkeypatch):
    """What JAX finds by its own detection, in place of joining: a list of calls."""
    calls = []

    def initialize(*arguments, initialization_timeout, heartbeat_timeout_seconds):
        address, count, number, _ = (
            clusters.ClusterEnv.auto_detect_unset_distributed_params(
                *(*(arguments or (None, None, None)), None, None),
                initialization_timeout,
            )
        )
        if address is None:
            raise ValueError("coordinator_address should be defined.")
        calls.append((address, count, number))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TPU_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "")  # is taken back with what is set
    monkeypatch.delenv("JAX_COORDINATOR_PORT")
    return calls


def join(*arguments):
    processes.join(*(arguments or (None, None, None)), timeout=1)


# ---- What they are told.


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("host:1", 2, None), "must be given together, got 'host:1', 2 and None"),
        ((None, None, 0), "must be given together"),
        (("host:1", 2, 2), "--process_id must be less than --num_processes 2, got 2"),
        *(
            ((address, 2, 1), f"--coordinator must be host:port, got '{address}'")
            for address in ("", "host", "host:", ":1", "host:x", "host:0", "h:65536")
        ),
    ],
)
def test_processes_that_cannot_be(joined, arguments, words):
    with pytest.raises(ValueError, match=words):
        join(*arguments)
    assert joined == []


def test_a_process_alone_joins_nothing(joined):
    join()
    assert joined == []


# ---- Ports.


def test_a_port_in_use_is_named(joined, monkeypatch):
    monkeypatch.setattr(processes, "TAKEN", 0)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"--coordinator .* free here, got {port}"):
            join(f"localhost:{port}", 2, 0)
    assert joined == []


def test_a_port_that_becomes_free_is_taken(joined):
    server = socket.create_server(("", 0))
    port = server.getsockname()[1]
    threading.Timer(0.3, server.close).start()
    join(f"localhost:{port}", 2, 0)
    assert joined == [(f"localhost:{port}", 2, 0)]


# ---- Slurm.


def slurm(job, step, number=1, tasks=2):
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": str(step),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_steps_and_jobs_have_different_ports(joined, monkeypatch):
    for job in (1, 2, 7_654_321, 7_654_322):
        for step in (0, 1, 15):
            monkeypatch.delenv("JAX_COORDINATOR_PORT", raising=False)
            set_all(monkeypatch, slurm(job, step))
            join()
    addresses = [address for address, _, _ in joined]
    assert len(set(addresses)) == len(addresses) == 12
    ports = [int(address.removeprefix("localhost:")) for address in addresses]
    assert all(61_440 <= port < 65_536 for port in ports)
    assert {(count, number) for _, count, number in joined} == {(2, 1)}


def test_a_port_of_the_environment_is_kept(joined, monkeypatch):
    set_all(monkeypatch, slurm(5, 0) | {"JAX_COORDINATOR_PORT": "1234"})
    join()
    assert joined == [("localhost:1234", 2, 1)]


def test_a_step_of_one_task_joins_nothing(joined, monkeypatch):
    set_all(monkeypatch, slurm(5, 0, number=0, tasks=1) | {"SLURM_NTASKS": "4"})
    join()
    assert joined == []


# ---- TPU pods.


@pytest.fixture
def on_tpu(joined, monkeypatch):
    """As JAX is on a machine with TPUs."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda name: ("", 404))
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    yield joined
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("name", ["TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"])
def test_a_pod_of_the_environment(on_tpu, monkeypatch, name):
    set_all(monkeypatch, {name: "localhost,other", "TPU_WORKER_ID": "1"})
    join()
    assert on_tpu == [("localhost:8482", 2, 1)]


def test_a_pod_of_the_metadata(on_tpu, monkeypatch):
    entries = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "localhost,other,third",
        "tpu-env": "",
    }
    monkeypatch.setattr(
        cloud_tpu_cluster, "get_metadata", lambda name: (entries[name], 200)
    )
    join()
    assert on_tpu == [("localhost:8482", 3, 1)]


def test_one_host_with_tpus(on_tpu, monkeypatch):
    set_all(monkeypatch, {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"})
    join()
    assert on_tpu == [("localhost:8482", 1, 0)]


@pytest.mark.parametrize("reachable", [True, False])
def test_tpus_that_nothing_is_known_of_are_used_alone(on_tpu, monkeypatch, reachable):
    def get_metadata(name):
        if reachable:
            return "", 404
        raise ConnectionError("no metadata server")

    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", get_metadata)
    join()
    assert on_tpu == []


# ---- Over loopback, in processes of their own.


def start(code, **environment):
    """Python code with `processes` imported, in a process without Slurm's variables."""
    others = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "JAX_COORDINATOR"))
    }
    return subprocess.Popen(
        [sys.executable, "-c", f"from experiments.training import processes\n{code}"],
        env=others | {"JAX_PLATFORMS": "cpu"} | environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_that_never_come(tmp_path):
    """The first waits for another, and another for the first."""
    waiting = [
        start(
            f"processes.join('localhost:{free_port()}', 2, {number}, timeout=2)\n"
            "print('joined')"
        )
        for number in (0, 1)
    ]
    for process in waiting:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == processes.ALONE, errors
        assert output == ""
        assert errors == (
            "error: the processes of this run did not all come within 2 s"
            " (--join_timeout)\n"
        )


@pytest.mark.slow
def test_a_signal_ends_what_waits_for_others():
    process = start(
        "from experiments.runs import signals\n"
        "signals.exit_at_once()\n"
        "print('waiting', flush=True)\n"
        f"processes.join('localhost:{free_port()}', 2, 0, timeout=100)"
    )
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "error: stopped by SIGTERM\n"


@pytest.mark.slow
def test_two_steps_of_one_job_at_once():
    code = (
        "import jax\n"
        "processes.join(None, None, None, timeout=100)\n"
        "print(jax.process_count(), processes.by_first(lambda: {step}))\n"
    )
    four = {
        (step, number): start(code.format(step=step), **slurm(5, step, number))
        for step in (0, 1)
        for number in (0, 1)
    }
    for (step, _), process in four.items():
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert output.splitlines()[-1] == f"2 {step}"


SILENCE = 10
TRAINS = f"""
import sys
from experiments import commandline, run
processes.SILENCE = {SILENCE}
sys.argv = ["run", *sys.argv[1:]]
commandline.run(run.main, resumes=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_ends_the_other(tmp_path, victim, number):
    port = free_port()

    def trains(process_id):
        fields = {
            **{"task.length": 6, "model.hidden": 8, "model.reflectors": 3},
            **{"train.devices": 1, "train.batch_size": 16, "train.steps": 1_000_000},
            **{"train.log_every": 10, "train.eval_every": 100},
            "train.checkpoint_every": 100,
        }
        words = [
            *("--config=configs/addition.py", f"--workdir={tmp_path / 'run'}"),
            *(f"--coordinator=localhost:{port}", "--num_processes=2"),
            *(f"--process_id={process_id}",),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]
        return start(f"import sys\nsys.argv = ['run', *{words!r}]{TRAINS}")

    both = [trains(0), trains(1)]
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/[0-9]*")):
            assert time.monotonic() < deadline and both[victim].poll() is None
            time.sleep(0.1)
        both[victim].send_signal(number)
        _, errors = both[1 - victim].communicate(timeout=SILENCE + 30)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    code = both[1 - victim].returncode
    if (victim, number) == (1, signal.SIGKILL):
        assert code == processes.ALONE
        assert errors.count("\n") == 1, errors
        assert errors.startswith("error: another process of this run has ended")
    else:  # XLA may be faster
        assert code in (processes.ALONE, -signal.SIGABRT), errors


# ---- How one that fails leaves.


class Left(BaseException):
    pass


@pytest.mark.parametrize(
    "raised, code",
    [(SystemExit(2), 2), (SystemExit(), 0), (KeyError("x"), 1)],
)
def test_one_of_several_leaves_without_the_others(monkeypatch, capfd, raised, code):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", threading.Event().wait)
    monkeypatch.setattr(processes, "LEAVING", 0.1)
    with pytest.raises(Left) as left, processes.together():
        raise raised
    assert left.value.args == (code,)
    assert ("KeyError" in capfd.readouterr().err) == isinstance(raised, KeyError)


def test_alone_an_error_is_passed_on():
    with pytest.raises(KeyError), processes.together():
        raise KeyError("x")
