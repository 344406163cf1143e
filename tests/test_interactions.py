from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import Event, contents, day, events, products, returned, shop, told

from features.catalog import Catalog
from features.interactions import Ids, Interactions, moment, seconds

TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6)
ANY = st.one_of(st.text(max_size=12), TEXTS)  # NULs and lone surrogates too, as a request may hold them

# --- ids --------------------------------------------------------------------------------------------------


@given(st.sets(TEXTS), st.data())
@settings(deadline=None)
def test_a_known_id_comes_back(known: set[str], data: st.DataObject) -> None:
    ids = Ids.of(known)
    asked = data.draw(st.lists(st.sampled_from(sorted(known)))) if known else []
    assert ids.at(ids.positions(asked)) == asked


@given(st.sets(TEXTS), st.lists(ANY))
@settings(deadline=None)
def test_an_id_is_at_its_place_in_the_order_of_bytes_or_at_minus_one(
    known: set[str], asked: list[str]
) -> None:
    place = {text: n for n, text in enumerate(sorted(known, key=str.encode))}
    ids = Ids.of(known)
    found = ids.positions(asked)
    assert found.dtype == np.int32
    assert found.tolist() == [place.get(text, -1) for text in asked] == [*map(ids.position, asked)]


@pytest.mark.parametrize(
    "stranger",
    [
        "milk-and-honey",
        "breadcrumbs",
        "mil",
        "milk\0",
        "\0",
        "",
        "Milk",
        "ミルク",
        "mílk",
        "\ud800",
        "z",
        "a",
    ],
)
def test_a_stranger_is_minus_one(stranger: str) -> None:
    ids = Ids.of(["bread", "milk", "öl"])
    assert ids.positions(["milk", stranger]).tolist() == [1, -1] == [*map(ids.position, ("milk", stranger))]


@pytest.mark.parametrize("stranger", ["too long", "a\0", "\0", "\ud800"])
def test_a_stranger_is_neither_the_empty_id_nor_a_question_mark(stranger: str) -> None:
    ids = Ids.of(["", "?", "a"])
    assert ids.positions([stranger]).tolist() == [-1] == [ids.position(stranger)]


def test_ids_are_sorted_as_bytes_and_unique() -> None:
    ids = Ids.of(["é", "b", "a", "é", "B", "日本"])
    assert ids.at(np.arange(len(ids))) == ["B", "a", "b", "é", "日本"]
    assert ids.values.dtype.kind == "S"


def test_no_ids_know_nobody() -> None:
    empty = Ids.of([])
    assert len(empty) == 0
    assert empty.positions(["a", ""]).tolist() == [-1, -1] == [empty.position("a"), empty.position("")]
    assert empty.column(pa.array(["a", None])).tolist() == [-1, -1]
    assert empty.at([]) == []


@pytest.mark.parametrize("place", [-1, 2, [0, -1]])
def test_a_place_out_of_range_names_nobody(place: int | list[int]) -> None:
    with pytest.raises(IndexError):
        Ids.of(["a", "b"]).at(np.atleast_1d(place))


COLUMNS: dict[str, Callable[[list[str | None]], pa.Array]] = {
    "plain": lambda asked: pa.array(asked, pa.string()),
    "dictionary": lambda asked: pa.array(asked, pa.dictionary(pa.int32(), pa.string())),
    "narrow dictionary": lambda asked: pa.array(asked, pa.dictionary(pa.int8(), pa.string())),
    "chunks": lambda asked: pa.chunked_array([asked[:2], asked[2:]], pa.string()),
    "chunks of two dictionaries": lambda asked: pa.chunked_array(
        [pa.array(part, pa.string()).dictionary_encode() for part in (asked[:2], asked[2:])]
    ),
    "no chunk": lambda asked: pa.chunked_array([pa.array(asked, pa.string())] if asked else [], pa.string()),
}


