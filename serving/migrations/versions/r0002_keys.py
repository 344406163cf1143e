"""Keys, of which the latest row counts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS: dict[str, Any] = {"key_id": sa.Text(), "kind": sa.Text(), "digest": sa.Text(), "origins": sa.JSON()}
OPTIONAL: dict[str, Any] = {"about": sa.Text(), "ends": sa.BigInteger()}


def upgrade() -> None:
    required = [sa.Column(name, kind, nullable=False) for name, kind in COLUMNS.items()]
    optional = [sa.Column(name, kind) for name, kind in OPTIONAL.items()]
    seq = sa.Column("seq", NUMBER, primary_key=True)
    received = sa.Column("received_at", sa.BigInteger(), nullable=False)
    op.create_table("keys", seq, *required, *optional, received, sqlite_autoincrement=True)
