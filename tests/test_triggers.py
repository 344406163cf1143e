"""What each kind of trigger finds, on events that one holds in one's head; and that none looks ahead."""

from collections.abc import Sequence
from datetime import date
from typing import Any, get_args

import numpy as np
import pytest
from days import Act, Change, a_day, moment
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from worlds import START, Event, products, returned

from features.interactions import DAY
from lifecycle.day import Day
from lifecycle.occasions import Occasions
from lifecycle.programs import Addition, Trigger, programs
from lifecycle.triggers import COMEBACKS, KINDRED, TRIGGERS, WORDS, comebacks, found

Words = dict[str, Any]
Told = tuple[str, str, float, tuple[str, ...], Words]


def trigger(kind: str, **settings: Any) -> Any:
    return TypeAdapter(Trigger).validate_python({"kind": kind, **settings})


def told(day: Day, kind: str, **settings: Any) -> list[Told]:
    """Occasions in words: who, which, since which day, about what, what may be said."""
    return spoken(day, found(day, trigger(kind, **settings)))


def spoken(day: Day, of: Occasions) -> list[Told]:
    columns = (day.ids.at(of.person), of.key, ((of.at - moment(0)) / DAY).round(3).tolist())
    return sorted(zip(*columns, of.products, of.words, strict=True), key=lambda row: row[:3])


def brief(day: Day, kind: str, **settings: Any) -> list[tuple[str, str, float]]:
    return [row[:3] for row in told(day, kind, **settings)]


def orders(customer: str, *days: float, product: str = "milk") -> list[Event]:
    return [Event(customer, product, f"{customer}{n}", on) for n, on in enumerate(days, 1)]


# --- orders -----------------------------------------------------------------------------------------------


def test_an_order_is_about_what_was_bought() -> None:
    """Dates are the store's: half past three at night in UTC is the evening before in New York."""
    rows = [
        Event("ann", "milk", "o1", 3.15, quantity=2), Event("ann", "bread", "o1", 3.15),
        Event("bob", "milk", "o2", 1), Event(None, "milk", "o3", 3.5), Event("cem", "milk", "o4", 4),
    ]  # fmt: skip
    listed = products({"product_id": "milk", "title": "Whole milk"})
    day = a_day(*rows, until=4, listed=listed, zone="America/New_York")
    lines = [{"quantity": 1.0, "title": "bread"}, {"quantity": 2.0, "title": "Whole milk"}]
    about = {"order_id": "o1", "ordered_on": "2024-01-03", "nth": 1, "lines": lines}
    assert told(day, "order") == [("ann", "o1", 3.15, ("bread", "milk"), about)]
    assert brief(day, "order", within=3) == [("ann", "o1", 3.15), ("bob", "o2", 1.0)]


def test_after_so_many_days_an_order_is_ripe_and_within_so_many_more_it_is_past() -> None:
    days = {until: a_day(*orders("ann", 1), until=until) for until in (4, 4.001, 6, 6.001)}
    seen = {until: len(told(day, "order", after=3, within=2)) for until, day in days.items()}
    assert seen == {4: 0, 4.001: 1, 6: 1, 6.001: 0}


def test_orders_by_number_and_milestones_tell_the_same_orders() -> None:
    day = a_day(*orders("ann", 1, 3, 8), *orders("bob", 7.5, 8.5), until=9)
    assert brief(day, "order", nth=[2], within=9) == [("ann", "ann2", 3.0), ("bob", "bob2", 8.5)]
    assert told(day, "milestone", orders=[2, 3]) == [
        ("ann", "3", 8.0, (), {"nth": 3}), ("bob", "2", 8.5, (), {"nth": 2}),
    ]  # fmt: skip


def test_an_order_that_was_given_back_is_none() -> None:
    day = a_day(*orders("ann", 1), returned("ann", "milk", "ann1", 1.5), until=2)
    assert told(day, "order") == []


# --- the first gap ----------------------------------------------------------------------------------------


