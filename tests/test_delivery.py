"""Fragments for mails, the links in them, and what becomes of a click."""

import asyncio
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
import tiny
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from running import PUBLIC_URL, SECRET, SHOP_URL
from test_messages import AT, HOSTILE, PLAIN, Counter, product, told

from lifecycle.fragments import Part, fragment
from serving import metrics
from serving.engine import Engine
from serving.links import MAX_AGE, MAX_URL, Click, Links, click_event
from serving.placements import PLACEMENTS
from serving.schemas import RecommendRequest
from serving.tokens import CustomerToken, Expired, TokenError, Tokens

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKENS = Tokens([SECRET])
LINKS = Links(TOKENS, PUBLIC_URL, SHOP_URL)
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/126.0"}
CLICK = Click(
    recommendation_id="r1", placement="next_best", product_id="bread", position=1, price=2.0, spares=("milk", "soap")
)  # fmt: skip


def like(**other: Any) -> Click:
    return CLICK.model_copy(update=other)


# --- tokens -------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=30, deadline=None)
def test_what_is_sealed_is_what_is_opened(customer: str) -> None:
    assert TOKENS.customer(TOKENS.seal(CustomerToken(customer_id=customer), at=NOW), at=NOW) == customer


def test_nothing_can_be_read_out_of_a_token() -> None:
    sealed = TOKENS.seal(CustomerToken(customer_id="customer-4711"), at=NOW)
    assert re.fullmatch(r"[\w-]+", sealed)
    assert b"4711" not in urlsafe_b64decode(sealed + "==")


def test_no_letter_of_a_token_may_change() -> None:
    sealed = TOKENS.seal(CLICK, at=NOW)
    for place in range(len(sealed)):
        other = "A" if sealed[place] != "A" else "B"
        with pytest.raises(TokenError):
            LINKS.read(sealed[:place] + other + sealed[place + 1 :], at=NOW)


