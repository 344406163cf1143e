"""Texts: what marketers write in Liquid, and what may be named in it.

A text is filled as plain text, and escaped where it enters HTML, so that nothing in it is ever markup. A name that
there is not is an error, and so is printing one of which nothing is known; but a customer's name, a price or an address
that is lacking leaves no gap.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, wraps
from typing import Any, Self

import liquid
from liquid.exceptions import LiquidError, UndefinedError

from lifecycle.programs import Program, Texts

MAX_TEXT = 120  # characters of a title, name or story
MAX_FILLED = 10_000  # of a text
JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need
MARK = "\ue000"  # where a text names something that is not known
ENCODED = re.compile(r"%EE%80%80|\\ue000")  # the mark, as the filters for addresses and JSON write it
GAP = re.compile(rf",?[^\S\n]*{MARK}")
HEAD = re.compile(rf"(?:^|(?<=\n)){MARK}[,;:.!]?[^\S\n]*(\w?)")
NAMES = (  # what a text may name; what an occasion says beside these may be named too
    *("store", "first_name"),
    *(
        "product",
        "price",
        "link",
        "products",
    ),  # the first product, and all, that the occasion is about, or else lists
    "lists",  # whether there are any
    *("order_id", "ordered_on", "lines", "more_lines"),
    *("nth", "years", "tier", "category", "was", "is", "step", "voucher"),
)
SPARED = ("first_name", "price", "link")  # of NAMES those that a text can do without


class Limited(liquid.Environment):
    """Liquid for what marketers write: it ends, whatever it says, and reads no files."""

    loop_iteration_limit = 200
    local_namespace_limit = 50_000
    output_stream_limit = MAX_FILLED
    context_depth_limit = 10


class Missing(liquid.Undefined):
    """Nothing is known of it: false and empty, and what prints it is in error, or where it is SPARED taken out of the
    text with the space before it."""

    force_liquid_default = True

    def __str__(self) -> str:
        if self.name in SPARED:
            return MARK
        raise UndefinedError(f"{self.name!r} is named, and nothing is known of it", token=self.token)

    def __getitem__(self, key: str) -> object:
        return self


class Money(str):
    """A price as it is written, that can be calculated with: what comes of it is a price again."""

    amount: float
    write: Callable[[float], str]

    @classmethod
    def of(cls, amount: float, write: Callable[[float], str]) -> Self:
        made = cls(write(amount))
        made.amount, made.write = amount, write
        return made


def calculating(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of numbers that knows prices, and gives nothing where a number is not known."""

    @wraps(plain)
    def filtered(value: object, *args: object, **more: Any) -> object:
        for one in (value, *args):
            if isinstance(one, Missing):
                return one
        found = plain(*(one.amount if isinstance(one, Money) else one for one in (value, *args)), **more)
        return Money.of(float(found), value.write) if isinstance(value, Money) else found

    return filtered


CALCULATE = (
    "abs",
    "at_least",
    "at_most",
    "ceil",
    "divided_by",
    "floor",
    "minus",
    "modulo",
    "plus",
    "round",
    "times",
)
LIQUID = Limited(undefined=liquid.StrictUndefined)
LIQUID.filters.update({name: calculating(LIQUID.filters[name]) for name in CALCULATE})
UNKNOWN: Mapping[str, Missing] = {name: Missing(name, token=None) for name in NAMES}


@lru_cache(maxsize=2048)
def parsed(text: str) -> liquid.BoundTemplate:
    """Raises LiquidError for what is no Liquid."""
    return LIQUID.from_string(text)


def filled(text: str, names: Mapping[str, Any]) -> str:
    """The text with what its names stand for. Raises LiquidError."""
    return closed(parsed(text).render(names)) if "{" in text else text


def closed(text: str) -> str:
    """The text without the places where something was missing."""
    text = ENCODED.sub("", text) if "%EE" in text or "\\ue000" in text else text
    if MARK not in text:
        return text
    return GAP.sub("", HEAD.sub(lambda found: found[1].upper(), text))


def paragraphs(text: str) -> list[str]:
    return [line for part in re.split(r"\n\s*\n", text) if (line := one_line(part))]


def one_line(text: str) -> str:
    """The text without control, direction and line-breaking characters: safe in a header and a plain text."""
    if text.isprintable():
        return " ".join(text.split())
    spaced = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    shown = (c for c in spaced if c in JOINERS or unicodedata.category(c) not in ("Cf", "Cs"))
    return " ".join("".join(shown).split())


def short(text: Any) -> str:
    """One line of at most MAX_TEXT characters; nothing for None."""
    line = one_line(str(text)) if text is not None else ""
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1].rstrip() + "…"


def faults(program: Program, known: tuple[str, ...] = NAMES) -> list[tuple[str, str]]:
    """(the field, what is wrong) of a program's texts: no Liquid, or a name that is none of `known`."""
    return [
        (f"texts.{locale}.{field}", fault)
        for locale, texts in program.texts.items()
        for field, text in fields(texts)
        for fault in wrong(text, known)
    ]


def fields(texts: Texts) -> Iterator[tuple[str, str]]:
    for name, value in texts:
        if isinstance(value, Mapping):
            continue  # names and words, no Liquid
        for place, text in enumerate([value] if isinstance(value, str) else value):
            yield (name if isinstance(value, str) else f"{name}.{place}"), text


def wrong(text: str, known: tuple[str, ...]) -> Iterator[str]:
    try:
        named = parsed(text).global_variables()
    except LiquidError as error:
        yield str(error)
        return
    for name in sorted({*named} - {*known}):
        yield f"{name!r} is no name; known: {', '.join(known)}"
