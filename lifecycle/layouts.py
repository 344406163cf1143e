"""Layouts: which blocks a letter has, in which order. A table: a new layout is a row, a new block two files.

MJML becomes HTML once, when a layout is loaded; Liquid then fills it with autoescape on. In this order no title or name
ever passes through the MJML parser, and none is ever read as a template.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import liquid
import mrml

from lifecycle.programs import Template
from serving.schemas import JsonObject

FILES = Path(__file__).parent / "templates"
LAYOUTS: Mapping[Template, tuple[str, ...]] = {
    "lists": ("opening", "stars", "voucher", "products", "shelves"),
    "order": ("opening", "order", "stars", "voucher", "products", "shelves"),
    "hero": ("opening", "hero", "stars", "voucher", "shelves"),  # of the products the first is large
    "rating": ("opening", "products", "stars", "voucher", "shelves"),
    "voucher": ("opening", "voucher", "stars", "products", "shelves"),
}
CLOSING = "closing"
PLACE = "<!-- blocks -->"
UNMARKED = re.compile(r"<table (?![^>]*role=)")
BLANK = re.compile(r"\n{3,}")
PARTIALS = liquid.CachingFileSystemLoader(FILES, auto_reload=False)
PLAIN = liquid.Environment(undefined=liquid.StrictUndefined, loader=PARTIALS)
ESCAPED = liquid.Environment(undefined=liquid.StrictUndefined, loader=PARTIALS, autoescape=True)


@dataclass(frozen=True)
class Layout:
    """The two parts of a letter, ready to be filled. A name in them that no one fills is an error."""

    html: liquid.BoundTemplate
    text: liquid.BoundTemplate

    @classmethod
    def load(cls, name: Template) -> "Layout":
        blocks = LAYOUTS[name]
        whole = source("frame.mjml").replace(PLACE, joined(blocks, "mjml"))
        html = UNMARKED.sub('<table role="presentation" ', mrml.to_html(whole).content)
        return cls(ESCAPED.from_string(html), PLAIN.from_string(joined((*blocks, CLOSING), "txt")))

    def fill(self, words: JsonObject) -> tuple[str, str]:
        """(HTML, text)"""
        return self.html.render(words), BLANK.sub("\n\n", self.text.render(words)).strip() + "\n"


layout = cache(Layout.load)


def source(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def joined(blocks: Sequence[str], part: str) -> str:
    return "".join(source(f"{block}.{part}") for block in blocks)
