"""``/v1/mirrors``: package repositories that are kept by day. Their files are at ``/snapshots``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from slipway.api.auth import require
from slipway.api.paging import ChangesSince, Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import MIRROR, WHEN
from slipway.launches import listing
from slipway.launches.listing import DayDetail, MirrorDetail
from slipway.launches.mirror_file import find_declared, repository_of
from slipway.launches.mirroring import PackageDifference, changes_between, kept_days

router = APIRouter(prefix="/v1/mirrors", tags=["mirrors"], dependencies=[Depends(require("read"))])

MirrorName = Annotated[
    str, Path(pattern=MIRROR, description="Name of the repository.", examples=["debian"])
]
_MOMENT = "2026-11-22T02:30:07Z"
_WHEN = "A date, a time as in 20261122T023007Z, or latest."


class KeepOut(BaseModel):
    """What the retention leaves."""

    model_config = ConfigDict(title="Retention")

    daily: int = Field(description="Days.", examples=[60])
    weekly: int = Field(description="Weeks.", examples=[26])
    monthly: int = Field(description="Months.", examples=[60])


class MirrorOut(BaseModel):
    """A repository that is kept by day."""

    model_config = ConfigDict(title="Mirror")

    name: str = Field(examples=["debian"])
    kind: str = Field(examples=["apt"])
    urls: list[str] = Field(
        description="Where it is mirrored from, in order of preference.",
        examples=[["https://deb.debian.org/debian"]],
    )
    suites: list[str] = Field(
        description="What of it is taken; of an rpm repository, directories.",
        examples=[["bookworm", "bookworm-updates"]],
    )
    keep: KeepOut
    states: int = Field(description="Moments that it has states of.", examples=[61])
    first: datetime | None = Field(description="The first of them.", examples=[_MOMENT])
    last: datetime | None = Field(description="The newest of them.", examples=[_MOMENT])
    declared_at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])

    @classmethod
    def of(cls, detail: MirrorDetail) -> MirrorOut:
        """From its records."""
        document = detail.repository.document
        return cls(
            name=detail.repository.name,
            kind=document["kind"],
            urls=document["urls"],
            suites=list(repository_of(detail.repository).suites),
            keep=KeepOut(**document["keep"]),
            states=detail.states,
            first=detail.first,
            last=detail.last,
            declared_at=detail.repository.declared_at,
        )


class MirrorDayOut(BaseModel):
    """A suite at a moment."""

    model_config = ConfigDict(title="MirrorDay")

    taken_at: datetime = Field(examples=[_MOMENT])
    suite: str = Field(examples=["bookworm"])
    added: int = Field(description="Packages that are new since the time before.", examples=[1])
    removed: int = Field(examples=[0])
    changed: int = Field(description="Packages in other versions.", examples=[14])
    new_bytes: int = Field(description="Of files that are new.", examples=[8812345])
    coverage: str | None = Field(
        description="Which of its packages are here for certain: all (`complete`), what it takes "
        "to install certain ones (`closure-complete`), or those that somebody has asked for "
        "(`lazy`). Null when its document cannot be read.",
        examples=["complete"],
    )
    pinned: str = Field(
        description="Why its date is kept whatever its age; empty when it is not.",
        examples=["template hello-web@r3"],
    )
    manifest: str = Field(
        description="SHA-256 of its document: the same for the same state.", examples=["9c1e" * 16]
    )

    @classmethod
    def of(cls, detail: DayDetail, coverage: str | None) -> MirrorDayOut:
        """From its record, and what its document says."""
        day = detail.day
        counts = {
            key: int(day.changes.get(key, 0))
            for key in ("added", "removed", "changed", "new_bytes")
        }
        return cls(
            taken_at=day.taken_at,
            suite=day.suite,
            coverage=coverage,
            pinned=detail.pinned,
            manifest=day.manifest,
            **counts,
        )


class PackageChangeOut(BaseModel):
    """A package that a suite has in other versions than before."""

    model_config = ConfigDict(title="PackageChange")

    suite: str = Field(examples=["bookworm"])
    package: str = Field(examples=["openssl"])
    architecture: str = Field(examples=["amd64"])
    before: list[str] = Field(
        description="Versions; none: it is new.", examples=[["3.0.14-1~deb12u1"]]
    )
    after: list[str] = Field(
        description="Versions; none: it is gone.", examples=[["3.0.15-1~deb12u1"]]
    )

    @classmethod
    def of(cls, found: PackageDifference) -> PackageChangeOut:
        """From what was compared."""
        return cls(
            suite=found.suite,
            package=found.change.package,
            architecture=found.change.architecture,
            before=list(found.change.before),
            after=list(found.change.after),
        )


@router.get("", operation_id="listMirrors", responses=responses(400, 401, 403, 410, 422))
def list_mirrors(
    services: TheServices,
    changes_since: ChangesSince = None,
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[MirrorOut]:
    """All mirrored repositories by name, with the span of their days."""
    place = f"mirrors {changes_since=}"
    after = read_marker(services, place, marker)
    found = listing.mirror_page(
        services, after=after[0] if after else None, limit=limit, changed_since=changes_since
    )
    return page_of(
        services, place, found, key=lambda each: [each.repository.name], shown=MirrorOut.of
    )


@router.get("/{name}", operation_id="getMirror", responses=responses(401, 403, 404, 422))
def get_mirror(services: TheServices, name: MirrorName) -> MirrorOut:
    """One repository."""
    find_declared(services.database, name)
    return MirrorOut.of(listing.mirror_page(services, name=name, limit=1).rows[0])


@router.get(
    "/{name}/days", operation_id="listMirrorDays", responses=responses(400, 401, 403, 404, 422)
)
def list_days(
    services: TheServices, name: MirrorName, limit: Limit = 100, marker: Marker = None
) -> Page[MirrorDayOut]:
    """The days of a repository, the newest first, a row for each suite. Those that the retention
    has removed are left out."""
    find_declared(services.database, name)
    place = f"mirror days {name}"
    key = read_marker(services, place, marker)
    found = listing.day_page(
        services,
        name,
        before=(datetime.fromisoformat(key[0]), key[1]) if key else None,
        limit=limit,
        pinned=kept_days(services, name),
    )
    return page_of(
        services,
        place,
        found,
        key=lambda each: [each.day.taken_at.isoformat(), each.day.suite],
        shown=lambda each: MirrorDayOut.of(each, services.mirror.coverage(each.day.manifest)),
    )


@router.get("/{name}/diff", operation_id="diffMirror", responses=responses(400, 401, 403, 404, 422))
def diff(
    services: TheServices,
    name: MirrorName,
    before: Annotated[str, Query(pattern=WHEN, description=_WHEN, examples=["2026-11-01"])],
    after: Annotated[str, Query(pattern=WHEN, description=_WHEN)] = "latest",
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[PackageChangeOut]:
    """The packages that changed between two days, by suite and name."""
    find_declared(services.database, name)
    place = f"mirror diff {name} {before} {after}"
    key = read_marker(services, place, marker)
    found = changes_between(
        services, name, before, after, behind=tuple(key) if key else None, limit=limit
    )
    return page_of(
        services,
        place,
        found,
        key=lambda each: each.key,
        shown=PackageChangeOut.of,
    )
