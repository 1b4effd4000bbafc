"""``/v1/changes`` and ``/v1/events``: what has happened, as pages and as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from slipway import audit, changes, tokens
from slipway.api.audits import AuditEntryOut
from slipway.api.auth import Principal, Reader, require
from slipway.api.paging import Limit
from slipway.api.problems import ApiProblem, responses, streamed
from slipway.api.state import ApiState, TheServices, TheState
from slipway.api.words import LaunchId
from slipway.changes import Wanted
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import Change, LaunchStatus

router = APIRouter(prefix="/v1", tags=["events"])

#: How often a comment keeps a quiet stream alive: below what proxies take for dead.
PING_S = 15
#: How often a stream looks whether its token is still good.
RECHECK_S = 30.0
#: How many streams one process holds.
MAX_STREAMS = 500
#: A client that reads nothing for so long is gone.
SEND_TIMEOUT_S = 60.0
#: How long streams have to end when the process stops.
CLOSE_S = 2.0

_LINE = "\n"

_KIND = r"^[a-z][a-z-]{0,31}(\.[a-z][a-z-]{0,31})?$"
_SUBJECT = r"^[a-z][a-z-]{0,31}/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"

Kinds = Annotated[
    list[Annotated[str, Field(pattern=_KIND)]] | None,
    Query(
        alias="kind",
        max_length=20,
        description="Only these, such as `launch.operational`, or `launch` for everything that "
        "happens to launches.",
    ),
]
Subjects = Annotated[
    list[Annotated[str, Field(pattern=_SUBJECT)]] | None,
    Query(
        alias="subject",
        max_length=100,
        description="Only what happens to these, such as `launch/launch-01hkx3v9q2m4c7d8e`.",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=20,
        pattern=r"^[0-9]*$",
        description="The id of the last event you have; the stream goes on behind it.",
    ),
]
Since = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**63 - 1,
        description="Begin behind this number: the `as_of` of a list. Not given: with what happens "
        "from now on.",
    ),
]


class ChangeOut(BaseModel):
    """One thing that happened."""

    model_config = ConfigDict(title="Change")

    seq: int = Field(description="In the order in which it happened; with gaps.", examples=[1042])
    at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])
    kind: str = Field(examples=["launch.operational"])
    subject: str = Field(examples=["launch/launch-01hkx3v9q2m4c7d8e"])
    actor: str = Field(examples=["flow-run/launch web-1"])
    detail: dict[str, Any] = Field(
        examples=[{"server": "web-1", "from": "configuring", "to": "operational"}]
    )

    @classmethod
    def of(cls, change: Change) -> ChangeOut:
        """From its record."""
        assert change.seq is not None, "it comes from the database"
        return cls(
            seq=change.seq,
            at=change.at,
            kind=change.kind,
            subject=change.subject,
            actor=change.actor,
            detail=change.detail,
        )


class Changes(BaseModel):
    """A piece of the change log."""

    items: list[ChangeOut]
    as_of: int = Field(description="Where to go on, as `changes_since`.", examples=[1042])


@router.get(
    "/changes",
    operation_id="listChanges",
    dependencies=[Depends(require("read"))],
    responses=responses(401, 403, 410, 422),
)
def list_changes(
    services: TheServices,
    kinds: Kinds = None,
    subjects: Subjects = None,
    changes_since: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Limit = 100,
) -> Changes:
    """The change log behind a number, in order; ask again with `as_of`. Nothing is missing and
    nothing comes twice."""
    wanted = Wanted(kinds=tuple(kinds or ()), subjects=tuple(subjects or ()))
    with services.database.reading() as connection:
        changes.check_reach(connection, changes_since)
        found = changes.since(connection, changes_since, limit=limit, wanted=wanted)
        as_of = found[-1].seq if len(found) == limit else changes.newest(connection)
    return Changes(items=[ChangeOut.of(each) for each in found], as_of=as_of or changes_since)


def _stream(description: str) -> dict[int | str, dict[str, Any]]:
    example = "id: 1042\nevent: launch.operational\ndata: {…}\n\n"
    return streamed(description, "text/event-stream", example)


@router.get(
    "/events",
    operation_id="streamChanges",
    response_class=EventSourceResponse,
    responses=_stream("Server-sent events: the change log as it grows.")
    | responses(401, 403, 410, 422, 429),
)
async def stream_changes(
    state: TheState,
    who: Reader,
    kinds: Kinds = None,
    subjects: Subjects = None,
    changes_since: Since = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The change log as it grows. A client that was cut off goes on with `Last-Event-ID`, which
    browsers send by themselves; nothing is missing and nothing comes twice."""
    after = await anyio.to_thread.run_sync(_begin, state, changes_since, last_event_id)
    wanted = Wanted(kinds=tuple(kinds or ()), subjects=tuple(subjects or ()))
    return _answer(state, _changes(state, who, after, wanted))


