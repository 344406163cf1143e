"""What was decided and sent, as the database has it: read in bulk, written once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property

import sqlalchemy as sa

from features.judge import Row
from serving.outgoing import AGAIN
from serving.store import DATA, DECISIONS, Store

MESSAGE, HOLDOUT = "message", "holdout"
MADE = (MESSAGE, HOLDOUT)  # outcomes that count against caps, and end an occasion
UNSENT = ("dropped", "dead", AGAIN)  # what a message became that nobody got: it counts against nothing
AT_ONCE = 400  # customers asked about at a time
D = DATA[DECISIONS.name].c
PAUSED, RAN = DATA["pauses"].c, DATA["runs"].c


@dataclass
class Past:
    """What a customer got, or would have got: (program, occasion) of messages of the runs `before`, and of those `made`
    by this very run, which `decided` more; how often one about it was dropped so that it may come `again`; when those
    were `sent`, or would have been, that went or were held back; the messages' days by channel where they count against
    caps, as all do but what was dropped, when each program wrote last before, the products that mails showed lately,
    the id by which the first was decided, and the channels for which a learned choice was made in this very run."""

    before: set[tuple[str, str]] = field(default_factory=set)
    made: set[tuple[str, str]] = field(default_factory=set)
    decided: set[tuple[str, str]] = field(default_factory=set)
    again: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent: dict[tuple[str, str], datetime] = field(default_factory=dict)
    days: dict[str, list[date]] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)
    first: tuple[datetime, str] | None = None
    at: datetime | None = None  # the moment of this very run

    def sent_by(self, program: str) -> dict[str, datetime]:
        """By occasion when messages of a program went, or would have."""
        return {key: at for (name, key), at in self.sent.items() if name == program}

    def named(self, name: str) -> str:
        """The id that says which arms the customer is of: the first ever decided about, so that a merge moves nobody
        who was decided before."""
        return self.first[1] if self.first else name


@dataclass(frozen=True)
class Names:
    """Customers by all their ids: what was written to an id that is another customer's now was written to that one."""

    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def others(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for alias, own in self.aliases.items():
            found.setdefault(own, []).append(alias)
        return found

    def own(self, name: str) -> str:
        return self.aliases.get(name, name)

    def all(self, customers: Iterable[str]) -> list[str]:
        return [name for own in customers for name in (own, *self.others.get(own, ()))]


@dataclass(frozen=True)
class Seen:
    """The past of customers, and the number of the last decision that it holds."""

    upto: int
    past: Mapping[str, Past]


def seen(
    store: Store,
    customers: Sequence[str],
    *,
    shown_since: datetime,
    run_at: datetime,
    names: Names,
) -> Seen:
    """What was decided of these customers before, under whichever id; and what in the run of `run_at`."""
    upto = store.ends(DECISIONS.name)[DECISIONS.name]
    past = {name: Past(at=run_at) for name in customers}
    for ids in parts(names.all(customers)):
        wanted = sa.select(
            D.customer_id,
            D.program,
            D.occasion,
            D.channel,
            D.kind,
            D.local_day,
            D.send_at,
            D.message_id,
            D.run_at,
            D.outcome,
            D.became,
        ).where(D.customer_id.in_(ids), sa.or_(D.message_id.is_not(None), D.run_at == run_at))
        for name, program, occasion, channel, kind, day, at, message, when, outcome, became in store.select(
            wanted
        ):
            of = past[names.own(name)]
            if when == run_at:
                of.decided.add((program, occasion))
            if message is None:
                continue
            of.first = min(of.first or (when, name), (when, name))
            if became == AGAIN:
                of.again[program, occasion] += 1
                continue
            (of.made if when == run_at else of.before).add((program, occasion))
            if when != run_at and (became == "sent" or outcome == HOLDOUT):
                of.sent[program, occasion] = at
            if became in UNSENT:
                continue
            if when != run_at:
                of.last[program] = max(at, of.last.get(program, at))
            if kind == "marketing":
                of.days.setdefault(channel, []).append(date.fromisoformat(day))
        for name, channel, first, now in choices(store, ids, run_at):
            of = past[names.own(name)]
            of.first = min(of.first or (first, name), (first, name))
            of.chosen |= {channel} if now else set()
        for name, products in shown(store, ids, shown_since):
            past[names.own(name)].shown += products
    return Seen(upto, past)


def shown(store: Store, customers: Sequence[str], since: datetime) -> Iterator[tuple[str, list[str]]]:
    """What was shown or sent to these customers since a moment, the latest first."""
    sends = DATA["sends"].c
    unseen = sa.select(D.message_id).where(D.customer_id.in_(customers), D.became.in_(UNSENT))
    wanted = sa.select(sends.customer_id, sends.product_ids).where(
        sends.customer_id.in_(customers), sends.at >= since,
        sa.or_(sends.message_id.is_(None), sends.message_id.not_in(unseen)),
    )  # fmt: skip
    yield from store.select(wanted.order_by(sends.at.desc()))


def choices(
    store: Store, customers: Sequence[str], run_at: datetime
) -> list[tuple[str, str, datetime, bool]]:
    """(customer, channel, run of the first choice, whether one was made in this run) of these customers."""
    c = DATA["choices"].c
    now = sa.func.max(sa.case((c.run_at == run_at, 1), else_=0))
    wanted = sa.select(c.customer_id, c.channel, sa.func.min(c.run_at), now).where(
        c.customer_id.in_(customers)
    )
    return [
        (name, on, first, bool(made))
        for name, on, first, made in store.select(wanted.group_by(c.customer_id, c.channel))
    ]


def keep(
    store: Store, tables: Mapping[str, Sequence[Row]], customers: Sequence[str], upto: int, names: Names
) -> set[str]:
    """Store what was decided for these customers, but for those of whom more was decided meanwhile: who they are."""
    with store.alone() as record:
        wanted = sa.select(D.customer_id).where(D.seq > upto, D.customer_id.in_(names.all(customers)))
        late = {names.own(name) for (name,) in store.select(wanted.distinct())}
        none = late | store.buried(customers)  # who was erased meanwhile is not decided about
        record(
            {table: [row for row in rows if row["customer_id"] not in none] for table, rows in tables.items()}
        )
    return late


def note(store: Store, run_at: datetime, rows: Sequence[Row]) -> None:
    """Put on record that a run was made, once for each program."""
    with store.alone() as record:
        known = {name for (name,) in store.select(sa.select(RAN.program).where(RAN.run_at == run_at))}
        record({"runs": [row for row in rows if row["program"] not in known]})


def parts(customers: Sequence[str], size: int = AT_ONCE) -> Iterator[Sequence[str]]:
    for start in range(0, len(customers), size):
        yield customers[start : start + size]


# --- runs and pauses --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pauses:
    """Why programs, customers, and programs for customers are paused; `None` as the program: all that is marketing."""

    reasons: Mapping[tuple[str | None, str | None], str]

    def of(self, program: str, customer: str | None = None, *, marketing: bool = True) -> str | None:
        """The reason, None where nothing is paused."""
        whole = [(None, None), (None, customer)] if marketing else []
        for key in ((program, None), (program, customer), *whole):
            if key in self.reasons:
                return self.reasons[key]
        return None

    def beside(self, stopped: Mapping[str, str]) -> "Pauses":
        """With these programs stopped for everybody, for these reasons."""
        return Pauses({**self.reasons, **{(name, None): why for name, why in stopped.items()}})


def pauses(store: Store, at: datetime, names: Names | None = None) -> Pauses:
    """What is paused at a moment: the latest record before it of a program and customer counts, until it ends."""
    wanted = sa.select(PAUSED.program, PAUSED.customer_id, PAUSED.paused, PAUSED.reason, PAUSED.ends)
    found: dict[tuple[str | None, str | None], str] = {}
    for program, customer, paused, reason, ends in store.select(
        wanted.where(PAUSED.at <= at).order_by(PAUSED.at, PAUSED.seq)
    ):
        key = (program, names.own(customer) if names and customer else customer)
        found.pop(key, None)
        if paused and (ends is None or at < ends):
            found[key] = reason
    return Pauses(found)


def sizes(store: Store, since: datetime, until: datetime) -> dict[str, list[float]]:
    """By program the sizes of its audience in the runs of a time, oldest first."""
    wanted = sa.select(RAN.program, RAN.members).where(RAN.run_at >= since, RAN.run_at < until)
    found: dict[str, list[float]] = {}
    for program, members in store.select(wanted.order_by(RAN.run_at)):
        found.setdefault(program, []).append(members)
    return found


def last_runs(store: Store, until: datetime) -> dict[str, datetime]:
    """By program when it was looked at last, and was not stopped, before a moment."""
    wanted = sa.select(RAN.program, sa.func.max(RAN.run_at)).where(RAN.run_at < until, RAN.stopped.is_(None))
    return dict(tuple(row) for row in store.select(wanted.group_by(RAN.program)))


def suppressed(store: Store) -> set[str]:
    return {subject for (subject,) in store.select(sa.select(DATA["suppressed"].c.subject))}


def tally(store: Store, run_at: datetime) -> dict[str, dict[str, int]]:
    """By program how many occasions of a run came to what."""
    wanted = sa.select(D.program, D.outcome, sa.func.count()).where(D.run_at == run_at)
    found: dict[str, dict[str, int]] = {}
    for program, outcome, count in store.select(wanted.group_by(D.program, D.outcome)):
        found.setdefault(program, {})[outcome] = count
    return found
