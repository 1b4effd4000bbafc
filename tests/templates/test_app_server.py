"""app-server, run for real against something that speaks the first word of PostgreSQL."""

from __future__ import annotations

import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.templates.conftest import StandIn

#: The application has port 8000 on its machine's address, and a Mac has one address for all.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs an address per machine")

BOOT = ["install", "configure"]


@contextmanager
def _database(answer: bytes) -> Iterator[int]:
    """A server that reads an SSLRequest and answers; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(8) == struct.pack("!ii", 8, 80877103):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _boot(machine: StandIn, **inputs: str) -> str:
    return "".join(machine.run(f"app-server/scripts/{name}.sh", inputs).stdout for name in BOOT)


def _get(machine: StandIn, path: str = "healthz") -> httpx.Response:
    return httpx.get(machine.outputs()["url"] + path, trust_env=False, timeout=10)


@pytest.mark.parametrize(("answer", "said"), [(b"N", "without TLS"), (b"S", "offers TLS")])
def test_healthy_while_the_database_answers(machine: StandIn, answer: bytes, said: str) -> None:
    """/healthz is 200 while PostgreSQL answers and 503 from when it does not."""
    with _database(answer) as port:
        _boot(machine, DB_HOST="127.0.0.1", DB_PORT=str(port), ROLE="green")
        health = _get(machine)
        assert (health.status_code, health.json()["healthy"]) == (200, True)
        assert said in health.json()["database"]
        assert _get(machine, "").json() == {"server": "web-1", "role": "green"}
    health = _get(machine)
    assert (health.status_code, health.json()["healthy"]) == (503, False)


def test_another_program_is_no_database(machine: StandIn) -> None:
    """An open port behind which something else answers fails the launch, saying so."""
    machine.environment["APP_SERVER_TRIES"] = "1"
    machine.run("app-server/scripts/install.sh")
    with _database(b"HTTP/1.1 400") as port:
        inputs = {"DB_HOST": "127.0.0.1", "DB_PORT": str(port)}
        done = machine.run("app-server/scripts/configure.sh", inputs, code=1)
    assert f"127.0.0.1:{port} answers b'H', which is not PostgreSQL" in done.stderr
    assert machine.processes() == []


def test_no_database_fails_the_launch(machine: StandIn) -> None:
    """Without a value for DB_HOST nothing is configured."""
    machine.run("app-server/scripts/install.sh")
    done = machine.run("app-server/scripts/configure.sh", {"DB_HOST": ""}, code=2)
    assert "give it as an env input, such as DB_HOST=db-1.private_ip" in done.stderr
    assert not (machine.root / "etc/app-server/config.json").exists()


def test_a_second_run_changes_nothing(machine: StandIn) -> None:
    """Booting again leaves files and process as they are; a new database restarts it."""
    with _database(b"N") as port, _database(b"S") as other:
        _boot(machine, DB_HOST="127.0.0.1", DB_PORT=str(port))
        before, (process,) = machine.files(), machine.processes()
        said = _boot(machine, DB_HOST="127.0.0.1", DB_PORT=str(port))
        assert machine.files() == before
        assert machine.processes() == [process]
        verbs = {line.split(":")[0] for line in said.splitlines()}
        assert verbs == {"unchanged", "left out", "checked"}
        _boot(machine, DB_HOST="127.0.0.1", DB_PORT=str(other))
        assert machine.processes() != [process]
        assert "offers TLS" in _get(machine).json()["database"]


def test_restart_and_drain(machine: StandIn) -> None:
    """restart leaves one new process; drain leaves none, and may be run at any time."""
    assert "never installed" in machine.run("app-server/scripts/drain.sh").stdout
    with _database(b"N") as port:
        _boot(machine, DB_HOST="127.0.0.1", DB_PORT=str(port))
        (process,) = machine.processes()
        machine.run("app-server/scripts/restart.sh")
        (restarted,) = machine.processes()
        assert restarted != process
        assert _get(machine).status_code == 200
    machine.run("app-server/scripts/drain.sh")
    assert machine.processes() == []
    assert "unchanged" in machine.run("app-server/scripts/drain.sh").stdout
