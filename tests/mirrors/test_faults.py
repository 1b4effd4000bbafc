"""Upstreams that misbehave: what can be had is had, nothing bad is kept, and the rest is named."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pysequoia import Tsk

from slipway.database import Database
from slipway.errors import (
    DiskFull,
    MirrorError,
    ReleaseRefused,
    UpstreamInconsistent,
    UpstreamUnavailable,
)
from slipway.mirrors import fetch, store
from slipway.mirrors.fetch import ROUNDS
from slipway.mirrors.store import Store
from slipway.mirrors.taking import REBASES
from slipway.testing import web as faults
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Exchange, Fault, Web
from tests.mirrors.world import World

ALWAYS = 10**6


def _failure(world: World) -> MirrorError:
    """What was wrong with the only suite; nothing was published."""
    before = world.days()
    done = world.sync()
    assert done.days == ()
    assert world.days() == before
    world.assert_sound()
    error = done.failures["stable"]
    assert "\n" not in str(error)
    return error


# --- Bodies ---------------------------------------------------------------------------------------

BODIES: dict[str, Fault] = {
    "cut off": faults.cut_off,
    "short": faults.short,
    "long": faults.long,
    "bit flipped": faults.bit_flipped,
    "html": faults.html,
    "unavailable": faults.unavailable,
    "reset": faults.reset,
}


@pytest.fixture
def _each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is small enough to be received in memory."""
    monkeypatch.setattr(fetch, "SMALL_BYTES", -1)


@pytest.fixture(params=["small", "large"])
def _of_both_sizes(request: pytest.FixtureRequest) -> None:
    """What is received in memory, and what goes to the disk as it arrives."""
    if request.param == "large":
        request.getfixturevalue("_each_by_itself")


