"""What came in live changes the next answer, as if it had been known with the rest; on both databases."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
import tiny
from pydantic import ValidationError
from running import WORKERS, Server, start, stop
from test_compact import put
from tiny import GROCER, GROCERIES, UNTIL

from features.history import History
from features.interactions import EVENT_COLUMNS, Interactions
from features.pairs import Pairs
from serving import live as live_module
from serving import metrics
from serving.bundle import Bundle
from serving.engine import Engine
from serving.identities import Identities
from serving.live import REST, Live
from serving.newcomers import Lead
from serving.overlay import Overlay
from serving.schemas import Recommendation, RecommendRequest, RecommendResponse
from serving.store import Store, StoreError

AT = UNTIL + timedelta(days=3)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("live") / "1"
    tiny.bundle(made, GROCERIES, GROCER)
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return Bundle.load(folder)


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(bundle: Bundle, store: Store, clock: Clock) -> Iterator[Engine]:
    made = over(bundle, store, clock)
    yield made
    assert made.live
    made.live.close()


def over(bundle: Bundle, store: Store, clock: Clock, **aliases: str) -> Engine:
    read, who = Store(store.url, hurry=True), Identities(aliases or {"card": "anna"})
    live = Live(read, bundle.catalog, bundle.interactions, until=UNTIL, identities=who, clock=clock)
    return Engine(bundle, live=live)


NUMBER = iter(range(1_000_000))


def happened(kind: str, product: str, days: float, customer: str = "anna", **other: Any) -> dict[str, Any]:
    """An event so many days after the end of what the bundle learned from."""
    at = UNTIL + timedelta(days=days)
    row = {"event_id": f"e{next(NUMBER)}", "event_type": kind, "customer_id": customer, "product_id": product}
    return {**row, "occurred_at": at, "received_at": max(at, UNTIL), **other}


def bought(product: str, days: float, order: str, customer: str = "anna", **other: Any) -> dict[str, Any]:
    about = {"order_id": order, "quantity": 1.0, "unit_price": 2.0, "discount": 0.5}
    return happened("order", product, days, customer, **about, **other)


def returned(product: str, days: float, order: str | None = None, **other: Any) -> dict[str, Any]:
    return happened("return", product, days, order_id=order, **{"quantity": 1.0, **other})


def listed(
    engine: Engine, placement: str = "discover", *, at: datetime = AT, **asked: Any
) -> list[Recommendation]:
    request = RecommendRequest.model_validate({"customer_id": "anna", "limit": 8, **asked})
    return list(engine.recommend(placement, request, at=at).items)


def own(engine: Engine, placement: str = "discover", **asked: Any) -> set[str]:
    return {item.product_id for item in listed(engine, placement, **asked) if not item.filled}


def names(items: list[Recommendation]) -> list[str]:
    return [item.product_id for item in items]


NEWS = [
    bought("gold", 0.1, "n1"),
    bought("bread", 0.1, "n1", customer="card"),  # by an alias
    bought("butter", 1, "n2"),
    bought("butter", 1.2, "n2"),  # a line more of the same order
    bought("towel", 1.5, "n3"),
    bought("soap", 2, "3"),  # to an order that the bundle knows
    bought("spelt", 2, "n4"),
    bought("milk", 2, "n5") | {"unit_price": 0.0},  # given away
    bought("unheard of", 2, "n5"),
    returned("towel", 2.5, "n3"),
    returned("milk", 2.5),  # the latest of the bundle's own
    returned("bread", 2.6, "2"),  # of an order of the bundle's
    bought("rolls", 3.5, "n6"),  # after the moment of the answer
]


def same(events: list[dict[str, Any]]) -> Any:
    """The same events as the history would hold them, with those that the bundle learned from."""
    known = tiny.bought(GROCERIES, GROCER).to_pylist()
    columns = EVENT_COLUMNS
    resolved = [
        {**e, "customer_id": {"card": "anna"}.get(e["customer_id"], e["customer_id"])} for e in events
    ]
    return tiny.events([*known, *({n: e.get(n) for n in columns} for e in resolved)])


def test_live_purchases_are_what_a_history_with_them_would_tell(engine: Engine, store: Store) -> None:
    store.add(NEWS)
    whole = Interactions.from_events(
        same(NEWS), items=engine.catalog.items, keep=engine.catalog.eligible, until=AT
    )
    anna = int(whole.customers.positions(["anna"])[0])
    person = engine.person("anna", AT)
    mine, theirs = person.rows, whole.rows(anna)
    for name in ("item", "at", "quantity", "paid", "discount"):
        found, wanted = (getattr(d, name)[rows] for d, rows in ((person.pairs.data, mine), (whole, theirs)))
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    items, basket = np.arange(len(engine.catalog)), np.array([0, 3])
    rest = Pairs(engine.catalog, whole, engine.bundle.facts)
    np.testing.assert_array_equal(person.pairs.of(person.place, items, basket), rest.of(anna, items, basket))
    assert engine.history.rows(anna) != theirs and engine.person("bert", AT).pairs is engine.pairs


def test_a_list_is_that_of_an_engine_whose_history_holds_the_purchases(
    engine: Engine, store: Store, bundle: Bundle
) -> None:
    store.add(NEWS)
    whole = Interactions.from_events(
        same(NEWS), items=engine.catalog.items, keep=engine.catalog.eligible, until=AT
    )
    told = Engine(replace(bundle, interactions=whole))
    for placement in engine.placements:
        for asked in ({}, {"product_ids": ("bread",)}, {"rules": [{"rule": "repeat", "after": "due"}]}):
            assert [i.model_dump() for i in listed(engine, placement, **asked)] == [
                i.model_dump() for i in listed(told, placement, **asked)
            ]


def test_another_cart_of_as_many_is_another_list(engine: Engine, store: Store) -> None:
    ids = set()
    for news in ("butter",), ("towel", "bread"):
        store.add([happened("remove", "butter", 2.5), *(happened("cart", p, 2.6) for p in news[:1])])
        request = RecommendRequest(customer_id="anna")
        ids.add(engine.recommend("cross_sell", request, at=AT).recommendation_id)
        store.add([happened("remove", news[0], 2.7)])
    assert len(ids) == 2


def test_a_purchase_sent_now_changes_the_next_answer(engine: Engine, store: Store) -> None:
    assert "gold" in own(engine) and "gold" in names(listed(engine))
    before = engine.recommend("discover", RecommendRequest(customer_id="anna"), at=AT).recommendation_id
    store.add([bought("gold", 1, "n1"), bought("bread", 1, "n1")])
    assert "gold" not in names([item for item in listed(engine) if not item.filled])
    assert (
        engine.recommend("discover", RecommendRequest(customer_id="anna"), at=AT).recommendation_id != before
    )
    stories = {item.product_id: item.story for item in listed(engine, "buy_again")}
    assert stories["bread"] == "One of your favourites: bought 4 times"
    never = [{"rule": "repeat", "after": "never"}]
    assert not {"gold", "bread"} & set(names(listed(engine, "next_best", rules=never)))
    order = engine.order("anna", None, AT)
    assert (
        order
        and order.order_id == "n1"
        and {line.product.product_id for line in order.lines} == {"gold", "bread"}
    )
    assert engine.order("anna", "3", AT) == engine.order("anna", "3")
    assert engine.order("anna", None) == engine.order("anna", "3")


def test_a_list_that_was_told_before_is_told_anew_after_news(engine: Engine, store: Store) -> None:
    asked = RecommendRequest(customer_id="anna")

    def remembered(engine: Engine) -> RecommendResponse:
        return engine.recommend("buy_again", asked, at=AT, remember=True)

    before = remembered(engine)
    assert before == remembered(engine) and before.items[0] is remembered(engine).items[0]
    overlay = Overlay(engine.bundle)
    overlay.say([{"product_id": item.product_id, "price": 9.5} for item in before.items])
    after = remembered(engine.over(overlay.bundle(engine.bundle)))
    assert {item.price for item in after.items} == {9.5} and {item.price for item in before.items} != {9.5}
    store.add([bought("bread", 1, "n1")])
    stories = {item.product_id: item.story for item in remembered(engine).items}
    assert stories["bread"] == "One of your favourites: bought 4 times"


def test_the_lists_of_one_moment_know_their_customer_once(engine: Engine, store: Store) -> None:
    store.add([bought("rolls", 1, "n1"), bought("rolls", 1, "n0", "bert")])
    first = engine.person("anna", AT)
    assert engine.person("anna", AT) is first and engine.live
    assert engine.person("bert", AT).customer >= 0 and engine.person("anna", AT) is not first
    first = engine.person("anna", AT)
    assert engine.person("anna", AT + timedelta(seconds=1)) is not first
    first = engine.person("anna", AT)
    store.add([bought("gold", 2, "n2")])
    assert engine.person("anna", AT) is not first and len(engine.person("anna", AT).items) > len(first.items)
    store.add([bought("gold", 2, "n3", "web")])
    first = engine.person("anna", AT)
    engine.live.identities.say({"web": "anna"})
    assert len(engine.person("anna", AT).items) > len(first.items)


@pytest.mark.parametrize("told", [[("gold", 1, "n1")], [("rolls", -1.5, "10")], [("towel", -1, "late")]])
def test_whom_an_id_names_now_has_what_was_done_by_it(
    bundle: Bundle, store: Store, clock: Clock, told: list[tuple[str, float, str]]
) -> None:
    """As to a worker that is started then. Order 10 the bundle knows of emil, whose the card was."""
    store.add([bought(*line, "card") for line in told])
    engine = over(bundle, store, clock, card="emil")
    bought_by = partial(shopped, engine)
    assert told[0][0] in bought_by("emil")
    for said in ({"card": "card"}, {"card": "bert"}, {"card": "nina"}, {"nina": "anna"}, {"card": "emil"}):
        assert engine.live
        engine.live.identities.say(said)
        anew = over(bundle, store, clock, **engine.live.identities.said)
        assert anew.live and told[0][0] in bought_by(anew.live.identities.own("card"))
        for who in map(anew.live.identities.own, ("anna", "bert", "card", "emil", "nina")):
            assert bought_by(who) == shopped(anew, who), (said, who)
        anew.live.close()
    assert engine.live
    engine.live.close()


def shopped(engine: Engine, customer_id: str) -> list[str]:
    """What was bought, line by line."""
    return sorted(engine.catalog.items.at(engine.person(customer_id, AT).items))


def test_a_catalogue_that_changes_is_seen_by_who_has_news(engine: Engine, store: Store) -> None:
    store.add([bought("rolls", 1, "n1")])
    overlay = Overlay(engine.bundle)
    for there in (False, True):
        overlay.say([{"product_id": "milk", "in_stock": there}])
        engine = engine.over(overlay.bundle(engine.bundle))
        assert ("milk" in names(listed(engine, "next_best"))) is there


def test_only_what_happened_before_the_moment_counts(engine: Engine, store: Store) -> None:
    store.add([bought("gold", 3, "n1")])
    assert "gold" in names(listed(engine, at=AT))
    later = listed(engine, at=AT + timedelta(seconds=1))
    assert "gold" not in names([item for item in later if not item.filled])


def test_what_was_learned_counts_once_and_what_came_late_counts(
    bundle: Bundle, store: Store, clock: Clock
) -> None:
    again = [bought(p, -18.5, "3") for p in ("bread", "milk", "soap")]
    store.add([*again, returned("milk", -2, "3")])
    engine = over(bundle, store, clock)
    assert engine.live and not engine.live.news
    assert engine.person("anna", AT).pairs is engine.pairs
    store.add([bought("gold", -1, "late"), bought("towel", -1, "late"), returned("towel", -0.5, "late")])
    assert "gold" not in own(engine) and "towel" in own(engine)
    store.add([bought("spelt", -9, "too late")])
    assert "spelt" in names([item for item in listed(engine) if not item.filled])
    engine.live.close()


def test_one_who_returned_everything_bought_nothing(engine: Engine, store: Store) -> None:
    store.add([bought("gold", 1, "n1", customer="nina"), returned("gold", 2, customer="nina")])
    assert engine.person("nina", AT).place == -1
    assert names(listed(engine, customer_id="nina")) == names(listed(engine, customer_id=None))


def test_what_was_all_returned_is_not_told_as_bought(engine: Engine, store: Store) -> None:
    """The models still know of it, the customer's purchases do not."""
    gone = "butter"
    times = engine.catalog.items.at(engine.person("anna", AT).items).count(gone)
    store.add([returned(gone, 1 + n / 100) for n in range(times)])
    assert gone not in engine.catalog.items.at(engine.person("anna", AT).items)
    row = engine.placements["buy_again"]
    ask = engine.ask(row, RecommendRequest(customer_id="anna"), AT)
    told = engine.stored(row.sources[0], engine.models["rhythm"], ask)[0]
    assert set(engine.catalog.items.at(told)) == {"bread", "milk", "soap"}


