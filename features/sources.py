"""Readers that bring a source into the contract: CSV, gzipped CSV and Parquet, by a mapping.

A source is read in batches of text columns with their line numbers; mapping and contract together become one
SELECT over them, which a DuckDB on disk runs: each row comes out mapped, left out by a rule, or rejected for
the first reason that holds. Nothing else is ever in memory, however long the file.
"""

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa

from features.catalog import PATH_SEPARATOR
from features.history import History, HistoryError, Merged, database, first_row, identifier, quoted
from features.mapping import DAY, PLACEHOLDER, Format, From, LeaveOut, Mapping
from features.schema import EVENTS, FLAG, ID_LENGTH, PATH, PRODUCTS, REAL, SPACE, SQL, TABLES, TIME, Table

BATCH = 100_000  # rows
CSV_FIELD = 1_000_000  # characters
CSV_LINES = 1_000  # of one record; what goes on beyond them is a quote left open
STRAY_QUOTE = "a quote is neither closed nor doubled"
UNREADABLE = (duckdb.Error, OSError, EOFError, UnicodeError, csv.Error, zlib.error, pa.ArrowException)
Progress = Callable[[int, int | None], None]


class LoadError(HistoryError):
    """The load is refused and has changed nothing; the message says why and what to do."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows of a load; `read` is the sum of all but `products`."""

    table: str
    read: int = 0
    loaded: int = 0
    known: int = 0
    replaced: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejects: Path | None = None
    products: int = 0

    def __str__(self) -> str:
        parts = [
            f"{self.table}: {self.read:,} rows read",
            f"{self.loaded:,} new",
            f"{self.known:,} known already",
        ]
        parts += [f"{self.replaced:,} replaced"] if self.replaced else []
        parts += [f"{n:,} left out ({rule})" for rule, n in self.left_out.items()]
        parts += [f"{n:,} rejected ({reason})" for reason, n in self.rejected.items()]
        parts += [f"{self.products:,} products new or changed"] if self.products else []
        return ", ".join(parts) + (f"; rejects in {self.rejects}" if self.rejects else "")


def load(
    history: History,
    table: str,
    files: Sequence[Path],
    mapping: Mapping,
    *,
    max_rejects: float = 0.01,
    rejects_dir: Path,
    progress: Progress | None = None,
) -> LoadReport:
    """Bring files into a table of the history, all or nothing, and say what became of each row.

    Events that are known stay as they are; rows of other tables replace those of the same key, the last
    row winning. Refuses with a LoadError, changing nothing, where a file cannot be read, where the
    mapping contradicts the store on record, or where more than `max_rejects` of the rows that no rule
    leaves out are rejects. Rejects are written to `rejects_dir` in either case.
    """
    mapping.check(table)
    with history.loading() as staging, database(staging) as db:
        store = said_store(history, mapping)
        zone = store.get("time_zone", "UTC")
        _create(db, TABLES[table], mapping)
        rows = 0
        for ordinal, path in enumerate(map(Path, files)):
            rows += _stage(db, TABLES[table], mapping, path, ordinal, zone, rows, progress)
        report = _judged(db, table, files, rejects_dir)
        _refuse_above(max_rejects, report)
        merged, products = _merged(history, db, TABLES[table], mapping, staging)
        history.commit((*merged.files, *products.files), store, staging)
    return LoadReport(
        table,
        report.read,
        merged.loaded,
        report.loaded - merged.loaded - merged.replaced,
        merged.replaced,
        report.left_out,
        report.rejected,
        report.rejects,
        products.loaded + products.replaced,
    )


def said_store(history: History, mapping: Mapping) -> dict[str, str]:
    """What is known of the store after this mapping; LoadError where it contradicts the record."""
    record = history.manifest.store
    said = mapping.store.model_dump(exclude_none=True)
    for key, value in said.items():
        if record.get(key, value) != value:
            raise LoadError(
                f"the mapping says that the store's {key} is {value!r}, the history records {record[key]!r}: "
                "correct store in the mapping, or load into another home"
            )
    return {**record, **said}


