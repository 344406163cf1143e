"""Messages on their way, as the database knows them: due, taken by a worker, done; and vouchers, alerts.

A message is a row of `decisions` whose outcome is `message`; what became of it are rows of `deliveries`, the last of
which counts. A worker takes messages before it handles them. Who dies loses them: after LEASE another takes them.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from features.judge import Row
from serving.store import DATA, Store, insert
from serving.wire import RequestError

STARS = 5  # the most that a rating gives
LOW = "low_rating"  # the kind of an alert
OUTBOX, DEAD = "outbox", "dead.ndjson"  # the folder in a home, and in it the list of what never went
PLAIN = re.compile(r"[\w-]{1,100}", re.ASCII)
FINAL = ("sent", "dropped", "dead")
AGAIN = "again"  # what a dropped message became whose occasion may come again
REST = timedelta(minutes=15)  # between two looks at one that has to wait
LEASE = timedelta(minutes=5)  # so long a message is its taker's alone
BACKOFF = tuple(timedelta(minutes=m) for m in (1, 5, 30, 120, 360, 720, 1440))  # after each failure


class Due(NamedTuple):
    """A message that is due: the number of its decision, and what is asked before anybody takes it."""

    number: int
    customer_id: str
    program: str
    kind: str
    run_at: datetime
    send_at: datetime


class Taken(NamedTuple):
    """A message that is ours to send: its row, how often it has failed before, and the number of the row of
    `deliveries` that says so. As long as that is the last of the message it is ours."""

    row: Row
    failures: int
    ticket: int = 0

    @property
    def message_id(self) -> str:
        name: str = self.row["message_id"]
        return name


# --- messages ---------------------------------------------------------------------------------------------


def due(store: Store, channels: Collection[str], now: datetime) -> list[Due]:
    """Messages that are due at `now` and not done, in the order of sending; of those who were erased none."""
    found = [Due(*row) for row in store.select(due_sql(channels, now))]
    gone = store.graves() if found else bool
    return [one for one in found if not gone(one.customer_id)]


def due_sql(channels: Collection[str], now: datetime) -> "sa.Select[Any]":
    """Its conditions are those of the index `messages_open`, word for word: what is settled is not looked at."""
    d = DATA["decisions"].c
    made = d.outcome == sa.literal_column("'message'")
    return (
        sa.select(d.seq, d.customer_id, d.program, d.kind, d.run_at, d.send_at)
        .where(made, d.settled_at.is_(None), d.send_at <= now, d.channel.in_(channels), d.message_id.is_not(None))
        .order_by(d.send_at, d.seq)
    )  # fmt: skip


def take(store: Store, numbers: Sequence[int], *, at: datetime, lease: timedelta = LEASE) -> list[Taken]:
    """Those of these messages that nobody else has at `at` (the clock's), and that need wait no longer: ours now. Of
    those who were erased none."""
    d = DATA["decisions"]
    with store.writing() as db:
        wanted = sa.select(d).where(d.c.seq.in_(numbers)).order_by(d.c.send_at, d.c.seq)
        rows = [dict(row) for row in db.execute(wanted).mappings()]
        gone = store.buried(row["customer_id"] for row in rows)
        past = pasts(db, [row["message_id"] for row in rows])
        free = [
            Taken(row, failures(past[row["message_id"]])) for row in rows
            if row["customer_id"] not in gone and is_free(past[row["message_id"]], at, lease)
        ]  # fmt: skip
        return ours(db, free, at)


def renew(store: Store, held: Sequence[Taken], *, at: datetime) -> list[Taken]:
    """Those of these messages that are still ours, for as long again."""
    with store.writing() as db:
        last = lasts(db, [one.message_id for one in held])
        return ours(db, [one for one in held if last.get(one.message_id) == one.ticket], at)


def ours(db: sa.Connection, free: Sequence[Taken], at: datetime) -> list[Taken]:
    insert(db, "deliveries", [delivery(one.row, "taken", at=at, received_at=at) for one in free])
    tickets = lasts(db, [one.message_id for one in free])
    return [one._replace(ticket=tickets[one.message_id]) for one in free]


def lasts(db: sa.Connection, messages: Sequence[str]) -> dict[str, int]:
    """The number of the last row about each of these messages."""
    d = DATA["deliveries"].c
    wanted = sa.select(d.message_id, sa.func.max(d.seq).label("last")).where(d.message_id.in_(messages))
    return {row.message_id: row.last for row in db.execute(wanted.group_by(d.message_id))}


def settle(db: sa.Connection, row: Row, made: Row, *, again: bool = False) -> None:
    """Put on record what became of a message, within a transaction of `Store.writing`; `again`: its occasion may come
    again."""
    insert(db, "deliveries", [made])
    if made["state"] in FINAL:
        d, became = DATA["decisions"], AGAIN if again else made["state"]
        done = {"settled_at": made["received_at"], "became": became}
        db.execute(sa.update(d).where(d.c.seq == row["seq"]).values(done))


def has_twin(store: Store, row: Row, ids: Sequence[str]) -> bool:
    """Whether another message of a program went, or goes first, to a customer who was decided about under several ids:
    about the same, or, of marketing, on the same day of theirs."""
    d = DATA["decisions"].c
    same = d.occasion == row["occasion"]
    if row["kind"] == "marketing":
        same = sa.or_(same, d.local_day == row["local_day"])
    earlier = sa.or_(d.send_at < row["send_at"], sa.and_(d.send_at == row["send_at"], d.seq < row["seq"]))
    live = sa.or_(d.became == "sent", sa.and_(d.settled_at.is_(None), earlier))
    wanted = sa.select(d.seq).where(
        d.customer_id.in_(ids), d.customer_id != row["customer_id"], d.program == row["program"],
        d.outcome == "message", same, live,
    )  # fmt: skip
    return bool(store.select(wanted.limit(1)))


def pasts(db: sa.Connection, messages: Sequence[str]) -> dict[str, list[Row]]:
    """What became of each of these messages, oldest first."""
    table = DATA["deliveries"]
    found: dict[str, list[Row]] = {name: [] for name in messages}
    rows = db.execute(sa.select(table).where(table.c.message_id.in_(messages)).order_by(table.c.seq))
    for row in rows.mappings():
        found[row["message_id"]].append(dict(row))
    return found


def failures(past: Sequence[Row]) -> int:
    return sum(row["state"] == "failed" for row in past)


def is_free(past: Sequence[Row], at: datetime, lease: timedelta = LEASE) -> bool:
    """Whether a message may be taken. Leases and pauses between tries go by when a row was received: by the clock."""
    if not past:
        return True
    state, since = past[-1]["state"], past[-1]["received_at"]
    tried = BACKOFF[min(failures(past), len(BACKOFF)) - 1]
    paused = (past[-1]["detail"] or "").startswith("paused")  # a pause ends at once
    rest = {"taken": lease, "failed": tried, "waiting": timedelta(0) if paused else REST}
    return state in rest and at >= since + rest[state]


def delivery(
    row: Row, state: str, *, at: datetime, received_at: datetime, detail: str | None = None, subject: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """What became of a message, as a row of `deliveries`."""
    about = {"message_id": row["message_id"], "customer_id": row["customer_id"], "state": state, "at": at}
    return {**about, "detail": detail, "subject": subject, "received_at": received_at}


def sent_to(store: Store, customer_ids: Sequence[str], channel: str, since: datetime) -> list[datetime]:
    """When marketing went to these ids on a channel."""
    d, done = DATA["decisions"].c, DATA["deliveries"].c
    both = DATA["deliveries"].join(DATA["decisions"], d.message_id == done.message_id)
    wanted = (
        sa.select(done.at).select_from(both).where(done.customer_id.in_(customer_ids), done.state == "sent")
    )
    wanted = wanted.where(done.at >= since, d.kind == "marketing", d.channel == channel)
    return [at for (at,) in store.select(wanted)]


def message_of(store: Store, message_id: str) -> Row | None:
    """The decision that a message came of."""
    table = DATA["decisions"]
    found = store.select(sa.select(table).where(table.c.message_id == message_id))
    return dict(found[0]._mapping) if found else None


def messages_of(store: Store, customer_ids: Sequence[str]) -> set[str]:
    """The ids of all messages to these customers."""
    tables = ("decisions", "deliveries")
    return {row["message_id"] for name in tables for row in store.of(name, customer_ids)} - {None}


def stem_of(message_id: str) -> str:
    """What its file is called; an id that is no plain name, as another system may give it, by its hash."""
    return message_id if PLAIN.fullmatch(message_id) else hashlib.sha256(message_id.encode()).hexdigest()[:32]


# --- vouchers ---------------------------------------------------------------------------------------------


def redeem(store: Store, code: str, *, order_id: str | None, at: datetime, received_at: datetime) -> Row:
    """Use a voucher, once; the voucher. The same order may ask again, as after a lost answer. Raises RequestError."""
    given = DATA["vouchers"]
    with store.writing() as db:
        names = (code.strip(), code.strip().upper())
        found = db.execute(sa.select(given).where(given.c.code.in_(names))).mappings().first()
        if found is None or store.buried([found["customer_id"]]):
            raise RequestError("code", "there is no such voucher", 404)
        used = DATA["redeemed"]
        before = db.execute(sa.select(used).where(used.c.code == found["code"])).mappings().first()
        if before and not (order_id and before["order_id"] == order_id):
            raise RequestError("code", "the voucher was redeemed before", 409)
        if before is None:
            if found["ends"] <= at:
                raise RequestError("code", f"the voucher ended on {found['ends']:%Y-%m-%d}", 410)
            row = {"code": found["code"], "customer_id": found["customer_id"], "order_id": order_id, "at": at}
            insert(db, "redeemed", [{**row, "received_at": received_at}])
    return dict(found)


# --- alerts -----------------------------------------------------------------------------------------------


def alert_id(kind: str, about: str) -> str:
    return hashlib.blake2b(f"{kind}:{about}".encode(), digest_size=8).hexdigest()


def open_alert(db: sa.Connection, alert: Row, pauses: Iterable[Row] = ()) -> bool:
    """Within a transaction of `Store.writing` open an alert, and pause what it is about; whether it was not known yet.
    Doing it again changes nothing."""
    table = DATA["alerts"].c
    if db.scalar(sa.select(table.seq).where(table.alert_id == alert["alert_id"])):
        return False
    insert(db, "alerts", [{**alert, "open": True}])
    insert(db, "pauses", list(pauses))
    return True


def alarm(
    rating: Row, customer_id: str, program: str | None, days: int, *, at: datetime
) -> tuple[Row, list[Row]]:
    """The alert of a low rating, an event, by its message if it names one, and the pause of so many days that it
    brings: of all that is marketing to the customer."""
    detail, name = f"{rating['value']:g} of {STARS} stars", rating["message_id"] or rating["event_id"]
    about = {"customer_id": customer_id, "at": at, "received_at": at}
    alert = {
        **about, "alert_id": alert_id(LOW, name), "kind": LOW, "program": program, "detail": detail,
        "message_id": rating["message_id"],
    }  # fmt: skip
    ends = rating["occurred_at"] + timedelta(days=days)
    return alert, [{**about, "paused": True, "reason": detail, "by": "rating", "ends": ends}]


def alerts(store: Store) -> list[Row]:
    """Those that are open, oldest first."""
    table = DATA["alerts"]
    rows = [dict(row._mapping) for row in store.select(sa.select(table).order_by(table.c.seq))]
    closed = {row["alert_id"] for row in rows if not row["open"]}
    return [row for row in rows if row["alert_id"] not in closed]


def close_alert(store: Store, name: str, *, by: str | None, at: datetime) -> Row:
    """Close an alert. Raises RequestError where none of this name is open."""
    found = next((row for row in alerts(store) if row["alert_id"] == name), None)
    if found is None:
        raise RequestError("alert_id", f"no alert {name} is open; `osclms alerts` names them", 404)
    closed = {**found, "open": False, "by": by, "at": at, "received_at": at}
    store.append("alerts", [closed])
    return closed
