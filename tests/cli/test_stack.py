"""`slipway up`, `down` and `status`, on a stack that runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.cli.wiring import StackRequest
from tests.cli.conftest import CommandLine

URL = "postgresql://slipway:s3cret@db/slipway"


def test_up_runs_everything_here(slipway: CommandLine) -> None:
    """Without options it is one machine with the usual ports; the exit code is the supervisor's."""
    slipway.stack.code = 4
    assert slipway("up").exit_code == 4
    assert slipway.stack.asked == [StackRequest()]


def test_up_passes_on_what_it_was_asked(slipway: CommandLine) -> None:
    """Every option reaches the supervisor."""
    slipway.ok(
        *("up", "--host", "::1", "--port", "1", "--prefect-host", "::1", "--prefect-port", "2"),
        *("--workers", "3", "--worker-limit", "50", "--only", "api,worker", "--only", "prefect"),
        *("--log-format", "json", "--log-file", "/var/up.log"),
    )
    assert slipway.stack.asked == [
        StackRequest(
            only=frozenset({"api", "worker", "prefect"}),
            host="::1",
            port=1,
            prefect_host="::1",
            prefect_port=2,
            workers=3,
            worker_limit=50,
            log_format="json",
            log_file=Path("/var/up.log"),
        )
    ]


def test_a_part_that_there_is_not_is_refused(slipway: CommandLine) -> None:
    """With the parts that there are."""
    result = slipway("up", "--only", "apis,worker")
    assert result.exit_code == 2
    assert "there is no part apis; there are prefect, " in result.stderr
    assert not slipway.stack.asked


def test_databases_are_given_without_showing_a_password(
    slipway: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From a variable or a file; in clear only when there is nothing to hide."""
    monkeypatch.setenv("PG", URL)
    (tmp_path / "redis").write_text("redis://:s3cret@cache/0\n")
    slipway.ok("up", "--postgres", "var:PG", "--redis", f"@{tmp_path / 'redis'}")
    slipway.ok("up", "--postgres", "postgresql://db/slipway")
    both, plain = slipway.stack.asked
    assert both.postgres is not None
    assert both.postgres.get_secret_value() == URL
    assert both.redis is not None
    assert both.redis.get_secret_value() == "redis://:s3cret@cache/0"
    assert plain.postgres is not None
    assert plain.postgres.get_secret_value() == "postgresql://db/slipway"


def test_a_password_in_an_argument_is_refused(slipway: CommandLine) -> None:
    """And not repeated."""
    result = slipway("up", "--postgres", URL)
    assert result.exit_code == 2
    assert "--postgres: a password never stands in an argument" in result.stderr
    assert "s3cret" not in result.output + result.stderr
    assert not slipway.stack.asked


def test_detached_it_shows_what_runs(slipway: CommandLine) -> None:
    """And how to see and stop it."""
    result = slipway.ok("up", "--detach")
    assert "http://127.0.0.1:4280" in result.stdout
    assert "log: /var/up.log" in result.stdout
    assert "'slipway down' stops it" in result.stderr


def test_status_tells_people_and_programs(slipway: CommandLine) -> None:
    """The exit code says whether all is well: 0, 1 when not, 3 when nothing runs."""
    assert slipway("status").exit_code == 3
    slipway.stack.set("ready")
    assert "ready" in slipway.ok("status").stdout
    found = slipway.json("status")
    assert (found["running"], found["healthy"]) == (True, True)
    assert found["stack"]["services"][0]["restarts"] == 2
    slipway.stack.set("unhealthy", "no answer within 5 s")
    result = slipway("status")
    assert result.exit_code == 1
    assert "no answer within 5 s" in result.stdout


def test_down_stops_what_runs(slipway: CommandLine) -> None:
    """And says when nothing did; both are what was asked for."""
    slipway.stack.set("ready")
    assert "everything is stopped" in slipway.ok("down").stderr
    assert "does not run" in slipway.ok("down").stderr
