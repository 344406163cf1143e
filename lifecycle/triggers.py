"""What each kind of trigger finds among everybody at a moment. A table: a new kind is a function and a row."""

from collections.abc import Mapping

from lifecycle.day import Day
from lifecycle.occasions import Find, Occasions, of
from lifecycle.programs import Ordered
from features.interactions import DAY
import numpy as np


def ordered(day: Day, trigger: Ordered) -> Occasions:
    """An occasion an order that is ripe; it is about what was bought."""
    orders, data = day.orders, day.data
    ripe = orders.at + trigger.after * DAY
    rows = np.flatnonzero((ripe < day.until) & (ripe >= day.until - trigger.within * DAY))
    line = np.searchsorted(data.customer, orders.customer[rows])
    found, names, products = [], [], []
    for row in rows.tolist():
        lines = np.flatnonzero((data.customer == orders.customer[row]) & (data.at == orders.at[row]))
        found.append(day.person[orders.customer[row]])
        names.append(data.orders.at([data.order[lines[0]]])[0])
        products.append(tuple(data.items.at(data.item[lines])))
    return of(found, names, ripe[rows], products=products)


TRIGGERS: Mapping[str, Find] = {"order": ordered}
