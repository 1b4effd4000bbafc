"""Serving: what each address means, and how a file is sent."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from slipway.api.app import create_app
from slipway.database import Database
from slipway.launches.services import build_services
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.days import Day
from slipway.mirrors.site import when_of
from slipway.mirrors.store import Store
from slipway.settings import Settings
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tests.api.world import FakeStarter
from tests.mirrors.world import World


def ask(world: World, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """What the site answers."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(MirrorSite(world.mirror().site()))
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            return await client.request(method, f"/snapshots/{path}", headers=named)

    return asyncio.run(request())


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[tuple[World, list[Day]]]:
    """A mirror that all tests here look at, and none changes: three states, two days apart."""
    directory = tmp_path_factory.mktemp("kept")
    shutil.copyfile(_sqlite_template, directory / "slipway.db")
    database = Database(f"sqlite:///{directory / 'slipway.db'}")
    archive = DebArchive(directory / "upstream")
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(directory / "mirror"), FakeClock(archive.now))
        days = [world.synced()]
        for _ in range(2):
            world.next_day(change=3)
            world.clock.advance(24 * 3600)
            days.append(world.synced())
        yield world, days
    database.close()


@pytest.fixture
def seen(kept: tuple[World, list[Day]]) -> World:
    return kept[0]


@pytest.fixture
def days(kept: tuple[World, list[Day]]) -> list[Day]:
    return kept[1]


def _package(world: World) -> str:
    return min(package.path for package in world.archive.packages.values())


RELEASE = "debian/dists/stable/InRelease"


def test_a_date_is_what_the_repository_was_then(seen: World, days: list[Day]) -> None:
    """Each date has the release of its day, or of the last one before, and says which; before the
    first there is nothing."""
    first = days[0].taken_at
    bodies = {}
    for after, state in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2)):
        day = first + timedelta(days=after)
        answer = ask(seen, f"{day.date()}/{RELEASE}")
        assert answer.status_code == 200
        assert answer.headers["Slipway-Snapshot"] == when_of(days[state].taken_at)
        bodies.setdefault(state, answer.content)
        assert answer.content == bodies[state]
    assert len(set(bodies.values())) == 3
    assert ask(seen, f"latest/{RELEASE}").content == bodies[2]
    assert ask(seen, f"{when_of(days[1].taken_at)}/{RELEASE}").content == bodies[1]
    early = days[1].taken_at - timedelta(seconds=1)
    assert ask(seen, f"{when_of(early)}/{RELEASE}").content == bodies[0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"2026-10-30/{RELEASE}", "debian has no state of 2026-10-30; the first is of 20261101T"),
        (f"2099-01-01/{RELEASE}", "2099-01-01 has not come yet"),
        (f"20990101T000000Z/{RELEASE}", "20990101T000000Z has not come yet"),
        (f"yesterday/{RELEASE}", "'yesterday' is neither a date"),
        (f"2026-13-01/{RELEASE}", "'2026-13-01' is neither a date"),
        ("latest/ubuntu/dists/x", "there is no repository ubuntu here; there are: debian"),
        ("latest/debian/pool/none.deb", "debian has no pool/none.deb in its state of 2026"),
        ("latest/debian/../../etc/passwd", ""),
        ("latest/debian/%2e%2e/x", "is no path of a repository"),
        (f"latest/debian/dists/stable/by-hash/SHA256/{'0' * 64}", "is not here"),
    ],
)
def test_what_is_not_there_is_said(seen: World, days: list[Day], path: str, message: str) -> None:
    """A 404 with one sentence that says why."""
    answer = ask(seen, path)
    assert answer.status_code == 404
    assert message in answer.text


def test_a_package_is_the_one_of_its_day(seen: World, days: list[Day]) -> None:
    """A version that only one day has is there on that day alone, whatever its name's spelling."""
    package = next(p for p in seen.archive.packages.values() if p.revision > 1)
    path = f"debian/{package.path}".replace("+", "%2b")
    assert ask(seen, f"latest/{path}").content == package.deb
    assert ask(seen, f"{days[0].taken_at.date()}/{path}").status_code == 404