@pytest.mark.parametrize("form", COLUMNS)
@given(known=st.sets(TEXTS), asked=st.lists(st.none() | TEXTS, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_column_is_found_like_its_values(form: str, known: set[str], asked: list[str | None]) -> None:
    ids = Ids.of(known)
    expected = [-1 if text is None else int(ids.positions([text])[0]) for text in asked]
    assert ids.column(COLUMNS[form](asked)).tolist() == expected


def test_a_full_dictionary_of_narrow_codes_is_read() -> None:
    names = [str(n) for n in range(128)]  # one more code than an int8 has room for would say: missing
    column = pa.DictionaryArray.from_arrays(pa.array([0, 127, None], pa.int8()), pa.array(names))
    assert Ids.of(names).column(column).tolist() == [0, sorted(names).index("127"), -1]


# --- moments ----------------------------------------------------------------------------------------------


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        seconds(datetime(2017, 12, 1))  # noqa: DTZ001
    assert moment(seconds(datetime(2017, 12, 1, tzinfo=UTC))) == datetime(2017, 12, 1, tzinfo=UTC)


# --- purchases --------------------------------------------------------------------------------------------


def rows(*lines: Event, until: float = 100) -> list[tuple[str | None, str, str, float, float, float]]:
    return told(shop(*lines, until=until).interactions)


def test_lines_of_one_order_are_one_row_at_its_first_moment() -> None:
    assert rows(
        Event("ann", "milk", "o1", 3.5, quantity=2, price=2.0),
        Event("ann", "milk", "o1", 3.0, quantity=1, price=1.5),
        Event("ann", "bread", "o1", 3.25),
    ) == [
        ("ann", "bread", "o1", 3.0, 1.0, 2.0),
        ("ann", "milk", "o1", 3.0, 3.0, 5.5),
    ]


def test_rows_are_sorted_by_customer_then_time_then_order_then_item() -> None:
    assert [row[:4] for row in rows(
        Event("bob", "milk", "o1", 1),
        Event("ann", "milk", "o4", 5),
        Event("ann", "milk", "o9", 2),
        Event("ann", "bread", "o9", 2),
        Event("ann", "bread", "o3", 5),
        Event(None, "bread", "o7", 9),
    )] == [
        (None, "bread", "o7", 9),
        ("ann", "bread", "o9", 2),
        ("ann", "milk", "o9", 2),
        ("ann", "bread", "o3", 5),
        ("ann", "milk", "o4", 5),
        ("bob", "milk", "o1", 1),
    ]  # fmt: skip


def test_what_was_given_away_is_no_purchase_and_what_has_no_price_is_one() -> None:
    assert rows(
        Event("ann", "milk", "o1", 1, price=0.0, discount=2.0),
        Event("ann", "bread", "o1", 1, price=None),
        Event("ann", "soap", "o1", 1, price=0.01),
    ) == [
        ("ann", "bread", "o1", 1, 1, 0),
        ("ann", "soap", "o1", 1, 1, pytest.approx(0.01)),
    ]


def test_an_anonymous_basket_is_in_baskets_and_not_in_the_matrix() -> None:
    data = shop(Event(None, "milk", "o1", 1), Event("ann", "soap", "o2", 1), until=9).interactions
    assert data.customer.tolist() == [-1, 0]
    assert data.baskets().toarray().tolist() == [[1, 0], [0, 1]]
    assert data.matrix(lambda d: d.quantity).toarray().tolist() == [[0, 1]]


def test_products_that_may_not_be_recommended_are_dropped_with_whom_they_alone_make_known() -> None:
    listed = products({"product_id": "fuel", "eligible": False}, {"product_id": "milk"})
    data = shop(
        Event("ann", "milk", "o1", 1), Event("ann", "fuel", "o1", 0), Event("bob", "fuel", "o2", 1),
        until=9, listed=listed,
    ).interactions  # fmt: skip
    assert told(data) == [("ann", "milk", "o1", 1, 1, 2)]
    assert (len(data.customers), len(data.orders), len(data.items)) == (1, 1, 2)


def test_an_event_at_the_cutoff_belongs_to_the_future() -> None:
    second = 1 / 86_400
    lines = [
        Event("ann", "milk", "o1", 5 - second),
        Event("ann", "soap", "o2", 5),
        Event("bob", "milk", "o3", 6),
    ]
    data = shop(*lines, until=5).interactions
    assert data.orders.at([0]) == ["o1"]
    assert len(data) == len(data.customers) == len(data.orders) == len(data.items) == 1
    assert data.age().tolist() == [pytest.approx(second)]


def test_other_events_are_no_purchases() -> None:
    assert rows(Event("ann", "milk", "o1", 1, type="view"), Event("ann", None, None, 1, type="open")) == []


def test_nothing_is_a_history_too() -> None:
    data = shop(until=9).interactions
    assert (len(data), len(data.customers), data.matrix(lambda d: d.quantity).shape) == (0, 0, (0, 0))
    assert data.rows(-1) == slice(0, 0)


# --- returns ----------------------------------------------------------------------------------------------

TWICE = (Event("ann", "milk", "o1", 1, quantity=2), Event("ann", "milk", "o2", 5, quantity=2, price=3.0))


@pytest.mark.parametrize(
    ("back", "left"),
    [
        ([returned("ann", "milk", "o1", 7, 2)], {"o2": (2, 6)}),
        ([returned("ann", "milk", "o1", 7, 1)], {"o1": (1, 2), "o2": (2, 6)}),
        ([returned("ann", "milk", None, 7, 1)], {"o1": (2, 4), "o2": (1, 3)}),
        ([returned("ann", "milk", "o9", 7, 1)], {"o1": (2, 4), "o2": (1, 3)}),
        ([returned("ann", "milk", None, 7, 3)], {"o1": (1, 2)}),
        ([returned("ann", "milk", "o1", 7, 3)], {"o2": (1, 3)}),
        ([returned("ann", "milk", None, 7, 99)], {}),
        ([returned("ann", "milk", None, 3, 3)], {"o2": (2, 6)}),
        ([returned("ann", "milk", None, 0.5, 3)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned("ann", "milk", "o2", 3, 1)], {"o1": (1, 2), "o2": (2, 6)}),
        ([returned("ann", "milk", None, 10, 1)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned("ann", "milk", None, 12, 1)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned("ann", "milk", None, 9, 2), returned("ann", "milk", None, 3, 2)], {}),
        ([returned("ann", "soap", "o1", 7)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned("bob", "milk", None, 7)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned(None, "milk", None, 7)], {"o1": (2, 4), "o2": (2, 6)}),
        ([returned(None, "milk", "o1", 7)], {"o1": (1, 2), "o2": (2, 6)}),
        ([returned(None, "milk", "o1", 7, 3)], {"o2": (2, 6)}),
    ],
    ids=[
        "all of the order it names", "part of the order it names", "the latest where it names none",
        "the latest where it names one unheard of", "the latest, then the one before",
        "the order it names, then the latest", "no more than was bought", "nothing that came later",
        "nothing before the first purchase", "not the order it names where that came later",
        "unseen at the cutoff", "unseen after the cutoff", "one after the other by their time",
        "another product", "another customer", "anonymous without an order", "anonymous with the order",
        "anonymous no further than the order",
    ],
)  # fmt: skip
def test_a_return_takes_back(back: list[Event], left: dict[str, tuple[float, float]]) -> None:
    assert {row[2]: row[4:] for row in rows(*TWICE, *back, until=10)} == left


@pytest.mark.parametrize(
    ("back", "left"),
    [
        ([returned("ann", "milk", None, 7, 4), returned("bob", "milk", "o1", 7, 2)], ["o3"]),
        ([returned("ann", "milk", "o1", 7, 2), returned("bob", "milk", "o1", 7, 2)], ["o2"]),
    ],
    ids=["the one that names an order", "the first customer"],
)
def test_of_returns_at_one_moment_the_same_one_goes_first(back: list[Event], left: list[str]) -> None:
    bought = [*TWICE, Event("bob", "milk", "o3", 2, quantity=2)]
    for turn in (back, back[::-1]):
        assert [row[2] for row in rows(*bought, *turn)] == left


def test_of_purchases_at_one_moment_the_same_one_comes_back() -> None:
    bought = [Event("ann", "milk", "o1", 1), Event("ann", "milk", "o2", 1)]
    for turn in (bought, bought[::-1]):
        assert [row[2] for row in rows(*turn, returned("ann", "milk", None, 3))] == ["o2"]


def test_an_anonymous_purchase_comes_back_only_with_its_order() -> None:
    bought = [Event(None, "milk", "o1", 1), Event(None, "milk", "o2", 2)]
    assert [row[2] for row in rows(*bought, returned(None, "milk", "o1", 3))] == ["o2"]
    assert [row[2] for row in rows(*bought, returned(None, "milk", "o3", 3))] == ["o1", "o2"]
    assert [row[2] for row in rows(*bought, returned("ann", "milk", "o2", 3))] == ["o1"]


def test_a_product_that_nobody_knows_takes_nothing_back() -> None:
    bought = [Event("ann", "water", "o1", 1), Event("bob", "milk", "o2", 1)]
    assert len(rows(*bought, returned("bob", "unheard of", "o2", 3))) == 2


def test_who_returned_everything_is_forgotten() -> None:
    data = shop(
        *TWICE, returned("ann", "milk", None, 6, 4), Event("bob", "milk", "o3", 2), until=9
    ).interactions
    assert data.customers.at([0]) == ["bob"]
    assert len(data.customers) == len(data.orders) == 1


# --- laws -------------------------------------------------------------------------------------------------

PRICES = st.sampled_from([None, 0.0, 0.25, 1.0, 2.5])
LINES = st.builds(
    Event,
    st.sampled_from([None, "ann", "bob", "çem"]),
    st.sampled_from(["bread", "milk", "soap"]),
    st.sampled_from(["o1", "o2", "o3", "o4"]),
    st.integers(0, 20).map(lambda quarter: quarter / 4),
    st.sampled_from([1.0, 2.0, 0.5]),
    PRICES,
    PRICES,
)
RETURNS = st.builds(
    returned,
    st.sampled_from([None, "ann", "bob", "dan"]),
    st.sampled_from(["bread", "milk", "jam"]),
    st.sampled_from([None, "o1", "o2", "o9"]),
    st.integers(0, 20).map(lambda quarter: quarter / 4),
    st.sampled_from([1.0, 2.0, 0.5]),
)
WORLDS = st.lists(LINES | LINES | RETURNS, max_size=14)


@given(WORLDS, st.data())
@settings(deadline=None)
def test_the_order_of_the_rows_changes_nothing(world: list[Event], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(world))
    assert dict(contents(shop(*world, until=4).interactions)) == dict(
        contents(shop(*shuffled, until=4).interactions)
    )


FUTURES = st.lists(
    st.tuples(
        LINES | RETURNS, st.floats(0, 30), st.sampled_from(["bread", "new", "ünseen and much longer"])
    ).map(lambda t: t[0]._replace(on=3 + t[1], product=t[2]))
)
LISTED = (
    {"product_id": "milk", "price": None, "category": ["food"]},
    {"product_id": "old", "known_from": day(1)},
    {"product_id": "at the cutoff", "known_from": day(3)},
    {"product_id": "later", "known_from": day(4)},
)


@given(WORLDS, FUTURES, st.data())
@settings(deadline=None)
def test_what_happens_from_the_cutoff_on_changes_nothing(
    world: list[Event], future: list[Event], data: st.DataObject
) -> None:
    """The promise of the whole library: a model learns the same, whatever comes later."""
    later = [
        replaced for event in world if event.on >= 3
        for replaced in data.draw(st.sampled_from([[], [event], [event._replace(quantity=7.0, on=9)]]))
    ]  # fmt: skip
    past = [event for event in world if event.on < 3]
    told_more = shop(*data.draw(st.permutations([*past, *later, *future])), until=3, listed=products(*LISTED))
    told_less = shop(*past, until=3, listed=products(*LISTED[:2]))
    for name in ("interactions", "catalog"):
        assert dict(contents(getattr(told_more, name))) == dict(contents(getattr(told_less, name)))


@given(WORLDS)
@settings(deadline=None)
def test_a_naive_count_agrees(world: list[Event]) -> None:
    """Without returns: paid lines before the cutoff, added up by customer, order and product."""
    bought = [e for e in world if e.type == "order" and e.on < 4 and e.price != 0]
    sums: dict[tuple[str | None, str | None, str | None], list[float]] = {}
    for e in bought:
        total = sums.setdefault((e.customer, e.product, e.order), [0.0, 0.0])
        total[0] += e.quantity or 0
        total[1] += (e.quantity or 0) * (e.price or 0)
    first = {
        e[:3:2]: min(f.on for f in bought if (f.order, f.customer) == (e.order, e.customer)) for e in bought
    }
    found = told(shop(*(e for e in world if e.type == "order"), until=4).interactions)
    assert {row[:3]: list(row[4:]) for row in found} == sums
    assert all(row[3] == first[row[:3:2]] for row in found)


@given(WORLDS)
@settings(deadline=None)
def test_the_views_agree_with_the_rows(world: list[Event]) -> None:
    data: Interactions = shop(*world, until=4).interactions
    for customer in range(len(data.customers)):
        own = data.rows(customer)
        assert data.customer[own].tolist() == [customer] * (own.stop - own.start)
        assert own.stop > own.start, "a customer has purchases"
        assert np.all(np.diff(data.at[own]) >= 0)
    assert sum(data.rows(c).stop - data.rows(c).start for c in range(len(data.customers))) == np.sum(
        data.customer >= 0
    )
    by_order, start = data.order_rows
    for order in range(len(data.orders)):
        held = by_order[start[order] : start[order + 1]]
        assert held.tolist() == np.flatnonzero(data.order == order).tolist()
        assert sorted(set(data.item[held].tolist())) == data.baskets()[[order]].indices.tolist()
        assert len(set(data.customer[held].tolist())) == 1, "an order is one customer's"
        assert data.order_of(data.orders.at([order])[0], int(data.customer[held[0]])) == order
    assert set(data.baskets().data.tolist()) <= {1.0}
    matrix = data.matrix(lambda d: d.paid)
    assert matrix.dtype == np.float32
    assert matrix.sum() == pytest.approx(data.paid[data.customer >= 0].sum())
    assert np.all(data.at < data.until)
    assert np.all(data.quantity > 0)


def test_the_matrix_adds_orders_and_baskets_do_not() -> None:
    data = shop(
        Event("ann", "milk", "o1", 1), Event("ann", "milk", "o2", 3, quantity=4), until=5
    ).interactions
    assert data.matrix(lambda d: np.ones(len(d))).toarray().tolist() == [[2]]
    assert data.matrix(lambda d: d.age()).toarray().tolist() == [[4 + 2]]
    assert data.baskets().toarray().tolist() == [[1], [1]]


REUSED = (
    Event("bob", "milk", "o1", 3),
    Event("ann", "milk", "o1", 1),
    Event("ann", "bread", "o1", 1),
    Event(None, "soap", "o1", 2),
    Event("bob", "soap", "o2", 4),
)


def test_strangers_who_share_an_order_id_share_no_basket_and_no_moment() -> None:
    data = shop(*REUSED, until=5).interactions
    assert [row[:4] for row in told(data)] == [
        (None, "soap", "o1", 2), ("ann", "bread", "o1", 1), ("ann", "milk", "o1", 1),
        ("bob", "milk", "o1", 3), ("bob", "soap", "o2", 4),
    ]  # fmt: skip
    assert data.baskets().toarray().tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_an_order_is_found_by_its_id_and_whose_it_is() -> None:
    data = shop(*REUSED, Event("cem", "soap", "o3", 4), until=5).interactions
    who = [*data.customers.at([0, 1, 2]), "a guest"]
    found = {
        (name, order): data.order_of(order, customer)
        for name, customer in zip(who, (0, 1, 2, -1), strict=True)
        for order in ("o1", "o2", "o3", "o9", "")
    }
    assert {key: place for key, place in found.items() if place >= 0} == {
        ("a guest", "o1"): 0, ("ann", "o1"): 1, ("bob", "o1"): 2, ("bob", "o2"): 3, ("cem", "o3"): 4,
    }  # fmt: skip


def test_a_return_to_a_shared_order_id_takes_back_ones_own() -> None:
    for name, left in (("ann", ["bob"]), ("bob", ["ann"])):
        kept = rows(*REUSED, returned(name, "milk", "o1", 4))
        assert [row[0] for row in kept if row[1] == "milk"] == left


def test_who_uses_an_order_id_later_changes_nothing_before() -> None:
    """What an id names at a cutoff is what it named when only that was known."""
    known = [event for event in REUSED if event.on < 3]
    assert dict(contents(shop(*REUSED, until=3).interactions)) == dict(
        contents(shop(*known, until=3).interactions)
    )


def test_only_what_the_catalogue_keeps_is_read() -> None:
    table = events(Event("ann", "milk", "o1", 1), Event("ann", "soap", "o1", 1))
    catalog = Catalog.of(products(), table, until=day(9))
    keep = np.array([False, True])
    data = Interactions.from_events(table, items=catalog.items, keep=keep, until=day(9))
    assert told(data) == [("ann", "soap", "o1", 1, 1, 2)]
    assert data.item.tolist() == [1]


# --- of one customer, with what came later ----------------------------------------------------------------

LATER = 10
ORDERS = {name: float(n) for n, name in enumerate("abcdefgh", 4)}  # each on its day, half of them later
LINES = st.builds(
    lambda order, product, quantity, price: Event(
        "ann", product, order, ORDERS[order], quantity, price, 0.25
    ),
    st.sampled_from(sorted(ORDERS)), st.sampled_from(["milk", "tea", "bag"]), st.integers(1, 3).map(float),
    st.sampled_from([0.0, 2.0, 3.5]),
)  # fmt: skip
RETURNS = st.builds(
    lambda order, product, on, quantity: returned("ann", product, order, on, quantity),
    st.sampled_from([None, *ORDERS]), st.sampled_from(["milk", "tea", "bag"]), st.floats(4, 14),
    st.integers(1, 3).map(float),
)  # fmt: skip


@given(st.lists(LINES | RETURNS, max_size=25))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_one_customers_rows_with_later_events_are_those_of_a_history_that_holds_them(
    rows: list[Event],
) -> None:
    rows = [*rows, Event("bob", "milk", "y", 4), Event("bob", "tea", "z", 5)]
    listed = products(*({"product_id": p, "eligible": p != "bag"} for p in ("milk", "tea", "bag")))
    before, whole = (shop(*rows, until=until, listed=listed) for until in (LATER, 20))
    new = events(*(row for row in rows if row.on >= LATER))
    ann = int(before.interactions.customers.positions(["ann"])[0])
    keep = before.catalog.eligible
    found = before.interactions.of_one(ann, new, keep=keep, until=day(20))
    assert told(found) == [row for row in told(whole.interactions) if row[0] == "ann"]
    assert found.until == whole.interactions.until
