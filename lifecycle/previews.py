"""Previews: the message of a program as a customer would get it now, without a run that found an occasion."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from lifecycle.drafts import draft
from lifecycle.messages import About, Message, compose
from lifecycle.permission import UNNAMED, Permission
from lifecycle.programs import Program
from lifecycle.triggers import PRODUCTS, WORDS
from serving.engine import Engine, Order
from serving.links import Links
from serving.rules import Exclude
from serving.schemas import MAX_IDS

NOWHERE = "https://example.invalid/"  # where the stars of a preview lead
CODE = "PREVIEW"
GUESSED = (
    "nth",
    "step",
    "tier",
    "years",
    "category",
)  # what an occasion tells and an order does not, by an example
CHEAPER = 0.8  # of what a product was, in the preview of a price that fell
# of which triggers a preview is about the customer's latest order, and about how many products of it
LATEST: Mapping[str, int] = {
    "order": MAX_IDS, "first_gap": MAX_IDS, "cart": 3, "due": 3, "back": 1,
    "milestone": 0, "rhythm": 0, "stage": 0, "anniversary": 0,
}  # fmt: skip


def preview(
    engine: Engine, program: Program, about: About, *, customer_id: str | None, order_id: str | None,
    links: Links | None, at: datetime, now: datetime, rules: Sequence[Exclude] = (), may: Permission = UNNAMED,
) -> Message:  # fmt: skip
    """The message as of `at`, with links made `now`, about an order (the customer's latest where `order_id` is None)
    where the program's trigger is about one. `may` says whether it shows lists, and of what.

    Someone unknown, or someone else's order, gets a message without an order and with lists that fall back. Raises
    NotSent.
    """
    order = engine.order(customer_id, order_id, at) if program.trigger.kind in LATEST else None
    if order is not None:
        customer_id = order.customer_id or customer_id
    products = bought(order)[: LATEST[program.trigger.kind]] if order else ()
    program, whose = program.promoting(may.agreed), customer_id if may.personal else None
    found = draft(engine, program, whose, products, words(program, order, at), exclude=(), at=at, rules=rules)
    return compose(engine, program, found, rated(program, about), links=links, now=now)


def example(
    engine: Engine, program: Program, about: About, *, at: datetime, rules: Sequence[Exclude] = ()
) -> Message:
    """The message about an occasion that is made up, with lists for anybody. Raises NotSent."""
    kind = program.trigger.kind
    first = engine.sample(0, 3).products if kind in PRODUCTS else ()
    said = dict(WORDS[kind])
    if "was" in said:
        said |= {"was": (first[0].price or 1.0) / CHEAPER, "is": first[0].price or 1.0}
    if program.voucher:
        said["voucher"] = program.voucher.said(CODE, at)
    products = tuple(product.product_id for product in first)
    found = draft(engine, program, None, products, said, exclude=(), at=at, rules=rules)
    return compose(engine, program, found, rated(program, about), links=None, now=at)


def bought(order: Order) -> tuple[str, ...]:
    return tuple(line.product.product_id for line in order.lines)


def words(program: Program, order: Order | None, at: datetime) -> dict[str, Any]:
    """What the occasion would say: of the order, by an example of what the order does not tell, and of a voucher, which
    is worth nothing."""
    trigger, told = program.trigger, WORDS[program.trigger.kind]
    said = {name: told[name] for name in GUESSED if name in told and trigger.kind != "order"}
    if order:
        lines = [{"quantity": line.quantity, "title": line.product.title} for line in order.lines]
        said |= {"order_id": order.order_id, "ordered_on": order.at.isoformat(), "lines": lines}
    if (
        trigger.kind == "back"
        and trigger.what == "price"
        and order
        and (price := order.lines[0].product.price)
    ):
        said |= {"was": price / CHEAPER, "is": price}
    if program.voucher:
        said["voucher"] = program.voucher.said(CODE, at)
    return said


def rated(program: Program, about: About) -> About:
    return replace(about, rate_url=about.rate_url or NOWHERE) if program.rating else about
