from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pytest
from worlds import Event, shop

from features.customers import BRINK, LAPSED, PRIOR_GAPS, STAGES, facts, stage
from features.history import History
from features.interactions import DAY, Interactions
from training.split import known


def of(*lines: Event, until: float) -> pd.DataFrame:
    return facts(shop(*lines, until=until).interactions)


def test_facts_of_a_hand_written_life() -> None:
    """Gaps: ann 2 and 4 days, bob 8, all: 2, 4, 8 with median 4."""
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
        (3 * 2 + 4 * PRIOR_GAPS) / (2 + PRIOR_GAPS),
        (8 * 1 + 4 * PRIOR_GAPS) / (1 + PRIOR_GAPS),
        4,
    ])  # fmt: skip
    assert found["stage"].tolist() == ["active", "active", "new"]


def test_where_nobody_came_twice_a_month_is_usual() -> None:
    assert of(Event("ann", "milk", "o1", 1), Event("bob", "milk", "o2", 1), until=2)["gap"].tolist() == [
        30,
        30,
    ]


@pytest.mark.parametrize("lines", [[], [Event(None, "milk", "o1", 1)]], ids=["nothing", "anonymous only"])
def test_without_customers_there_are_no_facts(lines: list[Event]) -> None:
    found = of(*lines, until=9)
    assert len(found) == 0
    assert list(found) == ["recency", "frequency", "spend", "tenure", "gap", "stage"]


@pytest.mark.parametrize(
    ("recency", "frequency", "expected"),
    [
        (0, 1, "new"),
        (BRINK * 10, 1, "new"),
        (BRINK * 10 + 0.01, 1, "brink"),
        (LAPSED * 10 + 0.01, 1, "lapsed"),
        (0, 2, "active"),
        (BRINK * 10, 2, "active"),
        (BRINK * 10 + 0.01, 2, "brink"),
        (LAPSED * 10, 2, "brink"),
        (LAPSED * 10 + 0.01, 9, "lapsed"),
    ],
)
def test_stages_and_their_boundaries(recency: float, frequency: int, expected: str) -> None:
    found = stage(pd.DataFrame({"recency": [recency], "frequency": [frequency], "gap": [10.0]}))
    assert found.tolist() == [expected]
    assert tuple(found.categories) == STAGES


def test_no_gap_at_all_is_an_hour() -> None:
    """Several orders at one moment: two hours later is not late yet, three are."""
    hours = pd.DataFrame(
        {"recency": [2 / 24, 3 / 24, 5 / 24], "frequency": [5, 5, 5], "gap": [0.0, 0.0, 0.0]}
    )
    assert stage(hours).tolist() == ["active", "brink", "lapsed"]


def naive(data: Interactions) -> dict[int, dict[str, float]]:
    """The same facts by counting on one's fingers."""
    orders: dict[int, dict[int, int]] = defaultdict(dict)
    spend: dict[int, float] = defaultdict(float)
    for customer, order, at, paid in zip(
        data.customer.tolist(), data.order.tolist(), data.at.tolist(), data.paid.tolist(), strict=True
    ):
        if customer >= 0:
            orders[customer][order] = at
            spend[customer] += paid
    gaps = {
        c: [(b - a) / DAY for a, b in pairwise(s)]
        for c, own in orders.items()
        for s in [sorted(own.values())]
    }
    usual = median([gap for own in gaps.values() for gap in own])
    return {
        c: {
            "recency": (data.until - max(own.values())) / DAY,
            "frequency": len(own),
            "spend": spend[c],
            "tenure": (data.until - min(own.values())) / DAY,
            "gap": ((median(gaps[c]) if gaps[c] else 0) * len(gaps[c]) + usual * PRIOR_GAPS)
            / (len(gaps[c]) + PRIOR_GAPS),
        }
        for c, own in orders.items()
    }


def test_a_naive_count_of_the_real_shop_agrees(loaded_home: Path) -> None:
    data = known(History(loaded_home / "history"), datetime(2017, 5, 1, tzinfo=UTC)).interactions
    found, counted = facts(data), naive(data)
    assert found.index.tolist() == sorted(counted) == list(range(len(data.customers)))
    for name in ("recency", "frequency", "spend", "tenure", "gap"):
        np.testing.assert_allclose(
            found[name], [counted[c][name] for c in found.index], rtol=1e-5, err_msg=name
        )
    assert set(found["stage"]) == set(STAGES), "every stage occurs"
