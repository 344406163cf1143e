"""What was chosen for a customer of whom several programs could have written, and how likely that was."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"
branch_labels = None
depends_on = None

TEXT, FLAG, TIME = sa.Text(), sa.Boolean(), sa.BigInteger()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS: dict[str, Any] = {
    "run_at": TIME,
    **dict.fromkeys(("customer_id", "channel", "chooser", "arm"), TEXT),
    "probability": sa.Double(),
    **dict.fromkeys(("eligible", "context", "policy", "seed"), TEXT),
    "held": FLAG,
    "received_at": TIME,
}


def upgrade() -> None:
    listed = [sa.Column(name, kind, nullable=False) for name, kind in COLUMNS.items()]
    op.create_table("choices", sa.Column("seq", NUMBER, primary_key=True), *listed, sqlite_autoincrement=True)
    op.create_index("choices_by_run", "choices", ["run_at"])
    op.create_index("choices_by_customer", "choices", ["customer_id"])
