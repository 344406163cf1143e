"""What a ranker looks at: numbers about a customer, a product and a basket, before one moment.

One function makes them for training, for bulk and for a single request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.catalog import Catalog
from features.interactions import DAY, Floats, Interactions, is_in, runs, sorted_set
from features.promotions import PROMOTED

Array = NDArray[Any]
HALF_LIVES = (10.0, 30.0, 90.0, 365.0)  # days
LATELY = 8
NEVER = 1_000.0  # days since what never happened
NAN = float("nan")

CUSTOMER = (
    "orders", "recency", "tenure", "gap", "overdue", "basket", "distinct", "orders_30", "novelty_30",
    "price_level", "deal",
)  # fmt: skip
OWN = (
    "orders", "decayed_10", "decayed_30", "decayed_90", "decayed_365", "last", "first", "gap", "overdue", "behind",
    "since_first", "quantity", "last_quantity", "last_gap", "share_90", "deal",
)  # fmt: skip
GROUPS = ("need", "parent", "brand")
GROUP = ("orders", "decayed_30", "decayed_365", "last", "gap", "overdue", "share", "lines", "distinct")
ITEM = (
    "buyers", "buyers_28", "buyers_7", "trend", "orders_per_buyer", "rebuyers", "gap", "price", "price_in_need",
    "first_sold", "last_sold", "share_of_need", "need_buyers_28", "need_rebuyers", "need_gap", "need_size", "deal",
    "deal_28", "deal_7",
)  # fmt: skip
PRICE, PRICE_IN_NEED, GAP, DEAL, DEAL_7 = (
    ITEM.index(n) for n in ("price", "price_in_need", "gap", "deal", "deal_7")
)
TOGETHER = ("price_to_level", "overdue_item", "deal_to_usual", "deal_now", "share_of_need")
NEED = ("buyers", "buyers_28", "buyers_7", "size", "products", "own_overlap", "own_recent_overlap")
OFFER = ("offered", "share", "paid", "novelty")
BASKET = ("size", "need", "parent", "brand", "price", "own_overlap", "own_recent_overlap", "had_with")


def columns(*, basket: bool = False, offer: bool = False) -> tuple[str, ...]:
    """Names of what `Pairs.of` gives, in order, and of what `Pairs.offer` gives."""
    blocks = {
        "customer": CUSTOMER,
        "own": OWN,
        **dict.fromkeys(GROUPS, GROUP),
        "item": ITEM,
        "promotion": PROMOTED,
        "pair": TOGETHER,
    }
    blocks |= ({"basket": BASKET} if basket else {}) | ({"offer": OFFER} if offer else {})
    return named(blocks)


def need_columns() -> tuple[str, ...]:
    """Names of what `Pairs.of_needs` gives, in order."""
    return named({"customer": ("orders",), "need": GROUP, "basket": NEED})


def named(blocks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(f"{block}.{name}" for block, names in blocks.items() for name in names)


# --- what all customers together say of each item ---------------------------------------------------------


@dataclass(frozen=True)
class Tallies:
    """What purchases alone say of each item, whatever the catalogue says of it: float64 or int64 [n_items] each."""

    ever: Array
    month: Array
    before: Array
    week: Array
    lines: Array
    rebuyers: Array
    gap: Array
    oldest: Array
    newest: Array
    deal: Array
    deal_28: Array
    deal_7: Array

    @classmethod
    def of(cls, data: Interactions, n: int) -> "Tallies":
        age, item = data.age(), data.item.astype(np.int64)
        who = np.where(data.customer >= 0, data.customer, len(data.customers) + data.order).astype(np.int64)
        key = who * n + item
        pairs, place, times = np.unique(key, return_inverse=True, return_counts=True)
        bought = pairs % n

        def buyers(since: float, until: float = -1.0) -> Array:
            recent = (age <= since) & (age > until)
            return np.bincount(sorted_set(key[recent]) % n, minlength=n)

        first, last = extremes(age, place, len(pairs))
        again = times >= 2
        gap = shrunk_mean(bought[again], (first - last)[again] / (times[again] - 1), n, otherwise=30.0)
        off = data.discount / np.maximum(data.paid + data.discount, 0.01)
        deals = [
            shrunk_mean(item[age <= days], off[age <= days], n, otherwise=NAN) for days in (np.inf, 28, 7)
        ]
        return cls(
            np.bincount(bought, minlength=n), buyers(28), buyers(56, 28), buyers(7),
            np.bincount(item, minlength=n), np.bincount(bought[again], minlength=n), gap,
            *extremes(age, item, n), *deals,
        )  # fmt: skip

    @classmethod
    def with_nobody(cls, data: Interactions) -> "Tallies":
        """Of each item, and behind the last of one that nobody bought."""
        return cls.of(data, len(data.items) + 1)

    def at(self, places: Array) -> "Tallies":
        return Tallies(*(column[places] for column in vars(self).values()))


def item_facts(catalog: Catalog, data: Interactions) -> Floats:
    """`facts_of` what is bought in `data`."""
    return facts_of(catalog, Tallies.with_nobody(data))


def facts_of(catalog: Catalog, tallies: Tallies) -> Floats:
    """Columns of ITEM and PROMOTED for each item: float32 [n_items, columns]. Prices are logarithms, gaps and ages
    days. An item that came behind those of `tallies` is as the last of them, which nobody bought."""
    of = tallies.at(np.minimum(np.arange(len(catalog)), len(tallies.ever) - 1))
    need = np.where(catalog.need < 0, len(catalog.needs), catalog.need)  # unknown needs are one

    def in_need(values: Array) -> Array:
        total: Array = np.bincount(need, values, minlength=len(catalog.needs) + 1)
        return total[need]

    price = np.log(np.where(catalog.price > 0, catalog.price, np.nan).astype(np.float64))
    return np.column_stack(
        [
            np.log1p(of.ever), np.log1p(of.month), np.log1p(of.week), np.log1p(of.month) - np.log1p(of.before),
            of.lines / np.maximum(of.ever, 1), of.rebuyers / (of.ever + 5), of.gap, price,
            price - medians(need, price)[need], of.oldest, of.newest, of.month / np.maximum(in_need(of.month), 1),
            np.log1p(in_need(of.month)), in_need(of.rebuyers) / (in_need(of.ever) + 5),
            in_need(of.gap * of.rebuyers) / np.maximum(in_need(of.rebuyers), 1), np.log1p(in_need(of.ever > 0)),
            of.deal, of.deal_28, of.deal_7, catalog.promoted,
        ]
    ).astype(np.float32)  # fmt: skip


def extremes(age: Floats, place: Array, n: int) -> tuple[Array, Array]:
    """(highest, lowest) age at each place; of a place without rows, (0, NEVER)."""
    high, low = np.zeros(n), np.full(n, NEVER)
    np.maximum.at(high, place, age)
    np.minimum.at(low, place, age)
    return high, low


def shrunk_mean(place: Array, values: Array, n: int, *, otherwise: float, weight: float = 5.0) -> Array:
    """Means by place, shrunk to the mean of all; `otherwise` where there is no value at all."""
    every = float(values.mean()) if len(values) else otherwise
    count = np.bincount(place, minlength=n)
    return (np.bincount(place, values, minlength=n) + weight * every) / (count + weight)


def medians(place: Array, values: Array) -> Array:
    """Medians by place, the lower of two middle ones; NaN where there is no value."""
    n, known = int(place.max(initial=-1)) + 1, np.isfinite(values)
    place, values = place[known], values[known]
    by = np.lexsort((values, place))
    start, end = (np.searchsorted(place[by], np.arange(n), side=side) for side in ("left", "right"))
    ordered = np.append(values[by], np.nan)
    return np.where(end > start, ordered[np.maximum(start + end - 1, 0) // 2], np.nan)


# --- what one customer did ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """A customer's rows in order of time. behind: how many later orders each row has."""

    item: Array
    order: Array  # 0 for the first order
    age: Floats
    behind: Array
    quantity: Floats
    off: Floats  # share of the list price taken off
    decays: tuple[Floats, ...]

    @classmethod
    def of(cls, data: Interactions, customer: int) -> "Rows":
        rows = data.rows(customer)
        order = data.order[rows]
        run = np.cumsum(runs(order)) - 1
        age = ((data.until - data.at[rows]) / DAY).astype(np.float32)
        paid, discount = data.paid[rows], data.discount[rows]
        off = discount / np.maximum(paid + discount, np.float32(0.01))
        decays = tuple(np.exp2(age / np.float32(-h)) for h in HALF_LIVES)
        behind = run[-1] - run if len(run) else run
        return cls(data.item[rows], run, age, behind, data.quantity[rows], off, decays)

    @cached_property
    def n_orders(self) -> int:
        return int(self.order[-1]) + 1 if len(self.order) else 0

    @cached_property
    def items(self) -> tuple[Array, Array, Array]:
        """(the items, sorted; the first row of each; the place among them of each row's item)."""
        return np.unique(self.item, return_index=True, return_inverse=True)


