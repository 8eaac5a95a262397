"""Sweeps: what is searched, that no run is lost or doubled, and what is summed up."""

import contextlib
import csv
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from configs import addition
from experiments.sweep import drawing, setup, summary, worker
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages
from experiments.training import fields, loop

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Runs of a second: their programs are all the same, so that they compile once.
TINY = {
    "task.length": 5,
    "model.name": "rnn",
    "model.hidden": 4,
    "train.steps": 100,
    "train.batch_size": 4,
    "train.log_every": 100,
    "train.eval_every": 20,
    "train.checkpoint_every": 20,
}

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:The reported value is ignored",
)


def make_config(**changes):
    config = addition.get_config()
    config.update_from_flattened_dict(TINY | changes)
    return config.lock()


# ---- The space and the plan.


@pytest.mark.parametrize(
    "space,message",
    [
        ({}, "a dict with a field"),
        ([1], "a dict with a field"),
        ({"train.lr": [1.0]}, "no field 'train.lr'"),
        ({"lr": [1.0]}, "no field 'lr'"),
        ({"train.steps.more": [1]}, "no field 'train.steps.more'"),
        ({"train": [1.0]}, "train is a group of fields"),
        ({"task.name": ["copying"]}, "task.name is the same in all runs"),
        ({"train.learning_rate": []}, "list of values or a range.* got \\[\\]"),
        ({"train.learning_rate": 0.1}, "list of values or a range.* got 0.1"),
        ({"train.learning_rate": ["fast"]}, "type of the config's 0.01, got 'fast'"),
        ({"model.hidden": [8, 8.5]}, "type of the config's 4, got 8.5"),
        ({"model.hidden": [8, 8]}, "lists 8 twice"),
        ({"model.reflectors": [{1}]}, "plain values"),
        ({"model.reflectors": [{"a": 1}]}, "plain values"),
        ({"model.radius": {"low": 0.1}}, '"low" < "high"'),
        ({"model.radius": {"low": 0.1, "high": 0.1}}, '"low" < "high"'),
        ({"model.radius": {"low": 0, "high": 1, "log": True}}, '"low" < "high"'),
        ({"model.radius": {"low": 0, "high": 1, "step": 1}}, '"low" < "high"'),
        ({"model.hidden": {"low": 2, "high": 8}}, "type of the config's 4, got 2.0"),
        ({"seed": {"low": 0, "high": 9, "int": True}}, "a list under seed"),
    ],
)
def test_spaces_that_cannot_be(space, message):
    with pytest.raises(ValueError, match=message):
        spaces.check(space, make_config(), "random")


def test_a_grid_has_no_ranges():
    space = {"model.radius": {"low": 0.1, "high": 0.3}}
    with pytest.raises(ValueError, match="must be a list in a grid"):
        spaces.check(space, make_config(), "grid")


def test_a_value_must_be_valid_with_some_of_the_others():
    config = make_config(**{"model.hidden": 4})
    pairs = {"model.reflectors": [[8, 8], 2], "model.hidden": [4, 8]}
    space = spaces.check(pairs, config, "grid")
    spaces.check_values(space, config, fields.check)
    space = spaces.check(pairs | {"model.hidden": [4, 6]}, config, "grid")
    with pytest.raises(
        ValueError, match=r"model.reflectors=\[8, 8\]: config.model.reflectors"
    ):
        spaces.check_values(space, config, fields.check)


def test_configure_makes_epochs_count_and_leaves_the_base_alone():
    config = make_config()
    changed = spaces.configure(config, {"train.epochs": 3, "model.reflectors": [2, 3]})
    assert (changed.train.steps, changed.train.epochs) == (None, 3)
    assert list(changed.model.reflectors) == [2, 3]
    assert (config.train.steps, config.train.epochs) == (100, None)


def grid(**more):
    return {"model.reflectors": [1, [2, 3], None], "model.init": ["random"]} | more


def test_a_grid_holds_every_point_once_with_every_seed():
    plan = spaces.plan(grid(seed=[3, 4]), "grid", None, seed=0)
    found = [(p["params"]["model.reflectors"], p["seed"]) for p in plan]
    assert sorted(found, key=str) == sorted(
        [(value, seed) for value in (1, "[2, 3]", None) for seed in (3, 4)], key=str
    )
    assert found != [
        (p["params"]["model.reflectors"], p["seed"])
        for p in spaces.plan(grid(seed=[3, 4]), "grid", None, seed=1)
    ]
    assert spaces.plan(grid(seed=[3, 4]), "grid", 4, seed=0) == plan[:4]
    with pytest.raises(ValueError, match="at most 6, the size of the grid, got 7"):
        spaces.plan(grid(seed=[3, 4]), "grid", 7, seed=0)
    assert [p["seed"] for p in spaces.plan({"seed": [5, 6]}, "grid", None, 0)] == [5, 6]


