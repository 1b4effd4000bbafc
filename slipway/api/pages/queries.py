"""What the pages ask the records: each question costs the same however many servers there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from slipway.database import Database
from slipway.lifecycle import PHASES, subject_of
from slipway.records import (
    AuditEntry,
    AuditHead,
    Environment,
    Launch,
    LaunchStatus,
    Lease,
    Step,
    StepStatus,
    TemplateVersion,
)

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_STEPS = Step.__table__  # type: ignore[attr-defined]
_LEASES = Lease.__table__  # type: ignore[attr-defined]
_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]
_HEADS = AuditHead.__table__  # type: ignore[attr-defined]
_ENVIRONMENTS = Environment.__table__  # type: ignore[attr-defined]
_VERSIONS = TemplateVersion.__table__  # type: ignore[attr-defined]

#: Written as the index on active launches is, so that SQLite sees that the index serves.
_ACTIVE = sa.text("launch.status <> 'terminated'")
_SUBJECT = sa.literal("launch/") + _LAUNCHES.c.id

#: A step that has run for this long is worth a look.
LONG_STEP = timedelta(minutes=5)
#: A launch may wait this long for somebody to drive it before that is worth a look.
SLOW_START = timedelta(minutes=1)

#: States in which something happens by itself.
UNDER_WAY = (*PHASES[:-1], LaunchStatus.DECOMMISSIONING)


@dataclass(frozen=True, kw_only=True)
class Doing:
    """A launch that is under way, and what it is at."""

    launch: Launch
    #: The step that runs, if one does.
    step: str = ""
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A launch that somebody should look at, and why."""

    launch: Launch
    #: ``stranded``, ``long``, ``abandoned`` or ``waiting``.
    why: str
    #: The step that failed, or that takes long.
    step: str = ""
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows of many, and where to go on: values of the first and of the last one's marker,
    empty where there is nothing beyond."""

    rows: Sequence[Any]
    before: str = ""
    after: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerFilter:
    """Which servers to list."""

    state: str = ""
    environment: str = ""
    template: str = ""
    text: str = ""


def state_counts(database: Database, *, environment: str | None = None) -> dict[str, int]:
    """How many servers are in each state; terminated ones do not count."""
    query = sa.select(_LAUNCHES.c.status, sa.func.count()).where(_ACTIVE)
    if environment is not None:
        query = query.where(_LAUNCHES.c.environment == environment)
    with database.reading() as connection:
        rows = connection.execute(query.group_by(_LAUNCHES.c.status))
        return {row[0]: row[1] for row in rows}


def last_change(database: Database) -> tuple[datetime | None, str]:
    """A value that is another one after any launch has changed."""
    query = (
        sa.select(_LAUNCHES.c.updated_at, _LAUNCHES.c.id)
        .order_by(_LAUNCHES.c.updated_at.desc(), _LAUNCHES.c.id.desc())
        .limit(1)
    )
    with database.reading() as connection:
        row = connection.execute(query).first()
    return (row.updated_at, row.id) if row else (None, "")


def attention(database: Database, now: datetime, *, limit: int) -> tuple[list[Attention], int]:
    """What somebody should look at, the most urgent first, and how many there are in all."""
    stranded = sa.and_(_ACTIVE, _LAUNCHES.c.status == LaunchStatus.STRANDED.value)
    failed = sa.and_(_STEPS.c.subject == _SUBJECT, _STEPS.c.key == _LAUNCHES.c.failed_step)
    running = sa.and_(_STEPS.c.subject == _SUBJECT, _STEPS.c.status == StepStatus.RUNNING.value)
    undriven = sa.and_(
        sa.or_(_LEASES.c.holder.is_(None), _LEASES.c.holder == "", _LEASES.c.until <= now),
        _LAUNCHES.c.updated_at < now - SLOW_START,
    )
    slow = sa.and_(
        _ACTIVE,
        _LAUNCHES.c.status.in_([status.value for status in UNDER_WAY]),
        sa.or_(undriven, _STEPS.c.started_at < now - LONG_STEP),
    )
    extra = (_STEPS.c.title.label("step_title"), _STEPS.c.started_at.label("step_since"))
    ended_badly = sa.outerjoin(_LAUNCHES, _STEPS, failed)
    goes_on = sa.outerjoin(_LAUNCHES, _LEASES, _LEASES.c.subject == _SUBJECT).outerjoin(
        _STEPS, running
    )
    undriven_now = sa.case((undriven, 1), else_=0).label("undriven")
    with database.reading() as connection:
        total = 0
        for where, tables in ((stranded, _LAUNCHES), (slow, goes_on)):
            counting = sa.select(sa.func.count(sa.distinct(_LAUNCHES.c.id)))
            total += connection.execute(counting.select_from(tables).where(where)).scalar_one()
        query = sa.select(_LAUNCHES, *extra).select_from(ended_badly).where(stranded)
        query = query.order_by(_LAUNCHES.c.updated_at.desc()).limit(limit)
        found = [
            Attention(
                launch=_launch(row),
                why="stranded",
                step=row["step_title"] or "",
                since=row["updated_at"],
            )
            for row in connection.execute(query).mappings()
        ]
        query = sa.select(_LAUNCHES, *extra, undriven_now).select_from(goes_on).where(slow)
        query = query.order_by(_LAUNCHES.c.created_at).limit(limit - len(found))
        for row in connection.execute(query).mappings():
            why, since = "long", row["step_since"]
            if row["undriven"]:
                never = row["status"] == LaunchStatus.REQUESTED.value and not row["step_title"]
                why, since = ("waiting" if never else "abandoned"), row["updated_at"]
            step = row["step_title"] or ""
            found.append(Attention(launch=_launch(row), why=why, step=step, since=since))
    return found, total


def under_way(database: Database, *, limit: int) -> list[Doing]:
    """The launches something happens to, the newest request first, each with its step."""
    states = [status.value for status in UNDER_WAY]
    query = (
        sa.select(_LAUNCHES)
        .where(_ACTIVE, _LAUNCHES.c.status.in_(states))
        .order_by(_LAUNCHES.c.created_at.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        rows = connection.execute(query).mappings().all()
        running = _running_steps(connection, [row["id"] for row in rows])
    found = []
    for row in rows:
        step = running.get(subject_of(row["id"]))
        found.append(
            Doing(
                launch=_launch(row),
                step=step.title if step else "",
                since=step.started_at if step else None,
            )
        )
    return found


def recent(database: Database, *, limit: int) -> list[Launch]:
    """The launches that changed last."""
    query = sa.select(_LAUNCHES).order_by(_LAUNCHES.c.updated_at.desc(), _LAUNCHES.c.id.desc())
    with database.reading() as connection:
        return [Launch(**row) for row in connection.execute(query.limit(limit)).mappings()]


def servers(
    database: Database, wanted: ServerFilter, *, after: str = "", before: str = "", limit: int
) -> Page:
    """Servers by name, each with its newest launch; terminated ones only when asked for."""
    query = sa.select(_LAUNCHES)
    if wanted.state == LaunchStatus.TERMINATED:
        # The newest launch of each server, where that is over.
        newest = sa.select(sa.func.max(_LAUNCHES.c.id)).group_by(_LAUNCHES.c.server_name)
        query = query.where(
            _LAUNCHES.c.id.in_(newest), _LAUNCHES.c.status == LaunchStatus.TERMINATED.value
        )
    else:
        query = query.where(_ACTIVE)
        if wanted.state:
            states = [each.value for each in UNDER_WAY[:-1]]
            chosen = states if wanted.state == "starting" else [wanted.state]
            query = query.where(_LAUNCHES.c.status.in_(chosen))
    if wanted.environment:
        query = query.where(_LAUNCHES.c.environment == wanted.environment)
    if wanted.template:
        query = query.where(_LAUNCHES.c.template_name == wanted.template)
    if wanted.text:
        query = query.where(
            sa.or_(
                *(
                    column.icontains(wanted.text, autoescape=True)
                    for column in (
                        _LAUNCHES.c.server_name,
                        _LAUNCHES.c.id,
                        _LAUNCHES.c.instance_id,
                        _LAUNCHES.c.private_ip,
                        _LAUNCHES.c.public_ip,
                        _LAUNCHES.c.reason,
                    )
                )
            )
        )
    return _page(database, query, _LAUNCHES.c.server_name, after=after, before=before, limit=limit)


def history(database: Database, server: str, *, limit: int) -> list[Launch]:
    """The launches of one server, newest first."""
    query = (
        sa.select(_LAUNCHES)
        .where(_LAUNCHES.c.server_name == server)
        .order_by(_LAUNCHES.c.created_at.desc(), _LAUNCHES.c.id.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return [Launch(**row) for row in connection.execute(query).mappings()]


def names_in_use(database: Database) -> tuple[list[str], list[str]]:
    """The templates and environments that servers which are up were launched with."""
    with database.reading() as connection:
        templates = connection.execute(
            sa.select(_LAUNCHES.c.template_name).where(_ACTIVE).distinct()
        ).scalars()
        environments = connection.execute(sa.select(_ENVIRONMENTS.c.name)).scalars()
        return sorted(templates), sorted(environments)


def taken_names(database: Database, base: str) -> set[str]:
    """The names like ``web-1`` that servers which are up have."""
    query = sa.select(_LAUNCHES.c.server_name).where(
        _ACTIVE, _LAUNCHES.c.server_name.startswith(f"{base}-", autoescape=True)
    )
    with database.reading() as connection:
        return set(connection.execute(query).scalars())


def some_servers(database: Database, *, limit: int) -> list[str]:
    """Names of servers that are up, the newest first."""
    query = (
        sa.select(_LAUNCHES.c.server_name)
        .where(_ACTIVE)
        .order_by(_LAUNCHES.c.created_at.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def committed_templates(database: Database) -> list[str]:
    """The templates that have a version."""
    with database.reading() as connection:
        return list(connection.execute(sa.select(_VERSIONS.c.name).distinct()).scalars())


def servers_of(database: Database) -> dict[str, int]:
    """How many servers that are up each environment has."""
    query = (
        sa.select(_LAUNCHES.c.environment, sa.func.count())
        .where(_ACTIVE, _LAUNCHES.c.environment.is_not(None))
        .group_by(_LAUNCHES.c.environment)
    )
    with database.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


# --- The audit ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EntryFilter:
    """Which audit entries to show."""

    kind: str = ""
    step: str = ""
    actor: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it leaves everything in."""
        return self == EntryFilter()