# --- whom the models do not know ------------------------------------------------------------------------


def test_a_newcomers_lists_are_their_own_after_the_first_order(engine: Engine, store: Store) -> None:
    before = listed(engine, "next_best", customer_id="nina")
    assert all(item.source == "popular" for item in before)
    store.add([bought("rolls", 1, "n1", customer="nina"), bought("butter", 1, "n1", customer="nina")])
    after = listed(engine, "next_best", customer_id="nina")
    assert {"als", "rhythm"} & {item.source for item in after[:3]}
    assert names(after) != names(before)
    assert not {"rolls", "butter"} & {
        i.product_id for i in listed(engine, customer_id="nina") if not i.filled
    }
    assert set(names([i for i in listed(engine, "buy_again", customer_id="nina") if not i.filled])) == {
        "rolls",
        "butter",
    }


def test_a_strangers_list_is_about_what_they_look_at(engine: Engine) -> None:
    found = listed(engine, customer_id=None, product_ids=("rolls",))
    led = [item for item in found if item.because]
    assert led and {b.product_id for item in led for b in item.because} == {"rolls"}
    assert not any(item.story.startswith("Because you buy") for item in found)


def test_what_somebody_looked_at_is_no_reason_for_itself(engine: Engine, store: Store) -> None:
    store.add([happened("view", "rolls", 2.9, "visit-1")])
    for placement in ("next_best", "discover"):
        found = listed(engine, placement, customer_id="visit-1")
        assert "rolls" in names(found)
        assert all(b.product_id != item.product_id for item in found for b in item.because)


