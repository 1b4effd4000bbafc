"""What a client gets at ``/snapshots/<when>/<repository>/<path>``.

``<when>`` is a date, a time or ``latest``; `slipway.mirrors.days` says what each stands for. A file
asked for by its hash comes straight from the store, of whichever day it is: a client that has read
an older release than is here now still gets the indexes that release means.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Generic, TypeVar

from slipway.clock import Clock
from slipway.errors import NotFound
from slipway.mirrors import manifest, paths
from slipway.mirrors.days import Day, Days
from slipway.mirrors.fetch import Upstream
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import Coverage, SuiteState
from slipway.mirrors.store import Store

LATEST = "latest"

_BY_HASH = re.compile(r"(?:.*/)?by-hash/(SHA256|SHA512)/([0-9a-f]{64}|[0-9a-f]{128})\Z")
#: Metadata of rpm repositories mostly has the hash in its name.
HASH_IN_NAME = re.compile(r"(?:.*/)?repodata/([0-9a-f]{64})-[^/]+\Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z")
_TIME = "%Y%m%dT%H%M%SZ"
#: States, listings and places of files that are kept at hand. A listing takes 40 kB.
_STATES, _LISTINGS, _PLACES = 64, 128, 8192

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file."""

    blob: Path
    sha256: str
    size: int
    #: When what is at this path was last another, as far as a client has to know.
    modified: datetime
    #: The moment of the state it is of; None for what was asked for by its hash.
    taken_at: datetime | None
    #: Whether the same request will always get the same bytes.
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A file that a state has by its listing, and that is not here yet; `Site.fetch` gets it."""

    repository: str
    path: str
    sha256: str
    size: int
    taken_at: datetime
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A directory of a repository: names, a size for files and None for directories."""

    repository: str
    path: str
    taken_at: datetime
    entries: Sequence[tuple[str, int | None]]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a repository was when."""

    days: Sequence[Day]
    #: Whether it can not become another.
    lasting: bool

    @property
    def taken_at(self) -> datetime:
        """The newest of its suites."""
        return max(day.taken_at for day in self.days)


class Site:
    """All repositories at all times. Safe to use from several threads."""

    def __init__(
        self, store: Store, days: Days, clock: Clock, urls_of: Callable[[str], tuple[str, ...]]
    ) -> None:
        self.days = days
        #: The addresses a repository is mirrored from.
        self._urls_of = urls_of
        self._store = store
        self._clock = clock
        self._states: _Kept[str, SuiteState] = _Kept(_STATES)
        self._listings: _Kept[str, Listing] = _Kept(_LISTINGS)
        self._places: _Kept[tuple[str, ...], tuple[str, int] | None] = _Kept(_PLACES)

    def resolve(self, when: str, repository: str) -> Resolved:
        """What a repository was when. Raises `NotFound` saying why there is nothing."""
        now = self._clock.now()
        if when == LATEST:
            found, lasting = self.days.newest(repository), False
        elif _DATE.match(when):
            day = _parsed(when, "%Y-%m-%d").date()
            if day > now.date():
                raise NotFound(f"{when} has not come yet")
            found, lasting = self.days.on(repository, day), day < now.date()
        else:
            moment = moment_of(when)
            # A state is of the full second that follows, and may be asked for by that at once.
            newest = (day.taken_at for day in self.days.newest(repository) if moment > now)
            if moment > now and max(newest, default=now) < moment:
                raise NotFound(f"{when} has not come yet")
            found, lasting = self.days.at(repository, moment), True
        if not found:
            raise NotFound(self._why_not(when, repository))
        gone = [day for day in found if day.removed_at and not self._is_kept(repository, day)]
        if gone:
            raise NotFound(
                f"{repository} of {when} was removed on {gone[0].removed_at:%Y-%m-%d}: it was not "
                "pinned, and older than what is kept"
            )
        return Resolved(days=found, lasting=lasting)

    def look(self, when: str, repository: str, path: str) -> Found | Absent | Folder:
        """What is at a path at some time. Raises `NotFound`."""
        return self.find(self.resolve(when, repository), repository, path)

    def find(self, resolved: Resolved, repository: str, path: str) -> Found | Absent | Folder:
        """What is at a path of a repository as it was. Raises `NotFound`."""
        by_hash = _BY_HASH.match(path)
        if by_hash:
            return self._by_hash(by_hash[1].lower(), by_hash[2], path)
        if path and not path.endswith("/"):
            if paths.safe(path) != path:
                raise NotFound(f"{path} is no path of a repository")
            found = self._file(resolved, repository, path)
            if found is not None:
                return found
            named = HASH_IN_NAME.match(path)
            if named and self._store.size(named[1]) is not None:
                # Of another day: whoever has read an older repomd.xml than is here now.
                return self._by_hash("sha256", named[1], path)
        folder = self._folder(resolved, repository, path)
        if not folder.entries and path:
            state = when_of(resolved.taken_at)
            raise NotFound(f"{repository} has no {path} in its state of {state}")
        return folder

    def fetch(self, absent: Absent) -> Found:
        """Have a file here that was not, checked against the hash that its day has it by. Raises
        `NotFound` when its upstream does not have it any more, `MirrorError` when it could not be
        had."""
        upstream = Upstream(self._urls_of(absent.repository), self._clock, connections=1)
        try:
            if not upstream.fetch(
                absent.path, absent.sha256, absent.size, self._store, lambda _size: None
            ):
                raise NotFound(
                    f"{absent.repository}: nobody asked for {absent.path} while its upstream had it"
                )
        finally:
            upstream.close()
        return self._found(absent.sha256, None, taken_at=absent.taken_at, lasting=absent.lasting)

    def _is_kept(self, repository: str, day: Day) -> bool:
        """What a removed day names is here while another day names it."""
        return self.days.is_kept(repository, day.manifest)

    def state(self, day: Day) -> SuiteState:
        """The state a day is of."""
        return self._states.get(day.manifest, lambda: manifest.load(self._store, day.manifest))

    def _by_hash(self, algorithm: str, digest: str, path: str) -> Found:
        sha256 = self._store.find(algorithm, digest)
        if sha256 is None:
            raise NotFound(f"{path} is not here")
        return self._found(sha256, None, taken_at=None, lasting=True)

    def _file(self, resolved: Resolved, repository: str, path: str) -> Found | Absent | None:
        for day in resolved.days:
            state = self.state(day)
            ref = state.files.get(path)
            if ref is not None:
                return self._found(
                    ref.sha256, state.date, taken_at=resolved.taken_at, lasting=resolved.lasting
                )
        place = self._place(resolved, path)
        if place is None:
            return None
        sha256, size = place
        partial = any(self.state(d).coverage is not Coverage.COMPLETE for d in resolved.days)
        if partial and self._store.size(sha256) is None:
            return Absent(
                repository=repository,
                path=path,
                sha256=sha256,
                size=size,
                taken_at=resolved.taken_at,
                lasting=resolved.lasting,
            )
        return self._found(sha256, None, taken_at=resolved.taken_at, lasting=resolved.lasting)

    def _found(
        self, sha256: str, modified: datetime | None, *, taken_at: datetime | None, lasting: bool
    ) -> Found:
        blob = self._store.path(sha256)
        try:
            status = blob.stat()
        except FileNotFoundError as error:
            raise NotFound(
                f"blob {sha256} is missing; 'slipway mirror repair' fetches it again"
            ) from error
        return Found(
            blob=blob,
            sha256=sha256,
            size=status.st_size,
            modified=modified or datetime.fromtimestamp(int(status.st_mtime), UTC),
            taken_at=taken_at,
            lasting=lasting,
        )

    def _place(self, resolved: Resolved, path: str) -> tuple[str, int] | None:
        """SHA-256 and size of a file of the pool."""
        key = (path, *(day.manifest for day in resolved.days))
        return self._places.get(key, lambda: self._search(resolved, path))

    def _search(self, resolved: Resolved, path: str) -> tuple[str, int] | None:
        for listing in self._all_listings(resolved):
            entry = listing.find(path)
            if entry is not None:
                return entry.sha256, entry.size
        return None

    def _all_listings(self, resolved: Resolved) -> Iterator[Listing]:
        for day in resolved.days:
            for ref in self.state(day).listings.values():
                blob = self._store.path(ref.sha256)
                yield self._listings.get(ref.sha256, lambda blob=blob: Listing(blob))  # type: ignore[misc]

    def _folder(self, resolved: Resolved, repository: str, path: str) -> Folder:
        prefix = path if not path or path.endswith("/") else f"{path}/"
        found: dict[str, int | None] = {}

        def note(full: str, size: int) -> None:
            name, slash, _ = full[len(prefix) :].partition("/")
            found[name + slash] = None if slash else size

        for day in resolved.days:
            for full, ref in self.state(day).files.items():
                if full.startswith(prefix):
                    note(full, ref.size)
        for listing in self._all_listings(resolved):
            for entry in listing.below(prefix):
                note(entry.path, entry.size)
        return Folder(
            repository=repository,
            path=prefix,
            taken_at=resolved.taken_at,
            entries=sorted(found.items(), key=lambda item: (item[1] is not None, item[0])),
        )

    def _why_not(self, when: str, repository: str) -> str:
        known = self.days.repositories()
        if repository not in known:
            names = ", ".join(known) or "none"
            return f"there is no repository {repository} here; there are: {names}"
        first = self.days.history(repository)[-1].taken_at
        return f"{repository} has no state of {when}; the first is of {when_of(first)}"


class _Kept(Generic[_K, _V]):
    """The last so many values, made when they are first asked for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[_K, _V] = OrderedDict()

    def get(self, key: _K, make: Callable[[], _V]) -> _V:
        """The value for a key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def _parsed(text: str, form: str) -> datetime:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise NotFound(
            f"{text!r} is neither a date (2026-11-22) nor a time (20261122T020000Z) nor {LATEST!r}"
        ) from error


def moment_of(text: str) -> datetime:
    """A time as it stands in an address. Raises `NotFound`."""
    return _parsed(text, _TIME)


def when_of(moment: datetime) -> str:
    """A time as it stands in an address."""
    return moment.astimezone(UTC).strftime(_TIME)


def day_of(moment: datetime) -> date:
    """The date of a moment, as addresses count days."""
    return moment.astimezone(UTC).date()