@pytest.mark.parametrize(
    "text", ["", "x", "é", "gAAAAA", "=", "a b", "!" * 100, "A" * 5000, "../..", "https://e.example"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        LINKS.read(text, at=NOW)


def test_a_token_of_one_kind_is_none_of_another() -> None:
    with pytest.raises(TokenError):
        TOKENS.customer(TOKENS.seal(CLICK, at=NOW), at=NOW)
    with pytest.raises(TokenError):
        LINKS.read(TOKENS.seal(CustomerToken(customer_id="anna"), at=NOW), at=NOW)


def test_a_token_of_another_secret_is_refused_until_that_is_known_too() -> None:
    old = Fernet.generate_key().decode()
    sealed = Tokens([old]).seal(CLICK, at=NOW)
    with pytest.raises(TokenError):
        LINKS.read(sealed, at=NOW)
    assert Links(Tokens([SECRET, old]), PUBLIC_URL, SHOP_URL).read(sealed, at=NOW) == CLICK


def test_a_token_is_good_for_as_long_as_is_said() -> None:
    sealed = TOKENS.seal(CLICK, at=NOW)
    assert LINKS.read(sealed, at=NOW + MAX_AGE) == CLICK
    assert LINKS.read(sealed, at=NOW + timedelta(hours=1), max_age=timedelta(hours=1)) == CLICK
    for later, max_age in (
        (MAX_AGE + timedelta(seconds=1), MAX_AGE),
        (timedelta(hours=2), timedelta(hours=1)),
    ):
        with pytest.raises(Expired):
            LINKS.read(sealed, at=NOW + later, max_age=max_age)
    with pytest.raises(TokenError):
        LINKS.read(sealed, at=NOW - timedelta(days=1))


def test_any_fernet_library_makes_a_customers_token() -> None:
    made = Fernet(SECRET).encrypt_at_time(b'{"customer_id": "anna"}', int(NOW.timestamp())).decode()
    assert TOKENS.customer(made, at=NOW) == "anna"


# --- fragments ----------------------------------------------------------------------------------------


def body(counter: Counter, part: Part = "html", links: Links | None = None, **asked: Any) -> str:
    request = RecommendRequest.model_validate({"limit": 4, **asked})
    made = fragment(
        cast(Engine, counter), "cross_sell", request, part=part, locale="en-US", links=links, at=AT, now=NOW
    )
    return made.body


@pytest.mark.parametrize("part", ["html", "txt"])
@pytest.mark.parametrize("counter", [PLAIN, HOSTILE], ids=["plain", "hostile"])
def test_a_fragment_has_the_very_rows_of_a_message(counter: Counter, part: Part) -> None:
    message, tags = told(counter), re.compile(r"[?&](amp;)?utm_source=[\w&;=-]+")
    bought = tuple(item.product_id for item in counter.bought)
    made = body(counter, part, product_ids=bought)
    rows = made[made.index("<tr>") : made.rindex("</tr>")] if part == "html" else made
    assert len(rows) > 100
    assert rows in tags.sub("", message.html if part == "html" else message.text)


def test_nothing_hostile_is_markup_in_a_fragment() -> None:
    made = body(HOSTILE) + body(HOSTILE, links=LINKS)
    assert "<script" not in made and "javascript:" not in made and 'onerror="' not in made


def test_nothing_to_show_is_an_empty_fragment() -> None:
    assert body(Counter()) == body(Counter(), "txt") == ""


def test_without_links_a_product_has_its_own_address() -> None:
    assert re.findall(r'href="([^"]+)"', body(PLAIN)) == ["https://shop.example/bananas?a=1&amp;b=2"]


def test_links_carry_the_list_the_place_and_spares_but_no_customer() -> None:
    made = body(PLAIN, links=LINKS, customer_id="anna")
    urls = re.findall(r'href="([^"]+)"', made)
    assert "shop.example/bananas" not in made
    assert all(url.startswith(PUBLIC_URL + "/r/") for url in urls)
    clicks = [LINKS.read(url.rsplit("/", 1)[1], at=NOW) for url in urls]
    assert [(click.product_id, click.position, click.price) for click in clicks] == [
        ("3", 2, 0.59),
        ("5", 4, None),
    ]
    assert clicks[0].spares == ("4", "5", "2")  # what comes after it, then what came before
    assert {(click.recommendation_id, click.placement) for click in clicks} == {
        ("r-cross_sell", "cross_sell")
    }
    assert "anna" not in "".join(click.model_dump_json() for click in clicks)


def test_a_link_is_never_too_long_for_a_mail() -> None:
    long = tuple(product(f"{n}" + "x" * 199, "long", url="https://shop.example/x") for n in range(8))
    urls = re.findall(r'href="([^"]+)"', body(Counter(goods=long), links=LINKS))
    assert len(urls) == 4 and all(len(url) <= MAX_URL for url in urls)
    assert LINKS.read(urls[0].rsplit("/", 1)[1], at=NOW).spares == (long[1].product_id,)


# --- following ----------------------------------------------------------------------------------------

ADDRESSES: dict[str, str | None] = {
    "bread": "https://shop.example/bread", "milk": "/milk?x=1", "soap": "//evil.example/soap",
    "towel": "javascript:alert(1)", "butter": None,
}  # fmt: skip


GOODS = {name: {**about, "url": ADDRESSES.get(name)} for name, about in tiny.GROCER.items()}


@pytest.fixture(scope="module")
def grocer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    goods = tiny.bundle(tmp_path_factory.mktemp("grocer"), tiny.GROCERIES, GOODS)

    def without(*gone: str) -> Engine:
        """An engine to which these have sold out."""
        engine = Engine(goods)
        engine.available = goods.catalog.available.copy()
        engine.available[goods.catalog.items.positions(gone)] = False
        return engine

    return without


@pytest.mark.parametrize(
    ("gone", "click", "target", "outcome"),
    [
        ((), CLICK, "https://shop.example/bread", "product"),
        ((), like(price=1.5), "https://shop.example/bread", "dearer"),
        ((), like(price=2.5), "https://shop.example/bread", "product"),
        (("bread",), CLICK, "https://shop.example/milk?x=1", "spare"),
        (("bread", "milk"), CLICK, SHOP_URL, "front"),  # as soap's address leads out of the shop
        ((), like(product_id="towel", spares=()), SHOP_URL, "front"),
        ((), like(product_id="butter", spares=("bread",)), "https://shop.example/bread", "spare"),
        ((), like(product_id="gone", spares=("gone too", "milk")), "https://shop.example/milk?x=1", "spare"),
    ],
)  # fmt: skip
def test_a_link_leads_to_what_can_be_bought_now(
    grocer: Callable[..., Engine], gone: tuple[str, ...], click: Click, target: str, outcome: str
) -> None:
    followed = LINKS.follow(grocer(*gone), click)
    assert (followed.target, followed.outcome) == (target, outcome)


def test_what_lost_its_price_is_not_for_sale(grocer: Callable[..., Engine]) -> None:
    engine = grocer()
    engine.catalog.price[engine.catalog.items.positions(["bread"])[0]] = float("nan")
    try:
        assert LINKS.follow(engine, CLICK).outcome == "spare"
        assert LINKS.follow(engine, like(price=None)).outcome == "product"
    finally:
        engine.catalog.price[engine.catalog.items.positions(["bread"])[0]] = 2.0


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("GET", BROWSER, True),
        ("GET", {**BROWSER, "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}, True),
        ("HEAD", BROWSER, False),
        ("GET", {**BROWSER, "Purpose": "prefetch"}, False),
        ("GET", {**BROWSER, "Sec-Purpose": "prefetch;prerender"}, False),
        ("GET", {**BROWSER, "X-Purpose": "preview"}, False),
        ("GET", {**BROWSER, "X-Moz": "prefetch"}, False),
        ("GET", {**BROWSER, "Sec-Fetch-Dest": "image"}, False),
        ("GET", {"User-Agent": ""}, False),
        ("GET", {"User-Agent": "curl/8.5.0"}, False),
        ("GET", {"User-Agent": "python-requests/2.31.0"}, False),
        ("GET", {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}, False),
        ("GET", {"User-Agent": "Slackbot-LinkExpanding 1.0"}, False),
        ("GET", {"User-Agent": "facebookexternalhit/1.1"}, False),
        ("GET", {"User-Agent": "Mozilla/5.0 (Linux; Android 13; CUBOT_X70) Chrome/126.0"}, True),
    ],
)  # fmt: skip
def test_what_counts_as_a_click(
    grocer: Callable[..., Engine], method: str, headers: Mapping[str, str], counts: bool
) -> None:
    kept: list[Mapping[str, Any]] = []
    http = Web(grocer(), kept.append)
    before = counted(counts)
    response = http.request(method, "/r/" + TOKENS.seal(CLICK, at=NOW), headers=headers)
    assert (response.status_code, response.headers["location"]) == (302, "https://shop.example/bread")
    assert len(kept) == counts
    assert counted(counts) == before + 1


@dataclass(frozen=True)
class Web:
    """The service's own app, without a server around it."""

    engine: Engine
    clicked: Callable[[Mapping[str, Any]], None] | None
    now: datetime = NOW

    def get(self, path: str, headers: Mapping[str, str] = BROWSER) -> httpx.Response:
        return self.request("GET", path, headers)

    def request(self, method: str, path: str, headers: Mapping[str, str], **about: Any) -> httpx.Response:
        from serving.service import Edge, Site

        edge = Edge()
        edge.open(
            Site(self.engine, as_of=None, history=None, tokens=TOKENS, links=LINKS, clicked=self.clicked,
                 sent=lambda _: None, clock=lambda: self.now)
        )  # fmt: skip

        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(app=edge)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.request(method, path, headers=headers, **about)

        return asyncio.run(answer())


def counted(counts: bool) -> float:
    found = metrics.REGISTRY.get_sample_value(
        "osclms_clicks_total",
        {"placement": "next_best", "outcome": "product", "counted": "yes" if counts else "no"},
    )
    return found or 0.0


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import


def test_a_click_is_kept_as_the_contract_has_it(grocer: Callable[..., Engine]) -> None:
    kept: list[Mapping[str, Any]] = []
    http = Web(grocer("bread"), kept.append)
    for _ in range(2):
        http.get("/r/" + TOKENS.seal(CLICK, at=NOW))
    assert kept[0] == click_event(CLICK, event_id=kept[0]["event_id"], at=NOW)
    assert kept[0]["product_id"] == "bread"  # what was clicked, though it led to a spare
    assert kept[0]["event_id"] != kept[1]["event_id"]
    from features.schema import EVENTS

    assert set(kept[0]) <= set(EVENTS.names)


def test_who_clicks_goes_on_to_the_shop_when_the_click_cannot_be_kept(
    grocer: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Mapping[str, Any]) -> None:
        raise OSError("no space left for bread")

    http = Web(grocer(), full)
    assert http.get("/r/" + TOKENS.seal(CLICK, at=NOW)).status_code == 302
    assert "OSError" in caplog.text and "bread" not in caplog.text


def test_without_a_store_of_events_a_click_is_counted_alone(grocer: Callable[..., Engine]) -> None:
    before = counted(True)
    http = Web(grocer(), None)
    http.get("/r/" + TOKENS.seal(CLICK, at=NOW))
    assert counted(True) == before + 1


def test_an_old_link_ends_in_the_shop_and_is_no_click(grocer: Callable[..., Engine]) -> None:
    kept: list[Mapping[str, Any]] = []
    http = Web(grocer(), kept.append, now=NOW + MAX_AGE + timedelta(seconds=1))
    response = http.get("/r/" + TOKENS.seal(CLICK, at=NOW))
    assert (response.status_code, response.headers["location"], kept) == (302, SHOP_URL, [])


@pytest.mark.parametrize("query", ["?url=https://evil.example", "?next=//evil.example", "?to=evil"])
def test_no_query_says_where_a_link_leads(grocer: Callable[..., Engine], query: str) -> None:
    http = Web(grocer(), None)
    response = http.get("/r/" + TOKENS.seal(CLICK, at=NOW) + query)
    assert response.headers["location"] == "https://shop.example/bread"


def test_a_mail_from_list_to_shop(grocer: Callable[..., Engine]) -> None:
    """Written, clicked, and led to the product, all by the service."""
    kept: list[Mapping[str, Any]] = []
    http = Web(grocer(), kept.append)
    mail = http.get("/v1/fragments/buy_again.html?customer_id=anna&limit=2&at=2026-03-02")
    links = re.findall(r'href="([^"]+)"', mail.text)
    assert len(links) == 2 and mail.headers["osclms-items"] == "2"
    targets = [http.get(link.removeprefix(PUBLIC_URL)).headers["location"] for link in links]
    assert all(target.startswith(SHOP_URL) for target in targets)
    assert {event["recommendation_id"] for event in kept} == {mail.headers["osclms-recommendation-id"]}


def test_an_empty_list_is_an_empty_answer_that_says_so(grocer: Callable[..., Engine]) -> None:
    engine = grocer(*tiny.GROCER)
    labels = {"placement": "trending"}
    before = metrics.REGISTRY.get_sample_value("osclms_empty_fragments_total", labels) or 0
    http = Web(engine, None)
    response = http.get("/v1/fragments/trending.html?at=2026-03-02")
    assert (response.status_code, response.content) == (200, b"")
    assert (response.headers["osclms-items"], response.headers["osclms-filled"]) == ("0", "0")
    assert metrics.REGISTRY.get_sample_value("osclms_empty_fragments_total", labels) == before + 1


def test_how_long_a_list_may_be_kept_is_told(grocer: Callable[..., Engine]) -> None:
    """By all between where it is nobody's; a customer's own by who asked; one that is put on record by nobody."""
    engine = grocer()
    row = PLACEMENTS["next_best"]
    engine.placements = {**PLACEMENTS, "next_best": replace(row, cache_seconds=60)}
    http, at = Web(engine, None), "at=2026-03-02"

    def told(path: str, method: str = "GET", **asked: Any) -> str:
        response = http.request(method, path, BROWSER, **asked)
        assert response.status_code == 200
        return str(response.headers["cache-control"])

    for part in ("html", "txt"):
        kept = f"/v1/fragments/next_best.{part}?{at}"
        assert (told(kept), told(kept + "&customer_id=anna")) == ("private, max-age=60",) * 2
        assert told(kept + "&customer_id=anna&record=true") == "no-store"
        assert told(f"/v1/fragments/trending.{part}?{at}") == "no-store"
    asked = {"at": "2026-03-02T00:00:00Z"}
    for placement, customer, says in (
        ("next_best", {"customer_id": "anna"}, "private, max-age=60"), ("next_best", {}, "private, max-age=60"),
        ("trending", {}, "no-store"),
    ):  # fmt: skip
        assert told(f"/v1/recommend/{placement}", "POST", json={**asked, **customer}) == says


def test_every_placement_has_fragments(grocer: Callable[..., Engine]) -> None:
    http = Web(grocer(), None)
    for placement in PLACEMENTS:
        assert http.get(f"/v1/fragments/{placement}.txt?at=2026-03-02&product_ids=bread").text.startswith(
            "  * "
        )
