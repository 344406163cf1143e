"""The past, its future, and the questions that the future answers."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from features.catalog import Catalog
from features.history import History
from features.interactions import Interactions, runs, seconds
from serving.bundle import Bundle
from serving.placements import HABIT_ORDERS, PRICE_STEP
from serving.schemas import RecommendRequest

MIN_BASKET = 4  # distinct products that a basket must hold before one is hidden
MIN_SEEN = 3  # baskets of the past that a hidden product must lie in; a rarer one is a miss
HABIT_DAYS = 182
# What makes a question: other fields of a request, added later, do not change which are drawn.
ASKED = {"customer_id", "product_ids", "exclude", "limit", "at", "complements_only", "explain"}


@dataclass(frozen=True)
class Data:
    """All that recipes learn from: what was known before one moment."""

    catalog: Catalog
    interactions: Interactions


def known(history: History, until: datetime) -> Data:
    """The history strictly before `until`."""
    events = history.purchases(until)
    return cut(events, history.table("products"), until, history.promoted(until))


def cut(events: pa.Table, products: pa.Table, until: datetime, promoted: pa.Table | None = None) -> Data:
    catalog = Catalog.of(products, events, until=until, promoted=promoted)
    return Data(
        catalog, Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=until)
    )


def cut_short(data: Data, *, share: float, most: int, seed: int) -> Data:
    """The same with so large a share of the customers known by their last orders alone, one to `most` of them.

    Their earlier orders stay as anonymous ones, so that what baskets tell is whole.
    """
    rows, rng = data.interactions, np.random.default_rng(seed)
    n = len(rows.customers)
    kept = np.where(rng.random(n) < share, rng.integers(1, most + 1, n), np.iinfo(np.int64).max)
    order = np.cumsum(runs(rows.order) | runs(rows.customer))
    last = np.append(order, 0)[rows.start[1:] - 1]
    known = (rows.customer >= 0) & (last[rows.customer] - order < kept[rows.customer])
    return replace(data, interactions=rows.unnamed(~known))


@dataclass(frozen=True)
class Future:
    """What happened from a cutoff on, in positions of the bundle that may not have seen it.

    customer, item: int32 [n], −1 where the bundle does not know them. product: a code for each product,
    known or not. order, at: of each row. order_id: of each order.
    """

    customer: NDArray[np.int32]
    item: NDArray[np.int32]
    product: NDArray[np.int32]
    order: NDArray[np.int32]
    at: NDArray[np.int64]
    order_id: list[str]
    product_id: list[str]

    @classmethod
    def of(cls, bundle: Bundle, later: Data, start: datetime, end: datetime | None = None) -> "Future":
        """Rows of `later` at or after `start`, and before `end` where one is given."""
        data, catalog = later.interactions, later.catalog
        inside = (data.at >= seconds(start)) & (data.at < seconds(end) if end else True)
        rows = np.flatnonzero(inside)
        customers = bundle.interactions.customers.positions(data.customers.at(np.arange(len(data.customers))))
        product_id = catalog.items.at(np.arange(len(catalog)))
        item = bundle.catalog.items.positions(product_id)
        product = data.item[rows]
        return cls(
            np.append(customers, np.int32(-1))[data.customer[rows]], item[product], product, data.order[rows],
            data.at[rows], data.orders.at(np.arange(len(data.orders))), product_id,
        )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Questions with known answers. `truth` holds positions in the bundle, −1 for what it cannot know.

    customer: position of who is asked, −1 for a stranger; a bootstrap draws customers, not questions.
    """

    requests: Sequence[RecommendRequest]
    truth: Sequence[NDArray[np.int32]]
    customer: NDArray[np.int32]
    k: int = 10

    def __len__(self) -> int:
        return len(self.requests)


def purchases(bundle: Bundle, future: Future) -> Task:
    """What each customer known to the bundle buys in the window; repeats count."""
    rows = np.flatnonzero(future.customer >= 0)
    pairs = np.unique(np.column_stack([future.customer[rows], future.product[rows]]), axis=0)
    who, start = np.unique(pairs[:, 0], return_index=True)
    item = future_items(future)[pairs[:, 1]]
    truth = np.split(item, start[1:]) if len(who) else []
    requests = [RecommendRequest(customer_id=c) for c in bundle.interactions.customers.at(who)]
    return Task(requests, truth, who.astype(np.int32))


