"""What a customer buys again and again: their own purchases, weighted by recency."""

from dataclasses import dataclass

import numpy as np

from features.catalog import Catalog
from features.interactions import Floats, Interactions
from serving.fitted import Candidates


@dataclass(frozen=True)
class Habit:
    """Sum over a customer's orders of 2^(−age / half_life) for each item they held.

    Exponential decay shifts with time alike for all of a customer's items, so the order within a list
    stays right at any later moment.
    """

    half_life: float = 90.0  # days

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        del catalog
        return Candidates(data.matrix(self.decayed))

    def decayed(self, data: Interactions) -> Floats:
        return np.exp2(-data.age() / self.half_life).astype(np.float32)
