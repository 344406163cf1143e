"""What a history can support, on rows that can be counted by hand."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_compact import put
from tiny import Basket

from features.history import History
from features.mapping import Mapping
from features.sources import load
from lifecycle.support import (
    FIGURES,
    NEEDS,
    Needs,
    judged,
    measured,
    of_order_ids,
    of_purchases,
    supported,
    warnings,
)
from serving.placements import PLACEMENTS
from training.models import Newest

GOODS: tiny.Goods = {
    "tea": {"title": "Tea", "category": ["drinks"], "price": 3.0},
    "jam": {"title": "Jam", "category": ["food"]},
    "gift": {"title": "Gift"},
    "never": {"title": "Never bought", "category": ["food"], "price": 1.0},
}
BASKETS: tuple[Basket, ...] = (
    ("anna", "1", 0, "tea jam"),
    ("anna", "2", 10, "tea"),
    ("anna", "3", 20, "tea jam"),
    ("bert", "4", 30, "tea"),
    (None, "5", 40, "jam gift"),
)


def test_figures_of_purchases() -> None:
    """Until day 58.5, 28 days earlier is day 30.5: only the gift was first bought after it, and after day 28."""
    data = tiny.known(BASKETS, GOODS)
    assert of_purchases(data.interactions, data.catalog) == {
        "customers": 2,  # anna, bert
        "products": 3,  # tea, jam, gift
        "orders": 5,
        "days": 58.5,  # from the first purchase to `until`
        "repeaters": 1,  # anna
        "repeat_pairs": 3,  # anna: tea twice again, jam once
        "shared_baskets": 3,  # 1, 3, 5
        "priced_share": 1.0,  # jam and gift by what was paid
        "categorised_share": pytest.approx(2 / 3),  # not the gift
        "new_products": 1,
    }


@pytest.mark.parametrize("until", [5, 20, 27, 29, 39, 41, 58, 69])
def test_new_is_what_new_arrivals_would_show(until: float) -> None:
    """In a history of less than 28 days everything is new, and so nothing."""
    data = tiny.known(BASKETS, GOODS, tiny.FIRST + timedelta(days=until))
    shown = Newest().fit(data.interactions, data.catalog).bias > 0
    figures = of_purchases(data.interactions, data.catalog)
    assert figures["new_products"] == shown.sum() == (1 if until in (41, 58) else 0)
    (needs,) = (n for n in NEEDS if n.name == "new_arrivals")
    told = judged(needs, figures)
    assert told.supported == bool(shown.any())
    assert ("days of history" in told.why) == (until < 28 or told.supported)


def test_what_costs_nothing_has_no_price_to_step_up_from() -> None:
    goods = {**GOODS, "gift": {"title": "Gift", "price": 0.0}}
    data = tiny.known(BASKETS, goods)
    assert of_purchases(data.interactions, data.catalog)["priced_share"] == pytest.approx(2 / 3)


def order_ids(*rows: dict[str, Any]) -> dict[str, float]:
    return of_order_ids(tiny.events(rows), tiny.UNTIL)


def test_order_ids_that_are_used_again_are_counted() -> None:
    day = timedelta(days=1)
    rows = [
        tiny.event("anna", "one", 0, "tea"), tiny.event("anna", "one", 2, "jam"),  # a parcel in two parts
        tiny.event("anna", "two customers", 0, "tea"), tiny.event("bert", "two customers", 9, "tea"),
        tiny.event("anna", "and a guest", 0, "tea"), tiny.event(None, "and a guest", 0, "jam"),
        tiny.event("anna", "long", 0, "tea"), tiny.event("anna", "long", 2.01, "jam"),
        tiny.event(None, "of guests", 0, "tea"), tiny.event(None, "of guests", 30, "jam"),
        tiny.event("bert", "one", 5, "tea", event_type="return"),  # whoever brings it
        tiny.event("bert", "one", (tiny.UNTIL - tiny.FIRST) / day, "tea"),  # not known yet
    ]  # fmt: skip
    assert order_ids(*rows) == {"order_ids": 5, "shared_order_ids": 2, "long_order_ids": 2}
    assert order_ids() == {"order_ids": 0, "shared_order_ids": 0, "long_order_ids": 0}


def test_order_ids_that_are_used_again_are_warned_of_above_one_in_a_thousand() -> None:
    fine = {
        **dict.fromkeys(FIGURES, 0.0),
        "order_ids": 4000.0,
        "shared_order_ids": 4.0,
        "long_order_ids": 4.0,
    }
    assert warnings(fine) == warnings(dict.fromkeys(FIGURES, 0.0)) == []
    (shared,) = warnings({**fine, "shared_order_ids": 5.0})
    assert shared.startswith("5 of 4,000 order ids (0.1%) name more than one customer: ")
    assert "{ template = " in shared and "{@day}" in shared
    (long,) = warnings({**fine, "long_order_ids": 1234.0})
    assert long.startswith(
        "1,234 of 4,000 order ids (30.9%) name purchases of one customer more than 2 days apart"
    )
    assert len(warnings({**fine, "shared_order_ids": 5.0, "long_order_ids": 5.0})) == 2


def test_what_was_returned_is_no_purchase() -> None:
    rows = [
        tiny.event("anna", "1", 0, "tea"),
        tiny.event("anna", "2", 5, "tea"),
        tiny.event("anna", "2", 6, "tea", event_type="return"),
    ]
    from training.split import cut

    data = cut(tiny.events(rows), tiny.listed(GOODS), tiny.UNTIL)
    figures = of_purchases(data.interactions, data.catalog)
    assert (figures["orders"], figures["repeaters"], figures["repeat_pairs"]) == (1, 0, 0)


MAPPINGS = {
    "events": """
