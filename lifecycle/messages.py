"""Messages: a draft, as it was decided, becomes what a customer gets. Nothing here is about one program.

Every product is read from the catalogue again: what is gone gives way to the next of its list, prices are today's, and
where too little is left the message is not sent.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Self

from liquid.exceptions import LiquidError

from lifecycle.addresses import Addresses
from lifecycle.drafts import Draft, Held, Shown, fitting, lacking
from lifecycle.layouts import layout
from lifecycle.lengths import fit_sms
from lifecycle.programs import Program, Texts, locale_for
from lifecycle.programs import Shelf as Wanted
from lifecycle.rows import row
from lifecycle.texts import UNKNOWN, filled, one_line, paragraphs, short
from lifecycle.tongue import Tongue
from serving.engine import Engine
from serving.links import Links, safe_url
from serving.schemas import MAX_IDS, JsonObject, Recommendation, RecommendRequest, RecommendResponse

FOR_ANYBODY = ("popular", "newest")  # recipes that ask neither the customer nor the basket
Kind = Literal["own", "mixed", "general"]
NOBODY = ("nobody",)  # whom a placement asks of which these are what it is for
MAX_LINES = 8  # of an order; the rest is counted
MAX_PRODUCTS = 8  # of what an occasion is about
STARS = range(1, 6)
STOP = re.compile(r"(?<![\w-])STOP(?![\w-])")  # what ends messages by SMS, in any language


class NotSent(ValueError):
    """A message is not to be sent now; `reason` says why and names nobody."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class About:
    """What is known of whom a message is for, and the addresses in it that are theirs alone; all of it may be missing.

    rate_url: where stars lead, as `?stars=1` to 5. postal: where the sender is, which footers tell.
    """

    first_name: str | None = None
    locale: str | None = None
    time_zone: str | None = None
    unsubscribe_url: str | None = None
    view_url: str | None = None
    rate_url: str | None = None
    postal: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any] | None, **addresses: str | None) -> Self:
        """By a customer's row of the contract."""
        return cls(
            **{name: (facts or {}).get(name) for name in ("first_name", "locale", "time_zone")}, **addresses
        )


@dataclass(frozen=True)
class Message:
    """lists: as they are shown. sms and push are empty where the program says nothing there."""

    subject: str
    preheader: str
    html: str
    text: str
    sms: str
    push: str
    lists: tuple[RecommendResponse, ...]
    language: str
    unsubscribe_url: str | None = None


@dataclass(frozen=True)
class Content:
    """What a message shows: products that the occasion is about, and a list a shelf. title: of what it is about.
    kinds: of each list what it is, which its heading is to say."""

    products: RecommendResponse
    lists: tuple[RecommendResponse, ...]
    title: str | None
    kinds: tuple[Kind, ...]


def compose(
    engine: Engine, program: Program, draft: Draft, about: About, *, links: Links | None, now: datetime
) -> Message:
    """The message as of `now`. Links are sealed by `links`, without these they are the products' own.

    Raises NotSent where it would say less than its program wants, or something that is not so any more.
    """
    if program.rating and not safe_url(about.rate_url):
        raise NotSent("rating: no address that stars could lead to; the service needs OSCLMS_PUBLIC_URL")
    content = content_now(engine, program, draft, now)
    locale = locale_for(program.texts, about.locale)
    letter = Letter(
        program, program.texts[locale], Tongue.of(
            locale, about.locale, about.time_zone, engine.store, program.texts[locale].words
        ),
        Addresses(engine.store, program, links, now), draft, content, about,
    )  # fmt: skip
    try:
        return letter.written()
    except LiquidError as error:
        raise NotSent(f"texts.{locale}: {error.message}") from error


# --- what is shown, as the catalogue has it now --------------------------------------------------------


def content_now(engine: Engine, program: Program, draft: Draft, now: datetime) -> Content:
    """Raises NotSent."""
    if [held.placement for held in draft.lists] != [shelf.placement for shelf in program.shelves]:
        raise NotSent("shelves: the program asks for other lists than when this was decided")
    products = offered(engine, draft.products) if program.products else []
    if program.products and draft.products and not products:
        raise NotSent("products: nothing of what it is about can be bought any more")
    check_price(draft, products)
    taken = [item.product_id for item in products]
    lists: list[RecommendResponse] = []
    for shelf, held in zip(program.shelves, draft.lists, strict=True):
        lists.append(list_now(engine, shelf, held, draft, taken, now))
        taken += [item.product_id for item in lists[-1].items]
    if why := lacking(program, [found.items for found in lists]):
        raise NotSent(why)
    shown = answer(engine, program.name, "", products[:MAX_PRODUCTS])
    title = next((item.title for item in products), None) or title_of(engine, draft)
    return Content(shown, tuple(lists), title, tuple(kind_of(engine, found) for found in lists))


