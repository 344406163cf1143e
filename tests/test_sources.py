"""Sources: what each key of a mapping does, what is rejected and why, and that loading twice adds nothing."""

import csv
import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import sources
from features.completejourney import load_promotions, mapping_of
from features.history import History
from features.mapping import Mapping, MappingError
from features.sources import LoadError, LoadReport, csv_batches, csv_rows, load

SAMPLES = Path(__file__).parent.parent / "docs" / "samples"
ORDER = """
[columns]
event_type = { value = "order" }
occurred_at = "at"
customer_id = "who"
product_id = "what"
order_id = "basket"
quantity = "n"
"""
HEADER = "at,who,what,basket,n\n"
ROWS = "2017-01-01T10:00:00Z,anna,tea,b1,1\n2017-02-03T10:00:00Z,ben,milk,b2,2\n"


class Home:
    """A history, a folder for its sources, and a short way to load text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = History(folder / "history")

    def file(self, text: str | bytes, name: str = "in.csv") -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def load(
        self, text: str | bytes, mapping: str = ORDER, table: str = "events", **options: Any
    ) -> LoadReport:
        return self.load_files([self.file(text)], mapping, table, **options)

    def load_files(
        self, files: list[Path], mapping: str = ORDER, table: str = "events", **options: Any
    ) -> LoadReport:
        rejects = self.folder / "rejects"
        return load(
            self.history,
            table,
            files,
            Mapping.parse(mapping),
            rejects_dir=rejects,
            **{"max_rejects": 1.0} | options,
        )

    def events(self) -> list[dict[str, Any]]:
        return self.history.events().to_pylist()

    def column(self, name: str, table: str = "events") -> list[Any]:
        found = self.history.events() if table == "events" else self.history.table(table)
        return found[name].to_pylist()

    def bytes(self) -> dict[str, bytes]:
        folder = self.history.folder
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def rejects(report: LoadReport) -> list[tuple[int, str]]:
    assert report.rejects
    with report.rejects.open(newline="") as file:
        return [(int(row["line"]), row["reason"]) for row in csv.DictReader(file)]


def test_a_load_says_what_became_of_each_row(home: Home) -> None:
    report = home.load(HEADER + ROWS + "soon,anna,tea,b3,1\n")
    assert (report.read, report.loaded, report.known) == (3, 2, 0)
    assert report.rejected == {"occurred_at is not a time": 1}
    assert home.column("customer_id") == ["anna", "ben"]
    assert home.column("occurred_at") == [
        datetime(2017, 1, 1, 10, tzinfo=UTC),
        datetime(2017, 2, 3, 10, tzinfo=UTC),
    ]


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_the_header(home: Home, encoding: str | None, name: str) -> None:
    text = ("\ufeff" + HEADER + ROWS).encode()
    path = home.folder / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    report = home.load_files([path], ORDER + (f"[source]\nencoding = '{encoding}'\n" if encoding else ""))
    assert (report.loaded, report.rejected) == (2, {})


# --- loading again ---------------------------------------------------------------------------------------


def test_loading_twice_adds_nothing(home: Home) -> None:
    home.load(HEADER + ROWS)
    before = home.bytes()
    report = home.load(HEADER + ROWS)
    assert (report.loaded, report.known) == (0, 2)
    assert home.bytes() == before


def test_the_same_row_twice_in_a_file_counts_twice_and_again_adds_nothing(home: Home) -> None:
    row = ROWS.splitlines()[0] + "\n"
    assert home.load(HEADER + row + row + row).loaded == 3
    assert home.load(HEADER + row + row + row).known == 3
    first, second, third = sorted(home.column("event_id"))
    assert (second, third) == (first + "-2", first + "-3")


def typed(path: Path) -> pa.Table:
    strings = {name: pa.string() for name in ("at", "who", "what", "basket")}
    return pv.read_csv(path, convert_options=pv.ConvertOptions(column_types=strings | {"n": pa.int64()}))


def as_parts(folder: Path, lines: list[str]) -> list[Path]:
    half = len(lines) // 2
    parts = [lines[:half], lines[half:]]
    return [as_csv(folder, part, f"part{n}.csv")[0] for n, part in enumerate(parts)]


def as_csv(folder: Path, lines: list[str], name: str = "in.csv") -> list[Path]:
    (folder / name).write_text(HEADER + "".join(lines))
    return [folder / name]


def as_gzip(folder: Path, lines: list[str]) -> list[Path]:
    (folder / "in.csv.gz").write_bytes(gzip.compress((HEADER + "".join(lines)).encode()))
    return [folder / "in.csv.gz"]


def as_parquet(folder: Path, lines: list[str]) -> list[Path]:
    pq.write_table(typed(as_csv(folder, lines)[0]), folder / "in.parquet")
    return [folder / "in.parquet"]


@pytest.mark.parametrize("write", [as_parts, as_gzip, as_parquet])
def test_however_it_is_written_the_history_is_the_same(tmp_path: Path, write: Any) -> None:
    lines = [f"2017-{m:02}-03T10:00:00Z,anna,tea,b{m},{m}\n" for m in range(1, 8)]
    plain, other = Home(tmp_path / "a"), Home(tmp_path / "b")
    for one in (plain, other):
        one.folder.mkdir()
    plain.load_files(as_csv(plain.folder, lines))
    other.load_files(write(other.folder, lines))
    assert other.bytes() == plain.bytes()


row = st.tuples(
    st.integers(1, 28),
    st.sampled_from(["anna", "ben", ""]),
    st.sampled_from(["tea", "milk"]),
    st.integers(1, 3),
)


@settings(max_examples=6, deadline=None)
@given(st.lists(row, min_size=2, max_size=8, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_loading_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, str, int]], random: Any
) -> None:
    lines = [f"2017-0{n}-{day:02}T10:00:00Z,{who},{what},b{day},{n}\n" for day, who, what, n in rows]
    products = ORDER + '[products]\nproduct_id = "what"\ntitle = { template = "{what} {n}" }\n'
    first, second = (Home(tmp_path_factory.mktemp("home")) for _ in range(2))
    first.load(HEADER + "".join(lines), products)
    random.shuffle(lines)
    for part in (lines[:1], lines[1:]):
        second.load(HEADER + "".join(part), products)
    assert second.bytes() == first.bytes()
    until = datetime(2017, 2, 15, tzinfo=UTC)
    assert second.history.fingerprint(until) == first.history.fingerprint(until)


def test_other_tables_take_the_last_row_of_a_key(home: Home) -> None:
    mapping = '[columns]\nproduct_id = "id"\nprice = "price"\n'
    home.load("id,price\na,1\na,2\nb,3\n", mapping, "products")
    report = home.load("id,price\na,5\nb,3\nc,1\n", mapping, "products")
    assert (report.loaded, report.replaced, report.known) == (1, 1, 1)
    assert home.column("price", "products") == [5, 3, 1]


def test_the_first_row_of_an_event_id_stays(home: Home) -> None:
    mapping = ORDER + 'event_id = "basket"\n'
    home.load(HEADER + "2017-01-01,anna,tea,b1,1\n2017-03-01,anna,milk,b1,2\n", mapping)
    assert home.load(HEADER + "2017-02-01,ben,milk,b1,3\n", mapping).known == 1
    assert home.column("product_id") == ["tea"]


# --- rejects ---------------------------------------------------------------------------------------------


def test_rejects_name_their_exact_lines(home: Home) -> None:
    text = (
        HEADER
        + '2017-01-01,"an\nna",tea,b1,1\n\n2017-01-01,ben,tea,b1,x\n2017-01-01,ben,tea\n2017-01-01,a,tea,,1\n'
    )
    report = home.load(text)
    assert rejects(report) == [
        (2, "customer_id holds a control character"),
        (5, "quantity is not a number"),
        (6, "has 3 fields, header has 5"),
        (7, "order_id is missing"),
    ]


def test_a_reject_keeps_its_row(home: Home) -> None:
    report = home.load(HEADER + "2017-01-01,ben,tea,b1,-1\n")
    assert report.rejects
    with report.rejects.open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert json.loads(found["row"]) == {
        "at": "2017-01-01",
        "who": "ben",
        "what": "tea",
        "basket": "b1",
        "n": "-1",
    }
    assert (found["file"], found["reason"]) == (str(home.folder / "in.csv"), "quantity is not above 0")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2017-01-01,b\xffn,tea,b1,1\n", "bytes that are not in the encoding"),
        (b"2017-01-01,b\0n,tea,b1,1\n", "a NUL byte"),
        (b"2017-01-01,ben,tea,b1,nan\n", "quantity is not a number"),
        (b"2017-01-01,ben,tea,b1,1,9\n", "has 6 fields, header has 5"),
        (b"infinity,ben,tea,b1,1\n", "occurred_at is not a time"),
        (b",ben,tea,b1,1\n", "occurred_at is missing"),
        (b"1969-01-01,ben,tea,b1,1\n", "occurred_at is before 1970"),
        (b"2017-01-01,ben,,b1,1\n", "product_id is missing"),
        (b"2017-01-01," + b"x" * 201 + b",tea,b1,1\n", "customer_id is longer than 200"),
    ],
)
def test_what_breaks_the_contract_is_rejected(home: Home, line: bytes, reason: str) -> None:
    report = home.load(HEADER.encode() + line + ROWS.encode())
    assert report.rejected == {reason: 1}
    assert rejects(report) == [(2, reason)]
    assert report.loaded == 2


QUOTE = "a quote is neither closed nor doubled"
FOUR = "has 4 fields, header has 2"


@pytest.mark.parametrize(
    ("rows", "rejected", "read"),
    [
        (['1,"a', "2,b", "3,c"], [(2, QUOTE)], ["2", "3"]),  # open to the end
        (['1,"a', "2,b", '3,"c', "4,d"], [(2, QUOTE), (4, QUOTE)], ["2", "4"]),  # and closed by the next
        (['1,"a', "2,b", '3,"c"', "4,d"], [(2, QUOTE)], ["2", "3", "4"]),  # the next being a proper one
        (['1,"a "b" c"', "2,b"], [(2, QUOTE)], ["2"]),
        (['1,"a', "", "2,b"], [(2, QUOTE)], ["2"]),  # an empty line among what was swallowed
        (['1,"a', '2,b",x,"', "3,c", '4,"'], [(2, FOUR), (3, FOUR), (5, QUOTE)], ["3"]),
        (['1,"a\nb ""x"" c"', '2,b"'], [], ["1", "2"]),  # proper: a field of two lines, a quote inside one
    ],
)
def test_a_stray_quote_costs_its_own_line(
    home: Home, rows: list[str], rejected: list[tuple[int, str]], read: list[str]
) -> None:
    mapping = '[columns]\nproduct_id = "id"\ntitle = "title"\n'
    report = home.load("id,title\n" + "\n".join(rows), mapping, "products")
    assert home.column("product_id", "products") == read
    assert report.read == report.loaded + sum(report.rejected.values())
    assert (rejects(report) if rejected else []) == rejected


def test_two_stray_quotes_in_one_column_make_no_row_of_several(home: Home) -> None:
    report = home.load(HEADER + '2017-01-01,"a,tea,b1,1\n' + ROWS + '2017-01-02,b",tea,b2,1\n')
    assert rejects(report) == [(2, QUOTE)]
    assert (report.read, report.loaded) == (4, 3)


def test_a_quoted_cell_may_hold_lines_with_delimiters(home: Home) -> None:
    report = home.load(HEADER.replace("\n", ",note\n") + '2017-01-01,a,tea,b1,1,"x, y,\nz, a, b, c, d"\n')
    assert (report.read, report.loaded) == (1, 1)


def test_a_quote_left_open_swallows_nothing_however_long_the_file(home: Home) -> None:
    rows = [f"2017-01-01T10:00:00Z,anna,tea,b{n},1\n" for n in range(30_000)]
    rows[20_000] = rows[20_000].replace("anna", '"anna')
    report = home.load(HEADER + "".join(rows))
    assert (report.read, report.loaded, rejects(report)) == (30_000, 29_999, [(20_002, QUOTE)])


def test_a_field_too_long_is_a_reject_with_its_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CSV_FIELD", 100)
    report = home.load(HEADER + f"2017-01-01,{'x' * 101},tea,b1,1\n" + ROWS)
    csv.field_size_limit(1_000_000)  # it is the process's own
    assert rejects(report) == [(2, "a field is longer than 100 characters")]
    assert report.loaded == 2


def test_a_record_of_too_many_lines_is_a_quote_left_open(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CSV_LINES", 3)
    mapping = '[columns]\nproduct_id = "id"\ntitle = "title"\n'
    report = home.load('id,title\n1,"a\nb\nc"\n2,"a\nb\nc\nd"\n', mapping, "products")
    assert home.column("product_id", "products") == ["1"]
    assert rejects(report)[0] == (5, QUOTE)
    assert (report.read, len(rejects(report))) == (5, 4)


def test_too_many_rejects_refuse_the_load_and_change_nothing(home: Home) -> None:
    home.load(HEADER + ROWS)
    before = home.bytes()
    with pytest.raises(
        LoadError, match=r"1 of 3 rows are rejects, more than 10.00%.*1 × quantity is not above 0"
    ):
        home.load(HEADER + ROWS.replace("10:", "11:") + "2017-01-01,ben,tea,b1,0\n", max_rejects=0.1)
    assert home.bytes() == before
    assert not list((home.folder / "staging").glob("*"))


def test_left_out_rows_do_not_count_towards_the_limit(home: Home) -> None:
    rule = ORDER + '[[leave_out]]\nname = "postage"\ncolumn = "what"\npattern = "^POST"\n'
    text = HEADER + "2017-01-01,a,POST,b,1\n" * 3 + "2017-01-01,a,tea,b,0\n" + ROWS
    assert home.load(text, rule, max_rejects=0.34).left_out == {"postage": 3}
    with pytest.raises(LoadError, match="1 of 3"):
        home.load(text, rule, max_rejects=0.3)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("in.parquet", b"PAR1", "in.parquet cannot be read"),
        (
            "in.csv.gz",
            gzip.compress(HEADER.encode() + ROWS.encode() * 9, mtime=0)[:-12],
            "in.csv.gz cannot be read",
        ),
        ("in.csv", b"at,who,what,basket\n", "columns.quantity reads the column 'n', which .* does not have"),
        (
            "in.csv",
            b"at,at,who,what,basket,n\n",
            "columns.occurred_at reads 'at', .* two columns of that name",
        ),
        ("in.csv", b"", "in.csv is empty"),
        ("in.csv", b"\n\n", "in.csv is empty"),
        ("in.csv.gz", gzip.compress(b"", mtime=0), "in.csv.gz is empty"),
        ("in.csv", b'at,"who,what,basket,n\n' + ROWS.encode(), "the header of .*in.csv: a quote is neither"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_the_load(home: Home, name: str, data: bytes, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        home.load_files([home.file(data, name)])
    assert home.bytes() == {}


def test_columns_that_nothing_reads_may_share_a_name(home: Home) -> None:
    header = HEADER.replace("\n", ",note,note,Note,,\n")
    report = home.load(
        header + "".join(f"{line},x,y,z,,\n" for line in ROWS.replace(",2\n", ",0\n").splitlines())
    )
    assert (report.loaded, rejects(report)) == (1, [(3, "quantity is not above 0")])
    assert report.rejects
    with report.rejects.open(newline="") as file:
        kept = json.loads(next(csv.DictReader(file))["row"])
    assert {"x", "y", "z"} <= set(kept.values())


@pytest.mark.parametrize("name", ["in.csv.GZ", "IN.PARQUET", "in.Csv"])
def test_the_case_of_a_suffix_does_not_matter(home: Home, name: str) -> None:
    path = home.file(HEADER + ROWS)
    if name.endswith("GZ"):
        path = home.file(gzip.compress(path.read_bytes()), name)
    elif name.endswith("PARQUET"):
        pq.write_table(typed(path), home.folder / name)
        path = home.folder / name
    assert home.load_files([path]).loaded == 2


# --- the mapping, key by key -----------------------------------------------------------------------------


def mapped(
    home: Home, column: str, source: str, text: str, more: str = "", table: str = "events"
) -> list[Any]:
    """What a column becomes, read by `source` from a file whose first columns are fixed."""
    base = (
        '[columns]\nevent_type = { value = "view" }\noccurred_at = "at"\n'
        if table == "events"
        else ('[columns]\nproduct_id = "at"\n')
    )
    lines = base.splitlines()
    kept = [line for line in lines if not line.startswith(f"{column} =")]
    report = home.load(text, "\n".join([*kept, f"{column} = {source}", more]), table)
    assert not report.rejected, report
    return home.column(column, table)


@pytest.mark.parametrize(
    ("source", "cells", "expected"),
    [
        ('"x"', [" 7 "], [7.0]),
        ('"x"', [""], [None]),
        ("{ value = 3 }", ["9"], [3.0]),
        ('{ column = "x", default = 1 }', [""], [1.0]),
        ('{ column = "x", per = "y" }', ["6"], [3.0]),
        ('{ column = "x", less = "y" }', ["6"], [4.0]),
        ('{ column = "x", less = "y", per = "y" }', ["6"], [2.0]),
        ('{ column = "x", values = { many = 12 } }', ["many"], [12.0]),
    ],
)
def test_numbers(home: Home, source: str, cells: list[str], expected: list[float]) -> None:
    text = "at,x,y\n" + "".join(f"2017-01-01,{cell},2\n" for cell in cells)
    assert mapped(home, "value", source, text) == expected


@pytest.mark.parametrize(
    ("written", "cell", "expected"),
    [('decimal = ","', "1,5", 1.5), ('decimal = ","\nthousands = "."', "1.234,5", 1234.5), ("", "1.5", 1.5)],
)
def test_decimals(home: Home, written: str, cell: str, expected: float) -> None:
    more = f'[source]\ndelimiter = ";"\n{written}'
    assert mapped(home, "value", '"x"', f"at;x\n2017-01-01;{cell}\n", more) == [expected]


def test_a_decimal_point_under_a_decimal_comma_is_no_number(home: Home) -> None:
    with pytest.raises(AssertionError, match="value is not a number"):
        mapped(home, "value", '"x"', "at;x\n2017-01-01;1.5\n", '[source]\ndelimiter = ";"\ndecimal = ","')


@pytest.mark.parametrize(
    ("written", "cell", "expected"),
    [
        ('thousands = ","', "1,234.5", 1234.5),
        ('thousands = ","', "-1,234,567", -1234567),
        ('thousands = ","', "1234567.5", 1234567.5),
        ('thousands = ","', "1,5", None),
        ('thousands = ","', "12,34,5", None),
        ('thousands = ","', "1234,567", None),
        ('thousands = ","', "1,234.567,890", None),
        ('thousands = ","', ",234", None),
        ('decimal = ","\nthousands = "."', "1.234.567,8", 1234567.8),
        ('decimal = ","\nthousands = "."', "1.5", None),
        ('decimal = ","\nthousands = "."', "12.34,5", None),
        ('decimal = ","\nthousands = "."', "1x234", None),
        ('thousands = "\'"', "1'234.5", 1234.5),
        ('thousands = " "', "1 234", 1234),
        ('thousands = " "', "1 2", None),
    ],
)
def test_thousands_are_groups_of_three(home: Home, written: str, cell: str, expected: float | None) -> None:
    columns = '[columns]\noccurred_at = "at"\nevent_type = { value = "view" }\nvalue = "x"\n'
    mapping = f'[source]\ndelimiter = ";"\n{written}\n{columns}'
    report = home.load(f"at;x\n2017-01-01;{cell}\n", mapping)
    assert report.rejected == ({"value is not a number": 1} if expected is None else {})
    assert home.column("value") == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("written", "cell", "utc"),
    [
        ('time = "iso"', "2017-07-01T10:00:00+02:00", "2017-07-01T08:00"),
        ('time = "iso"\nzone = "Europe/Berlin"', "2017-07-01 10:00", "2017-07-01T08:00"),
        ('time = "iso"\nzone = "Europe/Berlin"', "2017-07-01", "2017-06-30T22:00"),
        ('time = "epoch"', "1483264800", "2017-01-01T10:00"),
        ('time = "epoch_ms"', "1483264800000", "2017-01-01T10:00"),
        ('time = ["%d/%m/%Y", "%d.%m.%Y %H:%M"]', "01.02.2017 10:00", "2017-02-01T10:00"),
        # the night of the change to summer time: 02:30 is not on the clock and moves on to 03:30
        ('zone = "America/New_York"', "2017-03-12 01:59", "2017-03-12T06:59"),
        ('zone = "America/New_York"', "2017-03-12 02:30", "2017-03-12T07:30"),
        ('zone = "America/New_York"', "2017-03-12 03:00", "2017-03-12T07:00"),
        # the night of the change back: 01:30 is on the clock twice and means the later
        ('zone = "America/New_York"', "2017-11-05 00:59", "2017-11-05T04:59"),
        ('zone = "America/New_York"', "2017-11-05 01:30", "2017-11-05T06:30"),
    ],
)
def test_times(home: Home, written: str, cell: str, utc: str) -> None:
    found = mapped(home, "occurred_at", '"at"', f"at\n{cell}\n", f"[source]\n{written}")
    assert found == [datetime.fromisoformat(utc).replace(tzinfo=UTC)]


def test_times_without_a_zone_are_the_stores(home: Home) -> None:
    store = '[store]\ntime_zone = "Asia/Tokyo"'
    assert mapped(home, "occurred_at", '"at"', "at\n2017-01-01 09:00\n", store) == [
        datetime(2017, 1, 1, tzinfo=UTC)
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"kind"', "ICE - BREAD:DOG'S"),
        ('{ template = "{kind:title} {size:lower}" }', "Ice - Bread:Dog's 2 lb"),
        ('{ template = ["{none} {kind}", "{size}"] }', "2 LB"),
        ('{ template = "number {at}" }', "number a"),
        ('{ value = "fixed" }', "fixed"),
        ('{ column = "none", default = "x" }', "x"),
        ('{ column = "kind", default = "x" }', "ICE - BREAD:DOG'S"),
        ('{ column = "at", values = { a = "first" } }', "first"),
    ],
)
def test_text(home: Home, source: str, expected: str) -> None:
    text = "at,kind,size,none\na,ICE - BREAD:DOG'S,2 LB,\n"
    assert mapped(home, "title", source, text, table="products") == [expected]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{ path = ["one", "none", "two"] }', ["A", "B"]),
        ('{ path = ["none"] }', None),
        ('{ column = "all", split = ">" }', ["x", "y z"]),
        ('"one"', ["A"]),
        ('"all"', ["x", "y z ›"]),
        ('"none"', None),
        ('{ column = "all", split = "z" }', ["x › y", "›"]),
        ('{ path = ["one", "all", "two"] }', ["A", "x › y z ›", "B"]),
    ],
)
def test_category_paths(home: Home, source: str, expected: list[str] | None) -> None:
    """What is written between the levels of a joined path stands in none of them."""
    text = "at,one,none,two,all\na,A,,B,x > y z >\n"
    assert mapped(home, "category", source, text, table="products") == [expected]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{ column = "x", in = ["food"] }', [True, False, None]),
        ('{ column = "x", not_in = ["food"], default = false }', [False, True, False]),
        ('{ column = "x", values = { food = true, fuel = false } }', [True, False, None]),
        ("{ value = true }", [True, True, True]),
    ],
)
def test_flags(home: Home, source: str, expected: list[bool | None]) -> None:
    assert mapped(home, "eligible", source, "at,x\na,food\nb,fuel\nc,\n", table="products") == expected


def test_attributes_are_an_object_of_what_is_there(home: Home) -> None:
    source = '{ object = { age = "x", "home size" = "y" } }'
    found = mapped(home, "attributes", source, 'at,x,y\na,"6""5",\nb,,\n', table="products")
    assert found == ['{"age":"6\\"5"}', None]


def test_returns_by_negative_quantity_and_by_prefix(home: Home) -> None:
    returns = (
        ORDER.replace('"basket"', '"basket"\nunit_price = { column = "total", per = "n" }')
        + '[returns]\nnegative_quantity = true\norder_prefix = "C"\nstrip = true\n'
    )
    rows = ["1,a,b1,2,6", "2,a,b2,-2,-6", "3,a,C77,-1,-3", "4,a,C78,1,-3"]
    text = "at,what,basket,n,total,who\n" + "".join(f"2017-01-0{r},x\n" for r in rows)
    assert home.load(text, returns).loaded == 4
    keys = ("event_type", "quantity", "unit_price", "order_id")
    assert [tuple(e[k] for k in keys) for e in home.events()] == [
        ("order", 2, 3, "b1"),
        ("return", 2, 3, "b2"),
        ("return", 1, 3, "77"),
        ("return", 1, 3, "78"),
    ]


def test_rows_left_out_are_counted_by_rule(home: Home) -> None:
    rules = """
