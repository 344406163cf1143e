"""The service: routes and nothing else. The Engine answers, lifecycle writes.

The routes are a plain ASGI app mounted at "/": GETs and the front page need a mount, and it is the fastest
way through BentoML (docs/decisions.md). At the `Edge` every error becomes one JSON shape, nothing that a
caller sent reaches a log, and each answer is counted.
"""

import asyncio
import ctypes
import gc
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from copy import copy
from datetime import datetime
from functools import cache, lru_cache, partial, wraps
from http import HTTPStatus
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Literal, TypeVar

import bentoml
import click
import faiss
from anyio import to_thread
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLConfigException
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from features.history import History
from lifecycle.fragments import Part
from lifecycle.layouts import LAYOUTS, layout
from lifecycle.messages import About, Message, NotSent
from lifecycle.permission import UNNAMED, Permission, permission
from lifecycle.previews import preview
from lifecycle.programs import Policy, Program, policy
from lifecycle.programs import programs as programs_in
from lifecycle.yamls import FileError
from serving import batch, changes, delivery, events, leaving, logs, metrics, overlay, people, replies
from serving.body import read_timely
from serving.bundle import BundleError, Edition, edition
from serving.challenge import Beside, Challenge, answering
from serving.delivery import NO_PLACEMENT
from serving.direct import Direct, Routes, goes_short
from serving.door import ANYBODY, CALLER, PREFLIGHT, Door, caller, is_loopback, is_preflight, now
from serving.engine import Engine, Product
from serving.headers import CSS, HTML, JSON, MESSAGE_HEADERS, PAGE_HEADERS, SCRIPT, TEXT, WIDGET_HEADERS
from serving.identities import Identities
from serving.keys import ALL, CUSTOMERS, LISTS, OPEN
from serving.links import Links
from serving.openapi import Operation, document
from serving.placements import Placement, PlacementsError
from serving.profile import Everybody
from serving.rules import PLAIN
from serving.schemas import (
    ErrorBody,
    FieldError,
    Id,
    MessageAnswer,
    Moment,
    NeedsResponse,
    PlacementAbout,
    Placements,
    ProductAbout,
    Products,
    Question,
    RecommendRequest,
    RecommendResponse,
)
from serving.scores import readable
from serving.settings import Settings, SettingsError
from serving.store import Store, StoreError
from serving.swap import watch
from serving.tokens import TokenError, Tokens
from serving.traces import Traces
from serving.turns import Turns
from serving.wire import PATIENCE, RequestError, Wire, faults_told, worded

WIRE = "1"  # the version of what is under /v1
MAX_FOUND = 20
MAX_FAULTS = 20
BROWSER_EVENTS = ("view", "impression", "click")  # what a publishable key may tell
BASKET = "cross_sell"  # the placement that knows which needs go with a basket
VARY = "Vary"
NOT_KEPT = "no-store"
FOUND = "osclms.found"  # the list in the answer, in the scope of a request
NO_ROUTE = "unknown"  # the label where the path names none of ours
FOLDER = Path(__file__).parent
NO_HUGE_PAGES = 41  # prctl's PR_SET_THP_DISABLE, of Linux
log = logging.getLogger("osclms.service")


class Showcase(Wire):
    """Who and what the demo page offers to begin with, and what it is served from."""

    store: str
    currency: str
    model_version: str
    data_until: datetime
    customers: tuple[str, ...]
    products: tuple[ProductAbout, ...]


class ProductQuery(Wire):
    q: str = Field("", max_length=200, description="words that the title has, in any order")
    limit: int = Field(MAX_FOUND, ge=1, le=MAX_FOUND)


class MessageQuery(Wire):
    customer_id: Id | None = None
    order_id: Id | None = Field(None, description="missing: the customer's latest order")
    part: Literal["html", "text"] | None = Field(None, description="this part alone; missing: all, as JSON")
    at: Moment | None = Field(None, description="as of this moment; missing: now")
    agreed: bool | None = Field(
        None,
        description="whether the customer agreed to marketing on the program's channel, from who keeps consents "
        "elsewhere; missing: as is on record here. Without it a transactional message shows no lists",
    )
    record: delivery.Record = False


