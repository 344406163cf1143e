"""`PUT /v1/products`: what is sold now, one product or many, stored before it is answered.

A product is read by the contract's columns and judged by the contract's checks, as an event is. What a change
does not say stays as it was, so that a price or a stock may come alone, and may come twice.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from anyio import to_thread
from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from features.judge import Judge, Row
from features.schema import PRODUCTS, RECEIVED, Table
from serving.body import JSON, read_body
from serving.events import KINDS, NDJSON, Text
from serving.openapi import Operation
from serving.store import Store, StoreError
from serving.wire import RequestError, Wire

MAX_PRODUCTS = 1_000  # in one request
OURS = ("derived", "known_from")  # columns that the history keeps for itself
log = logging.getLogger("osclms.service")


def as_text(given: object) -> object:
    """An object as the text that the contract keeps it as."""
    return json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given


Attributes = Annotated[Text | dict[str, Any], BeforeValidator(as_text)]


def change_model(
    name: str, table: Table, without: Sequence[str], more: Mapping[str, Any] | None = None
) -> Any:
    """A row of a table of the contract as JSON, where all that is not required may be left out."""
    fields: dict[str, Any] = {
        c.name: (
            Attributes if c.name == "attributes" else KINDS[c.type],
            Field(... if c.required else None, description=c.about or None),
        )
        for c in table.columns
        if c.name not in without
    }
    return create_model(name, __base__=Wire, **fields, **(more or {}))


Product: Any = change_model("ProductChange", PRODUCTS, OURS)


class Sent(Wire):
    """A body whose products are read one by one, so that a broken one costs no other."""

    products: tuple[Any, ...] = Field((), max_length=MAX_PRODUCTS)


class ProductsRequest(Sent):
    products: tuple[Product, ...] = Field((), max_length=MAX_PRODUCTS)


class ProductAnswer(Wire):
    index: int = Field(description="its place in what was sent, from 0")
    product_id: str | None
    status: Literal["accepted", "rejected"] = Field(
        description="accepted: stored, on disk; rejected: see error"
    )
    error: str | None = None


class ProductsAnswer(Wire):
    accepted: int
    rejected: int
    products: tuple[ProductAnswer, ...]


OPERATION = Operation(
    "put_products",
    "PUT",
    "/v1/products",
    "Say what is sold: prices, stock, new products; what a change does not say stays",
    answer=ProductsAnswer,
    body=ProductsRequest,
    takes=(NDJSON,),
    example={"products": [{"product_id": "voucher-50", "price": 45, "in_stock": False}]},
    statuses={
        200: "every product is stored, and in the answers within seconds",
        207: "some products are rejected, the answer says which and why; the others are stored",
        503: "nothing is known to be stored: send the same products again",
    },
)


class Line(NamedTuple):
    """A product as it was sent: the row that it is, or what is wrong with it."""

    product_id: str | None
    row: Row | None = None
    error: str | None = None


async def answer_products(store: Store, request: Request, *, at: datetime) -> Response:
    lines = read_lines(*await read_body(request, (JSON, NDJSON)), at)
    return answered(await to_thread.run_sync(settled, store, lines))


def settled(store: Store, lines: Sequence[Line]) -> list[Line]:
    """The lines with what the contract's checks say; those that keep it are on disk."""
    rows = [line.row for line in lines if line.row is not None]
    reasons = iter(judge_of(PRODUCTS).reasons(rows) if rows else ())
    told = [line if line.row is None else line._replace(error=next(reasons)) for line in lines]
    fine = [line.row for line in told if line.row is not None and line.error is None]
    keep(store, {PRODUCTS.name: fine} if fine else {})
    return told


def keep(store: Store, tables: Mapping[str, Sequence[Row]]) -> None:
    """Store rows, all or none. Raises RequestError where nothing is known to be stored; the log gets the kind alone."""
    try:
        store.record(tables)
    except StoreError as error:
        log.error("changes were not stored: %s", error)
        raise RequestError("body", "not stored: send the same again", 503) from None


@cache
def judge_of(table: Table) -> Judge:
    return Judge(table)


def read_lines(body: bytes, kind: str, at: datetime) -> list[Line]:
    """The products of a body. Raises RequestError, or ValidationError where it is no JSON of such a shape."""
    if kind == NDJSON:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > MAX_PRODUCTS:
            raise RequestError("body", f"more than {MAX_PRODUCTS:,} products: send them in parts", 413)
        return [read_line(line, at) for line in lines]
    return [read_product(given, at) for given in Sent.model_validate_json(body or b"{}").products]


def read_line(line: bytes, at: datetime) -> Line:
    try:
        return read_product(from_json(line), at)
    except ValueError:
        return Line(None, error="the line is not JSON")


def read_product(given: Any, at: datetime) -> Line:
    """A product by the contract's columns and their types, received at `at`."""
    name = given.get(PRODUCTS.key[0]) if isinstance(given, dict) else None
    try:
        product = Product.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or "product"
        return Line(name if isinstance(name, str) else None, error=f"{place}: {fault['msg']}")
    return Line(product.product_id, {**vars(product), RECEIVED.name: at})


def answered(lines: Iterable[Line]) -> Response:
    """An answer a line; 207 where one is rejected."""
    told = tuple(
        ProductAnswer(
            index=index,
            product_id=line.product_id,
            status="rejected" if line.error else "accepted",
            error=line.error,
        )
        for index, line in enumerate(lines)
    )
    counts = Counter(line.status for line in told)
    whole = ProductsAnswer(accepted=counts["accepted"], rejected=counts["rejected"], products=told)
    return Response(whole.model_dump_json(), 207 if counts["rejected"] else 200, media_type=JSON)
