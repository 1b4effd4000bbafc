"""Sorted lines, to be looked into without being read: blocks of lines, each compressed for itself,
then a directory of the blocks by the first key in each.

A line's key is what stands before its first tab. Finding a key among 60,000 reads and decompresses
some 20 kB. Where a block ends depends on the keys in it alone, so two tables that differ in a few
lines have nearly all blocks in common.
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

from slipway.errors import BlobBroken

#: On average, and at most.
_LINES_PER_BLOCK = 256
_MOST_LINES = 4 * _LINES_PER_BLOCK
_LEVEL = 6
#: Offset of the directory, then what marks the format.
_TRAILER = struct.Struct("<Q8s")
_MAGIC = b"slipls01"


def write(lines: list[bytes]) -> bytearray:
    """The table of these lines, which are sorted, each once if it is there twice. The list is empty
    afterwards: it may be the largest thing in memory, and is given back as the table grows."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    out = bytearray()
    directory: list[tuple[str, int, int]] = []
    for block in _blocks(_taken_from(lines)):
        data = compressor.compress(b"\n".join(block))
        directory.append((key_of(block[0]).decode(), len(out), len(data)))
        out += data
    offset = len(out)
    out += compressor.compress(json.dumps(directory).encode())
    out += _TRAILER.pack(offset, _MAGIC)
    return out


def _taken_from(lines: list[bytes]) -> Iterator[bytes]:
    lines.reverse()
    before = None
    while lines:
        line = lines.pop()
        if line != before:
            yield line
        before = line


def key_of(line: bytes) -> bytes:
    """What a line is found by."""
    return line[: line.index(b"\t")]


class Table:
    """A table on disk, open. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        # Whoever keeps tables at hand forgets them while others still look into them.
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            self._blocks = self._directory()
        except BaseException:
            self.close()
            raise
        self._firsts = [first for first, _, _ in self._blocks]

    def close(self) -> None:
        """Give the file back."""
        self._close()

    def lines(self) -> Iterator[bytes]:
        """All of them, in order."""
        for at in range(len(self._blocks)):
            yield from self._lines(at)

    def first(self, key: str) -> bytes | None:
        """The line with a key, where there is one at most."""
        at = bisect.bisect_right(self._firsts, key) - 1
        if at < 0:
            return None
        wanted = key.encode() + b"\t"
        return next((line for line in self._lines(at) if line.startswith(wanted)), None)

    def beginning(self, prefix: str) -> Iterator[bytes]:
        """The lines that begin so."""
        # A block's first key has no tab, which sorts below everything that a key is made of.
        at = max(bisect.bisect_left(self._firsts, prefix.rstrip("\t")) - 1, 0)
        wanted = prefix.encode()
        for block in range(at, len(self._blocks)):
            for line in self._lines(block):
                if line.startswith(wanted):
                    yield line
                elif line > wanted:
                    return

    def changed(self, before: Table) -> Iterator[bytes]:
        """The lines that ``before`` does not have just so; blocks that both have are not looked
        into."""
        ours, theirs = self._by_block(), before._by_block()
        old = {
            line for data, at in theirs.items() if data not in ours for line in before._lines(at)
        }
        for data, at in ours.items():
            if data not in theirs:
                yield from (line for line in self._lines(at) if line not in old)

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


def _blocks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        if zlib.crc32(key_of(line)) % _LINES_PER_BLOCK == 0 or len(block) == _MOST_LINES:
            yield block
            block = []
    if block:
        yield block


def _decompress(data: bytes, path: Path) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise BlobBroken(f"{path} is damaged: {error}") from error
