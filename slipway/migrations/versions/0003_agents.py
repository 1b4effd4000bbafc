"""Servers that call us: agents, their instructions, and how a launch is connected"""

import sqlalchemy as sa
from alembic import op

from slipway.records.types import Json, UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "launch",
        sa.Column("connect", sa.String(length=16), nullable=False, server_default="ssh"),
    )
    op.create_table(
        "agent",
        sa.Column("launch_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("api_url", sa.Text(), nullable=False),
        sa.Column("program", sa.String(length=64), nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("token_expires_at", UtcDateTime(), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=True),
        sa.Column("previous_secret_hash", sa.String(length=64), nullable=True),
        sa.Column("secret_since", UtcDateTime(), nullable=True),
        sa.Column("instance_id", sa.String(length=128), nullable=True),
        sa.Column("facts", Json, nullable=False),
        sa.Column("last_seen_at", UtcDateTime(), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("refusals_since", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["launch_id"], ["launch.id"]),
        sa.PrimaryKeyConstraint("launch_id", "generation"),
    )
    op.create_table(
        "agent_instruction",
        sa.Column("launch_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("out_bytes", sa.BigInteger(), nullable=False),
        sa.Column("err_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["launch_id", "generation"],
            ["agent.launch_id", "agent.generation"],
            name="fk_agent_instruction_agent",
        ),
        sa.PrimaryKeyConstraint("launch_id", "generation", "seq"),
    )
    with op.batch_alter_table("agent_instruction", schema=None) as batch_op:
        batch_op.create_index("ix_agent_instruction_status", ["status"], unique=False)

    op.create_table(
        "agent_output",
        sa.Column("launch_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("raw_bytes", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
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
        sa.PrimaryKeyConstraint("launch_id", "generation", "seq", "stream", "offset"),
    )
