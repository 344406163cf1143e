"""Facts about each customer at a moment, from purchases alone."""

import numpy as np
import pandas as pd

from features.interactions import DAY, Interactions

STAGES = ("new", "active", "brink", "lapsed")
BRINK, LAPSED = 2.0, 4.0  # times the customer's own usual gap
PRIOR_GAPS = 3.0  # how many gaps the store's median counts for when a customer's own are few


def facts(data: Interactions) -> pd.DataFrame:
    """One row a customer, in the order of `data.customers`, as of `data.until`.

    recency (days since the last order), frequency (orders), spend (money), tenure (days since the first),
    gap (usual days between orders: the median of the customer's own, shrunk to the store's), stage.
    Of a customer without an order nothing is known.
    """
    known = data.customer >= 0
    lines = pd.DataFrame({"customer": data.customer, "order": data.order, "at": data.at, "paid": data.paid})[
        known
    ]
    orders = lines.groupby(["customer", "order"], sort=True).agg(at=("at", "first"), paid=("paid", "sum"))
    orders = orders.reset_index().sort_values(["customer", "at"], kind="stable")
    by = orders.groupby("customer")
    result = pd.DataFrame(
        {
            "recency": (data.until - by["at"].max()) / DAY,
            "frequency": by.size(),
            "spend": by["paid"].sum(),
            "tenure": (data.until - by["at"].min()) / DAY,
        }
    )
    result["gap"] = usual_gap(orders)
    result["stage"] = stage(result)
    if len(result) < len(data.customers):  # some were erased
        result = result.reindex(np.arange(len(data.customers)))
    return result.rename_axis("customer")


def usual_gap(orders: pd.DataFrame) -> pd.Series:
    """Median days between a customer's orders, shrunk to the median of all by PRIOR_GAPS."""
    orders = orders.assign(gap=orders.groupby("customer")["at"].diff() / DAY)
    by = orders.groupby("customer")["gap"]
    own, n = by.median(), by.count()
    everybody = orders["gap"].median() if orders["gap"].notna().any() else 30.0
    return (own.fillna(0.0) * n + everybody * PRIOR_GAPS) / (n + PRIOR_GAPS)


def stage(rows: pd.DataFrame) -> pd.Categorical:
    """By how many usual gaps have passed since the last order: more than LAPSED, more than BRINK; of the rest,
    with one order new, with more active."""
    late = rows["recency"].to_numpy() / np.maximum(rows["gap"].to_numpy(), 1 / 24)
    names = np.select(
        [late > LAPSED, late > BRINK, rows["frequency"] == 1], ["lapsed", "brink", "new"], default="active"
    )
    return pd.Categorical(names, categories=STAGES)
