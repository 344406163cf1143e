"""How close generated worlds come to a shop: figures of their purchases, a column for each home.

make likeness HOMES=".osclms .osclms-shop"
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.catalog import Catalog
from features.history import History
from features.interactions import DAY, Interactions

Values = NDArray[np.float64]
Share = NDArray[np.bool_]


def purchases(history: History) -> tuple[Interactions, Catalog]:
    """All purchases of a history, returns taken back, and what was on sale."""
    until = history.end()
    events = history.purchases(until)
    catalog = Catalog.of(history.table("products"), events, until=until)
    return Interactions.from_events(
        events, items=catalog.items, keep=np.ones(len(catalog), bool), until=until
    ), catalog


def figures(data: Interactions, need: NDArray[np.int32]) -> dict[str, float]:
    """The figures by which a shop is told from another, NaN where there is nothing to tell them by; `need` is that of
    each item."""
    known = data.customer >= 0
    by_order = np.unique(data.order, return_index=True)[1]
    sizes = np.bincount(data.order).astype(float)
    per_customer = np.bincount(data.customer[by_order][known[by_order]]).astype(float)
    sold = np.sort(np.bincount(data.item).astype(float))
    sold = sold[sold > 0]
    pairs = data.customer[known].astype(np.int64) * len(data.items) + data.item[known]
    needed = (
        data.customer[known].astype(np.int64) * (int(need.max(initial=-1)) + 2) + need[data.item[known]] + 1
    )
    cells, times = np.unique(pairs, return_counts=True)
    full = np.maximum(data.paid + data.discount, 1e-9)
    tenth = max(len(sold) // 10, 1)
    return {
        "customers": len(per_customer),
        "products bought": len(sold),
        "orders": len(sizes),
        "purchase lines": len(data),
        "density: pairs of customer and product with a purchase": share(
            len(cells), len(per_customer) * len(sold)
        ),
        **quantiles("orders a customer", per_customer),
        "customers with a second order": mean(per_customer > 1),
        **quantiles("days between a customer's orders", gaps(data.customer[by_order], data.at[by_order])),
        **quantiles("lines an order", sizes),
        "lines an order, mean": mean(sizes),
        "lines an order, standard deviation of the logarithm": float(np.log(sizes).std())
        if len(sizes)
        else np.nan,
        "lines of a product bought before by the customer": 1 - share(len(cells), len(pairs)),
        "lines of a need bought before by the customer": 1 - share(len(np.unique(needed)), len(needed)),
        "pairs of customer and product bought again": mean(times > 1),
        **quantiles("days until a product is bought again", gaps(pairs, data.at[known])),
        "Gini coefficient of products": gini(sold),
        "lines of the most bought tenth of products": share(sold[-tenth:].sum(), sold.sum()),
        "products bought once": mean(sold == 1),
        "lines of one unit": mean(data.quantity == 1),
        "lines with a discount": mean(data.discount > 0),
        "discount of these, median": quantiles("", (data.discount / full)[data.discount > 0])[", median"],
    }


def mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else np.nan


def share(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan


def quantiles(what: str, values: Values) -> dict[str, float]:
    found = np.quantile(values, [0.1, 0.5, 0.9]) if len(values) else np.full(3, np.nan)
    return {f"{what}, {name}": float(v) for name, v in zip(("10 %", "median", "90 %"), found, strict=True)}


def gaps(who: NDArray[np.integer], at: NDArray[np.int64]) -> Values:
    """Days between the moments of each, those at one moment left out."""
    by = np.lexsort((at, who))
    found = np.diff(at[by])[np.diff(who[by]) == 0] / DAY
    return np.asarray(found[found > 0])


def gini(ordered: Values) -> float:
    """0: all alike, towards 1: one has all."""
    n = len(ordered)
    return share(float((2 * np.arange(1, n + 1) - n - 1) @ ordered), n * float(ordered.sum()))


def table(homes: list[Path], say: Callable[[str], None] = print) -> None:
    found = []
    for home in homes:
        data, catalog = purchases(History(home / "history"))
        found.append(figures(data, catalog.need))
    say(f"| | {' | '.join(home.name for home in homes)} |")
    say(f"|---|{'--:|' * len(homes)}")
    for name in found[0]:
        say(f"| {name} | {' | '.join(written(f[name]) for f in found)} |")


def written(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


if __name__ == "__main__":
    table(list(map(Path, sys.argv[1:])))
