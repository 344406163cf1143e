"""What became of price and stock, however the shop said so."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CUSTOMER, END
from test_run import AT, decisions, own_home, with_programs
from worlds import products

from features.catalog import Catalog
from features.history import History
from features.mapping import Mapping
from features.schema import EVENTS
from features.sources import load
from lifecycle.offers import changes, note, note_first
from lifecycle.run import run
from serving.bundle import champion
from serving.engine import Engine
from serving.store import OFFERS, Store, address

DAY = timedelta(days=1)
MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)


def told(store: Store, at: datetime, **said: dict[str, Any]) -> int:
    """What a run of this moment finds the products to be."""
    return note(store, products(*({"product_id": name, **of} for name, of in said.items())), at, now=at)


def load_price(home: Path, product_id: str, price: float) -> None:
    path = home / "prices.csv"
    path.write_text(f"id,price\n{product_id},{price}\n")
    mapping = Mapping.parse('[columns]\nproduct_id = "id"\nprice = "price"\n')
    load(History(home / "history"), "products", [path], mapping, rejects_dir=home)


def found(store: Store, until: datetime, *names: str) -> list[dict[str, Any]]:
    catalog = Catalog.of(
        products(*({"product_id": name} for name in names)), EVENTS.schema.empty_table(), until=until
    )
    rows = changes(store, catalog, MORNING - 90 * DAY, until).replace({np.nan: None}).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def test_each_change_stands_beside_what_was_before(tmp_path: Path) -> None:
    with Store(address(tmp_path, None)) as store:
        assert told(store, MORNING, a={"price": 4.0, "in_stock": False}, b={"price": 2.0}, c={}) == 2
        assert told(store, MORNING + DAY, a={"price": 3.0, "in_stock": False}, b={"price": 2.0}, c={}) == 1
        assert told(store, MORNING + 2 * DAY, a={"price": 3.0, "in_stock": True}, b={}, c={"price": 1.0}) == 3
        rows = found(store, MORNING + 3 * DAY, "a", "b")
    columns = ("product_id", "price_before", "price", "was_in_stock", "in_stock")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("a", 4.0, 3.0, False, False), ("a", 3.0, 3.0, False, True), ("b", 2.0, None, None, None)
    ]  # fmt: skip
    assert [row["product"] for row in rows] == [0, 0, 1]


def test_nothing_after_its_moment_is_known_and_no_past_is_written_anew(tmp_path: Path) -> None:
    with Store(address(tmp_path, None)) as store:
        told(store, MORNING, a={"price": 4.0})
        told(store, MORNING + 2 * DAY, a={"price": 2.0})
        assert found(store, MORNING + DAY, "a") == []
        assert told(store, MORNING + DAY, a={"price": 2.0}) == 0  # a missed day, made afterwards
        assert told(store, MORNING + 2 * DAY, a={"price": 1.0}) == 0  # a run that goes on
        assert [row["price"] for row in found(store, MORNING + 3 * DAY, "a")] == [2.0]
        note_first(store, products({"product_id": "a", "price": 9.0}), MORNING + 4 * DAY, now=MORNING)
        assert store.ends(OFFERS.name)[OFFERS.name] == 2


@pytest.mark.parametrize("live", [True, False])
def test_a_price_that_fell_is_written_about_however_it_came(
    tmp_path: Path, written_home: Path, live: bool
) -> None:
    """By the service, or with a file: the customer who looked at the product is told, with both prices."""
    home = own_home(tmp_path / "shop", written_home)
    with_programs(home, {"cheaper": {
        "trigger": {"kind": "back", "what": "price"}, "products": True,
        "window": {"start": "00:00", "end": "23:59"}, "shelves": [],
    }})  # fmt: skip
    engine = Engine.load(champion(home))
    orders = History(home / "history").events(types=("order",)).to_pylist()
    bought = {row["product_id"] for row in orders if row["customer_id"] == CUSTOMER}
    product = next(p for p in engine.sample().products if p.price and p.product_id not in bought)
    look = {**dict.fromkeys(EVENTS.names), "event_id": "look", "event_type": "view", "customer_id": CUSTOMER,
            "product_id": product.product_id, "occurred_at": END, "received_at": END}  # fmt: skip
    with Store(address(home, None)) as store:
        store.add([look])
        agreed = {"channel": "email", "purpose": "marketing", "granted": True, "at": END, "received_at": END}
        store.append("consents", [{"customer_id": CUSTOMER, **agreed}])
        dear = {"product_id": product.product_id, "price": 4.0, "received_at": END}
        store.append("products", [dear])
    run(home, None, AT, now=AT, only=["cheaper"])
    assert decisions(home) == []
    with Store(address(home, None)) as store:
        if live:
            store.append("products", [{**dear, "price": 3.0, "received_at": AT}])
        else:
            load_price(home, product.product_id, 3.0)
    run(home, None, AT + DAY, now=AT + DAY, only=["cheaper"])
    row = {row["customer_id"]: row for row in decisions(home)}[CUSTOMER]
    assert (row["outcome"], json.loads(row["content"])["words"]) == ("message", {"was": 4.0, "is": 3.0})
