"""`slipway up` itself: real processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

#: Longer than anything here takes, also on a busy machine.
WITHIN_S = 100.0


@dataclass
class Machine:
    """A state directory, and the command line on it."""

    state_dir: Path
    environ: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        ours = ("SLIPWAY_", "PREFECT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "SLIPWAY_STATE_DIR": str(self.state_dir), **self.environ}

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "deployments.main", *arguments]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `slipway up` in the foreground, its log in a file."""
        log = self.state_dir.with_name("up.txt")
        with log.open("a") as file:
            found = subprocess.Popen(
                self.command("up", "--port", "0", "--prefect-port", "0", *arguments),
                env=self.environment,
                stdout=file,
                stderr=file,
                text=True,
            )
        self.started.append(found)
        return found

    @property
    def log(self) -> str:
        log = self.state_dir.with_name("up.txt")
        return log.read_text() if log.exists() else ""

    def state(self) -> dict[str, Any]:
        """The supervisor's state file."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.state_dir / "up" / "state.json").read_text())
        return {"services": []}

    def service(self, name: str) -> dict[str, Any]:
        return next((each for each in self.state()["services"] if each["name"] == name), {})

    def is_ready(self, *names: str) -> bool:
        return all(self.service(name).get("state") in ("ready", "done") for name in names)

    def processes(self) -> list[psutil.Process]:
        """Everything that works on this state directory, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                here = process.environ().get("SLIPWAY_STATE_DIR") == str(self.state_dir)
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "state")
    yield found
    for process in found.processes():
        process.kill()
    for started in found.started:
        started.wait()


def until(condition: Callable[[], Any], what: str, machine: Machine | None = None) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        said = machine.log if machine else ""
        assert time.monotonic() < deadline, f"never came: {what}\n{said}"
        time.sleep(0.05)


@pytest.mark.slow
def test_one_command_brings_everything_up_and_down(machine: Machine) -> None:
    """All parts come up on a new state directory; an API that is killed comes back; commands find
    the Prefect server; at the end no process is left."""
    up = machine.up("--log-format", "json")
    until(lambda: '"text": "everything is ready"' in machine.log, "everything ready", machine)
    api = machine.service("api")
    assert httpx.get(f"{api['url']}/readyz", trust_env=False).status_code == 200
    ui = httpx.get(machine.service("prefect")["url"], trust_env=False, follow_redirects=True)
    assert "<html" in ui.text.lower()
    engine = machine("engine", "status", "--json")
    assert json.loads(engine.stdout)["ui_url"] == machine.service("prefect")["url"]
    assert "'slipway down' stops both" in machine("engine", "down").stderr

    os.kill(api["pid"], signal.SIGKILL)
    until(
        lambda: machine.is_ready("api") and machine.service("api")["restarts"] == 1,
        "the API that was killed",
    )
    assert machine.service("api")["pid"] != api["pid"]
    assert httpx.get(f"{api['url']}/readyz", trust_env=False).status_code == 200

    up.send_signal(signal.SIGINT)
    assert up.wait(WITHIN_S) == 0
    assert machine.processes() == []
    lines = [json.loads(line) for line in machine.log.splitlines()]
    stopping = [each["service"] for each in lines if each.get("event") == "stopping"]
    assert stopping[0] == "up"
    assert stopping[-1] == "prefect"
    assert not [each for each in lines if each.get("event") == "killed"], machine.log


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_nothing_running(machine: Machine) -> None:
    """What it ran ends with it, and the next `slipway up` begins as if nothing had happened."""
    # Nobody listens there; the API does not mind until it has something to hand over.
    machine.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    only = ("--only", "api", "--detach")
    first = machine("up", "--port", "0", *only)
    assert first.returncode == 0, first.stderr
    assert machine.service("api")["url"] in first.stdout
    status = machine("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["healthy"]) == (0, True)

    second = machine("up", "--port", "0", *only)
    assert second.returncode != 0
    assert "'slipway up' runs already" in second.stderr

    supervisor = machine.state()["pid"]
    os.kill(supervisor, signal.SIGKILL)
    if sys.platform == "linux":
        until(lambda: machine.processes() == [], "the end of what it ran")
    assert machine("status").returncode == 3
    third = machine("up", "--port", "0", *only)
    assert third.returncode == 0, third.stderr

    assert machine("down").returncode == 0
    assert machine.processes() == []
    assert "everything is stopped" in (machine.state_dir / "up" / "up.log").read_text()
