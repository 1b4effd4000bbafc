"""Looking after the store: is every file of every day here and sound, and which are of no day."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import BlobBroken, MirrorError
from slipway.mirrors import indexes, leases, listing, manifest
from slipway.mirrors.days import Day, Days
from slipway.mirrors.events import DAYS_REMOVED, tell
from slipway.mirrors.fetch import Upstream
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.pins import Pins
from slipway.mirrors.progress import Progress
from slipway.mirrors.repository import Keep, Repository
from slipway.mirrors.store import Store

#: A file that no day names stays for so long: a sync of before may be about to name it.
GRACE = timedelta(hours=24)
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that days name."""

    sha256: str
    #: None for documents of our own, of which only the hash is known.
    size: int | None
    repository: str
    #: From the top of the repository; empty for documents of our own.
    path: str
    #: It need not be here: of its suite only what somebody asks for is.
    optional: bool = False
    #: For a listing, the index it was made from: its path and its SHA-256.
    made_from: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A file that is missing or has other bytes than it should."""

    wanted: Wanted
    missing: bool
    healed: bool = False

    @property
    def named(self) -> str:
        """Which file it is, for people."""
        return self.wanted.path or "a document of the mirror's own"

    def __str__(self) -> str:
        what = "is missing" if self.missing else "is damaged"
        return f"{self.wanted.repository}: {self.named} {what} (SHA-256 {self.wanted.sha256})"

    def data(self) -> dict[str, str | bool]:
        """For programs."""
        return {
            "repository": self.wanted.repository,
            "path": self.wanted.path,
            "sha256": self.wanted.sha256,
            "missing": self.missing,
        }


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed, or would be."""

    #: With the names of their repositories.
    days: tuple[tuple[str, Day], ...]
    files: int
    bytes: int