def _refuse_above(max_rejects: float, report: LoadReport) -> None:
    rejected, judged = sum(report.rejected.values()), report.read - sum(report.left_out.values())
    if rejected > max_rejects * judged:
        reasons = "; ".join(f"{n:,} × {reason}" for reason, n in report.rejected.items())
        raise LoadError(
            f"{report.table}: {rejected:,} of {judged:,} rows are rejects, more than {max_rejects:.2%}, so "
            f"nothing was loaded: {reasons}. See {report.rejects}; correct the source or the mapping, "
            "or allow more rejects"
        )


# --- from files to the table `staged` -------------------------------------------------------------------


def _create(db: duckdb.DuckDBPyConnection, table: Table, mapping: Mapping) -> None:
    """`staged`: the contract's columns, those of derived products as p_…, and what became of the row."""
    columns = [f"{identifier(c.name)} {SQL[c.type]}" for c in table.columns]
    columns += [f"p_{c.name} {SQL[c.type]}" for c in PRODUCTS.columns if c.name in mapping.products]
    judged = ["_row BIGINT", "_left VARCHAR", "_reason VARCHAR", "_raw VARCHAR"]
    db.execute(f"CREATE TABLE staged ({', '.join(columns + judged)})")


def _stage(
    db: duckdb.DuckDBPyConnection,
    table: Table,
    mapping: Mapping,
    path: Path,
    ordinal: int,
    zone: str,
    before: int,
    progress: Progress | None,
) -> int:
    """Judge every row of a file into `staged`, numbered file by file and line by line; how many."""
    try:
        parquet = path.suffix.lower() == ".parquet"
        raw = _parquet(db, path) if parquet else _csv(db, path, mapping, before, progress)
        _check_reads(mapping, path, list(raw))
        sql = Select(table, mapping, raw, zone, ordinal).sql()
        (rows,) = first_row(db, f"INSERT INTO staged {sql}")
    except UNREADABLE as broken:
        raise LoadError(f"{path} cannot be read, so nothing was loaded: {_first_line(broken)}") from broken
    if progress:
        progress(before + rows, None)
    return int(rows)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _check_reads(mapping: Mapping, path: Path, names: list[str]) -> None:
    for read, key in mapping.reads.items():
        if read not in names:
            raise LoadError(
                f"{key} reads the column {read!r}, which {path} does not have; it has {', '.join(names)}"
            )


@dataclass(frozen=True)
class Cell:
    """A source column in the relation `raw`: its name there and its DuckDB type."""

    name: str
    type: str

    @property
    def text(self) -> str:
        """SQL: its text without space around, null where empty.

        Of floats, one that is whole is written as an integer, and NaN is missing, as pandas has it.
        """
        if self.type in FLOATS:
            whole = f"{self.name} = trunc({self.name}) AND abs({self.name}) < 1e15"
            written = f"WHEN NOT isnan({self.name}) THEN {self.name}::VARCHAR"
            # DuckDB may cast rows that the condition leaves out, NaN among them
            return f"CASE WHEN {whole} THEN try_cast({self.name} AS BIGINT)::VARCHAR {written} END"
        if self.type in INTEGERS:
            return f"{self.name}::VARCHAR"
        return f"nullif(trim({self.name}::VARCHAR, {quoted(SPACE)}), '')"


Cells = dict[str, Cell]


def _parquet(db: duckdb.DuckDBPyConnection, path: Path) -> Cells:
    source = f"read_parquet({quoted(str(path))}, file_row_number = true)"
    described = db.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    cells = {row[0]: Cell(f"c{i}", row[1]) for i, row in enumerate(described) if row[0] != "file_row_number"}
    columns = ", ".join(f"{identifier(name)} AS {cell.name}" for name, cell in cells.items())
    db.execute(
        f"CREATE OR REPLACE TEMP VIEW raw AS SELECT {columns}, file_row_number + 1 AS _line, "
        f"NULL::VARCHAR AS _problem, NULL::VARCHAR AS _given FROM {source}"
    )
    return cells


def _csv(
    db: duckdb.DuckDBPyConnection, path: Path, mapping: Mapping, before: int, progress: Progress | None
) -> Cells:
    rows = csv_rows(path, mapping.source)
    header = _header(path, rows, mapping)
    cells = {name: Cell(f"c{i}", "VARCHAR") for i, name in enumerate(header)}
    names = [*(f"c{i}" for i in range(len(header))), "_line", "_problem", "_given"]
    schema = pa.schema([(n, pa.int64() if n == "_line" else pa.string()) for n in names])
    batches = _counted(csv_batches(rows, len(header), schema), before, progress)
    db.register("raw", pa.RecordBatchReader.from_batches(schema, batches))
    return cells