[[leave_out]]
name = "charges"
column = "what"
pattern = "^(POST|BANK CHARGES)$"
[[leave_out]]
name = "tests"
column = "who"
values = ["test", "demo"]
[[leave_out]]
name = "no basket"
column = "basket"
empty = true
"""
    text = (
        HEADER
        + "2017-01-01,a,POST,b,1\n2017-01-01,demo,tea,b,1\n2017-01-01,a,tea,,1\nx,test,POSTER,b,1\n"
        + ROWS
    )
    report = home.load(text, ORDER + rules)
    assert report.left_out == {"tests": 2, "charges": 1, "no basket": 1}
    assert (report.loaded, report.rejected) == (2, {})


def test_a_basket_is_a_customers_local_day(home: Home) -> None:
    daily = (
        ORDER.replace('"basket"', '{ template = "{who} {@day}" }')
        + '[store]\ntime_zone = "America/New_York"\n'
    )
    times = ["2017-01-02T04:59:00Z", "2017-01-02T05:00:00Z", "2017-01-03T04:59:00Z"]
    home.load(HEADER + "".join(f"{t},a,tea,,1\n" for t in times), daily)
    assert home.column("order_id") == ["a 2017-01-01", "a 2017-01-02", "a 2017-01-02"]


def test_ids_of_parquet_are_text_without_a_decimal_point(home: Home) -> None:
    at = [datetime(2017, 1, 1, tzinfo=UTC)]
    table = pa.table({"at": at, "who": [42.0], "what": [42], "basket": ["042"], "n": [1]})
    pq.write_table(table, home.folder / "in.parquet")
    home.load_files([home.folder / "in.parquet"])
    (event,) = home.events()
    assert (event["customer_id"], event["product_id"], event["order_id"]) == ("42", "42", "042")


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_a_missing_number_of_parquet_is_a_missing_id(home: Home, kind: pa.DataType) -> None:
    who = [1.0, float("nan"), 2.5, None, float("inf"), float("-inf"), 2.0]
    table = pa.table(
        {
            "at": [datetime(2017, 1, n + 1, tzinfo=UTC) for n in range(len(who))],
            "who": pa.array(who, kind),
            "what": ["tea"] * len(who),
            "basket": ["b"] * len(who),
            "n": [1.0] * len(who),
        }
    )
    pq.write_table(table, home.folder / "in.parquet")
    report = home.load_files([home.folder / "in.parquet"])
    assert home.column("customer_id") == ["1", None, "2.5", None, "2"]
    assert rejects(report) == [(5, "customer_id is not a text"), (6, "customer_id is not a text")]


def test_a_number_of_parquet_that_is_none(home: Home) -> None:
    at, cells = [datetime(2017, 1, 1, tzinfo=UTC)] * 3, [float("nan"), float("inf"), 1.5]
    pq.write_table(pa.table({"at": at, "x": cells}), home.folder / "in.parquet")
    mapping = '[columns]\noccurred_at = "at"\nevent_type = { value = "view" }\nvalue = "x"\n'
    report = home.load_files([home.folder / "in.parquet"], mapping)
    assert sorted(home.column("value"), key=str) == [1.5, None]
    assert rejects(report) == [(2, "value is not a number")]


# --- products out of events ------------------------------------------------------------------------------

TELLING = ORDER + '[products]\nproduct_id = "what"\ntitle = "title"\n'
TITLED = "at,who,what,basket,n,title\n"


def product(home: Home) -> tuple[Any, ...]:
    found = home.history.row("products", "tea")
    return (
        (found["title"], found["known_from"] and found["known_from"].day, found["derived"]) if found else ()
    )


def test_a_derived_product_is_its_earliest_row(home: Home) -> None:
    report = home.load(TITLED + "2017-01-05,a,tea,b,1,later\n2017-01-03,a,tea,b,1,first\n", TELLING)
    assert (report.products, product(home)) == (1, ("first", 3, True))
    home.load(TITLED + "2017-01-09,a,tea,b,1,much later\n", TELLING)
    assert product(home) == ("first", 3, True)
    assert home.load(TITLED + "2017-01-02,a,tea,b,1,earlier\n", TELLING).products == 1
    assert product(home) == ("earlier", 2, True)


def test_a_listed_product_wins_over_a_derived_one(home: Home) -> None:
    listed = '[columns]\nproduct_id = "id"\ntitle = "title"\n'
    home.load(TITLED + "2017-01-05,a,tea,b,1,told\n", TELLING)
    assert home.load("id,title\ntea,listed\n", listed, "products").replaced == 1
    home.load(TITLED + "2017-01-01,a,tea,b,1,told before\n", TELLING)
    assert product(home) == ("listed", None, None)


# --- the mapping's own errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (ORDER + "colour = 'x'\n", "there is no column 'colour'"),
        (ORDER + "[sauce]\n", "sauce: there is no such key"),
        (ORDER + "unit_price = { colum = 'x' }\n", "columns.unit_price.colum: there is no such key"),
        (ORDER + "unit_price = { column = 'x', value = 1 }\n", "columns.unit_price: give exactly one of"),
        (
            ORDER + "unit_price = { column = 'x', split = '>' }\n",
            "unit_price is a number, which `split` cannot",
        ),
        (ORDER + "channel = { template = '{x' }\n", "has a brace"),
        (ORDER + "[store]\ntime_zone = 'Mars'\n", "store.time_zone: 'Mars' is no time zone"),
        (ORDER + "[source]\nencoding = 'x'\n", "source.encoding: 'x' is no encoding"),
        (ORDER + "[[leave_out]]\nname = 'a'\ncolumn = 'b'\n", "leave_out.0: give exactly one of pattern"),
        (ORDER + "[[leave_out]]\nname = 'a'\ncolumn = 'b'\npattern = '('\n", "no regular expression"),
        (ORDER + "[products]\ntitle = 'x'\n", "products: nothing gives product_id"),
        (ORDER + "[products]\nproduct_id = 'x'\nderived = 'x'\n", "no column 'derived'"),
        (ORDER.replace("occurred_at", "unit_price"), "nothing gives occurred_at"),
        ("= 3", "not TOML"),
        (
            ORDER + "[[leave_out]]\nname = 'a'\ncolumn = 'b'\npattern = '(?=a)b'\n",
            "leave_out.0.pattern: '(?=a)b' is no regular expression",
        ),
        (ORDER + "[source]\ntime = ['iso', '%Q']\n", "source.time: '%Q' is no time format"),
        (ORDER + "[source]\ntime = 'is'\n", "source.time: 'is' is no time format"),
        (
            ORDER.replace('"at"', "{ column = 'at', time = '%Q' }"),
            "columns.occurred_at.time: '%Q' is no time format",
        ),
        (ORDER + "[source]\nquote = ','\n", "source: delimiter and quote are both ','"),
    ],
)
def test_a_wrong_mapping_names_the_key(home: Home, mapping: str, said: str) -> None:
    with pytest.raises(MappingError, match=re.escape(said)):
        home.load(HEADER + ROWS, mapping)
    assert home.bytes() == {}


def test_a_mapping_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.toml").write_bytes('[store]\nname = "Grün"\n'.encode("latin-1"))
    with pytest.raises(MappingError, match=r"in\.toml: not UTF-8"):
        Mapping.read(tmp_path / "in.toml")


def test_a_mapping_may_not_contradict_the_store_on_record(home: Home) -> None:
    home.load(HEADER + ROWS, ORDER + '[store]\ncurrency = "EUR"\n')
    home.load(HEADER + ROWS, ORDER + '[store]\nname = "Corner"\n')
    assert (home.history.store.currency, home.history.store.name) == ("EUR", "Corner")
    with pytest.raises(LoadError, match="currency is 'GBP', the history records 'EUR'"):
        home.load(HEADER + ROWS, ORDER + '[store]\ncurrency = "GBP"\n')


# --- streaming -------------------------------------------------------------------------------------------


def test_rows_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BATCH", 3)
    (tmp_path / "in.csv").write_text("x\n" + "1\n" * 8)
    rows = csv_rows(tmp_path / "in.csv", Mapping.parse(ORDER).source)
    next(rows)
    schema = pa.schema([("x", pa.string()), ("_line", pa.int64()), ("_p", pa.string()), ("_g", pa.string())])
    assert [batch.num_rows for batch in csv_batches(rows, 1, schema)] == [3, 3, 2]


def test_progress_counts_on_across_files(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BATCH", 1)
    seen: list[int] = []
    home.load_files(
        [home.file(HEADER + ROWS, n) for n in ("a.csv", "b.csv")], progress=lambda done, _: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 4


# --- the samples and the demo data -----------------------------------------------------------------------


def sample(home: Home, name: str) -> LoadReport:
    mapping = Mapping.read(SAMPLES / f"{name}.toml")
    return load(
        home.history, "events", [SAMPLES / f"{name}.csv"], mapping, rejects_dir=home.folder / "rejects"
    )


def test_the_wholesaler(home: Home) -> None:
    report = sample(home, "wholesale")
    events = home.history.events().to_pandas()
    assert report.rejected == {"quantity is not above 0": 1}
    assert report.left_out["charges"] > 5
    assert set(events.event_type) == {"order", "return"}
    assert events[events.event_type == "return"].order_id.str.startswith("C").all()
    assert 0.1 < events.customer_id.isna().mean() < 0.4
    assert home.history.store.currency == "GBP"
    assert home.history.row("products", "84879")["title"] == "Assorted Colour Bird Ornament"  # type: ignore[index]
    assert sample(home, "wholesale").loaded == 0


def test_the_grocer(home: Home) -> None:
    assert sample(home, "grocer").rejected == {}
    event = home.events()[0]
    assert event["order_id"].startswith(f"{event['customer_id']} 2025-03-03")
    assert event["occurred_at"] == datetime(2025, 3, 2, 23, tzinfo=UTC)
    tea = home.history.row("products", "4002")
    assert tea and (tea["title"], tea["category"]) == ("Grüner Tee", ["Getränke", "Tee"])


def test_promotions_of_the_demo_data(home: Home) -> None:
    columns = {
        "product_id": [10, 9, 9, 9],
        "store_id": [1, 1, 1, 1],
        "display_location": ["9", "0", "0", "A"],
        "mailer_location": ["A", "H", "H", "0"],
        "week": [1, 2, 2, 12],
    }
    pq.write_table(pa.table(columns), home.folder / "promotions.parquet")
    assert load_promotions(home.history, home.folder / "promotions.parquet").loaded == 4
    before = home.bytes()
    assert load_promotions(home.history, home.folder / "promotions.parquet").known == 4
    assert home.bytes() == before
    found = home.history.table("promotions").to_pylist()
    assert [(p["product_id"], p["kind"]) for p in found] == [
        ("10", "display:9"),
        ("10", "mailer:A"),
        ("9", "mailer:H"),
        ("9", "display:A"),
    ]
    # week 12 begins on 13 March, a day after the clocks went forward
    assert [p["starts"].isoformat()[:16] for p in found[1:]] == [
        "2016-12-26T05:00",
        "2017-01-02T05:00",
        "2017-03-13T04:00",
    ]
    assert all(p["known_at"] == p["starts"] < p["ends"] for p in found)
    assert load_promotions(home.history, home.folder / "promotions.parquet", known=35).replaced == 4
    found = home.history.table("promotions").to_pylist()
    assert all(p["starts"] - p["known_at"] == timedelta(days=35) for p in found)


@pytest.mark.parametrize("table", ["events", "products", "customers"])
def test_the_mappings_of_the_demo_data_fit_the_contract(table: str) -> None:
    mapping_of(table).check(table)
