"""The first tables: what was decided on, and the events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "subjects",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("sample_id", sa.String(500), nullable=False),
        sa.Column("variant", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sample", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.UniqueConstraint("run", "sample_id", "variant", "digest", name="one_row_a_subject"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("author", sa.String(80), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("subject_id", sa.Integer, sa.ForeignKey("subjects.id"), nullable=False),
        sa.Column("other_id", sa.Integer, sa.ForeignKey("subjects.id"), nullable=True),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("undoes", sa.String(64), nullable=True, unique=True),
        sa.Column("reason", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_subject", "events", ["subject_id", "author"])
    op.create_index("events_by_author", "events", ["author", "seq"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("events")
    op.drop_table("subjects")
