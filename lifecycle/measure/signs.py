"""What people did with messages: whether they opened and clicked them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from features.history import History
from features.interactions import Seconds
from lifecycle.ledger import MESSAGE
from serving.store import DATA, Store

SIGNS = {"opened": "open", "clicked": "click"}
LISTS = DATA["sends"].c


class Signs(NamedTuple):
    """What was done with messages, a row each: the customer's place, −1 nobody's, and when."""

    owner: NDArray[np.int64]
    at: Seconds


class Acts(NamedTuple):
    """What is on record of messages, read once: the lists that were in them, and opens and clicks."""

    lists: Sequence[tuple[str, str]]  # recommendation_id, message_id
    events: pa.Table


def acts(store: Store, history: History, since: datetime | None) -> Acts:
    """What was done at `since` or later."""
    lists = sa.select(LISTS.recommendation_id, LISTS.message_id).where(LISTS.message_id.is_not(None))
    columns = ("event_type", "occurred_at", "message_id", "recommendation_id")
    events = history.events(types=tuple(SIGNS.values()), columns=columns, since=since)
    return Acts([(found, message) for found, message in store.select(lists)], events)


def signs(done: Acts, rows: pd.DataFrame, customers: Sequence[str]) -> dict[str, Signs]:
    """Opens and clicks of the messages of these decisions, by the customers written to. A click counts by the message
    that it names, or by the list, where it came through a link of ours, of which robots' are not on record."""
    sent = rows[rows["message_id"].notna() & (rows["outcome"] == MESSAGE)]
    place = {name: at for at, name in enumerate(customers)}
    whose = {
        message: place.get(name, -1)
        for message, name in zip(sent["message_id"], sent["customer"], strict=True)
    }
    by_list = {found: whose[message] for found, message in done.lists if message in whose}
    found = dict[str, Signs]()
    for name, kind in SIGNS.items():
        some = done.events.filter(pc.equal(done.events["event_type"].cast("string"), kind))
        ids = zip(some["message_id"].to_pylist(), some["recommendation_id"].to_pylist(), strict=True)
        owner = [whose.get(message, by_list.get(of, -1)) for message, of in ids]
        at = some["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64)
        found[name] = Signs(np.array(owner, np.int64), at)
    return found
