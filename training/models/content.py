"""What a product is, whoever bought it: its category, need, brand, price and the words of its title."""

import re
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from features.catalog import Catalog
from features.interactions import Interactions
from serving.fitted import Vectors
from serving.index import unit
from training.models.hybrid import category_levels, one_hot, price_band
from training.models.recipe import decayed_log

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Content:
    """Products by their features alone, so that one nobody bought yet lies beside its kin.

    A product's features are its category levels, need, brand, tenth of price, and the words of its title hashed into
    `buckets`, each weighed by how rare it is (log of products over products with it). The vectors are those of the
    truncated singular value decomposition (Deerwester 1990), of length 1. A customer is the mean of what they
    bought, each weighed by log(1 + purchases, decayed by half_life days).
    """

    factors: int = 64
    buckets: int = 4_096
    half_life: float = 120.0  # days
    seed: int = 7

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        items = unit(self.reduced(features(catalog, self.buckets)))
        customers = unit(np.asarray(decayed_log(data, self.half_life) @ items, np.float32))
        return Vectors(customers, items, np.zeros(len(catalog), np.float32))

    def reduced(self, rows: sparse.csr_array) -> NDArray[np.float32]:
        """float32 [n_items, factors], or fewer factors where there is too little to tell apart."""
        most = min(rows.shape) - 1
        if most < 1 or not rows.nnz:
            return np.zeros((rows.shape[0], 1), np.float32)
        start = np.random.default_rng(self.seed).standard_normal(most + 1)
        left, strength, _ = svds(rows.astype(np.float64), k=min(self.factors, most), v0=start)
        return np.ascontiguousarray(left * strength, np.float32)


def features(catalog: Catalog, buckets: int) -> sparse.csr_array:
    """A row of length 1 for each product; of length 0 where nothing is known of it."""
    codes = [*category_levels(catalog), catalog.need, catalog.brand, price_band(catalog)]
    blocks = [*map(one_hot, codes), title_words(catalog, buckets)]
    found = sparse.csr_array(sparse.hstack(blocks, format="csr", dtype=np.float32))
    rare = np.log1p(len(catalog) / np.maximum(np.bincount(found.indices, minlength=found.shape[1]), 1))
    found.data = rare[found.indices].astype(np.float32)
    length = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)))
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(length, 1e-9)) @ found)


def title_words(catalog: Catalog, buckets: int) -> sparse.csr_array:
    """1 where a title holds a word of a bucket; an id that stands for a missing title has no word."""
    told = catalog.table["title"].to_pylist()
    words = [sorted({crc32(w.encode()) % buckets for w in WORD.findall((t or "").casefold())}) for t in told]
    indptr = np.concatenate([[0], np.cumsum([len(w) for w in words])]).astype(np.int64)
    places = np.array([place for w in words for place in w], np.int32)
    return sparse.csr_array((np.ones(len(places), np.float32), places, indptr), shape=(len(told), buckets))
