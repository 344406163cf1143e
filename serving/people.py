"""`/v1/customers`: what a customer says of themselves and agrees to, all that is held of them, and
their erasure.

A customer may be named by any of their ids. What is told is what the history and the store hold, read when it is
asked for; who was erased is not told of, and nothing is taken of them any more.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from features.history import History, canonical
from features.judge import Row
from features.schema import CHANNELS, CONSENTS, CUSTOMERS, IDENTITIES, PURCHASES, PURPOSES, RECEIVED, Table
from serving.addresses import subjects_of, suppress
from serving.body import read_body
from serving.changes import judge_of
from serving.consents import consent_records, consents_now, history_rows, records_in
from serving.door import caller
from serving.headers import JSON, NDJSON
from serving.identities import ERASED, an_id, buried, ids_now, ids_of, naming, settled
from serving.lines import WITHDRAWN, Line, Text, Word, line_of, lines_of, wire_model
from serving.openapi import Operation
from serving.profile import Everybody, by_history, by_model, profile
from serving.schemas import CustomerAbout, CustomerAnswer, CustomersAnswer, Erased, Moment, Profile, Stored
from serving.store import LEDGERS, Store, StoreError
from serving.wire import RequestError, Wire

PATH = "/v1/customers/{customer_id}"
PATHS = "/v1/customers"
Told = TypeVar("Told")
MAX_CUSTOMERS = 1_000  # in one request
MOST = 100  # other ids, and consents, in one request
LETTERS = (
    "decisions",
    "deliveries",
    "pauses",
    "alerts",
    "vouchers",
    "redeemed",
    "choices",
)  # what is told as it lies there
SAID = (CUSTOMERS, IDENTITIES, CONSENTS)
log = logging.getLogger("osclms.service")


class Consent(Wire):
    channel: str = Field(description=" ".join(CHANNELS))
    purpose: str = Field(description=" ".join(PURPOSES))
    granted: bool = Field(strict=True)
    at: Moment | None = Field(
        None,
        description="missing: now; what is on record as the last word of the same day (UTC) is not told twice",
    )
    source: Text = Field(None, description="where it was given: a form, a till")
    text: Text = Field(None, description="what the person read then, word for word")
    version: Text = Field(None, description="of that text")


MORE: Mapping[str, Any] = {
    "identities": (tuple[Word, ...], Field((), max_length=MOST, description="other ids of this customer")),
    "consents": (tuple[Consent, ...], Field((), max_length=MOST, description="who agreed to what, and when")),
}
CustomerChange: Any = wire_model(
    "CustomerChange", CUSTOMERS, without=("customer_id",), withdraws=True, **MORE
)
CustomerRow: Any = wire_model("CustomerRow", CUSTOMERS, withdraws=True, **MORE)


class Sent(Wire):
    """A body whose customers are read one by one, so that a broken one costs no other."""

    customers: tuple[Any, ...] = Field((), max_length=MAX_CUSTOMERS)


class CustomersRequest(Sent):
    customers: tuple[CustomerRow, ...] = Field((), max_length=MAX_CUSTOMERS)


class CustomerQuery(Wire):
    at: Moment | None = Field(
        None,
        description="as of this moment, now at the latest: nothing that happened at or after it is told, nor any merge "
        "of ids on record since then; what files said of ids and facts has no time, and is told as it is now. Missing: "
        "all. Without a history no moment before the end of what the model learned",
    )


OPERATIONS = (
    Operation(
        "put_customer",
        "PUT",
        PATH,
        "Say facts, other ids and consents of a customer; what is not said stays, null takes a fact back",
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
        "put_customers",
        "PUT",
        PATHS,
        "The same of many customers; each is stored as a whole, or not at all",
        answer=CustomersAnswer,
        body=CustomersRequest,
        row=CustomerRow,
        takes=(NDJSON,),
        example={"customers": [{"customer_id": "web-4711", "region": "North", "identities": ["card-0815"]}]},
        statuses={
            200: "all of every customer is stored",
            207: "some customers are rejected, the answer says which and why; the others are stored",
            503: "nothing is known to be stored: send the same customers again",
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
            200: "the customer is a stranger, under every id",
            409: "nobody was erased: without a history in OSCLMS_HOME their other ids are not known here",
            503: "nothing is known to be stored: send the same again",
        },
    ),
)


# --- who it is --------------------------------------------------------------------------------------------


def named(request: Request) -> str:
    return an_id("customer_id", request.path_params["customer_id"])


# --- what is said of them ---------------------------------------------------------------------------------


async def put_customer(store: Store, history: History | None, request: Request, *, at: datetime) -> Response:
    body, _ = await read_body(request)
    said = CustomerChange.model_validate_json(body or b"{}")
    return answer(await asked(take, store, history, named(request), said, at, caller(request).key_id or None))


async def put_customers(store: Store, history: History | None, request: Request, *, at: datetime) -> Response:
    lines = lines_of(
        *await read_body(request, (JSON, NDJSON)),
        partial(line_of, model=CustomerRow, key=CUSTOMERS.key[0], what="customer", at=at),
        sent=Sent, key=CUSTOMERS.key[0], most=MAX_CUSTOMERS, what="customers",
    )  # fmt: skip
    told = await asked(take_all, store, history, lines, at, caller(request).key_id or None)
    return answer(told, 207 if told.rejected else 200)


def take(
    store: Store, history: History | None, customer_id: str, said: Any, at: datetime, by: str | None = None
) -> Stored:
    """Store what was said, all or nothing; `by` is the key that said it. Raises RequestError by the first fault."""
    with settled(store, history, [customer_id, *said.identities]) as (names, record):
        own, *others = ids_of(customer_id, canonical(names))
        if store.buried({own, customer_id, *said.identities}):
            raise RequestError("customer_id", ERASED, 410)
        made = rows_of(own, vars(said), at, others)
        for fault in filter(None, faults([made])):
            raise RequestError(*fault)
        record(all_of(unsaid(store, history, [made], {own: (own, *others)}), names, by))
    counts = {table.name: len(of) for table, of in made.items()}
    facts = sum(said_of(vars(said), name) for name in CUSTOMERS.names)
    return Stored(customer_id=own, facts=facts, identities=counts["identities"], consents=counts["consents"])


def take_all(
    store: Store, history: History | None, lines: Sequence[Line], at: datetime, by: str | None = None
) -> CustomersAnswer:
    """Store what was said of those customers of whom all is well; `by` is the key that said it."""
    rows = [line.row for line in lines if line.row is not None]
    named = {name for row in rows for name in (row["customer_id"], *row["identities"])}
    with settled(store, history, named) as (names, record):
        aliases, gone = canonical(names), store.graves()
        own = [aliases.get(row["customer_id"], row["customer_id"]) for row in rows]
        made = [
            rows_of(name, row, at, ids_of(name, aliases)[1:] if name and WITHDRAWN in row.values() else ())
            for name, row in zip(own, rows, strict=True)
        ]
        errors = [
            error_of(name, row, gone, fault) for name, row, fault in zip(own, rows, faults(made), strict=True)
        ]
        fine = [tables for tables, error in zip(made, errors, strict=True) if error is None]
        agreed = {row["customer_id"] for tables in fine for row in tables[CONSENTS]}
        known = {name: ids_of(name, aliases) for name in agreed}
        record(all_of(unsaid(store, history, fine, known), names, by))
    rest = iter(errors)
    told = tuple(
        CustomerAnswer(
            index=index, customer_id=line.name, error=error, status="rejected" if error else "accepted"
        )
        for index, line in enumerate(lines)
        for error in [line.error if line.row is None else next(rest)]
    )
    rejected = sum(line.status == "rejected" for line in told)
    return CustomersAnswer(accepted=len(told) - rejected, rejected=rejected, customers=told)


def error_of(
    own: str | None, row: Row, gone: Callable[[str], bool], fault: tuple[str, str] | None
) -> str | None:
    """Why nothing is taken of what was said of a customer, if nothing is."""
    if own is None:
        return "customer_id: is blank"
    if any(map(gone, (own, row["customer_id"], *row["identities"]))):
        return ERASED
    return ": ".join(fault) if fault else None


def rows_of(
    own: str | None, said: Mapping[str, Any], at: datetime, others: Sequence[str] = ()
) -> dict[Table, list[Row]]:
    """What was said of a customer as rows of the contract; what is taken back is so of their `others` ids, too."""
    facts = {name: said[name] for name in CUSTOMERS.names if said_of(said, name)}
    gone = {name: of for name, of in facts.items() if of == WITHDRAWN}
    rows: dict[Table, list[Row]] = {
        CUSTOMERS: ([{**facts, "customer_id": own}] if facts else [])
        + [{**gone, "customer_id": other} for other in others if gone],
        IDENTITIES: [{"alias": alias, "customer_id": own} for alias in said["identities"] if alias != own],
        CONSENTS: [
            {"customer_id": own, **vars(consent), "at": consent.at or at} for consent in said["consents"]
        ],
    }
    return {table: [{**row, RECEIVED.name: at} for row in of] for table, of in rows.items()}


def unsaid(
    store: Store,
    history: History | None,
    made: Sequence[Mapping[Table, list[Row]]],
    known: Mapping[str, Sequence[str]],
) -> list[dict[Table, list[Row]]]:
    """The same rows without the consents that are on record word for word. `known`: all ids of each customer."""
    if not any(tables[CONSENTS] for tables in made):
        return [dict(tables) for tables in made]
    own = {name: customer for customer, ids in known.items() for name in ids}
    told: dict[str, list[Row]] = {}
    ids = tuple(own)
    for row in (*history_rows(history, "consents", ids), *store.of("consents", ids)):
        told.setdefault(own[row["customer_id"]], []).append(row)
    return [{**tables, CONSENTS: fresh(tables[CONSENTS], told)} for tables in made]


def fresh(rows: Sequence[Row], told: dict[str, list[Row]]) -> list[Row]:
    """Those consents that do not say again what was `told` of their customer, which they are added to."""
    found: list[Row] = []
    for row in rows:
        before = told.setdefault(row["customer_id"], [])
        if not says_again(row, records_in(before)):
            found.append(row)
            before.append(row)
    return found


def says_again(row: Row, records: Sequence[Row]) -> bool:
    """Whether a consent is on record: of its moment, or, where it was given none, as the last word of the day."""
    said = [r for r in records if (r["channel"], r["purpose"]) == (row["channel"], row["purpose"])]
    if row["at"] == row[RECEIVED.name]:
        said = [r for r in said[-1:] if r["at"].date() == row["at"].date()]
    else:
        said = [r for r in said if r["at"] == row["at"]]
    return any(all(r.get(name) == row.get(name) for name in CONSENTS.names[3:] if name != "at") for r in said)


def all_of(
    made: Sequence[Mapping[Table, list[Row]]], names: Mapping[str, str], by: str | None
) -> dict[str, list[Row]]:
    """What was said of these customers, and the record of what ids it made another's than `names` says."""
    said, told = dict(names), list[Row]()
    for row in (row for tables in made for row in tables[IDENTITIES]):
        told += naming(said, [row["alias"]], row["customer_id"], by=by, at=row[RECEIVED.name])["merges"]
        said[row["alias"]] = row["customer_id"]
    rows = {table.name: [row for tables in made for row in tables[table]] for table in SAID}
    return rows | {"merges": told}


