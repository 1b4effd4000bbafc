"""All days as directories for a web server that knows nothing of days."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipway.database import Database
from slipway.errors import InvalidInput, NotFound
from slipway.mirrors.days import Day
from slipway.mirrors.export import Export, Exported
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch
from slipway.mirrors.site import Found, when_of
from slipway.mirrors.sources import apt_sources
from slipway.mirrors.store import Store
from slipway.testing.archive import Archive
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web
from tests.mirrors.apt import APT, Apt
from tests.mirrors.world import World


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "export"


def export(world: World, tree: Path) -> Exported:
    mirror = world.mirror()
    return Export(mirror.site(), world.store, world.clock, tree).repository(world.repository.name)


def same_as_served(world: World, tree: Path, when: str) -> int:
    """Every file that a state names is at its path in the tree; answers how many there are."""
    site, name, count = world.mirror().site(), world.repository.name, 0
    resolved = site.resolve(when, name)
    for day in resolved.days:
        state = site.state(day)
        paths = list(state.files)
        for ref in state.listings.values():
            with Listing(world.store.path(ref.sha256)) as listing:
                paths += [entry.path for entry in listing]
        for path in paths:
            found = site.look(when, name, path)
            assert isinstance(found, Found)
            assert (tree / "snapshots" / when / name / path).read_bytes() == found.blob.read_bytes()
            count += 1
    return count


def links(tree: Path) -> set[Path]:
    return {
        Path(directory, name)
        for directory, directories, files in os.walk(tree)
        for name in (*directories, *files)
        if Path(directory, name).is_symlink()
    }


def test_each_time_has_the_files_that_are_served_then(world: World, tree: Path) -> None:
    """Dates without a sync of their own, moments and ``latest`` included; also by hash."""
    days = [world.synced()]
    for _ in range(2):
        world.next_day(change=3, add=2, remove=1)
        world.clock.advance(24 * 3600)
        days.append(world.synced())
    first = days[0].taken_at
    export(world, tree)
    dates = [str((first + timedelta(days=n)).date()) for n in range(5)]
    for when in (*dates, *(when_of(day.taken_at) for day in days), "latest"):
        assert same_as_served(world, tree, when) > 10
    shown = {path.name for path in (tree / "snapshots").iterdir()}
    assert shown == {*dates, *(when_of(day.taken_at) for day in days), "latest"}
    state = world.mirror().site().state(days[0])
    for path, ref in state.files.items():
        # A client that has read an older release than `latest` has by now.
        by_hash = tree / "snapshots/latest/debian" / Path(path).parent / "by-hash/SHA256"
        assert (by_hash / ref.sha256).read_bytes() == world.store.read(ref.sha256)


def test_the_tree_may_be_moved_with_the_store(world: World, tmp_path: Path) -> None:
    """No link names a place above both."""
    world.synced()
    export(world, tmp_path / "export")
    for link in links(tmp_path / "export"):
        assert not link.readlink().is_absolute()
        assert link.exists(), link


def test_an_unchanged_day_costs_its_addresses(world: World, tree: Path) -> None:
    """A date and a moment, however many packages there are; again costs nothing."""
    world.synced()
    export(world, tree)
    before = links(tree)
    world.clock.advance(24 * 3600)
    day = world.synced()
    done = export(world, tree)
    assert (done.states, done.links) == (0, 2)
    names = {str(day.taken_at.date()), when_of(day.taken_at)}
    assert {link.parent.name for link in links(tree) - before} == names
    assert export(world, tree).links == 0


def test_a_changed_day_costs_what_changed(world: World, tree: Path) -> None:
    """One link to the pool for each package that is new."""
    world.synced()
    export(world, tree)
    pool = links(tree / "shared")
    world.next_day(change=2)
    world.synced()
    assert export(world, tree).states == 1
    assert len(pool) == len(world.archive.packages)
    assert len(links(tree / "shared") - pool) == 2


def test_the_same_path_with_other_bytes(world: World, tree: Path) -> None:
    """Repositories that build anew under the same name: each day has its own bytes."""
    days = [world.synced()]
    for _ in range(2):
        name, package = next(iter(world.archive.packages.items()))
        rebuilt = replace(package, payload_bytes=package.payload_bytes + 7)
        assert rebuilt.path == package.path
        (world.archive.root / package.path).unlink()
        world.archive.packages[name] = rebuilt  # type: ignore[assignment]
        world.next_day(change=0)
        days.append(world.synced())
    export(world, tree)
    for day in days:
        same_as_served(world, tree, when_of(day.taken_at))
    assert len(list((tree / "shared/debian").iterdir())) == 3


def test_what_is_not_kept_any_more_goes(world: World, tree: Path) -> None:
    """Its addresses, its state, and the links to files that no other state has."""
    days = [world.synced()]
    for _ in range(2):
        world.next_day(change=4, remove=2)
        days.append(world.synced())
    export(world, tree)
    with world.database.transaction() as connection:
        world.mirror().days.remove(connection, "debian", days[:1], world.clock.now())
    done = export(world, tree)
    # The date, the moment and the state.
    assert done.removed == 3
    assert not (tree / "snapshots" / when_of(days[0].taken_at)).exists()
    same_as_served(world, tree, when_of(days[1].taken_at))
    same_as_served(world, tree, "latest")
    kept = {
        *world.packages(days[1]).items(),
        *world.packages(days[2]).items(),
    }
    pool = {
        tuple(path.name.removesuffix(".deb").split("_")[:2])
        for path in (tree / "shared").rglob("*.deb")
    }
    assert pool == kept
    assert export(world, tree).links == 0


def test_what_is_not_fetched_yet_has_its_link(world: World, tree: Path) -> None:
    """It is there as soon as somebody has asked the mirror for it."""
    world.fetch = Fetch(coverage=Coverage.LAZY)
    world.synced()
    export(world, tree)
    package = next(iter(world.archive.packages.values()))
    link = tree / "snapshots/latest/debian" / package.path
    assert link.is_symlink()
    assert not link.exists()
    world.store.put(package.deb)
    assert link.read_bytes() == package.deb


def test_metadata_of_rpm_repositories(database: Database, tmp_path: Path, tree: Path) -> None:
    """A client that has read an older ``repomd.xml`` than is there by now finds the metadata that
    it means."""
    archive = RpmArchive(tmp_path / "upstream")
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(archive.now))
        days = [world.synced()]
        export(world, tree)
        world.next_day(change=2)
        days.append(world.synced())
        export(world, tree)
        for day in days:
            same_as_served(world, tree, when_of(day.taken_at))
        old = world.mirror().site().state(days[0])
        for path, ref in old.files.items():
            if ref.sha256 in path:
                latest = tree / "snapshots/latest/rocky" / path
                assert latest.read_bytes() == world.store.read(ref.sha256)


def test_only_an_export_is_written_into(world: World, tmp_path: Path) -> None:
    """A directory with something else in it is refused; so is a repository without a day."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").touch()
    with pytest.raises(InvalidInput, match=r"home: this has files in it that are no export"):
        export(world, tmp_path / "home")
    with pytest.raises(NotFound, match="debian has no days to be exported"):
        export(world, tmp_path / "new")


@APT
def test_apt_installs_from_what_was_exported(tmp_path: Path, database: Database) -> None:
    """Served by a plain web server, from two days."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    archive: Archive = DebArchive(tmp_path / "upstream", start=start)
    taken: list[tuple[Day, dict[str, str]]] = []
    with Web(archive.root) as web:
        assert isinstance(archive, DebArchive)
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(start))
        for _ in range(2):
            taken.append((world.synced(), world.expected()))
            world.next_day(change=8)
    export(world, tmp_path / "export")
    name = max(world.archive.packages)
    with Web(tmp_path / "export") as plain:
        for number, (day, versions) in enumerate(taken):
            sources = apt_sources(
                [world.mirror().site().state(day)],
                url=f"{plain.url}/snapshots/{day.taken_at.date()}/debian",
                keyring=str(world.archive.keyring),
                name="debian",
                frozen=True,
            )
            apt = Apt(tmp_path / f"apt{number}", sources)
            apt.run("update")
            apt.run("install", "-y", "--download-only", name)
            found = apt.unpack()
            assert found == {package: versions[package] for package in found}
            assert len(found) > 2
