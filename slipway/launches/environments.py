"""Environments: named sets of servers and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import Conflict, InvalidInput, NotFound, Problem
from slipway.launches.names import check_name, nearest
from slipway.records import Environment, Launch, LaunchStatus, Server

_ENVIRONMENTS = Environment.__table__  # type: ignore[attr-defined]
_SERVERS = Server.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]


def create_environment(
    database: Database,
    clock: Clock,
    name: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    freeze: date | None = None,
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
        raise NotFound(f"there is no environment {name}{nearest(name, names)}")
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
    set_inputs: Mapping[str, Any] | None = None,
    unset_inputs: tuple[str, ...] = (),
    freeze: date | None = None,
    thaw: bool = False,
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
        row = connection.execute(query).one()
        missing = [key for key in unset_inputs if key not in row.inputs]
        if missing:
            raise InvalidInput(
                Problem(
                    where=f"environment {name}",
                    what=f"input {key} is not set{nearest(key, list(row.inputs))}",
                )
                for key in missing
            )
        inputs = {key: value for key, value in row.inputs.items() if key not in unset_inputs}
        connection.execute(
            sa.update(_ENVIRONMENTS)
            .where(_ENVIRONMENTS.c.name == name)
            .values(
                inputs={**inputs, **(set_inputs or {})},
                freeze=None if thaw else freeze or row.freeze,
                updated_at=clock.now(),
            )
        )
    return get_environment(database, name)


def delete_environment(database: Database, name: str) -> None:
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
        connection.execute(sa.delete(_ENVIRONMENTS).where(_ENVIRONMENTS.c.name == name))


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
