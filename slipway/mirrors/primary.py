"""The packages that the ``primary`` index of an rpm repository names, read as they go by.

Most of an index is what packages provide and require, which is of no interest here: while it goes
by, nothing is called for its elements' beginnings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from xml.parsers import expat

from slipway.errors import ReleaseRefused
from slipway.mirrors import paths
from slipway.mirrors.stanzas import Entry

#: What an rpm repository has its indexes in.
DIRECTORY = "repodata"

_COMMON = "http://linux.duke.edu/metadata/common"
_RPM = "http://linux.duke.edu/metadata/rpm"
_BASE = "http://www.w3.org/XML/1998/namespace base"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def packages(chunks: Iterable[bytes], where: str) -> Iterator[Entry]:
    """The files of a ``primary.xml``, from the top of its repository. Raises `ReleaseRefused`."""
    reader = _Reader(where)
    data = b""
    for data in chunks:
        yield from reader.feed(data)
    if not data:
        raise ReleaseRefused(f"{where}: it is empty")
    yield from reader.end()


class Relation(NamedTuple):
    """Something by name that a package needs or has, see rpm-dependency-generators(7)."""

    name: str
    #: ``EQ``, ``GE``, ``LT`` …; empty for any version.
    flags: str
    #: ``2:1.0-3.el9``
    version: str


class Described(NamedTuple):
    """A package with its relations."""

    entry: Entry
    requires: tuple[Relation, ...]
    recommends: tuple[Relation, ...]
    #: With the files that the index names of it.
    provides: tuple[Relation, ...]


def described(chunks: Iterable[bytes], where: str) -> Iterator[Described]:
    """The packages of a ``primary.xml`` with their relations. Raises `ReleaseRefused`."""
    reader = _DescribingReader(where)
    for data in chunks:
        reader.feed(data)
        yield from reader.taken()
    reader.end()
    yield from reader.taken()


class _Reader:
    """Collects packages as elements go by."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._no_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._found: list[Entry] = []
        #: What is known of the package that goes by.
        self._words: dict[str, str] = {}
        self._text: list[str] = []

    def feed(self, data: bytes) -> list[Entry]:
        """The packages that end in this piece."""
        return self._parsed(data, last=False)

    def end(self) -> list[Entry]:
        """Nothing follows."""
        return self._parsed(b"", last=True)

    def _parsed(self, data: bytes, *, last: bool) -> list[Entry]:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise ReleaseRefused(f"{self._where}: this is not XML: {error}") from error
        found, self._found = self._found, []
        return found

    def _no_doctype(self, *_: object) -> None:
        raise ReleaseRefused(f"{self._where}: it has a document type, which none of its kind has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        match name.removeprefix(f"{_COMMON} "):
            case "package":
                self._words = {}
            case "name" | "arch":
                self._listen()
            case "checksum":
                self._words["algorithm"] = attributes.get("type", "")
                self._listen()
            case "version":
                self._words["version"] = evr_of(attributes)
            case "size":
                self._words["size"] = attributes.get("package", "")
            case "location":
                self._words["path"] = attributes.get("href", "")
                self._words["base"] = attributes.get(_BASE, "")
            case "format":
                self._parser.StartElementHandler = self._within_format

    #: What is called for elements that say more of a package.
    _within_format: Callable[[str, dict[str, str]], None] | None = None

    def _listen(self) -> None:
        self._text = []
        self._parser.CharacterDataHandler = self._text.append

    def _end(self, name: str) -> None:
        match name.removeprefix(f"{_COMMON} "):
            case "name" | "arch" | "checksum" as word:
                self._words[word] = "".join(self._text).strip()
                self._parser.CharacterDataHandler = None
            case "format":
                self._parser.StartElementHandler = self._start
            case "package":
                self._found.append(self._entry())

    def _entry(self) -> Entry:
        words = self._words
        name, path = words.get("name", ""), words.get("path", "")
        if words.get("algorithm") != "sha256":
            raise ReleaseRefused(
                f"{self._where}: package {name!r} has a checksum of type "
                f"{words.get('algorithm', '')!r}; only sha256 is kept here"
            )
        if words["base"]:
            raise ReleaseRefused(
                f"{self._where}: package {name!r} is in another place, {words['base']!r}"
            )
        found = paths.safe(path)
        sound = all(words.get(key, "").isprintable() for key in ("name", "version", "arch"))
        size, sha256 = words.get("size", ""), words.get("checksum", "")
        if found is None or not sound or not size.isdecimal() or not _SHA256.fullmatch(sha256):
            raise ReleaseRefused(
                f"{self._where}: package {name!r} names the file {path!r} with size {size!r} and "
                f"SHA-256 {sha256!r}"
            )
        return Entry(
            path=found,
            sha256=sha256,
            size=int(size),
            package=name,
            version=words.get("version", ""),
            architecture=words.get("arch", ""),
        )


class _DescribingReader(_Reader):
    """Looks into what packages provide and require as well."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._described: list[Described] = []
        self._relations: dict[str, list[Relation]] = {}
        #: Those that go by; a list that nobody looks at for kinds of no interest.
        self._current: list[Relation] = []
        self._within_format = self._start_within

    def taken(self) -> list[Described]:
        """The packages that have gone by since it was last asked."""
        found, self._described = self._described, []
        return found

    def _start_within(self, name: str, attributes: dict[str, str]) -> None:
        space, _, kind = name.rpartition(" ")
        if space == _RPM and kind == "entry":
            version = evr_of(attributes) if "ver" in attributes else ""
            flags = attributes.get("flags", "")
            self._current.append(Relation(attributes.get("name", ""), flags, version))
        elif space == _RPM and kind in ("requires", "recommends", "provides"):
            self._current = self._relations.setdefault(kind, [])
        elif space == _RPM:
            self._current = []
        elif kind == "file":
            self._listen()

    def _end(self, name: str) -> None:
        if name == f"{_COMMON} file":
            path = "".join(self._text).strip()
            self._relations.setdefault("provides", []).append(Relation(path, "", ""))
            self._parser.CharacterDataHandler = None
        super()._end(name)
        if name == f"{_COMMON} package":
            relations, self._relations = self._relations, {}
            self._described.append(
                Described(
                    entry=self._found[-1],
                    requires=tuple(relations.get("requires", ())),
                    recommends=tuple(relations.get("recommends", ())),
                    provides=tuple(relations.get("provides", ())),
                )
            )


def evr_of(attributes: dict[str, str]) -> str:
    """A version as people write it, without an epoch that is 0: ``2:1.0-3.el9``."""
    epoch, release = attributes.get("epoch", "0"), attributes.get("rel", "")
    before = f"{epoch}:" if epoch not in ("", "0") else ""
    behind = f"-{release}" if release else ""
    return f"{before}{attributes.get('ver', '')}{behind}"
