"""Who somebody is said to be is found without looking at all others."""

from alembic import op

revision = "r0016"
down_revision = "r0015"
branch_labels = None
depends_on = None

NAMED = (
    ("identities", "alias"), ("identities", "customer_id"),
    ("merges", "customer_id"), ("merges", "alias"), ("merges", "formerly"),
)  # fmt: skip


def upgrade() -> None:
    for table, column in NAMED:
        op.create_index(f"{table}_by_{column}", table, [column])