def kind_of(engine: Engine, found: RecommendResponse) -> Kind:
    """What a list is: `own`, what its placement is for, where it is beside products most of it; `mixed`, where other
    things are among it, as favourites and fill among companions; `general`, what anybody gets."""
    row = engine.placements[found.placement]
    general = () if row.asks == NOBODY else FOR_ANYBODY
    real = [item.source for item in found.items if not item.filled and item.source not in general]
    stories = {source.model: source.story for source in row.sources}
    own = [source for source in real if stories.get(source) == row.sources[0].story]
    if "products" in row.asks and 2 * len(own) <= len(found.items):
        return "mixed" if real else "general"
    return "own" if real else "general"


def offered(engine: Engine, products: Iterable[str]) -> list[Recommendation]:
    found = (engine.offered(product_id) for product_id in products)
    return [
        Recommendation(**vars(product), score=0.0, source="occasion", story="")
        for product in found
        if product
    ]


def check_price(draft: Draft, products: Sequence[Recommendation]) -> None:
    """What is said to cost less than it did has to."""
    was = draft.words.get("was")
    if isinstance(was, int | float) and products:
        price = products[0].price
        if price is None or price >= was:
            raise NotSent("price: it does not cost less than it did any more")


def list_now(
    engine: Engine, shelf: Wanted, held: Held, draft: Draft, taken: Sequence[str], now: datetime
) -> RecommendResponse:
    """The first products of a list that can be bought, and where too many are gone what its placement fills with."""
    items = [item for item in still(engine, held.items) if item.product_id not in taken][: shelf.limit]
    if len(items) < shelf.limit <= len(held.items):
        items += fill(
            engine, shelf, draft, [*taken, *(item.product_id for item in held.items)], len(items), now
        )
    return answer(engine, held.placement, held.recommendation_id, items)


def still(engine: Engine, items: Iterable[Shown]) -> Iterator[Recommendation]:
    """What lost the price that it was decided with is not for sale."""
    for shown in items:
        product = engine.offered(shown.product_id)
        if product and (product.price is not None or shown.price is None):
            about = {name: getattr(shown, name) for name in ("score", "source", "story", "filled")}
            yield Recommendation(**vars(product), **about)


def fill(
    engine: Engine, shelf: Wanted, draft: Draft, taken: Sequence[str], there: int, now: datetime
) -> list[Recommendation]:
    """What the placement gives anybody, flagged as fill."""
    request = RecommendRequest(
        product_ids=() if shelf.about == "customer" else draft.products[:MAX_IDS],
        exclude=tuple(dict.fromkeys((*taken, *draft.products)))[:MAX_IDS],
        limit=shelf.limit - there,
        rules=draft.rules,
    )
    found = engine.recommend(shelf.placement, request, at=max(now, engine.data_until))
    found = fitting(engine, found, request.product_ids)
    return [item.model_copy(update={"filled": True}) for item in found.items]


def answer(
    engine: Engine, placement: str, recommendation_id: str, items: Sequence[Recommendation]
) -> RecommendResponse:
    return RecommendResponse(
        recommendation_id=recommendation_id, model_version=engine.version, placement=placement, items=tuple(items),
        fallback_share=round(sum(item.filled for item in items) / max(len(items), 1), 4),
    )  # fmt: skip


def title_of(engine: Engine, draft: Draft) -> str | None:
    """Of the first product that the occasion is about, whether or not it can be bought."""
    known = engine.known(draft.products[0]) if draft.products else None
    return known.title if known else None


