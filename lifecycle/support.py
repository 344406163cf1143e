"""What a history can support: which placements, programs and scores, and why not."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalog import Catalog
from features.customers import Orders
from features.history import History, just_after
from features.interactions import DAY, Interactions, before, whole_and_part
from serving.scores import LEAST


@dataclass(frozen=True)
class Support:
    """kind: placement, program or score. why: what it rests on, or what is missing."""

    kind: str
    name: str
    supported: bool
    why: str


@dataclass(frozen=True)
class Needs:
    """The least that something asks of the figures below: figure → at least."""

    kind: str
    name: str
    least: dict[str, float]


FIGURES = {
    "customers": "customers with a purchase",
    "products": "products bought",
    "orders": "orders",
    "days": "days of history",
    "repeaters": "customers with a second order",
    "repeat_pairs": "times that a customer bought a product again",
    "shared_baskets": "orders of two products and more",
    "priced_share": "share of the bought products with a price above 0",
    "categorised_share": "share of the bought products with a category",
    "new_products": "products first bought in the last 28 days, not in the first 28",
    "order_ids": "order ids",
    "shared_order_ids": "order ids of more than one customer",
    "long_order_ids": "order ids of one customer with purchases more than 2 days apart",
    "contacts": "customers with an e-mail address or a phone number",
    "consents": "consents on record",
}

NEEDS = (
    Needs("placement", "next_best", {"customers": 1, "orders": 1}),
    Needs("placement", "cross_sell", {"shared_baskets": 100}),
    Needs("placement", "upsell", {"priced_share": 0.2, "categorised_share": 0.2}),
    Needs("placement", "discover", {"customers": 100, "products": 100}),
    Needs("placement", "buy_again", {"repeat_pairs": 100}),
    Needs("placement", "similar", {"products": 100}),
    Needs("placement", "trending", {"orders": 1}),
    Needs("placement", "new_arrivals", {"days": 28, "new_products": 1}),
    Needs("program", "thank_you", {"orders": 1}),
    Needs("program", "thank_you, sent", {"orders": 1, "contacts": 1, "consents": 1}),
    Needs("program", "first_to_repeat", {"repeaters": 100, "days": 60, "contacts": 1, "consents": 1}),
    Needs("program", "replenishment", {"repeat_pairs": 1000, "days": 90, "contacts": 1, "consents": 1}),
    Needs("program", "on_the_brink", {"repeaters": 100, "days": 90, "contacts": 1, "consents": 1}),
    Needs("program", "win_back", {"repeaters": 100, "days": 180, "contacts": 1, "consents": 1}),
    Needs("score", "stage", {"repeaters": 30, "days": 30}),
    *(Needs("score", name, dict(least)) for name, least in LEAST.items()),
)


NEW = 28 * DAY  # as the recipe Newest has it
LONGEST_ORDER = 2 * DAY  # what is delivered in parts may be paid in parts
REUSED = 0.001  # the share of order ids that may be slips of the till
ODD = {
    "shared_order_ids": "name more than one customer: each customer's part is an order, all anonymous rows are one",
    "long_order_ids": "name purchases of one customer more than 2 days apart: they are taken for one basket",
}
ONE_ORDER = (
    "Where a receipt number is used again, map order_id from all that makes a receipt one, as "
    '`order_id = { template = "{receipt} {till} {@day}" }`, or from customer and day, and load into an empty home'
)


def measured(history: History) -> dict[str, float]:
    """The FIGURES of a history, of customers by all their orders, of products by those that may be recommended; all 0
    where it holds no orders."""
    last = history.last_purchase()
    if last is None:
        return dict.fromkeys(FIGURES, 0.0)
    until = just_after(last)
    events = history.purchases(until)
    catalog = Catalog.of(history.table("products"), events, until=until)
    whole, data = whole_and_part(events, items=catalog.items, keep=catalog.eligible, until=until)
    return {
        **of_purchases(data, catalog),
        **of_customers(whole),
        **of_order_ids(events, until),
        "contacts": float(contacts(history)),
        "consents": float(history.counts().get("consents", 0)),
    }


def of_order_ids(events: pa.Table, until: datetime) -> dict[str, float]:
    """How many order ids there are, name several customers, or purchases of one customer on days far apart.

    All who are anonymous count as one customer.
    """
    bought = before(events, until, "order")
    orders = bought.group_by(["order_id", "customer_id"]).aggregate(
        [("occurred_at", "min"), ("occurred_at", "max")]
    )
    ids = pc.value_counts(orders["order_id"]).field("counts")
    spans = pc.seconds_between(orders["occurred_at_min"], orders["occurred_at_max"])
    long = orders.filter(pc.greater(spans, LONGEST_ORDER))["order_id"]
    return {
        "order_ids": float(len(ids)),
        "shared_order_ids": float(pc.sum(pc.greater(ids, 1)).as_py() or 0),
        "long_order_ids": float(len(pc.unique(long))),
    }


def of_purchases(data: Interactions, catalog: Catalog) -> dict[str, float]:
    bought = np.unique(data.item)
    known = data.customer >= 0
    pairs = data.customer[known].astype(np.int64) * len(catalog) + data.item[known]
    first = np.full(len(catalog), data.until, np.int64)
    np.minimum.at(first, data.item, data.at)
    start = data.at.min(initial=data.until)
    return {
        **of_customers(data),
        "products": float(len(bought)),
        "repeat_pairs": float(len(pairs) - len(np.unique(pairs))),
        "shared_baskets": float((np.bincount(data.order, minlength=1) > 1).sum()),
        "priced_share": share(catalog.price[bought] > 0),
        "categorised_share": share(catalog.category[bought] >= 0),
        "new_products": float((first[bought] > max(data.until - NEW, start + NEW)).sum()),
    }


def of_customers(data: Interactions) -> dict[str, float]:
    """What customers did, by all that they bought: `measured` counts what may not be recommended, too."""
    return {
        "customers": float(len(data.customers)),
        "orders": float(len(data.orders)),
        "days": float((data.until - data.at.min(initial=data.until)) / DAY),
        "repeaters": float((Orders.of(data).count > 1).sum()),
    }


def share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def contacts(history: History) -> int:
    if not history.counts().get("customers"):
        return 0
    table = history.table("customers", columns=("email", "phone")).to_pandas()
    return int((table["email"].notna() | table["phone"].notna()).sum())


def supported(figures: dict[str, float]) -> list[Support]:
    """Each of NEEDS against the figures."""
    return [judged(needs, figures) for needs in NEEDS]


def judged(needs: Needs, figures: dict[str, float]) -> Support:
    missing = [n for n, least in needs.least.items() if figures[n] < least]
    names = missing or list(needs.least)
    why = "; ".join(f"{FIGURES[n]}: {figures[n]:,.10g}{short(needs, n) if missing else ''}" for n in names)
    return Support(needs.kind, needs.name, not missing, why)


def warnings(figures: dict[str, float]) -> list[str]:
    """What is odd about the data, by the figures, and the way out."""
    ids = figures["order_ids"]
    return [
        f"{figures[name]:,.0f} of {ids:,.0f} order ids ({figures[name] / ids:.1%}) {what}. {ONE_ORDER}"
        for name, what in ODD.items()
        if figures[name] > REUSED * ids
    ]


def short(needs: Needs, figure: str) -> str:
    return f", at least {needs.least[figure]:,.10g} needed"
