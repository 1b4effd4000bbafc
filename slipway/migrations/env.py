"""Alembic runs this file for every migration command."""

from alembic import context
from sqlmodel import SQLModel

import slipway.records  # noqa: F401  (fills the metadata)

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    # The caller's transaction holds the whole upgrade: all of it or nothing.
    transactional_ddl=False,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
context.run_migrations()
