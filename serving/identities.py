"""Who is who: several ids of one customer, how they were said to be one, and how that is taken back.

An id names what was last said of it. Whatever is read is resolved then, so that a merge rewrites nothing, and taking it
back is no more than saying again what was said before.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow.compute as pc
import sqlalchemy as sa
from pydantic_core import PydanticCustomError

from features.history import History, canonical
from features.judge import Row
from features.schema import ID_LENGTH, IDENTITIES, RECEIVED
from serving.lines import cell
from serving.store import DATA, WHO, Record, Store
from serving.wire import RequestError

MOST = 5_000  # ids in one question to the database
ROWS = DATA["identities"].c
T = TypeVar("T")
ERASED = "the customer was erased: nothing is taken of them any more"


def an_id(field: str, text: str) -> str:
    """An id as the contract has it, trimmed. Raises RequestError for what can be none."""
    try:
        found = cell(text) or ""
    except PydanticCustomError as error:
        raise RequestError(field, error.message()) from None
    if not 0 < len(found) <= ID_LENGTH:
        raise RequestError(field, f"must have 1 to {ID_LENGTH} characters")
    return found


def said_now(store: Store, history: History | None, until: datetime | None = None) -> dict[str, str]:
    """What each alias was last said to name, by the history and by what the store was told since, before `until`.

    Of merges on record that is so wherever they lie by now. What a file told carries no time, and counts at any.
    """
    said, marks = history.at_once(lambda h: (h.identities(), h.manifest.marks)) if history else ({}, {})
    after = store.reached("identities", marks)
    for page in store.read("identities", after, store.ends("identities")["identities"]):
        said |= {
            row["alias"]: row["customer_id"] for row in page if until is None or row[RECEIVED.name] < until
        }
    return said if until is None else unmerged(said, (m for m in merges(store) if m[RECEIVED.name] >= until))


def said_about(
    store: Store, history: History | None, names: Iterable[str], until: datetime | None = None
) -> dict[str, str]:
    """Of `said_now` what says who these are: all that leads to these ids, to what they name, and so on.

    The database is asked for these alone, however many others there are.
    """
    wanted = {name for name in names if name and "\0" not in name}
    if history is None:
        return linked(Told(store, None, until), wanted)
    return history.at_once(lambda pinned: linked(Told(store, pinned, until), wanted))


def linked(told: "Told", names: set[str]) -> dict[str, str]:
    """What was said that hangs together with these ids, step by step."""
    said, since = dict[str, str](), dict[int, Row]()
    new, seen = names, set[str]()
    while new:
        seen |= new
        found, merged = told.of(new), told.merges(new)
        said |= found
        since |= {row["seq"]: row for row in merged}
        ends = {row[name] for row in merged for name in WHO if row[name]}
        new = {*found, *found.values(), *ends} - seen
    return unmerged(said, (since[seq] for seq in sorted(since)))


class Told:
    """What was said of who is who before `until`, as history and store are at this moment, for who asks of some ids."""

    def __init__(self, store: Store, history: History | None, until: datetime | None) -> None:
        self.store, self.until = store, until
        self.known = history.table("identities") if history else IDENTITIES.schema.empty_table()
        after = store.reached("identities", history.manifest.marks if history else {})
        self.rows = [ROWS.seq > after, ROWS.seq <= store.ends("identities")["identities"]]
        self.rows += [] if until is None else [ROWS.received_at < until]

    def of(self, names: set[str]) -> dict[str, str]:
        """What these ids were last said to name, and which others were last said to name one of these."""
        is_named = pc.field("alias").isin(sorted(names)) | pc.field("customer_id").isin(sorted(names))
        known = self.known.filter(is_named).to_pydict()
        said = dict(zip(known["alias"], known["customer_id"], strict=True))
        naming = {alias for some in parts(names) for (alias,) in self.select(ROWS.customer_id.in_(some))}
        for some in parts({*names, *said, *naming}):
            last = sa.select(sa.func.max(ROWS.seq)).where(ROWS.alias.in_(some), *self.rows)
            told = sa.select(ROWS.alias, ROWS.customer_id).where(ROWS.seq.in_(last.group_by(ROWS.alias)))
            said |= dict(map(tuple, self.store.select(told)))
        return {alias: end for alias, end in said.items() if alias in names or end in names}

    def select(self, named: "sa.ColumnElement[bool]") -> list[Any]:
        return self.store.select(sa.select(ROWS.alias).where(named, *self.rows).distinct())

    def merges(self, names: set[str]) -> list[Row]:
        """The merges since then that these ids have to do with."""
        if self.until is None:
            return []
        found = (row for some in parts(names) for row in self.store.of("merges", some))
        return [row for row in found if row[RECEIVED.name] >= self.until]


def parts(names: Iterable[str]) -> Iterator[list[str]]:
    """The names in as many questions as a database takes."""
    listed = sorted(names)
    return (listed[first : first + MOST] for first in range(0, len(listed), MOST))


def unmerged(said: Mapping[str, str], since: Iterable[Row]) -> dict[str, str]:
    """What was said before these merges, given oldest first; one that something else has overruled stays so."""
    names = dict(said)
    for row in reversed(list(since)):
        alias, before = row["alias"], row["formerly"]
        if names.get(alias) == row["customer_id"]:
            names[alias] = before or alias
    return names


@contextmanager
def settled(
    store: Store, history: History | None, names: Collection[str]
) -> Iterator[tuple[dict[str, str], Record]]:
    """(`said_about` these ids, what records rows): nobody says otherwise, in any process, before the rows are on disk.

    All is read before others are kept waiting; only where somebody wrote meanwhile it is read again.
    """
    seen = store.ends("identities")
    said = said_about(store, history, names)
    with store.alone() as record:
        yield said if store.ends("identities") == seen else said_about(store, history, names), record


def identities_now(store: Store, history: History | None, until: datetime | None = None) -> dict[str, str]:
    """The customer behind each alias."""
    return canonical(said_now(store, history, until))


def ids_now(
    store: Store, history: History | None, customer_id: str, until: datetime | None = None
) -> tuple[str, ...]:
    """All ids of the customer whom this one names, their own first."""
    return ids_of(customer_id, canonical(said_about(store, history, [customer_id], until)))


def ids_of(customer_id: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """All ids of the customer whom this one names, their own first."""
    own = aliases.get(customer_id, customer_id)
    return own, *sorted(alias for alias, end in aliases.items() if end == own)


class Identities:
    """Who is who, kept up with what is said of it.

    aliases: the customer behind each alias. others: all other ids of each customer. Both change in place, so that
    others may hold them; a change costs what there is of the customers whom it is about.
    """

    def __init__(self, said: Mapping[str, str] = MappingProxyType({})) -> None:
        self.said = dict(said)
        self.aliases = canonical(self.said)
        self.others = others_of(self.aliases)

    def own(self, name: str) -> str:
        """The customer whom an id names."""
        return self.aliases.get(name, name)

    def ids(self, customer_id: str) -> tuple[str, ...]:
        """All ids of this customer, with this one first; of an alias this one alone."""
        return customer_id, *self.others.get(customer_id, ())

    def say(self, said: Mapping[str, str]) -> None:
        """Take what each of these aliases was last said to name."""
        ends = set(map(self.own, (*said, *said.values())))
        about = {name for end in ends for name in self.ids(end)}
        self.said |= said
        now = canonical({name: self.said[name] for name in about if name in self.said})
        put(self.aliases, now, about)
        put(self.others, others_of(now), about)


def others_of(aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """By customer all aliases, in the order of text."""
    found: dict[str, list[str]] = {}
    for alias, customer in aliases.items():
        found.setdefault(customer, []).append(alias)
    return {customer: tuple(sorted(names)) for customer, names in found.items()}


def put(held: dict[str, T], now: Mapping[str, T], names: Iterable[str]) -> None:
    """Hold of these names what is so now, and nothing else."""
    for name in names:
        if name in now:
            held[name] = now[name]
        else:
            held.pop(name, None)


def naming(
    said: Mapping[str, str], aliases: Iterable[str], customer_id: str, *, by: str | None, at: datetime
) -> dict[str, list[Row]]:
    """The rows that say that these aliases name a customer, and what they had been said to name before."""
    about: dict[str, Any] = {"customer_id": customer_id, RECEIVED.name: at}
    rows: list[Row] = [{"alias": alias, **about} for alias in aliases]
    told: list[Row] = [
        {**row, "formerly": said.get(row["alias"]), "by": by}
        for row in rows
        if said.get(row["alias"], row["alias"]) != customer_id
    ]
    return {"identities": rows, "merges": told}


def merge(
    store: Store, history: History | None, customer_id: str, other: str, *, by: str | None, at: datetime
) -> Row:
    """Make `other`, with all its ids, one customer with `customer_id`; the record of it. Raises RequestError."""
    customer_id, other = an_id("customer_id", customer_id), an_id("alias", other)
    with settled(store, history, [customer_id, other]) as (said, record):
        aliases = canonical(said)
        own, alias = (aliases.get(name, name) for name in (customer_id, other))
        if own == alias:
            raise RequestError("alias", f"{other} and {customer_id} are one customer already")
        if store.buried({own, alias, customer_id, other}):
            raise RequestError("customer_id", ERASED, 410)
        record(rows := naming(said, [alias], own, by=by, at=at))
    return rows["merges"][0]


def undo(store: Store, history: History | None, alias: str, *, by: str | None, at: datetime) -> Row:
    """Take back the last merge that made this id another customer's; the record of it. Raises RequestError.

    The id, and those that name it, are what they were before. Undone once more, they are one again.
    """
    with settled(store, history, [alias]) as (said, record):
        if store.buried(ids_of(alias, canonical(said))):
            raise RequestError("customer_id", ERASED, 410)
        last = last_merge(store, said, alias)
        record(rows := naming(said, [last["alias"]], last["formerly"] or last["alias"], by=by, at=at))
    return rows["merges"][0]


def last_merge(store: Store, said: Mapping[str, str], alias: str) -> Row:
    """The last merge that made this id, or what it names, another customer's. Raises RequestError."""
    name, seen = alias, set[str]()
    while name not in seen:
        seen.add(name)
        last = next((row for row in reversed(store.of("merges", [name])) if row["alias"] == name), None)
        if last and last["customer_id"] == said.get(name, name):
            return last
        name = said.get(name, name)
    raise RequestError("alias", f"no merge of {alias} is on record")


def buried(store: Store, history: History | None, customer_id: str, *, at: datetime) -> set[str]:
    """Bury a customer under all their ids, which it gives. Doing it again changes nothing."""
    with settled(store, history, [customer_id]) as (said, record):
        names = {*ids_of(customer_id, canonical(said)), customer_id}
        record(store.graves_of(names, at=at))
    return names


def merges(store: Store) -> list[Row]:
    """The record of all merges and of their undoing, oldest first."""
    found = store.read("merges", 0, store.ends("merges")["merges"])
    return [row for page in found for row in page]
