"""Drift, by hand: what two small shops differ in."""

from datetime import timedelta
from math import isnan, log, nan
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import GROCER, GROCERIES, UNTIL

from serving.bundle import save_data
from training.drift import COMPARED, drift, figures, price_level, stability

LATER = UNTIL + timedelta(days=28)
SHOP: tuple[tiny.Basket, ...] = (
    ("ann", "1", -200, "bread"),
    ("ann", "2", 40, "bread butter"),
    ("bob", "3", 50, "milk"),
    (None, "4", 55, "soap bread milk"),
)


def test_figures_are_of_the_last_eight_weeks() -> None:
    """Until day 58.5 the window begins at day 2.5: three orders, of ann, of bob who is new, of a stranger."""
    assert figures(tiny.known(SHOP, GROCER).interactions) == pytest.approx(
        {
            "orders a week": 3 / 8,
            "customers who bought": 2,
            "products sold": 4,
            "products an order": 2,
            "money an order": (2 + 4 + 1 + 1.5 + 2 + 1) / 3,
            "share of new customers": 0.5,
        }
    )


def test_a_short_history_has_fewer_weeks() -> None:
    found = figures(tiny.known([("ann", "1", 44.5, "milk"), ("bob", "2", 55, "milk")], GROCER).interactions)
    assert found["orders a week"] == pytest.approx(1)  # 14 days


def test_the_price_level_is_of_what_both_sold() -> None:
    """Bread doubled, milk as before: √2. Gold came later and counts for nothing."""
    dearer = {**GROCER, "bread": {"price": 4.0}}
    before = tiny.known([("ann", "1", 50, "bread milk")], GROCER).interactions
    now = tiny.known([("ann", "1", 50, "bread milk gold")], dearer).interactions
    assert price_level(before, now) == pytest.approx(2**0.5)
    assert isnan(price_level(before, tiny.known([("ann", "1", 50, "gold")], GROCER).interactions))


def test_stability_by_hand() -> None:
    """Two bins of a half each; now three quarters lie in the lower one."""
    before, now = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 2.0, 4.0])
    assert stability(before, now, bins=2) == pytest.approx(0.25 * log(1.5) - 0.25 * log(0.5))
    assert stability(before, before, bins=2) == 0
    unknown = np.array([nan, nan, 1.0, 4.0])
    assert stability(before, unknown, bins=2) == pytest.approx(
        2 * -0.25 * log(0.5) + (0.5 - 1e-4) * log(0.5 / 1e-4)
    )
    assert stability(unknown[:2], unknown[:2]) == 0


def test_the_same_data_has_not_drifted(tmp_path: Path) -> None:
    for name, rows, until in (
        ("1", GROCERIES, UNTIL),
        ("2", [*GROCERIES, ("anna", "20", 70, "gold")], LATER),
    ):
        data = tiny.known(rows, GROCER, until)
        save_data(tmp_path / name, data.catalog, data.interactions)
    same = drift("1", UNTIL, tmp_path / "1", tmp_path / "1", UNTIL, seed=7)
    assert all(change.before == change.now for change in same.figures)
    assert tuple(same.stability) == COMPARED and set(same.stability.values()) == {0.0}
    moved = drift("1", UNTIL, tmp_path / "1", tmp_path / "2", LATER, seed=7)
    assert moved.version == "1" and moved.until == UNTIL
    assert max(moved.stability.values()) > 0.25
    told = {c.name: (c.before, c.now) for c in moved.figures}
    assert told["orders a week"] == (9 / 8, 6 / 8)  # since days 2.5 and 30.5
