"""One customer in one view, as of a moment: what they bought and when, where they stand, what they will want again.

Their own purchases are held against what is usual among everybody, which is worked out once a moment and kept. Nothing
that was bought at or after the moment is seen; products, their prices and what may be recommended are those of the
catalogue that answers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from threading import Lock
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from features.behaviour import Usual
from features.catalog import Catalog
from features.customers import BANDS, Norms, Orders, facts, favourite, month_ends, price_thirds
from features.interactions import DAY, EVENT_COLUMNS, Interactions, distinct, moment, seconds
from features.judge import Row
from features.replenishment import LIKELY, Renewal, due
from features.schema import EVENTS, PURCHASES
from serving.schemas import CategoryAbout, DueAbout, Favourites, OrdersAbout, Profile, Rfm, ScoresAbout
from serving.scores import CATEGORIES, CHURN, SPEND, Scores
from serving.wire import RequestError

T = TypeVar("T")
Keep = NDArray[np.bool_] | None  # by product of the catalogue, None: all
DUE = 10  # products that are told as due next
LIKELIEST = 5  # main categories that are told
SCHEMA = pa.schema([EVENTS.schema.field(name) for name in EVENT_COLUMNS])
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
KEPT = 128  # moments of which what was usual is kept
YEARS = timedelta(days=3 * 366)  # before the moment, told by month


@dataclass(frozen=True)
class Everybody:
    """What one customer is held against: purchases of all up to a moment, of what may be recommended. `kept` may begin
    with norms of all that was bought, where that is known. `zone` is the store's."""

    catalog: Catalog
    data: Interactions
    zone: str
    kept: dict[int, Norms] = field(default_factory=dict)
    renewals: dict[int, Renewal] = field(default_factory=dict)
    scores: Callable[[], Scores | None] = lambda: None  # those to tell, as they are now
    usuals: dict[str, dict[int, Usual]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def norms(self, until: int) -> Norms:
        """What was usual at a moment; from the end of what is known on, what was usual then."""
        return self.made(self.kept, until, Norms.of)

    def renewal(self, until: int) -> Renewal:
        """How products were bought again until a moment, likewise."""
        return self.made(self.renewals, until, Renewal.of)

    def usual(self, until: int, scores: Scores) -> Usual:
        """What these scores hold a customer against, likewise; of the latest that were asked for."""
        version = scores.manifest.version
        if version not in self.usuals:
            self.usuals.clear()
        make = partial(Usual.of, categories=scores.categories, renewal=self.renewal(until))
        return self.made(self.usuals.setdefault(version, {}), until, make)

    def made(self, kept: dict[int, T], until: int, make: Callable[[Interactions, Catalog], T]) -> T:
        """What `make` makes of all before a moment: once, for whoever asks at the same time, and the last KEPT."""
        until = min(until, self.data.until)
        with self.lock:
            if until not in kept:
                while len(kept) >= KEPT:
                    del kept[next(iter(kept))]
                kept[until] = make(self.data.before(until), self.catalog)
            return kept[until]

    @cached_property
    def bands(self) -> NDArray[np.int32]:
        return price_thirds(self.catalog)


@dataclass(frozen=True)
class Life:
    """What is known of one customer. rows: their events before `at`; bought: their purchases, of products to keep where
    these are named, as of any moment from `since` on, before which it is not known what they had not yet sent back."""

    at: datetime
    since: datetime
    known_by: str
    rows: Sequence[Row]
    bought: Callable[[datetime, Keep], Interactions]
    whole: Interactions  # all they paid for, be it in the catalogue or not


def by_history(everybody: Everybody, rows: Sequence[Row], at: datetime) -> Life:
    """Of one whose every event is at hand."""
    rows = [row for row in rows if row["occurred_at"] < at]
    told = table(rows)

    def bought(until: datetime, keep: Keep = None) -> Interactions:
        return Interactions.from_events(told, items=everybody.catalog.items, keep=keep, until=until)

    return Life(
        at,
        BEGINNING,
        "history",
        rows,
        bought,
        Interactions.from_events(told, items=distinct(told["product_id"]), until=at),
    )


def by_model(everybody: Everybody, names: Sequence[str], rows: Sequence[Row], at: datetime) -> Life:
    """Of one whose purchases are those that a model learned, and what came in live since then.

    Raises RequestError for a moment before the end of what it learned: it took back what was returned until then.
    """
    data, since = everybody.data, moment(everybody.data.until)
    if at < since:
        raise RequestError(
            "at",
            f"{at.isoformat()} is before {since.isoformat()}, up to which the model learned, and there is no history: "
            "ask for a later moment, or a service whose OSCLMS_HOME holds the history",
        )
    rows = [row for row in rows if row["occurred_at"] < at]
    places = data.customers.positions(list(names))
    own, *others = [*places[places >= 0].tolist(), -1][: max(1, int((places >= 0).sum()))]
    new = table([row for row in rows if seconds(row["occurred_at"]) >= data.until])

    def bought(until: datetime, keep: Keep = None) -> Interactions:
        return data.of_one(own, new, keep=keep, until=until, others=others)

    return Life(at, since, "model", rows, bought, bought(at))


def table(rows: Sequence[Row]) -> pa.Table:
    """Purchases and returns as the contract has them, all of one customer."""
    told = [{**row, "customer_id": "own"} for row in rows if row["event_type"] in PURCHASES]
    return pa.Table.from_pylist([{name: row.get(name) for name in EVENT_COLUMNS} for row in told], SCHEMA)


def profile(everybody: Everybody, life: Life, sends: Sequence[Row]) -> Profile:
    """The view of one customer."""
    data = life.bought(life.at, None)
    eligible = life.bought(life.at, everybody.catalog.eligible)
    known = facts(data, everybody.catalog, everybody.norms(seconds(life.at)))
    sends = [row for row in sends if row["at"] < life.at]
    return Profile(
        as_of=life.at,
        known_by=life.known_by,
        orders=orders_about(life.whole, life.at, everybody.zone),
        events=dict(sorted(Counter(row["event_type"] for row in life.rows).items())),
        messages=dict(sorted(Counter(row["placement"] or "" for row in sends).items())),
        last_message=max((row["at"] for row in sends), default=None),
        stage="prospect" if known.empty else known["stage"].iloc[0],
        stages=dict(stages_by_month(everybody, life)),
        rfm=None if known.empty else rfm(known.iloc[0]),
        favourites=favourites(everybody, data, life.rows),
        due=tuple(due_next(everybody, eligible)),
        scores=scores_about(everybody, eligible),
    )


def orders_about(data: Interactions, at: datetime, zone: str) -> OrdersAbout:
    moments = Orders.of(data).at
    if not len(moments):
        return OrdersAbout(count=0, first=None, last=None, spend=0.0, by_month={})
    first, last = moment(moments.min()), moment(moments.max())
    months = Counter(f"{moment(of).astimezone(ZoneInfo(zone)):%Y-%m}" for of in moments)
    by_month = {name: months[name] for name, _ in month_ends(max(first, at - YEARS), at, zone)}
    spend = round(float(data.paid.astype(np.float64).sum()), 2)
    return OrdersAbout(count=len(moments), first=first, last=last, spend=spend, by_month=by_month)


def stages_by_month(everybody: Everybody, life: Life) -> Iterator[tuple[str, str]]:
    now = life.bought(life.at, None)
    if not len(now):
        return
    for name, end in month_ends(max(moment(now.at.min()), life.at - YEARS), life.at, everybody.zone):
        if end < life.since:
            continue
        then = facts(life.bought(end, None), everybody.catalog, everybody.norms(seconds(end)))
        yield name, "prospect" if then.empty else str(then["stage"].iloc[0])


def rfm(known: "pd.Series[Any]") -> Rfm:
    numbers = {name: round(float(known[name]), 2) for name in ("recency", "spend", "gap")}
    scores = {name: int(known[name]) for name in ("frequency", "r", "f", "m")}
    return Rfm(**numbers, **scores, group=known["group"])


def favourites(everybody: Everybody, data: Interactions, rows: Sequence[Row]) -> Favourites:
    catalog = everybody.catalog
    latest = np.flatnonzero(data.at == data.at.max(initial=-1))
    category = int(catalog.category[data.item[latest[np.argmax(data.paid[latest])]]]) if len(latest) else -1
    orders = {(row["order_id"], row.get("store_id")) for row in rows if row["event_type"] == "order"}
    stores = Counter(sorted(store for _, store in orders if store))
    brand, band = (most(code, data) for code in (catalog.brand, everybody.bands))
    return Favourites(
        category=catalog.categories[category] if category >= 0 else None,
        store_id=stores.most_common(1)[0][0] if stores else None,
        brand=catalog.brands[brand] if brand >= 0 else None,
        price_band=BANDS[band] if band >= 0 else None,
    )


def most(code: Any, data: Interactions) -> int:
    return int(favourite(code, data)[0]) if len(data) else -1


def due_next(everybody: Everybody, data: Interactions) -> Iterator[DueAbout]:
    """What is likely enough to be bought again, and may be."""
    catalog = everybody.catalog
    if not len(data):
        return
    found = due(data, catalog, everybody.renewal(data.until))
    found = found[(found["chance"] >= LIKELY) & catalog.available[found["item"]]]
    for row in found.sort_values(["days", "item"]).head(DUE).to_dict("records"):
        at = moment(data.until + round(row["days"] * DAY))
        yield DueAbout(
            product_id=catalog.items.at([row["item"]])[0], title=catalog.title[row["item"]], due=at,
            chance=round(float(row["chance"]), 3),
        )  # fmt: skip


def scores_about(everybody: Everybody, data: Interactions) -> ScoresAbout | None:
    """What the scores say; nothing of a moment before the end of what they were learned from."""
    scores = everybody.scores()
    if scores is None or not len(data) or data.until < seconds(scores.manifest.data_until):
        return None
    told = scores.of(data, everybody.catalog, everybody.usual(data.until, scores))
    chance = np.zeros(len(told.categories)) if told.buys is None else told.buys[0]
    best = np.argsort(-chance, kind="stable")
    new = best[~told.had[0, best]]
    return ScoresAbout(
        version=scores.manifest.version,
        churn=None if told.churn is None else round(float(told.churn[0]), 4), churn_days=scores.horizon(CHURN),
        spend=None if told.spend is None else round(float(told.spend[0]), 2), spend_days=scores.horizon(SPEND),
        categories=listed(told.categories, chance, best), additions=listed(told.categories, chance, new),
        category_days=scores.horizon(CATEGORIES),
    )  # fmt: skip


def listed(names: Sequence[str], chance: Any, places: NDArray[np.int64]) -> tuple[CategoryAbout, ...]:
    return tuple(
        CategoryAbout(category=names[n], chance=round(float(chance[n]), 4))
        for n in places[:LIKELIEST].tolist()
    )
