"""A bundle knows nothing of what came at or after its cutoff: byte for byte, through the real loader.

One small sample of the demo data is loaded three ways that differ only from the cutoff on. Every file of the
bundles must be the same, and so must every list. That the comparison is not blind is shown by planted leaks.
"""

import csv
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import FEW, SMALL

from features.catalog import Catalog
from features.completejourney import mapping_of, source_folder
from features.history import History
from features.interactions import Interactions, seconds
from features.mapping import Mapping as SourceMapping
from features.promotions import SHARES
from features.sources import load
from serving.bundle import save_data
from serving.engine import Engine
from serving.placements import PLACEMENTS
from serving.ranker import columns_for
from serving.schemas import RecommendRequest
from training import jobs, train
from training.split import Data, cut
from training.train import Plan, Side, rank_ahead, seal, sides_of, silent, stored

CUTOFF = datetime(2017, 12, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
STEP = 40  # every so many households
TILL = """
[columns]
event_id = "id"
event_type = "type"
occurred_at = "at"
customer_id = "customer"
product_id = "product"
order_id = "order"
quantity = "quantity"
unit_price = "price"
[products]
product_id = "product"
title = "title"
"""
PLAN = Plan(SMALL, PLACEMENTS, FEW)
PEOPLE = '[columns]\nalias = "alias"\ncustomer_id = "customer"\n'
Row = dict[str, Any]
Shared = Callable[[str, Callable[[Path], None]], Path]


@dataclass(frozen=True)
class Source:
    """The sample's rows before and from the cutoff on, and a customer with what they bought of late."""

    early: pa.Table
    late: pa.Table
    customer: str
    bought: list[tuple[str, str]]  # order, product


@pytest.fixture(scope="session")
def source() -> Source:
    rows = pq.read_table(source_folder() / "transactions.parquet")
    kept = sorted(pc.unique(rows["household_id"]).to_pylist())[::STEP]
    rows = rows.filter(pc.is_in(rows["household_id"], value_set=pa.array(kept)))
    at = rows["transaction_timestamp"].cast(pa.timestamp("us"))
    is_early = pc.less(at, pa.scalar(CUTOFF.replace(tzinfo=None), pa.timestamp("us")))
    early, late = rows.filter(is_early), rows.filter(pc.invert(is_early))
    assert early.num_rows > 10_000 and late.num_rows > 1_000
    frame = early.to_pandas().sort_values("transaction_timestamp")
    customer = str(frame["household_id"].iloc[-1])
    mine = frame[frame["household_id"].astype(str) == customer].tail(20)
    pairs = zip(mine["basket_id"].astype(str), mine["product_id"].astype(str), strict=True)
    return Source(early, late, customer, list(pairs))


def line(n: int, **changes: Any) -> Row:
    """A line at the till, at the very cutoff unless it says otherwise."""
    about = {
        "id": f"till-{n}",
        "type": "order",
        "at": CUTOFF.isoformat(),
        "customer": "newcomer",
        "product": "82",
    }
    return {
        **about,
        "order": f"till-{n}",
        "quantity": 1,
        "price": 9.99,
        "title": "From the future",
        **changes,
    }


def till(folder: Path, history: History, rows: list[Row]) -> None:
    path = folder / "till.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "till.toml").write_text(TILL)
    load(history, "events", [path], SourceMapping.read(folder / "till.toml"), rejects_dir=folder)


@pytest.fixture(scope="session")
def past_alone(shared: Shared, source: Source) -> Path:
    def make(home: Path) -> None:
        products = source_folder() / "products.parquet"
        load(History(home / "history"), "products", [products], mapping_of("products"), rejects_dir=home)
        journey(home, source.early)
        plans(home, [plan(product) for _, product in source.bought])

    return shared("past_alone", make)


def plan(product: str, known: timedelta = -SECOND, first: int = -20, days: int = 40) -> Row:
    """A promotion of a product, known so long after the cutoff, from so many days after it on."""
    starts = CUTOFF + timedelta(days=first)
    moments = {"starts": starts, "ends": starts + timedelta(days=days), "known_at": CUTOFF + known}
    return {
        "product_id": product,
        "kind": "mailer:A",
        **{name: at.isoformat() for name, at in moments.items()},
    }


def plans(home: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), home / "plans.parquet")
    (home / "plans.toml").write_text("[columns]\n" + "".join(f'{name} = "{name}"\n' for name in rows[0]))
    mapping = SourceMapping.read(home / "plans.toml")
    load(History(home / "history"), "promotions", [home / "plans.parquet"], mapping, rejects_dir=home)


