"""`slipway local`, as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from slipway.cli.local import app
from slipway.clouds.base import TAG_SERVER, InstanceState
from slipway.clouds.local import LocalCloud
from slipway.errors import InvalidInput
from tests.clouds.shell import local_case


@pytest.fixture
def cloud(new_local_cloud: Callable[[], LocalCloud], monkeypatch: pytest.MonkeyPatch) -> LocalCloud:
    """A cloud of this test's own, which the command line finds by the settings."""
    made = new_local_cloud()
    monkeypatch.setenv("SLIPWAY_STATE_DIR", str(made.directory.parent))
    monkeypatch.setenv("COLUMNS", "300")
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_nothing_is_started_to_look(cloud: LocalCloud) -> None:
    """`ps` and `down` start nothing: they say that nothing runs."""
    assert run("ps", "--json").stdout == "[]\n"
    assert "not running" in run("ps").stderr
    assert "was not running" in run("down").stderr
    assert not cloud.is_running()


def test_up_says_how_scripts_are_confined(cloud: LocalCloud) -> None:
    """`up` starts it and says whether scripts are confined; `down` ends it."""
    started = run("up")
    assert started.exit_code == 0
    assert cloud.is_running()
    assert cloud.describe_confinement() in started.stdout.replace("\n", " ")
    assert run("down").exit_code == 0
    assert not cloud.is_running()


def test_machines_are_shown(cloud: LocalCloud) -> None:
    """`ps` lists machines with where they are, terminated ones on demand; `console` takes a
    server's name or an instance id, and an unknown one is answered with those there are."""
    with local_case(cloud) as case:
        instance = case.running(case.spec(tags={TAG_SERVER: "web-1"}))
        (row,) = json.loads(run("ps", "--json").stdout)
        assert (row["id"], row["server"], row["state"]) == (instance.id, "web-1", "running")
        assert (row["address"], row["ssh_port"]) == (instance.address, instance.ssh_port)
        assert instance.id in run("ps").stdout
        assert "SSH HOST KEY" in run("console", "web-1").stdout
        assert "SSH HOST KEY" in run("console", instance.id).stdout
        error = run("console", "web-2").exception
        assert isinstance(error, InvalidInput)
        assert str(error) == "web-2: no such machine; there are web-1"
        cloud.terminate("local", instance.id)
        case.until_state(instance.id, InstanceState.TERMINATED)
        assert json.loads(run("ps", "--json").stdout) == []
        assert len(json.loads(run("ps", "--json", "--all").stdout)) == 1
