import math

import numpy as np
import pyarrow as pa
import pytest
from worlds import Event, day, events, products, shop

from features.catalog import PRICE_DAYS, Catalog, level


def catalog(*rows: Event, until: float = 100, listed: pa.Table | None = None) -> Catalog:
    return shop(*rows, until=until, listed=listed).catalog


def ids(found: Catalog) -> list[str]:
    return found.items.at(np.arange(len(found)))


def test_products_are_listed_or_sold() -> None:
    found = catalog(
        Event("ann", "milk", "o1", 1), Event(None, "jam", "o2", 2), Event("ann", "later", "o3", 100),
        Event("ann", "seen", "o4", 1, type="view"), listed=products({"product_id": "soap"}, {"product_id": "jam"}),
    )  # fmt: skip
    assert ids(found) == ["jam", "milk", "soap"]
    assert len(found) == 3


def test_a_product_is_known_from_its_moment_on() -> None:
    listed = products(
        {"product_id": "always"},
        {"product_id": "before", "known_from": day(4.99)},
        {"product_id": "at", "known_from": day(5)},
        {"product_id": "after", "known_from": day(6), "title": "secret"},
    )
    assert ids(catalog(until=5, listed=listed)) == ["always", "before"]


def test_what_was_sold_before_it_was_listed_has_a_row_without_the_list() -> None:
    listed = products({"product_id": "jam", "known_from": day(6), "title": "secret", "price": 9.0})
    found = catalog(Event("ann", "jam", "o1", 1, price=2.0), until=5, listed=listed)
    assert (found.title, found.price.tolist()) == (["jam"], [2.0])


def test_rows_are_in_the_order_of_the_items() -> None:
    listed = products({"product_id": "c", "title": "C"}, {"product_id": "a", "title": "A"})
    found = catalog(Event("ann", "b", "o1", 1), listed=listed)
    assert ids(found) == ["a", "b", "c"]
    assert found.title == ["A", "b", "C"], "a product without a title is called by its id"


def test_what_a_list_does_not_say_is_available_and_otherwise_unknown() -> None:
    found = catalog(Event("ann", "sold", "o1", 1, price=None), listed=products({"product_id": "listed"}))
    assert found.available.tolist() == found.eligible.tolist() == [True, True]
    assert np.isnan(found.price).all()
    for codes in (found.category, found.need, found.brand, found.group):
        assert codes.tolist() == [-1, -1]
        assert codes.dtype == np.int32
    assert found.categories == found.needs == found.brands == []


@pytest.mark.parametrize(
    ("eligible", "in_stock", "available"),
    [
        (None, None, True),
        (True, True, True),
        (False, None, False),
        (None, False, False),
        (False, False, False),
    ],
)
def test_available_means_eligible_and_in_stock(
    eligible: bool | None, in_stock: bool | None, available: bool
) -> None:
    found = catalog(listed=products({"product_id": "a", "eligible": eligible, "in_stock": in_stock}))
    assert found.available.tolist() == [available]
    assert found.eligible.tolist() == [eligible is not False]


OLD, RECENT = 500 - PRICE_DAYS, 500 - PRICE_DAYS + 1  # the cutoff is day 500


@pytest.mark.parametrize(
    ("sold", "price"),
    [
        ([], math.nan),
        ([(1, 2.0, None)], 2.0),
        ([(1, 2.0, 0.5)], 2.5),  # the list price: paid and discount
        ([(450, 1.0, None), (460, 2.0, None), (470, 9.0, None)], 2.0),
        ([(450, 1.0, None), (460, 2.0, None)], 1.5),
        ([(1, 8.0, None), (2, 8.0, None), (450, 1.0, None)], 1.0),  # lately counts alone
        ([(OLD, 8.0, None), (RECENT, 1.0, None)], 1.0),
        ([(OLD, 8.0, None), (OLD + 0.001, 1.0, None)], 1.0),
        ([(OLD, 8.0, None), (OLD - 1, 6.0, None)], 7.0),  # else all the time before
        ([(450, 0.0, None), (460, 3.0, None)], 3.0),  # a gift says nothing of a price
        ([(450, 0.0, 3.0)], 3.0),  # unless its discount does
        ([(450, None, None)], math.nan),
        ([(450, 2.0, None), (500, 99.0, None), (501, 99.0, None)], 2.0),  # the future says nothing
    ],
)
def test_a_price_is_the_median_of_recent_purchases(
    sold: list[tuple[float, float | None, float | None]], price: float
) -> None:
    lines = [
        Event("ann", "milk", f"o{n}", on, price=paid, discount=off) for n, (on, paid, off) in enumerate(sold)
    ]
    found = catalog(*lines, until=500, listed=products({"product_id": "milk"}))
    assert found.price.tolist() == pytest.approx([price], nan_ok=True)
    assert found.price.dtype == np.float32


def test_a_need_is_the_category_where_the_list_names_none() -> None:
    listed = products(
        {"product_id": "a", "category": ["sweets", "bars"]},
        {"product_id": "b", "category": ["till", "bars"], "need": "bars"},
        {"product_id": "c", "category": ["sweets", "singles"], "need": "bars"},
        {"product_id": "d"},
    )
    found = catalog(listed=listed)
    assert found.needs == ["bars", "sweets > bars"]
    assert found.need.tolist() == [1, 0, 0, -1]


def test_a_price_given_wins() -> None:
    found = catalog(
        Event("ann", "milk", "o1", 50, price=2.0), listed=products({"product_id": "milk", "price": 3.0})
    )
    assert found.price.tolist() == [3.0]


def test_a_return_says_nothing_of_a_price() -> None:
    back = Event("ann", "milk", "o1", 60, price=9.0, type="return")
    assert catalog(Event("ann", "milk", "o1", 50), back).price.tolist() == [2.0]


def test_the_finest_category_brand_and_style_are_codes_into_sorted_names() -> None:
    found = catalog(
        listed=products(
            {"product_id": "a", "category": ["food", "milk"], "brand": "Zeta", "group_id": "g2"},
            {"product_id": "b", "category": ["food", "bread"], "brand": "Alpha", "group_id": "g1"},
            {"product_id": "c", "category": ["food", "milk"], "brand": "Zeta", "group_id": "g2"},
            {"product_id": "d", "category": ["food"]},
            {"product_id": "e", "category": []},
            {"product_id": "f", "category": None},
        )
    )
    assert found.categories == ["food", "food > bread", "food > milk"]
    assert found.category.tolist() == [2, 1, 2, 0, -1, -1]
    assert found.brands == ["Alpha", "Zeta"]
    assert found.brand.tolist() == [1, 0, 1, -1, -1, -1]
    assert found.group.tolist() == [1, 0, 1, -1, -1, -1]


@pytest.mark.parametrize(("depth", "name"), [(1, "a"), (2, "a > b"), (3, "a > b > c"), (9, "a > b > c")])
def test_a_level_of_a_path(depth: int, name: str) -> None:
    assert level("a > b > c", depth) == name


def test_an_empty_shop_has_an_empty_catalogue() -> None:
    found = Catalog.of(products(), events(), until=day(1))
    assert len(found) == 0
    assert found.title == found.categories == []
    assert found.price.shape == found.available.shape == (0,)