def _header(path: Path, rows: Iterator[tuple[int, list[str], str]], mapping: Mapping) -> list[str]:
    """The names of the columns. Of those that share one, which the mapping may not read, the later tell their place."""
    _, fields, problem = next(rows, (0, [], ""))
    if not fields:
        raise LoadError(f"{path} is empty: it has not even a header")
    if problem == STRAY_QUOTE:
        raise LoadError(f"the header of {path}: {problem}")
    names = [name.strip() for name in fields]
    for read, key in mapping.reads.items():
        if names.count(read) > 1:
            raise LoadError(
                f"{key} reads {read!r}, but {path} has two columns of that name: give each its own"
            )
    return [f"{n} (column {i + 1})" if n in names[:i] else n for i, n in enumerate(names)]


def csv_rows(path: Path, written: Format) -> Iterator[tuple[int, list[str], str]]:
    """Rows of a CSV file, header first: physical line, fields, and what is wrong with it, or ""."""
    csv.field_size_limit(CSV_FIELD)
    broken: dict[int, str] = {}
    with _opened(path, written.encoding) as file:
        for first, end, fields, problem in _records(_watched(file, broken), written):
            if fields:
                found = _problem(broken, first, end) if broken else ""
                yield first, fields, problem or found


def _records(lines: Iterator[str], written: Format) -> Iterator[tuple[int, int, list[str], str]]:
    """Records of a CSV file: first and last physical line, fields, and why the record is malformed, or "".

    A malformed record is its first line alone, as one field: what a stray quote has swallowed is read again
    from the next line on, and so costs no other row. That is also the way of a record of several lines that
    has not as many fields as the header, or whose lines look like rows. At most CSV_LINES + 1 lines are held.
    """
    taken: list[str] = []
    again: deque[str] = deque()
    first, width = 1, 0
    while True:
        handed = _handed(lines, taken, again)
        reader = csv.reader(handed, delimiter=written.delimiter, quotechar=written.quote, strict=True)
        try:
            for fields in reader:
                width = width or len(fields)
                if len(taken) > 1 and (problem := _joined(taken, fields, width, written.delimiter)):
                    break
                yield first, first + len(taken) - 1, fields, ""
                first += len(taken)
                taken.clear()
            else:
                return
        except csv.Error as error:
            problem = _malformed(error, len(taken))
        yield first, first, [taken[0].rstrip("\r\n")], problem
        first += 1
        again.extendleft(reversed(taken[1:]))
        taken.clear()


def _handed(lines: Iterator[str], taken: list[str], again: deque[str]) -> Iterator[str]:
    """Lines for one record after the other, first those to be read again; `taken` keeps those of the record."""
    while line := again.popleft() if again else next(lines, ""):
        taken.append(line)
        if len(taken) > CSV_LINES:
            raise csv.Error("too many lines")
        yield line


def _joined(lines: list[str], fields: list[str], width: int, delimiter: str) -> str:
    """Why lines that quotes make one record are none: its width, or each has a row's delimiters, at least three."""
    if len(fields) != width:
        return f"has {len(fields)} fields, header has {width}"
    rows = width > 3 and all(line.count(delimiter) == width - 1 for line in lines if line.strip())
    return STRAY_QUOTE if rows else ""


def _malformed(error: csv.Error, lines: int) -> str:
    """What is wrong with a record of so many lines. A field that grows too long over several is an open quote."""
    if lines == 1 and "field limit" in str(error):
        return f"a field is longer than {CSV_FIELD:,} characters"
    return STRAY_QUOTE


def _problem(broken: dict[int, str], first: int, end: int) -> str:
    found = [broken.pop(line) for line in range(first, end + 1) if line in broken]
    return found[0] if found else ""


def _opened(path: Path, encoding: str) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding=encoding, errors="surrogateescape", newline="")
    return path.open(encoding=encoding, errors="surrogateescape", newline="")


