from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from worlds import Event, day, events, products, returned, shop

from features.catalog import Catalog
from features.customers import (
    BACK,
    BRINK,
    CATEGORY_GAPS,
    GROUP_NAMES,
    LAPSED,
    LOYAL,
    OWN_GAPS,
    QUANTILE,
    STAGES,
    Norms,
    Orders,
    facts,
    group_codes,
    month_ends,
    price_thirds,
    stages,
    stages_at,
)
from features.history import History
from features.interactions import DAY, Interactions, pasts
from training.split import Data, known


def of(*lines: Event, until: float) -> pd.DataFrame:
    data = shop(*lines, until=until)
    return facts(data.interactions, data.catalog)


def test_facts_of_a_hand_written_life() -> None:
    """Gaps: ann 2 and 4 days, bob 8. Nine in ten of ann's stay below 3.8, of all below 7.2."""
    found = of(
        Event("ann", "milk", "o9", 1, quantity=2, price=3.0), Event("ann", "soap", "o9", 1.5),
        Event("ann", "milk", "o2", 3), Event("ann", "milk", "o3", 7),
        Event("bob", "milk", "o4", 1), Event("bob", "milk", "o5", 9), Event("cem", "milk", "o6", 2.5),
        Event(None, "milk", "o7", 9), until=10,
    )  # fmt: skip
    assert found.index.tolist() == [0, 1, 2]
    assert found["recency"].tolist() == [3, 1, 7.5]
    assert found["frequency"].tolist() == [3, 2, 1]
    assert found["spend"].tolist() == [6 + 2 + 2 + 2, 4, 2]
    assert found["tenure"].tolist() == [9, 9, 7.5]
    assert found["gap"].tolist() == pytest.approx([
        (3.8 * 2 + 7.2 * OWN_GAPS) / (2 + OWN_GAPS), (8 + 7.2 * OWN_GAPS) / (1 + OWN_GAPS), 7.2,
    ])  # fmt: skip
    assert found["stage"].tolist() == ["active", "active", "new"]
    assert found[["r", "f", "m"]].to_numpy().tolist() == [[2, 3, 3], [3, 2, 2], [1, 1, 1]]
    assert found["group"].tolist() == ["Loyal", "Loyal", "Inactive"]


def test_few_gaps_lean_on_the_main_category_and_that_on_everybody() -> None:
    """Coffee is bought every 10 days by cora, tea every 20 by tess; carl and tim came once."""
    lines = [Event("cora", "coffee", f"c{n}", 10 * n) for n in range(11)]
    lines += [Event("tess", "tea", f"t{n}", 20 * n) for n in range(6)]
    lines += [Event("carl", "coffee", "x", 99), Event("tim", "tea", "y", 99)]
    listed = products(*({"product_id": name, "category": [name, "pack"]} for name in ("coffee", "tea")))
    data = shop(*lines, until=101, listed=listed)
    carl, cora, tess, tim = facts(data.interactions, data.catalog)["gap"]
    coffee, tea = ((n * g + CATEGORY_GAPS * 20) / (n + CATEGORY_GAPS) for n, g in ((10, 10), (5, 20)))
    assert (carl, tim) == pytest.approx((coffee, tea)) and coffee < tea
    assert cora == pytest.approx((10 * 10 + OWN_GAPS * coffee) / (10 + OWN_GAPS))
    assert tess == pytest.approx(20)


def test_where_nobody_came_twice_a_month_is_usual() -> None:
    found = of(Event("ann", "milk", "o1", 1), Event("bob", "milk", "o2", 1), until=2)
    assert found["gap"].tolist() == [30, 30] and found["stage"].tolist() == ["new", "new"]


@pytest.mark.parametrize("lines", [[], [Event(None, "milk", "o1", 1)]], ids=["nothing", "anonymous only"])
def test_without_customers_there_are_no_facts(lines: list[Event]) -> None:
    found = of(*lines, until=9)
    assert len(found) == 0
    assert set(found) == {"recency", "frequency", "spend", "tenure", "gap", "stage", "r", "f", "m", "group"}


def life(*days: float) -> Orders:
    """Orders of one customer on these days."""
    at = np.array([day * DAY for day in days]).astype(np.int64)
    zero = np.zeros(len(days), np.int32)
    return Orders(zero, at, np.ones(len(days)), zero[:1], np.zeros(1, np.int64), np.array([len(days)]))


