"""What a recipe is."""

from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Floats, Interactions
from serving.fitted import Fitted

CELLS = 2**25  # numbers in a dense block of rows: 128 MB


class Recipe(Protocol):
    """A frozen dataclass of hyper-parameters. The same recipe on the same data gives equal arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def fit(self, data: Interactions, catalog: Catalog) -> Fitted: ...


def in_int32(matrix: sparse.csr_array) -> sparse.csr_matrix:
    """A csr_matrix with int32 indices, as the compiled code of implicit and LightFM asks for."""
    indices, indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return sparse.csr_matrix((matrix.data, indices, indptr), shape=matrix.shape)


def ones(data: Interactions) -> Floats:
    return np.ones(len(data), np.float32)


def bought(data: Interactions) -> sparse.csr_array:
    """1 where a customer ever bought an item: float32 csr [n_customers, n_items]."""
    matrix = data.matrix(ones)
    matrix.data[:] = 1
    return matrix


def decayed_log(data: Interactions, half_life: float) -> sparse.csr_array:
    """log(1 + purchases by customer and item, each decayed): float32 csr [n_customers, n_items]."""
    matrix = data.matrix(lambda d: np.exp2(-d.age() / half_life))
    matrix.data = np.log1p(matrix.data).astype(np.float32)
    return matrix


def blocks(n: int, width: int) -> list[slice]:
    """Rows 0 to n in turn, so many at once that a dense block of them, each so wide, holds at most CELLS."""
    size = max(1, min(256, CELLS // max(width, 1)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
