"""Who waits for which instance, what listings have shown, and how many calls are left."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Column, Field, SQLModel

from slipway.records.types import Json, UtcDateTime


class WatchedRegion(SQLModel, table=True):
    """One region of one cloud that is listed; the one row that everybody who waits looks at."""

    __tablename__ = "watched_region"

    cloud: str = Field(primary_key=True, max_length=64)
    region: str = Field(primary_key=True, max_length=64)
    #: Grows when somebody begins to wait: the poller may have to list earlier.
    asked: int = Field(default=0, sa_type=sa.BigInteger)
    #: Grows when somebody's wait is over, or when the poller leaves.
    told: int = Field(default=0, sa_type=sa.BigInteger)
    #: The last complete listing.
    listed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: Why the listing after that failed, one sentence; empty when none did.
    problem: str = Field(default="", sa_column=Column(sa.Text, nullable=False))


class WaitingFor(SQLModel, table=True):
    """Somebody waits for an instance; whoever lists removes the row when the wait is over."""

    __tablename__ = "waiting_for"
    __table_args__ = (sa.Index("ix_waiting_for_place", "cloud", "region"),)

    id: str = Field(primary_key=True, max_length=64)
    cloud: str = Field(max_length=64)
    region: str = Field(max_length=64)
    instance_id: str = Field(max_length=128)
    #: States that it is waited for, and those it cannot get from to one of them.
    wanted: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    hopeless: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    #: It is to go away: being absent for long enough ends the wait.
    gone: bool = False
    #: When the cloud was asked to bring it there, where boot times are learned from that.
    begun_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: Before this no listing is needed.
    look_from: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: After this whoever waited is no more, or has given up.
    until: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class SeenInstance(SQLModel, table=True):
    """What listings have shown of an instance, and since when."""

    __tablename__ = "seen_instance"
    __table_args__ = (
        sa.Index(
            "ix_seen_instance_boot", "cloud", "region", "image_id", "instance_type", "created_at"
        ),
        sa.Index("ix_seen_instance_ended_at", "ended_at"),
    )

    cloud: str = Field(primary_key=True, max_length=64)
    region: str = Field(primary_key=True, max_length=64)
    instance_id: str = Field(primary_key=True, max_length=128)
    launch_id: str | None = Field(default=None, max_length=64)
    #: `slipway.watch.waiting.Seen`.
    seen: str = Field(max_length=16)
    #: Each state with the moment it was first seen in it, the newest last: ``state``, ``at``,
    #: ``reason``.
    sightings: list[dict[str, Any]] = Field(
        default_factory=list, sa_column=Column(Json, nullable=False)
    )

    #: As it was listed last; empty for one that never was.
    state: str = Field(default="", max_length=16)
    state_reason: str = Field(default="", sa_column=Column(sa.Text, nullable=False))
    image_id: str = Field(default="", max_length=256)
    instance_type: str = Field(default="", max_length=64)
    token: str | None = Field(default=None, max_length=64)
    tags: dict[str, str] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    created_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    private_ip: str | None = Field(default=None, max_length=64)
    public_ip: str | None = Field(default=None, max_length=64)
    ssh_port: int = 22

    #: From the request to make it to the first sight of it running, in seconds.
    boot_s: float | None = None
    #: How many listings in a row did not show it, and since when.
    missed: int = 0
    missing_since: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    #: When nothing more was to be expected of it.
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


class CallBudget(SQLModel, table=True):
    """One token bucket that the processes of an installation share: what a cloud lets an account
    call."""

    __tablename__ = "call_budget"

    account: str = Field(primary_key=True, max_length=64)
    region: str = Field(primary_key=True, max_length=64)
    #: Kind of call, as the cloud counts them: ``describe``, ``mutate``.
    family: str = Field(primary_key=True, max_length=64)
    #: How many calls were left at that moment; more come with time.
    remaining: float
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