WEEKLY = tuple(10.0 * n for n in range(LOYAL))
AWAY = WEEKLY[-1] + LAPSED * 10 + 1  # back after a lapse


@pytest.mark.parametrize(
    ("orders", "later", "expected"),
    [
        ((0,), 0, "new"),
        ((0,), BRINK * 10, "new"),
        ((0,), BRINK * 10 + 0.01, "brink"),
        ((0,), LAPSED * 10 + 0.01, "lapsed"),
        (WEEKLY[:2], 0, "active"),
        (WEEKLY[:-1], BRINK * 10, "active"),
        (WEEKLY, BRINK * 10, "loyal"),
        (WEEKLY, BRINK * 10 + 0.01, "brink"),
        (WEEKLY, LAPSED * 10, "brink"),
        (WEEKLY, LAPSED * 10 + 0.01, "lapsed"),
        ((*WEEKLY, AWAY - 1), 0, "loyal"),
        ((*WEEKLY, AWAY), 0, "won_back"),
        ((*WEEKLY, AWAY), BRINK * 10 + 0.01, "brink"),
        ((*WEEKLY, *(AWAY + n for n in range(BACK - 1))), 0, "won_back"),
        ((*WEEKLY, *(AWAY + n for n in range(BACK))), 0, "active"),
        ((*WEEKLY, *(AWAY + n for n in range(LOYAL))), 0, "loyal"),
    ],
)
def test_stages_and_their_boundaries(orders: tuple[float, ...], later: float, expected: str) -> None:
    until = round((orders[-1] + later) * DAY)
    assert STAGES[stages(life(*orders), np.array([10.0]), until)[0]] == expected


def test_no_gap_at_all_is_an_hour() -> None:
    """Several orders at one moment: an hour and a half later is not late yet, two are."""
    minutes = {60 * BRINK: "active", 120: "brink", 60 * LAPSED + 1: "lapsed"}
    for later, expected in minutes.items():
        assert STAGES[stages(life(0, 0, 0), np.zeros(1), int(later * 60))[0]] == expected


def test_every_score_has_one_group() -> None:
    scores = np.array(list(product((1, 2, 3), repeat=3)), np.int8)
    named = {
        tuple(s): GROUP_NAMES[code] for s, code in zip(scores.tolist(), group_codes(*scores.T), strict=True)
    }
    assert len(named) == 27 and set(named.values()) == set(GROUP_NAMES)
    assert named[3, 3, 3] == named[3, 2, 3] == "Champions" and named[3, 1, 1] == "Recent"
    assert named[2, 3, 3] == named[3, 2, 2] == "Loyal" and named[2, 2, 2] == "Needs Attention"
    assert named[1, 3, 1] == "At Risk" and named[1, 2, 1] == "Inactive"


