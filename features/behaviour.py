"""What customers do, in numbers, as of one moment: what their scores are worked out from.

One function makes them for training, for all customers on a day and for one customer. Most counts look back a fixed
time, so that a number means the same in a young history and in an old one. Given what is usual, a customer's numbers
depend on nobody else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from features.catalog import Catalog
from features.customers import Norms, Orders, facts
from features.interactions import DAY, Floats, Ids, Interactions, sorted_set
from features.replenishment import Renewal, due

Array = NDArray[Any]
LATELY, LONG = 30, 90  # days
WEEKS = 13
LAST = 4  # orders, whose gaps tell the pace of late
YEAR = 365.0  # days, beyond which nobody is known longer
NEVER = 1_000.0  # days since what never happened
CHUNK = 5_000  # customers at a time
COUNTED = ("orders", "spend", "lines", "products", "categories", "deal")
CUSTOMER = (
    "recency", "gap", "late", "tenure", "order", "due",
    "weeks", "pause", "pace", "slower", "evenness",
    *(f"{name}_{days}" for days in (LATELY, LONG) for name in COUNTED),
)  # fmt: skip
OWN = ("orders_30", "orders_90", "last", "gap", "late", "share", "kin")
EVERYBODY = ("lately", "added", "again")
BESIDE = (
    "recency", "late", "weeks", "orders_30", "orders_90", "categories_30", "categories_90", "products_90", "due",
)  # fmt: skip
CATEGORY = tuple(
    f"{block}.{name}"
    for block, names in {"own": OWN, "everybody": EVERYBODY, "customer": BESIDE}.items()
    for name in names
)


# --- what everybody does ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usual:
    """What everybody does at a moment, and so what one customer is held against; of these main categories by name:

    lately: the share of active customers (with an order in the last LONG days) who bought of it in the last LATELY
    days. added, again: the same of those alone who had never bought of it before these days, and of those who had.
    kin: how alike two categories' buyers are, columns summing to 1, float64 [categories, categories].
    """

    norms: Norms
    renewal: Renewal
    categories: tuple[str, ...]
    lately: Array
    added: Array
    again: Array
    kin: Array

    @classmethod
    def of(
        cls,
        data: Interactions,
        catalog: Catalog,
        categories: tuple[str, ...] = (),
        *,
        norms: Norms | None = None,
        renewal: Renewal | None = None,
    ) -> "Usual":
        """As of `data.until`; norms and renewal are those of the same data where they are given."""
        n = len(data.customers)
        there, age, key = pair_rows(data, catalog, categories)
        before, now = (held(key[rows], n, len(categories)) for rows in (age > LATELY, age <= LATELY))
        active = held(data.customer[there & (data.age() <= LONG)], n, 1)
        buyers = before.maximum(now)
        return cls(
            Norms.of(data, catalog) if norms is None else norms,
            Renewal.of(data, catalog) if renewal is None else renewal,
            categories,
            *shares(before.multiply(active).tocsr(), now, int(active.sum())),
            kin(buyers),
        )


def shares(before: Any, now: Any, active: int) -> tuple[Array, Array, Array]:
    """(lately, added, again) of `Usual` from who bought of each category before the last days, and in them."""
    known, lately = np.asarray(before.sum(axis=0)).ravel(), np.asarray(now.sum(axis=0)).ravel()
    back = np.asarray(before.multiply(now).sum(axis=0)).ravel()
    return (
        lately / max(active, 1),
        (lately - back) / np.maximum(active - known, 1),
        back / np.maximum(known, 1),
    )


def held(key: Array, rows: int, columns: int) -> sparse.csr_array:
    """1 in each cell named by row × columns + column: float32 csr [rows, columns]."""
    cells = sorted_set(key.astype(np.int64))
    where = (cells // max(columns, 1), cells % max(columns, 1))
    return sparse.csr_array(sparse.coo_array((np.ones(len(cells), np.float32), where), shape=(rows, columns)))


def kin(buyers: Any) -> Array:
    both = (buyers.T @ buyers).toarray().astype(np.float64)
    size = np.sqrt(np.maximum(np.diag(both), 1.0))
    alike = both / size / size[:, None]
    np.fill_diagonal(alike, 0.0)
    return np.asarray(alike / np.maximum(alike.sum(axis=0), 1e-9))


def main_category(catalog: Catalog, categories: tuple[str, ...]) -> NDArray[np.int64]:
    """By item the place of its main category, the one above the finest, among these; −1 where it is none of them."""
    place = {name: n for n, name in enumerate(categories)}
    return np.array([*(place.get(name, -1) for name in catalog.parents), -1])[catalog.parent]


def pair_rows(
    data: Interactions, catalog: Catalog, categories: tuple[str, ...]
) -> tuple[NDArray[np.bool_], Floats, NDArray[np.int64]]:
    """(rows of known customers; of those of these categories the age in days, and customer × categories + place)."""
    known = data.customer >= 0
    place = main_category(catalog, categories)[data.item]
    rows = known & (place >= 0)
    return known, data.age()[rows], data.customer[rows].astype(np.int64) * len(categories) + place[rows]


# --- what each customer does --------------------------------------------------------------------------------


def behaviour(data: Interactions, catalog: Catalog, usual: Usual) -> Floats:
    """Columns of CUSTOMER for each of `data.customers`, as of `data.until`: float32 [customers, columns].

    Days, orders and money; NaN where there is nothing to tell from. late: the days since the last order in usual gaps.
    due: how many of the products bought before are expected to be bought again within 60 days. weeks: of the last
    WEEKS those with an order. pause: the longest time of late without one. pace: the mean of the last LAST gaps;
    slower: in mean gaps. evenness: the deviation of gaps, in mean gaps. deal: the share of the list price taken off.
    """
    known, orders = facts(data, catalog, usual.norms), Orders.of(data)
    again = due(data, catalog, usual.renewal)
    found = {
        "recency": known["recency"],
        "gap": known["gap"],
        "late": known["recency"] / np.maximum(known["gap"], 1 / 24),
        "tenure": np.minimum(known["tenure"], YEAR),
        "order": known["spend"] / known["frequency"],
        "due": np.bincount(again["customer"], again["chance"], minlength=len(data.customers)),
        **by_place(orders, cadence(orders, data.until), len(data.customers)),
        **counts(data, catalog, orders, LATELY),
        **counts(data, catalog, orders, LONG),
    }
    return np.column_stack([found[name] for name in CUSTOMER]).astype(np.float32)


def by_place(orders: Orders, found: dict[str, Array], n: int) -> dict[str, Array]:
    """Figures of the customers with orders as figures of all, NaN where there is none."""
    whole = {name: np.full(n, np.nan) for name in found}
    for name, values in found.items():
        whole[name][orders.who] = values
    return whole


def cadence(orders: Orders, until: int) -> dict[str, Array]:
    """How evenly the customers with orders come, and whether they have become slower."""
    gap, age = orders.gaps(), (until - orders.at) / DAY
    place = np.repeat(np.arange(len(orders.who)), orders.count)
    later = np.flatnonzero(~np.isnan(gap))
    newest = later[(orders.last[place] - np.arange(len(gap)))[later] < LAST]
    usual, pace = (mean_by(place[rows], gap[rows], len(orders.who)) for rows in (later, newest))
    spread = mean_by(place[later], (gap[later] - usual[place[later]]) ** 2, len(orders.who))
    pause = age[orders.last] if len(orders.who) else np.empty(0)
    late = later[age[later] <= LONG]
    np.maximum.at(pause, place[late], gap[late])
    week = (age // 7).astype(np.int64)
    weeks = sorted_set((place * WEEKS + week)[week < WEEKS]) // WEEKS
    usual = np.maximum(usual, 1 / 24)
    return {
        "weeks": np.bincount(weeks, minlength=len(orders.who)), "pause": pause, "pace": pace,
        "slower": pace / usual, "evenness": np.sqrt(spread) / usual,
    }  # fmt: skip


def mean_by(place: Array, values: Array, n: int) -> Array:
    """Means by place, NaN where there is no value."""
    count = np.bincount(place, minlength=n)
    return np.bincount(place, values, minlength=n) / np.where(count > 0, count, np.nan)


def counts(data: Interactions, catalog: Catalog, orders: Orders, days: int) -> dict[str, Array]:
    """What each customer bought in the last so many days: COUNTED."""
    n, lately = len(data.customers), (data.until - orders.at) / DAY <= days
    rows = (data.customer >= 0) & (data.age() <= days)
    who, item = data.customer[rows].astype(np.int64), data.item[rows]
    spend, off = (np.bincount(who, of[rows].astype(np.float64), n) for of in (data.paid, data.discount))
    found = {
        "orders": np.bincount(orders.customer[lately], minlength=n),
        "spend": spend,
        "lines": np.bincount(who, minlength=n),
        "products": distinct(who, item, n),
        "categories": distinct(who, catalog.parent[item], n),
        "deal": off / np.maximum(off + spend, 0.01),
    }
    return {f"{name}_{days}": found[name] for name in COUNTED}


def distinct(who: NDArray[np.int64], code: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """How many different codes each has; an unknown one, −1, counts as one."""
    width = int(code.max(initial=-1)) + 2
    return np.bincount(sorted_set(who * width + code + 1) // width, minlength=n)


# --- what each customer does in each category ---------------------------------------------------------------


def leanings(data: Interactions, catalog: Catalog, usual: Usual, mine: Floats) -> Floats:
    """Columns of CATEGORY for each customer and each of `usual.categories`: float32 [customers, categories, columns].
    `mine` is what `behaviour` says of the same customers.

    last: days since they bought of it, NEVER where they did not. share: of their lines in the last LONG days. kin: how
    alike its buyers are to those of the categories they bought of.
    """
    n, width = len(data.customers), len(usual.categories)
    _, age, key = pair_rows(data, catalog, usual.categories)
    last, first = np.full(n * width, np.inf), np.zeros(n * width)
    np.minimum.at(last, key, age)
    np.maximum.at(first, key, age)
    ever, lately, long = (visits(key, age, n * width, within=days) for days in (np.inf, LATELY, LONG))
    gap = (first - last) / np.where(ever > 1, ever - 1, np.nan)
    had = (ever > 0).reshape(n, width)
    lines = np.bincount(key[age <= LONG], minlength=n * width).reshape(n, width)
    of_lines = mine[:, CUSTOMER.index(f"lines_{LONG}"), None]
    own = (
        lately, long, np.minimum(last, NEVER), gap, np.minimum(last, NEVER) / np.maximum(gap, 0.5),
        lines / np.maximum(of_lines, 1), had @ usual.kin,
    )  # fmt: skip
    every = (usual.lately, usual.added, usual.again)
    beside = mine[:, [CUSTOMER.index(name) for name in BESIDE]]
    blocks = [
        np.stack([np.reshape(of, (n, width)) for of in own], axis=2),
        np.broadcast_to(np.stack(every, axis=1), (n, width, len(every))),
        np.broadcast_to(beside[:, None, :], (n, width, len(BESIDE))),
    ]
    return np.concatenate(blocks, axis=2, dtype=np.float32)


def visits(key: Array, age: Floats, n: int, *, within: float) -> Array:
    """How many orders within so many days hold each key; rows of an order have one age."""
    rows = age <= within
    by = np.lexsort((age[rows], key[rows]))
    key, age = key[rows][by], age[rows][by]
    new = np.ones(len(key), bool)
    new[1:] = (key[1:] != key[:-1]) | (age[1:] != age[:-1])
    return np.bincount(key[new], minlength=n)


def in_parts(data: Interactions, most: int = CHUNK) -> Iterator[Interactions]:
    """The known customers a part at a time, each with their own rows; one part at least."""
    for first in range(0, max(len(data.customers), 1), most):
        rows = slice(data.start[first], data.start[min(first + most, len(data.customers))])
        part = {
            name: getattr(data, name)[rows]
            for name in ("item", "order", "at", "quantity", "paid", "discount")
        }
        customers = Ids(data.customers.values[first : first + most])
        yield replace(data, customers=customers, customer=data.customer[rows] - np.int32(first), **part)
