"""``slipway up``, ``down`` and ``status``: what they ask for, and what they say."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import CommandLine


def test_parts_may_be_given_together_or_apart(slipway: CommandLine) -> None:
    """--only takes parts with commas and several times."""
    slipway.ok("up", "--only", "api,worker", "--only", "deploy", "--workers", "3")
    request = slipway.stack.requests[-1]
    assert (request.only, request.workers) == ({"api", "worker", "deploy"}, 3)


def test_an_unknown_part_is_refused(slipway: CommandLine) -> None:
    """A part that does not exist starts nothing, and the parts there are are named."""
    result = slipway("up", "--only", "mirror")
    assert result.exit_code == 2
    assert "worker" in result.stderr
    assert slipway.stack.requests == []


def test_a_password_on_the_command_line_is_refused(slipway: CommandLine) -> None:
    """A URL with a password comes from elsewhere, because the process list is for everybody."""
    result = slipway("up", "--postgres", "postgresql://slipway:hunter2@db/")
    assert result.exit_code == 2
    assert "hunter2" not in result.stdout + result.stderr
    assert slipway.stack.requests == []


def test_a_password_from_a_variable_is_taken(
    slipway: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """var:NAME reads the URL from the environment, and nothing shows it."""
    monkeypatch.setenv("DB_URL", "postgresql://slipway:hunter2@db/")
    result = slipway.ok("up", "--postgres", "var:DB_URL")
    given = slipway.stack.requests[-1].postgres
    assert given is not None
    assert given.get_secret_value() == "postgresql://slipway:hunter2@db/"
    assert "hunter2" not in result.stdout + result.stderr + repr(slipway.stack.requests[-1])


def test_status_tells_by_its_code(slipway: CommandLine) -> None:
    """3 when nothing runs, 0 when all is well, 1 when something is not."""
    assert slipway("status").exit_code == 3
    slipway.ok("up", "--detach")
    assert json.loads(slipway.ok("status", "--json").stdout)["healthy"] is True
    slipway.stack.state = "restarting"
    result = slipway("status", "--json")
    assert (result.exit_code, json.loads(result.stdout)["healthy"]) == (1, False)


def test_down_says_whether_anything_ran(slipway: CommandLine) -> None:
    """Stopping what does not run is fine, and said."""
    assert "does not run" in slipway.ok("down").stderr
    slipway.ok("up", "--detach")
    assert "stopped" in slipway.ok("down").stderr
