"""What readers of a message answer: no more of this, or stars; and the till, that a voucher was used.

Who only follows a link changes nothing, as scanners and previews follow links too: a page comes, whose button posts.
It needs neither scripts nor cookies. Mailboxes post by themselves where their reader wants out (RFC 8058). Neither link
nor page says who it is: whom a message went to is looked up in the database.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import sqlalchemy as sa
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from features.history import History
from lifecycle.programs import Policy
from serving.body import read_all, read_body
from serving.consents import consent_records, consents_now
from serving.headers import HTML, JSON, REPLY_HEADERS
from serving.identities import ids_now
from serving.keys import OPEN
from serving.mailed import Kind, Mailed, Rate, Unsubscribe, opened
from serving.openapi import Operation
from serving.outgoing import alarm, message_of, open_alert, redeem
from serving.schemas import Redeem, Redeemed
from serving.store import DATA, Store, StoreError
from serving.tokens import Expired, TokenError, Tokens
from serving.wire import RequestError

STARS = range(1, 6)
ONE_CLICK = ("List-Unsubscribe", "One-Click")
Kept = Callable[[Mapping[str, Any]], None]  # keeps an event of the contract
log = logging.getLogger("osclms.service")
GONE = {404: "none of our links", 410: "the link is too old"}
OPERATIONS = (
    Operation(
        "unsubscribe_page", "GET", "/u/{token}", "A page that asks whether these messages shall end; it changes none",
        also=("text/html",), statuses={200: "the page", **GONE}, scope=OPEN,
    ),
    Operation(
        "unsubscribe", "POST", "/u/{token}", "End these messages: the page's button, or a mailbox (RFC 8058)",
        also=("text/html",), statuses={200: "ended, now or before", **GONE}, scope=OPEN, sealed=True,
    ),
    Operation(
        "rate_page", "GET", "/rate/{token}", "A page that asks for stars; it counts nothing",
        also=("text/html",), statuses={200: "the page", **GONE}, scope=OPEN,
    ),
    Operation(
        "rate", "POST", "/rate/{token}", "Give one to five stars; the first of a message count",
        also=("text/html",), statuses={200: "counted, now or before", 400: "no stars from 1 to 5", **GONE}, scope=OPEN,
    ),
    Operation(
        "redeem", "POST", "/v1/vouchers/redeem", "Use a voucher, once",
        answer=Redeemed, body=Redeem, example={"code": "K7PQ2M4XRA", "order_id": "till-3-0815"},
        statuses={
            200: "it is used, now or before by the same order", 404: "there is no such voucher",
            409: "it was used before", 410: "it has ended",
        },
    ),
)  # fmt: skip


# --- what the pages say ------------------------------------------------------------------------------------


class Words(NamedTuple):
    """A language's. Of what asks for a decision the version is kept with it: who changes the text gives it another."""

    version: str
    leave: str
    asks: str
    button: str
    left: str
    rate: str
    stars: str
    send: str
    thanks: str
    email: str = "e-mail"
    sms: str = "SMS"
    push: str = "push"


WORDS: Mapping[str, Words] = {
    "en": Words(
        "unsubscribe-en-1", "Unsubscribe",
        "Stop offers and recommendations from {store} by {channel}. Messages about your orders still come.",
        "Unsubscribe", "Done: you get no more offers and recommendations from {store} by {channel}.",
        "How was it?", "Your stars for {store}", "Send", "Thank you. {store} has your rating.",
    ),
    "es": Words(
        "unsubscribe-es-1", "Darse de baja",
        "No recibir más ofertas ni recomendaciones de {store} por {channel}. "
        "Los mensajes sobre sus pedidos siguen llegando.",
        "Darme de baja", "Hecho: ya no recibirá ofertas ni recomendaciones de {store} por {channel}.",
        "¿Qué le pareció?", "Sus estrellas para {store}", "Enviar", "Gracias. {store} tiene su valoración.",
        "correo electrónico",
    ),
    "fr": Words(
        "unsubscribe-fr-1", "Se désabonner",
        "Ne plus recevoir d’offres ni de recommandations de {store} par {channel}. Les messages sur vos commandes "
        "continuent d’arriver.",
        "Me désabonner", "C’est fait : vous ne recevrez plus d’offres ni de recommandations de {store} par {channel}.",
        "Qu’en pensez-vous ?", "Vos étoiles pour {store}", "Envoyer", "Merci. {store} a reçu votre note.", "e-mail",
    ),
}  # fmt: skip
USUAL = "en"
PAGES = (
    "unsubscribe_page",
    "unsubscribe",
    "rate_page",
    "rate",
    "follow",
)  # routes that a message's reader gets to
SORRY: Mapping[str, Mapping[int, str]] = {  # by status what is told where one of them cannot be answered; 0: else
    "en": {
        0: "Something went wrong here. Please try again in a while.",
        400: "Please choose one to five stars.",
        404: "This link is not known here. Please use the link of the message.",
        410: "This link is too old. Please use that of a newer message.",
    },
    "es": {
        0: "Algo ha fallado. Inténtelo de nuevo dentro de un rato.",
        400: "Elija de una a cinco estrellas.", 404: "Este enlace no se conoce. Use el enlace del mensaje.",
        410: "Este enlace es demasiado antiguo. Use el de un mensaje más reciente.",
    },
    "fr": {
        0: "Un problème est survenu. Merci de réessayer dans un moment.",
        400: "Merci de choisir d’une à cinq étoiles.", 404: "Ce lien est inconnu. Merci d’utiliser celui du message.",
        410: "Ce lien est trop ancien. Merci d’utiliser celui d’un message plus récent.",
    },
}  # fmt: skip
SORRY_TITLE = {"en": "Sorry", "es": "Lo sentimos", "fr": "Désolé"}


