"""What has to be here so that packages can be installed: they, all they depend on, and so on.

More is taken than one machine needs, so that what it has already makes no difference: every version
that will do, and everything that stands in for a name which no package has. Of alternatives the
first that can be had is taken, as apt does. What is recommended is taken where it is there, because
apt installs it unless it is told not to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from slipway.mirrors.debian_versions import HOLDS, order
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.relations import Needs, Relations
from slipway.mirrors.stanzas import Entry, kind_of
from slipway.mirrors.store import Store

#: ``libc6:any (>= 2.36)``
_RELATION = re.compile(r"\s*([^\s:(\[<]+)(?::(\S+))?\s*(?:\(\s*([<>=]+)\s*([^)\s]+)\s*\))?")


@dataclass(frozen=True, kw_only=True)
class Closure:
    """All that is needed, and what of it no index has."""

    #: By path.
    entries: Mapping[str, Entry]
    #: In words: ``libfoo (>= 2), which bar needs``.
    missing: tuple[str, ...]


class _Wanted(NamedTuple):
    """One alternative."""

    name: str
    qualifier: str
    operator: str
    version: str

    def holds(self, version: str) -> bool:
        """Whether a version will do; one that nobody has told only where none is asked for."""
        if not self.operator:
            return True
        return bool(version) and HOLDS[self.operator](order(version), order(self.version))


class Universe:
    """All packages for an architecture that some suites have; use it in a ``with`` statement."""

    def __init__(self, store: Store, states: Iterable[SuiteState], architecture: str) -> None:
        self._architecture = architecture
        self._stack = ExitStack()
        self._indexes: list[Relations] = []
        for state in states:
            for path, ref in state.listings.items():
                if kind_of(path) == "Packages" and "/debian-installer/" not in path:
                    self._indexes.append(found := Relations.of(store, ref.index, path))
                    self._stack.callback(found.close)

    def __enter__(self) -> Universe:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, name: str) -> bool:
        """Whether there is a package of this name, or something that stands in for it."""
        return any(map(self._candidates, _alternatives(name)))

    def closure(self, names: Sequence[str]) -> Closure:
        """Of packages by name."""
        found: dict[str, Needs] = {}
        fresh: list[Needs] = []
        missing: list[tuple[str, Needs | None]] = []

        def take(group: str, needed_by: Needs | None, *, required: bool) -> None:
            candidates = next(filter(None, map(self._candidates, _alternatives(group))), [])
            if not candidates and required:
                missing.append((" ".join(group.split()), needed_by))
            for each in candidates:
                if each.entry.path not in found:
                    found[each.entry.path] = each
                    fresh.append(each)

        for name in names:
            take(name, None, required=True)
        while fresh:
            each = fresh.pop()
            for group in filter(str.strip, each.depends.split(",")):
                take(group, each, required=True)
            for group in filter(str.strip, each.recommends.split(",")):
                take(group, each, required=False)
        return Closure(
            entries={path: needs.entry for path, needs in found.items()},
            missing=tuple(self._in_words(missing)),
        )

    def _candidates(self, wanted: _Wanted) -> list[Needs]:
        """All packages that will do."""
        if wanted.qualifier not in ("", "any", "native", self._architecture):
            return []
        found = [each for each in self._packages(wanted.name) if wanted.holds(each.entry.version)]
        if found:
            return found
        return [
            each
            for index in self._indexes
            for stand_in in index.providers(wanted.name)
            if wanted.holds(stand_in.version)
            for each in self._packages(stand_in.provider)
            if each.entry.version == stand_in.provider_version
        ]

    def _packages(self, name: str) -> list[Needs]:
        return [
            each
            for index in self._indexes
            for each in index.packages(name)
            if each.entry.architecture in (self._architecture, "all")
        ]

    def _in_words(self, missing: Iterable[tuple[str, Needs | None]]) -> Iterator[str]:
        seen: set[str] = set()
        for what, needed_by in missing:
            if needed_by is not None and self._is_outdone(needed_by.entry):
                # Nobody installs it: a suite of updates has removed what the old version needs.
                continue
            if what not in seen:
                seen.add(what)
                yield (
                    what if needed_by is None else f"{what}, which {needed_by.entry.package} needs"
                )

    def _is_outdone(self, entry: Entry) -> bool:
        mine = order(entry.version)
        return any(order(each.entry.version) > mine for each in self._packages(entry.package))


def _alternatives(group: str) -> Iterator[_Wanted]:
    for text in group.split("|"):
        found = _RELATION.match(text)
        if found:
            yield _Wanted(*(part or "" for part in found.groups()))
