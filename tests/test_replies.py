"""What readers answer: who only looks changes nothing, who says so gets no more, and a voucher is good once."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from live import spelled
from posted import LINKS, consent, decision, mails, person, sending
from pydantic import SecretStr
from running import PUBLIC_URL, SECRET, SHOP_URL
from test_outbox import ONE
from test_people import Shop, grocer
from typer.testing import CliRunner

import osclms
from serving.links import Links
from serving.mailed import RATE_AGE, rate_url, unsubscribe_url
from serving.settings import Settings
from serving.store import Store
from serving.tokens import Tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ONE_CLICK = "List-Unsubscribe=One-Click"
assert grocer


class Answers(Shop):
    """The routes with links of messages."""

    def __init__(self, home: Path, url: sa.URL) -> None:
        from serving.service import Edge, intake, load

        settings = Settings(
            home=home, database_url=SecretStr(spelled(url)), secret=SecretStr(SECRET), public_url=PUBLIC_URL,
            shop_url=SHOP_URL,
        )  # fmt: skip
        self.edge, self.home = Edge(), home
        self.site = load(settings, intake(settings), home / "bundles" / "1")
        self.edge.open(self.site)

    def post(self, path: str, body: str = "", **headers: str) -> Any:
        return self("POST", path, content=body.encode(), headers={**FORM, **headers})


@pytest.fixture
def shop(grocer: Path, tmp_path: Path, url: sa.URL) -> Iterator[Answers]:
    (tmp_path / "shop").mkdir()
    shutil.copytree(grocer / "bundles", tmp_path / "shop" / "bundles")
    opened = Answers(tmp_path / "shop", url)
    person(opened.store)
    opened.store.append("decisions", [decision("m1"), decision("m2", program="receipt")])
    yield opened
    opened.site.close()


def link(make: Any, shop: Answers, message: str = "m1", links: Links = LINKS, days: float = 0) -> str:
    at = shop.site.clock() - timedelta(days=days)
    made: str = make(links, message, "hello", "email", at=at)
    return made.removeprefix(PUBLIC_URL)


def permitted(shop: Answers, program: str) -> tuple[bool, str, int]:
    """(whether anna may be sent a message of a program, why, how many lists it has)."""
    told = shop("GET", f"/v1/messages/{program}?customer_id=anna").json()
    return told["may_send"], told["why"], len(told["lists"])


def consents(store: Store) -> list[dict[str, Any]]:
    return [row for row in store.of("consents", ["anna"]) if row["channel"] == "email"]


# --- no more ----------------------------------------------------------------------------------------------


def test_who_posts_gets_no_more(shop: Answers) -> None:
    path = link(unsubscribe_url, shop)
    for method in ("GET", "HEAD"):
        shown = shop(method, path)
        assert shown.status_code == 200 and len(consents(shop.store)) == 1
    page = shop("GET", path).text
    assert 'method="post"' in page and "Corner" in page and "offers and recommendations" in page
    assert "anna" not in page and "<script" not in page
    told = [permitted(shop, name) for name in ("thank_you", "loyalty_tier")]
    assert told == [
        (True, "it is transactional and needs no consent", 2),
        (True, "agreed to marketing by email", 1),
    ]
    assert shown.headers["cache-control"] == "no-store" and "set-cookie" not in shown.headers
    for _ in range(2):
        done = shop.post(path, ONE_CLICK)
        assert done.status_code == 200 and "set-cookie" not in done.headers
    granted, withdrawn = consents(shop.store)
    assert (granted["granted"], withdrawn["granted"], withdrawn["purpose"]) == (True, False, "marketing")
    how = ("one-click unsubscribe", ONE_CLICK, "RFC 8058")
    assert tuple(withdrawn[name] for name in ("source", "text", "version")) == how
    told = shop("GET", "/v1/customers/anna").json()
    assert {c["channel"]: c["granted"] for c in told["consents"]} == {
        "email": False,
        "sms": True,
        "push": True,
    }
    assert told["consent_records"][-1]["version"] == "RFC 8058" and len(told["ledgers"]["decisions"]) == 2
    told = [permitted(shop, name) for name in ("thank_you", "loyalty_tier")]
    assert told == [
        (True, "it is transactional and needs no consent", 0),
        (False, "no consent to marketing by email", 1),
    ]
    html = shop("GET", "/v1/messages/loyalty_tier?customer_id=anna&part=html")
    assert html.headers["osclms-may-send"] == "no"
    engine, home = shop.site.engine, shop.home
    done = sending(shop.store, engine, home)
    assert (done.sent, done.reasons) == (1, {"dropped: no consent": 1}) and len(mails(home)) == 1


@ONE
def test_what_the_person_read_is_on_record_word_for_word(shop: Answers) -> None:
    path = link(unsubscribe_url, shop)
    spanish = shop("GET", path, headers={"Accept-Language": "es-MX,en;q=0.5"}).text
    (asked,) = re.findall(r"<p>(.*)</p>", spanish)
    assert 'lang="es"' in spanish and 'name="language" value="es"' in spanish
    assert "Hecho" in shop.post(path, "language=es").text
    (last,) = [row for row in consents(shop.store) if not row["granted"]]
    assert (last["text"], last["version"], last["source"]) == (asked, "unsubscribe-es-1", "unsubscribe page")
    shop.store.append("consents", [consent(at=shop.site.clock() + timedelta(days=2))])
    shop.post(path, ONE_CLICK)
    assert not max(consents(shop.store), key=lambda row: row["at"])["granted"]


@ONE
def test_a_mailbox_posts_a_form_of_parts_too(shop: Answers) -> None:
    body = '--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'
    done = shop.post(link(unsubscribe_url, shop), body, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert done.status_code == 200 and consents(shop.store)[-1]["source"] == "one-click unsubscribe"


@ONE
def test_links_that_are_none_of_ours(shop: Answers) -> None:
    other = Links(Tokens([Fernet.generate_key().decode()]), PUBLIC_URL, SHOP_URL)
    rating = link(rate_url, shop)
    wrong = ("/u/x", link(unsubscribe_url, shop, links=other), rating.replace("/rate/", "/u/"))
    for path in (*wrong, "/rate/x", link(unsubscribe_url, shop).replace("/u/", "/rate/")):
        asks = {"Accept": "application/json"}
        for done in (shop("GET", path, headers=asks), shop.post(path, "stars=1&" + ONE_CLICK, **asks)):
            assert done.status_code == 404 and done.json()["error"].startswith("token: ")
        for done in (shop("GET", path, headers={"Accept-Language": "fr"}), shop.post(path, ONE_CLICK)):
            assert done.status_code == 404 and done.headers["content-type"].startswith("text/html")
            assert (
                "<h1>" in done.text
                and "token" not in done.text
                and done.headers["cache-control"] == "no-store"
            )
    assert "Ce lien est inconnu" in shop("GET", "/u/x", headers={"Accept-Language": "fr"}).text
    assert "not known here" in shop("GET", "/r/x").text
    assert len(consents(shop.store)) == 1
    assert shop("GET", link(unsubscribe_url, shop, days=3000)).status_code == 200
    old = shop("GET", link(rate_url, shop, days=RATE_AGE.days + 1))
    assert old.status_code == 410 and "too old" in old.text and "{" not in old.text.split("</style>")[1]
    for name in ("nobody", "m1"):
        shop.store.bury("anna", at=shop.site.clock())
        assert shop.post(link(unsubscribe_url, shop, name), ONE_CLICK).status_code == 200
        assert shop.post(link(rate_url, shop, name), "stars=1").status_code == 200
    assert len(consents(shop.store)) == 1 and shop.store.of("alerts", ["anna"]) == []


def test_nothing_of_a_person_is_in_a_link(shop: Answers) -> None:
    from base64 import urlsafe_b64decode

    for make in (unsubscribe_url, rate_url):
        token = link(make, shop).rsplit("/", 1)[1]
        assert b"anna" not in urlsafe_b64decode(token + "==") and b"m1" not in urlsafe_b64decode(token + "==")


# --- stars ------------------------------------------------------------------------------------------------


def ratings(store: Store) -> list[float]:
    return [row["value"] for row in store.of("events", ["anna"]) if row["event_type"] == "rating"]


def test_stars_count_when_they_are_posted_and_low_ones_pause(shop: Answers) -> None:
    path = link(rate_url, shop)
    shown = shop("GET", path + "?stars=2").text
    assert 'value="2" required checked' in shown and ratings(shop.store) == []
    assert shop.post(path).status_code == shop.post(path, "stars=9").status_code == 400
    for stars in (2, 5, 2):
        assert "Thank you" in shop.post(path, f"stars={stars}&language=en").text
    assert ratings(shop.store) == [2.0]
    (alert,) = shop.store.of("alerts", ["anna"])
    (pause,) = shop.store.of("pauses", ["anna"])
    assert (alert["kind"], alert["message_id"], alert["detail"]) == ("low_rating", "m1", "2 of 5 stars")
    assert (pause["program"], pause["paused"], (pause["ends"] - pause["at"]).days) == (None, True, 60)
    done = sending(shop.store, shop.site.engine, shop.home, clock=shop.site.clock)
    assert (done.sent, done.reasons) == (1, {"dropped: paused: 2 of 5 stars": 1})
    database = ["--database-url", spelled(shop.store.url)]
    (told,) = json.loads(CliRunner().invoke(osclms.app, ["alerts", "--json", *database]).output)
    assert (told["alert_id"], told["detail"]) == (alert["alert_id"], "2 of 5 stars")
    closed = CliRunner().invoke(osclms.app, ["alerts", "close", alert["alert_id"], "--by", "desk", *database])
    assert closed.exit_code == 0 and "closed" in closed.output
    assert CliRunner().invoke(osclms.app, ["alerts", "--json", *database]).output == "[]\n"
    shop.post(path, "stars=1")
    assert len(shop.store.of("alerts", ["anna"])) == 2


@ONE
def test_high_stars_pause_nothing(shop: Answers) -> None:
    shop.post(link(rate_url, shop), "stars=3")
    assert ratings(shop.store) == [3.0] and shop.store.of("alerts", ["anna"]) == []


# --- vouchers ---------------------------------------------------------------------------------------------


def test_a_voucher_is_good_once(shop: Answers) -> None:
    now = shop.site.clock()
    about = {"customer_id": "anna", "program": "hello", "message_id": "m1", "worth": 5.0, "received_at": now}
    for code, days in (("ABC", 1), ("OLD", -1)):
        shop.store.append("vouchers", [{**about, "code": code, "ends": now + timedelta(days=days)}])

    def redeem(**asked: Any) -> Any:
        return shop("POST", "/v1/vouchers/redeem", json=asked)

    done = redeem(code=" abc ", order_id="o1")
    told = ("code", "worth", "currency", "program", "order_id")
    assert [done.json()[name] for name in told] == ["ABC", 5.0, "EUR", "hello", "o1"]
    assert redeem(code="ABC", order_id="o1").status_code == 200
    for asked, status, says in (
        ({"code": "ABC", "order_id": "o2"}, 409, "redeemed before"), ({"code": "ABC"}, 409, "redeemed before"),
        ({"code": "OLD"}, 410, "ended on"), ({"code": "NONE"}, 404, "no such voucher"), ({}, 400, "code"),
    ):  # fmt: skip
        refused = redeem(**asked)
        assert refused.status_code == status and says in refused.json()["error"], refused.text
    assert len(shop.store.of("redeemed", ["anna"])) == 1
    shop.store.append("vouchers", [{**about, "code": "DEF", "ends": now + timedelta(days=1)}])
    shop.store.bury("anna", at=now)
    for code, order in (("ABC", "o1"), ("DEF", "o3")):
        assert redeem(code=code, order_id=order).status_code == 404, "a voucher of who was erased is none"
    assert len(shop.store.of("redeemed", ["anna"])) == 1


# --- consents ---------------------------------------------------------------------------------------------


@ONE
def test_a_consent_may_say_what_the_person_read(shop: Answers) -> None:
    agreed = {
        "channel": "sms", "purpose": "marketing", "granted": True, "source": "checkout", "text": "Yes, text me",
        "version": "checkout-3",
    }  # fmt: skip
    assert shop("PUT", "/v1/customers/anna", json={"consents": [agreed]}).status_code == 200
    (told,) = [c for c in shop("GET", "/v1/customers/anna").json()["consents"] if c["channel"] == "sms"]
    assert {name: told[name] for name in agreed} == agreed