def _watched(file: IO[str], broken: dict[int, str]) -> Iterator[str]:
    """The lines of a file; notes which hold what is no text, with that taken out."""
    for number, line in enumerate(file, 1):
        if "\0" in line:
            broken[number] = "a NUL byte"
            line = line.replace("\0", "\ufffd")
        if not line.isascii() and (clean := line.encode(errors="replace").decode()) != line:
            broken[number] = "bytes that are not in the encoding"
            line = clean
        yield line


def csv_batches(
    rows: Iterator[tuple[int, list[str], str]], width: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows as batches of columns; a row that is malformed or of a wrong width is nulls and its problem."""
    nothing = [None] * width
    batch: list[tuple[object, ...]] = []
    for line, fields, problem in rows:
        if not problem and len(fields) != width:
            problem = f"has {len(fields)} fields, header has {width}"
        if problem:
            batch.append((*nothing, line, problem, json.dumps(fields, ensure_ascii=False)))
        else:
            batch.append((*fields, line, None, None))
        if len(batch) == BATCH:
            yield _batch(batch, schema)
            batch = []
    if batch:
        yield _batch(batch, schema)


def _batch(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _counted(
    batches: Iterable[pa.RecordBatch], before: int, progress: Progress | None
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        before += batch.num_rows
        if progress:
            progress(before, None)


# --- mapping and contract as one SELECT -----------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A contract column as SQL, and the text that it was read from: given but null means unreadable."""

    sql: str
    given: str


@dataclass(frozen=True)
class Select:
    """The SELECT that maps and judges the rows of the relation `raw` for one table."""

    table: Table
    mapping: Mapping
    cells: Cells
    zone: str
    ordinal: int

    def sql(self) -> str:
        """Columns of `staged`, in its order.

        Three steps, each a subquery: `texts` trims what is read (s0, s1 …), `mapped` gives the contract's
        columns and their texts (g_…), `marked` makes returns of what is marked as one.
        """
        columns = ", ".join(self._own_id() if n == "event_id" else identifier(n) for n in self.table.names)
        products = "".join(f", p_{n}" for n in PRODUCTS.names if n in self.mapping.products)
        return f"""
            WITH texts AS (SELECT *, {self._texts()} FROM raw),
            mapped AS (SELECT *, {self._mapped()} FROM texts),
            marked AS (SELECT * {self._returns()} FROM mapped),
            judged AS (SELECT *, {self._left()} AS _left, {self._reason()} AS _why FROM marked)
            SELECT {columns}{products}, {self.ordinal}::BIGINT * 1099511627776 + _line AS _row, _left,
                CASE WHEN _left IS NULL THEN _why END AS _reason,
                CASE WHEN _left IS NULL AND _why IS NOT NULL THEN coalesce(_given, {self._raw()}) END
            FROM judged"""

    def _own_id(self) -> str:
        """SQL of the event's id; where the source has none, a hash of the row's content in the contract."""
        if "event_id" in self.mapping.columns:
            return "event_id"
        content = ", ".join(f"coalesce({n}::VARCHAR, '')" for n in self.table.names if n != "event_id")
        return f"md5(concat_ws(chr(31), {content}))"

    def _texts(self) -> str:
        return ", ".join(f"{self.cells[n].text} AS {self._text(n)}" for n in self._read)

    @property
    def _read(self) -> list[str]:
        return [n for n in self.cells if n in self.mapping.reads]

    def _text(self, name: str) -> str:
        return "s" + self.cells[name].name[1:]

    def _raw(self) -> str:
        fields = ", ".join(f"{quoted(n)}, {c.name}" for n, c in self.cells.items())
        return f"json_object({fields})::VARCHAR"

    def _mapped(self) -> str:
        """Contract columns, `occurred_at` first, as {@day} is made from it; what is not mapped is null."""
        parts = []
        for table, prefix, sources in (
            (self.table, "", self.mapping.columns),
            (PRODUCTS, "p_", self.mapping.products),
        ):
            for name, kind in sorted(
                ((c.name, c.type) for c in table.columns), key=lambda c: c[0] != "occurred_at"
            ):
                if name in sources:
                    value = self.value(kind, sources[name])
                    parts += [
                        f"{value.sql} AS {identifier(prefix + name)}",
                        f"{value.given} AS g_{prefix}{name}",
                    ]
                elif not prefix:
                    parts.append(f"NULL::{SQL[kind]} AS {identifier(name)}")
        return ", ".join(parts)

    def value(self, kind: pa.DataType, source: From) -> Value:
        value = self._read_as(kind, source)
        if source.default is None:
            return value
        default = f"{quoted(_plain(source.default))}::{SQL[kind]}"
        return Value(f"CASE WHEN ({value.given}) IS NULL THEN {default} ELSE {value.sql} END", value.given)

    def _read_as(self, kind: pa.DataType, source: From) -> Value:
        given = self._given(source)
        if source.kind == "path":
            return Value(_path(f"[{', '.join(map(self._text, source.path))}]"), given)
        if kind == PATH:
            return self._category(source, given)
        if kind == REAL:
            return self._number(source, given)
        if kind == TIME:
            return Value(self._time(source, given), given)
        if kind == FLAG:
            return Value(_flag(source, given), given)
        if self._is_float(source):
            return Value(
                f"CASE WHEN isfinite({self.cells[source.column or ''].name}) THEN {given} END", given
            )
        return Value(given, given)

    def _given(self, source: From) -> str:
        """SQL of the text from which the column is read."""
        if source.kind == "value":
            return quoted(_plain(source.value))
        if source.kind == "template":
            return f"coalesce({', '.join(map(self._template, source.template))})"
        if source.kind == "object":
            pairs = ", ".join(f"{quoted(k)}, {self._text(n)}" for k, n in source.object.items())
            return f"nullif(json_merge_patch('{{}}', json_object({pairs}))::VARCHAR, '{{}}')"
        if source.kind == "path":
            return "NULL"
        text = self._text(source.column or "")
        cases = " ".join(f"WHEN {quoted(k)} THEN {quoted(_plain(v))}" for k, v in source.values.items())
        return f"CASE {text} {cases} ELSE {text} END" if cases else text

    def _template(self, template: str) -> str:
        """SQL of a template: null where any of its columns is missing."""
        parts, end = [], 0
        for found in PLACEHOLDER.finditer(template):
            parts += [quoted(template[end : found.start()]), CASES[found[2]].format(self._placed(found[1]))]
            end = found.end()
        return " || ".join(p for p in [*parts, quoted(template[end:])] if p != "''") or "''"

    def _placed(self, name: str) -> str:
        if name == DAY:
            return f"strftime(timezone({quoted(self.zone)}, occurred_at), '%Y-%m-%d')"
        return self._text(name)

    def _category(self, source: From, given: str) -> Value:
        cell = self.cells[source.column or ""]
        if cell.type.endswith("[]"):
            return Value(_path(f"{cell.name}::VARCHAR[]"), given)
        return Value(_path(f"string_split({given}, {quoted(source.split or PATH_SEPARATOR)})"), given)

    def _number(self, source: From, given: str) -> Value:
        """(column - less) / per; missing where `per` is missing or 0."""
        number = self._parsed(source.column, given)
        if source.less:
            number = f"({number} - coalesce({self._parsed(source.less)}, 0))"
        if source.per:
            per = f"nullif({self._parsed(source.per)}, 0)"
            return Value(f"{number} / {per}", f"CASE WHEN {per} IS NOT NULL THEN {given} END")
        return Value(number, given)

    def _parsed(self, column: str | None, given: str | None = None) -> str:
        text = given or self._text(column or "")
        cell = self.cells.get(column or "")
        if cell and cell.type != "VARCHAR" and text == self._text(column or ""):
            number = f"{cell.name}::DOUBLE"
        else:
            number = f"try_cast({_dotted(text, self.mapping.source)} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END"

    def _time(self, source: From, given: str) -> str:
        zone = quoted(source.zone or self.mapping.source.zone or self.zone)
        cell = self.cells.get(source.column or "")
        if cell and cell.type == "TIMESTAMP WITH TIME ZONE":
            return cell.name
        if cell and (cell.type.startswith("TIMESTAMP") or cell.type == "DATE"):
            return f"timezone({zone}, {cell.name}::TIMESTAMP)"
        formats = source.time or self.mapping.source.time
        return f"coalesce({', '.join(_moment(given, f, zone) for f in formats)})"

    def _returns(self) -> str:
        """SQL that turns marked lines of the type order into returns."""
        rules, marks = self.mapping.returns, []
        if rules.negative_quantity:
            marks.append("quantity < 0")
        if rules.order_prefix:
            marks.append(f"starts_with(order_id, {quoted(rules.order_prefix)})")
        if not marks:
            return ""
        back = f"coalesce({' OR '.join(f'coalesce({m}, false)' for m in marks)})"
        replaced = [
            f"CASE WHEN {back} AND event_type = 'order' THEN 'return' ELSE event_type END AS event_type",
            f"CASE WHEN {back} THEN abs(quantity) ELSE quantity END AS quantity",
        ]
        totals = [n for n in ("unit_price", "discount") if n in (c := self.mapping.columns) and c[n].per]
        replaced += [f"CASE WHEN {back} THEN abs({n}) ELSE {n} END AS {n}" for n in totals]
        if rules.strip:
            prefix, length = quoted(rules.order_prefix or ""), len(rules.order_prefix or "") + 1
            stripped = f"nullif(substr(order_id, {length}), '')"
            replaced.append(
                f"CASE WHEN starts_with(order_id, {prefix}) THEN {stripped} ELSE order_id END AS order_id"
            )
        return f"REPLACE ({', '.join(replaced)})"

    def _left(self) -> str:
        cases = [f"WHEN {self._rule(rule)} THEN {quoted(rule.name)}" for rule in self.mapping.leave_out]
        return f"CASE WHEN _problem IS NOT NULL THEN NULL {' '.join(cases)} END"

    def _rule(self, rule: LeaveOut) -> str:
        text = self._text(rule.column)
        if rule.empty:
            return f"{text} IS NULL"
        if rule.pattern is not None:
            return f"regexp_matches({text}, {quoted(rule.pattern)})"
        return f"{text} IN ({_quoted_all(rule.values or ())})"

    def _is_number(self, source: From) -> bool:
        """An id from a column of integers needs no look at its characters."""
        read = [self.cells[n].type for n in source.reads if n in self.cells]
        return bool(read) and all(kind in INTEGERS for kind in read) and not source.values

    def _is_float(self, source: From) -> bool:
        """A cell of a float column may be infinite, which is no text."""
        cell = self.cells.get(source.column or "")
        return cell is not None and cell.type in FLOATS

    def _reason(self) -> str:
        """SQL of the first reason to reject the row, or null."""
        reasons = [("_problem IS NOT NULL", "_problem")]
        for c in self.table.columns:
            source = self.mapping.columns.get(c.name)
            if source and c.type != PATH and (c.type in (REAL, TIME, FLAG) or self._is_float(source)):
                unreadable = f"g_{c.name} IS NOT NULL AND {identifier(c.name)} IS NULL"
                reasons.append((unreadable, quoted(f"{c.name} is not a {KINDS.get(c.type, 'text')}")))
            if source:
                checks = c.there if self._is_number(source) else (*c.there, *c.proper)
                reasons += [(f"({check.holds}) IS FALSE", quoted(check.reason)) for check in checks]
        reasons += [(f"({check.holds}) IS FALSE", quoted(check.reason)) for check in self.table.checks]
        return f"CASE {' '.join(f'WHEN {test} THEN {why}' for test, why in reasons)} END"


FLOATS = ("DOUBLE", "FLOAT")
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
KINDS = {REAL: "number", TIME: "time", FLAG: "flag"}
TITLE = (
    r"array_to_string(list_transform(regexp_extract_all({0}, '[\pL'']+|[^\pL'']+'), "
    "lambda w: upper(w[1]) || lower(w[2:])), '')"
)
CASES = {"": "{0}", None: "{0}", "title": TITLE, "upper": "upper({0})", "lower": "lower({0})"}
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


def _plain(value: str | int | float | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted_all(values: Iterable[str]) -> str:
    return ", ".join(map(quoted, values))


def _path(levels: str) -> str:
    """SQL of a category path: trimmed levels, the missing ones dropped, null where none is left.

    A level holds none of what is written between levels, so that a joined path is read in one way alone.
    """
    level = f"nullif(replace(trim(x), {quoted(PATH_SEPARATOR.strip())}, '›'), '')"
    kept = f"list_filter(list_transform({levels}, lambda x: {level}), lambda x: x IS NOT NULL)"
    return f"CASE WHEN len({kept}) > 0 THEN {kept} END"


def _flag(source: From, given: str) -> str:
    if source.among is not None:
        return f"{given} IN ({_quoted_all(source.among)})"
    if source.not_among is not None:
        return f"{given} NOT IN ({_quoted_all(source.not_among)})"
    yes, no = (f"lower({given}) IN ({_quoted_all(words)})" for words in (YES, NO))
    return f"CASE WHEN {yes} THEN true WHEN {no} THEN false END"


def _dotted(text: str, written: Format) -> str:
    """SQL of a number's text with a decimal point. A stray separator makes it unreadable, not another one."""
    if mark := written.thousands:
        grouped = quoted(f"[+-]?\\d{{1,3}}([{mark}]\\d{{3}})+([{written.decimal}]\\d*)?")
        ungrouped = f"WHEN regexp_full_match({text}, {grouped}) THEN replace({text}, {quoted(mark)}, '')"
        text = f"CASE WHEN NOT contains({text}, {quoted(mark)}) THEN {text} {ungrouped} END"
    if written.decimal == ",":
        text = f"CASE WHEN NOT contains({text}, '.') THEN replace({text}, ',', '.') END"
    return text


def _moment(text: str, written: str, zone: str) -> str:
    """SQL of a time: null where the text is not so written."""
    if written in EPOCHS:
        seconds = f"try_cast({text} AS DOUBLE) / {EPOCHS[written]}"
        return f"CASE WHEN {seconds} BETWEEN 0 AND 253402300799 THEN to_timestamp({seconds}) END"
    if written == "iso":
        absolute = f"regexp_matches({text}, '^\\d{{4}}-.*:.*(Z|[+-]\\d\\d(:?\\d\\d)?)$')"
        local = f"CASE WHEN regexp_matches({text}, '^\\d{{4}}-') THEN try_cast({text} AS TIMESTAMP) END"
        return f"CASE WHEN {absolute} THEN try_cast({text} AS TIMESTAMPTZ) ELSE timezone({zone}, {local}) END"
    return f"timezone({zone}, try_strptime({text}, {quoted(written)})::TIMESTAMP)"


EPOCHS = {"epoch": 1, "epoch_ms": 1000}


# --- from the table `staged` to the history -------------------------------------------------------------


def _judged(
    db: duckdb.DuckDBPyConnection, table: str, files: Sequence[Path], rejects_dir: Path
) -> LoadReport:
    """The counts of `staged`, and its rejects in a file; `loaded` are the rows that may be loaded."""

    def counted(column: str) -> dict[str, int]:
        sql = (
            f"SELECT {column}, count(*) FROM staged WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return dict(db.execute(sql).fetchall())

    (read,) = first_row(db, "SELECT count(*) FROM staged")
    left_out, rejected = counted("_left"), counted("_reason")
    path = _write_rejects(db, table, files, Path(rejects_dir)) if rejected else None
    fine = read - sum(left_out.values()) - sum(rejected.values())
    return LoadReport(table, read, fine, left_out=left_out, rejected=rejected, rejects=path)


def _write_rejects(
    db: duckdb.DuckDBPyConnection, table: str, files: Sequence[Path], rejects_dir: Path
) -> Path:
    """A CSV of file, line, reason, and the row as JSON; a later load of the same file replaces it."""
    rejects_dir.mkdir(parents=True, exist_ok=True)
    path = rejects_dir / f"{table}.{Path(files[0]).name}.rejects.csv"
    names = f"[{', '.join(quoted(str(f)) for f in files)}]"
    db.execute(
        f"COPY (SELECT {names}[(_row >> 40) + 1] AS file, _row & 1099511627775 AS line, _reason AS reason, "
        f"_raw AS row FROM staged WHERE _reason IS NOT NULL ORDER BY _row) "
        f"TO {quoted(str(path))} (FORMAT csv, HEADER)"
    )
    return path


def _merged(
    history: History, db: duckdb.DuckDBPyConnection, table: Table, mapping: Mapping, staging: Path
) -> tuple[Merged, Merged]:
    """Stage the accepted rows, each key once, and the products that they tell of."""
    if table is EVENTS and "event_id" not in mapping.columns:
        _number_ids(db)
    _create_incoming(db, table)
    products = _derive_products(history, db, mapping, staging) if mapping.products else Merged()
    return history.merge(db, table, "incoming", staging), products


def _number_ids(db: duckdb.DuckDBPyConnection) -> None:
    """Number derived ids that repeat: what occurs n times in one file happened n times."""
    db.execute(f"""
        UPDATE staged SET event_id = staged.event_id || '-' || nth FROM (
            SELECT _row, row_number() OVER (PARTITION BY event_id, _row >> 40 ORDER BY _row) AS nth
            FROM staged SEMI JOIN (
                SELECT event_id, _row >> 40 AS file FROM staged WHERE {ACCEPTED}
                GROUP BY ALL HAVING count(*) > 1
            ) twice USING (event_id) WHERE {ACCEPTED}
        ) repeated WHERE repeated._row = staged._row AND nth > 1""")


ACCEPTED = "_left IS NULL AND _reason IS NULL"


def _create_incoming(db: duckdb.DuckDBPyConnection, table: Table) -> None:
    """The view `incoming`: accepted rows, of those with one key the first event, else the last row."""
    keys, best = [identifier(k) for k in table.key], "min" if table is EVENTS else "max"
    key, same = ", ".join(keys), " AND ".join(f"staged.{k} IS NOT DISTINCT FROM kept.{k}" for k in keys)
    db.execute(f"""
        CREATE TEMP TABLE losers AS SELECT _row FROM staged JOIN (
            SELECT {key}, {best}(_row) AS best FROM staged WHERE {ACCEPTED} GROUP BY {key} HAVING count(*) > 1
        ) kept ON {same} WHERE _row <> best AND {ACCEPTED}""")
    db.execute(
        f"CREATE TEMP VIEW incoming AS SELECT * FROM staged ANTI JOIN losers USING (_row) WHERE {ACCEPTED}"
    )


def _derive_products(
    history: History, db: duckdb.DuckDBPyConnection, mapping: Mapping, staging: Path
) -> Merged:
    """Stage the products that new events tell of: of each the earliest row, whatever the order of loading.

    A product that a product list has named is left alone; of rows at the same moment the first in the
    order of text counts. A row whose product breaks the contract tells nothing.
    """
    told = {n: f"p_{n}" for n in mapping.products} | {"known_from": "occurred_at", "derived": "true"}
    columns = ", ".join(f"{told.get(c.name, 'NULL')}::{SQL[c.type]} AS {c.name}" for c in PRODUCTS.columns)
    checks = " AND ".join(f"coalesce({check.holds}, true)" for check in PRODUCTS.checks)
    news = f"SELECT * FROM incoming {_unless(history, 'events', 'event_id')}"
    fine = f"product_id IS NOT NULL AND length(product_id) <= {ID_LENGTH} AND {checks}"
    known = history.files("products")
    listed = f"read_parquet([{_quoted_all(map(str, known))}])" if known else ""
    candidates = f"SELECT * FROM (SELECT {columns} FROM ({news})) WHERE {fine}"
    if listed:
        candidates += f" UNION ALL SELECT {', '.join(PRODUCTS.names)} FROM {listed} WHERE derived"
    order = ["known_from", *(n for n in PRODUCTS.names if n not in ("known_from", "product_id"))]
    row = ", ".join(f"{n} := {n}" for n in order)
    named = f"ANTI JOIN (SELECT product_id FROM {listed} WHERE derived IS NOT TRUE) named USING (product_id)"
    db.execute(f"""
        CREATE TEMP TABLE derived AS SELECT product_id, unnest(min(struct_pack({row})))
        FROM ({candidates}) told {named if listed else ""} GROUP BY product_id""")
    return history.merge(db, PRODUCTS, "derived", staging)


def _unless(history: History, table: str, key: str) -> str:
    files = history.files(table)
    return f"ANTI JOIN read_parquet([{_quoted_all(map(str, files))}]) old USING ({key})" if files else ""
