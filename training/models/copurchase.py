"""What lies in the same basket."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Neighbors, top_k
from training.models.recipe import bought

BLOCK = 1_000  # items whose partners are counted at a time; bounds the memory


@dataclass(frozen=True)
class CoPurchase:
    """n(a, b) / (n(a)^of_asked × n(b)^of_other), the `top` partners of each item.

    n counts baskets, each as 2^(−age / half_life), as what goes together changes with the season. Items in
    fewer than `min_baskets` baskets neither ask nor answer.
    """

    of_asked: float = 0.5
    of_other: float = 0.35
    half_life: float = 120.0  # days
    top: int = 200
    min_baskets: int = 3

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        del catalog
        held, _ = often_held(data, self.min_baskets)
        weighed = sparse.csr_array(sparse.diags_array(self.weights(data)) @ held)
        counts = np.bincount(weighed.indices, weighed.data, minlength=len(data.items)).astype(np.float32)
        rows = []
        for start, pairs in partners(held, weighed):
            asked = np.repeat(counts[start : start + pairs.shape[0]], np.diff(pairs.indptr))
            pairs.data /= asked**self.of_asked * counts[pairs.indices] ** self.of_other
            rows.append(strongest(pairs, self.top))
        return Neighbors(stacked(rows, len(data.items)))

    def weights(self, data: Interactions) -> np.ndarray:
        """What each order counts for: float32 [len(orders)]."""
        first = np.zeros(len(data.orders), np.float32)
        first[data.order] = data.age()
        return np.exp2(-first / self.half_life).astype(np.float32)


@dataclass(frozen=True)
class Complements:
    """Pairs of one need that share baskets more often than chance; value: lift − 1.

    Other pairs of one need are substitutes.
    """

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        held, counts = often_held(data, 1)
        n_orders = len(data.orders)
        rows = [self.within(pairs, start, counts, catalog, n_orders) for start, pairs in partners(held, held)]
        return Neighbors(stacked(rows, len(data.items)))

    def within(
        self, pairs: sparse.csr_array, start: int, counts: np.ndarray, catalog: Catalog, n_orders: int
    ) -> sparse.csr_array:
        asked = start + np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
        lift = pairs.data * n_orders / (counts[asked] * counts[pairs.indices])
        same = (catalog.need[asked] == catalog.need[pairs.indices]) & (catalog.need[asked] >= 0)
        pairs.data = np.where(same & (lift > 1), lift - 1, 0).astype(np.float32)
        pairs.eliminate_zeros()
        return pairs


@dataclass(frozen=True)
class Alternatives:
    """Pairs of one need that the same customers buy; value: buyers of both / (buyers of the asked + `prior`).

    It tells what those who buy a product also choose for the same purpose, at whatever price.
    """

    prior: float = 5.0
    top: int = 100

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        columns = sparse.csc_array(bought(data))
        counts = np.diff(columns.indptr).astype(np.float32)
        sold = np.flatnonzero((counts > 0) & (catalog.need >= 0))
        sold = sold[np.argsort(catalog.need[sold], kind="stable")]
        pairs = [np.empty((2, 0), np.int64)]
        values = [np.empty(0, np.float32)]
        for items in np.split(sold, np.flatnonzero(np.diff(catalog.need[sold])) + 1):
            part = sparse.csr_array(columns[:, items])
            both = sparse.csr_array(part.T @ part)
            asked = np.repeat(np.arange(len(items)), np.diff(both.indptr))
            both.data = np.where(both.indices == asked, 0, both.data / (counts[items[asked]] + self.prior))
            kept = sparse.coo_array(strongest(both, self.top))
            pairs.append(np.stack([items[kept.row], items[kept.col]]))
            values.append(kept.data.astype(np.float32))
        row, column = np.concatenate(pairs, axis=1)
        n = len(data.items)
        found = sparse.csr_array(sparse.coo_array((np.concatenate(values), (row, column)), shape=(n, n)))
        found.sort_indices()
        return Neighbors(found)


def often_held(data: Interactions, least: int) -> tuple[sparse.csr_array, np.ndarray]:
    """(baskets × items without items in fewer than `least` baskets, baskets by item as float32)."""
    held = data.baskets()
    counts = np.bincount(held.indices, minlength=len(data.items)).astype(np.float32)
    rare = counts[held.indices] < least
    held.data[rare] = 0
    held.eliminate_zeros()
    return held, np.where(counts < least, 0, counts).astype(np.float32)


def partners(held: sparse.csr_array, weighed: sparse.csr_array) -> Iterator[tuple[int, sparse.csr_array]]:
    """(first item, weight of the baskets that hold both: csr [a block of items, n_items] without the item itself)."""
    by_item = sparse.csr_array(held.T)
    for start in range(0, held.shape[1], BLOCK):
        pairs = sparse.csr_array(by_item[start : start + BLOCK] @ weighed)
        rows = start + np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
        pairs.data[pairs.indices == rows] = 0
        pairs.eliminate_zeros()
        pairs.sort_indices()
        yield start, pairs


def strongest(pairs: sparse.csr_array, top: int) -> sparse.csr_array:
    """Each row's `top` highest values."""
    keep = np.zeros(len(pairs.data), bool)
    for start, end in zip(pairs.indptr[:-1], pairs.indptr[1:], strict=True):
        keep[start + top_k(pairs.data[start:end], top)] = True
    pairs.data[~keep] = 0
    pairs.eliminate_zeros()
    return pairs


def stacked(rows: list[sparse.csr_array], n_items: int) -> sparse.csr_array:
    whole = sparse.vstack(rows, format="csr") if rows else sparse.csr_array((n_items, n_items))
    return sparse.csr_array(whole, dtype=np.float32)
