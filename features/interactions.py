"""Who bought what, in which order, when: events up to a moment as aligned arrays."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int32]
Seconds = NDArray[np.int64]
Floats = NDArray[np.float32]
DAY = 86_400
LINE = ("customer", "item", "order", "at", "quantity", "paid", "discount")
NEVER = b"\xff"  # no text holds this byte in UTF-8, so no id is equal to it
EVENT_COLUMNS = (
    "customer_id", "product_id", "event_type", "occurred_at", "order_id", "quantity", "unit_price", "discount",
)  # fmt: skip


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970 UTC. A moment without a zone is refused: it would depend on the machine."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: give one, as in datetime(2017, 12, 1, tzinfo=UTC)")
    return int(moment.timestamp())


def moment(of: int | np.integer[Any]) -> datetime:
    return datetime.fromtimestamp(int(of), UTC)


def sorted_set(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, in order; of short arrays far sooner than np.unique, which hashes them."""
    values = np.sort(values)
    return values[runs(values)]


def runs(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


def is_in(values: NDArray[Any], ordered: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value is one of an ordered few."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values)


@dataclass(frozen=True)
class Ids:
    """Outside ids, sorted as bytes; a position is the row of that id in every array that speaks of it.

    `values` is a sorted array of fixed-width bytes, so that workers share it by memory-mapping. They are
    unique, but for the orders of `Interactions`: there an id stands once for each customer who used it.
    """

    values: NDArray[np.bytes_]

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Ids":
        raw = sorted({i.encode() for i in ids})
        return cls(np.array(raw, dtype=bytes) if raw else np.empty(0, "S1"))

    def __len__(self) -> int:
        return len(self.values)

    def positions(self, ids: Sequence[str]) -> Ints:
        """Positions of these ids, the first where an id stands twice, −1 where unknown: int32 [len(ids)]."""
        if not len(ids):
            return np.empty(0, np.int32)
        width = self.values.dtype.itemsize
        # numpy drops trailing NULs and cuts what is too wide, so such ids are unknown before it sees them
        raw = [NEVER if "\0" in i or len(b := i.encode("utf-8", "surrogatepass")) > width else b for i in ids]
        return self._find(np.array(raw, dtype=self.values.dtype))

    def position(self, one: str) -> int:
        """Position of one id, the first where it stands twice, −1 where unknown: in a third of the time."""
        raw = one.encode("utf-8", "surrogatepass")
        at = bisect_left(self.values, raw)
        return at if at < len(self.values) and self.values[at] == raw and b"\0" not in raw else -1

    def _find(self, raw: NDArray[np.bytes_]) -> Ints:
        if not len(self.values):
            return np.full(len(raw), -1, np.int32)
        at = np.minimum(np.searchsorted(self.values, raw), len(self.values) - 1)
        return np.where(self.values[at] == raw, at, -1).astype(np.int32)

    def column(self, ids: "pa.ChunkedArray[Any] | pa.Array[Any]") -> Ints:
        """Positions of an arrow column of ids, −1 where null or unknown."""
        encoded = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        places = (
            self.positions(encoded.dictionary.to_pylist())
            if len(encoded.dictionary)
            else np.empty(0, np.int32)
        )
        codes = encoded.indices.cast(pa.int64()).fill_null(len(places)).to_numpy(zero_copy_only=False)
        return np.append(places, np.int32(-1))[codes]

    def at(self, positions: Sequence[int] | NDArray[Any]) -> list[str]:
        """Ids at these positions. A position out of range raises: −1 is never the last id."""
        places = np.asarray(positions, dtype=np.int64)
        if places.size and places.min() < 0:
            raise IndexError("a negative position names no id")
        return [raw.decode() for raw in self.values[places].tolist()]


@dataclass(frozen=True)
class MoreIds(Ids):
    """Sorted ids, and those that came later behind them in the order of their coming: a position never changes."""

    later: Mapping[str, int]  # id -> position

    def __len__(self) -> int:
        return len(self.values) + len(self.later)

    def positions(self, ids: Sequence[str]) -> Ints:
        found = super().positions(ids)
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = self.later.get(ids[place], -1)
        return found

    def position(self, one: str) -> int:
        found = super().position(one)
        return self.later.get(one, -1) if found < 0 else found

    def at(self, positions: Sequence[int] | NDArray[Any]) -> list[str]:
        places, n = np.asarray(positions, dtype=np.int64), len(self.values)
        if not places.size or places.max() < n:
            return super().at(places)
        found = super().at(np.where(places < n, places, 0)) if n else [""] * len(places)
        names = list(self.later)
        for place in np.flatnonzero(places >= n).tolist():
            found[place] = names[places[place] - n]
        return found


@dataclass(frozen=True)
class Interactions:
    """One row for a customer, an order and a product, sorted by customer, then time; returns taken back.

    customer, item, order: positions in `customers`, `items`, `orders`, int32 [n]; customer −1: anonymous.
    at: the order's first moment, seconds since 1970 UTC, int64 [n]. quantity, paid (money for the line), discount
    (money taken off it): float32 [n]. Nothing in here happened at or after `until`.

    An order is one customer's: an id that several used, as tills do that count receipts anew each day, names
    an order for each of them, side by side in `orders`. All anonymous rows of an id are one order.
    """

    customers: Ids
    items: Ids
    orders: Ids
    customer: Ints
    item: Ints
    order: Ints
    at: Seconds
    quantity: Floats
    paid: Floats
    discount: Floats
    until: int

    @classmethod
    def from_events(
        cls, events: pa.Table, *, items: Ids, until: datetime, keep: NDArray[np.bool_] | None = None
    ) -> "Interactions":
        """Paid order lines strictly before `until`, of products in `keep` (bool [len(items)]), by default of all.

        `events` holds EVENT_COLUMNS of the contract, in any order. A line given away for nothing is no choice
        and is left out; a return takes back its purchase: first in the order that it names, its customer's own
        before whoever else's, then the latest of its customer before it.
        """
        return Lines.bought(events, items, keep, until).told(events, items, until)

    def of_one(
        self,
        customer: int,
        events: pa.Table,
        *,
        until: datetime,
        keep: NDArray[np.bool_] | None = None,
        others: Sequence[int] = (),
    ) -> "Interactions":
        """What one customer bought (−1: nothing as yet) with what these events of theirs add, as of `until`.

        `others` were other customers when the rest was read, and are this one now.

        As if the events had been known with the rest, as far as this customer's own rows go: by the steps of
        `from_events`. All of them name the customer alike.
        """
        lines = Lines.of_rows(self, customer)
        for part in (
            *(Lines.of_rows(self, other) for other in others),
            Lines.bought(events, self.items, keep, until),
        ):
            lines = lines.plus(part)
        return lines.told(events, self.items, until)

    def __len__(self) -> int:
        return len(self.customer)

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """Rows of customer c are start[c]:start[c + 1]."""
        return np.searchsorted(self.customer, np.arange(len(self.customers) + 1))

    def unnamed(self, mask: NDArray[np.bool_]) -> "Interactions":
        """The same with the rows of `mask` anonymous; whole orders, as an order is one customer's."""
        customer = np.where(mask, np.int32(-1), self.customer)
        by = np.lexsort((self.at, customer))
        return replace(self, **{name: getattr(self, name)[by] for name in LINE} | {"customer": customer[by]})

    def before(self, until: int) -> "Interactions":
        """The rows of orders that began before a moment; all of them from the end of what is known on."""
        if until >= self.until:
            return self
        rows = self.at < until
        return replace(self, until=until, **{name: getattr(self, name)[rows] for name in LINE})

    def among(self, customers: Ids) -> "Interactions":
        """The same rows with positions in `customers`, who are these and perhaps others."""
        place = customers._find(self.customers.values.astype(customers.values.dtype))
        customer = np.append(place, -1).astype(np.int32)[self.customer]
        return replace(self, customers=customers, customer=customer)

    def rows(self, customer: int) -> slice:
        return (
            slice(int(self.start[customer]), int(self.start[customer + 1])) if customer >= 0 else slice(0, 0)
        )

    @cached_property
    def order_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows sorted by order, where each order starts in them)."""
        by_order = np.argsort(self.order, kind="stable")
        return by_order, np.searchsorted(self.order[by_order], np.arange(len(self.orders) + 1))

    def order_of(self, order_id: str, customer: int) -> int:
        """The position of a customer's order of that id, −1 where there is none; customer −1 asks for a guest's."""
        first = int(self.orders.positions([order_id])[0])
        if first < 0:
            return -1
        end = int(np.searchsorted(self.orders.values, self.orders.values[first], side="right"))
        by_order, start = self.order_rows
        own = np.flatnonzero(self.customer[by_order[start[first:end]]] == customer)
        return first + int(own[0]) if len(own) else -1

    def age(self) -> Floats:
        """Days from each row to `until`."""
        return ((self.until - self.at) / DAY).astype(np.float32)

    def matrix(self, weigh: "Callable[[Interactions], NDArray[Any]]") -> sparse.csr_array:
        """Weights summed by customer and item: float32 csr [len(customers), len(items)]; anonymous rows left out."""
        known = self.customer >= 0
        cells = (weigh(self)[known], (self.customer[known], self.item[known]))
        shape = (len(self.customers), len(self.items))
        return sparse.csr_array(sparse.coo_array(cells, shape=shape, dtype=np.float32))

    def baskets(self) -> sparse.csr_array:
        """1 where an order holds an item: float32 csr [len(orders), len(items)]; anonymous orders count."""
        cells = (np.ones(len(self), np.float32), (self.order, self.item))
        held = sparse.csr_array(sparse.coo_array(cells, shape=(len(self.orders), len(self.items))))
        held.data[:] = 1
        return held


def before(
    events: pa.Table, until: datetime, event_type: str, *, also: "pa.ChunkedArray[Any] | None" = None
) -> pa.Table:
    """Events of one type strictly before `until`, of a product, for which `also` is true."""
    right = pc.equal(events["event_type"], event_type)
    early = pc.less(events["occurred_at"], pa.scalar(until, pa.timestamp("us", tz="UTC")))
    wanted = pc.and_(pc.and_(right, early), pc.is_valid(events["product_id"]))
    return events.filter(wanted if also is None else pc.and_(wanted, also))


def distinct(column: "pa.ChunkedArray[Any]") -> Ids:
    return Ids.of([value for value in pc.unique(column).to_pylist() if value is not None])


@dataclass(frozen=True)
class Lines:
    """Order lines as they come, before they are merged. placed: whether they stand as `in_place` would have them."""

    customers: Ids
    orders: Ids
    customer: Ints
    item: Ints
    order: Ints
    at: Seconds
    quantity: NDArray[np.float64]
    paid: NDArray[np.float64]
    discount: NDArray[np.float64]
    placed: bool = False

    @classmethod
    def of(cls, events: pa.Table, items: Ids, like: "Lines | None" = None) -> "Lines":
        customers = like.customers if like else distinct(events["customer_id"])
        orders = like.orders if like else distinct(events["order_id"])
        quantity = pc.fill_null(events["quantity"], 1.0).to_numpy()
        return cls(
            customers,
            orders,
            customers.column(events["customer_id"]),
            items.column(events["product_id"]),
            orders.column(events["order_id"]),
            events["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64),
            quantity,
            quantity * pc.fill_null(events["unit_price"], 0.0).to_numpy(),
            quantity * pc.fill_null(events["discount"], 0.0).to_numpy(),
        )

    @classmethod
    def bought(cls, events: pa.Table, items: Ids, keep: NDArray[np.bool_] | None, until: datetime) -> "Lines":
        """The paid lines of products to keep, None: of all `items`, before `until`."""
        paid = pc.fill_null(pc.not_equal(events["unit_price"], 0.0), True)
        lines = cls.of(before(events, until, "order", also=paid), items)
        return lines.only(np.ones(len(items), bool) if keep is None else keep)

    @classmethod
    def of_rows(cls, data: Interactions, customer: int) -> "Lines":
        """A customer's rows as lines of one customer; their orders are those that they have."""
        rows = data.rows(customer)
        orders, order = np.unique(data.order[rows], return_inverse=True)
        amounts = (getattr(data, name)[rows].astype(np.float64) for name in ("quantity", "paid", "discount"))
        who = np.zeros(len(order), np.int32)
        ids = Ids(data.customers.values[[customer] if customer >= 0 else []]), Ids(data.orders.values[orders])
        return cls(*ids, who, data.item[rows], order.astype(np.int32), data.at[rows], *amounts)

    def plus(self, other: "Lines") -> "Lines":
        """These lines and others of the same customer, whose id is that of the others where there are any."""
        orders = Ids(np.union1d(self.orders.values, other.orders.values))
        both = (
            (part, orders._find(part.orders.values.astype(orders.values.dtype))) for part in (self, other)
        )
        moved = [replace(part, order=np.append(place, np.int32(-1))[part.order]) for part, place in both]
        joined = {name: np.concatenate([getattr(part, name) for part in moved]) for name in LINE}
        customers = other.customers if len(other.customers) else self.customers
        return replace(self, customers=customers, orders=orders, placed=False, **joined)

    def told(self, events: pa.Table, items: Ids, until: datetime) -> Interactions:
        """These lines as rows, after what was returned of them."""
        return self.left(events, items, until).merged(items, seconds(until))

    def left(self, events: pa.Table, items: Ids, until: datetime) -> "Lines":
        """These lines after what was returned of them before `until`."""
        returned = before(events, until, "return")
        return self.less(Lines.of(returned, items, like=self)) if len(returned) else self

    def where(self, mask: NDArray[Any]) -> "Lines":
        return replace(self, **{name: getattr(self, name)[mask] for name in LINE})

    def only(self, keep: NDArray[np.bool_]) -> "Lines":
        """The lines of products to keep."""
        kept = (self.item >= 0) & np.append(keep, False)[self.item]
        return self if kept.all() else self.where(kept)

    def less(self, returns: "Lines") -> "Lines":
        """These lines after `returns`, the earliest first, took back their purchases."""
        returns = returns.where(returns.item >= 0)
        if not len(returns.item):
            return self
        left = self.quantity.copy()
        turns = [rows_of(self, returns, key) for key in (Lines.own_order, Lines.of_order, Lines.of_customer)]
        # at one moment a return that names an order goes first: it has the fewest purchases to choose from
        for row in np.lexsort((returns.customer, returns.order, returns.order < 0, returns.at)):
            take_back(left, self, returns, row, [bought for turn in turns for bought in turn[row]])
        share = left / np.maximum(self.quantity, 1e-12)
        kept = replace(self, quantity=left, paid=self.paid * share, discount=self.discount * share)
        there = left > 1e-9
        # an order that lost a line may begin later now
        return replace(kept.where(there), placed=kept.placed and bool(there.all()))

    def of_order(self) -> NDArray[np.int64]:
        return self.order.astype(np.int64)

    def of_customer(self) -> NDArray[np.int64]:
        return self.customer.astype(np.int64)

    def own_order(self) -> NDArray[np.int64]:
        """A number for each pair of order id and customer, sorted like them; below 0 without an order id."""
        return self.of_order() * (len(self.customers) + 1) + self.customer + (self.order >= 0)

    def in_place(self) -> "Lines":
        """The same lines by customer, their orders as they began, and item."""
        if self.placed:
            return self
        orders, order = np.unique(self.own_order(), return_inverse=True)
        first, whose = np.full(len(orders), np.iinfo(np.int64).max), np.empty(len(orders), np.int32)
        np.minimum.at(first, order, self.at)
        whose[order] = self.customer
        turn = np.empty(len(orders), np.int64)
        turn[np.lexsort((first, whose))] = np.arange(len(orders))
        # one number for where a line stands is sorted in a third of the time of four
        by = np.argsort(turn[order] * (self.item.max(initial=0) + 2) + self.item, kind="stable")
        return replace(self.where(by), placed=True)

    def merged(self, items: Ids, until: int) -> Interactions:
        """One row for a customer, an order and an item, at the order's first moment."""
        lines = self.in_place()
        own = lines.own_order()
        new = runs(own)
        begin = np.flatnonzero(new)
        pairs, place = np.unique(own[begin], return_inverse=True)
        first = np.minimum.reduceat(lines.at, begin) if len(begin) else lines.at
        new[1:] |= lines.item[1:] != lines.item[:-1]
        start = np.flatnonzero(new)
        del own, new
        of = np.searchsorted(begin, start, "right") - 1  # the order of each row
        total = [
            (np.add.reduceat(values, start) if len(start) else values).astype(np.float32)
            for values in (lines.quantity, lines.paid, lines.discount)
        ]
        merged = Interactions(
            self.customers, items, Ids(self.orders.values[pairs // (len(self.customers) + 1)]),
            lines.customer[start], lines.item[start], place.astype(np.int32)[of], first[of],
            total[0], total[1], total[2], until,
        )  # fmt: skip
        return compact(merged)


def rows_of(lines: Lines, returns: Lines, whose: Callable[[Lines], NDArray[np.int64]]) -> list[list[int]]:
    """For each return the rows of `lines` with its item that are `whose`, latest first; none where that is below 0."""
    n_items = int(max(lines.item.max(initial=0), returns.item.max(initial=0))) + 1
    key, wanted = (whose(part) * n_items + part.item for part in (lines, returns))
    rows = np.flatnonzero(np.isin(key, wanted[wanted >= 0]))  # keys of −1 are below 0
    rows = rows[np.lexsort((lines.paid[rows], lines.quantity[rows], lines.order[rows], -lines.at[rows]))]
    held: dict[int, list[int]] = {}
    for row in rows.tolist():
        held.setdefault(int(key[row]), []).append(row)
    return [held.get(int(k), []) for k in wanted]


def take_back(
    left: NDArray[np.float64], lines: Lines, returns: Lines, row: int, purchases: list[int]
) -> None:
    """Lower `left` of these purchases by one return, in their turn, as far as they were made before it."""
    wanted = float(returns.quantity[row])
    for bought in purchases:
        if lines.at[bought] <= returns.at[row]:
            taken = min(wanted, float(left[bought]))
            left[bought] -= taken
            wanted -= taken


def whole_and_part(
    events: pa.Table, *, items: Ids, keep: NDArray[np.bool_], until: datetime
) -> tuple[Interactions, Interactions]:
    """(`Interactions.from_events` of all products, that of those to keep); the same value twice where that is all.

    A return takes back its own product alone, so that it does not matter what else was bought.
    """
    left = Lines.bought(events, items, None, until).left(events, items, until)
    part = left.only(keep)
    whole = left.merged(items, seconds(until))
    return whole, whole if part is left else part.merged(items, seconds(until))


def pasts(
    events: pa.Table, *, items: Ids, moments: Sequence[datetime], keep: NDArray[np.bool_] | None = None
) -> Iterator[Interactions]:
    """`Interactions.from_events` as of each of these moments in turn; ids are read once for all of them."""
    lines = Lines.bought(events, items, keep, max(moments)).in_place()
    returned = Lines.of(before(events, max(moments), "return"), items, like=lines)
    for moment in moments:
        end = seconds(moment)
        if moment == max(moments):
            yield lines.less(returned).merged(items, end)
        elif moment.microsecond:  # lines know whole seconds
            yield Interactions.from_events(events, items=items, keep=keep, until=moment)
        else:
            yield lines.where(lines.at < end).less(returned.where(returned.at < end)).merged(items, end)


def compact(data: Interactions) -> Interactions:
    """The same rows with only those customers and orders that have any."""
    customers, customer = used(data.customers, data.customer)
    orders, order = used(data.orders, data.order)
    return replace(data, customers=customers, orders=orders, customer=customer, order=order)


def used(ids: Ids, positions: Ints) -> tuple[Ids, Ints]:
    held = np.zeros(len(ids) + 1, bool)
    held[positions] = True  # −1 lies behind the last id
    place = np.append(np.cumsum(held[:-1]) - 1, -1).astype(np.int32)
    return Ids(ids.values[held[:-1]]), place[positions]
