"""`make bench-cold`: next_best and discover for customers of whom only the last order, or the last three, is known.

Some customers who bought before the cutoff and after it lose all but their last orders before it; everything is then
learned anew from that history, and the lists they get are held against what they bought. The others keep theirs.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from features.history import History, Manifest
from features.interactions import Interactions
from serving.placements import PLACEMENTS, models_in_use
from training.evaluate import Audit
from training.intervals import Interval, clustered_interval
from training.models import RECIPES
from training.reading import read_window
from training.split import known, natural_rank
from training.train import train

T = TypeVar("T")
ASKED = ("next_best", "discover")
LEAST_ORDERS = 10
SEED = 7


@dataclass(frozen=True)
class Cut:
    """Who loses what: before `until`, of these customers only these orders are known."""

    customers: tuple[str, ...]
    orders: tuple[str, ...]
    until: datetime


class Thinned(History):
    """A history that does not know what the cut takes away."""

    def __init__(self, folder: Path, cut: Cut, pinned: Manifest | None = None) -> None:
        super().__init__(folder, pinned)
        self.cut = cut

    def events(self, **asked: Any) -> pa.Table:
        found, cut = super().events(**asked), self.cut
        mine, kept = (
            pc.is_in(found[name].cast(pa.string()), value_set=pa.array(ids, pa.string()))
            for name, ids in (("customer_id", cut.customers), ("order_id", cut.orders))
        )
        later = pc.greater_equal(found["occurred_at"], pa.scalar(cut.until, pa.timestamp("us", tz="UTC")))
        return found.filter(pc.or_(pc.invert(mine), pc.or_(kept, later)))

    def at_once(self, read: Callable[[History], T]) -> T:
        return super().at_once(lambda pinned: read(Thinned(self.folder, self.cut, pinned.manifest)))


def last_orders(before: Interactions, customers: Sequence[str], most: int) -> Iterator[str]:
    """Ids of the last orders of each of these customers."""
    for customer in before.customers.positions(customers).tolist():
        orders = dict.fromkeys(before.order[before.rows(customer)].tolist())
        yield from before.orders.at(list(orders)[-most:])


def chosen(before: Interactions, later: Interactions, most: int) -> list[str]:
    """Customers with LEAST_ORDERS and more before the cutoff who bought after it, too, drawn by chance."""
    pairs = np.unique(np.stack([before.customer, before.order]), axis=1)
    orders = np.bincount(pairs[0][pairs[0] >= 0], minlength=len(before.customers))
    often = before.customers.at(np.flatnonzero(orders >= LEAST_ORDERS))
    back = np.unique(later.customer[(later.at >= before.until) & (later.customer >= 0)])
    both = list(set(often) & set(later.customers.at(back)))
    ids = np.array(both)[np.argsort(natural_rank(both), kind="stable")]
    return [str(c) for c in np.random.default_rng(SEED).choice(ids, min(most, len(ids)), replace=False)]


@dataclass(frozen=True)
class Figure:
    """What some customers' lists reached."""

    name: str
    orders: int
    questions: int
    ndcg: Interval


def figures(home: Path, cut: Cut, orders: int, end: datetime) -> list[Figure]:
    """Learn from the thinned history, and read the window for the thinned customers alone."""
    rows = {name: PLACEMENTS[name] for name in ASKED}
    recipes = {name: RECIPES[name] for name in models_in_use(rows)}
    with TemporaryDirectory(prefix="osclms-cold-") as work:
        history = Thinned(home / "history", cut)
        made = train(Path(work), until=cut.until, recipes=recipes, placements=rows, history=history)
        reading = read_window(home, Path(work) / "bundles" / made.version, cut.until, end, placements=ASKED)
    return [of_cut(audit, cut, orders) for audit in reading.audits]


def of_cut(audit: Audit, cut: Cut, orders: int) -> Figure:
    asked = [request.customer_id in set(cut.customers) for request in audit.answers.task.requests]
    values, who = audit.answers.values("ndcg")[asked], audit.answers.task.customer[asked]
    return Figure(audit.name, orders, sum(asked), clustered_interval(values, who, seed=SEED))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("OSCLMS_HOME", ".osclms")))
    parser.add_argument("--until", type=moment, default=moment("2017-12-01"))
    parser.add_argument("--end", type=moment, default=moment("2018-01-01"))
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--customers", type=int, default=400)
    given = parser.parse_args()
    history = History(given.home / "history")
    before, later = (known(history, at).interactions for at in (given.until, given.end))
    customers = chosen(before, later, given.customers)
    table = Table("placement, task", "orders known", "asked", "NDCG@10, 95 % interval")
    for orders in given.orders:
        cut = Cut(tuple(customers), tuple(last_orders(before, customers, orders)), given.until)
        for f in figures(given.home, cut, orders, given.end):
            table.add_row(f.name, str(f.orders), f"{f.questions:,}", str(f.ndcg))
    Console().print(table)


if __name__ == "__main__":
    main()
