"""Environments: named sets of servers and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import Conflict, InvalidInput, NotFound, Problem, SlipwayError
from slipway.launches.names import check_name
from slipway.records import AuditKind, Environment, Launch, LaunchStatus, Server
from slipway.servertemplates import TemplateStore
from slipway.spelling import nearest_or_all
from slipway.vault import REFERENCE

_ENVIRONMENTS = Environment.__table__  # type: ignore[attr-defined]
_SERVERS = Server.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

#: Something to do in the same transaction.
Also = Callable[[sa.Connection], None]


def create_environment(
    database: Database,
    clock: Clock,
    name: str,
    *,
    actor: str,
    inputs: Mapping[str, Any] | None = None,
    freeze: date | None = None,
    also: Also | None = None,
) -> Environment:
    """Make an environment. Raises `Conflict` when the name is taken."""
    problems = check_name("environment", name)
    if freeze is not None:
        problems += check_freeze(f"environment {name}", freeze, clock)
    if problems:
        raise InvalidInput(problems)
    now = clock.now()
    environment = Environment(
        name=name, inputs=dict(inputs or {}), freeze=freeze, created_at=now, updated_at=now
    )
    try:
        with database.transaction() as connection:
            connection.execute(sa.insert(_ENVIRONMENTS).values(**environment.model_dump()))
            said = {"inputs": environment.inputs, "freeze": freeze.isoformat() if freeze else None}
            _tell(connection, name, "created", said, actor=actor, clock=clock, also=also)
    except IntegrityError:
        raise Conflict(f"environment {name} exists already") from None
    return environment


def get_environment(database: Database, name: str) -> Environment:
    """One environment. Raises `NotFound` naming the nearest one."""
    with database.reading() as connection:
        query = sa.select(_ENVIRONMENTS).where(_ENVIRONMENTS.c.name == name)
        found = connection.execute(query).mappings().first()
    if found is None:
        names = [environment.name for environment in list_environments(database)]
        raise NotFound(f"there is no environment {name}{nearest_or_all(name, names)}")
    return Environment(**found)


def list_environments(database: Database) -> list[Environment]:
    """All environments by name."""
    with database.reading() as connection:
        query = sa.select(_ENVIRONMENTS).order_by(_ENVIRONMENTS.c.name)
        return [Environment(**row) for row in connection.execute(query).mappings()]


def change_environment(
    database: Database,
    clock: Clock,
    name: str,
    *,
    actor: str,
    set_inputs: Mapping[str, Any] | None = None,
    unset_inputs: tuple[str, ...] = (),
    freeze: date | None = None,
    thaw: bool = False,
    also: Also | None = None,
) -> Environment:
    """Set and unset inputs, freeze to a date or thaw; running servers keep what they have."""
    if freeze is not None and (problems := check_freeze(f"environment {name}", freeze, clock)):
        raise InvalidInput(problems)
    get_environment(database, name)
    with database.transaction() as connection:
        query = (
            sa.select(_ENVIRONMENTS.c.inputs, _ENVIRONMENTS.c.freeze)
            .where(_ENVIRONMENTS.c.name == name)
            .with_for_update()
        )
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"there is no environment {name}")
        missing = [key for key in unset_inputs if key not in row.inputs]
        if missing:
            raise InvalidInput(
                Problem(
                    where=f"environment {name}",
                    what=f"input {key} is not set{nearest_or_all(key, list(row.inputs))}",
                )
                for key in missing
            )
        inputs = {key: value for key, value in row.inputs.items() if key not in unset_inputs}
        frozen_to = None if thaw else freeze or row.freeze
        connection.execute(
            sa.update(_ENVIRONMENTS)
            .where(_ENVIRONMENTS.c.name == name)
            .values(
                inputs={**inputs, **(set_inputs or {})}, freeze=frozen_to, updated_at=clock.now()
            )
        )
        said = {
            "set": dict(set_inputs or {}),
            "unset": list(unset_inputs),
            "freeze": frozen_to.isoformat() if frozen_to else None,
        }
        _tell(connection, name, "changed", said, actor=actor, clock=clock, also=also)
    return get_environment(database, name)


def delete_environment(
    database: Database, clock: Clock, name: str, *, actor: str, also: Also | None = None
) -> None:
    """Remove an environment. Raises `Conflict` while one of its servers is up."""
    get_environment(database, name)
    with database.transaction() as connection:
        active = connection.execute(
            sa.select(_LAUNCHES.c.server_name).where(
                _LAUNCHES.c.environment == name,
                _LAUNCHES.c.status != LaunchStatus.TERMINATED.value,
            )
        ).scalars()
        names = sorted(active)
        if names:
            raise Conflict(
                f"environment {name} has servers that are up: {', '.join(names)}; "
                "decommission them first"
            )
        connection.execute(
            sa.update(_SERVERS).where(_SERVERS.c.environment == name).values(environment=None)
        )
        gone = connection.execute(sa.delete(_ENVIRONMENTS).where(_ENVIRONMENTS.c.name == name))
        if gone.rowcount == 0:
            raise NotFound(f"there is no environment {name}")
        _tell(connection, name, "deleted", {}, actor=actor, clock=clock, also=also)


def literal_secrets(templates: TemplateStore, values: Mapping[str, Any]) -> list[Problem]:
    """The problems of values whose inputs are secrets in some template: an environment keeps what
    it is given where everybody reads it."""
    problems = []
    for template in templates.library().names():
        try:
            declared = templates.head(template).inputs
        except SlipwayError:
            # A broken template says so when it is checked or launched.
            continue
        for name, value in values.items():
            is_secret = name in declared and declared[name].type == "secret"
            if is_secret and not str(value).startswith(REFERENCE):
                what = (
                    f"{name} is a secret of template {template}; store it with "
                    f"'slipway credential set NAME' and give {name}=cred:NAME"
                )
                problems.append(Problem(where=f"input {name}", what=what))
    return problems


def check_freeze(where: str, freeze: date, clock: Clock) -> list[Problem]:
    """A freeze date must be past: today is not complete, and the future is not known."""
    if freeze < clock.now().date():
        return []
    return [
        Problem(
            where=where,
            what=f"freeze date {freeze} is not in the past; "
            "the newest day that is complete is yesterday",
        )
    ]


def _tell(
    connection: sa.Connection,
    name: str,
    what: str,
    said: Mapping[str, Any],
    *,
    actor: str,
    clock: Clock,
    also: Also | None,
) -> None:
    subject, now = f"environment/{name}", clock.now()
    note = Note(kind=AuditKind.INFO, summary=f"environment {name} {what}", detail=said)
    audit.append(connection, subject, [note], actor=actor, at=now)
    note_change(connection, f"environment.{what}", subject, actor=actor, at=now)
    if also is not None:
        also(connection)
