"""Rows that other rows need, straight into the tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from slipway.database import Database
from slipway.records import Launch, LaunchStatus, Server

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def add_launch(database: Database, launch_id: str = "launch-1", **columns: Any) -> str:
    """A launch, and its server if that is not there yet."""
    row = {
        "id": launch_id,
        "idempotency_key": launch_id,
        "server_name": "web-1",
        "status": LaunchStatus.REQUESTED.value,
        "template_name": "tiny",
        "template_hash": "0" * 64,
        "template_ref": "tiny",
        "cloud": "local",
        "region": "local",
        "image_id": "image",
        "instance_type": "small",
        "login_user": "admin",
        "requested_by": "tests",
        "created_at": AT,
        "updated_at": AT,
        "expires_at": AT,
        **columns,
    }
    launch = Launch(**row)
    servers, launches = Server.__table__, Launch.__table__  # type: ignore[attr-defined]
    with database.transaction() as connection:
        known = sa.select(servers.c.name).where(servers.c.name == row["server_name"])
        if connection.execute(known).first() is None:
            server = Server(name=row["server_name"], inputs={}, created_at=AT)
            connection.execute(sa.insert(servers).values(**server.model_dump()))
        connection.execute(sa.insert(launches).values(**launch.model_dump()))
    return launch_id


def launch_row(database: Database, launch_id: str = "launch-1") -> dict[str, Any]:
    """The launch as it is in the table."""
    launches = Launch.__table__  # type: ignore[attr-defined]
    with database.reading() as connection:
        query = sa.select(launches).where(launches.c.id == launch_id)
        return dict(connection.execute(query).mappings().one())
