"""The audit browser: records, their entries, and the proof that nobody edited them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from slipway import audit
from slipway.api.pages import queries
from slipway.api.pages.output import slug
from slipway.api.pages.queries import EntryFilter
from slipway.api.pages.rendering import SECURITY_HEADERS
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Visit, site_of
from slipway.errors import AuditBroken, NotFound
from slipway.launches.work import get_launch
from slipway.records import AuditEntry, AuditKind, Launch

#: Records of a page of the list.
RECORDS = 30
#: Records that one search looks through, and entries it shows at most.
SEARCHED, MOST_FOUND = 200, 200
#: Entries of a page of a record, and as much output as ends the page before that.
ENTRIES, MOST_OUTPUT_BYTES = 100, 96 * 1024

#: What is not worth a detail: the page says it already.
_SAID = ("outcome", "duration_s", "from", "to", "event")

Reader = Annotated[Visitor, Depends(Visit("read"))]
Seq = Annotated[int, Query(ge=0, le=2**62)]


def register(router: APIRouter) -> None:
    """Add the routes; a subject has slashes in it."""
    router.get("/audit")(list_records)
    router.get("/audit/{subject:path}/export")(export)
    router.get("/audit/{subject:path}")(show_record)


class Asked:
    """What the address of an audit page asks for."""

    def __init__(
        self,
        kind: str = "",
        step: str = "",
        actor: str = "",
        since: str = "",
        until: str = "",
        text: str = "",
    ) -> None:
        self.text = text.strip()
        self.since, self.until = since, until
        self.problems: list[tuple[str, str]] = []
        self.filter = EntryFilter(
            kind=kind,
            step=step.strip(),
            actor=actor.strip(),
            since=self._time("since", since),
            until=self._time("until", until),
        )

    @property
    def given(self) -> dict[str, str]:
        """The same as parts of an address."""
        wanted = self.filter
        found = {"kind": wanted.kind, "step": wanted.step, "actor": wanted.actor}
        found |= {"since": self.since, "until": self.until, "text": self.text}
        return {name: value for name, value in found.items() if value}

    def context(self) -> dict[str, Any]:
        """What the form shows."""
        return {
            "wanted": self.filter,
            "text": self.text,
            "since": self.since,
            "until": self.until,
            "given": self.given,
            "problems": self.problems,
            "kinds": [kind.value for kind in AuditKind],
        }

    def _time(self, name: str, text: str) -> datetime | None:
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.problems.append((name, f"{text} is not a time such as 2026-11-25T18:00"))
            return None


def list_records(
    request: Request, visitor: Reader, asked: Annotated[Asked, Depends()], before: str = ""
) -> Response:
    """The records; with a filter on entries, the entries of those that changed last."""
    site = site_of(request)
    database, wanted = site.services.database, asked.filter
    marker = read_marker(before)
    searching = bool(wanted.kind or wanted.step or wanted.actor)
    page = queries.launch_records(
        database,
        text=asked.text,
        wanted=wanted,
        before=marker,
        limit=SEARCHED if searching else RECORDS,
    )
    others = queries.other_records(database, text=asked.text) if not before else []
    found: list[AuditEntry] | None = None
    names = {each.subject: each.launch.server_name for each in page.rows}
    if searching:
        subjects = [*names, *(each.subject for each in others)]
        found = queries.search(database, subjects, wanted, limit=MOST_FOUND + 1)
    return site.page(
        request,
        "audits.html",
        visitor,
        page=page,
        others=others,
        found=found[:MOST_FOUND] if found is not None else None,
        cut=found is not None and len(found) > MOST_FOUND,
        names=names,
        steps=None,
        **asked.context(),
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An entry as a page shows it."""

    entry: AuditEntry
    #: Of the day, in UTC, to the millisecond.
    time: str
    look: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class VerifiedChain:
    """What came of recomputing a chain."""

    holds: bool
    sentence: str
    head: str = ""


def show_record(
    request: Request,
    visitor: Reader,
    asked: Annotated[Asked, Depends()],
    subject: str,
    after: Seq = 0,
    verify: str = "",
) -> Response:
    """The entries of one record in order."""
    site = site_of(request)
    database = site.services.database
    total = queries.audit_seq(database, subject)
    if not total:
        raise NotFound(f"{subject}: there is no audit record of it")
    entries, following = queries.entries(
        database,
        subject,
        asked.filter,
        after=after,
        limit=ENTRIES,
        most_bytes=MOST_OUTPUT_BYTES,
    )
    launch = _launch_of(request, subject)
    return site.page(
        request,
        "audit.html",
        visitor,
        subject=subject,
        launch=launch,
        name=launch.server_name if launch else subject,
        total=total,
        entries=[_shown(entry) for entry in entries],
        after=after,
        next=following,
        verified=_verify(request, subject) if verify else None,
        steps=queries.steps_with_entries(database, subject),
        **asked.context(),
    )


def export(request: Request, _visitor: Reader, subject: str) -> Response:
    """The record as JSON lines, complete enough to verify elsewhere."""
    database = site_of(request).services.database
    if not queries.audit_seq(database, subject):
        raise NotFound(f"{subject}: there is no audit record of it")

    def lines() -> Iterator[str]:
        for entry in audit.export(database, subject):
            yield json.dumps(entry, ensure_ascii=False) + "\n"

    headers = {
        **SECURITY_HEADERS,
        "Content-Disposition": f'attachment; filename="audit-{slug(subject)}.jsonl"',
    }
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


def read_marker(text: str) -> tuple[datetime, str] | None:
    """Where a list goes on. Raises a 400 for what no page of ours leads to."""
    if not text:
        return None
    moment, _, launch_id = text.partition("~")
    try:
        return datetime.fromisoformat(moment), launch_id
    except ValueError:
        raise HTTPException(400, "There is no such page of this list.") from None


def _launch_of(request: Request, subject: str) -> Launch | None:
    noun, _, name = subject.partition("/")
    if noun != "launch":
        return None
    return get_launch(site_of(request).services, name)


def _verify(request: Request, subject: str) -> VerifiedChain:
    try:
        held = audit.verify(site_of(request).services.database, subject)
    except AuditBroken as error:
        return VerifiedChain(holds=False, sentence=str(error))
    sentence = f"All {held.entries:,} entries are as they were written, and none is missing."
    return VerifiedChain(holds=True, sentence=sentence, head=held.head)


def _shown(entry: AuditEntry) -> Shown:
    detail = json.loads(entry.detail)
    rest = {name: value for name, value in detail.items() if name not in _SAID}
    tone = ""
    if entry.kind == AuditKind.ERROR:
        tone = "bad"
    elif detail.get("outcome") == "succeeded":
        tone = "ok"
    elif entry.kind == AuditKind.STATUS:
        tone = "run"
    text = json.dumps(rest, indent=1, ensure_ascii=False) if rest else ""
    time = f"{entry.at:%H:%M:%S}.{entry.at.microsecond // 1000:03}"
    return Shown(entry=entry, time=time, look=tone, detail=text)
