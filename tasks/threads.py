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
        self.records = ThreadPoolExecutor(1, "slipway-records")
        self.clouds = ThreadPoolExecutor(8, "slipway-clouds")
        self.servers = ThreadPoolExecutor(connections, "slipway-servers")


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

    A cancelled caller still waits for the thread: leaving it behind would let it write to records
    that somebody else may own by then.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(pool, functools.partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        if not future.cancelled():
            # Looked at, or asyncio would complain that nobody did.
            future.exception()
        raise


async def records(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that works on our own database."""
    return await in_thread(pools().records, function, *args, **kwargs)


async def clouds(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that calls a cloud's API."""
    return await in_thread(pools().clouds, function, *args, **kwargs)


async def servers(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run code that holds a connection to a server."""
    return await in_thread(pools().servers, function, *args, **kwargs)
