"""Alembic's migrations of the annotation tables, applied by ``store.database.migrate``."""
