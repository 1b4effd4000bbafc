"""Which repositories are mirrored, and which of their days are pinned"""

import sqlalchemy as sa
from alembic import op

from slipway.records.types import Json, UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "mirror_repository",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("keyring", sa.LargeBinary(), nullable=False),
        sa.Column("declared_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("mirror_day", sa.Column("removed_at", UtcDateTime(), nullable=True))
    op.create_table(
        "mirror_pin",
        sa.Column("repository", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("pinned_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "day"),
    )