def crowd(n: int = COMEBACKS) -> list[Event]:
    """Customers whose second order comes 1, 2 … n days after the first, on day 0."""
    return [event for k in range(1, n + 1) for event in orders(f"c{k:02}", 0, k)]


def test_who_comes_back_is_told_by_kaplan_and_meier() -> None:
    """Where nobody is censored, the share q is back after the ⌈q n⌉-th shortest gap. Forty who came on day 20 and
    are seen for 10 days were at risk for those days alone: of 70 one came back each day, later of 20 and fewer."""
    day = a_day(*crowd(), until=60)
    gaps = comebacks(day.orders, day.until, (0, 0.4, 0.5, 1)) / DAY
    assert gaps.tolist() == [1, 12, 15, 30]
    late = [event for k in range(40) for event in orders(f"late{k}", 20)]
    day = a_day(*crowd(), *late, until=30.5)
    left = np.cumprod([1 - 1 / ((71 if k <= 10 else 31) - k) for k in range(1, 31)])
    back = (1 - left) / (1 - left[-1])
    expected = [int(np.argmax(back >= share)) + 1 for share in (0.25, 0.5, 0.75)]
    assert (comebacks(day.orders, day.until, (0.25, 0.5, 0.75)) / DAY).tolist() == expected
    assert expected != [8, 15, 23]


def test_the_first_gap_opens_and_closes_by_the_quantiles() -> None:
    """Of 31 one comes back each day while ann waits: 12/31 ≥ 0.38 by day 12. On day 15 15/31 ≥ 0.48."""
    ann = orders("ann", 40)
    about = ("ann", "ann1", 52.0)
    for until, seen in ((52, []), (52.1, [about]), (55, [about]), (55.1, [])):
        day = a_day(*crowd(), *ann, until=until)
        window = comebacks(day.orders, day.until, (0.38, 0.48)) / DAY
        assert window.tolist() == [12, 15]
        assert brief(day, "first_gap", low=0.38, high=0.48, within=9) == seen
    assert brief(a_day(*crowd(), *ann, *orders("ann", 45), until=53), "first_gap", within=9) == []


def test_where_too_few_came_back_nobody_can_tell() -> None:
    day = a_day(*crowd(COMEBACKS - 1), *orders("ann", 20), until=40)
    assert told(day, "first_gap", low=0, high=1, within=400) == []


# --- stages -----------------------------------------------------------------------------------------------


def test_on_the_brink_since_one_and_a_half_usual_gaps() -> None:
    """All gaps are 10 days, so that the usual one is 10: on the brink from day 35, lapsed from day 50."""
    rows = orders("ann", 0, 10, 20)
    steps: Words = {"stages": ["brink", "lapsed"], "steps": [0, 5]}
    assert told(a_day(*rows, until=35), "stage", **steps) == []
    about = {"step": 1, "ordered_on": "2024-01-21"}
    assert told(a_day(*rows, until=35.1), "stage", **steps) == [("ann", "brink:0:ann3", 35.0, (), about)]
    seen = {until: brief(a_day(*rows, until=until), "stage", **steps) for until in (40.5, 42.5, 51, 55.5, 58)}
    assert seen == {
        40.5: [("ann", "brink:5:ann3", 40.0)], 42.5: [], 51: [("ann", "lapsed:0:ann3", 50.0)],
        55.5: [("ann", "lapsed:5:ann3", 55.0)], 58: [],
    }  # fmt: skip
    assert told(a_day(*rows, Event("ann", "milk", "x", 50.5), until=51), "stage", **steps) == []


def test_an_order_begins_a_new_episode() -> None:
    rows = orders("ann", 0, 10, 20, 30)
    assert brief(a_day(*rows, until=45.5), "stage", stages=["brink"]) == [("ann", "brink:0:ann4", 45.0)]


