"""What came in since the models learned, laid over what they know of the customer who asks.

An answer costs one look at the ends of three tables. Who did something since then is kept in memory, by a number
that stands for the id; only of these is anything read. What is read becomes rows by the functions that make the
history's, so that nothing else need know where a row came from.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import pyarrow as pa

from features.catalog import Catalog
from features.history import History
from features.interactions import EVENT_COLUMNS, Interactions, runs, sorted_set
from features.pairs import Pairs
from features.schema import EVENTS, PURCHASES
from serving import metrics
from serving.consents import PERSONALISATION, consent_records, consents_now, declined, personal
from serving.fitted import NOTHING, Array
from serving.identities import Identities
from serving.store import Store, StoreError, micros

VISITS = ("view", "cart", "remove")
LATE = timedelta(
    days=7
)  # before the end of what was learned: as far back orders are sought that it does not know
AHEAD = timedelta(days=2)  # an event may lie a day ahead of its receipt, and wait to be written
VISIT = timedelta(days=1)  # how long a cart and a look at a product count
HALF = 32  # bits
CART = 50  # products of a cart, the latest
MOST = 200_000  # ids with news that are told apart; of more, each customer is asked about
REST = timedelta(seconds=5)  # how long a database that is away is left alone
BLINK = 0.05  # seconds that a request waits for whether it is back
NEW = 0  # of what the bundle does not know: no id has this number
SCHEMA = pa.schema(
    [
        pa.field(n, t.value_type if pa.types.is_dictionary(t) else t)
        for n in EVENT_COLUMNS
        for t in [EVENTS.schema.field(n).type]
    ]
)
T = TypeVar("T")
log = logging.getLogger("osclms.live")


@dataclass(frozen=True)
class Person:
    """Who asks. customer: where the models know them, −1: nowhere. Their purchases are the rows of `place` in
    `pairs.data`, −1: none. cart, seen: what lies in their cart and what they looked at, lately. mark: differs with
    what came in live, empty where nothing did. All of one moment.
    """

    customer: int
    pairs: Pairs
    place: int
    cart: Array = field(default_factory=lambda: NOTHING[0])
    seen: Array = field(default_factory=lambda: NOTHING[0])
    mark: str = ""
    rankings: dict[str, Any] = field(
        default_factory=dict, repr=False, compare=False
    )  # made of it so far, by placement

    @property
    def rows(self) -> slice:
        return self.pairs.data.rows(self.place)

    @cached_property
    def items(self) -> Array:
        """The item of each purchase, in order of time."""
        return self.pairs.data.item[self.rows]

    @cached_property
    def at(self) -> Array:
        return self.pairs.data.at[self.rows]

    @cached_property
    def by_item(self) -> Array:
        """The same rows sorted by item, of one item by time: the item in the upper half, the row in the lower. To
        sort numbers is several times faster than to find their order."""
        return np.sort((self.items.astype(np.int64) << HALF) + np.arange(len(self.items)))

    @cached_property
    def owned(self) -> Array:
        """Each item once, in order."""
        items = self.by_item >> HALF
        return items[runs(items)]

    def bought(self, items: Sequence[int]) -> list[tuple[int, int]]:
        """(how often each of these items was bought, when last: seconds, 0 for never)."""
        rows, sought = self.by_item, np.array(items, np.int64) << HALF
        if not len(rows):
            return [(0, 0)] * len(items)
        begin, end = rows.searchsorted(sought), rows.searchsorted(sought + (1 << HALF))
        last = self.at[rows[end - 1] & ((1 << HALF) - 1)]
        return list(zip((end - begin).tolist(), (last * (end > begin)).tolist(), strict=True))


def stranger(pairs: Pairs) -> Person:
    return Person(-1, pairs, -1)


class Live:
    """The events of a database beside what one bundle learned from. `identities`: other ids of customers, as they are
    whenever one asks.

    An event counts where it happened before the moment of the answer, whenever it was received, and

    - at or after the bundle's end; or
    - up to LATE before it, where it is an order that the bundle does not know, or a return that names such an order.
      An order that the bundle knows it knows whole.

    Who were two customers to the models, and are one now, have the purchases of both.

    news: by a number that stands for the id that an event names, NEW; or, where the bundle knows all of it of the
    customer whom the id named when it came, the number of that one. So it is of whomever the id names later.

    Memory: two numbers and a slot for each of at most MOST ids, for each that was erased its tombstone, who declined
    lists of their own, and what the last customer with news did, until another is asked for.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        history: Interactions,
        *,
        until: datetime,
        identities: Identities,
        clock: Callable[[], datetime],
        ledger: History | None = None,
    ) -> None:
        """`ledger`: where consents are that files told.

        Raises StoreError where the database cannot be read: later that is no more than an answer from the bundle."""
        self.store, self.catalog, self.history = store, catalog, history
        self.until, self.clock = until, clock
        self.identities, self.news = identities, dict[int, int]()
        self.latest: tuple[tuple[Any, ...], Person, Person] | None = None
        self.away_until: datetime | None = None
        self.beside = ThreadPoolExecutor(1, "live")  # no thread until it is asked
        self.asking: Future[Any] | None = None
        self.graves: set[str] = set()
        self.ledger = ledger
        # by ids that ever said no, whether that holds by what files told of this id; None where more was said live
        self.declined: dict[str, bool | None] = {**declined(ledger)}
        self.impersonal = dict[tuple[str, ...], bool]()  # whether it holds of them, where that was read
        self.looking = Lock()
        self.begin()
        self.refresh()

    def over(self, catalog: Catalog) -> "Live":
        """The same by another catalogue over the same bundle (`serving.overlay`). Who has news is known to both."""
        made, history = copy(self), copy(self.history)
        vars(history)["items"] = catalog.items
        made.catalog, made.history, made.latest = catalog, history, None
        return made

    def close(self) -> None:
        self.store.close()

    def begin(self) -> None:
        """Read anew all that may matter."""
        self.ends = {
            "events": self.store.first_since(self.until - LATE - AHEAD),
            "tombstones": 0,
            "consents": 0,
        }
        self.news = {}
        self.everybody, self.first = False, True

    # --- asked by the engine ------------------------------------------------------------------------------

    def person(self, known: Person, customer_id: str, at: datetime) -> Person:
        """The customer that the bundle knows so, with what came in live before `at`; a stranger, where erased."""
        self.look()
        if self.erased(customer_id):
            return stranger(known.pairs)
        names = self.identities.ids(customer_id)
        if not (self.everybody or self.has_news(names) or self.joined(names)):
            return known
        return self.asked(lambda: self.once(known, names, at), known)

    def is_buried(self, customer_id: str) -> bool:
        """Whether a customer was erased; where the database is away, as far as was seen before."""
        self.look()
        return self.erased(customer_id)

    def erased(self, customer_id: str) -> bool:
        """The same by what the last look saw."""
        return bool(self.graves) and self.store.subject(customer_id) in self.graves

    def is_impersonal(self, customer_id: str) -> bool:
        """Whether a customer may get no list of what is known of them, as was said last under any of their ids; where
        the database is away, and has to be asked, whoever ever said so."""
        names = self.identities.ids(self.identities.own(customer_id)) if self.declined else ()
        if not any(name in self.declined for name in names):
            return False
        if len(names) == 1 and (told := self.declined[names[0]]) is not None:
            return told
        kept = self.impersonal  # another one takes its place when more is heard
        if names not in kept:
            found = self.asked(lambda: consents_now(consent_records(self.store, self.ledger, names)), None)
            if found is None:
                return True
            kept[names] = not personal(found, opt_in=False)
        return kept[names]

    def shown(self, customer_id: str, since: datetime, until: datetime) -> tuple[Array, Array]:
        """(items that a customer was sent, or had in view on a page, when: seconds)."""
        names = self.identities.ids(customer_id)
        return self.asked(lambda: self.had_in_view(names, since, until), NOTHING)

    def had_in_view(self, names: Sequence[str], since: datetime, until: datetime) -> tuple[Array, Array]:
        ids, when = list[str](), list[int]()
        for name in names:
            sent = self.store.shown(name, since, until)
            for at, listed in zip(sent["at"], sent["product_ids"], strict=True):
                ids += listed
                when += [at] * len(listed)
            for product, at in self.store.in_view(name, since, until):
                ids.append(product)
                when.append(at)
        items = self.catalog.items.positions(ids)
        known = items >= 0
        return items[known].astype(np.int64), np.array(when, np.int64)[known] // 1_000_000

    def asked(self, read: Callable[[], T], otherwise: T) -> T:
        """What the database gives; `otherwise` where it is away, and for REST it is then left alone."""
        if self.away_until and not self.is_back():
            metrics.LIVE_MISSED.inc()
            return otherwise
        try:
            found = read()
        except StoreError as error:
            if self.away_until is None:
                log.error("answers go on without live events: %s", error)
            self.away_until = self.clock() + REST
            metrics.LIVE_MISSED.inc()
            return otherwise
        if self.away_until:
            log.warning("live events are read again")
            self.away_until = None
        return found

    def is_back(self) -> bool:
        """Whether a database that was away answers again: asked after REST in a thread, as it may stand still, and no
        request waits for that longer than BLINK."""
        until, asking = self.away_until, self.asking
        if until is None or self.clock() < until:
            return until is None
        if asking is None:
            asking = self.asking = self.beside.submit(self.store.ends, "events")
            wait([asking], BLINK)
        if not asking.done():
            return False
        self.asking = None
        if asking.exception():
            self.away_until = self.clock() + REST
        return not asking.exception()

    def look(self) -> None:
        """Take in what came, unasked."""
        self.asked(self.refresh, None)

    # --- who has news -------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take in who did something since the last time, who was erased, and who said no."""
        with self.looking:
            ends = self.store.ends("events", "tombstones", "consents")
            if ends != self.ends:
                self.take_in(ends)
            self.first = False

    def take_in(self, ends: dict[str, int]) -> None:
        if any(ends[name] < self.ends[name] for name in ends):  # an older copy was put back
            self.begin()
        for page in self.store.read("tombstones", self.ends["tombstones"], ends["tombstones"]):
            self.graves.update(row["subject"] for row in page)
        for page in self.store.read("consents", self.ends["consents"], ends["consents"]):
            self.hear(page)
        newest = max(
            self.take(PURCHASES, self.until, ends),
            self.take(VISITS, self.until - VISIT, ends),
            self.take_late(ends),
        )
        if newest and not self.first:
            metrics.EVENT_LAG.observe(max(micros(self.clock()) - newest, 0) / 1e6)
        self.ends = ends

    def hear(self, consents: Iterable[Mapping[str, Any]]) -> None:
        """Remember who said no, and forget what was read of whom said more."""
        said = set[str]()
        for row in (row for row in consents if row["purpose"] == PERSONALISATION):
            said.add(row["customer_id"])
            if not row["granted"] or row["customer_id"] in self.declined:
                self.declined[row["customer_id"]] = None
        kept = dict(self.impersonal)
        self.impersonal = {names: held for names, held in kept.items() if said.isdisjoint(names)}

    def take(self, types: Sequence[str], since: datetime, ends: Mapping[str, int]) -> int:
        """Remember who did something of these types; when the newest of it happened, 0 where there is none."""
        newest = 0
        for page in self.store.active(self.ends["events"], ends["events"], types=types, since=since):
            newest = max([newest, *(at for _, at in page)])
            self.know(name for name, _ in page)
        return newest

    def take_late(self, ends: Mapping[str, int]) -> int:
        """The same of purchases that lie before the bundle's end, and that it does not know."""
        newest, since = 0, self.until - LATE
        for page in self.store.acts(
            self.ends["events"], ends["events"], types=PURCHASES, since=since, before=self.until
        ):
            newest = max([newest, *(act.occurred_at for act in page)])
            orders = {(act.customer_id, act.order_id) for act in page}  # whose lines come one by one
            self.know(name for name, order_id in orders if not self.is_learned(name, order_id))
        return newest

    def is_learned(self, name: str, order_id: str | None) -> bool:
        """Whether the bundle knows this order of the customer whom this id names, which is remembered of an alias."""
        own = self.identities.own(name)
        known = self.learned(self.position(own), order_id)
        if known and own != name and self.news.setdefault(hash(name), hash(own)) != hash(own):
            self.news[hash(name)] = NEW  # it named two who made it
        return known

    def know(self, names: Iterable[str]) -> None:
        self.news.update(dict.fromkeys(map(hash, names), NEW))
        if len(self.news) > MOST:
            self.news, self.everybody = {}, True

    def has_news(self, names: Sequence[str]) -> bool:
        own = hash(names[0])
        return any(self.news.get(hash(name), own) != own for name in names)

    def joined(self, names: Sequence[str]) -> bool:
        """Whether the models know one who has all these ids by another than the first."""
        return any(self.position(name) >= 0 for name in names[1:])

    def position(self, customer_id: str) -> int:
        return self.history.customers.position(customer_id)

    def learned(self, customer: int, order_id: str | None) -> bool:
        """Whether the bundle knows this order of a customer; a return that names none, it may."""
        return order_id is None or (customer >= 0 and self.history.order_of(order_id, customer) >= 0)

    # --- what came in -------------------------------------------------------------------------------------

    def once(self, known: Person, names: Sequence[str], at: datetime) -> Person:
        """`merged`, remembered of the last who was asked for: a message has several lists, all of one moment."""
        about, latest = (names, at, *self.ends.values(), id(known.pairs)), self.latest
        if latest is None or latest[0] != about:
            # as long as `known` is held, nothing else has the id of its pairs
            latest = self.latest = about, known, self.merged(known, names, at)
        return latest[2]

    def merged(self, known: Person, names: Sequence[str], at: datetime) -> Person:
        bought = self.events(names, PURCHASES, self.until - LATE, at)
        places = [place for name in names if (place := self.position(name)) >= 0]
        new = self.unlearned(places, bought)
        cart, seen = self.visit(self.events(names, VISITS, at - VISIT, at), bought)
        mark = (
            f"{len(new)}.{crc32(cart.tobytes())}.{crc32(seen.tobytes())}"
            if new or len(cart) or len(seen)
            else ""
        )
        if len(places) > 1 or (places and known.customer < 0):
            mark = f"{mark}.{len(places)}"
        elif not new:
            return Person(known.customer, known.pairs, known.place, cart, seen, mark)
        told = pa.Table.from_pylist([{**event, "customer_id": names[0]} for event in new], SCHEMA)
        own, *others = places or [-1]
        data = self.history.of_one(own, told, keep=self.catalog.eligible, until=at, others=others)
        pairs = Pairs(self.catalog, data, known.pairs.facts)
        return Person(own, pairs, 0 if len(data) else -1, cart, seen, mark)

    def events(
        self, names: Sequence[str], types: Sequence[str], since: datetime, until: datetime
    ) -> list[dict[str, Any]]:
        """Events of a customer by all these names, oldest first."""
        found: list[dict[str, Any]] = []
        for name in names:
            columns = self.store.since(name, since, until, types=types)
            taken = [columns[n] for n in SCHEMA.names[1:]]
            found += (dict(zip(SCHEMA.names[1:], row, strict=True)) for row in zip(*taken, strict=True))
        return sorted(found, key=lambda event: event["occurred_at"])

    def unlearned(self, customers: Sequence[int], bought: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The purchases and returns that the bundle did not learn from, of one who was all of these customers."""
        end = micros(self.until)
        orders = {
            e["order_id"]
            for e in bought
            if e["event_type"] == "order"
            and not any(self.learned(place, e["order_id"]) for place in customers or [-1])
        }
        return [e for e in bought if e["occurred_at"] >= end or e["order_id"] in orders]

    def visit(
        self, events: Sequence[dict[str, Any]], bought: Sequence[dict[str, Any]]
    ) -> tuple[Array, Array]:
        """(what lies in the cart, what was looked at), as items in order; what was bought later is in neither."""
        held: dict[str, bool] = {}
        bought = [event for event in bought if event["event_type"] == "order"]
        for event in sorted((*events, *bought), key=lambda event: event["occurred_at"]):
            before = held.pop(event["product_id"], False)
            if event["event_type"] in ("cart", "view"):
                held[event["product_id"]] = before or event["event_type"] == "cart"
        cart = [product for product, inside in held.items() if inside and product is not None][-CART:]
        seen = [product for product, inside in held.items() if not inside and product is not None][-CART:]
        return sorted_set(self.places(cart)), sorted_set(self.places(seen))

    def places(self, product_ids: Sequence[str]) -> Array:
        """Items of the catalogue, of those ids that it knows."""
        found = self.catalog.items.positions(product_ids)
        return found[found >= 0].astype(np.int64)
