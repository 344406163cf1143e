"""What a person saw when they agreed, when a pause ends, where a message went, and alerts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None

TEXT, FLAG, TIME = sa.Text(), sa.Boolean(), sa.BigInteger()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ADDED: tuple[tuple[str, str, Any], ...] = (
    ("consents", "text", TEXT),
    ("consents", "version", TEXT),
    ("pauses", "ends", TIME),
    ("deliveries", "subject", TEXT),
)
ALERTS: dict[str, tuple[Any, bool]] = {  # name: its type, and whether it may be empty
    "alert_id": (TEXT, False),
    "open": (FLAG, False),
    "kind": (TEXT, False),
    "program": (TEXT, True),
    "customer_id": (TEXT, True),
    "message_id": (TEXT, True),
    "at": (TIME, False),
    "detail": (TEXT, True),
    "by": (TEXT, True),
    "received_at": (TIME, False),
}


def upgrade() -> None:
    for table, name, kind in ADDED:
        op.add_column(table, sa.Column(name, kind))
    listed = [sa.Column(name, kind, nullable=empty) for name, (kind, empty) in ALERTS.items()]
    op.create_table("alerts", sa.Column("seq", NUMBER, primary_key=True), *listed, sqlite_autoincrement=True)
    op.create_index("alerts_by_id", "alerts", ["alert_id", "open"], unique=True)
    op.create_index("deliveries_by_subject", "deliveries", ["subject"])
    there = sa.text("message_id IS NOT NULL")
    op.create_index(
        "events_by_message",
        "events",
        ["message_id", "occurred_at"],
        sqlite_where=there,
        postgresql_where=there,
    )
