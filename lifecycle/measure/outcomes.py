"""What customers did after a decision about them, and what they had spent before it: arrays, a figure a customer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.history import History
from features.interactions import DAY, Ids, Interactions, Seconds
from lifecycle.measure.lift import Reals

BEFORE = 90  # days of spend before the first decision, the covariate


@dataclass(frozen=True)
class Purchases:
    """All that these customers bought, a row a line: owner, at, order, revenue, margin (None where no cost is known at
    all). costed: the share of the revenue whose cost is known. signs: what else customers did, (owner, at) by name."""

    owner: NDArray[np.int64]
    at: Seconds
    order: NDArray[np.int64]
    revenue: Reals
    margin: Reals | None
    costed: float
    signs: Mapping[str, tuple[NDArray[np.int64], Seconds]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, data: Interactions, cost: Reals, customers: list[str],
        signs: Mapping[str, tuple[NDArray[np.int64], Seconds]] | None = None,
    ) -> "Purchases":  # fmt: skip
        """Of these customers alone; returns are taken back already. cost: by product, NaN unknown."""
        place = np.full(len(data.customers) + 1, -1, np.int64)
        found = data.customers.positions(customers)
        known = np.flatnonzero(found >= 0)
        place[found[known]] = known
        owner = place[data.customer]
        rows = owner >= 0
        paid, is_known = data.paid[rows].astype(np.float64), ~np.isnan(cost[data.item[rows]])
        return cls(
            owner[rows], data.at[rows], data.order[rows].astype(np.int64), paid,
            None if np.isnan(cost).all() else worths(data, cost)[rows],
            float(paid[is_known].sum()) / (float(paid.sum()) or 1.0), signs or {},
        )  # fmt: skip

    def within(self, since: Seconds, until: Seconds) -> NDArray[np.bool_]:
        """Which lines lie in their customer's time, since ≤ at < until."""
        return (self.at >= since[self.owner]) & (self.at < until[self.owner])

    def total(self, since: Seconds, until: Seconds) -> dict[str, Reals]:
        """orders, conversion (1 who bought at all), revenue, margin where any cost is known, and whether each
        sign was given, of each customer."""
        rows, n = self.within(since, until), len(since)
        owner = self.owner[rows]
        orders = np.bincount(owner[np.unique(self.order[rows], return_index=True)[1]], minlength=n).astype(
            float
        )
        found = {
            "revenue": np.bincount(owner, self.revenue[rows], n), "conversion": (orders > 0).astype(float),
            "orders": orders,
        }  # fmt: skip
        if self.margin is not None:
            found["margin"] = np.bincount(owner, self.margin[rows], n)
        return found | {name: gave(*of, since, until) for name, of in self.signs.items()}

    def after(self, at: Seconds, days: int) -> dict[str, Reals]:
        return self.total(at, at + days * DAY)

    def before(self, at: Seconds) -> dict[str, Reals]:
        return self.total(at - BEFORE * DAY, at)

    def by_day(self, at: Seconds, days: int, inside: NDArray[np.bool_]) -> Reals:
        """Mean revenue of the customers `inside` until the end of each day since their decision: float64 [days]."""
        rows = self.within(at, at + days * DAY) & inside[self.owner]
        day = (self.at[rows] - at[self.owner[rows]]) // DAY
        return np.cumsum(np.bincount(day, self.revenue[rows], days)) / max(int(inside.sum()), 1)


def costs(history: History, items: Ids) -> Reals:
    """What a unit of each product costs the shop, NaN unknown: float64 [len(items)]."""
    table = history.table("products", columns=("product_id", "cost")).to_pandas()
    known = table.dropna(subset=["cost"]).set_index("product_id")["cost"]
    return np.asarray(known.reindex(items.at(range(len(items)))).to_numpy(dtype=np.float64, na_value=np.nan))


def worths(data: Interactions, cost: Reals | None) -> Reals:
    """What each line brought: its margin, of products without a cost by the mean margin of the others; without any cost
    what was paid."""
    paid = data.paid.astype(np.float64)
    if cost is None or np.isnan(cost).all():
        return paid
    margin = paid - cost[data.item] * data.quantity
    known = ~np.isnan(margin)
    share = margin[known].sum() / paid[known].sum() if paid[known].sum() else 1.0
    return np.where(known, margin, paid * share)


def gave(owner: NDArray[np.int64], at: Seconds, since: Seconds, until: Seconds) -> Reals:
    """1 for each customer of whom a row lies within their time, since ≤ at < until."""
    inside = (owner >= 0) & (at >= since[owner]) & (at < until[owner])
    return (np.bincount(owner[inside], minlength=len(since)) > 0).astype(float)


def matured(at: Seconds, days: int, end: int) -> NDArray[np.bool_]:
    """Whose window has ended before the data does."""
    return at + days * DAY <= end
