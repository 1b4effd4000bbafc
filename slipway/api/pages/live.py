"""Pages that keep themselves up to date: parts are sent again when what they show has changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import anyio
from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from slipway.api.pages.rendering import SECURITY_HEADERS
from slipway.api.pages.web import site_of

#: How often the records are looked at.
LOOK_S = 1.0
#: How often it is looked whether the visitor may still see the page.
ASK_AGAIN_S = 60.0
#: Streams of one process. Each costs a look a second; the page of whoever is one too many works
#: all the same, and tries again by itself.
MOST_STREAMS = 200


@dataclass(kw_only=True)
class News:
    """What has changed since the last look."""

    #: Parts of the page by the id of the element they belong into.
    parts: Mapping[str, str] = field(default_factory=dict)
    #: Other events, in order: their name and what they carry.
    events: list[tuple[str, Any]] = field(default_factory=list)


class Watcher(Protocol):
    """Looks at the records for one open page; remembers what that page has seen."""

    def __call__(self) -> News:
        """What is new. Called in a thread, never twice at once."""


class Changed:
    """Tells whether a page has to be sent something again.

    The page says in the address of its stream which state of things it shows, so that nothing that
    happened between the page and the stream is missed and nothing is sent for nothing.
    """

    def __init__(self, seen: str) -> None:
        self._seen = seen

    def __call__(self, state: object) -> bool:
        """Whether this is another state than the last one."""
        now = state_mark(state)
        before, self._seen = self._seen, now
        return now != before


def state_mark(state: object) -> str:
    """A state of things in a few characters."""
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


_open_streams = 0


def open_streams() -> int:
    """How many pages of this process are being kept up to date."""
    return _open_streams


def stream(request: Request, make: Callable[[], Watcher]) -> Response:
    """An event stream of what a watcher finds, for as long as the page is open."""
    if _open_streams >= MOST_STREAMS:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.")
    stopping = anyio.Event()
    return EventSourceResponse(
        _events(request, make, stopping),
        headers=SECURITY_HEADERS,
        ping=20,
        send_timeout=30,
        # Time to come back from a pause, so that a stream ends whole and is not cut off.
        shutdown_event=stopping,
        shutdown_grace_period=2 * LOOK_S,
    )


async def _events(
    request: Request, make: Callable[[], Watcher], stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    global _open_streams
    site, loop = site_of(request), asyncio.get_running_loop()
    _open_streams += 1
    try:
        watcher = await run_in_threadpool(make)
        asked = loop.time()
        yield ServerSentEvent(comment="hello", retry=3000)
        while not stopping.is_set():
            news = await run_in_threadpool(watcher)
            for name, carried in news.events:
                yield _event(name, carried)
            if news.parts:
                told = {"now": site.now().isoformat(), "parts": dict(news.parts)}
                yield _event("swap", told)
            await asyncio.sleep(LOOK_S)
            if loop.time() - asked >= ASK_AGAIN_S:
                asked = loop.time()
                if await run_in_threadpool(site.sessions.visitor, request) is None:
                    yield _event("over", None)
                    return
    finally:
        _open_streams -= 1


def _event(name: str, carried: Any) -> ServerSentEvent:
    # JSON has no line ends, which would end the event.
    return ServerSentEvent(event=name, data=json.dumps(carried, ensure_ascii=False))
