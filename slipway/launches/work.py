"""A launch in the hands of a driver."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from slipway import lifecycle
from slipway.audit import Note
from slipway.changes import note_change
from slipway.errors import NotFound
from slipway.launches.services import Services
from slipway.lifecycle import ENTER, PHASES, Event, subject_of
from slipway.records import AuditKind, Launch, LaunchStatus, Step, StepStatus
from slipway.statements import Statement
from slipway.steps import Driver, StepRun, acquire, steps_of

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_STEPS = Step.__table__  # type: ignore[attr-defined]


_FIND = Statement(sa.select(_LAUNCHES).where(_LAUNCHES.c.id == sa.bindparam("launch")))
_STATUS = Statement(sa.select(_LAUNCHES.c.status).where(_LAUNCHES.c.id == sa.bindparam("launch")))


#: What lists and answers show: whoever follows changes hears of a new value. The other columns
#: change together with the status, or are nobody's business.
SHOWN = frozenset({"instance_id", "private_ip", "public_ip", "outputs"})

#: With the launch's id and what else is in it, a run id stays below its 128 characters.
STEP_KEY_LENGTH = 88


class Work:
    """One launch, the lease on it, and everything it needs.

    Not a dataclass on purpose: the engine walks through the fields of dataclasses it is handed,
    in search of futures, and there is a whole database behind these.
    """

    def __init__(self, services: Services, driver: Driver, launch: Launch) -> None:
        self.services = services
        self.driver = driver
        self.launch_id = launch.id
        self.server = launch.server_name
        #: Nobody can log in: the server's agent calls us.
        self.calls_us = launch.connect == "agent"
        #: Where the launch was when this driver last looked or moved it.
        self.phase = LaunchStatus(launch.status)
        #: Which of the launch's instances is worked on.
        self.generation = launch.generation
        self._known: Launch | None = launch

    def launch(self) -> Launch:
        """The launch as it is on record. Only its driver changes it, so it is read again only after
        a change of ours (a request to cancel is looked for elsewhere)."""
        if self._known is None:
            self._known = get_launch(self.services, self.launch_id)
        return self._known

    def forget(self) -> None:
        """Read the launch again next time: a change of ours may not have come to be."""
        self._known = None

    def catch_up(self) -> None:
        """See where the launch is on record, whatever came of changes of ours whose commit was not
        answered. Raises `LeaseLost`."""
        self.driver.renew()
        launch = self._known = get_launch(self.services, self.launch_id)
        self.phase, self.generation = LaunchStatus(launch.status), launch.generation

    def begin(self, key: str, title: str, *, phase: LaunchStatus | None = None) -> StepRun:
        """Start a step, and enter its phase if the launch is not that far yet."""

        def enter(connection: sa.Connection) -> None:
            if phase is not None:
                self.enter(connection, phase)

        return self.driver.begin(key, title, also=enter)

    def advance(
        self,
        connection: sa.Connection,
        event: Event,
        *,
        reason: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> LaunchStatus:
        """Move the launch, in a driver's transaction."""
        reason = self.driver.masker.text(reason)
        self.phase = lifecycle.advance(
            connection,
            self.launch_id,
            event,
            actor=self.driver.actor,
            at=self.driver.clock.now(),
            reason=reason,
            changes=changes,
        )
        self._remember({"status": self.phase.value, "reason": reason, **(changes or {})})
        return self.phase

    def update(self, connection: sa.Connection, **values: Any) -> None:
        """Change columns of the launch other than its status, in a driver's transaction."""
        changed = {"updated_at": self.driver.clock.now(), **values}
        lifecycle.update_launch(connection, self.launch_id, changed)
        self._remember(changed)
        if shown := values.keys() & SHOWN:
            note_change(
                connection,
                "launch.updated",
                self.driver.subject,
                actor=self.driver.actor,
                at=changed["updated_at"],
                detail={"server": self.server, "fields": sorted(shown)},
            )

    def strand(self, error: BaseException) -> bool:
        """End this attempt: the launch is kept as it is, with the step and the cause. Answers
        whether it is stranded: an operational server is not. May be done again."""
        with self.driver.transaction() as connection:
            status = self._status(connection)
            if status not in PHASES[:-1]:
                return status is LaunchStatus.STRANDED
            key, title = self._last_step(connection)
            cause = str(error) or type(error).__name__
            reason = f"{title}: {cause}" if title else cause
            self.advance(connection, Event.STRAND, reason=reason, changes={"failed_step": key})
            return True

    def cancel(self) -> None:
        """End this attempt because somebody asked for it."""
        with self.driver.transaction() as connection:
            if self._status(connection) in (*PHASES[:-1], LaunchStatus.STRANDED):
                changes = {"cancel_requested_at": None}
                reason = "cancelled on request"
                self.advance(connection, Event.CANCEL, reason=reason, changes=changes)

    def reopen(self) -> None:
        """Take a stranded or cancelled launch up again. That is a person's decision, so the scripts
        that had failed may run anew."""
        with self.driver.transaction() as connection:
            self._let_scripts_run_again(connection)
            if self._status(connection) in (LaunchStatus.STRANDED, LaunchStatus.CANCELLED):
                changes = {"cancel_requested_at": None}
                self.advance(connection, Event.RESUME, reason="resumed", changes=changes)

    def status(self) -> LaunchStatus:
        """Where the launch is."""
        return LaunchStatus(self.launch().status)

    def _remember(self, values: Mapping[str, Any]) -> None:
        if self._known is not None:
            for name, value in values.items():
                setattr(self._known, name, value)

    def enter(self, connection: sa.Connection, phase: LaunchStatus) -> None:
        """Walk the phases up to this one, if the launch is not that far yet."""
        if self._known is not None and self.phase is phase:
            return
        status = self.phase = self._status(connection)
        if status not in PHASES:
            return
        for behind in PHASES[PHASES.index(status) + 1 : PHASES.index(phase) + 1]:
            self.advance(connection, ENTER[behind])

    def _status(self, connection: sa.Connection) -> LaunchStatus:
        return LaunchStatus(_STATUS.scalar(connection, launch=self.launch_id))

    def _let_scripts_run_again(self, connection: sa.Connection) -> None:
        failed = connection.execute(
            sa.select(_STEPS.c.key, _STEPS.c.result).where(
                _STEPS.c.subject == self.driver.subject,
                _STEPS.c.status != StepStatus.SUCCEEDED.value,
            )
        ).all()
        for row in failed:
            if "ended_run" in row.result:
                connection.execute(
                    sa.update(_STEPS)
                    .where(_STEPS.c.subject == self.driver.subject, _STEPS.c.key == row.key)
                    .values(result={"runs_over": row.result["ended_run"]})
                )

    def _last_step(self, connection: sa.Connection) -> tuple[str | None, str]:
        row = connection.execute(
            sa.select(_STEPS.c.key, _STEPS.c.title)
            .where(
                _STEPS.c.subject == self.driver.subject,
                _STEPS.c.status != StepStatus.SUCCEEDED.value,
            )
            .order_by(_STEPS.c.started_at.desc(), _STEPS.c.position.desc())
        ).first()
        return (row.key, row.title) if row else (None, "")


