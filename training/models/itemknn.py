"""Items that the same customers buy, by implicit's item-to-item nearest neighbours."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Neighbors
from training.models.recipe import decayed_log, in_int32


@dataclass(frozen=True)
class ItemKnn:
    """The `neighbours` nearest items of each, itself among them, by the product of their columns.

    A customer's purchases of an item count log(1 + purchases, each decayed by half_life days). `saturation` above 0:
    they are weighed by BM25, with items as documents and customers as words; `length` from 0 to 1 tells how far
    what many buy is held against it. `saturation` 0: columns are of one length, so that the product is the cosine.
    """

    neighbours: int = 100
    saturation: float = 0.0
    length: float = 0.8
    half_life: float = 120.0  # days

    def fit(self, data: Interactions, catalog: Catalog) -> Neighbors:
        del catalog
        n_items, weights = len(data.items), decayed_log(data, self.half_life)
        if not weights.nnz:
            return Neighbors(sparse.csr_array((n_items, n_items), dtype=np.float32))
        from implicit.nearest_neighbours import all_pairs_knn

        nearest = all_pairs_knn(self.weighed(weights), self.neighbours, show_progress=False, num_threads=1)
        found = sparse.csr_array(nearest, dtype=np.float32)
        found.eliminate_zeros()
        found.sort_indices()
        return Neighbors(found)

    def weighed(self, weights: sparse.csr_array) -> sparse.csr_matrix:
        from implicit.nearest_neighbours import bm25_weight, normalize

        by_item = in_int32(sparse.csr_array(weights.T))
        done = bm25_weight(by_item, self.saturation, self.length) if self.saturation else normalize(by_item)
        return in_int32(sparse.csr_array(done.T))
