"""Addresses that are never written to again: known by a keyed hash of channel and address, so that nobody reads whose.

An address is suppressed once, for the first reason that came, and for good: for whoever has it, under whatever id.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from features.judge import Row
from serving.store import DATA, Store, insert

CONTACT: Mapping[str, str] = {"email": "email", "sms": "phone", "push": "push_token"}  # the fact of a channel
APART = re.compile(r"[\s()./-]+")


def mail(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip()).lower()


def number(text: str) -> str:
    """Without what parts its digits; an international one begins with +."""
    bare = APART.sub("", text.strip())
    return "+" + bare[2:] if bare.startswith("00") else bare


NORMAL: Mapping[str, Callable[[str], str]] = {"sms": number, "push": str.strip}


def normal(channel: str, address: str) -> str:
    """The address as all its spellings are compared."""
    return NORMAL.get(channel, mail)(address)


def subject(store: Store, channel: str, address: str) -> str:
    """What the list of suppressed addresses, and that of deliveries, name an address by."""
    return store.subject(f"{channel}:{normal(channel, address)}")


def subjects_of(store: Store, facts: Iterable[Row]) -> dict[str, str]:
    """Of every address in rows of customers its subject, with the channel."""
    return {
        subject(store, channel, row[fact]): channel
        for row in facts
        for channel, fact in CONTACT.items()
        if row.get(fact)
    }


def is_suppressed(store: Store, subject: str) -> str | None:
    """Why nothing is sent there any more; None where it may be."""
    table = DATA["suppressed"].c
    found = store.select(sa.select(table.reason).where(table.subject == subject))
    return found[0][0] if found else None


def suppress(
    store: Store, subjects: Mapping[str, str], reason: str, *, at: datetime, received_at: datetime
) -> int:
    """Put subjects, each with its channel, on the list; how many were not there yet."""
    if not subjects:
        return 0
    with store.writing() as db:
        return put(db, subjects, reason, at=at, received_at=received_at)


def put(
    db: sa.Connection, subjects: Mapping[str, str], reason: str, *, at: datetime, received_at: datetime
) -> int:
    """`suppress` within a transaction of `Store.writing`."""
    table = DATA["suppressed"].c
    known = set(db.scalars(sa.select(table.subject).where(table.subject.in_(subjects))))
    rows: list[dict[str, Any]] = [
        {"subject": name, "channel": channel, "reason": reason, "at": at, "received_at": received_at}
        for name, channel in subjects.items()
        if name not in known
    ]
    insert(db, "suppressed", rows)
    return len(rows)
