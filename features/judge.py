"""The contract's checks on rows in memory: by the same SQL, and the same DuckDB, that judge a file."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import pyarrow as pa

from features.history import in_memory, quoted
from features.schema import ON_RECEIPT, RECEIVED, TEXT, WORD, Table

Row = Mapping[str, Any]


class Judge:
    """Judges rows of one table that come in live, each with its `received_at`. Any thread may ask."""

    def __init__(self, table: Table) -> None:
        self._table, self._db, self._lock = table, in_memory(), Lock()
        self._db.execute("SET threads = 1")  # few rows, whose order counts
        self._db.execute("PRAGMA disable_optimizer")  # it would take as long as the judging
        plain = (pa.field(c.name, TEXT if c.type == WORD else c.type) for c in (*table.columns, RECEIVED))
        self._schema = pa.schema(plain)

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        """Why each row would be rejected: the first reason in the order of the contract, or None."""
        given = pa.Table.from_pylist(rows, self._schema)
        sql = f"SELECT CASE {self._cases(given)} END FROM given"
        with self._lock:
            self._db.register("given", given)
            return [reason for (reason,) in self._db.execute(sql).fetchall()]

    def _cases(self, given: pa.Table) -> str:
        """SQL of the rules. Those of an id that no row has hold, and would cost as much as any."""
        table = self._table
        proper = {c.name for c in table.columns if given[c.name].null_count < given.num_rows}
        own = (rule for c in table.columns for rule in (*c.there, *(c.proper if c.name in proper else ())))
        rules = (*own, *table.checks, *ON_RECEIPT.get(table.name, ()))
        return " ".join(f"WHEN ({rule.holds}) IS FALSE THEN {quoted(rule.reason)}" for rule in rules)