T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
Asked = TypeVar("Asked", RecommendRequest, MessageQuery, delivery.FragmentQuery)
PARTS: Mapping[str, str] = {"html": HTML, "text": TEXT}
OFFERED: Mapping[str | None, str] = {None: JSON, "html": "text/html", "text": "text/plain"}
QUALITY = re.compile(r"[01](\.\d*)?")
OPERATIONS = (
    Operation(
        "recommend",
        "POST",
        "/v1/recommend/{placement}",
        "A list for a placement",
        answer=RecommendResponse,
        body=RecommendRequest,
        example={"customer_id": "1", "limit": 3},
        scope=LISTS,
    ),
    batch.OPERATION,
    Operation(
        "needs",
        "POST",
        "/v1/needs",
        "Which needs go with a basket, whatever serves them",
        answer=NeedsResponse,
        body=RecommendRequest,
        example={"product_ids": ["1082185"], "limit": 3},
        scope=LISTS,
    ),
    Operation(
        "placements",
        "GET",
        "/v1/placements",
        "The placements, and what each asks with",
        answer=Placements,
        scope=LISTS,
    ),
    Operation(
        "message",
        "GET",
        "/v1/messages/{program}",
        "The message of a program for a customer, with lists embedded",
        answer=MessageAnswer,
        query=MessageQuery,
        also=("text/html", "text/plain"),
        example={"customer_id": "1"},
        statuses={
            200: "as asked",
            409: "too little to say to this customer now; the error says what is lacking",
        },
    ),
    *delivery.OPERATIONS,
    *replies.OPERATIONS,
    Operation("widget", "GET", "/v1/widget.js", "The widget's script", also=("text/javascript",), scope=OPEN),
    Operation(
        "products",
        "GET",
        "/v1/products",
        "Products by title",
        answer=Products,
        query=ProductQuery,
        example={"q": "milk", "limit": "3"},
        scope=LISTS,
    ),
    changes.OPERATION,
    *people.OPERATIONS,
    events.OPERATION,
    Operation("sample", "GET", "/v1/sample", "A few customers and products to try", answer=Showcase),
    Operation("livez", "GET", "/livez", "The process runs", also=("text/plain",), scope=OPEN),
    Operation("readyz", "GET", "/readyz", "The bundle is loaded and warm", also=("text/plain",), scope=OPEN),
    Operation("metrics", "GET", "/metrics", "Counts and latencies for Prometheus", also=("text/plain",)),
    Operation("openapi", "GET", "/openapi.json", "This document", scope=OPEN),
    Operation("page", "GET", "/", "The storefront page", also=("text/html",)),
    Operation("style", "GET", "/page.css", "Its style", also=("text/css",)),
    Operation("script", "GET", "/page.js", "Its script", also=("text/javascript",)),
)
ASSETS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "page": ("page.html", HTML, PAGE_HEADERS),
    "style": ("page.css", CSS, PAGE_HEADERS),
    "script": ("page.js", SCRIPT, PAGE_HEADERS),
    "widget": ("widget.js", SCRIPT, WIDGET_HEADERS),
}