def future_items(future: Future) -> NDArray[np.int32]:
    """The bundle's position of each product code."""
    item = np.full(len(future.product_id), -1, np.int32)
    item[future.product] = future.item
    return item


def novel(bundle: Bundle, future: Future) -> Task:
    """The purchases that a customer never made before; customers without any are left out."""
    every = purchases(bundle, future)
    data = bundle.interactions
    truth = [
        t[~np.isin(t, data.item[data.rows(c)])] for t, c in zip(every.truth, every.customer, strict=True)
    ]
    return subset(every, truth, [n for n, t in enumerate(truth) if len(t)])


def repeats(bundle: Bundle, future: Future) -> Task:
    """The purchases that a customer made before."""
    every = purchases(bundle, future)
    data = bundle.interactions
    truth = [t[np.isin(t, data.item[data.rows(c)])] for t, c in zip(every.truth, every.customer, strict=True)]
    return subset(every, truth, [n for n, t in enumerate(truth) if len(t)])


def subset(task: Task, truth: Sequence[NDArray[np.int32]], keep: Sequence[int] | NDArray[np.int64]) -> Task:
    """These questions of a task; `truth` holds an answer for each question of the whole task."""
    return Task([task.requests[n] for n in keep], [truth[n] for n in keep], task.customer[list(keep)], task.k)


def baskets(
    bundle: Bundle,
    future: Future,
    *,
    known_customer: bool = False,
    complements: bool = False,
    seed: int = 42,
) -> Task:
    """Each basket of MIN_BASKET and more products with one hidden, to be named from the rest.

    `complements`: only baskets whose hidden product serves a need that the rest does not, asked for
    complements alone.
    """
    rng = np.random.default_rng(seed)
    items, asked, truth, who = future_items(future), [], [], []
    rare = np.append(np.bincount(bundle.interactions.item, minlength=len(bundle.catalog)) < MIN_SEEN, True)
    need = np.append(bundle.catalog.need, -1)
    for products, customer in large_baskets(future):
        hidden = int(rng.integers(len(products)))
        kept, target = np.delete(products, hidden), items[products[hidden]]
        if complements and need[target] in need[items[kept]][need[items[kept]] >= 0]:
            continue
        only = complements or None
        request = about_basket(bundle, future, kept, customer if known_customer else -1)
        asked.append(request.model_copy(update={"complements_only": only}))
        truth.append(np.array([-1 if rare[target] else target], np.int32))
        who.append(customer)
    return Task(asked, truth, np.array(who, np.int32))


def large_baskets(future: Future) -> Iterator[tuple[NDArray[np.int64], int]]:
    """(products, customer) of each basket of MIN_BASKET and more, orders and products in the order of their ids."""
    frame = pd.DataFrame({"order": future.order, "product": future.product, "customer": future.customer})
    frame["order_rank"] = natural_rank(future.order_id)[frame["order"]]
    frame["product_rank"] = natural_rank(future.product_id)[frame["product"]]
    frame = frame.sort_values(["order_rank", "product_rank"], kind="stable")
    for _, rows in frame.groupby("order_rank", sort=True):
        if len(rows) >= MIN_BASKET:
            yield rows["product"].to_numpy(), int(rows["customer"].iloc[0])


def about_basket(
    bundle: Bundle, future: Future, products: NDArray[np.int64], customer: int
) -> RecommendRequest:
    """A question about a basket, by its customer or by nobody, −1."""
    named = bundle.interactions.customers.at([customer])[0] if customer >= 0 else None
    return RecommendRequest(
        customer_id=named, product_ids=tuple(future.product_id[p] for p in products[:500])
    )


