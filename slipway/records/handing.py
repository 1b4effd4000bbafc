"""What waits to be handed on: flows to the engine, call-backs to whoever asked for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class HandOver(SQLModel, table=True):
    """A flow run to be started; recorded with what asks for it, in one transaction."""

    __tablename__ = "hand_over"
    __table_args__ = (
        sa.Index("ix_hand_over_launch", "launch_id", "id"),
        sa.Index(
            "ix_hand_over_waiting",
            "due_at",
            sqlite_where=sa.text("handed_at IS NULL"),
            postgresql_where=sa.text("handed_at IS NULL"),
        ),
    )

    #: Also the idempotency key towards the engine: started twice, it is still one run.
    id: str = Field(primary_key=True, max_length=64)
    launch_id: str = Field(foreign_key="launch.id", max_length=64)
    flow: str = Field(max_length=64)
    #: JSON values; never a secret.
    parameters: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    requested_by: str = Field(max_length=128)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: When it is tried next; moved into the future by whoever tries, so that nobody else does.
    due_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    attempts: int = 0
    #: Why the last attempt failed, one sentence; of a script that was handed over, why it was not
    #: begun.
    error: str = Field(default="", sa_column=Column(sa.Text, nullable=False))
    handed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    flow_run_id: str | None = Field(default=None, max_length=64)


class CallBack(SQLModel, table=True):
    """Where to tell what becomes of a launch."""

    __tablename__ = "call_back"
    __table_args__ = (
        sa.Index(
            "ix_call_back_open",
            "launch_id",
            sqlite_where=sa.text("is_open"),
            postgresql_where=sa.text("is_open"),
        ),
    )

    launch_id: str = Field(primary_key=True, foreign_key="launch.id", max_length=64)
    url: str = Field(sa_column=Column(sa.Text, nullable=False))
    #: What messages are signed with, encrypted; None for unsigned ones.
    secret: bytes | None = Field(default=None, sa_column=Column(sa.LargeBinary))
    #: The newest change for which messages were made.
    seen_seq: int = Field(default=0, sa_type=sa.BigInteger)
    #: False when nothing more can happen to the launch.
    is_open: bool = True


class CallBackMessage(SQLModel, table=True):
    """One message to one launch's call-back; every attempt sends the same bytes."""

    __tablename__ = "call_back_message"
    __table_args__ = (
        sa.Index("ix_call_back_message_launch", "launch_id", "id"),
        sa.Index(
            "ix_call_back_message_waiting",
            "due_at",
            sqlite_where=sa.text("delivered_at IS NULL AND given_up_at IS NULL"),
            postgresql_where=sa.text("delivered_at IS NULL AND given_up_at IS NULL"),
        ),
    )

    #: The header ``webhook-id``: a receiver that sees it twice has the same message twice.
    id: str = Field(primary_key=True, max_length=64)
    launch_id: str = Field(foreign_key="launch.id", max_length=64)
    #: The kind of the change it tells: ``launch.operational``.
    kind: str = Field(max_length=64)
    body: str = Field(sa_column=Column(sa.Text, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    due_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    attempts: int = 0
    #: What the last attempt was answered, or why it was not.
    error: str = Field(default="", sa_column=Column(sa.Text, nullable=False))
    delivered_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    given_up_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
