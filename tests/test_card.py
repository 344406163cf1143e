"""The model card: figures by hand, and a page that needs nothing else and tells nobody's id."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from tiny import GROCER, UNTIL

from serving.bundle import Bundle
from serving.schemas import RecommendRequest
from training.card import (
    CATEGORIES,
    LATELY,
    OTHERS,
    Card,
    Example,
    Part,
    by_category,
    card_html,
    examples_of,
    former_of,
    results_of,
    top_levels,
    without_customers,
)  # fmt: skip
from training.drift import Change, Drift
from training.evaluate import METRICS, Answers, Audit, by_stage
from training.gate import Check, Verdict
from training.insight import Bin, Group, Insight
from training.intervals import Interval
from training.jobs import Fit
from training.split import Task

ANN, BOB = "ann-4711", "bob-0815"
BASKETS: tuple[tiny.Basket, ...] = (
    *((ANN, f"a{n}", 10 * n, "bread") for n in range(3)),
    (ANN, "a3", 40, "butter rolls"),
    (BOB, "b1", 50, "milk soap"),
)
SCRIPT = "<script>alert('1')</script> & <b>bold</b>"
FIGURES = dict.fromkeys(
    ("coverage", "gini", "entropy", "novel_share", "full_lists", "filled", "violations", "accuracy"), 0.25
)
DATA = re.compile(r'"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+"')


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny.unfitted(BASKETS, GROCER)


@pytest.fixture(scope="module")
def answers(bundle: Bundle) -> Answers:
    """Two lists of two. Ann gets bread, which she buys, and soap; Bob milk alone, and buys soap and what is new."""
    at = bundle.catalog.items.positions

    def places(*names: str) -> np.ndarray:
        return at(names)

    truth = [places("bread", "butter"), np.append(places("soap"), np.int32(-1))]
    lists = np.array([places("bread", "soap"), np.append(places("milk"), -1)], np.int64)
    who = bundle.interactions.customers.positions([ANN, BOB])
    return Answers(Task([RecommendRequest(customer_id=c) for c in (ANN, BOB)], truth, who, k=2), lists)


@pytest.fixture(scope="module")
def audit(bundle: Bundle, answers: Answers) -> Audit:
    spans = {name: answers.figure(name, seed=7) for name in METRICS}
    stages = by_stage(bundle, answers, "ndcg", seed=7)
    return Audit("next_best", "purchases", "ndcg", answers, FIGURES, spans, stages)


@pytest.fixture(scope="module")
def card(bundle: Bundle, answers: Answers, audit: Audit) -> Card:
    seen = Insight(
        9, 30, (Bin(20, 0.004, 0.0), Bin(10, 0.3, 0.4)), 3, 0.5, 0.2,
        (Group("the product", 0.9, Interval(0.1, 0.05, 0.15), 0.01), Group("score of als", 0.1, Interval(0, 0, 0), 0)),
    )  # fmt: skip
    return Card(
        version="12", store="Corner & Sons", data_until=UNTIL, judged_from=UNTIL - timedelta(days=30),
        git_revision="abc", fingerprint="f" * 32, size={"Customers": 2},
        verdict=Verdict(True, "promoted: 0.1 → 0.2 <better>", None, (Check(True, "a rail that holds"),)),
        results=tuple(results_of(bundle, [audit], seed=7)),
        baselines={"popular": {"purchases": Interval(0.1, 0.1, 0.1)}, "als": {"novel": Interval(0.2, 0.1, 0.3)}},
        rankers={"next_best": seen}, examples=examples_of(bundle, answers, seed=7),
        drift=Drift("11", UNTIL, (Change("orders a week", 2.0, 3.0), Change("none", 0.0, 0.0)), {"own.gap": 0.2}),
        recall={"als": 0.99}, recipes={"als": "Als(factors=4)"}, fits=(Fit("als", 1.5), Fit("als", 2.0)),
        seconds={"fit": 12.0},
    )  # fmt: skip


# --- gathering ------------------------------------------------------------------------------------------


def test_parts_by_hand(bundle: Bundle, audit: Audit) -> None:
    """Ann, of four orders, has her first right of two; Bob, of one, has none."""
    (result,) = results_of(bundle, [audit], seed=7)
    right = 1 / (1 + 1 / np.log2(3))
    told = {part.name: (part.n, part.figure.mean) for part in result.histories}
    assert told == {"1–3 orders": (1, 0.0), "4–9": (1, right)}
    assert {part.name: (part.n, part.figure.mean) for part in result.stages} == {
        "active": (1, right), "new": (1, 0.0),
    }  # fmt: skip
    categories = {part.name: (part.n, part.figure.mean) for part in result.categories}
    assert categories == {"food": (2, 0.5), "home": (1, 0.0), "unknown or rare": (1, 0.0)}


@pytest.mark.parametrize(
    ("orders", "name"), [(1, "1–3 orders"), (3, "1–3 orders"), (4, "4–9"), (9, "4–9"), (10, "10–29"),
                         (29, "10–29"), (30, "30 and more")],
)  # fmt: skip
def test_histories_begin_where_they_say(orders: int, name: str) -> None:
    made = tiny.unfitted([(ANN, f"o{n}", n, "bread") for n in range(orders)], GROCER)
    task = Task([RecommendRequest(customer_id=ANN)], [np.array([0], np.int32)], np.array([0], np.int32))
    asked = Answers(task, np.zeros((1, 10), np.int64))
    (result,) = results_of(made, [Audit("next_best", "purchases", "ndcg", asked, {}, {}, {})], seed=7)
    assert [part.name for part in result.histories] == [name]


def test_a_stranger_has_a_stage_and_no_history(bundle: Bundle, audit: Audit) -> None:
    task = replace(audit.answers.task, customer=np.array([-1, -1], np.int32))
    answers = replace(audit.answers, task=task)
    other = replace(audit, answers=answers, stages=by_stage(bundle, answers, "ndcg", seed=7))
    (result,) = results_of(bundle, [other], seed=7)
    assert [(part.name, part.n) for part in result.stages] == [("prospect", 2)] and result.histories == ()


def test_small_categories_are_one() -> None:
    """Of fifteen categories the largest stay by name; the last three hold a truth each."""
    n = CATEGORIES + 3
    goods = {f"p{i:02}": {"title": "x", "category": [f"c{i:02}", "all"], "price": 1.0} for i in range(n)}
    made = tiny.unfitted([(ANN, "o", 1, " ".join(goods))], goods)
    truth = np.repeat(np.arange(n), np.where(np.arange(n) < CATEGORIES, 2, 1)).astype(np.int32)
    task = Task([RecommendRequest(customer_id=ANN)], [truth], np.array([0], np.int32))
    parts = by_category(top_levels(made), Answers(task, np.array([[n - 1] * 10])), seed=7)
    assert [part.name for part in parts] == [*(f"c{i:02}" for i in range(CATEGORIES)), OTHERS]
    assert parts[-1].n == 3
    assert parts[-1].figure.mean == pytest.approx(1 / 3)


def test_examples_are_in_words(bundle: Bundle, answers: Answers) -> None:
    ann, bob = examples_of(bundle, answers, seed=7)
    assert ann.lately == ("Rolls", "Butter", "Bread")  # the latest first, each once
    assert ann == Example(4, ann.lately, (("Bread", True), ("Soap", False)), 2)
    assert bob.offered == (("Milk", False),) and bob.bought == 2
    assert len(ann.lately) <= LATELY


def test_the_version_before_is_the_latest_that_can_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundles = tmp_path_factory.mktemp("bundles")
    assert former_of(bundles, ["1", "2"]) is None
    tiny.bundle(bundles / "1", BASKETS, GROCER, placements={})
    (bundles / "2").mkdir()
    (bundles / "2" / "manifest.json").write_text('{"format": 1}')
    found = former_of(bundles, ["1", "2", "3"])
    assert found is not None and found.version == "1"


# --- the page -------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all were closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_tells_its_facts(card: Card) -> None:
    page = card_html(card)
    tags = Tags(page)
    assert not tags.open
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Figures by placement", "Baselines", "For whom, and of what",
        "Coverage and exposure", "The ranker of next_best", "Customers, in words",
        "The data against version 11", "What the gate looked at", "How it was made",
    ]  # fmt: skip
    for said in (
        "Corner &amp; Sons: version 12", "0.1 → 0.2 &lt;better&gt;", "<td>customer 1<small>4 orders</small></td>",
        "✓ Bread · Soap", "1 of 2", "+50.0%", "moved", "Als(factors=4)", "3.5", "0.0360",
        "<td>0.500<small>0.500 – 0.500 of 2</small></td>",
    ):  # fmt: skip
        assert said in page, said
    assert sum(tag == "img" for tag, _ in tags.found) == 3


def test_without_a_version_before_nothing_is_said_of_drift(card: Card) -> None:
    assert "The data against" not in card_html(replace(card, drift=None, rankers={}))


def test_text_is_never_markup(card: Card) -> None:
    spoiled = replace(
        card, store=SCRIPT, examples=(Example(1, (SCRIPT,), ((SCRIPT, True),), 1),), recipes={"als": SCRIPT},
        git_revision=SCRIPT, verdict=Verdict(False, SCRIPT, None, (Check(False, SCRIPT),)),
        results=(replace(card.results[0], categories=(Part(SCRIPT, 1, Interval(0, 0, 0)),)),),
    )  # fmt: skip
    page = card_html(spoiled)
    assert page.count("&lt;script&gt;") >= 8
    assert {"script", "b"}.isdisjoint(tag for tag, _ in Tags(page).found)


def test_the_page_asks_for_nothing_else(card: Card) -> None:
    page = card_html(card)
    asked = {name: value for _, attrs in Tags(page).found for name, value in attrs.items()}
    assert {"href", "onload", "srcset"}.isdisjoint(asked)
    pictures = [attrs["src"] for tag, attrs in Tags(page).found if tag == "img"]
    assert all(f'"{src}"' in page and DATA.fullmatch(f'"{src}"') for src in pictures)
    assert not re.search(r"https?:|url\(|@import|<link|<script", DATA.sub("", page))


def test_no_customer_is_named(card: Card, bundle: Bundle) -> None:
    page = DATA.sub("", card_html(card))
    assert list(ids(bundle)) == [ANN, BOB]
    assert not [customer for customer in ids(bundle) if customer in page]


def test_without_its_customers_it_tells_all_else(card: Card) -> None:
    page = card_html(card)
    left = without_customers(page)
    assert not Tags(left).open and "✓ Bread · Soap" in page and "Bread" not in left
    head, tail = page.split("<h2>Customers, in words</h2>")
    assert left.startswith(head) and left.endswith(tail.split("</section>", 1)[1])
    assert without_customers(left) == left and without_customers("<p>no card</p>") == "<p>no card</p>"


def ids(bundle: Bundle) -> Iterator[str]:
    yield from bundle.interactions.customers.at(np.arange(len(bundle.interactions.customers)))
