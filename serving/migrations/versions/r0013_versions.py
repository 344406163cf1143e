"""Which version made the lists of a decision."""

import sqlalchemy as sa
from alembic import op

revision = "r0013"
down_revision = "r0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("decisions", sa.Column("model_version", sa.Text()))
