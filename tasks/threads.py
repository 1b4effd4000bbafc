"""Where blocking domain code runs: bounded threads, so a thousand waiting launches need a few."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pools:
    """The thread pools of one process: a slow server must not keep the records waiting."""

    def __init__(self, *, connections: int) -> None:
        # SQLite has one writer: more threads would only wait for each other.
        self.records = ThreadPoolExecutor(1, "slipway-records")
        self.clouds = ThreadPoolExecutor(8, "slipway-clouds")
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
        if not job.cancel() and not future.done():
            await asyncio.wait([future])
        if future.done() and not future.cancelled():
            future.exception()  # looked at: nobody else will
        raise


async def records(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that works on our own database."""
    return await in_thread(pools().records, function, *args, **kwargs)


async def clouds(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that calls a cloud's API."""
    return await in_thread(pools().clouds, function, *args, **kwargs)


async def questions(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that asks a server something and is done in seconds."""
    return await in_thread(pools().questions, function, *args, **kwargs)


async def following(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that holds a connection to a server for longer."""
    return await in_thread(pools().followers, function, *args, **kwargs)
