"""Factorisation of purchases with features of products and of customers: LightFM with the WARP loss."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.catalog import PATH_SEPARATOR, Catalog, level
from features.customers import facts, favourite
from features.interactions import Interactions
from serving.fitted import Vectors
from training.models.recipe import in_int32

LEVELS = 4
PRICE_BANDS = 10


@dataclass(frozen=True)
class Hybrid:
    """A product is the sum of itself, its category levels, brand and price band (Kula 2015; WARP: Weston 2011).

    A product without purchases is the sum of its features alone, so it has a place among the others. A customer
    is the sum of themselves, the need, brand and price band that they buy most, and their stage.
    """

    factors: int = 32
    epochs: int = 12
    learning_rate: float = 0.05
    max_sampled: int = 10
    seed: int = 7

    def fit(self, data: Interactions, catalog: Catalog) -> Vectors:
        from lightfm import LightFM

        bought = data.matrix(lambda d: np.ones(len(d), np.float32))
        features = item_features(catalog, np.diff(bought.tocsc().indptr) > 0)
        weights = sparse.coo_matrix(bought)
        weights.data = np.log1p(weights.data).astype(np.float32)
        ones = sparse.coo_matrix(
            (np.ones_like(weights.data), (weights.row, weights.col)), shape=weights.shape
        )
        model = LightFM(
            no_components=self.factors, loss="warp", learning_rate=self.learning_rate,
            max_sampled=self.max_sampled, random_state=self.seed,
        )  # fmt: skip
        # one thread: LightFM's lock-free updates differ from run to run on two
        who = customer_features(data, catalog)
        model.fit(
            ones, user_features=who, item_features=features, sample_weight=weights, epochs=self.epochs, num_threads=1
        )  # fmt: skip
        bias, items = model.get_item_representations(features)
        # a customer's own bias is the same for all of their items, so it changes no list
        return Vectors(model.get_user_representations(who)[1], items, bias)


def item_features(catalog: Catalog, bought: np.ndarray) -> sparse.csr_matrix:
    """Rows sum to 1: the product itself where it was bought, category levels, brand, price band."""
    blocks = [sparse.diags_array(bought.astype(np.float32), format="csr")]
    blocks += map(one_hot, (*category_levels(catalog), catalog.brand, price_band(catalog)))
    return shared(blocks)


def customer_features(data: Interactions, catalog: Catalog) -> sparse.csr_matrix:
    """Rows sum to 1: the customer, the need, brand and price band of most of their purchases, their stage."""
    n = len(data.customers)
    codes = [favourite(code, data) for code in (catalog.need, catalog.brand, price_band(catalog))]
    codes.append(facts(data, catalog)["stage"].cat.codes.to_numpy().astype(np.int64))
    return shared([sparse.eye_array(n, format="csr"), *map(one_hot, codes)])


def shared(blocks: list[sparse.csr_array]) -> sparse.csr_matrix:
    """Blocks of features side by side, those of a row sharing one."""
    features = sparse.hstack(blocks, format="csr", dtype=np.float32)
    total = np.asarray(features.sum(axis=1)).reshape(features.shape[0])
    return in_int32(sparse.diags_array(1 / np.maximum(total, 1), format="csr") @ features)


def category_levels(catalog: Catalog) -> list[np.ndarray]:
    """A code for each of the first LEVELS levels of a product's category, −1 where the path is shorter."""
    paths = catalog.categories
    named = [
        [level(path, depth) if path.count(PATH_SEPARATOR) >= depth - 1 else None for path in paths]
        for depth in range(1, LEVELS + 1)
    ]
    return [by_code(names, catalog.category) for names in named]


def by_code(names: list[str | None], code: np.ndarray) -> np.ndarray:
    """Codes of the names behind `code`, −1 where there is none."""
    values = {name: place for place, name in enumerate(sorted({n for n in names if n is not None}))}
    places = np.array([values.get(name, -1) if name is not None else -1 for name in names] + [-1])
    return places[code]


def one_hot(code: np.ndarray) -> sparse.csr_array:
    rows = np.flatnonzero(code >= 0)
    cells = (np.ones(len(rows), np.float32), (rows, code[rows]))
    return sparse.csr_array(sparse.coo_array(cells, shape=(len(code), int(code.max(initial=-1)) + 1)))


def price_band(catalog: Catalog) -> np.ndarray:
    """Tenth of the product's price among all prices, −1 where unknown."""
    known = np.isfinite(catalog.price)
    if not known.any():
        return np.full(len(catalog), -1)
    edges = np.unique(np.quantile(catalog.price[known], np.linspace(0, 1, PRICE_BANDS + 1)[1:-1]))
    return np.where(known, np.searchsorted(edges, catalog.price, side="right"), -1)
