"""What customers alike buy: UP-CF and TIFU-KNN."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Floats, Interactions
from serving.fitted import Candidates, top_k
from training.models.recipe import blocks, bought

MOST_SEARCHED = 10_000


class Shortlist:
    """The best `top` items of each customer, and the best `top` among those that the customer never bought."""

    def __init__(self, data: Interactions, top: int) -> None:
        self.data, self.top = data, top
        self.columns: list[NDArray[np.int64]] = []
        self.values: list[NDArray[np.float32]] = []

    def add(self, rows: slice, scores: NDArray[np.float32]) -> None:
        """Scores above 0 of every item for the next customers: float32 [rows, n_items]."""
        for customer, row in zip(range(rows.start, rows.stop), scores, strict=True):
            best = top_k(row, self.top, row > 0)
            row_new = row.copy()
            row_new[self.data.item[self.data.rows(customer)]] = 0
            columns = np.union1d(best, top_k(row_new, self.top, row_new > 0))
            self.columns.append(columns)
            self.values.append(row[columns])

    def matrix(self) -> sparse.csr_array:
        indptr = np.concatenate([[0], np.cumsum([len(c) for c in self.columns])]).astype(np.int64)
        columns = np.concatenate([*self.columns, np.empty(0, np.int64)]).astype(np.int32)
        values = np.concatenate([*self.values, np.empty(0, np.float32)])
        return sparse.csr_array((values, columns, indptr), shape=(len(self.columns), len(self.data.items)))


@dataclass(frozen=True)
class UpCf:
    """Recent purchase frequencies of customers alike, UP-CF@r (Faggioli, Polato, Aiolli 2020).

    pop(u, i) = share of u's last `recent` orders that hold i. Customers are alike by the asymmetric cosine of what
    they ever bought, |u ∩ v| / (|u|^asymmetry |v|^(1 − asymmetry)), to the power of `locality`.
    """

    recent: int = 25
    asymmetry: float = 0.25
    locality: float = 5.0
    neighbours: int = 300
    top: int = 120

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        del catalog
        lately = self.frequencies(data)
        ever = bought(data)
        size = np.maximum(np.diff(ever.indptr), 1).astype(np.float32)
        others, short = searched(len(data.customers)), Shortlist(data, self.top)
        columns, theirs = sparse.csr_array(ever[others].T), lately[others]
        for rows in blocks(len(data.customers), max(len(data.items), len(others))):
            alike = (ever[rows.start : rows.stop] @ columns).toarray()
            alike /= size[rows, None] ** self.asymmetry * size[others] ** (1 - self.asymmetry)
            forget_self(alike, rows, others)
            near = nearest(alike, self.neighbours - 1)
            near.data **= self.locality
            short.add(rows, (near @ theirs + lately[rows.start : rows.stop]).toarray())
        return Candidates(short.matrix())

    def frequencies(self, data: Interactions) -> sparse.csr_array:
        rank = order_rank(data)
        lately = data.matrix(lambda d: (rank < self.recent).astype(np.float32))
        lately.eliminate_zeros()
        most = np.zeros(len(data.customers), np.float32)
        known = data.customer >= 0
        np.maximum.at(most, data.customer[known], rank[known] + 1)
        return sparse.csr_array(sparse.diags_array(1 / np.clip(most, 1, self.recent)) @ lately)


@dataclass(frozen=True)
class TifuKnn:
    """A customer's own decayed purchases blended with those of customers alike (Hu, He, Gao, Zhang 2020).

    Orders lie in groups of `group`; an order counts `within`^(orders behind in its group) times
    `between`^(groups behind). Neighbours by cosine.
    """

    group: int = 7
    within: float = 0.9
    between: float = 0.7
    own: float = 0.7
    neighbours: int = 300
    top: int = 120

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        del catalog
        own = data.matrix(self.weigh)
        length = np.sqrt(np.asarray(own.multiply(own).sum(axis=1)))
        unit = sparse.csr_array(sparse.diags_array(1 / np.maximum(length, 1e-9)) @ own)
        others, short = searched(len(data.customers)), Shortlist(data, self.top)
        columns, theirs = sparse.csr_array(unit[others].T), own[others]
        for rows in blocks(len(data.customers), max(len(data.items), len(others))):
            alike = (unit[rows.start : rows.stop] @ columns).toarray()
            forget_self(alike, rows, others)
            near = nearest(alike, self.neighbours)
            near = sparse.csr_array(sparse.diags_array(1 / np.maximum(near.sum(axis=1), 1e-9)) @ near)
            short.add(
                rows, (self.own * own[rows.start : rows.stop] + (1 - self.own) * (near @ theirs)).toarray()
            )
        return Candidates(short.matrix())

    def weigh(self, data: Interactions) -> Floats:
        group, place = np.divmod(order_rank(data), self.group)
        return (self.between**group * self.within**place).astype(np.float32)


def searched(n_customers: int) -> NDArray[np.int64]:
    """Positions of the customers among whom neighbours are sought: all, or MOST_SEARCHED of them evenly by id, so
    that the work grows with the customers and not with their square."""
    if n_customers <= MOST_SEARCHED:
        return np.arange(n_customers)
    return np.arange(MOST_SEARCHED, dtype=np.int64) * n_customers // MOST_SEARCHED


def forget_self(alike: NDArray[np.float32], rows: slice, others: NDArray[np.int64]) -> None:
    """0 where a customer of `rows` meets themselves among the `others`."""
    place = np.flatnonzero((others >= rows.start) & (others < rows.stop))
    alike[others[place] - rows.start, place] = 0


def nearest(alike: NDArray[np.float32], most: int) -> sparse.csr_array:
    """The `most` highest values of each row, the others 0."""
    if alike.shape[1] > most:
        least = np.partition(alike, alike.shape[1] - most, axis=1)[:, alike.shape[1] - most]
        alike = np.where(alike >= least[:, None], alike, 0)
    return sparse.csr_array(alike)


def order_rank(data: Interactions) -> NDArray[np.int64]:
    """How many later orders the row's customer has, 0 for rows of the last one; of anonymous rows, −1."""
    rank = np.full(len(data), -1, np.int64)
    known = np.flatnonzero(data.customer >= 0)
    if len(known):
        customer, order = data.customer[known], data.order[known]
        new = np.ones(len(known), bool)
        new[1:] = (customer[1:] != customer[:-1]) | (order[1:] != order[:-1])
        run = np.cumsum(new)
        last = np.append(np.flatnonzero(customer[1:] != customer[:-1]), len(customer) - 1)
        rank[known] = run[last][np.searchsorted(last, np.arange(len(known)))] - run
    return rank
