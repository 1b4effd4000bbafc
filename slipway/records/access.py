"""Who may call the API, and what was asked for under which key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class Token(SQLModel, table=True):
    """A bearer token, known by its hash alone."""

    __tablename__ = "token"
    __table_args__ = (
        # The name of a revoked token may be given again.
        sa.Index(
            "uq_token_name",
            "name",
            unique=True,
            sqlite_where=sa.text("revoked_at IS NULL"),
            postgresql_where=sa.text("revoked_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=64)
    #: Who acts, in the audit: ``token/<name>``.
    name: str = Field(max_length=64)
    #: The token's first characters, to tell which one it is; not enough to use it.
    prefix: str = Field(max_length=16)
    #: SHA-256 of the token, in hex.
    hash: str = Field(max_length=64, unique=True)
    scopes: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    created_by: str = Field(max_length=128)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: To within a few minutes: a call must not cost a write.
    last_used_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


class KeyedRequest(SQLModel, table=True):
    """What an ``Idempotency-Key`` has brought about; written with it, in one transaction."""

    __tablename__ = "keyed_request"
    __table_args__ = (sa.Index("ix_keyed_request_created_at", "created_at"),)

    token_id: str = Field(primary_key=True, max_length=64)
    key: str = Field(primary_key=True, max_length=255)
    #: Keyed hash of method, path and body: a body may hold secrets, even short ones.
    request_hash: str = Field(max_length=64)
    #: What to find the result by, in the words of whoever made it.
    result: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
