"""A client of the service: `with Client("http://127.0.0.1:3000") as osclms: osclms.recommend("next_best", …)`.

Answers are the models of serving/schemas.py, whatever goes wrong is an ApiError. Needs httpx and pydantic alone.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from serving.schemas import (
    CustomerAbout,
    CustomersAnswer,
    Erased,
    ErrorBody,
    EventsAnswer,
    MessageAnswer,
    NeedsResponse,
    Placements,
    Products,
    ProductsAnswer,
    RecommendRequest,
    RecommendResponse,
    Redeem,
    Redeemed,
    Stored,
)
from serving.wire import worded

TIMEOUT = 10.0  # seconds
STILL = 120.0  # seconds between two parts of a batch
RETRIES = 2
PAUSE = 0.2  # seconds before the first repetition; each further one waits twice as long
TRY_AGAIN = (429, 502, 503, 504)  # answers of what is busy, or stands in front of what is gone
Answer = TypeVar("Answer", bound=BaseModel)


class ApiError(Exception):
    """A call that failed: its status, None where no answer came, and the field that it names, if it names one."""

    def __init__(self, message: str, *, status: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


@dataclass(frozen=True)
class Fragment:
    """A list for a mail. `items` of it are in it, `filled` of these where the placement's own sources ran out."""

    body: str
    recommendation_id: str
    items: int
    filled: int


class Client:
    """Calls one service. A call that may be repeated without harm is, `retries` times, where no answer came."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, timeout=timeout, headers=headers, transport=transport)
        self.retries, self.sleep = retries, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def recommend(
        self, placement: str, request: RecommendRequest | None = None, **fields: Any
    ) -> RecommendResponse:
        """The list for a request, or for one of these fields. Raises ApiError."""
        asked = request or valid(RecommendRequest, fields)
        content = asked.model_dump_json(exclude_defaults=True)
        return read(RecommendResponse, self.post(f"/v1/recommend/{placement}", content))

    def recommend_many(
        self, placement: str, requests: Iterable[RecommendRequest]
    ) -> Iterator[RecommendResponse]:
        """A list for each request, in their order, each asked for when it is wanted."""
        return (self.recommend(placement, request) for request in requests)

    def batch(
        self, placement: str, requests: Iterable[RecommendRequest]
    ) -> Iterator[RecommendResponse | ApiError]:
        """For each request its list, or what is wrong with it, in their order, by one call: for a mailing of many. A
        `Question` that says `record` puts its list on record as sent.

        Raises ApiError for the call as a whole, also where the answer ends too soon, or nothing comes of it for STILL
        seconds. It is not repeated.
        """
        lines = (asked.model_dump_json(exclude_defaults=True).encode() + b"\n" for asked in requests)
        path, about = f"/v1/recommend/{placement}/batch", {"Content-Type": "application/x-ndjson"}
        try:
            with self.http.stream("POST", path, content=lines, headers=about, timeout=STILL) as answer:
                if not answer.is_success:
                    answer.read()
                    raise refusal(answer)
                yield from answered(answer.iter_lines())
        except httpx.TransportError as error:
            raise ApiError(f"no answer: {error}") from error

    def message(
        self,
        name: str = "thank_you",
        *,
        customer_id: str | None = None,
        order_id: str | None = None,
        at: datetime | None = None,
        agreed: bool | None = None,
        record: bool = False,
    ) -> MessageAnswer:
        """A message with its lists; `agreed`: whether the customer agreed to marketing, where consents are kept
        elsewhere; `record` puts on record that it is sent. Raises ApiError."""
        query = {
            "customer_id": customer_id, "order_id": order_id, "at": moment(at), "agreed": agreed,
            "record": record or None,
        }  # fmt: skip
        accept = {"Accept": "application/json"}
        return read(
            MessageAnswer, self.call("GET", f"/v1/messages/{name}", params=given(query), headers=accept)
        )

    def fragment(
        self,
        placement: str,
        *,
        part: Literal["html", "txt"] = "html",
        customer_id: str | None = None,
        product_ids: Sequence[str] = (),
        exclude: Sequence[str] = (),
        limit: int | None = None,
        at: datetime | None = None,
        locale: str | None = None,
        record: bool = False,
    ) -> Fragment:
        """A list as a part of a mail, its body empty where there is nothing to show; `record` puts on record that it is
        sent. Raises ApiError."""
        query = {
            "customer_id": customer_id, "product_ids": ",".join(product_ids), "exclude": ",".join(exclude),
            "limit": limit, "at": moment(at), "locale": locale, "record": record or None,
        }  # fmt: skip
        answer = self.call("GET", f"/v1/fragments/{placement}.{part}", params=given(query))
        about = answer.headers
        return Fragment(
            body=answer.text,
            recommendation_id=about["OSCLMS-Recommendation-Id"],
            items=int(about["OSCLMS-Items"]),
            filled=int(about["OSCLMS-Filled"]),
        )

    def needs(self, request: RecommendRequest | None = None, **fields: Any) -> NeedsResponse:
        """Which needs go with a basket, asked as a list is. Raises ApiError."""
        asked = request or valid(RecommendRequest, fields)
        return read(NeedsResponse, self.post("/v1/needs", asked.model_dump_json(exclude_defaults=True)))

    def placements(self) -> Placements:
        """What can be asked for. Raises ApiError."""
        return read(Placements, self.call("GET", "/v1/placements"))

    def search(self, words: str, *, limit: int | None = None) -> Products:
        """Products that can be had whose title holds all these words, what sells best first. Raises ApiError."""
        return read(Products, self.call("GET", "/v1/products", params=given({"q": words, "limit": limit})))

    def redeem(self, code: str, *, order_id: str) -> Redeemed:
        """Use a voucher for an order, once; asked again for the same order it is used all the same. Raises ApiError:
        404 where there is none, 409 where it was used before, 410 where it has ended."""
        asked = valid(Redeem, {"code": code, "order_id": order_id})
        return read(Redeemed, self.post("/v1/vouchers/redeem", asked.model_dump_json()))

    def events(self, events: Iterable[Mapping[str, Any]]) -> EventsAnswer:
        """Send rows of the events' contract; what became of each. Raises ApiError.

        One without an event_id or a moment gets them here, once, so that a repetition tells nothing twice.
        """
        now = datetime.now(UTC).isoformat()
        rows = [{"event_id": uuid4().hex, "occurred_at": now, **event} for event in events]
        return read(EventsAnswer, self.call("POST", "/v1/events", json={"events": rows}))

    def products(self, products: Iterable[Mapping[str, Any]]) -> ProductsAnswer:
        """Say what is sold, by rows of the products' contract; what became of each. Raises ApiError."""
        return read(ProductsAnswer, self.call("PUT", "/v1/products", json={"products": list(products)}))

    def tell_customer(self, customer_id: str, **said: Any) -> Stored:
        """Say facts, `identities` and `consents` of a customer, all or nothing. Raises ApiError.

        Consents without a moment get it here, once, so that a repetition tells nothing twice.
        """
        return read(Stored, self.call("PUT", customer_path(customer_id), json=dated(said)))

    def tell_customers(self, customers: Iterable[Mapping[str, Any]]) -> CustomersAnswer:
        """The same of many, each with its `customer_id`; what became of each. Raises ApiError."""
        rows = [dated(customer) for customer in customers]
        return read(CustomersAnswer, self.call("PUT", "/v1/customers", json={"customers": rows}))

    def customer(self, customer_id: str, *, at: datetime | None = None) -> CustomerAbout:
        """All that is held of a customer, as of `at` (missing: now). Raises ApiError."""
        query = given({"at": moment(at)})
        return read(CustomerAbout, self.call("GET", customer_path(customer_id), params=query))

    def erase(self, customer_id: str) -> Erased:
        """Make a customer a stranger, by all their ids. Raises ApiError."""
        return read(Erased, self.call("DELETE", customer_path(customer_id)))

    def post(self, path: str, content: str) -> httpx.Response:
        return self.call("POST", path, content=content, headers={"Content-Type": "application/json"})

    def call(self, method: str, path: str, **about: Any) -> httpx.Response:
        """One answer of 2xx. All our calls may be repeated: a list changes nothing, events are known by their ids, and
        what is said or erased twice is said or erased."""
        for left in range(self.retries, -1, -1):
            try:
                answer = self.http.request(method, path, **about)
            except httpx.TransportError as error:
                if not left:
                    raise ApiError(f"no answer: {error}") from error
            else:
                if answer.is_success:
                    return answer
                if not left or answer.status_code not in TRY_AGAIN:
                    raise refusal(answer)
            self.sleep(PAUSE * 2 ** (self.retries - left))
        raise AssertionError("unreachable")


