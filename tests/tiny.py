"""Shops of a few rows, written by hand, for tests that hold the right answer in their heads."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.history import Store
from features.interactions import EVENT_COLUMNS, seconds
from features.schema import EVENTS, PRODUCTS
from serving.bundle import Bundle, Manifest, save_data
from serving.placements import PLACEMENTS, Placement, models_in_use
from training import jobs
from training.models import RECIPES, Als, Hybrid, Recipe
from training.split import Data, Future, cut
from training.train import Side, seal

FIRST = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
TINY: dict[str, Recipe] = {
    **RECIPES,
    "als": Als(factors=4, iterations=3),
    "hybrid": Hybrid(factors=4, epochs=3),
}
ABOUT: dict[str, Any] = {
    "store": Store("Corner", "EUR", "Europe/Berlin"),
    "fingerprint": "f" * 32,
    "git_revision": "none",
}
Basket = tuple[str | None, str, float, str]  # customer, order, days after FIRST, products
Goods = Mapping[str, Mapping[str, Any]]


def event(customer: str | None, order: str | None, day: float, product: str, **other: Any) -> dict[str, Any]:
    moment = FIRST + timedelta(days=day)
    return {
        "customer_id": customer, "order_id": order, "occurred_at": moment, "product_id": product,
        "event_type": "order", "quantity": 1.0, "unit_price": 2.0, "discount": 0.0, **other,
    }  # fmt: skip


def events(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    schema = pa.schema([EVENTS.schema.field(name) for name in EVENT_COLUMNS])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def bought(baskets: Iterable[Basket], goods: Goods) -> pa.Table:
    """A row for each product of each basket, at the product's price or 2."""
    return events(
        event(customer, order, day, product, unit_price=goods.get(product, {}).get("price") or 2.0)
        for customer, order, day, products in baskets
        for product in products.split()
    )


def listed(goods: Goods) -> pa.Table:
    return pa.Table.from_pylist(
        [{"product_id": name, **about} for name, about in goods.items()], schema=PRODUCTS.schema
    )


def known(baskets: Iterable[Basket], goods: Goods, until: datetime = UNTIL) -> Data:
    return cut(bought(baskets, goods), listed(goods), until)


def bundle(
    folder: Path,
    baskets: Sequence[Basket],
    goods: Goods,
    *,
    placements: Mapping[str, Placement] = PLACEMENTS,
    until: datetime = UNTIL,
    version: str = "1",
) -> Bundle:
    """A bundle in `folder`, made by the functions that training uses."""
    data = known(baskets, goods, until)
    save_data(folder, data.catalog, data.interactions)
    recipes = {name: TINY[name] for name in TINY if name in models_in_use(placements)}
    for name, recipe in recipes.items():
        jobs.fit(folder, name, recipe, seconds(until))
    seal(Side(folder, until, recipes, placements, data), version=version, metrics={"figure": 0.5}, **ABOUT)
    return Bundle.load(folder)


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GROCER: Goods = {
    "bread": {"title": "Bread", "category": ["food", "bread"], "price": 2.0},
    "rolls": {"title": "Rolls", "category": ["food", "bread"], "price": 3.0},
    "spelt": {"title": "Spelt loaf", "category": ["food", "bread"], "price": 5.0},
    "gold": {"title": "Golden loaf", "category": ["food", "bread"], "price": 9.0},
    "butter": {"title": "Butter", "category": ["food", "dairy"], "price": 4.0},
    "milk": {"title": "Milk", "category": ["food", "dairy"], "price": 1.0},
    "soap": {"title": "Soap", "category": ["home", "soap"], "price": 1.5},
    "towel": {"title": "Towel", "category": ["home", "towels"], "price": 7.0},
}
GROCERIES: tuple[Basket, ...] = (
    ("anna", "1", 0, "bread butter"),
    ("anna", "2", 20, "bread butter milk"),
    ("anna", "3", 40, "bread milk soap"),
    ("bert", "4", 5, "rolls butter"),
    ("bert", "5", 25, "rolls butter soap"),
    ("carl", "6", 10, "spelt milk soap"),
    ("carl", "7", 50, "spelt bread towel"),
    ("dora", "8", 52, "gold milk"),
    (None, "9", 55, "bread butter soap"),
    ("emil", "10", 57, "rolls bread"),
)


def unfitted(baskets: Sequence[Basket], goods: Goods, until: datetime = UNTIL) -> Bundle:
    """A bundle in memory without models: enough to ask questions of its future."""
    data = known(baskets, goods, until)
    manifest = Manifest(
        version="1", data_until=until, recipes={}, placements={}, metrics={}, files={}, **ABOUT
    )  # fmt: skip
    return Bundle(manifest, data.catalog, data.interactions, {})


def future(made: Bundle, baskets: Sequence[Basket], goods: Goods, days: float = 90) -> Future:
    """What these baskets hold from the bundle's end on, until `days` after it."""
    until = made.manifest.data_until
    return Future.of(made, known(baskets, goods, until + timedelta(days=days)), until)
