"""``/v1/audit``: what happened, and the proof that nobody edited it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from slipway import audit
from slipway.api.auth import require
from slipway.api.paging import Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses, streamed
from slipway.api.state import TheServices
from slipway.api.words import NOUN, SUBJECT_NAME
from slipway.errors import AuditBroken, NotFound
from slipway.launches import listing
from slipway.launches.services import Services
from slipway.records import AuditEntry, AuditHead

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(require("read"))])

Noun = Annotated[
    str, Path(pattern=NOUN, description="What kind of thing it is.", examples=["launch"])
]
Name = Annotated[
    str,
    Path(
        pattern=SUBJECT_NAME,
        description="Its id or name.",
        examples=["launch-01hkx3v9q2m4c7d8e"],
    ),
]


class SubjectOut(BaseModel):
    """Something that has an audit record."""

    model_config = ConfigDict(title="AuditSubject")

    subject: str = Field(examples=["launch/launch-01hkx3v9q2m4c7d8e"])
    entries: int = Field(examples=[42])
    head: str = Field(description="Hash of the newest entry.", examples=["9c1e" * 16])

    @classmethod
    def of(cls, head: AuditHead) -> SubjectOut:
        """From its record."""
        return cls(subject=head.subject, entries=head.seq, head=head.hash)


class AuditEntryOut(BaseModel):
    """One thing that happened."""

    model_config = ConfigDict(title="AuditEntry")

    subject: str = Field(examples=["launch/launch-01hkx3v9q2m4c7d8e"])
    seq: int = Field(description="1, 2, 3, … without gaps.", examples=[7])
    at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])
    actor: str = Field(examples=["token/ci"])
    kind: str = Field(examples=["status"])
    step: str | None = Field(examples=[None])
    summary: str = Field(examples=["configuring → operational"])
    detail: dict[str, Any] = Field(examples=[{"from": "configuring", "to": "operational"}])
    stream: str | None = Field(
        description="The script run that printed it; output only.", examples=[None]
    )
    offset: int | None = Field(
        description="Where it starts in what was printed, in bytes.", examples=[None]
    )
    raw_bytes: int | None = Field(description="How many bytes were printed.", examples=[None])
    text: str | None = Field(
        description="What was printed, masked; the export has the exact bytes.", examples=[None]
    )
    previous: str = Field(description="Hash of the entry before.", examples=["5f2b" * 16])
    hash: str = Field(examples=["9c1e" * 16])

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOut:
        """From its record."""
        return cls(
            subject=entry.subject,
            seq=entry.seq,
            at=entry.at,
            actor=entry.actor,
            kind=entry.kind,
            step=entry.step,
            summary=entry.summary,
            detail=json.loads(entry.detail),
            stream=entry.stream,
            offset=entry.offset,
            raw_bytes=entry.raw_bytes,
            text=None if entry.data is None else entry.data.decode("utf-8", "replace"),
            previous=entry.previous,
            hash=entry.hash,
        )


class VerifiedOut(BaseModel):
    """Whether a chain holds."""

    model_config = ConfigDict(title="Verification")

    subject: str = Field(examples=["launch/launch-01hkx3v9q2m4c7d8e"])
    holds: bool = Field(examples=[True])
    entries: int | None = Field(description="When it holds.", examples=[42])
    head: str | None = Field(
        description="When it holds: the hash of the newest entry.", examples=["9c1e" * 16]
    )
    problem: str = Field(description="When it does not: what was changed.", examples=[""])


@router.get("", operation_id="listAuditSubjects", responses=responses(400, 401, 403, 422))
def list_subjects(
    services: TheServices, limit: Limit = 100, marker: Marker = None
) -> Page[SubjectOut]:
    """Everything that has an audit record, by name."""
    place = "audit"
    after = read_marker(services, place, marker)
    found = listing.subject_page(services, after=after[0] if after else None, limit=limit)
    return page_of(services, place, found, key=lambda each: [each.subject], shown=SubjectOut.of)


@router.get(
    "/{noun}/{name}", operation_id="listAuditEntries", responses=responses(400, 401, 403, 404, 422)
)
def list_entries(
    services: TheServices, noun: Noun, name: Name, limit: Limit = 100, marker: Marker = None
) -> Page[AuditEntryOut]:
    """The record of one thing, from the first entry on."""
    subject = _known(services, noun, name)
    place = f"audit {subject}"
    after = read_marker(services, place, marker)
    found = listing.entry_page(services, subject, after=after[0] if after else 0, limit=limit)
    return page_of(services, place, found, key=lambda each: [each.seq], shown=AuditEntryOut.of)


@router.get(
    "/{noun}/{name}/verification",
    operation_id="verifyAudit",
    responses=responses(401, 403, 404, 422),
)
def verify(services: TheServices, noun: Noun, name: Name) -> VerifiedOut:
    """Recompute the chain of hashes: the first entry that was changed, removed or inserted is
    named."""
    subject = f"{noun}/{name}"
    try:
        held = audit.verify(services.database, subject)
    except AuditBroken as error:
        return VerifiedOut(
            subject=subject, holds=False, entries=None, head=None, problem=str(error)
        )
    return VerifiedOut(
        subject=subject, holds=True, entries=held.entries, head=held.head, problem=""
    )


@router.get(
    "/{noun}/{name}/export",
    operation_id="exportAudit",
    response_class=StreamingResponse,
    responses=streamed(
        "One entry a line, complete enough to verify elsewhere.",
        "application/x-ndjson",
        '{"subject": "launch/launch-01hkx3v9q2m4c7d8e", "seq": 1, …}\n',
    )
    | responses(401, 403, 404, 422),
)
def export(services: TheServices, noun: Noun, name: Name) -> StreamingResponse:
    """The whole record as JSON lines."""
    subject = _known(services, noun, name)

    def lines() -> Iterator[str]:
        for entry in audit.export(services.database, subject):
            yield json.dumps(entry, ensure_ascii=False) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _known(services: Services, noun: str, name: str) -> str:
    subject = f"{noun}/{name}"
    if not audit.entries(services.database, subject, limit=1):
        raise NotFound(f"{subject}: there is no audit record of it")
    return subject
