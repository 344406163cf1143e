"""Shops small enough to hold in one's head, written as literal rows."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from features.catalog import Catalog
from features.interactions import DAY, EVENT_COLUMNS, Interactions, seconds
from features.schema import EVENTS, PRODUCTS
from training.split import Data, cut

START = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


class Event(NamedTuple):
    """One line at the till: `Event("ann", "milk", "o1", 3)` is a litre for 2.00 on day 3."""

    customer: str | None
    product: str | None
    order: str | None
    on: float
    quantity: float | None = 1.0
    price: float | None = 2.0
    discount: float | None = None
    type: str = "order"


def returned(
    customer: str | None, product: str, order: str | None, on: float, quantity: float = 1.0
) -> Event:
    return Event(customer, product, order, on, quantity, None, None, "return")


def events(*rows: Event) -> pa.Table:
    """The contract's columns, in the order given."""
    named = {
        "customer_id": [r.customer for r in rows],
        "product_id": [r.product for r in rows],
        "event_type": [r.type for r in rows],
        "occurred_at": [day(r.on) for r in rows],
        "order_id": [r.order for r in rows],
        "quantity": [r.quantity for r in rows],
        "unit_price": [r.price for r in rows],
        "discount": [r.discount for r in rows],
    }
    return pa.table({name: pa.array(named[name], EVENTS.schema.field(name).type) for name in EVENT_COLUMNS})


def products(*rows: dict[str, Any]) -> pa.Table:
    """The contract's products; what a row does not say is missing."""
    return pa.Table.from_pylist(list(rows), schema=PRODUCTS.schema)


def shop(*rows: Event, until: float, listed: pa.Table | None = None) -> Data:
    """All that was known before day `until`; without a product list the catalogue is what was sold."""
    return cut(events(*rows), products() if listed is None else listed, day(until))


def told(data: Interactions) -> list[tuple[str | None, str, str, float, float, float]]:
    """Rows in words: customer, product, order, day, quantity, paid."""
    who: list[str | None] = [*data.customers.at(np.arange(len(data.customers))), None]
    days = (data.at - seconds(START)) / DAY
    return [
        (who[c], i, o, float(on), float(quantity), float(paid))
        for c, i, o, on, quantity, paid in zip(
            data.customer, data.items.at(data.item), data.orders.at(data.order), days, data.quantity, data.paid,
            strict=True,
        )
    ]  # fmt: skip


def contents(value: Interactions | Catalog) -> Iterator[tuple[str, object]]:
    """Everything inside, as bytes and plain values: two that compare equal hold the same."""
    for field in fields(value):
        held = getattr(value, field.name)
        if isinstance(held, np.ndarray):
            yield field.name, (held.dtype.str, held.shape, held.tobytes())
        elif isinstance(held, pa.Table):
            yield field.name, (held.schema, held.to_pylist())
        elif isinstance(held, int):
            yield field.name, held
        else:
            yield field.name, (held.values.dtype.str, held.values.tobytes())


SIZE = 50


def checkerboard() -> Data:
    """Customers and items by number; each buys every other item of its own parity, in three orders.

    The diagonal is withheld: customer 7 bought all odd items but item 7, so item 7 is the answer.
    """
    bought = [
        Event(f"c{c:02}", f"i{i:02}", f"o{c:02}-{part}", c % 5 + 10 * part)
        for c in range(SIZE)
        for i in range(c % 2, SIZE, 2)
        for part in range(3)
        if i != c
    ]
    kinds = [
        {
            "product_id": f"i{i:02}", "category": ["board", ("even", "odd")[i % 2]],
            "brand": f"b{i % 7}", "price": float(1 + i % 9),
        }
        for i in range(SIZE)
    ]  # fmt: skip
    return shop(*bought, until=40, listed=products(*kinds))
