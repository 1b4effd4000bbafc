"""Telling whoever asked for a launch what became of it: a POST per change that matters.

Messages are made from the change log, so that none is forgotten and none is made twice, and are
sent in the form of the Standard Webhooks specification: ``webhook-id``, ``webhook-timestamp`` and,
with a secret, ``webhook-signature``. Every attempt sends the same bytes under the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from slipway.errors import Problem, SlipwayError
from slipway.ids import new_id
from slipway.launches.listing import LaunchDetail, launch_detail
from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.notify import webhooks
from slipway.outbound import NotDelivered, Poster, Refused, problem_of
from slipway.records import CallBack, CallBackMessage, Change

_CALL_BACKS = CallBack.__table__  # type: ignore[attr-defined]
_MESSAGES = CallBackMessage.__table__  # type: ignore[attr-defined]
_CHANGES = Change.__table__  # type: ignore[attr-defined]

#: The changes that are told; the last one is the end of a launch.
KINDS = ("launch.operational", "launch.stranded", "launch.cancelled", "launch.terminated")

#: The pauses after each failed attempt; after the last one the message is given up. 20 hours.
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 21600)
#: Receivers that were away together must not be called together.
JITTER = 0.1

#: How long one attempt has before another process may try.
ATTEMPT_S = 60.0
#: How soon to look again when nothing is due.
LOOK_S = 1.0

#: How many messages one process sends at a time.
MAX_AT_ONCE = 64

_log = logging.getLogger("slipway.callbacks")

Render = Callable[[LaunchDetail], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What waits to be delivered."""

    waiting: int
    given_up: int


def check_call_back(url: str, secret: SecretStr | None, *, allow_private: bool) -> list[Problem]:
    """The problems of what somebody gave as a call-back."""
    problems = []
    if (what := problem_of(url, allow_private=allow_private)) is not None:
        problems.append(Problem(where="callback url", what=what))
    if secret is not None and not webhooks.is_secret(secret):
        problems.append(Problem(where="callback secret", what=webhooks.SECRET_RULE))
    return problems


def record_call_back(
    connection: sa.Connection,
    services: Services,
    launch_id: str,
    url: str,
    secret: SecretStr | None,
) -> None:
    """Have what becomes of a launch told; in the transaction that records the launch."""
    row = CallBack(
        launch_id=launch_id, url=url, secret=services.vault.seal(secret) if secret else None
    )
    connection.execute(sa.insert(_CALL_BACKS).values(**row.model_dump()))


def backlog(connection: sa.Connection) -> Backlog:
    """What waits, and what was given up."""
    waiting = sa.and_(_MESSAGES.c.delivered_at.is_(None), _MESSAGES.c.given_up_at.is_(None))
    counts = connection.execute(
        sa.select(
            sa.select(sa.func.count()).where(waiting).scalar_subquery(),
            sa.select(sa.func.count())
            .where(_MESSAGES.c.given_up_at.is_not(None))
            .scalar_subquery(),
        )
    ).one()
    return Backlog(waiting=counts[0], given_up=counts[1])


def make_messages(services: Services, render: Render) -> int:
    """Make a message for each change that is to be told and was not yet; answers how many. Any
    number of processes may do so at once."""
    query = (
        sa.select(
            _CALL_BACKS.c.launch_id,
            _CALL_BACKS.c.seen_seq,
            _CHANGES.c.seq,
            _CHANGES.c.kind,
            _CHANGES.c.at,
        )
        .where(
            _CALL_BACKS.c.is_open,
            _CHANGES.c.subject == sa.literal("launch/") + _CALL_BACKS.c.launch_id,
            _CHANGES.c.seq > _CALL_BACKS.c.seen_seq,
            _CHANGES.c.kind.in_(KINDS),
        )
        .order_by(_CHANGES.c.seq)
        .limit(500)
    )
    with services.database.reading() as connection:
        found = connection.execute(query).all()
    seen: dict[str, int] = {}
    made = 0
    for row in found:
        made += _make_message(services, row, seen.get(row.launch_id, row.seen_seq), render)
        seen[row.launch_id] = row.seq
    return made


