"""The contract's checks on rows in memory: by the same SQL, and the same DuckDB, that judge a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.history import in_memory, quoted
from features.schema import ON_RECEIPT, RECEIVED, SQL, TEXT, WORD, Table

Row = Mapping[str, Any]


class Judge:
    """Judges rows of one table that come in live, each with its `received_at`. Of one thread at a time."""

    def __init__(self, table: Table) -> None:
        columns = (*table.columns, RECEIVED)
        self._schema = pa.schema([pa.field(c.name, TEXT if c.type == WORD else c.type) for c in columns])
        self._db = in_memory()
        self._db.execute("SET threads = 1")  # few rows: a second thread costs more than it does
        typed = ", ".join(f'"{c.name}" {SQL[c.type]}' for c in columns)
        self._db.execute(f"CREATE TABLE rows ({typed})")
        rules = (*table.rules, *ON_RECEIPT.get(table.name, ()))
        cases = " ".join(f"WHEN ({rule.holds}) IS FALSE THEN {quoted(rule.reason)}" for rule in rules)
        self._db.execute(f"PREPARE reasons AS SELECT CASE {cases} END FROM rows")

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        """Why each row would be rejected: the first reason in the order of the contract, or None."""
        given = pa.Table.from_pylist(rows, self._schema)
        self._db.execute("TRUNCATE rows")
        self._db.register("given", given)
        self._db.execute("INSERT INTO rows SELECT * FROM given")
        return [reason for (reason,) in self._db.execute("EXECUTE reasons").fetchall()]
