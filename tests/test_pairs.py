"""What a ranker looks at, counted by hand, and never from what came later."""

import numpy as np
import pytest
from worlds import Event, products, returned, shop

from features.pairs import NEVER, Pairs, columns, item_facts, need_columns
from training.split import Data

LISTED = products(
    {"product_id": "bread", "category": ["food", "bakery"], "brand": "Mill", "price": 2.0},
    {"product_id": "rolls", "category": ["food", "bakery"], "brand": "Oven", "price": 4.0},
    {"product_id": "milk", "category": ["food", "dairy"], "brand": "Mill", "price": 1.0},
    {"product_id": "soap"},
)
BOUGHT = (
    Event("ann", "bread", "o1", 60, quantity=2, price=1.5, discount=0.5),
    Event("ann", "milk", "o1", 60),
    Event("ann", "bread", "o2", 80, quantity=1),
    Event("ann", "rolls", "o3", 90),
    Event("bob", "bread", "o4", 98),
    Event(None, "milk", "o5", 99),
)


def pairs(*rows: Event, until: float = 100) -> tuple[Data, Pairs]:
    data = shop(*rows, until=until, listed=LISTED)
    return data, Pairs(data.catalog, data.interactions, item_facts(data.catalog, data.interactions))


def told(data: Data, made: Pairs, customer: str, product: str, basket: str | None = None) -> dict[str, float]:
    who = int(data.interactions.customers.positions([customer])[0])
    held = None if basket is None else data.catalog.items.positions(basket.split())
    values = made.of(who, data.catalog.items.positions([product]), held)
    assert values.dtype == np.float32
    return dict(zip(columns(basket=basket is not None), values[0].tolist(), strict=True))


def test_a_customer_and_a_product_bought_twice() -> None:
    data, made = pairs(*BOUGHT)
    found = told(data, made, "ann", "bread")
    assert [found[f"own.{n}"] for n in ("orders", "last", "first", "gap", "overdue", "behind")] == [
        2, 20, 40, 20, 1, 1,
    ]  # fmt: skip
    assert [found[f"own.{n}"] for n in ("quantity", "last_quantity", "last_gap")] == [3, 1, 20]
    assert found["own.since_first"] == pytest.approx(2 / 3)
    assert found["own.decayed_10"] == pytest.approx(2**-4 + 2**-2)
    assert found["own.deal"] == pytest.approx((0.25 + 0) / 2)
    assert [found[f"customer.{n}"] for n in ("orders", "recency", "tenure", "gap")] == [3, 10, 40, 15]
    assert found["customer.basket"] == pytest.approx(4 / 3)
    assert [found[f"need.{n}"] for n in ("orders", "lines", "distinct", "last", "gap")] == [3, 3, 2, 10, 15]
    assert [found[f"brand.{n}"] for n in ("orders", "lines", "distinct")] == [2, 3, 2]
    assert found["pair.share_of_need"] == pytest.approx(2 / 3)
    assert found["item.buyers"] == pytest.approx(np.log(3))
    assert found["item.price"] == pytest.approx(np.log(2))
    assert found["item.last_sold"] == 2


def test_a_product_never_bought_and_a_stranger() -> None:
    data, made = pairs(*BOUGHT)
    found = told(data, made, "bob", "rolls")
    assert (found["own.orders"], found["own.last"], found["need.orders"]) == (0, NEVER, 1)
    assert np.isnan(found["own.gap"])
    stranger = told(data, made, "nobody", "rolls")
    assert stranger["customer.orders"] == 0 and np.isnan(stranger["customer.recency"])
    assert stranger["item.price"] == found["item.price"]
    soap = told(data, made, "bob", "soap")
    assert np.isnan([soap["need.orders"], soap["brand.orders"], soap["item.price"]]).all()


def test_what_a_product_has_to_do_with_a_basket() -> None:
    data, made = pairs(*BOUGHT)
    found = told(data, made, "ann", "milk", "bread rolls")
    assert (found["basket.size"], found["basket.need"], found["basket.parent"], found["basket.brand"]) == (
        2,
        0,
        2,
        1,
    )
    assert found["basket.price"] == pytest.approx(np.log(1) - np.log([2, 4]).mean())
    assert (found["basket.own_overlap"], found["basket.had_with"]) == (1, 1)
    nothing = told(data, made, "ann", "milk", "")
    assert nothing["basket.size"] == 0 and np.isnan(nothing["basket.price"])


