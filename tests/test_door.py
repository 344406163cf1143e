"""The door: who may ask what, from which page, and how often; and what happens when all come at once."""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from web import NOW, OTHER, SHOP, TOKEN, TOKENS, Web

from serving import logs, metrics, openapi
from serving.door import is_loopback
from serving.keys import OPEN, PUBLISHABLE, SECRET, end, make, read
from serving.mailed import UNSUBSCRIBE_AGE, Rate, Unsubscribe
from serving.schemas import ErrorBody

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
LIST, EVENTS = "/v1/recommend/next_best", "/v1/events"
WHO = "household-4711-secret"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    made = Web(tmp_path_factory.mktemp("web"))
    yield made
    made.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    webs: list[Web] = []

    def make_one(**about: Any) -> Web:
        webs.append(Web(tmp_path / str(len(webs)), **about))
        return webs[-1]

    yield make_one
    for one in webs:
        one.close()


def refused(response: httpx.Response, status: int) -> ErrorBody:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return ErrorBody.model_validate_json(response.content)


# --- keys ---------------------------------------------------------------------------------------------


NAMES = {"placement": "next_best", "program": "thank_you", "token": "x", "customer_id": "x"}


def paths() -> Iterator[tuple[str, str, str]]:
    from serving.service import OPERATIONS

    for o in OPERATIONS:
        yield o.method, o.path.format(**NAMES), o.scope


@pytest.mark.parametrize(("kind", "status"), [(None, 401), (PUBLISHABLE, 403), (SECRET, 0)])
def test_each_route_is_for_those_whom_its_row_names(web: Web, kind: str | None, status: int) -> None:
    for method, path, scope in paths():
        response = web.ask(method, path, kind=kind, origin=SHOP)
        good = scope == OPEN or (kind and web.site and read(web.store)[digest_of(web, kind)].may(scope))
        assert (response.status_code == status) == (not good and status > 0), (path, response.text)
        if not good:
            assert refused(response, status).fields[0].field == "key"


def digest_of(web: Web, kind: str) -> str:
    return next(digest for digest, key in read(web.store).items() if key.kind == kind and key.ends is None)


def test_what_is_open_or_for_pages_is_written_down_here(web: Web) -> None:
    """A new route is for secret keys until somebody says otherwise, here too."""
    by_scope = Counter(scope for _, _, scope in paths())
    assert {path for _, path, scope in paths() if scope == OPEN} == {
        "/r/x", "/u/x", "/rate/x", "/v1/widget.js", "/livez", "/readyz", "/openapi.json",
    }  # fmt: skip
    assert {path for _, path, scope in paths() if scope in ("lists", "events")} == {
        LIST, "/v1/needs", "/v1/placements", "/v1/products", EVENTS,
    }  # fmt: skip
    assert by_scope["all"] >= 8


def test_the_document_that_anybody_may_ask_for_is_made_once(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving import service

    made = list[tuple[str, ...]]()

    def document(*about: Any) -> Any:
        made.append(about[-1])
        return openapi.document(*about)

    monkeypatch.setattr(service, "document", document)
    service.described.cache_clear()
    first, again = web.ask("GET", "/openapi.json"), web.ask("GET", "/openapi.json")
    assert made == [tuple(web.site.engine.placements)]
    whole = openapi.document("OSCLMS", service.WIRE, service.OPERATIONS, made[0])
    assert first.content == again.content == json.dumps(whole).encode()
    assert first.headers == again.headers


AS_JSON = {"Accept": "application/json"}  # a person's pages answer people


def test_every_route_names_all_methods_of_its_path(web: Web) -> None:
    from serving.service import OPERATIONS

    methods: dict[str, set[str]] = {}
    for o in OPERATIONS:
        heads = {"HEAD"} if o.method == "GET" else set()
        methods.setdefault(o.path, set()).update({o.method}, heads)
    assert methods["/v1/products"] == {"GET", "HEAD", "PUT"}
    for path, known in methods.items():
        response = web.ask("PATCH", path.format(**NAMES), headers=AS_JSON)
        assert set(response.headers["allow"].split(", ")) == known, path
        assert all(method in refused(response, 405).error for method in known), path


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer osclms_sk_1_2", "Bearer \xff"]
)
def test_who_brings_no_key_of_ours_is_asked_for_one(web: Web, given: str) -> None:
    response = web.ask("POST", LIST, headers={"Authorization": given.encode("latin-1")} if given else {})  # type: ignore[dict-item]
    assert "key" in refused(response, 401).error
    assert response.headers["www-authenticate"] == "Bearer"


