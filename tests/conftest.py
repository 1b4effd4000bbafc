"""Fixtures that every test may use, and the rules that hold for all of them.

* ``database``: an SQLite database with all tables; what nearly every test wants.
* ``any_database``: the same test once on SQLite and once on PostgreSQL; for whatever depends on
  locking, constraints or types.
* ``database_url``, ``any_database_url``, ``empty_database_url``: their URLs, for tests that open
  the database themselves or from other processes.
* ``settings``: settings with a state directory of the test's own.

Nothing leaves this machine: see `loopback_only`.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from slipway.database import Database
from slipway.settings import Settings
from tests.postgres import Postgres, PostgresUnavailable, shared_server

# "ci" is for .ci/run: the same examples every time, so that a red build is red for everybody and
# for as long as the fault is there. New examples are found at the desk, where someone is there to
# look at them. Deadlines are off in both: wall time says nothing on a busy machine.
hypothesis.settings.register_profile("desk", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")


# --- Databases ------------------------------------------------------------------------------------


def _session_dir(factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory all workers of this session see, and no other session."""
    base = factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file: copying it costs a hundredth of migrating again."""
    template = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = Database(f"sqlite:///{template}")
    database.migrate()
    # The last connection to close moves what is in the write-ahead log into the file.
    database.close()
    return template


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Postgres:
    """A PostgreSQL server, shared by the session."""
    session_pid = os.getpid() if worker_id == "master" else os.getppid()
    try:
        return shared_server(_session_dir(tmp_path_factory, worker_id), session_pid=session_pid)
    except PostgresUnavailable as error:
        reason = f"PostgreSQL cannot be started here: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'slipway.db'}"


@pytest.fixture
def database_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of an SQLite database with all tables."""
    shutil.copyfile(_sqlite_template, tmp_path / "slipway.db")
    return _sqlite_url(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with all tables, on each kind of database in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("database_url")
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database(f"test_{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, on each kind of database in turn."""
    if request.param == "sqlite":
        yield _sqlite_url(tmp_path)
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database(f"test_{uuid.uuid4().hex}", migrated=False) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An SQLite database with all tables."""
    found = Database(database_url)
    yield found
    found.close()


@pytest.fixture
def any_database(any_database_url: str) -> Iterator[Database]:
    """A database with all tables, on each kind of database in turn."""
    found = Database(any_database_url)
    yield found
    found.close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a state directory of the test's own, whatever the environment says."""
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        monkeypatch.delenv(name)
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever asks for the usual settings in a test, even by mistake, does not find what the person
    who runs the tests has in their home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


# --- Nothing leaves this machine ------------------------------------------------------------------

#: What was tried since the last test, one sentence each.
violations: list[str] = []


class LeavesThisMachine(RuntimeError):
    """A test tried to reach another machine, or to be reached from one."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: sees every socket that Python opens, whichever library asked."""
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        opened, address = arguments
        if opened.family not in (socket.AF_INET, socket.AF_INET6) or not address:
            return
        host = str(address[0])
    elif event == "socket.getaddrinfo":
        host = arguments[0] or "localhost"
        host = host.decode() if isinstance(host, bytes) else str(host)
        if _is_address(host):
            return
    else:
        return
    if not _is_loopback(host):
        sentence = f"{event} with {host!r}: tests use 127.0.0.1, ::1 or localhost only"
        violations.append(sentence)
        raise LeavesThisMachine(sentence)


def _is_address(host: str) -> bool:
    """Looking up an address asks nobody."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def loopback_only() -> Iterator[None]:
    """Fail the test that tries to leave this machine, even if the code under test catches that."""
    violations.clear()
    yield
    found, violations[:] = list(violations), []
    if found:
        pytest.fail("\n".join(found), pytrace=False)
