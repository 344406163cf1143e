"""The questions that a future answers, on events that can be counted by hand. The past ends on day 58.5."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import tiny
from tiny import GROCER, UNTIL, Basket

from serving.bundle import Bundle
from serving.schemas import RecommendRequest
from training.split import (
    AUDITS,
    Future,
    Task,
    baskets,
    chances,
    cut_short,
    habits,
    missing_needs,
    natural_rank,
    novel,
    purchases,
    repeats,
    sampled,
    steps_up,
)

PAST: tuple[Basket, ...] = (
    ("anna", "1", 0, "bread butter"),
    ("anna", "2", 20, "bread"),
    ("bert", "3", 5, "rolls"),
    ("carl", "4", 7, "soap"),
)
LATER: tuple[Basket, ...] = (
    ("anna", "5", 60, "bread milk"),
    ("anna", "6", 70, "bread novelty comet"),
    ("carl", "7", 61, "soap"),
    ("dora", "8", 62, "bread"),
    (None, "9", 63, "bread"),
)


def world(
    past: Sequence[Basket], later: Sequence[Basket], goods: tiny.Goods = GROCER
) -> tuple[Bundle, Future]:
    made = tiny.unfitted(past, goods)
    return made, tiny.future(made, [*past, *later], goods)


def named(made: Bundle, task: Task) -> list[tuple[str | None, list[str]]]:
    """Who is asked for, and the right answers; ? for a product that the bundle does not know."""

    def name(place: int) -> str:
        return made.catalog.items.at([place])[0] if place >= 0 else "?"

    pairs = zip(task.requests, task.truth, strict=True)
    return [(request.customer_id, sorted(name(int(t)) for t in truth)) for request, truth in pairs]


# --- purchases --------------------------------------------------------------------------------------------


def test_purchases_are_those_of_known_customers_each_once_and_new_products_are_misses() -> None:
    """Bert buys nothing; Dora and a stranger are unknown; novelty and comet were first sold in the window."""
    made, later = world(PAST, LATER)
    assert named(made, purchases(made, later)) == [("anna", ["?", "?", "bread", "milk"]), ("carl", ["soap"])]
    assert purchases(made, later).k == 10


def test_novel_is_what_was_never_bought_before() -> None:
    made, later = world(PAST, LATER)
    assert named(made, novel(made, later)) == [("anna", ["?", "?", "milk"])]


def test_repeats_are_what_was_bought_before() -> None:
    made, later = world(PAST, LATER)
    assert named(made, repeats(made, later)) == [("anna", ["bread"]), ("carl", ["soap"])]


def test_the_window_holds_its_first_moment_and_the_past_does_not() -> None:
    edge = (UNTIL - tiny.FIRST) / timedelta(days=1)
    past = (*PAST, ("bert", "10", edge - 1 / 86_400, "milk"), ("bert", "11", edge, "gold"))
    made, later = world(past, ())
    assert "gold" not in {made.catalog.items.at([i])[0] for i in made.interactions.item}
    assert "milk" in {made.catalog.items.at([i])[0] for i in made.interactions.item}
    assert named(made, purchases(made, later)) == [("bert", ["gold"])]


def test_a_product_listed_only_later_is_a_miss() -> None:
    goods = {**GROCER, "novelty": {"title": "Novelty", "known_from": UNTIL}, "comet": {"title": "Comet"}}
    made, later = world(PAST, LATER, goods)
    assert named(made, purchases(made, later))[0] == ("anna", ["?", "bread", "comet", "milk"])


def test_an_empty_future_asks_nothing() -> None:
    made, later = world(PAST, ())
    assert all(len(row.make(made, later)) == 0 for row in AUDITS)


# --- baskets ----------------------------------------------------------------------------------------------

NUMBERS = tuple(
    (customer, order, 60.0 + day, products)
    for day, (customer, order, products) in enumerate(
        [
            ("anna", "100", "2 10 1 30"),
            (None, "9", "7 8 100 20 3"),
            ("bert", "20", "1 2 3"),
            ("zoe", "10", "5 50 500 6"),
            ("anna", "30", "1 1 2 2 3"),
        ]
    )
)
EARLIER: tuple[Basket, ...] = (("anna", "1", 0, "1 2"), ("bert", "3", 5, "3"))
NUMBERED: tiny.Goods = {str(n): {"title": str(n)} for n in range(1, 21)}


def test_of_every_basket_of_four_one_product_is_hidden() -> None:
    """Orders and products in the order of integers, a draw each from one generator: 9, 10, 100. The orders of
    three distinct products, 20 and 30, are left out and take no draw."""
    made, later = world(EARLIER, NUMBERS, NUMBERED)
    rng = np.random.default_rng(42)
    expected = []
    for products in (["3", "7", "8", "20", "100"], ["5", "6", "50", "500"], ["1", "2", "10", "30"]):
        hidden = int(rng.integers(len(products)))
        expected.append((products[:hidden] + products[hidden + 1 :], products[hidden]))
    task = baskets(made, later)
    assert [list(r.product_ids) for r in task.requests] == [rest for rest, _ in expected]
    assert [products for _, products in named(made, task)] == [["?"]] * 3  # all sold too rarely


def test_a_hidden_product_counts_from_three_baskets_of_the_past_on() -> None:
    """The draws hide 3 of the order 9, then 500, then 10."""
    sold = tuple((None, f"4{n}", 1.0, "3" if n < 1 else "3 10") for n in range(4))
    for fewer, found in ((0, ["3", "10"]), (1, ["3", "10"]), (2, ["?", "?"])):
        made, later = world((*EARLIER[:1], *sold[fewer:]), NUMBERS, NUMBERED)
        assert [products for _, products in named(made, baskets(made, later))] == [
            [found[0]],
            ["?"],
            [found[1]],
        ]


def test_complements_hide_a_need_that_the_rest_of_the_basket_does_not_serve() -> None:
    alike = {**NUMBERED, "3": {"title": "3", "need": "bread"}, "8": {"title": "8", "need": "bread"}}
    made, later = world(EARLIER, NUMBERS, alike)
    asked = baskets(made, later, complements=True)
    assert [r.product_ids for r in asked.requests] == [("5", "6", "50"), ("1", "2", "30")]
    assert all(r.complements_only for r in asked.requests)
    assert len(baskets(made, later)) == 3


def test_the_draws_of_the_protocol() -> None:
    """The first integers of default_rng(42) below 5, 4 and 4, so that nobody changes the generator unseen."""
    rng = np.random.default_rng(42)
    assert [int(rng.integers(n)) for n in (5, 4, 4)] == [0, 3, 2]
    made, later = world(EARLIER, NUMBERS, NUMBERED)
    assert [r.product_ids for r in baskets(made, later).requests] == [
        ("7", "8", "20", "100"),
        ("5", "6", "50"),
        ("1", "2", "30"),
    ]


def test_the_customer_is_named_where_asked_and_known() -> None:
    made, later = world(EARLIER, NUMBERS, NUMBERED)
    assert [r.customer_id for r in baskets(made, later).requests] == [None, None, None]
    asked = baskets(made, later, known_customer=True)
    assert [r.customer_id for r in asked.requests] == [None, None, "anna"]
    assert asked.customer.tolist() == baskets(made, later).customer.tolist() == [-1, -1, 0]


def test_ranks_are_of_integers_where_all_are_else_of_text() -> None:
    assert natural_rank(["10", "9", "100"]).tolist() == [1, 0, 2]
    assert natural_rank(["10", "9", "b"]).tolist() == [0, 1, 2]
    assert natural_rank(["10", "²"]).tolist() == [0, 1]
    assert natural_rank([]).tolist() == []


# --- steps up: bread 2.00, rolls 3.00, spelt 5.00, gold 9.00 are one need -----------------------------------


def ups(
    past: Sequence[Basket], later: Sequence[Basket]
) -> list[tuple[str | None, tuple[str, ...], list[str]]]:
    made, future = world(past, later)
    task = steps_up(made, future)
    assert task.k == 5
    return [
        (r.customer_id, r.product_ids, t) for r, (_, t) in zip(task.requests, named(made, task), strict=True)
    ]


TWICE: tuple[Basket, ...] = (("anna", "1", 0, "bread milk"), ("anna", "2", 20, "bread"))


def test_a_step_up_is_a_dearer_product_never_had_in_the_first_order_of_the_need() -> None:
    assert ups(TWICE, [("anna", "5", 60, "spelt milk")]) == [("anna", ("bread",), ["spelt"])]


@pytest.mark.parametrize(
    ("why", "past", "later"),
    [
        ("bought once is no habit", TWICE[:1], [("anna", "5", 60, "spelt")]),
        ("the first order decides", TWICE, [("anna", "5", 60, "bread"), ("anna", "6", 61, "spelt")]),
        ("had before", (*TWICE, ("anna", "3", 30, "spelt")), [("anna", "5", 60, "spelt")]),
        ("cheaper", (*TWICE, ("anna", "3", 30, "gold"), ("anna", "4", 31, "gold"), ("anna", "4b", 32, "gold")),
         [("anna", "5", 60, "spelt")]),
        ("another need", TWICE, [("anna", "5", 60, "towel")]),
        ("another customer", TWICE, [("bert", "5", 60, "spelt")]),
        ("too long ago", (("anna", "1", -200, "bread"), ("anna", "2", -190, "bread")), [("anna", "5", 60, "spelt")]),
        ("one of the two too long ago", (("anna", "1", -200, "bread"), TWICE[1]), [("anna", "5", 60, "spelt")]),
    ],
)  # fmt: skip
def test_what_is_no_step_up(why: str, past: Sequence[Basket], later: Sequence[Basket]) -> None:
    assert not ups(past, later), why


def test_of_two_steps_the_lowest_id_counts_and_an_order_without_the_need_is_passed_over() -> None:
    later = [("anna", "5", 60, "milk"), ("anna", "6", 61, "spelt gold bread")]
    assert ups(TWICE, later) == [("anna", ("bread",), ["gold"])]


def test_the_habit_is_the_product_in_most_orders_the_latest_of_equals() -> None:
    past = (("anna", "1", 0, "bread"), ("anna", "2", 5, "rolls"), ("anna", "3", 9, "bread rolls"),
            ("anna", "4", 20, "bread"), ("bert", "5", 0, "bread"), ("bert", "6", 9, "rolls"))  # fmt: skip
    made, _ = world(past, ())
    found = habits(made)
    customers = made.interactions.customers.at(found["customer"].to_numpy())
    products = made.catalog.items.at(found["habit"].to_numpy())
    assert sorted(zip(customers, products, strict=True)) == [("anna", "bread"), ("bert", "rolls")]


@pytest.mark.parametrize(("price", "is_step"), [(2.18, False), (2.2, True), (2.22, True)])
def test_a_step_is_a_tenth_dearer(price: float, is_step: bool) -> None:
    goods = {**GROCER, "spelt": {**GROCER["spelt"], "price": price}}
    made, future = world(TWICE, [("anna", "5", 60, "spelt")], goods)
    assert bool(len(steps_up(made, future))) is is_step


def test_every_habit_that_is_served_again_is_a_chance_with_the_step_that_was_taken() -> None:
    past = (*TWICE, ("bert", "3", 0, "bread"), ("bert", "4", 20, "bread"), ("carl", "5", 0, "rolls"),
            ("carl", "6", 20, "rolls"))  # fmt: skip
    later = [("anna", "7", 60, "bread"), ("anna", "8", 61, "spelt"), ("bert", "9", 60, "gold milk")]
    made, future = world(past, later)
    task = chances(made, future)
    assert [r.customer_id for r in task.requests] == ["anna", "bert"]
    assert [t for _, t in named(made, task)] == [[], ["gold"]]


def test_of_every_basket_one_need_is_hidden_that_a_single_product_serves() -> None:
    """Bread and rolls are one need; an order of three products, or without a single one of a need, is passed over."""
    later = [
        ("anna", "10", 60, "bread rolls butter soap"), ("bert", "11", 61, "bread rolls butter"),
        ("bert", "12", 62, "bread rolls butter milk"), (None, "13", 63, "bread butter soap towel"),
    ]  # fmt: skip
    made, future = world(TWICE, later)
    task = missing_needs(made, future, known_customer=True)
    needs = [made.catalog.needs[int(t[0])] for t in task.truth]
    drawn = np.random.default_rng(42)
    dairy, soap = "food > dairy", "home > soap"
    assert needs == [
        str(drawn.choice([dairy, soap])), str(drawn.choice(["food > bread", dairy, soap, "home > towels"])),
    ]  # fmt: skip
    assert [r.customer_id for r in task.requests] == ["anna", None]
    held = [{*r.product_ids} for r in task.requests]
    assert held[0] == {"bread", "rolls", "butter", "soap"} - ({"butter"} if needs[0] == dairy else {"soap"})
    assert len(held[1]) == 3
    assert {r.customer_id for r in missing_needs(made, future).requests} == {None}


# --- samples ----------------------------------------------------------------------------------------------


def test_a_sample_keeps_the_order_and_the_pairs() -> None:
    requests = [RecommendRequest(customer_id=str(n)) for n in range(50)]
    task = Task(requests, [np.array([n], np.int32) for n in range(50)], np.arange(50, dtype=np.int32), k=3)
    some = sampled(task, 20, seed=7)
    asked = [int(str(r.customer_id)) for r in some.requests]
    assert asked == sorted(set(asked)) and len(asked) == 20 and some.k == 3
    assert asked == [int(t[0]) for t in some.truth] == some.customer.tolist()
    assert [r.customer_id for r in sampled(task, 20, seed=7).requests] == [str(n) for n in asked]
    assert sampled(task, 50, seed=7) is task
    # what a request may say besides changes nothing: figures of one version of the code and the next compare
    ruled = RecommendRequest.model_validate({"rules": [{"rule": "diverse", "by": 0.5}]}).rules
    asking = [r.model_copy(update={"rules": ruled}) for r in task.requests]
    also = sampled(replace(task, requests=asking), 20, seed=7)
    assert [r.customer_id for r in also.requests] == [str(n) for n in asked]


def test_every_placement_is_asked_something() -> None:
    from serving.placements import PLACEMENTS

    assert {row.placement for row in AUDITS} == set(PLACEMENTS)


def test_some_customers_are_known_by_their_last_orders_alone() -> None:
    many = [(f"c{n}", f"{n}-{k}", k, "bread milk") for n in range(200) for k in range(5)]
    whole = tiny.known([*many, (None, "guest", 3, "bread")], GROCER)
    short = cut_short(whole, share=0.5, most=3, seed=1)
    was, now = whole.interactions, short.interactions
    assert short.catalog is whole.catalog and now.customers is was.customers
    orders = np.array([len(np.unique(now.order[now.rows(c)])) for c in range(200)])
    assert set(orders.tolist()) == {1, 2, 3, 5} and 70 < (orders < 5).sum() < 130
    assert (now.customer < 0).sum() == 1 + 2 * (5 - orders).sum() and (np.diff(now.customer) >= 0).all()
    np.testing.assert_array_equal(np.sort(now.order), np.sort(was.order))
    for c in range(200):
        mine, all_mine = now.rows(c), was.rows(c)
        kept = 2 * orders[c]  # two products an order
        np.testing.assert_array_equal(now.at[mine], was.at[all_mine][-kept:])
        np.testing.assert_array_equal(now.item[mine], was.item[all_mine][-kept:])
    again = cut_short(whole, share=0.5, most=3, seed=1).interactions
    np.testing.assert_array_equal(again.order, now.order)
