"""What a customer is due to buy again: what they bought, how everybody comes back for it, and when."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from features.catalog import Catalog
from features.interactions import DAY, Interactions
from features.replenishment import Repeats, keys, shrunk
from serving.fitted import Candidates

Array = NDArray[Any]
OWN_GAPS = 2.0  # how many gaps a product's usual one counts for where a customer's own are few
DOUBT = 50.0  # purchases expected of a cell of pairs, at which its lift is half believed
STRENGTHS, LATENESS = (-8, 8), (-6, 6)  # half octaves that are told apart, ends included


@dataclass(frozen=True)
class Rhythm:
    """How likely a customer buys again, in the coming `window` days, what they bought before.

    Strength of a pair of customer and product: their purchases of it, each as 2^(−age / half_life), plus `common`
    times the share of the product's pairs that came back in the last `window` days, shrunk to its need's share.
    Lateness: days since the last purchase over the days that one usually lasts. Those are the customer's mean gap,
    shrunk to the product's, which is shrunk to its need's, times the quantity last bought over the usual one.
    The score is strength times lift: the purchases that pairs as strong and as late saw in the last `window` days,
    over those expected of their strength alone. Both are told as of the beginning of these days.
    """

    half_life: float = 90.0  # days
    window: float = 30.0  # days
    common: float = 3.0

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        now, before = self.pairs(data, catalog), self.pairs(earlier(data, self.window), catalog)
        score = now.strength * lift(before, again(before.key, data, self.window))[now.cell]
        shape = len(data.customers), len(data.items)
        cells = (score.astype(np.float32), np.divmod(now.key, max(len(data.items), 1)))
        return Candidates(sparse.csr_array(sparse.coo_array(cells, shape=shape)))

    def pairs(self, data: Interactions, catalog: Catalog) -> "Pairs":
        known = data.customer >= 0
        age, quantity = data.age()[known], data.quantity[known]
        pairs, faded = Repeats.of(data), np.exp2(-age / self.half_life)
        key, item, times, place = pairs.key, pairs.item, pairs.times, pairs.place
        gap = pairs.gaps(shrunk(item, pairs.span, times - 1, catalog), OWN_GAPS)
        lasts = gap * quantity[pairs.last] / np.maximum(np.bincount(place, quantity) / times, 1e-9)
        strength = (
            np.bincount(place, faded, minlength=len(key)) + self.common * self.shares(data, catalog)[item]
        )
        return Pairs(key, strength, cells_of(strength, pairs.wait / np.maximum(lasts, 1)))

    def shares(self, data: Interactions, catalog: Catalog) -> Array:
        """By item, the share of its earlier customers who bought it in the last `window` days."""
        key = np.unique(keys(earlier(data, self.window)))
        came = again(key, data, self.window)
        return shrunk(key % max(len(data.items), 1), came, np.ones(len(key)), catalog)


@dataclass(frozen=True)
class Pairs:
    """Pairs of customer and product, customer × n_items + item, sorted; the cell of strength and lateness of each."""

    key: Array
    strength: Array
    cell: Array


def earlier(data: Interactions, days: float) -> Interactions:
    """What was known so many days before."""
    return data.before(data.until - int(days * DAY))


def again(key: Array, data: Interactions, days: float) -> NDArray[np.bool_]:
    """Whether each pair was bought in the last so many days."""
    lately = data.at[data.customer >= 0] >= data.until - int(days * DAY)
    return np.isin(key, keys(data)[lately])


def cells_of(strength: Array, lateness: Array) -> Array:
    columns = LATENESS[1] - LATENESS[0] + 1
    return half_octave(strength, STRENGTHS) * columns + half_octave(lateness, LATENESS)


def half_octave(values: Array, ends: tuple[int, int]) -> Array:
    return (np.floor(2 * np.log2(np.maximum(values, 1e-9))).clip(*ends) - ends[0]).astype(np.int64)


def lift(before: Pairs, bought: NDArray[np.bool_]) -> Array:
    """By cell, purchases over those expected of the strength alone, shrunk to 1."""
    cells = (STRENGTHS[1] - STRENGTHS[0] + 1) * (LATENESS[1] - LATENESS[0] + 1)
    expected = before.strength * bought.sum() / max(before.strength.sum(), 1e-9)
    seen, meant = (np.bincount(before.cell, of, minlength=cells) for of in (bought, expected))
    return (seen + DOUBT) / (meant + DOUBT)
