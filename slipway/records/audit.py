"""The audit record: append-only rows, hash-chained per subject."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import UtcDateTime


class AuditKind(StrEnum):
    """What an entry is about."""

    STATUS = "status"
    SECTION = "section"
    INFO = "info"
    ERROR = "error"
    OUTPUT = "output"


class AuditEntry(SQLModel, table=True):
    """One thing that happened to a subject."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        sa.UniqueConstraint("subject", "stream", "offset", name="uq_audit_entry_output"),
    )

    subject: str = Field(primary_key=True, max_length=128)
    #: 1, 2, 3, … without gaps.
    seq: int = Field(primary_key=True, sa_type=sa.BigInteger)
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    actor: str = Field(max_length=128)
    kind: str = Field(max_length=16)
    step: str | None = Field(default=None, max_length=128)
    summary: str = Field(sa_column=Column(sa.Text, nullable=False))
    #: Canonical JSON, masked; text, because the hash is over these very characters.
    detail: str = Field(sa_column=Column(sa.Text, nullable=False))
    #: The script run this piece of output belongs to; output entries only.
    stream: str | None = Field(default=None, max_length=128)
    #: Where the piece starts in the raw stream, in bytes.
    offset: int | None = Field(default=None, sa_type=sa.BigInteger)
    #: How many raw bytes it stands for; masking changes the length of ``data``.
    raw_bytes: int | None = None
    data: bytes | None = Field(default=None, sa_column=Column(sa.LargeBinary))
    #: Hash of the entry before; 64 zeros for the first.
    previous: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class AuditHead(SQLModel, table=True):
    """The newest entry of a subject: what a cut-off tail is noticed by."""

    __tablename__ = "audit_head"

    subject: str = Field(primary_key=True, max_length=128)
    seq: int = Field(sa_type=sa.BigInteger)
    hash: str = Field(max_length=64)