# --- what is said --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """A program's texts in one tongue, with what they are about, on their way into the program's layout."""

    program: Program
    texts: Texts
    tongue: Tongue
    addresses: Addresses
    draft: Draft
    content: Content
    about: About

    def written(self) -> Message:
        """Raises LiquidError for a text that cannot be filled."""
        subject, preheader, push = map(self.line, (self.texts.subject, self.texts.preheader, self.texts.push))
        preheader = preheader or " · ".join(rows[0]["title"] for rows in self.lists if rows)
        words = {**self.words(), "subject": subject, "preheader": preheader}
        html, text = layout(self.program.template).fill(words)
        return Message(
            subject, preheader, html, text, self.sms(), push, self.content.lists, self.tongue.language,
            safe_url(self.about.unsubscribe_url),
        )  # fmt: skip

    def line(self, text: str) -> str:
        return one_line(filled(text, self.names))

    def sms(self) -> str:
        """The text of an SMS; one of marketing says how to end these, if it does not by itself or was cut there."""
        text = self.line(self.texts.sms)
        fitted = fit_sms(text)
        says = STOP.search(self.texts.sms) and STOP.search(fitted)
        if not text or says or self.program.kind != "marketing":
            return fitted
        return fit_sms(text, end=self.tongue.words["stop"])

    @cached_property
    def products(self) -> list[JsonObject]:
        """Rows of what the occasion is about; of one that became cheaper with what it cost."""
        was = self.tongue.said("was", self.draft.words.get("was")) or None
        return [
            said | {"was": was if place == 0 else None} for place, said in self.rows(self.content.products)
        ]

    @cached_property
    def lists(self) -> list[list[JsonObject]]:
        return [[said for _, said in self.rows(found)] for found in self.content.lists]

    def rows(self, found: RecommendResponse) -> Iterator[tuple[int, JsonObject]]:
        for place, item in enumerate(found.items):
            yield place, row(item, self.tongue, self.addresses.of(found, place))

    @cached_property
    def names(self) -> JsonObject:
        """All that a text may name: what is not known is UNKNOWN."""
        rows = self.products or [said for shown in self.lists for said in shown]
        first: JsonObject = rows[0] if rows else {}
        known = {
            "store": short(self.tongue.store.name),
            "first_name": short(self.about.first_name),
            "product": short(self.content.title) or first.get("title"),
            "price": first.get("price"),
            "link": first.get("url"),
            "products": rows,
            "lists": any(self.lists),
        }
        return {**UNKNOWN} | self.told() | {n: of for n, of in known.items() if of}

    def told(self) -> JsonObject:
        """What is told of the occasion, in this tongue."""
        told = {name: self.tongue.said(name, value) for name, value in self.draft.words.items()}
        if "is" in told and self.products:
            told["is"] = self.products[0]["price"]
        if isinstance(lines := told.get("lines"), list):
            told |= {"lines": lines[:MAX_LINES], "more_lines": max(len(lines) - MAX_LINES, 0)}
        return told

    def words(self) -> JsonObject:
        """Everything that a layout names; None, or nothing, where there is nothing."""
        names, button = self.names, self.line(self.texts.button)
        return {
            "lang": self.tongue.locale.replace("_", "-"),
            "say": self.tongue.words,
            "store": names["store"],
            "title": self.line(self.texts.title),
            "body": paragraphs(filled(self.texts.body, names)),
            "button": button,
            "button_url": self.button_url() if button else None,
            "stars": stars(self.about.rate_url) if self.program.rating else None,
            "why": self.why(),
            "postal": self.about.postal,
            "more_lines": names["more_lines"] or 0,
            **{name: names[name] or None for name in ("order_id", "lines", "voucher")},
            **{name: safe_url(getattr(self.about, name)) for name in ("view_url", "unsubscribe_url")},
            **self.shown(),
        }

    def shown(self) -> JsonObject:
        """Rows by where they stand: the hero is the first of all, and stands nowhere else."""
        products, lists, hero = list(self.products), [list(rows) for rows in self.lists], None
        if self.program.template == "hero":
            source = next((rows for rows in (products, *lists) if rows), None)
            hero = source.pop(0) if source else None
        headings = self.headings()
        shelves = [
            {"heading": heading, "items": rows} for heading, rows in zip(headings, lists, strict=True) if rows
        ]
        return {"products": products, "hero": hero, "shelves": shelves}

    def headings(self) -> list[str]:
        """Of each list its own, if most of it is what that says; else that it is for the customer, or the fallback,
        which two lists do not share."""
        fallbacks = iter((self.line(self.texts.fallback) or self.tongue.words["popular"],))
        return [
            self.line(text) if kind == "own" else self.tongue.words["for_you"] if kind == "mixed"
            else next(fallbacks, self.tongue.words["others"])
            for text, kind in zip(self.texts.shelves, self.content.kinds, strict=True)
        ]  # fmt: skip

    def button_url(self) -> str | None:
        """The page that the program names; where one product is the matter, that; else the shop; else the first product
        with an address."""
        urls = [said["url"] for rows in (self.products, *self.lists) for said in rows if said["url"]]
        alone = len(self.products) == 1 and self.products[0]["url"] and not self.program.page
        only = urls[0] if alone else None
        return only or self.addresses.front() or next(iter(urls), None)

    def why(self) -> str:
        """Why the customer gets this."""
        if self.program.kind == "marketing":
            return self.tongue.words["because_agreed"]
        return self.tongue.words["because_order"] if self.names["order_id"] else self.names["store"]


def stars(url: str | None) -> list[JsonObject]:
    return [{"count": count, "url": f"{url}?stars={count}"} for count in STARS]