def test_stages_that_orders_make() -> None:
    """Every 10 days: new by the first order, active by the second, loyal by the fifth; won back by the one after months
    away, active again by the third since."""
    stays = orders("bob", *range(0, 200, 10))  # so that 10 days are usual
    for days, stage, order, since in (
        ((191,), "new", "ann1", 191), ((181, 191), "active", "ann2", 191),
        ((151, 161, 171, 181, 191), "loyal", "ann5", 191),
        ((*range(0, 100, 10), 191), "won_back", "ann11", 191),
        ((*range(0, 100, 10), 171, 181, 191), "active", "ann13", 191),
    ):  # fmt: skip
        day = a_day(*stays, *orders("ann", *days), until=192)
        named = [row for row in brief(day, "stage", stages=[stage]) if row[0] == "ann"]
        assert named == [("ann", f"{stage}:0:{order}", since)], stage
        assert day.people["stage"][0] == stage
    day = a_day(*stays, *orders("ann", 141, 151, 161, 171, 181, 191), until=192)
    assert [row for row in brief(day, "stage", stages=["loyal"]) if row[0] == "ann"] == []


def test_prospects_stand_there_since_they_agreed() -> None:
    day = a_day(*orders("ann", 1), until=9, agreed={"ann": 8, "pia": 8.5, "tom": 2})
    about = {"step": 1, "ordered_on": None}
    assert told(day, "stage", stages=["prospect"]) == [("pia", "prospect:0:", 8.5, (), about)]
    assert (
        brief(day, "joined")
        == [("ann", "joined", 8.0), ("pia", "joined", 8.5)]
        == brief(day, "joined", channel="email")
    )
    assert brief(day, "joined", channel="sms") == [], "of each channel by itself"
    welcome = programs(None)["welcome"]
    assert welcome.waits == trigger("joined", channel="email", within=welcome.trigger.within)


def test_rhythm_counts_the_usual_gap_from_the_last_order() -> None:
    rows = orders("ann", 0, 10, 20)
    assert told(a_day(*rows, until=29.5), "rhythm", share=0.9) == [
        ("ann", "ann3", 29.0, (), {"ordered_on": "2024-01-21"})
    ]
    assert told(a_day(*rows, until=29), "rhythm", share=0.9) == []


# --- what is due ------------------------------------------------------------------------------------------


def weekly(customer: str, product: str, weeks: int, first: float = 0) -> list[Event]:
    return [
        Event(customer, product, f"{customer}{product}{n}", first + 7 * n + (product == "tea"))
        for n in range(weeks)
    ]


def staples() -> list[Event]:
    """Ten customers who buy milk, soap and tea each week; tea a day later. A lamp that nobody bought twice."""
    everybody = [
        event
        for n in range(10)
        for product in ("milk", "soap", "tea")
        for event in weekly(f"c{n}", product, 8)
    ]
    lamps = [Event(f"c{n}", "lamp", f"lamp{n}", n) for n in range(10)]
    return [*everybody, *lamps]


def test_what_comes_due_on_one_day_is_one_occasion_named_by_the_likeliest() -> None:
    """The last milk and soap on day 49, tea on day 50; with a gap of 7 days due within 2 from day 54 and 55 on."""
    day = a_day(*staples(), until=54.5)
    (first, *_) = mine = [row for row in told(day, "due", days=2) if row[0] == "c1"]
    assert len(mine) == 1
    assert first[1:4] == ("milk:8|soap:8", 54.0, ("milk", "soap"))
    day = a_day(*staples(), until=55.5)
    mine = [row for row in told(day, "due", days=2) if row[0] == "c1"]
    assert [row[1:4] for row in mine] == [
        ("milk:8|soap:8", 54.0, ("milk", "soap")),
        ("tea:8", 55.0, ("tea",)),
    ]
    one = [row for row in told(day, "due", days=2, most=1) if row[0] == "c1"]
    assert [row[3] for row in one] == [("milk",), ("tea",)]


