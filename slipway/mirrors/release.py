"""What an apt suite's ``Release`` says: which files belong to it, and how long it holds.

https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from slipway.errors import ReleaseRefused
from slipway.mirrors import paths
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.store import Store

_HASHES = {"SHA256": 64, "SHA512": 128}
_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE = re.compile(rb"^-----BEGIN PGP SIGNATURE-----", re.MULTILINE)
_HEX = re.compile(r"[0-9a-f]+\Z")


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file that a release lists, by the path from the directory the release is in."""

    sha256: str
    size: int
    #: By name of the algorithm as in ``by-hash/``, for clients that ask by another hash.
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A suite as its release describes it."""

    #: Who made it: ``Debian``.
    origin: str
    suite: str
    codename: str
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    #: Whether packages for all architectures are only in an index of their own.
    all_apart: bool
    files: Mapping[str, ListedFile]


def parse(text: bytes, where: str) -> Release:
    """Read a release. Raises `ReleaseRefused` saying what is wrong with it."""
    try:
        fields = _fields(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReleaseRefused(f"{where}: this is not UTF-8") from error
    date = _date(fields, "date", where)
    if date is None:
        raise ReleaseRefused(f"{where}: it has no Date")
    files = _files(fields, where)
    if not files:
        raise ReleaseRefused(f"{where}: it lists no files with SHA256")
    architectures = tuple(fields.get("architectures", "").split())
    return Release(
        origin=fields.get("origin", ""),
        suite=fields.get("suite", ""),
        codename=fields.get("codename", ""),
        date=date,
        valid_until=_date(fields, "valid-until", where),
        by_hash=fields.get("acquire-by-hash", "").lower() == "yes",
        components=tuple(fields.get("components", "").split()),
        architectures=architectures,
        all_apart="all" in architectures
        and "packages" not in fields.get("no-support-for-architecture-all", "").lower().split(),
        files=files,
    )


def read(store: Store, state: SuiteState) -> Release:
    """The release that a state was made of, which was verified then. Raises `BlobBroken`."""
    path = min(
        (path for path in state.files if path.rpartition("/")[2] in ("InRelease", "Release")),
        key=lambda path: path.rpartition("/")[2],
    )
    data = store.read(state.files[path].sha256)
    if data.startswith(_SIGNED):
        data = _SIGNATURE.split(data.partition(b"\n\n")[2].replace(b"\n- ", b"\n"))[0]
    return parse(data, path)


def _fields(text: str) -> dict[str, str]:
    """By name in lower case; the lines of a value that has several are kept apart."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                found[name] += f"\n{line.strip()}"
        else:
            before, _, value = line.partition(":")
            name = before.strip().lower()
            if name:
                found[name] = value.strip()
    return found


def _date(fields: Mapping[str, str], name: str, where: str) -> datetime | None:
    text = fields.get(name)
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except ValueError as error:
        raise ReleaseRefused(f"{where}: {name} {text!r} is not a date") from error
    # What is given without a zone is in UTC.
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _files(fields: Mapping[str, str], where: str) -> dict[str, ListedFile]:
    tables = {name: _table(fields.get(name.lower(), ""), name, where) for name in _HASHES}
    return {
        path: ListedFile(
            sha256=digest,
            size=size,
            others={"SHA512": tables["SHA512"][path][0]} if path in tables["SHA512"] else {},
        )
        for path, (digest, size) in tables["SHA256"].items()
    }


def _table(text: str, algorithm: str, where: str) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for line in text.splitlines():
        parts = line.split(maxsplit=2)
        if not parts:
            continue
        path = paths.safe(parts[2]) if len(parts) == 3 else None
        digest = parts[0].lower()
        if (
            path is None
            or len(digest) != _HASHES[algorithm]
            or not _HEX.match(digest)
            or not parts[1].isdecimal()
        ):
            raise ReleaseRefused(f"{where}: {algorithm} has the line {line!r}")
        found[path] = (digest, int(parts[1]))
    return found
