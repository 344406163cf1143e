"""Linear item-to-item models in closed form: EASE (Steck 2019), over customers and over baskets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Candidates, Neighbors, top_k
from training.models.copurchase import often_held
from training.models.neighbours import Shortlist
from training.models.recipe import CELLS, blocks, decayed_log

MOST_ROWS = 20_000  # rows and columns of the one dense matrix, which is inverted in place: 1.6 GB
PARTS = 4  # dense blocks that are held beside it at a time, at most


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

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        del catalog
        weights = decayed_log(data, self.half_life)
        n_customers = len(data.customers)
        few = n_customers <= MOST_ROWS
        kept = most_held(weights, len(data.items) if few else min(self.items, MOST_ROWS))
        smaller = self.by_customers if n_customers <= len(kept) else self.by_items
        return smaller(data, weights, kept)

    def by_customers(
        self, data: Interactions, weights: sparse.csr_array, kept: NDArray[np.int64]
    ) -> Candidates:
        """`kept` are all items that were ever bought: the others' scores are 0."""
        del kept
        kernel = inverse(gram(weights), self.regularization)
        columns = sparse.csr_array(weights.T)
        leverage = np.zeros(len(data.items))
        for rows in blocks(len(data.customers), len(data.items)):
            part = np.asarray(columns @ kernel[rows].T)  # [items, block]
            own = sparse.coo_array(weights[rows.start : rows.stop])
            np.add.at(leverage, own.col, part[own.col, own.row] * own.data)
        scale = (self.regularization / np.maximum(1 - leverage, 1e-6)).astype(np.float32)
        short = Shortlist(data, self.top)
        for rows in blocks(len(data.customers), len(data.items)):
            scores = weights[rows.start : rows.stop].toarray()
            scores -= (columns @ kernel[rows].T).T * scale
            short.add(rows, scores)
        return Candidates(short.matrix())

    def by_items(self, data: Interactions, weights: sparse.csr_array, kept: NDArray[np.int64]) -> Candidates:
        """The scores of `by_customers`, by X B over the kept items."""
        small = sparse.csr_array(weights[:, kept])
        learned = between(small, self.regularization)
        short = Shortlist(data, self.top)
        for rows in blocks(len(data.customers), len(data.items)):
            scores = np.zeros((rows.stop - rows.start, len(data.items)), np.float32)
            scores[:, kept] = small[rows.start : rows.stop] @ learned
            short.add(rows, scores)
        return Candidates(short.matrix())


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


def most_held(rows: sparse.csr_array, most: int) -> NDArray[np.int64]:
    """Positions of the `most` items that most rows hold, sorted; fewer where fewer are held at all."""
    counts = np.bincount(rows.indices, minlength=rows.shape[1])
    return np.sort(np.argsort(-counts, kind="stable")[: min(most, int(np.count_nonzero(counts)))])


def item_weights(rows: sparse.csr_array, regularization: float, most: int, top: int) -> Neighbors:
    """B over the `most` frequent items; each item's `top` positive weights."""
    kept = most_held(rows, min(most, MOST_ROWS))
    weights = between(sparse.csr_array(rows[:, kept]), regularization)
    return Neighbors(sparsest(weights, kept, rows.shape[1], top))


def between(rows: sparse.csr_array, regularization: float) -> NDArray[np.float32]:
    """B = I − P / diag(P), P = (XᵀX + λI)⁻¹: column j predicts item j, float32 [items, items]."""
    weights = inverse(gram(sparse.csr_array(rows.T)), regularization)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights


def sparsest(
    weights: NDArray[np.float32], kept: NDArray[np.int64], n_items: int, top: int
) -> sparse.csr_array:
    """Each row's `top` highest positive values, rows and columns placed among all items."""
    best = [top_k(row, top, row > 0) for row in weights]
    row = np.repeat(np.arange(len(weights)), [len(places) for places in best])
    place = np.concatenate([*best, np.empty(0, np.int64)])
    cells = (weights[row, place], (kept[row], kept[place]))
    found = sparse.csr_array(sparse.coo_array(cells, shape=(n_items, n_items), dtype=np.float32))
    found.sort_indices()
    return found


def gram(rows: sparse.csr_array) -> NDArray[np.float32]:
    """X Xᵀ, a block of rows at a time: float32 [rows, rows]."""
    n, columns = rows.shape[0], sparse.csr_array(rows.T)
    found = np.empty((n, n), np.float32)
    for part in blocks(n, n):
        found[part] = (rows[part.start : part.stop] @ columns).toarray()
    return found


def inverse(matrix: NDArray[np.float32], regularization: float) -> NDArray[np.float32]:
    """(matrix + λI)⁻¹ of a symmetric matrix, in place."""
    matrix[np.diag_indices_from(matrix)] += regularization
    if not len(matrix):
        return matrix
    factor, failed = linalg.lapack.spotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise ArithmeticError(
            f"the matrix of EASE cannot be inverted: raise regularization above {regularization}"
        )
    half, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    for part in blocks(len(half), len(half)):
        half[part, part] = np.tril(half[part, part]) + np.tril(half[part, part], -1).T
        half[part, part.stop :] = half[part.stop :, part].T
    return np.asarray(half.T)  # symmetric, so its rows are as good as its columns, and lie in order


def most_bytes(n_customers: int, n_items: int) -> int:
    """What the dense arrays of EASE take together at most, in either form, in bytes."""
    matrix = min(n_customers, MOST_ROWS) ** 2
    block = PARTS * max(CELLS, n_items)
    return 4 * (matrix + block)
