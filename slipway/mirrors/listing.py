"""The files an index names, sorted by path: what is looked into at request time, instead of the
index itself (see `slipway.mirrors.table`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from slipway.errors import ReleaseRefused
from slipway.mirrors import table
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.table import Table, key_of


def write(entries: Iterable[Entry], where: str) -> bytearray:
    """The listing of these entries. Raises `ReleaseRefused` when they name one path twice, with
    different bytes."""
    # No set of them: they are the largest thing that a sync has in memory.
    lines = sorted(map(_line, entries))
    _check_paths(lines, where)
    return table.write(lines)


class Listing:
    """A listing on disk, open. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._table = Table(path)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._table.close()

    def find(self, path: str) -> Entry | None:
        """What is at a path."""
        line = self._table.first(path)
        return None if line is None else _parse(line)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by path."""
        return map(_parse, self._table.lines())

    def below(self, prefix: str) -> Iterator[Entry]:
        """The entries whose path begins so."""
        return map(_parse, self._table.beginning(prefix))

    def changes(self, before: Listing) -> Iterator[Entry]:
        """The entries that ``before`` does not have just so; what both have alike is not looked
        into."""
        return map(_parse, self._table.changed(before._table))


def _line(entry: Entry) -> bytes:
    return "\t".join(map(str, entry)).encode()


def _parse(line: bytes) -> Entry:
    path, sha256, size, package, version, architecture = line.decode().split("\t")
    return Entry(path, sha256, int(size), package, version, architecture)


def _check_paths(lines: list[bytes], where: str) -> None:
    for line, after in itertools.pairwise(lines):
        if key_of(line) == key_of(after) and line != after:
            path = key_of(line).decode()
            raise ReleaseRefused(f"{where}: it names {path} twice, with different content")
