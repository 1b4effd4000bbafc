"""Audit, environments and credentials on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from slipway.launches.requests import find_launch
from slipway.lifecycle import subject_of
from slipway.records import AuditEntry
from tests.cli.conftest import CommandLine

Launch = Callable[..., Any]

_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]


def test_audit_show(slipway: CommandLine, launch: Launch) -> None:
    """The record is shown by server name, launch id and subject alike; output on request."""
    launch("--name", "web-1")
    launch_id = find_launch(slipway.services, "web-1").id
    shown = {slipway.ok("audit", "show", name).stdout for name in ("web-1", launch_id)}
    shown.add(slipway.ok("audit", "show", subject_of(launch_id)).stdout)
    assert len(shown) == 1
    assert "│ and goodbye" in shown.pop()
    without = slipway.ok("audit", "show", "web-1", "--no-output").stdout
    assert "and goodbye" not in without
    kinds = {entry["kind"] for entry in slipway.json("audit", "show", "web-1")}
    assert kinds == {"status", "section", "info", "output"}


def test_control_characters_do_not_reach_the_terminal(slipway: CommandLine, launch: Launch) -> None:
    """What a script prints cannot drive the terminal of whoever watches."""
    slipway.engine.output = b"\x1b[2Jgone\x07\n[bold]markup[/bold]\n"
    result = launch("--name", "web-1")
    assert "\x1b" not in result.stdout
    assert "·[2Jgone·" in result.stdout
    assert "[bold]markup[/bold]" in result.stdout


def test_following_a_launch_that_is_over(slipway: CommandLine, launch: Launch) -> None:
    """Following prints what happened and ends when the launch has."""
    launch("--name", "web-1")
    result = slipway.ok("audit", "follow", "web-1")
    assert "Run script 10-say" in result.stdout
    assert "web-1 is operational" in result.stdout


def test_following_a_launch_without_a_driver(slipway: CommandLine, launch: Launch) -> None:
    """A launch that nobody drives is not waited for: code 3, and how to take it up."""
    slipway.engine.dies.add("web-1")
    launch("--name", "web-1")
    result = slipway("audit", "follow", "web-1")
    assert (result.exit_code, "slipway resume web-1" in result.stderr) == (3, True)


def test_verifying(slipway: CommandLine, launch: Launch) -> None:
    """Every record holds, and its head is told."""
    launch("--name", "web", "--count", "2")
    found = slipway.json("audit", "verify", "--all")
    # The two launches, and the template that was committed for them.
    assert [each["holds"] for each in found] == [True, True, True]
    assert "the chain holds" in slipway.ok("audit", "verify", "web-1").stdout


def test_a_tampered_row_is_found(slipway: CommandLine, launch: Launch) -> None:
    """A row that was changed behind our back is code 1, and named by its number."""
    launch("--name", "web", "--count", "2")
    subject = subject_of(find_launch(slipway.services, "web-1").id)
    with slipway.services.database.transaction() as connection:
        connection.execute(
            sa.update(_ENTRIES)
            .where(_ENTRIES.c.subject == subject, _ENTRIES.c.seq == 3)
            .values(summary="nothing to see here")
        )
    result = slipway("audit", "verify")
    assert result.exit_code == 1
    assert f"{subject}: entry 3 was changed after it was written" in result.stderr
    assert "1 of 3 records do not hold" in result.stderr
    data = json.loads(slipway("audit", "verify", "--json").stdout)
    assert {each["holds"] for each in data if each["subject"] == subject} == {False}
    assert slipway("audit", "verify", "web-2").exit_code == 0


def test_exporting(slipway: CommandLine, launch: Launch, tmp_path: Path) -> None:
    """The export is one JSON object a line, the same on stdout and in a file."""
    launch("--name", "web-1")
    text = slipway.ok("audit", "export", "web-1").stdout
    file = tmp_path / "web-1.jsonl"
    slipway.ok("audit", "export", "web-1", "--out", str(file))
    assert file.read_text() == text
    entries = [json.loads(line) for line in text.splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))


def test_environments(slipway: CommandLine) -> None:
    """An environment is made, changed, frozen, thawed and deleted."""
    slipway.ok("environments", "create", "staging", "--input", "GREETING=hi")
    slipway.ok("environments", "set", "staging", "COLOR=blue", "TOKEN=cred:kept")
    slipway.ok("environments", "unset", "staging", "GREETING")
    slipway.ok("environments", "freeze", "staging", "2024-05-06")
    shown = slipway.json("environments", "show", "staging")
    assert shown["inputs"] == {"COLOR": "blue", "TOKEN": "cred:kept"}
    assert shown["freeze"] == "2024-05-06"
    assert slipway.json("environments", "thaw", "staging")["freeze"] is None
    assert [each["name"] for each in slipway.json("environments", "list")] == ["staging"]
    slipway.ok("environments", "delete", "staging")
    assert slipway.json("environments", "list") == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create", "Bad Name"], "a name is 1 to 63 lower-case letters"),
        (["create", "prod", "--input", "X"], "NAME=VALUE"),
        (["create", "prod", "--input", "TOKEN=hunter2"], "TOKEN is a secret of template web"),
        (["set", "staging", "TOKEN=hunter2"], "TOKEN is a secret of template web"),
        (["unset", "staging", "GREETNG"], "did you mean 'GREETING'?"),
        (["freeze", "staging", "2999-01-01"], "is not in the past"),
        (["show", "stagin"], "did you mean 'staging'?"),
    ],
)
def test_refused_changes_of_environments(
    slipway: CommandLine, arguments: list[str], complaint: str
) -> None:
    """What cannot be is refused with one sentence, and the environment stays as it was."""
    slipway.ok("environments", "create", "staging", "--input", "GREETING=hi")
    before = slipway.json("environments", "list")
    result = slipway("environments", *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert complaint in result.stderr
    assert "hunter2" not in result.stderr
    assert slipway.json("environments", "list") == before


def test_an_environment_reaches_the_launch(slipway: CommandLine, launch: Launch) -> None:
    """An environment that has servers cannot be deleted."""
    slipway.ok("environments", "create", "staging")
    launch("--name", "web-1", "--env", "staging")
    result = slipway("environments", "delete", "staging")
    assert (result.exit_code, "web-1" in result.stderr) == (2, True)


def test_credentials(slipway: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential comes from standard input, a file or a variable, and is never printed."""
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    monkeypatch.setenv("THE_TOKEN", "from a variable")
    results = [
        slipway.ok("credential", "set", "one", stdin="typed in\n"),
        slipway.ok("credential", "set", "two", f"@{file}"),
        slipway.ok("credential", "set", "three", "var:THE_TOKEN"),
        slipway.ok("credential", "list"),
    ]
    vault = slipway.services.vault
    values = [vault.get(name).get_secret_value() for name in ("one", "two", "three")]
    assert values == ["typed in", "from a file", "from a variable"]
    for result in results:
        assert not any(value in result.stdout + result.stderr for value in values)
    assert [each["name"] for each in slipway.json("credential", "list")] == ["one", "three", "two"]
    slipway.ok("credential", "remove", "one")
    assert slipway("credential", "remove", "one").exit_code == 2


@pytest.mark.parametrize("arguments", [["good", "hunter2"], ["launch/x/y", "-"], ["a b", "-"]])
def test_refused_credentials(slipway: CommandLine, arguments: list[str]) -> None:
    """A literal value and a name that is not ours to give are refused and not repeated."""
    result = slipway("credential", "set", *arguments, stdin="x\n")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "hunter2" not in result.stderr
    assert slipway.services.vault.names() == []


def test_a_file_is_not_left_half_written(slipway: CommandLine, tmp_path: Path) -> None:
    """An export of what does not exist makes no file."""
    file = tmp_path / "none.jsonl"
    assert slipway("audit", "export", "launch/none", "--out", str(file)).exit_code == 2
    assert not file.exists()
