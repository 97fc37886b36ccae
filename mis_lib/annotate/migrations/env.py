"""Run by Alembic: migrate over the connection that ``annotate.database.migrate`` hands in, inside its transaction."""

from alembic import context

from mis_lib.annotate.store import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
