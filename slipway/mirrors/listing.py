"""The files an index names, sorted by path: what is looked into at request time, instead of the
index itself.

Blocks of lines, each compressed for itself, then a directory of the blocks by the first path in
each. Finding a path among 60,000 reads and decompresses some 20 kB. Where a block ends depends on
the paths in it alone, so two days that differ in a few packages have nearly all blocks in common.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from slipway.errors import BlobBroken, ReleaseRefused
from slipway.mirrors.stanzas import Entry

#: On average, and at most.
_LINES_PER_BLOCK = 256
_MOST_LINES = 4 * _LINES_PER_BLOCK
_LEVEL = 6
#: Offset of the directory, then what marks the format.
_TRAILER = struct.Struct("<Q8s")
_MAGIC = b"slipls01"


def write(entries: Iterable[Entry], where: str) -> bytes:
    """The listing of these entries. Raises `ReleaseRefused` when they name one path twice, with
    different bytes."""
    lines = sorted({_line(entry) for entry in entries})
    _check_paths(lines, where)
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    out = bytearray()
    directory: list[tuple[str, int, int]] = []
    for block in _blocks(lines):
        data = compressor.compress(b"\n".join(block))
        directory.append((_path(block[0]).decode(), len(out), len(data)))
        out += data
    offset = len(out)
    out += compressor.compress(json.dumps(directory).encode())
    out += _TRAILER.pack(offset, _MAGIC)
    return bytes(out)


class Listing:
    """A listing on disk, open. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        # Whoever keeps listings at hand forgets them while others still look into them.
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            self._blocks = self._directory()
        except BaseException:
            self.close()
            raise
        self._firsts = [first for first, _, _ in self._blocks]

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._close()

    def find(self, path: str) -> Entry | None:
        """What is at a path."""
        at = bisect.bisect_right(self._firsts, path) - 1
        if at < 0:
            return None
        wanted = path.encode() + b"\t"
        for line in self._lines(at):
            if line.startswith(wanted):
                return _parse(line)
        return None

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by path."""
        for at in range(len(self._blocks)):
            for line in self._lines(at):
                yield _parse(line)

    def below(self, prefix: str) -> Iterator[Entry]:
        """The entries whose path begins so."""
        at = max(bisect.bisect_left(self._firsts, prefix) - 1, 0)
        wanted = prefix.encode()
        for block in range(at, len(self._blocks)):
            for line in self._lines(block):
                if line.startswith(wanted):
                    yield _parse(line)
                elif line > wanted:
                    return

    def changes(self, before: Listing) -> Iterator[Entry]:
        """The entries that ``before`` does not have just so; blocks that both have are not looked
        into."""
        ours, theirs = self._by_block(), before._by_block()
        old = {
            line for data, at in theirs.items() if data not in ours for line in before._lines(at)
        }
        for data, at in ours.items():
            if data not in theirs:
                yield from (_parse(line) for line in self._lines(at) if line not in old)

    def _by_block(self) -> dict[bytes, int]:
        """The place of each block, by the hash of its bytes."""
        return {hashlib.sha256(self._read(at)).digest(): at for at in range(len(self._blocks))}

    def _directory(self) -> list[tuple[str, int, int]]:
        size = os.fstat(self._descriptor).st_size
        trailer = os.pread(self._descriptor, _TRAILER.size, max(size - _TRAILER.size, 0))
        if len(trailer) == _TRAILER.size:
            offset, magic = _TRAILER.unpack(trailer)
            if magic == _MAGIC:
                length = size - _TRAILER.size - offset
                data = os.pread(self._descriptor, length, offset)
                return [tuple(each) for each in json.loads(_decompress(data, self._path))]
        raise BlobBroken(f"{self._path} is not a listing")

    def _lines(self, at: int) -> list[bytes]:
        return _decompress(self._read(at), self._path).split(b"\n")

    def _read(self, at: int) -> bytes:
        _, offset, length = self._blocks[at]
        return os.pread(self._descriptor, length, offset)


def _blocks(lines: list[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        if zlib.crc32(_path(line)) % _LINES_PER_BLOCK == 0 or len(block) == _MOST_LINES:
            yield block
            block = []
    if block:
        yield block


def _decompress(data: bytes, path: Path) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise BlobBroken(f"{path} is damaged: {error}") from error


def _line(entry: Entry) -> bytes:
    return "\t".join(map(str, entry)).encode()


def _path(line: bytes) -> bytes:
    return line[: line.index(b"\t")]


def _parse(line: bytes) -> Entry:
    path, sha256, size, package, version, architecture = line.decode().split("\t")
    return Entry(path, sha256, int(size), package, version, architecture)


def _check_paths(lines: list[bytes], where: str) -> None:
    before = b""
    for line in lines:
        path = _path(line)
        if path == before:
            raise ReleaseRefused(f"{where}: it names {path.decode()} twice, with different content")
        before = path
