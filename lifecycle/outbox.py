"""Delivery: messages that are due are looked at again, filled, and handed to their channels.

A message was decided some time ago. So whether it may still go is asked as it goes: consent, suppression, pauses, what
was bought since, and in the end whether its reader was erased. What becomes of each is a row of `deliveries`. At least
once: a worker takes a message before it handles it, and one that dies leaves it to the next after a while.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from features.history import History
from features.judge import Row
from lifecycle import exits
from lifecycle.channels import NOBODY, Away, Carrier, Dead, Failed, Parcel, domain_of, write_off
from lifecycle.choice import full
from lifecycle.day import zone_of
from lifecycle.drafts import Draft, draft
from lifecycle.feedback import take_in
from lifecycle.filed import Filed
from lifecycle.fresh import Fresh
from lifecycle.hours import local_day, opens
from lifecycle.leases import Held
from lifecycle.ledger import Pauses, pauses
from lifecycle.messages import About, NotSent, compose
from lifecycle.permission import agreed
from lifecycle.programs import Policy, Program, known, policy
from lifecycle.run import OWN
from serving import addresses, outgoing
from serving.addresses import CONTACT
from serving.consents import Said, consents_now, personal, records_in
from serving.current import current
from serving.engine import Engine
from serving.links import Links
from serving.mailed import rate_url, unsubscribe_url
from serving.outgoing import BACKOFF, LEASE, Due, Taken
from serving.people import facts_in
from serving.settings import Settings
from serving.store import Store, address, moment_of

ON_TIME = timedelta(hours=1)  # so long after its moment a message goes as it was planned
VALID = timedelta(days=3)  # after its time a message is too late
BATCH = 50  # messages taken at a time
Progress = Callable[[str, int, int | None], None]
log = logging.getLogger("osclms.outbox")


def quiet(what: str, done: int, of: int | None) -> None:
    return None


@dataclass(frozen=True)
class Delivered:
    """What became of messages: sent, dropped, failed (and tried again later), dead; waiting: another worker has them,
    they rest after a failure, or their program is paused. suppressed: addresses that feedback put on the list. reasons:
    of what was not sent."""

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
    clock: Callable[[], datetime], shown: Progress = quiet,
) -> Delivered:  # fmt: skip
    """`deliver` for a home with its champion and its programs, as the settings say; the model is loaded where anything
    can go. What is of a program whose file is not understood waits. Raises BundleError, StoreError, HistoryError."""
    table, faulty = known(home / OWN)
    for name, why in faulty.items():
        log.error("%s: stopped: %s", name, why)
    with Store(address(home, database_url)) as store:
        paused, due = (
            pauses(store, max(now, clock())).beside(faulty),
            outgoing.due(store, tuple(channels), now),
        )
        resting_for = [rests(paused, one, now) for one in due]
        if all(resting_for):
            suppressed = take_in(store, History(home / "history"), policy(home / OWN), at=clock())
            return told([resting(str(why)) for why in resting_for], suppressed)
        try:
            with current(home, database_url, clock=clock) as (engine, _):
                return deliver(
                    store, engine, home, now=now, channels=channels, programs=table, faulty=faulty, clock=clock,
                    links=Links.of(settings), sender=settings.mail_from or "", domain=domain_of(settings),
                    postal=settings.mail_address, shown=shown,
                )  # fmt: skip
        finally:
            for carrier in channels.values():
                carrier.close()


class Result(NamedTuple):
    """parcel: what was handed over; bounced: whether that told that there is no such address. again: whether the
    occasion of what was dropped may come again."""

    state: str
    why: str | None = None
    subject: str | None = None
    parcel: Parcel | None = None
    bounced: bool = False
    again: bool = False


WAITING = Result("waiting")


def deliver(
    store: Store, engine: Engine, home: Path, *, now: datetime, channels: Mapping[str, Carrier],
    programs: Mapping[str, Program], links: Links | None = None, sender: str = "", domain: str = NOBODY,
    clock: Callable[[], datetime] | None = None, lease: timedelta = LEASE, postal: str | None = None,
    shown: Progress = quiet, faulty: Mapping[str, str] | None = None,
) -> Delivered:  # fmt: skip
    """Send what is due at `now`, on these channels; what is for others waits.

    `clock` is the time of day, by which a worker holds what it has taken and tries again; missing: `now`. Killed at any
    moment, it may be run again: nothing is lost; what was being handed over goes once more, by the same id. Without
    `links` nothing in a message leads to the service. `shown` is told how many are done. Raises StoreError,
    HistoryError.
    """
    clock = clock or (lambda: now)
    suppressed = take_in(store, History(home / "history"), policy(home / OWN), at=clock())
    due = outgoing.due(store, tuple(channels), now)
    office = Office(
        store,
        engine,
        home,
        now,
        clock,
        channels,
        programs,
        links,
        sender,
        domain,
        postal,
        lease,
        due,
        faulty or {},
    )
    results = list[Result]()
    for start in range(0, len(due), BATCH):
        results += office.sent(due[start : start + BATCH])
        shown("messages", len(results), len(due))
    return told(results, suppressed)


def told(results: Sequence[Result], suppressed: int) -> Delivered:
    states = Counter(result.state for result in results)
    reasons = Counter(f"{result.state}: {result.why}" for result in results if result.why)
    return Delivered(**states, suppressed=suppressed, reasons=dict(reasons.most_common()))


def rests(paused: Pauses, one: Due, now: datetime) -> str | None:
    """Why a message is not even taken: its program is paused, and its time not over yet."""
    if now - one.send_at > VALID:
        return None
    return paused.of(one.program, marketing=one.kind == "marketing")


def resting(why: str) -> Result:
    return WAITING._replace(why=f"paused: {why}")


@dataclass(frozen=True)
class Office:
    """What all messages of a delivery share. What files tell is read once for all that is due, and again where they
    have changed; what came in live is asked for each."""

    store: Store
    engine: Engine
    home: Path
    now: datetime
    clock: Callable[[], datetime]
    channels: Mapping[str, Carrier]
    programs: Mapping[str, Program]
    links: Links | None
    sender: str
    domain: str
    postal: str | None
    lease: timedelta
    due: Sequence[Due]
    faulty: Mapping[str, str]  # programs whose files are not understood, and why
    shut: set[str] = field(default_factory=set)  # channels that are away

    @cached_property
    def history(self) -> History:
        return History(self.home / "history")

    @cached_property
    def policy(self) -> Policy:
        return policy(self.home / OWN)

    @cached_property
    def filed(self) -> Fresh[Filed]:
        return Fresh(lambda: (self.history.manifest, self.store.ends("identities")), self.read)

    def read(self) -> Filed:
        decided = [one.run_at for one in self.due if (of := self.programs.get(one.program)) and of.exit]
        since = min(decided) - exits.WITHIN if decided else None
        return Filed.read(self.history, self.store, {one.customer_id for one in self.due}, since, self.now)

    @cached_property
    def pauses(self) -> Fresh[Pauses]:
        """By the clock, too: who sends as of another day still heeds what was paused since."""
        return Fresh(
            lambda: self.store.ends("pauses"),
            lambda: pauses(self.store, max(self.now, self.clock())).beside(self.faulty),
        )

    @cached_property
    def gone(self) -> Fresh[Callable[[str], bool]]:
        return Fresh(lambda: self.store.ends("tombstones"), self.store.graves)

    def sent(self, due: Sequence[Due]) -> list[Result]:
        """What became of these."""
        paused = self.pauses()
        why = [rests(paused, one, self.now) for one in due]
        results = [resting(said) for said in why if said]
        numbers = [one.number for one, said in zip(due, why, strict=True) if not said]
        taken = outgoing.take(self.store, numbers, at=self.clock(), lease=self.lease) if numbers else []
        results += [WAITING] * (len(numbers) - len(taken))
        if taken:
            filed = self.filed()
            with Held(self.store, taken, self.lease, self.clock) as held:
                results += [self.handled(Case(self, filed, one, held)) for one in taken]
        return results

    def handled(self, case: "Case") -> Result:
        """Settle a message and put on record what became of it; one that is not ours any more is left."""
        if not case.held.has(case.taken):
            return WAITING
        result = settled(case)
        self.keep(case, result)
        case.held.done(case.taken)
        return result

    def keep(self, case: "Case", result: Result) -> None:
        """Put on record what became of a message. Nobody is erased between the look and the record: of who was before,
        nothing is put anywhere, and what was written in a file is taken back."""
        with self.store.writing() as db:
            if not erased(case):
                self.record(db, case, result, self.clock())
                return
        if result.parcel:
            self.channels[case.row["channel"]].take_back(result.parcel)

    def record(self, db: sa.Connection, case: "Case", result: Result, at: datetime) -> None:
        """Of a message that is dead there is also a line in a file, and before."""
        row = case.row
        if result.state == "dead":
            about = {name: row[name] for name in ("message_id", "program", "channel")}
            tries = case.taken.failures + 1
            write_off(self.home, {**about, "at": at.isoformat(), "tries": tries, "why": result.why})
        made = outgoing.delivery(
            row, result.state, at=self.now, received_at=at, detail=result.why, subject=result.subject
        )
        outgoing.settle(db, row, made, again=result.again)
        if result.bounced:
            addresses.put(db, {case.subject: row["channel"]}, "bounce", at=at, received_at=at)


def settled(case: "Case") -> Result:
    """What becomes of a message now. Whatever goes wrong with it is its own: the log tells no more than the kind."""
    try:
        result = attempted(case)
    except Dead as error:
        result = Result("dead", str(error), bounced=error.bounced)
    except Failed as error:
        if isinstance(error, Away):
            case.office.shut.add(case.row["channel"])
        result = Result("failed", str(error))
    except Exception as error:
        log.error("%s: a message failed: %s", case.row["program"], type(error).__name__)
        result = Result("failed", type(error).__name__)
    tries = case.taken.failures + 1
    if result.state == "failed" and tries > len(BACKOFF):
        return Result("dead", f"given up after {tries} tries: {result.why}")
    return result


def attempted(case: "Case") -> Result:
    office, channel = case.office, case.row["channel"]
    for check, again in CHECKS.items():
        if why := check(case):
            return Result("dropped", why, again=again)
    if why := paused(case) or untimely(case):
        return Result("waiting", why)
    if channel in office.shut:
        return Result("failed", "the channel is away")
    try:
        parcel = case.parcel()
    except NotSent as error:
        return Result("dropped", str(error), again=True)
    if why := erased(case):  # at the last moment
        return Result("dropped", why)
    office.channels[channel].send(parcel)
    return Result("sent", None, case.subject, parcel)


# --- what is known of those written to ---------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A message that is ours, and whom it is for, as things are now."""

    office: Office
    filed: Filed
    taken: Taken
    held: Held

    @property
    def row(self) -> Row:
        return self.taken.row

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return self.filed.ids(self.row["customer_id"])

    @cached_property
    def program(self) -> Program | None:
        program = self.office.programs.get(self.row["program"])
        return program.forms.get(self.row["variant"]) if program else None

    @cached_property
    def draft(self) -> Draft:
        return Draft.model_validate_json(self.row["content"] or "{}")

    def rows(self, table: str) -> Iterator[Row]:
        """What files tell and what came in live by now."""
        store, moved = self.office.store, self.filed.moved[table]
        yield from self.filed.rows[table].of(self.ids)
        if store.ends(table)[table] > moved:
            yield from (row for row in store.of(table, self.ids) if row["seq"] > moved)

    @cached_property
    def facts(self) -> dict[str, Any]:
        return facts_in(self.rows("customers"), self.ids)

    @cached_property
    def said(self) -> Said:
        """The latest consents, and what was withdrawn."""
        return consents_now(records_in(self.rows("consents")))

    @cached_property
    def shown(self) -> tuple[Program, Draft]:
        """What goes: with a message that needs no consent lists only where the reader agreed and agrees to promotion;
        lists of what is known of the reader only where they still may be."""
        office, program, made = self.office, self.program, self.draft
        assert program is not None  # what has none was dropped
        if program.shelves and not (made.lists and agreed(self.said, program.channel)):
            program = program.promoting(False)
            made = made if program.shelves else made.model_copy(update={"lists": ()})
        if (
            not made.lists
            or not made.personal
            or personal(self.said, office.policy.personalisation == "opt_in")
        ):
            return program, made
        engine, at = office.engine, max(office.now, office.engine.data_until)
        anew = draft(engine, program, None, made.products, {}, exclude=(), at=at, rules=made.rules).lists
        lists = tuple(  # under the ids by which clicks are told
            new.model_copy(update={"recommendation_id": was.recommendation_id})
            for new, was in zip(anew, made.lists, strict=True)
        )
        return program, made.model_copy(update={"lists": lists, "personal": False})

    @property
    def address(self) -> str:
        return self.facts.get(CONTACT[self.row["channel"]]) or ""

    @cached_property
    def subject(self) -> str:
        return addresses.subject(self.office.store, self.row["channel"], self.address)

    @property
    def about(self) -> About:
        """What a message may say of its reader, and its links to the service."""
        row, links, at = self.row, self.office.links, self.office.clock()
        if links is None:
            return About.of(self.facts, postal=self.office.postal)
        told = (row["message_id"], row["program"], row["channel"])
        return About.of(
            self.facts,
            postal=self.office.postal,
            unsubscribe_url=unsubscribe_url(links, *told, at=at),
            rate_url=rate_url(links, *told, at=at),
        )

    @property
    def ordered(self) -> list[exits.Line]:
        """What the customer ordered by now, from so long before the message was decided that exits count it."""
        since, until, store = self.row["run_at"] - exits.WITHIN, self.office.now, self.office.store
        found = [line for line in exits.lines(self.filed.ordered.of(self.ids)) if since <= line.occurred_at]
        for name in self.ids:
            live = store.since(name, since, until, types=("order",))
            columns = live["order_id"], live["product_id"], map(moment_of, live["occurred_at"])
            found += map(exits.Line, *columns)
        return found

    def parcel(self) -> Parcel:
        """The message, made now. Raises NotSent."""
        office, row, about, channel = self.office, self.row, self.about, self.row["channel"]
        program, content = self.shown
        made = compose(office.engine, program, content, about, links=office.links, now=office.now)
        if channel != "email" and not getattr(made, channel):
            raise NotSent(f"texts: the program says nothing by {channel}")
        return Parcel(
            message_id=row["message_id"], program=row["program"], version=row["version"], kind=row["kind"],
            channel=channel, to=self.address, at=office.now, handed_at=office.clock(), day=f"{row['send_at']:%Y-%m-%d}",
            domain=office.domain, sender=office.sender, subject=made.subject, text=made.text, html=made.html,
            sms=made.sms, push=made.push,
            unsubscribe_url=about.unsubscribe_url if row["kind"] == "marketing" else None,
        )  # fmt: skip


