"""Servers that exist: list, show, run, ssh, cancel, decommission."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway.launches.requests import LaunchRequest, find_launch, plan_launch, record_launch
from slipway.records import LaunchStatus
from tests.cli.conftest import CommandLine

Launch = Callable[..., Any]


def _recorded(slipway: CommandLine, name: str) -> None:
    """A launch that nobody drives."""
    plan = plan_launch(slipway.services, LaunchRequest(template="web", name=name, cloud="fake"))
    record_launch(slipway.services, plan, actor="tests")


def test_listing(slipway: CommandLine, launch: Launch) -> None:
    """Servers are listed with their states; terminated ones only with --all."""
    launch("--name", "web-1")
    launch("--name", "web-2")
    slipway.ok("decommission", "web-2", "--yes")
    assert [each["server"] for each in slipway.json("servers")] == ["web-1"]
    assert {each["server"]: each["status"] for each in slipway.json("servers", "--all")} == {
        "web-1": "operational",
        "web-2": "terminated",
    }
    table = slipway.ok("servers").stdout
    assert "web-1" in table
    assert "operational" in table
    assert "web-2" not in table


def test_listing_of_an_environment(slipway: CommandLine, launch: Launch) -> None:
    """--env keeps to one environment; one that does not exist is refused with the nearest."""
    slipway.ok("environments", "create", "staging")
    launch("--name", "web-1", "--env", "staging")
    launch("--name", "web-2")
    assert [each["server"] for each in slipway.json("servers", "--env", "staging")] == ["web-1"]
    result = slipway("servers", "--env", "stagin")
    assert (result.exit_code, "did you mean 'staging'?" in result.stderr) == (2, True)


def test_no_servers(slipway: CommandLine) -> None:
    """An empty list is an empty JSON list, and a word about it on stderr."""
    assert slipway.json("servers") == []
    result = slipway.ok("servers")
    assert (result.stdout, "there are no servers" in result.stderr) == ("", True)


def test_showing(slipway: CommandLine, launch: Launch) -> None:
    """Steps with bars, inputs and outputs are shown."""
    launch("--name", "web-1", "--input", "GREETING=good day")
    shown = slipway.ok("show", "web-1").stdout
    for expected in ("Run script 10-say", "█", "good day", "http://192.0.2.1/"):
        assert expected in shown


def test_showing_what_is_not_there(slipway: CommandLine) -> None:
    """An unknown server is code 2 and one sentence."""
    result = slipway("show", "web-9")
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        ["there is no server web-9 (there is none yet)"],
    )


def test_running_a_script(slipway: CommandLine, launch: Launch) -> None:
    """An operational script is handed over with a key of its own each time."""
    launch("--name", "web-1")
    slipway.ok("run", "web-1", "greet", "--input", "GREETING=again")
    slipway.ok("run", "web-1", "greet")
    first, second = (each[1]["request"] for each in slipway.engine.submitted[-2:])
    assert first["inputs"] == {"GREETING": "again"}
    assert first["key"] != second["key"]
    assert max(len(first["key"]), len(second["key"])) <= 48


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gret"], "no operational script gret; did you mean 'greet'?"),
        (["greet", "--input", "COLR=red"], "COLR"),
        (["greet", "--input", "TOKEN=hunter2"], "a secret never stands in an argument"),
    ],
)
def test_refusing_to_run(
    slipway: CommandLine, launch: Launch, arguments: list[str], complaint: str
) -> None:
    """A wrong script or input is refused before the engine hears of it."""
    launch("--name", "web-1")
    result = slipway("run", "web-1", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "hunter2" not in result.stderr
    assert len(slipway.engine.submitted) == 1


def test_ssh_trusts_the_pinned_key_only(
    slipway: CommandLine, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets our key, and a file with the one host key that is right."""
    launch("--name", "web-1")
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, arguments: called.append(arguments))
    slipway.ok("ssh", "web-1", "uptime", "-p")
    (arguments,) = called
    options = dict(each.split("=", 1) for each in arguments if "=" in each and each[:1].isupper())
    recorded = find_launch(slipway.services, "web-1")
    assert arguments[-5:] == ["-l", "admin", "192.0.2.1", "uptime", "-p"]
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["HostKeyAlias"] == recorded.id
    known_hosts = Path(options["UserKnownHostsFile"]).read_text()
    assert known_hosts == f"{recorded.id} ssh-ed25519 AAAA\n"


def test_ssh_before_there_is_a_host_key(slipway: CommandLine) -> None:
    """There is no logging in to a server whose key nobody has vouched for."""
    _recorded(slipway, "web-1")
    result = slipway("ssh", "web-1")
    assert (result.exit_code, "has no address yet" in result.stderr) == (2, True)


def test_cancelling_what_nobody_drives(slipway: CommandLine) -> None:
    """A launch without a driver is cancelled by the command itself."""
    _recorded(slipway, "web-1")
    slipway.ok("cancel", "web-1")
    assert find_launch(slipway.services, "web-1").status == LaunchStatus.CANCELLED
    slipway.ok("resume", "web-1")
    assert find_launch(slipway.services, "web-1").status == LaunchStatus.OPERATIONAL


def test_cancelling_an_operational_server(slipway: CommandLine, launch: Launch) -> None:
    """A server that is up has no launch to cancel; the sentence says what to do instead."""
    launch("--name", "web-1")
    result = slipway("cancel", "web-1")
    assert result.exit_code == 2
    assert "slipway decommission web-1" in result.stderr


def test_decommissioning_several(slipway: CommandLine, launch: Launch) -> None:
    """All are taken down; one that is down already is fine; a wrong name stops all of it."""
    launch("--name", "web", "--count", "2")
    refused = slipway("decommission", "web-1", "wbe-2", "--yes")
    assert refused.exit_code == 2
    assert "did you mean 'web-2'?" in refused.stderr
    assert find_launch(slipway.services, "web-1").status == LaunchStatus.OPERATIONAL
    slipway.ok("decommission", "web-1", "web-2", "--yes")
    for name in ("web-1", "web-2"):
        assert find_launch(slipway.services, name).status == LaunchStatus.TERMINATED
    assert "terminated already" in slipway.ok("decommission", "web-1", "--yes").stderr