def test_what_may_be_offered_in_the_place_of_a_product() -> None:
    """Of the three who bought of bakery in 28 days, ann has rolls and bob bread. ann chose bread, bread and rolls for
    it, the rolls anew, at 2, 2 and 4."""
    data, made = pairs(*BOUGHT)
    bread, rolls = data.catalog.items.positions(["bread", "rolls"]).tolist()
    ann, bob = data.interactions.customers.positions(["ann", "bob"]).tolist()
    names = columns(offer=True)
    found = dict(zip(names, made.offer(ann, bread, np.array([rolls]))[0].tolist(), strict=True))
    np.testing.assert_array_equal(
        made.offer(ann, bread, np.array([rolls]))[:, :-4], made.of(ann, np.array([bread]))
    )
    assert found["offer.offered"] == pytest.approx(np.log(2))
    assert found["offer.share"] == pytest.approx(1 / 3)
    assert found["offer.paid"] == pytest.approx((1 + 1 + 2) / 3)
    assert found["offer.novelty"] == pytest.approx(1 / 3)
    nothing = dict(zip(names, made.offer(bob, bread, np.array([], np.int64))[0].tolist(), strict=True))
    assert [nothing[f"offer.{n}"] for n in ("offered", "share", "paid", "novelty")] == [0, 0, 1, 0]


def test_a_customer_with_the_needs_of_a_basket() -> None:
    """ann's first order held bread and milk: beside a basket of rolls it speaks for dairy."""
    data, made = pairs(*BOUGHT)
    rolls = data.catalog.items.positions(["rolls"])
    bakery, dairy = (data.catalog.needs.index(f"food > {name}") for name in ("bakery", "dairy"))
    ann = int(data.interactions.customers.positions(["ann"])[0])
    table = made.of_needs(ann, np.array([bakery, dairy]), rolls)
    found = dict(zip(need_columns(), table[1].tolist(), strict=True))
    assert table.dtype == np.float32 and len(set(need_columns())) == table.shape[1]
    assert [found[f"need.{n}"] for n in ("orders", "last", "distinct")] == [1, 40, 1]
    assert (found["customer.orders"], found["basket.size"], found["basket.products"]) == (3, 1, 1)
    assert found["basket.own_overlap"] == 1
    assert found["basket.own_recent_overlap"] == pytest.approx(2 ** (-40 / 90))
    assert [found[f"basket.{n}"] for n in ("buyers", "buyers_28", "buyers_7")] == pytest.approx(
        np.log([3, 2, 2])
    )
    stranger = made.of_needs(-1, np.array([dairy]), rolls)[0]
    assert (stranger[0], stranger[need_columns().index("basket.own_overlap")]) == (0, 0)
    assert made.of_needs(ann, np.array([dairy]), rolls[:0]).shape == (1, len(need_columns()))


def test_many_are_told_like_one_after_the_other() -> None:
    data, made = pairs(*BOUGHT)
    items = np.arange(len(data.catalog))
    for customer in (-1, 0, 1):
        for basket in (None, items[:2]):
            together = made.of(customer, items, basket)
            alone = np.concatenate([made.of(customer, items[[i]], basket) for i in items])
            np.testing.assert_array_equal(together, alone)
            assert together.shape == (len(items), len(columns(basket=basket is not None)))


def test_nothing_later_is_told() -> None:
    later = (
        Event("ann", "bread", "o9", 100),
        Event("bob", "soap", "o8", 120),
        returned("ann", "milk", "o1", 101),
    )
    for basket in (None, np.array([0])):
        values = [
            made.of(customer, np.arange(4), basket)
            for _, made in (pairs(*BOUGHT), pairs(*BOUGHT, *later))
            for customer in (-1, 0, 1)
        ]
        for before, after in zip(values[:3], values[3:], strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("rows", [(), BOUGHT[-1:], BOUGHT[:1]], ids=["nothing", "anonymous", "one line"])
def test_a_strange_shop_is_told_too(rows: tuple[Event, ...]) -> None:
    data, made = pairs(*rows)
    values = made.of(
        0 if len(data.interactions.customers) else -1, np.arange(len(data.catalog)), np.array([0])
    )
    assert not np.isinf(values).any()
    assert values.shape == (4, len(columns(basket=True)))


def test_names_are_unique() -> None:
    names = columns(basket=True)
    assert len(set(names)) == len(names)
    assert names[: len(columns(basket=False))] == columns(basket=False)
