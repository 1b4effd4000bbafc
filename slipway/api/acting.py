"""Calls that change something: on record under their token, and done once per idempotency key.

What a call brings about, the key it came with and the entry that says who did it are one
transaction. There is no moment at which one of them exists without the others, so there is nothing
to clean up: of two calls with one key at once, the database refuses the second one's key, and it
answers with what the first has made.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, Header
from sqlalchemy.exc import IntegrityError
from starlette.requests import Request

from slipway import audit, tokens
from slipway.api.auth import Admin, Launcher, Principal, Writer
from slipway.api.problems import ApiProblem
from slipway.api.state import TheServices
from slipway.audit import Note
from slipway.errors import SlipwayError
from slipway.launches.services import Services
from slipway.records import AuditKind, KeyedRequest

_REQUESTS = KeyedRequest.__table__  # type: ignore[attr-defined]

#: How long a key is remembered, at least.
KEPT = timedelta(days=2)

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Anything unique to this request, such as a UUID. Asking again with the same "
        "key within two days does nothing and answers with what came of the first time; with the "
        "same key and another request it is refused.",
        examples=["4b6c2f0e-6f0a-4a3e-9f39-0a9a2f7f4c11"],
    ),
]


@dataclass(frozen=True, kw_only=True)
class Act:
    """One call that changes something."""

    services: Services
    who: Principal
    key: str | None
    request_hash: str
    #: ``POST /v1/launches``, for the audit.
    call: str

    def once(self, make: Callable[[], str]) -> str:
        """Do it, unless it was done under this key; answers the name of what it has made.

        ``make`` answers that name, and calls `record` with it in its transaction.
        """
        if (found := self._look()) is not None:
            return found
        try:
            return make()
        except (SlipwayError, IntegrityError):
            # The same request may have been faster: then its result is ours.
            if (found := self._look()) is not None:
                return found
            raise

    def record(self, connection: sa.Connection, made: str, summary: str) -> None:
        """Put the call and its key on record, in the transaction of what it does. To be called
        last in it: everybody takes their locks in the same order."""
        now = self.services.clock.now()
        note = Note(kind=AuditKind.INFO, summary=summary, detail={"about": made, "call": self.call})
        subject = tokens.subject_of(self.who.token_id)
        audit.append(connection, subject, [note], actor=self.who.actor, at=now)
        if self.key is not None:
            connection.execute(
                sa.insert(_REQUESTS).values(
                    token_id=self.who.token_id,
                    key=self.key,
                    request_hash=self.request_hash,
                    result={"made": made},
                    created_at=now,
                )
            )

    def _look(self) -> str | None:
        if self.key is None:
            return None
        with self.services.database.reading() as connection:
            query = sa.select(_REQUESTS).where(
                _REQUESTS.c.token_id == self.who.token_id, _REQUESTS.c.key == self.key
            )
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.request_hash != self.request_hash:
            raise ApiProblem(
                422,
                "key-reused",
                "this idempotency key came with another request before; use a new key for a new "
                "request",
            )
        return str(row.result["made"])


def forget_keys(connection: sa.Connection, before: datetime) -> int:
    """Forget keys that are older than this; answers how many."""
    gone = connection.execute(sa.delete(_REQUESTS).where(_REQUESTS.c.created_at < before))
    return gone.rowcount


async def _act(request: Request, services: Services, who: Principal, key: str | None) -> Act:
    path = request.url.path
    call = f"{request.method} {path}"
    return Act(
        services=services,
        who=who,
        key=key,
        request_hash=_hash(services, call, await request.body()) if key is not None else "",
        call=call[:256],
    )


async def _launching(
    request: Request, services: TheServices, who: Launcher, key: Key = None
) -> Act:
    return await _act(request, services, who, key)


async def _writing(request: Request, services: TheServices, who: Writer, key: Key = None) -> Act:
    return await _act(request, services, who, key)


async def _administering(
    request: Request, services: TheServices, who: Admin, key: Key = None
) -> Act:
    return await _act(request, services, who, key)


#: A handler's parameter of this type makes it one that changes something.
Launching = Annotated[Act, Depends(_launching)]
Writing = Annotated[Act, Depends(_writing)]
Administering = Annotated[Act, Depends(_administering)]


def _hash(services: Services, call: str, body: bytes) -> str:
    """Keyed, because a body may hold secrets, and short ones could be guessed from a plain hash."""
    try:
        # Blanks and the order of fields make no other request.
        text = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        text = body
    key = services.vault.derive_key("idempotency")
    return hmac.new(key, call.encode() + b"\0" + text, "sha256").hexdigest()
