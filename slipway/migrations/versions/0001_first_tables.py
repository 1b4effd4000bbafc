"""The first tables"""

import sqlalchemy as sa
from alembic import op

from slipway.records.types import Json, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=128), nullable=True),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("stream", sa.String(length=128), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.Column("raw_bytes", sa.Integer(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("subject", "seq"),
        sa.UniqueConstraint("subject", "stream", "offset", name="uq_audit_entry_output"),
    )
    op.create_table(
        "audit_head",
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "blob",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "credential",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("launch_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("credential", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_credential_launch_id"), ["launch_id"], unique=False)

    op.create_table(
        "environment",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("inputs", Json, nullable=False),
        sa.Column("freeze", sa.Date(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "lease",
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("holder", sa.String(length=256), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "step",
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("result", Json, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "key"),
    )
    op.create_table(
        "template_version",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "hash"),
        sa.UniqueConstraint("name", "number", name="uq_template_version_number"),
    )
    with op.batch_alter_table("template_version", schema=None) as batch_op:
        batch_op.create_index("ix_template_version_hash", ["hash"], unique=False)

    op.create_table(
        "server",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("environment", sa.String(length=128), nullable=True),
        sa.Column("inputs", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment"],
            ["environment.name"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "template_tag",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("tag", sa.String(length=128), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("moved_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "hash"],
            ["template_version.name", "template_version.hash"],
            name="fk_template_tag_version",
        ),
        sa.PrimaryKeyConstraint("name", "tag"),
    )
    op.create_table(
        "launch",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=False),
        sa.Column("server_name", sa.String(length=128), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("failed_step", sa.String(length=128), nullable=True),
        sa.Column("template_name", sa.String(length=128), nullable=False),
        sa.Column("template_hash", sa.String(length=64), nullable=False),
        sa.Column("template_ref", sa.String(length=256), nullable=False),
        sa.Column("environment", sa.String(length=128), nullable=True),
        sa.Column("inputs", Json, nullable=False),
        sa.Column("freeze", sa.Date(), nullable=True),
        sa.Column("on_failure", sa.String(length=16), nullable=False),
        sa.Column("cloud", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.String(length=256), nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=False),
        sa.Column("login_user", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("create_intended_at", UtcDateTime(), nullable=True),
        sa.Column("instance_id", sa.String(length=128), nullable=True),
        sa.Column("private_ip", sa.String(length=64), nullable=True),
        sa.Column("public_ip", sa.String(length=64), nullable=True),
        sa.Column("ssh_port", sa.Integer(), nullable=False),
        sa.Column("host_key", sa.Text(), nullable=True),
        sa.Column("outputs", Json, nullable=False),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("flow_run_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("operational_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server_name"],
            ["server.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    with op.batch_alter_table("launch", schema=None) as batch_op:
        batch_op.create_index("ix_launch_updated_at", ["updated_at", "id"], unique=False)
        batch_op.create_index(
            "uq_launch_active_per_server",
            ["server_name"],
            unique=True,
            sqlite_where=sa.text("status <> 'terminated'"),
            postgresql_where=sa.text("status <> 'terminated'"),
        )
