"""Settings that suit a shop's data, where nobody chose or searched any."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np

from features.interactions import DAY, Interactions
from training.models import RECIPES, Recipe
from training.rank import RANKINGS, Ranking
from training.settings import with_settings
from training.split import Data

# Where settings are as they stand: from here on each halving or doubling is a step.
USUAL_GAP = 7.0  # days between two orders of a customer, and less
USUAL_DAILY = 300.0  # orders a day, and more
USUAL_ORDERS = 120_000  # orders, and more
OWN = (
    (0.09, 0.3),
    (0.15, 0.5),
)  # below this share of repeats, what a customer's own purchases weigh in TIFU-KNN


@dataclass(frozen=True)
class Defaults:
    recipes: Mapping[str, Recipe]
    rankings: Mapping[str, Ranking]


@dataclass(frozen=True)
class Shape:
    """What a shop is like, as far as settings depend on it.

    items: products ever sold. days: from the first order to the end of what is known. gap: days between two orders
    of a customer, the median of customers with two and more; NaN where there are none. repeats: share of
    purchases by known customers that they had made before.
    """

    customers: int
    items: int
    orders: int
    days: float
    gap: float
    repeats: float

    @property
    def daily(self) -> float:
        """Orders a day."""
        return self.orders / self.days if self.days > 0 else 0.0

    @classmethod
    def of(cls, data: Interactions) -> "Shape":
        known = data.customer >= 0
        rows = int(known.sum())
        pairs = len(np.unique(data.customer[known].astype(np.int64) * len(data.items) + data.item[known]))
        return cls(
            len(data.customers), len(np.unique(data.item)), len(data.orders),
            (data.until - int(data.at.min(initial=data.until))) / DAY,
            gap_of(data), 1 - pairs / rows if rows else 0.0,
        )  # fmt: skip


def gap_of(data: Interactions) -> float:
    """Days between two orders of a customer: each customer's median, and of those the median."""
    new = np.ones(len(data), bool)
    new[1:] = (data.order[1:] != data.order[:-1]) | (data.customer[1:] != data.customer[:-1])
    customer, at = data.customer[new], data.at[new]
    same = (customer[1:] == customer[:-1]) & (customer[1:] >= 0)
    gaps, whose = np.diff(at)[same] / DAY, customer[1:][same]
    if not len(gaps):
        return float("nan")
    start = np.flatnonzero(np.append(True, whose[1:] != whose[:-1]))
    return float(np.median([np.median(part) for part in np.split(gaps, start[1:])]))


def defaults(data: Data) -> Defaults:
    """Recipes and rankings for what is known of a shop.

    The rankings are as they stand: label windows are as long as what training judges by, which is less where there
    is less history, and as many as fit before it.
    """
    return Defaults(suited(Shape.of(data.interactions)), RANKINGS)


def suited(shape: Shape) -> dict[str, Recipe]:
    """Recipes for such a shop; for one like the demo data, as they stand.

    Settings move in steps: one that changed with every load would have to beat the champion each time, where an
    unchanged one need only keep up with it. docs/decisions.md tells what each was measured on.
    """
    slower = steps(shape.gap / USUAL_GAP, most=3)
    fewer = steps(USUAL_DAILY / max(shape.daily, 1e-9), most=2)
    smaller = steps(USUAL_ORDERS / max(shape.orders, 1), most=5)
    factors = {
        ("popular", "days"): 2**slower,
        ("habit", "half_life"): 2**slower,
        ("rhythm", "half_life"): 2**slower,
        ("rhythm", "window"): 2 ** min(slower, 2),
        ("ease", "half_life"): 2**slower,
        ("copurchase", "half_life"): 2**fewer,
        ("ease_baskets", "regularization"): 0.5**smaller,
    }
    changed: dict[str, dict[str, float]] = {}
    for (name, key), factor in factors.items():
        changed.setdefault(name, {})[key] = factor * getattr(RECIPES[name], key)
    own = next((own for below, own in OWN if shape.repeats < below), None)
    return with_settings(RECIPES, changed | ({} if own is None else {"tifu": {"own": own}}))


def steps(ratio: float, *, most: int) -> int:
    """How many doublings a ratio is, to the nearest; none below 1 or for NaN, at most so many."""
    return min(max(round(log2(ratio)), 0), most) if ratio > 0 else 0
