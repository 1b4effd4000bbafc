"""What happens to mirrors, for those who listen: kinds of changes, and of events in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from slipway.changes import note_change

DECLARED = "mirror.declared"
DAY_TAKEN = "mirror.day-taken"
DAY_FAILED = "mirror.day-failed"
DAYS_REMOVED = "mirror.days-removed"
DAMAGED = "mirror.damaged"


def subject_of(name: str) -> str:
    """What changes of a repository are about."""
    return f"mirror/{name}"


def tell(
    connection: sa.Connection,
    kind: str,
    name: str,
    *,
    actor: str,
    at: datetime,
    detail: Mapping[str, Any],
) -> None:
    """Put it into the change log, with the running transaction."""
    note_change(connection, kind, subject_of(name), actor=actor, at=at, detail=detail)
