"""Which ids were said to be one customer, by whom, and what they had been before."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS = {"alias": False, "customer_id": False, "formerly": True, "by": True}


def upgrade() -> None:
    listed = [sa.Column(name, sa.Text(), nullable=nullable) for name, nullable in COLUMNS.items()]
    seq = sa.Column("seq", NUMBER, primary_key=True)
    received = sa.Column("received_at", sa.BigInteger(), nullable=False)
    op.create_table("merges", seq, *listed, received, sqlite_autoincrement=True)
