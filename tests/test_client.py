"""The client: against the real service, and against answers that services give on bad days."""

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import CUSTOMER, END
from running import Server, shop

from serving.client import PAUSE, ApiError, Client
from serving.schemas import RecommendRequest

LIST = {"recommendation_id": "r", "model_version": "1", "placement": "trending", "items": []}


@pytest.fixture(scope="session")
def server(shop_home: Path) -> Server:
    return shop(shop_home)


@pytest.fixture
def osclms(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=30) as client:
        yield client


def test_lists(osclms: Client) -> None:
    found = osclms.recommend("next_best", customer_id=CUSTOMER, limit=3)
    assert len(found.items) == 3
    asked = [RecommendRequest(customer_id=CUSTOMER, limit=3), RecommendRequest(limit=2)]
    assert next(many := osclms.recommend_many("next_best", asked)) == found
    assert len(next(many).items) == 2


def test_what_can_be_asked_for_and_about(osclms: Client) -> None:
    about = {row.name: row for row in osclms.placements().placements}
    assert about["cross_sell"].asks == ("products", "customer")
    [product] = osclms.search("milk", limit=1).products
    assert "milk" in product.title.casefold()
    shown = osclms.recommend("similar", product_ids=[product.product_id], limit=2).items
    left = osclms.fragment(
        "similar", part="txt", product_ids=[product.product_id], exclude=[shown[0].product_id], limit=1
    )
    assert left.body.startswith(f"  * {shown[1].title} - ") and left.body.count("  * ") == 1
    with pytest.raises(ApiError, match="no such voucher") as refused:
        osclms.redeem("NONE", order_id="till-1")
    assert refused.value.status == 404


def test_a_message_and_a_fragment_of_it(osclms: Client) -> None:
    message = osclms.message(customer_id=CUSTOMER, agreed=True)
    assert [found.placement for found in message.lists] == ["cross_sell", "next_best"]
    made = osclms.fragment("next_best", customer_id=CUSTOMER, limit=3)
    assert (
        made.recommendation_id
        == osclms.recommend("next_best", customer_id=CUSTOMER, limit=3).recommendation_id
    )
    assert (made.items, made.filled, made.body[:6]) == (3, 0, "<table")
    assert osclms.fragment("cross_sell", part="txt", product_ids=["1", "2"], limit=1).body.startswith("  * ")


def test_what_is_told_is_answered_line_by_line(osclms: Client) -> None:
    seen = {"event_type": "view", "product_id": "1082185"}
    told = osclms.events([{**seen, "event_id": "client-1"}, {"event_type": "dance"}])
    assert (told.accepted + told.duplicate, told.rejected, told.events[0].event_id) == (1, 1, "client-1")
    sold = osclms.products([{"product_id": "client-voucher", "in_stock": False}, {"price": 1}])
    assert [line.status for line in sold.products] == ["accepted", "rejected"]
    assert len(osclms.needs(product_ids=("1082185",), limit=2).needs) == 2


def test_a_customer_by_an_id_of_any_letters(osclms: Client) -> None:
    who, agreed = "web/47 11?", {"channel": "email", "purpose": "marketing", "granted": True}
    said = osclms.tell_customer(who, region="North", identities=["client-card"], consents=[agreed])
    assert (said.customer_id, said.facts, said.identities, said.consents) == (who, 1, 1, 1)
    assert osclms.fragment("next_best", customer_id="client-card", limit=2, record=True).items == 2
    assert osclms.message(customer_id=who, record=True).subject
    held = osclms.customer("client-card")
    assert (held.customer_id, held.facts) == (who, {"region": "North"})
    assert [consent["granted"] for consent in held.consents] == [True] and len(held.sends) >= 2
    many = osclms.tell_customers(
        [{"customer_id": who, "region": "South", "consents": [agreed]}, {"region": "x"}]
    )
    assert [line.status for line in many.customers] == ["accepted", "rejected"]
    assert osclms.customer(who).facts == {"region": "South"}
    early, now = osclms.customer(CUSTOMER, at=END - timedelta(days=200)), osclms.customer(CUSTOMER)
    assert 0 < len(early.orders) < len(now.orders)
    assert osclms.erase("client-card").erased == 2
    assert osclms.customer(who).facts == {}


