"""Taking what a repository is now: verified, complete and consistent, or not at all.

What all kinds of repositories have in common: something signed comes first and says by hash what
all else has to be; then files, each under its hash; the state's document last. An upstream that
changes meanwhile shows by a file that is missing or different: then all is looked at again from
what is signed on.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar, cast

from slipway.clock import Clock
from slipway.errors import BadSignature, DiskFull, ReleaseRefused, UpstreamInconsistent
from slipway.mirrors import indexes, listing, manifest
from slipway.mirrors.fetch import Upstream
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import Coverage, FileRef, ListingRef, SuiteState
from slipway.mirrors.progress import Progress
from slipway.mirrors.signatures import Keyring
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store

#: How often an upstream that changes under our hands is looked at again, and after which pause.
REBASES = 5
#: What is not signed as it should be is rarely better a little later.
SIGNATURE_REBASES = 1
_REBASE_PAUSE_S = 10.0
#: How far ahead of ours the clock of whoever signs may be.
_CLOCK_SLACK = timedelta(minutes=10)
_LOOK_UP_S = 5.0
_NO_MORE = object()
#: How many files a connection takes on at a time, and until how many bytes.
_SOME, _SOME_BYTES = 16, 256 << 10

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A state that is in the store, with all its files."""

    manifest: str
    state: SuiteState
    #: It is the very state of the time before.
    unchanged: bool

    def covering(self, store: Store, coverage: Coverage) -> Taken:
        """The same with other packages here for certain."""
        if self.state.coverage is coverage:
            return self
        state = replace(self.state, coverage=coverage)
        return replace(self, manifest=manifest.save(store, state), state=state)


@dataclass(frozen=True, kw_only=True)
class Means:
    """What it takes to take one suite, once."""

    #: Of the repository.
    name: str
    suite: str
    before: Taken | None
    store: Store
    upstream: Upstream
    keyring: Keyring
    clock: Clock
    #: The moment that a state has to be of and to hold at; None for now.
    as_of: datetime | None
    pool: ThreadPoolExecutor
    connections: int
    progress: Progress
    reserve_bytes: int
    #: Whether all packages are fetched at once; else the state is one that has none for certain.
    complete: bool
    #: Called every few seconds; raises when the work is not ours any more.
    alive: Callable[[], None]


