"""What was decided for whom, what was sent, what is paused, given and never written to again."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

TEXT, FLAG, TIME = sa.Text(), sa.Boolean(), sa.BigInteger()
REAL: Any = sa.Double()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLES: dict[str, tuple[set[str], dict[str, Any]]] = {
    # name: the columns that may be empty, and all but the number and the moment of receipt
    "decisions": (
        {"detail", "message_id", "send_at", "local_day", "content", "policy", "probability"},
        {
            "run_at": TIME,
            "customer_id": TEXT,
            "program": TEXT,
            "version": TEXT,
            "occasion": TEXT,
            "outcome": TEXT,
            "detail": TEXT,
            "channel": TEXT,
            "message_id": TEXT,
            "send_at": TIME,
            "local_day": TEXT,
            "kind": TEXT,
            "content": TEXT,
            "policy": TEXT,
            "probability": REAL,
        },
    ),
    "runs": (
        {"fallback", "stopped"},
        {"run_at": TIME, "program": TEXT, "found": REAL, "members": REAL, "fallback": REAL, "stopped": TEXT},
    ),
    "deliveries": (
        {"detail"},
        {"message_id": TEXT, "customer_id": TEXT, "state": TEXT, "at": TIME, "detail": TEXT},
    ),
    "pauses": (
        {"program", "customer_id", "by"},
        {"program": TEXT, "customer_id": TEXT, "paused": FLAG, "at": TIME, "reason": TEXT, "by": TEXT},
    ),
    "vouchers": (
        set(),
        {
            "code": TEXT,
            "customer_id": TEXT,
            "program": TEXT,
            "message_id": TEXT,
            "worth": REAL,
            "ends": TIME,
        },
    ),
    "redeemed": ({"order_id"}, {"code": TEXT, "customer_id": TEXT, "order_id": TEXT, "at": TIME}),
    "suppressed": (set(), {"subject": TEXT, "channel": TEXT, "reason": TEXT, "at": TIME}),
}
UNIQUE = {
    "runs_by_program": ("runs", ["run_at", "program"]),
    "decisions_by_run": ("decisions", ["run_at", "customer_id", "program", "occasion"]),
    "vouchers_by_code": ("vouchers", ["code"]),
    "redeemed_by_code": ("redeemed", ["code"]),
    "suppressed_by_subject": ("suppressed", ["subject"]),
}
OF_MESSAGES = {
    "messages_by_occasion": ["customer_id", "program", "occasion"],
    "messages_by_id": ["message_id"],
}


def upgrade() -> None:
    for name, (empty, columns) in TABLES.items():
        listed = [sa.Column(column, kind, nullable=column in empty) for column, kind in columns.items()]
        seq = sa.Column("seq", NUMBER, primary_key=True)
        received = sa.Column("received_at", TIME, nullable=False)
        op.create_table(name, seq, *listed, received, sqlite_autoincrement=True)
    for index, (name, of) in UNIQUE.items():
        op.create_index(index, name, of, unique=True)
    made = sa.text("message_id IS NOT NULL")
    for index, of in OF_MESSAGES.items():
        op.create_index(index, "decisions", of, unique=True, sqlite_where=made, postgresql_where=made)
    op.create_index("deliveries_by_message", "deliveries", ["message_id"])
