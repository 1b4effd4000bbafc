"""The event streams and the change log behind them: nothing is missing, nothing comes twice."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from slipway import changes, tokens
from slipway.api import events
from slipway.changes import note_change
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.launches.environments import create_environment, delete_environment
from slipway.records import Change, LaunchStatus
from slipway.settings import Settings
from tests.api.conftest import make_world
from tests.api.stream import DEADLINE_S, following
from tests.api.world import ApiWorld

_CHANGES = Change.__table__  # type: ignore[attr-defined]

#: As many threads as the process has for requests, and 500 environments made and deleted.
THREADS = 16
ENVIRONMENTS = 500


@pytest.fixture
def any_world(settings: Settings, any_database: Database, templates: Path) -> ApiWorld:
    """An API on each kind of database in turn."""
    return make_world(settings.model_copy(update={"templates_dir": templates}), any_database)


def _come_and_go(world: ApiWorld, thread: int) -> None:
    """Make environments and delete them, as fast as it goes."""
    database, clock = world.services.database, world.services.clock
    for number in range(thread, ENVIRONMENTS, THREADS):
        name = f"goes-{number:04}"
        create_environment(database, clock, name, actor=f"thread {thread}")
        delete_environment(database, clock, name, actor=f"thread {thread}")


async def _walk(world: ApiWorld, path: str, limit: int) -> list[list[str]]:
    """The names on each page of one walk through a list."""
    pages: list[list[str]] = []
    marker = None
    async with world.client("read") as client:
        while True:
            query: dict[str, Any] = {"limit": limit, **({"marker": marker} if marker else {})}
            body = (await client.get(path, params=query)).json()
            pages.append([item["name"] for item in body["items"]])
            marker = body["next"]
            if marker is None:
                return pages


@pytest.mark.slow
async def test_nothing_is_lost_under_a_thousand_inserts_and_deletes(any_world: ApiWorld) -> None:
    """While 1,000 rows come and go, every walk through the list shows what was there throughout
    exactly once and nothing twice, and a stream that is cut off again and again shows every change
    exactly once, in order."""
    world = any_world
    database, clock = world.services.database, world.services.clock
    stays = [f"goes-{number:04}-stays" for number in range(0, ENVIRONMENTS, 10)]
    for name in stays:
        create_environment(database, clock, name, actor="before")
    async with world.client("read") as client:
        as_of = (await client.get("/v1/environments")).json()["as_of"]
    writers = asyncio.gather(
        *(asyncio.to_thread(_come_and_go, world, thread) for thread in range(THREADS))
    )
    seen: list[int] = []
    walks = 0
    last = str(as_of)
    while not writers.done():
        async with following(world, "/v1/events", last_event_id=last) as stream:
            pages = await _walk(world, "/v1/environments", 7)
            await asyncio.sleep(0)
            names = [name for page in pages for name in page]
            assert len(names) == len(set(names)), "a row was shown twice"
            assert [name for name in names if name in set(stays)] == stays
            walks += 1
            # Cut off in the middle of things, with whatever it has said by then.
            last = stream.last_id()
        seen += stream.ids()
        last = stream.last_id()
    await writers
    with database.reading() as connection:
        query = sa.select(_CHANGES.c.seq).where(_CHANGES.c.seq > as_of).order_by(_CHANGES.c.seq)
        written = list(connection.execute(query).scalars())
    async with following(world, "/v1/events", last_event_id=last) as stream:
        await stream.until(
            lambda found: len(seen) + len(found.ids()) >= 2 * ENVIRONMENTS, "every change"
        )
    seen += stream.ids()
    assert len(written) == 2 * ENVIRONMENTS
    assert seen == written
    assert walks >= 1


async def test_a_number_is_seen_only_after_every_lower_one(any_database: Database) -> None:
    """A reader that goes on behind the last number it saw misses nothing, however the transactions
    overlap: the order of the numbers is the order in which they become visible."""
    clock = SystemClock()
    stop = False

    def write(thread: int) -> None:
        for number in range(30):
            with any_database.transaction() as connection:
                # Noted at once, written at the end: what comes in between overlaps freely.
                note_change(
                    connection, "test.written", f"test/{thread}-{number}", actor="t", at=clock.now()
                )
                connection.execute(sa.text("SELECT count(*) FROM launch"))

    def read() -> list[int]:
        seen: list[int] = []
        while True:
            over = stop
            with any_database.reading() as connection:
                after = seen[-1] if seen else 0
                seen += [each.seq or 0 for each in changes.since(connection, after, limit=50)]
            if over:
                return seen

    reading = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.gather(*(asyncio.to_thread(write, thread) for thread in range(8)))
    stop = True
    seen = await reading
    with any_database.reading() as connection:
        while found := changes.since(connection, seen[-1], limit=500):
            seen += [each.seq or 0 for each in found]
        written = list(
            connection.execute(sa.select(_CHANGES.c.seq).order_by(_CHANGES.c.seq)).scalars()
        )
    assert seen == written
    assert len(written) == 8 * 30


async def test_following_changes(world: ApiWorld) -> None:
    """A stream begins with what happens from now on, and tells it with its kind, id and data."""
    await world.launch()
    async with following(world, "/v1/events") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        made = await world.launch(LaunchStatus.STRANDED, server="web-2")
        await stream.until(lambda found: "launch.stranded" in found.text, "the stranding")
    kinds = [event["event"] for event in stream.events()]
    assert kinds == ["launch.requested", "launch.handed-over", "launch.stranded"]
    last = json.loads(stream.events()[-1]["data"])
    assert last["subject"] == f"launch/{made['id']}"
    assert last["detail"] == {
        "server": "web-2",
        "from": "requested",
        "to": "stranded",
        "reason": "it went wrong",
    }


async def test_filters(world: ApiWorld) -> None:
    """A stream and a page show only the kinds and subjects that are wanted."""
    first = await world.launch(LaunchStatus.OPERATIONAL)
    second = await world.launch(LaunchStatus.OPERATIONAL, server="web-2")
    async with world.client("write") as client:
        await client.post("/v1/environments", json={"name": "staging"})
        query = "changes_since=0&kind=environment&subject=environment/staging"
        async with following(world, "/v1/events", query=query) as stream:
            await stream.until(lambda found: found.events(), "the environment")
        assert [event["event"] for event in stream.events()] == ["environment.created"]
        subject = f"launch/{second['id']}"
        params = {"subject": subject, "kind": ["launch.operational", "launch.requested"]}
        found = (await client.get("/v1/changes", params=params)).json()
    assert [(each["kind"], each["subject"]) for each in found["items"]] == [
        ("launch.requested", subject),
        ("launch.operational", subject),
    ]
    assert first["id"] not in json.dumps(found)


async def test_resuming_behind_what_was_filtered_out(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that has nothing to tell for long still moves its client's position on, so that it
    does not come back with one that is too old."""
    monkeypatch.setattr(events, "RECHECK_S", 0.05)
    async with following(world, "/v1/events", query="kind=environment") as stream:
        await world.launch()
        with world.services.database.reading() as connection:
            newest = str(changes.newest(connection))
        await stream.until(lambda found: found.last_id() == newest, "the new position")
    assert stream.events() == []


