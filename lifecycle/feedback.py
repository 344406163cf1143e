"""What comes back of messages: an address that bounces, or whose reader complains, is never written to again.

bounce: hard where `value` is an SMTP reply of 500 and more, or an enhanced status as 5.1; soft in all other cases.
Three soft ones of an address within 14 days, without a sign of life between, are as one hard one. unsubscribe: a
withdrawal of consent. rating: a low one opens an alert and pauses promotion.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from features.history import History
from features.judge import Row
from lifecycle.programs import Policy
from serving import addresses
from serving.addresses import CONTACT
from serving.identities import identities_now, ids_of
from serving.outgoing import alarm, message_of, open_alert
from serving.people import facts_of
from serving.store import ABOUT, DATA, PAGE, Store, insert

MARK = "feedback"  # the number of the last event that was taken in
MARKED = sa.select(ABOUT.c.value).where(ABOUT.c.name == MARK)
SOFT, WITHIN = 3, timedelta(days=14)
ALIVE = ("delivered", "open", "click")
TYPES = ("bounce", "complaint", "unsubscribe", "rating")


def take_in(store: Store, history: History, rules: Policy, *, at: datetime) -> int:
    """Turn what came back since the last time into suppressions, withdrawals, alerts and pauses; how many addresses it
    barred.

    Each event counts once, however many workers ask, as the mark moves in the same transaction.
    """
    barred = 0
    while (page := news(store)) is not None:
        after, upto, rows = page
        aliases = identities_now(store, history) if rows else {}
        low = [row for row in rows if row["event_type"] == "rating"]
        rest = [row for row in rows if row["event_type"] != "rating"]
        subjects, consents = judged(store, history, rest, aliases, at)
        alarms = [*alarming(store, low, aliases, rules, at)]
        with store.writing() as db:
            if int(db.scalar(MARKED) or 0) != after:
                continue  # another worker has taken these in
            for reason, of in subjects.items():
                barred += addresses.put(db, of, reason, at=at, received_at=at)
            named = [*consents, *(alert for alert, _ in alarms)]
            gone = store.buried(row["customer_id"] for row in named)  # meanwhile, too
            insert(db, "consents", [row for row in consents if row["customer_id"] not in gone])
            for alert, pauses in alarms:
                if alert["customer_id"] not in gone:
                    open_alert(db, alert, pauses)
            mark(db, upto)
    return barred


def news(store: Store) -> tuple[int, int, list[Row]] | None:
    """Events after the mark that say something: (the mark, where it moves to, the events); None where all are known."""
    table, end = DATA["events"], store.ends("events")["events"]
    moved = store.select(MARKED)
    after = int(moved[0][0]) if moved else 0
    if after >= end:
        return None
    wanted = sa.select(table).where(table.c.seq > after, table.c.seq <= end, table.c.event_type.in_(TYPES))
    rows: list[Row] = [dict(row._mapping) for row in store.select(wanted.order_by(table.c.seq).limit(PAGE))]
    upto: int = rows[-1]["seq"] if len(rows) == PAGE else end
    return after, upto, rows


def mark(db: sa.Connection, upto: int) -> None:
    done = db.execute(sa.update(ABOUT).where(ABOUT.c.name == MARK).values(value=str(upto)))
    if not done.rowcount:
        db.execute(sa.insert(ABOUT).values(name=MARK, value=str(upto)))


def judged(
    store: Store, history: History, rows: Sequence[Row], aliases: Mapping[str, str], at: datetime
) -> tuple[dict[str, dict[str, str]], list[dict[str, Any]]]:
    """By reason the subjects to suppress, each with its channel, and the withdrawals."""
    found: dict[str, dict[str, str]] = {"complaint": {}, "bounce": {}}
    consents: list[dict[str, Any]] = []
    for row in rows:
        about = meant(store, history, row, aliases)
        if about is None:
            continue
        customer, channel, subject = about
        if row["event_type"] == "unsubscribe":
            if customer:
                consents.append(withdrawal(row, customer, channel, at))
        elif (
            row["event_type"] == "complaint" or is_hard(row["value"]) or is_worn(store, row, channel, subject)
        ):
            found[row["event_type"]] |= {subject: channel} if subject else {}
    return found, consents


def alarming(
    store: Store, ratings: Sequence[Row], aliases: Mapping[str, str], rules: Policy, at: datetime
) -> Iterator[tuple[Row, list[Row]]]:
    """Of each low rating the alert, and the pause that it brings; one given by a message's link has them already. Of
    ratings so old that their pause is over nothing is made."""
    for row in ratings:
        if row["occurred_at"] + timedelta(days=rules.rating_days) <= at:
            continue
        message = message_of(store, row["message_id"]) if row["message_id"] else None
        customer = message["customer_id"] if message else row["customer_id"]
        if customer is not None and row["value"] is not None and row["value"] <= rules.low_rating:
            program = message["program"] if message else None
            yield alarm(row, aliases.get(customer, customer), program, rules.rating_days, at=at)


def meant(
    store: Store, history: History, row: Row, aliases: Mapping[str, str]
) -> tuple[str | None, str, str | None] | None:
    """(customer, channel, subject) of an event: by the message that it names, else by the customer and channel."""
    message = message_of(store, row["message_id"]) if row["message_id"] else None
    customer = message["customer_id"] if message else row["customer_id"]
    channel = message["channel"] if message else row["channel"] or "email"
    if customer is None or channel not in CONTACT:
        return None
    went_to = sent_to(store, row["message_id"]) if message else None
    if went_to is None:
        address = facts_of(store, history, ids_of(customer, aliases)).get(CONTACT[channel])
        went_to = addresses.subject(store, channel, address) if address else None
    return customer, channel, went_to


def sent_to(store: Store, message_id: str) -> str | None:
    """The subject of the address that a message went to: the customer may have another one by now."""
    table = DATA["deliveries"].c
    wanted = sa.select(table.subject).where(table.message_id == message_id, table.subject.is_not(None))
    found = store.select(wanted.order_by(table.seq.desc()).limit(1))
    return found[0][0] if found else None


def is_hard(value: float | None) -> bool:
    return value is not None and (value >= 500 or 5 <= value < 6)


def is_worn(store: Store, row: Row, channel: str, subject: str | None) -> bool:
    """Whether this soft bounce is the last of so many in a row: of all messages to the address, where these are known,
    else of the customer's on the channel."""
    events, sent = DATA["events"].c, DATA["deliveries"].c
    to_it = sa.select(sent.message_id).where(sent.subject == subject) if subject else None
    whose = sa.and_(events.customer_id == row["customer_id"], events.channel == row["channel"])
    if row["message_id"]:
        own = events.message_id == row["message_id"]
        whose = sa.or_(own, events.message_id.in_(to_it)) if to_it is not None else own
    wanted = sa.select(events.event_type).where(
        whose, events.event_type.in_(("bounce", *ALIVE)), events.occurred_at > row["occurred_at"] - WITHIN,
        events.occurred_at <= row["occurred_at"],
    )  # fmt: skip
    last = store.select(wanted.order_by(events.occurred_at.desc(), events.seq.desc()).limit(SOFT))
    return [kind for (kind,) in last] == ["bounce"] * SOFT


def withdrawal(row: Row, customer: str, channel: str, at: datetime) -> dict[str, Any]:
    return {
        "customer_id": customer, "channel": channel, "purpose": "marketing", "granted": False,
        "at": row["occurred_at"], "source": "unsubscribe event", "received_at": at,
    }  # fmt: skip
