"""Lists on their way to mails, and clicks on their way back: fragments and the links in them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

from anyio import to_thread
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from lifecycle.fragments import LIST_LENGTH, Part, fragment
from serving import metrics
from serving.engine import Engine
from serving.headers import HTML, PART_HEADERS, REDIRECT_HEADERS, TEXT
from serving.keys import OPEN
from serving.links import Click, Followed, Links, click_event, is_click
from serving.openapi import Operation
from serving.schemas import MAX_IDS, Id, Moment, RecommendRequest, RecommendResponse
from serving.tokens import Expired, TokenError
from serving.wire import MAX_LIMIT, RequestError, Wire

log = logging.getLogger("osclms.delivery")
Clicked = Callable[[Mapping[str, Any]], None]  # keeps an event of the contract
Row = Mapping[str, Any]
Sent = Callable[[Sequence[Row]], None]  # keeps rows of the ledger of what was sent
MEDIA: Mapping[Part, str] = {"html": HTML, "txt": TEXT}
NO_PLACEMENT = "none"  # the label where a path or a link names none of ours


def parted(given: object) -> object:
    """`1,2` as a query has it. An id with a comma cannot be asked for here."""
    return tuple(filter(None, given.split(","))) if isinstance(given, str) else given


Record = Annotated[
    bool, Field(description="true: this is sent to the customer, and on record as such; never of a preview")
]
Parted = Annotated[tuple[Id, ...], BeforeValidator(parted), Field(max_length=MAX_IDS)]


class FragmentQuery(Wire):
    customer_id: Id | None = None
    product_ids: Parted = Field(
        (), description="the product looked at, or the basket: ids with commas between"
    )
    exclude: Parted = Field((), description="never in the list: ids with commas between")
    limit: int = Field(LIST_LENGTH, ge=1, le=MAX_LIMIT)
    at: Moment | None = Field(None, description="as of this moment; missing: now")
    locale: str | None = Field(
        None,
        max_length=35,
        description="how prices are written: en-GB, es-MX, fr; missing, or of a language that no message is in: en-US",
    )
    record: Record = False

    @property
    def request(self) -> RecommendRequest:
        return RecommendRequest.model_validate(self.model_dump(exclude={"locale", "record"}))


OPERATIONS = (
    *(
        Operation(
            f"fragment_{part}",
            "GET",
            f"/v1/fragments/{{placement}}.{part}",
            f"A list for a mail, as {about}; empty where there is nothing to show",
            query=FragmentQuery,
            also=(media,),
            example={"customer_id": "1", "limit": "3"},
        )
        for part, about, media in (("html", "an HTML table", "text/html"), ("txt", "text", "text/plain"))
    ),
    Operation(
        "follow",
        "GET",
        "/r/{token}",
        "Follow a link of a fragment to the product, or to what stands in for it",
        statuses={302: "there, by Location"},
        scope=OPEN,
    ),
)


def sends(
    sent: Sent | None,
    customer_id: str | None,
    lists: Sequence[RecommendResponse],
    *,
    at: datetime,
    now: datetime,
    channel: str,
) -> list[Row]:
    """Rows of the ledger that say these lists go to a customer.

    Raises RequestError where nobody is named, or there is no database.
    """
    if customer_id is None:
        raise RequestError("record", "of whom? give customer_id")
    if sent is None:
        raise RequestError("record", "no database: set OSCLMS_HOME or OSCLMS_DATABASE_URL", 503)
    about = {"customer_id": customer_id, "at": at, "channel": channel, "received_at": now}
    return [
        about
        | {"placement": of.placement, "recommendation_id": of.recommendation_id}
        | {"product_ids": [item.product_id for item in of.items]}
        for of in lists
        if of.items
    ]


async def recorded(sent: Sent | None, rows: Sequence[Row]) -> None:
    """Put on record what is sent. What cannot be kept is counted, and the mail goes out."""
    if sent is None or not rows:
        return
    try:
        await to_thread.run_sync(sent, rows)
    except Exception as error:
        metrics.SENDS_LOST.inc(len(rows))
        log.error(
            "what was sent is not on record: %s", type(error).__name__
        )  # the message may hold what it says


def fragment_answer(
    engine: Engine,
    links: Links | None,
    placement: str,
    asked: FragmentQuery,
    part: Part,
    *,
    at: datetime,
    now: datetime,
) -> tuple[Response, RecommendResponse]:
    """The fragment, and the list in it; the headers say which list it is, how long, and how much of it is fill."""
    made = fragment(
        engine, placement, asked.request, part=part, locale=asked.locale, links=links, at=at, now=now
    )
    items = made.found.items
    metrics.listed(made.found)
    if not items:
        metrics.EMPTY.labels(placement).inc()
    about = {
        "OSCLMS-Recommendation-Id": made.found.recommendation_id,
        "OSCLMS-Items": str(len(items)),
        "OSCLMS-Filled": str(sum(item.filled for item in items)),
        "OSCLMS-Model-Version": made.found.model_version,
    }
    return Response(made.body, media_type=MEDIA[part], headers={**PART_HEADERS, **about}), made.found


async def follow_answer(
    engine: Engine, links: Links | None, request: Request, clicked: Clicked | None, *, now: datetime
) -> Response:
    """A redirect into the shop. Raises RequestError for a token that is none of ours."""
    if links is None:
        raise RequestError("token", "this service follows no links: set OSCLMS_PUBLIC_URL", 404)
    try:
        click = links.read(request.path_params["token"], at=now)
    except Expired:
        return redirect(Followed(links.shop_url, "expired"), NO_PLACEMENT, counts=False)
    except TokenError as error:
        raise RequestError("token", str(error), 404) from error
    counts = is_click(request.method, request.headers)
    if counts and clicked:
        await keep(clicked, click, now)
    known = click.placement in engine.placements
    return redirect(links.follow(engine, click), click.placement if known else NO_PLACEMENT, counts=counts)


async def keep(clicked: Clicked, click: Click, now: datetime) -> None:
    """Whoever clicked goes on to the shop, whether or not the event could be kept."""
    try:
        await to_thread.run_sync(clicked, click_event(click, event_id=uuid4().hex, at=now))
    except Exception as error:
        metrics.LOST.inc()
        log.error("a click was not kept: %s", type(error).__name__)  # the message may hold what it says


def redirect(to: Followed, placement: str, *, counts: bool) -> Response:
    metrics.CLICKS.labels(placement, to.outcome, "yes" if counts else "no").inc()
    return RedirectResponse(to.target, 302, headers=REDIRECT_HEADERS)
