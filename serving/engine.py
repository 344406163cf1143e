"""The engine: lists for placements from a bundle. Plain Python; the service, bulk, evaluation and messages use it."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice, zip_longest
from math import ceil, isnan
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.catalog import PATH_SEPARATOR
from features.history import History, Store
from features.interactions import DAY, Ints, is_in, moment, seconds, sorted_set
from features.pairs import GAP, Pairs
from serving.bundle import Bundle, BundleError
from serving.fitted import NOTHING, Array, Candidates, Fitted, Neighbors, Vectors, column_of, row_of, top_k
from serving.identities import Identities
from serving.index import ItemIndex, unit
from serving.live import Live, Person, stranger
from serving.needs import Needs
from serving.newcomers import Lead, Newcomers
from serving.placements import (
    ELIGIBLE,
    HABIT_ORDERS,
    PRICE_STEP,
    STORIES,
    Placement,
    Source,
    check_policies,
    read_placements,
)
from serving.ranker import (
    ENDED,
    MOST_TIMES,
    NEEDS,
    PUBLISHED,
    WORTH,
    Ranker,
    asks_basket,
    columns_for,
    columns_of,
    is_published,
    ranked_by,
    score_columns,
)
from serving.rules import AtMost, Diverse, Filter, Include, Mover, Reserve, Rotate, Rule, Shelf, kept, label
from serving.schemas import (
    Because,
    NeedAbout,
    NeedsResponse,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
)
from serving.store import Store as Database
from serving.wire import RequestError

Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]
REGULAR = 3  # purchases that make a favourite
KEPT = 4_096  # lists that are remembered as they were told
FEW = 64  # items taken out of the available
BEST_SELLERS = 200
NOT_ASKED = {
    "at",
    "explain",
    "customer_token",
    "query_id",
    "record",
    "channel",
}  # what is no part of a question, or told beside it
MOST_OF_ONE = 20  # of a product in a cart: no line drowns the rest
QUARTER = 900  # seconds
POOL = 100  # products that variety is chosen from, at least
# what hangs on some columns of the catalogue alone; all else that is kept hangs on every column
FOLLOWS = {
    "links": ("url", "image_url"),
    "folded": ("title",),
    "has_groups": ("group_id",),
    "members": ("need",),
    "served": ("need", "in_stock", "eligible"),
}


@dataclass(frozen=True)
class Product:
    product_id: str
    title: str
    price: float | None
    currency: str
    url: str | None
    image_url: str | None


@dataclass(frozen=True)
class Line:
    product: Product
    quantity: float


@dataclass(frozen=True)
class Order:
    order_id: str
    customer_id: str | None
    at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Sample:
    """Customers with a middling number of purchases and products that many buy: something to look at first."""

    customers: tuple[str, ...]
    products: tuple[Product, ...]

    @property
    def questions(self) -> tuple[RecommendRequest, ...]:
        """Questions that every placement answers: of each customer, about a product; one at least."""
        of = zip_longest(self.customers, self.products[: max(len(self.customers), 1)])
        return tuple(
            RecommendRequest(customer_id=who, product_ids=(what.product_id,) if what else ())
            for who, what in of
        ) or (RecommendRequest(),)


@dataclass(frozen=True)
class Ask:
    """A request in positions. customer: where the models know who asks, −1: nowhere; unknown products are gone from
    `products`. lead: what speaks for a customer whom they do not know. shown: items that were shown or sent to the
    customer, and when, as far as a rule asks."""

    customer: int
    person: Person
    products: Ints
    exclude: Ints
    limit: int
    complements_only: bool
    rules: tuple[Rule, ...] = ()
    at: int = 0  # seconds
    lead: Lead = field(default_factory=Lead)
    shown: tuple[Array, Array] = NOTHING
    eligible: dict[tuple[str, ...], Mask] = field(
        default_factory=dict, repr=False, compare=False
    )  # worked out so far, by the names of rules

    @property
    def owned(self) -> Array:
        return self.person.owned


@dataclass
class Chosen:
    """What is in the list so far: positions, and for each what proposed it."""

    items: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    parts: list[dict[str, float] | None] = field(default_factory=list)
    bought: list[tuple[int, int] | None] = field(
        default_factory=list
    )  # where a ranking tells: see Person.bought
    filled: list[bool] = field(default_factory=list)  # not from the placement's own sources

    def drop(self, place: int) -> None:
        for column in vars(self).values():
            del column[place]

    def arrange(self, natural: Sequence[int]) -> None:
        """Put what stands in another list into its order, and the rest behind it."""
        rank = {item: place for place, item in enumerate(natural)}
        order = sorted(range(len(self.items)), key=lambda place: rank.get(self.items[place], len(rank)))
        for column in vars(self).values():
            column[:] = [column[place] for place in order]


@dataclass(frozen=True)
class Purchases:
    """What a rule may know of a customer's purchases."""

    engine: "Engine"
    ask: Ask

    def last(self) -> tuple[Ints, Array, Array]:
        """(items, when each was bought last, seconds between the days of its purchases: the customer's own, else
        everybody's)."""
        person = self.ask.person
        items, place = np.unique(person.items, return_inverse=True)
        at = person.at
        days = np.unique((place << 32) + at // DAY) >> 32  # of a day, several are one
        times = np.bincount(days, minlength=len(items))
        last, first = np.zeros(len(items), np.int64), np.full(len(items), np.iinfo(np.int64).max)
        np.maximum.at(last, place, at)
        np.minimum.at(first, place, at)
        own = (last - first) / np.maximum(times - 1, 1)
        known = (times > 1) & (last - first >= DAY)  # midnight may lie between two of an evening
        return items, last, np.where(known, own, self.engine.pairs.facts[items, GAP] * DAY)


@dataclass(frozen=True)
class Standing:
    """What may enter a list, best first: positions, scores, the place of the source that each is credited to.

    parts: each source's weighted part [items, sources], where it was worked out now. bought: BOUGHT of each, where
    the ranking was made beforehand. more: whether the sources may know more.
    """

    items: Array
    scores: Array
    lead: Array
    parts: Array | None = None
    bought: Array | None = None
    more: bool = False

    def at(self, places: Array) -> "Standing":
        parts, bought = (None if of is None else of[places] for of in (self.parts, self.bought))
        return Standing(self.items[places], self.scores[places], self.lead[places], parts, bought, self.more)

    def best(self, count: int) -> "Standing":
        return self.at(np.arange(min(count, len(self.items))))

    def among(self, allowed: Mask) -> "Standing":
        return self.at(np.flatnonzero(allowed[self.items]))

    def explained(self, now: "Standing") -> "Standing":
        """The same list with its scores in the shares that `now` finds; what it does not find is its leader's alone."""
        assert now.parts is not None
        parts = (np.arange(now.parts.shape[1]) == self.lead[:, None]) * self.scores[:, None]
        known = {item: place for place, item in enumerate(now.items.tolist()) if now.scores[place] > 0}
        there = [place for place, item in enumerate(self.items.tolist()) if item in known]
        found = np.array([known[item] for item in self.items[there].tolist()], np.int64)
        parts[there] = now.parts[found] * (self.scores[there] / now.scores[found])[:, None]
        return replace(self, parts=parts)


class Engine:
    """Answers every placement from one bundle, whose arrays it shares with other workers; where `live` is given, with
    what came in since."""

    def __init__(
        self,
        bundle: Bundle,
        placements: Mapping[str, Placement] | None = None,
        live: Live | None = None,
    ) -> None:
        self.live, self.newcomers = live, Newcomers(bundle.models, bundle.manifest.recipes)
        self.placements = bundle.manifest.placements if placements is None else placements
        self.history = bundle.interactions
        self.zone = ZoneInfo(bundle.manifest.store.time_zone)
        self.pairs = Pairs(bundle.catalog, bundle.interactions, bundle.facts)
        self.indexes: dict[str, ItemIndex] = {}
        policies = [rule for row in self.placements.values() for rule in row.policy]
        self.lay(
            bundle,
            Shelf(bundle.catalog, {of for rule in policies if (of := getattr(rule, "attribute", None))}),
        )
        self.born = self.available  # what could be bought when the bundle was made
        self.rankers = {name: r for name, row in self.placements.items() if (r := self.ranker_for(row))}
        for name, ranker in bundle.rankers.items():
            learned = bundle.manifest.placements
            if ranked_by(name)[0] not in learned or ranker.columns != columns_for(name, learned):
                raise BundleError(
                    f"bundle {self.version}: the ranker of {name} looks at other columns than this code makes: retrain"
                )

    def lay(self, bundle: Bundle, shelf: Shelf) -> None:
        """Take the catalogue of `bundle`, and what hangs on it."""
        self.bundle, self.catalog, self.models, self.shelf = bundle, bundle.catalog, bundle.models, shelf
        self.available = np.asarray(self.catalog.available)
        self.n_available = int(np.count_nonzero(self.available))
        self.pairs = replace(self.pairs, catalog=bundle.catalog, facts=bundle.facts)
        self.newcomers = replace(self.newcomers, models=bundle.models)
        self.order_of: dict[str, Array] = {}
        self.sold_of: dict[str, tuple[Scores, float]] = {}
        self.told_of: dict[int, Product] = {}
        self.lists: dict[tuple[float, ...], list[Recommendation]] = {}
        orders = np.bincount(self.history.item, minlength=len(self.catalog))
        self.indexes = {
            name: self.index_of(name, model, orders)
            for name, model in self.models.items()
            if isinstance(model, Vectors) and model.items.shape[1]
        }

    def index_of(self, name: str, model: Vectors, orders: Array) -> ItemIndex:
        """The index that there is, where it is of the same vectors and members."""
        was = self.indexes.get(name)
        if was is not None and was.vectors is model and np.array_equal(was.members, self.available):
            return was
        return ItemIndex(model, self.available, orders)

    def over(self, bundle: Bundle) -> "Engine":
        """An engine over the same bundle with another catalogue (`serving.overlay`); this one stays as it is.

        They share what the change does not touch, and customers keep their positions.
        """
        made, then, now = copy(self), self.catalog.table, bundle.catalog.table
        same = {column for column in now.column_names if now[column].equals(then[column])}
        for name in [n for n in vars(made) if isinstance(getattr(Engine, n, None), cached_property)]:
            if not same.issuperset(FOLLOWS.get(name, now.column_names)):
                del vars(made)[name]
        made.lay(bundle, self.shelf.over(bundle.catalog))
        made.live = self.live.over(bundle.catalog) if self.live else None
        return made

    @classmethod
    def load(cls, folder: Path, *, placements: Path | None = None) -> "Engine":
        """Open the bundle in `folder`, with what a file of `placements` changes where there is one.

        Raises BundleError and PlacementsError with the way out. What a policy names is looked for by `check`, once the
        catalogue is as it is by now.
        """
        bundle = Bundle.load(folder)
        base = bundle.manifest.placements
        if placements is None or not placements.exists():
            return cls(bundle, base)
        return cls(bundle, read_placements(placements, base))

    def check(self, placements: Path | None) -> None:
        """Raise PlacementsError where the file of placements names an attribute that the catalogue, as it is by now,
        does not have."""
        if placements is not None and placements.exists():
            check_policies(placements, self.placements, self.shelf.check)

    def follow(
        self,
        store: Database,
        *,
        identities: Identities,
        clock: Callable[[], datetime],
        ledger: History | None = None,
    ) -> None:
        """Read from now on what comes into a database, too, and of `ledger` who declined lists of their own.

        Raises StoreError where it cannot be read."""
        self.live = Live(
            store,
            self.catalog,
            self.history,
            until=self.data_until,
            identities=identities,
            clock=clock,
            ledger=ledger,
        )

    def ranker_for(self, row: Placement) -> Ranker | None:
        """The placement's own ranker, else that of the one it is like; none that looks at other sources."""
        found = (self.bundle.rankers.get(name) for name in (row.name, row.like))
        return next((r for r in found if r is not None and r.columns == columns_of(row)), None)

    def table_for(self, row: Placement) -> Array | None:
        """The rankings made beforehand that are this placement's: of the same sources, by the same eligibility."""
        for name in (row.name, row.like):
            made = self.bundle.manifest.placements.get(name)
            if (
                made
                and (made.sources, made.rules) == (row.sources, row.rules)
                and name in self.bundle.rankings
            ):
                return self.bundle.rankings[name]
        return None

    @property
    def version(self) -> str:
        return self.bundle.manifest.version

    @property
    def store(self) -> Store:
        return self.bundle.manifest.store

    @property
    def data_until(self) -> datetime:
        return self.bundle.manifest.data_until.astimezone(UTC)

    def recommend(
        self, placement: str, request: RecommendRequest, *, at: datetime, remember: bool = False
    ) -> RecommendResponse:
        """One list. `at` is the moment of the answer where the request names none. remember: who asks may soon ask
        again, and then be told the same list at once.

        Raises RequestError for an unknown placement and for a moment before the bundle's `data_until`, as
        the models learned from what came after it.
        """
        row = self.placement(placement)
        when = request.at or at
        self.check_moment(when)
        ask = self.ask(row, request, when)
        chosen = self.choose(row, ask, explain=request.explain)
        items = self.told_once(ask, chosen) if remember and not request.explain else self.told(ask, chosen)
        return RecommendResponse.model_validate({  # all of it at once, which is far sooner done
            "recommendation_id": self.recommendation_id(placement, request, when, ask),
            "model_version": self.version,
            "placement": placement,
            "items": items,
            "fallback_share": round(sum(chosen.filled) / max(len(items), 1), 4),
            "removed": self.explained(row, ask) if request.explain else None,
        })  # fmt: skip

    def recommend_many(
        self, placement: str, requests: Iterable[RecommendRequest], *, at: datetime
    ) -> list[RecommendResponse]:
        """A list for each request, by the very same steps."""
        return [self.recommend(placement, request, at=at) for request in requests]

    def placement(self, name: str) -> Placement:
        if name not in self.placements:
            known = ", ".join(self.placements)
            raise RequestError("placement", f"there is no placement {name!r}; known: {known}", status=404)
        return self.placements[name]

    def check_moment(self, when: datetime) -> None:
        if when < self.data_until:
            raise RequestError(
                "at",
                f"{when.isoformat()} is before {self.data_until.isoformat()}, up to which version {self.version} "
                "has learned: ask for a later moment, or `osclms train --until` that one",
            )

    def recommendation_id(self, placement: str, request: RecommendRequest, when: datetime, ask: Ask) -> str:
        """The same question at the same moment has the same id, as long as nothing came in live and nobody was erased;
        nobody reads a customer out of it."""
        question = request.model_dump_json(exclude=NOT_ASKED)
        news = f"|{ask.person.mark}|{len(ask.shown[0])}" if ask.person.mark or len(ask.shown[0]) else ""
        who = "" if request.customer_id is None or ask.customer >= 0 else "|stranger"
        return self.id_of(f"{self.version}|{placement}|{when.timestamp()}|{question}{news}{who}")

    def id_of(self, told: str) -> str:
        """An id for what is told, which nobody reads it out of."""
        key = bytes.fromhex(self.bundle.manifest.fingerprint.ljust(64, "0")[:64])
        return hashlib.blake2b(told.encode(), digest_size=12, key=key).hexdigest()

    def ask(self, row: Placement, request: RecommendRequest, at: datetime | None = None) -> Ask:
        """The request in positions, as of `at` (missing: the end of what was learned from)."""
        when = at or self.data_until
        person = self.asker(request.customer_id, when)
        products = sorted_set(self.places(request.product_ids)) if request.product_ids else NOTHING[0]
        cart = person.cart if row.beside else NOTHING[0]
        asked: Array = products if len(request.product_ids) else cart
        exclude: Array = self.places(request.exclude) if request.exclude else NOTHING[0]
        only = row.complements_only if request.complements_only is None else request.complements_only
        rules = (*row.policy, *request.rules)
        held = self.held(request) if request.quantities else products
        return Ask(
            customer=person.customer,
            person=person,
            products=asked,
            exclude=np.concatenate([exclude, cart]) if len(cart) else exclude,
            limit=request.limit or row.limit,
            complements_only=only,
            rules=rules,
            at=seconds(when),
            lead=self.lead(row, person, held, seconds(when)) if person.customer < 0 else Lead(),
            shown=self.shown(rules, request.customer_id, when),
        )

    def asker(self, customer_id: str | None, at: datetime) -> Person:
        """The person whom a list is for: nobody in particular, where they declined lists of what is known of them."""
        person = self.person(customer_id, at)
        if customer_id is not None and self.live and self.live.is_impersonal(customer_id):
            return stranger(self.pairs)
        return person

    def person(self, customer_id: str | None, at: datetime) -> Person:
        """Who asks, as the bundle knows them, and with what came in live before `at`."""
        if customer_id is None:
            return stranger(self.pairs)
        customer = self.position(customer_id)
        known = Person(customer, self.pairs, customer)
        return self.live.person(known, customer_id, at) if self.live else known

    def held(self, request: RecommendRequest) -> Array:
        """The items asked about, each as often as there are of it, MOST_OF_ONE times at most."""
        found = self.catalog.items.positions(request.product_ids)
        counts = np.array(request.quantities)[found >= 0]
        items, place = np.unique(found[found >= 0], return_inverse=True)
        held = np.bincount(place, counts, minlength=len(items)).astype(np.int64)
        return np.repeat(items.astype(np.int64), np.minimum(held, MOST_OF_ONE))

    def lead(self, row: Placement, person: Person, products: Array, at: int) -> Lead:
        """What speaks for a customer whom the models do not know: what they bought, and where nothing of it is known
        what they hold and look at; and what a list is asked about that is not about it, but about the customer."""
        visit = NOTHING[0] if person.place >= 0 else np.concatenate([person.cart, person.seen])
        other = np.concatenate([visit, products if is_published(row) else NOTHING[0]])
        age = np.concatenate([(at - person.at) / DAY, np.zeros(len(other))])
        return Lead(np.concatenate([person.items, other]).astype(np.int64), age, len(person.items))

    def shown(self, rules: Sequence[Rule], customer_id: str | None, at: datetime) -> tuple[Array, Array]:
        """(items that were shown or sent to the customer, when: seconds), as far back as a rule asks."""
        days = max((rule.days for rule in kept(rules, Rotate)), default=0)
        if not days or not customer_id or not self.live or self.live.erased(customer_id):
            return NOTHING
        return self.live.shown(customer_id, at - timedelta(days=days), at)

    def places(self, product_ids: Sequence[str]) -> Array:
        """Items of the catalogue, of those ids that it knows."""
        found = self.catalog.items.positions(product_ids)
        return found[found >= 0].astype(np.int64)

    def position(self, customer_id: str | None) -> int:
        return -1 if customer_id is None else self.history.customers.position(customer_id)

    # --- choosing -------------------------------------------------------------------------------------

    def choose(self, row: Placement, ask: Ask, *, explain: bool = False) -> Chosen:
        """The placement's list, with the places in it that rules reserve."""
        chosen = self.gather(row, ask, Chosen(), explain=explain)
        natural = list(chosen.items)
        promised = list[tuple[Mask, int]]()  # what is reserved so far, and how many of it there must be
        for rule in kept(ask.rules, Reserve):
            inside, least = self.shelf.where(rule.attribute, rule.values), ceil(rule.share * ask.limit)
            missing = least - int(inside[chosen.items].sum())
            for place in np.flatnonzero(~inside[chosen.items])[::-1].tolist():
                item = chosen.items[place]
                if missing > 0 and not any(of[item] and of[chosen.items].sum() <= n for of, n in promised):
                    chosen.drop(place)
                    missing -= 1
            promised.append((inside, least))
            for rules in ((*ask.rules, those(rule)), ask.rules):  # what finds no such product is given back
                self.gather(row, replace(ask, rules=rules), chosen, explain=explain)
        if kept(ask.rules, AtMost) and (short := lacking(promised, chosen)):
            other = self.reserved_first(row, ask, promised, explain=explain)
            if lacking(promised, other) < short:
                other.arrange(natural)
                return other
        return chosen

    def reserved_first(
        self, row: Placement, ask: Ask, promised: Sequence[tuple[Mask, int]], *, explain: bool
    ) -> Chosen:
        """The list that keeps its reserved places where products of others would use up what may be there at most:
        they are chosen before the others."""
        chosen = Chosen()
        for rule, promise in zip(kept(ask.rules, Reserve), promised, strict=True):
            room = min(len(chosen.items) + lacking([promise], chosen), ask.limit)
            self.gather(
                row, replace(ask, rules=(*ask.rules, those(rule)), limit=room), chosen, explain=explain
            )
        return self.gather(row, ask, chosen, explain=explain)

    def gather(self, row: Placement, ask: Ask, chosen: Chosen, *, explain: bool) -> Chosen:
        """Add from the placement's own sources, then from its fill, step by step, until the list is long enough.

        What is not worth offering stays in the list, as the fill it is: flagged.
        """
        before = len(chosen.items)
        if len(chosen.items) < ask.limit:
            self.take(self.own(row, ask, chosen, explain=explain), row.sources, ask, chosen, explain=explain)
        own = len(chosen.items) if self.worth(row, ask) else before
        for step in row.fill:
            more = True
            while more and len(chosen.items) < ask.limit:
                found = self.standing((step.source,), self.allowed(step.rules, ask, chosen), ask)
                more = self.take(found, (step.source,), ask, chosen, explain=explain) > 0 and found.more
        chosen.filled[own:] = [True] * (len(chosen.items) - own)
        return chosen

    def own(self, row: Placement, ask: Ask, chosen: Chosen, *, explain: bool) -> Standing:
        """What a placement's own sources put forward.

        Where the customer alone decides the ranking it is the same whatever else is asked, filtered; only where
        too little of it is left, or a rule moves scores, are the sources asked anew.
        """
        allowed = self.allowed(row.rules, ask, chosen)
        known = ask.customer >= 0 and row.name in self.rankers and is_published(row)
        if known and not movers(ask):
            whole = self.whole(row, ask, explain=explain)
            left = whole.among(allowed)
            if len(whole.items) < PUBLISHED or self.suffices(left, ask, chosen):
                return left
        return self.standing(row.sources, allowed, ask, row)

    def worth(self, row: Placement, ask: Ask) -> bool:
        """Whether anything is to be offered: always, unless this customer is known to be too unlikely to take it."""
        return row.worth is None or self.enough(row, self.likely(row, ask))

    def enough(self, row: Placement, likely: float | None) -> bool:
        """Whether that is likely enough for an offer; where it is not known, it is."""
        judge = self.judge(row, WORTH)
        return row.worth is None or judge is None or likely is None or likely >= row.worth * judge.base

    def likely(self, row: Placement, ask: Ask) -> float | None:
        """How likely this customer is to take something of what the placement may offer, once they buy for the need
        of the product asked about; None where that was not learned: of a stranger, of several products, of a need
        without a habit."""
        judge = self.judge(row, WORTH)
        if judge is None or ask.person.place < 0 or len(ask.products) != 1:
            return None
        seen = self.offer_signals(row, ask)
        habit = seen[0, judge.columns.index("need.orders")] >= HABIT_ORDERS
        return float(judge.probability(seen)[0]) if habit else None

    def offer_signals(self, row: Placement, ask: Ask) -> Scores:
        """What the ranker `<placement>.worth` looks at: float32 [1, columns]."""
        offered = np.flatnonzero(self.allowed(row.rules, ask, Chosen()))
        return ask.person.pairs.offer(ask.person.place, int(ask.products[0]), offered)

    def needs(self, placement: str, request: RecommendRequest, *, at: datetime) -> NeedsResponse:
        """Which needs go with what is asked about, for this customer, whatever serves them.

        Raises RequestError for a placement that knows nothing of needs, and as `recommend` does.
        """
        row = self.placement(placement)
        if not row.needs:
            known = ", ".join(name for name, other in self.placements.items() if other.needs)
            raise RequestError("placement", f"{placement} does not know of needs; known: {known}", status=404)
        self.check_moment(request.at or at)
        ask = self.ask(row, request, request.at or at)
        needs = replace(self.needs_of(row), pairs=ask.person.pairs)
        codes, scores = needs.best(ask.person.place, ask.products, ask.limit)
        return NeedsResponse(
            model_version=self.version,
            placement=placement,
            needs=tuple(
                NeedAbout(need=self.catalog.needs[code], title=self.called(code), score=round(score, 6))
                for code, score in zip(codes.tolist(), scores.tolist(), strict=True)
            ),
        )

    def needs_of(self, row: Placement) -> Needs:
        return Needs(row, self.models, self.pairs, self.served, self.judge(row, NEEDS))

    @cached_property
    def served(self) -> Mask:
        """Which needs something available serves: bool [needs]."""
        held = self.catalog.need[self.available]
        return np.bincount(held[held >= 0], minlength=len(self.catalog.needs)) > 0

    def judge(self, row: Placement, aspect: str) -> Ranker | None:
        """What was learned of an aspect of this placement, or of the one that it is like."""
        names = (f"{name}.{aspect}" for name in (row.name, row.like))
        return next((self.bundle.rankers[name] for name in names if name in self.bundle.rankers), None)

    def suffices(self, found: Standing, ask: Ask, chosen: Chosen) -> bool:
        free = ask.limit - len(chosen.items)
        picks = self.has_groups or picky(ask)
        return len(self.pick(found, ask, chosen) if picks else found.items) >= free

    def whole(self, row: Placement, ask: Ask, *, explain: bool) -> Standing:
        """The customer's ranking, PUBLISHED long at most: as it was made beforehand, else as it is made now.

        What is explained is the same ranking: a price that changed since moves neither of the two.
        """
        table = self.table_for(row)
        if table is None or self.is_past(ask):
            known = ask.person.rankings
            if row.name not in known:
                known[row.name] = self.ranked_now(row, ask).best(PUBLISHED)
            found: Standing = known[row.name]
            return found
        ranked = table[ask.customer]
        ranked = ranked[: np.count_nonzero(ranked["item"] >= 0)]
        made = Standing(ranked["item"], ranked["score"], ranked["source"], bought=ranked["bought"])
        return made.explained(self.ranked_now(row, ask)) if explain else made

    def ranked_now(self, row: Placement, ask: Ask) -> Standing:
        """The customer's ranking made now, whatever else is asked."""
        none = ask.products[:0]
        ask = replace(
            ask, products=none, exclude=none, complements_only=False, limit=PUBLISHED, rules=(), eligible={}
        )
        return self.standing(row.sources, self.allowed(row.rules, ask, Chosen()), ask, row)

    def is_past(self, ask: Ask) -> bool:
        """Whether a ranking made with the bundle knows less than we do: of new purchases, or that something which
        the customer had before can be bought again."""
        if ask.person.pairs is not self.pairs:
            return True
        return bool(len(self.returned)) and bool(is_in(self.returned, ask.owned).any())

    @cached_property
    def returned(self) -> Array:
        """What can be bought by now and could not when the bundle was made, so that no ranking made then holds it."""
        born = np.zeros(len(self.available), bool)
        born[: len(self.born)] = self.born
        return np.flatnonzero(self.available & ~born)

    def ranking(self, placement: str, customer: int) -> Array:
        """What is published of a customer: RANKED [PUBLISHED]."""
        row = self.placements[placement]
        request = RecommendRequest(customer_id=self.history.customers.at([customer])[0])
        ask = self.ask(row, request)
        found = self.ranked_now(row, ask).best(PUBLISHED)
        bought = [(min(times, MOST_TIMES), last) for times, last in ask.person.bought(found.items.tolist())]
        ranked = np.full(PUBLISHED, ENDED)
        for name, of in (
            ("item", found.items),
            ("score", found.scores),
            ("source", found.lead),
            ("bought", bought),
        ):
            ranked[name][: len(of)] = of
        return ranked

    def ranker(self, row: Placement, ask: Ask) -> Ranker | None:
        """The placement's ranker, where it was taught requests like this one."""
        ranker = self.rankers.get(row.name)
        if ranker is None or (asks_basket(row) and not len(ask.products)):
            return None
        return ranker if ask.person.place >= 0 or ranker.strangers else None

    def allowed(self, rules: Sequence[str], ask: Ask, chosen: Chosen) -> Mask:
        """What may still enter the list: bool [n_items]."""
        mask = self.available
        only = kept(ask.rules, Filter)
        named = (*rules, *(["complements_only"] if ask.complements_only else []))
        if len(ask.products) or len(ask.exclude) or chosen.items or named or only:
            mask = mask.copy()
            for gone in (ask.products, ask.exclude, chosen.items):
                mask[gone] = False
            self.drop_groups(mask, np.concatenate([ask.products, np.array(chosen.items, np.int64)]))
            self.drop_full(mask, ask, chosen)
        if named:
            mask &= self.eligible(named, ask)
        for rule in only:
            mask &= rule.keeps(self.shelf, ask, Purchases(self, ask))
        return mask

    def eligible(self, rules: tuple[str, ...], ask: Ask) -> Mask:
        """What rules of these names let through, worked out once for a request, however many steps fill its list."""
        found = ask.eligible.get(rules)
        if found is None:
            found = ask.eligible[rules] = np.ones(len(self.available), bool)
            for rule in rules:
                RULES[rule](self, ask, found)
        return found

    def removed(self, row: Placement, ask: Ask) -> dict[str, int]:
        """How many of the available products each rule takes out of the placement's own list, one after the other."""
        named = [*row.rules, *(["complements_only"] if ask.complements_only else [])]
        asks = [(name, named[: n + 1], ()) for n, name in enumerate(named)]
        only = kept(ask.rules, Filter)
        asks += [(label(rule), named, tuple(only[: n + 1])) for n, rule in enumerate(only)]
        bare = replace(ask, complements_only=False)
        left = [self.n_available]
        for _, names, rules in (("asked about or excluded", [], ()), *asks):
            left.append(int(np.count_nonzero(self.allowed(names, replace(bare, rules=rules), Chosen()))))
        told = ("asked about or excluded", *(name for name, *_ in asks))
        return {name: before - after for name, before, after in zip(told, left, left[1:], strict=False)}

    def explained(self, row: Placement, ask: Ask) -> dict[str, int]:
        """How many products of the catalogue cannot be had, before what the rules took out."""
        return {"unavailable": len(self.catalog) - self.n_available} | self.removed(row, ask)

    def drop_full(self, mask: Mask, ask: Ask, chosen: Chosen) -> None:
        """What the list holds as many of as a rule allows would only stand in the way of what may still enter it."""
        for rule in kept(ask.rules, AtMost) if chosen.items else []:
            labels = self.shelf.labels(rule.attribute, rule.level)
            _, held = labels.of(np.array(chosen.items, np.int32))
            mask[labels.having(used_up(held, rule.count))] = False

    def drop_groups(self, mask: Mask, items: Array) -> None:
        """Variants of a style that is asked about or listed are the same thing once more."""
        groups = self.catalog.group[items.astype(np.int64)]
        if np.any(groups >= 0):
            mask[np.isin(self.catalog.group, groups[groups >= 0])] = False

    def standing(
        self, sources: Sequence[Source], allowed: Mask, ask: Ask, row: Placement | None = None
    ) -> Standing:
        """What the sources propose among the allowed, best first.

        The best by the ranker of `row`, where there is one, else by the weighted sum of the sources' scores.
        """
        proposed, items, scores = self.candidates(sources, allowed, ask)
        parts = np.stack([s.weight * scaled(of) for s, of in zip(sources, scores, strict=True)])
        lead = credited(proposed, parts, items)
        self.give_voice(sources, items, parts)
        total = parts.sum(axis=0)
        ranker = self.ranker(row, ask) if row else None
        moves = movers(ask)
        if row and ranker:
            best = None if moves or picky(ask) else ask.limit
            total = ranker.probability(self.signals(row, ask, items, scores), best)
            parts = shared(total, parts, lead)
        for rule in moves:
            by = np.where(
                rule.moves(self.shelf, ask)[items], rule.by, 1.0
            )  # float64: twenty of them stay finite
            total, parts = total * by, parts * by
        more = any(len(p) >= s.take > 0 for s, p in zip(sources, proposed, strict=True))
        return Standing(items, total, lead, parts.T, more=more).at(top_k(total, len(total)))

    def take(
        self, found: Standing, sources: Sequence[Source], ask: Ask, chosen: Chosen, *, explain: bool
    ) -> int:
        """Append the best to the list, of each style group the best only; how many there were."""
        best = self.pick(found, ask, chosen)
        chosen.items += found.items[best].tolist()
        chosen.scores += found.scores[best].tolist()
        chosen.sources += [sources[lead] for lead in found.lead[best].tolist()]
        names = [f"{source.model}:{source.asks}" for source in sources]
        parts = (
            found.parts[best].round(6).tolist() if explain and found.parts is not None else [()] * len(best)
        )
        chosen.parts += [dict(zip(names, of, strict=True)) if explain else None for of in parts]
        chosen.bought += [None] * len(best) if found.bought is None else found.bought[best].tolist()
        chosen.filled += [False] * len(best)
        return len(best)

    def pick(self, found: Standing, ask: Ask, chosen: Chosen) -> Array:
        """Places of what enters the list next, of each style group one, as far as rules about the whole list let it."""
        places, free = self.distinct(found.items), ask.limit - len(chosen.items)
        if not picky(ask):
            return places[:free]
        by = max((rule.by for rule in kept(ask.rules, Diverse)), default=0.0)
        places = places[: max(POOL, 5 * free)] if by else places
        items, scores = found.items[places], scaled(found.scores[places])
        limits = [Limit(self.shelf, rule, chosen.items, items) for rule in kept(ask.rules, AtMost)]
        near, picked, vectors = np.zeros(len(items), np.float32), list[int](), self.vectors(items)
        if by and chosen.items:
            near = (vectors @ self.vectors(np.array(chosen.items)).T).max(axis=1)
        while len(picked) < free:
            worth = (1 - by) * scores - by * near
            worth[picked] = -np.inf
            for limit in limits:
                worth[limit.reached] = -np.inf
            if not len(worth) or np.isneginf(worth.max()):
                break
            best = int(worth.argmax())
            picked.append(best)
            for limit in limits:
                limit.take(best)
            if by:
                near = np.maximum(near, vectors @ vectors[best])
        return places[picked]

    def vectors(self, items: Array) -> Scores:
        """Directions of items, by which they are alike to who looks at them: by what they are, where that was learned,
        else of the first fitted vectors that there are."""
        names = [name for name, m in self.models.items() if isinstance(m, Vectors) and m.items.shape[1]]
        if not names:
            return np.zeros((len(items), 1), np.float32)
        known = self.models["content" if "content" in names else names[0]]
        assert isinstance(known, Vectors)
        return unit(known.items[items])

    def candidates(
        self, sources: Sequence[Source], allowed: Mask, ask: Ask
    ) -> tuple[list[Array], Array, Scores]:
        """(what each source puts forward, the allowed of them, what each source thinks of these [sources, items])."""
        proposed = [self.propose(s, allowed, ask) if s.take else NOTHING[0] for s in sources]
        items = sorted_set(np.concatenate(proposed))
        items = items[allowed[items]]
        return proposed, items, np.stack([self.score(s, items, ask) for s in sources])

    def signals(self, row: Placement, ask: Ask, items: Array, scores: Scores) -> Scores:
        """What the placement's ranker looks at: float32 [items, columns_of(row)]."""
        person = ask.person
        known = person.pairs.of(person.place, items, ask.products if asks_basket(row) else None)
        return np.hstack([known, score_columns(scores)], dtype=np.float32)

    @cached_property
    def has_groups(self) -> bool:
        return bool(np.any(self.catalog.group >= 0))

    def distinct(self, items: Array) -> Array:
        """Places of the first of each style group, in their order."""
        if not self.has_groups:
            return np.arange(len(items))
        group = self.catalog.group[items]
        group = np.where(group < 0, -1 - np.arange(len(group)), group)
        return np.sort(np.unique(group, return_index=True)[1])

    def propose(self, source: Source, allowed: Mask, ask: Ask) -> Array:
        """Items that a source puts forward, allowed or not, best first where that is known."""
        model = self.models[source.model]
        if isinstance(model, Vectors):
            return self.nearest(source, model, allowed, ask)
        items, scores = self.stored(source, model, ask)
        if len(items) <= source.take:
            return items
        return items[top_k(scores, source.take, allowed[items])]

    def nearest(self, source: Source, model: Vectors, allowed: Mask, ask: Ask) -> Array:
        if source.asks == "nobody":
            return first(self.ordered(source.model), allowed, max(source.take, ask.limit))
        index = self.indexes[source.model]
        gone = self.n_available - int(np.count_nonzero(allowed))
        # to pass a filter costs more than to fetch a few more, which `rank` drops
        take = max(source.take, ask.limit)
        take, only = (take + gone, None) if gone <= FEW else (take, allowed)
        if source.asks == "customer":
            return index.of_vector(self.taste(source.model, model, ask), take, only)
        return index.like_items(ask.products, take, only) if len(ask.products) else NOTHING[0]

    def taste(self, name: str, model: Vectors, ask: Ask) -> Scores | None:
        """The vector of who asks: as it was fitted, else as what speaks for them would have it; None: unknown."""
        return model.customers[ask.customer] if ask.customer >= 0 else self.newcomers.vector(name, ask.lead)

    def ordered(self, name: str) -> Array:
        """Available items by falling bias; below 0 is no candidate."""
        if name not in self.order_of:
            bias = self.models[name].arrays()["bias"]
            self.order_of[name] = top_k(bias, len(bias), self.available & (bias >= 0))
        return self.order_of[name]

    def stored(self, source: Source, model: Fitted, ask: Ask) -> tuple[Array, Scores]:
        """(items, scores) of a model that keeps its answers, sorted by position."""
        if isinstance(model, Candidates):
            if ask.customer < 0:
                return self.newcomers.stored(source.model, ask.lead)
            items, scores = model.of_customer(ask.customer)
            if source.story != "again" or ask.person.pairs is self.pairs:
                return items, scores
            held = is_in(items, ask.owned)  # of what was bought, all may have come back since
            return items[held], scores[held]
        assert isinstance(model, Neighbors)
        return model.of_items(ask.products if source.asks == "products" else ask.owned)

    def give_voice(self, sources: Sequence[Source], items: Array, parts: Scores) -> None:
        """Where a source cannot say how like a product one is that came since the models learned, let it say what it
        says of the others in the mean: a newcomer is judged by what is known of it, and not held to be like nothing."""
        new = items >= len(self.born)
        if not new.any() or new.all():
            return
        for part, source in zip(parts, sources, strict=True):
            model = self.models[source.model]
            if source.asks == "products" and isinstance(model, Vectors):
                part[new & ~np.any(model.items[items], axis=1)] = part[~new].mean()

    def score(self, source: Source, items: Array, ask: Ask) -> Scores:
        """What one source thinks of these items, higher is better; 0 throughout where it cannot tell."""
        model = self.models[source.model]
        if not isinstance(model, Vectors):
            return looked_up(*self.stored(source, model, ask), items)
        if source.asks == "nobody":
            return model.bias[items]
        if source.asks == "customer" and (taste := self.taste(source.model, model, ask)) is not None:
            return model.items[items] @ taste + model.bias[items]
        if source.asks == "products" and len(ask.products):
            return unit(model.items[items]) @ unit(model.items[ask.products]).sum(axis=0)
        return np.zeros(len(items), np.float32)

    # --- telling --------------------------------------------------------------------------------------

    def told_once(self, ask: Ask, chosen: Chosen) -> list[Recommendation]:
        """Recommendations; the same list of a customer who did nothing since is told once, as who looks around a shop
        sees it on every page."""
        if ask.customer < 0 or ask.person.mark or ask.person.pairs is not self.pairs or len(ask.products):
            return self.told(ask, chosen)
        key = (ask.customer, *chosen.items, *chosen.scores, *map(id, chosen.sources), *chosen.filled)
        found = self.lists.get(key)
        if found is None:
            if len(self.lists) >= KEPT:
                self.lists.pop(next(iter(self.lists)), None)
            found = self.lists[key] = self.told(ask, chosen)
        return found

    def told(self, ask: Ask, chosen: Chosen) -> list[Recommendation]:
        ranked = [of for of in chosen.bought if of is not None]
        bought = ranked if len(ranked) == len(chosen.items) else ask.person.bought(chosen.items)
        found = []
        for place, product in enumerate(self.products(chosen.items)):
            item, source = chosen.items[place], chosen.sources[place]
            because = self.because(source, item, ask)
            found.append(Recommendation.known({
                **vars(product),
                "score": round(chosen.scores[place], 6),
                "source": source.model,
                "story": self.story(source, item, because, ask, bought[place]),
                "because": tuple([self.reason(led) for led in because]),
                "filled": chosen.filled[place],
                "parts": chosen.parts[place],
            }))  # fmt: skip
        return found

    def reason(self, item: int) -> Because:
        return Because(product_id=self.product_id(item), title=self.catalog.title[item])

    def product_id(self, item: int) -> str:
        return self.catalog.items.at([item])[0]

    def product(self, item: int) -> Product:
        return self.products([item])[0]

    def products(self, items: Sequence[int]) -> list[Product]:
        """What is told of these items, worked out once for each."""
        known = self.told_of
        for item in items:
            if item not in known:
                known[item] = self.described(item)
        return [known[item] for item in items]

    def described(self, item: int) -> Product:
        price = float(self.catalog.price[item])
        return Product(
            self.product_id(item),
            self.catalog.title[item],
            None if isnan(price) else round(price, 2),
            self.store.currency,
            self.links["url"][item],
            self.links["image_url"][item],
        )

    @cached_property
    def links(self) -> dict[str, list[str | None]]:
        return {name: self.catalog.table[name].to_pylist() for name in ("url", "image_url")}

    def because(self, source: Source, item: int, ask: Ask) -> list[int]:
        """The product that led here, if one did."""
        if source.asks == "nobody" and source.story != "step_up":
            return []
        model = self.models[source.model]
        if isinstance(model, Candidates):
            return []
        held = ask.products if source.asks == "products" or source.story == "step_up" else self.often(ask)
        held = held[held != item]  # what they look at may be told, and is no reason for itself
        return [int(held[self.closeness(model, held, item).argmax()])] if len(held) else []

    def closeness(self, model: Fitted, held: Array, item: int) -> Scores:
        """How strongly each of the held products leads to `item`."""
        if isinstance(model, Neighbors):
            return column_of(model.items, held, item)
        assert isinstance(model, Vectors)
        near = unit(model.items[held]) @ unit(model.items[[item]])[0]
        return near + 2 * (self.catalog.need[held] == self.catalog.need[item])

    def often(self, ask: Ask, most: int = 50) -> Array:
        """The items that a customer bought most often; of one who bought nothing, what else speaks for them."""
        held = ask.person.items if len(ask.owned) else ask.lead.items
        items, times = np.unique(held, return_counts=True)
        return items[top_k(times, most)]

    def story(self, source: Source, item: int, because: list[int], ask: Ask, bought: tuple[int, int]) -> str:
        """Why it stands there. `bought`: how often the customer did, and when last."""
        key = source.story
        if key == "again":  # what is put forward so was bought: see `stored`
            times, last = bought
            if times >= REGULAR:
                return written("regular", times=times)
            return written("again", last=self.day(last))
        if key == "popular":
            key = self.how_popular(source.model, item)
        if key == "new" and not self.models[source.model].arrays()["bias"][item] > 0:
            key = "first"
        if key == "taste" and not len(ask.person.items):
            key = "goes_with"  # nobody says that they buy it
        if key in NEED_A_REASON:
            if not because:
                return STORIES["like_you"]
            return STORIES[key].format(because=self.catalog.title[because[0]])
        return STORIES[key].format(category=self.need(item)) if key == "same_need" else STORIES[key]

    def how_popular(self, model: str, item: int) -> str:
        """The story that its sales allow: bought lately and among the best sellers, bought, not bought yet."""
        bias, least = self.best_sold(model)
        return "popular" if bias[item] >= least else "bought" if bias[item] > 0 else "first"

    def best_sold(self, model: str) -> tuple[Scores, float]:
        """(what each item sold lately, the least of the best sellers), looked up once."""
        if model not in self.sold_of:
            bias = self.models[model].arrays()["bias"]
            self.sold_of[model] = bias, max(float(bias[self.ordered(model)[:BEST_SELLERS][-1]]), np.log(2))
        return self.sold_of[model]

    def need(self, item: int) -> str:
        """What the item is bought for, in the shop's own words."""
        code = int(self.catalog.need[item])
        return self.called(code) if code >= 0 else "this category"

    def called(self, need: int) -> str:
        """A need in the shop's own words."""
        name = self.catalog.needs[need].split(PATH_SEPARATOR)[-1]
        return name.title() if name.isupper() else name

    def day(self, at: int) -> str:
        return day_of(at - at % QUARTER, self.zone)  # no zone's day begins within a quarter of an hour

    # --- looking up -----------------------------------------------------------------------------------

    def known(self, product_id: str) -> Product | None:
        """A product of the catalogue, whether or not it can be bought."""
        item = int(self.catalog.items.positions([product_id])[0])
        return self.product(item) if item >= 0 else None

    def offered(self, product_id: str) -> Product | None:
        """A product that may be recommended and is in stock; None for others."""
        item = int(self.catalog.items.positions([product_id])[0])
        return self.product(item) if item >= 0 and self.available[item] else None

    def order(
        self, customer_id: str | None, order_id: str | None, at: datetime | None = None
    ) -> Order | None:
        """An order with its lines, a customer's latest where no id is given; None where it is unknown.

        An order of somebody else is unknown too; a guest's is known by its id alone. `at`: with what came in live
        before that moment; missing: as the bundle knows.
        """
        person = self.person(customer_id, at or self.data_until)
        if customer_id is not None and person.place < 0:
            return None
        data = person.pairs.data
        number = latest_order(person) if order_id is None else data.order_of(order_id, person.place)
        if number < 0:
            return None
        by_order, start = data.order_rows
        rows = by_order[start[number] : start[number + 1]]
        lines = tuple(Line(self.product(int(data.item[r])), float(data.quantity[r])) for r in rows)
        return Order(data.orders.at([number])[0], customer_id, moment(data.at[rows[0]]), lines)

    def is_buried(self, customer_id: str | None) -> bool:
        """Whether this customer was erased."""
        return customer_id is not None and self.live is not None and self.live.is_buried(customer_id)

    def sample(self, customers: int = 12, products: int = 60) -> Sample:
        bought = np.diff(self.history.start)
        middling = (
            top_k(-np.abs(bought - np.median(bought)), customers, bought > 0) if len(bought) else NOTHING[0]
        )
        popular = self.ordered("popular")[:products]
        known = (c for c in self.history.customers.at(middling) if not self.is_buried(c))
        return Sample(tuple(known), tuple(self.product(int(i)) for i in popular))

    def search(self, text: str, most: int = 20) -> list[Product]:
        """Available products whose title holds every word of `text`, what sells best first."""
        words = text.casefold().split()
        matching = (
            i for i in self.ordered("popular").tolist() if all(word in self.folded[i] for word in words)
        )
        return [self.product(item) for item in islice(matching, most)]

    @cached_property
    def folded(self) -> list[str]:
        return [title.casefold() for title in self.catalog.title]

    @cached_property
    def members(self) -> tuple[Array, Array]:
        """(items sorted by need, where each need starts in them)."""
        by = np.argsort(self.catalog.need, kind="stable")
        return by, np.searchsorted(self.catalog.need[by], np.arange(len(self.catalog.needs) + 1))

    def stand_ins(self, item: int) -> Array:
        """What shares a need with an item but not, more often than chance, a basket."""
        near, together = self.same_need(item), self.models["complements"]
        assert isinstance(together, Neighbors)
        return near[looked_up(*row_of(together.items, item), near) == 0]

    def substitutes(self, placement: str, product_ids: Sequence[str]) -> set[str]:
        """What a placement that bars substitutes of these products must not show; nothing of one that does not."""
        if not self.placements[placement].beside:
            return set()
        places = self.catalog.items.positions(list(product_ids))
        found = [self.stand_ins(int(place)) for place in places[places >= 0]]
        return set(self.catalog.items.at(np.concatenate(found))) if found else set()

    def same_need(self, item: int) -> Array:
        """Items of this item's need; where that is unknown, the item alone."""
        code = int(self.catalog.need[item])
        by, start = self.members
        return by[start[code] : start[code + 1]] if code >= 0 else np.array([item])


@lru_cache(maxsize=10_000)
def written(story: str, **about: str | int) -> str:
    """A story that many lists tell."""
    return STORIES[story].format(**about)


@lru_cache(maxsize=10_000)
def day_of(at: int, zone: ZoneInfo) -> str:
    local = moment(at).astimezone(zone)
    return f"{local.day} {local:%B %Y}"


def latest_order(person: Person) -> int:
    rows = person.rows
    return int(person.pairs.data.order[rows.stop - 1]) if rows.stop > rows.start else -1


def movers(ask: Ask) -> list[Mover]:
    """Rules that move scores; one that sinks what was shown is none where nothing was."""
    return [r for r in kept(ask.rules, Mover) if len(ask.shown[0]) or not isinstance(r, Rotate)]


def picky(ask: Ask) -> bool:
    """Whether what a list holds already decides what may follow."""
    return bool(kept(ask.rules, AtMost | Diverse))


def lacking(promised: Iterable[tuple[Mask, int]], chosen: Chosen) -> int:
    """How many of its promised places a list lacks."""
    return sum(max(least - int(inside[chosen.items].sum()), 0) for inside, least in promised)


def those(rule: Reserve) -> Include:
    """Only what a rule keeps places for."""
    return Include(rule="include", attribute=rule.attribute, values=rule.values)


def used_up(codes: Array, count: int) -> Array:
    """What stands so often among these codes."""
    found, times = np.unique(codes, return_counts=True)
    return found[times >= count]


class Limit:
    """At most so many of one value, in a list that holds some items and goes on with others."""

    def __init__(self, shelf: Shelf, rule: AtMost, held: Sequence[int], items: Array) -> None:
        labels, self.most = shelf.labels(rule.attribute, rule.level), rule.count
        self.place, self.codes = labels.of(items)
        self.times = np.bincount(
            labels.of(np.array(held, np.int32))[1], minlength=labels.codes.max(initial=-1) + 1
        )

    def take(self, place: int) -> None:
        """The list goes on with the item of this place."""
        self.times[self.codes[self.place == place]] += 1

    @property
    def reached(self) -> Array:
        """Places of what may not follow."""
        return self.place[self.times[self.codes] >= self.most]


NEED_A_REASON = {key for key, text in STORIES.items() if "{because}" in text}


def credited(proposed: Sequence[Array], parts: Scores, items: Array) -> Array:
    """Place of the source that scored each item highest; where none did above 0, of the first that proposed it."""
    lead, unscored = parts.argmax(axis=0), np.flatnonzero(parts.max(axis=0, initial=0) <= 0)
    if len(unscored):
        lead[unscored] = np.stack([np.isin(items[unscored], of) for of in proposed]).argmax(axis=0)
    return lead


def shared(total: Scores, parts: Scores, lead: Array) -> Scores:
    """A ranker's scores shared out by the sources' weighted parts [sources, items]; the leader has all where these
    are nothing."""
    whole = parts.sum(axis=0)
    alone = np.arange(len(parts))[:, None] == lead
    share = np.divide(parts, whole, out=alone.astype(parts.dtype), where=whole > 0)
    return share * total


def scaled(scores: Scores) -> Scores:
    """Scores as 0..1 among the candidates: the lowest, or 0 where none is below it, becomes 0."""
    low, high = min(0.0, scores.min(initial=0)), scores.max(initial=0)
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def looked_up(items: Array, scores: Scores, wanted: Array) -> Scores:
    """Scores of the wanted items, 0 where there is none. `items` is sorted."""
    if not len(items):
        return np.zeros(len(wanted), np.float32)
    place = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    return np.where(items[place] == wanted, scores[place], 0).astype(np.float32)


def first(ordered: Array, allowed: Mask, take: int) -> Array:
    """The first `take` allowed of an ordered list, without reading more of it than it must."""
    reach = take
    while True:
        found = ordered[:reach][allowed[ordered[:reach]]]
        if len(found) >= take or reach >= len(ordered):
            return found[:take]
        reach *= 4


# --- rules: each takes items out of the mask ----------------------------------------------------------


def not_owned(engine: Engine, ask: Ask, mask: Mask) -> None:
    mask[ask.owned] = False


def owned(engine: Engine, ask: Ask, mask: Mask) -> None:
    inside = np.zeros_like(mask)
    inside[ask.owned] = True
    mask &= inside


def same_need(engine: Engine, ask: Ask, mask: Mask) -> None:
    only(mask, [engine.same_need(int(item)) for item in ask.products])


def dearer(engine: Engine, ask: Ask, mask: Mask) -> None:
    """The same need, a price step above what is asked about."""
    low, high = PRICE_STEP
    steps = []
    for item in ask.products.tolist():
        near = engine.same_need(item)
        price = engine.catalog.price[near]
        own = engine.catalog.price[item]
        steps.append(near[(own > 0) & (price >= low * own) & (price <= high * own)])
    only(mask, steps)


def no_substitutes(engine: Engine, ask: Ask, mask: Mask) -> None:
    """Bar what shares a need with an asked product but not, more often than chance, a basket."""
    for item in ask.products.tolist():
        mask[engine.stand_ins(item)] = False


def complements_only(engine: Engine, ask: Ask, mask: Mask) -> None:
    for item in ask.products.tolist():
        mask[engine.same_need(item)] = False


def only(mask: Mask, groups: list[Array]) -> None:
    inside = np.zeros_like(mask)
    for group in groups:
        inside[group] = True
    mask &= inside


RULES: Mapping[str, Callable[[Engine, Ask, Mask], None]] = {
    rule.__name__: rule for rule in (not_owned, owned, same_need, dearer, no_substitutes, complements_only)
}
assert tuple(RULES) == ELIGIBLE