def take_up(
    services: Services, launch_id: str, *, actor: str, flow_run_id: str | None = None
) -> Work:
    """Take the lease of a launch. Raises `NotFound`, and `Conflict` when another is at work."""
    with services.database.reading() as connection:
        if _STATUS.first(connection, launch=launch_id) is None:
            raise NotFound(f"there is no launch {launch_id}")
    driver = acquire(
        services.database,
        services.clock,
        subject_of(launch_id),
        actor=actor,
        lease_s=services.settings.lease_s,
    )
    try:
        # Read under the lease: whoever had it before may have changed it until then.
        work = Work(services, driver, get_launch(services, launch_id))
        steps = steps_of(services.database, driver.subject)
        done = [step.title for step in steps if step.status == StepStatus.SUCCEEDED]
        with driver.transaction() as connection:
            if flow_run_id is not None:
                work.update(connection, flow_run_id=flow_run_id)
            if done and work.phase in PHASES[:-1]:
                text = f"taken up again after '{done[-1]}'; {len(done)} finished steps are skipped"
                driver.write(connection, [Note(kind=AuditKind.INFO, summary=text)])
    except BaseException:
        driver.release()
        raise
    return work


def get_launch(services: Services, launch_id: str) -> Launch:
    """One launch by id. Raises `NotFound`."""
    with services.database.reading() as connection:
        found = _FIND.first(connection, launch=launch_id)
    if found is None:
        raise NotFound(f"there is no launch {launch_id}")
    return Launch(**found._asdict())


def step_key(text: str) -> str:
    """A step's key of a length every database and server takes; long ones end in a hash."""
    if len(text) <= STEP_KEY_LENGTH:
        return text
    return f"{text[: STEP_KEY_LENGTH - 13]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def operation_key(script: str, key: str) -> str:
    """The key of the step that a run of an operational script is."""
    return step_key(f"operational:{script}:{key}")


def saved_result(work: Work, key: str) -> dict[str, Any]:
    """What a step has recorded so far, whether it has ended or not; empty when it has not begun."""
    with work.services.database.reading() as connection:
        query = sa.select(_STEPS.c.result).where(
            _STEPS.c.subject == work.driver.subject, _STEPS.c.key == key
        )
        found: dict[str, Any] | None = connection.execute(query).scalar()
    return found or {}


def recorded_result(work: Work, key: str) -> dict[str, Any]:
    """What a step that succeeded has recorded. Raises `NotFound` when it has not."""
    with work.services.database.reading() as connection:
        query = sa.select(_STEPS.c.result).where(
            _STEPS.c.subject == work.driver.subject,
            _STEPS.c.key == key,
            _STEPS.c.status == StepStatus.SUCCEEDED.value,
        )
        found = connection.execute(query).scalar()
    if found is None:
        raise NotFound(f"launch {work.launch_id} has not finished its step {key}")
    result: dict[str, Any] = found
    return result