def refusal(answer: httpx.Response) -> ApiError:
    """What an answer complains of, in its own words where it is the service's."""
    try:
        body = ErrorBody.model_validate_json(answer.content)
    except ValidationError:  # of a proxy's, for one
        body = ErrorBody(error=f"answered {answer.status_code}")
    field = body.fields[0].field if body.fields else None
    return ApiError(body.error, status=answer.status_code, field=field)


def answered(lines: Iterable[str]) -> Iterator[RecommendResponse | ApiError]:
    """The answers of a batch, whose last line counts them."""
    for line in lines:
        told = parsed(line)
        if "lines" in told:
            return
        if "line" not in told:
            raise ApiError(told["error"])
        if told["answer"]:
            yield RecommendResponse.model_validate(told["answer"])
        else:
            yield ApiError(told["error"], field=next((fault["field"] for fault in told["fields"]), None))
    raise ApiError("the answer was cut off: ask again")


def parsed(line: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ApiError("the answer was cut off: ask again") from error
    return told


def read(kind: type[Answer], answer: httpx.Response) -> Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise ApiError(f"no {kind.__name__} came back: is this the service, and of this version?",
                       status=answer.status_code) from error  # fmt: skip


def valid(kind: type[Answer], fields: Mapping[str, Any]) -> Answer:
    """The fields as a request; what is wrong with them is told as the service would."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ApiError(f"{field}: {worded(first)}", field=field) from error


def customer_path(customer_id: str) -> str:
    return f"/v1/customers/{quote(customer_id, safe='')}"


def dated(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a customer, its consents of now where they name no moment."""
    now = datetime.now(UTC).isoformat()
    consents = [{"at": now, **consent} for consent in said.get("consents", ())]
    return {**said, **({"consents": consents} if consents else {})}


def moment(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "")}
