"""The one log of `slipway up`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from deployments.log_stream import MASK, LogStream, Masker
from slipway.testing.fake_clock import FakeClock


def stream(lines: list[str], **options: Any) -> LogStream:
    clock = FakeClock(datetime(2026, 11, 25, 12, 0, 0, 123_000, tzinfo=UTC))
    return LogStream(write=lines.append, clock=clock, width=8, **options)


def test_every_line_says_when_and_who() -> None:
    """Lines of services and what happens to them are told apart."""
    lines: list[str] = []
    found = stream(lines)
    found.line("api", "Uvicorn running")
    found.event("worker-1", "ready", "ready after 2.0 s")
    found.say("everything is ready")
    said = [line.partition(" ")[2] for line in lines]
    assert said == [
        "api      │ Uvicorn running",
        "worker-1 ● ready after 2.0 s",
        "up       ● everything is ready",
    ]
    moments = {datetime.fromisoformat(line.partition(" ")[0]) for line in lines}
    assert moments == {datetime(2026, 11, 25, 12, 0, 0, 123_000, tzinfo=UTC)}


def test_json_is_one_object_a_line() -> None:
    """Programs get the same, with events as a field."""
    lines: list[str] = []
    found = stream(lines, format="json", colours=True)
    found.line("api", 'says "hello"')
    found.event("api", "died", "ended with exit code -9")
    at = "2026-11-25T12:00:00.123+00:00"
    assert [json.loads(line) for line in lines] == [
        {"at": at, "service": "api", "text": 'says "hello"'},
        {"at": at, "service": "api", "event": "died", "text": "ended with exit code -9"},
    ]


def test_each_service_has_a_colour_of_its_own() -> None:
    """The same one in every line."""
    lines: list[str] = []
    found = stream(lines, colours=True)
    for service in ("api", "worker-1", "api"):
        found.line(service, "x")
    colours = [line.split("\x1b[")[3].partition("m")[0] for line in lines]
    assert colours[0] == colours[2] != colours[1]


@pytest.mark.parametrize(
    "printed",
    [
        "connecting to postgresql://slipway:p%40ss%2Fword@db/slipway",
        "password is p@ss/word!",
        "p%40ss%2Fword",
    ],
)
def test_secrets_are_masked_also_as_a_part_of_an_address(printed: str) -> None:
    """A service that prints its database's address does not give the password away."""
    lines: list[str] = []
    found = stream(lines, mask=Masker([SecretStr("p@ss/word"), SecretStr("")]))
    found.line("api", printed)
    found.event("api", "died", printed)
    assert "word" not in "".join(lines).replace("password is", "")
    assert all(MASK in line for line in lines)


def test_what_a_service_prints_does_not_drive_the_terminal() -> None:
    """Escape sequences of others come out as dots."""
    lines: list[str] = []
    stream(lines).line("api", "\x1b[2Jgone\r")
    assert lines[0].endswith("│ ·[2Jgone·")
