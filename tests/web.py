"""The service's own app in this process: over a shop of a few rows, with keys, and asked without a socket."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import tiny

from lifecycle.programs import programs
from serving.door import RATES, Door, Meter
from serving.engine import Engine
from serving.events import Intake
from serving.keys import PUBLISHABLE, SECRET, Keyring, make
from serving.store import Store, address
from serving.tokens import CustomerToken, Tokens

NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)
SHOP, OTHER = "https://shop.example", "https://other.example"
TOKENS = Tokens(["c2VjcmV0LW9mLXRoZS10ZXN0cy1hbmQtb2Ytbm9ib2Q="])
TOKEN = TOKENS.seal(CustomerToken(customer_id="anna"), at=NOW)


@dataclass
class Web:
    """An app that asks for keys, as on a public address, and one key of each kind."""

    folder: Path
    asks: bool = True
    rates: dict[str, str] = field(default_factory=dict)
    waiting: int = 64

    def __post_init__(self) -> None:
        from serving.service import Edge, Site
        from serving.turns import Turns

        bundle = tiny.bundle(self.folder / "bundle", tiny.GROCERIES, tiny.GROCER)
        self.store = Store(address(self.folder, None))
        self.keys = {
            PUBLISHABLE: make(self.store, PUBLISHABLE, at=NOW, origins=[SHOP]),
            SECRET: make(self.store, SECRET, at=NOW),
        }
        self.intake, self.turns = Intake(self.store), Turns(self.waiting)
        self.site = Site(
            Engine(bundle), as_of=None, history=None, intake=self.intake, tokens=TOKENS, turns=self.turns,
            sent=partial(self.store.append, "sends"), clock=lambda: NOW, programs=programs(None),
        )  # fmt: skip
        meter = Meter({**RATES, **self.rates})
        self.edge = Edge(Door(Keyring(self.store), meter, self.asks, clock=lambda: NOW))
        self.edge.open(self.site)

    def close(self) -> None:
        self.store.close()

    def client(self, client: tuple[str, int] = ("192.0.2.1", 1000)) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.edge, client=client)
        return httpx.AsyncClient(transport=transport, base_url="https://recommend.shop.example")

    def ask(
        self,
        method: str,
        path: str,
        *,
        kind: str | None = None,
        origin: str | None = None,
        key: str | None = None,
        client: tuple[str, int] = ("192.0.2.1", 1000),
        headers: dict[str, str] | None = None,
        **about: Any,
    ) -> httpx.Response:
        bearer = key or (self.keys[kind] if kind else None)
        given = {
            **({"Authorization": f"Bearer {bearer}"} if bearer else {}),
            **({"Origin": origin} if origin else {}),
            **(headers or {}),
        }

        async def answer() -> httpx.Response:
            async with self.client(client) as http:
                return await http.request(method, path, headers=given, **about)

        return asyncio.run(answer())

    async def all(self, requests: Iterable[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """The answers to requests that come at the same moment, with the secret key."""
        bearer = {"Authorization": f"Bearer {self.keys[SECRET]}"}
        async with self.client() as http:
            asked = (http.request(method, path, headers=bearer, **about) for method, path, about in requests)
            return await asyncio.gather(*asked)
