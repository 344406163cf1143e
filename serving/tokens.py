"""Sealed tokens: what the service and the shop's server tell each other through a page or a mail.

A token is a Fernet token (https://github.com/fernet/spec) around JSON: encrypted, so that nobody reads what is in
it, signed by HMAC-SHA256, so that nobody else makes one, and dated, so that it can be too old. There are Fernet
libraries for most languages: a shop's server makes a customer's token without asking us.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import BaseModel, ValidationError

from serving.schemas import Id
from serving.wire import Wire

MAX_TOKEN = 2000  # characters; longer ones are not looked at
CUSTOMER_AGE = timedelta(days=1)  # no page stays open longer
Sealed = TypeVar("Sealed", bound=BaseModel)


class TokenError(ValueError):
    """A token that is none of ours, or says something else than was expected."""


class Expired(TokenError):
    """A token of ours that is too old."""


class CustomerToken(Wire):
    """Who a page is shown to, as the shop's server seals it."""

    customer_id: Id


class Tokens:
    """Seals by the first secret, opens by any: a new one is put in front, the old one goes when its tokens have."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises ValueError for a secret that is no Fernet key, and where there is none."""
        self.fernet = MultiFernet([Fernet(secret) for secret in secrets])

    def seal(self, value: BaseModel, *, at: datetime) -> str:
        """Two tokens of one value differ: each is encrypted by a number of its own."""
        text = value.model_dump_json(exclude_defaults=True).encode()
        return self.fernet.encrypt_at_time(text, int(at.timestamp())).decode().rstrip("=")

    def open(self, token: str, kind: type[Sealed], *, at: datetime, max_age: timedelta) -> Sealed:
        """What was sealed. Raises Expired where that is longer than `max_age` ago at `at`, TokenError for others."""
        whole, now = padded(token), int(at.timestamp())
        try:
            made = self.fernet.extract_timestamp(whole)
            text = self.fernet.decrypt_at_time(whole, max(int(max_age.total_seconds()), now - made), now)
            value = kind.model_validate_json(text)
        except (InvalidToken, ValidationError) as error:
            raise TokenError("none of ours: it was changed, cut, or made with another secret") from error
        if now - made > max_age.total_seconds():
            raise Expired(f"older than {max_age}")
        return value

    def customer(self, token: str, *, at: datetime) -> str:
        """The customer_id of a CustomerToken. Raises TokenError."""
        return self.open(token, CustomerToken, at=at, max_age=CUSTOMER_AGE).customer_id


def padded(token: str) -> str:
    """The token as Fernet reads it. Raises TokenError for a text that is no base64, or not as base64 writes it."""
    bare = token.rstrip("=")
    whole = bare + "=" * (-len(bare) % 4)
    try:
        spelt = len(token) <= MAX_TOKEN and urlsafe_b64encode(urlsafe_b64decode(whole)).decode() == whole
    except ValueError:
        spelt = False
    if not spelt:
        raise TokenError("no token")
    return whole
