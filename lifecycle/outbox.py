"""Delivery: messages that are due are looked at again, filled, and handed to their channels.

A message was decided some time ago. So whether it may still go is asked as it goes: consent, suppression, pauses, what
was bought since. What becomes of each is a row of `deliveries`. At least once: a worker takes a message before it
handles it, and one that dies leaves it to the next after a while.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from features.history import History
from features.judge import Row
from lifecycle.channels import NOBODY, Away, Carrier, Dead, Failed, Parcel, domain_of, write_off
from lifecycle.drafts import Draft
from lifecycle.feedback import take_in
from lifecycle.ledger import Pauses, pauses
from lifecycle.messages import About, NotSent, compose
from lifecycle.programs import Program, programs
from lifecycle.run import OWN
from serving import addresses, outgoing
from serving.addresses import CONTACT
from serving.current import current
from serving.engine import Engine
from serving.identities import identities_now, ids_of
from serving.links import Links
from serving.mailed import rate_url, unsubscribe_url
from serving.outgoing import BACKOFF, LEASE, Taken
from serving.people import consents_now, facts_in, history_rows, records_in
from serving.settings import Settings
from serving.store import Store, address

VALID = timedelta(days=3)  # after its time a message is too late
BATCH = 50  # messages taken at a time
ORDERED = ("customer_id", "product_id", "occurred_at")
log = logging.getLogger("osclms.outbox")


@dataclass(frozen=True)
class Delivered:
    """What became of messages: sent, dropped, failed (and tried again later), dead; waiting: another worker has them,
    or they rest after a failure. suppressed: addresses that feedback put on the list. reasons: of what was not sent."""

    sent: int = 0
    dropped: int = 0
    failed: int = 0
    dead: int = 0
    waiting: int = 0
    suppressed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in vars(self).items() if isinstance(n, int))
        return "\n".join([counts, *(f"  {n:,} {why}" for why, n in self.reasons.items())])


def once(
    home: Path, database_url: str | None, settings: Settings, channels: Mapping[str, Carrier], *, now: datetime,
    clock: Callable[[], datetime],
) -> Delivered:  # fmt: skip
    """`deliver` for a home with its champion and its programs, as the settings say; the model is loaded where anything
    is due. Raises FileError, BundleError, StoreError, HistoryError."""
    table = programs(home / OWN)
    with Store(address(home, database_url)) as store:
        if not outgoing.due(store, tuple(channels), now):
            return Delivered(suppressed=take_in(store, History(home / "history"), at=clock()))
        try:
            with current(home, database_url, clock=clock) as (engine, _):
                return deliver(
                    store, engine, home, now=now, channels=channels, programs=table, clock=clock,
                    links=Links.of(settings), sender=settings.mail_from or "", domain=domain_of(settings),
                )  # fmt: skip
        finally:
            for carrier in channels.values():
                carrier.close()


class Result(NamedTuple):
    state: str
    why: str | None = None
    subject: str | None = None


WAITING = Result("waiting")


def deliver(
    store: Store, engine: Engine, home: Path, *, now: datetime, channels: Mapping[str, Carrier],
    programs: Mapping[str, Program], links: Links | None = None, sender: str = "", domain: str = NOBODY,
    clock: Callable[[], datetime] | None = None,
) -> Delivered:  # fmt: skip
    """Send what is due at `now`, on these channels; what is for others waits.

    `clock` is the time of day, by which a worker holds what it has taken and tries again; missing: `now`. Killed at any
    moment, it may be run again: nothing is lost; what was being handed over goes once more, by the same id. Without
    `links` nothing in a message leads to the service. Raises StoreError, HistoryError.
    """
    clock, history = clock or (lambda: now), History(home / "history")
    suppressed = take_in(store, history, at=clock())
    results, shut = list[Result](), set[str]()
    numbers = outgoing.due(store, tuple(channels), now)
    for start in range(0, len(numbers), BATCH):
        since, part = clock(), numbers[start : start + BATCH]
        taken = outgoing.take(store, part, at=since)
        batch = Batch(store, engine, history, now, clock, channels, programs, links, sender, domain, taken)
        results += [WAITING] * (len(part) - len(taken))
        results += [handled(batch, home, one, shut, since + LEASE / 2) for one in taken]
    states = Counter(result.state for result in results)
    reasons = Counter(f"{result.state}: {result.why}" for result in results if result.why)
    return Delivered(**states, suppressed=suppressed, reasons=dict(reasons.most_common()))


def handled(batch: "Batch", home: Path, one: Taken, shut: set[str], until: datetime) -> Result:
    """Settle a message and put on record what became of it; after `until` another worker may have it before we come to
    it, so it is left to that."""
    if batch.clock() > until:
        return WAITING
    result = settled(batch, one, shut)
    kept(batch.store, home, one, result, at=batch.now, received_at=batch.clock())
    return result


def settled(batch: "Batch", one: Taken, shut: set[str]) -> Result:
    """What becomes of a message now. Whatever goes wrong with it is its own: the log tells no more than the kind."""
    row = one.row
    try:
        result = attempted(batch, row, shut)
    except Dead as error:
        result = Result("dead", str(error))
    except Failed as error:
        if isinstance(error, Away):
            shut.add(row["channel"])
        result = Result("failed", str(error))
    except Exception as error:
        log.error("%s: a message failed: %s", row["program"], type(error).__name__)
        result = Result("failed", type(error).__name__)
    if result.state == "failed" and one.failures >= len(BACKOFF):
        return Result("dead", f"given up after {one.failures + 1} tries: {result.why}")
    return result


def attempted(batch: "Batch", row: Row, shut: set[str]) -> Result:
    case = batch.case(row)
    if why := next(filter(None, (check(case) for check in CHECKS)), None):
        return Result("dropped", why)
    if row["channel"] in shut:
        return Result("failed", "the channel is away")
    try:
        parcel = batch.parcel(case)
    except NotSent as error:
        return Result("dropped", str(error))
    try:
        batch.channels[row["channel"]].send(parcel)
    except Dead as error:
        if error.bounced:
            at = batch.clock()
            addresses.suppress(batch.store, {case.subject: row["channel"]}, "bounce", at=at, received_at=at)
        raise
    return Result("sent", None, case.subject)


def kept(
    store: Store, home: Path, one: Taken, result: Result, *, at: datetime, received_at: datetime
) -> None:
    """Put on record what became of a message; of one that is dead also in a file, before."""
    row = one.row
    if result.state == "dead":
        about = {name: row[name] for name in ("message_id", "program", "channel")}
        write_off(
            home, {**about, "at": received_at.isoformat(), "tries": one.failures + 1, "why": result.why}
        )
    made = outgoing.delivery(
        row, result.state, at=at, received_at=received_at, detail=result.why, subject=result.subject
    )
    store.append("deliveries", [made])


# --- what is known of those written to ---------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Messages taken together, and what files tell of whom they are for; what came in live is asked for each."""

    store: Store
    engine: Engine
    history: History
    now: datetime
    clock: Callable[[], datetime]
    channels: Mapping[str, Carrier]
    programs: Mapping[str, Program]
    links: Links | None
    sender: str
    domain: str
    taken: Sequence[Taken]

    @cached_property
    def aliases(self) -> dict[str, str]:
        return identities_now(self.store, self.history)

    @cached_property
    def gone(self) -> Callable[[str], bool]:
        return self.store.graves()

    @property
    def pauses(self) -> Pauses:
        """As they are at this moment, read anew where there is a new record. By the clock, too: who sends as of another
        day still heeds what was paused since."""
        end, seen = self.store.ends("pauses")["pauses"], self.__dict__.get("_pauses")
        if seen is None or seen[0] != end:
            seen = self.__dict__["_pauses"] = (end, pauses(self.store, max(self.now, self.clock())))
        found: Pauses = seen[1]
        return found

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Every id of everybody in it."""
        names = {name for one in self.taken for name in ids_of(one.row["customer_id"], self.aliases)}
        return tuple(sorted(names))

    @cached_property
    def filed(self) -> Mapping[str, list[Row]]:
        return {name: history_rows(self.history, name, self.ids) for name in ("customers", "consents")}

    @cached_property
    def bought(self) -> list[Row]:
        """Orders since the first of these was decided, as files tell them."""
        since = min((one.row["run_at"] for one in self.taken), default=self.now)
        found = self.history.events(since=since, until=self.now, types=("order",), columns=ORDERED)
        return [row for row in found.to_pylist() if row["customer_id"] in self.ids]

    def rows(self, table: str, ids: Sequence[str]) -> Iterator[Row]:
        """Of these ids, what files tell and what came in live by now."""
        yield from (row for row in self.filed[table] if row["customer_id"] in ids)
        yield from (row for row in self.store.of(table, ids) if row["seq"] > self.moved[table])

    @cached_property
    def moved(self) -> Mapping[str, int]:
        """Up to which row of a table the files have what came in live; what they say since then is newer."""
        marks = self.history.manifest.marks
        return {name: self.store.reached(name, marks) for name in ("customers", "consents")}

    def case(self, row: Row) -> "Case":
        return Case(self, row, ids_of(row["customer_id"], self.aliases))

    def parcel(self, case: "Case") -> Parcel:
        """The message, made now. Raises NotSent."""
        row, program, draft = case.row, case.program, case.draft
        assert program is not None  # what has none was dropped
        address, channel, about = case.address, row["channel"], case.about
        made = compose(self.engine, program, draft, about, links=self.links, now=self.now)
        if channel != "email" and not getattr(made, channel):
            raise NotSent(f"texts: the program says nothing by {channel}")
        return Parcel(
            message_id=row["message_id"], program=row["program"], version=row["version"], kind=row["kind"],
            channel=channel, to=address, at=self.now, handed_at=self.clock(), day=f"{row['send_at']:%Y-%m-%d}",
            domain=self.domain, sender=self.sender, subject=made.subject, text=made.text, html=made.html, sms=made.sms,
            push=made.push, unsubscribe_url=about.unsubscribe_url if row["kind"] == "marketing" else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A message and whom it is for, as things are now."""

    batch: Batch
    row: Row
    ids: tuple[str, ...]

    @cached_property
    def program(self) -> Program | None:
        program = self.batch.programs.get(self.row["program"])
        return program.forms.get(self.row["variant"]) if program else None

    @cached_property
    def draft(self) -> Draft:
        return Draft.model_validate(json.loads(self.row["content"] or "{}"))

    @cached_property
    def facts(self) -> dict[str, Any]:
        return facts_in(self.batch.rows("customers", self.ids), self.ids)

    @property
    def address(self) -> str:
        return self.facts.get(CONTACT[self.row["channel"]]) or ""

    @cached_property
    def subject(self) -> str:
        return addresses.subject(self.batch.store, self.row["channel"], self.address)

    @property
    def about(self) -> About:
        """What a message may say of its reader, and its links to the service."""
        row, links, at = self.row, self.batch.links, self.batch.clock()
        if links is None:
            return About.of(self.facts)
        told = (row["message_id"], row["program"], row["channel"])
        return About.of(
            self.facts,
            unsubscribe_url=unsubscribe_url(links, *told, at=at),
            rate_url=rate_url(links, *told, at=at),
        )

    @property
    def products(self) -> Iterator[str | None]:
        """What the customer ordered since the message was decided."""
        since, until = self.row["run_at"], self.batch.now
        for row in self.batch.bought:
            if row["customer_id"] in self.ids and since <= row["occurred_at"]:
                yield row["product_id"]
        for name in self.ids:
            yield from self.batch.store.since(name, since, until, types=("order",))["product_id"]


