"""postgres and all-in-one, run for real: a cluster is made, used, dumped and ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from slipway.servertemplates.resolved import HealthScript
from slipway.servertemplates.store import TemplateStore
from tests.postgres import PostgresUnavailable, _account, _binaries
from tests.templates.conftest import StandIn, end, make_stand_in

PASSWORD = 'it\'s $HOME \\ "quoted"'
BOOT = ["install", "configure"]


@pytest.fixture
def database_machine() -> Iterator[StandIn]:
    """A stand-in machine on which PostgreSQL can run: its programs are on PATH and the scripts
    are not run by root."""
    home = Path(tempfile.mkdtemp(prefix="slipway-template-", dir="/tmp"))
    try:
        account = _account()
        try:
            programs = _binaries(home, account)
        except PostgresUnavailable as error:
            pytest.skip(f"no PostgreSQL for this platform: {error}")
        found = make_stand_in(home / "machine", home / "tripwires")
        found.account = account
        if account is not None:
            # The tests' own Python may be where this account cannot go.
            found.environment["SLIPWAY_PYTHON"] = "python3"
        found.programs = programs
        found.environment["DB_PORT"] = str(_free_port(found.address))
        if account is not None:
            home.chmod(0o755)
            for path in [found.root, *found.root.rglob("*")]:
                os.chown(path, account.pw_uid, account.pw_gid)
        yield found
        end(found)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _boot(machine: StandIn, **inputs: str) -> str:
    inputs = {"DB_PASSWORD": PASSWORD, **inputs}
    said = "".join(machine.run(f"postgres/scripts/{name}.sh", inputs).stdout for name in BOOT)
    assert PASSWORD not in said
    return said


def _connect(machine: StandIn, **options: Any) -> psycopg.Connection[Any]:
    outputs = machine.outputs()
    wanted = {"dbname": "app", "user": "app", "password": PASSWORD, **options}
    return psycopg.connect(host=outputs["host"], port=outputs["port"], connect_timeout=10, **wanted)


def test_the_application_can_use_its_database(database_machine: StandIn) -> None:
    """The role logs in with its password, owns its database, and nobody gets in without."""
    _boot(database_machine)
    with _connect(database_machine) as connection:
        connection.execute("CREATE TABLE note (text text)")
        owner = connection.execute("SELECT current_user, current_database()").fetchone()
        assert owner == ("app", "app")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        _connect(database_machine, password="wrong")
    assert "logs in" in _script(database_machine, "healthy").stdout


def _pid(machine: StandIn) -> int:
    return int(machine.text("var/lib/postgresql/data/postmaster.pid").split()[0])


def _script(machine: StandIn, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    code = int(inputs.pop("code", "0"))
    inputs = {"DB_PASSWORD": PASSWORD, **inputs}
    return machine.run(f"postgres/scripts/{name}.sh", inputs, code=code)


def test_a_second_run_changes_nothing(database_machine: StandIn) -> None:
    """Booting again keeps cluster, configuration, process and data; a new password counts."""
    _boot(database_machine)
    with _connect(database_machine) as connection:
        connection.execute("CREATE TABLE note (text text)")
        connection.execute("INSERT INTO note VALUES ('kept')")
    ours = ("slipway.conf", "postgresql.conf", "pg_hba.conf", "bindir", "superuser-password")
    before = {n: f for n, f in database_machine.files().items() if n.endswith(ours)}
    pid = _pid(database_machine)
    said = _boot(database_machine, DB_PASSWORD="another")
    assert {n: f for n, f in database_machine.files().items() if n.endswith(ours)} == before
    assert _pid(database_machine) == pid
    assert {line.split(":")[0] for line in said.splitlines()} == {"unchanged", "left out", "set"}
    with _connect(database_machine, password="another") as connection:
        assert connection.execute("SELECT text FROM note").fetchone() == ("kept",)


def test_a_new_role_is_let_in(database_machine: StandIn) -> None:
    """Another role counts without a restart: the running server reads the new rules."""
    _boot(database_machine)
    pid = _pid(database_machine)
    said = _boot(database_machine, DB_USER="other", DB_NAME="elsewhere")
    assert "reloaded: pg_hba.conf" in said
    assert _pid(database_machine) == pid
    with _connect(database_machine, user="other", dbname="elsewhere") as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("other",)


def test_the_password_is_in_no_file(database_machine: StandIn) -> None:
    """PostgreSQL keeps a hash; neither configuration nor log holds the password."""
    _boot(database_machine)
    for file in database_machine.root.rglob("*"):
        if file.is_file():
            assert PASSWORD.encode() not in file.read_bytes(), file


def test_backup_can_be_restored(database_machine: StandIn) -> None:
    """A backup holds the data, is published as an output, and only the newest are kept."""
    _boot(database_machine)
    with _connect(database_machine) as connection:
        connection.execute("CREATE TABLE note (text text)")
        connection.execute("INSERT INTO note VALUES ('precious')")
    for _ in range(3):
        said = _script(database_machine, "backup", BACKUP_KEEP="2").stdout
        assert "wrote: /var/backups/postgresql/app-" in said
    directory = database_machine.root / "var/backups/postgresql"
    assert len(list(directory.iterdir())) == 2
    dump = database_machine.root / database_machine.outputs()["backup"].lstrip("/")
    assert dump.stat().st_mode & 0o077 == 0
    assert database_machine.programs is not None
    shown = subprocess.run(
        [database_machine.programs / "pg_restore", "--file=-", str(dump)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "precious" in shown


def test_backup_of_a_database_that_is_not_there(database_machine: StandIn) -> None:
    """A backup that fails leaves no file that looks like one."""
    _boot(database_machine)
    done = _script(database_machine, "backup", DB_NAME="nothing", code="1")
    assert 'database "nothing" does not exist' in done.stderr
    assert list((database_machine.root / "var/backups/postgresql").iterdir()) == []


def test_stop_and_restart(database_machine: StandIn) -> None:
    """stop ends the cluster in good order, twice if asked; restart brings it back."""
    assert "no cluster" in _script(database_machine, "stop").stdout
    _boot(database_machine)
    assert "stopped" in _script(database_machine, "stop").stdout
    assert database_machine.processes() == []
    assert "unchanged" in _script(database_machine, "stop").stdout
    _script(database_machine, "healthy", code="2")
    _script(database_machine, "restart")
    _script(database_machine, "healthy")


def test_a_taken_port_is_said(database_machine: StandIn) -> None:
    """Where another program has the port, the launch fails with the log and the remedy."""
    with socket.create_server((database_machine.address, 0)) as other:
        port = str(other.getsockname()[1])
        database_machine.run("postgres/scripts/install.sh")
        done = _script(database_machine, "configure", DB_PORT=port, code="1")
    assert "set the input DB_PORT to another number" in done.stderr
    assert "could not bind" in done.stderr


def test_no_password_no_database(database_machine: StandIn) -> None:
    """An empty password is refused before anything is configured."""
    database_machine.run("postgres/scripts/install.sh")
    done = _script(database_machine, "configure", DB_PASSWORD="", code="2")
    assert "give the secret input DB_PASSWORD" in done.stderr
    assert not (database_machine.root / "var/lib/postgresql/data/slipway.conf").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_root_is_refused(machine: StandIn) -> None:
    """PostgreSQL does not run as root: the script says so in a sentence, and what to do."""
    done = machine.run("postgres/scripts/install.sh", code=1)
    assert done.stderr.startswith("PostgreSQL refuses to run as root")
    assert machine.files() == {}


def test_without_postgresql_nothing_is_pretended(database_machine: StandIn) -> None:
    """Without PostgreSQL's programs the script fails and says what to install."""
    if shutil.which("initdb", path=os.defpath):
        pytest.skip("this computer has them in the directories every PATH has")
    places = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")
    script = database_machine.root / "tmp" / "install.sh"
    text = (Path(__file__).parents[2] / "templates/postgres/scripts/install.sh").read_text()
    for place in places:
        text = text.replace(place, "/nonexistent")
    script.write_text(text)
    options: dict[str, Any] = {}
    if database_machine.account is not None:
        options = {"user": database_machine.account.pw_uid, "extra_groups": []}
    done = subprocess.run(
        ["bash", str(script)],
        env={"PATH": os.defpath, "SLIPWAY_ROOT": str(database_machine.root)},
        cwd=database_machine.root, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("no PostgreSQL programs (initdb, pg_ctl, psql, pg_dump)")
    assert "apt install postgresql" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the application needs an address of its own")
def test_all_in_one(database_machine: StandIn, store: TemplateStore) -> None:
    """The composed template brings up database and application on one server, each told the
    values that its inputs resolve to, and takes them down in reverse."""
    resolved = store.get("all-in-one")
    given = {"DB_PASSWORD": PASSWORD, "DB_PORT": database_machine.environment["DB_PORT"]}
    values = {
        name: str(declared.default).removeprefix("text:")
        for name, declared in resolved.inputs.items()
        if declared.has_default and not isinstance(declared.default, list | tuple)
    } | given
    values["ACCOUNTS_SUDO"] = "true"
    for script in resolved.boot:
        database_machine.run(script.path, {n: values[n] for n in script.inputs if n in values})
    url = database_machine.outputs()["url"]
    health = httpx.get(url + "healthz", trust_env=False, timeout=10)
    assert (health.status_code, health.json()["healthy"]) == (200, True)
    for check in resolved.health:
        if isinstance(check, HealthScript):
            database_machine.run(check.script.path, values)
    for script in resolved.decommission:
        database_machine.run(script.path, {n: values[n] for n in script.inputs if n in values})
    assert database_machine.processes() == []