@dataclass(frozen=True)
class Tally:
    """Figures by code, sorted by code; the last row of `table` is for what never occurred."""

    codes: Array
    table: Floats

    def of(self, codes: Array) -> Floats:
        if not len(self.codes):
            return np.repeat(self.table[-1:], len(codes), axis=0)
        place = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return self.table[np.where(self.codes[place] == codes, place, len(self.codes))]


def last_rows(place: Array, n: int) -> Array:
    """The last row of each place."""
    last = np.zeros(n, np.int64)
    last[place] = np.arange(len(place))
    return last


def spans(age: Floats, first: Array, last: Array, times: Array) -> tuple[Array, Array, Array, Array]:
    """(days since the last, since the first, mean days between, how overdue by that)."""
    since, ago = age[first], age[last]
    gap = np.divide(since - ago, times - 1, out=np.full(len(times), np.nan), where=times > 1)
    return ago, since, gap, ago / np.maximum(gap, 1)


def own(rows: Rows) -> Tally:
    """Columns of OWN by item."""
    codes, first, place = rows.items
    u = len(codes)
    table = np.empty((u + 1, len(OWN)), np.float32)
    table[u] = [0, 0, 0, 0, 0, NEVER, NEVER, NAN, NAN, NEVER, 0, 0, NAN, NAN, 0, NAN]
    if not u:
        return Tally(codes, table)
    times, last = np.bincount(place), last_rows(place, u)
    ago, since, gap, overdue = spans(rows.age, first, last, times)
    by = np.argsort(place, kind="stable")
    before_last = by[np.maximum(np.cumsum(times) - 2, 0)]
    lately = rows.age <= 90
    orders = max(1, int(np.count_nonzero(runs(rows.order[lately]))))
    table[:u] = np.column_stack(
        [
            times, *(np.bincount(place, decay) for decay in rows.decays), ago, since, gap, overdue, rows.behind[last],
            times / (rows.behind[first] + 1), np.bincount(place, rows.quantity), rows.quantity[last],
            np.where(times > 1, rows.age[before_last] - ago, np.nan),
            np.bincount(place[lately], minlength=u) / orders, np.bincount(place, rows.off) / times,
        ]
    )  # fmt: skip
    return Tally(codes, table)


