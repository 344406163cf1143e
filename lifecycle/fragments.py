"""A list for somebody else's mail: the rows that our messages have, as a table of HTML or as text."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lifecycle.layouts import ESCAPED, PLAIN
from lifecycle.rows import row
from lifecycle.tongue import Tongue, spoken
from serving.engine import Engine
from serving.links import Links
from serving.schemas import JsonObject, RecommendRequest, RecommendResponse

Part = Literal["html", "txt"]
LIST_LENGTH = 4
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
    tongue = Tongue.of(spoken(locale), locale, None, engine.store)
    words = {"items": fragment_words(found, tongue, links, now), "say": tongue.words}
    return Fragment(FILLED_BY[part].get_template(f"fragment.{part}").render(words), found)


def fragment_words(
    found: RecommendResponse, tongue: Tongue, links: Links | None, now: datetime
) -> list[JsonObject]:
    """What a message says of each item, with the address that a click on it is to go to."""
    return [
        row(item, tongue, links.signed(found, place, at=now) if links else item.url)
        for place, item in enumerate(found.items)
    ]