def test_a_strangers_list_weighs_what_they_hold_by_its_quantity(engine: Engine) -> None:
    def told(soap: Any, placement: str = "next_best") -> tuple[str, list[float]]:
        asked = RecommendRequest.model_validate({"product_ids": [soap, "milk"], "limit": 8})
        assert RecommendRequest.model_validate_json(asked.model_dump_json()) == asked  # as a client sends it
        found = engine.recommend(placement, asked, at=AT)
        return found.recommendation_id, [item.score for item in found.items]

    one, same, two, many, more = (
        told(soap) for soap in ("soap", of("soap", 1), of("soap", 2), of("soap", 20), of("soap", 1_000))
    )
    assert one == same and one[1] != two[1] != many[1] and many[1] == more[1]
    assert len({one[0], two[0], many[0], more[0]}) == 4
    assert told(of("soap", 9), "cross_sell")[1] == told("soap", "cross_sell")[1]
    for wrong in (
        of("soap", 0),
        of("soap", 1_001),
        of("soap", 1.5),
        {"quantity": 2},
        of("", 1),
        {**of("s", 1), "x": 1},
    ):
        with pytest.raises(ValidationError) as refused:
            told(wrong)
        assert refused.value.errors()[0]["loc"] == ("product_ids", 0)


def of(product: str, quantity: float) -> dict[str, Any]:
    return {"product_id": product, "quantity": quantity}


