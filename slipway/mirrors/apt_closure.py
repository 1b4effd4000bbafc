"""The closure of Debian packages: of alternatives the first that can be had, as apt does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from slipway.mirrors import debian_versions
from slipway.mirrors.closure import Universe
from slipway.mirrors.debian_versions import HOLDS, order
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.relations import Needs, Relations
from slipway.mirrors.stanzas import kind_of
from slipway.mirrors.store import Store

#: ``libc6:any (>= 2.36)``
_RELATION = re.compile(r"\s*([^\s:(\[<]+)(?::(\S+))?\s*(?:\(\s*([<>=]+)\s*([^)\s]+)\s*\))?")


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


class AptUniverse(Universe[str, Needs]):
    """All Debian packages for an architecture that some suites have. A need is a group of
    alternatives, as it stands in the index: ``default-mta | mail-transport-agent``."""

    _order = staticmethod(debian_versions.order)

    def __init__(self, store: Store, states: Iterable[SuiteState], architecture: str) -> None:
        super().__init__(architecture)
        self._indexes: list[Relations] = []
        for state in states:
            for path, ref in state.listings.items():
                if kind_of(path) == "Packages" and "/debian-installer/" not in path:
                    self._indexes.append(found := Relations.of(store, ref.index, path))
                    self._stack.callback(found.close)

    def _named(self, name: str) -> str:
        return name

    def _needs(self, package: Needs) -> Iterator[tuple[str, bool]]:
        for text, required in ((package.depends, True), (package.recommends, False)):
            for group in filter(str.strip, text.split(",")):
                yield group, required

    def _candidates(self, need: str) -> list[Needs]:
        return next(filter(None, map(self._that_will_do, _alternatives(need))), [])

    def _words(self, need: str) -> str:
        return " ".join(need.split())

    def _versions(self, package: str) -> list[Needs]:
        return [
            each
            for index in self._indexes
            for each in index.packages(package)
            if each.entry.architecture in (self._architecture, "all")
        ]

    def _that_will_do(self, wanted: _Wanted) -> list[Needs]:
        if wanted.qualifier not in ("", "any", "native", self._architecture):
            return []
        found = [each for each in self._versions(wanted.name) if wanted.holds(each.entry.version)]
        if found:
            return found
        return [
            each
            for index in self._indexes
            for stand_in in index.providers(wanted.name)
            if wanted.holds(stand_in.version)
            for each in self._versions(stand_in.provider)
            if each.entry.version == stand_in.provider_version
        ]


def _alternatives(group: str) -> Iterator[_Wanted]:
    for text in group.split("|"):
        found = _RELATION.match(text)
        if found:
            yield _Wanted(*(part or "" for part in found.groups()))
