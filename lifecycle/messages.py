"""What a message says: templates filled with an order and embedded lists.

MJML becomes HTML once, when a template is loaded; Liquid then fills it with autoescape on. In this order no
title or name ever passes through the MJML parser, and none is ever read as a template.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import liquid
import mrml
from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_currency

from serving.engine import Engine, Line, Order
from serving.links import safe_url
from serving.schemas import MAX_IDS, JsonObject, Recommendation, RecommendRequest, RecommendResponse

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGES = ("en",)  # the languages that the templates are written in
DEFAULT_LOCALE = "en_US"
FOR_ANYBODY = ("popular", "newest")  # recipes that ask neither the customer nor the basket
LIST_LENGTH = 4
MAX_LINES = 8  # of the order; the rest is counted
MAX_TEXT = 120  # characters of a title, name or story
JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need
TILE_COLOURS = ("#4b3fc4", "#0b7285", "#2b7a3d", "#a61e4d", "#8a4b08", "#1864ab", "#862e9c", "#5c5f12")
PARTIALS = liquid.CachingFileSystemLoader(TEMPLATES, auto_reload=False)
PLAIN = liquid.Environment(undefined=liquid.StrictUndefined, loader=PARTIALS)
ESCAPED = liquid.Environment(undefined=liquid.StrictUndefined, loader=PARTIALS, autoescape=True)


@dataclass(frozen=True)
class Shelf:
    """A list in a message. `fallback` is its heading where nothing in it is about this customer or order.

    One `of_order` asks with the order alone, so that its heading holds for all of it; what the customer
    buys anyway has its own list.
    """

    placement: str
    heading: str
    fallback: str
    of_order: bool = False


SHELVES = (
    Shelf("cross_sell", "Goes with what you bought", "Popular right now", of_order=True),
    Shelf("next_best", "Next on your list", "Others also like"),
)


@dataclass(frozen=True)
class Message:
    subject: str
    html: str
    text: str
    lists: tuple[RecommendResponse, ...]


@dataclass(frozen=True)
class Template:
    """Three parts of one message, each ready to be filled."""

    subject: liquid.BoundTemplate
    html: liquid.BoundTemplate
    text: liquid.BoundTemplate

    @classmethod
    def load(cls, name: str) -> "Template":
        """From templates/<name>.subject, .mjml and .txt. A name in them that no one fills is an error."""
        return cls(
            subject=PLAIN.from_string(source(name, "subject")),
            html=ESCAPED.from_string(mrml.to_html(source(name, "mjml")).content),
            text=PLAIN.from_string(source(name, "txt")),
        )

    def fill(self, words: JsonObject, lists: tuple[RecommendResponse, ...]) -> Message:
        subject = one_line(self.subject.render(**words))
        words = {**words, "subject": subject}
        return Message(subject, self.html.render(**words), self.text.render(**words), lists)


template = cache(Template.load)


def source(name: str, part: str) -> str:
    return (TEMPLATES / f"{name}.{part}").read_text(encoding="utf-8")


def thank_you(
    engine: Engine,
    *,
    customer_id: str | None,
    order_id: str | None,
    profile: Mapping[str, Any] | None,
    at: datetime,
) -> Message:
    """Thanks for an order (the customer's latest where `order_id` is None) with lists embedded.

    Someone unknown, or someone else's order, gets a message without order lines and with lists that fall
    back. `profile` may have first_name and locale. The lists repeat neither the order nor each other.
    """
    order = engine.order(customer_id, order_id, at)
    if order is not None:
        customer_id = order.customer_id or customer_id
    lists = tuple(embedded(engine, customer_id, order, at))
    return template("thank_you").fill(words(engine, order, lists, profile or {}), lists)


def embedded(
    engine: Engine, customer_id: str | None, order: Order | None, at: datetime
) -> Iterator[RecommendResponse]:
    """One list a shelf. What was bought and what an earlier shelf shows is not shown again."""
    bought = tuple(line.product.product_id for line in order.lines)[:MAX_IDS] if order else ()
    shown: tuple[str, ...] = ()
    for shelf in SHELVES:
        request = RecommendRequest(
            customer_id=None if shelf.of_order else customer_id,
            product_ids=bought if shelf.of_order else (),
            exclude=(*shown, *bought)[:MAX_IDS],
            limit=LIST_LENGTH,
        )
        response = engine.recommend(shelf.placement, request, at=at)
        shown += tuple(item.product_id for item in response.items)
        yield response


def words(
    engine: Engine, order: Order | None, lists: Iterable[RecommendResponse], profile: Mapping[str, Any]
) -> JsonObject:
    """Everything that the templates name, None where there is nothing: in Liquid, empty is true.

    All text is one line, cut, and free of control characters.
    """
    locale = locale_of(profile.get("locale"))
    shelves = [shelf_words(*pair, locale) for pair in zip(SHELVES, lists, strict=True) if pair[1].items]
    lines = order.lines if order else ()
    return {
        "store": short(engine.store.name),
        "first_name": short(profile.get("first_name")) or None,
        "order_id": short(order.order_id) if order else None,
        "ordered_on": day(order.at, engine.store.time_zone, locale) if order else None,
        "lines": [line_words(line) for line in lines[:MAX_LINES]] or None,
        "more_lines": max(len(lines) - MAX_LINES, 0),
        "shelves": shelves,
        "preview": " · ".join(shelf["items"][0]["title"] for shelf in shelves),
    }


def line_words(line: Line) -> JsonObject:
    return {"quantity": f"{line.quantity:g}", "title": short(line.product.title)}


def shelf_words(shelf: Shelf, response: RecommendResponse, locale: str) -> JsonObject:
    return {
        "heading": shelf.fallback if all(map(for_anybody, response.items)) else shelf.heading,
        "items": [item_words(item, locale) for item in response.items],
    }


def for_anybody(item: Recommendation) -> bool:
    return item.filled or item.source in FOR_ANYBODY


def item_words(item: Recommendation, locale: str) -> JsonObject:
    title = short(item.title)
    return {
        "title": title,
        "story": short(item.story),
        "price": None if item.price is None else format_currency(item.price, item.currency, locale=locale),
        "url": safe_url(item.url),
        "image_url": safe_url(item.image_url),
        "colour": tile_colour(title),
        "initials": initials(title),
    }


def one_line(text: str) -> str:
    """The text without control, direction and line-breaking characters: safe in a header and a plain text."""
    spaced = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    shown = (c for c in spaced if c in JOINERS or unicodedata.category(c) not in ("Cf", "Cs"))
    return " ".join("".join(shown).split())


def short(text: Any) -> str:
    """One line of at most MAX_TEXT characters; nothing for None."""
    line = one_line(str(text)) if text is not None else ""
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1].rstrip() + "…"


def locale_of(wanted: Any) -> str:
    """The customer's locale where the templates are in its language, DEFAULT_LOCALE elsewhere."""
    try:
        locale = Locale.parse(str(wanted).replace("_", "-"), sep="-")
    except (ValueError, UnknownLocaleError):
        return DEFAULT_LOCALE
    return str(locale) if locale.language in LANGUAGES else DEFAULT_LOCALE


def day(at: datetime, time_zone: str, locale: str) -> str:
    """The calendar day in the store, written out."""
    return format_date(at.astimezone(ZoneInfo(time_zone)).date(), format="long", locale=locale)


def tile_colour(title: str) -> str:
    """Products whose titles start alike share a colour, here as on the page."""
    word = title.split(" ")[0].lower()
    code = reduce(lambda so_far, letter: (so_far * 31 + ord(letter)) % 2**32, word, 0)
    return TILE_COLOURS[code % len(TILE_COLOURS)]


def initials(title: str) -> str:
    """Of the first two words before a comma, or the first two letters of a single one."""
    words = re.findall(r"[^\W\d_]+", title.split(",")[0])
    letters = words[0][:2] if len(words) == 1 else "".join(word[0] for word in words[:2])
    return letters.upper() or "•"
