"""The message that a customer gets, kept byte for byte in tests/golden; UPDATE_GOLDEN=1 writes it anew."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import tiny

from features.history import Store
from lifecycle.messages import MAX_LINES, About, Message
from lifecycle.previews import preview
from lifecycle.programs import SHIPPED, Program
from lifecycle.rows import initials
from lifecycle.texts import one_line
from lifecycle.yamls import read
from serving.engine import Engine, Line, Order, Product
from serving.links import safe_url
from serving.placements import PLACEMENTS, Placement
from serving.schemas import Recommendation, RecommendRequest, RecommendResponse

GOLDEN = Path(__file__).parent / "golden"
THANKS = read(SHIPPED / "thank_you.yaml", Program)
ENDINGS = {"subject": "subject.txt", "html": "html", "text": "txt"}
AT = datetime(2018, 1, 1, tzinfo=UTC)
ATTACK = "<script>alert(1)</script>"


def product(product_id: str, title: str, price: float | None = 2.5, **links: str) -> Product:
    return Product(product_id, title, price, "USD", links.get("url"), links.get("image_url"))


@dataclass
class Counter:
    """Stands in for an engine: an order and two lists, small enough to read in the golden files."""

    bought: tuple[Product, ...] = ()
    goods: tuple[Product, ...] = ()
    store: Store = field(default_factory=lambda: Store("Corner Market", "USD", "America/New_York"))
    asked: list[tuple[str, RecommendRequest]] = field(default_factory=list)
    version: str = "3"
    data_until: datetime = AT
    placements: Mapping[str, Placement] = field(default_factory=lambda: PLACEMENTS)

    def order(
        self, customer_id: str | None, order_id: str | None, at: datetime | None = None
    ) -> Order | None:
        lines = tuple(Line(item, quantity) for quantity, item in enumerate(self.bought, 1))
        # half past one in the morning in UTC is the evening before in New York
        return Order("4711", "anna", datetime(2017, 12, 14, 1, 30, tzinfo=UTC), lines) if lines else None

    def known(self, product_id: str) -> Product | None:
        return next((item for item in (*self.bought, *self.goods) if item.product_id == product_id), None)

    def offered(self, product_id: str) -> Product | None:
        return next((item for item in self.goods if item.product_id == product_id), None)

    def substitutes(self, placement: str, product_ids: Sequence[str]) -> set[str]:
        return set()

    def recommend(self, placement: str, request: RecommendRequest, *, at: datetime) -> RecommendResponse:
        self.asked.append((placement, request))
        gone = {*request.exclude, *request.product_ids}
        left = [item for item in self.goods if item.product_id not in gone][: request.limit or 10]
        items = tuple(self.told(item, filled=not self.bought) for item in left)
        return RecommendResponse(
            recommendation_id=f"r-{placement}", model_version="3", placement=placement, items=items
        )

    def told(self, item: Product, *, filled: bool) -> Recommendation:
        story = f"Goes with {self.bought[0].title}" if self.bought else "Popular with everybody right now"
        source = "copurchase" if self.bought else "popular"
        about = {"score": 1.0, "source": source, "story": story, "filled": filled}
        return Recommendation.model_validate({**vars(item), **about})


PLAIN = Counter(
    bought=(product("1", "Whole milk, gallon"), product("2", "Corn flakes")),
    goods=(
        product("2", "Corn flakes"),
        product("3", "Bananas", 0.59, url="https://shop.example/bananas?a=1&b=2"),
        product("4", "Brown sugar", image_url="https://shop.example/sugar.png"),
        product("5", "Oat drink", None, url="/oat-drink"),
        product("6", "Raisins", 1234.5),
        product("7", "Yoghurt"),
        product("8", "Honey"),
    ),
)
HOSTILE = Counter(
    bought=(product("1", ATTACK), product("2", "milk\r\nBcc: everyone@example.com")),
    goods=(
        product("3", f'{ATTACK}" onmouseover="x', url="javascript:alert(1)"),
        product("4", "{{ store }}{% raw %}", image_url='https://e.example/"onerror="x'),
        product("5", "\u202egnp.exe \x00 two\nlines", url="https://shop.example/'\"><script>"),
        product("6", "x" * 5000, url="https://shop.example/" + "y" * 5000),
    ),
    store=Store("Fish & <Chips>", "USD", "UTC"),
)
CASES: dict[str, tuple[Counter, dict[str, Any]]] = {
    "order": (PLAIN, {"first_name": "Anna", "locale": "en-US", "postal": "Corner Shop, 1 Market Street, Springfield"}),
    "stranger": (Counter(goods=PLAIN.goods), {}),
    "hostile": (HOSTILE, {"first_name": "{{ 7*7 }}\r\nBcc: a@example.com", "locale": "{{ 7*7 }}",
                "postal": "<b>1</b> Market Street {{ 7*7 }}"}),
}  # fmt: skip


def told(counter: Counter, locale: str | None = None, postal: str | None = None, **facts: Any) -> Message:
    about = About.of({**facts, "locale": locale}, postal=postal)
    return preview(
        cast(Engine, counter), THANKS, about, customer_id="anna", order_id=None, links=None, at=AT, now=AT
    )


def write(case: str) -> Message:
    counter, profile = CASES[case]
    return told(counter, **profile)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ENDINGS)
def test_the_message_is_as_kept(case: str, part: str) -> None:
    kept(GOLDEN / f"{case}.{ENDINGS[part]}", getattr(write(case), part))


def kept(file: Path, written: str) -> None:
    """Byte for byte as in a golden file."""
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_bytes(written.encode())
    assert written.encode() == file.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_a_message_stays_below_what_clients_clip(case: str) -> None:
    assert len(write(case).html.encode()) < 102_000


def test_the_longest_message_stays_below_what_clients_clip() -> None:
    wide = "&" * 1000
    products = tuple(
        product(str(n), wide, url=f"https://e.example/{n}" + "&" * 900, image_url=f"https://e.example/{n}")
        for n in range(60)
    )
    counter = Counter(bought=products[:40], goods=products)
    assert len(told(counter, first_name=wide).html.encode()) < 102_000


def test_nothing_hostile_is_markup_a_template_or_a_header() -> None:
    message = write("hostile")
    assert "<script" not in message.html
    assert 'onerror="' not in message.html
    assert "javascript:" not in message.html + message.text
    assert message.subject == "Thank you for your order, {{ 7*7 }} Bcc: a@example.com"
    assert "49" not in message.subject + message.text
    assert "\r" not in message.text + message.html
    assert "\u202e" not in message.html + message.text


def test_a_link_without_a_safe_address_is_no_link() -> None:
    html = write("order").html
    assert '<a class="o-ink" href="https://shop.example/bananas?a=1&amp;b=2&amp;utm_source=' in html
    assert html.count("<a ") == 1


def test_lists_repeat_neither_the_order_nor_each_other() -> None:
    cross_sell, next_best = (
        [item.product_id for item in response.items] for response in write("order").lists
    )
    assert cross_sell == ["3", "4", "5", "6"]
    assert next_best == ["7", "8"]


def test_the_basket_is_what_cross_sell_is_asked_with() -> None:
    counter = Counter(bought=PLAIN.bought, goods=PLAIN.goods)
    preview(
        cast(Engine, counter), THANKS, About(), customer_id=None, order_id="4711", links=None, at=AT, now=AT
    )
    (first, cross_sell), (second, next_best) = counter.asked
    assert (first, second) == ("cross_sell", "next_best")
    assert cross_sell.product_ids == ("1", "2")
    assert (cross_sell.customer_id, next_best.customer_id) == (
        None,
        "anna",
    )  # the order's; who is known from it


def test_an_order_id_that_strangers_share_shows_each_their_own_lines(tmp_path: Path) -> None:
    baskets = (
        ("anna", "1", 0, "bread butter"), ("bert", "1", 1, "soap"), (None, "1", 2, "towel"), ("bert", "2", 0, "milk"),
    )  # fmt: skip
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, tiny.GROCER))

    def lines(customer: str | None, order: str | None) -> set[str]:
        message = preview(
            engine, THANKS, About(), customer_id=customer, order_id=order, links=None, at=tiny.UNTIL, now=tiny.UNTIL
        )  # fmt: skip
        return set(re.findall(r"^  1 x (.+)$", message.text, re.MULTILINE))

    assert lines("anna", "1") == lines("anna", None) == {"Bread", "Butter"}
    assert lines("bert", "1") == lines("bert", None) == {"Soap"}
    assert lines(None, "1") == {"Towel"}
    assert lines("bert", "2") == {"Milk"}
    assert lines("anna", "2") == lines("nobody", "1") == lines(None, "2") == set()


def test_lists_that_know_nothing_do_not_claim_to() -> None:
    text = write("stranger").text
    assert "POPULAR RIGHT NOW" in text
    assert "YOU BOUGHT" not in text


def test_a_store_with_nothing_to_offer_still_says_thanks() -> None:
    message = told(Counter())
    assert message.subject == "Thank you"
    assert all(not response.items for response in message.lists)


def test_a_long_order_is_cut_and_the_rest_counted() -> None:
    many = tuple(product(str(n), f"thing {n}") for n in range(MAX_LINES + 3))
    message = told(Counter(bought=many))
    assert f"thing {MAX_LINES - 1}" in message.text
    assert f"thing {MAX_LINES}" not in message.text
    assert "+ 3 more" in message.text


@pytest.mark.parametrize(
    ("locale", "date"),
    [
        ("en-GB", "13 December 2017"),
        ("de-DE", "December 13, 2017"),
        (None, "December 13, 2017"),
        ("es-MX", "13 de diciembre de 2017"),
        ("fr", "13 décembre 2017"),
    ],
)
def test_dates_follow_a_locale_of_the_texts_language(locale: str | None, date: str) -> None:
    assert date in told(PLAIN, locale).text


def test_no_picture_or_font_is_fetched_but_the_products_own() -> None:
    html = write("order").html
    assert html.count("<img ") == 1
    assert "fonts.googleapis" not in html


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://a.example/x", True),
        ("HTTP://a.example", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//a.example/x", False),
        ("/x", False),
        ("https://a.example/\nx", False),
        ('https://a.example/"><b>', False),
        ("https://a.example/" + "x" * 1000, False),
        ("", False),
        (None, False),
    ],
)
def test_safe_urls(url: str | None, safe: bool) -> None:
    assert safe_url(url) == (url if safe else None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\nb\tc\x00d", "a b c d"),
        ("\u2028a\u2029\u200b\ufeffb", "a b"),
        ("\u202ea\u2066b", "ab"),
        ("\ud800x", "x"),
        ("👩\u200d🌾", "👩\u200d🌾"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("title", "letters"),
    [
        ("Whole milk", "WM"),
        ("Bananas, 40 lb", "BA"),
        ("2% milk 12oz", "MO"),
        ("— 7", "•"),
        ("", "•"),
        ("é", "É"),
    ],
)
def test_initials(title: str, letters: str) -> None:
    assert initials(title) == letters
