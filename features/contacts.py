"""What shops know beside purchases, made up: contact points, consents, views and carts, stock.

Addresses are under example.com and example.org, phone numbers are those kept for fiction (555-01xx). The facts that are
made up are named in the attribute `synthetic`, and records of consent say it in `source`.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.chance import Chance
from features.interactions import DAY
from features.schema import CONSENTS, CUSTOMERS, TIME

Keys = NDArray[np.integer[Any]]
Seconds = NDArray[np.int64]
SYNTHETIC = "synthetic"
HOUR = 3600
FIRST_NAMES = (
    "Ada", "Amir", "Anna", "Ben", "Carla", "Chen", "David", "Elif", "Emma", "Félix", "Grace", "Hana", "Ivan", "Jonas",
    "José", "Kofi", "Laura", "Liam", "Maria", "Mia", "Noah", "Olga", "Priya", "Rosa", "Sam", "Sofia", "Tom", "Yara",
    "Yuki", "Zoë",
)  # fmt: skip
LAST_NAMES = (
    "Adeyemi", "Brown", "Cohen", "Díaz", "Evans", "Fischer", "García", "Haddad", "Ito", "Jones", "Kaya", "Kim", "Lopez",
    "Martin", "Müller", "Nguyen", "Novak", "Okafor", "Patel", "Quinn", "Rossi", "Sato", "Schmidt", "Silva", "Smith",
    "Taylor", "Walker", "Weiß", "Yilmaz", "Zhang",
)  # fmt: skip


class Home(NamedTuple):
    weight: float
    locale: str
    time_zone: str
    region: str


HOMES = (
    Home(0.30, "en-US", "America/New_York", "Ohio"),
    Home(0.20, "en-US", "America/New_York", "Kentucky"),
    Home(0.12, "en-US", "America/Indiana/Indianapolis", "Indiana"),
    Home(0.12, "en-US", "America/Chicago", "Illinois"),
    Home(0.08, "es-US", "America/Chicago", "Texas"),
    Home(0.08, "en-US", "America/Los_Angeles", "California"),
    Home(0.05, "es-US", "America/Los_Angeles", "California"),
    Home(0.05, "fr-CA", "America/Toronto", "Québec"),
)


class Asked(NamedTuple):
    """How many customers were asked for a consent, of these how many agreed, of these how many withdrew it later."""

    channel: str
    purpose: str
    asked: float
    agreed: float
    withdrew: float


ASKED = (
    Asked("email", "marketing", 0.75, 0.80, 0.08),
    Asked("sms", "marketing", 0.40, 0.45, 0.10),
    Asked("post", "marketing", 0.30, 0.60, 0.02),
    Asked("web", "personalisation", 0.65, 0.80, 0.05),
)
BROWSING = ASKED[-1]
REACHED = {
    "email": 0.8,
    "sms": 0.5,
    "post": 1.0,
    "web": 1.0,
}  # share of customers whose contact point is known


def reached(chance: Chance, keys: Keys, channel: str) -> NDArray[np.bool_]:
    return chance.happens(REACHED[channel], f"reached {channel}", keys)


def contacts(chance: Chance, ids: Sequence[str], keys: Keys) -> pa.Table:
    """A row of the customers' contract for each id; `keys` are the ids' own numbers."""
    first = chance.pick(np.ones(len(FIRST_NAMES)), "first name", keys)
    last = chance.pick(np.ones(len(LAST_NAMES)), "last name", keys)
    home = chance.pick([home.weight for home in HOMES], "home", keys)
    site = chance.happens(0.5, "site", keys)
    number = chance.bits("phone", keys) % np.uint64(80_000)
    mail, phone = reached(chance, keys, "email"), reached(chance, keys, "sms")
    attributes = json.dumps({SYNTHETIC: list(MADE_UP)})
    rows = zip(ids, first, last, site, mail, phone, number.tolist(), strict=True)
    made = {
        "customer_id": list(ids),
        "first_name": taken(FIRST_NAMES, first),
        "last_name": taken(LAST_NAMES, last),
        "email": [
            f"{PLAIN[FIRST_NAMES[f]]}.{PLAIN[LAST_NAMES[n]]}.{i}@example.{'org' if org else 'com'}" if m else None
            for i, f, n, org, m, _, _ in rows
        ],
        "phone": [
            f"+1 {200 + n // 100} 555 01{n % 100:02}" if there else None
            for n, there in zip(number.tolist(), phone, strict=True)
        ],
        "locale": taken([home.locale for home in HOMES], home),
        "time_zone": taken([home.time_zone for home in HOMES], home),
        "region": taken([home.region for home in HOMES], home),
        "attributes": [attributes] * len(ids),
    }  # fmt: skip
    empty = pa.nulls(len(ids), pa.string())
    return pa.table({name: made.get(name, empty) for name in CUSTOMERS.names}, schema=CUSTOMERS.schema)


MADE_UP = ("first_name", "last_name", "email", "phone", "locale", "time_zone", "region")


def plain(name: str) -> str:
    """A name as it stands in an address."""
    letters = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    return letters.encode("ascii", "ignore").decode().lower()


PLAIN = {name: plain(name) for name in (*FIRST_NAMES, *LAST_NAMES)}


def taken(values: Sequence[str], places: NDArray[np.int64]) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(places))


def consents(chance: Chance, ids: Sequence[str], keys: Keys, since: Seconds, until: int) -> pa.Table:
    """Records of consent: the first is of the moment that `since` names, a withdrawal lies between it and `until`.

    Who was not asked, or has no address to write to, has no record, which means no.
    """
    parts = [told(chance, asked, keys, since, until) for asked in ASKED]
    row, at, granted = (np.concatenate([part[n] for part in parts]) for n in range(3))
    of = np.repeat(np.arange(len(ASKED)), [len(part[0]) for part in parts])
    by = np.lexsort((at, of, row))
    made = {
        "customer_id": taken(ids, row[by]),
        "channel": taken([asked.channel for asked in ASKED], of[by]),
        "purpose": taken([asked.purpose for asked in ASKED], of[by]),
        "granted": granted[by],
        "at": pa.array(at[by] * 1_000_000, TIME),
        "source": [SYNTHETIC] * len(by),
        **dict.fromkeys(("text", "version"), pa.nulls(len(by), pa.string())),
    }
    return pa.table(made, schema=CONSENTS.schema)


def told(
    chance: Chance, asked: Asked, keys: Keys, since: Seconds, until: int
) -> tuple[NDArray[np.int64], Seconds, NDArray[np.bool_]]:
    """Records of one consent: whose, when, and whether it was granted."""
    what = f"{asked.channel} {asked.purpose}"
    said = chance.happens(asked.asked, f"asked {what}", keys) & reached(chance, keys, asked.channel)
    yes = chance.happens(asked.agreed, f"agreed {what}", keys)
    left = np.maximum(until - since - DAY, 1)
    later = since + DAY + (left * chance.uniform(f"when {what}", keys)).astype(np.int64)
    withdrew = said & yes & chance.happens(asked.withdrew, f"withdrew {what}", keys) & (later < until)
    row = np.concatenate([np.flatnonzero(said), np.flatnonzero(withdrew)])
    at = np.concatenate([since[said], later[withdrew]])
    return row, at, np.concatenate([yes[said], np.zeros(int(withdrew.sum()), bool)])


def watched(chance: Chance, keys: Keys) -> NDArray[np.bool_]:
    """Who agreed to personalisation on the web and never took it back: only they leave views and carts."""
    what = f"{BROWSING.channel} {BROWSING.purpose}"
    said = chance.happens(BROWSING.asked, f"asked {what}", keys) & reached(chance, keys, BROWSING.channel)
    yes = chance.happens(BROWSING.agreed, f"agreed {what}", keys)
    return said & yes & ~chance.happens(BROWSING.withdrew, f"withdrew {what}", keys)


# --- views and carts before an order ------------------------------------------------------------------------


class Look(NamedTuple):
    """What may happen before a line is bought: for a share of lines, between so many seconds before."""

    name: str
    kind: str
    share: float
    least: int
    most: int
    earlier: bool = False  # in another visit
    other: bool = False  # of another product of the need


LOOKS = (
    Look("v", "view", 0.8, 200, 1800),
    Look("o", "view", 0.5, 200, 1800, other=True),
    Look("c", "cart", 1.0, 30, 190),
    Look("ev", "view", 0.2, 6 * HOUR, 72 * HOUR, earlier=True),
    Look("ec", "cart", 0.06, 6 * HOUR, 72 * HOUR, earlier=True),
)


@dataclass(frozen=True)
class Looks:
    """Views and carts: `row` is the line that they come before, `look` the place in LOOKS."""

    row: NDArray[np.int64]
    look: NDArray[np.int64]
    at: Seconds
    lasted: NDArray[np.float64]  # seconds of a view, NaN for a cart

    @property
    def names(self) -> pa.Array:
        return taken([look.name for look in LOOKS], self.look)

    @property
    def kinds(self) -> pa.Array:
        return taken([look.kind for look in LOOKS], self.look)

    @property
    def visits(self) -> pa.Array:
        """Which visit before the order it was."""
        return taken(["0" if look.earlier else "1" for look in LOOKS], self.look)

    @property
    def others(self) -> NDArray[np.bool_]:
        """Whether it was about another product of the need."""
        return np.array([look.other for look in LOOKS])[self.look]

    @property
    def value(self) -> pa.Array:
        return pa.array(self.lasted, mask=np.isnan(self.lasted))


def looks(chance: Chance, order: Keys, product: Keys, at: Seconds, first: int) -> Looks:
    """What came before these lines, from the moment `first` on, sorted by line."""
    parts = [seen(chance, n, order, product, at, first) for n in range(len(LOOKS))]
    row, look, moment = (np.concatenate([part[n] for part in parts]) for n in range(3))
    by = np.argsort(row, kind="stable")
    row, look, moment = row[by], look[by], moment[by]
    views = np.array([look.kind == "view" for look in LOOKS])[look]
    lasted = np.round(8 * np.exp(chance.normal("lasted", order[row], product[row], look)))
    return Looks(row, look, moment, np.where(views, lasted, np.nan))


def seen(
    chance: Chance, n: int, order: Keys, product: Keys, at: Seconds, first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Seconds]:
    look = LOOKS[n]
    row = np.flatnonzero(chance.happens(look.share, f"look {look.name}", order, product))
    drawn = chance.uniform(f"before {look.name}", order[row], product[row])
    moment = at[row] - look.least - ((look.most - look.least) * drawn).astype(np.int64)
    row, moment = row[moment >= first], moment[moment >= first]
    return row, np.full(len(row), n), moment


def stock(chance: Chance, keys: Keys) -> NDArray[np.int64]:
    """How many of each product are there: one at least."""
    return 1 + np.floor(20 * np.exp(1.2 * chance.normal("stock", keys))).astype(np.int64)
