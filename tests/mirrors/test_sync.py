"""Taking days: what is taken, what is not fetched again, and what is on record."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from slipway import steps
from slipway.database import Database
from slipway.errors import Conflict, LeaseLost, ReleaseRefused, UpstreamUnavailable
from slipway.mirrors import manifest
from slipway.mirrors.days import Day, Days, next_moment
from slipway.mirrors.difference import PackageChange, compare
from slipway.mirrors.leases import LEASE_S
from slipway.mirrors.repository import AptRepository
from slipway.mirrors.store import Store
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tests.mirrors.world import ACTOR, World


def test_a_day_is_what_the_distribution_has(world: World) -> None:
    """The first sync fetches every package and index once, and puts the day on record."""
    done = world.sync()
    assert done.failures == {}
    assert world.packages(done.days[0]) == world.expected()
    assert max(world.web.requests.values()) == 1
    assert done.requests == world.web.total
    assert done.days[0].changes["added"] == len(world.archive.packages)
    state = manifest.load(world.store, done.days[0].manifest)
    signed = (world.archive.root / "dists/stable/InRelease").read_bytes()
    assert world.store.read(state.files["dists/stable/InRelease"].sha256) == signed
    assert set(state.files) == {
        "dists/stable/InRelease",
        "dists/stable/Release",
        "dists/stable/Release.gpg",
        "dists/stable/main/binary-amd64/Packages.xz",
        "dists/stable/main/i18n/Translation-en.xz",
    }


def test_a_night_without_changes_is_one_request(world: World) -> None:
    """One GET of InRelease a suite; the new day names the same state and takes no room."""
    first = world.synced()
    blobs = sorted(world.store.root.rglob("*"))
    world.clock.advance(24 * 3600)
    with world.web.counting() as requests:
        second = world.synced()
    assert requests == {"dists/stable/InRelease": 1}
    assert second.manifest == first.manifest
    assert second.taken_at == first.taken_at + timedelta(days=1)
    assert second.changes == {}
    assert sorted(world.store.root.rglob("*")) == blobs


def test_only_what_changed_is_fetched(world: World) -> None:
    """New and changed packages are fetched, the others are not asked for; both days stay."""
    first = world.synced()
    before = world.expected()
    world.next_day(change=2, add=1, remove=1)
    with world.web.counting() as requests:
        second = world.synced()
    assert len([path for path in requests if path.startswith("pool/")]) == 3
    assert world.packages(second) == world.expected()
    assert world.packages(first) == before
    counts = {name: second.changes[name] for name in ("added", "removed", "changed")}
    assert counts == {"added": 1, "removed": 1, "changed": 2}


def test_the_difference_names_packages(world: World) -> None:
    """Between two days: which package went from which version to which, and the bytes of it."""
    first = world.synced()
    name = sorted(world.archive.packages)[3]
    old = world.archive.packages[name]
    world.archive.packages[name] = dataclasses.replace(old, revision=9)
    world.next_day(change=0)
    second = world.synced()
    states = [manifest.load(world.store, day.manifest) for day in (first, second)]
    found = compare(world.store, *states)
    assert found.changes == (
        PackageChange(
            package=name, architecture=old.architecture, before=("1.1+b1",), after=("1.9+b1",)
        ),
    )
    assert found.new_bytes == len(world.archive.packages[name].deb)
    assert compare(world.store, states[0], states[0]).changes == ()


def test_one_path_may_have_other_bytes_another_day(world: World) -> None:
    """A third-party repository that builds again under the same name: each day keeps its own."""
    first = world.synced()
    name, package = next(iter(world.archive.packages.items()))
    rebuilt = dataclasses.replace(package, payload_bytes=package.payload_bytes + 7)
    assert rebuilt.path == package.path
    (world.archive.root / package.path).unlink()
    world.archive.packages[name] = rebuilt
    world.next_day(change=0)
    second = world.synced()
    assert world.packages(first) == world.packages(second)
    one, two = (manifest.load(world.store, day.manifest).listings for day in (first, second))
    assert one != two
    assert len(list((world.store.root / "cas").rglob("*"))) > len(world.archive.packages)


def test_several_suites_are_one_moment(tmp_path: Path, database: Database) -> None:
    """All suites of a sync have the same time; what several share is fetched once."""
    archive = DebArchive(tmp_path / "upstream", suites=("stable", "stable-updates"))
    with Web(archive.root) as web:
        world = World(archive, web, database, _store(tmp_path), FakeClock(archive.now))
        done = world.sync()
    assert [day.suite for day in done.days] == ["stable", "stable-updates"]
    assert len({day.taken_at for day in done.days}) == 1
    assert max(n for path, n in web.requests.items() if path.startswith("pool/")) == 1


def test_one_bad_suite_does_not_stop_the_others(tmp_path: Path, database: Database) -> None:
    """It is named with what is wrong, keeps the day it had, and the others get theirs."""
    archive = DebArchive(tmp_path / "upstream", suites=("stable", "testing"))
    with Web(archive.root) as web:
        world = World(archive, web, database, _store(tmp_path), FakeClock(archive.now))
        world.sync()
        shutil.rmtree(archive.root / "dists/testing")
        world.clock.advance(24 * 3600)
        done = world.sync()
    assert [day.suite for day in done.days] == ["stable"]
    assert "debian testing: the upstream has neither" in str(done.failures["testing"])
    newest = {day.suite: day.taken_at for day in world.mirror().days.newest("debian")}
    assert newest["stable"] - newest["testing"] == timedelta(days=1)


def test_an_upstream_without_by_hash_and_without_inrelease(
    tmp_path: Path, database: Database
) -> None:
    """Old archives have only Release and Release.gpg, and files by their names."""
    archive = DebArchive(tmp_path / "upstream", by_hash=False)
    (archive.root / "dists/stable/InRelease").unlink()
    with Web(archive.root) as web:
        world = World(archive, web, database, _store(tmp_path), FakeClock(archive.now))
        first = world.synced()
        with web.counting() as requests:
            assert world.synced().manifest == first.manifest
    assert requests == {"dists/stable/InRelease": 1, "dists/stable/Release": 1}
    assert world.packages(first) == world.expected()


def test_a_stale_signature_beside_a_good_release_is_left_out(world: World) -> None:
    """InRelease says all; a cache that has an old Release.gpg beside it costs nobody the day."""
    stale = (world.archive.root / "dists/stable/Release.gpg").read_bytes()
    world.next_day(change=1)
    (world.archive.root / "dists/stable/Release.gpg").write_bytes(stale)
    day = world.synced()
    assert world.packages(day) == world.expected()
    served = manifest.load(world.store, day.manifest).files
    assert "dists/stable/InRelease" in served
    assert not {"dists/stable/Release", "dists/stable/Release.gpg"} & set(served)


def test_a_flat_repository(world: World) -> None:
    """A directory with packages and a release in it, as third parties publish them."""
    source, flat = world.archive.root / "dists/stable", world.archive.root / "flat"
    (flat / "pool").mkdir(parents=True)
    shutil.copytree(world.archive.root / "pool", flat / "pool", dirs_exist_ok=True)
    packages = (source / "main/binary-amd64/Packages.gz").read_bytes()
    (flat / "Packages.gz").write_bytes(packages)
    world.archive.write_flat(flat, {"Packages.gz": packages})
    repository = AptRepository(
        name="flat",
        urls=(f"{world.web.url}/flat",),
        suites=("/",),
        keyring=world.archive.keyring.read_bytes(),
        signed_by=str(world.archive.keyring),
    )
    done = world.mirror().sync(repository, actor=ACTOR)
    assert done.failures == {}
    assert world.packages(done.days[0]) == world.expected()


def test_a_component_that_is_not_there_is_named(world: World) -> None:
    """What the configuration asks for and the release does not have is an error, not nothing."""
    repository = dataclasses.replace(world.repository, components=("main", "contrib"))
    done = world.mirror().sync(repository, actor=ACTOR)
    assert isinstance(done.failures["stable"], ReleaseRefused)
    assert str(done.failures["stable"]) == (
        "debian stable: its release has no contrib/binary-amd64/Packages; it has the components "
        "main and the architectures all amd64"
    )


def test_the_next_address_is_asked_when_the_first_is_gone(world: World) -> None:
    """Addresses in order of preference: a dead one costs time, not the day."""
    repository = world.with_urls("http://127.0.0.1:9", world.web.url)
    done = world.mirror().sync(repository, actor=ACTOR)
    assert done.failures == {}
    dead = world.mirror().sync(world.with_urls("http://127.0.0.1:9"), actor=ACTOR)
    assert isinstance(dead.failures["stable"], UpstreamUnavailable)
    assert "http://127.0.0.1:9/dists/stable/InRelease: " in str(dead.failures["stable"])
    assert "refused" in str(dead.failures["stable"])


def _store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mirror")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- One at a time --------------------------------------------------------------------------------


def test_a_second_sync_is_told_who_is_at_work(world: World) -> None:
    """While one sync of a repository is under way, another of it is refused by name."""
    refused: list[Conflict] = []

    def second(_path: str, count: int) -> None:
        if count == 3:
            with pytest.raises(Conflict) as caught:
                world.sync()
            refused.append(caught.value)

    world.web.before = second
    world.synced()
    assert f"mirror/debian is being driven by process {os.getpid()} on" in str(refused[0])
    assert len(world.days()) == 1


def test_a_lease_is_kept_and_what_was_taken_over_publishes_nothing(world: World) -> None:
    """A sync that takes longer than the lease renews it; one whose lease another took stops."""

    def pass_time(_path: str, _count: int) -> None:
        world.clock.advance(LEASE_S / 3)

    world.web.before = pass_time
    world.synced(stall_s=1000.0)
    world.next_day(change=5)

    def take_over(_path: str, _count: int) -> None:
        world.clock.advance(2 * LEASE_S)
        with world.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE lease SET epoch = epoch + 1")

    world.web.before = take_over
    with pytest.raises(LeaseLost):
        world.sync(stall_s=1000.0)
    assert len(world.days()) == 1


# --- Killed ---------------------------------------------------------------------------------------

_SYNC = """
import sys
from pathlib import Path
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.mirrors.repository import AptRepository
from slipway.mirrors.store import Store
from slipway.mirrors.sync import Mirror
store, database, url, keyring = sys.argv[1:]
repository = AptRepository(
    name="debian",
    urls=(url,),
    suites=("stable",),
    keyring=Path(keyring).read_bytes(),
    signed_by=keyring,
)
mirror = Mirror(Store(Path(store)), Database(database), SystemClock(), reserve_bytes=0)
done = mirror.sync(repository, actor="test")
sys.exit(str(done.failures) if done.failures else 0)
"""


@pytest.mark.parametrize("at", [2, 8])
def test_killed_anywhere_nothing_is_lost(
    tmp_path: Path, database_url: str, database: Database, at: int
) -> None:
    """A sync that is killed in the middle leaves no bad blob and the old day; the next one fetches
    nothing again that was complete."""
    archive = DebArchive(tmp_path / "upstream", start=datetime(2026, 1, 1, tzinfo=UTC))
    with Web(archive.root) as web:
        world = World(archive, web, database, _store(tmp_path), FakeClock(archive.now))
        first, before = world.synced(), world.expected()
        world.next_day(change=6)
        started = threading.Event()

        def kill(path: str, count: int) -> None:
            started.wait()
            if count >= base + at:
                process.send_signal(signal.SIGKILL)
                process.wait()

        base = web.total
        web.before = kill
        command = [sys.executable, "-c", _SYNC, str(world.store.root), database_url]
        process = subprocess.Popen([*command, web.url, str(archive.keyring)])
        started.set()
        assert process.wait() == -signal.SIGKILL
        web.before = lambda _path, _count: None
        world.assert_sound()
        assert [day.manifest for day in world.days()] == [first.manifest]
        assert world.packages(first) == before
        arrived = {
            path.name.partition("-")[0]
            for top in ("cas", "incoming")
            for path in (world.store.root / top).rglob("*/*")
            if path.is_file() and path.stat().st_size
        }
        with web.counting() as requests:
            second = world.synced()
        assert world.packages(second) == world.expected()
        for package in archive.packages.values():
            if _sha256(package.deb) in arrived:
                assert requests[package.path] == 0
        assert [path for path in (world.store.root / "incoming").rglob("*") if path.is_file()] == []


# --- Days -----------------------------------------------------------------------------------------


def _day(suite: str, taken_at: datetime, manifest: str) -> Day:
    return Day(suite=suite, taken_at=taken_at, manifest=manifest * 64)


def test_dates_and_times_resolve(any_database: Database) -> None:
    """A time is the newest state at or before it, a date the first state of that day or the newest
    before it: a second sync on a day does not move what the date stands for."""
    days = Days(any_database)
    moment = datetime(2026, 11, 20, 2, tzinfo=UTC)
    later = moment + timedelta(hours=9)
    after = moment + timedelta(days=2)
    with any_database.transaction() as connection:
        days.append(connection, "debian", [_day("a", moment, "1"), _day("b", moment, "2")])
        days.append(connection, "debian", [_day("a", later, "3")])
        days.append(connection, "debian", [_day("a", after, "4"), _day("b", after, "5")])
        days.append(connection, "other", [_day("a", moment, "6")])

    def found(rows: list[Day]) -> str:
        return "".join(row.manifest[0] for row in rows)

    assert found(days.at("debian", moment - timedelta(seconds=1))) == ""
    assert found(days.at("debian", moment)) == "12"
    assert found(days.at("debian", later)) == "32"
    assert found(days.newest("debian")) == "45"
    assert found(days.on("debian", date(2026, 11, 19))) == ""
    assert found(days.on("debian", date(2026, 11, 20))) == "12"
    assert found(days.on("debian", date(2026, 11, 21))) == "32"
    assert found(days.on("debian", date(2026, 11, 22))) == "45"
    assert found(days.history("debian")) == "45312"
    assert days.repositories() == ["debian", "other"]


def test_a_state_is_never_of_a_moment_that_is_over() -> None:
    """Whoever asked for a moment before gets the same answer for it later."""
    now = datetime(2026, 11, 20, 2, 0, 0, 400_000, tzinfo=UTC)
    second = datetime(2026, 11, 20, 2, 0, 1, tzinfo=UTC)
    assert next_moment(now, None) == second
    assert next_moment(second, None) == second
    assert next_moment(now, second) == second + timedelta(seconds=1)


def test_days_are_written_by_whoever_holds_the_lease(world: World) -> None:
    """The lease is given back after a sync, also after one that failed."""
    world.synced()
    assert not steps.is_driven(world.database, world.clock, "mirror/debian")
    shutil.rmtree(world.archive.root / "dists")
    assert world.sync().days == ()
    assert not steps.is_driven(world.database, world.clock, "mirror/debian")