def test_a_vector_is_what_implicit_would_give(bundle: Bundle) -> None:
    from implicit.als import AlternatingLeastSquares
    from scipy import sparse

    recipe, model = bundle.manifest.recipes["als"], bundle.models["als"]
    engine = Engine(bundle)
    items, age = np.array([1, 4, 4]), np.array([3.0, 10.0, 0.0])
    found = engine.newcomers.vector("als", Lead(items, age, 3))
    weight = np.log1p(np.bincount(items, np.exp2(-age / recipe["half_life"]), len(bundle.catalog)))
    theirs = AlternatingLeastSquares(
        factors=recipe["factors"],
        regularization=recipe["regularization"],
        alpha=1.0,
        use_cg=False,
        num_threads=1,
    )
    theirs.item_factors = np.array(model.arrays()["items"])  # ours is read-only
    wanted = theirs.recalculate_user(
        0, sparse.csr_matrix((weight * recipe["alpha"]).astype(np.float32)[None])
    )
    assert found is not None
    np.testing.assert_allclose(found, np.ravel(wanted), rtol=1e-3, atol=1e-5)


# --- carts, and what was shown --------------------------------------------------------------------------


def test_a_cart_leads_to_what_goes_with_it_and_is_not_in_the_list(engine: Engine, store: Store) -> None:
    asked: dict[str, Any] = {"at": AT, "limit": 3}
    bare = listed(engine, "cross_sell", **asked)
    given = listed(engine, "cross_sell", product_ids=("butter",), **asked)
    store.add(
        [happened("cart", "butter", 2.9), happened("cart", "soap", 2.9), happened("remove", "soap", 2.95)]
    )
    assert names(listed(engine, "cross_sell", **asked)) == names(given) != names(bare)
    assert "butter" not in names(listed(engine, "cross_sell", product_ids=("bread",), at=AT))
    assert names(listed(engine, "cross_sell", limit=3, at=AT + timedelta(days=1))) == names(bare)
    store.add([bought("butter", 2.99, "n1")])
    assert engine.person("anna", AT).cart.tolist() == []


