"""What share of outlets and days a product is promoted on, counted by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from features.catalog import Catalog
from features.history import History
from features.mapping import Mapping
from features.pairs import ITEM, columns, item_facts
from features.promotions import PROMOTED
from features.sources import load
from training.split import cut

AT = datetime(2026, 3, 1, tzinfo=UTC)
Plan = dict[str, Any]


def plan(product: str, store: str | None, kind: str, first: float, end: float, known: float = -100) -> Plan:
    """A promotion from so many days after AT to so many."""
    starts, ends, known_at = (AT + timedelta(days=days) for days in (first, end, known))
    return {
        "product_id": product, "store_id": store, "kind": kind, "starts": starts, "ends": ends, "known_at": known_at,
    }  # fmt: skip


def told(folder: Path, *plans: Plan) -> History:
    history = History(folder / "history")
    pq.write_table(pa.Table.from_pylist(list(plans)), folder / "plans.parquet")
    mapping = folder / "plans.toml"
    mapping.write_text("[columns]\n" + "".join(f'{name} = "{name}"\n' for name in plans[0]))
    assert not load(
        history, "promotions", [folder / "plans.parquet"], Mapping.read(mapping), rejects_dir=folder
    ).rejected
    return history


def shares(history: History, product: str, at: datetime = AT) -> dict[str, float]:
    (row,) = (row for row in history.promoted(at).to_pylist() if row["product_id"] == product)
    return {name: row[name] for name in PROMOTED if row[name]}


def test_shares_are_of_all_outlets_and_of_the_days_of_a_span(tmp_path: Path) -> None:
    history = told(
        tmp_path,
        plan("milk", "north", "mailer:A", -14, 15),
        plan("milk", "south", "mailer:B", 0, 3),
        plan("milk", "south", "display:9", -200, -154),
        plan("soap", None, "coupon", 20, 60),
        plan("soap", "south", "price", 40, 60),  # beyond the month: nothing of it counts
    )
    assert shares(history, "milk") == pytest.approx(
        {
            "mailer_ahead": (15 + 3) / (2 * 30),
            "mailer_lately": 14 / (2 * 28),
            "mailer_usual": 14 / (2 * 182),
            "display_usual": 28 / (2 * 182),
        }
    )
    assert shares(history, "soap") == pytest.approx({"other_ahead": 10 / 30})


def test_nothing_counts_before_it_was_known(tmp_path: Path) -> None:
    plans = (
        plan("milk", None, "mailer", -5, 10, known=0),
        plan("soap", None, "mailer", -5, 10, known=-1e-6),
    )
    history = told(tmp_path, *plans)
    assert history.promoted(AT)["product_id"].to_pylist() == ["soap"]
    later = AT + timedelta(microseconds=1)
    assert history.promoted(later)["product_id"].to_pylist() == ["milk", "soap"]
    assert history.fingerprint(AT) != history.fingerprint(later)


def test_a_history_without_promotions_promotes_nothing(tmp_path: Path) -> None:
    assert History(tmp_path / "history").promoted(AT).num_rows == 0
    assert (tiny.known(tiny.GROCERIES, tiny.GROCER).catalog.promoted == 0).all()


def test_products_of_the_catalogue_have_their_shares_and_rankers_see_them(tmp_path: Path) -> None:
    history = told(tmp_path, plan("milk", None, "display", 0, 15), plan("not listed", None, "display", 0, 15))
    data = cut(tiny.bought(tiny.GROCERIES, tiny.GROCER), tiny.listed(tiny.GROCER), AT, history.promoted(AT))
    milk, column = data.catalog.items.positions(["milk"])[0], PROMOTED.index("display_ahead")
    expected = np.zeros((len(tiny.GROCER), len(PROMOTED)), np.float32)
    expected[milk, column] = 0.5
    np.testing.assert_array_equal(data.catalog.promoted, expected)
    facts = item_facts(data.catalog, data.interactions)
    np.testing.assert_array_equal(facts[:, len(ITEM) :], expected)
    assert "promotion.display_ahead" in columns()
    pq.write_table(data.catalog.table, tmp_path / "catalog.parquet")
    again = Catalog(data.catalog.items, pq.read_table(tmp_path / "catalog.parquet"))
    np.testing.assert_array_equal(again.promoted, expected)
