"""Links in a message to what its reader may answer: no more of this, and stars.

What they hold is sealed, and names a message; whom it went to is looked up in the database when they are followed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from serving.links import Links
from serving.tokens import Tokens
from serving.wire import Wire

UNSUBSCRIBE, RATE = "/u/", "/rate/"
UNSUBSCRIBE_AGE = timedelta(days=3650)  # a link in a message must work for as long as somebody keeps it
RATE_AGE = timedelta(days=90)


class Mailed(Wire):
    program: str
    channel: str


class Unsubscribe(Mailed):
    """The message whose reader wants no more."""

    unsubscribe: str


class Rate(Mailed):
    """The message that asks for stars."""

    rate: str


Kind = TypeVar("Kind", Unsubscribe, Rate)
AGES: Mapping[type[Mailed], timedelta] = {Unsubscribe: UNSUBSCRIBE_AGE, Rate: RATE_AGE}


def unsubscribe_url(links: Links, message_id: str, program: str, channel: str, *, at: datetime) -> str:
    return url(links, UNSUBSCRIBE, Unsubscribe(unsubscribe=message_id, program=program, channel=channel), at)


def rate_url(links: Links, message_id: str, program: str, channel: str, *, at: datetime) -> str:
    """To which `?stars=n` is added."""
    return url(links, RATE, Rate(rate=message_id, program=program, channel=channel), at)


def url(links: Links, path: str, said: Mailed, at: datetime) -> str:
    return links.public_url.rstrip("/") + path + links.tokens.seal(said, at=at)


def opened(tokens: Tokens, token: str, kind: type[Kind], *, at: datetime) -> Kind:
    """Raises TokenError, Expired where the link is too old at that moment."""
    return tokens.open(token, kind, at=at, max_age=AGES[kind])
