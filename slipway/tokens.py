"""Bearer tokens: shown once, kept as a hash, limited by scopes and time.

The hash is plain SHA-256. A slow, salted one protects what people choose; a token is 32 random
bytes, which nobody guesses at any speed, and its hash is looked up at every call.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

from slipway import audit
from slipway.audit import Note
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import Conflict, InvalidInput, NotFound, Problem
from slipway.ids import new_id
from slipway.records import AuditKind, Token

_TOKENS = Token.__table__  # type: ignore[attr-defined]

#: Told apart from other secrets at a glance, by people and by those who scan for leaks.
START = "slw_"

#: ``last_used_at`` may be this much behind.
USE_NOTED_EVERY = timedelta(minutes=5)

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_BY_HASH = sa.select(_TOKENS).where(_TOKENS.c.hash == sa.bindparam("of"))


class Scope(StrEnum):
    """What a token is good for."""

    READ = "read"
    LAUNCH = "launch"
    WRITE = "write"
    ADMIN = "admin"


#: What each scope includes besides itself: who changes something may look at it.
INCLUDES: dict[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.LAUNCH: frozenset({Scope.LAUNCH, Scope.READ}),
    Scope.WRITE: frozenset({Scope.WRITE, Scope.READ}),
    Scope.ADMIN: frozenset(Scope),
}


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A new token, and the only sight of it."""

    token: Token
    value: SecretStr


def subject_of(token_id: str) -> str:
    """The name a token's audit entries are kept under."""
    return f"token/{token_id}"


def create(
    database: Database,
    clock: Clock,
    name: str,
    *,
    scopes: Collection[str],
    expires_in: timedelta | None,
    actor: str,
) -> Issued:
    """Make a token. Raises `InvalidInput`, and `Conflict` when the name is in use."""
    problems = _problems(name, scopes, expires_in)
    if problems:
        raise InvalidInput(problems)
    now = clock.now()
    value = START + secrets.token_urlsafe(32)
    token = Token(
        id=new_id("token", now),
        name=name,
        prefix=value[: len(START) + 6],
        hash=_hash(value),
        scopes=[scope.value for scope in Scope if scope.value in scopes],
        created_by=actor,
        created_at=now,
        expires_at=now + expires_in if expires_in is not None else None,
    )
    until = "without an end" if token.expires_at is None else f"until {token.expires_at:%F %T} UTC"
    note = Note(
        kind=AuditKind.INFO,
        summary=f"token {name} created with {', '.join(token.scopes)}, {until}",
        detail={"name": name, "prefix": token.prefix, "scopes": token.scopes},
    )
    try:
        with database.transaction() as connection:
            connection.execute(sa.insert(_TOKENS).values(**token.model_dump()))
            audit.append(connection, subject_of(token.id), [note], actor=actor, at=now)
    except IntegrityError:
        raise Conflict(
            f"there is a token {name} already; revoke it or choose another name"
        ) from None
    return Issued(token=token, value=SecretStr(value))


def find(database: Database, clock: Clock, value: SecretStr) -> Token | None:
    """The token with this value, revoked or expired as it may be; notes that it was used."""
    text = value.get_secret_value()
    if not text.startswith(START):
        return None
    with database.reading() as connection:
        row = connection.execute(_BY_HASH, {"of": _hash(text)}).mappings().first()
    if row is None:
        return None
    token, now = Token(**row), clock.now()
    if is_good(token, now) and (
        token.last_used_at is None or now - token.last_used_at >= USE_NOTED_EVERY
    ):
        with database.transaction() as connection:
            connection.execute(
                sa.update(_TOKENS).where(_TOKENS.c.id == token.id).values(last_used_at=now)
            )
    return token


def get(database: Database, token_id: str) -> Token | None:
    """The token with this id, revoked or expired as it may be."""
    with database.reading() as connection:
        query = sa.select(_TOKENS).where(_TOKENS.c.id == token_id)
        row = connection.execute(query).mappings().first()
    return Token(**row) if row else None


def still_good(database: Database, clock: Clock, token_id: str) -> bool:
    """Whether the token with this id opens anything now."""
    token = get(database, token_id)
    return token is not None and is_good(token, clock.now())


def is_good(token: Token, now: datetime) -> bool:
    """Whether a token opens anything now."""
    return token.revoked_at is None and (token.expires_at is None or now < token.expires_at)


def allowed(token: Token) -> frozenset[Scope]:
    """Everything a token's scopes include."""
    return frozenset().union(*(INCLUDES[Scope(scope)] for scope in token.scopes))


def list_tokens(database: Database) -> list[Token]:
    """All tokens, also revoked and expired ones, oldest first."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(_TOKENS).order_by(_TOKENS.c.id))
        return [Token(**row) for row in rows.mappings()]


def revoke(
    database: Database,
    clock: Clock,
    name_or_id: str,
    *,
    actor: str,
    also: Callable[[sa.Connection], None] | None = None,
) -> Token:
    """End a token at once. ``also`` runs in the same transaction. Raises `NotFound` for one that
    does not exist or was revoked before."""
    now = clock.now()
    with database.transaction() as connection:
        row = (
            connection.execute(
                sa.select(_TOKENS)
                .where(sa.or_(_TOKENS.c.name == name_or_id, _TOKENS.c.id == name_or_id))
                .where(_TOKENS.c.revoked_at.is_(None))
                .with_for_update()
            )
            .mappings()
            .first()
        )
        if row is None:
            raise NotFound(f"there is no token {name_or_id} that could be revoked")
        connection.execute(
            sa.update(_TOKENS).where(_TOKENS.c.id == row["id"]).values(revoked_at=now)
        )
        note = Note(kind=AuditKind.INFO, summary=f"token {row['name']} revoked")
        audit.append(connection, subject_of(row["id"]), [note], actor=actor, at=now)
        if also is not None:
            also(connection)
    return Token(**{**row, "revoked_at": now})


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()


def _problems(name: str, scopes: Collection[str], expires_in: timedelta | None) -> list[Problem]:
    found = []
    if not _NAME.fullmatch(name):
        what = "a name is 1 to 63 lower-case letters, digits, '.', '-' and '_', such as ci"
        found.append(Problem(where=f"token {name!r}", what=what))
    known = ", ".join(Scope)
    if not scopes:
        found.append(Problem(where="scope", what=f"a token needs at least one of {known}"))
    found += [
        Problem(where="scope", what=f"there is no scope {scope!r} (there is: {known})")
        for scope in scopes
        if scope not in list(Scope)
    ]
    if expires_in is not None and expires_in <= timedelta(0):
        found.append(
            Problem(where="expires-in", what="a token cannot have expired before it is made")
        )
    return found
