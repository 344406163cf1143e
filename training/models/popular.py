"""What sold lately: the floor that every other recipe must beat."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import DAY, Interactions
from serving.fitted import Neighbors, Vectors


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


@dataclass(frozen=True)
class PopularIn:
    """What sells lately where a product belongs: the `top` of its parent category, by log(1 + customers who bought
    them in the last `days`); nothing for a product of no known category.

    A product that nobody bought leads there as well, so a stranger's answer to it is not everybody's.
    """

    days: float = 28.0
    top: int = 30

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        score = np.log1p(buyers(data, data.age() <= self.days)).astype(np.float32)
        parent, n = catalog.parent, len(catalog)
        best = np.lexsort((-score, parent))
        best = best[(parent[best] >= 0) & (score[best] > 0)]
        group = parent[best]
        best = best[np.arange(len(best)) - np.searchsorted(group, group) < self.top]
        groups = int(parent.max(initial=-1)) + 1
        known = np.flatnonzero(parent >= 0)
        belongs = cells(np.ones(len(known), np.float32), known, parent[known], (n, groups))
        near = sparse.csr_array(belongs @ cells(score[best], parent[best], best, (groups, n)))
        near.sort_indices()
        return Neighbors(near)


def cells(
    values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_array:
    return sparse.csr_array(sparse.coo_array((values, (row, column)), shape=shape))


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
