"""Alembic runs this to migrate: on the connection, and in the transaction, that `serving.store` opened."""

from alembic import context

from serving.store import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
