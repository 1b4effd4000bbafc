"""Looking after the store: damage is found and healed, old days go, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from slipway.errors import BlobBroken, Conflict, NotFound
from slipway.mirrors import leases, manifest
from slipway.mirrors.care import GRACE, to_keep
from slipway.mirrors.days import Day
from slipway.mirrors.progress import Progress
from slipway.mirrors.repository import AptRepository, Keep
from tests.mirrors.world import ACTOR, World


def _repositories(world: World, **keep: int) -> dict[str, AptRepository]:
    return {"debian": replace(world.repository, keep=Keep(**keep))}


def _damage(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _age(world: World) -> None:
    """Every file here becomes older than a running sync could be."""
    old = (world.clock.now() - GRACE - timedelta(hours=1)).timestamp()
    for path in world.store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))


# --- Verify and repair ----------------------------------------------------------------------------


def test_a_sound_mirror_verifies(world: World) -> None:
    """Every file of every day is read, each once."""
    world.synced()
    world.next_day(change=2)
    world.synced()
    assert world.mirror().verify() == []


def _blob_of(world: World, kind: str) -> tuple[Path, str]:
    """A file of the newest day, and how it is named."""
    state = manifest.load(world.store, world.days()[0].manifest)
    if kind == "package":
        package = next(iter(world.archive.packages.values()))
        return world.store.path(hashlib.sha256(package.deb).hexdigest()), package.path
    if kind == "index":
        path = "dists/stable/main/binary-amd64/Packages.xz"
        return world.store.path(state.files[path].sha256), path
    [ref] = state.listings.values()
    return world.store.path(ref.sha256), "a document of the mirror's own"


@pytest.mark.parametrize("kind", ["package", "index", "listing"])
@pytest.mark.parametrize("missing", [False, True], ids=["damaged", "missing"])
def test_what_is_broken_is_named_and_healed(world: World, kind: str, missing: bool) -> None:
    """One sentence names the file; the repair fetches or makes it again, and all is sound."""
    day = world.synced()
    path, name = _blob_of(world, kind)
    if missing:
        path.unlink()
    else:
        _damage(path)
    [broken] = world.mirror().verify()
    assert str(broken).startswith(
        f"debian: {name} is {'missing' if missing else 'damaged'} (SHA-256 {path.name}"
    )
    healed = world.mirror().repair(_repositories(world), actor=ACTOR)
    assert [each.healed for each in healed] == [True]
    assert world.mirror().verify() == []
    assert world.packages(day) == world.expected()


def test_an_old_index_is_healed_by_its_hash(world: World) -> None:
    """Its name at the upstream means another file by now; its hash does not."""
    world.synced()
    path, _ = _blob_of(world, "index")
    world.next_day(change=2)
    world.synced()
    path.unlink()
    assert [b.healed for b in world.mirror().repair(_repositories(world), actor=ACTOR)] == [True]
    assert path.is_file()


def test_what_nobody_has_any_more_stays_named(world: World) -> None:
    """A package that the upstream has removed cannot be fetched; it is not called healed."""
    world.synced()
    path, name = _blob_of(world, "package")
    path.unlink()
    (world.archive.root / name).unlink()
    [broken] = world.mirror().repair(_repositories(world), actor=ACTOR)
    assert not broken.healed
    assert [str(each) for each in world.mirror().verify()] == [str(broken)]


# --- Retention ------------------------------------------------------------------------------------


def _at(day: int, hour: int = 2) -> datetime:
    return datetime(2026, 1, 1, hour, tzinfo=UTC) + timedelta(days=day)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(daily=3, weekly=0, monthly=0), [97, 98, 99]),
        # The Sundays of the last weeks, and today: 2026-01-01 is a Thursday, 99 a Friday.
        (Keep(daily=0, weekly=3, monthly=0), [87, 94, 99]),
        # The last days of January to March, and today.
        (Keep(daily=0, weekly=0, monthly=4), [30, 58, 89, 99]),
        (Keep(daily=0, weekly=0, monthly=0), [99]),
        (Keep(daily=2, weekly=2, monthly=2), [89, 94, 98, 99]),
    ],
)
def test_what_a_retention_leaves(keep: Keep, kept: list[int]) -> None:
    """The newest of each of the last days, weeks and months; the newest of all in any case."""
    moments = [_at(day) for day in range(100)]
    assert sorted(to_keep(moments, keep)) == [_at(day) for day in kept]


def test_of_several_states_of_a_day_the_newest_stays() -> None:
    """A day counts once, however often it was synced."""
    moments = [_at(0), _at(0, 9), _at(1), _at(1, 9)]
    assert sorted(to_keep(moments, Keep(daily=2, weekly=0, monthly=0))) == [_at(0, 9), _at(1, 9)]


def _three(world: World) -> list[Day]:
    found = [world.synced()]
    for _ in range(2):
        world.next_day(change=3)
        found.append(world.synced())
    return found


def test_old_days_go_with_the_files_that_only_they_had(world: World) -> None:
    """A dry run says what the real one does; the days that stay are complete, and what was removed
    is said to be, instead of another state in its place."""
    days = _three(world)
    _age(world)
    mirror, repositories = world.mirror(), _repositories(world, daily=1, weekly=0, monthly=0)
    before = sorted(world.store.root.rglob("*"))
    planned = mirror.prune(repositories, actor=ACTOR, dry_run=True)
    assert sorted(world.store.root.rglob("*")) == before
    assert [day.taken_at for _, day in planned.days] == [day.taken_at for day in days[:2]]
    done = mirror.prune(repositories, actor=ACTOR)
    assert (done.files, done.bytes) == (planned.files, planned.bytes)
    assert done.files >= 6
    assert world.packages(days[2]) == world.expected()
    assert mirror.verify() == []
    assert [day.taken_at for day in world.days()] == [days[2].taken_at]
    with pytest.raises(NotFound, match=r"debian of 2026-11-02 was removed on 2026-11-03"):
        mirror.site().look(str(days[1].taken_at.date()), "debian", "dists/stable/InRelease")
    assert mirror.prune(repositories, actor=ACTOR).files == 0


def test_a_pinned_day_stays(world: World) -> None:
    """However old it is, with all its files, until it is let go."""
    days = _three(world)
    before = world.packages(days[0])
    mirror, repositories = world.mirror(), _repositories(world, daily=1, weekly=0, monthly=0)
    mirror.pins.add("debian", days[0].taken_at.date(), "release 4.2", world.clock.now())
    assert mirror.pins.of("debian") == {date(2026, 11, 1): "release 4.2"}
    _age(world)
    mirror.prune(repositories, actor=ACTOR)
    assert [day.taken_at for day in world.days()] == [days[2].taken_at, days[0].taken_at]
    assert world.packages(days[0]) == before
    mirror.pins.remove("debian", days[0].taken_at.date())
    mirror.prune(repositories, actor=ACTOR)
    assert [day.taken_at for day in world.days()] == [days[2].taken_at]


def test_a_day_without_changes_outlives_its_row(world: World) -> None:
    """What was removed is still served while a day that stays is the same state."""
    first = world.synced()
    world.clock.advance(24 * 3600)
    world.synced()
    mirror = world.mirror()
    mirror.prune(_repositories(world, daily=1, weekly=0, monthly=0), actor=ACTOR)
    assert len(world.days()) == 1
    found = mirror.site().look(str(first.taken_at.date()), "debian", "dists/stable/InRelease")
    assert found.taken_at == first.taken_at  # type: ignore[union-attr]


def test_young_files_stay_though_no_day_names_them(world: World) -> None:
    """They may be of a sync that was killed and will be gone on with."""
    world.synced()
    orphan = world.store.path(world.store.put(b"nobody names this"))
    now = world.clock.now().timestamp()
    os.utime(orphan, (now, now))
    mirror, repositories = world.mirror(), _repositories(world)
    assert mirror.prune(repositories, actor=ACTOR).files == 0
    world.clock.advance(GRACE.total_seconds() + 1)
    assert mirror.prune(repositories, actor=ACTOR).files == 1
    assert not orphan.exists()
    assert mirror.verify() == []


def test_files_are_not_removed_under_a_sync(world: World) -> None:
    """While a sync is under way nothing is removed, and while files are removed no sync begins."""
    world.synced()
    world.next_day(change=4)
    refused: list[str] = []

    def prune(path: str, _count: int) -> None:
        if not path.endswith("InRelease"):
            return
        with pytest.raises(Conflict) as caught:
            world.mirror().prune(_repositories(world), actor=ACTOR)
        refused.append(str(caught.value))

    world.web.before = prune
    world.synced()
    assert refused == ["a sync of debian is under way; files are removed when it has ended"]
    world.web.before = lambda _path, _count: None

    with (
        leases.removing(world.database, world.clock, actor=ACTOR, progress=Progress()),
        pytest.raises(Conflict, match="files of mirrors are being removed; try again later"),
    ):
        world.sync()
    world.synced()


def test_nothing_is_removed_while_a_document_is_damaged(world: World) -> None:
    """What it names is not known and would be taken for garbage."""
    days = _three(world)
    _age(world)
    _damage(world.store.path(days[2].manifest))
    blobs = sorted(world.store.blobs())
    with pytest.raises(BlobBroken, match="nothing is removed before it is repaired"):
        world.mirror().prune(_repositories(world, daily=1), actor=ACTOR)
    assert sorted(world.store.blobs()) == blobs
