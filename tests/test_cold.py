"""A history cut short for some customers: they keep their last orders, and nothing else changes."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from conftest import END

from benchmarks.cold import LEAST_ORDERS, Cut, Thinned, chosen, last_orders
from features.history import History
from features.interactions import EVENT_COLUMNS, Interactions
from training.split import known

CUTOFF = datetime(2017, 12, 1, tzinfo=UTC)


def orders_of(data: Interactions, customer: str) -> list[str]:
    """Ids of a customer's orders, in order of time."""
    position = int(data.customers.positions([customer])[0])
    return data.orders.at(list(dict.fromkeys(data.order[data.rows(position)].tolist())))


def test_some_customers_keep_their_last_orders_and_all_that_comes_later(loaded_home: Path) -> None:
    history = History(loaded_home / "history")
    before, later = (known(history, at).interactions for at in (CUTOFF, END))
    customers = chosen(before, later, 20)
    assert len(set(customers)) == 20 == len(chosen(before, later, 20))
    assert customers == chosen(before, later, 20) and all(
        len(orders_of(before, c)) >= LEAST_ORDERS and len(orders_of(later, c)) > len(orders_of(before, c))
        for c in customers
    )
    cut = Cut(tuple(customers), tuple(last_orders(before, customers, 3)), CUTOFF)
    thin = Thinned(history.folder, cut)
    early, late = thin.at_once(lambda pinned: [known(pinned, at).interactions for at in (CUTOFF, END)])
    for customer in customers:
        assert orders_of(early, customer) == orders_of(before, customer)[-3:]
        assert orders_of(late, customer) == orders_of(later, customer)[-len(orders_of(late, customer)) :]
        assert len(orders_of(late, customer)) == 3 + len(orders_of(later, customer)) - len(
            orders_of(before, customer)
        )
    others = [c for c in before.customers.at(np.arange(len(before.customers))) if c not in set(customers)]
    assert all(orders_of(early, c) == orders_of(before, c) for c in others[::10])


def test_what_is_lost_is_theirs_alone(loaded_home: Path) -> None:
    history = History(loaded_home / "history")
    events = history.events(columns=EVENT_COLUMNS)
    customer = str(events["customer_id"][0])
    left = Thinned(history.folder, Cut((customer,), (), CUTOFF)).events(columns=EVENT_COLUMNS)
    gone = events.num_rows - left.num_rows
    mine = [c == customer for c in events["customer_id"].cast(pa.string()).to_pylist()]
    early = [at < CUTOFF for at in events["occurred_at"].to_pylist()]
    assert gone == sum(m and e for m, e in zip(mine, early, strict=True)) > 0
