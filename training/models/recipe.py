"""What a recipe is."""

from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Fitted


class Recipe(Protocol):
    """A frozen dataclass of hyper-parameters. The same recipe on the same data gives equal arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def fit(self, data: Interactions, catalog: Catalog) -> Fitted: ...


def in_int32(matrix: sparse.csr_array) -> sparse.csr_matrix:
    """A csr_matrix with int32 indices, as the compiled code of implicit and LightFM asks for."""
    indices, indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return sparse.csr_matrix((matrix.data, indices, indptr), shape=matrix.shape)