def sent(engine: Engine, store: Store, products: tuple[str, ...], at: datetime) -> None:
    row = {
        "customer_id": "anna",
        "at": at,
        "channel": "sms",
        "placement": "trending",
        "product_ids": list(products),
    }
    store.append("sends", [{**row, "received_at": at}])


def test_what_was_shown_lately_sinks(engine: Engine, store: Store) -> None:
    rule = [{"rule": "rotate", "days": 7, "by": 0.01}]
    first = listed(engine, "next_best")
    assert names(listed(engine, "next_best", rules=rule)) == names(first)
    sent(engine, store, tuple(names(first)[:2]), AT)
    assert names(listed(engine, "next_best", rules=rule)) == names(first)  # not before it is shown
    week = AT + timedelta(days=6)
    assert names(listed(engine, "next_best", at=week)) == names(listed(engine, "next_best"))
    sunk = names(listed(engine, "next_best", rules=rule, at=week))
    assert not set(sunk[:2]) & set(names(first)[:2]) and set(sunk) == set(names(first))
    assert names(listed(engine, "next_best", rules=rule, at=AT + timedelta(days=8))) == names(first)


def test_what_was_in_view_on_a_page_sinks_under_every_id(engine: Engine, store: Store) -> None:
    rule = [{"rule": "rotate", "days": 7, "by": 0.01}]
    first, second = names(listed(engine, "next_best"))[:2]
    store.add([
        happened("impression", first, 0), happened("impression", second, 0.1, "card"),
        {**happened("impression", "", 0.1), "product_id": None}, happened("impression", "unheard of", 0.1),
    ])  # fmt: skip
    sunk = listed(engine, "next_best", rules=rule)
    assert set(names(sunk)[-2:]) == {first, second}
    assert names(listed(engine, "next_best"))[:2] == [first, second]


