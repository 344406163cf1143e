"""One customer in one view: every number is a recount of what was loaded, in plain SQL."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from rich.console import Console
from test_compact import put
from test_people import AGREED, Shop, grocer, shop  # noqa: F401 - fixtures

from features.history import History
from features.interactions import Interactions, seconds
from lifecycle.customers import counts, view
from lifecycle.pages import counts_page, customer_page
from serving.profile import KEPT, Everybody, by_model, profile
from serving.schemas import Profile
from serving.store import Store, address
from serving.wire import RequestError
from training.split import known

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
END = datetime(2017, 11, 2, tzinfo=UTC)

RECOUNT = """
WITH lines AS (
    SELECT order_id, product_id, min(occurred_at) AS began, sum(quantity) AS bought, sum(quantity * unit_price) AS paid
    FROM read_parquet([{files}]) WHERE customer_id IN ({ids}) AND event_type = 'order' AND unit_price > 0
    AND occurred_at < TIMESTAMPTZ '{at}' GROUP BY ALL
), back AS (
    SELECT order_id, product_id, sum(quantity) AS returned FROM read_parquet([{files}])
    WHERE customer_id IN ({ids}) AND event_type = 'return' AND occurred_at < TIMESTAMPTZ '{at}' GROUP BY ALL
), kept AS (
    SELECT order_id, began, 1 - coalesce(returned, 0) / bought AS share, paid FROM lines
    LEFT JOIN back USING (order_id, product_id)
), whole AS (SELECT order_id, min(began) AS began, sum(paid * share) AS paid FROM kept WHERE share > 1e-9 GROUP BY 1)
SELECT count(*), epoch_us(min(began)) // 1000000, epoch_us(max(began)) // 1000000, coalesce(sum(paid), 0) FROM whole
"""


def recounted(home: Path, ids: Sequence[str], at: datetime) -> tuple[int, int | None, int | None, float]:
    files = map(str, History(home / "history").files("events"))
    listed = {name: ", ".join(f"'{value}'" for value in of) for name, of in (("files", files), ("ids", ids))}
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        (found,) = db.execute(RECOUNT.format(**listed, at=at.isoformat())).fetchall()
    return found[0], found[1], found[2], found[3]


def agrees(told: Profile | None, recount: tuple[int, int | None, int | None, float]) -> None:
    assert told is not None
    orders = told.orders
    first, last = (int(of.timestamp()) if of else None for of in (orders.first, orders.last))
    assert (orders.count, first, last) == recount[:3]
    assert orders.spend == pytest.approx(recount[3], abs=0.01)
    assert sum(orders.by_month.values()) == orders.count


LIVES = (  # id, who, what, type, order, day, quantity, price
    ("e1", "anna", "bread", "order", "o1", "2026-01-03", 2, 2),
    ("e2", "card", "milk", "order", "o1", "2026-01-03", 1, 1),
    ("e3", "anna", "soap", "order", "o2", "2026-02-03", 4, 1.5),
    ("e4", "anna", "soap", "return", "o2", "2026-03-03", 1, ""),
    ("e5", "card", "gold", "order", "o3", "2026-02-20", 1, 9),
    ("e6", "anna", "gold", "return", "o3", "2026-04-01", 1, ""),
    ("e7", "anna", "milk", "view", "", "2026-03-05", "", ""),
    ("e8", "bert", "milk", "order", "o4", "2026-02-02", 1, 1),
)
NAMES = (
    "event_id",
    "customer_id",
    "product_id",
    "event_type",
    "order_id",
    "occurred_at",
    "quantity",
    "unit_price",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    history = History(tmp_path / "history")
    put(history, "events", *({**dict(zip(NAMES, row, strict=True)), "store_id": "s1"} for row in LIVES))
    put(history, "identities", {"alias": "card", "customer_id": "anna"})
    put(history, "consents", *(
        {"customer_id": "card", "channel": "email", "purpose": "marketing", "granted": granted, "at": at}
        for granted, at in (("true", "2026-01-01"), ("false", "2026-03-10"))
    ))  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("month", range(1, 6))
def test_a_small_shops_numbers_are_a_recount(home: Path, month: int) -> None:
    at = datetime(2026, month, 15, tzinfo=UTC)
    found = view(home, None, "card", at)
    agrees(found.profile, recounted(home, ["anna", "card"], at))
    assert found.profile and found.identities == ("card",)
    assert sum(found.profile.events.values()) == sum(
        row[5] < f"{at:%Y-%m-%d}" for row in LIVES if row[1] != "bert"
    )
    assert [c["granted"] for c in found.consents] == [month < 3]


def test_the_view_in_full(home: Path) -> None:
    told = view(home, None, "anna", datetime(2026, 3, 15, tzinfo=UTC)).profile
    assert told and told.known_by == "history"
    assert told.orders.by_month == {"2026-01": 1, "2026-02": 2, "2026-03": 0}
    assert told.orders.spend == 2 * 2 + 1 + 3 * 1.5 + 9 and told.events == {
        "order": 4,
        "return": 1,
        "view": 1,
    }
    assert list(told.stages) == ["2026-01", "2026-02", "2026-03"] and told.stages["2026-01"] == "new"
    assert told.favourites.store_id == "s1" and told.rfm and told.rfm.frequency == 3


def test_the_future_changes_nothing(home: Path) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    before = view(home, None, "anna", at)
    later = [
        ("f1", "anna", "milk", "order", "o9", "2026-03-01", 5, 1),
        ("f2", "anna", "bread", "return", "o1", "2026-03-02", 2, ""),
    ]
    put(History(home / "history"), "events", *(dict(zip(NAMES, row, strict=True)) for row in later))
    with Store(address(home, None)) as store:
        sent = {"customer_id": "anna", "at": at, "product_ids": ["milk"], "received_at": at}
        store.append("sends", [sent])
        store.append("identities", [{"alias": "bert", "customer_id": "anna", "received_at": at}])
    assert view(home, None, "anna", at) == before
    after = view(home, None, "anna", at + timedelta(days=9))
    assert after.profile and after.profile.messages == {"": 1} and after.identities == ("bert", "card")
    agrees(after.profile, recounted(home, ["anna", "bert", "card"], at + timedelta(days=9)))


def test_a_sample_of_the_real_shop_is_a_recount(loaded_home: Path, tmp_path: Path) -> None:
    (tmp_path / "history").symlink_to(loaded_home / "history")
    history = History(tmp_path / "history")
    names = known(history, END).interactions.customers
    for name in names.at(range(0, len(names), len(names) // 4)):
        told = view(tmp_path, None, name, END).profile
        agrees(told, recounted(tmp_path, [name], END))
        assert told and told.stage == list(told.stages.values())[-1] != "prospect"
        assert all(item.chance >= 0.5 and item.due > END for item in told.due)
    found = counts(history, END)
    assert sum(found.stages.values()) == sum(found.groups.values()) == len(names)
    assert sum(sum(to.values()) for to in found.moved.values()) == len(names)
    assert {b: sum(to.get(b, 0) for to in found.moved.values()) for b in found.stages} == found.stages
    page = Console(record=True, width=150, file=StringIO())
    page.print(*customer_page(view(tmp_path, None, names.at([0])[0], END)), *counts_page(found))
    assert "orders by month" in page.export_text()


def test_who_is_unknown_has_no_profile(home: Path) -> None:
    assert view(home, None, "nobody", END).profile is None


def test_the_route_tells_it_and_live_events_count_at_once(shop: Shop) -> None:  # noqa: F811
    anna = "/v1/customers/anna"
    first = shop("GET", anna).json()["profile"]
    assert (first["known_by"], first["orders"]["count"], first["orders"]["spend"]) == ("history", 1, 4.0)
    event: dict[str, Any] = {
        "event_id": "e1",
        "event_type": "order",
        "order_id": "o7",
        "product_id": "milk",
        "customer_id": "card",
    }
    event |= {"occurred_at": "2026-03-02T10:00:00Z", "quantity": 2, "unit_price": 1.5}
    shop("POST", "/v1/events", json={"events": [event]})
    shop("PUT", anna, json={"consents": [AGREED]})
    now = shop("GET", anna).json()["profile"]
    assert (now["orders"]["count"], now["orders"]["spend"], now["events"]) == (2, 7.0, {"order": 3})
    then = shop("GET", f"{anna}?at=2026-02-01").json()
    assert then["profile"]["orders"] == {**first["orders"], "by_month": {"2026-01": 1}}
    assert then["consents"] == [] and len(then["orders"]) == 1
    assert shop("GET", f"{anna}?at=17").status_code == 400


def test_without_a_history_the_model_tells_purchases(shop: Shop, url: sa.URL) -> None:  # noqa: F811
    """What the bundle learned of carl, with what came in live; the same as his rows."""
    everybody: Everybody = shop.site.everybody
    at = datetime(2026, 3, 9, tzinfo=UTC)
    row = {"event_type": "order", "order_id": "o9", "product_id": "milk", "quantity": 1.0, "unit_price": 1.0}
    live = [{**row, "occurred_at": datetime(2026, 3, 5, tzinfo=UTC), "event_id": "l"}]
    life = by_model(everybody, ["carl"], live, at)
    told = profile(everybody, life, [])
    data: Interactions = everybody.data
    own = data.rows(int(data.customers.positions(["carl"])[0]))
    assert (told.known_by, told.orders.count, told.events) == ("model", 3, {"order": 1})
    assert told.orders.spend == pytest.approx(float(data.paid[own].sum()) + 1)
    assert list(told.stages) == ["2026-02", "2026-03"] and by_model(everybody, ["nobody"], [], at).whole.until
    assert profile(everybody, by_model(everybody, ["nobody"], [], at), []).stage == "prospect"
    early = datetime(
        2026, 1, 15, tzinfo=UTC
    )  # what was sent back since then is gone from what the model learned
    with pytest.raises(RequestError, match="up to which the model learned"):
        by_model(everybody, ["carl"], live, early)


def test_without_a_history_a_later_return_is_not_seen(shop: Shop) -> None:  # noqa: F811
    sold, back = datetime(2026, 3, 5, tzinfo=UTC), datetime(2026, 3, 20, tzinfo=UTC)
    row = {"order_id": "o9", "product_id": "milk", "quantity": 1.0, "unit_price": 1.0}
    live = [
        {**row, "event_type": kind, "occurred_at": at, "event_id": kind}
        for kind, at in (("order", sold), ("return", back))
    ]
    for at, count in ((back, 1), (back + timedelta(microseconds=1), 0)):
        told = profile(shop.site.everybody, by_model(shop.site.everybody, ["nobody"], live, at), [])
        assert told.orders.count == count and told.events == {"order": 1} | ({} if count else {"return": 1})


def test_everybody_is_seen_as_of_the_moment_and_worked_out_once(tmp_path: Path) -> None:
    """What came later teaches nothing of how products are bought again, and what is kept is bounded."""
    history = History(tmp_path / "history")
    days = (("o1", "2026-01-01"), ("o2", "2026-01-11"), ("o3", "2026-03-01"), ("o4", "2026-03-05"))
    put(history, "events", *(
        dict(zip(NAMES, (f"{who}-{order}", who, "milk", "order", f"{who}-{order}", day, 1, 2), strict=True))
        for who in ("anna", "bert") for order, day in days
    ))  # fmt: skip
    at, end = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    then, now = (
        Everybody(d.catalog, d.interactions, "UTC") for d in (known(history, at), known(history, end))
    )
    assert now.renewal(seconds(at)).gap.tolist() == then.renewal(seconds(at)).gap.tolist()
    assert now.renewal(seconds(end)).gap.tolist() != now.renewal(seconds(at)).gap.tolist()
    assert now.renewal(seconds(at)) is now.renewal(seconds(at))
    for day in range(200):
        now.norms(seconds(at) - day * 86_400)
    assert len(now.kept) == KEPT
