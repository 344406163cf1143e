"""Messages that are still to be sent are found without looking at all others."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None

SETTLED = """
UPDATE decisions SET settled_at = (
  SELECT max(received_at) FROM deliveries
  WHERE deliveries.message_id = decisions.message_id AND state IN ('sent', 'dropped', 'dead')
) WHERE message_id IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("decisions", sa.Column("settled_at", sa.BigInteger()))
    op.execute(SETTLED)
    there = sa.text("outcome = 'message' AND settled_at IS NULL")
    op.create_index("messages_open", "decisions", ["send_at"], sqlite_where=there, postgresql_where=there)