# --- the erased -----------------------------------------------------------------------------------------


def test_whoever_is_erased_is_a_stranger_at_once(engine: Engine, store: Store) -> None:
    store.add([bought("gold", 1, "n1")])
    sent(engine, store, ("bread",), UNTIL + timedelta(days=2))
    assert engine.person("anna", AT).place == 0 and not engine.is_buried("anna")
    request = RecommendRequest(customer_id="anna")
    before = engine.recommend("trending", request, at=UNTIL).recommendation_id
    store.bury("anna", at=AT)
    assert engine.is_buried("anna") and not engine.is_buried("bert")
    assert engine.recommend("trending", request, at=UNTIL).recommendation_id != before
    rules = [{"rule": "rotate"}]
    for placement in engine.placements:
        assert names(listed(engine, placement, rules=rules)) == names(
            listed(engine, placement, customer_id=None)
        )
    assert engine.order("anna", None, AT) is None


def answered(
    store: Store, granted: bool, channel: str = "web", customer: str = "anna", days: float = 1
) -> None:
    at = UNTIL + timedelta(days=days)
    row = {"customer_id": customer, "channel": channel, "purpose": "personalisation", "granted": granted}
    store.append("consents", [{**row, "at": at, "received_at": at}])


def test_who_declined_gets_the_lists_of_nobody_in_particular(engine: Engine, store: Store) -> None:
    store.add([bought("gold", 1, "n1")])
    own = {name: names(listed(engine, name)) for name in engine.placements}
    nobodys = {name: names(listed(engine, name, customer_id=None)) for name in engine.placements}
    assert own != nobodys
    request = RecommendRequest(customer_id="anna")
    before = engine.recommend("next_best", request, at=AT).recommendation_id
    answered(store, False, customer="card")  # another of their ids
    assert {name: names(listed(engine, name)) for name in engine.placements} == nobodys
    assert engine.recommend("next_best", request, at=AT).recommendation_id != before
    assert engine.order("anna", None, AT) is not None  # what they ordered is theirs all the same
    assert names(listed(engine, customer_id="bert")) != names(listed(engine, customer_id=None))
    answered(store, True, days=2)  # a change of mind
    assert {name: names(listed(engine, name)) for name in engine.placements} == own
    answered(store, False, days=1.5)  # told late, said before
    assert names(listed(engine)) == own["discover"]


def test_a_no_that_files_told_counts_and_stays_while_the_database_is_away(
    bundle: Bundle, store: Store, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "history")
    rows = [
        {"customer_id": who, "channel": channel, "purpose": "personalisation", "granted": yes, "at": UNTIL}
        for who, channel, yes in (
            ("anna", "web", False),
            ("bert", "web", False),
            ("bert", "email", True),
            ("fred", "web", False),
        )
    ]
    put(history, "consents", *rows)
    engine = Engine(bundle)
    engine.follow(Store(store.url, hurry=True), identities=Identities(), clock=clock, ledger=history)
    assert engine.live
    assert engine.live.is_impersonal("anna") and not engine.live.is_impersonal("bert")
    assert not engine.live.is_impersonal("carl")
    for who, yes in (("anna", True), ("carl", False), ("bert", False)):
        answered(store, yes, customer=who)
    engine.live.look()
    assert {who for who in ("anna", "bert", "carl", "dora", "fred") if engine.live.is_impersonal(who)} == {
        "carl",
        "fred",
    }
    answered(store, True, days=2, customer="carl")
    engine.live.look()
    assert not engine.live.is_impersonal("carl") and len(engine.live.impersonal) == 3
    answered(store, False, days=3, customer="carl")
    engine.live.look()
    monkeypatch.setattr(engine.live, "asked", lambda read, otherwise: otherwise)
    assert engine.live.is_impersonal("carl") and engine.live.is_impersonal("fred")
    engine.live.close()