@dataclass(frozen=True, kw_only=True)
class Record:
    """One subject of the audit."""

    subject: str
    entries: int
    #: The launch it is about, where it is about one.
    launch: Launch | None = None


def audit_seq(database: Database, subject: str) -> int:
    """The number of a subject's newest entry; 0 where there is none."""
    query = sa.select(_HEADS.c.seq).where(_HEADS.c.subject == subject)
    with database.reading() as connection:
        return int(connection.execute(query).scalar() or 0)


def launch_records(
    database: Database,
    *,
    text: str = "",
    wanted: EntryFilter | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> Page:
    """The records of launches, the last changed first. ``wanted`` narrows to those that can have
    such entries, by time."""
    query = sa.select(_LAUNCHES, _HEADS.c.seq.label("entries")).join(
        _HEADS, _HEADS.c.subject == _SUBJECT
    )
    if text:
        query = query.where(
            sa.or_(
                _LAUNCHES.c.server_name.icontains(text, autoescape=True),
                _LAUNCHES.c.id.icontains(text, autoescape=True),
            )
        )
    if wanted and wanted.since:
        query = query.where(_LAUNCHES.c.updated_at >= wanted.since)
    if wanted and wanted.until:
        query = query.where(_LAUNCHES.c.created_at < wanted.until)
    if before:
        at, launch_id = before
        query = query.where(
            sa.or_(
                _LAUNCHES.c.updated_at < at,
                sa.and_(_LAUNCHES.c.updated_at == at, _LAUNCHES.c.id < launch_id),
            )
        )
    query = query.order_by(_LAUNCHES.c.updated_at.desc(), _LAUNCHES.c.id.desc()).limit(limit + 1)
    with database.reading() as connection:
        rows = connection.execute(query).mappings().all()
    found = []
    for row in rows[:limit]:
        launch = _launch(row)
        found.append(Record(subject=subject_of(launch.id), entries=row["entries"], launch=launch))
    last = found[-1].launch if len(rows) > limit and found else None
    marker = f"{last.updated_at.isoformat()}~{last.id}" if last else ""
    return Page(rows=found, after=marker)


def other_records(database: Database, *, text: str = "") -> list[Record]:
    """The records that are not about launches: few, so all of them."""
    query = (
        sa.select(_HEADS.c.subject, _HEADS.c.seq)
        .where(sa.not_(_HEADS.c.subject.startswith("launch/")))
        .order_by(_HEADS.c.subject)
    )
    if text:
        query = query.where(_HEADS.c.subject.icontains(text, autoescape=True))
    with database.reading() as connection:
        rows = connection.execute(query).all()
    return [Record(subject=row.subject, entries=row.seq) for row in rows]


def entries(
    database: Database,
    subject: str,
    wanted: EntryFilter,
    *,
    after: int = 0,
    limit: int,
    most_bytes: int,
) -> tuple[list[AuditEntry], int]:
    """Entries of one subject in order, and the number to go on after; 0 at the end. A page ends
    early where its output would be longer than ``most_bytes``."""
    query = (
        sa.select(_ENTRIES)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.seq > after, *_conditions(wanted))
        .order_by(_ENTRIES.c.seq)
        .limit(limit + 1)
        .execution_options(yield_per=50)
    )
    found: list[AuditEntry] = []
    size = 0
    with database.reading() as connection, connection.execute(query) as result:
        for row in result.mappings():
            if len(found) == limit or size > most_bytes:
                return found, found[-1].seq
            found.append(AuditEntry(**row))
            size += len(row["data"] or b"")
    return found, 0