def test_random_points_are_run_with_every_seed_and_can_be_continued():
    space = {
        "model.radius": {"low": 0.01, "high": 1.0, "log": True},
        "model.hidden": {"low": 2, "high": 9, "int": True},
        "seed": [0, 1],
    }
    plan = spaces.plan(space, "random", 7, seed=2)
    assert [p["seed"] for p in plan] == [0, 1, 0, 1, 0, 1, 0]
    assert plan[0]["params"] == plan[1]["params"] != plan[2]["params"]
    for planned in plan:
        assert 0.01 <= planned["params"]["model.radius"] <= 1
        assert planned["params"]["model.hidden"] in range(2, 10)
    assert spaces.plan(space, "random", 9, seed=2)[:7] == plan
    with pytest.raises(ValueError, match="--trials must be given"):
        spaces.plan(space, "random", None, seed=2)
    with pytest.raises(ValueError, match="only seeds"):
        spaces.plan({"seed": [0, 1]}, "random", 2, seed=2)


# ---- Workers in this process, with a stand-in for training.


@pytest.fixture
def trained(monkeypatch):
    """The configs that `loop.train` is called with; it reports values at 3 steps.

    The value is the radius; one above 1 fails, one of 0.55 is interrupted.
    """
    calls = []

    def stand_in(config, workdir, on_validation):
        calls.append(config)
        print("training")
        radius = config.model.radius
        if radius > 1:
            raise loop.NonFiniteLoss("not finite at step 5\nand more")
        if radius == 0.55:
            raise KeyboardInterrupt
        for step in (20, 40, 60):
            on_validation(step, {"mse": radius, "loss": radius})
        valid = {"mse": radius, "loss": radius}
        return {"best": {"step": 40, "valid": valid}, "wall_seconds": 2.0}

    monkeypatch.setattr(loop, "train", stand_in)
    return calls


def prepare(workdir, space, **options):
    base = {"heartbeat": 1, "grace": 30}
    options = setup.Options(**base | options)
    sweep = setup.prepare(make_config(), space, workdir, options)
    worker.queue(sweep)
    return sweep


def states(sweep):
    return [run.state for run in summary.runs(sweep.study)]


def test_failing_runs_are_recorded_and_do_not_end_the_sweep(tmp_path, trained):
    space = {"model.radius": [0.1, 2.0, 0.2], "seed": [7]}
    sweep = prepare(tmp_path / "sweep", space)
    worker.work(sweep)
    runs = {run.point["model.radius"]: run for run in summary.runs(sweep.study)}
    assert [runs[radius].state for radius in (0.1, 0.2, 2.0)] == [
        *("complete", "complete", "failed")
    ]
    assert runs[0.1].value == 0.1 and runs[0.1].best_step == 40
    assert runs[2.0].error == "NonFiniteLoss: not finite at step 5\nand more"
    assert {config.seed for config in trained} == {7}
    log = tmp_path / "sweep" / "runs" / f"{runs[2.0].number:04d}.log"
    assert log.read_text().startswith("training\nTraceback")
    # Nothing is run again, and more of the same sweep goes on with the rest.
    worker.work(prepare(tmp_path / "sweep", space))
    assert len(trained) == 3


def test_more_trials_continue_a_random_sweep(tmp_path, trained):
    space = {"model.radius": {"low": 0.1, "high": 0.4}}
    for trials in (2, 5):
        sweep = prepare(tmp_path, space, sampler="random", trials=trials, seed=3)
        worker.work(sweep)
    assert states(sweep) == ["complete"] * 5
    drawn = [planned["params"]["model.radius"] for planned in sweep.plan]
    assert [config.model.radius for config in trained] == drawn


def test_tpe_finds_low_values_and_takes_seeds_in_turn(tmp_path, trained):
    space = {"model.radius": {"low": 0.0, "high": 0.4}, "seed": [0, 1, 2]}
    for name in ("a", "b"):
        sweep = prepare(tmp_path / name, space, sampler="tpe", trials=16)
        worker.work(sweep)
    assert [config.seed for config in trained[:6]] == [0, 1, 2, 0, 1, 2]
    radii = [config.model.radius for config in trained]
    assert radii[:16] == radii[16:]  # one worker: the same again
    assert len(set(radii[:16])) == 16
    assert sum(radii[11:16]) / 5 < 0.1  # 0.2 by chance