def grouped(code: Array, rows: Rows) -> Tally:
    """Columns of GROUP by a code of the rows; rows of code −1 are left out."""
    known = np.flatnonzero(code >= 0)
    codes, first, place = np.unique(code[known], return_index=True, return_inverse=True)
    u = len(codes)
    table = np.empty((u + 1, len(GROUP)), np.float32)
    table[u] = [0, 0, 0, NEVER, NAN, NAN, 0, 0, 0]
    if not u:
        return Tally(codes, table)
    age, item = rows.age[known], rows.item[known].astype(np.int64)
    times = counts_of_distinct(place, rows.order[known], u)
    ago, _, gap, overdue = spans(age, first, last_rows(place, u), times)
    month, year = (np.bincount(place, rows.decays[n][known]) for n in (1, 3))
    lines, distinct = np.bincount(place), counts_of_distinct(place, item, u)
    table[:u] = np.column_stack(
        [times, month, year, ago, gap, overdue, times / rows.n_orders, lines, distinct]
    )
    return Tally(codes, table)


def counts_of_distinct(place: Array, values: Array, n: int) -> Array:
    """How many distinct values each place has."""
    width = int(values.max(initial=0)) + 1
    return np.bincount(sorted_set(place * width + values) // width, minlength=n)


def profile(rows: Rows, taste: float) -> Floats:
    """Columns of CUSTOMER."""
    if not rows.n_orders:
        return np.array([0, *[NAN] * (len(CUSTOMER) - 1)], np.float32)
    days = rows.age[runs(rows.order)]
    gap = (days[0] - days[-1]) / max(rows.n_orders - 1, 1)
    codes, first, _ = rows.items
    lately, new = rows.age <= 30, np.zeros(len(rows.item), bool)
    new[first] = True
    novelty = new[lately].mean() if lately.any() else NAN
    return np.array(
        [
            rows.n_orders, days[-1], days[0], gap, days[-1] / max(gap, 0.5), len(rows.item) / rows.n_orders,
            len(codes) / len(rows.item), np.count_nonzero(days <= 30), novelty, taste, rows.off.mean(),
        ], np.float32,
    )  # fmt: skip


def mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else NAN


@dataclass(frozen=True)
class Known:
    """All that is known of a customer by themselves, ready to be looked up by item and by code of each of GROUPS."""

    rows: Rows
    own: Tally
    groups: tuple[Tally, ...]
    taste: float
    profile: Floats


# --- both ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Numbers about the customers and products known to `data`; `facts` is item_facts of the same."""

    catalog: Catalog
    data: Interactions
    facts: Floats

    @cached_property
    def codes(self) -> tuple[Array, ...]:
        """Codes by item of each of GROUPS."""
        return self.catalog.need, self.catalog.parent, self.catalog.brand

    @cached_property
    def lately(self) -> dict[int, Known]:
        """The customers asked about last, as questions about one come together."""
        return {}

    def known(self, customer: int) -> Known:
        found = self.lately.get(customer)
        if found is None:
            rows = Rows.of(self.data, customer)
            taste = mean(self.facts[rows.item, PRICE_IN_NEED])
            groups = tuple(grouped(code[rows.item], rows) for code in self.codes)
            found = Known(rows, own(rows), groups, taste, profile(rows, taste))
            if len(self.lately) >= LATELY:
                self.lately.clear()
            self.lately[customer] = found
        return found

    def of(self, customer: int, items: Array, basket: Array | None = None) -> Floats:
        """What is known of a customer (−1: a stranger) with each of these items: float32 [len(items), columns].

        With a `basket` of items in order (it may be empty) what these have to do with it, too.
        """
        known = self.known(customer)
        facts, had = self.facts[items], known.own.of(items)
        groups = []
        for code, tally in zip(self.codes, known.groups, strict=True):
            block = tally.of(code[items])
            block[code[items] < 0] = NAN
            groups.append(block)
        together = np.column_stack(
            [
                facts[:, PRICE_IN_NEED] - known.taste, had[:, OWN.index("last")] / facts[:, GAP],
                had[:, OWN.index("deal")] - facts[:, DEAL], facts[:, DEAL_7] - facts[:, DEAL],
                had[:, 0] / np.maximum(groups[0][:, GROUP.index("lines")], 1),
            ]
        )  # fmt: skip
        about = np.repeat(known.profile[None], len(items), axis=0)
        blocks = [about, had, *groups, facts, together]
        if basket is not None:
            blocks.append(self.beside(known.rows, items, basket))
        return np.hstack(blocks, dtype=np.float32)

    def offer(self, customer: int, item: int, offered: Array) -> Floats:
        """What is known of a customer with an item in whose place others may be offered: float32 [1, columns].

        offered: how many they are (a logarithm). share: of the recent buyers for the item's need, theirs. paid: what
        the customer chose for that need, the mean of prices over the item's. novelty: how much of it was new then.
        """
        rows = self.known(customer).rows
        mine = self.catalog.need[rows.item] == self.catalog.need[item]
        new = np.zeros(len(rows.item), bool)
        new[rows.items[1]] = True
        new &= rows.order > rows.order[mine].min(initial=rows.n_orders)
        buyers, whole = ITEM.index("buyers_28"), ITEM.index("need_buyers_28")
        theirs = np.expm1(self.facts[offered, buyers]).sum() / max(np.expm1(self.facts[item, whole]), 1)
        paid = mean(self.catalog.price[rows.item[mine]]) / self.catalog.price[item]
        about = [np.log1p(len(offered)), theirs, paid, mean(new[mine].astype(np.float32))]
        return np.append(self.of(customer, np.array([item])), np.array([about], np.float32), axis=1)

    @cached_property
    def need_buyers(self) -> Floats:
        """How many bought for each need, a buyer of two products twice: logarithms, float32 [needs, 3], ever, in 28
        and in 7 days."""
        known = self.catalog.need >= 0
        need, n = self.catalog.need[known], len(self.catalog.needs)
        counts = (
            np.expm1(self.facts[known, ITEM.index(name)]) for name in ("buyers", "buyers_28", "buyers_7")
        )
        return np.log1p(np.column_stack([np.bincount(need, of, minlength=n) for of in counts])).astype(
            np.float32
        )

    def of_needs(self, customer: int, needs: Array, basket: Array) -> Floats:
        """What is known of a customer (−1: a stranger) with each of these needs, beside a basket of items in order:
        float32 [len(needs), columns].

        own_overlap: over the customer's orders that served a need, how many needs of the basket they served, too;
        recent: each order half as much every 90 days.
        """
        known, n = self.known(customer), len(self.catalog.needs)
        rows, code = known.rows, self.catalog.need[known.rows.item]
        asked = sorted_set(self.catalog.need[basket])
        asked = asked[asked >= 0]
        order, need = np.divmod(sorted_set((rows.order * n + code)[code >= 0]), max(n, 1))
        overlap = np.bincount(order[is_in(need, asked)], minlength=rows.n_orders)[order]
        recent = overlap * rows.decays[2][runs(rows.order)][order]
        mine = [np.bincount(need, of, minlength=n)[needs] for of in (overlap, recent)]
        whole = np.full((3, len(needs)), [[rows.n_orders], [len(asked)], [len(basket)]])
        of_all = [self.need_buyers[needs], whole[1:].T, np.array(mine).T]
        return np.hstack([whole[:1].T, known.groups[0].of(needs), *of_all], dtype=np.float32)

    def beside(self, rows: Rows, items: Array, basket: Array) -> Floats:
        """Columns of BASKET."""
        inside = is_in(rows.item, basket).astype(np.float32)
        overlap = np.bincount(rows.order, inside, minlength=rows.n_orders)[rows.order] - inside
        mine = sums(rows, overlap, overlap * rows.decays[2], overlap > 0).of(items)
        alike = [
            np.bincount(code[basket] + 1, minlength=2 + int(code.max(initial=0)))[code[items] + 1]
            * np.where(code[items] >= 0, 1.0, NAN)
            for code in self.codes
        ]
        price = self.facts[items, PRICE] - mean(self.facts[basket, PRICE])
        size = np.full(len(items), len(basket))
        return np.column_stack([size, *alike, price, mine]).astype(np.float32)


def sums(rows: Rows, *values: Array) -> Tally:
    """Values of the rows added up by item, a column each."""
    codes, _, place = rows.items
    table = np.zeros((len(codes) + 1, len(values)), np.float32)
    for column, of in enumerate(values):
        table[:-1, column] = np.bincount(place, of, minlength=len(codes))
    return Tally(codes, table)
