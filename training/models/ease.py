"""Linear item-to-item models in closed form: EASE (Steck 2019), over customers and over baskets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Candidates, Fitted, Neighbors
from training.models.copurchase import often_held
from training.models.neighbours import Shortlist
from training.models.recipe import blocks, decayed_log

MOST_ROWS = 20_000  # rows and columns of the one dense matrix: 20,000² floats of 4 bytes are 1.6 GB


@dataclass(frozen=True)
class Ease:
    """Each item's weight for a customer predicted from the customer's other items, by ridge regression.

    A cell weighs log(1 + purchases, each decayed by half_life days). With C customers the dual form needs a
    C × C matrix: scores = X − K X / diag(P), where K = (X Xᵀ + λI)⁻¹ and diag(P)_j = (1 − x_jᵀ K x_j) / λ. It is
    exact for every item. Where fewer items were ever bought than there are customers, the primal form gives the same
    scores from a smaller matrix. Above MOST_ROWS customers it is taken over the `items` most bought.
    """

    regularization: float = 20.0
    half_life: float = 120.0  # days
    items: int = 10_000
    top: int = 120

    def fit(self, data: Interactions, catalog: Catalog) -> Fitted:
        weights = decayed_log(data, self.half_life)
        del catalog
        if len(data.customers) > MOST_ROWS:
            return self.by_items(data, weights)
        bought = np.unique(weights.indices)
        return (
            self.by_customers(data, weights)
            if len(data.customers) <= len(bought)
            else self.by_items_bought(data, weights, bought)
        )

    def by_customers(self, data: Interactions, weights: sparse.csr_array) -> Candidates:
        kernel = inverse(np.asarray((weights @ weights.T).todense(), np.float32), self.regularization)
        columns = sparse.csr_array(weights.T)
        leverage = np.zeros(len(data.items))
        for rows in blocks(len(data.customers)):
            part = np.asarray(columns @ kernel[rows].T)  # [items, block]
            own = sparse.coo_array(weights[rows.start : rows.stop])
            np.add.at(leverage, own.col, part[own.col, own.row] * own.data)
        scale = (self.regularization / np.maximum(1 - leverage, 1e-6)).astype(np.float32)
        short = Shortlist(data, self.top)
        for rows in blocks(len(data.customers)):
            scores = weights[rows.start : rows.stop].toarray() - (columns @ kernel[rows].T).T * scale
            short.add(rows, scores)
        return Candidates(short.matrix())

    def by_items_bought(
        self, data: Interactions, weights: sparse.csr_array, bought: NDArray[np.integer]
    ) -> Candidates:
        """The scores of `by_customers`, by X B."""
        small = sparse.csr_array(weights[:, bought])
        learned = between(small, self.regularization)
        short = Shortlist(data, self.top)
        for rows in blocks(len(data.customers)):
            scores = np.zeros((rows.stop - rows.start, len(data.items)), np.float32)
            scores[:, bought] = small[rows.start : rows.stop] @ learned
            short.add(rows, scores)
        return Candidates(short.matrix())

    def by_items(self, data: Interactions, weights: sparse.csr_array) -> Neighbors:
        return item_weights(weights, self.regularization, self.items, self.top)


@dataclass(frozen=True)
class EaseBaskets:
    """What else lies in a basket, predicted from each of its items by ridge regression over baskets."""

    regularization: float = 300.0
    items: int = 6_000
    top: int = 300
    min_baskets: int = 3

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        del catalog
        held, _ = often_held(data, self.min_baskets)
        return item_weights(held, self.regularization, self.items, self.top)


def item_weights(rows: sparse.csr_array, regularization: float, most: int, top: int) -> Neighbors:
    """B over the `most` frequent items; each item's `top` positive weights."""
    counts = np.bincount(rows.indices, minlength=rows.shape[1])
    kept = np.sort(np.argsort(-counts, kind="stable")[: min(most, int(np.count_nonzero(counts)))])
    weights = between(sparse.csr_array(rows[:, kept]), regularization)
    return Neighbors(sparsest(weights, kept, rows.shape[1], top))


def between(rows: sparse.csr_array, regularization: float) -> NDArray[np.float32]:
    """B = I − P / diag(P), P = (XᵀX + λI)⁻¹: column j predicts item j, float32 [items, items]."""
    precision = inverse(np.asarray((rows.T @ rows).todense(), np.float32), regularization)
    weights = np.asarray(-precision / np.diag(precision), np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def sparsest(
    weights: NDArray[np.float32], kept: NDArray[np.int64], n_items: int, top: int
) -> sparse.csr_array:
    """Each row's `top` highest positive values, rows and columns placed among all items."""
    most = min(top, max(weights.shape[1] - 1, 0))
    best = np.argpartition(-weights, most, axis=1)[:, :most] if len(weights) else np.empty((0, 0), np.int64)
    values = np.take_along_axis(weights, best, axis=1) if len(weights) else np.empty((0, 0), np.float32)
    row, place = np.nonzero(values > 0)
    cells = (values[row, place], (kept[row], kept[best[row, place]]))
    found = sparse.csr_array(sparse.coo_array(cells, shape=(n_items, n_items), dtype=np.float32))
    found.sort_indices()
    return found


def inverse(gram: NDArray[np.float32], regularization: float) -> NDArray[np.float32]:
    """(gram + λI)⁻¹ of a symmetric matrix, in place."""
    gram[np.diag_indices_from(gram)] += regularization
    if not len(gram):
        return gram
    factor, failed = linalg.lapack.spotrf(gram.T, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise ArithmeticError(
            f"the matrix of EASE cannot be inverted: raise regularization above {regularization}"
        )
    whole, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    low = np.tril(whole)
    return np.asarray(low + np.tril(low, -1).T, np.float32)