def test_poor_runs_are_pruned(tmp_path, trained):
    radii = [0.1 * i for i in range(1, 9)]
    sweep = prepare(
        tmp_path,
        {"model.radius": radii},
        **{"pruner": "median", "pruner_startup": 3, "pruner_warmup": 30},
    )
    worker.work(sweep)
    runs = summary.runs(sweep.study)
    done = []
    for run, config in zip(runs, trained, strict=True):  # as they were run
        radius = config.model.radius
        poor = len(done) >= 3 and radius > sorted(done)[len(done) // 2]
        if run.state == "pruned":
            assert len(done) >= 3 and run.value == radius == run.point["model.radius"]
        else:
            assert run.state == "complete" and not poor
            done.append(radius)
    trials = sweep.study.get_trials(states=(TrialState.PRUNED,))
    assert trials and all(list(t.intermediate_values) == [20, 40] for t in trials)


def test_hyperband_prunes_poor_runs_and_keeps_the_best(tmp_path, trained):
    radii = [0.1 * i for i in range(1, 9)]
    sweep = prepare(tmp_path, {"model.radius": radii}, pruner="hyperband")
    worker.work(sweep)
    runs = summary.runs(sweep.study)
    pruned = [run for run in runs if run.state == "pruned"]
    done = [run.value for run in runs if run.state == "complete"]
    assert pruned and len(pruned) + len(done) == 8
    assert min(done) == min(radii)
    assert all(run.value > min(done) for run in pruned)


def test_an_interrupted_run_is_taken_up_and_no_retry_is_spent(tmp_path, trained):
    for _ in range(2):
        sweep = prepare(tmp_path, {"model.radius": [0.55]}, max_retries=0)
        with pytest.raises(KeyboardInterrupt):
            worker.work(sweep)
        assert states(sweep) == ["waiting"]
    sweep = prepare(tmp_path, {"model.radius": [0.55]}, max_retries=0)
    trained.clear()
    attempts = storages.attempts(sweep.study)[0]
    assert [each.state.name for each in attempts] == ["FAIL", "FAIL", "WAITING"]


def begin_and_die(sweep, *, claim):
    """What a worker leaves that is killed in its run, or before it has claimed it."""
    with warnings.catch_warnings(action="ignore"):  # that optimize() is to ask
        trial = sweep.study.ask()
    if claim:
        worker._claim(sweep, trial)
        spaces.suggest(trial, sweep.space)
        trial.report(9.0, 20)
    return trial


@pytest.mark.parametrize("claim", [True, False])
def test_a_killed_workers_run_is_retried_so_many_times(tmp_path, trained, claim):
    sweep = prepare(tmp_path, {"model.radius": [0.1]}, max_retries=1, grace=2)
    begin_and_die(sweep, claim=claim)
    assert worker.queue(sweep) == {TrialState.RUNNING} and not trained
    worker.work(sweep)
    [run] = summary.runs(sweep.study)
    assert (run.state, run.attempts, run.kills, run.value) == ("complete", 2, 1, 0.1)
    last = sweep.study.get_trials()[-1]
    assert last.intermediate_values[20] == (9.0 if claim else 0.1)  # kept


def test_a_run_that_kills_its_workers_is_given_up(tmp_path, trained):
    sweep = prepare(tmp_path, {"model.radius": [0.1]}, max_retries=1)
    for _ in range(2):
        trial = begin_and_die(sweep, claim=True)
        sweep.study.tell(trial, state=TrialState.FAIL)  # as without a heartbeat
        left = worker.queue(sweep)
    assert left == set()
    worker.work(sweep)
    assert states(sweep) == ["killed"] and not trained


def test_a_run_that_was_queued_twice_is_run_once(tmp_path, trained):
    sweep = prepare(tmp_path, {"model.radius": [0.1, 0.2]})
    for number in (0, 1):  # what a second worker does at the same moment
        again = worker._next_attempt(number, sweep.plan[number], [])
        sweep.study.add_trial(again)
    worker.work(sweep)
    worker._attempt_next(sweep)  # and one that finds the queue empty after all
    assert states(sweep) == ["complete", "complete"] and len(trained) == 2
    surplus = [t for t in sweep.study.get_trials() if "surplus" in t.user_attrs]
    assert [t.state for t in surplus] == [TrialState.FAIL] * (len(surplus))
    assert len(sweep.study.get_trials(states=(TrialState.COMPLETE,))) == 2


def test_a_worker_that_lost_its_run_stops_and_the_run_counts_once(
    tmp_path, trained, monkeypatch
):
    sweep = prepare(tmp_path, {"model.radius": [0.1, 0.2]})
    stand_in, lost = loop.train, []

    def stalled(config, workdir, on_validation):
        if not lost:  # others have waited for this worker's heartbeat in vain
            lost.append(workdir)
            [running] = sweep.study.get_trials(states=(TrialState.RUNNING,))
            sweep.storage.set_trial_state_values(running._trial_id, TrialState.FAIL)
        return stand_in(config, workdir, on_validation)

    monkeypatch.setattr(loop, "train", stalled)
    worker.work(sweep)
    runs = summary.runs(sweep.study)
    assert [run.state for run in runs] == ["complete", "complete"]
    assert [run.attempts for run in runs] == [2, 1] and len(trained) == 3


def test_another_sweep_is_refused_and_what_differs_is_shown(tmp_path, trained):
    space = {"model.radius": [0.1, 0.2]}
    prepare(tmp_path, space)
    prepare(tmp_path, space, trials=2, max_retries=7)  # no other sweep
    with pytest.raises(ValueError, match=r"--space: .*0.2.* -> .*0.3"):
        prepare(tmp_path, {"model.radius": [0.1, 0.3]})
    with pytest.raises(ValueError, match="--pruner: 'none' -> 'median'"):
        prepare(tmp_path, space, pruner="median")
    changed = make_config(**{"train.steps": 7})
    with pytest.raises(ValueError, match="config.train.steps: 100 -> 7"):
        setup.prepare(changed, space, tmp_path, setup.Options())
    # The same in a database that others use: another folder, the same name.
    (tmp_path / "sweep.json").unlink()
    url = f"sqlite:///{tmp_path / 'sweep.sqlite'}"
    with pytest.raises(ValueError, match="--study sweep holds another .*\n.*config.tr"):
        options = setup.Options(storage=url, study="sweep")
        setup.prepare(changed, space, tmp_path / "elsewhere", options)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="no sweep but other files"):
        prepare(tmp_path, space)


