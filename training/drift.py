"""How what a version learned from differs from what the version before it learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.interactions import DAY, Interactions, seconds
from features.pairs import Pairs, columns, item_facts
from serving.bundle import load_data

WINDOW = 56  # days before each version's end that are compared
CUSTOMERS = 500  # whose numbers are compared
BINS = 10
LEAST = 1e-4  # share of a bin, so that an empty one has a logarithm
COMPARED = (
    "customer.orders", "customer.recency", "customer.gap", "customer.basket", "customer.novelty_30",
    "customer.price_level", "customer.deal", "own.orders", "own.gap", "item.buyers_28", "item.price", "item.deal_28",
)  # fmt: skip

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Change:
    name: str
    before: float
    now: float


@dataclass(frozen=True)
class Drift:
    """Against which version, the plain figures, and the population stability index of each of COMPARED."""

    version: str
    until: datetime
    figures: tuple[Change, ...]
    stability: Mapping[str, float]


def drift(version: str, until: datetime, folder: Path, now: Path, now_until: datetime, *, seed: int) -> Drift:
    """What the data in the folder `now` has that the data in another version's `folder` had not."""
    before, after = known_in(folder, until), known_in(now, now_until)
    old, new = figures(before.data), figures(after.data)
    changes = [Change(name, old[name], new[name]) for name in old]
    changes.append(Change("price level", 1.0, price_level(before.data, after.data)))
    return Drift(version, until, tuple(changes), shifts(before, after, seed=seed))


def known_in(folder: Path, until: datetime) -> Pairs:
    """The data of a folder; the facts anew, as another version's code may have told others."""
    catalog, data = load_data(folder, until=seconds(until))
    return Pairs(catalog, data, item_facts(catalog, data))


def figures(data: Interactions) -> dict[str, float]:
    """What happened in the last WINDOW days, or in all of a shorter history."""
    lately = data.age() <= WINDOW
    weeks = min(WINDOW, (data.until - int(data.at.min())) / DAY) / 7
    orders, who = len(np.unique(data.order[lately])), data.customer[lately]
    buyers = len(np.unique(who[who >= 0]))
    first = data.age()[data.start[:-1]]
    return {
        "orders a week": orders / weeks,
        "customers who bought": float(buyers),
        "products sold": float(len(np.unique(data.item[lately]))),
        "products an order": int(lately.sum()) / max(orders, 1),
        "money an order": float(data.paid[lately].sum(dtype=np.float64)) / max(orders, 1),
        "share of new customers": int((first <= WINDOW).sum()) / max(buyers, 1),
    }


def price_level(before: Interactions, now: Interactions) -> float:
    """What the products sold in both windows cost now, over what they cost before: the geometric mean, before
    discounts. NaN where no product was sold in both."""
    old, new = prices(before), prices(now)
    place = before.items.positions(now.items.at(np.arange(len(now.items))))
    ratio = np.log(new) - np.log(np.append(old, np.nan)[place])
    known = np.isfinite(ratio)
    return float(np.exp(ratio[known].mean())) if known.any() else float("nan")


def prices(data: Interactions) -> Values:
    """Mean list price by item in the window, NaN where none was paid."""
    lately = (data.age() <= WINDOW) & (data.paid + data.discount > 0)
    item, n = data.item[lately], len(data.items)
    money = np.bincount(item, (data.paid + data.discount)[lately], minlength=n)
    pieces = np.bincount(item, data.quantity[lately], minlength=n)
    return np.divide(money, pieces, out=np.full(n, np.nan), where=pieces > 0)


def shifts(before: Pairs, now: Pairs, *, seed: int) -> dict[str, float]:
    """The population stability index of each of COMPARED, over sampled customers and their last orders."""
    names = columns(basket=False)
    old, new = told(before, seed), told(now, seed)
    return {name: stability(old[:, n], new[:, n]) for n, name in enumerate(names) if name in COMPARED}


def told(pairs: Pairs, seed: int) -> Values:
    """What is known of sampled customers with the products of their last orders: [n, columns]."""
    data, n = pairs.data, len(pairs.data.customers)
    who = np.random.default_rng(seed).choice(n, min(n, CUSTOMERS), replace=False)
    return np.concatenate([pairs.of(int(c), last_order(data, int(c))) for c in np.sort(who)])


def last_order(data: Interactions, customer: int) -> NDArray[np.int32]:
    rows = data.rows(customer)
    return np.unique(data.item[rows][data.order[rows] == data.order[rows][-1]])


def stability(before: Values, now: Values, bins: int = BINS) -> float:
    """Population stability index: the sum of (b − a) ln(b / a) over bins that hold equal shares of `before`, a and b
    the shares of both; what is unknown is a bin of its own."""
    known = before[np.isfinite(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.empty(0)

    def shares(values: Values) -> Values:
        place = np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), len(edges) + 1)
        return np.maximum(np.bincount(place, minlength=len(edges) + 2) / len(values), LEAST)

    a, b = shares(before), shares(now)
    return float(((b - a) * np.log(b / a)).sum())