# --- the database is away -------------------------------------------------------------------------------


def missed() -> float:
    return metrics.REGISTRY.get_sample_value("osclms_live_missed_total") or 0.0


def test_without_the_database_answers_go_on_from_the_bundle(
    engine: Engine,
    store: Store,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.add([bought("gold", 1, "n1")])
    store.bury("bert", at=AT)
    assert "gold" not in own(engine)
    assert engine.live
    asked: list[str] = []

    def away(*_: Any, **__: Any) -> Any:
        asked.append("")
        raise StoreError("the database shop cannot be used")

    with monkeypatch.context() as gone:
        for name in ("ends", "since", "shown", "read", "acts", "active"):
            gone.setattr(engine.live.store, name, away)
        before = missed()
        assert "gold" in own(engine) and engine.is_buried("bert")
        assert len(asked) == 1 and missed() > before  # it is left alone for a while
        clock.at += REST
        assert "gold" in own(engine) and len(asked) == 2
    assert caplog.text.count("without live events") == 1 and "anna" not in caplog.text
    assert "gold" in own(engine)
    clock.at += REST
    assert "gold" not in own(engine) and "read again" in caplog.text


def test_nobody_waits_for_a_database_that_stands_still(
    engine: Engine, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first time: whether it is back a thread asks, once at a time."""
    store.add([bought("gold", 1, "n1")])
    assert engine.live
    wakes, asked, look = Event(), list[str](), engine.live.store.ends

    def still(*tables: str) -> dict[str, int]:
        asked.append("")
        if len(asked) == 1:
            raise StoreError("the server is silent")
        wakes.wait(30)
        return look(*tables)

    monkeypatch.setattr(engine.live.store, "ends", still)
    assert "gold" in own(engine)
    clock.at += REST
    began = time.monotonic()
    assert all("gold" in own(engine) for _ in range(3)) and len(asked) == 2
    assert time.monotonic() - began < 10
    wakes.set()
    assert engine.live.asking and engine.live.asking.result(30)
    assert "gold" not in own(engine)


def test_customers_beyond_the_most_are_each_asked_about(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MOST", 2)
    store.add([bought("gold", 1, f"n{n}", customer=f"c{n}") for n in range(4)])
    store.add([bought("gold", 1, "n9")])
    assert engine.live and "gold" not in own(engine)
    assert engine.live.everybody and not engine.live.news


def test_of_more_than_the_most_none_is_forgotten_for_those_who_are_one(
    bundle: Bundle, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MOST", 1)
    for number, who in enumerate(("anna", "card", "emil")):
        store.add([bought("gold", 1, f"m{number}", who)])
    engine = over(bundle, store, clock)  # card is anna
    assert engine.live and engine.live.everybody
    assert "gold" not in own(engine, customer_id="emil")
    engine.live.close()


def test_the_age_of_news_is_measured_when_they_are_first_seen(engine: Engine, store: Store) -> None:
    def lag() -> tuple[float, float]:
        value = metrics.REGISTRY.get_sample_value
        return value("osclms_event_lag_seconds_count") or 0, value("osclms_event_lag_seconds_sum") or 0

    listed(engine)
    before = lag()
    store.add([bought("gold", 1, "n1"), bought("soap", 2.5, "n2")])
    listed(engine)
    listed(engine)
    count, seconds = lag()
    assert (count - before[0], seconds - before[1]) == (1, 86_400 / 2)


# --- the service ----------------------------------------------------------------------------------------


def get(engine: Engine, store: Store, path: str, **site: Any) -> httpx.Response:
    from serving.service import Edge, Site

    edge, sent = Edge(), partial(store.append, "sends")
    edge.open(Site(engine, as_of=None, history=None, sent=sent, clock=lambda: AT, **site))

    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=edge), base_url="http://127.0.0.1"
        ) as http:
            return await http.get(path)

    return asyncio.run(answer())


@pytest.mark.parametrize(
    ("path", "lists"),
    [
        ("/v1/messages/thank_you?customer_id=anna&agreed=true", 2),
        ("/v1/fragments/next_best.txt?customer_id=anna", 1),
    ],
)
def test_what_is_sent_is_on_record_and_a_preview_is_not(
    engine: Engine, store: Store, path: str, lists: int
) -> None:
    assert get(engine, store, path).status_code == 200
    assert store.shown("anna", UNTIL)["at"] == ()
    assert get(engine, store, path + "&record=true").status_code == 200
    found = store.shown("anna", UNTIL)
    assert len(found["at"]) == lists and set(found["channel"]) == {"email"}
    assert all(found["product_ids"]) and all(found["recommendation_id"])
    anybody = path.split("?")[0] + "?record=true"
    assert get(engine, store, anybody).status_code == 400


def test_a_message_is_on_record_by_the_channel_of_its_program(engine: Engine, store: Store) -> None:
    from serving.service import shipped

    programs = {"thank_you": shipped()["thank_you"].model_copy(update={"channel": "push"})}
    path = "/v1/messages/thank_you?customer_id=anna&agreed=true&record=true"
    assert get(engine, store, path, programs=programs).status_code == 200
    assert set(store.shown("anna", UNTIL)["channel"]) == {"push"}


def test_nobody_writes_to_the_erased(engine: Engine, store: Store) -> None:
    store.bury("anna", at=AT)
    assert get(engine, store, "/v1/messages/thank_you?customer_id=anna&record=true").status_code == 404
    assert get(engine, store, "/v1/fragments/next_best.txt?customer_id=anna&record=true").status_code == 200
    assert store.shown("anna", UNTIL)["at"] == ()


def test_a_mail_goes_out_that_cannot_be_put_on_record(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("no room for anna")

    monkeypatch.setattr(store, "append", full)
    assert get(engine, store, "/v1/fragments/next_best.txt?customer_id=anna&record=true").status_code == 200
    assert "StoreError" in caplog.text and "anna" not in caplog.text


def test_a_purchase_told_to_one_worker_is_known_to_each(folder: Path, tmp_path: Path) -> None:
    settings = {
        "bundle": str(folder),
        "database_url": f"sqlite:///{tmp_path}/store.db",
        "workers": str(WORKERS),
    }
    server = start("serving.service:Service", tmp_path, settings)
    try:
        now = datetime.now(UTC) - timedelta(minutes=1)
        first, asked = bought("gold", 0, "n1"), {"customer_id": "anna", "limit": 8}
        del first["received_at"]
        assert all("gold" in discover(server, asked) for _ in each_worker(server))
        event = {**first, "occurred_at": now.isoformat()}
        told = httpx.post(f"{server.url}/v1/events", json={"events": [event]}, timeout=30)
        assert told.json()["accepted"] == 1
        told_to = [discover(server, asked) for _ in each_worker(server)]
    finally:
        stop(server)
    assert len(told_to) == WORKERS and not any("gold" in items for items in told_to)


def each_worker(server: Server) -> Iterator[psutil.Process]:
    """The workers in turn, while the others are stopped."""
    workers = psutil.Process(server.process.pid).children(recursive=True)
    for worker in workers:
        others = [other for other in workers if other != worker]
        for other in others:
            other.suspend()
        try:
            yield worker
        finally:
            for other in others:
                other.resume()


def discover(server: Server, asked: dict[str, Any]) -> set[str]:
    """A list by a connection of its own, which may come to another worker."""
    found = httpx.post(f"{server.url}/v1/recommend/discover", json=asked, timeout=60).json()["items"]
    return {item["product_id"] for item in found if not item["filled"]}
