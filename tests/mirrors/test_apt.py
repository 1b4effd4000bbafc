"""Real apt against a real server: updates, resolves, downloads and unpacks from frozen days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from slipway.database import Database
from slipway.mirrors import manifest
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.days import Day
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch
from slipway.mirrors.sources import apt_sources
from slipway.mirrors.store import Store
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tests.mirrors.apt import APT, Apt
from tests.mirrors.world import World
from tests.pages.serving import serving

pytestmark = APT


@pytest.fixture
def world(tmp_path: Path, database: Database) -> Iterator[World]:
    """As elsewhere, with dates that apt accepts; releases hold for two days."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    archive = DebArchive(tmp_path / "upstream", start=start, valid_for=timedelta(days=2))
    with Web(archive.root) as web:
        yield World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(start))


def _sources(world: World, day: Day, url: str, when: object) -> str:
    state = manifest.load(world.store, day.manifest)
    return apt_sources(
        [state],
        url=f"{url}/snapshots/{when}/debian",
        keyring=str(world.archive.keyring),
        name="debian",
        frozen=True,
    )


def test_apt_installs_from_three_days(world: World, tmp_path: Path) -> None:
    """On each day apt gets the versions of that day, with all they depend on, though every release
    but the last has run out."""
    taken: list[tuple[Day, dict[str, str]]] = []
    for _ in range(3):
        taken.append((world.synced(), world.expected()))
        world.next_day(change=8)
    name = max(world.archive.packages)
    with serving(MirrorSite(world.mirror().site())) as url:  # type: ignore[arg-type]
        for number, (day, versions) in enumerate(taken):
            apt = Apt(tmp_path / f"apt{number}", _sources(world, day, url, day.taken_at.date()))
            apt.run("update")
            apt.run("install", "-y", "--download-only", name)
            found = apt.unpack()
            assert found == {package: versions[package] for package in found}
            assert len(found) > 2
    assert taken[0][1][name] != taken[-1][1][name] or len({str(v) for _, v in taken}) == 3


def test_apt_installs_what_is_fetched_for_it(world: World, tmp_path: Path) -> None:
    """Of a day of which no package is here, apt gets those that it asks for."""
    world.fetch = Fetch(coverage=Coverage.LAZY)
    day, versions = world.synced(), world.expected()
    with serving(MirrorSite(world.mirror().site())) as url:  # type: ignore[arg-type]
        apt = Apt(tmp_path / "apt", _sources(world, day, url, day.taken_at.date()))
        apt.run("update")
        apt.run("install", "-y", "--download-only", "pkg00009")
        found = apt.unpack()
    assert found == {
        name: versions[name] for name in ("pkg00001", "pkg00002", "pkg00004", "pkg00009")
    }


def test_apt_refuses_what_was_tampered_with(world: World, tmp_path: Path) -> None:
    """A byte that changed on our disk is no package for apt."""
    day = world.synced()
    package = next(iter(world.archive.packages.values()))
    with serving(MirrorSite(world.mirror().site())) as url:  # type: ignore[arg-type]
        apt = Apt(tmp_path / "apt", _sources(world, day, url, "latest"))
        apt.run("update")
        blob = next(
            path
            for path in (world.store.root / "cas").rglob("*/*/*")
            if path.is_file() and path.read_bytes() == package.deb
        )
        blob.chmod(0o644)
        blob.write_bytes(package.deb[:-1] + bytes([package.deb[-1] ^ 1]))
        refused = apt.run("download", package.name, check=False)
    assert refused.returncode != 0
    assert "Hash Sum mismatch" in refused.stderr


class Flipping:
    """Takes new days before each request, so that every file a client asks for is of another day
    than the one it asked for before."""

    def __init__(self, app: ASGIApp, world: World, *, flips: int) -> None:
        self.app = app
        self.world = world
        self.flips = flips
        self.done = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for _ in range(self.flips):
                self.world.archive.advance(change=1, days=0.01)
                self.world.clock.advance(900)
                self.world.synced()
                self.done += 1
        await self.app(scope, receive, send)


@pytest.mark.slow
def test_latest_may_change_between_any_two_requests(world: World, tmp_path: Path) -> None:
    """A hundred new days under a reading apt: not one update fails."""
    day = world.synced()
    app = Flipping(MirrorSite(world.mirror().site()), world, flips=6)
    with serving(app) as url:  # type: ignore[arg-type]
        apt = Apt(tmp_path / "apt", _sources(world, day, url, "latest"))
        while app.done < 100:
            apt.run("update")
