"""Versions of ServerTemplates: immutable content and the names that point at it."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import UtcDateTime


class Blob(SQLModel, table=True):
    """File content by its SHA-256: written once, shared by every version that has it."""

    __tablename__ = "blob"

    sha256: str = Field(primary_key=True, max_length=64)
    content: bytes = Field(sa_column=Column(sa.LargeBinary, nullable=False))


class TemplateVersion(SQLModel, table=True):
    """One committed version of one template; never changed afterwards."""

    __tablename__ = "template_version"
    __table_args__ = (
        sa.UniqueConstraint("name", "number", name="uq_template_version_number"),
        sa.Index("ix_template_version_hash", "hash"),
    )

    #: The template's name, and with the hash the key: two templates may have equal content.
    name: str = Field(primary_key=True, max_length=128)
    #: SHA-256 over the canonical JSON of the resolved document.
    hash: str = Field(primary_key=True, max_length=64)
    #: ``r1``, ``r2``, … in order of commit.
    number: int
    parent: str | None = Field(default=None, max_length=64)
    message: str
    author: str
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: Canonical JSON of the resolved document; scripts and files are named by blob hash.
    document: str = Field(sa_column=Column(sa.Text, nullable=False))


class TemplateTag(SQLModel, table=True):
    """A name such as ``prod`` that points at one version of one template, and may be moved."""

    __tablename__ = "template_tag"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["name", "hash"],
            ["template_version.name", "template_version.hash"],
            name="fk_template_tag_version",
        ),
    )

    name: str = Field(primary_key=True, max_length=128)
    tag: str = Field(primary_key=True, max_length=128)
    hash: str = Field(max_length=64)
    moved_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
