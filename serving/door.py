"""The door: who asks, whether they may, and how often. Before any route, and without reading a body.

On loopback no key is asked, anywhere else each request brings one, as `Authorization: Bearer …`.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from urllib.parse import urlsplit

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import HTTPConnection

from serving.keys import OPEN, PUBLISHABLE, SECRET, Key, Keyring
from serving.wire import RequestError

HERE = Key("", SECRET)  # who asks from this machine
ANYBODY = Key("", PUBLISHABLE)  # who needs no key for what they ask
CALLER = "osclms.caller"  # the Key of who asks, in the scope of a request
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
METHODS, HEADERS, PREFLIGHT_AGE = "GET, POST", "Authorization, Content-Type", "600"
STEPS = 500  # of a rate: so many at most are handed on to the limiter in its time
MOST = 10_000  # who are remembered between two steps
RATES = {SECRET: "6000/minute", PUBLISHABLE: "300/minute"}  # publishable and without a key: for each address


def now() -> datetime:
    return datetime.now(UTC)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host of this name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def shared(rate: str, workers: int) -> RateLimitItem:
    """A worker's part of a rate such as 300/minute. Raises ValueError for what is none."""
    whole = parse(rate)
    return type(whole)(max(whole.amount // workers, 1), whole.multiples)


class Meter:
    """Counts requests by whom they come from, for this worker: each gets its part of a rate.

    They are handed on a STEP of the rate at a time, so that to count costs little where many may come.
    """

    def __init__(self, rates: Mapping[str, str] = RATES, workers: int = 1) -> None:
        self.rates = {kind: shared(rate, workers) for kind, rate in rates.items()}
        self.windows = SlidingWindowCounterRateLimiter(MemoryStorage())
        self.paid: dict[tuple[str, ...], int] = {}  # requests that may still come before the next step

    def count(self, kind: str, *who: str) -> None:
        """Raises RequestError, 429, where it is too many."""
        rate, key = self.rates[kind], (kind, *who)
        if paid := self.paid.get(key, 0):
            self.paid[key] = paid - 1
            return
        step = max(rate.amount // STEPS, 1)
        if step > 1:
            if len(self.paid) >= MOST:
                self.paid.clear()
            self.paid[key] = step - 1
        if not self.windows.hit(rate, *key, cost=step):
            self.paid.pop(key, None)
            left = self.windows.get_window_stats(rate, *key).reset_time - time.time()
            raise RequestError(
                "key", f"more requests than {rate}: ask again later", 429, {"Retry-After": str(max(ceil(left), 1))}
            )  # fmt: skip


@dataclass
class Door:
    """Lets requests in. `asks` is whether who comes from this machine needs a key too."""

    ring: Keyring = field(default_factory=Keyring)
    meter: Meter = field(default_factory=Meter)
    asks: bool = False
    clock: Callable[[], datetime] = now

    def admit(self, request: HTTPConnection, scope: str) -> Key:
        """Whose request this is. Raises RequestError: 401, 403 or 429."""
        given = BEARER.fullmatch(request.headers.get("authorization", "").strip())
        if given is None and not self.asks and is_local(request):
            return HERE
        key = self.ring.find(given[1], at=self.clock()) if given else None
        if key is None or key.kind == PUBLISHABLE:
            self.meter.count(PUBLISHABLE, key.key_id if key else "", address(request))
        else:
            self.meter.count(SECRET, key.key_id)
        if scope == OPEN:
            return key or ANYBODY
        if key is None:
            raise RequestError(
                "key", "unknown or ended" if given else "none came: send Authorization: Bearer KEY", 401,
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if not key.may(scope):
            raise RequestError("key", f"a {key.kind} key may not ask for this: a secret one may", 403)
        if key.origins and request.headers.get("origin", "") not in key.origins:
            raise RequestError("key", "it is for pages of another origin", 403)
        return key

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may read answers: those that a key names; on loopback, those from there."""
        if self.ring.knows(origin, at=self.clock()):
            return True
        return not self.asks and is_loopback(host_of(origin))

    def headers(self, request: HTTPConnection) -> dict[str, str]:
        """What an answer tells a browser about who may read it."""
        origin = request.headers.get("origin", "")
        if not origin:
            return {}
        return {"Vary": "Origin", **({"Access-Control-Allow-Origin": origin} if self.allows(origin) else {})}


def is_preflight(request: HTTPConnection) -> bool:
    return request.scope["method"] == "OPTIONS" and "access-control-request-method" in request.headers


PREFLIGHT = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": HEADERS,
    "Access-Control-Max-Age": PREFLIGHT_AGE,
}


def is_local(request: HTTPConnection) -> bool:
    """Whether a request was made on this machine, to it by name, and handed on by nobody.

    The name is what keeps out a page whose own name was pointed at 127.0.0.1, and the origin pages of elsewhere that
    would post to it.
    """
    headers, origin = request.headers, request.headers.get("origin")
    if any(name in headers for name in FORWARDED) or (origin and not is_loopback(host_of(origin))):
        return False
    return is_loopback(host_of("//" + headers.get("host", "")))


@lru_cache(maxsize=256)
def host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def address(request: HTTPConnection) -> str:
    """Where a request comes from, as who may have many addresses is counted: a /64 of IPv6 is one place."""
    host = request.client.host if request.client else ""
    try:
        there = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((there, 64), strict=False)) if there.version == 6 else host


def caller(request: HTTPConnection) -> Key:
    found: Key = request.scope.get(CALLER, HERE)
    return found
