"""The history at rest: Parquet files of the contract's tables, and one manifest that names the live ones.

    history/manifest.json
    history/events/2017-11.4f0c….parquet       by month of occurred_at; promotions by month of starts
    history/products/all.91be….parquet         every other table in one file

A file's name carries the hash of its content, so a file never changes; the same rows make the same bytes.
A commit writes new files, replaces the manifest, and only then removes what no manifest names: a reader sees
the history before or after a load, and a load that is refused or killed leaves it as it was. What a load
needs on its way lies outside, in `staging/` beside the folder.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.interactions import EVENT_COLUMNS
from features.promotions import SHARES
from features.schema import EVENTS, PRODUCTS, PROMOTIONS, PURCHASES, SQL, TABLES, WORD, Table

FORMAT = 2
BOUGHT = pc.field("event_type").isin(PURCHASES)
MEMORY = "1500MB"  # DuckDB's part; what does not fit goes to disk
THREADS = 2
BLOCK = 122_880  # rows of a Parquet row group
SMALL_BLOCK = 8_192  # of tables in which one row is looked up
T = TypeVar("T")
Marks = dict[str, dict[str, list[int]]]  # by database and table: number and moment of the last row moved


class HistoryError(Exception):
    """The history cannot be read or written; the message says why and what to do."""


def just_after(moment: datetime) -> datetime:
    """The first whole second after a moment."""
    return moment.replace(microsecond=0) + timedelta(seconds=1)


@dataclass(frozen=True)
class Store:
    name: str = "store"
    currency: str = "USD"
    time_zone: str = "UTC"


@dataclass(frozen=True)
class File:
    """A live file, its path relative to the history folder."""

    path: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What is live. `store` holds only what a load has said; `tables` maps table and part to a file.

    `marks` says how far each database has been moved here (`serving.compact`): it changes with the files.
    """

    store: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, File]] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        if found["format"] != FORMAT:
            raise HistoryError(
                f"{path} is format {found['format']}, this version reads {FORMAT}: "
                f"remove {path.parent} and load the sources anew"
            )
        tables = {t: {p: File(**f) for p, f in ps.items()} for t, ps in found["tables"].items()}
        return cls(found["store"], tables, found.get("marks", {}))

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    def files(self, table: str) -> list[File]:
        return [f for _, f in sorted(self.tables.get(table, {}).items())]

    @property
    def paths(self) -> set[str]:
        return {f.path for parts in self.tables.values() for f in parts.values()}


@dataclass(frozen=True)
class Staged:
    """A finished file that waits in the staging folder to become a part of a table."""

    table: str
    part: str
    path: Path
    rows: int


@dataclass(frozen=True)
class Merged:
    """What came of merging rows into a table: new, already there as they are, and in place of others."""

    loaded: int = 0
    known: int = 0
    replaced: int = 0
    files: tuple[Staged, ...] = ()