def test_an_ended_key_is_refused_and_its_successor_is_not(web: Web) -> None:
    old, new = (make(web.store, SECRET, at=NOW) for _ in range(2))
    web.edge.door.ring.keys = read(web.store)
    assert {web.ask("GET", "/v1/placements", key=key).status_code for key in (old, new)} == {200}
    end(web.store, old.split("_")[2], at=NOW)
    web.edge.door.ring.keys = read(web.store)
    assert [web.ask("GET", "/v1/placements", key=key).status_code for key in (old, new)] == [401, 200]


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost", "[::1]:3000"])
def test_on_this_machine_no_key_is_asked(made: Callable[..., Web], host: str) -> None:
    web = made(asks=False)
    assert web.ask("POST", LIST, headers={"Host": host}, json={"customer_id": "anna"}).status_code == 200
    assert web.ask("POST", LIST, headers={"Host": host}, key="osclms_pk_1_2").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # whose name was pointed at this machine
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1", "X-Forwarded-For": "203.0.113.9"},  # of whom a proxy knows
        {"Host": "127.0.0.1", "Forwarded": "for=203.0.113.9"},
        {
            "Host": "127.0.0.1",
            "Origin": "https://evil.example",
        },  # a page of elsewhere, open in a browser here
        {"Host": "127.0.0.1", "Origin": "null"},
    ],
)
def test_what_only_looks_like_this_machine_is_asked(
    made: Callable[..., Web], headers: dict[str, str]
) -> None:
    refused(made(asks=False).ask("POST", LIST, headers=headers), 401)


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.2", False), ("shop.example", False), ("", False)],
)  # fmt: skip
def test_what_loopback_is(host: str, here: bool) -> None:
    assert is_loopback(host) == here


# --- what a publishable key may say of customers -----------------------------------------------------------


def test_a_page_names_a_customer_by_a_token_alone(web: Web) -> None:
    told = web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP, json={"customer_token": TOKEN})
    plain = web.ask("POST", LIST, kind=SECRET, json={"customer_id": "anna"})
    assert told.json()["items"] == plain.json()["items"]
    stranger = web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP, json={})
    assert stranger.json()["items"] != plain.json()["items"]


def test_known_and_unknown_customers_are_refused_alike(web: Web) -> None:
    """So that nobody learns who is one."""
    answers = {
        web.ask("POST", path, kind=PUBLISHABLE, origin=SHOP, json={"customer_id": name}).text
        for name in ("anna", "nobody at all")
        for path in (LIST, "/v1/recommend/buy_again", "/v1/needs")
    }
    assert len(answers) == 1 and "customer_token" in answers.pop()


def tell(web: Web, kind: str, **event: Any) -> str:
    row = {"event_id": f"{kind}{event}", "occurred_at": "2026-04-01T10:00:00Z", "product_id": "milk", **event}
    response = web.ask("POST", EVENTS, kind=kind, origin=SHOP, json={"events": [row]})
    told: str = response.json()["events"][0]["error"] or "stored"
    return told


def test_a_page_tells_what_pages_know(web: Web) -> None:
    for kind in ("view", "impression", "click"):
        assert tell(web, PUBLISHABLE, event_type=kind) == "stored"
    for kind in ("order", "return", "unsubscribe"):
        assert "view, impression, click" in tell(web, PUBLISHABLE, event_type=kind, order_id="1", quantity=1)
    assert tell(web, SECRET, event_type="unsubscribe") == "stored"
    assert "customer_token" in tell(web, PUBLISHABLE, event_type="view", customer_id="bert")
    assert tell(web, SECRET, event_type="view", customer_id="bert") == "stored"
    assert tell(web, PUBLISHABLE, event_type="view", customer_token=TOKEN) == "stored"
    assert "customer_token" in tell(web, PUBLISHABLE, event_type="view", customer_token="x")
    assert "customer_token" in tell(web, PUBLISHABLE, event_type="view", customer_token=7)
    rows = [row for page in web.store.read("events", 0, 1 << 60) for row in page]
    assert Counter(row["customer_id"] for row in rows) == {None: 4, "bert": 1, "anna": 1}