class CallBacks:
    """Makes messages and sends them, many at a time: a receiver that is slow holds up nobody else.
    Belongs to one event loop."""

    def __init__(self, services: Services, poster: Poster, render: Render) -> None:
        self._services = services
        self._poster = poster
        self._render = render
        self._sending: set[asyncio.Task[None]] = set()

    async def tick(self) -> None:
        """Make the messages there are to be made, and begin to send those that are due."""
        await asyncio.to_thread(make_messages, self._services, self._render)
        room = MAX_AT_ONCE - len(self._sending)
        for message in await asyncio.to_thread(_claim_due, self._services, room):
            task = asyncio.create_task(_attempt(self._services, self._poster, message))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def settle(self) -> None:
        """Wait for everything that is being sent."""
        await asyncio.gather(*self._sending)

    async def stop(self) -> None:
        """Break off what is being sent; it is sent again, under the same id."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def forget_delivered(connection: sa.Connection, before: datetime) -> int:
    """Remove messages that were delivered before this; answers how many."""
    gone = connection.execute(sa.delete(_MESSAGES).where(_MESSAGES.c.delivered_at < before))
    return gone.rowcount


def _make_message(services: Services, row: sa.Row[Any], seen_seq: int, render: Render) -> bool:
    launch = get_launch(services, row.launch_id)
    now = services.clock.now()
    body = {
        "type": row.kind,
        "timestamp": row.at.isoformat(timespec="milliseconds"),
        # What happened later has a higher number, in whatever order messages arrive.
        "change": row.seq,
        "data": render(launch_detail(services, launch)),
    }
    message = CallBackMessage(
        id=new_id("msg", now),
        launch_id=row.launch_id,
        kind=row.kind,
        body=json.dumps(body, ensure_ascii=False, separators=(",", ":")),
        created_at=now,
        due_at=now,
    )
    with services.database.transaction() as connection:
        moved = connection.execute(
            sa.update(_CALL_BACKS)
            .where(_CALL_BACKS.c.launch_id == row.launch_id, _CALL_BACKS.c.seen_seq == seen_seq)
            .values(seen_seq=row.seq, is_open=row.kind != KINDS[-1])
        )
        if moved.rowcount == 0:
            # Another process makes them.
            return False
        connection.execute(sa.insert(_MESSAGES).values(**message.model_dump()))
    return True


def _claim_due(services: Services, room: int) -> list[CallBackMessage]:
    if room <= 0:
        return []
    now = services.clock.now()
    waiting = sa.and_(_MESSAGES.c.delivered_at.is_(None), _MESSAGES.c.given_up_at.is_(None))
    query = (
        sa.select(_MESSAGES)
        .where(waiting, _MESSAGES.c.due_at <= now)
        .order_by(_MESSAGES.c.due_at)
        .limit(room)
    )
    with services.database.reading() as connection:
        found = [CallBackMessage(**row) for row in connection.execute(query).mappings()]
    claimed = []
    for message in found:
        with services.database.transaction() as connection:
            moved = connection.execute(
                sa.update(_MESSAGES)
                .where(_MESSAGES.c.id == message.id, waiting, _MESSAGES.c.due_at == message.due_at)
                .values(
                    due_at=now + timedelta(seconds=ATTEMPT_S), attempts=_MESSAGES.c.attempts + 1
                )
            )
        if moved.rowcount == 1:
            message.attempts += 1
            claimed.append(message)
    return claimed


async def _attempt(services: Services, poster: Poster, message: CallBackMessage) -> None:
    try:
        url, headers = await asyncio.to_thread(_addressed, services, message)
        await poster.post(url, message.body.encode(), headers)
    except Refused as error:
        await asyncio.to_thread(_ended, services, message, error=str(error), give_up=True)
    except NotDelivered as error:
        await asyncio.to_thread(_ended, services, message, error=str(error))
    except SlipwayError as error:
        # A secret that cannot be read any more: no later attempt would be another.
        _log.exception("call-back message %s of launch %s", message.id, message.launch_id)
        await asyncio.to_thread(_ended, services, message, error=str(error), give_up=True)
    else:
        await asyncio.to_thread(_ended, services, message, error="")


def _addressed(services: Services, message: CallBackMessage) -> tuple[str, dict[str, str]]:
    with services.database.reading() as connection:
        query = sa.select(_CALL_BACKS.c.url, _CALL_BACKS.c.secret)
        row = connection.execute(query.where(_CALL_BACKS.c.launch_id == message.launch_id)).one()
    timestamp_s = int(services.clock.now().timestamp())
    good = [] if row.secret is None else [services.vault.unseal(row.secret)]
    signed = webhooks.headers(good, message.id, timestamp_s, message.body.encode())
    headers = {"Content-Type": "application/json", "User-Agent": "slipway", **signed}
    return row.url, headers


def _ended(
    services: Services, message: CallBackMessage, *, error: str, give_up: bool = False
) -> None:
    now = services.clock.now()
    values: dict[str, Any] = {"error": error.replace("\0", "")}
    if not error:
        values["delivered_at"] = now
    elif give_up or message.attempts > len(PAUSES_S):
        values["given_up_at"] = now
        _log.warning("call-back message %s was given up: %s", message.id, error)
    else:
        pause_s = PAUSES_S[message.attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        values["due_at"] = now + timedelta(seconds=pause_s)
    with services.database.transaction() as connection:
        connection.execute(
            sa.update(_MESSAGES).where(_MESSAGES.c.id == message.id).values(**values)
        )