def search(
    database: Database, subjects: Sequence[str], wanted: EntryFilter, *, limit: int
) -> list[AuditEntry]:
    """Entries of several subjects, the newest first; what scripts printed is left out."""
    columns = [column for column in _ENTRIES.c if column.name != "data"]
    query = (
        sa.select(*columns)
        .where(_ENTRIES.c.subject.in_(subjects), *_conditions(wanted))
        .order_by(_ENTRIES.c.at.desc(), _ENTRIES.c.subject, _ENTRIES.c.seq.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return [AuditEntry(**row, data=None) for row in connection.execute(query).mappings()]


def step_entries(database: Database, subject: str) -> list[Mapping[str, Any]]:
    """When the attempts at a subject's steps began and ended, in order."""
    columns = [_ENTRIES.c[name] for name in ("seq", "at", "kind", "step", "summary", "detail")]
    query = (
        sa.select(*columns)
        .where(
            _ENTRIES.c.subject == subject,
            _ENTRIES.c.step.is_not(None),
            _ENTRIES.c.kind.in_(["section", "info", "error"]),
        )
        .order_by(_ENTRIES.c.seq)
    )
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def steps_with_entries(database: Database, subject: str) -> list[str]:
    """The steps that a subject's entries name."""
    query = sa.select(_ENTRIES.c.step).where(
        _ENTRIES.c.subject == subject, _ENTRIES.c.step.is_not(None)
    )
    with database.reading() as connection:
        return sorted(connection.execute(query.distinct()).scalars())


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The end of what one script run has printed."""

    stream: str
    step: str
    data: bytes
    #: The number of the newest entry that is in it: where following goes on.
    seq: int
    #: There is more before this.
    cut: bool


def output_tail(database: Database, subject: str, *, most_bytes: int) -> Tail | None:
    """The end of the output of the run that printed last."""
    newest = (
        sa.select(_ENTRIES.c.stream, _ENTRIES.c.step)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.kind == "output")
        .order_by(_ENTRIES.c.seq.desc())
        .limit(1)
    )
    with database.reading() as connection:
        found = connection.execute(newest).first()
        if found is None:
            return None
        pieces = (
            sa.select(_ENTRIES.c.seq, _ENTRIES.c.offset, _ENTRIES.c.data)
            .where(
                _ENTRIES.c.subject == subject,
                _ENTRIES.c.kind == "output",
                _ENTRIES.c.stream == found.stream,
            )
            .order_by(_ENTRIES.c.seq.desc())
            .execution_options(yield_per=8)
        )
        data, seq, first = b"", 0, 0
        with connection.execute(pieces) as result:
            for row in result:
                data = bytes(row.data or b"") + data
                seq, first = seq or row.seq, row.offset
                if len(data) >= most_bytes:
                    break
    cut = bool(first) or len(data) > most_bytes
    return Tail(
        stream=found.stream, step=found.step or "", data=data[-most_bytes:], seq=seq, cut=cut
    )


def output_after(database: Database, subject: str, seq: int, *, limit: int) -> list[AuditEntry]:
    """The output entries behind a number."""
    query = (
        sa.select(_ENTRIES)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.seq > seq, _ENTRIES.c.kind == "output")
        .order_by(_ENTRIES.c.seq)
        .limit(limit)
    )
    with database.reading() as connection:
        return [AuditEntry(**row) for row in connection.execute(query).mappings()]


# --- Parts ----------------------------------------------------------------------------------------


def _conditions(wanted: EntryFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.kind:
        found.append(_ENTRIES.c.kind == wanted.kind)
    if wanted.step:
        found.append(_ENTRIES.c.step == wanted.step)
    if wanted.actor:
        found.append(_ENTRIES.c.actor.icontains(wanted.actor, autoescape=True))
    if wanted.since:
        found.append(_ENTRIES.c.at >= wanted.since)
    if wanted.until:
        found.append(_ENTRIES.c.at < wanted.until)
    return found


def _page(
    database: Database,
    query: sa.Select[Any],
    column: sa.ColumnElement[str],
    *,
    after: str,
    before: str,
    limit: int,
) -> Page:
    """Launches in order of a column, from the marker on in one direction or the other."""
    backwards = bool(before)
    if backwards:
        query = query.where(column < before).order_by(column.desc())
    else:
        query = query.where(column > after).order_by(column)
    with database.reading() as connection:
        rows = connection.execute(query.limit(limit + 1)).mappings().all()
    more = len(rows) > limit
    found = [Launch(**row) for row in rows[:limit]]
    if backwards:
        found.reverse()
    first, last = (found[0].server_name, found[-1].server_name) if found else ("", "")
    return Page(
        rows=found,
        before=first if (more if backwards else bool(after)) else "",
        after=last if (True if backwards else more) else "",
    )


def _running_steps(connection: sa.Connection, launch_ids: Sequence[str]) -> dict[str, Any]:
    if not launch_ids:
        return {}
    query = (
        sa.select(_STEPS.c.subject, _STEPS.c.title, _STEPS.c.started_at)
        .where(
            _STEPS.c.subject.in_([subject_of(each) for each in launch_ids]),
            _STEPS.c.status == StepStatus.RUNNING.value,
        )
        .order_by(_STEPS.c.started_at)
    )
    return {row.subject: row for row in connection.execute(query)}


def _launch(row: Mapping[Any, Any]) -> Launch:
    return Launch(**{column.name: row[column.name] for column in _LAUNCHES.c})
