"""Outages of our own database: whoever works on a launch waits for their end, and goes on."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from slipway.errors import DatabaseUnavailable
from slipway.launches.work import Work
from tasks.services import current_services
from tasks.threads import records

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("slipway.outages")

#: The pause before a database is asked whether it is back, the first time and at most.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

#: A database that answers and refuses the same thing so often in a row is not away: it is broken.
MOST_REFUSALS = 20


async def outlast(
    way: Callable[..., Awaitable[T]], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call code by one of the ways of `tasks.threads`, and again when the database, which was away,
    is back. For what may be done twice: whether a commit whose answer was lost came to be is not
    known. Raises `DatabaseUnavailable` when the database answers and refuses this alone."""
    return await _outlasting(lambda: way(function, *args, **kwargs), _nothing)


def outlasting(
    step: Callable[Concatenate[Work, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Work, P], Coroutine[Any, Any, T]]:
    """A step that is begun anew when the database, which was away in the middle of it, is back. It
    is as after a crash: what is on record of the step counts, what this process knew does not."""

    @functools.wraps(step)
    async def through(work: Work, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await _outlasting(
            lambda: step(work, *args, **kwargs), lambda: outlast(records, work.catch_up)
        )

    return through


async def _outlasting(
    attempt: Callable[[], Awaitable[T]], catch_up: Callable[[], Awaitable[None]]
) -> T:
    refusals = 0
    while True:
        try:
            return await attempt()
        except DatabaseUnavailable as error:
            refusals += 1
            if refusals > MOST_REFUSALS:
                raise
            if await _end_of_outage(error):
                refusals = 0
            else:
                await asyncio.sleep(min(FIRST_PAUSE_S * 1.5**refusals, LONGEST_PAUSE_S))
            await catch_up()


async def _nothing() -> None:
    """There is nothing to catch up with."""


#: By event loop: who asks whether the database is back, for all that wait there.
_asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[bool]] = WeakKeyDictionary()


async def _end_of_outage(error: DatabaseUnavailable) -> bool:
    """Wait until the database answers; whether it was seen not to."""
    loop = asyncio.get_running_loop()
    asking = _asking.get(loop)
    if asking is None or asking.done():
        asking = _asking[loop] = loop.create_task(_ask(error))
    # Who is cancelled stops waiting; the others do not.
    return await asyncio.shield(asking)


async def _ask(error: DatabaseUnavailable) -> bool:
    clock = current_services().clock
    began, pause_s, away = clock.monotonic(), FIRST_PAUSE_S, False
    while True:
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
        try:
            await records(_look)
        except DatabaseUnavailable:
            if not away:
                _log.warning("the database is away; waiting: %s", error)
            away = True
        else:
            if away:
                _log.warning("the database is back after %.0f s", clock.monotonic() - began)
            return away


def _look() -> None:
    with current_services().database.reading() as connection:
        connection.execute(sa.text("SELECT 1"))
