"""Long work in steps that survive their driver.

A *driver* holds the lease of a subject and works through its steps. A step's row is its
checkpoint: a step that succeeded is never done again, whoever drives. Every write checks the
lease in the same transaction, so a driver that was taken for dead and comes back writes nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway import audit, processes
from slipway.audit import Masker, Note
from slipway.clock import Clock
from slipway.database import Database, if_lost
from slipway.errors import Conflict, LeaseLost, LifecycleError
from slipway.records import AuditKind, Lease, Step, StepStatus
from slipway.statements import Statement

_STEPS = Step.__table__  # type: ignore[attr-defined]
_LEASES = Lease.__table__  # type: ignore[attr-defined]

_THIS_STEP = (_STEPS.c.subject == sa.bindparam("of"), _STEPS.c.key == sa.bindparam("step"))
_EPOCH = Statement(
    sa.select(_LEASES.c.epoch)
    .where(_LEASES.c.subject == sa.bindparam("of"))
    .with_for_update(read=True)
)
_FIND_STEP = Statement(
    sa.select(_STEPS.c.status, _STEPS.c.attempt, _STEPS.c.result).where(*_THIS_STEP)
)
_FIRST_ATTEMPT = Statement(
    sa.insert(_STEPS).values(
        subject=sa.bindparam("of"),
        key=sa.bindparam("step"),
        position=sa.select(sa.func.count() + 1)
        .where(_STEPS.c.subject == sa.bindparam("of"))
        .scalar_subquery(),
        title=sa.bindparam("title"),
        status=StepStatus.RUNNING.value,
        attempt=1,
        started_at=sa.bindparam("at"),
        result={},
        error="",
    )
)
_NEXT_ATTEMPT = Statement(
    sa.update(_STEPS)
    .where(*_THIS_STEP)
    .values(
        title=sa.bindparam("new_title"),
        status=StepStatus.RUNNING.value,
        attempt=_STEPS.c.attempt + 1,
        started_at=sa.bindparam("at"),
        ended_at=None,
        error="",
    )
)
_SAVE_STEP = Statement(sa.update(_STEPS).where(*_THIS_STEP).values(result=sa.bindparam("found")))
#: Only a step that runs can end: a success whose commit was answered late stays one.
_END_STEP = Statement(
    sa.update(_STEPS)
    .where(*_THIS_STEP, _STEPS.c.status == StepStatus.RUNNING.value)
    .values(
        status=sa.bindparam("outcome"),
        ended_at=sa.bindparam("at"),
        result=sa.bindparam("found"),
        error=sa.bindparam("sentence"),
    )
)
_STEPS_OF = Statement(
    sa.select(_STEPS).where(_STEPS.c.subject == sa.bindparam("of")).order_by(_STEPS.c.position)
)
_LEASE = Statement(
    sa.select(_LEASES).where(_LEASES.c.subject == sa.bindparam("of")).with_for_update()
)
_FIRST_LEASE = Statement(
    sa.insert(_LEASES).values(
        subject=sa.bindparam("of"),
        holder=sa.bindparam("who"),
        epoch=1,
        until=sa.bindparam("end"),
    )
)
_NEXT_LEASE = Statement(
    sa.update(_LEASES)
    .where(_LEASES.c.subject == sa.bindparam("of"))
    .values(holder=sa.bindparam("who"), epoch=_LEASES.c.epoch + 1, until=sa.bindparam("end"))
)
_RENEW_LEASE = Statement(
    sa.update(_LEASES)
    .where(_LEASES.c.subject == sa.bindparam("of"))
    .values(until=sa.bindparam("end"))
)
_RELEASE_LEASE = Statement(
    sa.update(_LEASES)
    .where(_LEASES.c.subject == sa.bindparam("of"), _LEASES.c.epoch == sa.bindparam("ours"))
    # A thread of ours that is late must find the door shut.
    .values(holder="", epoch=_LEASES.c.epoch + 1, until=sa.bindparam("end"))
)

#: Who of this process holds a lease or is taking one. A lease in the database whose holder is of
#: this process and not here was left behind: the database was away when it was to be given back,
#: or when it was to say that we have it.
_in_office: set[str] = set()

#: Something to do in the same transaction as a step's begin or end.
Also = Callable[[sa.Connection], None]


class Driver:
    """Whoever works on a subject now; `acquire` makes one."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        subject: str,
        *,
        actor: str,
        holder: str,
        epoch: int,
        lease_s: float,
    ) -> None:
        self.subject = subject
        self.actor = actor
        self.clock = clock
        self.masker = Masker()
        self._database = database
        self._holder = holder
        self._epoch = epoch
        self._lease_s = lease_s

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction that only a driver in office gets. Raises `LeaseLost`."""
        with self._database.transaction() as connection:
            if _EPOCH.scalar(connection, of=self.subject) != self._epoch:
                raise LeaseLost(f"{self.subject}: another process has taken over")
            yield connection

    def begin(self, key: str, title: str, *, also: Also | None = None) -> StepRun:
        """Start a step, or find that it succeeded before. ``also`` runs only when it starts."""
        with self.transaction() as connection:
            this = {"of": self.subject, "step": key}
            found = _FIND_STEP.first(connection, **this)
            if found is not None and found.status == StepStatus.SUCCEEDED:
                return StepRun(self, key, title, found.attempt, 0.0, found.result, finished=True)
            now = self.clock.now()
            if found is None:
                _FIRST_ATTEMPT.run(connection, **this, title=title, at=now)
            else:
                _NEXT_ATTEMPT.run(connection, **this, new_title=title, at=now)
            attempt = found.attempt + 1 if found else 1
            if also is not None:
                also(connection)
            again = f" (attempt {attempt})" if attempt > 1 else ""
            self.write(connection, [Note(kind=AuditKind.SECTION, summary=title + again, step=key)])
        result = found.result if found else {}
        return StepRun(self, key, title, attempt, self.clock.monotonic(), result, finished=False)

    def note(self, *notes: Note) -> None:
        """Write audit entries in a transaction of their own."""
        if notes:
            with self.transaction() as connection:
                self.write(connection, notes)

    def write(self, connection: sa.Connection, notes: Sequence[Note]) -> None:
        """Write audit entries in a running transaction, masked. Output comes masked already."""
        masked = [
            Note(
                kind=note.kind,
                summary=self.masker.text(note.summary),
                step=note.step,
                detail=self.masker.value(note.detail),
                stream=note.stream,
                offset=note.offset,
                raw_bytes=note.raw_bytes,
                data=note.data,
            )
            for note in notes
        ]
        audit.append(connection, self.subject, masked, actor=self.actor, at=self.clock.now())

    def recorded_bytes(self, stream: str) -> int:
        """How much of an output stream is on record."""
        with self._database.reading() as connection:
            return audit.recorded_bytes(connection, self.subject, stream)

    def renew(self) -> None:
        """Keep the lease for another period. Raises `LeaseLost`."""
        with self.transaction() as connection:
            self.extend(connection)

    def extend(self, connection: sa.Connection) -> None:
        """Keep the lease for another period, in a driver's transaction."""
        until = self.clock.now() + timedelta(seconds=self._lease_s)
        _RENEW_LEASE.run(connection, of=self.subject, end=until)

    def release(self) -> None:
        """Give the lease back; harmless when it was lost. From now on this process may take it
        again, also when this raises `DatabaseUnavailable`; others may when it was repeated."""
        _in_office.discard(self._holder)
        with self._database.transaction() as connection:
            _RELEASE_LEASE.run(connection, of=self.subject, ours=self._epoch, end=self.clock.now())


