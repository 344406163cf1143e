"""Links in mails: sealed, so that they lead nowhere but to the shop, and checked anew when somebody follows one.

What a link leads to is the catalogue's address of a product that can be bought now: the one that was shown, else
the first of its spares, else the shop's front page.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin

from serving.engine import Engine, Product
from serving.schemas import Id, RecommendResponse
from serving.settings import Settings
from serving.tokens import Tokens
from serving.wire import Wire

MAX_URL = 1000  # a longer link is left out: clients clip a message above 102 kB
SAFE_URL = re.compile(r"https?://[^\s<>\"\\]+", re.IGNORECASE)
SPARES = 3
MAX_AGE = timedelta(days=90)  # of a link that is followed
PATH = "/r/"
# What marks a request that no person's click made. Scanners that pass themselves off as browsers are not found out.
FORETOLD = ("purpose", "sec-purpose", "x-purpose", "x-moz")  # headers of a prefetch or a preview
BROWSER = re.compile(r"(Mozilla|Opera)/")  # as nearly all of them begin
ROBOT = re.compile(
    r"(?<!cu)bot(?![a-z])|crawl|spider|slurp|scan|preview|prefetch|facebookexternalhit|urldefense|safelinks|imageproxy",
    re.IGNORECASE,
)


class Click(Wire):
    """What a link knows: the list and the place of a product in it (no list, and the program's name, where a message is
    about the product). Nothing of whom it was written to."""

    recommendation_id: str
    placement: str
    product_id: Id
    position: int
    price: float | None = None
    spares: tuple[Id, ...] = ()


@dataclass(frozen=True)
class Followed:
    """Where a click leads, and how that came about: product, dearer, spare or front."""

    target: str
    outcome: str


@dataclass(frozen=True)
class Links:
    """`public_url` is where mailboxes reach this service, `shop_url` the shop's front page."""

    tokens: Tokens
    public_url: str
    shop_url: str

    @classmethod
    def of(cls, settings: Settings) -> "Links | None":
        """As the settings say; None where mails link to the products themselves."""
        tokens = settings.tokens()
        if not (tokens and settings.public_url and settings.shop_url):
            return None
        return cls(tokens, settings.public_url, settings.shop_url)

    def signed(self, found: RecommendResponse, place: int, *, at: datetime) -> str | None:
        """The link for a list's item, made `at`; None where the catalogue has no address of it that may be shown.

        Its spares are the next products of the list, as many as keep it short.
        """
        item = found.items[place]
        if self.address(item.url) is None:
            return None
        others = (*found.items[place + 1 :], *found.items[:place])
        for spares in range(min(SPARES, len(others)), -1, -1):
            click = Click(
                recommendation_id=found.recommendation_id, placement=found.placement, product_id=item.product_id,
                position=place + 1, price=item.price, spares=tuple(o.product_id for o in others[:spares]),
            )  # fmt: skip
            link = self.public_url.rstrip("/") + PATH + self.tokens.seal(click, at=at)
            if len(link) <= MAX_URL:
                return link
        return None

    def read(self, token: str, *, at: datetime, max_age: timedelta = MAX_AGE) -> Click:
        """Raises TokenError, Expired where the link is older than `max_age` at that moment."""
        return self.tokens.open(token, Click, at=at, max_age=max_age)

    def follow(self, engine: Engine, click: Click) -> Followed:
        """The product that was shown where it can be bought now, else its first spare that can, else the shop."""
        for product_id in (click.product_id, *click.spares):
            product = engine.offered(product_id)
            target = self.address(product.url) if product and still_priced(product, click) else None
            if product and target:
                return Followed(target, outcome(product, click))
        return Followed(self.shop_url, "front")

    def address(self, url: str | None) -> str | None:
        """A catalogue's address made whole, where it is http(s); a path is one of the shop's own."""
        whole = (
            urljoin(self.shop_url, url) if url and url.startswith("/") and not url.startswith("//") else url
        )
        return safe_url(whole)


def still_priced(product: Product, click: Click) -> bool:
    """A product that was shown with a price and has none any more is not for sale."""
    return product.price is not None or click.price is None


def outcome(product: Product, click: Click) -> str:
    if product.product_id != click.product_id:
        return "spare"
    return "dearer" if click.price is not None and (product.price or 0) > click.price else "product"


def safe_url(url: str | None) -> str | None:
    """The link where it is http(s) and bearable; a path of the shop's own leads nowhere from a mailbox."""
    return url if url and len(url) <= MAX_URL and SAFE_URL.fullmatch(url) else None


def is_click(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request counts as somebody's click: a GET, of a document, not ahead of time, by what names itself
    as a browser and not as a robot."""
    return (
        method == "GET"
        and not any(
            word in headers.get(name, "").lower() for name in FORETOLD for word in ("prefetch", "preview")
        )
        and headers.get("sec-fetch-dest", "document") == "document"
        and BROWSER.match(agent := headers.get("user-agent", "")) is not None
        and not ROBOT.search(agent)
    )


def click_event(click: Click, *, event_id: str, at: datetime) -> dict[str, Any]:
    """The click as a row of the events' contract: on the product that was shown, wherever it led."""
    return {
        "event_id": event_id, "event_type": "click", "occurred_at": at, "product_id": click.product_id,
        "recommendation_id": click.recommendation_id or None, "placement": click.placement, "channel": "email",
    }  # fmt: skip