def missing_needs(bundle: Bundle, future: Future, *, known_customer: bool = False, seed: int = 42) -> Task:
    """Each basket of MIN_BASKET and more products with one need hidden that a single product serves, to be named from
    the rest. `truth` holds codes of `catalog.needs`."""
    rng, asked, truth, who = np.random.default_rng(seed), [], [], []
    need_of = np.append(bundle.catalog.need, -1)[future_items(future)]
    for products, customer in large_baskets(future):
        need = need_of[products]
        codes, times = np.unique(need[need >= 0], return_counts=True)
        if not (times == 1).any():
            continue
        hidden = int(rng.choice(codes[times == 1]))
        asked.append(
            about_basket(bundle, future, products[need != hidden], customer if known_customer else -1)
        )
        truth.append(np.array([hidden], np.int32))
        who.append(customer)
    return Task(asked, truth, np.array(who, np.int32))


def natural_rank(ids: Sequence[str]) -> NDArray[np.int64]:
    """Rank of each id: as integers where all are, else as text."""
    numbers = all(i.isascii() and i.isdigit() for i in ids)
    order = sorted(range(len(ids)), key=(lambda n: int(ids[n])) if numbers else (lambda n: ids[n]))
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    return rank


def steps_up(bundle: Bundle, future: Future, *, owned: bool = False) -> Task:
    """First window orders in which a customer takes a dearer product than the habit for that need.

    A habit is of a need bought in HABIT_ORDERS and more orders of the last HABIT_DAYS days: its product in
    most of them, the latest where several are. The question is the habit, the answer the dearer product: one
    that the customer never had, unless `owned`. k is 5.
    """
    habit = habits(bundle)
    taken = first_orders(bundle, future, habit)
    taken = taken[taken["ratio"] >= PRICE_STEP[0]].sort_values(["customer", "need", "rank"], kind="stable")
    taken = taken.drop_duplicates(["customer", "need"])
    if not owned:
        taken = taken[never_had(bundle, taken)]
    return of_habits(bundle, taken, list(taken[["item"]].to_numpy(np.int32)))


def opportunities(bundle: Bundle, future: Future, *, owned: bool = False) -> Task:
    """Habits whose need is served again in the window: what dearer products, never had unless `owned`, are then
    taken, if any."""
    habit, catalog = habits(bundle), bundle.catalog
    frame = pd.DataFrame({"customer": future.customer, "item": future.item})
    frame = frame[(frame["customer"] >= 0) & (frame["item"] >= 0)].drop_duplicates()
    frame["need"] = catalog.need[frame["item"]]
    frame = frame.merge(habit, on=["customer", "need"]).sort_values(["customer", "need", "item"])
    dearer = catalog.price[frame["item"]] >= PRICE_STEP[0] * catalog.price[frame["habit"]]
    new = dearer if owned else dearer & never_had(bundle, frame)
    frame["taken"] = np.where(new, frame["item"], -1)
    start = np.flatnonzero(~frame.duplicated(["customer", "need"]))
    truth = np.split(frame["taken"].to_numpy(np.int32), start[1:]) if len(start) else []
    return of_habits(bundle, frame.iloc[start], [t[t >= 0] for t in truth])


def chances(bundle: Bundle, future: Future) -> Task:
    """Habits whose need is served again in the window: the step up that `steps_up` found there, if any."""
    every, taken = opportunities(bundle, future), steps_up(bundle, future)
    steps = {(r.customer_id, r.product_ids): t for r, t in zip(taken.requests, taken.truth, strict=True)}
    none = np.empty(0, np.int32)
    return replace(every, truth=[steps.get((r.customer_id, r.product_ids), none) for r in every.requests])