def language(request: Request, form: Mapping[str, str] | None = None) -> str:
    """The one that the page was in, else what the browser wants most of those known."""
    wanted = [(form or {}).get("language", "")]
    wanted += [
        part.split(";")[0].strip()[:2] for part in request.headers.get("accept-language", "").split(",")
    ]
    return next((one for one in wanted if one in WORDS), USUAL)


def filled(text: str, store: str, said: Mailed, words: Words) -> str:
    return text.format(store=store, channel=getattr(words, said.channel, said.channel))


@cache
def template() -> Template:
    return Template((Path(__file__).parent / "reply.html").read_text(encoding="utf-8"))


def page(of: str, title: str, says: str, form: str = "", status: int = 200) -> Response:
    body = template().substitute(language=of, title=escape(title), says=escape(says), form=form)
    return Response(body, status, headers=REPLY_HEADERS, media_type=HTML)


def sorry(request: Request, status: int) -> Response | None:
    """The page for a reader of whom a request cannot be answered; None for who asks for JSON."""
    wanted = request.headers.get("accept", "")
    if JSON in wanted and "text/html" not in wanted:
        return None
    of = language(request)
    return page(of, SORRY_TITLE[of], SORRY[of].get(status, SORRY[of][0]), status=status)


def button(of: str, says: str, inside: str = "") -> str:
    """A form that posts to where it stands."""
    hidden = f'<input type="hidden" name="language" value="{of}">'
    return f'<form method="post">{hidden}{inside}<button type="submit">{escape(says)}</button></form>'


def star(n: int, chosen: bool) -> str:
    checked = " checked" if chosen else ""
    name = f"{n} {'★' * n}"
    return f'<label><input type="radio" name="stars" value="{n}" required{checked}> {name}</label>'


# --- requests ---------------------------------------------------------------------------------------------


def read(request: Request, tokens: Tokens | None, kind: type[Kind], at: datetime) -> Kind:
    """What the link says. Raises RequestError: 404 for one that is none of ours, 410 for one that is too old."""
    try:
        if tokens is None:
            raise TokenError("none of ours: this service has no OSCLMS_SECRET")
        return opened(tokens, request.path_params["token"], kind, at=at)
    except TokenError as error:
        raise RequestError("token", str(error), 410 if isinstance(error, Expired) else 404) from error


def is_ours(request: Request, tokens: Tokens | None, *, at: datetime) -> bool:
    """Whether the link is one of those that end messages."""
    try:
        read(request, tokens, Unsubscribe, at)
    except RequestError:
        return False
    return True


async def form_of(request: Request) -> dict[str, str]:
    """A form's fields, by which RFC 8058 tells a mailbox's request, however it names its body."""
    body = await read_all(request)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return dict([ONE_CLICK]) if ONE_CLICK[1].encode() in body else {}
    return dict(parse_qsl(body.decode("latin-1")))


async def done(act: Callable[..., Any], *of: Any) -> Any:
    """What `act` gives, off the event loop. Raises RequestError where the database cannot be used."""
    try:
        return await to_thread.run_sync(act, *of)
    except StoreError as error:
        log.error("replies: %s", error)
        raise RequestError("database", "it cannot be used now: ask again", 503) from None


# --- no more ----------------------------------------------------------------------------------------------


