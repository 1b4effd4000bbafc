"""Blocking work in threads, and what becomes of it when its caller is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.threads import in_thread


async def test_work_that_waits_for_a_thread_never_starts_after_a_cancel() -> None:
    """Nobody asked for it any more: starting it later would act behind our back."""
    busy, done = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        first = asyncio.ensure_future(in_thread(pool, busy.wait))
        queued = asyncio.ensure_future(in_thread(pool, done.append, "started"))
        await asyncio.sleep(0)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        busy.set()
        await first
    assert done == []


async def test_work_that_has_begun_is_waited_for() -> None:
    """A caller that leaves early would let it write to what somebody else may own by then."""
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait()
        done.append("ended")

    with ThreadPoolExecutor(1) as pool:
        caller = asyncio.ensure_future(in_thread(pool, work))
        await asyncio.to_thread(begun.wait)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert done == ["ended"]