def test_each_cycle_is_one_occasion_and_what_nobody_buys_again_never_is() -> None:
    keys = [
        (row[1], row[3])
        for until in np.arange(38, 62, 1.0)
        for row in told(a_day(*staples(), until=until), "due", days=2, within=1, chance=0.3)
        if row[0] == "c1"
    ]
    assert len({key for key, _ in keys}) == len(keys)
    shown = [product for _, products in keys for product in products]
    assert "lamp" not in shown and {"milk", "soap", "tea"} == {*shown}


def test_a_substitute_serves_the_need_too() -> None:
    listed = products(
        {"product_id": "milk", "need": "milk"}, {"product_id": "oat", "need": "milk"}, {"product_id": "soap"}
    )
    rows = [*staples(), Event("c1", "oat", "oat1", 53)]
    mine = [row[3] for row in told(a_day(*rows, until=54.5, listed=listed), "due", days=2) if row[0] == "c1"]
    assert mine == [("soap",)]


# --- categories -------------------------------------------------------------------------------------------

AISLES = products(*(
    {"product_id": name, "category": [top, kind, name]}
    for top, kind, name in (
        ("food", "dairy", "milk"), ("food", "dairy", "butter"), ("food", "bread", "rye"), ("home", "soap", "soap"),
        ("home", "towels", "towel"),
    )
))  # fmt: skip


def household(name: str, *bought: str, on: float = 0) -> list[Event]:
    return [Event(name, product, f"{name}{n}", on + n / 100) for n, product in enumerate(bought)]


def test_the_category_that_those_alike_buy_and_one_does_not() -> None:
    """Main category dairy: of 5 customers 3 buy bread, 1 soap. Soap and towels are bought by others, too."""
    rows = [
        *household("ann", "milk", "milk", "butter", on=1),
        *household("a", "milk", "milk", "rye"), *household("b", "milk", "milk", "rye"),
        *household("c", "milk", "milk", "rye"), *household("d", "milk", "milk", "soap"),
        *household("e", "towel", "towel", "soap"),
    ]  # fmt: skip
    day = a_day(*rows, until=31.5, listed=AISLES)
    mine = [row for row in told(day, "category", rest=30, chance=0.1) if row[0] == "ann"]
    assert mine[0] == ("ann", "food > bread", 31.0, ("rye",), {"category": "bread"})
    assert [row[1] for row in mine] == ["food > bread", "home > soap", "home > towels"]
    chance = (3 + KINDRED * 3 / 6) / (5 + KINDRED)
    assert [row for row in told(day, "category", rest=30, chance=chance + 0.001) if row[0] == "ann"] == []
    assert [row for row in told(day, "category", rest=30, chance=chance - 0.001) if row[0] == "ann"]
    # a turn every 30 days from the first order on
    for until, seen in ((30, 0), (31, 0), (33.1, 0), (60.9, 0), (61.5, 1)):
        found_then = brief(
            a_day(*rows, until=until, listed=AISLES), "category", rest=30, chance=0.1, within=2
        )
        assert len([row for row in found_then if row[0] == "ann"]) == 3 * seen, until


def test_scores_tell_the_likeliest_category_where_there_are_any() -> None:
    rows = [*household("ann", "milk", on=1), *household("bob", "soap", "rye", "towel", on=1)]
    scores = ("home > towels", "food > bread", "food > dairy"), np.array([[0.4, 0.3, 0.9], [0.9, 0.9, 0.0]])
    day = a_day(*rows, until=31.5, listed=AISLES, scores={"categories": scores})
    raw = TRIGGERS["category"](day, Addition(kind="category", rest=30))
    assert raw.key == ["home > towels", "food > bread"] and raw.person.tolist() == [0, 0]


def test_nothing_is_added_where_no_category_is_known() -> None:
    assert told(a_day(*household("ann", "milk"), until=31, listed=products()), "category", rest=30) == []


# --- carts, and what was looked at ------------------------------------------------------------------------

