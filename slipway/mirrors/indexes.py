"""Which files are indexes of other files, and what reads each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from slipway.mirrors import primary, stanzas
from slipway.mirrors.stanzas import Entry

_READERS: dict[str, Callable[[Iterable[bytes], str], Iterator[Entry]]] = {
    "Packages": stanzas.packages,
    "Sources": stanzas.sources,
    "primary": primary.packages,
}


def names_files(path: str) -> bool:
    """Whether what is at a path of an index is an index of files."""
    return stanzas.kind_of(path) in _READERS


def entries(blob: Path, path: str, where: str) -> Iterator[Entry]:
    """The files that an index names, from the top of the repository; ``blob`` has its bytes,
    ``path`` says how they are to be read. Raises `ReleaseRefused`."""
    read = _READERS[stanzas.kind_of(path)]
    suffix = stanzas.suffix_of(path).removeprefix(".xml")
    found = read(stanzas.read_chunks(blob, suffix, where), where)
    # Paths in rpm's indexes begin where the index's repository does.
    top, _, _ = path.rpartition(f"{primary.DIRECTORY}/primary.")
    return (entry._replace(path=top + entry.path) for entry in found) if top else found
