"""Letters to look at: a small shop with pictures, programs of every layout, and drafts in which everything is said."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tiny

from lifecycle.drafts import Draft, draft
from lifecycle.layouts import LAYOUTS
from lifecycle.messages import About, Message, compose
from lifecycle.programs import SHIPPED, Program, files
from lifecycle.yamls import read
from serving.engine import Engine
from serving.links import Links

WORDS: Mapping[str, Any] = {  # all that any trigger tells
    "order_id": "A-4711", "ordered_on": "2026-02-20T18:30:00+00:00", "nth": 10, "years": 2, "tier": "Gold", "step": 1,
    "category": "Bread", "was": 99.5, "is": 2.0,
    "lines": [{"quantity": 2, "title": "Bread"}, {"quantity": 0.5, "title": "Butter from the alps, unsalted"}],
    "voucher": {"code": "K7P2Q9XW4M", "worth": 5.0, "ends": "2026-04-01T00:00:00+00:00"},
}  # fmt: skip
KNOWN = About(
    first_name="Zoë", unsubscribe_url="https://osclms.example/u/abc", view_url="https://osclms.example/v/abc",
    rate_url="https://osclms.example/rate/abc",
)  # fmt: skip
GOODS: tiny.Goods = {
    name: {
        **about, "title": f"{about['title']} of the long wooden oven" if name == "spelt" else about["title"],
        "url": f"https://shop.example/{name}", "image_url": f"https://shop.example/{name}.png",
    } | ({} if name not in ("milk", "soap") else {"image_url": None, "url": None})
    for name, about in tiny.GROCER.items()
}  # fmt: skip
TEXTS = {
    "subject": "{{ product }} is back, {{ first_name }}",
    "title": "Back, {{ first_name }}!",
    "body": "It costs {{ is }}, it was {{ was }}.\n\nWe keep it for you until {{ voucher.ends }}.",
    "button": "Have a look",
    "shelves": ["Goes with {{ product }}", "Next for you"],
    "sms": "{{ store }}: {{ product }} is back, {{ link }}",
    "push": "{{ product }} is back",
}


def program(template: str, **other: Any) -> Program:
    """Of one layout, with all that it can hold."""
    return Program.model_validate(
        {
            "name": f"all_{template}", "about": "everything", "trigger": {"kind": "back", "what": "price"},
            "template": template, "products": True, "rating": True, "voucher": {"worth": 5},
            "shelves": [
                {"placement": "cross_sell", "about": "occasion", "limit": 3}, {"placement": "next_best", "limit": 3}
            ],
            "texts": dict.fromkeys(("en", "es", "fr"), TEXTS),
        } | other
    )  # fmt: skip


@cache
def engine(folder: Path) -> Engine:
    return Engine(tiny.bundle(folder, tiny.GROCERIES, GOODS))


def drafted(engine: Engine, program: Program, products: tuple[str, ...] = ("bread", "butter")) -> Draft:
    return draft(engine, program, "anna", products, words(program), exclude=(), at=tiny.UNTIL)


def lenient(p: Program) -> Program:
    """The program with lists of whatever length, as the shop is small."""
    some = {"minimum": 0, "fallback_below": 1.0}
    return p.model_copy(update={"shelves": tuple(s.model_copy(update=some) for s in p.shelves)})


def words(p: Program) -> dict[str, Any]:
    """What of WORDS an occasion of the program could tell."""
    hidden = (
        *(() if p.template == "order" else ("lines",)), *(() if p.voucher else ("voucher",)),
        *(() if getattr(p.trigger, "what", None) == "price" else ("was", "is")),
    )  # fmt: skip
    return {name: of for name, of in WORDS.items() if name not in hidden}


def letter(
    engine: Engine, program: Program, about: About = KNOWN, links: Links | None = None, **changed: Any
) -> Message:
    made = drafted(engine, program).model_copy(update=changed)
    return compose(engine, program, made, about, links=links, now=tiny.UNTIL)


EVERY = {
    p.name: p for p in (*(lenient(read(path, Program)) for path in files(SHIPPED)), *map(program, LAYOUTS))
}
CASES = [(name, locale) for name, p in EVERY.items() for locale in p.texts]
