"""What is held of a customer is found without looking at all others."""

from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

TABLES = ("customers", "decisions", "deliveries", "pauses", "alerts", "vouchers", "redeemed")


def upgrade() -> None:
    for name in TABLES:
        op.create_index(f"{name}_by_customer", name, ["customer_id"])
