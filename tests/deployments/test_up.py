"""`slipway up` itself: real processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.machine import Machine, machine_in, until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_in(tmp_path) as found:
        yield found


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
