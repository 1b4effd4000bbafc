"""Lists in full detail, page by page, with what has changed since a number of the change log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from slipway import changes
from slipway.launches.services import Services
from slipway.launches.work import operation_key
from slipway.lifecycle import subject_of
from slipway.records import (
    AuditEntry,
    AuditHead,
    CallBack,
    Environment,
    HandOver,
    Launch,
    LaunchStatus,
    MirrorDay,
    MirrorRepository,
    Server,
    Step,
)

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_SERVERS = Server.__table__  # type: ignore[attr-defined]
_ENVIRONMENTS = Environment.__table__  # type: ignore[attr-defined]
_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]
_HEADS = AuditHead.__table__  # type: ignore[attr-defined]
_MIRRORS = MirrorRepository.__table__  # type: ignore[attr-defined]
_DAYS = MirrorDay.__table__  # type: ignore[attr-defined]
_STEPS = Step.__table__  # type: ignore[attr-defined]
_HAND_OVERS = HandOver.__table__  # type: ignore[attr-defined]
_CALL_BACKS = CallBack.__table__  # type: ignore[attr-defined]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Slice(Generic[T]):
    """Some rows of a list, all from one moment."""

    rows: tuple[T, ...]
    #: Whether there are rows behind these.
    more: bool
    #: The newest change this takes into account.
    as_of: int


@dataclass(frozen=True, kw_only=True)
class LaunchDetail:
    """A launch with everything that is said of it."""

    launch: Launch
    steps: tuple[Step, ...]
    #: The newest one; none for a launch that was started otherwise.
    hand_over: HandOver | None
    callback_url: str | None


@dataclass(frozen=True, kw_only=True)
class ServerDetail:
    """A declared server with its active or else newest launch."""

    server: Server
    launch: LaunchDetail | None


@dataclass(frozen=True, kw_only=True)
class RunDetail:
    """A run of an operational script that was handed over."""

    row: HandOver
    script: str
    inputs: Mapping[str, Any]
    step_key: str
    #: None until it has begun.
    step: Step | None


@dataclass(frozen=True, kw_only=True)
class EnvironmentDetail:
    """An environment with the servers that are up in it."""

    environment: Environment
    servers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MirrorDetail:
    """A mirrored repository with the span of its days."""

    repository: MirrorRepository
    #: Moments that it has states of; those that were removed do not count.
    states: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, kw_only=True)
class DayDetail:
    """A suite at a moment."""

    day: MirrorDay
    #: Why its date is kept; empty when only the retention keeps it.
    pinned: str


@dataclass(frozen=True, kw_only=True)
class LaunchFilter:
    """Which launches are wanted; None means all."""

    statuses: tuple[str, ...] = ()
    server: str | None = None
    environment: str | None = None
    template: str | None = None
    cloud: str | None = None
    #: True: terminated ones only; False: none of them.
    ended: bool | None = None
    changed_since: int | None = None


def launch_page(
    services: Services, wanted: LaunchFilter, *, before: str | None, limit: int
) -> Slice[LaunchDetail]:
    """Launches, the newest first, behind an id. Terminated ones are listed for as long as the
    settings say; with ``changed_since`` for as long as the change log goes back."""
    query = sa.select(_LAUNCHES).order_by(_LAUNCHES.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(_LAUNCHES.c.id < before)
    for column, value in (
        (_LAUNCHES.c.server_name, wanted.server),
        (_LAUNCHES.c.environment, wanted.environment),
        (_LAUNCHES.c.template_name, wanted.template),
        (_LAUNCHES.c.cloud, wanted.cloud),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.statuses:
        query = query.where(_LAUNCHES.c.status.in_(wanted.statuses))
    terminated = _LAUNCHES.c.status == LaunchStatus.TERMINATED.value
    if wanted.ended is True:
        query = query.where(terminated)
    elif wanted.ended is False:
        query = query.where(~terminated)
    elif wanted.changed_since is None:
        query = query.where(sa.or_(~terminated, _LAUNCHES.c.ended_at >= _listed_from(services)))
    with services.database.reading() as connection:
        if wanted.changed_since is not None:
            changes.check_reach(connection, wanted.changed_since)
            changed = changes.changed_since(wanted.changed_since, "launch/", _LAUNCHES.c.id)
            query = query.where(changed)
        found = [Launch(**row) for row in connection.execute(query).mappings()]
        rows = tuple(_details(connection, found[:limit]))
        return Slice(rows=rows, more=len(found) > limit, as_of=changes.newest(connection))


def launch_detail(services: Services, launch: Launch) -> LaunchDetail:
    """One launch with everything that is said of it."""
    with services.database.reading() as connection:
        return _details(connection, [launch])[0]


def server_page(
    services: Services,
    *,
    after: str | None,
    limit: int,
    environment: str | None = None,
    changed_since: int | None = None,
) -> Slice[ServerDetail]:
    """Servers by name, behind a name."""
    query = sa.select(_SERVERS).order_by(_SERVERS.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(_SERVERS.c.name > after)
    if environment is not None:
        query = query.where(_SERVERS.c.environment == environment)
    with services.database.reading() as connection:
        if changed_since is not None:
            changes.check_reach(connection, changed_since)
            changed = changes.changed_since(changed_since, "launch/", _LAUNCHES.c.id)
            query = query.where(
                sa.or_(
                    changes.changed_since(changed_since, "server/", _SERVERS.c.name),
                    _SERVERS.c.name.in_(sa.select(_LAUNCHES.c.server_name).where(changed)),
                )
            )
        found = [Server(**row) for row in connection.execute(query).mappings()]
        rows = tuple(_servers(connection, found[:limit]))
        return Slice(rows=rows, more=len(found) > limit, as_of=changes.newest(connection))


def server_detail(services: Services, server: Server) -> ServerDetail:
    """One server with its launch."""
    with services.database.reading() as connection:
        return _servers(connection, [server])[0]


def run_page(
    services: Services, launch_id: str, *, before: str | None, limit: int
) -> Slice[RunDetail]:
    """Runs of operational scripts, the newest first, behind an id."""
    query = _runs(launch_id).order_by(_HAND_OVERS.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(_HAND_OVERS.c.id < before)
    with services.database.reading() as connection:
        found = [HandOver(**row) for row in connection.execute(query).mappings()]
        rows = tuple(_run_details(connection, found[:limit]))
        return Slice(rows=rows, more=len(found) > limit, as_of=changes.newest(connection))


def run_detail(services: Services, launch_id: str, run_id: str) -> RunDetail | None:
    """One run of an operational script of this launch, if there is one of this id."""
    query = _runs(launch_id).where(_HAND_OVERS.c.id == run_id)
    with services.database.reading() as connection:
        found = [HandOver(**row) for row in connection.execute(query).mappings()]
        return next(iter(_run_details(connection, found)), None)


def subject_page(services: Services, *, after: str | None, limit: int) -> Slice[AuditHead]:
    """Everything that has an audit record, by name, behind a name."""
    query = sa.select(_HEADS).order_by(_HEADS.c.subject).limit(limit + 1)
    if after is not None:
        query = query.where(_HEADS.c.subject > after)
    with services.database.reading() as connection:
        found = [AuditHead(**row) for row in connection.execute(query).mappings()]
        as_of = changes.newest(connection)
    return Slice(rows=tuple(found[:limit]), more=len(found) > limit, as_of=as_of)


def entry_page(services: Services, subject: str, *, after: int, limit: int) -> Slice[AuditEntry]:
    """The audit entries of a subject in order, behind a number."""
    query = (
        sa.select(_ENTRIES)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.seq > after)
        .order_by(_ENTRIES.c.seq)
        .limit(limit + 1)
    )
    with services.database.reading() as connection:
        found = [AuditEntry(**row) for row in connection.execute(query).mappings()]
        as_of = changes.newest(connection)
    return Slice(rows=tuple(found[:limit]), more=len(found) > limit, as_of=as_of)


def mirror_page(
    services: Services,
    *,
    name: str | None = None,
    after: str | None = None,
    limit: int,
    changed_since: int | None = None,
) -> Slice[MirrorDetail]:
    """Mirrored repositories by name, behind a name, or the one of a name."""
    query = sa.select(_MIRRORS).order_by(_MIRRORS.c.name).limit(limit + 1)
    if name is not None:
        query = query.where(_MIRRORS.c.name == name)
    if after is not None:
        query = query.where(_MIRRORS.c.name > after)
    with services.database.reading() as connection:
        if changed_since is not None:
            changes.check_reach(connection, changed_since)
            query = query.where(changes.changed_since(changed_since, "mirror/", _MIRRORS.c.name))
        found = [MirrorRepository(**row) for row in connection.execute(query).mappings()]
        rows = tuple(_mirrors(connection, found[:limit]))
        return Slice(rows=rows, more=len(found) > limit, as_of=changes.newest(connection))


def _mirrors(
    connection: sa.Connection, repositories: Sequence[MirrorRepository]
) -> list[MirrorDetail]:
    moment = _DAYS.c.taken_at
    query = (
        sa.select(
            _DAYS.c.repository,
            sa.func.count(moment.distinct()).label("states"),
            sa.func.min(moment).label("first"),
            sa.func.max(moment).label("last"),
        )
        .where(
            _DAYS.c.repository.in_([each.name for each in repositories]),
            _DAYS.c.removed_at.is_(None),
        )
        .group_by(_DAYS.c.repository)
    )
    spans = {row.repository: row for row in connection.execute(query)}
    return [
        MirrorDetail(
            repository=each,
            states=span.states if (span := spans.get(each.name)) else 0,
            first=span.first if span else None,
            last=span.last if span else None,
        )
        for each in repositories
    ]


def day_page(
    services: Services,
    name: str,
    *,
    before: tuple[datetime, str] | None,
    limit: int,
    pinned: Mapping[date, str],
) -> Slice[DayDetail]:
    """The days of a repository that were not removed, the newest first and suites by name, behind a
    moment and a suite. ``pinned`` says which dates are kept, and why."""
    query = (
        sa.select(_DAYS)
        .where(_DAYS.c.repository == name, _DAYS.c.removed_at.is_(None))
        .order_by(_DAYS.c.taken_at.desc(), _DAYS.c.suite)
        .limit(limit + 1)
    )
    if before is not None:
        moment, suite = before
        query = query.where(
            sa.or_(
                _DAYS.c.taken_at < moment,
                sa.and_(_DAYS.c.taken_at == moment, _DAYS.c.suite > suite),
            )
        )
    with services.database.reading() as connection:
        found = [MirrorDay(**row) for row in connection.execute(query).mappings()]
        as_of = changes.newest(connection)
    rows = tuple(
        DayDetail(day=each, pinned=pinned.get(each.taken_at.date(), "")) for each in found[:limit]
    )
    return Slice(rows=rows, more=len(found) > limit, as_of=as_of)


def environment_page(
    services: Services, *, after: str | None, limit: int, changed_since: int | None = None
) -> Slice[EnvironmentDetail]:
    """Environments by name, behind a name, with the servers that are up in them."""
    query = sa.select(_ENVIRONMENTS).order_by(_ENVIRONMENTS.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(_ENVIRONMENTS.c.name > after)
    with services.database.reading() as connection:
        if changed_since is not None:
            changes.check_reach(connection, changed_since)
            query = query.where(
                changes.changed_since(changed_since, "environment/", _ENVIRONMENTS.c.name)
            )
        found = [Environment(**row) for row in connection.execute(query).mappings()]
        rows = tuple(_environments(connection, found[:limit]))
        return Slice(rows=rows, more=len(found) > limit, as_of=changes.newest(connection))


def environment_detail(services: Services, environment: Environment) -> EnvironmentDetail:
    """One environment with the servers that are up in it."""
    with services.database.reading() as connection:
        return _environments(connection, [environment])[0]


def _environments(
    connection: sa.Connection, environments: Sequence[Environment]
) -> list[EnvironmentDetail]:
    query = (
        sa.select(_LAUNCHES.c.environment, _LAUNCHES.c.server_name)
        .where(
            _LAUNCHES.c.environment.in_([each.name for each in environments]),
            _LAUNCHES.c.status != LaunchStatus.TERMINATED.value,
        )
        .order_by(_LAUNCHES.c.server_name)
    )
    servers: dict[str, list[str]] = {}
    for row in connection.execute(query):
        servers.setdefault(row.environment, []).append(row.server_name)
    return [
        EnvironmentDetail(environment=each, servers=tuple(servers.get(each.name, ())))
        for each in environments
    ]


def _runs(launch_id: str) -> sa.Select[Any]:
    return sa.select(_HAND_OVERS).where(
        _HAND_OVERS.c.launch_id == launch_id, _HAND_OVERS.c.flow == "run_operational_script"
    )


def _run_details(connection: sa.Connection, rows: Sequence[HandOver]) -> list[RunDetail]:
    keys = {row.id: operation_key(row.parameters["request"]["script"], row.id) for row in rows}
    subjects = {subject_of(row.launch_id) for row in rows}
    query = sa.select(_STEPS).where(_STEPS.c.subject.in_(subjects), _STEPS.c.key.in_(keys.values()))
    steps = {row["key"]: Step(**row) for row in connection.execute(query).mappings()}
    return [
        RunDetail(
            row=row,
            script=row.parameters["request"]["script"],
            inputs=row.parameters["request"]["inputs"],
            step_key=keys[row.id],
            step=steps.get(keys[row.id]),
        )
        for row in rows
    ]


def _servers(connection: sa.Connection, servers: Sequence[Server]) -> list[ServerDetail]:
    names = [server.name for server in servers]
    # The active launch is always the newest: a name is free only when its launch has ended.
    newest = (
        sa.select(sa.func.max(_LAUNCHES.c.id))
        .where(_LAUNCHES.c.server_name.in_(names))
        .group_by(_LAUNCHES.c.server_name)
    )
    rows = connection.execute(sa.select(_LAUNCHES).where(_LAUNCHES.c.id.in_(newest)))
    launches = _details(connection, [Launch(**row) for row in rows.mappings()])
    by_name = {detail.launch.server_name: detail for detail in launches}
    return [ServerDetail(server=each, launch=by_name.get(each.name)) for each in servers]


def _details(connection: sa.Connection, launches: Sequence[Launch]) -> list[LaunchDetail]:
    ids = [launch.id for launch in launches]
    steps: dict[str, list[Step]] = {}
    query = (
        sa.select(_STEPS)
        .where(_STEPS.c.subject.in_([subject_of(launch_id) for launch_id in ids]))
        .order_by(_STEPS.c.position)
    )
    for row in connection.execute(query).mappings():
        steps.setdefault(row["subject"], []).append(Step(**row))
    newest = (
        sa.select(sa.func.max(_HAND_OVERS.c.id))
        .where(_HAND_OVERS.c.launch_id.in_(ids))
        .group_by(_HAND_OVERS.c.launch_id)
    )
    query = sa.select(_HAND_OVERS).where(_HAND_OVERS.c.id.in_(newest))
    hand_overs = {row["launch_id"]: row for row in connection.execute(query).mappings()}
    query = sa.select(_CALL_BACKS.c.launch_id, _CALL_BACKS.c.url).where(
        _CALL_BACKS.c.launch_id.in_(ids)
    )
    urls = {row.launch_id: row.url for row in connection.execute(query)}
    return [
        LaunchDetail(
            launch=launch,
            steps=tuple(steps.get(subject_of(launch.id), ())),
            hand_over=HandOver(**hand_overs[launch.id]) if launch.id in hand_overs else None,
            callback_url=urls.get(launch.id),
        )
        for launch in launches
    ]


def _listed_from(services: Services) -> datetime:
    return services.clock.now() - timedelta(hours=services.settings.ended_listed_h)