CART: list[Act] = [
    ("ann", "cart", "milk", 5.0), ("ann", "cart", "soap", 5.01), ("ann", "remove", "milk", 5.02),
    ("ann", "cart", "tea", 5.03), ("bob", "cart", "milk", 5.0), ("bob", "remove", "milk", 5.1),
    ("cem", "cart", "tea", 3.0), ("cem", "cart", "milk", 5.2),
]  # fmt: skip
SHOP = (Event("zoe", "milk", "z1", 0), Event("zoe", "soap", "z1", 0), Event("zoe", "tea", "z1", 0))


def test_a_cart_that_was_left_holds_what_was_not_taken_out_in_that_visit() -> None:
    day = a_day(*SHOP, until=5.5, acts=CART)
    key = f"{moment(5.03)}", f"{moment(5.2)}"
    assert told(day, "cart", after=0.17) == [
        ("ann", key[0], 5.2, ("soap", "tea"), {}), ("cem", key[1], 5.37, ("milk",), {}),
    ]  # fmt: skip
    assert brief(a_day(*SHOP, until=5.25, acts=CART), "cart", after=0.17) == [("ann", key[0], 5.2)]


def test_any_later_order_takes_a_cart_back() -> None:
    day = a_day(*SHOP, Event("ann", "bread", "x", 5.4), until=5.5, acts=CART)
    assert [row[0] for row in told(day, "cart", after=0.17)] == ["cem"]
    again: list[Act] = [*CART, ("ann", "cart", "milk", 5.45)]
    day = a_day(*SHOP, Event("ann", "bread", "x", 5.4), until=5.7, acts=again)
    assert [row[3] for row in told(day, "cart", after=0.17) if row[0] == "ann"] == [("milk",)]


LOOKS: list[Act] = [
    ("ann", "view", "milk", 1), ("ann", "view", "milk", 8), ("bob", "cart", "milk", 2), ("cem", "view", "soap", 2),
    ("dan", "view", "milk", 11),
]  # fmt: skip


def test_what_is_back_in_stock_is_told_to_those_who_looked_at_it_before() -> None:
    changes: list[Change] = [
        ("milk", 5, {"was_in_stock": True, "in_stock": False}),
        ("soap", 9, {"was_in_stock": None, "in_stock": True}),
        ("milk", 10, {"was_in_stock": False, "in_stock": True}),
    ]
    day = a_day(*SHOP, until=11.5, acts=LOOKS, changes=changes)
    nothing = {"was": None, "is": None}
    key = f"milk:{moment(10)}"
    assert told(day, "back", what="stock") == [
        ("ann", key, 10.0, ("milk",), nothing), ("bob", key, 10.0, ("milk",), nothing),
    ]  # fmt: skip
    assert [row[0] for row in told(day, "back", what="stock", looked=5)] == ["ann"]
    gone: list[Change] = [*changes, ("milk", 11, {"was_in_stock": True, "in_stock": False})]
    assert told(a_day(*SHOP, until=11.5, acts=LOOKS, changes=gone), "back", what="stock") == []


def test_a_price_that_dropped_and_stays_so_is_told_to_who_did_not_buy_meanwhile() -> None:
    changes: list[Change] = [
        ("milk", 9.5, {"price_before": 2.0, "price": 1.9}), ("milk", 10, {"price_before": 1.9, "price": 1.5}),
        ("soap", 10, {"price_before": None, "price": 1.0}),
    ]  # fmt: skip
    day = a_day(*SHOP, Event("bob", "milk", "b1", 3), until=11.5, acts=LOOKS, changes=changes)
    about = {"was": 1.9, "is": 1.5}
    assert told(day, "back", what="price", drop=0.2) == [
        ("ann", f"milk:{moment(10)}", 10.0, ("milk",), about)
    ]
    assert told(day, "back", what="price", drop=0.22) == []
    dear: list[Change] = [*changes, ("milk", 11, {"price_before": 1.5, "price": 1.9})]
    assert told(a_day(*SHOP, until=11.5, acts=LOOKS, changes=dear), "back", what="price", drop=0.2) == []


# --- days of the year, and spend --------------------------------------------------------------------------


def on(day: str) -> float:
    return (date.fromisoformat(day) - START.date()).days


