"""Blocking work in threads, and what becomes of it when its caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa

from slipway.database import Database
from slipway.errors import NotCommitted
from slipway.launches.services import Services
from tasks.services import use_services
from tasks.threads import Recorder, in_thread, records
from tests.records.test_together import kept, owe, put


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


# --- Records --------------------------------------------------------------------------------------


class Held:
    """A unit of work that lasts until it is let go: what is asked for meanwhile waits together."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait()


@pytest.fixture
def held() -> Iterator[Held]:
    """Let go at the end, however the test ends: Python waits for its thread."""
    found = Held()
    yield found
    found.go_on.set()


@pytest.fixture
def here(any_database: Database) -> Iterator[Database]:
    """`records` works on this database."""
    with use_services(cast(Services, SimpleNamespace(database=any_database))):
        yield any_database


async def all_at_once(held: Held, *units: Callable[[], Any]) -> list[Any]:
    """Have units of work done that have waited together."""
    first = asyncio.ensure_future(records(held))
    await asyncio.to_thread(held.begun.wait)
    asked = [asyncio.ensure_future(records(unit)) for unit in units]
    await asyncio.sleep(0)
    held.go_on.set()
    await first
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_each_caller_gets_its_own_answer(here: Database, held: Held) -> None:
    """Of units that wait together, and an error is raised at its caller alone."""

    def ends_early() -> None:
        raise StopIteration

    def looks() -> set[str]:
        return kept(here)

    units = [
        functools.partial(put, here, "a"),
        functools.partial(put, here, "b", "a"),
        ends_early,
        looks,
    ]
    found = await all_at_once(held, *units)
    assert found[0] == "a"
    assert isinstance(found[1], sa.exc.IntegrityError)
    # No future takes a StopIteration.
    assert isinstance(found[2], RuntimeError)
    assert found[3] == {"a"}


async def test_units_are_done_in_the_order_they_came(here: Database, held: Held) -> None:
    """However many wait, and however they are put together."""
    done: list[int] = []
    count = Recorder.MOST_TOGETHER + 20
    await all_at_once(held, *(functools.partial(done.append, n) for n in range(count)))
    assert done == list(range(count))


async def test_a_commit_that_fails_is_heard_of_by_all(database: Database, held: Held) -> None:
    """None of them is answered as if it were on record; who comes later is not concerned."""
    with use_services(cast(Services, SimpleNamespace(database=database))):
        write = functools.partial(put, database, "a")
        found = await all_at_once(held, write, functools.partial(owe, database))
        assert [type(each) for each in found] == [NotCommitted] * 2
        assert kept(database) == set()
        assert await records(put, database, "b") == "b"


async def test_a_unit_that_waits_can_be_taken_back(here: Database, held: Held) -> None:
    """It is never done; those that wait beside it are."""
    first = asyncio.ensure_future(records(held))
    await asyncio.to_thread(held.begun.wait)
    asked = [asyncio.ensure_future(records(put, here, name)) for name in "abc"]
    await asyncio.sleep(0)
    asked[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked[1]
    assert not first.done()
    held.go_on.set()
    assert await asyncio.gather(first, asked[0], asked[2]) == [None, "a", "c"]
    assert kept(here) == {"a", "c"}


async def test_a_unit_that_has_begun_is_waited_for(here: Database, held: Held) -> None:
    """A cancelled caller goes on when its unit has ended and is committed."""

    def late() -> None:
        held()
        put(here, "late")

    caller = asyncio.ensure_future(records(late))
    await asyncio.to_thread(held.begun.wait)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    held.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert kept(here) == {"late"}


class OneByOne(Recorder):
    """Nothing is put together, so the next unit begins when the one before is answered."""

    MOST_TOGETHER = 1


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_cancelled_as_its_answer_comes_hears_of_it(
    database: Database, fails: bool
) -> None:
    """The answer is on its way to the loop when the caller is cancelled: nobody waits for ever for
    another one, and an error in it is not reported as overlooked."""
    recorder, next_began = OneByOne(), threading.Event()
    act = functools.partial(put, database, "a", *("a" if fails else ""))
    caller = asyncio.ensure_future(recorder.run(database, act))
    following = asyncio.ensure_future(recorder.run(database, next_began.set))
    await asyncio.sleep(0)
    # The loop stands still meanwhile.
    assert next_began.wait(60)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 60)
    await following
    assert kept(database) == (set() if fails else {"a"})


def test_a_loop_that_ends_leaves_nothing_behind(database: Database) -> None:
    """What has begun when everything is cancelled is on record when the loop is closed, and what
    waited is never done."""
    recorder, held = Recorder(), Held()

    def late() -> None:
        held()
        put(database, "late")

    async def main() -> list[asyncio.Future[Any]]:
        first = asyncio.ensure_future(recorder.run(database, late))
        await asyncio.to_thread(held.begun.wait)
        waiting = asyncio.ensure_future(recorder.run(database, lambda: put(database, "never")))
        await asyncio.sleep(0)
        # Called back when both have been cancelled.
        waiting.add_done_callback(lambda _: held.go_on.set())
        return [first, waiting]

    asked = asyncio.run(main())
    assert all(each.cancelled() for each in asked)
    assert kept(database) == {"late"}


def test_a_loop_that_is_gone_keeps_nobody_else_waiting(database: Database) -> None:
    """Its callers cannot be told any more; those of another loop are."""
    recorder, held = Recorder(), Held()
    gone = asyncio.new_event_loop()
    caller = gone.create_task(recorder.run(database, held))
    gone.run_until_complete(asyncio.to_thread(held.begun.wait))
    gone.close()
    caller._log_destroy_pending = False  # type: ignore[attr-defined]

    async def main() -> str:
        asked = asyncio.ensure_future(recorder.run(database, lambda: put(database, "a")))
        await asyncio.sleep(0)
        held.go_on.set()
        return await asked

    assert asyncio.run(main()) == "a"


#: Writes rows by `records`, thirty with each commit, and tells each when it is answered; kills
#: itself at the third commit, before it or after it.
_KILLED = """
import asyncio, contextlib, os, signal, sys
from types import SimpleNamespace
from slipway.database import Database
from tasks.services import use_services
from tasks.threads import records
from tests.tasks.test_threads import Held, put

database, when, committed, commits = Database(sys.argv[1]), sys.argv[2], Database._committed, 0

def point(at):
    if at == when and commits == 3:
        os.kill(os.getpid(), signal.SIGKILL)

@contextlib.contextmanager
def watched(self):
    global commits
    with committed(self) as connection:
        yield connection
        commits += 1
        point("before")
    point("after")

Database._committed = watched

async def one(name):
    os.write(1, (await records(put, database, name)).encode() + b" ")

async def main():
    for turn in range(5):
        held = Held()
        first = asyncio.ensure_future(records(held))
        await asyncio.to_thread(held.begun.wait)
        asked = [asyncio.ensure_future(one(f"{turn}-{n}")) for n in range(30)]
        await asyncio.sleep(0)
        held.go_on.set()
        await asyncio.gather(first, *asked)

with use_services(SimpleNamespace(database=database)):
    asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_answered_before_it_is_committed(database_url: str, when: str) -> None:
    """Killed at a commit of many: whatever was answered is there, and of what was not, all that was
    committed with it or nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, database_url, when],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    answered = set(done.stdout.decode().split())
    assert answered == {f"{turn}-{n}" for turn in range(2) for n in range(30)}
    with contextlib.closing(Database(database_url)) as database:
        found = kept(database)
    assert found == answered if when == "before" else len(found) == 90
