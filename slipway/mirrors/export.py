"""All days as a tree of links, for a web server that knows nothing of days.

```
snapshots/<date>/<repository>    -> the state the date stands for; the same with times and latest
states/<repository>/<key>/       a state: directories of what is signed, links to what is not
shared/<repository>/<n>/         files of the pool of all states; another tree where the same path
                                 has other bytes
by-hash/<repository>/SHA256/     indexes of all states by their hash, whichever state asks
```

Files stay in the store, and those that are not fetched yet have their links already. An unchanged
day costs one link for the date. `latest` and dates are replaced by renaming: a reader sees the one
state or the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from slipway.clock import Clock
from slipway.errors import InvalidInput, NotFound, Problem
from slipway.mirrors.days import Day
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.site import HASH_IN_NAME, LATEST, Site, day_of, when_of
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store

#: A tree that this has made; another one is not written into.
_MARK = ".slipway-mirror-export"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of it, for one repository."""

    repository: str
    #: States that were laid out now.
    states: int
    #: Addresses: dates, times, and ``latest``.
    addresses: int
    #: Links made now, of all kinds.
    links: int
    #: States and addresses that are not kept any more and were removed.
    removed: int


class Export:
    """A tree below ``root``, to be brought up to date as often as there are new days. Only one may
    be at work on a tree at a time. Raises `InvalidInput` for a directory with something else in
    it."""

    def __init__(self, site: Site, store: Store, clock: Clock, root: Path) -> None:
        self._site = site
        self._store = store
        self._clock = clock
        self._root = root
        self._links = 0
        #: By directory, the way from it to the blobs.
        self._ways: dict[Path, str] = {}
        if root.is_dir() and any(root.iterdir()) and not (root / _MARK).exists():
            what = "this has files in it that are no export; give an empty or a new directory"
            raise InvalidInput(Problem(where=str(root), what=what))
        root.mkdir(parents=True, exist_ok=True)
        (root / _MARK).touch()
        # Links are relative, so that the tree and the store can be moved or mounted together.
        self._real = root.resolve()
        self._aliases = self._by_other_hashes()

    def repository(
        self, name: str, note: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Exported:
        """Bring one repository up to date; ``note`` is told how many of how many states are laid
        out. Raises `NotFound` when it has no day."""
        history = self._site.days.history(name)
        if not history:
            raise NotFound(f"{name} has no days to be exported; 'slipway mirror sync' takes one")
        self._links = 0
        addresses = dict(self._addresses(name, history))
        states = {_key(days): days for days in addresses.values()}
        made = 0
        before: Sequence[Day] = ()
        # In the order they were taken: each is laid out as what is different from the one before.
        ordered = sorted(states.items(), key=lambda each: _newest(each[1]))
        for done, (key, days) in enumerate(ordered):
            note(done, len(ordered))
            if not self._state(name, key).is_dir():
                self._lay_out(name, key, days, before)
                made += 1
            before = days
        for when, days in addresses.items():
            self._point(name, when, _key(days))
        removed = self._forget(name, addresses, states)
        return Exported(
            repository=name,
            states=made,
            addresses=len(addresses),
            links=self._links,
            removed=removed,
        )

    # --- Which states there are -------------------------------------------------------------------

    def _addresses(self, name: str, history: Sequence[Day]) -> Iterator[tuple[str, Sequence[Day]]]:
        """What each time stands for; the newest last, so that it is there before it is shown."""
        moments = sorted({day.taken_at for day in history})
        for moment in moments:
            with contextlib.suppress(NotFound):
                yield when_of(moment), self._site.resolve(when_of(moment), name).days
        for on in _dates(day_of(moments[0]), day_of(self._clock.now())):
            # One that was removed, between others that were not.
            with contextlib.suppress(NotFound):
                yield on.isoformat(), self._site.resolve(on.isoformat(), name).days
        yield LATEST, self._site.resolve(LATEST, name).days

    def _by_other_hashes(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """By SHA-256, the other hashes that clients may ask for a file by: algorithm and digest."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for algorithm, digest, sha256 in self._store.aliases():
            # As it is written in addresses.
            found[sha256].append((algorithm.upper(), digest))
        return found

    # --- Laying out -------------------------------------------------------------------------------

    def _state(self, name: str, key: str) -> Path:
        return self._root / "states" / name / key

    def _lay_out(self, name: str, key: str, days: Sequence[Day], before: Sequence[Day]) -> None:
        states = [self._site.state(day) for day in days]
        shared = self._share(name, states, [self._site.state(day) for day in before])
        final = self._state(name, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=final.parent))
        try:
            draft.chmod(0o755)
            self._fill(name, draft, states, shared)
            draft.rename(final)
        except BaseException:
            shutil.rmtree(draft)
            raise

    def _fill(self, name: str, top: Path, states: Sequence[SuiteState], shared: Path) -> None:
        signed = {path: ref.sha256 for state in states for path, ref in state.files.items()}
        for path, sha256 in signed.items():
            _link(top / path, self._blob(sha256, (top / path).parent))
            self._by_hash(name, sha256)
            self._links += 1
        # Directories in which something is signed are the state's own, all others are shared.
        for directory in {parent for path in signed for parent in Path(path).parents}:
            beside = shared / directory
            for child in sorted(beside.iterdir()) if beside.is_dir() else ():
                _link(top / directory / child.name, self._to(child, top / directory))
                self._links += 1
        for directory in {Path(path).parent for path in signed}:
            hashes = self._root / "by-hash" / name
            _link(top / directory / "by-hash", self._to(hashes, top / directory))
            self._links += 1

    def _by_hash(self, name: str, sha256: str) -> None:
        for algorithm, digest in [("SHA256", sha256), *self._aliases.get(sha256, ())]:
            directory = self._root / "by-hash" / name / algorithm
            self._links += _link(directory / digest, self._blob(sha256, directory))

    def _share(self, name: str, states: Sequence[SuiteState], before: Sequence[SuiteState]) -> Path:
        """A tree that has all the files the states' indexes name, each at its path."""
        trees = sorted(int(each.name) for each in (self._root / "shared" / name).glob("*"))
        number = trees[-1] if trees else 1
        if not self._share_in(name, number, states, before, first=not trees):
            number += 1
            self._share_in(name, number, states, (), first=True)
        return self._tree(name, number)

    def _share_in(
        self,
        name: str,
        number: int,
        states: Sequence[SuiteState],
        before: Sequence[SuiteState],
        *,
        first: bool,
    ) -> bool:
        """Answers False when a path has other bytes there already, unless it is the ``first`` state
        of the tree: then two suites say different things of one path, and the first suite is
        believed."""
        tree = self._tree(name, number)
        tree.mkdir(parents=True, exist_ok=True)
        known = {
            path: ref.sha256
            for state in before
            for path, ref in state.listings.items()
            if self._mark(name, number, ref.sha256).exists()
        }
        for state in states:
            for path, ref in state.files.items():
                # Whoever has read an older repomd.xml than is here by now asks for its metadata.
                if HASH_IN_NAME.match(path) and not self._share_file(tree, path, ref.sha256):
                    return False
            for path, listed in state.listings.items():
                mark = self._mark(name, number, listed.sha256)
                if mark.exists():
                    continue
                for entry in self._new(listed.sha256, known.get(path)):
                    if not self._share_file(tree, entry.path, entry.sha256) and not first:
                        return False
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        return True

    def _new(self, listing: str, before: str | None) -> Iterator[Entry]:
        with Listing(self._store.path(listing)) as now:
            if before is None:
                yield from now
            else:
                with Listing(self._store.path(before)) as then:
                    yield from now.changes(then)

    def _share_file(self, tree: Path, path: str, sha256: str) -> bool:
        """Answers False when there is another one."""
        link = tree / path
        made = _link(link, self._blob(sha256, link.parent))
        self._links += made
        return made or link.readlink().name == sha256

    def _tree(self, name: str, number: int) -> Path:
        return self._root / "shared" / name / str(number)

    def _mark(self, name: str, number: int, listing: str) -> Path:
        """Is there when a tree has all that a listing names."""
        return self._root / "marks" / name / str(number) / listing

    def _point(self, name: str, when: str, key: str) -> None:
        address = self._root / "snapshots" / when / name
        target = self._to(self._state(name, key), address.parent)
        if _link(address, target):
            self._links += 1
        elif str(address.readlink()) != target:
            draft = address.with_name(f".draft-{name}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.replace(address)
            self._links += 1

    def _blob(self, sha256: str, directory: Path) -> str:
        return f"{self._way_to_blobs(directory)}/{sha256[:2]}/{sha256}"

    def _way_to_blobs(self, directory: Path) -> str:
        way = self._ways.get(directory)
        if way is None:
            here = self._real / directory.relative_to(self._root)
            blobs = self._store.blobs_root.resolve()
            way = self._ways[directory] = os.path.relpath(blobs, here)
        return way

    def _to(self, target: Path, directory: Path) -> str:
        return os.path.relpath(target, directory)

    # --- Removing ---------------------------------------------------------------------------------

    def _forget(
        self, name: str, addresses: Mapping[str, object], states: Mapping[str, Sequence[Day]]
    ) -> int:
        """What the mirror does not keep any more."""
        gone = [
            address
            for address in (self._root / "snapshots").glob(f"*/{name}")
            if address.parent.name not in addresses
        ]
        for address in gone:
            address.unlink()
            with contextlib.suppress(OSError):
                # Other repositories may have something of that time.
                address.parent.rmdir()
        old = [
            state for state in (self._root / "states" / name).iterdir() if state.name not in states
        ]
        for state in old:
            shutil.rmtree(state)
        if old:
            self._tidy(name, [self._site.state(day) for days in states.values() for day in days])
        return len(gone) + len(old)

    def _tidy(self, name: str, states: Sequence[SuiteState]) -> None:
        """Remove links to what no state has any more."""
        named: set[str] = set()
        listings = {ref.sha256 for state in states for ref in state.listings.values()}
        for state in states:
            named.update(ref.sha256 for ref in state.files.values())
        for listing in listings:
            with Listing(self._store.path(listing)) as opened:
                named.update(entry.sha256 for entry in opened)
        for top in ("shared", "by-hash"):
            for directory, _, files in os.walk(self._root / top / name):
                for file in files:
                    link = Path(directory, file)
                    if link.readlink().name not in named:
                        link.unlink()
        for mark in (self._root / "marks" / name).glob("*/*"):
            if mark.name not in listings:
                mark.unlink()


def _link(link: Path, target: str) -> bool:
    """Answers False when there is something already."""
    try:
        link.symlink_to(target)
    except FileNotFoundError:
        link.parent.mkdir(parents=True, exist_ok=True)
        return _link(link, target)
    except FileExistsError:
        return False
    return True


def _key(days: Sequence[Day]) -> str:
    """The name of a state of all suites."""
    named = "\n".join(sorted(f"{day.suite} {day.manifest}" for day in days))
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def _newest(days: Sequence[Day]) -> datetime:
    return max(day.taken_at for day in days)


def _dates(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += timedelta(days=1)