def journey(home: Path, rows: pa.Table) -> None:
    """Load these rows of the demo data."""
    pq.write_table(rows, home / "rows.parquet")
    load(History(home / "history"), "events", [home / "rows.parquet"], mapping_of("events"), rejects_dir=home)


def grow(
    home: Path, past: Path, rows: pa.Table | None = None, lines: list[Row] | None = None, aliases: str = ""
) -> None:
    """A home with the past, and on top of it rows of the demo data, lines of a till, and identities."""
    history = History(home / "history")
    shutil.copytree(past / "history", history.folder)
    if rows is not None:
        journey(home, rows)
    if lines:
        till(home, history, lines)
    if aliases:
        (home / "aliases.csv").write_text(f"alias,customer\n{aliases}")
        (home / "aliases.toml").write_text(PEOPLE)
        people = SourceMapping.read(home / "aliases.toml")
        load(history, "identities", [home / "aliases.csv"], people, rejects_dir=home)


def data_of(home: Path, work: Path) -> tuple[Side, Side, Side, Side]:
    """What training learns from at the cutoff, saved: (the past that is judged, everything, a past for rankers, the
    same with newcomers)."""
    past, full, label, short = map(stored, sides_of(History(home / "history"), CUTOFF, work, PLAN))
    assert short.short and not label.short and label.until == short.until
    return past, full, label, short


def bundle_of(home: Path, work: Path) -> None:
    """The bundle that training makes at the cutoff: data, models, manifest."""
    history = History(home / "history")
    past, full, *labels = data_of(home, work)
    for side in (full, *labels):
        for name, recipe in side.recipes.items():
            jobs.fit(side.folder, name, recipe, seconds(side.until))
    about = {"store": history.store, "fingerprint": history.fingerprint(CUTOFF), "git_revision": "none"}
    for label in labels:
        seal(label, version="label", metrics={}, **about)
        later = jobs.Later(past.folder, past.until, label.until, past.until)
        for name, ranking in label.rankings.items():
            jobs.examples(label.folder, later, name, ranking, work / f"{name}.npz")
            jobs.learn([work / f"{name}.npz"], full.folder, name, columns_for(name, full.placements), ranking)
    assert list(full.folder.glob("*.ranker.txt"))
    seal(full, version="1", metrics={}, **about)
    with ThreadPoolExecutor(1) as pool:
        rank_ahead(pool, full, silent)
    assert list(full.folder.glob("*.ranked.npy"))
    seal(full, version="1", metrics={}, **about)


