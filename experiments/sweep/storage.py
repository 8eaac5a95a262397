"""Where a sweep is kept: its folder, its database, and the attempts at its runs.

A run of the sweep is attempted until it is settled. Every attempt is a trial of
Optuna with the run's number among its user attributes, and besides it:

  seed         the config's seed, where it is swept
  worker       host and process, once the attempt has begun
  error        what ended a run for a cause
  interrupted  ended by a signal, by a disk that is full or a database that stayed
               away, or before it began
  surplus      ended before it began: another attempt holds or has settled the run
"""

import functools
import pathlib
import sqlite3
import time
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.runs import files
from experiments.sweep import contact

# What a command that was killed at once leaves.
_OWN = {"sweep.json.tmp", "sweep.sqlite", "sweep.sqlite-journal"}

# What is kept of a sweep in its database, and what sweep.json has besides.
KEPT: dict[str, tuple[type, ...]] = {
    **{"config": (dict,), "space": (dict,), "metric": (str,)},
    "higher_is_better": (bool,),
}
_PLACE: dict[str, tuple[type, ...]] = {"study": (str,), "storage": (str, *files.NONE)}
_WAIT = 60.0  # seconds for another process's transaction
MAX_OUTAGE = 600  # seconds for which a database that is away is waited for

# A server without an answer is noticed within half a minute.
_LIBPQ = {
    **{"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5},
    **{"keepalives_count": 3, "tcp_user_timeout": 30_000},
}

# How servers refuse for good, except for those that are about to start or to stop.
_REFUSALS = ("FATAL", "Access denied", "Unknown database")
_PASSING = ("starting up", "shutting down", "recovery", "too many", "remaining conn")


def place(workdir: pathlib.Path, url: str | None, study: str | None) -> dict[str, Any]:
    """Where the sweep is stored, without user and password.

    Raises:
      ValueError: a URL that is none.
    """
    if url is None:
        return {"storage": None, "study": study or "sweep"}
    parsed = _parse(url)._replace(username=None, password=None)
    parsed = parsed.difference_update_query(["user", "password"])
    return {
        "storage": parsed.render_as_string(),
        "study": study or workdir.resolve().name,
    }


def read(workdir: pathlib.Path) -> dict | None:
    """The content of sweep.json; None in a new or an empty folder.

    Raises:
      ValueError: the folder holds something else.
    """
    path = workdir / "sweep.json"
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir must be a directory, got the file {workdir}")
    foreign = files.foreign(workdir, _OWN) if workdir.exists() else []
    if path.exists():  # asked after the listing: another worker may be making it
        kept = files.read_json(path)
        files.check_form(kept, KEPT | _PLACE, str(path))
        return kept
    if foreign:
        raise ValueError(
            f"--workdir {workdir} holds no sweep but other files"
            f" ({', '.join(foreign[:5])}); name a new or an empty folder"
        )
    return None


def connect(
    workdir: pathlib.Path,
    url: str | None,
    heartbeat: int | None = None,
    grace: int | None = None,
    max_outage: float = MAX_OUTAGE,
) -> contact.Storage:
    """Optuna's storage at the URL, or in the folder's SQLite file.

    Args:
      workdir: folder of the sweep.
      url: of the database; None: the file.
      heartbeat: seconds between signs of life.
      grace: seconds without one before a run is given to another.
      max_outage: seconds for which a database that is away is waited for, here and in
        every call.

    Raises:
      ValueError: the database cannot be opened.
      contact.DatabaseAway: it stayed away.
    """
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url is None:
        # Opened by hand: in a URL some characters of a path have meanings of their own.
        arguments["creator"] = functools.partial(
            sqlite3.connect,
            (workdir / "sweep.sqlite").absolute(),
            timeout=_WAIT,
            check_same_thread=False,
        )
        url = "sqlite:///sweep.sqlite"
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite" and "creator" not in arguments:
        arguments["connect_args"] = {"timeout": _WAIT}
    if parsed.drivername in ("postgresql+psycopg", "postgresql+psycopg2"):
        own = {name: _LIBPQ[name] for name in _LIBPQ if name not in parsed.query}
        arguments["connect_args"] = own
    database = contact.Contact(max_outage)

    def connected() -> contact.Storage:
        try:
            return contact.Storage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs=arguments,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                contact=database,
            )
        except sqlalchemy.exc.OperationalError as error:
            if _is_refusal(str(error)):
                raise _Refused(str(error)) from None
            raise

    for last in (False, False, True):  # two processes may both make the tables
        try:
            storage = database.call(connected)
            break
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, _Refused) as error:
            if last or isinstance(error, _Refused):
                shown = parsed.render_as_string()
                raise ValueError(
                    f"--storage {shown} cannot be opened: {str(error).splitlines()[0]}"
                ) from None
            time.sleep(1)
    if parsed.get_backend_name() == "sqlite":
        _serialize(storage.engine)
    return storage


class _Refused(Exception):
    """The server answers, and does not let us in."""


def _is_refusal(text: str) -> bool:
    refused = any(word in text for word in _REFUSALS)
    return refused and not any(word in text for word in _PASSING)


def attempts(study: optuna.Study) -> dict[int, list[FrozenTrial]]:
    """The attempts at every run, in the order of their making, without surplus."""
    by_run: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        run = trial.user_attrs.get("run")
        if run is not None and "surplus" not in trial.user_attrs:
            by_run.setdefault(run, []).append(trial)
    return by_run


def settled(attempt: FrozenTrial) -> bool:
    """Whether the attempt ended its run: completed, pruned, or failed for a cause."""
    if attempt.state == TrialState.FAIL:
        return "error" in attempt.user_attrs
    return attempt.state.is_finished()


def killed(tried: list[FrozenTrial]) -> int:
    """How many of a run's attempts ended for no cause of their own."""
    lost = [attempt for attempt in tried if attempt.state == TrialState.FAIL]
    return sum(
        not {"error", "interrupted"} & set(attempt.user_attrs) for attempt in lost
    )


def _parse(url: str) -> sqlalchemy.URL:
    """The URL; postgresql:// means psycopg, whatever SQLAlchemy's default is."""
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            "--storage must be a URL like postgresql://user@host/database, got one that"
            " cannot be read"
        ) from None
    in_memory = parsed.database in (None, "", ":memory:")
    if parsed.get_backend_name() == "sqlite" and in_memory:
        raise ValueError(
            f"--storage must be a database that others can open, got {url!r}, which is"
            " in memory"
        )
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _serialize(engine: sqlalchemy.Engine) -> None:
    """Makes transactions of SQLite take turns from their first statement.

    Otherwise two workers read that the same trial waits, and both take it: SQLite has
    no SELECT ... FOR UPDATE, by which other databases keep them apart.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_alone(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # what was opened before