def never_had(bundle: Bundle, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the customer of each row never bought its item."""
    had = pd.MultiIndex.from_arrays([bundle.interactions.customer, bundle.interactions.item])
    return ~pd.MultiIndex.from_frame(rows[["customer", "item"]]).isin(had)


def of_habits(bundle: Bundle, rows: pd.DataFrame, truth: Sequence[NDArray[np.int32]]) -> Task:
    """Lists of five asked of each row's customer with the habit as the product."""
    customer = rows["customer"].to_numpy(np.int32)
    products = bundle.catalog.items.at(rows["habit"].to_numpy())
    pairs = zip(bundle.interactions.customers.at(customer), products, strict=True)
    return Task([RecommendRequest(customer_id=c, product_ids=(p,)) for c, p in pairs], truth, customer, k=5)


def habits(bundle: Bundle) -> pd.DataFrame:
    """One row a customer and need with a habit: columns customer, need, habit (an item)."""
    data = bundle.interactions
    recent = (data.age() <= HABIT_DAYS) & (data.customer >= 0)
    frame = pd.DataFrame(
        {"customer": data.customer, "item": data.item, "order": data.order, "at": data.at,
         "need": bundle.catalog.need[data.item]}
    )[recent]  # fmt: skip
    frame = frame[frame["need"] >= 0]
    by = frame.groupby(["customer", "need"])["order"].nunique()
    often = by[by >= HABIT_ORDERS].rename("orders").reset_index()
    counts = frame.groupby(["customer", "need", "item"]).agg(n=("order", "nunique"), at=("at", "max"))
    best = counts.reset_index().sort_values(["n", "at"], ascending=False, kind="stable")
    best = best.drop_duplicates(["customer", "need"]).rename(columns={"item": "habit"})
    return often.merge(best, on=["customer", "need"])[["customer", "need", "habit"]]


def first_orders(bundle: Bundle, future: Future, habit: pd.DataFrame) -> pd.DataFrame:
    """What lies, for each habit's need, in the customer's first window order that holds the need."""
    catalog = bundle.catalog
    frame = pd.DataFrame(
        {"customer": future.customer, "item": future.item, "order": future.order, "at": future.at,
         "rank": natural_rank(future.product_id)[future.product]}
    )  # fmt: skip
    frame = frame[(frame["customer"] >= 0) & (frame["item"] >= 0)]
    frame["need"] = catalog.need[frame["item"]]
    frame = frame.merge(habit, on=["customer", "need"]).sort_values(["at", "order"], kind="stable")
    opening = frame.groupby(["customer", "need"])["order"].transform("first")
    frame = frame[frame["order"] == opening]
    with np.errstate(divide="ignore", invalid="ignore"):
        return frame.assign(ratio=catalog.price[frame["item"]] / catalog.price[frame["habit"]])


@dataclass(frozen=True)
class Row:
    """How a placement is asked, and its primary figure.

    without: rules of the placement that are lifted; `worth`, too. judges: what of the answer, a key of KINDS in
    evaluate.
    """

    placement: str
    task: str
    make: Callable[[Bundle, Future], Task]
    primary: str
    without: tuple[str, ...] = ()
    judges: str = "list"


# The first row of a placement gates it.
AUDITS: tuple[Row, ...] = (
    Row("next_best", "purchases", purchases, "ndcg"),
    Row("discover", "novel", novel, "ndcg"),
    Row("buy_again", "repeats", repeats, "ndcg"),
    Row("cross_sell", "basket", baskets, "hit_rate"),
    Row("cross_sell", "basket_customer", partial(baskets, known_customer=True), "hit_rate"),
    Row("cross_sell", "complement", partial(baskets, complements=True), "hit_rate"),
    Row(
        "cross_sell",
        "complement_customer",
        partial(baskets, known_customer=True, complements=True),
        "hit_rate",
    ),
    Row("cross_sell", "need", missing_needs, "hit_rate", judges="needs"),
    Row(
        "cross_sell",
        "need_customer",
        partial(missing_needs, known_customer=True),
        "hit_rate",
        judges="needs",
    ),
    Row("upsell", "step_up", steps_up, "hit_rate", ("worth",)),
    Row("upsell", "step_up_any", partial(steps_up, owned=True), "hit_rate", ("worth", "not_owned")),
    Row("upsell", "who", chances, "auc", judges="offer"),
    Row("similar", "basket", baskets, "hit_rate"),
    Row("trending", "purchases", purchases, "ndcg"),
    Row("new_arrivals", "novel", novel, "ndcg"),
)


def sampled(task: Task, most: int, *, seed: int) -> Task:
    """At most so many of the questions, in their order.

    Drawn by a hash of each question, so that two bundles with other customers are asked the same ones.
    """
    if len(task) <= most:
        return task
    drawn = [
        hashlib.blake2b(r.model_dump_json(include=ASKED).encode(), digest_size=8, salt=b"%d" % seed)
        for r in task.requests
    ]
    keep = np.sort(np.argsort([d.digest() for d in drawn], kind="stable")[:most])
    return subset(task, task.truth, keep)
