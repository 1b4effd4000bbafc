"""The watch over instances: who waits, what listings have shown, how many calls are left"""

import sqlalchemy as sa
from alembic import op

from slipway.records.types import Json, UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "watched_region",
        sa.Column("cloud", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("listed_at", UtcDateTime(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "region"),
    )
    op.create_table(
        "waiting_for",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("cloud", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=128), nullable=False),
        sa.Column("wanted", Json, nullable=False),
        sa.Column("hopeless", Json, nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("begun_at", UtcDateTime(), nullable=True),
        sa.Column("look_from", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_waiting_for_place", "waiting_for", ["cloud", "region"], unique=False)
    op.create_table(
        "seen_instance",
        sa.Column("cloud", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=128), nullable=False),
        sa.Column("launch_id", sa.String(length=64), nullable=True),
        sa.Column("seen", sa.String(length=16), nullable=False),
        sa.Column("sightings", Json, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=False),
        sa.Column("image_id", sa.String(length=256), nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=True),
        sa.Column("tags", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=True),
        sa.Column("private_ip", sa.String(length=64), nullable=True),
        sa.Column("public_ip", sa.String(length=64), nullable=True),
        sa.Column("ssh_port", sa.Integer(), nullable=False),
        sa.Column("boot_s", sa.Float(), nullable=True),
        sa.Column("missed", sa.Integer(), nullable=False),
        sa.Column("missing_since", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("cloud", "region", "instance_id"),
    )
    op.create_index(
        "ix_seen_instance_boot",
        "seen_instance",
        ["cloud", "region", "image_id", "instance_type", "created_at"],
        unique=False,
    )
    op.create_index("ix_seen_instance_ended_at", "seen_instance", ["ended_at"], unique=False)
    op.create_table(
        "call_budget",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("remaining", sa.Float(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "family"),
    )
