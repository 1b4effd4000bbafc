"""A Prefect server of our own, for whoever has none.

With ``PREFECT_API_URL`` set, that server is used and nothing is started. Otherwise one server per
state directory is started on demand, outlives the command that started it, and is found again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from slipway import processes
from slipway.errors import Conflict, SlipwayError

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
    "DO_NOT_TRACK": "1",
}

#: What every client of it needs besides the address.
CLIENT_ENVIRONMENT: Mapping[str, str] = {
    # A temporary server costs 20 CPU seconds and hides a missing one.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "slipway",
    # What is said outside of a run belongs to no run page; that is no reason for a warning.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
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
    #: The identity of whoever starts it again when it dies; empty when nobody does.
    kept_by: str = ""

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
        """Whether this very process still runs, or is about to be started again."""
        return not processes.is_dead(self.identity) or self.kept

    @property
    def kept(self) -> bool:
        """Whether somebody keeps it running."""
        return bool(self.kept_by) and not processes.is_dead(self.kept_by)


class PrefectServer:
    """The Prefect server of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.home = state_dir / "prefect"
        self._state_file = self.home / "server.json"

    def find(self) -> ServerProcess | None:
        """The server that runs now."""
        found = self._read()
        return found if found and found.alive else None

    def up(self) -> ServerProcess:
        """Find the server or start it, and wait until it is healthy."""
        with self._lock():
            server = self.find() or self._start()
        self._wait(server)
        return server

    def down(self) -> bool:
        """Stop the server; answers whether one ran. Raises `Conflict` when it is kept running."""
        with self._lock():
            server = self.find()
            if server is None:
                return False
            if server.kept:
                raise Conflict(
                    "'slipway up' keeps the Prefect server running; 'slipway down' stops both"
                )
            os.kill(server.pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            # Not a wait for the process: a child of ours is a zombie by then, and that will do.
            while server.alive:
                if time.monotonic() > deadline:
                    os.kill(server.pid, signal.SIGKILL)
                time.sleep(0.05)
            self._state_file.unlink(missing_ok=True)
            return True

    def keep(self, pid: int, port: int) -> None:
        """Let the other commands find a server that this process keeps running."""
        # While it is being started again, its last process stands for it.
        with contextlib.suppress(psutil.NoSuchProcess):
            self._write(
                ServerProcess(
                    pid=pid,
                    identity=processes.identity(pid),
                    port=port,
                    kept_by=processes.identity(),
                )
            )

    def forget(self) -> None:
        """There is no server any more."""
        self._state_file.unlink(missing_ok=True)

    @property
    def last_port(self) -> int | None:
        """Where the server was the last time, if it ended without being stopped."""
        found = self._read()
        return found.port if found else None

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
        port = free_port("127.0.0.1", (PREFERRED_PORT, 0))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
            **SERVER_ENVIRONMENT,
            "PREFECT_HOME": str(self.home),
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
        }
        command = server_command("127.0.0.1", port)
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
        self._write(server)
        return server

    def _read(self) -> ServerProcess | None:
        try:
            return ServerProcess(**json.loads(self._state_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _write(self, server: ServerProcess) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._state_file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(server)))
        draft.replace(self._state_file)

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


def server_command(host: str, port: int) -> list[str]:
    """What runs a server in one process, with all its services."""
    # Requests that wait for events would hold up its end; their clients ask again.
    return [
        *(sys.executable, "-P", "-m", "uvicorn", "--factory"),
        *("prefect.server.api.server:create_app", "--host", host, "--port", str(port)),
        *("--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "5"),
        *("--log-level", "warning"),
    ]


def free_port(host: str, candidates: Iterable[int]) -> int:
    """The first of these ports that is free at this moment; 0 is any. Raises `SlipwayError`."""
    for port in candidates:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SlipwayError(f"no free port on {host}")