def content(folder: Path) -> Mapping[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@pytest.fixture(scope="session")
def with_future(shared: Shared, past_alone: Path, source: Source) -> Path:
    """The past, all of December, and at the till from the cutoff on: returns of what was bought before it, new
    customers, new products, new prices; aliases of people who came later; and promotions of which nobody knew
    before it, though some began earlier."""
    returns = [
        line(n, type="return", customer=source.customer, order=order, product=product)
        for n, (order, product) in enumerate(source.bought)
    ]
    named_no_order = [
        line(100 + n, type="return", customer=source.customer, order="", product=product)
        for n, (_, product) in enumerate(source.bought)
    ]
    fresh = [line(200 + n, product=f"future-{n}", customer=source.customer) for n in range(5)]
    dear = [line(300 + n, product=product, price=999) for n, (_, product) in enumerate(source.bought)]
    aliases = "later-1,later-2\nlater-2,later-3\n"
    lines = [*returns, *named_no_order, *fresh, *dear]

    def make(home: Path) -> None:
        grow(home, past_alone, source.late, lines, aliases)
        products = [product for _, product in source.bought]
        plans(home, [plan(p, known=n * SECOND, first=-7 * n, days=30) for p in products for n in range(3)])

    return shared("with_future", make)


@pytest.fixture(scope="session")
def with_another_future(shared: Shared, past_alone: Path, source: Source) -> Path:
    """The past, and a December with half of its rows gone and the others changed."""
    half = source.late.filter(pa.array(np.arange(source.late.num_rows) % 2 == 0))
    places = {name: half.schema.get_field_index(name) for name in ("quantity", "sales_value")}
    for name, place in places.items():
        more = pc.multiply(half[name].cast(pa.float64()), 7.0).cast(half.schema.field(name).type)
        half = half.set_column(place, name, more)
    return shared("with_another_future", lambda home: grow(home, past_alone, half))


@pytest.fixture(scope="session")
def bundle(shared: Shared, past_alone: Path) -> Path:
    return shared("bundle_alone", lambda folder: bundle_of(past_alone, folder)) / "full"


@pytest.fixture(scope="session")
def bundle_with_future(shared: Shared, with_future: Path) -> Path:
    return shared("bundle_with_future", lambda folder: bundle_of(with_future, folder)) / "full"


def test_the_worlds_do_differ_from_the_cutoff_on(
    past_alone: Path, with_future: Path, with_another_future: Path
) -> None:
    spans, counts = [], []
    for home in (past_alone, with_future, with_another_future):
        history = History(home / "history")
        spans.append(history.span())
        counts.append((history.counts()["events"], history.counts()["products"]))
        early = history.events(until=CUTOFF, columns=("event_id",))
        assert early.num_rows == History(past_alone / "history").counts()["events"]
    assert len(set(counts)) == 3 and spans[0] != spans[1]
    assert counts[1][1] == counts[0][1] + 5  # five products that the future tells of
    future, past = (History(home / "history") for home in (with_future, past_alone))
    assert future.resolve("later-1") == "later-3"
    assert future.counts()["promotions"] > past.counts()["promotions"] == len(past.promoted(CUTOFF)) > 0
    assert not future.promoted(CUTOFF + SECOND).equals(past.promoted(CUTOFF + SECOND))


def test_a_bundle_is_the_same_with_and_without_the_future(bundle: Path, bundle_with_future: Path) -> None:
    one, other = content(bundle), content(bundle_with_future)
    assert "manifest.json" in one and len(one) > 20
    assert differing(one, other) == []


def test_the_past_that_is_judged_is_the_same_too(
    past_alone: Path, with_future: Path, with_another_future: Path, tmp_path: Path
) -> None:
    """The judged past ends 30 days earlier and is cut out of the same events."""
    made = []
    for name, home in (("a", past_alone), ("b", with_future), ("c", with_another_future)):
        past, full, *_ = data_of(home, tmp_path / name)
        assert (past.until, full.until) == (CUTOFF - timedelta(days=30), CUTOFF)
        made.append(content(tmp_path / name))
    assert differing(made[0], made[1]) == differing(made[0], made[2]) == []


def test_the_judged_past_is_the_whole_of_a_training_30_days_earlier(past_alone: Path, tmp_path: Path) -> None:
    earlier = CUTOFF - timedelta(days=30)
    past, *_ = data_of(past_alone, tmp_path / "a")
    _, full, *_ = sides_of(History(past_alone / "history"), earlier, tmp_path / "b", PLAN)
    assert full.data is not None and full.until == earlier
    save_data(full.folder, full.data.catalog, full.data.interactions)
    assert differing(content(past.folder), content(full.folder)) == []


def test_the_fingerprint_is_of_the_past(
    past_alone: Path, with_future: Path, with_another_future: Path
) -> None:
    homes = (past_alone, with_future, with_another_future)
    assert len({History(home / "history").fingerprint(CUTOFF) for home in homes}) == 1
    late = {History(home / "history").fingerprint(CUTOFF + timedelta(days=60)) for home in homes}
    assert len(late) == 3


def test_lists_are_the_same_with_and_without_the_future(
    bundle: Path, bundle_with_future: Path, source: Source
) -> None:
    one, other = Engine.load(bundle), Engine.load(bundle_with_future)
    basket = tuple({product for _, product in source.bought[:3]})
    customers = [
        source.customer,
        *one.history.customers.at(range(0, len(one.history.customers), 7)),
        None,
        "newcomer",
    ]
    for placement in PLACEMENTS:
        for customer in customers:
            asked = RecommendRequest(customer_id=customer, product_ids=basket, limit=20, explain=True)
            here = one.recommend(placement, asked, at=CUTOFF)
            assert here.items and here == other.recommend(placement, asked, at=CUTOFF)


# --- the comparison is not blind ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def known(shared: Shared, past_alone: Path) -> Mapping[str, bytes]:
    def make(folder: Path) -> None:
        data_of(past_alone, folder)

    return content(shared("known", make) / "full")


def told(home: Path, folder: Path, known: Mapping[str, bytes]) -> list[str]:
    """The files of the data that differ from the past's alone."""
    data_of(home, folder)
    return differing(known, content(folder / "full"))


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("a purchase", {}),
        ("a new product", {"product": "future-1"}),
        ("a return", {"type": "return", "customer": None, "product": None, "order": None}),
    ],
)
def test_what_happens_a_second_before_the_cutoff_is_known(
    past_alone: Path, source: Source, tmp_path: Path, known: Mapping[str, bytes], what: str, changes: Row
) -> None:
    """The same rows at the cutoff are in `with_future`, and change nothing."""
    order, product = source.bought[-1]
    mine = {"customer": source.customer, "product": product, "order": order}
    row = {**line(1), **{name: mine.get(name) if value is None else value for name, value in changes.items()}}
    (home := tmp_path / "home").mkdir()
    grow(home, past_alone, lines=[{**row, "at": (CUTOFF - SECOND).isoformat()}])
    assert "interactions.quantity.npy" in told(home, tmp_path / "told", known), what


