"""The closure of rpm packages.

What a package needs is the name of something that packages provide, a package, a library or a file,
with a version at times. Needs that combine others (``(a if b)``) are taken as far as what they name
is there, and never found missing: whether they hold depends on what else a machine has. Groups
(``@core``) and modules are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.parsers import expat

from slipway.mirrors import rpm_versions, stanzas
from slipway.mirrors.capabilities import Capabilities
from slipway.mirrors.closure import Universe
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.primary import Described, Relation
from slipway.mirrors.store import Store

#: What stands between the names of a need that combines others, with its versions.
_OPERATORS = frozenset(("and", "or", "if", "else", "unless", "with", "without"))
_VERSION = re.compile(r"\s*[<>=]+\s*\S+")
_ANY_VERSION = ""


class RpmUniverse(Universe[Relation, Described]):
    """All rpm packages for an architecture that some repositories have."""

    _order = staticmethod(rpm_versions.order)

    def __init__(self, store: Store, states: Iterable[SuiteState], architecture: str) -> None:
        super().__init__(architecture)
        self._store = store
        self._states = list(states)
        self._indexes: list[Capabilities] = []
        #: By path, the packages that have a file of which no index of packages tells.
        self._files: dict[str, list[Described]] = {}
        for state in self._states:
            for path, ref in state.listings.items():
                if stanzas.kind_of(path) == "primary":
                    self._indexes.append(found := Capabilities.of(store, ref.index, path))
                    self._stack.callback(found.close)

    def _named(self, name: str) -> Relation:
        return Relation(name, "", _ANY_VERSION)

    def _needs(self, package: Described) -> Iterator[tuple[Relation, bool]]:
        for need in package.requires:
            # What starts so is a feature of rpm itself.
            if not need.name.startswith("rpmlib("):
                yield need, not need.name.startswith("(")
        for need in package.recommends:
            yield need, False

    def _candidates(self, need: Relation) -> list[Described]:
        if need.name.startswith("@"):
            return []
        if need.name.startswith("("):
            return [each for name in _names(need.name) for each in self._providing(name)]
        found = self._providing(need)
        if not found and need.name.startswith("/"):
            found = self._with_file(need.name)
        return found

    def _words(self, need: Relation) -> str:
        signs = {"EQ": "=", "GE": ">=", "GT": ">", "LE": "<=", "LT": "<"}
        return " ".join(filter(None, (need.name, signs.get(need.flags, ""), need.version)))

    def _versions(self, package: str) -> list[Described]:
        return [
            each
            for index in self._indexes
            for each in index.packages(package)
            if each.entry.architecture in (self._architecture, "noarch")
        ]

    def _providing(self, need: Relation) -> list[Described]:
        return [
            each
            for index in self._indexes
            for has in index.providers(need.name)
            if has.provider_architecture in (self._architecture, "noarch")
            and overlap(has.relation, need)
            for each in index.packages(has.provider)
            if (each.entry.version, each.entry.architecture)
            == (has.provider_version, has.provider_architecture)
        ]

    def _with_file(self, path: str) -> list[Described]:
        """Looked up in the lists of all files, which are large: hardly a package needs a file of
        which the index of packages does not tell."""
        if path not in self._files:
            owners = {
                name
                for state in self._states
                for place, ref in state.files.items()
                if "filelists.xml" in place
                for name in _owners(self._store, ref.sha256, place, path)
            }
            self._files[path] = [each for name in sorted(owners) for each in self._versions(name)]
        return self._files[path]


def overlap(has: Relation, need: Relation) -> bool:
    """Whether what a package provides will do, see ``rpmdsCompare``: two ranges of versions have
    one in common."""
    if not has.version or not need.version:
        return True
    ours, theirs = has.version, need.version
    if "-" not in ours or "-" not in theirs:
        # One that names no release means all of them.
        ours, theirs = ours.partition("-")[0], theirs.partition("-")[0]
    difference = rpm_versions.compare(ours, theirs)
    if difference < 0:
        return has.flags in ("GT", "GE") or need.flags in ("LT", "LE")
    if difference > 0:
        return has.flags in ("LT", "LE") or need.flags in ("GT", "GE")
    return any(
        has.flags in alike and need.flags in alike
        for alike in (("EQ", "GE", "LE"), ("LT", "LE"), ("GT", "GE"))
    )


def _names(text: str) -> Iterator[Relation]:
    """What a combined need names."""
    # Names may have parentheses of their own: "libfoo.so.1()(64bit)".
    for word in _VERSION.sub("", text).split():
        name = word
        while name.startswith("("):
            name = name[1:]
        while name.endswith(")") and name.count(")") > name.count("("):
            name = name[:-1]
        if name and name not in _OPERATORS:
            yield Relation(name, "", _ANY_VERSION)


def _owners(store: Store, sha256: str, path: str, wanted: str) -> set[str]:
    """The names of the packages that have a file."""
    found: set[str] = set()
    package = ""
    text: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal package
        if name.rpartition(" ")[2] == "package":
            package = attributes.get("name", "")
        text.clear()

    def end(_name: str) -> None:
        if "".join(text) == wanted:
            found.add(package)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    suffix = stanzas.suffix_of(path.rpartition("-")[2]).removeprefix(".xml")
    for chunk in stanzas.read_chunks(store.path(sha256), suffix, path):
        parser.Parse(chunk)
    return found
