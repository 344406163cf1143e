"""Drafts: what a message is to show, as it is decided and kept until it is sent. Names of products, not what they cost:
price and stock are read again when the message is rendered."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from lifecycle.programs import Program, Shelf, Strict
from serving.engine import Engine
from serving.rules import Exclude
from serving.schemas import MAX_IDS, Recommendation, RecommendRequest, RecommendResponse

SPARES = 3  # products kept beside a list, for those that are gone when it is sent


class Shown(Strict):
    product_id: str
    story: str
    price: float | None
    source: str
    filled: bool
    score: float = 0.0


class Held(Strict):
    """A list: the first `limit` of its items that can still be bought are shown."""

    placement: str
    recommendation_id: str
    items: tuple[Shown, ...] = ()


class Draft(Strict):
    """products: what the occasion is about. words: what may be said of it. rules: what lists keep out, also those that
    are filled up as the message is sent. known: by exit of the program how many orders were known (`lifecycle.exits`).
    personal: whether lists are of what is known of the customer. ends: the moment after which it is no news any more,
    where the program's exit is that this has passed.
    """

    products: tuple[str, ...] = ()
    words: Mapping[str, Any] = Field(default_factory=dict)
    lists: tuple[Held, ...] = ()
    rules: tuple[Exclude, ...] = ()
    known: Mapping[str, int] = Field(default_factory=dict)
    personal: bool = True
    ends: datetime | None = None

    def shown(self, program: Program) -> tuple[str, ...]:
        """The products that the message shows in its lists, as long as all can be bought."""
        return tuple(
            item.product_id
            for shelf, held in zip(program.shelves, self.lists, strict=True)
            for item in held.items[: shelf.limit]
        )


def draft(
    engine: Engine, program: Program, customer_id: str | None, products: Sequence[str], words: Mapping[str, Any], *,
    exclude: Sequence[str], at: datetime, rules: Sequence[Exclude] = (),
) -> Draft:  # fmt: skip
    """The lists of a message as of `at`: none repeats another, nor what the occasion is about, nor `exclude`. What
    `rules` keep out of lists the occasion is not about either."""
    products = [product for product in products if not (rules and barred(engine, product, rules))]
    lists: list[Held] = []
    shown: list[str] = [*products, *exclude]
    for shelf in program.shelves:
        asked = request(shelf, customer_id, products, shown, rules)
        lists.append(held(fitting(engine, engine.recommend(shelf.placement, asked, at=at), products)))
        shown = [*(item.product_id for item in lists[-1].items[: shelf.limit]), *shown]
    return Draft(
        products=tuple(products), words=dict(words), lists=tuple(lists), rules=tuple(rules),
        personal=customer_id is not None,
    )  # fmt: skip


def barred(engine: Engine, product_id: str, rules: Sequence[Exclude]) -> bool:
    place = int(engine.catalog.items.positions([product_id])[0])
    return place >= 0 and any(bool(engine.shelf.where(rule.attribute, rule.values)[place]) for rule in rules)


def request(
    shelf: Shelf,
    customer_id: str | None,
    products: Sequence[str],
    shown: Sequence[str],
    rules: Sequence[Exclude],
) -> RecommendRequest:
    return RecommendRequest(
        customer_id=None if shelf.about == "occasion" else customer_id,
        product_ids=() if shelf.about == "customer" else tuple(products)[:MAX_IDS],
        exclude=tuple(dict.fromkeys(shown))[:MAX_IDS],
        limit=shelf.limit + SPARES,
        rules=tuple(rules),
    )


def fitting(engine: Engine, found: RecommendResponse, products: Sequence[str]) -> RecommendResponse:
    """A list without what stands in for the products that the occasion is about, where its placement bars that: not
    even as fill, as in a message there is no page around it."""
    barred = engine.substitutes(found.placement, products) if products else set[str]()
    if not any(item.product_id in barred for item in found.items):
        return found
    return found.model_copy(update={"items": tuple(i for i in found.items if i.product_id not in barred)})


def held(found: RecommendResponse) -> Held:
    items = (Shown(**{name: getattr(i, name) for name in Shown.model_fields}) for i in found.items)
    return Held(placement=found.placement, recommendation_id=found.recommendation_id, items=tuple(items))


def unshown(engine: Engine, program: Program, draft: Draft) -> str | None:
    """Why a message that is to show what it is about cannot; None where it can."""
    if not (program.products and draft.products) or any(map(engine.offered, draft.products)):
        return None
    return "products: nothing of what it is about can be bought"


def lacking(program: Program, lists: Sequence[Sequence[Shown | Recommendation]]) -> str | None:
    """Why lists are too short to be sent; None where they are not."""
    for shelf, items in zip(program.shelves, lists, strict=True):
        own = sum(not item.filled for item in items[: shelf.limit])
        if len(items) < shelf.minimum:
            return f"{shelf.placement}: {len(items)} of at least {shelf.minimum} products"
        if items and 1 - own / min(len(items), shelf.limit) > shelf.fallback_below:
            return f"{shelf.placement}: {own} of {min(len(items), shelf.limit)} products are not fill"
    return None
