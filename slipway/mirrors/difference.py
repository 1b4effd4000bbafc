"""What is different between two states of a suite, in packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.mirrors import debian_versions, rpm_versions
from slipway.mirrors.listing import Listing
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package that is there in other versions than before."""

    package: str
    architecture: str
    #: The newest last. Empty: it is new.
    before: tuple[str, ...]
    #: The newest last. Empty: it is gone.
    after: tuple[str, ...]
    #: Whether its newest version is older than it was.
    downgraded: bool = False


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All of them, by name, and how many bytes of files are new."""

    changes: tuple[PackageChange, ...]
    new_bytes: int

    def counts(self) -> dict[str, int]:
        """How many packages were added, removed and changed, and how many of those downgraded."""
        added = sum(not each.before for each in self.changes)
        removed = sum(not each.after for each in self.changes)
        return {
            "added": added,
            "removed": removed,
            "changed": len(self.changes) - added - removed,
            "downgraded": sum(each.downgraded for each in self.changes),
            "new_bytes": self.new_bytes,
        }


def count_first(store: Store, state: SuiteState) -> dict[str, int]:
    """The counts of a first state, in which everything is new, without having it all in memory."""
    # 64 bits each: of a million, two have the same once in thirty million times.
    packages: set[int] = set()
    files: set[int] = set()
    size = 0
    for entry in _only_in(store, state, None):
        packages.add(hash((entry.package, entry.architecture)))
        known = len(files)
        files.add(int(entry.sha256[:16], 16))
        size += entry.size if len(files) > known else 0
    new = {"added": len(packages), "new_bytes": size}
    return {**Difference(changes=(), new_bytes=0).counts(), **new}


def compare(store: Store, before: SuiteState | None, after: SuiteState) -> Difference:
    """What is different; without a ``before``, everything is new."""
    gained, lost = set(_only_in(store, after, before)), set(_only_in(store, before, after))
    versions: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for side, entries in enumerate((lost, gained)):
        for entry in entries:
            key = (entry.package, entry.architecture)
            versions.setdefault(key, (set(), set()))[side].add(entry.version)
    order: Callable[[str], Any] = debian_versions.order
    if after.is_rpm:
        order = rpm_versions.order
    if after.is_rpm and before is not None:
        _add_others(store, (before, after), versions)
    changes = tuple(
        _change(package, architecture, old, new, order)
        for (package, architecture), (old, new) in sorted(versions.items())
        # A package that is in another index now is no other package.
        if old != new
    )
    sizes = {entry.sha256: entry.size for entry in gained}
    for entry in lost:
        sizes.pop(entry.sha256, None)
    return Difference(changes=changes, new_bytes=sum(sizes.values()))


def _add_others(
    store: Store,
    states: tuple[SuiteState, SuiteState],
    versions: Mapping[tuple[str, str], tuple[set[str], set[str]]],
) -> None:
    """Add the versions that were there before and after: rpm repositories keep older ones."""
    for side, state in enumerate(states):
        for ref in state.listings.values():
            with Listing(store.path(ref.sha256)) as listing:
                for entry in listing:
                    known = versions.get((entry.package, entry.architecture))
                    if known is not None:
                        known[side].add(entry.version)


def _change(
    package: str, architecture: str, old: set[str], new: set[str], order: Callable[[str], Any]
) -> PackageChange:
    # Most have one version, which need not be taken apart.
    before, after = (
        tuple(each) if len(each) < 2 else tuple(sorted(each, key=order)) for each in (old, new)
    )
    return PackageChange(
        package=package,
        architecture=architecture,
        before=before,
        after=after,
        downgraded=bool(old and new and order(after[-1]) < order(before[-1])),
    )


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
