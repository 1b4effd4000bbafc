"""Taking a suite of an apt repository as it is: verified, complete and consistent, or not at all.

The order matters. The release comes first and says by hash what all else has to be; then files,
each under its hash; the state's document last. An upstream that changes meanwhile shows by a file
that is missing or different: then all is looked at again from the release on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from slipway.clock import Clock
from slipway.errors import (
    BadSignature,
    DiskFull,
    ReleaseRefused,
    UpstreamInconsistent,
    UpstreamUnavailable,
)
from slipway.mirrors import listing, manifest, release, stanzas
from slipway.mirrors.fetch import Upstream
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import FileRef, ListingRef, SuiteState
from slipway.mirrors.progress import Progress
from slipway.mirrors.release import ListedFile, Release
from slipway.mirrors.repository import AptRepository
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
#: Files that are being fetched or wait for it; all of them at once would take memory.
_AHEAD = 64
_LOOK_UP_S = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A state that is in the store, with all its files."""

    manifest: str
    state: SuiteState
    #: It is the very state of the time before.
    unchanged: bool


class SuiteSync:
    """One suite, once."""

    def __init__(
        self,
        *,
        repository: AptRepository,
        suite: str,
        before: Taken | None,
        store: Store,
        upstream: Upstream,
        keyring: Keyring,
        clock: Clock,
        pool: ThreadPoolExecutor,
        progress: Progress,
        reserve_bytes: int,
        alive: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._suite = suite
        self._before = before
        self._store = store
        self._upstream = upstream
        self._keyring = keyring
        self._clock = clock
        self._pool = pool
        self._progress = progress
        self._reserve_bytes = reserve_bytes
        #: Called every few seconds; raises when the work is not ours any more.
        self._alive = alive
        self._flat = suite.endswith("/")
        self._prefix = suite.lstrip("./") if self._flat else f"dists/{suite}/"
        self._where = f"{repository.name} {suite}"

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
            self._alive()
            self._clock.sleep(_REBASE_PAUSE_S * (turn + 1))
        raise AssertionError("the last turn returns or raises")

    def _take(self) -> Taken:
        signed = self._release()
        if isinstance(signed, Taken):
            self._check_holds(signed.state.valid_until)
            return signed
        documents, found = signed
        self._check_holds(found.valid_until)
        self._check_date(found.date)
        indexes = dict(self._indexes(found))
        self._fetch_indexes(found, indexes)
        listings = {
            self._prefix + path: self._listing(path, listed)
            for path, listed in indexes.items()
            if stanzas.names_files(path)
        }
        self._fetch_pool(listings)
        files = {
            self._prefix + path: FileRef(sha256=listed.sha256, size=listed.size)
            for path, listed in indexes.items()
        }
        for path, data in documents.items():
            files[path] = FileRef(sha256=self._store.put(data), size=len(data))
        state = SuiteState(
            suite=self._suite,
            date=found.date,
            valid_until=found.valid_until,
            files=files,
            listings=listings,
        )
        return Taken(manifest=manifest.save(self._store, state), state=state, unchanged=False)

    # --- The release ------------------------------------------------------------------------------

    def _release(self) -> tuple[dict[str, bytes], Release] | Taken:
        """What is signed, by path, and what it says; or the state of before when it is the same."""
        path, apart = f"{self._prefix}InRelease", f"{self._prefix}Release"
        signed = self._upstream.document(path)
        if signed is not None and self._is_as_before(path, signed):
            assert self._before is not None, "it is as before"
            return self._before
        text = self._upstream.document(apart)
        if signed is None and text is not None and self._is_as_before(apart, text):
            assert self._before is not None, "it is as before"
            return self._before
        signature = None if text is None else self._upstream.document(f"{apart}.gpg")
        if signed is not None:
            inline = self._keyring.signed_text(signed, f"{self._repository.name}: {path}")
            found = release.parse(inline, path)
            documents = {path: signed}
            # For those who want them apart. They are three files, and caches keep them apart, too.
            if text and signature and self._says(found, text, signature):
                documents |= {apart: text, f"{apart}.gpg": signature}
            return documents, found
        if text and signature:
            self._keyring.check_detached(text, signature, f"{self._repository.name}: {apart}")
            return {apart: text, f"{apart}.gpg": signature}, release.parse(text, apart)
        raise UpstreamUnavailable(
            f"{self._where}: the upstream has neither {path} nor {apart} with {apart}.gpg"
        )

    def _says(self, found: Release, text: bytes, signature: bytes) -> bool:
        """Whether a release and its signature in a file of its own fit each other and say this."""
        try:
            self._keyring.check_detached(text, signature, self._where)
            return release.parse(text, self._where) == found
        except ReleaseRefused:
            return False

    def _is_as_before(self, path: str, data: bytes) -> bool:
        """Some upstreams give neither a time nor an ETag: the same is what has the same hash."""
        known = None if self._before is None else self._before.state.files.get(path)
        return known is not None and known.sha256 == hashlib.sha256(data).hexdigest()

    def _check_holds(self, valid_until: datetime | None) -> None:
        now = self._clock.now()
        if valid_until is not None and valid_until < now:
            raise ReleaseRefused(
                f"{self._where}: its release was valid until {valid_until:%Y-%m-%d %H:%M} UTC, and "
                f"it is {now:%Y-%m-%d %H:%M} UTC: the upstream is stale"
            )

    def _check_date(self, date: datetime) -> None:
        if date > self._clock.now() + _CLOCK_SLACK:
            raise ReleaseRefused(
                f"{self._where}: its release is of {date:%Y-%m-%d %H:%M} UTC, which is in the "
                "future"
            )
        if self._before is not None and date < self._before.state.date:
            raise ReleaseRefused(
                f"{self._where}: its release is of {date:%Y-%m-%d %H:%M} UTC, older than the one "
                f"of {self._before.state.date:%Y-%m-%d %H:%M} UTC that is here: the upstream was "
                "rolled back"
            )

    # --- Indexes ----------------------------------------------------------------------------------

    def _indexes(self, found: Release) -> Iterator[tuple[str, ListedFile]]:
        """Those wanted of a release, each in the form that compresses best. Raises
        `ReleaseRefused` for a component or architecture that it does not have."""
        for base, required in self._wanted(found):
            for suffix in stanzas.COMPRESSIONS:
                listed = found.files.get(base + suffix)
                if listed is not None:
                    yield base + suffix, listed
                    break
            else:
                if required:
                    raise ReleaseRefused(
                        f"{self._where}: its release has no {base}; it has the components "
                        f"{' '.join(found.components) or '(none)'} and the architectures "
                        f"{' '.join(found.architectures) or '(none)'}"
                    )

    def _wanted(self, found: Release) -> Iterator[tuple[str, bool]]:
        """Paths without the suffix of a compression, and whether somebody has asked for just it."""
        wanted = self._repository
        if self._flat:
            yield "Packages", True
            yield from [("Sources", False)] if wanted.sources else []
            return
        # Some say "updates/main" of what is in "main".
        components = wanted.components or [each.rpartition("/")[2] for each in found.components]
        for component in components:
            asked = bool(wanted.components)
            for architecture in wanted.architectures:
                yield f"{component}/binary-{architecture}/Packages", asked
                if wanted.installer:
                    base = f"{component}/debian-installer/binary-{architecture}/Packages"
                    yield base, False
                if wanted.contents:
                    yield f"{component}/Contents-{architecture}", False
            if found.all_apart:
                yield f"{component}/binary-all/Packages", False
            if wanted.sources:
                yield f"{component}/source/Sources", asked
            for language in wanted.languages:
                yield f"{component}/i18n/Translation-{language}", False

    def _fetch_indexes(self, found: Release, indexes: dict[str, ListedFile]) -> None:
        fresh = {
            path: listed
            for path, listed in indexes.items()
            if self._store.size(listed.sha256) != listed.size
        }
        self._reserve(sum(listed.size for listed in fresh.values()), len(fresh))
        self._side_by_side(
            lambda item: self._fetch_index(item[0], item[1], by_hash=found.by_hash), fresh.items()
        )
        for listed in indexes.values():
            for algorithm, digest in listed.others.items():
                self._store.alias(algorithm.lower(), digest, listed.sha256)

    def _fetch_index(self, path: str, listed: ListedFile, *, by_hash: bool) -> None:
        names = [path]
        if by_hash:
            directory = path.rpartition("/")[0]
            below = f"{directory}/" if directory else ""
            # By its hash it stays the file that the release means, whatever is published meanwhile.
            names.insert(0, f"{below}by-hash/SHA256/{listed.sha256}")
        if not any(self._fetch(self._prefix + name, listed.sha256, listed.size) for name in names):
            raise UpstreamInconsistent(f"{self._prefix}{path} is listed and not there")

    def _listing(self, path: str, listed: ListedFile) -> ListingRef:
        """The listing of an index: that of before when the index is the same."""
        before = {} if self._before is None else self._before.state.listings
        known = before.get(self._prefix + path)
        if known is not None and known.index == listed.sha256:
            return known
        where = f"{self._where}: {path}"
        found = stanzas.entries(self._store.path(listed.sha256), path, where)
        data = listing.write(found, where)
        return ListingRef(index=listed.sha256, sha256=self._store.put(data))

    # --- The pool ---------------------------------------------------------------------------------

    def _fetch_pool(self, listings: dict[str, ListingRef]) -> None:
        """Twice over the same entries rather than once with all of them in memory."""
        files = size = 0
        for entry in self._missing(listings):
            files, size = files + 1, size + entry.size
        self._reserve(size, files)
        self._side_by_side(self._fetch_entry, self._missing(listings))

    def _missing(self, listings: dict[str, ListingRef]) -> Iterator[Entry]:
        """What is not here. What was complete before is only looked at where it is different."""
        before = {} if self._before is None else self._before.state.listings
        for path, ref in listings.items():
            known = before.get(path)
            if known == ref:
                continue
            with Listing(self._store.path(ref.sha256)) as now:
                if known is None:
                    yield from filter(self._is_missing, now)
                else:
                    with Listing(self._store.path(known.sha256)) as then:
                        yield from filter(self._is_missing, now.changes(then))

    def _is_missing(self, entry: Entry) -> bool:
        return self._store.size(entry.sha256) != entry.size

    def _fetch_entry(self, entry: Entry) -> None:
        if not self._fetch(entry.path, entry.sha256, entry.size):
            raise UpstreamInconsistent(f"{entry.path} is listed and not there")

    # --- Fetching ---------------------------------------------------------------------------------

    def _fetch(self, path: str, sha256: str, size: int) -> bool:
        found = self._upstream.fetch(path, sha256, size, self._store, self._progress.arrived)
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

    def _side_by_side(self, act: Callable[[_T], None], items: Iterable[_T]) -> None:
        """Do it for all, a bounded number at a time. The first error ends it, once those under way
        have ended."""
        running: set[Future[None]] = set()
        try:
            for item in items:
                running.add(self._pool.submit(act, item))
                if len(running) >= _AHEAD:
                    running = self._some_done(running)
            while running:
                running = self._some_done(running)
        finally:
            for each in running:
                each.cancel()
            wait(running)

    def _some_done(self, running: set[Future[None]]) -> set[Future[None]]:
        done, rest = wait(running, timeout=_LOOK_UP_S, return_when=FIRST_COMPLETED)
        self._alive()
        for each in done:
            each.result()
        return rest