# --- whether it may still go --------------------------------------------------------------------------------


def too_late(case: Case) -> str | None:
    return "too late" if case.batch.now - case.row["send_at"] > VALID else None


def is_off(case: Case) -> str | None:
    if case.program is None:
        return "there is no such program any more"
    return None if case.program.enabled else "the program is off"


def erased(case: Case) -> str | None:
    return "erased" if any(map(case.batch.gone, case.ids)) else None


def no_address(case: Case) -> str | None:
    return None if case.address else "no address"


def suppressed(case: Case) -> str | None:
    why = addresses.is_suppressed(case.batch.store, case.subject)
    return f"suppressed: {why}" if why else None


def no_consent(case: Case) -> str | None:
    """A transactional message asks for none."""
    if case.row["kind"] != "marketing":
        return None
    said = consents_now(records_in(case.batch.rows("consents", case.ids)))
    record = said.get((case.row["channel"], "marketing"))
    return None if record and record["granted"] else "no consent"


def paused(case: Case) -> str | None:
    row, marketing = case.row, case.row["kind"] == "marketing"
    found = (case.batch.pauses.of(row["program"], name, marketing=marketing) for name in case.ids)
    return next((f"paused: {why}" for why in found if why), None)


def left(case: Case) -> str | None:
    """An order, or one of what the message is about, is what it was meant to bring about."""
    exits = case.program.exit if case.program else ()
    if not exits:
        return None
    bought = set(case.products)
    if "order" in exits and bought:
        return "exit: ordered since"
    if "ordered_product" in exits and bought.intersection(case.draft.products):
        return "exit: ordered it since"
    return None


CHECKS: tuple[Callable[[Case], str | None], ...] = (
    too_late, is_off, erased, no_address, suppressed, no_consent, paused, left,
)  # fmt: skip
