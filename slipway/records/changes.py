"""The change log: what happened, in one order for everything."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, Serial, UtcDateTime


class Change(SQLModel, table=True):
    """One change to one thing, written in the transaction that made it."""

    __tablename__ = "change"
    __table_args__ = (
        sa.Index("ix_change_subject", "subject", "seq"),
        # A number is never given twice, also when the newest rows were removed.
        {"sqlite_autoincrement": True},
    )

    #: In the order in which the changes became visible; there may be gaps.
    seq: int | None = Field(default=None, primary_key=True, sa_type=Serial)
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: ``launch.operational``, ``environment.created``: the noun of the subject, then what happened.
    kind: str = Field(max_length=64)
    #: ``launch/<id>``, ``environment/<name>``.
    subject: str = Field(max_length=128)
    actor: str = Field(max_length=128)
    #: What happened, in a few values; never a secret.
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))


class ChangeHorizon(SQLModel, table=True):
    """The one row that says how far the change log was cleared away."""

    __tablename__ = "change_horizon"

    id: int = Field(primary_key=True)
    #: The newest change that may be missing.
    seq: int = Field(sa_type=sa.BigInteger)
