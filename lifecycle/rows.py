"""Rows: what a message says of a product."""

import re
from functools import reduce
from typing import Any

from lifecycle.texts import short
from lifecycle.tongue import Tongue
from serving.links import safe_url
from serving.schemas import JsonObject, Recommendation

TILE_COLOURS = ("#4b3fc4", "#0b7285", "#2b7a3d", "#a61e4d", "#8a4b08", "#1864ab", "#862e9c", "#5c5f12")

FIELDS = ("title", "story", "price", "was", "url", "image_url", "colour", "initials")  # of a row


def row(item: Recommendation, tongue: Tongue, url: str | None, was: Any = None) -> JsonObject:
    """`url`: where a click on it is to go to. `was`: what it cost, where that is to be said."""
    title = short(item.title)
    return {
        "title": title,
        "story": tongue.story(short(item.story)),
        "price": None if item.price is None else tongue.money(item.price),
        "was": was,
        "url": safe_url(url),
        "image_url": safe_url(item.image_url),
        "colour": tile_colour(title),
        "initials": initials(title),
    }


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
