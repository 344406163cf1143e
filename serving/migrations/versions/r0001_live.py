"""Events, changes and ledgers as they come in live."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT, FLAG, TIME, PATH = sa.Text(), sa.Boolean(), sa.BigInteger(), sa.JSON()
REAL: Any = sa.Double()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLES: dict[str, tuple[set[str], dict[str, Any]]] = {
    # name: the columns that must be there, and all but the number and the moment of receipt
    "events": (
        {"event_id", "event_type", "occurred_at"},
        {
            "event_id": TEXT,
            "customer_id": TEXT,
            "product_id": TEXT,
            "event_type": TEXT,
            "occurred_at": TIME,
            "order_id": TEXT,
            "quantity": REAL,
            "unit_price": REAL,
            "discount": REAL,
            "value": REAL,
            "channel": TEXT,
            "store_id": TEXT,
            "visit_id": TEXT,
            "recommendation_id": TEXT,
            "placement": TEXT,
            "message_id": TEXT,
        },
    ),
    "products": (
        {"product_id"},
        {
            "product_id": TEXT,
            "title": TEXT,
            "category": PATH,
            "need": TEXT,
            "brand": TEXT,
            "price": REAL,
            "cost": REAL,
            "size": TEXT,
            "url": TEXT,
            "image_url": TEXT,
            "in_stock": FLAG,
            "group_id": TEXT,
            "eligible": FLAG,
            "attributes": TEXT,
            "known_from": TIME,
            "derived": FLAG,
        },
    ),
    "customers": (
        {"customer_id"},
        {
            "customer_id": TEXT,
            "first_name": TEXT,
            "last_name": TEXT,
            "email": TEXT,
            "phone": TEXT,
            "push_token": TEXT,
            "locale": TEXT,
            "time_zone": TEXT,
            "region": TEXT,
            "attributes": TEXT,
        },
    ),
    "identities": ({"alias", "customer_id"}, {"alias": TEXT, "customer_id": TEXT}),
    "consents": (
        {"customer_id", "channel", "purpose", "granted", "at"},
        {
            "customer_id": TEXT,
            "channel": TEXT,
            "purpose": TEXT,
            "granted": FLAG,
            "at": TIME,
            "source": TEXT,
        },
    ),
    "sends": (
        {"customer_id", "at", "product_ids"},
        {
            "customer_id": TEXT,
            "at": TIME,
            "channel": TEXT,
            "placement": TEXT,
            "recommendation_id": TEXT,
            "message_id": TEXT,
            "product_ids": PATH,
        },
    ),
    "tombstones": ({"subject"}, {"subject": TEXT}),
}
INDEXES = {
    "events_by_id": ("events", ["event_id"], True),
    "events_by_customer": ("events", ["customer_id", "occurred_at"], False),
    "consents_by_customer": ("consents", ["customer_id"], False),
    "sends_by_customer": ("sends", ["customer_id", "at"], False),
    "tombstones_by_subject": ("tombstones", ["subject"], True),
}


def upgrade() -> None:
    for name, (required, columns) in TABLES.items():
        listed = [
            sa.Column(column, kind, nullable=column not in required) for column, kind in columns.items()
        ]
        seq, received = (
            sa.Column("seq", NUMBER, primary_key=True),
            sa.Column("received_at", TIME, nullable=False),
        )
        op.create_table(name, seq, *listed, received, sqlite_autoincrement=True)
    for name, (table, by, unique) in INDEXES.items():
        op.create_index(name, table, by, unique=unique)
    texts = [sa.Column("name", sa.Text(), primary_key=True), sa.Column("value", sa.Text())]
    drawn = [{"name": "id", "value": secrets.token_hex(8)}, {"name": "key", "value": secrets.token_hex(32)}]
    op.bulk_insert(op.create_table("about", *texts), drawn)