def test_options_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="--grace must be more than --heartbeat, 9"):
        options = setup.Options(heartbeat=9, grace=9)
        setup.prepare(make_config(), {"seed": [1]}, tmp_path / "a", options)
    with pytest.raises(ValueError, match="--storage must be a URL"):
        prepare(tmp_path / "b", {"seed": [1]}, storage="a database")
    assert not list(tmp_path.iterdir())


def test_passwords_are_not_written_down(tmp_path):
    url = "postgresql://me:secret@host:5/base?password=secret"
    found = storages.place(tmp_path / "name", url, None)
    assert found == {"storage": "postgresql+psycopg://host:5/base", "study": "name"}


# ---- The summary.


def example_runs():
    def run(number, state, value, rate, seed, error=None):
        point = {"train.learning_rate": rate, "seed": seed}
        return summary.Run(number, state, value, point, 40, 1.5, 1, 0, error)

    return [
        run(0, "complete", 0.5, 0.1, 0),
        run(1, "complete", 0.1, 0.2, 0),
        run(2, "complete", 0.3, 0.2, 1),
        run(3, "pruned", 0.05, 0.2, 2),
        run(4, "failed", None, 0.4, 0, "diverged, at 5\nmore"),
    ]


def test_groups_hold_mean_and_spread_of_the_completed():
    groups = summary.groups(example_runs(), higher_is_better=False)
    assert [g.point["train.learning_rate"] for g in groups] == [0.2, 0.1, 0.4]
    best, second, last = groups
    assert best.mean == pytest.approx(0.2)
    assert best.std == pytest.approx(0.02**0.5)  # two deviations of 0.1, over 2 - 1
    assert (best.low, best.high, best.complete, best.runs) == (0.1, 0.3, 2, 3)
    assert (second.mean, second.std) == (0.5, None)
    assert (last.mean, last.complete, last.runs) == (None, 0, 1)
    groups = summary.groups(example_runs(), higher_is_better=True)
    assert [g.point["train.learning_rate"] for g in groups] == [0.1, 0.2, 0.4]


