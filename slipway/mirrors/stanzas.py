"""The files that ``Packages`` and ``Sources`` indexes name, read at the speed of searching bytes.

A general parser takes ten times as long, and an index has 60,000 stanzas of which five fields
matter here.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import zstandard

from slipway.errors import ReleaseRefused
from slipway.mirrors import paths

_CHUNK = 1 << 20
_SHA256 = re.compile(rb"[0-9a-f]{64}")


class Entry(NamedTuple):
    """A file of the pool."""

    #: From the top of the repository.
    path: str
    sha256: str
    size: int
    package: str
    version: str
    architecture: str


def _zstd(file: IO[bytes]) -> Any:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


#: By suffix, what reads it; those that compress best come first.
COMPRESSIONS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".xz": lzma.LZMAFile,
    ".zst": _zstd,
    ".bz2": bz2.BZ2File,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    "": lambda file: file,
}


def read_chunks(path: Path, suffix: str, where: str) -> Iterator[bytes]:
    """The decompressed bytes of a file. Raises `ReleaseRefused` when it is not compressed so."""
    try:
        with path.open("rb") as file, COMPRESSIONS[suffix](file) as opened:
            while data := opened.read(_CHUNK):
                yield data
    except (lzma.LZMAError, EOFError, zlib.error, zstandard.ZstdError, OSError) as error:
        # What the system says has a number, what gzip and bz2 say of the data has none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ReleaseRefused(f"{where}: this cannot be decompressed: {error}") from error


def kind_of(path: str) -> str:
    """``Packages`` of ``main/binary-amd64/Packages.xz``."""
    return path.rpartition("/")[2].partition(".")[0]


def suffix_of(path: str) -> str:
    """``.xz`` of ``main/binary-amd64/Packages.xz``."""
    return path.rpartition("/")[2].removeprefix(kind_of(path))


def described(
    blob: Path, path: str, fields: Sequence[str]
) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """The files of a ``Packages`` index with more of what it says of each; values that go over
    several lines are put on one. Raises `ReleaseRefused`."""
    names = [f"\n{field}:".encode() for field in fields]
    for stanza in _stanzas(read_chunks(blob, suffix_of(path), path)):
        found = (b" ".join((_field(stanza, name), *_block(stanza, name))) for name in names)
        # A tab would end it, where lines are kept.
        words = (each.decode("utf-8", "replace").replace("\t", " ").strip() for each in found)
        yield _package(stanza, path), tuple(words)


def packages(chunks: Iterable[bytes], where: str) -> Iterator[Entry]:
    """The files of a ``Packages`` index. Raises `ReleaseRefused`."""
    for stanza in _stanzas(chunks):
        yield _package(stanza, where)


def _package(stanza: bytes, where: str) -> Entry:
    return _entry(
        where,
        path=_field(stanza, b"\nFilename:"),
        sha256=_field(stanza, b"\nSHA256:"),
        size=_field(stanza, b"\nSize:"),
        package=_field(stanza, b"\nPackage:"),
        version=_field(stanza, b"\nVersion:"),
        architecture=_field(stanza, b"\nArchitecture:"),
    )


def sources(chunks: Iterable[bytes], where: str) -> Iterator[Entry]:
    """The files of a ``Sources`` index. Raises `ReleaseRefused`."""
    for stanza in _stanzas(chunks):
        directory = _field(stanza, b"\nDirectory:")
        package, version = _field(stanza, b"\nPackage:"), _field(stanza, b"\nVersion:")
        for line in _block(stanza, b"\nChecksums-Sha256:"):
            digest, size, name = (*line.split(maxsplit=2), b"", b"")[:3]
            yield _entry(
                where,
                path=directory + b"/" + name if directory not in (b"", b".") else name,
                sha256=digest,
                size=size,
                package=package,
                version=version,
                architecture=b"source",
            )


def _entry(where: str, *, sha256: bytes, size: bytes, path: bytes, **words: bytes) -> Entry:
    found = paths.safe(path.decode("utf-8", "replace"))
    texts = {name: word.decode("utf-8", "replace") for name, word in words.items()}
    sound = all(text.isprintable() for text in texts.values()) and size.isdigit()
    if found is None or not sound or not _SHA256.fullmatch(sha256):
        raise ReleaseRefused(
            f"{where}: package {texts['package']!r} names the file {path!r} with size {size!r} and "
            f"SHA-256 {sha256!r}"
        )
    return Entry(path=found, sha256=sha256.decode("ascii"), size=int(size), **texts)


def _stanzas(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Each with a line's end before its first field, so that every field is found the same way."""
    rest = b""
    for chunk in chunks:
        parts = (rest + chunk).split(b"\n\n")
        rest = parts.pop()
        for part in parts:
            if part.strip():
                yield b"\n" + part.lstrip(b"\n") + b"\n"
    if rest.strip():
        yield b"\n" + rest.lstrip(b"\n") + b"\n"


def _field(stanza: bytes, name: bytes) -> bytes:
    at = stanza.find(name)
    if at < 0:
        return b""
    start = at + len(name)
    return stanza[start : stanza.index(b"\n", start)].strip()


def _block(stanza: bytes, name: bytes) -> Iterator[bytes]:
    """The lines below a field."""
    at = stanza.find(name)
    if at < 0:
        return
    for line in stanza[at + len(name) :].split(b"\n")[1:]:
        if not line.startswith((b" ", b"\t")):
            return
        yield line.strip()
