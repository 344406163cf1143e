"""Tests of a program: its message, in each of its languages, to addresses of the shop's own before customers get it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lifecycle.channels import NOBODY, Carrier, Dead, Failed, Parcel
from lifecycle.messages import About, Message, NotSent
from lifecycle.previews import example, preview
from lifecycle.programs import Program
from serving import addresses
from serving.engine import Engine
from serving.links import Links
from serving.mailed import unsubscribe_url
from serving.rules import Exclude
from serving.store import Store

MARK = "[Test] "  # before the subject, or the text of what has none
MOST = 50  # addresses of a list


class SeedError(ValueError):
    """A list of addresses is not understood; the message says why and names none."""


class Tested(NamedTuple):
    """What became of the message to the address of this place in the list."""

    place: int
    locale: str
    result: str


def seeds(given: str) -> list[str]:
    """Addresses, or telephone numbers, apart by commas, or a file's, one a line. Raises SeedError, OSError."""
    is_list = any(sign in given for sign in "@,+")
    said = given.split(",") if is_list else Path(given).read_text(encoding="utf-8").splitlines()
    found = list(
        dict.fromkeys(one.strip() for one in said if one.strip() and not one.lstrip().startswith("#"))
    )
    if not found:
        raise SeedError("no address is in the list: a file has one a line, a list has commas between")
    if len(found) > MOST:
        raise SeedError(f"{len(found)} addresses: a list of tests has at most {MOST}")
    return found


@dataclass(frozen=True)
class Trial:
    """A program's message for a list, as of a moment. It shows lists of `customer_id`, or of anybody, but no customer's
    name; its products' links are their own, so that no test counts as a click."""

    store: Store
    engine: Engine
    program: Program
    carrier: Carrier
    at: datetime
    customer_id: str | None = None
    links: Links | None = None
    rules: Sequence[Exclude] = ()
    sender: str = ""
    domain: str = NOBODY

    def send(self, to: Sequence[str]) -> Iterator[Tested]:
        """Hand it to each of these addresses in each language. Nothing is put on record."""
        for place, address in enumerate(to, 1):
            subject = addresses.subject(self.store, self.program.channel, address)
            why = addresses.is_suppressed(self.store, subject)
            for locale in self.program.texts:
                yield Tested(
                    place, locale, f"suppressed: {why}" if why else self.sent(place, address, locale)
                )

    def sent(self, place: int, address: str, locale: str) -> str:
        """What became of one."""
        try:
            self.carrier.send(self.parcel(place, address, locale))
        except (NotSent, Dead, Failed) as error:
            return f"not sent: {error}"
        return "sent"

    def parcel(self, place: int, address: str, locale: str) -> Parcel:
        program, at, channel = self.program, self.at, self.program.channel
        said = f"{program.name}|{program.version}|{at}|{place}|{locale}".encode()
        name = f"test-{hashlib.blake2b(said, digest_size=9).hexdigest()}"
        links = self.links if program.kind == "marketing" else None
        leave = unsubscribe_url(links, name, program.name, channel, at=at) if links else None
        made = self.message(About(locale=locale, unsubscribe_url=leave))
        if channel != "email" and not getattr(made, channel, ""):
            raise NotSent(f"texts: the program says nothing by {channel}")
        return Parcel(
            message_id=name, program=program.name, version=program.version, kind=program.kind, channel=channel,
            to=address, at=at, handed_at=at, day=f"{at:%Y-%m-%d}", domain=self.domain, sender=self.sender,
            subject=MARK + made.subject, text=made.text, html=made.html, sms=MARK + made.sms,
            push=MARK + made.push, unsubscribe_url=leave,
        )  # fmt: skip

    def message(self, about: About) -> Message:
        moment = max(self.at, self.engine.data_until)
        if self.customer_id is None:
            return example(self.engine, self.program, about, at=moment, rules=self.rules)
        return preview(
            self.engine, self.program, about, customer_id=self.customer_id, order_id=None, links=None, at=moment,
            now=moment, rules=self.rules,
        )  # fmt: skip
