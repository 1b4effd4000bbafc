"""What a ``repomd.xml`` says: which files of metadata an rpm repository has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.parsers import expat

from slipway.errors import ReleaseRefused
from slipway.mirrors import paths
from slipway.mirrors.manifest import FileRef
from slipway.mirrors.primary import DIRECTORY

_REPO = "http://linux.duke.edu/metadata/repo"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SECONDS = re.compile(r"\d{1,11}(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Repomd:
    """An rpm repository as its metadata describes it."""

    #: When the newest of its files was made.
    date: datetime
    #: By path from the top of the repository: packages, file lists, modules, advisories and
    #: whatever else there is.
    files: Mapping[str, FileRef]
    #: The one that names the packages.
    primary: str


def parse(text: bytes, where: str) -> Repomd:
    """Read it. Raises `ReleaseRefused` saying what is wrong with it."""
    entries = _entries(text, where)
    files: dict[str, FileRef] = {}
    for entry in entries:
        path = paths.safe(entry.get("location", ""))
        size, sha256 = entry.get("size", ""), entry.get("checksum", "")
        if entry.get("checksum type") != "sha256":
            raise ReleaseRefused(
                f"{where}: {entry.get('type', '')!r} has a checksum of type "
                f"{entry.get('checksum type', '')!r}; only sha256 is kept here"
            )
        if (
            path is None
            or not path.startswith(f"{DIRECTORY}/")
            or not size.isdecimal()
            or not _SHA256.fullmatch(sha256)
        ):
            raise ReleaseRefused(
                f"{where}: {entry.get('type', '')!r} is the file {entry.get('location', '')!r} "
                f"with size {size!r} and SHA-256 {sha256!r}"
            )
        files[path] = FileRef(sha256=sha256, size=int(size))
    primary = [entry["location"] for entry in entries if entry.get("type") == "primary"]
    if len(primary) != 1:
        raise ReleaseRefused(f"{where}: it names {len(primary)} files of type 'primary'")
    return Repomd(date=_date(entries, where), files=files, primary=primary[0].removeprefix("./"))


def _date(entries: list[dict[str, str]], where: str) -> datetime:
    seconds = [entry.get("timestamp", "") for entry in entries]
    known = [float(each) for each in seconds if _SECONDS.fullmatch(each)]
    if not known:
        raise ReleaseRefused(f"{where}: none of its files has a timestamp")
    return datetime.fromtimestamp(int(max(known)), UTC)


def _entries(text: bytes, where: str) -> list[dict[str, str]]:
    """What stands in each ``data``: texts by name, and attributes."""
    found: list[dict[str, str]] = []
    inside, words = False, [""]

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal inside
        short = name.removeprefix(f"{_REPO} ")
        words[:] = []
        if short == "data":
            inside = True
            found.append({"type": attributes.get("type", "")})
        elif inside and short == "location":
            found[-1]["location"] = attributes.get("href", "")
        elif inside and short == "checksum":
            found[-1]["checksum type"] = attributes.get("type", "")

    def end(name: str) -> None:
        nonlocal inside
        short = name.removeprefix(f"{_REPO} ")
        if short == "data":
            inside = False
        elif inside and short in ("checksum", "size", "timestamp"):
            found[-1][short] = "".join(words).strip()

    def no_doctype(*_: object) -> None:
        raise ReleaseRefused(f"{where}: it has a document type, which none of its kind has")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = words.append
    parser.StartDoctypeDeclHandler = no_doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ReleaseRefused(f"{where}: this is not XML: {error}") from error
    return found