@pytest.mark.usefixtures("_of_both_sizes")
@pytest.mark.parametrize("path", ["pool/*", "*/by-hash/*", "*/InRelease"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_wrong_once_costs_no_day(world: World, path: str, name: str) -> None:
    """Whatever comes wrong is fetched again until it is right; the bytes here are always right."""
    world.web.fault(path, BODIES[name])
    assert world.packages(world.synced()) == world.expected()
    world.assert_sound()


@pytest.mark.usefixtures("_of_both_sizes")
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_stays_wrong_is_named(world: World, name: str) -> None:
    """After so many tries the day is given up, the old one stays, and the sentence names the file
    and what came instead."""
    first = world.synced()
    world.next_day(change=1)
    world.web.fault("pool/*", BODIES[name], times=ALWAYS)
    error = _failure(world)
    assert f"{world.web.url}/pool/main/p/" in str(error)
    said = {
        "cut off": "the body ended ",
        "short": " bytes instead of ",
        "long": "more than ",
        "bit flipped": "with SHA-256 ",
        "html": "41 bytes instead of ",
        "unavailable": "HTTP 503 Service Unavailable",
        "reset": "the connection broke: ",
    }
    assert said[name] in str(error)
    lasting = name in ("short", "long", "bit flipped", "html")
    assert isinstance(error, UpstreamInconsistent if lasting else UpstreamUnavailable)
    assert world.packages(world.days()[0]) == world.packages(first)


@pytest.mark.usefixtures("_each_by_itself")
def test_a_stalled_body_is_given_up_and_gone_on_with(world: World) -> None:
    """When nothing arrives any more, the next try asks for what is missing and not for all."""
    starts: list[str] = []

    def remember(exchange: Exchange) -> None:
        starts.append(exchange._handler.headers.get("Range", ""))
        exchange.answer()

    world.web.fault("pool/*", faults.stalled(world.web))
    world.web.fault("pool/*", remember, times=ALWAYS)
    day = world.synced(stall_s=0.3)
    assert world.packages(day) == world.expected()
    assert [start for start in starts if start] != []
    assert "bytes=0-" not in starts


@pytest.mark.usefixtures("_of_both_sizes")
def test_a_body_that_trickles_is_given_up(world: World) -> None:
    """An upstream that sends a byte a minute does not hold a sync for days."""
    world.web.fault("pool/*", faults.slow(world.clock.advance), times=ROUNDS - 1)
    assert world.packages(world.synced()) == world.expected()
    world.next_day(change=1)
    world.web.fault("pool/*", faults.slow(world.clock.advance), times=ALWAYS)
    assert "bytes arrived in" in str(_failure(world))


@pytest.mark.usefixtures("_each_by_itself")
def test_an_upstream_without_ranges_is_read_from_the_start(world: World) -> None:
    """A 200 to a request for the rest is the whole file: it is not appended to the first half."""
    world.web.fault("pool/*", faults.cut_off)
    world.web.fault("pool/*", faults.without_ranges, times=ALWAYS)
    assert world.packages(world.synced()) == world.expected()


def test_retry_after_is_honoured(world: World) -> None:
    """When the upstream says when to come back, we come back then."""
    world.web.fault("*/InRelease", faults.unavailable)
    world.synced()
    assert 7 <= max(world.clock.slept) < 9


# --- Changes under our hands ----------------------------------------------------------------------


def _flip(world: World, at: str, *, clean: bool, times: int = 1) -> Callable[[str, int], None]:
    """Publish the next state just before a file is asked for."""
    left, turn = [times], threading.Lock()

    def before(path: str, _count: int) -> None:
        if at not in path:
            return
        with turn:
            if not left[0]:
                return
            left[0] -= 1
            world.archive.advance(change=3, days=0.01)
            if clean:
                world.archive.clean()
                for old in (world.archive.root / "dists").rglob("by-hash"):
                    shutil.rmtree(old)
                world.archive.publish()

    return before


@pytest.mark.parametrize("at", ["Packages", "pool/", "Release.gpg", "by-hash"])
@pytest.mark.parametrize("clean", [False, True], ids=["keeps old files", "removes old files"])
def test_an_upstream_that_changes_meanwhile(world: World, at: str, clean: bool) -> None:
    """Between the release and any later file, also with the old files gone: what is published in
    the end is one consistent state."""
    world.web.before = _flip(world, at, clean=clean)
    world.clock.advance(3600)
    day = world.synced()
    found = world.packages(day)
    if clean:
        assert found == world.expected()
    assert set(found) == set(world.expected())


def test_an_upstream_that_never_comes_to_rest_is_given_up(world: World) -> None:
    """Looking again is bounded; nothing is published, and the sentence says what it was."""
    world.clock.advance(24 * 3600)
    world.web.before = _flip(world, "pool/", clean=True, times=ALWAYS)
    error = _failure(world)
    assert isinstance(error, UpstreamInconsistent)
    assert f"did not fit each other, {REBASES + 1} times in a row" in str(error)


def test_a_file_that_is_listed_and_never_there_is_named(world: World) -> None:
    """An archive that lists what it does not have cannot be taken, and the file is named."""
    name, package = next(iter(world.archive.packages.items()))
    (world.archive.root / package.path).unlink()
    error = _failure(world)
    assert isinstance(error, UpstreamInconsistent)
    assert f"{name}_1.1+b1_{package.architecture}.deb is listed and not there" in str(error)


# --- Releases that must not be published ----------------------------------------------------------


def _append(path: Path, *, before: bytes = b"", after: bytes = b"") -> None:
    path.write_bytes(before + path.read_bytes() + after)


def _prefix(archive: DebArchive) -> None:
    _append(archive.root / "dists/stable/InRelease", before=b"Origin: Evil\n")


def _suffix(archive: DebArchive) -> None:
    _append(archive.root / "dists/stable/InRelease", after=b"Origin: Evil\n")


def _wrong_key(archive: DebArchive) -> None:
    archive.write_suite("stable", key=Tsk.generate("Evil <evil@example.org>"))


def _expired(archive: DebArchive) -> None:
    archive.write_suite("stable", date=archive.now - timedelta(days=6))


def _future(archive: DebArchive) -> None:
    archive.write_suite("stable", date=archive.now + timedelta(hours=1))


def _rolled_back(archive: DebArchive) -> None:
    archive.write_suite("stable", date=archive.now - timedelta(days=2))


REFUSED: dict[str, tuple[Callable[[DebArchive], None], str]] = {
    "prefix": (_prefix, "there is text outside the signed block"),
    "suffix": (_suffix, "there is text outside the signed block"),
    "wrong key": (_wrong_key, "no valid signature by a key of the keyring of debian"),
    "expired": (_expired, "its release was valid until 2026-11-01 00:00 UTC"),
    "future": (_future, "which is in the future"),
    "rolled back": (_rolled_back, "the upstream was rolled back"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_release_that_must_not_be_published(
    tmp_path: Path, database: Database, name: str
) -> None:
    """Nothing is published, the newest day stays, and one sentence says why."""
    damage, message = REFUSED[name]
    archive = DebArchive(tmp_path / "upstream", valid_for=timedelta(days=5))
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(archive.now))
        first = world.synced()
        world.next_day(change=1)
        damage(archive)
        error = _failure(world)
        assert isinstance(error, ReleaseRefused)
        assert message in str(error)
        assert world.mirror().days.newest("debian") == [first]
        # It is not the day that is bad: once the upstream is mended, it is taken.
        archive.write_suite("stable")
        assert world.packages(world.synced()) == world.expected()


def test_a_release_that_ran_out_is_refused_though_unchanged(
    tmp_path: Path, database: Database
) -> None:
    """An upstream that stopped publishing is noticed on the night its release runs out."""
    archive = DebArchive(tmp_path / "upstream", valid_for=timedelta(days=5))
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(archive.now))
        world.synced()
        world.clock.advance(6 * 24 * 3600)
        assert "the upstream is stale" in str(_failure(world))


# --- The disk -------------------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_before_anything_is_fetched(world: World) -> None:
    """What is missing is added up first: without room for it and the reserve, no file is asked
    for."""
    done = world.sync(reserve_bytes=1 << 60)
    error = done.failures["stable"]
    assert isinstance(error, DiskFull)
    assert "have to stay so" in str(error)
    assert [path for path in world.web.requests if path.startswith("pool/")] == []


@pytest.mark.usefixtures("_of_both_sizes")
def test_a_disk_that_is_full_all_the_same_is_survived(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old day stays, no half file is left, and once there is room the sync goes on."""
    first = world.synced()
    before = world.expected()
    world.next_day(change=5)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_sync_all", lambda: full)
    error = _failure(world)
    assert isinstance(error, DiskFull)
    assert f"the disk of {world.store.root} is full" in str(error)
    assert [path for path in (world.store.root / "incoming").rglob("*") if path.is_file()] == []
    assert world.packages(first) == before
    monkeypatch.undo()
    assert world.packages(world.synced()) == world.expected()
