"""What the daily run says of customers counts all of their orders, also those of what may not be recommended: each
figure is a recount of what was loaded, and what the single view tells."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from test_compact import put
from test_profile import NAMES, recounted
from worlds import Event, day, events, products, returned

from features.catalog import Catalog
from features.history import History
from features.interactions import Interactions, whole_and_part
from lifecycle.customers import counts, view
from lifecycle.day import Day, day_of
from lifecycle.occasions import Occasions
from lifecycle.programs import Trigger
from lifecycle.triggers import found, likeliest
from serving.store import Store, address

AT = datetime(2026, 3, 20, tzinfo=UTC)
LISTED = (
    ("milk", "FOOD/DAIRY", ""), ("bread", "FOOD/BAKERY", ""), ("fuel", "CAR/FUEL", "false"),
    ("card", "CAR/PHONE", "false"),
)  # fmt: skip
LIVES = (  # id, who, what, type, order, day, quantity, price
    ("a1", "anna", "milk", "order", "a-1", "2026-01-10", 1, 2),
    ("a2", "anna", "fuel", "order", "a-2", "2026-01-20", 30, 1.5),
    ("a3", "anna", "bread", "order", "a-3", "2026-02-01", 2, 3),
    ("a4", "anna", "fuel", "order", "a-3", "2026-02-01", 20, 1.5),
    ("a5", "anna", "card", "order", "a-4", "2026-02-10", 1, 25),
    ("a6", "anna", "card", "order", "a-x", "2026-02-12", 1, 25),
    ("a7", "anna", "card", "return", "a-x", "2026-02-13", 1, ""),  # all of it: no order
    ("a8", "anna", "milk", "order", "a-5", "2026-03-01", 3, 2),
    ("a9", "anna", "fuel", "order", "a-6", "2026-03-18", 40, 1.5),
    ("a10", "anna", "fuel", "return", "a-6", "2026-03-19", 10, ""),
    ("b1", "bert", "fuel", "order", "b-1", "2026-03-15", 10, 1.5),
    ("c1", "carl", "milk", "order", "c-1", "2026-01-05", 1, 2),
    ("c2", "carl", "milk", "order", "c-2", "2026-02-05", 1, 2),
    ("c3", "carl", "fuel", "order", "c-3", "2026-03-05", 10, 1.5),
    ("d1", "dora", "bread", "order", "d-1", "2026-01-02", 1, 3),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    history = History(folder / "history")
    put(history, "products", *(
        {"product_id": name, "category": path, "eligible": eligible} for name, path, eligible in LISTED
    ))  # fmt: skip
    put(history, "events", *({**dict(zip(NAMES, row, strict=True)), "store_id": "s1"} for row in LIVES))
    return folder


@pytest.fixture(scope="module")
def today(home: Path) -> Day:
    with Store(address(home, None)) as store:
        return day_of(History(home / "history"), store, AT)


def occasions(today: Day, kind: str, **settings: Any) -> tuple[Occasions, list[str]]:
    of = found(today, TypeAdapter(Trigger).validate_python({"kind": kind, **settings}))
    return of, today.ids.at(of.person)


@pytest.mark.parametrize("who", ["anna", "bert", "carl", "dora"])
def test_facts_are_a_recount_and_what_the_single_view_tells(home: Path, today: Day, who: str) -> None:
    told = view(home, None, who, AT).profile
    count, _, last, spend = recounted(home, [who], AT)
    fact = today.people.iloc[int(today.ids.positions([who])[0])]
    assert told and told.rfm
    assert fact["frequency"] == told.rfm.frequency == told.orders.count == count
    assert [fact["spend"], told.rfm.spend, told.orders.spend] == pytest.approx([spend] * 3, abs=0.01)
    assert fact["recency"] == pytest.approx((AT.timestamp() - (last or 0)) / 86_400)
    assert [fact[name] for name in ("stage", "group", "r", "f", "m")] == [
        told.stage, told.rfm.group, told.rfm.r, told.rfm.f, told.rfm.m,
    ]  # fmt: skip
    assert told.stages["2026-03"] == told.stage and round(fact["gap"], 2) == told.rfm.gap


def test_where_all_stand_is_where_each_does(home: Path, today: Day) -> None:
    of = counts(History(home / "history"), AT)
    assert {name: n for name, n in of.stages.items() if n} == {
        name: n for name, n in today.people["stage"].value_counts().items() if n
    }
    assert {name: n for name, n in of.groups.items() if n} == {
        name: n for name, n in today.people["group"].value_counts().items() if n
    }


def test_orders_of_nothing_that_may_be_recommended_are_orders(today: Day) -> None:
    """They have their number, are thanked for, and all their lines are told; what a message recommends by leaves them
    out, as long as anything else was bought."""
    of, _ = occasions(today, "order", within=60)
    told = {
        key: (row["nth"], {line["title"] for line in row["lines"]})
        for key, row in zip(of.key, of.words, strict=True)
    }
    assert told == {
        "a-2": (2, {"fuel"}), "a-3": (3, {"bread", "fuel"}), "a-4": (4, {"card"}), "a-5": (5, {"milk"}),
        "a-6": (6, {"fuel"}), "b-1": (1, {"fuel"}), "c-2": (2, {"milk"}), "c-3": (3, {"fuel"}),
    }  # fmt: skip
    assert {key: of.products[n] for n, key in enumerate(of.key) if key in ("a-3", "a-6")} == {
        "a-3": ("bread",), "a-6": ("fuel",),
    }  # fmt: skip
    reached, who = occasions(today, "milestone", orders=[3, 6], within=30)
    assert sorted(zip(who, reached.key, strict=True)) == [("anna", "6"), ("carl", "3")]


def test_last_orders_and_spend_are_of_all_orders(today: Day) -> None:
    for kind, settings in (("rhythm", {"share": 0.01}), ("stage", {"stages": ["new", "active", "loyal"]})):
        of, who = occasions(today, kind, within=30, **settings)
        last = {name: row["ordered_on"] for name, row in zip(who, of.words, strict=True)}
        assert last["bert"] == "2026-03-15"
        assert kind == "stage" or (last["anna"], last["carl"]) == ("2026-03-18", "2026-03-05")
    gold, who = occasions(today, "tier", tiers={"gold": 150.0}, days=90, within=30)
    assert (who, gold.words) == (["anna"], [{"tier": "gold"}])  # 2 + 45 + 36 + 25 + 6 + 45


def test_what_is_recommended_stays_with_what_may_be(today: Day) -> None:
    assert set(today.data.items.at(today.due["item"].to_numpy())) == {"milk", "bread"}
    names = today.data.customers
    code, chance = likeliest(today, np.arange(len(names)))
    named = {today.catalog.parents[c] for c, at in zip(code.ravel(), chance.ravel(), strict=True) if at}
    assert named and named <= {"FOOD/DAIRY", "FOOD/BAKERY"}


def test_a_part_is_what_would_have_been_read_alone() -> None:
    rows = [
        Event("ann", "milk", "o1", 1), Event("ann", "fuel", "o1", 0.5, 3), Event("ann", "fuel", "o2", 2),
        Event(None, "milk", "o3", 3), Event("bob", "fuel", "o4", 4), returned("ann", "milk", None, 5, 0.5),
        returned("ann", "fuel", "o2", 6), Event("cem", "milk", "o5", 7, 2), Event("cem", "tea", "o5", 7),
    ]  # fmt: skip
    told, items = events(*rows), ("fuel", "milk", "tea")
    listed = products(*({"product_id": name, "eligible": name != "fuel"} for name in items))
    catalog = Catalog.of(listed, told, until=day(9))
    whole, part = whole_and_part(told, items=catalog.items, keep=catalog.eligible, until=day(9))
    for found_, alone in (
        (whole, Interactions.from_events(told, items=catalog.items, until=day(9))),
        (part, Interactions.from_events(told, items=catalog.items, keep=catalog.eligible, until=day(9))),
    ):
        for name in (field.name for field in fields(Interactions)):
            one, other = (getattr(getattr(of, name), "values", getattr(of, name)) for of in (found_, alone))
            assert np.array_equal(one, other), name
    moved = part.among(whole.customers)
    assert moved.customers is whole.customers and len(whole.customers) == 3 > len(part.customers)
    assert [*moved.customers.at(moved.customer[moved.customer >= 0])] == ["ann", "cem", "cem"]
    every = np.ones(len(catalog.items), bool)
    both = whole_and_part(told, items=catalog.items, keep=every, until=day(9) + timedelta(days=1))
    assert both[0] is both[1]