@dataclass
class StepRun:
    """One attempt at one step."""

    driver: Driver
    key: str
    title: str
    attempt: int
    _started: float
    #: What the step found out. A later attempt starts with what an earlier one saved.
    result: dict[str, Any]
    #: It succeeded in an earlier run: skip it and use ``result``.
    finished: bool
    #: What it came to, in one sentence; empty until it succeeds.
    summary: str = ""

    def note(self, summary: str, *, kind: AuditKind = AuditKind.INFO, **detail: Any) -> None:
        """Write one audit entry of this step."""
        self.driver.note(Note(kind=kind, summary=summary, step=self.key, detail=detail))

    def save(
        self, result: Mapping[str, Any], *, also: Also | None = None, notes: Sequence[Note] = ()
    ) -> None:
        """Commit what is known so far, for whoever tries again, with ``notes`` and ``also``."""
        self.result = {**self.result, **self.driver.masker.value(result)}
        with self.driver.transaction() as connection:
            _SAVE_STEP.run(connection, **self._this, found=self.result)
            # The launch's row before the audit's head, as everywhere: or two could wait for each
            # other.
            if also is not None:
                also(connection)
            if notes:
                self.driver.write(connection, notes)

    def succeed(
        self,
        summary: str = "",
        *,
        result: Mapping[str, Any] | None = None,
        also: Also | None = None,
        notes: Sequence[Note] = (),
    ) -> dict[str, Any]:
        """Mark the step done. ``notes`` are written before the entry that says so, and ``also``
        runs, in the same transaction. Answers the result."""
        result = self.driver.masker.value(result or {})
        self.result = {**self.result, **result}
        self.summary = summary or f"{self.title}: done"
        duration_s = round(self.driver.clock.monotonic() - self._started, 3)
        with self.driver.transaction() as connection:
            if not self._end(connection, StepStatus.SUCCEEDED):
                raise LifecycleError(f"step {self.key} of {self.driver.subject} is over already")
            note = Note(
                kind=AuditKind.INFO,
                summary=self.summary,
                step=self.key,
                detail={"outcome": "succeeded", "duration_s": duration_s, **result},
            )
            if also is not None:
                also(connection)
            self.driver.write(connection, [*notes, note])
        self.finished = True
        return self.result

    def fail(self, error: BaseException) -> None:
        """Record that this attempt failed. A lost lease is not recorded: it is not our record; nor
        is anything that went wrong after the step had succeeded."""
        if isinstance(error, LeaseLost):
            return
        # PostgreSQL takes no NUL in text.
        sentence = self.driver.masker.text(str(error) or type(error).__name__).replace("\0", "")
        duration_s = round(self.driver.clock.monotonic() - self._started, 3)
        with self.driver.transaction() as connection:
            if not self._end(connection, StepStatus.FAILED, sentence):
                return
            note = Note(
                kind=AuditKind.ERROR,
                summary=sentence,
                step=self.key,
                detail={
                    "outcome": "failed",
                    "error": type(error).__name__,
                    "duration_s": duration_s,
                },
            )
            self.driver.write(connection, [note])

    @property
    def _this(self) -> dict[str, str]:
        return {"of": self.driver.subject, "step": self.key}

    def _end(self, connection: sa.Connection, outcome: StepStatus, sentence: str = "") -> bool:
        ended = _END_STEP.run(
            connection,
            **self._this,
            outcome=outcome.value,
            at=self.driver.clock.now(),
            found=self.result,
            sentence=sentence,
        )
        return ended == 1