def test_table_csv_and_figure(tmp_path):
    fields = ["train.learning_rate", "seed"]
    text = summary.table(example_runs(), fields, "mse", higher_is_better=False)
    lines = text.splitlines()
    assert lines[0] == "validation mse at the best step, lower is better"
    assert lines[2].split() == ["0.2", "0.2", "0.14142", "0.1", "0.3", "2/3"]
    assert lines[-2] == "5 runs: 1 failed, 1 pruned, 3 complete"
    assert lines[-1] == "run 4 failed: diverged, at 5"
    summary.write_csv(example_runs(), fields, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["value"] == "0.3" and rows[2]["seed"] == "1"
    assert rows[4]["value"] == "" and rows[4]["error"] == "diverged, at 5\nmore"
    drawn = drawing.draw(tmp_path / "sweep.csv", tmp_path / "a.png", fields, "mse")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    summary.write_csv([], fields, tmp_path / "sweep.csv")  # before anything ended
    drawing.draw(tmp_path / "sweep.csv", tmp_path / "b.png", fields, "mse")


# ---- Processes.


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One cache of compiled programs for all processes."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


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


def run_events(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [each["step"] for each in lines if each.get("event") == name]


def kill_a_worker_in_mid_run(workdir, process):
    """SIGKILL to a worker whose run has a checkpoint; returns the run's folder."""
    deadline = time.monotonic() + 300
    study = None
    while True:
        assert process.poll() is None, "the sweep ended before a worker was killed"
        assert time.monotonic() < deadline
        time.sleep(0.03)
        if not list(workdir.glob("runs/*/checkpoints/20/record")):
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


def test_two_workers_one_killed_end_with_12_completed_runs(tmp_path, environment):
    workdir = tmp_path / "sweep"
    scales = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    space = {"model.input_scale": scales, "seed": [0, 1]}
    process = subprocess.Popen(
        command(tmp_path, workdir, space, "--workers=2"),
        **{"cwd": ROOT, "env": environment, "text": True},
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


def test_commands_end_in_one_line(tmp_path, environment):
    def run(arguments):
        return subprocess.run(
            arguments,
            **{"cwd": ROOT, "env": environment, "text": True},
            capture_output=True,
        )

    done = run(command(tmp_path, tmp_path / "sweep", {"train.lr": [1.0]}))
    assert done.returncode == 2
    assert done.stderr == "error: --space: the config has no field 'train.lr'\n"
    assert not (tmp_path / "sweep").exists()

    code = (
        "import sys; from experiments import commandline;"
        "from experiments.sweep import __main__ as sweep\n"
        "try: commandline.run(sweep.main)\n"
        "finally: assert not {'jax', 'flax', 'svdrnn'} & set(sys.modules), 'JAX'"
    )
    done = run([sys.executable, "-c", code, "summary", f"--workdir={tmp_path}"])
    assert done.returncode == 2 and "JAX" not in done.stderr
    assert done.stderr.startswith(f"error: --workdir {tmp_path} holds no sweep")


# ---- Many workers at one database, and PostgreSQL.

STRESS = """
import os, pathlib, signal, sys, time, warnings
import optuna
from experiments.sweep import setup, storage, worker
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
folder, url, count = pathlib.Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
killed = sys.argv[4] == "killed"

def stand_in(sweep, trial):
    run = trial.user_attrs["run"]
    with worker._held(folder / f"{run}.lock"):
        with (folder / "began").open("a") as file:
            file.write(f"{run} {trial.number}\\n")
        trial.report(1.0, 1)
        time.sleep(0.1)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
    return float(run)

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
    """The URL of a server of its own, on a Unix socket; skips where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = {}
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, installed[::-1])])
    for name in ("initdb", "pg_ctl"):
        found[name] = shutil.which(name, path=path)
        if found[name] is None:
            pytest.skip(f"no PostgreSQL server is installed: {name} not found")
    user = unprivileged_user()
    folder = tempfile.mkdtemp(prefix="svdrnn-postgresql-")
    settings = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        settings |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    control = [found["pg_ctl"], f"--pgdata={folder}/data", "-w"]
    setup_flags = ["--username=sweep", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    try:
        subprocess.run(
            [found["initdb"], f"--pgdata={folder}/data", *setup_flags], **settings
        )
        server = f"-c listen_addresses='' -k {folder} -c fsync=off"
        log = f"--log={folder}/log"
        subprocess.run([*control, log, f"-o {server}", "start"], **settings)
        try:
            yield f"postgresql://sweep@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], **settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unprivileged_user():
    """Whom the server runs as, which must not be root; None: the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def test_many_workers_share_a_postgresql_server(tmp_path, postgresql):
    check_many_workers(tmp_path, postgresql)


def test_two_commands_at_one_postgresql_server(tmp_path, environment, postgresql):
    workdir = tmp_path / "sweep"
    space = {"model.input_scale": [0.1, 0.2]}
    arguments = command(tmp_path, workdir, space, f"--storage={postgresql}")
    settings = {"cwd": ROOT, "env": environment, "text": True}
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
