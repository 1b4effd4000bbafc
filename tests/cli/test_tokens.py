"""Tokens on the command line: shown once, listed without their value, revoked at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr

from slipway import audit, tokens
from slipway.tokens import Scope
from tests.cli.conftest import CommandLine


def find(slipway: CommandLine, value: str) -> tokens.Token | None:
    """What the API finds when somebody calls with this value."""
    return tokens.find(slipway.services.database, slipway.services.clock, SecretStr(value))


def test_creating_a_token(slipway: CommandLine) -> None:
    """The value is the only line on stdout, so that a script can keep it; the API knows it by its
    hash, with the scopes and the end that were asked for."""
    result = slipway.ok("token", "create", "ci", "--scope", "launch", "--expires-in", "12h")
    [value] = result.stdout.splitlines()
    assert value not in result.stderr
    assert "token ci, good for launch until" in result.stderr
    assert "it is not shown again" in result.stderr
    token = find(slipway, value)
    assert token is not None
    assert tokens.allowed(token) == {Scope.LAUNCH, Scope.READ}
    assert token.expires_at is not None
    assert token.expires_at - token.created_at == timedelta(hours=12)
    assert value not in token.model_dump_json()
    database = slipway.services.database
    entries = audit.entries(database, tokens.subject_of(token.id))
    assert [entry.summary.partition(",")[0] for entry in entries] == [
        "token ci created with launch"
    ]
    assert entries[0].actor == token.created_by
    assert value not in "".join(entry.model_dump_json() for entry in entries)


@pytest.mark.parametrize(
    ("given", "until"),
    [
        ([], timedelta(days=90)),
        (["--expires-in", "30m"], timedelta(minutes=30)),
        (["--expires-in", "8w"], timedelta(weeks=8)),
        (["--expires-in", "never"], None),
    ],
)
def test_how_long_a_token_is_good(
    slipway: CommandLine, given: list[str], until: timedelta | None
) -> None:
    """For ninety days unless told otherwise; as JSON, the value stands beside what is kept."""
    made = slipway.json("token", "create", "ci", "-s", "read", "-s", "write", *given)
    assert made["scopes"] == ["read", "write"]
    token = find(slipway, made["token"])
    assert token is not None
    assert made["id"] == token.id
    assert made["token"].startswith(made["prefix"])
    lasts = token.expires_at and token.expires_at - token.created_at
    assert lasts == until


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["CI!", "-s", "read"], "token 'CI!': a name is 1 to 63 lower-case letters"),
        (["ci", "-s", "root"], "there is no scope 'root' (there is: read, launch, write, admin)"),
        (["ci", "-s", "read", "--expires-in", "90"], "'90' is no length of time; use 30m, 12h"),
        (["ci", "-s", "read", "--expires-in", "0d"], "'0d' is no length of time"),
        (["taken", "-s", "read"], "there is a token taken already"),
        (["ci"], "--scope"),
    ],
)
def test_a_bad_token_is_refused(slipway: CommandLine, arguments: list[str], says: str) -> None:
    """Exit code 2, a sentence, and no token."""
    slipway.ok("token", "create", "taken", "-s", "read")
    refused = slipway("token", "create", *arguments)
    assert refused.exit_code == 2
    assert says in refused.stderr
    assert [token.name for token in tokens.list_tokens(slipway.services.database)] == ["taken"]


def test_listing_and_revoking(slipway: CommandLine) -> None:
    """A revoked token opens nothing from that moment, stays in the list, and its name is free; what
    is listed holds no value and no hash."""
    assert "there are no tokens" in slipway.ok("token", "list").stderr
    first = slipway.ok("token", "create", "ci", "-s", "read").stdout.strip()
    slipway.ok("token", "create", "nightly", "-s", "admin", "--expires-in", "never")
    said = slipway.ok("token", "revoke", "ci").stderr
    assert "token ci (slw_" in said
    assert "is revoked" in said
    token = find(slipway, first)
    assert token is not None
    assert not tokens.is_good(token, slipway.services.clock.now())
    slipway.ok("token", "create", "ci", "-s", "launch")
    listed = slipway.json("token", "list")
    assert [(each["name"], each["revoked_at"] is None) for each in listed] == [
        ("ci", False),
        ("nightly", True),
        ("ci", True),
    ]
    table = slipway.ok("token", "list").stdout
    assert [line.split()[0] for line in table.splitlines()] == ["TOKEN", "ci", "nightly", "ci"]
    assert "revoked" in table.splitlines()[1]
    for shown in (table, str(listed)):
        assert first not in shown
        assert token.hash not in shown


@pytest.mark.parametrize("name", ["nobody", "ci"])
def test_revoking_what_is_not_there(slipway: CommandLine, name: str) -> None:
    """A token that never was, or was revoked before, cannot be revoked; code 2."""
    slipway.ok("token", "create", "ci", "-s", "read")
    slipway.ok("token", "revoke", "ci")
    refused = slipway("token", "revoke", name)
    assert refused.exit_code == 2
    assert f"there is no token {name} that could be revoked" in refused.stderr


def test_revoking_by_id(slipway: CommandLine) -> None:
    """The id names a token as well as its name does."""
    made = slipway.json("token", "create", "ci", "-s", "read")
    slipway.ok("token", "revoke", made["id"])
    assert [each["revoked_at"] is None for each in slipway.json("token", "list")] == [False]
