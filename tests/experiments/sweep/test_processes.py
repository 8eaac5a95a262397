"""Sweeps as processes: killed workers, many at one database, PostgreSQL."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from experiments.runs import cores
from experiments.sweep import storage as storages
from experiments.sweep import summary
from tests import postgresql as servers
from tests.experiments.sweep.base import TINY

ROOT = pathlib.Path(__file__).resolve().parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::optuna.exceptions.ExperimentalWarning",
        "ignore:The reported value is ignored",
    ),
]


def command(tmp_path, workdir, space, *more):
    path = tmp_path / "space.py"
    path.write_text(f"def get_space():\n    return {space!r}\n")
    return [
        *(sys.executable, "-m", "experiments.sweep", "--config=configs/addition.py"),
        *(f"--config.{name}={value}" for name, value in TINY.items()),
        *(f"--space={path}", f"--workdir={workdir}", "--heartbeat=1", "--grace=10"),
        *more,
    ]


def load(workdir):
    storage = storages.connect(workdir, None)
    return optuna.load_study(study_name="sweep", storage=storage)


def at_work(pid):
    """Whether the process runs; one that ended may wait for ever to be collected."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def run_events(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [each["step"] for each in lines if each.get("event") == name]


def runs_with_a_checkpoint(workdir):
    """Their folders, whatever its step: only the newest two are kept."""
    return {path.parents[2] for path in workdir.glob("runs/*/checkpoints/*/record")}


def kill_a_worker_in_mid_run(workdir, process):
    """SIGKILL to a worker whose run has a checkpoint; returns the run's folder."""
    deadline = time.monotonic() + 300
    study = None
    while True:
        assert process.poll() is None, "the sweep ended before a worker was killed"
        assert time.monotonic() < deadline
        time.sleep(0.03)
        if not runs_with_a_checkpoint(workdir):
            continue
        study = study or load(workdir)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            folder = workdir / "runs" / f"{trial.user_attrs['run']:04d}"
            pid = int(trial.user_attrs.get("worker", ":0").split(":")[1])
            if not (pid and (folder / "checkpoints" / "20" / "record").exists()):
                continue
            os.kill(pid, signal.SIGSTOP)  # that it does not end while we look
            # The last 20 steps are left to do at least.
            if not (folder / "checkpoints" / "80").exists():
                os.kill(pid, signal.SIGKILL)
                return folder
            os.kill(pid, signal.SIGCONT)


