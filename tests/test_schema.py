"""The contract: every check is SQL that DuckDB understands, and the documentation names every column."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from features.judge import Judge
from features.schema import CUSTOMERS, EVENTS, PRODUCTS, PROMOTIONS, SQL, TABLES, Table

DOCS = Path(__file__).parent.parent / "docs" / "data.md"


def empty(table: Table) -> str:
    return "SELECT " + ", ".join(f"NULL::{SQL[c.type]} AS {c.name}" for c in table.columns)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_checks_are_sql_and_hold_for_what_is_missing(table: Table) -> None:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        for check in table.checks:
            assert db.execute(f"SELECT ({check.holds}) IS FALSE FROM ({empty(table)})").fetchall() == [
                (False,)
            ]


@pytest.mark.parametrize(
    ("column", "most"),
    [("quantity", 1e9), ("unit_price", 1e12), ("discount", 1e12), ("price", 1e12), ("cost", 1e12)],
)
def test_amounts_are_bounded(column: str, most: float) -> None:
    table = next(t for t in (EVENTS, PRODUCTS) if column in t.names)
    assert reasons(table, f"{most / 2} AS {column}") == []
    assert reasons(table, f"{most} AS {column}") == [f"{column} is {most:,.0f} or more"]


def reasons(table: Table, given: str) -> list[str]:
    """Why a row that is empty but for `given` breaks the checks of a table."""
    with duckdb.connect() as db:
        row = f"SELECT * REPLACE ({given}) FROM ({empty(table)})"
        broken = (f"SELECT ({check.holds}) IS FALSE FROM ({row})" for check in table.checks)
        return [
            c.reason for c, sql in zip(table.checks, broken, strict=True) if db.execute(sql).fetchall()[0][0]
        ]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_keys_and_months_are_columns(table: Table) -> None:
    assert set(table.order) <= set(table.names)
    assert table.key[0] in table.required


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_documentation_names_every_column(table: Table) -> None:
    section = DOCS.read_text().split(f"### {table.name}\n")[1].split("\n### ")[0]
    assert [c.name for c in table.columns if f"| `{c.name}` |" not in section] == []


def test_a_table_with_months_is_sorted_by_time_first() -> None:
    assert EVENTS.order == ("occurred_at", "event_id")
    assert PROMOTIONS.order == ("starts", "product_id", "store_id", "kind")


def test_text_that_repeats_comes_as_a_dictionary() -> None:
    assert pa.types.is_dictionary(EVENTS.schema.field("product_id").type)
    assert EVENTS.schema.field("event_id").type == pa.string()


@pytest.mark.parametrize("table", [PRODUCTS, CUSTOMERS], ids=lambda table: table.name)
@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("{", False),
        ("nul", False),
        ("", False),
        ("[1]", False),
        ('"x"', False),
        ('{"a": 1}', True),
        ('{"a": 1,}', False),
        ('{"a": [1, ]}', False),
        ('{"a": nan}', False),
        (r'{"a": "nan, \", ]"}', True),
        ('{"inf": {}}', True),
        ('{"a": ["b", "c"]}', True),
        (None, True),
    ],
)
def test_what_is_no_json_is_no_object_either(table: Table, text: str | None, fine: bool) -> None:
    row = {table.key[0]: "x", "attributes": text, "received_at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert Judge(table).reasons([row]) == [None if fine else "attributes is not a JSON object"]
