"""A list for somebody else's mail: the rows that our messages have, as a table of HTML or as text."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lifecycle.messages import ESCAPED, PLAIN, item_words, locale_of
from serving.engine import Engine
from serving.links import Links
from serving.schemas import JsonObject, RecommendRequest, RecommendResponse

Part = Literal["html", "txt"]
FILLED_BY = {"html": ESCAPED, "txt": PLAIN}


@dataclass(frozen=True)
class Fragment:
    """Empty where the list is."""

    body: str
    found: RecommendResponse


def fragment(
    engine: Engine,
    placement: str,
    request: RecommendRequest,
    *,
    part: Part,
    locale: str | None,
    links: Links | None,
    at: datetime,
    now: datetime,
) -> Fragment:
    """The list as of `at`. Its links are made `now`, by `links`; without these they are the products' own."""
    found = engine.recommend(placement, request, at=at)
    if not found.items:
        return Fragment("", found)
    words = fragment_words(found, locale_of(locale), links, now)
    return Fragment(FILLED_BY[part].get_template(f"fragment.{part}").render(items=words), found)


def fragment_words(
    found: RecommendResponse, locale: str, links: Links | None, now: datetime
) -> list[JsonObject]:
    """What a message says of each item, with the address that a click on it is to go to."""
    words = [item_words(item, locale) for item in found.items]
    if links is None:
        return words
    return [{**said, "url": links.signed(found, place, at=now)} for place, said in enumerate(words)]
