"""When a customer will want again what they bought before: how likely they come back for it, and by which day.

A pair of customer and product waits at a rate that is gamma-distributed around what is usual for the product, so that
the time to the next purchase is Lomax-distributed, and what was waited in vain counts as much as what was not
(Bhagat, Muthusamy, Rajagopalan, Padigela et al., Buy It Again, KDD 2018: repeat probability x Poisson-gamma density).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.catalog import Catalog
from features.interactions import DAY, Interactions

Array = NDArray[Any]
PRIOR = 20.0  # how many pairs, and gaps, a need's figure counts for where a product's own are few
SHAPE = 1.0  # how many gaps the product's usual one counts for where a pair's own are few
OWN = 2.0  # as many purchases does the product's share of comers-back count for beside a pair's own
COVER = 0.1  # of the time that a purchase lasts, nobody buys again in this part of it
HORIZON = 60.0  # days ahead
LIKELY = 0.5  # a pair less likely than that to buy within the horizon is not due


@dataclass(frozen=True)
class Repeats:
    """Pairs of a known customer and a product of theirs, customer × n_items + item, sorted; an array an aspect.

    place: the pair of each row of a known customer. last: their row of its last purchase. item, times (purchases);
    span, wait: days from the first to the last, and since.
    """

    key: Array
    place: Array
    last: Array
    item: Array
    times: Array
    span: Array
    wait: Array

    @classmethod
    def of(cls, data: Interactions) -> "Repeats":
        age = data.age()[data.customer >= 0]
        key, first, place = np.unique(keys(data), return_index=True, return_inverse=True)
        last = np.zeros(len(key), np.int64)
        last[place] = np.arange(len(place))  # rows of a customer lie in order of time
        item, times = key % max(len(data.items), 1), np.bincount(place, minlength=len(key))
        return cls(key, place, last, item, times, age[first] - age[last], age[last])

    def gaps(self, usual: Array, weight: float) -> Array:
        """Mean days between a pair's purchases, shrunk to its product's, which counts as so many gaps."""
        return (self.span + weight * usual[self.item]) / (self.times - 1 + weight)


def keys(data: Interactions) -> Array:
    """Of each row of a known customer, customer × n_items + item."""
    known = data.customer >= 0
    return data.customer[known].astype(np.int64) * len(data.items) + data.item[known]


def shrunk(item: Array, total: Array, count: Array, catalog: Catalog) -> Array:
    """Σ total / Σ count by item, shrunk to that of its need, that to that of all; 0 where all count nothing."""
    need = np.where(catalog.need < 0, len(catalog.needs), catalog.need)  # unknown needs are one
    n = len(catalog)
    every = total.sum() / max(count.sum(), 1e-9)
    totals, counts = (np.bincount(item, of, minlength=n) for of in (total, count))
    of_need = ratio(np.bincount(need, totals), np.bincount(need, counts), every)
    return ratio(totals, counts, of_need[need])


def ratio(total: Array, count: Array, otherwise: Array | float) -> Array:
    return (total + PRIOR * otherwise) / (count + PRIOR)


@dataclass(frozen=True)
class Renewal:
    """What everybody does with each product of a catalogue: float64 [n_items] each.

    gap: usual days between two purchases. again: the share of its customers who came back for it; who bought it within
    the last HORIZON days, and once, may still do so and is not counted.
    """

    gap: Array
    again: Array

    @classmethod
    def of(cls, data: Interactions, catalog: Catalog) -> "Renewal":
        pairs = Repeats.of(data)
        gap = shrunk(pairs.item, pairs.span, pairs.times - 1, catalog)
        back = pairs.times > 1
        told = back | (pairs.wait > HORIZON)
        again = shrunk(pairs.item, back.astype(float), told.astype(float), catalog)
        return cls(np.maximum(gap, 1.0), again)


def due(
    data: Interactions, catalog: Catalog, renewal: Renewal | None = None, *, horizon: float = HORIZON
) -> pd.DataFrame:
    """One row for each customer and product of theirs, by customer, then item: customer, item (positions), chance (of
    another purchase within `horizon` days of `data.until`), days (by when half of those who do will have bought), times
    (purchases), gap (usual days between two), served (seconds: the last purchase for the need).

    Against `renewal`, by default what `data` says itself. Nobody buys again in a COVER-th of the time that the last
    purchase for the need lasts them, be it of the product or of a substitute; a larger quantity, or pack, lasts longer.
    """
    renewal = Renewal.of(data, catalog) if renewal is None else renewal
    pairs = Repeats.of(data)
    shape, wait = SHAPE + pairs.times - 1, pairs.wait.astype(np.float64)
    gap = pairs.gaps(renewal.gap, OWN)
    newest, held = supplies(pairs, data, catalog)
    since = SHAPE * renewal.gap[pairs.item] + pairs.span  # days that stand for the purchases
    scale = since + wait
    stock = np.clip(COVER * gap * held - (data.until - newest) / DAY, 0.0, 0.8 * horizon)
    rest = horizon - stock
    share = 1.0 - (scale / (scale + rest)) ** shape
    days = stock + scale * ((1.0 - share / 2) ** (-1.0 / shape) - 1.0)
    chance = staying(renewal.again[pairs.item], pairs.times, (since / scale) ** shape) * share
    columns = {
        "customer": pairs.key // max(len(data.items), 1),
        "item": pairs.item,
        "chance": chance,
        "days": days,
    }
    return pd.DataFrame({**columns, "times": pairs.times, "gap": gap, "served": newest})


def staying(again: Array, times: Array, silence: Array) -> Array:
    """How likely a pair goes on, as it has been silent for a time that one which goes on is with this probability."""
    prior = (again * OWN + times - 1) / (OWN + times - 1)
    return prior * silence / np.maximum(prior * silence + 1 - prior, 1e-12)


def supplies(pairs: Repeats, data: Interactions, catalog: Catalog) -> tuple[Array, Array]:
    """(when a pair's need was served last, in seconds, be it by the product or by a substitute; with how many of the
    pair's usual purchases)."""
    rows = data.customer >= 0
    item, at = data.item[rows], data.at[rows]
    amount = data.quantity[rows] * catalog.pack[item]
    need = np.where(catalog.need < 0, len(catalog.needs) + np.arange(len(catalog)), catalog.need)
    _, group = np.unique(
        data.customer[rows].astype(np.int64) * (2 * len(catalog) + 1) + need[item], return_inverse=True
    )
    newest = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, group, at)
    held = np.bincount(group, amount * (at == newest[group]))
    usual = np.bincount(pairs.place, amount, minlength=len(pairs.key)) / pairs.times
    served = group[pairs.last]
    return newest[served], held[served] / np.maximum(usual, 1e-9)