class Care:
    """The store and the days of all repositories."""

    def __init__(self, store: Store, database: Database, clock: Clock) -> None:
        self._store = store
        self._database = database
        self._clock = clock
        self._days = Days(database)
        self._pins = Pins(database)

    def verify(self, progress: Progress) -> list[Broken]:
        """Read everything that days name. Raises `Stopped`."""
        found: list[Broken] = []
        # The size of the store stands for that: to add up what days name takes as long as half of
        # the work.
        sizes = [path.stat().st_size for path in self._store.blobs()]
        progress.expect(len(sizes), sum(sizes))
        seen: set[bytes] = set()
        for wanted in self._all_wanted(found.append):
            key = bytes.fromhex(wanted.sha256)
            # Another day may need what this one need not have.
            if key in seen or (wanted.optional and self._store.size(wanted.sha256) is None):
                continue
            seen.add(key)
            progress.check()
            broken = self._look(wanted, progress)
            if broken is not None:
                found.append(broken)
            progress.finished()
        # A document that could not be read was reported where it was needed.
        return list({each.wanted.sha256: each for each in found}.values())

    def repair(
        self, repositories: Mapping[str, Repository], *, actor: str, progress: Progress
    ) -> list[Broken]:
        """Fetch what is broken from where it came from, by its hash, or make it again; answers all
        that was. What a document names shows when that has been repaired: it goes on until nothing
        new does."""
        done: dict[str, Broken] = {}
        with leases.removing(self._database, self._clock, actor=actor, progress=progress) as alive:
            while fresh := [each for each in self.verify(progress) if _key(each) not in done]:
                # Indexes before the listings that are made of them.
                for each in sorted(fresh, key=lambda broken: broken.wanted.path == ""):
                    alive()
                    done[_key(each)] = replace(
                        each, healed=self._heal(each, repositories, progress)
                    )
        return list(done.values())

    def prune(
        self,
        repositories: Mapping[str, Repository],
        *,
        actor: str,
        named: Collection[date],
        dry_run: bool,
        shown: Pruned | None,
        progress: Progress,
    ) -> Pruned:
        """Remove the days that are not to be kept, of those that were ``shown`` if given, then the
        files that no day names. Raises `Conflict` while a sync is under way, `Stopped`."""
        with leases.removing(self._database, self._clock, actor=actor, progress=progress) as alive:
            going = {
                name: self._too_old(name, each.keep, named) for name, each in repositories.items()
            }
            if shown is not None:
                known = {(name, day.suite, day.taken_at) for name, day in shown.days}
                going = {
                    name: [day for day in days if (name, day.suite, day.taken_at) in known]
                    for name, days in going.items()
                }
            kept = self._reachable(going)
            if not dry_run:
                self._remove(going, actor)
            files = size = 0
            for path, status in self._unreachable(kept):
                alive()
                files, size = files + 1, size + status.st_size
                if not dry_run:
                    path.unlink()
            if not dry_run:
                self._store.forget_aliases()
                self._store.forget_derived()
        return Pruned(
            days=tuple((name, day) for name, days in going.items() for day in days),
            files=files,
            bytes=size,
        )

    # --- What there should be ---------------------------------------------------------------------

    def _all_wanted(self, report: Callable[[Broken], None]) -> Iterator[Wanted]:
        for repository in self._days.repositories():
            manifests = {day.manifest for day in self._days.history(repository)}
            for name in sorted(manifests):
                yield from self._wanted_by(repository, name, report)

    def _wanted_by(
        self, repository: str, name: str, report: Callable[[Broken], None]
    ) -> Iterator[Wanted]:
        """A document that cannot be read is reported, and what it names is not known."""

        def own(sha256: str) -> Wanted:
            return Wanted(sha256=sha256, size=None, repository=repository, path="")

        try:
            state = manifest.load(self._store, name)
        except BlobBroken:
            missing = self._store.size(name) is None
            report(Broken(wanted=own(name), missing=missing))
            return
        yield own(name)
        for path, file in state.files.items():
            yield Wanted(sha256=file.sha256, size=file.size, repository=repository, path=path)
        for path, ref in state.listings.items():
            document = replace(own(ref.sha256), made_from=(path, ref.index))
            yield document
            try:
                with Listing(self._store.path(ref.sha256)) as listing:
                    for entry in listing:
                        yield Wanted(
                            sha256=entry.sha256,
                            size=entry.size,
                            repository=repository,
                            path=entry.path,
                            optional=state.coverage is not Coverage.COMPLETE,
                        )
            except (BlobBroken, FileNotFoundError):
                missing = self._store.size(ref.sha256) is None
                report(Broken(wanted=document, missing=missing))

    def _look(self, wanted: Wanted, progress: Progress) -> Broken | None:
        path = self._store.path(wanted.sha256)
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
                    progress.arrived(len(data))
        except FileNotFoundError:
            return Broken(wanted=wanted, missing=True)
        if digest.hexdigest() != wanted.sha256:
            return Broken(wanted=wanted, missing=False)
        return None

    def _heal(
        self, broken: Broken, repositories: Mapping[str, Repository], progress: Progress
    ) -> bool:
        wanted = broken.wanted
        if wanted.made_from is not None:
            return self._make_again(broken, *wanted.made_from)
        repository = repositories.get(wanted.repository)
        if repository is None:
            return False
        if not broken.missing:
            self._store.discard(wanted.sha256)
        upstream = Upstream(repository.urls, self._clock)
        if wanted.size is None:
            return self._fetch_document(upstream, wanted.sha256)
        directory, _, _ = wanted.path.rpartition("/")
        places = [wanted.path, f"{directory}/by-hash/SHA256/{wanted.sha256}".lstrip("/")]
        try:
            for place in places:
                try:
                    if upstream.fetch(
                        place, wanted.sha256, wanted.size, self._store, progress.arrived
                    ):
                        self._store.settle()
                        return True
                except MirrorError:
                    # Another file is there by now; it may still be known by its hash.
                    continue
            return False
        finally:
            upstream.close()

    def _fetch_document(self, upstream: Upstream, sha256: str) -> bool:
        """A document of our own, which only another mirror can have."""
        try:
            data = upstream.document(f"by-hash/SHA256/{sha256}")
        except MirrorError:
            return False
        finally:
            upstream.close()
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            return False
        self._store.put(data)
        self._store.settle()
        return True

    def _make_again(self, broken: Broken, path: str, index: str) -> bool:
        wanted = broken.wanted
        if self._store.size(index) is None:
            return False
        data = listing.write(indexes.entries(self._store.path(index), path, path), path)
        if hashlib.sha256(data).hexdigest() != wanted.sha256:
            return False
        if not broken.missing:
            self._store.discard(wanted.sha256)
        self._store.put(data)
        self._store.settle()
        return True

    # --- What there should not be -----------------------------------------------------------------

    def _remove(self, going: Mapping[str, Sequence[Day]], actor: str) -> None:
        now = self._clock.now()
        with self._database.transaction() as connection:
            for name, days in going.items():
                if days:
                    self._days.remove(connection, name, days, now)
                    detail = {"days": [f"{day.suite} {day.taken_at.isoformat()}" for day in days]}
                    tell(connection, DAYS_REMOVED, name, actor=actor, at=now, detail=detail)

    def _too_old(self, repository: str, keep: Keep, named: Collection[date]) -> list[Day]:
        """Each suite by itself: one that could not be taken lately keeps what it has."""
        history = self._days.history(repository)
        pinned = self._pinned(repository, named)
        going: list[Day] = []
        for suite in {day.suite for day in history}:
            days = [day for day in history if day.suite == suite]
            kept = to_keep((day.taken_at for day in days), keep)
            going += [
                day
                for day in days
                if day.taken_at not in kept and (suite, day.taken_at) not in pinned
            ]
        return sorted(going, key=lambda day: (day.taken_at, day.suite))

    def _pinned(self, repository: str, named: Collection[date]) -> set[tuple[str, datetime]]:
        """The suites and moments that the pinned and the named days stand for."""
        return {
            (day.suite, day.taken_at)
            for on in {*self._pins.of(repository), *named}
            for day in self._days.on(repository, on)
        }

    def _reachable(self, without: Mapping[str, Sequence[Day]]) -> set[bytes]:
        """The hashes of all that the days name that stay. Raises `BlobBroken` for a document that
        cannot be read: what it names is not known, and might be taken for garbage."""

        def refuse(broken: Broken) -> None:
            raise BlobBroken(f"{broken}; nothing is removed before it is repaired")

        found: set[bytes] = set()
        for repository in self._days.repositories():
            going = {(day.suite, day.taken_at) for day in without.get(repository, ())}
            history = self._days.history(repository)
            staying = [day for day in history if (day.suite, day.taken_at) not in going]
            manifests = {day.manifest for day in staying}
            for name in manifests:
                found.update(
                    bytes.fromhex(wanted.sha256)
                    for wanted in self._wanted_by(repository, name, refuse)
                )
        return found

    def _unreachable(self, kept: set[bytes]) -> Iterator[tuple[Path, os.stat_result]]:
        youngest = (self._clock.now() - GRACE).timestamp()
        for path in itertools.chain(self._store.blobs(), self._store.leftovers()):
            if path.parent.parent.name == "sha256" and bytes.fromhex(path.name) in kept:
                continue
            status = path.stat()
            if status.st_mtime < youngest:
                yield path, status


def _key(broken: Broken) -> str:
    return broken.wanted.sha256


def to_keep(moments: Iterable[datetime], keep: Keep) -> set[datetime]:
    """Of moments, those a retention leaves: the newest of each of the last so many days, weeks and
    months that have one; always the newest of all."""
    ordered = sorted(moments, reverse=True)
    kept = set(ordered[:1])
    periods: list[tuple[int, Callable[[date], object]]] = [
        (keep.daily, lambda day: day),
        (keep.weekly, lambda day: day.isocalendar()[:2]),
        (keep.monthly, lambda day: (day.year, day.month)),
    ]
    for most, period_of in periods:
        newest: dict[object, datetime] = {}
        for moment in ordered:
            newest.setdefault(period_of(moment.astimezone(UTC).date()), moment)
        kept.update(list(newest.values())[:most])
    return kept
