"""A mirror whose upstream is another one: the same days, checked as those of any upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from slipway.database import Database
from slipway.errors import NotFound, SlipwayError, UpstreamUnavailable
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch, Repository
from slipway.mirrors.store import Store
from slipway.mirrors.sync import Mirror, Synced
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web
from tests.mirrors.world import ACTOR, World
from tests.pages.serving import serving


@dataclass
class Replica:
    """Another mirror, and the one it has its days from."""

    mirror: Mirror
    store: Store
    repository: Repository
    url: str

    def take(self) -> list[Synced]:
        return list(self.mirror.replicate(self.repository, f"{self.url}/snapshots", actor=ACTOR))

    def states(self) -> list[tuple[str, str, str]]:
        history = self.mirror.days.history(self.repository.name)
        return [(day.suite, str(day.taken_at), day.manifest) for day in history]


@contextmanager
def replica_of(world: World, tmp_path: Path, template: Path) -> Iterator[Replica]:
    """One that knows no other upstream."""
    url = f"sqlite:///{tmp_path / 'replica.db'}"
    (tmp_path / "replica.db").write_bytes(template.read_bytes())
    database, store = Database(url), Store(tmp_path / "replica")
    # As at the end of years: every release has run out, and the peer's clock is not looked at.
    clock = FakeClock(world.clock.now() + timedelta(days=1000))
    mirror = Mirror(store, database, clock, reserve_bytes=0, connections=4, stall_s=20.0)
    with serving(MirrorSite(world.mirror().site(), remembered_s=0.0)) as peer:  # type: ignore[arg-type]
        yield Replica(mirror, store, world.with_urls("http://127.0.0.1:1/none"), peer)
    database.close()


def template_of(request: pytest.FixtureRequest) -> Path:
    """A database with all tables, to be copied."""
    found: Path = request.getfixturevalue("_sqlite_template")
    return found


@pytest.fixture
def replica(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replica]:
    with replica_of(world, tmp_path, template_of(request)) as found:
        yield found


def states(world: World) -> list[tuple[str, str, str]]:
    return [(day.suite, str(day.taken_at), day.manifest) for day in world.days()]


def blobs(store: Store) -> set[str]:
    return {path.name for path in store.blobs()}


def test_it_has_the_same_days_and_files(
    tmp_path: Path, database: Database, request: pytest.FixtureRequest
) -> None:
    """Moments and documents are the same, also of releases that have run out since; what it has is
    not asked for again, and later days follow."""
    archive = DebArchive(
        tmp_path / "upstream", suites=("stable", "updates"), valid_for=timedelta(days=3)
    )
    with Web(archive.root) as web:
        store = Store(tmp_path / "mirror")
        world = World(archive, web, database, store, FakeClock(archive.now))
        world.synced()
        world.next_day(change=3)
        world.synced()
        world.clock.advance(24 * 3600)
        world.synced()
        with replica_of(world, tmp_path, template_of(request)) as replica:
            done = replica.take()
            assert [each.failures for each in done] == [{}, {}, {}]
            assert replica.states() == states(world)
            assert blobs(replica.store) == blobs(world.store)
            # An unchanged day is one request for each suite.
            assert done[2].requests == 2
            assert replica.take() == []
            world.next_day(change=1)
            world.synced()
            assert [each.files for each in replica.take()] != [0]
            assert replica.states() == states(world)


def test_rpm_repositories(
    tmp_path: Path, database: Database, request: pytest.FixtureRequest
) -> None:
    """As well."""
    archive = RpmArchive(tmp_path / "upstream")
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(archive.now))
        world.synced()
        world.next_day(change=2)
        world.synced()
        with replica_of(world, tmp_path, template_of(request)) as replica:
            assert [each.failures for each in replica.take()] == [{}, {}]
            assert replica.states() == states(world)
            assert blobs(replica.store) == blobs(world.store)


def test_what_is_not_signed_is_not_believed(world: World, replica: Replica, tmp_path: Path) -> None:
    """A peer cannot tell a replica what the distribution has not said; nothing is published."""
    other = DebArchive(tmp_path / "other", seed=99)
    world.synced()
    replica.repository = replace(replica.repository, keyring=other.keyring.read_bytes())
    done = replica.take()
    assert [each.days for each in done] == [()]
    assert "no valid signature" in str(done[0].failures["stable"])
    assert replica.states() == []


def test_a_day_that_cannot_be_taken_is_not_left_out(world: World, replica: Replica) -> None:
    """Later ones wait for it: a date must not come to mean another state afterwards."""
    world.synced()
    world.next_day(change=1)
    broken = world.synced()
    world.next_day(change=1)
    world.synced()
    gone = _only_of(world, broken.manifest)
    kept = world.store.path(gone).read_bytes()
    world.store.path(gone).unlink()
    done = replica.take()
    assert [bool(each.failures) for each in done] == [False, True]
    assert replica.states() == states(world)[-1:]
    world.store.put(kept)
    assert [each.failures for each in replica.take()] == [{}, {}]
    assert replica.states() == states(world)


def _only_of(world: World, manifest: str) -> str:
    """An index that only this state has."""
    site = world.mirror().site()
    by_manifest = {
        day.manifest: {
            ref.sha256 for path, ref in site.state(day).files.items() if "/Packages" in path
        }
        for day in world.days()
    }
    mine = by_manifest.pop(manifest)
    return min(mine - set().union(*by_manifest.values()))


def test_days_that_are_here_stay_what_they_are(world: World, replica: Replica) -> None:
    """Only later ones are taken: what was published before does not change."""
    world.synced()
    world.next_day(change=1)
    replica.mirror.sync(world.repository, actor=ACTOR)
    before = replica.states()
    assert replica.take() == []
    assert replica.states() == before


def test_of_a_mirror_that_is_not_whole_the_same_is_here(world: World, replica: Replica) -> None:
    """What the peer fetches when it is asked for, a replica fetches so from its own upstream."""
    world.fetch = Fetch(coverage=Coverage.LAZY)
    world.synced()
    replica.repository = replace(replica.repository, fetch=world.fetch)
    assert [each.failures for each in replica.take()] == [{}]
    assert replica.states() == states(world)
    assert blobs(replica.store) == blobs(world.store)


def test_who_is_no_mirror_is_said(world: World, replica: Replica) -> None:
    """One sentence that says what was looked for where."""
    with pytest.raises(NotFound, match="the peer has no repository debian; it has: none"):
        replica.take()
    peer, replica.url = replica.url, f"{replica.url}/elsewhere"
    with pytest.raises(UpstreamUnavailable, match=r"elsewhere/snapshots/states\.json"):
        replica.take()
    replica.url = peer
    world.synced()
    (world.archive.root / "snapshots").mkdir()
    for text in ("<html>", "[]", '{"schema": "other"}', '{"schema": "slipway-states/1"}'):
        (world.archive.root / "snapshots/states.json").write_text(text)
        replica.url = world.web.url
        with pytest.raises(SlipwayError, match=r"states\.json does not list the days of a mirror"):
            replica.take()


def test_the_list_of_days(world: World) -> None:
    """Is a document that anybody may ask for."""
    day = world.synced()
    with serving(MirrorSite(world.mirror().site())) as url:  # type: ignore[arg-type]
        answer = httpx.get(f"{url}/snapshots/states.json", trust_env=False)
    assert answer.headers["content-type"] == "application/json"
    (stated,) = json.loads(answer.content)["repositories"]["debian"]
    assert stated == {"taken_at": f"{day.taken_at:%Y%m%dT%H%M%SZ}", "suite": "stable"}


def test_a_replica_heals_its_peer(world: World, replica: Replica) -> None:
    """Named second among the addresses of a repository, it has what the upstream has not any
    more."""
    world.synced()
    old = world.packages(world.days()[0])
    world.next_day(change=5)
    world.synced()
    replica.take()
    before = blobs(world.store)
    for path in world.store.blobs():
        path.unlink()
    for path in world.archive.root.rglob("*.deb"):
        if path.name not in {Path(p.path).name for p in world.archive.packages.values()}:
            path.unlink()
    with serving(MirrorSite(replica.mirror.site())) as url:  # type: ignore[arg-type]
        both = world.with_urls(world.web.url, f"{url}/snapshots/latest/debian")
        healed = world.mirror().repair({"debian": both}, actor=ACTOR)
    assert all(each.healed for each in healed), [str(each) for each in healed if not each.healed]
    assert blobs(world.store) == before
    assert world.packages(world.days()[-1]) == old