def test_an_index_is_found_by_its_hash_on_any_day(seen: World, days: list[Day]) -> None:
    """Whoever has read an older release still gets the indexes it means, by either hash, though the
    address's day has another."""
    path = "dists/stable/main/binary-amd64"
    old = ask(seen, f"{days[0].taken_at.date()}/debian/{path}/Packages.xz").content
    assert old != ask(seen, f"latest/debian/{path}/Packages.xz").content
    for algorithm in ("SHA256", "SHA512"):
        digest = hashlib.new(algorithm, old).hexdigest()
        answer = ask(seen, f"latest/debian/{path}/by-hash/{algorithm}/{digest}")
        assert answer.content == old
        assert "immutable" in answer.headers["Cache-Control"]


def test_what_may_change_is_asked_for_again(seen: World, days: list[Day]) -> None:
    """Days that are over may be kept for ever; `latest` and today may not."""
    over, today = days[0].taken_at.date(), days[-1].taken_at.date()
    assert "immutable" in ask(seen, f"{over}/{RELEASE}").headers["Cache-Control"]
    for when in ("latest", today):
        assert ask(seen, f"{when}/{RELEASE}").headers["Cache-Control"] == "no-cache"


# --- Parts and conditions -------------------------------------------------------------------------


def _asked(seen: World, headers: Mapping[str, str]) -> httpx.Response:
    return ask(seen, f"latest/debian/{_package(seen)}", **headers)


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=100-99999999", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=-99999999", 206, slice(0, None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_part_is_sent(
    seen: World, days: list[Day], wanted: str, status: int, part: slice
) -> None:
    """One part is sent as such; what makes no sense, and several, get the whole file."""
    whole = _asked(seen, {}).content
    answer = _asked(seen, {"Range": wanted})
    assert (answer.status_code, answer.content) == (status, whole[part])
    assert answer.headers["Content-Length"] == str(len(whole[part]))
    if status == 206:
        start = (part.start or 0) % len(whole)
        end = start + len(answer.content) - 1
        assert answer.headers["Content-Range"] == f"bytes {start}-{end}/{len(whole)}"


def test_a_part_behind_the_end(seen: World, days: list[Day]) -> None:
    """416 says how long the file is: a client that has all of it learns so."""
    size = len(_asked(seen, {}).content)
    answer = _asked(seen, {"Range": f"bytes={size}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_a_part_of_another_file_is_not_sent(seen: World, days: list[Day]) -> None:
    """If-Range: the rest is only sent to who has the beginning of the same file."""
    whole = _asked(seen, {})
    for name in ("ETag", "Last-Modified"):
        same = _asked(seen, {"Range": "bytes=10-", "If_Range": whole.headers[name]})
        assert (same.status_code, same.content) == (206, whole.content[10:])
    for other in ('"other"', "Mon, 01 Jan 2024 00:00:00 GMT"):
        answer = _asked(seen, {"Range": "bytes=10-", "If_Range": other})
        assert (answer.status_code, answer.content) == (200, whole.content)


def test_who_has_it_is_told_so(seen: World, days: list[Day]) -> None:
    """304 for the tag or the very time we gave; a time that is merely later proves nothing."""
    whole = ask(seen, f"latest/{RELEASE}")
    tag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    for headers in ({"If_None_Match": f'"x", {tag}'}, {"If_Modified_Since": modified}):
        answer = ask(seen, f"latest/{RELEASE}", **headers)
        assert (answer.status_code, answer.content) == (304, b"")
    for headers in (
        {"If_None_Match": '"x"', "If_Modified_Since": modified},
        {"If_Modified_Since": "Thu, 01 Jan 2099 00:00:00 GMT"},
    ):
        assert ask(seen, f"latest/{RELEASE}", **headers).status_code == 200


def test_who_has_the_release_of_before_gets_the_new_one(world: World) -> None:
    """A client of `latest` sees each new state."""
    world.synced()
    modified = ask(world, f"latest/{RELEASE}").headers["Last-Modified"]
    world.next_day(change=1)
    world.synced()
    again = ask(world, f"latest/{RELEASE}", If_Modified_Since=modified)
    assert again.status_code == 200


def test_head_is_get_without_the_body(seen: World, days: list[Day]) -> None:
    """The same headers, also for parts; other methods are refused."""
    path = f"latest/debian/{_package(seen)}"
    for headers in ({}, {"Range": "bytes=5-"}):
        got, headed = ask(seen, path, **headers), ask(seen, path, "HEAD", **headers)
        assert headed.content == b""
        assert headed.headers == got.headers
    refused = ask(seen, path, "POST")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_what_a_time_stands_for_is_remembered_for_a_moment(world: World) -> None:
    """A client that asks for many files makes the database answer once; then there is a new day."""
    world.synced()
    path = "/snapshots/latest/debian/dists/stable/InRelease"

    async def releases(remembered_s: float) -> list[str]:
        site = MirrorSite(world.mirror().site(), remembered_s=remembered_s)
        transport = httpx.ASGITransport(site)
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
            found = []
            for _ in range(2):
                found.append((await client.get(path)).headers["Slipway-Snapshot"])
                world.next_day(change=1)
                await asyncio.to_thread(world.synced)
        return found

    first, again = asyncio.run(releases(3600.0))
    assert first == again
    first, again = asyncio.run(releases(0.0))
    assert first < again


# --- Pages ----------------------------------------------------------------------------------------


def test_people_can_browse(seen: World, days: list[Day]) -> None:
    """From the calendar to a day, to the pool, to a file, by the links of the pages."""
    overview = ask(seen, "")
    assert "<h1>Repositories by day</h1>" in overview.text
    assert "default-src 'none'" in overview.headers["Content-Security-Policy"]
    for day in days:
        assert f'href="/snapshots/{day.taken_at.date()}/debian/"' in overview.text
    day = days[1].taken_at.date()
    top = ask(seen, f"{day}/debian/")
    assert 'href="dists/"' in top.text
    assert 'href="pool/"' in top.text
    assert re.search(r"<td>stable</td>.*>3</td></tr>", top.text)
    path = next(p.path for p in seen.archive.packages.values() if p.revision == 1)
    folder = ask(seen, f"{day}/debian/{path.rpartition('/')[0]}/")
    assert f'href="{path.rpartition("/")[2]}"' in folder.text.replace("%2B", "+")
    assert "debian" in ask(seen, f"{day}/").text
    assert ask(seen, "2020-01-01/").status_code == 404


def test_a_directory_without_its_slash_leads_there(seen: World, days: list[Day]) -> None:
    """Links in a page are relative to an address that ends in a slash."""
    for path, name in (("latest/debian", "debian/"), ("latest/debian/pool/main", "main/")):
        answer = ask(seen, path)
        assert (answer.status_code, answer.headers["Location"]) == (301, name)


def test_a_state_can_be_asked_for_as_soon_as_it_is_there(world: World) -> None:
    """By its own moment, which is the full second that follows; a later one has not come yet."""
    world.clock.advance(0.2)
    moment = world.synced().taken_at
    assert moment > world.clock.now()
    assert ask(world, f"{when_of(moment)}/{RELEASE}").status_code == 200
    later = when_of(moment + timedelta(seconds=1))
    assert ask(world, f"{later}/{RELEASE}").status_code == 404


def test_names_in_pages_are_text(world: World) -> None:
    """What an upstream names its packages is shown, not run."""
    name, package = next(iter(world.archive.packages.items()))
    evil = f"pool/main/<script>alert(1)</script>/{name}.deb"
    (world.archive.root / evil).parent.mkdir(parents=True)
    (world.archive.root / evil).write_bytes(package.deb)
    world.archive.moved[name] = evil
    world.archive.publish()
    world.synced()
    page = ask(world, "latest/debian/pool/main/").text
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/" in page


async def test_the_api_serves_it_as_well(settings: Settings, archive: DebArchive, web: Web) -> None:
    """The same addresses in the process of the API, without a token."""
    clock = FakeClock(archive.now)
    services = build_services(settings, clock=clock)
    world = World(archive, web, services.database, services.mirror.store, clock)
    day = await asyncio.to_thread(world.synced)
    transport = httpx.ASGITransport(create_app(services, FakeStarter()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get(f"/snapshots/latest/{RELEASE}")
        assert answer.status_code == 200
        assert answer.headers["Slipway-Snapshot"] == when_of(day.taken_at)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert (await client.get("/snapshots/latest/debian/nothing")).status_code == 404
