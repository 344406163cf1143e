"""What became of a message for good, and whether what it was about may be written about once more."""

import sqlalchemy as sa
from alembic import op

revision = "r0011"
down_revision = "r0010"
branch_labels = None
depends_on = None

BECAME = """
UPDATE decisions SET became = (
  SELECT state FROM deliveries AS last WHERE last.seq = (
    SELECT max(seq) FROM deliveries
    WHERE deliveries.message_id = decisions.message_id AND state IN ('sent', 'dropped', 'dead')
  )
) WHERE settled_at IS NOT NULL
"""
KEY = ["customer_id", "program", "occasion"]


def upgrade() -> None:
    op.add_column("decisions", sa.Column("became", sa.Text()))
    op.execute(BECAME)
    op.drop_index("messages_by_occasion", "decisions")
    there = sa.text("message_id IS NOT NULL AND (became IS NULL OR became <> 'again')")
    op.create_index(
        "messages_by_occasion", "decisions", KEY, unique=True, sqlite_where=there, postgresql_where=there
    )
