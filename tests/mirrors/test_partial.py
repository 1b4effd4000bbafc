"""Repositories that are not here whole: what it takes to install some packages, and the rest when
somebody asks for it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from slipway.mirrors import manifest
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.days import Day
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch
from slipway.testing.deb_archive import DebArchive, Package
from slipway.testing.web import Exchange, Web, bit_flipped, missing
from tests.launches.world import DEADLINE_S
from tests.mirrors.world import World

LAZY = Fetch(coverage=Coverage.LAZY)


def _closure(*names: str, templates: tuple[str, ...] = ()) -> Fetch:
    return Fetch(coverage=Coverage.CLOSURE, names=names, named_by_templates=templates)


def _here(world: World) -> set[str]:
    """The packages whose files are here."""
    hashes = {path.name for path in world.store.blobs()}
    return {name for name, each in world.archive.packages.items() if each.sha256 in hashes}


def _coverage(world: World, day: Day) -> Coverage:
    return manifest.load(world.store, day.manifest).coverage


def _ask(world: World, path: str, *, times: int = 1) -> list[httpx.Response]:
    """What the site answers to several who ask at once."""

    async def requests() -> list[httpx.Response]:
        transport = httpx.ASGITransport(MirrorSite(world.mirror().site()))
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
            return list(await asyncio.gather(*(client.get(path) for _ in range(times))))

    return asyncio.run(requests())


@pytest.fixture
def package(world: World) -> Package:
    return world.archive.packages["pkg00003"]


@pytest.fixture
def lazy(world: World) -> World:
    """A mirror with a day of which no package is here."""
    world.fetch = LAZY
    day = world.synced()
    assert (_here(world), _coverage(world, day)) == (set(), Coverage.LAZY)
    return world


def test_a_package_is_fetched_once_for_all_who_ask(lazy: World, package: Package) -> None:
    """As many as ask while it comes; those who come later find it here. None of it is damage."""
    web, path = lazy.web, f"/snapshots/latest/debian/{package.path}"
    assert lazy.mirror().verify() == []
    with web.counting() as requests:
        answers = _ask(lazy, path, times=8)
        answers += _ask(lazy, path)
    assert {(each.status_code, each.content) for each in answers} == {(200, package.deb)}
    assert dict(requests) == {package.path: 1}
    assert _here(lazy) == {package.name}
    assert lazy.mirror().verify() == []


def test_a_client_that_goes_away_does_not_end_it(lazy: World, package: Package) -> None:
    """Its next try finds what was fetched meanwhile."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(exchange: Exchange) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)
        exchange.answer()

    lazy.web.fault(package.path, wait)

    async def ask_and_leave() -> bytes:
        transport = httpx.ASGITransport(MirrorSite(lazy.mirror().site()))
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
            path = f"/snapshots/latest/debian/{package.path}"
            first = asyncio.create_task(client.get(path))
            await asyncio.to_thread(begun.wait, DEADLINE_S)
            first.cancel()
            await asyncio.wait([first])
            go_on.set()
            return (await client.get(path)).content

    with lazy.web.counting() as requests:
        assert asyncio.run(ask_and_leave()) == package.deb
    assert dict(requests) == {package.path: 1}


def test_what_is_not_what_it_should_be_is_not_served(lazy: World, package: Package) -> None:
    """A flipped bit is no package; what the upstream has removed is gone, and said so."""
    path = f"/snapshots/latest/debian/{package.path}"
    lazy.web.fault(package.path, bit_flipped, times=4)
    [refused] = _ask(lazy, path)
    assert (refused.status_code, _here(lazy)) == (502, set())
    lazy.web.fault(package.path, missing)
    [gone] = _ask(lazy, path)
    assert (gone.status_code, gone.text) == (
        404,
        f"debian: nobody asked for {package.path} while its upstream had it\n",
    )
    assert _ask(lazy, path)[0].content == package.deb


def test_what_it_takes_to_install_some_is_here(world: World) -> None:
    """With all it depends on, also of what templates name; of a template's names those of other
    distributions do not count. The day says so."""
    world.fetch = _closure("pkg00003", templates=("pkg00005", "elsewhere"))
    day = world.synced()
    # Each needs the one of half its number.
    assert _here(world) == {"pkg00001", "pkg00002", "pkg00003", "pkg00005"}
    assert _coverage(world, day) is Coverage.CLOSURE
    world.fetch = _closure("pkg00009")
    again = world.synced()
    assert _here(world) >= {"pkg00009", "pkg00004"}
    assert again.manifest == day.manifest
    assert world.mirror().verify() == []


def test_a_package_that_no_suite_has_is_named(world: World) -> None:
    """The day is there, and does not claim to have all of it."""
    world.fetch = _closure("pkg00003", "nosuch")
    done = world.sync()
    assert (done.failures, done.missing) == ({}, ("nosuch",))
    assert _coverage(world, done.days[0]) is Coverage.LAZY
    assert "pkg00003" in _here(world)


def test_one_suite_needs_what_another_has(tmp_path: Path, world: World) -> None:
    """All of them are looked at together."""
    archive = DebArchive(tmp_path / "two", suites=("base", "updates"), packages=4)
    updates = archive.root / "dists/updates"
    # In the updates there is one package alone, whose dependency is in the base.
    others = {name: archive.packages.pop(name) for name in ("pkg00000", "pkg00001", "pkg00002")}
    archive.write_suite("updates")
    archive.packages |= others
    del archive.packages["pkg00003"]
    archive.write_suite("base")
    assert updates.is_dir()
    with Web(archive.root) as web:
        world.archive, world.web, world.fetch = archive, web, _closure("pkg00003")
        done = world.sync()
        assert (done.failures, done.missing) == ({}, ())
        assert _here(world) == {"pkg00001"}


def test_an_upstream_that_changes_while_it_is_filled(world: World) -> None:
    """Suites are taken again until a file that is listed is there."""
    world.fetch = _closure("pkg00003")

    def change(exchange: Exchange) -> None:
        world.archive.advance(change=12, days=0.001)
        world.archive.clean()
        exchange.send(404, b"")

    world.web.fault("pool/*", change)
    day = world.synced()
    assert _coverage(world, day) is Coverage.CLOSURE
    assert _here(world) == {"pkg00001", "pkg00003"}


def test_from_then_on_complete(lazy: World) -> None:
    """When the file says so, an unchanged night fetches what is not here yet; and the other way
    round what is here stays known to be."""
    lazy.fetch = Fetch()
    day = lazy.synced()
    assert _coverage(lazy, day) is Coverage.COMPLETE
    assert lazy.packages(day) == lazy.expected()
    lazy.fetch = LAZY
    assert lazy.synced().manifest == day.manifest
    lazy.next_day(change=3)
    assert _coverage(lazy, lazy.synced()) is Coverage.LAZY
    lazy.fetch = Fetch()
    lazy.next_day(change=3)
    assert lazy.packages(lazy.synced()) == lazy.expected()
