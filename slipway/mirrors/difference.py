"""What is different between two states of a suite, in packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package that is there in other versions than before."""

    package: str
    architecture: str
    #: Empty: it is new.
    before: tuple[str, ...]
    #: Empty: it is gone.
    after: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All of them, by name, and how many bytes of files are new."""

    changes: tuple[PackageChange, ...]
    new_bytes: int

    def counts(self) -> dict[str, int]:
        """How many packages were added, removed and changed."""
        added = sum(not each.before for each in self.changes)
        removed = sum(not each.after for each in self.changes)
        return {
            "added": added,
            "removed": removed,
            "changed": len(self.changes) - added - removed,
            "new_bytes": self.new_bytes,
        }


def compare(store: Store, before: SuiteState | None, after: SuiteState) -> Difference:
    """What is different; without a ``before``, everything is new."""
    gained, lost = set(_only_in(store, after, before)), set(_only_in(store, before, after))
    versions: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for side, entries in enumerate((lost, gained)):
        for entry in entries:
            key = (entry.package, entry.architecture)
            versions.setdefault(key, (set(), set()))[side].add(entry.version)
    changes = tuple(
        PackageChange(
            package=package,
            architecture=architecture,
            before=tuple(sorted(old)),
            after=tuple(sorted(new)),
        )
        for (package, architecture), (old, new) in sorted(versions.items())
        # A package that is in another index now is no other package.
        if old != new
    )
    sizes = {entry.sha256: entry.size for entry in gained}
    for entry in lost:
        sizes.pop(entry.sha256, None)
    return Difference(changes=changes, new_bytes=sum(sizes.values()))


def _only_in(store: Store, state: SuiteState | None, other: SuiteState | None) -> Iterator[Entry]:
    """The entries of a state's indexes that the same index of the other does not have."""
    if state is None:
        return
    for path, ref in state.listings.items():
        beside = None if other is None else other.listings.get(path)
        if beside is not None and beside.sha256 == ref.sha256:
            continue
        with Listing(store.path(ref.sha256)) as listing:
            if beside is None:
                yield from listing
            else:
                with Listing(store.path(beside.sha256)) as old:
                    yield from listing.changes(old)
