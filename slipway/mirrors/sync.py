"""Taking a repository's next day: one at a time, all of its suites, in one commit.

A replica does the same with another mirror as its upstream, for each of that one's days in turn.

Files are in the store before anything names them; the days come last, in one transaction. Whoever
is killed leaves files that nobody names and that the next sync finds in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime

from slipway import steps
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import BlobBroken, MirrorError
from slipway.mirrors import leases, manifest, replicas
from slipway.mirrors.apt import SuiteTaking
from slipway.mirrors.care import Broken, Care, Pruned
from slipway.mirrors.days import Day, Days, next_moment
from slipway.mirrors.difference import compare, count_first
from slipway.mirrors.events import DAY_FAILED, DAY_TAKEN, tell
from slipway.mirrors.fetch import STALL_S, Upstream
from slipway.mirrors.filling import fill
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.pins import Pins
from slipway.mirrors.progress import Progress
from slipway.mirrors.repository import AptRepository, Repository, RpmRepository
from slipway.mirrors.rpm import DirectoryTaking
from slipway.mirrors.signatures import Keyring
from slipway.mirrors.site import Site
from slipway.mirrors.store import Store
from slipway.mirrors.taking import Means, Taken, Taking

#: Room on the disk that a sync does not use up.
RESERVE_BYTES = 1 << 30
#: Transfers at a time.
CONNECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class Synced:
    """What came of a sync."""

    repository: str
    #: The moment its days are of; None when no suite could be taken.
    taken_at: datetime | None
    days: tuple[Day, ...]
    #: By suite, what was wrong.
    failures: Mapping[str, MirrorError]
    #: In words, what it takes to install the packages that are to be here and no suite has.
    missing: tuple[str, ...]
    requests: int
    files: int
    bytes: int


class Mirror:
    """The repositories that are kept here."""

    def __init__(
        self,
        store: Store,
        database: Database,
        clock: Clock,
        *,
        connections: int = CONNECTIONS,
        reserve_bytes: int = RESERVE_BYTES,
        stall_s: float = STALL_S,
        urls_of: Callable[[str], tuple[str, ...]] = lambda _name: (),
    ) -> None:
        self._urls_of = urls_of
        self.store = store
        self.days = Days(database)
        self.pins = Pins(database)
        self._database = database
        self._clock = clock
        self._connections = connections
        self._reserve_bytes = reserve_bytes
        self._stall_s = stall_s

    def site(self) -> Site:
        """All of them, for those who ask for files."""
        return Site(self.store, self.days, self._clock, self._urls_of)

    def coverage(self, name: str) -> Coverage | None:
        """Which packages of the state of this name are here for certain; None when its document
        cannot be read."""
        try:
            return manifest.load(self.store, name).coverage
        except BlobBroken:
            return None

    def verify(self, progress: Progress | None = None) -> list[Broken]:
        """Read every file that a day names; answers those that are not as they should be."""
        return self._care().verify(progress or Progress())

    def repair(
        self,
        repositories: Mapping[str, Repository],
        *,
        actor: str,
        progress: Progress | None = None,
    ) -> list[Broken]:
        """Fetch what is damaged or missing again; answers all that was. Raises `Conflict` while
        files are being removed."""
        return self._care().repair(repositories, actor=actor, progress=progress or Progress())

    def prune(
        self,
        repositories: Mapping[str, Repository],
        *,
        actor: str,
        named: Collection[date] = (),
        dry_run: bool = False,
        shown: Pruned | None = None,
        progress: Progress | None = None,
    ) -> Pruned:
        """Remove the days that are neither pinned nor ``named`` nor to be kept, and the files that
        no day names. With what a dry run has ``shown``, no other days than those. Raises `Conflict`
        while a sync is under way."""
        return self._care().prune(
            repositories,
            actor=actor,
            named=named,
            dry_run=dry_run,
            shown=shown,
            progress=progress or Progress(),
        )

    def _care(self) -> Care:
        return Care(self.store, self._database, self._clock)

    def sync(
        self, repository: Repository, *, actor: str, progress: Progress | None = None
    ) -> Synced:
        """Take every suite as it is now. One that cannot be taken keeps the day it has, and is
        named among the failures. Raises `Conflict` while another sync of the repository is under
        way, `InvalidInput` for a keyring that is none, `LeaseLost`, `Stopped`."""
        progress = progress or Progress()
        driver = leases.take_for_sync(self._database, self._clock, repository.name, actor=actor)
        try:
            return self._take(driver, repository, progress, as_of=None)
        finally:
            driver.release()

    def replicate(
        self, repository: Repository, peer: str, *, actor: str, progress: Progress | None = None
    ) -> Iterator[Synced]:
        """Take the days that another mirror has of a repository and that are later than what is
        here, each at its own moment and checked like an upstream's. ``peer`` is the address of its
        ``/snapshots``. The first that cannot be taken whole is the last that is looked at, so that
        none is left out. Raises `NotFound` when the peer does not have the repository,
        `UpstreamUnavailable`, and what `sync` raises."""
        progress = progress or Progress()
        driver = leases.take_for_sync(self._database, self._clock, repository.name, actor=actor)
        try:
            theirs = replicas.states(peer, repository.name, self._clock)
            newest = max((day.taken_at for day in self.days.newest(repository.name)), default=None)
            for moment, suites in theirs.items():
                if newest is not None and moment <= newest:
                    continue
                at_that_time = replace(
                    repository,
                    urls=(replicas.address(peer, repository.name, moment),),
                    suites=tuple(suite for suite in repository.suites if suite in suites),
                )
                if not at_that_time.suites:
                    continue
                done = self._take(driver, at_that_time, progress, as_of=moment)
                yield done
                if done.failures:
                    return
        finally:
            driver.release()

    def _take(
        self,
        driver: steps.Driver,
        repository: Repository,
        progress: Progress,
        *,
        as_of: datetime | None,
    ) -> Synced:
        """Take suites and commit them: those that could be, or, as of another's moment, all or
        none."""
        keyring = Keyring.from_bytes(repository.keyring, f"the keyring of {repository.name}")
        upstream = Upstream(
            repository.urls, self._clock, connections=self._connections, stall_s=self._stall_s
        )
        alive = leases.keeping(driver, progress)
        failures: dict[str, MirrorError] = {}
        taken: dict[str, Taken] = {}
        takings: dict[str, Taking] = {}
        missing: tuple[str, ...] = ()
        before = self._states(repository.name)
        files, size = progress.files, progress.bytes
        self.store.take_up()
        try:
            with ThreadPoolExecutor(self._connections, "mirror") as pool:
                for suite in repository.suites:
                    alive()
                    progress.suite = suite
                    means = Means(
                        name=repository.name,
                        suite=suite,
                        before=before.get(suite),
                        store=self.store,
                        upstream=upstream,
                        keyring=keyring,
                        clock=self._clock,
                        as_of=as_of,
                        pool=pool,
                        connections=self._connections,
                        progress=progress,
                        reserve_bytes=self._reserve_bytes,
                        complete=repository.fetch.coverage is Coverage.COMPLETE,
                        alive=alive,
                    )
                    takings[suite] = _taking(repository, means)
                    try:
                        taken[suite] = takings[suite].take()
                    except MirrorError as error:
                        failures[suite] = error
                if taken and repository.fetch.coverage is Coverage.CLOSURE:
                    try:
                        taken, missing = fill(self.store, repository, takings, before, taken)
                    except MirrorError as error:
                        failures.update(dict.fromkeys(taken, error))
                        taken = {}
            if as_of is not None and failures:
                taken = {}
            days = self._commit(driver, repository.name, before, taken, failures, as_of)
        finally:
            upstream.close()
        return Synced(
            repository=repository.name,
            taken_at=days[0].taken_at if days else None,
            days=tuple(days),
            failures=failures,
            missing=missing,
            requests=upstream.requests,
            files=progress.files - files,
            bytes=progress.bytes - size,
        )

    def _states(self, repository: str) -> dict[str, Taken]:
        """What each suite is now, by its name."""
        return {
            day.suite: Taken(
                manifest=day.manifest,
                state=manifest.load(self.store, day.manifest),
                unchanged=True,
            )
            for day in self.days.newest(repository)
        }

    def _commit(
        self,
        driver: steps.Driver,
        repository: str,
        before: Mapping[str, Taken],
        taken: Mapping[str, Taken],
        failures: Mapping[str, MirrorError],
        as_of: datetime | None,
    ) -> list[Day]:
        changes = {suite: self._changes(before.get(suite), now) for suite, now in taken.items()}
        if taken:
            self.store.settle()
        last = max((day.taken_at for day in self.days.newest(repository)), default=None)
        with driver.transaction() as connection:
            now = self._clock.now()
            moment = as_of or next_moment(now, last)
            days = [
                Day(suite=suite, taken_at=moment, manifest=each.manifest, changes=changes[suite])
                for suite, each in taken.items()
            ]
            note = functools.partial(tell, connection, name=repository, actor=driver.actor, at=now)
            if days:
                self.days.append(connection, repository, days)
                note(DAY_TAKEN, detail={"taken_at": moment.isoformat(), "changes": changes})
            if failures:
                said = {suite: str(failure) for suite, failure in failures.items()}
                note(DAY_FAILED, detail={"failures": said})
        return days

    def _changes(self, before: Taken | None, now: Taken) -> dict[str, int]:
        if now.unchanged:
            return {}
        if before is None:
            return count_first(self.store, now.state)
        return compare(self.store, before.state, now.state).counts()


def _taking(repository: Repository, means: Means) -> Taking:
    match repository:
        case AptRepository():
            return SuiteTaking(repository, means)
        case RpmRepository():
            return DirectoryTaking(repository, means)
    raise TypeError(f"{type(repository).__name__} is no kind of repository that can be taken")