async def test_what_was_cleared_away_is_said(world: ApiWorld) -> None:
    """Whoever asks for changes that are not on record any more, or not yet, is told so."""
    await world.launch(LaunchStatus.OPERATIONAL)
    database, now = world.services.database, world.services.clock.now()
    with database.transaction() as connection:
        newest = changes.newest(connection)
        assert changes.clear_away(connection, now + timedelta(seconds=60)) == newest
        assert changes.clear_away(connection, now + timedelta(seconds=60)) == 0
    async with world.client("read") as client:
        for since in (newest - 1, newest + 1):
            for path in ("/v1/changes", "/v1/events", "/v1/launches", "/v1/servers"):
                answer = await client.get(path, params={"changes_since": since})
                assert answer.status_code == 410, path
                assert answer.json()["type"] == "urn:slipway:problem:changes-gone"
        answer = await client.get("/v1/changes", params={"changes_since": newest})
        assert answer.json() == {"items": [], "as_of": newest}
    # The next one gets a new number, though the table is empty.
    await world.launch(server="web-2")
    with database.reading() as connection:
        assert [each.seq for each in changes.since(connection, newest, limit=1)] == [newest + 1]


async def test_following_one_launch(world: ApiWorld) -> None:
    """A launch's stream tells its audit from the first entry on, goes on behind the last one a
    client has, and ends with the launch; a client that has everything is told not to come back."""
    made = await world.launch()
    path = f"/v1/launches/{made['id']}/events"
    async with following(world, path) as stream:
        await stream.until(lambda found: found.ids()[:1] == [1], "the first entry")
        world.drive(made["id"], LaunchStatus.BOOTING)
        await stream.until(lambda found: "provisioning → booting" in found.text, "booting")
        first = stream.ids()
    async with following(world, path, last_event_id=str(first[-1])) as stream:
        world.drive(made["id"], LaunchStatus.TERMINATED)
        await stream.until(lambda found: found.ended, "its end")
    assert first + stream.ids() == list(range(1, stream.ids()[-1] + 1))
    assert "decommissioning → terminated" in stream.text
    async with following(world, path, last_event_id=str(stream.ids()[-1])) as over:
        await over.until(lambda found: found.ended, "its end")
        assert over.status == 204


async def test_a_stream_ends_with_its_token(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked token's streams end as well."""
    monkeypatch.setattr(events, "RECHECK_S", 0.05)
    async with following(world, "/v1/events") as stream:
        tokens.revoke(world.services.database, world.services.clock, "read", actor="test")
        await stream.until(lambda found: found.ended, "its end")


async def test_streams_are_bounded(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more stream than a process holds is refused, with a time to come back."""
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    async with following(world, "/v1/events"), world.client("read") as client:
        answer = await client.get("/v1/events")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "30"


async def test_a_listener_that_is_far_behind_reads_the_database(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More changes than are held at hand are read in pieces, and none is missing."""
    from slipway.api import feed

    monkeypatch.setattr(feed, "AT_HAND", 3)
    monkeypatch.setattr(feed, "AT_ONCE", 2)
    async with following(world, "/v1/events") as stream:
        async with asyncio.timeout(DEADLINE_S):
            for number in range(5):
                await world.launch(server=f"web-{number}")
        # Of each launch two, and the commit of the template.
        await stream.until(lambda found: len(found.ids()) >= 11, "eleven changes")
    assert stream.ids() == sorted(set(stream.ids()))
    assert len(stream.ids()) == 11