def leaks_prices(events: pa.Table, products: pa.Table, until: datetime, promoted: pa.Table) -> Data:
    """Prices by the purchases of all time."""
    right = cut(events, products, until, promoted)
    everything = Catalog.of(products, events, until=datetime(2030, 1, 1, tzinfo=UTC))
    place = everything.items.positions(right.catalog.items.at(np.arange(len(right.catalog))))
    prices = everything.table["price"].take(pa.array(place))
    table = right.catalog.table
    table = table.set_column(table.schema.get_field_index("price"), "price", prices)
    return replace(right, catalog=Catalog(right.catalog.items, table))


def leaks_products(events: pa.Table, products: pa.Table, until: datetime, promoted: pa.Table) -> Data:
    """The catalogue as it is at the end."""
    catalog = Catalog.of(products, events, until=datetime(2030, 1, 1, tzinfo=UTC), promoted=promoted)
    return Data(
        catalog,
        Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=until),
    )


def leaks_returns(events: pa.Table, products: pa.Table, until: datetime, promoted: pa.Table) -> Data:
    """Returns of all time: a purchase that will be returned counts as none."""
    early = pc.less(events["occurred_at"], pa.scalar(until, pa.timestamp("us", tz="UTC")))
    is_return = pc.equal(events["event_type"].cast(pa.string()), "return")
    moved = events.filter(pc.or_(early, is_return))
    at = pc.if_else(
        pc.equal(moved["event_type"].cast(pa.string()), "return"),
        pa.scalar(until - SECOND, pa.timestamp("us", tz="UTC")),
        moved["occurred_at"],
    )
    place = moved.schema.get_field_index("occurred_at")
    return cut(moved.set_column(place, "occurred_at", at), products, until, promoted)


@pytest.mark.parametrize(
    ("leak", "file"),
    [
        (leaks_prices, "catalog.parquet"),
        (leaks_products, "items.npy"),
        (leaks_returns, "interactions.quantity.npy"),
    ],
)
def test_a_planted_leak_is_seen(
    with_future: Path,
    tmp_path: Path,
    known: Mapping[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    leak: Callable[[pa.Table, pa.Table, datetime], Data],
    file: str,
) -> None:
    read = History.events

    def forgets_the_cutoff(self: History, **asked: Any) -> pa.Table:
        return read(self, **{**asked, "until": None})

    monkeypatch.setattr(History, "events", forgets_the_cutoff)
    assert told(with_future, tmp_path / "guarded", known) == []  # a second guard holds: `cut` cuts again
    monkeypatch.setattr(train, "cut", leak)
    assert file in told(with_future, tmp_path / "leaking", known)


def test_a_plan_that_nobody_knew_is_seen(
    with_future: Path, tmp_path: Path, known: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.history.SHARES", SHARES.replace("known_at < $until", "TRUE"))
    assert "items.facts.npy" in told(with_future, tmp_path / "leaking", known)