class History:
    """The history in `folder`, as its manifest is at each call. An empty or missing folder has no rows.

    Several reads tell of one state where they go through `at_once`.
    """

    def __init__(self, folder: Path, pinned: Manifest | None = None) -> None:
        self.folder = Path(folder)
        self._pinned = pinned

    @property
    def manifest(self) -> Manifest:
        return self._pinned or Manifest.read(self.folder / "manifest.json")

    @property
    def store(self) -> Store:
        return Store(**self.manifest.store)

    def counts(self) -> dict[str, int]:
        """Rows of each table of the contract."""
        manifest = self.manifest
        return {table: sum(f.rows for f in manifest.files(table)) for table in TABLES}

    def span(self) -> tuple[datetime, datetime] | None:
        """The moments of the first and of the last event."""

        def read(manifest: Manifest) -> tuple[datetime, datetime] | None:
            files = manifest.files("events")
            ends = (
                [_column(self.folder / f.path, "occurred_at") for f in {files[0], files[-1]}] if files else []
            )
            return (
                (min(pc.min(c).as_py() for c in ends), max(pc.max(c).as_py() for c in ends)) if ends else None
            )

        return self._reading(read)

    def known_span(self) -> tuple[datetime, datetime]:
        """`span`. Raises HistoryError where there are no events yet."""
        if (found := self.span()) is None:
            raise HistoryError(f"{self.folder} holds no events: run `osclms load` first")
        return found

    def last_purchase(self) -> datetime | None:
        """The moment of the last order or return."""

        def read(manifest: Manifest) -> datetime | None:
            months = reversed(manifest.files("events"))
            latest = (self._open(EVENTS, file, ["occurred_at"], BOUGHT) for file in months)
            return next((pc.max(part["occurred_at"]).as_py() for part in latest if len(part)), None)

        return self._reading(read)

    def end(self) -> datetime:
        """The first whole second after the last purchase: what is learned from all that is known ends there, as
        other events may come sooner than purchases do. Raises HistoryError without any."""
        if (last := self.last_purchase()) is None:
            raise HistoryError(f"{self.folder} holds no orders: run `osclms load` first")
        return just_after(last)

    def events(
        self,
        *,
        until: datetime | None = None,
        since: datetime | None = None,
        types: Collection[str] | None = None,
        columns: Iterable[str] | None = None,
    ) -> pa.Table:
        """Events with since <= occurred_at < until, sorted by (occurred_at, event_id), in one chunk a column.

        `customer_id` is resolved through the identities. Text that repeats (ids of customers, products,
        orders, visits and stores, event_type, channel, placement) comes as dictionary<int32, string>,
        whose dictionary may name values that no row holds; the rest is as in `EVENTS.schema`.
        Months outside the range are not opened. Times without a zone are taken as UTC.
        """
        names = _asked(EVENTS, columns)
        wanted = list(dict.fromkeys([*names, "occurred_at", *(["event_type"] if types is not None else [])]))

        def read(manifest: Manifest) -> pa.Table:
            months = _months(manifest.tables.get("events", {}), _utc(since), _utc(until))
            parts = (_between(self._open(EVENTS, f, wanted), _utc(since), _utc(until)) for f in months)
            kept = [
                (part if types is None else part.filter(_among(part["event_type"], types))).select(names)
                for part in parts
            ]
            return _resolved(_joined(EVENTS, names, kept), self._canonical(manifest))

        return self._reading(read)

    def purchases(self, until: datetime) -> pa.Table:
        """Orders and returns before a moment: all that `Interactions` and `Catalog` are made of."""
        return self.events(until=until, types=PURCHASES, columns=EVENT_COLUMNS)

    def table(
        self, name: str, columns: Iterable[str] | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """A whole table sorted by its key, or the rows of it for which `where` is true.

        Ids of promotions come as dictionary<int32, string>. Consents name customers as the identities
        resolve them, so that what an alias withdrew counts; other tables are as they were loaded.
        """
        contract, names = TABLES[name], _asked(TABLES[name], columns)

        def read(manifest: Manifest) -> pa.Table:
            parts = [self._open(contract, f, names, where) for f in manifest.files(name)]
            found = _joined(contract, names, parts)
            resolved = _resolved(found, self._canonical(manifest)) if name == "consents" else found
            return resolved if resolved is found else _sorted(contract, resolved)

        return self._reading(read)

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        """The first row of a table whose first key column is `key`, or None."""
        first = TABLES[table].key[0]
        found = self.table(table, where=pc.field(first) == key)
        return found.slice(0, 1).to_pylist()[0] if found.num_rows else None

    def events_of(self, customer_ids: Collection[str]) -> list[dict[str, Any]]:
        """Every event of these customers, by the ids as they were loaded, oldest first."""
        where = pc.field("customer_id").isin(sorted(customer_ids))

        def read(manifest: Manifest) -> list[dict[str, Any]]:
            parts = (
                pq.read_table(self.folder / f.path, filters=where, partitioning=None)
                for f in manifest.files("events")
            )
            return [row for part in parts for row in part.to_pylist()]

        return self._reading(read)

    def resolve(self, customer_id: str) -> str:
        """The customer whom this id names today: itself, unless identities say that it is an alias."""
        return self.aliases().get(customer_id, customer_id)

    def aliases(self) -> dict[str, str]:
        """The customer behind each alias."""
        return self._reading(self._canonical)

    def identities(self) -> dict[str, str]:
        """What each alias was said to name, be it a customer or another alias."""
        return {row["alias"]: row["customer_id"] for row in self.table("identities").to_pylist()}

    def at_once(self, read: Callable[["History"], T]) -> T:
        """What `read` makes of this history, which stays for all of its reads as it was at the first.

        It is called again where a load has meanwhile removed a file that it still needs.
        """
        return self._reading(lambda manifest: read(History(self.folder, manifest)))

    def promoted(self, until: datetime) -> pa.Table:
        """product_id and columns PROMOTED of each product that promotions known before `until` name, sorted."""

        def read(manifest: Manifest) -> pa.Table:
            paths = [self.folder / f.path for f in manifest.files(PROMOTIONS.name)]
            with in_memory() as db:
                if paths:
                    db.execute(f"CREATE TEMP VIEW promotions AS FROM {_parquet(paths)}")
                else:
                    db.register("promotions", PROMOTIONS.schema.empty_table())
                return db.sql(SHARES, params={"until": _utc(until)}).to_arrow_table()

        return self._reading(read)

    def fingerprint(self, until: datetime) -> str:
        """A hash of the events before `until`, their customers resolved, and of what was known before it of
        products and promotions.

        It depends on neither the order of loading nor on anything that is or becomes known from `until` on.
        """
        promoted = self.promoted(until)

        def read(manifest: Manifest) -> str:
            with in_memory() as db:
                aliases = self._canonical(manifest)
                db.register(
                    "aliases",
                    pa.table({"alias": list(aliases), "customer": list(aliases.values())}, _ALIASES),
                )
                digests = [
                    _digest(db, table, [self.folder / f.path for f in manifest.files(table.name)], until)
                    for table in (EVENTS, PRODUCTS)
                ]
            if len(promoted):
                digests.append(hashlib.sha256(promoted.to_pandas().to_csv(index=False).encode()).hexdigest())
            return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]

        return self._reading(read)

    @contextmanager
    def loading(self, patience: float = 0) -> Iterator[Path]:
        """The right to change this history, as an empty staging folder that goes away afterwards.

        Sweeps what a killed load has left. A second loader at the same time waits so many seconds, and then gets a
        HistoryError.
        """
        staging = self.folder.parent / "staging" / self.folder.name
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder.parent / f"{self.folder.name}.lock")
        try:
            lock.acquire(timeout=patience)
        except filelock.Timeout:
            raise HistoryError(
                f"another load into {self.folder} is running: wait until it is done and load again"
            ) from None
        try:
            shutil.rmtree(staging, ignore_errors=True)
            self._sweep()
            staging.mkdir(parents=True)
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            lock.release()

    def merge(
        self,
        db: duckdb.DuckDBPyConnection,
        table: Table,
        incoming: str,
        staging: Path,
        parts: Iterable[str] | None = None,
        ordered: bool = False,
    ) -> Merged:
        """Stage what the relation `incoming`, its keys unique, changes in a table. Only inside `loading`.

        An event that is known stays as it is; a row of any other table takes the place of its like.
        `parts` names the months to look at where the caller knows them, else they are read from `incoming`;
        `ordered` says that `incoming` is sorted as the table is.
        """
        live = self.manifest.tables.get(table.name, {})
        parts = _parts(db, table, incoming) if parts is None else parts
        known = self._known(db, incoming) if table is EVENTS and live else None
        merge = Merge(db, table, incoming, ordered, staging, known)
        return total(merge.part(part, self._path(live.get(part))) for part in parts)

    def files(self, table: str) -> list[Path]:
        """The live files of a table, for SQL of one's own. Only inside `loading` do they surely stay."""
        return [self.folder / f.path for f in self.manifest.files(table)]

    def _known(self, db: duckdb.DuckDBPyConnection, incoming: str) -> str:
        db.execute(
            "CREATE OR REPLACE TEMP TABLE known AS "
            f"SELECT event_id FROM {_parquet(self.files('events'))} SEMI JOIN {incoming} USING (event_id)"
        )
        return "known"

    def _path(self, file: File | None) -> Path | None:
        return self.folder / file.path if file else None

    def without(self, table: str, named: Mapping[str, Collection[str]], staging: Path) -> list[Staged]:
        """Stage a table's parts without the rows that name one of these in one of these columns. Only in `loading`.

        Parts that hold no such row stay as they are.
        """
        held, staged = TABLES[table], list[Staged]()
        for part, file in sorted(self.manifest.tables.get(table, {}).items()):
            rows = _whole(pq.read_table(self.folder / file.path, partitioning=None), _plain(held))
            gone = [
                pc.fill_null(pc.is_in(rows[c], pa.array(sorted(ids), pa.string())), False)
                for c, ids in named.items()
            ]
            keep = rows.filter(pc.invert(functools.reduce(pc.or_, gone)))
            if len(keep) < len(rows):
                path = staging / f"{table}.{part}.parquet"
                staged.append(Staged(table, part, path, _write_parquet(path, held, keep.to_batches())))
        return staged

    def commit(
        self, files: Iterable[Staged], store: dict[str, str], staging: Path, marks: Marks | None = None
    ) -> None:
        """Make staged files live, all or none, each in place of its table's part. Only inside `loading`.

        A part of which no row is left is no longer one. `marks` are those of the databases that the rows come from;
        of others they stay.
        """
        before = self.manifest
        tables = {table: dict(parts) for table, parts in before.tables.items()}
        for staged in files:
            tables.setdefault(staged.table, {})[staged.part] = self._adopt(staged)
        tables = {table: {p: f for p, f in parts.items() if f.rows} for table, parts in tables.items()}
        after = Manifest(store, tables, {**before.marks, **(marks or {})})
        if after != before:
            self.folder.mkdir(parents=True, exist_ok=True)
            (staging / "manifest.json").write_text(after.text())
            _move(staging / "manifest.json", self.folder / "manifest.json")
            self._sweep()

    def _adopt(self, staged: Staged) -> File:
        path = f"{staged.table}/{staged.part}.{_hash(staged.path)}.parquet"
        _move(staged.path, self.folder / path)
        return File(path, staged.rows)

    def _sweep(self) -> None:
        live = self.manifest.paths
        for path in self.folder.glob("*/*"):
            if path.relative_to(self.folder).as_posix() not in live:
                path.unlink(missing_ok=True)

    def _reading(self, read: Callable[[Manifest], T]) -> T:
        """Read by one manifest; once more where a load has replaced its files meanwhile."""
        if self._pinned is not None:
            return read(self._pinned)  # `at_once` reads once more
        for _ in range(5):
            manifest = self.manifest
            try:
                return read(manifest)
            except (FileNotFoundError, duckdb.IOException):
                if self.manifest == manifest:
                    raise HistoryError(
                        f"{self.folder}/manifest.json names files that are not there: restore the folder "
                        "from a copy, or remove it and load the sources anew"
                    ) from None
        raise HistoryError(
            f"{self.folder} kept changing while it was read: read again when the loads are done"
        )

    def _open(
        self, table: Table, file: File, names: list[str], where: pc.Expression | None = None
    ) -> pa.Table:
        words, path = [c.name for c in table.columns if c.type == WORD], self.folder / file.path
        held = names if table.month else [n for n in names if n in pq.read_schema(path).names]
        found = pq.read_table(path, columns=held, filters=where, read_dictionary=words, partitioning=None)
        return _whole(found, _schema(table, names))

    def _canonical(self, manifest: Manifest) -> dict[str, str]:
        files = manifest.files("identities")
        return _read_identities(self.folder / files[0].path) if files else {}


