"""Workers in this process, with a stand-in for training: no run is lost or doubled."""

import json
import pathlib
import warnings

import jax
import pytest
from optuna.trial import TrialState

from experiments.runs import files
from experiments.sweep import setup, summary, worker
from experiments.sweep import space as spaces
from experiments.sweep import storage as storages
from experiments.training import loop
from tests.experiments.sweep.base import make_config

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:The reported value is ignored",
)


FULL = pathlib.Path("/dev/full")


@pytest.fixture
def trained(monkeypatch):
    """The configs that `loop.train` is called with; it reports values at 3 steps.

    The value is the radius; one above 1 fails, one of 0.55 is interrupted twice.
    """
    calls = []

    def stand_in(config, workdir, on_validation, config_file):
        calls.append(config)
        print("training")
        radius = config.model.radius
        if radius > 1:
            raise loop.NonFiniteLoss("not finite at step 5\nand more")
        if radius == 0.55 and len(calls) < 3:
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_fields_that_depend_on_another(tmp_path, trained, sampler):
    radii = {"by": "model.hidden", 4: [0.1, 0.2], 8: [0.3]}
    space = {"model.hidden": [4, 8, 16], "model.radius": radii}
    options = {} if sampler == "grid" else {"sampler": "tpe", "trials": 12}
    sweep = prepare(tmp_path, space, **options)
    worker.work(sweep)
    base = make_config().model.radius
    pairs = {(config.model.hidden, config.model.radius) for config in trained}
    assert pairs == {(4, 0.1), (4, 0.2), (8, 0.3), (16, base)}
    assert len(trained) == (4 if sampler == "grid" else 12)
    points = [run.point for run in summary.runs(sweep.study)]
    assert {point.get("model.radius", base) for point in points} == {
        *(0.1, 0.2, 0.3, base)
    }
    assert all(point.keys() <= space.keys() for point in points)


@pytest.mark.slow
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


def test_attempts_that_begin_at_once_draw_other_values(tmp_path):
    space = {"model.radius": {"low": 0.0, "high": 0.4}}
    sweep = prepare(tmp_path, space, sampler="tpe", trials=2)
    trials = [sweep.study.ask(), sweep.study.ask()]  # neither has drawn yet
    values = []
    for trial in trials:
        sweep.study.sampler = worker._sampler(sweep, trial.number)
        values.append(spaces.suggest(trial, sweep.space)["model.radius"])
    assert values[0] != values[1]


def test_any_letter_can_be_in_the_log_of_a_run(tmp_path):
    with worker._log(tmp_path / "0000.log"):
        print("a folder of bytes: \udcff")
    assert (tmp_path / "0000.log").read_text() == "a folder of bytes: \\udcff\n"


@pytest.mark.skipif(not FULL.exists(), reason="no device that is full")
def test_a_log_without_room_is_no_fault_of_the_run():
    with worker._log(FULL):
        print("lost", flush=True)
    with pytest.raises(files.Unwritable, match="result.json cannot be written: full"):
        with worker._log(FULL):
            print("lost", flush=True)
            raise files.unwritable(pathlib.Path("result.json"), "full")


def test_a_folder_that_cannot_be_is_no_fault_of_the_run(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(files.Unwritable, match="0000.log cannot be written"):
        with worker._log(tmp_path / "runs" / "0000.log"):
            pass


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


@pytest.mark.slow
def test_a_run_that_stops_early_is_complete(tmp_path):
    # No parameter changes: all metrics are the same.
    config = make_config(**{"train.patience": 2, "train.learning_rate": 1e-30})
    options = setup.Options(heartbeat=1, grace=30)
    sweep = setup.prepare(config, {"model.radius": [0.1, 0.2]}, tmp_path, options)
    worker.work(sweep)
    found = [(run.state, run.best_step) for run in summary.runs(sweep.study)]
    assert found == [("complete", 60)] * 2
    for trial in sweep.study.get_trials():
        assert list(trial.intermediate_values) == [20, 40, 60]
        assert len(set(trial.intermediate_values.values())) == 1


def test_an_interrupted_run_is_taken_up_and_no_retry_is_spent(tmp_path, trained):
    for _ in range(2):
        sweep = prepare(tmp_path, {"model.radius": [0.55]}, max_retries=0)
        with pytest.raises(KeyboardInterrupt):
            worker.work(sweep)
        assert states(sweep) == ["waiting"]
    sweep = prepare(tmp_path, {"model.radius": [0.55]}, max_retries=0)
    attempts = storages.attempts(sweep.study)[0]
    assert [each.state.name for each in attempts] == ["FAIL", "FAIL", "WAITING"]
    worker.work(sweep)
    (run,) = summary.runs(sweep.study)
    assert (run.state, run.attempts, len(trained)) == ("complete", 3, 3)


def begin_and_die(sweep, *, claim):
    """What a worker leaves that is killed in its run, or before it has claimed it."""
    with warnings.catch_warnings(action="ignore"):  # that optimize() is to ask
        trial = sweep.study.ask()
    if claim:
        worker._claim(sweep, trial)
        spaces.suggest(trial, sweep.space)
        trial.report(9.0, 20)
    return trial


@pytest.mark.slow
@pytest.mark.parametrize("claim", [True, False])
def test_a_killed_workers_run_is_retried_so_many_times(tmp_path, trained, claim):
    sweep = prepare(tmp_path, {"model.radius": [0.1]}, max_retries=1, grace=2)
    begin_and_die(sweep, claim=claim)
    assert worker.queue(sweep) == {TrialState.RUNNING} and not trained
    worker.work(sweep)
    [run] = summary.runs(sweep.study)
    assert (run.state, run.attempts, run.value) == ("complete", 2, 0.1)
    assert run.kills == claim  # what never began was not killed by the run
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


@pytest.mark.slow
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

    def stalled(config, workdir, on_validation, config_file):
        if not lost:  # others have waited for this worker's heartbeat in vain
            lost.append(workdir)
            [running] = sweep.study.get_trials(states=(TrialState.RUNNING,))
            sweep.storage.set_trial_state_values(running._trial_id, TrialState.FAIL)
        return stand_in(config, workdir, on_validation, config_file)

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


def test_workers_of_a_sweep_have_the_same_random_streams(tmp_path, trained, capsys):
    space = {"model.radius": [0.1]}
    prepare(tmp_path, space)
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="jax_enable_x64: False -> True"),
    ):
        prepare(tmp_path, space)
    with jax.default_matmul_precision("highest"):
        prepare(tmp_path, space)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "precision: None -> 'highest'" in said[0]
    # One of before, which does not tell.
    content = json.loads((tmp_path / "sweep.json").read_text())
    del content["settings"]
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    study = prepare(tmp_path, space).study
    study.set_user_attr("sweep", content)
    with jax.enable_x64(True):
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
