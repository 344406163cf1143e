"""Tests of a program: its message, in each of its languages, to addresses of the shop's own before customers get it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lifecycle.channels import NOBODY, Carrier, Dead, Failed, Parcel
from lifecycle.messages import About, Message, NotSent
from lifecycle.permission import UNNAMED, Permission
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
    variant: str | None
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
    """A program's message for a list, as of a moment. It shows lists of `customer_id`, as far as that customer
    agreed, or of anybody, but no customer's name; its products' links are their own, so that no test counts as a
    click."""

    store: Store
    engine: Engine
    program: Program
    carrier: Carrier
    at: datetime
    customer_id: str | None = None
    links: Links | None = None
    rules: Sequence[Exclude] = ()
    may: Permission = UNNAMED  # of that customer
    sender: str = ""
    domain: str = NOBODY
    postal: str | None = None

    def send(self, to: Sequence[str]) -> Iterator[Tested]:
        """Hand it to each of these addresses in each variant and language. Nothing is put on record."""
        for place, address in enumerate(to, 1):
            subject = addresses.subject(self.store, self.program.channel, address)
            why = addresses.is_suppressed(self.store, subject)
            for variant, form in self.program.forms.items():
                for locale in form.texts:
                    name = f"{place}|{variant}|{locale}"
                    result = f"suppressed: {why}" if why else self.sent(name, form, address, locale)
                    yield Tested(place, variant, locale, result)

    def sent(self, name: str, form: Program, address: str, locale: str) -> str:
        """What became of one."""
        try:
            self.carrier.send(self.parcel(name, form, address, locale))
        except (NotSent, Dead, Failed) as error:
            return f"not sent: {error}"
        return "sent"

    def parcel(self, name: str, form: Program, address: str, locale: str) -> Parcel:
        at, channel = self.at, form.channel
        said = f"{form.name}|{form.version}|{at}|{name}".encode()
        message_id = f"test-{hashlib.blake2b(said, digest_size=9).hexdigest()}"
        links = self.links if form.kind == "marketing" else None
        leave = unsubscribe_url(links, message_id, form.name, channel, at=at) if links else None
        made = self.message(form, About(locale=locale, unsubscribe_url=leave, postal=self.postal))
        if channel != "email" and not getattr(made, channel, ""):
            raise NotSent(f"texts: the program says nothing by {channel}")
        return Parcel(
            message_id=message_id, program=form.name, version=form.version, kind=form.kind, channel=channel,
            to=address, at=at, handed_at=at, day=f"{at:%Y-%m-%d}", domain=self.domain, sender=self.sender,
            subject=MARK + made.subject, text=made.text, html=made.html, sms=MARK + made.sms,
            push=MARK + made.push, unsubscribe_url=leave,
        )  # fmt: skip

    def message(self, form: Program, about: About) -> Message:
        moment = max(self.at, self.engine.data_until)
        if self.customer_id is None:
            return example(self.engine, form, about, at=moment, rules=self.rules)
        return preview(
            self.engine, form, about, customer_id=self.customer_id, order_id=None, links=None, at=moment,
            now=moment, rules=self.rules, may=self.may,
        )  # fmt: skip
