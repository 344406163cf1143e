"""At which hour a message goes out, and how likely that was."""

import sqlalchemy as sa
from alembic import op

revision = "r0015"
down_revision = "r0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("decisions", sa.Column("hour", sa.Text()))