# --- whether it may still go --------------------------------------------------------------------------------


def too_late(case: Case) -> str | None:
    return "too late" if case.office.now - case.row["send_at"] > VALID else None


def is_off(case: Case) -> str | None:
    if case.program is None:
        return "there is no such program any more"
    return None if case.program.enabled else "the program is off"


def erased(case: Case) -> str | None:
    return "erased" if any(map(case.office.gone(), case.ids)) else None


def no_address(case: Case) -> str | None:
    return None if case.address else "no address"


def suppressed(case: Case) -> str | None:
    why = addresses.is_suppressed(case.office.store, case.subject)
    return f"suppressed: {why}" if why else None


def no_consent(case: Case) -> str | None:
    """A transactional message asks for none."""
    if case.row["kind"] != "marketing":
        return None
    return None if agreed(case.said, case.row["channel"]) else "no consent"


def is_paused(case: Case) -> str | None:
    """For this customer, which is for good; what is paused for everybody waits."""
    row, marketing, paused = case.row, case.row["kind"] == "marketing", case.office.pauses()
    if paused.of(row["program"], marketing=marketing):
        return None
    found = (paused.of(row["program"], name, marketing=marketing) for name in case.ids)
    return next((f"paused: {why}" for why in found if why), None)


def left(case: Case) -> str | None:
    """An order, or one of what the message is about, is what it was meant to bring about; or its day has passed."""
    wanted = case.program.exit if case.program else ()
    since, now = case.row["run_at"], case.office.now
    why = exits.ended(wanted, case.draft, case.ordered, since, now) if wanted else None
    return f"exit: {why}" if why else None


