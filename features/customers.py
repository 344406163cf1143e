"""Facts about each customer at a moment, from purchases alone: how often they come, what they spend, where in their
life with the store they stand. Arrays for all customers at once; one customer by the same functions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from features.catalog import Catalog
from features.interactions import DAY, Ids, Interactions, pasts, runs

Array = NDArray[np.float64]
STAGES = ("prospect", "new", "active", "loyal", "brink", "lapsed", "won_back")
QUANTILE = 0.9  # of the gaps between a customer's orders: what their usual gap is
BRINK, LAPSED = 1.5, 3.0  # times the customer's own usual gap
LOYAL, BACK = 5, 3  # orders without a lapse between them; fewer than so many after one
OWN_GAPS, CATEGORY_GAPS = (
    3.0,
    50.0,
)  # how many gaps the figure above counts for, where there are few of one's own
NO_GAPS = 30.0  # days, where nobody came twice
LEAST_GAP = 1 / 24  # days: a usual gap below this counts as so long
# By the score of recency, then by those of frequency and money together: from 2 to 6.
GROUPS: dict[int, tuple[str, ...]] = {
    3: ("Recent", "Recent", "Loyal", "Champions", "Champions"),
    2: ("Needs Attention", "Needs Attention", "Needs Attention", "Loyal", "Loyal"),
    1: ("Inactive", "Inactive", "At Risk", "At Risk", "At Risk"),
}
GROUP_NAMES = ("Champions", "Loyal", "Recent", "Needs Attention", "At Risk", "Inactive")
BANDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Orders:
    """One row an order of a known customer, by customer, then time.

    customer: position; at: seconds; paid: money. `who` has orders, the rows from `start` on, `count` of them.
    """

    customer: NDArray[np.int32]
    at: NDArray[np.int64]
    paid: Array
    who: NDArray[np.int32]
    start: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, data: Interactions) -> "Orders":
        rows = slice(int(np.searchsorted(data.customer, 0)), len(data))
        first = np.flatnonzero(runs(data.order[rows]))  # the rows of an order lie side by side
        customer, at = data.customer[rows][first], data.at[rows][first]
        paid = np.add.reduceat(data.paid[rows].astype(np.float64), first) if len(first) else np.empty(0)
        start = np.flatnonzero(runs(customer))
        return cls(customer, at, paid, customer[start], start, np.diff(np.append(start, len(customer))))

    @property
    def last(self) -> NDArray[np.int64]:
        return self.start + self.count - 1

    def gaps(self) -> Array:
        """Days since the order before of the same customer, NaN for the first."""
        days = np.diff(self.at, prepend=0) / DAY
        days[self.start] = np.nan
        return days

    def usual(self) -> tuple[Array, Array]:
        """(QUANTILE of each customer's gaps, how many gaps they have); 0 where there is none."""
        later = np.ones(len(self.at), bool)
        later[self.start] = False
        place = np.repeat(np.arange(len(self.who)), self.count)[later]
        return quantiles(place, self.gaps()[later], len(self.who)), (self.count - 1).astype(np.float64)


def quantiles(group: NDArray[np.int64], values: Array, groups: int, at: float = QUANTILE) -> Array:
    """A quantile of the values of each group, between neighbours by their distance; 0 where a group has none."""
    values = values[np.lexsort((values, group))]
    count = np.bincount(group, minlength=groups)
    rank = at * np.maximum(count - 1, 0)
    low = np.cumsum(count) - count + rank.astype(np.int64)
    padded = np.append(values, 0.0)
    high = np.minimum(low + (rank % 1 > 0), len(values))
    found: Array = padded[low] + (padded[high] - padded[low]) * (rank % 1)
    return np.where(count > 0, found, 0.0)


def shrunk(own: Array, weight: Array, towards: Array | float, prior: float) -> Array:
    """A mean of one's own figure, by its weight, and a more general one that counts for `prior` of them."""
    return (own * weight + towards * prior) / (weight + prior)


@dataclass(frozen=True)
class Norms:
    """What is usual in a shop at a moment, and so what one customer is held against.

    gaps: the usual gap of each main category, shrunk to everybody's, which stands last: float64 [categories + 1].
    cuts: of each of `figures` the two that part customers into thirds: float64 [3, 2].
    """

    gaps: Array
    cuts: Array

    @classmethod
    def of(cls, data: Interactions, catalog: Catalog) -> "Norms":
        orders = Orders.of(data)
        return cls.by(orders, mains(orders, data, catalog), catalog)

    @classmethod
    def by(cls, orders: Orders, main: NDArray[np.int64], catalog: Catalog) -> "Norms":
        """The same of orders at hand, and the main category of each customer who made them."""
        return cls(category_gaps(orders, main, int(catalog.parent.max(initial=-1)) + 1), thirds(orders))


def mains(orders: Orders, data: Interactions, catalog: Catalog) -> NDArray[np.int64]:
    """The main category of each customer with orders, −1 where none is known."""
    return favourite(catalog.parent, data)[orders.who]


def category_gaps(orders: Orders, main: NDArray[np.int64], categories: int) -> Array:
    gaps, category = orders.gaps(), np.repeat(main, orders.count)
    there = ~np.isnan(gaps)
    every = float(np.quantile(gaps[there], QUANTILE)) if there.any() else NO_GAPS
    known = there & (category >= 0)
    own = quantiles(category[known], gaps[known], categories)
    count = np.bincount(category[known], minlength=categories).astype(np.float64)
    return np.append(shrunk(own, count, every, CATEGORY_GAPS), every)


def thirds(orders: Orders) -> Array:
    return np.array([cut(figure) for figure in figures(orders)])


def cut(figure: Array) -> tuple[float, float]:
    """What a figure must be above to be in the middle third, and to be in the upper one.

    One that all have alike, be it of a single customer, is in the middle, and whatever differs beside it. Where nobody
    has any, all are in the middle.
    """
    if not len(figure):
        return -np.inf, np.inf
    low, high = np.quantile(figure, (1 / 3, 2 / 3))
    alike = figure.min() == figure.max()
    return (float(np.nextafter(low, -np.inf)), float(low)) if alike else (float(low), float(high))


def figures(orders: Orders) -> tuple[Array, Array, Array]:
    """What is scored of each customer with an order: the last one (seconds), how many, and spend."""
    spend = np.add.reduceat(orders.paid, orders.start) if len(orders.start) else np.empty(0)
    return orders.at[orders.last].astype(np.float64), orders.count.astype(np.float64), spend


def facts(data: Interactions, catalog: Catalog, norms: Norms | None = None) -> pd.DataFrame:
    """One row a customer, in the order of `data.customers`, as of `data.until`, held against `norms`, by default
    their own.

    recency (days since the last order), frequency (orders), spend (money), tenure (days since the first), gap (days
    that nine in ten of the customer's gaps stay below: of few, shrunk to those of their main category, and these to
    everybody's), r, f, m (thirds by recency, frequency and spend, 3 the best; see `cut`), group (of GROUPS), stage
    (of STAGES).
    Of a customer without an order nothing is known: a prospect.
    """
    orders = Orders.of(data)
    main = mains(orders, data, catalog)
    norms = Norms.by(orders, main, catalog) if norms is None else norms
    gap = usual_gap(orders, main, norms)
    scored = figures(orders)
    r, f, m = (
        1 + (x > low).astype(np.int8) + (x > high) for x, (low, high) in zip(scored, norms.cuts, strict=True)
    )
    columns = {
        "recency": (data.until - orders.at[orders.last]) / DAY,
        "frequency": orders.count,
        "spend": scored[2],
        "tenure": (data.until - orders.at[orders.start]) / DAY,
        "gap": gap,
        "r": r,
        "f": f,
        "m": m,
        "group": pd.Categorical.from_codes(group_codes(r, f, m), pd.Index(GROUP_NAMES)),
    }  # fmt: skip
    found = pd.DataFrame(columns, index=pd.Index(orders.who, name="customer"))
    if len(found) < len(data.customers):  # of some nothing is left: they were erased, or gave all back
        found = found.reindex(np.arange(len(data.customers)))
    codes = np.zeros(len(data.customers), np.int8)
    codes[orders.who] = stages(orders, gap, data.until)
    found["stage"] = pd.Categorical.from_codes(codes, pd.Index(STAGES))
    return found.rename_axis("customer")


def usual_gap(orders: Orders, main: NDArray[np.int64], norms: Norms) -> Array:
    """Days within which a customer usually comes back, by the customers with orders."""
    own, count = orders.usual()
    return shrunk(own, count, norms.gaps[main], OWN_GAPS)


def stages(orders: Orders, gap: Array, until: int) -> NDArray[np.int8]:
    """Places in STAGES of the customers with orders.

    By how many usual gaps have passed since the last order: more than LAPSED, lapsed; more than BRINK, on the brink.
    Of the rest new with one order; won back with fewer than BACK since they had stayed away for a lapse; loyal with
    LOYAL and more without one; else active.
    """
    late = (until - orders.at[orders.last]) / DAY / np.maximum(gap, LEAST_GAP)
    since = orders.last + 1 - lives(orders, gap)
    names = (
        (late > LAPSED, "lapsed"), (late > BRINK, "brink"), (orders.count == 1, "new"),
        ((since < orders.count) & (since < BACK), "won_back"), (since >= LOYAL, "loyal"),
    )  # fmt: skip
    return np.select(
        [holds for holds, _ in names], [STAGES.index(name) for _, name in names], STAGES.index("active")
    ).astype(np.int8)


def lives(orders: Orders, gap: Array) -> NDArray[np.int64]:
    """The row of the order by which each customer came back from their last lapse; of their first where there was
    none."""
    lapse = np.nan_to_num(orders.gaps()) > LAPSED * np.repeat(np.maximum(gap, LEAST_GAP), orders.count)
    rows = np.where(lapse, np.arange(len(lapse)), 0)
    again = np.maximum.reduceat(rows, orders.start) if len(rows) else rows
    return np.maximum(again, orders.start)


CODES = np.array([[GROUP_NAMES.index(name) for name in GROUPS[r]] for r in (1, 2, 3)], np.int8)


def group_codes(r: NDArray[np.int8], f: NDArray[np.int8], m: NDArray[np.int8]) -> NDArray[np.int8]:
    """Places in GROUP_NAMES of scores from 1 to 3."""
    return CODES[r - 1, f + m - 2]


def favourite(code: NDArray[np.int32], data: Interactions) -> NDArray[np.int64]:
    """The code, by item, of most of each customer's purchases, the lowest of equals, −1 where none is known."""
    known = (data.customer >= 0) & (code[data.item] >= 0)
    n_codes = int(code.max(initial=-1)) + 1
    pairs, times = np.unique(
        data.customer[known].astype(np.int64) * n_codes + code[data.item[known]], return_counts=True
    )
    best = pairs[np.lexsort((-pairs, times))]  # of each customer the last one stands
    found = np.full(len(data.customers), -1)
    found[best // max(n_codes, 1)] = best % max(n_codes, 1)
    return found


def price_thirds(catalog: Catalog) -> NDArray[np.int32]:
    """By item the place in BANDS of its price among those of its need; −1 where it is unknown, or there is no other."""
    found = np.full(len(catalog), -1, np.int32)
    known = np.flatnonzero((catalog.need >= 0) & np.isfinite(catalog.price))
    prices = pd.Series(catalog.price[known]).groupby(catalog.need[known])
    rank, count = prices.rank(method="average").to_numpy(), prices.transform("size").to_numpy()
    several = count > 1
    found[known[several]] = np.minimum(3 * (rank - 0.5) / count, 2)[several].astype(np.int32)
    return found


# --- as time goes by ----------------------------------------------------------------------------------------


def month_ends(first: datetime, until: datetime, zone: str) -> Iterator[tuple[str, datetime]]:
    """(a month of the store, the first moment after it) from that of `first` on; the last one ends at `until`."""
    here, end = first.astimezone(ZoneInfo(zone)), first
    year, month = here.year, here.month
    while end < until:
        name = f"{year}-{month:02}"
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        end = min(datetime(year, month, 1, tzinfo=ZoneInfo(zone)).astimezone(until.tzinfo), until)
        yield name, end


def stages_at(
    events: pa.Table, catalog: Catalog, moments: Sequence[datetime]
) -> tuple[Ids, NDArray[np.int8]]:
    """(customers, the place in STAGES of each at each of these moments: int8 [customers, moments]).

    At each moment nothing is seen that happened at or after it, be it an order or a return.
    """
    found = list(pasts(events, items=catalog.items, moments=moments))
    customers = Ids.of(name for data in found for name in data.customers.at(np.arange(len(data.customers))))
    codes = np.zeros((len(customers), len(moments)), np.int8)
    for column, data in enumerate(found):
        places = customers.positions(data.customers.at(np.arange(len(data.customers))))
        codes[places, column] = facts(data, catalog)["stage"].cat.codes
    return customers, codes