def test_two_workers_one_killed_end_with_12_completed_runs(tmp_path):
    workdir = tmp_path / "sweep"
    scales = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    space = {"model.input_scale": scales, "seed": [0, 1]}
    process = subprocess.Popen(
        command(tmp_path, workdir, space, "--workers=2"),
        **{"cwd": ROOT, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        killed = kill_a_worker_in_mid_run(workdir, process)
        output, errors = process.communicate(timeout=300)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, errors
    assert "by SIGKILL" in errors

    study = load(workdir)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert sorted(t.user_attrs["run"] for t in complete) == list(range(12))
    points = {(t.params["model.input_scale"], t.user_attrs["seed"]) for t in complete}
    assert points == {(scale, seed) for scale in scales for seed in (0, 1)}
    folders = sorted(path for path in (workdir / "runs").iterdir() if path.is_dir())
    assert len(folders) == 12
    for folder in folders:
        assert run_events(folder, "finished") == [100]
        assert len(run_events(folder, "started")) == 1
        resumed = run_events(folder, "resumed_from")
        assert resumed == [] if folder != killed else len(resumed) == 1
    [step] = run_events(killed, "resumed_from")
    assert step >= 20
    runs = {run.number: run for run in summary.runs(study)}
    assert runs[int(killed.name)].kills == 1
    for run in runs.values():
        path = workdir / f"runs/{run.number:04d}" / "result.json"
        result = json.loads(path.read_text())
        assert run.value == result["best"]["valid"]["mse"]
    assert "12 runs: 12 complete" in output and (workdir / "sweep.png").exists()


def test_commands_end_in_one_line(tmp_path):
    def run(arguments):
        return subprocess.run(
            arguments,
            **{"cwd": ROOT, "text": True},
            capture_output=True,
        )

    done = run(command(tmp_path, tmp_path / "sweep", {"train.lr": [1.0]}))
    assert done.returncode == 2
    assert done.stderr == "error: --space: the config has no field 'train.lr'\n"
    assert not (tmp_path / "sweep").exists()

    away = ("--storage=postgresql://me@127.0.0.1:1/x", "--max_outage=1")
    done = run(command(tmp_path, tmp_path / "sweep", {"seed": [0]}, *away))
    assert done.returncode == 6
    assert re.fullmatch(
        r"error: --storage: the database is away for \d+ s: .*127.0.0.1.*; the same"
        r" command goes on\n",
        done.stderr,
    )

    code = (
        "import sys; from experiments import commandline;"
        "from experiments.sweep import __main__ as sweep\n"
        "try: commandline.run(sweep.main)\n"
        "finally: assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'JAX'"
    )
    done = run([sys.executable, "-c", code, "summary", f"--workdir={tmp_path}"])
    assert done.returncode == 2 and "JAX" not in done.stderr
    assert done.stderr.startswith(f"error: --workdir {tmp_path} holds no sweep")


def test_any_name_of_a_folder_holds_its_own_sweep(tmp_path):
    for name in ("z?1", "z?2", "a%41b", "b#c", "{x}", "d[0]", "e f"):
        folder = tmp_path / name
        folder.mkdir()
        optuna.create_study(storage=storages.connect(folder, None), study_name=name)
        assert os.listdir(folder) == ["sweep.sqlite"]
        found = optuna.get_all_study_names(storages.connect(folder, None))
        assert found == [name]


def test_workers_end_with_the_command_that_started_them(tmp_path):
    workdir = tmp_path / "sweep"
    space = {"model.input_scale": [0.1, 0.2]}
    long = ("--config.train.steps=10000000", "--config.train.eval_every=10000000")
    process = subprocess.Popen(
        command(tmp_path, workdir, space, "--workers=2", *long),
        **{"cwd": ROOT, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    lines = iter(process.stdout.readline, "")
    line = next(line for line in lines if line.startswith("workers: "))
    workers = [int(each) for each in line.removeprefix("workers: ").split(", ")]
    if hasattr(os, "sched_getaffinity"):  # each has its part of the cores
        shares = [os.sched_getaffinity(worker) for worker in workers]
        assert shares == [cores.share(index, 2) for index in (0, 1)]
    deadline = time.monotonic() + 200
    try:
        while len(runs_with_a_checkpoint(workdir)) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 200
    while any(map(at_work, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    trials = load(workdir).get_trials()
    assert [trial.user_attrs.get("interrupted") for trial in trials] == [True, True]
    for run in ("0000", "0001"):  # each saved its step
        assert run_events(workdir / "runs" / run, "stopped")


# ---- Many workers at one database, and PostgreSQL.

STRESS = """
import os, pathlib, signal, sys, time, warnings
import optuna
from experiments.runs import folder as folders
from experiments.sweep import setup, storage, worker
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
folder, url, count = pathlib.Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
killed = sys.argv[4] == "killed"

def stand_in(sweep, trial):
    run = trial.user_attrs["run"]
    workdir = folder / str(run)
    workdir.mkdir(exist_ok=True)

    def train():
        with folders.held(workdir):
            with (folder / "began").open("a") as file:
                file.write(f"{run} {trial.number}\\n")
            trial.report(1.0, 1)
            time.sleep(0.1)
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
        return float(run)

    return folders.when_free(workdir, train)

worker._train = stand_in
connection = storage.connect(folder, url, heartbeat=1, grace=4)
study = optuna.create_study(storage=connection, study_name="x", load_if_exists=True)
plan = [{"params": {}, "seed": None}] * count
options = setup.Options(grace=4)
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 3:
    time.sleep(0.01)
sweep = setup.Sweep(None, {}, plan, "mse", folder, options, connection, study)
worker.work(sweep)
"""


def check_many_workers(folder, url, count=15):
    """Three workers at once, one of which is killed in its first run."""
    connection = storages.connect(folder, url)  # the tables, as the first command
    study = optuna.create_study(storage=connection, study_name="x")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STRESS, str(folder), url or "", str(count), fate],
            **{"cwd": ROOT, "stderr": subprocess.PIPE, "text": True},
        )
        for fate in ("killed", "lives", "lives")
    ]
    for process, code in zip(processes, (-9, 0, 0), strict=True):
        _, errors = process.communicate(timeout=200)
        assert process.returncode == code, errors
    runs = summary.runs(study)
    assert [(run.number, run.state, run.value) for run in runs] == [
        (number, "complete", number) for number in range(count)
    ]
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == count
    began = [line.split() for line in (folder / "began").read_text().splitlines()]
    assert len({number for _, number in began}) == len(began)  # no trial held twice
    assert len(began) == count + 1  # and besides the killed one no run begun twice


def test_many_workers_share_an_sqlite_file(tmp_path):
    check_many_workers(tmp_path, None)


@pytest.fixture(scope="module")
def postgresql():
    """The URL of a server of its own; skips where there is none."""
    try:
        with servers.server() as server:
            yield server.url
    except servers.Unavailable as error:
        pytest.skip(str(error))


def test_many_workers_share_a_postgresql_server(tmp_path, postgresql):
    check_many_workers(tmp_path, postgresql)


def test_two_commands_at_one_postgresql_server(tmp_path, postgresql):
    workdir = tmp_path / "sweep"
    space = {"model.input_scale": [0.1, 0.2]}
    arguments = command(tmp_path, workdir, space, f"--storage={postgresql}")
    settings = {"cwd": ROOT, "text": True}
    first = subprocess.Popen(arguments, **settings, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not (workdir / "sweep.json").exists():  # which the second finds
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    second = subprocess.run(arguments, **settings, capture_output=True)
    output, _ = first.communicate(timeout=200)
    assert first.returncode == second.returncode == 0, second.stderr
    for text in (output, second.stdout):
        assert "2 runs: 2 complete" in text
    done = subprocess.run(
        [*arguments[:3], "summary", f"--workdir={workdir}"],
        **settings,
        capture_output=True,
    )
    assert done.returncode == 2 and "give --storage" in done.stderr
