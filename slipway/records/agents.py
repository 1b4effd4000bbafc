"""Agents: servers that call us, and what waits for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class Agent(SQLModel, table=True):
    """The agent of one instance of a launch: what it was told, who it is, whether it is there."""

    __tablename__ = "agent"

    launch_id: str = Field(primary_key=True, foreign_key="launch.id", max_length=64)
    generation: int = Field(primary_key=True)

    #: What the user data says: kept, so that creating again asks for the very same instance.
    api_url: str = Field(sa_column=Column(sa.Text, nullable=False))
    #: SHA-256 of its program, which is a blob: the server checks it before it runs it.
    program: str = Field(max_length=64)
    #: The authority it trusts, PEM; empty for its system's own.
    ca: str = Field(default="", sa_column=Column(sa.Text, nullable=False))

    #: SHA-256 of the one-time token in the user data, and until when it may be used first.
    token_hash: str = Field(max_length=64)
    token_expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))

    #: SHA-256 of the secret the agent made for itself and showed with the token; what it calls
    #: with from then on. None until its first call.
    secret_hash: str | None = Field(default=None, max_length=64)
    #: The secret before that, until the new one was used: the reply may have been lost.
    previous_secret_hash: str | None = Field(default=None, max_length=64)
    secret_since: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: What the cloud calls the instance it runs on, as it said at its first call.
    instance_id: str | None = Field(default=None, max_length=128)
    #: What it said of its server then: host name, addresses, system, versions.
    facts: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))

    last_seen_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: The boot it called from last.
    boot_id: str = Field(default="", max_length=64)
    #: The number of its newest instruction.
    last_seq: int = 0

    #: Refused calls that are on record, since when: an attacker must not fill the audit.
    refusals: int = 0
    refusals_since: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


class AgentInstruction(SQLModel, table=True):
    """One thing an agent is to do; gone as soon as whoever asked has read what came of it."""

    __tablename__ = "agent_instruction"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["launch_id", "generation"],
            ["agent.launch_id", "agent.generation"],
            name="fk_agent_instruction_agent",
        ),
        sa.Index("ix_agent_instruction_status", "status"),
    )

    launch_id: str = Field(primary_key=True, max_length=64)
    generation: int = Field(primary_key=True)
    #: 1, 2, 3, … for each agent: one it has begun before is never begun again.
    seq: int = Field(primary_key=True)
    #: ``waiting``, ``running``, ``ended``.
    status: str = Field(max_length=16)
    #: Encrypted JSON; may hold secrets.
    body: bytes = Field(sa_column=Column(sa.LargeBinary, nullable=False))
    #: Encrypted JSON; None until it ended.
    result: bytes | None = Field(default=None, sa_column=Column(sa.LargeBinary))
    #: How much of each stream has arrived.
    out_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    err_bytes: int = Field(default=0, sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class AgentOutput(SQLModel, table=True):
    """A piece of what an instruction printed, on its way to whoever asked."""

    __tablename__ = "agent_output"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["launch_id", "generation", "seq"],
            [
                "agent_instruction.launch_id",
                "agent_instruction.generation",
                "agent_instruction.seq",
            ],
            name="fk_agent_output_instruction",
            ondelete="CASCADE",
        ),
    )

    launch_id: str = Field(primary_key=True, max_length=64)
    generation: int = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    #: ``out`` or ``err``.
    stream: str = Field(primary_key=True, max_length=8)
    #: Where it starts in the stream, in bytes, and how many it is.
    offset: int = Field(primary_key=True, sa_type=sa.BigInteger)
    raw_bytes: int
    #: Encrypted.
    data: bytes = Field(sa_column=Column(sa.LargeBinary, nullable=False))
