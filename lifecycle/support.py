"""What a history can support: which placements, programs and scores, and why not."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from features.catalog import Catalog
from features.customers import facts
from features.history import History
from features.interactions import DAY, EVENT_COLUMNS, Interactions


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
    "priced_share": "share of the bought products with a price",
    "categorised_share": "share of the bought products with a category",
    "new_products": "products first bought in the last 28 days",
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
    Needs("placement", "new_arrivals", {"new_products": 1}),
    Needs("program", "thank_you", {"orders": 1}),
    Needs("program", "thank_you, sent", {"orders": 1, "contacts": 1, "consents": 1}),
    Needs("program", "first_to_repeat", {"repeaters": 100, "days": 60, "contacts": 1, "consents": 1}),
    Needs("program", "replenish", {"repeat_pairs": 1000, "days": 90, "contacts": 1, "consents": 1}),
    Needs("program", "on_the_brink", {"repeaters": 100, "days": 90, "contacts": 1, "consents": 1}),
    Needs("program", "win_back", {"repeaters": 100, "days": 180, "contacts": 1, "consents": 1}),
    Needs("score", "stage", {"repeaters": 30, "days": 30}),
    Needs("score", "churn", {"customers": 500, "days": 180}),
)


def measured(history: History) -> dict[str, float]:
    """The FIGURES of a history; all 0 where it holds no events."""
    span = history.span()
    if span is None:
        return dict.fromkeys(FIGURES, 0.0)
    until: datetime = span[1] + timedelta(seconds=1)
    events = history.events(until=until, types=("order", "return"), columns=EVENT_COLUMNS)
    catalog = Catalog.of(history.table("products"), events, until=until)
    data = Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=until)
    return of_purchases(data, catalog) | {
        "contacts": float(contacts(history)),
        "consents": float(history.counts().get("consents", 0)),
    }


def of_purchases(data: Interactions, catalog: Catalog) -> dict[str, float]:
    bought = np.unique(data.item)
    known = data.customer >= 0
    pairs = data.customer[known].astype(np.int64) * len(catalog) + data.item[known]
    first = np.full(len(catalog), data.until, np.int64)
    np.minimum.at(first, data.item, data.at)
    return {
        "customers": float(len(data.customers)),
        "products": float(len(bought)),
        "orders": float(len(data.orders)),
        "days": float((data.until - data.at.min(initial=data.until)) / DAY),
        "repeaters": float((facts(data)["frequency"] > 1).sum()) if known.any() else 0.0,
        "repeat_pairs": float(len(pairs) - len(np.unique(pairs))),
        "shared_baskets": float((np.bincount(data.order, minlength=1) > 1).sum()),
        "priced_share": share(np.isfinite(catalog.price[bought])),
        "categorised_share": share(catalog.category[bought] >= 0),
        "new_products": float((first[bought] > data.until - 28 * DAY).sum()),
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


def short(needs: Needs, figure: str) -> str:
    return f", at least {needs.least[figure]:,.10g} needed"
