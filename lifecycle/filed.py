"""What files tell of customers that messages are for: read once for all that is due, and looked up for each."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.history import History
from features.judge import Row
from features.schema import TIME
from lifecycle import exits
from lifecycle.ledger import Names
from serving.identities import identities_now
from serving.store import Store, moment_of

TABLES = ("customers", "consents")


class ByCustomer:
    """Rows of a table by `customer_id`, each customer's in the order in which they lie there."""

    def __init__(self, table: pa.Table, keep: Collection[str] | None = None) -> None:
        if keep is not None:
            there = table["customer_id"].cast(pa.string())
            table = table.filter(pc.is_in(there, value_set=pa.array(sorted(keep), pa.string())))
        named = table["customer_id"].cast(pa.string()).combine_chunks().dictionary_encode()
        codes = pc.fill_null(named.indices, -1).to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        names = named.dictionary.to_pylist()
        ends = np.searchsorted(codes[order], np.arange(len(names) + 1)).tolist()
        self.table = table.unify_dictionaries().combine_chunks().take(order)
        self.place = {name: (ends[n], ends[n + 1] - ends[n]) for n, name in enumerate(names)}

    def of(self, customer_ids: Sequence[str]) -> Iterator[Row]:
        for name in customer_ids:
            if name in self.place:
                rows = self.table.slice(*self.place[name])
                for row in zip(*map(listed, rows.columns), strict=True):
                    yield dict(zip(rows.column_names, row, strict=True))


def listed(column: "pa.ChunkedArray[Any]") -> list[Any]:
    """Values of a column, in a fraction of the time that arrow takes for names and for moments in UTC."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type).to_pylist()
    if column.type != TIME:
        return column.to_pylist()
    return [None if at is None else moment_of(at) for at in column.cast(pa.int64()).to_pylist()]


@dataclass(frozen=True)
class Filed:
    """Facts, consents and orders of some customers by all their ids, as files tell them at one moment.

    moved: up to which row of a database's table the files have what came in live; what it says after that is newer.
    """

    names: Names
    rows: Mapping[str, ByCustomer]
    moved: Mapping[str, int]
    ordered: ByCustomer

    @classmethod
    def read(
        cls, history: History, store: Store, customers: Collection[str], since: datetime | None, until: datetime
    ) -> "Filed":  # fmt: skip
        """Orders are of since <= occurred_at < until; none are wanted where there is no `since`."""

        def at_once(pinned: History) -> "Filed":
            names = Names(identities_now(store, pinned))
            ids, marks = names.all({names.own(name) for name in customers}), pinned.manifest.marks
            where = pc.field("customer_id").isin(ids)
            bought = exits.orders(pinned, since or until, until)
            return cls(
                names, {name: ByCustomer(pinned.table(name, where=where)) for name in TABLES},
                {name: store.reached(name, marks) for name in TABLES}, ByCustomer(bought, keep=ids),
            )  # fmt: skip

        return history.at_once(at_once)

    def ids(self, customer_id: str) -> tuple[str, ...]:
        """All ids of the customer whom this one names, their own first."""
        own = self.names.own(customer_id)
        return own, *sorted(self.names.others.get(own, ()))
