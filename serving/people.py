"""`/v1/customers/{customer_id}`: what a customer says of themselves and agrees to, all that is held of them, and
their erasure.

A customer may be named by any of their ids. What is told is what the history and the store hold, read when it is
asked for; who was erased is not told of, and nothing is taken of them any more.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from anyio import to_thread
from pydantic import Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from features.history import History, canonical
from features.judge import Row
from features.schema import CHANNELS, CONSENTS, CUSTOMERS, ID_LENGTH, IDENTITIES, PURPOSES, RECEIVED, Table
from serving.body import read_body
from serving.changes import judge_of, keep
from serving.door import caller
from serving.headers import JSON
from serving.identities import identities_now, ids_of, naming, said_now
from serving.lines import Text, Word, cell, wire_model
from serving.openapi import Operation
from serving.profile import Everybody, Profile, by_history, by_model, profile
from serving.schemas import Moment
from serving.store import LEDGERS, Store, StoreError
from serving.wire import RequestError, Wire

PATH = "/v1/customers/{customer_id}"
MOST = 100  # other ids, and consents, in one request
ORDERS = ("order", "return")
log = logging.getLogger("osclms.service")


class Consent(Wire):
    channel: str = Field(description=" ".join(CHANNELS))
    purpose: str = Field(description=" ".join(PURPOSES))
    granted: bool = Field(strict=True)
    at: Moment | None = Field(None, description="missing: now")
    source: Text = Field(None, description="where it was given: a form, a till")


MORE: Mapping[str, Any] = {
    "identities": (tuple[Word, ...], Field((), max_length=MOST, description="other ids of this customer")),
    "consents": (tuple[Consent, ...], Field((), max_length=MOST, description="who agreed to what, and when")),
}
CustomerChange: Any = wire_model("CustomerChange", CUSTOMERS, without=("customer_id",), **MORE)


class Stored(Wire):
    customer_id: str
    facts: int = Field(description="how many facts were said")
    identities: int
    consents: int


class CustomerQuery(Wire):
    at: Moment | None = Field(
        None,
        description="as of this moment: nothing that happened at or after it is told; missing: all, as of now",
    )


class CustomerAbout(Wire):
    """All that is held of a customer; who is unknown, or was erased, has nothing."""

    customer_id: str
    identities: tuple[str, ...] = Field(description="other ids of this customer")
    facts: dict[str, Any]
    consents: tuple[dict[str, Any], ...] = Field(
        description="what holds now, by channel and purpose: the latest record; what has none was not agreed to"
    )
    consent_records: tuple[dict[str, Any], ...]
    orders: tuple[dict[str, Any], ...] = Field(
        description="each with its lines, returns among them, oldest first"
    )
    events: tuple[dict[str, Any], ...] = Field(description="all else that happened, oldest first")
    sends: tuple[dict[str, Any], ...] = Field(description="the lists that were shown or sent")
    profile: Profile | None = Field(None, description="what it comes to; missing, where nothing is held")


class Erased(Wire):
    erased: int = Field(description="how many ids the customer had")


OPERATIONS = (
    Operation(
        "put_customer",
        "PUT",
        PATH,
        "Say facts, other ids and consents of a customer; what is not said stays",
        answer=Stored,
        body=CustomerChange,
        example={"region": "North", "identities": ["card-0815"]},
        statuses={
            200: "stored",
            410: "the customer was erased",
            503: "nothing is known to be stored: send the same again",
        },
    ),
    Operation(
        "get_customer",
        "GET",
        PATH,
        "All that is held of a customer, and what it comes to",
        answer=CustomerAbout,
        query=CustomerQuery,
        example={"at": "2030-01-01"},
        statuses={200: "as it is now", 503: "the database cannot be used now: ask again"},
    ),
    Operation(
        "delete_customer",
        "DELETE",
        PATH,
        "Erase a customer with all their ids: a stranger from now on; `osclms erase --finish` removes what is held",
        answer=Erased,
        statuses={
            200: "the customer is a stranger",
            503: "nothing is known to be stored: send the same again",
        },
    ),
)


# --- who it is --------------------------------------------------------------------------------------------


def named(request: Request) -> str:
    try:
        found = cell(request.path_params["customer_id"]) or ""
    except PydanticCustomError as error:
        raise RequestError("customer_id", error.message()) from None
    if not 0 < len(found) <= ID_LENGTH:
        raise RequestError("customer_id", f"must have 1 to {ID_LENGTH} characters")
    return found


# --- what is said of them ---------------------------------------------------------------------------------


async def put_customer(store: Store, history: History | None, request: Request, *, at: datetime) -> Response:
    body, _ = await read_body(request)
    said = CustomerChange.model_validate_json(body or b"{}")
    return answer(await asked(take, store, history, named(request), said, at, caller(request).key_id or None))


def take(
    store: Store, history: History | None, customer_id: str, said: Any, at: datetime, by: str | None = None
) -> Stored:
    """Store what was said, all or nothing; `by` is the key that said it. Raises RequestError by the first fault."""
    names = said_now(store, history)
    own = ids_of(customer_id, canonical(names))[0]
    if store.buried({own, customer_id, *said.identities}):
        raise RequestError("customer_id", "the customer was erased: nothing is taken of them any more", 410)
    facts = {name: value for name, value in vars(said).items() if name not in MORE and value is not None}
    rows: dict[Table, list[Row]] = {
        CUSTOMERS: [{"customer_id": own, **facts}] if facts else [],
        IDENTITIES: [{"alias": alias, "customer_id": own} for alias in said.identities if alias != own],
        CONSENTS: [
            {"customer_id": own, **vars(consent), "at": consent.at or at} for consent in said.consents
        ],
    }
    rows = {table: [{**row, RECEIVED.name: at} for row in of] for table, of in rows.items() if of}
    for table, of in rows.items():
        for reason in filter(None, judge_of(table).reasons(of)):
            raise RequestError(table.name, reason)
    record = naming(names, [row["alias"] for row in rows.get(IDENTITIES, ())], own, by=by, at=at)["merges"]
    keep(store, {**{table.name: of for table, of in rows.items()}, **({"merges": record} if record else {})})
    counts = {table.name: len(of) for table, of in rows.items()}
    told = {name: counts.get(name, 0) for name in ("identities", "consents")}
    return Stored(customer_id=own, facts=len(facts), **told)


# --- what is held of them ---------------------------------------------------------------------------------


async def get_customer(
    store: Store,
    history: History | None,
    request: Request,
    everybody: Everybody,
    *,
    until: datetime | None,
    now: datetime,
) -> Response:
    view = partial(viewed, everybody, history is not None, until or now)
    return answer(await asked(held, store, history, named(request), until, view))


def viewed(
    everybody: Everybody,
    whole: bool,
    at: datetime,
    ids: Sequence[str],
    events: Sequence[Row],
    sends: Sequence[Row],
) -> Profile:
    """The profile of a customer; `whole`: these are all the events there ever were."""
    life = by_history(everybody, events, at) if whole else by_model(everybody, ids, events, at)
    return profile(everybody, life, sends)


def held(
    store: Store,
    history: History | None,
    customer_id: str,
    until: datetime | None = None,
    view: Callable[[Sequence[str], Sequence[Row], Sequence[Row]], Profile] | None = None,
) -> CustomerAbout:
    """What history and store hold of a customer by any of their ids, all of it or of what happened before `until`, and
    what `view` makes of it."""
    end = until or datetime.max.replace(tzinfo=UTC)
    ids = ids_of(customer_id, identities_now(store, history, until))
    gone = store.buried(ids)
    ids = tuple(name for name in ids if name not in gone) or ("",)
    events = {
        row["event_id"]: row for row in (*history_rows(history, "events", ids), *store.of("events", ids))
    }
    happened = sorted(
        (row for row in events.values() if row["occurred_at"] < end),
        key=lambda row: (row["occurred_at"], row["event_id"]),
    )
    records = [row for row in consent_records(store, history, ids) if row["at"] < end]
    facts, sends = facts_of(store, history, ids), [row for row in store.of("sends", ids) if row["at"] < end]
    seen = view(ids, happened, sends) if view else None
    anything = happened or records or facts or sends or (seen and seen.orders.count)
    return CustomerAbout(
        customer_id=customer_id,
        identities=tuple(name for name in ids[1:]),
        facts=facts,
        consents=tuple(told("consents", row) for row in consents_now(records).values()),
        consent_records=tuple(told("consents", row) for row in records),
        orders=tuple(orders_of(happened)),
        events=tuple(told("events", row) for row in happened if row["event_type"] not in ORDERS),
        sends=tuple(told("sends", row) for row in sends),
        profile=seen if anything else None,
    )


def history_rows(history: History | None, table: str, ids: Sequence[str]) -> list[Row]:
    if history is None:
        return []
    if table == "events":
        return list(history.events_of(ids))
    import pyarrow.compute as pc

    return list(history.table(table, where=pc.field("customer_id").isin(list(ids))).to_pylist())


def facts_of(store: Store, history: History | None, ids: Sequence[str]) -> dict[str, Any]:
    """What was said last of each fact, in the history and then live."""
    found: dict[str, Any] = {}
    for row in (*history_rows(history, "customers", ids), *store.of("customers", ids)):
        found |= {name: row[name] for name in CUSTOMERS.names[1:] if row.get(name) is not None}
    return found


def consent_records(store: Store, history: History | None, ids: Sequence[str]) -> list[Row]:
    """Every record, oldest first, as it was received last."""
    rows = (*history_rows(history, "consents", ids), *store.of("consents", ids))
    known = {
        tuple(row[name] for name in CONSENTS.key[1:]): row for row in rows
    }  # whichever id it was given by
    return sorted(known.values(), key=lambda row: row["at"])


def consents_now(records: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """By channel and purpose the latest record. What is not in it was not agreed to."""
    return {(row["channel"], row["purpose"]): row for row in records}


def orders_of(events: Sequence[Row]) -> Iterable[dict[str, Any]]:
    orders: dict[str | None, list[Row]] = {}
    for row in events:
        if row["event_type"] in ORDERS:
            orders.setdefault(row["order_id"], []).append(row)
    for order_id, lines in orders.items():
        yield {
            "order_id": order_id,
            "at": lines[0]["occurred_at"],
            "lines": [told("events", row) for row in lines],
        }


def told(table: str, row: Row) -> dict[str, Any]:
    """What a row says, by the contract's columns, without what is missing."""
    return {name: row[name] for name in LEDGERS[table].names if row.get(name) is not None}


# --- erased -----------------------------------------------------------------------------------------------


async def delete_customer(
    store: Store, history: History | None, request: Request, *, at: datetime
) -> Response:
    return answer(await asked(erase, store, history, named(request), at))


def erase(store: Store, history: History | None, customer_id: str, at: datetime) -> Erased:
    """Bury a customer under all their ids. Doing it again changes nothing."""
    ids = ids_of(customer_id, identities_now(store, history))
    for name in {*ids, customer_id}:
        store.bury(name, at=at)
    return Erased(erased=len({*ids, customer_id}))


async def asked(act: Callable[..., Wire], *of: Any) -> Wire:
    """What `act` gives, off the event loop. Raises RequestError where the database cannot be used."""
    try:
        return await to_thread.run_sync(act, *of)
    except StoreError as error:
        log.error("customers: %s", error)
        raise RequestError("customer_id", "the database cannot be used now: ask again", 503) from None


def answer(value: Wire) -> Response:
    return Response(value.model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})
