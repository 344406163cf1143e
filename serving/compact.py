"""`osclms compact`: what came in live becomes history, each row once.

How far the database has been moved stands in the history's manifest, which is replaced together with the
files: killed at any moment, both are as before or both as after. The database itself is only read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from features.history import History, Merged, Staged, database, identifier, quoted
from features.schema import CUSTOMERS, RECEIVED, SQL, TABLES, TEXT, WORD, Table
from serving.store import LIVE, Mark, Store

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Moved:
    """What became of the rows that a table of the database had since the last time."""

    read: int = 0
    new: int = 0
    replaced: int = 0


@dataclass(frozen=True)
class Compaction:
    tables: Mapping[str, Moved]

    def as_dict(self) -> dict[str, Any]:
        return {name: asdict(moved) for name, moved in self.tables.items()}

    def __str__(self) -> str:
        told = (
            f"{name}: {moved.read:,} received, {moved.new:,} new"
            + (f", {moved.replaced:,} replaced" if moved.replaced else "")
            for name, moved in self.tables.items()
            if moved.read
        )
        return "; ".join(told) or "nothing new to move"


def compact(
    history: History, store: Store, *, told: Progress | None = None, patience: float = 0
) -> Compaction:
    """Move what the store has received since the last time into the history; all of it, or nothing.

    Events that the history knows stay as they are. Changes of products and customers are laid over what is
    known, in the order in which they came: what a change does not say stays. Raises HistoryError where a
    load is running for longer than `patience` seconds, StoreError.
    """
    with history.loading(patience) as staging, database(staging) as db:
        marks = store.marks()
        files: list[Staged] = []
        moved: dict[str, Moved] = {}
        for name in LIVE:
            read = _stage(db, TABLES[name], _rows(history, store, name, marks[name], told))
            merged = _merged(history, db, TABLES[name], staging) if read else Merged()
            files += merged.files
            moved[name] = Moved(read, merged.loaded, merged.replaced)
        reached = {name: list(mark) for name, mark in marks.items() if mark.seq}
        history.commit(files, history.manifest.store, staging, {store.id: reached} if reached else None)
    return Compaction(moved)


def _rows(
    history: History, store: Store, name: str, upto: Mark, told: Progress | None
) -> Iterator[list[dict[str, Any]]]:
    """The rows not yet moved. All, where the database is not the one that was moved, but an older copy of it."""
    done = 0
    for page in store.read(name, store.reached(name, history.manifest.marks), upto.seq):
        yield page
        done += len(page)
        if told:
            told(name, done, None)


def _stage(db: duckdb.DuckDBPyConnection, table: Table, pages: Iterable[list[dict[str, Any]]]) -> int:
    """Fill the table `live_…` with rows, their numbers and moments; how many."""
    types = {c.name: c.type for c in (*table.columns, RECEIVED)}
    columns = ", ".join(f"{identifier(name)} {SQL[kind]}" for name, kind in types.items())
    db.execute(f"CREATE TABLE {_live(table)} ({columns}, seq BIGINT)")
    plain = [pa.field(name, TEXT if kind == WORD else kind) for name, kind in types.items()]
    schema, read = pa.schema([*plain, pa.field("seq", pa.int64())]), 0
    for page in pages:
        db.register("page", pa.Table.from_pylist(page, schema))
        db.execute(f"INSERT INTO {_live(table)} SELECT * FROM page")
        db.unregister("page")
        read += len(page)
    return read


def _merged(history: History, db: duckdb.DuckDBPyConnection, table: Table, staging: Path) -> Merged:
    name = f"incoming_{table.name}"
    select = _laid_over(history, table) if table.name in OVER else _last(table)
    db.execute(f"CREATE TEMP TABLE {name} AS {select}")
    return history.merge(db, table, name, staging)


def _last(table: Table) -> str:
    """SQL of the last row of each key."""
    key = ", ".join(map(identifier, table.key))
    latest = f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY seq DESC) = 1"
    return f"SELECT {_listed(table)} FROM {_live(table)} {latest}"


def _laid_over(history: History, table: Table) -> str:
    """SQL of each changed row as it is now: of each column what was said last, else what is known.

    A product that is new is known from when it came; one that a change names is no longer derived.
    """
    key, own = identifier(table.key[0]), OVER[table.name]
    values = ", ".join(
        f"{own.get(c.name, SAID).format(name=identifier(c.name))} AS {identifier(c.name)}"
        for c in table.columns
        if c.name != table.key[0]
    )
    files = ", ".join(quoted(str(path)) for path in history.files(table.name))
    empty = (
        f"SELECT {', '.join(f'NULL::{SQL[c.type]} AS {identifier(c.name)}' for c in table.columns)} LIMIT 0"
    )
    old = f"SELECT * FROM read_parquet([{files}])" if files else empty
    return (
        f"SELECT {_listed(table)} FROM (SELECT live.{key} AS {key}, {values} FROM {_live(table)} live "
        f"LEFT JOIN ({old}) old ON old.{key} = live.{key} GROUP BY live.{key})"
    )


SAID = "coalesce(arg_max(live.{name}, seq) FILTER (live.{name} IS NOT NULL), any_value(old.{name}))"
OVER: Mapping[str, Mapping[str, str]] = {
    "customers": dict.fromkeys(CUSTOMERS.names, f"nullif({SAID}, '')"),  # blank: taken back
    "products": {
        "known_from": "CASE WHEN count(old.product_id) > 0 THEN any_value(old.known_from) "
        "ELSE coalesce(min(live.known_from), min(live.received_at)) END",
        "derived": "NULL",
    },
}


def _live(table: Table) -> str:
    return f"live_{table.name}"


def _listed(table: Table) -> str:
    return ", ".join(map(identifier, table.names))