def told_by(web: Web, kind: str, event_id: str, **about: Any) -> dict[str, Any]:
    row = {"event_id": event_id, "event_type": "view", "occurred_at": "2026-04-01T10:00:00Z", **about}
    answer = web.ask("POST", EVENTS, kind=kind, origin=SHOP, json={"events": [row]}).json()
    line: dict[str, Any] = answer["events"][0]
    assert line["event_id"] == event_id, "as the sender named it"
    return line


def test_a_page_takes_no_event_id_of_a_till(web: Web) -> None:
    order = {"event_type": "order", "order_id": "o1", "quantity": 1, "product_id": "milk"}
    for kind, about in ((PUBLISHABLE, {}), (SECRET, order)):
        for status in ("accepted", "duplicate"):  # each sends twice
            assert told_by(web, kind, "till-3-0815", **about)["status"] == status, kind
    key_id = web.keys[PUBLISHABLE].split("_")[2]
    rows = {row["event_id"]: row for page in web.store.read("events", 0, 1 << 60) for row in page}
    assert rows["till-3-0815"]["event_type"] == "order"
    assert rows[f"{key_id}:till-3-0815"]["event_type"] == "view"


def test_an_event_id_of_a_page_leaves_room_for_its_key(web: Web) -> None:
    assert told_by(web, PUBLISHABLE, "x" * 191)["status"] == "accepted"
    assert told_by(web, PUBLISHABLE, "x" * 192)["error"] == "event_id is longer than 191"
    assert told_by(web, SECRET, "x" * 200)["status"] == "accepted"
    assert told_by(web, SECRET, "x" * 201)["error"] == "event_id is longer than 200"


def test_a_page_names_attributes_that_are_for_everybody_alone(made: Callable[..., Web]) -> None:
    """By rules it could find out what a product's value is, and which attributes there are."""
    web = made()
    web.site.public = (*web.site.public, "attributes.color")

    def asked(kind: str, attribute: str) -> httpx.Response:
        rule = {"rule": "include", "attribute": attribute, "values": ["1"]}
        return web.ask("POST", LIST, kind=kind, origin=SHOP, json={"rules": [rule]})

    for name in ("attributes.margin", "cost"):
        says = refused(asked(PUBLISHABLE, name), 403).error
        assert "brand, category, need, size, group_id, attributes.color" in says and name not in says
        assert asked(SECRET, name).status_code == 400  # there is no such attribute
    assert asked(PUBLISHABLE, "brand").status_code == 200
    none = refused(asked(PUBLISHABLE, "attributes.color"), 400).error
    assert "no product has attributes.color" in none and "attributes.stock" not in none
    why = web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP, json={"explain": True})
    assert "explain" in refused(why, 403).error
    sale = {"rule": "price", "most": 5}
    assert web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP, json={"rules": [sale]}).status_code == 200


# --- pages of other origins --------------------------------------------------------------------------------