def acquire(
    database: Database, clock: Clock, subject: str, *, actor: str, lease_s: float
) -> Driver:
    """Take the lease of a subject: when it is free, has run out, or was left behind. Raises
    `Conflict` when somebody else is at work."""
    holder = _this_holder()
    _in_office.add(holder)
    try:
        try:
            epoch = _take_lease(database, clock, subject, holder=holder, lease_s=lease_s)
        except IntegrityError:
            # Another was the first ever to take it, between our look and our insert.
            epoch = _take_lease(database, clock, subject, holder=holder, lease_s=lease_s)
    except BaseException:
        _in_office.discard(holder)
        raise
    return Driver(
        database, clock, subject, actor=actor, holder=holder, epoch=epoch, lease_s=lease_s
    )


def _take_lease(
    database: Database, clock: Clock, subject: str, *, holder: str, lease_s: float
) -> int:
    """The epoch under which we hold it. Raises `Conflict`."""
    now = clock.now()
    with database.transaction() as connection:
        found = _LEASE.first(connection, of=subject)
        if found is not None and _is_at_work(found, now):
            raise Conflict(
                f"{subject} is being driven by process {_pid(found.holder)} on "
                f"{_host(found.holder)} (lease until {found.until:%H:%M:%S} UTC)"
            )
        # Committed together with others, it may be lost after we have returned.
        if_lost(connection, lambda: _in_office.discard(holder))
        take = _NEXT_LEASE if found else _FIRST_LEASE
        take.run(connection, of=subject, who=holder, end=now + timedelta(seconds=lease_s))
    return found.epoch + 1 if found else 1


def is_driven(database: Database, clock: Clock, subject: str) -> bool:
    """Whether somebody alive holds the lease now."""
    with database.reading() as connection:
        found = connection.execute(
            sa.select(_LEASES.c.holder, _LEASES.c.until).where(_LEASES.c.subject == subject)
        ).first()
    return found is not None and _is_at_work(found, clock.now())


def steps_of(database: Database, subject: str) -> list[Step]:
    """The steps of a subject in the order they were first started."""
    with database.reading() as connection:
        return [Step(**row._asdict()) for row in _STEPS_OF.all(connection, of=subject)]


def _this_holder() -> str:
    """This process, and a word of its own for each lease."""
    return f"{processes.own_identity()}#{secrets.token_hex(4)}"


def _host(holder: str) -> str:
    return holder.split("/", 1)[0]


def _pid(holder: str) -> str:
    return holder.split("/")[3]


def _is_at_work(lease: Any, now: datetime) -> bool:
    return bool(lease.holder) and lease.until > now and not left_behind(lease.holder)


def left_behind(holder: str, is_dead: Callable[[str], bool] = processes.is_dead) -> bool:
    """Whether a lease's holder is seen not to be at work: its process is gone, as ``is_dead`` says,
    or is this one, where nobody knows of it."""
    process, _, _ = holder.partition("#")
    if process == processes.own_identity():
        return holder not in _in_office
    return is_dead(process)
