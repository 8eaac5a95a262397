"""A database that is away for a while, or for good: nothing is lost but time."""

import inspect
import random
import threading
import time

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from experiments.sweep import contact, summary, worker
from experiments.sweep import storage as storages
from experiments.training import loop
from tests.experiments.sweep import test_worker

pytestmark = test_worker.pytestmark
SPACE = {"model.radius": [0.1, 0.2]}


def refusal(*_):
    raise sqlalchemy.exc.OperationalError("", {}, Exception("connection refused\nx"))


class Database:
    """Takes the database of a sweep away and back."""

    def __init__(self, sweep):
        self._engine = sweep.storage.engine
        self._timer = None

    def leave(self, seconds=None):
        """From now on, for so many seconds or until it is told to come back."""
        sqlalchemy.event.listen(self._engine, "before_cursor_execute", refusal)
        if seconds is not None:
            self._timer = threading.Timer(seconds, self.come_back)
            self._timer.start()

    def come_back(self):
        sqlalchemy.event.remove(self._engine, "before_cursor_execute", refusal)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(contact, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(contact, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def hook(monkeypatch):
    """Training reports at steps 1, 2 and 3; what is set here is called before each."""
    calls = {}

    def stand_in(config, workdir, on_validation, **_):
        for step in (1, 2, 3, "end"):
            calls.get(step, lambda: None)()
            if step != "end":
                on_validation(step, {"mse": config.model.radius})
        valid = {"mse": config.model.radius, "loss": 0.5}
        return {"best": {"step": 3, "valid": valid}, "wall_seconds": 2.0}

    monkeypatch.setattr(loop, "train", stand_in)
    return calls


def check_complete(sweep, attempts=1):
    runs = summary.runs(sweep.study)
    assert [run.state for run in runs] == ["complete"] * len(sweep.plan)
    for run in runs:
        assert run.value == run.point["model.radius"]
        assert run.kills == 0 and run.attempts <= attempts
    complete = sweep.study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == len(sweep.plan)
    assert all(list(each.intermediate_values) == [1, 2, 3] for each in complete)


@pytest.mark.parametrize("at", [1, 2, 3, "end"])
def test_an_outage_costs_time_and_nothing_else(tmp_path, hook, capsys, at):
    sweep = test_worker.prepare(tmp_path, SPACE)
    database = Database(sweep)
    hook[at] = lambda: hook.pop(at) and database.leave(0.3)
    worker.work(sweep)
    check_complete(sweep)
    printed = capsys.readouterr().out + "".join(
        log.read_text() for log in (tmp_path / "runs").glob("*.log")
    )
    assert printed.count("database is away, for at most 600 s: connection refused") == 1
    assert printed.count("the database is back after ") == 1


def test_training_goes_on_while_the_database_is_away(tmp_path, hook):
    sweep = test_worker.prepare(tmp_path, {"model.radius": [0.1]}, max_outage=30)
    database = Database(sweep)
    hook[1], hook["end"] = database.leave, database.come_back
    worker.work(sweep)
    check_complete(sweep)


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_calls_that_fail_now_and_then_change_nothing(
    tmp_path, hook, monkeypatch, answer_is_lost
):
    generator, commit = random.Random(0), sqlalchemy.orm.Session.commit

    def fail_now_and_then(session):
        fails = generator.random() < 0.1
        if fails and not answer_is_lost:
            refusal()
        commit(session)
        if fails:
            refusal()

    sweep = test_worker.prepare(tmp_path, SPACE, grace=2)
    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy.orm.Session, "commit", fail_now_and_then)
        for number in range(2, 5):  # more runs of the same kind
            sweep.plan.append(sweep.plan[number % 2])
        worker.work(sweep)
    # Where an answer was lost, a trial that was taken from the queue may be no one's.
    check_complete(sweep, attempts=9 if answer_is_lost else 1)


@pytest.mark.parametrize("at", [1, 3, "end", "queue"])
def test_one_that_stays_away_ends_the_worker_and_no_retry_is_counted(
    tmp_path, hook, monkeypatch, at
):
    sweep = test_worker.prepare(tmp_path, SPACE, max_outage=0.2, max_retries=0)
    database = Database(sweep)
    hook[at] = database.leave
    hook[2] = lambda: time.sleep(0.3 if at == 1 else 0)
    if at == "queue":
        ask = sweep.study.ask
        monkeypatch.setattr(sweep.study, "ask", lambda: (ask(), database.leave())[0])
    with pytest.raises(
        contact.DatabaseAway,
        match=r"^the database is away for \d+ s: connection refused$",
    ):
        worker.work(sweep)
    assert len(list((tmp_path / "runs").glob("*.interrupted"))) == 1
    database.come_back()
    hook.clear()
    again = test_worker.prepare(tmp_path, SPACE, max_retries=0, grace=60)
    began = time.monotonic()
    worker.work(again)
    assert time.monotonic() - began < 50  # known at once, without the grace
    check_complete(again, attempts=2)
    assert not list((tmp_path / "runs").glob("*.interrupted"))


def test_a_signal_during_an_outage_does_not_wait_for_its_end(tmp_path, hook):
    sweep = test_worker.prepare(tmp_path, SPACE, max_retries=0)

    def interrupt():
        Database(sweep).leave()
        raise KeyboardInterrupt

    hook[2] = interrupt
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        worker.work(sweep)
    assert time.monotonic() - began < 60
    Database(sweep).come_back()
    hook.clear()
    worker.work(sweep)
    check_complete(sweep, attempts=2)


def test_attempts_are_missed_only_after_a_grace_with_the_database(tmp_path, hook):
    sweep = test_worker.prepare(tmp_path, {"model.radius": [0.1]}, grace=30)
    trial = test_worker.begin_and_die(sweep, claim=True)
    unclaimed = test_worker.worker._next_attempt(7, {"params": {}, "seed": None}, [])
    sweep.study.add_trial(unclaimed)
    test_worker.begin_and_die(sweep, claim=False)
    sweep.storage._get_stale_trial_ids = lambda study: [trial._trial_id]
    first_seen = {1: time.monotonic() - 100}
    worker._end_lost(sweep, first_seen)  # after a start, and after an outage
    states = [each.state for each in sweep.study.get_trials()]
    assert states == [TrialState.RUNNING] * 2
    sweep.storage.contact.since -= 31
    worker._end_lost(sweep, first_seen)
    lost, unclaimed = sweep.study.get_trials()
    assert lost.state == unclaimed.state == TrialState.FAIL
    assert "interrupted" not in lost.user_attrs and unclaimed.user_attrs["interrupted"]


def test_signs_of_life_go_on_after_an_outage(tmp_path, hook):
    sweep = test_worker.prepare(tmp_path, {"model.radius": [0.1]})
    trial = test_worker.begin_and_die(sweep, claim=True)
    sweep = sweep._replace(options=sweep.options._replace(heartbeat=0.02))
    database, shown, record = Database(sweep), [], sweep.storage.record_heartbeat
    sweep.storage.record_heartbeat = lambda trial: (record(trial), shown.append(1))
    with worker._signs_of_life(sweep, trial):
        for _ in range(2):
            database.leave()
            time.sleep(0.2)
            before = len(shown)
            database.come_back()
            deadline = time.monotonic() + 20
            while len(shown) < before + 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_every_transaction_waits():
    source = vars(optuna.storages.RDBStorage)
    opens = {
        name
        for name, method in source.items()
        if inspect.isfunction(method)
        and "_create_scoped_session(self.scoped_session" in inspect.getsource(method)
    }
    assert opens == set(contact._TRANSACTIONS)
    assert all(vars(contact.Storage)[name] is not source[name] for name in opens)


# ---- At the start.


def test_a_database_that_is_away_at_the_start_is_waited_for(tmp_path, monkeypatch):
    tries, make = [], contact.Storage.__init__

    def fail_twice(*args, **kwargs):
        tries.append(1)
        refusal() if len(tries) < 3 else make(*args, **kwargs)

    monkeypatch.setattr(contact.Storage, "__init__", fail_twice)
    storage = storages.connect(tmp_path, None)
    assert len(tries) == 3 and storage.get_all_studies() == []
    with pytest.raises(contact.DatabaseAway):
        storages.connect(tmp_path, "postgresql://me@127.0.0.1:1/x", max_outage=0.2)


@pytest.mark.parametrize(
    "text,refused",
    [
        ('FATAL:  password authentication failed for user "x"', True),
        ('FATAL:  database "x" does not exist', True),
        ("FATAL:  the database system is starting up", False),
        ("FATAL:  the database system is shutting down", False),
        ("FATAL:  sorry, too many clients already", False),
        ("connection to server at 127.0.0.1, port 1 failed: Connection refused", False),
    ],
)
def test_a_server_that_refuses_is_not_waited_for(tmp_path, monkeypatch, text, refused):
    def fail(*_, **__):
        raise sqlalchemy.exc.OperationalError("", {}, Exception(text))

    monkeypatch.setattr(contact.Storage, "__init__", fail)
    error = ValueError if refused else contact.DatabaseAway
    with pytest.raises(error, match=text.rpartition(":")[2].strip()):
        storages.connect(tmp_path, "postgresql://me@127.0.0.1:1/x", max_outage=0.1)
