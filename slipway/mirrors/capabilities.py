"""What the packages of an rpm repository need and provide: made once from ``primary.xml`` and kept
beside the store, where it can be thrown away at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from slipway.mirrors import primary, stanzas, table
from slipway.mirrors.primary import Described, Relation
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store
from slipway.mirrors.table import Table

#: Of the derived files.
KIND = "capabilities"


class Provided(NamedTuple):
    """That a package has something of a name."""

    relation: Relation
    provider: str
    provider_version: str
    provider_architecture: str


class Capabilities:
    """Those of one index, open. Safe to use from several threads."""

    def __init__(self, path: Path, top: str) -> None:
        self._table = Table(path)
        #: What the paths in the index begin after.
        self._top = top

    @classmethod
    def of(cls, store: Store, index: str, path: str) -> Capabilities:
        """Those of the index with this SHA-256; ``path`` says how it is to be read. Raises
        `ReleaseRefused`."""
        derived = store.derived(KIND, index, lambda: _made(store.path(index), path))
        return cls(derived, path.rpartition(f"{primary.DIRECTORY}/")[0])

    def close(self) -> None:
        """Give the file back."""
        self._table.close()

    def packages(self, name: str) -> Iterator[Described]:
        """All versions of a package; what they provide is left out."""
        for line in self._table.beginning(f"{name}\tP\t"):
            _, _, version, architecture, path, sha256, size, needs = line.decode().split("\t")
            entry = Entry(self._top + path, sha256, int(size), name, version, architecture)
            requires, recommends = (
                tuple(Relation(*each) for each in part) for part in json.loads(needs)
            )
            yield Described(entry, requires, recommends, ())

    def providers(self, name: str) -> Iterator[Provided]:
        """What has something of this name."""
        for line in self._table.beginning(f"{name}\tV\t"):
            _, _, flags, version, *provider = line.decode().split("\t")
            yield Provided(Relation(name, flags, version), *provider)


def _made(blob: Path, path: str) -> bytearray:
    """A table: a line for each package, and one for each thing that it provides."""
    lines: list[bytes] = []
    suffix = stanzas.suffix_of(path).removeprefix(".xml")
    for each in primary.described(stanzas.read_chunks(blob, suffix, path), path):
        entry = each.entry
        needs = json.dumps([each.requires, each.recommends], separators=(",", ":"))
        words = ("P", entry.version, entry.architecture, entry.path, entry.sha256, entry.size)
        lines.append("\t".join(map(str, (entry.package, *words, needs))).encode())
        for has in each.provides:
            if not (has.name and has.name.isprintable() and has.version.isprintable()):
                continue
            stands = ("V", has.flags, has.version)
            who = (entry.package, entry.version, entry.architecture)
            lines.append("\t".join((has.name, *stands, *who)).encode())
    lines.sort()
    return table.write(lines)
