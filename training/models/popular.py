"""What sold lately: the floor that every other recipe must beat."""

from dataclasses import dataclass

import numpy as np

from features.catalog import Catalog
from features.interactions import DAY, Interactions
from serving.fitted import Vectors


@dataclass(frozen=True)
class Popular:
    """Log of how many customers bought an item in the last `days`; older purchases decide among the rest.

    A customer counts once, so that one who buys by the pallet does not set the list.
    """

    days: float = 14.0

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        del catalog
        recent = buyers(data, data.age() <= self.days)
        ever = buyers(data, np.ones(len(data), bool))
        bias = np.log1p(recent + ever / (ever.max(initial=0) + 1)).astype(np.float32)
        return everybody(data, bias)


@dataclass(frozen=True)
class Newest:
    """Items first bought in the last `days`, by how many customers bought them since; the others get −1."""

    days: float = 28.0

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        del catalog
        first = np.full(len(data.items), data.until, np.int64)
        np.minimum.at(first, data.item, data.at)
        new = (first > data.until - self.days * DAY) & (
            first > data.at.min(initial=data.until) + self.days * DAY
        )
        since = buyers(data, np.ones(len(data), bool))
        return everybody(data, np.where(new & (since > 0), since, -1).astype(np.float32))


def everybody(data: Interactions, bias: np.ndarray) -> Vectors:
    """The same scores for every customer."""
    shape = len(data.customers), len(data.items)
    return Vectors(np.zeros((shape[0], 0), np.float32), np.zeros((shape[1], 0), np.float32), bias)


def buyers(data: Interactions, rows: np.ndarray) -> np.ndarray:
    """Distinct customers by item among these rows; an anonymous order counts as a customer of its own."""
    who = np.where(data.customer >= 0, data.customer, len(data.customers) + data.order).astype(np.int64)[rows]
    n_items = len(data.items)
    pairs = np.unique(who * n_items + data.item[rows])
    return np.bincount(pairs % n_items, minlength=n_items).astype(np.float32)
