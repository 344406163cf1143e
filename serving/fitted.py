"""Fitted models as plain arrays: what training leaves, and all that serving needs of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]
NOTHING = (np.empty(0, np.int64), np.empty(0, np.float32))


class Fitted(Protocol):
    """What `recipe.fit` returns: Vectors, Neighbors or Candidates."""

    kind: ClassVar[str]

    def arrays(self) -> dict[str, Array]: ...

    def of_customers(self, customers: Array, histories: sparse.csr_array) -> NDArray[np.float32]:
        """Scores of every item, one row a customer: float32 [len(customers), n_items].

        Higher is better; only order within a row means anything. `histories` holds what each of them bought,
        csr [len(customers), n_items], for the models that ask with items. Customer −1 is a stranger.
        """
        ...


@dataclass(frozen=True)
class Vectors:
    """score = customers @ items.T + bias. float32 [n_customers, f], [n_items, f], [n_items].

    The bias says how popular an item is, so item-to-item asks the cosine of `items` alone.
    """

    customers: NDArray[np.float32]
    items: NDArray[np.float32]
    bias: NDArray[np.float32]
    kind: ClassVar[str] = "vectors"

    def arrays(self) -> dict[str, Array]:
        return {"customers": self.customers, "items": self.items, "bias": self.bias}

    @classmethod
    def of(cls, arrays: dict[str, Array]) -> "Vectors":
        return cls(arrays["customers"], arrays["items"], arrays["bias"])

    def of_customers(self, customers: Array, histories: sparse.csr_array) -> NDArray[np.float32]:
        del histories
        scores, known = np.tile(self.bias, (len(customers), 1)), customers >= 0
        scores[known] += self.customers[customers[known]] @ self.items.T
        return scores


@dataclass(frozen=True)
class Neighbors:
    """score = what is held @ items. Float32 csr [n_items, n_items]: row, the item held; column, what it suggests."""

    items: sparse.csr_array
    kind: ClassVar[str] = "neighbors"

    def arrays(self) -> dict[str, Array]:
        return csr_arrays(self.items)

    @classmethod
    def of(cls, arrays: dict[str, Array]) -> "Neighbors":
        return cls(csr_of(arrays, len(arrays["indptr"]) - 1))

    def of_customers(self, customers: Array, histories: sparse.csr_array) -> NDArray[np.float32]:
        del customers
        return (histories @ self.items).toarray()

    def of_items(self, held: Array) -> tuple[Array, NDArray[np.float32]]:
        """(items, scores) that these items suggest together, by position."""
        return summed(self.items, held)


@dataclass(frozen=True)
class Candidates:
    """Scores worked out beforehand: float32 csr [n_customers, n_items]; what is not stored is no candidate."""

    customers: sparse.csr_array
    kind: ClassVar[str] = "candidates"

    def arrays(self) -> dict[str, Array]:
        return csr_arrays(self.customers)

    @classmethod
    def of(cls, arrays: dict[str, Array]) -> "Candidates":
        return cls(csr_of(arrays, int(arrays["columns"][0])))

    def of_customers(self, customers: Array, histories: sparse.csr_array) -> NDArray[np.float32]:
        del histories
        scores, known = np.zeros((len(customers), self.customers.shape[1]), np.float32), customers >= 0
        scores[known] = self.customers[customers[known]].toarray()
        return scores

    def of_customer(self, customer: int) -> tuple[Array, NDArray[np.float32]]:
        return row_of(self.customers, customer)


KINDS: dict[str, Any] = {c.kind: c for c in (Vectors, Neighbors, Candidates)}


def csr_arrays(matrix: sparse.csr_array) -> dict[str, Array]:
    # of one type, as scipy would else copy the mapped indices into the memory of every worker
    index = np.int32 if max(matrix.nnz, matrix.shape[1]) < 2**31 else np.int64
    return {
        "data": matrix.data.astype(np.float32, copy=False),
        "indices": matrix.indices.astype(index, copy=False),
        "indptr": matrix.indptr.astype(index, copy=False),
        "columns": np.array([matrix.shape[1]], np.int64),
    }


def csr_of(arrays: dict[str, Array], columns: int) -> sparse.csr_array:
    shape = (len(arrays["indptr"]) - 1, columns)
    return sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape, copy=False)


def row_of(matrix: sparse.csr_array, row: int) -> tuple[Array, NDArray[np.float32]]:
    """(columns, values) of one row; of row −1, nothing."""
    if row < 0:
        return NOTHING
    cells = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[cells], matrix.data[cells]


def column_of(matrix: sparse.csr_array, rows: Array, column: int) -> NDArray[np.float32]:
    """The values of one column in these rows, 0 where a row has none."""
    begin = matrix.indptr[rows].astype(np.int64)
    length = matrix.indptr[rows + 1] - begin
    end = np.cumsum(length)
    cells = np.arange(end[-1] if len(end) else 0) + np.repeat(begin - (end - length), length)
    there = np.flatnonzero(matrix.indices[cells] == column)
    found = np.zeros(len(rows), np.float32)
    found[np.searchsorted(end, there, side="right")] = matrix.data[cells[there]]
    return found


def summed(matrix: sparse.csr_array, rows: Array) -> tuple[Array, NDArray[np.float32]]:
    """(columns, values) of the sum of these rows."""
    parts = [row_of(matrix, int(row)) for row in rows]
    if len(parts) < 2:
        return parts[0] if parts else NOTHING
    columns, place = np.unique(np.concatenate([c for c, _ in parts]), return_inverse=True)
    return columns, np.bincount(place, np.concatenate([v for _, v in parts])).astype(np.float32)


def top_k(scores: Array, k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Positions of the k highest finite scores among the allowed, best first, ties by position.

    At most k, fewer where fewer are left; never one that is not allowed, NaN or −inf.
    """
    valid = np.isfinite(scores)
    if allowed is not None:
        valid &= allowed
    places = np.flatnonzero(valid)
    if len(places) > k > 0:
        values = scores[places]
        least = np.partition(values, len(places) - k)[len(places) - k]
        above, level = places[values > least], places[values == least]
        places = np.concatenate([above, level[: k - len(above)]])
    return places[np.lexsort((places, -scores[places]))][: max(k, 0)]


def save_fitted(folder: Path, name: str, fitted: Fitted) -> None:
    """Write one `.npy` an array: `<name>.<kind>.<array>.npy`."""
    for key, array in fitted.arrays().items():
        np.save(folder / f"{name}.{fitted.kind}.{key}.npy", np.ascontiguousarray(array))


def load_fitted(folder: Path) -> dict[str, Fitted]:
    """Every fitted model in a folder by name, memory-mapped read-only."""
    found: dict[tuple[str, str], dict[str, Array]] = {}
    for path in sorted(folder.glob("*.*.*.npy")):
        name, kind, key, _ = path.name.split(".")
        found.setdefault((name, kind), {})[key] = mapped(path)
    return {name: KINDS[kind].of(arrays) for (name, kind), arrays in found.items()}


def mapped(path: Path) -> Array:
    """An array mapped from its file, as a plain array, whose slices are cheap; an empty one is read."""
    array: Array = np.load(path, allow_pickle=False, mmap_mode=None if path.stat().st_size <= 128 else "r")
    return array.view(np.ndarray)


def held_by(rows: Sequence[Array], n_items: int) -> sparse.csr_array:
    """1 where a row names an item: csr [len(rows), n_items]."""
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    indices = np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int32)
    return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), n_items))
