"""Addresses: where the links of a message lead. Nothing in them says whom it was written to."""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urljoin

from features.history import Store
from lifecycle.programs import Program
from serving.links import Links, safe_url
from serving.schemas import RecommendResponse

TAG = "utm_"


@dataclass(frozen=True)
class Addresses:
    """Sealed by `links`, made `now`; without these the products' own, tagged with the shop, the channel and the
    program, as web analytics count visits."""

    store: Store
    program: Program
    links: Links | None
    now: datetime

    def of(self, found: RecommendResponse, place: int) -> str | None:
        """Of a list's item; None where it has none that may be shown."""
        if self.links:
            return self.links.signed(found, place, at=self.now)
        url = safe_url(found.items[place].url)
        return url and self.tagged(url)

    def front(self) -> str | None:
        """The page of the shop that the program names, else its front page, where the shop's address is known."""
        return self.tagged(urljoin(self.links.shop_url, self.program.page)) if self.links else None

    def tagged(self, url: str) -> str:
        """With tags, unless it has some, or they would make it too long."""
        page, mark, part = url.partition("#")
        if TAG in page:
            return url
        source = re.sub(r"[^a-z0-9]+", "-", self.store.name.lower()).strip("-") or "shop"
        tags = f"utm_source={source}&utm_medium={self.program.channel}&utm_campaign={self.program.name}"
        return safe_url(f"{page}{'&' if '?' in page else '?'}{tags}{mark}{part}") or url