def test_the_documentation_has_the_table_of_groups() -> None:
    text = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    codes = {(r, fm): GROUP_NAMES[group_codes(*np.array([[r], [fm // 2], [fm - fm // 2]], np.int8))[0]]
             for r in (1, 2, 3) for fm in range(2, 7)}  # fmt: skip
    for r in (3, 2, 1):
        assert f"| {r} | {' | '.join(codes[r, fm] for fm in range(2, 7))} |" in text


def test_the_price_band_is_by_thirds_of_the_need() -> None:
    goods = [{"product_id": f"p{n}", "need": "tea", "price": float(n)} for n in range(6)]
    listed = products(
        *goods, {"product_id": "alone", "need": "jam", "price": 3.0}, {"product_id": "x", "need": "tea"}
    )
    catalog = Catalog.of(listed, events(), until=day(1))
    assert price_thirds(catalog).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1]  # alone, p0 to p5, x


# --- as time goes by ----------------------------------------------------------------------------------------


def test_months_are_the_stores() -> None:
    first, until = datetime(2024, 1, 31, 23, 30, tzinfo=UTC), datetime(2024, 4, 2, tzinfo=UTC)
    found = list(month_ends(first, until, "Europe/Berlin"))
    assert [(name, end.isoformat()[:16]) for name, end in found] == [
        ("2024-02", "2024-02-29T23:00"), ("2024-03", "2024-03-31T22:00"), ("2024-04", "2024-04-02T00:00"),
    ]  # fmt: skip
    assert list(month_ends(until, until, "UTC")) == []


PAST = (
    Event("ann", "milk", "o1", 1), Event("ann", "milk", "o2", 6), Event("bob", "soap", "o3", 2),
    Event("bob", "milk", "o4", 12), Event("cem", "soap", "o5", 13), Event("dan", "soap", "o6", 14),
)  # fmt: skip


def test_the_future_moves_no_stage_before_it() -> None:
    future = (
        Event("ann", "milk", "o7", 25), Event("new", "milk", "o8", 26), Event("cem", "soap", "o5", 25.5),
        returned("dan", "soap", "o6", 27), returned("bob", "milk", "o4", 28), Event("bob", "soap", "o9", 29),
    )  # fmt: skip
    moments = [day(at) for at in (8, 15, 25, 40)]
    catalog = shop(*PAST, *future, until=40).catalog
    customers, known_later = stages_at(events(*PAST, *future), catalog, moments)
    for before, columns in ((PAST, 3), (PAST[:3], 1)):
        names, found = stages_at(events(*before), catalog, moments[:columns])
        places = customers.positions(names.at(np.arange(len(names))))
        assert found.tolist() == known_later[places][:, :columns].tolist()
        absent = np.delete(known_later[:, :columns], places, axis=0)
        assert (absent == STAGES.index("prospect")).all()
    named = dict(zip(customers.at(np.arange(len(customers))), known_later.tolist(), strict=True))
    assert [STAGES[code] for code in named["dan"]] == ["prospect", "new", "new", "prospect"]  # gave it back


def test_each_column_is_what_the_facts_were_then() -> None:
    moments = [day(8), day(15)]
    _, found = stages_at(events(*PAST), shop(*PAST, until=15).catalog, moments)
    for column, until in enumerate((8, 15)):
        then: Data = shop(*PAST, until=until)
        told = facts(then.interactions, then.catalog)["stage"].cat.codes.tolist()
        assert found[found[:, column] > 0, column].tolist() == told


def test_one_customer_is_told_as_among_all() -> None:
    data = shop(*PAST, until=20)
    norms, every = Norms.of(data.interactions, data.catalog), facts(data.interactions, data.catalog)
    for place, name in enumerate(("ann", "bob", "cem", "dan")):
        own = shop(*(line for line in PAST if line.customer == name), until=20)
        mine = facts(own.interactions, data.catalog, norms) if len(own.catalog) == len(data.catalog) else None
        alone = data.interactions.of_one(place, events(), keep=data.catalog.eligible, until=day(20))
        told = facts(alone, data.catalog, norms)
        assert told.iloc[0].tolist() == every.iloc[place].tolist()
        assert mine is None or mine.iloc[0].tolist() == every.iloc[place].tolist()


def test_scores_of_few_or_equal_customers() -> None:
    """A figure that all have alike tells nothing of anybody; two who differ are the best and the last."""
    alone = of(Event("ann", "milk", "o1", 1), until=2)
    alike = of(Event("ann", "milk", "o1", 1), Event("bob", "milk", "o2", 1), until=2)
    two = of(Event("ann", "milk", "o1", 1), Event("bob", "milk", "o2", 2, quantity=2), until=3)
    for found in (alone, alike):
        assert found[["r", "f", "m"]].to_numpy().tolist() == [[2, 2, 2]] * len(found)
        assert set(found["group"]) == {"Needs Attention"}
    assert two[["r", "f", "m"]].to_numpy().tolist() == [[1, 2, 1], [3, 2, 3]]


def test_whoever_is_held_against_equal_customers_or_none() -> None:
    data = shop(Event("ann", "milk", "o1", 1), Event("bob", "milk", "o2", 1), until=2)
    more = shop(Event("ann", "milk", "o1", 1.5), Event("ann", "milk", "o2", 1.7), until=2)
    norms = Norms.of(data.interactions, data.catalog)
    assert facts(more.interactions, data.catalog, norms)[["r", "f", "m"]].to_numpy().tolist() == [[3, 3, 3]]
    none = Norms.of(shop(until=2).interactions, data.catalog)
    assert facts(more.interactions, data.catalog, none)[["r", "f", "m"]].to_numpy().tolist() == [[2, 2, 2]]
    assert facts(shop(until=2).interactions, data.catalog).empty


def test_a_moment_within_a_second_is_exact() -> None:
    """An event half a second past is seen at seven tenths, and not at three."""
    past = (Event("ann", "milk", "o1", 1), Event("ann", "milk", "o2", 2 + 0.5 / DAY))
    moments = [day(2) + timedelta(seconds=part) for part in (0.3, 0.5, 0.7, 1)]
    items, keep = shop(*past, until=3).catalog.items, np.ones(1, bool)
    for of_them in (moments, moments[:2], moments[2:]):
        counts = [len(data) for data in pasts(events(*past), items=items, keep=keep, moments=of_them)]
        assert counts == [1 if at <= moments[1] else 2 for at in of_them]


def test_what_was_returned_leaves_an_order_where_it_then_begins() -> None:
    """The first line of an order that went on for days comes back: another order is before it now."""
    past = (
        Event("ann", "milk", "a", 1), Event("ann", "bread", "a", 5), Event("ann", "salt", "b", 3),
        returned("ann", "milk", "a", 6),
    )  # fmt: skip
    items, keep = shop(*past, until=8).catalog.items, np.ones(3, bool)
    for moment in (2, 4, 5.5, 7, 8):
        (seen, _) = pasts(events(*past), items=items, keep=keep, moments=[day(moment), day(9)])
        told = Interactions.from_events(events(*past), items=items, keep=keep, until=day(moment))
        for name in ("customer", "item", "order", "at", "quantity"):
            assert getattr(seen, name).tolist() == getattr(told, name).tolist(), (moment, name)


# --- the real shop ------------------------------------------------------------------------------------------


def naive(data: Interactions, catalog: Catalog) -> dict[int, dict[str, float]]:
    """The same facts by counting on one's fingers."""
    orders: dict[int, dict[int, int]] = defaultdict(dict)
    spend: dict[int, float] = defaultdict(float)
    lines: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for customer, order, at, paid, item in zip(
        data.customer.tolist(), data.order.tolist(), data.at.tolist(), data.paid.tolist(), data.item.tolist(),
        strict=True,
    ):  # fmt: skip
        if customer >= 0:
            orders[customer][order] = at
            spend[customer] += paid
            lines[customer][int(catalog.parent[item])] += 1
    gaps = {
        c: [(b - a) / DAY for a, b in pairwise(s)]
        for c, own in orders.items()
        for s in [sorted(own.values())]
    }
    main = {c: min((-n, code) for code, n in of.items())[1] for c, of in lines.items()}
    usual = float(np.quantile([gap for own in gaps.values() for gap in own], QUANTILE))

    def pulled(own: list[float], towards: float, prior: float) -> float:
        return (sum([np.quantile(own, QUANTILE) * len(own)] if own else []) + towards * prior) / (
            len(own) + prior
        )

    of_main = {
        code: pulled([g for c in gaps if main[c] == code for g in gaps[c]], usual, CATEGORY_GAPS)
        for code in set(main.values())
    }
    return {
        c: {
            "recency": (data.until - max(own.values())) / DAY,
            "frequency": len(own),
            "spend": spend[c],
            "tenure": (data.until - min(own.values())) / DAY,
            "gap": pulled(gaps[c], of_main[main[c]], OWN_GAPS),
        }
        for c, own in orders.items()
    }


def test_a_naive_count_of_the_real_shop_agrees(loaded_home: Path) -> None:
    past = known(History(loaded_home / "history"), datetime(2017, 5, 1, tzinfo=UTC))
    data = past.interactions
    found, counted = facts(data, past.catalog), naive(data, past.catalog)
    assert found.index.tolist() == sorted(counted) == list(range(len(data.customers)))
    for name in ("recency", "frequency", "spend", "tenure", "gap"):
        np.testing.assert_allclose(
            found[name], [counted[c][name] for c in found.index], rtol=1e-5, err_msg=name
        )
    assert set(found["stage"]) == set(STAGES) - {"prospect"}, "every stage occurs"
    assert set(found["group"]) == set(GROUP_NAMES)
    for score in ("r", "f", "m"):
        assert (found[score].value_counts(normalize=True) > 0.25).all()