def doubled(case: Case) -> str | None:
    """Who was decided about under two ids, and is one customer since, gets one of two messages."""
    several = len(case.ids) > 1 and outgoing.has_twin(case.office.store, case.row, case.ids)
    return "merged: another of this goes to the same customer" if several else None


# what is asked, and whether the occasion of a message that it drops may come again, as the cause can be mended
CHECKS: Mapping[Callable[[Case], str | None], bool] = {
    too_late: True, is_off: True, erased: False, no_address: True, suppressed: False, no_consent: False,
    is_paused: False, left: False, doubled: False,
}  # fmt: skip


def untimely(case: Case) -> str | None:
    """Whether a message that could not go when it was meant to has to wait longer: out of its program's hours, or where
    caps leave no room on the day that it is by now."""
    row, office, program = case.row, case.office, case.program
    if program is None or office.now - row["send_at"] <= ON_TIME:
        return None
    zone = zone_of(case.facts.get("time_zone") or "", office.engine.store.time_zone)
    if opens(program, office.policy, office.now, zone) != office.now:
        return "out of hours"
    caps = office.policy.caps.get(row["channel"], ()) if row["kind"] == "marketing" else ()
    since = office.now - timedelta(days=max((cap.days for cap in caps), default=0) + 1)
    went = outgoing.sent_to(office.store, case.ids, row["channel"], since) if caps else []
    cap = full(caps, [local_day(at, zone) for at in went], local_day(office.now, zone))
    return f"cap: {cap}" if cap else None


def paused(case: Case) -> str | None:
    row = case.row
    why = case.office.pauses().of(row["program"], marketing=row["kind"] == "marketing")
    return f"paused: {why}" if why else None