def said_of(said: Mapping[str, Any], fact: str) -> bool:
    return fact != "customer_id" and said.get(fact) is not None


def faults(made: Sequence[Mapping[Table, list[Row]]]) -> list[tuple[str, str] | None]:
    """What the contract says against the rows of each customer first: the table and the reason."""
    found: list[tuple[str, str] | None] = [None] * len(made)
    for table in SAID:
        rows = [
            (place, {name: None if of == WITHDRAWN else of for name, of in row.items()})
            for place, tables in enumerate(made)
            for row in tables[table]
        ]
        reasons = judge_of(table).reasons([row for _, row in rows]) if rows else ()
        for (place, _), reason in zip(rows, reasons, strict=True):
            found[place] = found[place] or ((table.name, reason) if reason else None)
    return found


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
    until = min(until, now) if until else None
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
    ids = ids_now(store, history, customer_id, until)
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
        customer_id=ids[0] or customer_id,
        identities=ids[1:],
        facts=facts,
        consents=tuple(told("consents", row) for row in consents_now(records).values()),
        consent_records=tuple(told("consents", row) for row in records),
        orders=tuple(orders_of(happened)),
        events=tuple(told("events", row) for row in happened if row["event_type"] not in PURCHASES),
        sends=tuple(told("sends", row) for row in sends),
        ledgers={
            name: tuple(told(name, row) for row in rows)
            for name in LETTERS
            if (rows := [row for row in store.of(name, ids) if row[RECEIVED.name] < end])
        },
        profile=seen if anything else None,
    )


