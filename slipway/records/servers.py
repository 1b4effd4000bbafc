"""Environments, servers and their launches."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class LaunchStatus(StrEnum):
    """Where a launch is; see `slipway.lifecycle` for how it gets there."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    BOOTING = "booting"
    GATING = "gating"
    CONFIGURING = "configuring"
    OPERATIONAL = "operational"
    STRANDED = "stranded"
    CANCELLED = "cancelled"
    DECOMMISSIONING = "decommissioning"
    TERMINATED = "terminated"


class Installation(SQLModel, table=True):
    """The one row that says which Slipway this is; its id is on everything we create."""

    __tablename__ = "installation"

    id: str = Field(primary_key=True, max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Environment(SQLModel, table=True):
    """A named set of servers and inputs."""

    __tablename__ = "environment"

    name: str = Field(primary_key=True, max_length=128)
    #: Input name → value as written; secrets only as ``cred:NAME``.
    inputs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    #: The date ``freeze: environment`` in a template stands for.
    freeze: date | None = None
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Server(SQLModel, table=True):
    """The declared thing with a stable name; launches bring it up."""

    __tablename__ = "server"

    name: str = Field(primary_key=True, max_length=128)
    environment: str | None = Field(default=None, foreign_key="environment.name", max_length=128)
    #: Input name → value as written, between the environment's and the launch's.
    inputs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Launch(SQLModel, table=True):
    """One attempt to bring a server up, from the request to the end of its instance."""

    __tablename__ = "launch"
    __table_args__ = (
        sa.Index(
            "uq_launch_active_per_server",
            "server_name",
            unique=True,
            sqlite_where=sa.text("status <> 'terminated'"),
            postgresql_where=sa.text("status <> 'terminated'"),
        ),
        sa.Index("ix_launch_updated_at", "updated_at", "id"),
    )

    id: str = Field(primary_key=True, max_length=64)
    #: Asking again with the same key finds this launch instead of making another.
    idempotency_key: str = Field(max_length=128, unique=True)
    server_name: str = Field(foreign_key="server.name", max_length=128)
    status: str = Field(max_length=32)
    #: Why it is in this status, one sentence.
    reason: str = ""
    #: The key of the step that failed, while stranded.
    failed_step: str | None = Field(default=None, max_length=128)

    template_name: str = Field(max_length=128)
    template_hash: str = Field(max_length=64)
    #: As asked for: ``hello-web``, ``hello-web@prod``.
    template_ref: str = Field(max_length=256)
    environment: str | None = Field(default=None, max_length=128)
    #: Inputs of this launch as written; secrets only as ``cred:NAME``.
    inputs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    freeze: date | None = None
    #: What the instance is told at its first boot; readable inside it for ever, so never a secret.
    user_data: str = Field(default="", sa_column=Column(sa.Text, nullable=False))
    #: ``keep`` or ``terminate``: what happens to the instance when the launch strands.
    on_failure: str = Field(default="keep", max_length=16)

    cloud: str = Field(max_length=64)
    region: str = Field(max_length=64)
    image_id: str = Field(max_length=256)
    instance_type: str = Field(max_length=64)
    login_user: str = Field(max_length=64)
    #: ``ssh``: we log in; ``agent``: the server calls us.
    connect: str = Field(default="ssh", max_length=16, sa_column_kwargs={"server_default": "ssh"})

    #: Raised when an instance of this launch is gone and another is made; part of the token.
    generation: int = 1
    #: When the intent to create was committed; set before the cloud is called.
    create_intended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    instance_id: str | None = Field(default=None, max_length=128)
    private_ip: str | None = Field(default=None, max_length=64)
    public_ip: str | None = Field(default=None, max_length=64)
    ssh_port: int = 22
    host_key: str | None = Field(default=None, sa_column=Column(sa.Text))
    #: What the scripts published, by name.
    outputs: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))

    #: Somebody wants it to end; whoever drives it looks here every few seconds.
    cancel_requested_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))

    requested_by: str = Field(max_length=128)
    flow_run_id: str | None = Field(default=None, max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    operational_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: After this a sweep may remove what the launch left behind.
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
