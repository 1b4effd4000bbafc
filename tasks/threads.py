"""Where blocking domain code runs: bounded threads, so a thousand waiting launches need a few."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from slipway.database import Database, Outcome
from slipway.mirrors.progress import Progress
from tasks.services import current_services

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Unit:
    """Something to be done on a database, and whoever waits for it."""

    database: Database
    act: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    #: Set in the loop, when what was done is durable.
    answer: asyncio.Future[Any]


class Recorder:
    """The thread that works on our own database.

    SQLite has one writer: more threads would only wait for each other. What has come together while
    the thread was at work is done next, in turn, with one commit; nobody is answered before that.
    """

    #: More are not committed together: other processes want to write, too.
    MOST_TOGETHER = 50

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "slipway-records")
        self._lock = threading.Lock()
        self._waiting: list[_Unit] = []
        self._at_work = False

    async def run(self, database: Database, act: Callable[[], T]) -> T:
        """Have a unit of work done. A cancelled caller takes it back if it has not begun, and waits
        for its end if it has."""
        loop = asyncio.get_running_loop()
        unit = _Unit(database=database, act=act, loop=loop, answer=loop.create_future())
        with self._lock:
            self._waiting.append(unit)
            wake, self._at_work = not self._at_work, True
        if wake:
            self._thread.submit(self._work)
        try:
            # Shielded: cancelling the caller must not lose the answer that may be on its way.
            found: T = await asyncio.shield(unit.answer)
        except asyncio.CancelledError:
            if not self._take_back(unit):
                await _end_of(unit.answer)
            raise
        return found

    def _take_back(self, unit: _Unit) -> bool:
        with self._lock:
            if unit not in self._waiting:
                return False
            self._waiting.remove(unit)
            return True

    def _work(self) -> None:
        while units := self._next():
            outcomes = units[0].database.together([unit.act for unit in units])
            by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Unit, Outcome]]] = {}
            for unit, outcome in zip(units, outcomes, strict=True):
                by_loop.setdefault(unit.loop, []).append((unit, outcome))
            for loop, answers in by_loop.items():
                # A loop that was closed meanwhile has nobody left who waits.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_answer, answers)

    def _next(self) -> list[_Unit]:
        """What has come first, and what behind it can be committed with it."""
        with self._lock:
            count = 0
            for unit in self._waiting[: self.MOST_TOGETHER]:
                first = self._waiting[0].database
                if count and (unit.database is not first or not first.commits_together):
                    break
                count += 1
            units, self._waiting = self._waiting[:count], self._waiting[count:]
            self._at_work = bool(units)
            return units


def _answer(answers: list[tuple[_Unit, Outcome]]) -> None:
    for unit, outcome in answers:
        if outcome.error is None:
            unit.answer.set_result(outcome.value)
        elif isinstance(outcome.error, StopIteration):
            # No future takes one, and the others in line want their answers.
            unit.answer.set_exception(RuntimeError(f"a unit of work raised {outcome.error!r}"))
        else:
            unit.answer.set_exception(outcome.error)


class Pools:
    """The thread pools of one process: a slow server must not keep the records waiting."""

    def __init__(self, *, connections: int) -> None:
        self.records = Recorder()
        self.output = ThreadPoolExecutor(1, "slipway-output")
        self.clouds = ThreadPoolExecutor(8, "slipway-clouds")
        # A listing serves everybody: it does not queue behind calls that wait for their turn.
        self.listings = ThreadPoolExecutor(4, "slipway-listings")
        # Whoever hears events waits for them most of the time.
        self.hearing = ThreadPoolExecutor(16, "slipway-hearing")
        # A first sync takes hours; each has transfers side by side of its own.
        self.mirrors = ThreadPoolExecutor(4, "slipway-mirrors")
        # Those who follow a script stay for a while; a short question must not queue behind them.
        self.questions = ThreadPoolExecutor(max(connections // 4, 1), "slipway-questions")
        self.followers = ThreadPoolExecutor(max(connections * 3 // 4, 1), "slipway-followers")


_pools: tuple[int, Pools] | None = None


def pools() -> Pools:
    """The pools of this process; a forked child gets its own."""
    global _pools
    if _pools is None or _pools[0] != os.getpid():
        from slipway.settings import Settings

        _pools = (os.getpid(), Pools(connections=Settings().max_connections))
    return _pools[1]


async def in_thread(
    pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run blocking code in a thread of this pool and await it.

    A cancelled caller takes the work back if it has not begun, and waits for its end if it has:
    leaving it behind would let it write to records that somebody else may own by then.
    """
    job = pool.submit(functools.partial(function, *args, **kwargs))
    future = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not job.cancel():
            await _end_of(future)
        raise


async def _end_of(future: asyncio.Future[Any]) -> None:
    """Wait until it is done, whatever comes of it."""
    if not future.done():
        await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # looked at: nobody else will


async def records(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that works on our own database, and waits for nothing else: not for a cloud or a
    server, and not for another thread, which may be waiting to write. (So no lock may be taken here
    that anybody holds while he writes.)

    What the code has written is durable when this returns and not before, as it is committed with
    what others have written: what may only follow then comes after the ``await``.
    """
    act = functools.partial(function, *args, **kwargs)
    return await pools().records.run(current_services().database, act)


async def output(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that puts a script's output on record: its follower may hold it up for a moment, and
    then no unit of `records` may wait for it."""
    return await in_thread(pools().output, function, *args, **kwargs)


async def clouds(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that calls a cloud's API."""
    return await in_thread(pools().clouds, function, *args, **kwargs)


async def listings(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that asks a cloud what there is, for all who wait."""
    return await in_thread(pools().listings, function, *args, **kwargs)


async def hearing(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that waits until a cloud tells something."""
    return await in_thread(pools().hearing, function, *args, **kwargs)


async def mirrors(function: Callable[..., T], *args: Any, progress: Progress, **kwargs: Any) -> T:
    """Run code that fetches, reads or removes files of mirrors. It is given the progress, by which
    it is asked to end when the caller is cancelled."""
    job = asyncio.ensure_future(
        in_thread(pools().mirrors, function, *args, progress=progress, **kwargs)
    )
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        progress.stop()
        job.cancel()
        await _end_of(job)
        raise


async def questions(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that asks a server something and is done in seconds."""
    return await in_thread(pools().questions, function, *args, **kwargs)


async def following(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that holds a connection to a server for longer."""
    return await in_thread(pools().followers, function, *args, **kwargs)
