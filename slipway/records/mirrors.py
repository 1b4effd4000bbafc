"""Mirrored repositories: which state each had when."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, Serial, UtcDateTime


class MirrorDay(SQLModel, table=True):
    """What a suite of a repository was at a moment; rows are added, and change only when what they
    name is removed."""

    __tablename__ = "mirror_day"
    __table_args__ = (
        sa.Index("uq_mirror_day", "repository", "suite", "taken_at", unique=True),
        sa.Index("ix_mirror_day_taken_at", "repository", "taken_at"),
    )

    id: int | None = Field(default=None, sa_column=Column(Serial, primary_key=True))
    repository: str = Field(max_length=64)
    suite: str = Field(max_length=128)
    #: A full second; what a client asks for by a date or a time resolves to one of these.
    taken_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: SHA-256 of the state's document in the content store.
    manifest: str = Field(max_length=64)
    #: What was different from the time before: counts of packages and bytes.
    changes: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    #: When the retention let it go. The row stays: its date must not come to mean an older state.
    removed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


class MirrorRepository(SQLModel, table=True):
    """A repository that is kept by day, as somebody has declared it."""

    __tablename__ = "mirror_repository"

    name: str = Field(primary_key=True, max_length=64)
    #: What stands under its name in the file it was declared in.
    document: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    #: The certificates that may sign it, as the file named there had them.
    keyring: bytes = Field(sa_column=Column(sa.LargeBinary, nullable=False))
    declared_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class MirrorPin(SQLModel, table=True):
    """A day of a repository that is not to be removed."""

    __tablename__ = "mirror_pin"

    repository: str = Field(primary_key=True, max_length=64)
    day: date = Field(primary_key=True)
    reason: str = Field(sa_column=Column(sa.Text, nullable=False))
    pinned_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
