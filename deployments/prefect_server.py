"""A Prefect server of our own, for whoever has none.

With ``PREFECT_API_URL`` set, that server is used and nothing is started. Otherwise one server per
state directory is started on demand, outlives the command that started it, and is found again.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from slipway import processes
from slipway.errors import SlipwayError

#: Tried first, so that the UI has the same address every day.
PREFERRED_PORT = 4200

#: A server on a new database needs 7 to 17 s on two cores; a busy machine gets more.
START_TIMEOUT_S = 120.0

#: A server that has not ended by then is killed.
STOP_TIMEOUT_S = 15.0

#: The recorders write in batches, which cost a quarter less per launch when it was measured.
SERVER_ENVIRONMENT: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}

#: What every client of it needs besides the address.
CLIENT_ENVIRONMENT: Mapping[str, str] = {
    # A temporary server costs 20 CPU seconds and hides a missing one.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "slipway",
    # The run page shows our line for each step, not the engine's "Finished in state Completed()".
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server, as its state file names it."""

    pid: int
    #: `slipway.processes.identity`: tells it from a later process of the same number.
    identity: str
    port: int

    @property
    def ui_url(self) -> str:
        """Where a person looks."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where a client talks to."""
        return f"{self.ui_url}/api"

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return not processes.is_dead(self.identity)


class PrefectServer:
    """The Prefect server of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.home = state_dir / "prefect"
        self._state_file = self.home / "server.json"

    def find(self) -> ServerProcess | None:
        """The server that runs now."""
        try:
            found = ServerProcess(**json.loads(self._state_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return found if found.alive else None

    def up(self) -> ServerProcess:
        """Find the server or start it, and wait until it is healthy."""
        with self._lock():
            server = self.find() or self._start()
        self._wait(server)
        return server

    def down(self) -> bool:
        """Stop the server; answers whether one ran."""
        with self._lock():
            server = self.find()
            if server is None:
                return False
            os.kill(server.pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            # Not a wait for the process: a child of ours is a zombie by then, and that will do.
            while server.alive:
                if time.monotonic() > deadline:
                    os.kill(server.pid, signal.SIGKILL)
                time.sleep(0.05)
            self._state_file.unlink(missing_ok=True)
            return True

    def client_environment(self, server: ServerProcess) -> dict[str, str]:
        """The variables a process needs to work with this server."""
        return {
            **CLIENT_ENVIRONMENT,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": server.api_url,
        }

    @property
    def log_file(self) -> Path:
        """What the server has printed."""
        return self.home / "server.log"

    def _start(self) -> ServerProcess:
        port = _free_port()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
            **SERVER_ENVIRONMENT,
            "PREFECT_HOME": str(self.home),
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "uvicorn", "--factory"]
        command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--timeout-keep-alive", "5", "--log-level", "warning"]
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        identity = processes.identity(process.pid)
        server = ServerProcess(pid=process.pid, identity=identity, port=port)
        draft = self._state_file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(server)))
        draft.replace(self._state_file)
        return server

    def _wait(self, server: ServerProcess) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # One client, and without TLS: a context per question would take CPU from the server that is
        # starting. And no proxy: it is on this machine.
        with httpx.Client(verify=False, trust_env=False, timeout=5) as client:  # noqa: S501
            while time.monotonic() < deadline:
                try:
                    if client.get(f"{server.api_url}/health").status_code == 200:
                        return
                except httpx.HTTPError:
                    pass  # Not listening yet: that is what we wait for.
                if not server.alive:
                    raise SlipwayError(
                        f"the Prefect server ended while it started; see {self.log_file}"
                    )
                time.sleep(0.1)
        raise SlipwayError(
            f"the Prefect server did not become healthy in {START_TIMEOUT_S:.0f} s; "
            f"see {self.log_file}"
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.home / "server.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _free_port() -> int:
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SlipwayError("no free port on 127.0.0.1 for the Prefect server")
