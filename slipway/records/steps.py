"""Steps and leases: what makes a long piece of work resumable, whoever does it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class StepStatus(StrEnum):
    """How far a step is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Step(SQLModel, table=True):
    """One step of a subject; its row is the checkpoint a resumed run reads."""

    __tablename__ = "step"

    #: ``launch/<id>``, later ``build/<id>`` and ``snapshot/<id>``.
    subject: str = Field(primary_key=True, max_length=128)
    #: Stable over runs: ``create-instance``, ``run-script:10-install``.
    key: str = Field(primary_key=True, max_length=128)
    title: str
    #: 1, 2, 3, … in the order the steps were first started.
    position: int
    status: str = Field(max_length=16)
    attempt: int
    started_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: What later steps and a resumed run need to know; never a secret.
    result: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    error: str = Field(default="", sa_column=Column(sa.Text, nullable=False))


class Lease(SQLModel, table=True):
    """Who may work on a subject now. The epoch fences off whoever held it before."""

    __tablename__ = "lease"

    subject: str = Field(primary_key=True, max_length=128)
    #: `slipway.processes.identity` of the holder and a nonce; empty when released.
    holder: str = Field(max_length=256)
    epoch: int
    until: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
