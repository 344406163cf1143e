"""FAISS over the items that may be recommended."""

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from serving.fitted import NOTHING, Array, Vectors, top_k

MOST = 20_000

faiss.omp_set_num_threads(1)  # one thread a worker; workers are processes
# FAISS scores a large batch by another kernel, whose last bits differ: batch must equal single
faiss.cvar.distance_compute_blas_threshold = 1 << 30


class ItemIndex:
    """Exact inner-product search, filtered before the top is taken.

    Customers ask with [vector, 1] against [vector, bias], among the MOST items in most `orders` (int
    [n_items]), which bounds the time of a search; items ask with the cosine of vectors alone, among all.
    Items outside `members` (bool [n_items]) and items with an empty vector are in neither.
    """

    def __init__(self, vectors: Vectors, members: NDArray[np.bool_], orders: Array) -> None:
        self.vectors, self.members = vectors, members
        self.rows = np.flatnonzero(members & np.any(vectors.items != 0, axis=1))
        self.head = self.rows[np.sort(top_k(orders[self.rows], MOST))]

    @cached_property
    def by_score(self) -> Any:
        return flat(np.column_stack([self.vectors.items[self.head], self.vectors.bias[self.head]]))

    @cached_property
    def by_angle(self) -> Any:
        return flat(unit(self.vectors.items[self.rows]))

    def of_customer(self, customer: int, k: int, allowed: NDArray[np.bool_] | None = None) -> Array:
        """The k items with the highest score for a customer, best first; of a stranger (−1), none."""
        return self.of_vector(self.vectors.customers[customer] if customer >= 0 else None, k, allowed)

    def of_vector(
        self, vector: NDArray[np.float32] | None, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> Array:
        """The k items with the highest score for whoever has this vector, best first; of nobody, none."""
        if vector is None:
            return NOTHING[0]
        return search(self.by_score, self.head, np.append(vector, np.float32(1)), k, allowed)

    def like_items(self, items: Array, k: int, allowed: NDArray[np.bool_] | None = None) -> Array:
        """The k items nearest in angle to the mean direction of these items, best first."""
        query = unit(self.vectors.items[items]).sum(axis=0)
        return search(self.by_angle, self.rows, query, k, allowed) if np.any(query) else NOTHING[0]


def search(
    index: Any, rows: Array, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
) -> Array:
    if not len(rows) or k < 1:
        return NOTHING[0]
    found = index.search(query[None], min(k, len(rows)), params=selector(allowed, rows))[1][0]
    return rows[found[found >= 0]]  # FAISS says −1 for what is missing


def selector(allowed: NDArray[np.bool_] | None, rows: Array) -> Any:
    """FAISS search parameters that let only `allowed` items through, filtered before the top is taken."""
    if allowed is None:
        return None
    bits = np.packbits(allowed[rows], bitorder="little")
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))


def flat(vectors: NDArray[np.float32]) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; an empty vector stays empty."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def recall(index: ItemIndex, customers: Array, k: int = 10) -> float:
    """Share of the exact top k by score that the index finds, over these customers; 1 where there is none."""
    rows, vectors = index.rows, index.vectors  # all of them, so that MOST is judged too
    hits, wanted = 0, len(customers) * min(k, len(rows))
    for customer in customers:
        exact = vectors.items[rows] @ vectors.customers[customer] + vectors.bias[rows]
        hits += len(np.intersect1d(rows[top_k(exact, k)], index.of_customer(int(customer), k)))
    return hits / wanted if wanted else 1.0