class Site:
    """The routes over one engine: each reads a request, asks, and writes the answer."""

    def __init__(
        self,
        engine: Engine,
        *,
        as_of: datetime | None,
        history: Path | None,
        intake: events.Intake | None = None,
        tokens: Tokens | None = None,
        links: Links | None = None,
        clicked: delivery.Clicked | None = None,
        sent: delivery.Sent | None = None,
        turns: Turns | None = None,
        rules: Policy | None = None,
        public: Collection[str] = (),
        programs: Mapping[str, Program] | None = None,
        postal: str | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """`clicked` keeps the clicks on links of mails; without it they are counted alone. `sent` keeps the ledger.
        public: the shop's own attributes of products that pages may name in rules."""
        self.turns, self.lists = turns or Turns(), 0
        self.rival: tuple[Challenge, Site] | None = None  # who answers a share of the customers
        self.engine, self.as_of, self.clock, self.intake = engine, as_of, clock, intake
        self.tokens, self.links, self.clicked = tokens, links, clicked
        self.sent, self.rules, self.postal = sent, rules or Policy(), postal
        self.public = (*PLAIN, *public)
        self.programs = shipped() if programs is None else programs
        self.history = History(history) if history else None
        zone = (self.history.store if self.history else engine.store).time_zone
        scores = partial(readable, history.parent if history else None)
        self.everybody = Everybody(engine.bundle.catalog, engine.bundle.interactions, zone, scores=scores)
        self.follower = overlay.Follower(engine.bundle, intake.store, self.history) if intake else None
        told = self.history.identities() if self.history else {}
        self.identities = self.follower.identities if self.follower else Identities(told)
        self.model = metrics.Model(
            engine.version, engine.data_until.timestamp(), engine.placements, engine.n_available
        )

    def close(self) -> None:
        if self.intake:
            self.intake.store.close()
        self.drop()

    def drop(self) -> None:
        """Close what no other site holds."""
        if self.engine.live:
            self.engine.live.close()

    def caught_up(self) -> "Site | None":
        """The site over the catalogue as it is now, warmed up; None where it has not changed. For one thread.

        Whatever goes wrong, what is served goes on, and osclms_catalogue_unread counts it. It looks at events, too, so
        that their age is told though nobody with a name asks.
        """
        try:
            # a database that stands still is told of here, and keeps no answer waiting
            site = self.over_now()
            if live := (site or self).engine.live:
                live.look()
            return site
        except Exception as error:
            metrics.UNREAD.inc()
            log.error("changes were not read: %s", logs.why(error))
            return None

    def over_now(self) -> "Site | None":
        engine = self.follower.look(self.engine) if self.follower else None
        rival = self.rival[1].caught_up() if self.rival else None  # its faults are its own
        if engine is None and rival is None:
            return None
        site = copy(self)
        if self.rival and rival:
            site.rival = (self.rival[0], rival)
        if engine:
            site.engine, site.model = engine, copy(self.model)
            site.model.available = engine.n_available
            warm_up(site, 1)
        return site

    def beside(self, challenge: Challenge | None, rival: "Site | None") -> "Site":
        """The same site with another one beside it that answers the customers whom a challenge draws, or with none."""
        site = copy(self)
        site.model, site.rival = copy(self.model), None
        site.model.challenger = (challenge.version, challenge.share) if challenge else None
        if challenge and rival:
            answering(rival.engine, self.engine.placements)
            site.rival = (challenge, rival)
        return site

    def by(
        self, asked: RecommendRequest | MessageQuery | delivery.FragmentQuery, ask: Callable[[Engine], T]
    ) -> T:
        """What the engine answers that this customer was drawn to; who has no id, by what is asked and when. Where a
        challenger fails, or knows more than the moment that is asked about, the champion answers."""
        if self.rival:
            (challenge, site), at = self.rival, self.at(asked.at)
            key = asked.customer_id or f"{at.timestamp()}|{asked.model_dump_json()}"
            if challenge.draws(key) and site.engine.data_until <= at:
                try:
                    return ask(site.engine)
                except (RequestError, NotSent):
                    raise
                except Exception as error:  # its message may hold what was sent
                    metrics.CHALLENGER_FAILED.inc()
                    log.error("version %s failed: %s", challenge.version, type(error).__name__)
        return ask(self.engine)

    @property
    def store(self) -> Store:
        """The database. Raises RequestError where there is none."""
        if self.intake is None:
            raise RequestError("database", "there is none: set OSCLMS_HOME or OSCLMS_DATABASE_URL", 503)
        return self.intake.store

    def at(self, wanted: datetime | None) -> datetime:
        return wanted or self.as_of or self.clock()

    async def recommend(self, request: Request) -> Response:
        asked = await self.asked(request)
        row = self.engine.placement(request.path_params["placement"])
        at = self.at(asked.at)
        response, spent = await self.turns.compute(lambda: self.timed(row.name, asked, at, remember=True))
        request.scope[FOUND] = response
        return answer(response, {"Server-Timing": f"engine;dur={spent:.2f}", "Cache-Control": kept_for(row)})

    def timed(
        self, placement: str, asked: RecommendRequest, at: datetime, *, remember: bool = False
    ) -> tuple[RecommendResponse, float]:
        """A list, and how many milliseconds it took. It is counted, and of some what each rule removed."""
        started = time.perf_counter()
        response = self.by(asked, lambda engine: engine.recommend(placement, asked, at=at, remember=remember))
        spent = (time.perf_counter() - started) * 1000
        metrics.listed(response)
        self.lists += 1
        if self.lists % metrics.EVERY == 0:
            row = self.engine.placement(placement)
            metrics.removed(placement, self.engine.removed(row, self.engine.ask(row, asked, at)))
        return response, spent

    async def recommend_batch(self, request: Request) -> Response:
        placement, at = self.engine.placement(request.path_params["placement"]).name, self.at(None)
        rows: list[delivery.Row] = []
        site = self

        def listed(question: Question) -> RecommendResponse:
            nonlocal site
            site = site.as_now(request)
            asked = site.known(site.unsealed(question, request))
            when, customer = asked.at or at, asked.customer_id
            found, _ = site.timed(placement, asked, when)
            if question.record and not site.engine.is_buried(customer):
                rows.extend(
                    delivery.sends(
                        self.sent, customer, (found,), at=when, now=self.clock(), channel=question.channel
                    )
                )
            return found

        async def recorded() -> None:
            await delivery.recorded(self.sent, rows)
            rows.clear()

        return batch.Batch(request, self.turns, listed, lambda error: told(error)[1], recorded)

    def as_now(self, request: Request) -> "Site":
        """What is served by now, with what the catalogue is by now, where it is still of this version: all lists of a
        batch are of one, however long they take."""
        site: Site | None = getattr(request.scope.get("app"), "site", None)
        return site if site and site.engine.version == self.engine.version else self

    async def needs(self, request: Request) -> Response:
        asked = await self.asked(request)
        return answer(
            await self.turns.compute(
                lambda: self.by(asked, lambda engine: engine.needs(BASKET, asked, at=self.at(asked.at)))
            )
        )

    async def asked(self, request: Request) -> RecommendRequest:
        """The question in a request's body, by the customer behind token and alias."""
        asked = RecommendRequest.model_validate_json(await read_json(request))
        return self.known(self.unsealed(asked, request))

    def unsealed(self, asked: RecommendRequest, request: Request) -> RecommendRequest:
        """The same question by the customer in its token. Raises RequestError for a token that names none, and for a
        rule that would tell a page what is not for everybody."""
        if (asked.rules or asked.explain) and not caller(request).may(ALL):
            self.check_public(asked)
        named = self.named(asked.customer_id, asked.customer_token, request)
        if named == asked.customer_id:
            return asked
        return asked.model_copy(update={"customer_id": named, "customer_token": None})

    def check_public(self, asked: RecommendRequest) -> None:
        """Raises RequestError, 403, for an attribute that pages may not name, as rules would tell its values, and for
        `explain`, which counts what the shop's own rules took out."""
        if asked.explain:
            raise RequestError("explain", "this key may not ask why: a secret one may", 403)
        known = ", ".join(self.public)
        for name in (getattr(rule, "attribute", None) for rule in asked.rules):
            if name not in (None, *self.public):
                says = f"this key may name {known}; the shop may add to them (OSCLMS_PUBLIC_ATTRIBUTES)"
                raise RequestError("rules", says, 403)
            if name and not self.engine.shelf.has(name):
                raise RequestError("rules", f"no product has {name}; this key may name {known}")

    def named(self, customer_id: str | None, token: str | None, request: Request) -> str | None:
        """Who is asked or told about: by a token, or by an id from who may name customers by it."""
        if customer_id is not None and not caller(request).may(CUSTOMERS):
            raise RequestError("customer_id", "this key names customers by their customer_token alone", 403)
        if token is None:
            return customer_id
        if customer_id is not None:
            raise RequestError("customer_token", "given beside customer_id: give one of them")
        if self.tokens is None:
            raise RequestError("customer_token", "this service opens no tokens: set OSCLMS_SECRET")
        try:
            return self.tokens.customer(token, at=self.clock())
        except TokenError as error:
            raise RequestError("customer_token", str(error)) from error

    def known(self, asked: Asked) -> Asked:
        """The same question by the customer behind an alias."""
        own = self.identities.own(asked.customer_id) if asked.customer_id else None
        return asked if own == asked.customer_id else asked.model_copy(update={"customer_id": own})

    async def placements(self, _: Request) -> Response:
        found = self.engine.placements.values()
        rows = (PlacementAbout(name=p.name, about=p.about, asks=p.asks, limit=p.limit) for p in found)
        return answer(Placements(placements=tuple(rows)))

    async def message(self, request: Request) -> Response:
        asked = self.known(MessageQuery.model_validate(query(request)))
        program = self.program(request.path_params["program"])
        about = About.of(await self.profile(asked.customer_id), postal=self.postal)
        if self.engine.is_buried(asked.customer_id):
            raise RequestError("customer_id", "there is nobody of this id to write to", 404)
        may = await self.permission(program, asked)
        message = await self.turns.compute(lambda: self.previewed(program, about, asked, may))
        for found in message.lists:
            metrics.listed(found)
        if asked.record:
            await self.record(asked, message.lists, program.channel)
        return written(message, asked.part or preferred(request), may)

    async def permission(self, program: Program, asked: MessageQuery) -> Permission:
        """Whether who is asked for may be sent this; `asked.agreed` is the word of who keeps consents elsewhere."""
        if asked.customer_id is None:
            return UNNAMED
        store = self.intake.store if self.intake else None
        made = partial(
            permission, store, self.history, program, asked.customer_id, self.rules, at=self.clock(),
            agrees=asked.agreed,
        )  # fmt: skip
        return await people.asked(made)

    def program(self, name: str) -> Program:
        if name not in self.programs:
            raise RequestError(
                "program", f"there is no program {name!r}; known: {', '.join(self.programs)}", 404
            )
        return self.programs[name]

    def previewed(self, program: Program, about: About, asked: MessageQuery, may: Permission) -> Message:
        variant = program.variant_of(self.rules.seed, asked.customer_id) if asked.customer_id else None
        try:
            return self.by(asked, lambda engine: preview(
                engine, program.forms[variant], about, customer_id=asked.customer_id, order_id=asked.order_id,
                links=self.links, at=self.at(asked.at), now=self.clock(), rules=self.rules.rules, may=may,
            ))  # fmt: skip
        except NotSent as error:
            raise RequestError("program", error.reason, 409) from error

    async def fragment_html(self, request: Request) -> Response:
        return await self.fragment(request, "html")

    async def fragment_txt(self, request: Request) -> Response:
        return await self.fragment(request, "txt")

    async def fragment(self, request: Request, part: Part) -> Response:
        asked = self.known(delivery.FragmentQuery.model_validate(query(request)))
        placement, at = request.path_params["placement"], self.at(asked.at)
        made = delivery.fragment_answer
        answer, found = await self.turns.compute(
            lambda: self.by(
                asked,
                lambda engine: made(engine, self.links, placement, asked, part, at=at, now=self.clock()),
            )
        )
        if asked.record and not self.engine.is_buried(asked.customer_id):
            await self.record(asked, (found,), "email")
        row = self.engine.placement(placement)
        answer.headers["Cache-Control"] = NOT_KEPT if asked.record else kept_for(row)
        return answer

    async def record(
        self,
        asked: MessageQuery | delivery.FragmentQuery,
        lists: tuple[RecommendResponse, ...],
        channel: str,
    ) -> None:
        at, now = self.at(asked.at), self.clock()
        rows = delivery.sends(self.sent, asked.customer_id, lists, at=at, now=now, channel=channel)
        await delivery.recorded(self.sent, rows)

    async def follow(self, request: Request) -> Response:
        return await delivery.follow_answer(self.engine, self.links, request, self.clicked, now=self.clock())

    async def unsubscribe_page(self, request: Request) -> Response:
        return replies.unsubscribe_page(request, self.tokens, self.engine.store.name, at=self.clock())

    def is_sealed(self, request: Request) -> bool:
        """Whether a mailbox posts what we sealed: many readers' come from one address, and none may be turned away."""
        return replies.is_ours(request, self.tokens, at=self.clock())

    async def unsubscribe(self, request: Request) -> Response:
        name = self.engine.store.name
        return await replies.unsubscribe(
            request, self.tokens, name, self.store, self.history, at=self.clock()
        )

    async def rate_page(self, request: Request) -> Response:
        return replies.rate_page(request, self.tokens, self.engine.store.name, at=self.clock())

    async def rate(self, request: Request) -> Response:
        store, kept = self.store, self.clicked or (lambda event: None)
        return await replies.rate(
            request, self.tokens, self.engine.store.name, store, kept, self.rules, at=self.clock()
        )

    async def redeem(self, request: Request) -> Response:
        return await replies.redeemed(
            request, self.store, self.engine.store.currency, at=self.at(None), now=self.clock()
        )

    async def widget(self, _: Request) -> Response:
        return asset("widget")

    async def profile(self, customer_id: str | None) -> Mapping[str, Any] | None:
        if self.history is None or customer_id is None:
            return None
        return await to_thread.run_sync(self.history.row, "customers", customer_id)

    async def events(self, request: Request) -> Response:
        if self.intake is None:
            raise RequestError("events", "no database: set OSCLMS_HOME or OSCLMS_DATABASE_URL", 503)
        told, space = partial(self.event_of, request=request), caller(request).space
        return await self.intake.answer(request, at=self.clock(), told=told, space=space)

    def event_of(self, event: dict[str, Any], request: Request) -> dict[str, Any]:
        """An event as who sends it may tell it. Raises RequestError."""
        token, kind = event.pop("customer_token", None), event.get("event_type")
        if not caller(request).may(ALL) and kind not in BROWSER_EVENTS:
            raise RequestError("event_type", f"this key tells {', '.join(BROWSER_EVENTS)} alone", 403)
        if token is not None and not isinstance(token, str):
            raise RequestError("customer_token", "must be text")
        named = self.named(event.get("customer_id"), token, request)
        return event if named is None else {**event, "customer_id": named}

    async def put_products(self, request: Request) -> Response:
        return await changes.answer_products(self.store, request, at=self.clock())

    async def put_customer(self, request: Request) -> Response:
        return await people.put_customer(self.store, self.history, request, at=self.clock())

    async def put_customers(self, request: Request) -> Response:
        return await people.put_customers(self.store, self.history, request, at=self.clock())

    async def get_customer(self, request: Request) -> Response:
        until = people.CustomerQuery.model_validate(query(request)).at
        return await people.get_customer(
            self.store, self.history, request, self.everybody, until=until, now=self.at(None)
        )

    async def delete_customer(self, request: Request) -> Response:
        return await people.delete_customer(self.store, self.history, request, at=self.clock())

    async def products(self, request: Request) -> Response:
        asked = ProductQuery.model_validate(query(request))
        found = await self.turns.compute(lambda: self.engine.search(asked.q, asked.limit))
        return answer(Products(products=listed(found)))

    async def sample(self, _: Request) -> Response:
        engine, sample = self.engine, self.engine.sample()
        return answer(
            Showcase(
                store=engine.store.name,
                currency=engine.store.currency,
                model_version=engine.version,
                data_until=engine.data_until,
                customers=tuple(sample.customers),
                products=listed(sample.products),
            )
        )

    async def livez(self, _: Request) -> Response:
        """BentoML answers both probes before they reach us; here, the other methods get their 405."""
        return Response("\n", media_type=TEXT)

    async def readyz(self, _: Request) -> Response:
        return Response("\n", media_type=TEXT)

    async def metrics(self, _: Request) -> Response:
        text, media_type = await to_thread.run_sync(metrics.exposition, self.model)
        return Response(text, media_type=media_type)

    async def openapi(self, _: Request) -> Response:
        return Response(described(tuple(self.engine.placements)), media_type=JSON)

    async def page(self, _: Request) -> Response:
        return asset("page")

    async def style(self, _: Request) -> Response:
        return asset("style")

    async def script(self, _: Request) -> Response:
        return asset("script")


def kept_for(row: Placement) -> str:
    """How long a list may be kept, by who asked: what stands between would give it to who has no key."""
    return f"private, max-age={row.cache_seconds}" if row.cache_seconds else NOT_KEPT


def listed(products: Any) -> tuple[ProductAbout, ...]:
    return tuple(product_about(product) for product in products)


def product_about(product: Product) -> ProductAbout:
    return ProductAbout(
        product_id=product.product_id, title=product.title, price=product.price, currency=product.currency
    )


def answer(value: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(value.model_dump_json(), media_type=JSON, headers=headers)


def written(message: Message, part: str | None, may: Permission = UNNAMED) -> Response:
    if part:
        told = {} if may.may_send is None else {"OSCLMS-May-Send": "yes" if may.may_send else "no"}
        return Response(getattr(message, part), media_type=PARTS[part], headers={**MESSAGE_HEADERS, **told})
    parts = {name: getattr(message, name) for name in MessageAnswer.model_fields if hasattr(message, name)}
    ids = tuple(response.recommendation_id for response in message.lists)
    whole = MessageAnswer(**parts, recommendation_ids=ids, may_send=may.may_send, why=may.why)
    return answer(whole, {"Vary": "Accept"})


def preferred(request: Request) -> str | None:
    """The part that the Accept header wants most, of those alike the one that it names first; None for JSON.

    JSON is also what a header gets that names none of the three. Raises RequestError where it refuses JSON
    and wants no other.
    """
    kinds = request.headers.get("accept", "").split(",")
    wanted = dict(ranged(kind, place) for place, kind in enumerate(kinds))
    found = {part: held for part, kind in OFFERED.items() if (held := weighed(kind, wanted))}
    best = max(found, key=lambda part: found[part], default=None)
    if best in found and found[best][0] > 0:
        return best
    if None in found:
        raise RequestError("accept", f"there is {', '.join(OFFERED.values())}: name one of these", 406)
    return None


def ranged(text: str, place: int) -> tuple[str, tuple[float, int]]:
    """A media range of an Accept header: its name, and how much it is wanted, more where named earlier."""
    name, *about = (part.strip().lower() for part in text.split(";"))
    quality = next((part[2:] for part in about if part.startswith("q=")), "1")
    return name, (float(quality) if QUALITY.fullmatch(quality) else 1.0, -place)


def weighed(kind: str, wanted: Mapping[str, tuple[float, int]]) -> tuple[float, int] | None:
    """What the most specific range says of a media type; None where no range holds it."""
    ranges = (kind, kind.split("/")[0] + "/*", "*/*")
    return next((wanted[name] for name in ranges if name in wanted), None)


@cache
def asset(name: str) -> Response:
    file, media_type, headers = ASSETS[name]
    return Response((FOLDER / file).read_bytes(), media_type=media_type, headers=headers)


@lru_cache(maxsize=2)
def described(placements: tuple[str, ...]) -> bytes:
    """The OpenAPI document, made once: that takes a while, and who asks for it needs no key."""
    return json.dumps(document("OSCLMS", WIRE, OPERATIONS, placements)).encode()


def query(request: Request) -> dict[str, str]:
    """The query's parameters; one given twice is refused, as which of the two counts is anyone's guess."""
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(pairs) > len(given):
        twice = next(name for name in given if len(request.query_params.getlist(name)) > 1)
        raise RequestError(twice, "given more than once: give it once")
    return given


async def read_json(request: Request) -> bytes:
    """The body, `{}` where there is none."""
    return await read_timely(request) or b"{}"


def invalid(error: ValidationError) -> tuple[int, ErrorBody]:
    faults = faults_told(error)
    if faults[0]["type"] == "json_invalid":
        field = FieldError(field="body", message=faults[0]["msg"])
        return 400, ErrorBody(error=f"the body is not JSON: {field.message}", fields=(field,))
    fields = tuple(FieldError(field=dotted(f["loc"]), message=worded(f)) for f in faults[:MAX_FAULTS])
    return 400, ErrorBody(error=f"{fields[0].field}: {fields[0].message}", fields=fields)


def dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in place) or "body"


def refused(error: RequestError) -> tuple[int, ErrorBody]:
    field = FieldError(field=error.field, message=error.message)
    return error.status, ErrorBody(error=str(error), fields=(field,))


def unrouted(error: HTTPException) -> tuple[int, ErrorBody]:
    allowed = (error.headers or {}).get("Allow")
    hint = f"use {' or '.join(sorted(allowed.split(', ')))}" if allowed else "see /openapi.json"
    return error.status_code, ErrorBody(error=f"{HTTPStatus(error.status_code).phrase.lower()}: {hint}")


def failed(error: Exception) -> tuple[int, ErrorBody]:
    """Our own fault. The log gets the kind and the place; the message may hold what the caller sent."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("request failed with %s\n%s", type(error).__name__, place)
    return 500, ErrorBody(error="something went wrong here; the request may be repeated")


EXPLAIN: tuple[tuple[type[Exception], Callable[[Any], tuple[int, ErrorBody]]], ...] = (
    (ValidationError, invalid),
    (RequestError, refused),
    (HTTPException, unrouted),
    (Exception, failed),
)


def told(error: Exception) -> tuple[int, ErrorBody]:
    explain = next(explain for kind, explain in EXPLAIN if isinstance(error, kind))
    return explain(error)


def explained(error: Exception, scope: Scope) -> Response:
    """An error as JSON; as a page to who followed a link of a message."""
    status, body = told(error)
    headers = {"Retry-After": "1"} if status == 503 else {}
    headers |= (error.headers or {}) if isinstance(error, HTTPException | RequestError) else {}
    if getattr(scope.get("endpoint"), "__name__", "") in replies.PAGES and (
        page := replies.sorry(Request(scope), status)
    ):
        page.headers.update(headers)
        return page
    return Response(body.model_dump_json(), status, headers=headers, media_type=JSON)


class Edge:
    """The ASGI app: admits, catches, measures, passes on.

    Not a Starlette instance, as BentoML would match the routes of one twice, and answer unknown paths itself.
    """

    def __init__(self, door: Door | None = None, *, log_requests: bool = False) -> None:
        self.door, self.log_requests, self.leaving = door or Door(), log_requests, False
        self.site: Site | None = None
        self.traces: Traces | None = None
        self.router: Callable[[Scope, Receive, Send], Awaitable[None]] = unready

    def open(self, site: Site) -> None:
        """Answer by this site from the next request on; one that has begun ends by the site that it began with. Who
        waits for either waits in one queue, which knows what lists take.

        The routes are made once: a router holds itself, and with it would hold every site that it was made for.
        """
        if self.site is not None:
            site.turns = self.site.turns
        self.site = site
        if self.router is unready:
            made = ((o, self.guarded(o, self.handler(o.name))) for o in OPERATIONS)
            routes = [Route(routed(o.path), endpoint, methods=[o.method]) for o, endpoint in made]
            self.router = Routes(routes)

    def handler(self, name: str) -> Endpoint:
        async def handle(request: Request) -> Response:
            answer: Response = await getattr(self.site, name)(request)
            return answer

        handle.__name__ = name
        return handle

    def leave(self) -> None:
        self.leaving = True

    @property
    def ready(self) -> bool:
        return self.site is not None and not self.leaving

    def guarded(self, operation: Operation, endpoint: Endpoint) -> Endpoint:
        """The endpoint, for those who may ask it."""

        @wraps(endpoint)
        async def admitted(request: Request) -> Response:
            free = operation.sealed and self.site is not None and self.site.is_sealed(request)
            request.scope[CALLER] = ANYBODY if free else self.door.admit(request, operation.scope)
            return await endpoint(request)

        return admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("app", self)  # without one Starlette answers 404 and 405 itself, as text
        asked, started = HTTPConnection(scope), time.perf_counter()
        sent = Sent(send, self.door.headers(asked))
        bound = asyncio.timeout(None if goes_short(scope["path"]) else PATIENCE)
        try:
            async with bound:
                if is_preflight(asked):
                    await Response(status_code=204, headers=PREFLIGHT)(scope, receive, sent)
                else:
                    await self.router(scope, receive, sent)
        except ClientDisconnect:
            return
        except Exception as error:
            if sent.status:  # what was begun cannot be told otherwise
                self.record(scope, sent.status, time.perf_counter() - started)
                raise
            if isinstance(error, TimeoutError) and bound.expired():
                error = RequestError("service", f"no answer within {PATIENCE} seconds: ask again", 504)
            await explained(error, scope)(scope, receive, sent)
        self.record(scope, sent.status, time.perf_counter() - started)

    def record(self, scope: Scope, status: int, seconds: float) -> None:
        route, placement = self.labels(scope)
        metrics.record(route, placement, status, seconds)
        if self.traces:
            self.traces.record(route, placement, status, seconds, scope.get(FOUND))
        if self.log_requests:
            about = {"route": route, "placement": placement, "status": status, "ms": round(seconds * 1000, 2)}
            log.info("request", extra={logs.ABOUT: about})

    def labels(self, scope: Scope) -> tuple[str, str]:
        """Route and placement as our own words: whatever else was sent is one label."""
        route = getattr(scope.get("endpoint"), "__name__", NO_ROUTE)
        placement = scope.get("path_params", {}).get("placement", NO_PLACEMENT)
        known = self.site is not None and placement in self.site.engine.placements
        return route, placement if known else NO_PLACEMENT


def routed(path: str) -> str:
    """A customer's id may hold a slash."""
    return path.replace("{customer_id}", "{customer_id:path}")


class Sent:
    """A `send` that adds headers, and remembers the status."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self.send, self.headers, self.status = send, headers, 0

    async def __call__(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.headers:
                self.add(MutableHeaders(scope=message))
        await self.send(message)

    def add(self, headers: MutableHeaders) -> None:
        headers.update({name: value for name, value in self.headers.items() if name != VARY})
        if VARY in self.headers:
            headers.add_vary_header(self.headers[VARY])


async def unready(*_: Any) -> None:
    raise HTTPException(503)


@cache
def settings() -> Settings:
    """Read once a process; refused as BentoML wants it, which prints the message and no traceback."""
    try:
        return Settings.read(os.environ)
    except SettingsError as error:
        raise BentoMLConfigException(str(error)) from error


@cache
def shipped() -> Mapping[str, Program]:
    return programs_in(None)


def intake(settings: Settings) -> events.Intake | None:
    """What takes events in, over the database that the settings name. Raises StoreError."""
    store = settings.store()
    return events.Intake(store) if store else None


def load(settings: Settings, intake: events.Intake | None, folder: Path) -> Site:
    """The site over a bundle whose files are what was written, warmed up. Raises BundleError, PlacementsError,
    FileError and StoreError."""
    engine = Engine.load(folder, placements=settings.placements())
    tokens = settings.tokens()
    site = Site(
        engine,
        as_of=settings.as_of,
        history=settings.history(),
        intake=intake,
        tokens=tokens,
        links=Links.of(settings),
        clicked=intake.keep if intake else None,
        sent=partial(intake.store.append, "sends") if intake else None,
        turns=Turns(settings.waiting),
        rules=policy(settings.programs()),
        programs=programs_in(settings.programs()),
        postal=settings.mail_address,
        public=settings.public_attributes,
    )
    if intake:
        in_a_hurry = Store(intake.store.url, hurry=True)
        engine.follow(in_a_hurry, identities=site.identities, clock=now, ledger=site.history)
    try:
        warm_up(site)
        # a database that is away is told as such, and not as a fault of a file
        site = site.over_now() or site
        site.engine.check(settings.placements())
    except Exception:
        site.drop()
        raise
    return site


def close_traces(settings: Settings) -> None:
    """Make what traces requests, and end it. Raises BentoMLConfigException where its exporter cannot be made."""
    try:
        traces = settings.traces()
    except Exception as error:  # an exporter is anybody's code
        raise BentoMLConfigException(f"OSCLMS_TRACE_TO: {type(error).__name__}: {error}") from error
    if traces:
        traces.close()


def warm_up(site: Site, most: int | None = None) -> None:
    """Answers from every placement to customers as there are, `most` of them, so that the first callers do not pay for
    first uses."""
    for asked in site.engine.sample().questions[:most]:
        for placement in site.engine.placements:
            site.engine.recommend(placement, asked, at=site.at(None))
    for name in LAYOUTS:
        layout(name)


def settle() -> None:
    """What is loaded stays: the collector need not look at it again. Without this p99 is 200 ms."""
    gc.unfreeze()
    give_back()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def give_back() -> None:
    """Memory of what was loaded and is not held goes back to the system, where the C library would keep it (glibc's
    malloc_trim), and stays there: Linux would fill it again, minutes later, with huge pages, which numpy asks for
    wherever a large array lies or lay (madvise(2); PR_SET_THP_DISABLE of prctl(2)). A child inherits it."""
    gc.collect()
    library = ctypes.CDLL(None)
    if prctl := getattr(library, "prctl", None):
        prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    if trim := getattr(library, "malloc_trim", None):
        trim(0)


def ask_for_keys(settings: Settings, intake: events.Intake | None) -> None:
    """Where others than this machine reach the service, let the workers ask for keys. Raises StoreError for none."""
    host = listens_on()
    if is_loopback(host) and not settings.ask_keys:
        return
    door = settings.door(intake.store if intake else None)
    if not door.ring.good(at=door.clock()):
        raise StoreError(
            f"{host} is reached from elsewhere, and there is no key to ask for: make one with `osclms keys make`, "
            "or serve on 127.0.0.1"
        )
    os.environ["OSCLMS_ASK_KEYS"] = "yes"


def listens_on() -> str:
    """The address that `bentoml serve` was given, or its own."""
    command = click.get_current_context(silent=True)
    given: str | None = command.params.get("host") if command else None
    return given or BentoMLContainer.http.host.get()


EDGE = Edge()


@bentoml.service(
    name="osclms",
    service_class=Direct,
    workers=settings().workers,
    traffic={"timeout": 2 * PATIENCE},  # `Edge` is sooner
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # ours is at /metrics; BentoML's labels by raw path
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(EDGE, path="/")
class Service:
    """One engine a worker, loaded before the worker takes a request."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Before any worker starts: in a worker an error would only respawn it for ever.

        Workers of a bento run in its folder, so paths that are relative to ours are made absolute for them.
        """
        logs.structured()
        os.environ.update(settings().absolute())
        try:
            taken = intake(settings())
            ask_for_keys(settings(), taken)
            close_traces(settings())
            load(settings(), taken, settings().folder()).close()
            give_back()
        except (BundleError, PlacementsError, FileError, StoreError) as error:
            raise BentoMLConfigException(str(error)) from error
        except RequestError as error:  # the first answer, as of OSCLMS_AS_OF or now
            raise BentoMLConfigException(f"OSCLMS_AS_OF: {error.message}") from error

    def __init__(self) -> None:
        faiss.omp_set_num_threads(1)
        logs.structured()
        served = edition(settings().folder())
        self.intake = intake(settings())
        EDGE.door = settings().door(self.intake.store if self.intake else None)
        EDGE.log_requests, EDGE.traces = settings().log_requests, settings().traces()
        EDGE.open(load(settings(), self.intake, served.folder))
        settle()
        self.ended, self.turn = Event(), Lock()
        Thread(target=EDGE.door.ring.follow, args=(self.ended,), daemon=True).start()
        Thread(target=self.swap, args=(served,), daemon=True).start()
        Thread(target=self.follow, daemon=True).start()
        leaving.slowly(settings().drain, EDGE.leave)
        leaving.with_parent()

    def swap(self, served: Edition) -> None:
        """Serve whichever champion is promoted, or written anew, while this worker runs. Nothing holds the old one."""

        def make(folder: Path) -> Site:
            beside.leave()  # two engines at most
            return load(settings(), self.intake, folder)

        def use(site: Site) -> None:
            with self.turn:
                before = EDGE.site.engine.live if EDGE.site else None
                EDGE.open(site)
            if before:
                before.close()  # an answer that is still being made opens it anew
            del before
            settle()

        home = settings().state()
        beside = Beside[Site](
            home, make=partial(load, settings(), self.intake), use=self.beside, drop=Site.drop
        )
        watch(
            served,
            find=settings().folder,
            make=make,
            use=use,
            drop=Site.drop,
            beside=beside.look,
            ended=self.ended,
        )

    def beside(self, challenge: Challenge | None, rival: Site | None) -> None:
        """Serve a challenger beside the champion, or none any more. Raises BundleError for one that cannot stand in."""
        with self.turn:
            if EDGE.site is None:
                return
            before = EDGE.site.rival
            EDGE.open(EDGE.site.beside(challenge, rival))
        if before:
            before[1].drop()
        del before
        settle()

    def follow(self) -> None:
        """Serve the catalogue as it is now while this worker runs. A champion that comes meanwhile takes its turn."""
        while not self.ended.wait(overlay.EVERY):
            with self.turn:
                site = EDGE.site.caught_up() if EDGE.site else None
                if site:
                    EDGE.open(site)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def end(self) -> None:
        self.ended.set()
        if EDGE.traces:
            EDGE.traces.close()

    async def __is_ready__(self) -> bool:
        return EDGE.ready