def test_an_anniversary_is_kept_by_the_stores_calendar() -> None:
    """Half past two in the night to 1 March in UTC is still 29 February in New York."""
    rows = [
        Event("ann", "milk", "o1", on("2024-03-01") + 2.5 / 24),
        Event("bob", "milk", "o2", on("2024-03-01")),
    ]
    about = {"years": 1, "ordered_on": "2024-02-29"}
    day = a_day(rows[0], until=on("2025-02-28") + 0.5, zone="America/New_York")
    assert told(day, "anniversary") == [("ann", "2025", round(on("2025-02-28") + 5 / 24, 3), (), about)]
    assert told(a_day(rows[0], until=on("2025-02-28") + 0.2, zone="America/New_York"), "anniversary") == []
    day = a_day(*rows, until=on("2028-03-01") + 0.5)
    assert [row[:2] for row in told(day, "anniversary")] == [("ann", "2028"), ("bob", "2028")]
    assert [row[4]["years"] for row in told(day, "anniversary")] == [4, 4]


@pytest.mark.parametrize("until", ["2025-01-01", "2024-12-31", "2025-12-31", "2026-01-01", "2028-12-31"])
def test_no_anniversary_is_missed_at_the_turn_of_a_year(until: str) -> None:
    ann, bob = Event("ann", "milk", "o1", on("2024-12-31")), Event("bob", "milk", "o2", on("2024-01-01"))
    found_then = brief(a_day(ann, bob, until=on(until) + 0.5), "anniversary", within=1)
    expected = {"12-31": "ann", "01-01": "bob"}[until[5:]]
    year = int(until[:4])
    assert [row[:2] for row in found_then] == ([(expected, until[:4])] if year > 2024 else [])


def test_a_late_import_sends_nothing_for_what_is_past() -> None:
    day = a_day(Event("ann", "milk", "o1", 0), until=on("2025-01-10"))
    assert told(day, "anniversary") == [] and told(day, "order") == []


def test_a_tier_is_reached_by_the_order_that_lifts_spend_over_it() -> None:
    """Within 30 days: 60 on day 0, 50 on day 10 make silver; 100 more on day 41 gold, as the first two have gone."""
    tiers = {"silver": 100.0, "gold": 140.0}
    rows = [
        Event("ann", "milk", "o1", 0, price=60.0), Event("ann", "milk", "o2", 10, price=50.0),
        Event("ann", "milk", "o3", 41, price=100.0), Event("ann", "milk", "o4", 42, price=50.0),
        Event("bob", "milk", "o5", 10, price=500.0),
    ]  # fmt: skip
    seen = {
        until: told(a_day(*rows, until=until), "tier", days=30, tiers=tiers) for until in (11, 12.5, 42.5)
    }
    assert seen[11] == [
        ("ann", "silver:2024", 10.0, (), {"tier": "silver"}), ("bob", "gold:2024", 10.0, (), {"tier": "gold"}),
    ]  # fmt: skip
    assert seen[12.5] == []
    assert seen[42.5] == [("ann", "gold:2024", 42.0, (), {"tier": "gold"})]


def test_spend_is_each_customers_own_however_many_there_are() -> None:
    rows = [Event(f"c{n:03}", "milk", f"o{n}-{on}", on, price=40.0) for n in range(120) for on in (0, 300)]
    rows += [Event("c119", "milk", "last", 301, price=40.0)]
    day = a_day(*rows, until=301.5)
    assert brief(day, "tier", days=30, tiers={"silver": 80.0}) == [("c119", "silver:2024", 301.0)]
    year = brief(day, "tier", tiers={"silver": 80.0, "gold": 120.0}, within=3)
    assert year[-1] == ("c119", "gold:2024", 301.0) and len(year) == 120


