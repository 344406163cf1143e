"""Which needs go together, whatever serves them: EASE (Steck 2019) over baskets and needs."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Neighbors
from training.models.ease import between, most_held

TOO_LITTLE = 1e-4  # a weight that changes no order


@dataclass(frozen=True)
class EaseNeeds:
    """Whether a basket serves a need, predicted from the other needs that it serves by ridge regression over baskets,
    each counting 2^(−age / half_life).

    Rows and columns are codes of `catalog.needs`, not positions of products: row, the need served; column, what that
    says of another, for (above 0) or against it.
    """

    regularization: float = 30.0
    half_life: float = 120.0  # days
    needs: int = 6_000  # the most often served

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        served = needs_served(data, catalog)
        age = np.zeros(len(data.orders), np.float32)
        age[data.order] = data.age()
        kept = most_held(served, self.needs)
        rows = sparse.diags_array(np.exp2(-age / self.half_life / 2)) @ served[:, kept]
        weights = between(sparse.csr_array(rows, dtype=np.float32), self.regularization)
        row, column = np.nonzero(np.abs(weights) > TOO_LITTLE)
        cells = (weights[row, column], (kept[row], kept[column]))
        found = sparse.csr_array(sparse.coo_array(cells, shape=(served.shape[1],) * 2, dtype=np.float32))
        found.sort_indices()
        return Neighbors(found)


def needs_served(data: Interactions, catalog: Catalog) -> sparse.csr_array:
    """1 where an order serves a need: float32 csr [orders, needs]; products of unknown need are left out."""
    known = catalog.need[data.item] >= 0
    order, need = data.order[known], catalog.need[data.item[known]]
    cells = (np.ones(len(order), np.float32), (order, need))
    served = sparse.csr_array(sparse.coo_array(cells, shape=(len(data.orders), len(catalog.needs))))
    served.data[:] = 1
    return served
