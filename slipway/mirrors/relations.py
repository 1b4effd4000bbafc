"""What the packages of an index need and provide, by name: made once from the index and kept beside
the store, where it can be thrown away at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from slipway.mirrors import stanzas, table
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store
from slipway.mirrors.table import Table

#: Of the derived files.
KIND = "relations"


class Needs(NamedTuple):
    """A package with the fields of its relations, as they stand in the index."""

    entry: Entry
    #: Pre-Depends and Depends.
    depends: str
    recommends: str


class Provided(NamedTuple):
    """That a package stands in for another, or for a name that no package has."""

    #: The version it stands in for; empty when it does not say.
    version: str
    provider: str
    provider_version: str


class Relations:
    """The relations of one index, open. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._table = Table(path)

    @classmethod
    def of(cls, store: Store, index: str, path: str) -> Relations:
        """Those of the index with this SHA-256; ``path`` says how it is to be read. Raises
        `ReleaseRefused`."""
        derived = store.derived(KIND, index, lambda: _made(store.path(index), path))
        return cls(derived)

    def close(self) -> None:
        """Give the file back."""
        self._table.close()

    def packages(self, name: str) -> Iterator[Needs]:
        """All versions of a package."""
        for line in self._table.beginning(f"{name}\tP\t"):
            _, _, version, architecture, path, sha256, size, depends, recommends = (
                line.decode().split("\t")
            )
            entry = Entry(path, sha256, int(size), name, version, architecture)
            yield Needs(entry, depends, recommends)

    def providers(self, name: str) -> Iterator[Provided]:
        """What stands in for it."""
        for line in self._table.beginning(f"{name}\tV\t"):
            yield Provided(*line.decode().split("\t")[2:])


def _made(blob: Path, path: str) -> bytearray:
    """A table: a line for each package, and one for each name that it stands in for."""
    lines: list[bytes] = []
    for entry, fields in stanzas.described(
        blob, path, ("Pre-Depends", "Depends", "Recommends", "Provides")
    ):
        before, depends, recommends, provides = fields
        both = ", ".join(each for each in (before, depends) if each)
        words = ("P", entry.version, entry.architecture, entry.path, entry.sha256, entry.size)
        lines.append("\t".join(map(str, (entry.package, *words, both, recommends))).encode())
        for each in provides.split(","):
            name, _, version = each.strip().partition(" ")
            if name:
                stands = (name.partition(":")[0], "V", version.strip("()= "), entry.package)
                lines.append("\t".join((*stands, entry.version)).encode())
    lines.sort()
    return table.write(lines)