def test_a_page_of_the_shop_may_read_answers_and_errors(web: Web) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    before = web.ask("OPTIONS", LIST, origin=SHOP, headers=asked)
    assert (before.status_code, before.content) == (204, b"")
    assert "Authorization" in before.headers["access-control-allow-headers"]
    for response in (
        before,
        web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP),
        web.ask("POST", LIST, kind=PUBLISHABLE, origin=SHOP, json={"limit": 0}),
        web.ask("POST", LIST, origin=SHOP),
        web.ask("POST", "/v1/nothing", origin=SHOP),
    ):
        assert response.headers["access-control-allow-origin"] == SHOP
        assert response.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "origin", [OTHER, "http://shop.example", SHOP + ":8443", SHOP + ".evil.example", "null"]
)
def test_a_page_of_another_origin_may_not(web: Web, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in web.ask("OPTIONS", LIST, origin=origin, headers=asked).headers
    response = web.ask("POST", LIST, kind=PUBLISHABLE, origin=origin)
    assert "another origin" in refused(response, 403).error
    assert "access-control-allow-origin" not in response.headers


def test_a_publishable_key_without_a_page_is_refused(web: Web) -> None:
    refused(web.ask("POST", LIST, kind=PUBLISHABLE), 403)


def test_on_this_machine_pages_of_it_may_read(made: Callable[..., Web]) -> None:
    web, here = made(asks=False), {"Host": "127.0.0.1:3000"}
    for origin, allowed in (("http://localhost:8000", True), ("http://127.0.0.1:1", True), (OTHER, False)):
        response = web.ask("POST", LIST, origin=origin, headers=here)
        assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_an_answer_that_varies_already_still_does(web: Web) -> None:
    message = web.ask("GET", "/v1/messages/thank_you", kind=SECRET, origin=SHOP)
    assert message.headers["vary"] == "Accept, Origin"


# --- how much -----------------------------------------------------------------------------------------------


def test_no_route_takes_more_than_it_says(web: Web) -> None:
    from serving.service import OPERATIONS

    posts = {o.path.format(**NAMES): o for o in OPERATIONS if o.method == "POST"}
    assert len(posts) >= 4
    for path, operation in posts.items():
        if not operation.bodies:  # a batch has bounds of its own: tests/test_batch.py
            large = web.ask("POST", path, kind=SECRET, headers=AS_JSON, content=b" " * 1_000_001)
            assert "larger than 1,000,000 bytes" in refused(large, 413).error
    many = {"product_ids": 501, "exclude": 501, "rules": 21}
    for name, count in many.items():
        for path in (LIST, "/v1/needs"):
            asked = {name: [{"rule": "diverse", "by": 0.5} if name == "rules" else "1"] * count}
            assert name in refused(web.ask("POST", path, kind=SECRET, json=asked), 400).error
    refused(web.ask("POST", EVENTS, kind=SECRET, json={"events": [{}] * 1_001}), 400)


# --- how often ---------------------------------------------------------------------------------------------


def statuses(web: Web, times: int, **about: Any) -> list[int]:
    return [web.ask("GET", "/v1/placements", **about).status_code for _ in range(times)]


def test_a_rate_is_kept_by_key_and_by_address(made: Callable[..., Web]) -> None:
    web = made(rates={SECRET: "5/hour", PUBLISHABLE: "3/hour"})
    page = {"kind": PUBLISHABLE, "origin": SHOP}
    assert statuses(web, 5, **page) == [200, 200, 200, 429, 429]
    assert statuses(web, 4, **page, client=("192.0.2.2", 1)) == [200, 200, 200, 429]
    assert statuses(web, 6, kind=SECRET) == [200] * 5 + [429]
    assert statuses(web, 4) == [401, 401, 401, 429], "who guesses keys is slowed down too"
    six = (("2001:db8::1", 1), ("2001:db8::2", 1), ("2001:db8::3", 1), ("2001:db8::4", 1))
    assert [statuses(web, 1, client=one)[0] for one in six] == [401, 401, 401, 429], "a /64 is one place"
    late = web.ask("GET", "/v1/placements", kind=SECRET)
    assert "5 per 1 hour" in refused(late, 429).error
    assert 0 < int(late.headers["retry-after"]) <= 7200


def test_a_high_rate_is_kept_in_steps(made: Callable[..., Web]) -> None:
    web = made(rates={SECRET: "2000/hour"})
    codes = statuses(web, 2010, kind=SECRET)
    assert codes == [200] * 2000 + [429] * 10


def test_a_mailbox_that_ends_messages_is_never_turned_away(made: Callable[..., Web]) -> None:
    """Many readers' requests come from one address; what is none of ours from there counts like anybody's."""
    web = made(rates={PUBLISHABLE: "2/hour"})
    said = {"program": "hello", "channel": "email"}
    ours = TOKENS.seal(Unsubscribe(unsubscribe="m1", **said), at=NOW)
    stars = TOKENS.seal(Rate(rate="m1", **said), at=NOW)
    old = TOKENS.seal(Unsubscribe(unsubscribe="m1", **said), at=NOW - 2 * UNSUBSCRIBE_AGE)

    def posted(
        token: str, times: int, path: str = "/u/", body: str = "List-Unsubscribe=One-Click"
    ) -> list[int]:
        return [web.ask("POST", f"{path}{token}", content=body).status_code for _ in range(times)]

    assert posted(ours, 4) == [200] * 4
    assert [*posted("x", 1), *posted(old, 1), *posted(stars, 1)] == [404, 410, 429]
    assert posted(stars, 1, "/rate/", "stars=5") == [429] == statuses(web, 1)
    assert posted(ours, 2) == [200] * 2


def test_workers_share_a_rate() -> None:
    from serving.door import shared

    assert [shared("300/minute", n).amount for n in (1, 4, 1000)] == [300, 75, 1]


# --- all at once -------------------------------------------------------------------------------------------


def test_a_queue_of_what_takes_no_time_may_be_longer(made: Callable[..., Web]) -> None:
    web = made(waiting=8)
    web.turns.took(0.0005)

    async def crowd() -> list[int]:
        async with web.client() as http:
            headers = {"Authorization": f"Bearer {web.keys[SECRET]}"}
            return [
                of.status_code
                for of in await asyncio.gather(*(http.post(LIST, headers=headers) for _ in range(50)))
            ]

    assert Counter(asyncio.run(crowd())) == {200: 50}


def test_more_than_wait_are_refused_at_once_and_then_it_recovers(made: Callable[..., Web]) -> None:
    web = made(waiting=8)
    order: list[str] = []
    engine_recommend = web.site.engine.recommend

    def slow(*args: Any, **about: Any) -> Any:
        order.append("list")
        return engine_recommend(*args, **about)

    web.site.engine.recommend = slow  # type: ignore[method-assign]

    async def crowd() -> list[int]:
        async def one(http: httpx.AsyncClient) -> int:
            response = await http.post(LIST, headers={"Authorization": f"Bearer {web.keys[SECRET]}"})
            order.append(str(response.status_code))
            if response.status_code == 503:
                assert response.headers["retry-after"] == "1"
                assert refused(response, 503).fields[0].field == "service"
            return response.status_code

        async with web.client() as http:
            return await asyncio.gather(*(one(http) for _ in range(50)))

    assert Counter(asyncio.run(crowd())) == {200: 8, 503: 42}
    assert order.index("503") < 3, "refused while the first list is made, not after all of them"
    assert web.turns.waiting == 0
    assert web.ask("POST", LIST, kind=SECRET).status_code == 200


def test_a_failure_gives_its_turn_back(made: Callable[..., Web]) -> None:
    web = made(waiting=1)
    for _ in range(3):
        assert web.ask("POST", LIST, kind=SECRET, json={"at": "2020-01-01"}).status_code == 400
    assert web.ask("POST", LIST, kind=SECRET).status_code == 200


# --- what is told about it -----------------------------------------------------------------------------------


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_lists_are_measured(web: Web) -> None:
    placement, own = "trending", {"placement": "trending", "version": "1"}
    before = sample("osclms_list_items_count", **own)
    removed = [
        sample(f"osclms_rule_removed_products_{what}", placement=placement, rule="exclude")
        for what in ("count", "sum")
    ]
    metrics.shown(placement)[:] = 0  # other tests of this process have shown products, too
    rule = {"rule": "exclude", "attribute": "category", "values": ["food"]}
    for _ in range(metrics.EVERY):
        asked = {"limit": 3, "rules": [rule]}
        assert web.ask("POST", f"/v1/recommend/{placement}", kind=SECRET, json=asked).status_code == 200
    assert sample("osclms_list_items_count", **own) == before + metrics.EVERY
    assert sample("osclms_list_items_bucket", **own, le="4.0") >= metrics.EVERY
    assert sample("osclms_fallback_share_count", **own) >= metrics.EVERY
    assert sample("osclms_rule_removed_products_count", placement=placement, rule="exclude") == removed[0] + 1
    assert sample("osclms_rule_removed_products_sum", placement=placement, rule="exclude") == removed[1] + 6
    text = web.ask("GET", "/metrics", kind=SECRET).text
    assert "food" not in text
    assert (
        f'osclms_products_shown{{placement="{placement}"}} 2.0' in text
    )  # soap and towel, as often as they came
    assert "osclms_products_available 8.0" in text and 'osclms_model_info{version="1"} 1.0' in text
    assert "osclms_champion_age_days" in text


def test_counts_lie_in_memory_where_they_may_and_in_the_home_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, memory, other = (tmp_path / name for name in ("home", "memory", "other"))
    for made in (home, memory, other):
        made.mkdir()
    monkeypatch.setattr(metrics, "MEMORY", memory)
    own = metrics.counts_folder(home, 3000)
    assert own.parent == memory and own.stat().st_mode & 0o077 == 0
    assert len({own, metrics.counts_folder(home, 3001), metrics.counts_folder(other, 3000)}) == 3
    assert metrics.counts_folder(home, 3000) == own, "as before, and a start wipes it"
    at_home = home / "bentoml" / "3000"
    own.rmdir()
    own.symlink_to(other)  # somebody was there first
    assert metrics.counts_folder(home, 3000) == at_home and at_home.is_dir()
    monkeypatch.setattr(metrics, "MEMORY", tmp_path / "none")
    assert metrics.counts_folder(home, 3000) == at_home


def test_what_workers_have_shown_is_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(metrics.MULTIPROCESS, str(tmp_path))
    name = b"cart".hex()
    for worker, products in (("1", range(3_000)), ("2", range(2_000, 5_000))):
        bits = bytearray(metrics.BITS >> 3)
        for product in products:
            bit = crc32(str(product).encode()) % metrics.BITS
            bits[bit >> 3] |= 1 << (bit & 7)
        (tmp_path / f"shown-{worker}-{name}").write_bytes(bits)
    (_, found), (_, none) = metrics.products_shown(["cart", "other"])
    assert found == pytest.approx(5_000, rel=0.02) and none == 0


def test_a_log_is_a_json_object_a_line_and_names_nobody(
    web: Web, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.edge, "log_requests", True)
    caplog.set_level(logging.INFO, "osclms")
    caplog.handler.setFormatter(logs.JsonLine())
    web.ask("POST", LIST, kind=SECRET, json={"customer_id": WHO, "product_ids": [WHO], "limit": 2})
    web.ask("POST", f"/v1/recommend/{WHO}?{WHO}={WHO}", kind=SECRET, headers={WHO: WHO})
    web.ask("POST", LIST, key=f"osclms_sk_1_{WHO}")
    with monkeypatch.context() as broken:
        broken.setattr(web.site.engine, "recommend", fail)
        assert web.ask("POST", LIST, kind=SECRET, json={"customer_id": WHO}).status_code == 500
    try:
        raise ValueError(WHO)
    except ValueError:
        logging.getLogger("osclms.service").exception("failed")
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert WHO not in caplog.text
    requests = [line for line in lines if line["message"] == "request"]
    told = [(line["route"], line["placement"], line["status"]) for line in requests]
    assert told == [
        ("recommend", "next_best", 200), ("recommend", "none", 404), ("recommend", "next_best", 401),
        ("recommend", "next_best", 500),
    ]  # fmt: skip
    assert lines[-1]["exception"] == "ValueError" and lines[-1]["frames"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", line["at"]) for line in lines)


def test_what_takes_too_long_is_counted_and_told_in_the_log(
    web: Web, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr(web.edge, "log_requests", True)
    monkeypatch.setattr(web.site, "get_customer", stuck)
    caplog.set_level(logging.INFO, "osclms")
    counted, _ = metrics.answered("get_customer", "none", 504)
    before = counted._value.get()
    monkeypatch.setattr("serving.service.PATIENCE", 0.1)
    assert "ask again" in refused(web.ask("GET", f"/v1/customers/{WHO}", kind=SECRET), 504).error
    assert counted._value.get() == before + 1
    told = [vars(record)[logs.ABOUT] for record in caplog.records if record.message == "request"]
    assert [(about["route"], about["status"]) for about in told] == [("get_customer", 504)]
    assert (
        "504"
        in web.ask("GET", "/openapi.json").json()["paths"]["/v1/customers/{customer_id}"]["get"]["responses"]
    )


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError(WHO)
