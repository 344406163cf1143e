"""Matrix factorisation on implicit feedback: ALS and BPR, by the package implicit."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Vectors
from training.models.recipe import decayed_log, in_int32, ones


@dataclass(frozen=True)
class Als:
    """Weighted matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008).

    A cell's confidence is alpha × log(1 + purchases, each decayed by half_life days).
    """

    factors: int = 64
    regularization: float = 1.0
    alpha: float = 1.0
    half_life: float = 120.0
    iterations: int = 10
    seed: int = 7

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        del catalog
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            factors=self.factors, regularization=self.regularization, alpha=1.0, dtype=np.float32,
            iterations=self.iterations, random_state=self.seed, num_threads=1, use_gpu=False,
        )  # fmt: skip
        model.fit(in_int32(self.weights(data)), show_progress=False)
        return Vectors(model.user_factors, model.item_factors, np.zeros(len(data.items), np.float32))

    def weights(self, data: Interactions) -> sparse.csr_array:
        matrix = decayed_log(data, self.half_life)
        matrix.data *= np.float32(self.alpha)
        return matrix


@dataclass(frozen=True)
class Bpr:
    """Bayesian personalised ranking (Rendle et al. 2009). The library's own learning rate is a trap."""

    factors: int = 64
    learning_rate: float = 0.01
    regularization: float = 0.05
    iterations: int = 60
    seed: int = 7

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        del catalog
        from implicit.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            factors=self.factors, learning_rate=self.learning_rate, regularization=self.regularization,
            iterations=self.iterations, random_state=self.seed, num_threads=1, use_gpu=False,
        )  # fmt: skip
        model.fit(in_int32(data.matrix(ones)), show_progress=False)
        # implicit keeps the item bias as the last factor and a constant 1 beside it; we keep it apart
        customers, items = model.user_factors[:, :-1], model.item_factors
        return Vectors(
            np.ascontiguousarray(customers), np.ascontiguousarray(items[:, :-1]), items[:, -1].copy()
        )