def unsubscribe_page(request: Request, tokens: Tokens | None, store: str, *, at: datetime) -> Response:
    of = language(request)
    said = read(request, tokens, Unsubscribe, at)
    words = WORDS[of]
    return page(of, words.leave, filled(words.asks, store, said, words), button(of, words.button))


async def unsubscribe(
    request: Request, tokens: Tokens | None, name: str, store: Store, history: History | None, *, at: datetime
) -> Response:
    form = await form_of(request)
    of = language(request, form)
    said = read(request, tokens, Unsubscribe, at)
    words = WORDS[of]
    shown = {
        "source": "unsubscribe page",
        "text": filled(words.asks, name, said, words),
        "version": words.version,
    }
    clicked = {"source": "one-click unsubscribe", "text": "List-Unsubscribe=One-Click", "version": "RFC 8058"}
    how = shown if "language" in form else clicked
    await done(partial(withdraw, store, history, said, how, at=at))
    return page(of, words.leave, filled(words.left, name, said, words))


def withdraw(
    store: Store, history: History | None, said: Unsubscribe, how: Mapping[str, str], *, at: datetime
) -> bool:
    """Put on record that whom the message went to wants no more of its channel; whether that was not so yet."""
    message = message_of(store, said.unsubscribe)
    if message is None or store.buried([message["customer_id"]]):
        return False
    ids = ids_now(store, history, message["customer_id"])
    last = consents_now(consent_records(store, history, ids)).get((said.channel, "marketing"))
    if last and not last["granted"]:
        return False
    about = {"customer_id": ids[0], "channel": said.channel, "purpose": "marketing", "granted": False}
    at = (
        max(at, last["at"] + timedelta(microseconds=1)) if last else at
    )  # after a consent that is dated ahead, too
    store.append("consents", [{**about, **how, "at": at, "received_at": at}])
    return True


# --- stars ------------------------------------------------------------------------------------------------


def rate_page(request: Request, tokens: Tokens | None, store: str, *, at: datetime) -> Response:
    of = language(request)
    said = read(request, tokens, Rate, at)
    words, chosen = WORDS[of], request.query_params.get("stars")
    rows = "".join(star(n, str(n) == chosen) for n in STARS)
    inside = f"<fieldset>{rows}</fieldset>"
    return page(of, words.rate, filled(words.stars, store, said, words), button(of, words.send, inside))


async def rate(
    request: Request,
    tokens: Tokens | None,
    name: str,
    store: Store,
    kept: Kept,
    rules: Policy,
    *,
    at: datetime,
) -> Response:
    form = await form_of(request)
    of = language(request, form)
    said = read(request, tokens, Rate, at)
    stars = form.get("stars", "")
    if stars not in map(str, STARS):
        raise RequestError("stars", f"must be {STARS[0]} to {STARS[-1]}")
    await done(partial(counted, store, kept, rules, said, int(stars), at=at))
    return page(of, WORDS[of].rate, filled(WORDS[of].thanks, name, said, WORDS[of]))


def counted(store: Store, kept: Kept, rules: Policy, said: Rate, stars: int, *, at: datetime) -> None:
    """Keep a rating as an event, the first of a message; of a low one somebody is told, and no promotion goes out."""
    message = message_of(store, said.rate)
    if message is None or store.buried([message["customer_id"]]):
        return
    customer, event_id = message["customer_id"], f"rating-{said.rate}"
    about = {"customer_id": customer, "message_id": said.rate}
    event = {"event_id": event_id, "event_type": "rating", "occurred_at": at, "value": float(stars)}
    kept({**event, **about, "channel": said.channel})
    events = DATA["events"].c
    stored = store.select(sa.select(events.value).where(events.event_id == event_id))
    value = stored[0][0] if stored else None
    if value is None or value > rules.low_rating:
        return
    told = alarm({**event, **about, "value": value}, customer, said.program, rules.rating_days, at=at)
    with store.writing() as db:
        open_alert(db, *told)


# --- vouchers ---------------------------------------------------------------------------------------------


async def redeemed(request: Request, store: Store, currency: str, *, at: datetime, now: datetime) -> Response:
    body, _ = await read_body(request)
    asked = Redeem.model_validate_json(body or b"{}")
    found = await done(partial(redeem, store, asked.code, order_id=asked.order_id, at=at, received_at=now))
    told = {name: found[name] for name in ("code", "worth", "program", "ends", "customer_id")}
    answer = Redeemed(**told, currency=currency, order_id=asked.order_id)
    return Response(answer.model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})
