"""What customers did after a decision about them, and what they had spent before it: arrays, a figure a customer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.interactions import DAY, Interactions, Seconds
from lifecycle.measure.lift import Reals

BEFORE = 90  # days of spend before the first decision, the covariate


@dataclass(frozen=True)
class Purchases:
    """All that was bought, a row a line: owner (of the customers asked about, −1 none of them), at, order, revenue,
    margin (NaN where the cost is not known). signs: what else customers did, (owner, at) by name."""

    owner: NDArray[np.int64]
    at: Seconds
    order: NDArray[np.int64]
    revenue: Reals
    margin: Reals
    signs: Mapping[str, tuple[NDArray[np.int64], Seconds]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, data: Interactions, costs: Mapping[str, float], customers: list[str],
        signs: Mapping[str, tuple[NDArray[np.int64], Seconds]] | None = None,
    ) -> "Purchases":  # fmt: skip
        """Of these customers alone; returns are taken back already."""
        place = np.full(len(data.customers) + 1, -1, np.int64)
        found = data.customers.positions(customers)
        known = np.flatnonzero(found >= 0)
        place[found[known]] = known
        owner = place[data.customer]
        rows = owner >= 0
        cost = np.array(
            [costs.get(name, np.nan) for name in data.items.at(range(len(data.items)))] or [np.nan]
        )
        paid = data.paid[rows].astype(np.float64)
        return cls(
            owner[rows], data.at[rows], data.order[rows].astype(np.int64), paid,
            paid - cost[data.item[rows]] * data.quantity[rows], signs or {},
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
        if np.isfinite(self.margin).any():
            found["margin"] = np.bincount(owner, np.nan_to_num(self.margin[rows]), n)
        return found | {name: gave(*of, since, until) for name, of in self.signs.items()}

    @property
    def costed(self) -> float:
        """The share of revenue whose cost is known."""
        total = float(self.revenue.sum())
        return float(self.revenue[np.isfinite(self.margin)].sum()) / total if total else 0.0

    def after(self, at: Seconds, days: int) -> dict[str, Reals]:
        return self.total(at, at + days * DAY)

    def before(self, at: Seconds) -> dict[str, Reals]:
        return self.total(at - BEFORE * DAY, at)

    def by_day(self, at: Seconds, days: int, inside: NDArray[np.bool_]) -> Reals:
        """Mean revenue of the customers `inside` until the end of each day since their decision: float64 [days]."""
        rows = self.within(at, at + days * DAY) & inside[self.owner]
        day = (self.at[rows] - at[self.owner[rows]]) // DAY
        return np.cumsum(np.bincount(day, self.revenue[rows], days)) / max(int(inside.sum()), 1)


def gave(owner: NDArray[np.int64], at: Seconds, since: Seconds, until: Seconds) -> Reals:
    """1 for each customer of whom a row lies within their time, since ≤ at < until."""
    inside = (owner >= 0) & (at >= since[owner]) & (at < until[owner])
    return (np.bincount(owner[inside], minlength=len(since)) > 0).astype(float)


def matured(at: Seconds, days: int, end: int) -> NDArray[np.bool_]:
    """Whose window has ended before the data does."""
    return at + days * DAY <= end