_ALIASES = pa.schema([("alias", pa.string()), ("customer", pa.string())])


@lru_cache(maxsize=1)  # so that of what was erased nothing is held once it is read anew
def _read_identities(path: Path) -> dict[str, str]:
    found = pq.read_table(path)
    return canonical(dict(zip(found["alias"].to_pylist(), found["customer_id"].to_pylist(), strict=True)))


def canonical(identities: dict[str, str]) -> dict[str, str]:
    """Each alias with the customer at the end of its chain.

    Aliases in a circle all name one customer: the first of them in the order of text.
    """
    ends: dict[str, str] = {}
    for alias in identities:
        chain: dict[str, None] = {}
        end = alias
        while end in identities and end not in ends and end not in chain:
            chain[end] = None
            end = identities[end]
        if end in chain:
            end = min(list(chain)[list(chain).index(end) :])
        ends.update(dict.fromkeys(chain, ends.get(end, end)))
    return {alias: end for alias, end in ends.items() if end != alias}


def database(staging: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB on disk in the staging folder: bounded memory, UTC, and no download of extensions."""
    return _connect(str(staging / "load.duckdb"), temp_directory=str(staging / "spill"))


def in_memory() -> duckdb.DuckDBPyConnection:
    """A DuckDB like that of a load, for rows in memory."""
    return _connect(":memory:")


def _connect(name: str, **config: str) -> duckdb.DuckDBPyConnection:
    bounds: dict[str, str | int | bool] = {"memory_limit": MEMORY, "threads": THREADS}
    alone = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    db = duckdb.connect(name, config={**bounds, **alone, **config})
    db.execute("SET TimeZone = 'UTC'")
    if first_row(db, "SELECT current_setting('enable_progress_bar')")[0]:  # it would write to standard output
        db.execute(
            "SET enable_progress_bar = false"
        )  # refused in Jupyter without ipywidgets, where it is off
    return db


@dataclass(frozen=True)
class Merge:
    """A merge of the relation `incoming` into a table, part by part."""

    db: duckdb.DuckDBPyConnection
    table: Table
    incoming: str
    ordered: bool
    staging: Path
    known: str | None  # for events: a relation of the ids that any month holds

    def part(self, part: str, live: Path | None) -> Merged:
        rows = f"SELECT {_listed(self.table)} FROM {self.incoming} WHERE {_within(self.table, part)}"
        if live is None and self.known is None:
            return self._write(part, rows, self.ordered)
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE fresh AS {self._fresh(rows, live)}")
        (read,) = first_row(self.db, f"SELECT count(*) FROM ({rows})")
        fresh, replaced = first_row(self.db, "SELECT count(*), count(*) FILTER (replaces) FROM fresh")
        files = (
            self._write(part, f"{self._kept(live)} SELECT {_listed(self.table)} FROM fresh").files
            if fresh
            else ()
        )
        return Merged(fresh - replaced, read - fresh, replaced, files)

    def _fresh(self, rows: str, live: Path | None) -> str:
        """SQL of the rows that change the part, with `replaces`: whether the part has one of the same key."""
        if self.known:
            return f"SELECT *, false AS replaces FROM ({rows}) ANTI JOIN {self.known} USING (event_id)"
        if not live:
            return f"SELECT *, false AS replaces FROM ({rows})"
        same = f"row({_listed(self.table, 'new')}) IS NOT DISTINCT FROM row({_listed(self.table, 'old')})"
        held = f"old.{self.table.key[0]} IS NOT NULL"
        old = f"{_older(self.table, live)} old ON {_same_key(self.table)}"
        news = f"SELECT new.*, {held} AS replaces FROM ({rows}) new LEFT JOIN {old}"
        return f"{news} WHERE NOT ({held} AND {same})"

    def _kept(self, live: Path | None) -> str:
        """SQL of the live rows that stay, to be followed by those that come."""
        if live is None:
            return ""
        old = f"{_older(self.table, live)} old ANTI JOIN fresh new ON {_same_key(self.table)}"
        return f"SELECT {_listed(self.table, 'old')} FROM {old} UNION ALL"

    def _write(self, part: str, rows: str, ordered: bool = False) -> Merged:
        path = self.staging / f"{self.table.name}.{part}.parquet"
        order = "" if ordered else f"ORDER BY {', '.join(map(identifier, self.table.order))}"
        found = self.db.sql(f"{rows} {order}").to_arrow_reader(BLOCK)
        written = _write_parquet(path, self.table, found)
        return Merged(written, files=(Staged(self.table.name, part, path, written),) if written else ())


def _write_parquet(path: Path, table: Table, batches: Iterable[pa.RecordBatch]) -> int:
    """Write rows as they come; how many. Arrow writes equal rows as equal bytes, which DuckDB does not."""
    plain = _plain(table)
    rows, block = 0, BLOCK if table.month else SMALL_BLOCK
    with pq.ParquetWriter(path, plain, compression="zstd") as file:
        for group in _groups(batches):
            file.write_table(group.select(table.names).cast(plain), row_group_size=block)
            rows += group.num_rows
    return rows


def _plain(table: Table) -> pa.Schema:
    """The types in which a table lies in its files."""
    return pa.schema([f.with_type(pa.string()) if f.type == WORD else f for f in table.schema])


def _whole(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows by these columns; those that a file of an older version lacks are empty."""
    for column in [of for of in schema if of.name not in found.column_names]:
        found = found.append_column(column, pa.nulls(len(found), column.type))
    return found.select(schema.names).cast(schema)


def _older(table: Table, path: Path) -> str:
    """SQL of a table's file with the columns of today, as `_whole` makes it."""
    held = pq.read_schema(path).names
    lacking = [f"NULL::{SQL[c.type]} AS {identifier(c.name)}" for c in table.columns if c.name not in held]
    return f"(SELECT *, {', '.join(lacking)} FROM {_parquet([path])})" if lacking else _parquet([path])


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of BLOCK rows each, the last one shorter."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(b.num_rows for b in held) >= BLOCK:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, BLOCK).combine_chunks()
            held = whole.slice(BLOCK).to_batches()
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _parts(db: duckdb.DuckDBPyConnection, table: Table, incoming: str) -> list[str]:
    if table.month is None:
        return ["all"]
    months = f"SELECT DISTINCT strftime({table.month}, '%Y-%m') FROM {incoming} ORDER BY 1"
    return [month for (month,) in db.execute(months).fetchall()]


def total(merged: Iterable[Merged]) -> Merged:
    parts = list(merged)
    return Merged(
        sum(p.loaded for p in parts),
        sum(p.known for p in parts),
        sum(p.replaced for p in parts),
        tuple(f for p in parts for f in p.files),
    )


def _within(table: Table, part: str) -> str:
    """SQL: the row belongs to the part. A range, so that DuckDB can skip the blocks of other months."""
    if table.month is None:
        return "true"
    first = f"TIMESTAMPTZ '{part}-01 00:00:00+00'"
    return f"{table.month} >= {first} AND {table.month} < {first} + INTERVAL 1 MONTH"


def _same_key(table: Table) -> str:
    return " AND ".join(f"new.{identifier(k)} IS NOT DISTINCT FROM old.{identifier(k)}" for k in table.key)


def _listed(table: Table, prefix: str = "") -> str:
    return ", ".join(f"{prefix}.{identifier(n)}" if prefix else identifier(n) for n in table.names)


def _parquet(paths: Iterable[Path]) -> str:
    return f"read_parquet([{', '.join(quoted(str(p)) for p in paths)}])"


def quoted(text: str) -> str:
    """A SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A SQL name, also where it is a word of the language, such as `at`."""
    return '"' + name.replace('"', '""') + '"'


def first_row(db: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The first row of a statement's result; of an INSERT or CREATE TABLE AS, how many rows it made."""
    return db.execute(sql).fetchall()[0]  # to the end: DuckDB bars other work on an unfinished result


def _asked(table: Table, columns: Iterable[str] | None) -> list[str]:
    names = list(table.names if columns is None else columns)
    if unknown := [n for n in names if n not in table.names]:
        raise HistoryError(f"{table.name} has no column {unknown[0]!r}; it has {', '.join(table.names)}")
    return names


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _months(parts: dict[str, File], since: datetime | None, until: datetime | None) -> list[File]:
    """The files of the months that can hold events of the range, in the order of time."""
    first = since.strftime("%Y-%m") if since else ""
    return [
        file
        for month, file in sorted(parts.items())
        if month >= first and (until is None or datetime.fromisoformat(f"{month}-01T00:00:00+00:00") < until)
    ]


def _between(events: pa.Table, since: datetime | None, until: datetime | None) -> pa.Table:
    at = events["occurred_at"].to_numpy()
    first, end = (
        len(at) * last
        if moment is None
        else int(np.searchsorted(at, np.datetime64(moment.replace(tzinfo=None), "us")))
        for moment, last in ((since, 0), (until, 1))
    )
    return events.slice(first, max(end - first, 0))


def _joined(table: Table, names: list[str], parts: list[pa.Table]) -> pa.Table:
    schema = _schema(table, names)
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks() if parts else schema.empty_table()


def _schema(table: Table, names: list[str]) -> pa.Schema:
    return pa.schema([table.schema.field(n) for n in names])


def _among(column: pa.ChunkedArray, values: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column.cast(pa.string()), value_set=pa.array(sorted(values), pa.string()))


def _resolved(found: pa.Table, aliases: dict[str, str]) -> pa.Table:
    """The table itself where nothing is to resolve, else with `customer_id` resolved, its type kept."""
    if not aliases or "customer_id" not in found.column_names:
        return found
    field = found.schema.field("customer_id")
    ids = found["customer_id"].cast(WORD).combine_chunks()
    ids = ids if isinstance(ids, pa.DictionaryArray) else pa.concat_arrays(ids.chunks)
    names = pa.array([aliases.get(n, n) for n in ids.dictionary.to_pylist()], pa.string()).dictionary_encode()
    customers = pa.DictionaryArray.from_arrays(names.indices.take(ids.indices), names.dictionary).cast(
        field.type
    )
    return found.set_column(found.schema.get_field_index("customer_id"), field, customers)


def _sorted(table: Table, found: pa.Table) -> pa.Table:
    return found.sort_by([(k, "ascending") for k in table.order if k in found.column_names])


def _column(path: Path, name: str) -> pa.ChunkedArray:
    return pq.read_table(path, columns=[name], partitioning=None)[name]


_KNOWN_BY = {"events": "occurred_at < $until", "products": "(known_from IS NULL OR known_from < $until)"}


def _digest(db: duckdb.DuckDBPyConnection, table: Table, paths: list[Path], until: datetime) -> str:
    """Rows and the xor of their hashes; rows are unique by their key, so that none cancels another."""
    if not paths:
        return f"{table.name} 0"
    texts = ", ".join(f"coalesce({_resolving(name)}::VARCHAR, chr(30))" for name in table.names)
    join = "LEFT JOIN aliases ON customer_id = alias" if "customer_id" in table.names else ""
    rows, xor = db.execute(
        f"SELECT count(*), bit_xor(md5_number(concat_ws(chr(31), {texts}))) "
        f"FROM {_parquet(paths)} {join} WHERE {_KNOWN_BY[table.name]}",
        {"until": _utc(until)},
    ).fetchall()[0]
    return f"{table.name} {rows} {xor}"


def _resolving(name: str) -> str:
    return "coalesce(customer, customer_id)" if name == "customer_id" else name


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _move(source: Path, target: Path) -> None:
    """Put a file in place for good: its bytes are on disk before its name is, its name before we go on."""
    _sync(source)
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
        _sync(target.parent.parent)
    source.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