@pytest.mark.parametrize(
    ("call", "status", "field"),
    [
        (lambda c: c.recommend("nowhere"), 404, "placement"),
        (lambda c: c.recommend("next_best", customer_token="x"), 400, "customer_token"),
        (lambda c: c.recommend("next_best", limit=0), None, "limit"),
        (lambda c: c.fragment("next_best", limit=1000), 400, "limit"),
        (lambda c: c.message("nothing"), 404, "program"),
    ],
)
def test_what_fails_is_one_error_with_status_and_field(
    osclms: Client, call: Callable[[Client], Any], status: int | None, field: str | None
) -> None:
    with pytest.raises(ApiError) as failed:
        call(osclms)
    assert (failed.value.status, failed.value.field) == (status, field)
    assert str(failed.value)


# --- bad days -----------------------------------------------------------------------------------------


class Flaky(httpx.BaseTransport):
    """Gives these answers, one after the other: a status, or an error of the way there."""

    def __init__(self, *answers: int | Exception, told: Any = LIST) -> None:
        self.told = told
        self.answers, self.asked, self.slept = list(answers), list[httpx.Request](), list[float]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, json=self.told if answer == 200 else "<p>oops</p>")

    def client(self, **about: Any) -> Client:
        return Client("http://service", transport=self, sleep=self.slept.append, **about)


LOST = httpx.ConnectError("refused")


@pytest.mark.parametrize(
    ("answers", "status", "asked"),
    [
        ((200,), 200, 1),
        ((LOST, 503, 200), 200, 3),
        ((429, 200), 200, 2),
        ((502, 504, 503), 503, 3),
        ((LOST, LOST, LOST), None, 3),
        ((500, 200), 500, 1),
        ((400, 200), 400, 1),
    ],
)
def test_a_call_is_repeated_where_nobody_answered(
    answers: tuple[int | Exception, ...], status: int | None, asked: int
) -> None:
    flaky = Flaky(*answers)
    if status == 200:
        assert flaky.client().recommend("trending").items == ()
    else:
        with pytest.raises(ApiError) as failed:
            flaky.client().recommend("trending")
        assert failed.value.status == status
    assert len(flaky.asked) == asked
    assert flaky.slept == [PAUSE, 2 * PAUSE][: asked - 1]


def test_what_is_sent_again_is_the_same() -> None:
    """So that the service, which knows events by their ids, counts each once."""
    flaky = Flaky(LOST, 200, told={"accepted": 2, "duplicate": 0, "rejected": 0, "events": []})
    flaky.client().events(
        [{"event_type": "click", "product_id": "1"}, {"event_type": "view", "event_id": "mine"}]
    )
    first, second = (request.content for request in flaky.asked)
    assert first == second
    assert b'"event_id":"mine"' in first
    assert first.count(b'"occurred_at"') == first.count(b'"event_id"') == 2


def test_a_key_goes_along() -> None:
    flaky = Flaky(200)
    flaky.client(key="k").recommend("trending")
    assert flaky.asked[0].headers["authorization"] == "Bearer k"


def test_a_batch_of_which_nothing_comes_any_more_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.client.STILL", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as still:  # takes all, and answers nothing
        client = Client(f"http://127.0.0.1:{still.getsockname()[1]}")
        with pytest.raises(ApiError, match="no answer"):
            list(client.batch("trending", [RecommendRequest()]))
        client.close()


def test_an_answer_of_something_else_is_an_error() -> None:
    class Other(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text="<p>welcome</p>")

    with pytest.raises(ApiError, match="no RecommendResponse"):
        Client("http://service", transport=Other()).recommend("trending")
