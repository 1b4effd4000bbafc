"""Mirrored repositories and their days"""

import sqlalchemy as sa
from alembic import op

from slipway.records.types import Json, Serial, UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "mirror_day",
        sa.Column("id", Serial, nullable=False),
        sa.Column("repository", sa.String(length=64), nullable=False),
        sa.Column("suite", sa.String(length=128), nullable=False),
        sa.Column("taken_at", UtcDateTime(), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("changes", Json, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("mirror_day", schema=None) as batch_op:
        batch_op.create_index("uq_mirror_day", ["repository", "suite", "taken_at"], unique=True)
        batch_op.create_index("ix_mirror_day_taken_at", ["repository", "taken_at"], unique=False)