class Taking(ABC):
    """One suite, once."""

    #: What is signed, in words.
    signed = "release"

    def __init__(self, means: Means) -> None:
        self._name = means.name
        self._suite = means.suite
        self._before = means.before
        self._store = means.store
        self._upstream = means.upstream
        self._keyring = means.keyring
        self._clock = means.clock
        self._as_of = means.as_of
        self._pool = means.pool
        self._connections = means.connections
        self._progress = means.progress
        self._reserve_bytes = means.reserve_bytes
        self._complete = means.complete
        self._alive = means.alive
        self._where = f"{means.name} {means.suite}"

    def take(self) -> Taken:
        """The suite as it is now. Raises `ReleaseRefused`, `UpstreamUnavailable`, `DiskFull`, and
        `UpstreamInconsistent` when it does not come to rest."""
        for turn in range(REBASES + 1):
            try:
                return self._take()
            except BadSignature:
                # A release and a signature of two moments, or the page of a proxy: it may pass.
                if turn == SIGNATURE_REBASES:
                    raise
            except UpstreamInconsistent as error:
                if turn == REBASES:
                    raise UpstreamInconsistent(
                        f"{self._where}: its files did not fit each other, {REBASES + 1} times in "
                        f"a row; the last time: {error}"
                    ) from error
            self.pause(turn)
        raise AssertionError("the last turn returns or raises")

    def pause(self, turn: int) -> None:
        """Leave an upstream that is changing alone for a while, the longer the more often."""
        self._alive()
        self._clock.sleep(_REBASE_PAUSE_S * (turn + 1))

    def fill(self, entries: Iterable[Entry]) -> None:
        """Have these packages here as well. Raises as `take` does."""
        wanted = list(entries)
        self._fetch_entries(lambda: wanted)

    @abstractmethod
    def _take(self) -> Taken:
        """All of it, once."""

    # --- What is signed ---------------------------------------------------------------------------

    def _as_before(self, before: Taken) -> Taken:
        """The state of before, whose packages are fetched now if they were not then."""
        if not self._complete or before.state.coverage is Coverage.COMPLETE:
            return before
        self._fetch_pool(before.state.listings)
        return before.covering(self._store, Coverage.COMPLETE)

    def _is_as_before(self, path: str, data: bytes) -> bool:
        """Some upstreams give neither a time nor an ETag: the same is what has the same hash."""
        known = None if self._before is None else self._before.state.files.get(path)
        return known is not None and known.sha256 == hashlib.sha256(data).hexdigest()

    def _when(self) -> datetime:
        """What "now" is for what is signed."""
        return self._as_of or self._clock.now()

    def _check_date(self, date: datetime) -> None:
        if date > self._when() + _CLOCK_SLACK:
            raise ReleaseRefused(
                f"{self._where}: its {self.signed} is of {date:%Y-%m-%d %H:%M} UTC, which is in "
                "the future"
            )
        if self._before is not None and date < self._before.state.date:
            raise ReleaseRefused(
                f"{self._where}: its {self.signed} is of {date:%Y-%m-%d %H:%M} UTC, older than "
                f"the one of {self._before.state.date:%Y-%m-%d %H:%M} UTC that is here: the "
                "upstream was rolled back"
            )

    # --- Indexes ----------------------------------------------------------------------------------

    def _fetch_files(
        self, wanted: Mapping[str, FileRef], names: Callable[[str, FileRef], Sequence[str]]
    ) -> None:
        """Have files of these paths in the store; ``names`` tells what to ask for each by, in
        turn."""
        fresh = {
            path: file
            for path, file in wanted.items()
            if self._store.size(file.sha256) != file.size
        }

        def fetch(item: tuple[str, FileRef]) -> None:
            path, file = item
            if not any(self._fetch(name, file.sha256, file.size) for name in names(path, file)):
                raise UpstreamInconsistent(f"{path} is listed and not there")

        self._reserve(sum(file.size for file in fresh.values()), len(fresh))
        self._side_by_side(fetch, fresh.items(), lambda item: item[1].size)

    def _listing(self, path: str, index: str) -> ListingRef:
        """The listing of an index, given its path and SHA-256: that of before when the index is the
        same."""
        before = {} if self._before is None else self._before.state.listings
        known = before.get(path)
        if known is not None and known.index == index:
            return known
        where = f"{self._where}: {path}"
        found = indexes.entries(self._store.path(index), path, where)
        data = listing.write(found, where)
        return ListingRef(index=index, sha256=self._store.put(data))

    def _keep(
        self,
        *,
        date: datetime,
        valid_until: datetime | None,
        files: Mapping[str, FileRef],
        documents: Mapping[str, bytes],
        listings: Mapping[str, ListingRef],
    ) -> Taken:
        """Put the state of these files, and of documents that are not in the store yet, into it."""
        signed = {
            path: FileRef(sha256=self._store.put(data), size=len(data))
            for path, data in documents.items()
        }
        state = SuiteState(
            suite=self._suite,
            date=date,
            valid_until=valid_until,
            files={**files, **signed},
            listings=listings,
            coverage=Coverage.COMPLETE if self._complete else Coverage.LAZY,
        )
        return Taken(manifest=manifest.save(self._store, state), state=state, unchanged=False)

    # --- The pool ---------------------------------------------------------------------------------

    def _fetch_pool(self, listings: Mapping[str, ListingRef]) -> None:
        if self._complete:
            self._fetch_entries(lambda: self._listed(listings))

    def _fetch_entries(self, wanted: Callable[[], Iterable[Entry]]) -> None:
        """Fetch those that are not here. Twice over the same entries rather than once with all of
        them in memory."""
        missing = bytearray()
        files = size = 0
        for entry in wanted():
            missing.append(self._store.size(entry.sha256) != entry.size)
            if missing[-1]:
                files, size = files + 1, size + entry.size
        self._reserve(size, files)
        try:
            self._side_by_side(
                self._fetch_entry, itertools.compress(wanted(), missing), lambda entry: entry.size
            )
        finally:
            self._store.settle()

    def _listed(self, listings: Mapping[str, ListingRef]) -> Iterator[Entry]:
        """What is listed; of what was complete before only where it is different."""
        complete = self._before is not None and self._before.state.coverage is Coverage.COMPLETE
        before = self._before.state.listings if self._before is not None and complete else {}
        for path, ref in listings.items():
            known = before.get(path)
            if known == ref:
                continue
            with Listing(self._store.path(ref.sha256)) as now:
                if known is None:
                    yield from now
                else:
                    with Listing(self._store.path(known.sha256)) as then:
                        yield from now.changes(then)

    def _fetch_entry(self, entry: Entry) -> None:
        if not self._fetch(entry.path, entry.sha256, entry.size, together=True):
            raise UpstreamInconsistent(f"{entry.path} is listed and not there")

    # --- Fetching ---------------------------------------------------------------------------------

    def _fetch(self, path: str, sha256: str, size: int, *, together: bool = False) -> bool:
        found = self._upstream.fetch(
            path, sha256, size, self._store, self._progress.arrived, together=together
        )
        if found:
            self._progress.finished()
        return found

    def _reserve(self, size: int, files: int) -> None:
        """Raises `DiskFull` while nothing has happened yet."""
        self._progress.expect(files, size)
        free = self._store.free_bytes()
        if size and size + self._reserve_bytes > free:
            raise DiskFull(
                f"{self._where}: {files} files of {size} bytes are to be fetched, and of the "
                f"{free} bytes that are free {self._reserve_bytes} have to stay so"
            )

    def _side_by_side(
        self, act: Callable[[_T], None], items: Iterable[_T], size_of: Callable[[_T], int]
    ) -> None:
        """Do it for all, as many at a time as there are connections. The first error ends it, once
        those under way have ended."""
        turn, left, stop = threading.Lock(), iter(items), threading.Event()

        def take() -> list[_T]:
            # Several small ones at a time: threads that meet wait for each other.
            taken: list[_T] = []
            size = 0
            while len(taken) < _SOME and size < _SOME_BYTES:
                item = next(left, _NO_MORE)
                if item is _NO_MORE:
                    break
                taken.append(cast("_T", item))
                size += size_of(taken[-1])
            return taken

        def work() -> None:
            # Each takes its next by itself: somebody who hands them out would be woken for each.
            while not stop.is_set():
                with turn:
                    self._alive()
                    taken = take()
                if not taken:
                    return
                for item in taken:
                    act(item)

        running = {self._pool.submit(work) for _ in range(self._connections)}
        try:
            while running:
                done, running = wait(running, timeout=_LOOK_UP_S, return_when=FIRST_EXCEPTION)
                with turn:
                    self._alive()
                for each in done:
                    each.result()
        finally:
            stop.set()
            wait(running)