[columns]
event_type = { value = "order" }
customer_id = "customer"
product_id = "product"
order_id = "order"
occurred_at = "at"
quantity = { value = 1 }
unit_price = "price"
""",
    "customers": '[columns]\ncustomer_id = "customer"\nemail = "email"\nphone = "phone"\n',
    "consents": """
[columns]
customer_id = "customer"
channel = { value = "email" }
purpose = { value = "marketing" }
granted = { value = true }
at = "at"
""",
}


def brought(home: Path, table: str, text: str) -> History:
    history = History(home / "history")
    (home / f"{table}.csv").write_text(text)
    (home / f"{table}.toml").write_text(MAPPINGS[table])
    load(history, table, [home / f"{table}.csv"], Mapping.read(home / f"{table}.toml"), rejects_dir=home)
    return history


def test_figures_of_a_history(tmp_path: Path) -> None:
    brought(
        tmp_path,
        "events",
        "customer,product,order,at,price\n"
        "anna,tea,1,2026-01-01T00:00:00Z,2\n"
        "anna,tea,2,2026-01-11T00:00:00Z,2\n"
        "bert,jam,3,2026-01-10T23:59:59Z,0\n",  # given away: no choice
    )
    brought(tmp_path, "customers", "customer,email,phone\nanna,a@x.example,\nbert,,+49 30 1\ncarl,,\n")
    history = brought(tmp_path, "consents", "customer,at\nanna,2026-01-01\n")
    figures = measured(history)
    assert {n: figures[n] for n in ("customers", "orders", "repeaters", "contacts", "consents")} == {
        "customers": 1,
        "orders": 2,
        "repeaters": 1,
        "contacts": 2,
        "consents": 1,
    }
    assert {n: figures[n] for n in ("order_ids", "shared_order_ids", "long_order_ids")} == {
        "order_ids": 3,
        "shared_order_ids": 0,
        "long_order_ids": 0,
    }
    assert figures["days"] == pytest.approx(10 + 1 / 86_400)  # to the first second after the last event
    put(history, "products", {"product_id": "tea", "eligible": "false"})
    assert {name: measured(history)[name] for name in ("customers", "orders", "repeaters", "products")} == {
        "customers": 1, "orders": 2, "repeaters": 1, "products": 0,
    }, "what may not be recommended is an order, too"  # fmt: skip
    assert set(figures) == set(FIGURES)


def test_an_empty_history_supports_nothing_and_says_so(tmp_path: Path) -> None:
    figures = measured(History(tmp_path / "history"))
    assert figures == dict.fromkeys(FIGURES, 0.0)
    found = supported(figures)
    assert not any(s.supported for s in found)
    assert all("at least" in s.why for s in found)


def test_needs_met_tell_what_they_rest_on() -> None:
    enough = judged(Needs("placement", "trending", {"orders": 1}), {"orders": 12_345.0})
    assert (enough.supported, enough.why) == (True, "orders: 12,345")


def test_needs_not_met_tell_what_is_missing_and_only_that() -> None:
    needs = Needs("program", "first_to_repeat", {"repeaters": 100, "days": 60, "contacts": 1})
    short = judged(needs, {"repeaters": 99.0, "days": 60.0, "contacts": 0.0})
    assert (short.kind, short.name, short.supported) == ("program", "first_to_repeat", False)
    assert short.why == (
        "customers with a second order: 99, at least 100 needed; "
        "customers with an e-mail address or a phone number: 0, at least 1 needed"
    )


@pytest.mark.parametrize("needs", NEEDS, ids=lambda needs: needs.name)
def test_at_the_bound_it_is_supported_and_just_below_it_is_not(needs: Needs) -> None:
    exact = {**dict.fromkeys(FIGURES, 0.0), **needs.least}
    assert judged(needs, exact).supported
    for name in needs.least:
        assert not judged(needs, {**exact, name: exact[name] - 0.01}).supported


def test_every_placement_has_its_needs_and_every_need_a_figure_with_words() -> None:
    assert {n.name for n in NEEDS if n.kind == "placement"} == set(PLACEMENTS)
    assert {figure for n in NEEDS for figure in n.least} <= set(FIGURES)
    assert len({(n.kind, n.name) for n in NEEDS}) == len(NEEDS)


def test_the_demo_data_supports_every_placement_and_no_program_that_is_sent(shop_home: Path) -> None:
    found = {(s.kind, s.name): s for s in supported(measured(History(shop_home / "history")))}
    assert all(s.supported for (kind, _), s in found.items() if kind == "placement")
    assert found["program", "thank_you"].supported
    assert not found["program", "thank_you, sent"].supported
    assert "consents on record: 0, at least 1 needed" in found["program", "thank_you, sent"].why
    assert json.dumps([vars(s) for s in found.values()])
    assert warnings(measured(History(shop_home / "history"))) == []
