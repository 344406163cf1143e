"""`PUT /v1/products`: what is sold now, one product or many, stored before it is answered.

A product is read by the contract's columns and judged by the contract's checks, as an event is. What a change
does not say stays as it was, so that a price or a stock may come alone, and may come twice.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

from anyio import to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from features.judge import Judge, Row
from features.schema import PRODUCTS, Table
from serving.body import read_body
from serving.headers import JSON, NDJSON
from serving.lines import Line, line_of, lines_of, wire_model
from serving.openapi import Operation
from serving.schemas import ProductAnswer, ProductsAnswer
from serving.store import Store, StoreError
from serving.wire import RequestError, Wire

MAX_PRODUCTS = 1_000  # in one request
OURS = ("derived", "known_from")  # columns that the history keeps for itself
log = logging.getLogger("osclms.service")


Product: Any = wire_model("ProductChange", PRODUCTS, without=OURS)


class Sent(Wire):
    """A body whose products are read one by one, so that a broken one costs no other."""

    products: tuple[Any, ...] = Field((), max_length=MAX_PRODUCTS)


class ProductsRequest(Sent):
    products: tuple[Product, ...] = Field((), max_length=MAX_PRODUCTS)


OPERATION = Operation(
    "put_products",
    "PUT",
    "/v1/products",
    "Say what is sold: prices, stock, new products; what a change does not say stays",
    answer=ProductsAnswer,
    body=ProductsRequest,
    row=Product,
    takes=(NDJSON,),
    example={"products": [{"product_id": "voucher-50", "price": 45, "in_stock": False}]},
    statuses={
        200: "every product is stored, and in the answers within seconds",
        207: "some products are rejected, the answer says which and why; the others are stored",
        503: "nothing is known to be stored: send the same products again",
    },
)


async def answer_products(store: Store, request: Request, *, at: datetime) -> Response:
    lines = lines_of(
        *await read_body(request, (JSON, NDJSON)),
        partial(line_of, model=Product, key=PRODUCTS.key[0], what="product", at=at),
        sent=Sent, key=PRODUCTS.key[0], most=MAX_PRODUCTS, what="products",
    )  # fmt: skip
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


def answered(lines: Iterable[Line]) -> Response:
    """An answer a line; 207 where one is rejected."""
    told = tuple(
        ProductAnswer(
            index=index,
            product_id=line.name,
            status="rejected" if line.error else "accepted",
            error=line.error,
        )
        for index, line in enumerate(lines)
    )
    counts = Counter(line.status for line in told)
    whole = ProductsAnswer(accepted=counts["accepted"], rejected=counts["rejected"], products=told)
    return Response(whole.model_dump_json(), 207 if counts["rejected"] else 200, media_type=JSON)