def facts_of(store: Store, history: History | None, ids: Sequence[str]) -> dict[str, Any]:
    """What was said last of each fact, in the history and then live: of the first of the ids, which is the customer's
    own, and what is lacking there of the others in their order."""
    moved = store.reached("customers", history.manifest.marks) if history else 0
    live = (row for row in store.of("customers", ids) if row["seq"] > moved)  # the rest is in the files
    return facts_in((*history_rows(history, "customers", ids), *live), ids)


def facts_in(rows: Iterable[Row], ids: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in sorted(
        rows, key=lambda row: -ids.index(row["customer_id"])
    ):  # the last word is the first id's
        found |= {name: row[name] for name in CUSTOMERS.names[1:] if row.get(name) is not None}
    return {name: of for name, of in found.items() if of != WITHDRAWN}


def orders_of(events: Sequence[Row]) -> Iterable[dict[str, Any]]:
    orders: dict[str | None, list[Row]] = {}
    for row in events:
        if row["event_type"] in PURCHASES:
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
    """Bury a customer under all their ids. Doing it again changes nothing.

    Raises RequestError without a history, which alone knows the ids that files have told.
    """
    if history is None:
        raise RequestError(
            "customer_id",
            "nobody is erased where there is no history, as it knows a customer's other ids: ask a service whose "
            "OSCLMS_HOME holds it, or there `osclms erase CUSTOMER`",
            409,
        )
    ids = buried(store, history, customer_id, at=at)
    bar(store, history, sorted(ids), at)
    return Erased(erased=len(ids))


def bar(store: Store, history: History | None, ids: Sequence[str], at: datetime) -> None:
    """Never write again to any address that is known of these ids, whoever it is said to be of later."""
    rows = (*history_rows(history, "customers", ids), *store.of("customers", ids)) if ids else ()
    channels = {row["message_id"]: row["channel"] for row in store.of("decisions", ids) if row["message_id"]}
    written = {
        row["subject"]: channels.get(row["message_id"], "email")
        for row in store.of("deliveries", ids)
        if row["subject"]
    }  # where mail went, though no file tells the address any more
    suppress(store, written | subjects_of(store, rows), "erased", at=at, received_at=at)


async def asked(act: Callable[..., Told], *of: Any) -> Told:
    """What `act` gives, off the event loop. Raises RequestError where the database cannot be used."""
    try:
        return await to_thread.run_sync(act, *of)
    except StoreError as error:
        log.error("customers: %s", error)
        raise RequestError("customer_id", "the database cannot be used now: ask again", 503) from None


def answer(value: Wire, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(value.model_dump_json(), status, media_type=JSON, headers=headers)
