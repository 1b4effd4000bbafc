"""`slipway up` itself: real processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deployments.machine import WITHIN_S, Machine, machine_in, until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_in(tmp_path) as found:
        yield found


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
