"""What a suite of a repository is at some moment: a document in the store, named by its hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from slipway.errors import BlobBroken
from slipway.mirrors.store import Store

_SCHEMA = "slipway-suite/1"


class Coverage(StrEnum):
    """Which of a suite's packages are here for certain."""

    #: All of them.
    COMPLETE = "complete"
    #: All that it takes to install certain ones.
    CLOSURE = "closure-complete"
    #: Those that somebody has asked for.
    LAZY = "lazy"


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A blob that is served at a path."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class ListingRef:
    """The listing (`slipway.mirrors.listing`) of the files that one index names."""

    #: SHA-256 of the index it was made from, so that an unchanged one is not read again.
    index: str
    #: SHA-256 of the listing.
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SuiteState:
    """A suite as its distribution signed it."""

    suite: str
    #: When the distribution made it, by its own word.
    date: datetime
    #: Until when it holds, if it says so.
    valid_until: datetime | None
    #: Release files and indexes by path from the top of the repository, byte for byte.
    files: Mapping[str, FileRef]
    #: By path of the index, from the top of the repository.
    listings: Mapping[str, ListingRef]
    coverage: Coverage = Coverage.COMPLETE

    @property
    def is_rpm(self) -> bool:
        """Whether it is a directory of an rpm repository."""
        return any(path.endswith("repodata/repomd.xml") for path in self.files)

    def to_bytes(self) -> bytes:
        """As canonical JSON."""
        document: dict[str, Any] = {
            "schema": _SCHEMA,
            "suite": self.suite,
            "date": self.date.isoformat(),
            "valid_until": None if self.valid_until is None else self.valid_until.isoformat(),
            "files": {path: [ref.sha256, ref.size] for path, ref in self.files.items()},
            "listings": {path: [ref.index, ref.sha256] for path, ref in self.listings.items()},
        }
        if self.coverage is not Coverage.COMPLETE:
            document["coverage"] = self.coverage
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return text.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SuiteState:
        """What `to_bytes` made."""
        found: dict[str, Any] = json.loads(data)
        if found.get("schema") != _SCHEMA:
            raise BlobBroken(f"a suite's document has the schema {found.get('schema')!r}")
        until = found["valid_until"]
        return cls(
            suite=found["suite"],
            date=datetime.fromisoformat(found["date"]),
            valid_until=None if until is None else datetime.fromisoformat(until),
            files={
                path: FileRef(sha256=sha256, size=size)
                for path, (sha256, size) in found["files"].items()
            },
            listings={
                path: ListingRef(index=index, sha256=sha256)
                for path, (index, sha256) in found["listings"].items()
            },
            coverage=Coverage(found.get("coverage", Coverage.COMPLETE)),
        )


def save(store: Store, state: SuiteState) -> str:
    """Put a state into the store; answers its name."""
    return store.put(state.to_bytes())


def load(store: Store, manifest: str) -> SuiteState:
    """The state of this name. Raises `BlobBroken`."""
    return SuiteState.from_bytes(store.read(manifest))
