"""`POST /v1/events`: what happened, one event or many, stored before it is answered.

Each event is read by the contract's columns and judged by the contract's checks. What requests bring while
one group of events is being written is the next group: one commit for all of them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from anyio import to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from features.judge import Judge, Row
from features.schema import EVENTS, ID_LENGTH
from serving.body import read_body
from serving.headers import JSON, NDJSON
from serving.keys import EVENTS as EVENTS_SCOPE
from serving.lines import Line, line_of, lines_of, name_in, wire_model
from serving.logs import why
from serving.openapi import Operation
from serving.schemas import EventAnswer, EventsAnswer
from serving.store import Outcome, Store
from serving.tokens import MAX_TOKEN
from serving.wire import RequestError, Wire

MAX_EVENTS = 1_000  # in one request
MAX_WAITING = 10_000  # events that wait for a group to be written
Status = Literal["accepted", "duplicate", "rejected"]
STATUSES: tuple[Status, ...] = get_args(Status)
log = logging.getLogger("osclms.service")


TOKEN = Field(None, max_length=MAX_TOKEN, description="in place of customer_id, from a browser")
Event: Any = wire_model("Event", EVENTS, customer_token=(str | None, TOKEN))
Told = Callable[[dict[str, Any]], dict[str, Any]]


def plain(event: dict[str, Any]) -> dict[str, Any]:
    return event


class Sent(Wire):
    """A body whose events are read one by one, so that a broken one costs no other."""

    events: tuple[Any, ...] = Field((), max_length=MAX_EVENTS)


class EventsRequest(Sent):
    events: tuple[Event, ...] = Field((), max_length=MAX_EVENTS)


OPERATION = Operation(
    "events",
    "POST",
    "/v1/events",
    "Store what happened; an event is stored once, however often it is sent",
    answer=EventsAnswer,
    body=EventsRequest,
    row=Event,
    takes=(NDJSON,),
    statuses={
        200: "every event is stored, now or before",
        207: "some events are rejected, the answer says which and why; the others are stored",
    },
    example={
        "events": [
            {
                "event_id": "visit-4711-1",
                "event_type": "view",
                "occurred_at": "2018-01-02T10:00:00Z",
                "customer_id": "visit-4711",
                "product_id": "995242",
            }
        ]
    },
    scope=EVENTS_SCOPE,
)


class Verdict(NamedTuple):
    status: Status
    error: str | None = None


VERDICTS: Mapping[Outcome, Verdict] = {
    Outcome.ACCEPTED: Verdict("accepted"),
    Outcome.DUPLICATE: Verdict("duplicate"),
    Outcome.CONFLICT: Verdict("rejected", "event_id is known with other content, which stays as it is"),
}


Group = list[tuple[Sequence[Row], "asyncio.Future[Sequence[Verdict]]"]]


class Intake:
    """Takes events into the store, for all requests of one event loop."""

    def __init__(self, store: Store) -> None:
        self.store, self.judge = store, Judge(EVENTS)
        self.waiting: Group = []
        self.writer: asyncio.Task[None] | None = None

    async def answer(
        self, request: Request, *, at: datetime, told: Told = plain, space: str = ""
    ) -> Response:
        """The answer to a request that was received at `at`.

        `told` makes of each event what its sender may tell; its RequestError costs that event alone. Ids are kept
        with `space` before them, and answered as they were sent.
        """
        lines = lines_of(
            *await read_body(request, (JSON, NDJSON)), lambda given: read_event(given, at, told, space),
            sent=Sent, key="event_id", most=MAX_EVENTS, what="events",
        )  # fmt: skip
        rows = [line.row for line in lines if line.row is not None]
        return answered(lines, await self.stored(rows) if rows else ())

    def keep(self, event: Mapping[str, Any]) -> None:
        """An event of our own, as a click on one of our links. Raises StoreError."""
        line = read_event(dict(event), event["occurred_at"])
        self.settle([line.row] if line.row is not None else [])

    async def stored(self, rows: Sequence[Row]) -> Sequence[Verdict]:
        """What became of rows, once they are on disk."""
        if sum(len(others) for others, _ in self.waiting) + len(rows) > MAX_WAITING:
            raise RequestError("events", "too many at once: send them again in a moment", 503)
        future: asyncio.Future[Sequence[Verdict]] = asyncio.get_running_loop().create_future()
        self.waiting.append((rows, future))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self.write())
        return await future

    async def write(self) -> None:
        """Write group after group until nothing waits, also for a request whose caller has gone."""
        while self.waiting:
            group, self.waiting = self.waiting, []
            try:
                verdicts = await to_thread.run_sync(self.settle, [row for rows, _ in group for row in rows])
            except Exception as error:
                fail(group, error)
            else:
                hand_out(group, verdicts)

    def settle(self, rows: Sequence[Row]) -> list[Verdict]:
        reasons = erased(self.store, rows, self.judge.reasons(rows))
        fine = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        outcomes = iter(self.store.add(fine) if fine else ())
        return [Verdict("rejected", reason) if reason else VERDICTS[next(outcomes)] for reason in reasons]


def erased(store: Store, rows: Sequence[Row], reasons: Sequence[str | None]) -> list[str | None]:
    """The reasons why rows are refused; of customers who were erased nothing is taken any more."""
    named = {row["customer_id"] for row in rows} - {None}
    gone = store.buried(named) if named else set()
    return [
        "the customer was erased" if row["customer_id"] in gone else reason
        for row, reason in zip(rows, reasons, strict=True)
    ]


def hand_out(group: Group, verdicts: Sequence[Verdict]) -> None:
    """To each request those of its rows."""
    done = 0
    for rows, future in group:
        if not future.done():  # it is where the caller has gone
            future.set_result(verdicts[done : done + len(rows)])
        done += len(rows)


def fail(group: Group, error: Exception) -> None:
    """Nothing is known to be stored."""
    log.error("events were not stored: %s", why(error))
    for _, future in group:
        if not future.done():
            future.set_exception(RequestError("events", "not stored: send the same ones again", 503))


def read_event(given: Any, at: datetime, told: Told = plain, space: str = "") -> Line:
    """An event by the contract's columns and their types, received at `at`; `space` goes before its id."""
    try:
        given = told(given) if isinstance(given, dict) else given
    except RequestError as error:
        return Line(name_in(given, "event_id"), error=str(error))
    line = line_of(given, Event, key="event_id", what="event", at=at)
    if line.row is None:
        return line
    row = dict(line.row)
    if row.pop("customer_token") is not None:
        return Line(line.name, error="customer_token: this service opens none")
    if line.name and len(line.name) > (most := ID_LENGTH - len(space)):
        return Line(line.name, error=f"event_id is longer than {most}")
    return line._replace(row=row | {"event_id": line.name and space + line.name})


def answered(lines: Sequence[Line], verdicts: Iterable[Verdict]) -> Response:
    """An answer a line; 207 where one is rejected."""
    rest = iter(verdicts)
    told = [Verdict("rejected", line.error) if line.row is None else next(rest) for line in lines]
    counts = Counter(verdict.status for verdict in told)
    events = tuple(
        EventAnswer(index=index, event_id=line.name, status=verdict.status, error=verdict.error)
        for index, (line, verdict) in enumerate(zip(lines, told, strict=True))
    )
    whole = EventsAnswer(**{status: counts[status] for status in STATUSES}, events=events)
    return Response(whole.model_dump_json(), 207 if counts["rejected"] else 200, media_type=JSON)
