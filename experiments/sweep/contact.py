"""Calls to a database that may be away for a while."""

import contextlib
import functools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import sqlalchemy

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between calls, doubled in between


class DatabaseAway(optuna.exceptions.OptunaError):
    """The database does not answer; the message says for how long, and why."""


class Contact:
    """Whether the database answers, as far as the threads of this process know.

    Args:
      max_outage: seconds for which `call` waits for a database that is away, counted
        from the first call that failed.

    Attributes:
      since: when the present state began, by `time.monotonic`.
    """

    def __init__(self, max_outage: float):
        self._max_outage = max_outage
        self._cause: str | None = None  # None: it answers
        self._lock = threading.Lock()
        self._threads = threading.local()
        self.since = time.monotonic()

    def call(self, function: Callable[[], Any]) -> Any:
        """What the function returns, which is called again while the database is away.

        Raises:
          DatabaseAway: it stayed away, or is away and the call is `at_once`.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                result = function()
            except (sqlalchemy.exc.SQLAlchemyError, _WRAPPED) as error:
                cause = _of_outage(error)
                if cause is None:
                    raise
                self._fails(cause)
                left = self.left()
                if left <= 0 or getattr(self._threads, "at_once", False):
                    raise self._away() from None
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._answers()
                return result

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which no call of this thread waits."""
        before = getattr(self._threads, "at_once", False)
        self._threads.at_once = True
        try:
            yield
        finally:
            self._threads.at_once = before

    def left(self) -> float:
        """Seconds for which a database that is away is still waited for."""
        if self._cause is None:
            return self._max_outage
        return self.since + self._max_outage - time.monotonic()

    def held(self) -> float:
        """Seconds for which the database has answered without a break; 0 if away."""
        return 0.0 if self._cause else time.monotonic() - self.since

    def _fails(self, cause: str) -> None:
        with self._lock:
            if self._cause is None:
                self.since = time.monotonic()
                most = f"{self._max_outage:g} s"
                print(f"the database is away, for at most {most}: {cause}", flush=True)
            self._cause = cause

    def _answers(self) -> None:
        with self._lock:
            if self._cause is not None:
                seconds = time.monotonic() - self.since
                self._cause, self.since = None, time.monotonic()
                print(f"the database is back after {seconds:.0f} s", flush=True)

    def _away(self) -> DatabaseAway:
        seconds = time.monotonic() - self.since
        return DatabaseAway(f"the database is away for {seconds:.0f} s: {self._cause}")


_WRAPPED = optuna.exceptions.StorageInternalError


def _of_outage(error: Exception) -> str | None:
    """The first line of the driver's error, or None where it says something else."""
    cause = error.__cause__ if isinstance(error, _WRAPPED) else error
    kinds = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    lost = getattr(cause, "connection_invalidated", False)
    if not (isinstance(cause, kinds) or lost):
        return None
    text = str(getattr(cause, "orig", cause)).strip() or type(cause).__name__
    if isinstance(getattr(cause, "orig", None), sqlite3.Error) and "lock" not in text:
        return None  # a file: what is wrong with it stays wrong
    return text.splitlines()[0]


def _patient(method: Callable) -> Callable:
    """The method of the storage, called through its contact."""

    @functools.wraps(method)
    def call(self: "Storage", *args: Any, **kwargs: Any) -> Any:
        return self.contact.call(lambda: method(self, *args, **kwargs))

    return call


class Storage(optuna.storages.RDBStorage):
    """Optuna's storage, each transaction of which waits for a database that is away.

    One that was done, though the answer was lost, is done again: a run may be queued a
    second time, of which one is surplus, and a trial that has ended refuses its end.

    Args:
      url, engine_kwargs, heartbeat_interval, grace_period: see Optuna's.
      contact: through which calls are made.
    """

    def __init__(self, *args: Any, contact: Contact, **kwargs: Any):
        self.contact = contact
        super().__init__(*args, **kwargs)


# Every method that opens a session of its own.
_TRANSACTIONS = (
    *("create_new_study", "delete_study", "get_all_studies", "get_study_directions"),
    *("set_study_user_attr", "get_study_user_attrs", "get_study_name_from_id"),
    *("set_study_system_attr", "get_study_system_attrs", "get_study_id_from_name"),
    *("_create_new_trial", "_set_trial_param", "get_trial_param", "get_trial"),
    *("set_trial_state_values", "set_trial_intermediate_value", "_get_trials"),
    *("set_trial_user_attr", "get_trial_user_attrs", "_get_best_trial_id"),
    *("set_trial_system_attr", "get_trial_system_attrs"),
    *("get_trial_id_from_study_id_trial_number", "record_heartbeat"),
    "_get_stale_trial_ids",
)
for _name in _TRANSACTIONS:
    setattr(Storage, _name, _patient(getattr(optuna.storages.RDBStorage, _name)))
