"""Lists by the file: for every customer, or for a file of questions; and customers' scores."""

import json
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from serving.engine import Engine
from serving.schemas import Question, RecommendRequest
from serving.scores import Scored
from serving.wire import RequestError, worded

CHUNK = 500  # lists held at once
ITEM = ("product_id", "title", "price", "url", "image_url", "score", "story")
NUMBERS = {"rank": pa.int32(), "price": pa.float64(), "score": pa.float64()}
Row = dict[str, Any]
Write = Callable[[list[Row]], None]
Aliases = Mapping[str, str]  # the customer behind each other id
NONE: Aliases = {}
Asked = tuple[str, RecommendRequest]  # what the answer is filed under, and what is asked


class BulkError(ValueError):
    """A file that cannot be read or written as asked; the message names the line and the way out."""


def everybody(engine: Engine, limit: int | None, aliases: Aliases = NONE) -> Iterator[Asked]:
    """A question for each customer of the bundle who was not erased: who has no purchase there was. Those who turned
    out to be one are asked for once."""
    customers, bought = engine.history.customers, np.diff(engine.history.start)
    merged = np.array(customers.positions(list(aliases))) >= 0
    named = {own for own, here in zip(aliases.values(), merged.tolist(), strict=True) if here}
    for place in np.flatnonzero(bought).tolist():
        customer = customers.at([place])[0]
        if customer not in aliases and customer not in named and not engine.is_buried(customer):
            yield customer, RecommendRequest(customer_id=customer, limit=limit)
    for customer in sorted(named):
        if not engine.is_buried(customer):
            yield customer, RecommendRequest(customer_id=customer, limit=limit)


def queries(path: Path, limit: int | None, aliases: Aliases = NONE) -> Iterator[Asked]:
    """The questions of an NDJSON file, by the customers behind `aliases`.

    Raises BulkError with the line of the first that is not understood.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if line.strip():
                asked = understood(line, f"{path}, line {number}")
                named = asked.customer_id and aliases.get(asked.customer_id, asked.customer_id)
                change = {"customer_id": named, "limit": asked.limit or limit}
                yield str(asked.query_id), asked.model_copy(update=change)


def understood(line: bytes, where: str) -> Question:
    """A question as the service's batch takes it, with the id that its answer is filed under."""
    expected = 'expected {"query_id": …, "customer_id": … or none, "product_ids": […]}'
    try:
        asked = Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise BulkError(f"{where}: {field}: {worded(first)}; {expected}") from error
    if asked.query_id is None:
        raise BulkError(f"{where}: query_id: missing; {expected}")
    if asked.customer_token is not None:
        raise BulkError(f"{where}: customer_token: the service alone opens tokens; {expected}")
    if asked.explain:
        raise BulkError(f"{where}: explain: the file has no column for it; {expected}")
    if asked.record:
        raise BulkError(f"{where}: record: the service's batch puts lists on record; {expected}")
    return asked


def write_lists(
    engine: Engine,
    placement: str,
    questions: Iterable[Asked],
    out: Path,
    *,
    key: str,
    at: datetime,
    told: Callable[[int], None] = lambda done: None,
) -> int:
    """Answer every question into `out` (.parquet or .ndjson), a row an item, and return how many were answered.

    Columns: `key`, rank from 1, ITEM, recommendation_id. The file appears whole or not at all.
    """
    done = 0
    with writer(out, columns_of(key)) as write:
        for chunk in chunks(questions):
            write([row for question in chunk for row in answered(engine, placement, question, key, at)])
            done += len(chunk)
            told(done)
    return done


def chunks(questions: Iterable[Asked]) -> Iterator[list[Asked]]:
    held: list[Asked] = []
    for question in questions:
        held.append(question)
        if len(held) == CHUNK:
            yield held
            held = []
    if held:
        yield held


def answered(engine: Engine, placement: str, question: Asked, key: str, at: datetime) -> Iterator[Row]:
    name, request = question
    try:
        response = engine.recommend(placement, request, at=at)
    except RequestError as error:
        raise BulkError(f"{key} {name}: {error}") from error
    for rank, item in enumerate(response.items, 1):
        values = {column: getattr(item, column) for column in ITEM}
        yield {key: name, "rank": rank, **values, "recommendation_id": response.recommendation_id}


def columns_of(key: str) -> pa.Schema:
    """Of a file of lists that are filed under `key`."""
    names = (key, "rank", *ITEM, "recommendation_id")
    return pa.schema([(name, NUMBERS.get(name, pa.string())) for name in names])


@contextmanager
def writer(out: Path, columns: pa.Schema) -> Iterator[Write]:
    """What writes rows to a file beside `out` that takes its place once all is written."""
    formats = {".parquet": parquet_writer, ".ndjson": ndjson_writer}
    if out.suffix not in formats:
        raise BulkError(f"{out} is neither .parquet nor .ndjson: name the file after one of the two")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with formats[out.suffix](unfinished, columns) as write:
            yield write
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def parquet_writer(path: Path, columns: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, columns, compression="zstd") as file:
        yield lambda rows: file.write_table(pa.Table.from_pylist(rows, schema=columns))


@contextmanager
def ndjson_writer(path: Path, columns: pa.Schema) -> Iterator[Write]:
    del columns
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- scores -------------------------------------------------------------------------------------------------


def write_scores(scored: Scored, out: Path, *, gone: Callable[[str], bool]) -> int:
    """A row a customer with an order into `out` (.parquet or .ndjson), but for who is `gone`; how many.

    Columns: customer_id, churn, spend, and a column `buys MAIN CATEGORY` of each; a score that was refused has none.
    """
    figures = columns_scored(scored)
    columns = pa.schema([("customer_id", pa.string()), *((name, pa.float32()) for name in figures)])
    known = np.flatnonzero(np.logical_or.reduce([~np.isnan(of) for of in figures.values()]))
    done = 0
    with writer(out, columns) as write:
        for first in range(0, len(known), CHUNK):
            places = known[first : first + CHUNK]
            values = zip(
                scored.customers.at(places), *(of[places].tolist() for of in figures.values()), strict=True
            )
            rows = [dict(zip(columns.names, row, strict=True)) for row in values if not gone(row[0])]
            write(rows)
            done += len(rows)
    return done


def columns_scored(scored: Scored) -> dict[str, Any]:
    """Figures by customer, each by its column."""
    told = {"churn": scored.churn, "spend": scored.spend}
    buys = (
        {}
        if scored.buys is None
        else {f"buys {c}": scored.buys[:, n] for n, c in enumerate(scored.categories)}
    )
    return {name: of for name, of in (told | buys).items() if of is not None}
