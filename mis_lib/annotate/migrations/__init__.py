"""Alembic's migrations of the annotation tables, applied by ``annotate.database.migrate``."""
