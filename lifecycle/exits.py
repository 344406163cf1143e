"""Exits: what a customer orders takes a message back before it is sent, as it is what the message was to bring about.

Orders are counted, not dated: one that comes in late, from a till that was offline or with a file, may have happened
before the message was decided, by when nobody knew of it. So a draft keeps how many were known.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import pyarrow as pa

from features.history import History
from features.judge import Row
from lifecycle.drafts import Draft

WITHIN = timedelta(
    days=90
)  # before a message was decided: older orders are no answer to it, whenever they come in
COLUMNS = ("customer_id", "order_id", "product_id", "occurred_at")


class Line(NamedTuple):
    """A line of an order."""

    order_id: str | None
    product_id: str | None
    occurred_at: datetime


class Exit(NamedTuple):
    """What of a line counts once, by the products that the message is about (None: nothing); and what is then said."""

    counts: Callable[[Line, Collection[str]], Hashable]
    says: str


PASSED = "passed"  # the exit of what is about a day: when its time to be written about is over
EXITS: Mapping[str, Exit] = {
    "order": Exit(lambda line, about: line.order_id, "ordered since"),
    "ordered_product": Exit(
        lambda line, about: (line.order_id, line.product_id) if line.product_id in about else None,
        "ordered it since",
    ),
}


def orders(history: History, since: datetime, until: datetime) -> pa.Table:
    """COLUMNS of the order lines of these days."""
    return history.events(since=since, until=until, types=("order",), columns=COLUMNS)


def lines(rows: Iterable[Row]) -> Iterator[Line]:
    for row in rows:
        yield Line(row["order_id"], row["product_id"], row["occurred_at"])


def known(exits: Iterable[str], about: Collection[str], lines: Collection[Line]) -> dict[str, int]:
    """By exit how much of what counts there is among these lines."""
    return {
        name: len({EXITS[name].counts(line, about) for line in lines} - {None})
        for name in exits
        if name in EXITS
    }


def has_passed(exits: Iterable[str], ends: datetime | None, at: datetime) -> bool:
    """Whether what a message is about is no news at a moment, where that is an exit."""
    return PASSED in exits and ends is not None and at > ends


def ended(
    exits: Iterable[str], draft: Draft, lines: Collection[Line], decided_at: datetime, now: datetime
) -> str | None:
    """What ended a message of this draft by now: its time has passed, or more is known of orders than was when it was
    decided. `lines` begin WITHIN before that. A draft that does not say what was known is ended by what happened
    since."""
    if has_passed(exits, draft.ends, now):
        return "its day has passed"
    since = [line for line in lines if line.occurred_at >= decided_at]
    for name in (name for name in exits if name in EXITS):
        before = draft.known.get(name)
        (found,) = known([name], draft.products, since if before is None else lines).values()
        if found > (before or 0):
            return EXITS[name].says
    return None