def test_a_broadcast_is_for_everybody_from_its_day_on() -> None:
    day = a_day(*orders("ann", 1), until=5.5, agreed={"pia": 2}, zone="America/New_York")
    about = ("2024-01-06", round(on("2024-01-06") + 5 / 24, 3))
    assert brief(day, "broadcast", on="2024-01-06") == [("ann", *about), ("pia", *about)]
    assert brief(day, "broadcast", on="2024-01-07") == []


# --- all of them ------------------------------------------------------------------------------------------

EVERY: dict[str, Words] = {
    "joined": {}, "order": {}, "first_gap": {}, "rhythm": {}, "due": {"chance": 0}, "cart": {}, "anniversary": {},
    "stage": {"stages": ["prospect", "new", "active", "loyal", "brink", "lapsed", "won_back"], "steps": [0, 3]},
    "category": {"chance": 0, "rest": 5}, "back": {"what": "stock"}, "milestone": {"orders": [1, 2, 3, 4]},
    "tier": {"tiers": {"low": 1, "high": 5}, "days": 30}, "broadcast": {"on": "2024-02-01"},
}  # fmt: skip


def test_every_kind_has_a_function_words_and_a_test() -> None:
    kinds = {get_args(of.model_fields["kind"].annotation)[0] for of in get_args(get_args(Trigger)[0])}
    assert kinds == {*TRIGGERS} == {*WORDS} == {*EVERY}


@pytest.mark.parametrize("kind", TRIGGERS)
def test_without_anybody_there_is_no_occasion(kind: str) -> None:
    assert told(a_day(until=31, listed=AISLES), kind, **EVERY[kind]) == []
    assert len(found(a_day(Event(None, "milk", "o", 1), until=31), trigger(kind, **EVERY[kind]))) == 0


PEOPLE, GOODS = ("ann", "bob", "cem"), ("milk", "rye", "soap")
DAYS = st.integers(0, 480).map(lambda n: n / 8)
PURCHASES = st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(GOODS), DAYS), max_size=25)
ACTED = st.lists(
    st.tuples(st.sampled_from(PEOPLE), st.sampled_from(("view", "cart", "remove")), st.sampled_from(GOODS), DAYS),
    max_size=10,
)  # fmt: skip
TOLD = st.lists(
    st.tuples(st.sampled_from(GOODS), DAYS, st.booleans().map(lambda in_: {"was_in_stock": not in_, "in_stock": in_})),
    max_size=6,
)  # fmt: skip
AGREED = st.dictionaries(st.sampled_from(PEOPLE), DAYS)
UNTIL = 30


def later(day: float) -> float:
    """The same before UNTIL; whatever lies at or after it lies elsewhere."""
    return day if day < UNTIL else UNTIL + (day * 7) % 13


@given(PURCHASES, ACTED, TOLD, AGREED)
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_what_comes_later_changes_nothing(
    bought: Sequence[tuple[str, str, float]], acted: Sequence[Act], said: Sequence[Change], agreed: dict[str, float]
) -> None:  # fmt: skip
    """A trigger finds the same, be the future as it is, another, or none at all; and what may be said is what
    WORDS names."""

    def days(shift: Any) -> Day:
        kept = [(who, what, shift(on)) for who, what, on in bought if shift(on) is not None]
        rows = [Event(who, what, f"{who}{on}", on) for who, what, on in kept]
        acts = [(*act, shift(on)) for *act, on in acted if shift(on) is not None]
        changes = [(what, shift(on), about) for what, on, about in said if shift(on) is not None]
        yes = {who: shift(on) for who, on in agreed.items() if shift(on) is not None}
        return a_day(*rows, until=UNTIL, acts=acts, changes=changes, agreed=yes, listed=AISLES)

    futures = [days(shift) for shift in (lambda on: on, later, lambda on: on if on < UNTIL else None)]
    for kind, about in EVERY.items():
        first, *others = [told(day, kind, within=30, **about) for day in futures]
        assert all(other == first for other in others), kind
        assert all(row[2] < UNTIL for row in first)
        assert all({*row[4]} == {*WORDS[kind]} for row in first)
        assert len({row[:2] for row in first}) == len(first), "an occasion is named once"
