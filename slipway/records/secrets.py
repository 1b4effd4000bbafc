"""Credentials, encrypted."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import UtcDateTime


class Credential(SQLModel, table=True):
    """A named secret, encrypted with the installation's key; ``cred:NAME`` refers to it."""

    __tablename__ = "credential"

    name: str = Field(primary_key=True, max_length=256)
    ciphertext: bytes = Field(sa_column=Column(sa.LargeBinary, nullable=False))
    #: The launch it was given to and ends with; None for one that a person keeps.
    launch_id: str | None = Field(default=None, max_length=64, index=True)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
