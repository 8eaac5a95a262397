"""A PostgreSQL server for tests, which can be stopped and started again."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator


class Unavailable(Exception):
    """No PostgreSQL server can run here; the message says why."""


class Server:
    """A server of its own, on a free port of the loopback.

    Args:
      folder: an empty one, for its data.

    Raises:
      Unavailable: the server or the driver is not installed, or nobody may run it.
    """

    def __init__(self, folder: pathlib.Path):
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise Unavailable("psycopg is not installed") from None
        initdb, control = map(_program, ("initdb", "pg_ctl"))
        user = _unprivileged_user()
        self._settings: dict = {"cwd": folder, "stdout": subprocess.DEVNULL}
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._settings |= {"user": user.pw_uid, "group": user.pw_gid}
            self._settings |= {"extra_groups": []}
        flags = ("--username=sweep", "--auth=trust", "--no-sync", "--encoding=UTF8")
        self._run(initdb, f"--pgdata={folder}/data", *flags)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._control = (control, f"--pgdata={folder}/data", "-w")
        self._options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
        self._options += " -c fsync=off"
        self._log = folder / "log"
        self.url = f"postgresql://sweep@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        self._run(*self._control, f"--log={self._log}", "-o", self._options, "start")

    def stop(self) -> None:
        """Ends every connection, as for a restart."""
        self._run(*self._control, "-m", "fast", "stop")

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, **self._settings)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that runs; see `Server`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="svdrnn-postgresql-"))
    try:
        found = Server(folder)
        found.start()
        try:
            yield found
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # it is stopped
                found.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    """Where a program of the server is: Debian keeps them out of the PATH."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, installed[::-1])])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(f"no PostgreSQL server is installed: {name} not found")
    return found


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom the server runs as, which must not be root; None: the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable("PostgreSQL does not run as root, and there is no other user")