@router.get(
    "/launches/{launch_id}/events",
    operation_id="streamLaunch",
    response_class=EventSourceResponse,
    responses=_stream("Server-sent events: the launch's audit as it is written.")
    | {204: {"description": "The launch has ended, and you have everything."}}
    | responses(401, 403, 404, 422, 429),
)
async def stream_launch(
    state: TheState,
    who: Reader,
    launch_id: LaunchId,
    after: Annotated[
        int | None, Query(ge=0, le=2**63 - 1, description="Begin behind this entry.")
    ] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Every entry of a launch's audit, from the first on and then as they are written, with what
    its scripts print. It ends when the launch is terminated."""
    begin = int(last_event_id) if last_event_id else after or 0
    if await anyio.to_thread.run_sync(_is_told, state, launch_id, begin):
        # What tells an EventSource not to come back.
        return Response(status_code=204)
    return _answer(state, _entries(state, who, launch_id, begin))


def _begin(state: ApiState, changes_since: int | None, last_event_id: str | None) -> int:
    after = int(last_event_id) if last_event_id else changes_since
    with state.services.database.reading() as connection:
        if after is None:
            return changes.newest(connection)
        changes.check_reach(connection, after)
    return after


def _answer(state: ApiState, events: AsyncIterator[ServerSentEvent]) -> Response:
    if state.feed.listeners >= MAX_STREAMS:
        raise ApiProblem(
            429,
            "too-many-streams",
            f"{MAX_STREAMS} event streams are open at this process; try again later",
            headers={"Retry-After": "30"},
        )
    return EventSourceResponse(
        events,
        ping=PING_S,
        sep=_LINE,
        send_timeout=SEND_TIMEOUT_S,
        # Time for the feed to be closed, so that a stream ends whole and is not cut off.
        shutdown_event=anyio.Event(),
        shutdown_grace_period=CLOSE_S,
    )


async def _changes(
    state: ApiState, who: Principal, after: int, wanted: Wanted
) -> AsyncIterator[ServerSentEvent]:
    # The first line of the answer, so that a client knows where it stands.
    yield ServerSentEvent(id=str(after), comment="following", sep=_LINE)
    told = after
    async for position, found in state.feed.changes(after, wanted, quiet_s=RECHECK_S):
        for change in found:
            out = ChangeOut.of(change)
            yield _event(out.seq, out.kind, out)
            told = out.seq
        if not found:
            if not await _still_good(state, who):
                return
            if position > told:
                # Without data this is no event, but what a client comes back with.
                yield ServerSentEvent(id=str(position), sep=_LINE)
                told = position


async def _entries(
    state: ApiState, who: Principal, launch_id: str, after: int
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="following", sep=_LINE)
    position = after
    async for found in state.feed.entries(subject_of(launch_id), after, quiet_s=RECHECK_S):
        for entry in found:
            out = AuditEntryOut.of(entry)
            yield _event(out.seq, out.kind, out)
            position = out.seq
        ended = any(
            entry.kind == "status" and json.loads(entry.detail).get("to") == LaunchStatus.TERMINATED
            for entry in found
        )
        if (ended or not found) and await anyio.to_thread.run_sync(
            _is_told, state, launch_id, position
        ):
            return
        if not found and not await _still_good(state, who):
            return


def _event(seq: int, kind: str, out: BaseModel) -> ServerSentEvent:
    return ServerSentEvent(id=str(seq), event=kind, data=out.model_dump_json(), sep=_LINE)


def _is_told(state: ApiState, launch_id: str, position: int) -> bool:
    """Whether a launch is over and its audit ends at this entry. Raises `NotFound`."""
    if get_launch(state.services, launch_id).status != LaunchStatus.TERMINATED:
        return False
    return not audit.entries(
        state.services.database, subject_of(launch_id), after=position, limit=1
    )


async def _still_good(state: ApiState, who: Principal) -> bool:
    services = state.services
    return await anyio.to_thread.run_sync(
        tokens.still_good, services.database, services.clock, who.token_id
    )
