"""Several ids of one customer: said to be one, taken back, and what lists make of it; over both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compact import put
from test_held import plan
from test_people import Shop, grocer, shop  # noqa: F401 - fixtures

from features.history import History, canonical
from serving import identities
from serving.compact import compact
from serving.identities import (
    Identities,
    buried,
    identities_now,
    ids_now,
    ids_of,
    merge,
    merges,
    naming,
    said_about,
    said_now,
    undo,
)
from serving.people import CustomerChange, take
from serving.store import Store, address
from serving.wire import RequestError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
AT, DAY = datetime(2026, 3, 5, tzinfo=UTC), timedelta(days=1)


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def test_a_merge_is_on_record_and_taken_back(store: Store) -> None:
    made = merge(store, None, "anna", "web-1", by="ops", at=AT)
    assert (made["alias"], made["customer_id"], made["formerly"], made["by"]) == (
        "web-1",
        "anna",
        None,
        "ops",
    )
    assert identities_now(store, None) == {"web-1": "anna"}
    undo(store, None, "web-1", by="ops", at=AT)
    assert identities_now(store, None) == {}
    undo(store, None, "web-1", by="other", at=AT)  # of an undo: one again
    assert identities_now(store, None) == {"web-1": "anna"}
    told = [(row["alias"], row["customer_id"], row["formerly"], row["by"]) for row in merges(store)]
    assert told == [
        ("web-1", "anna", None, "ops"), ("web-1", "web-1", "anna", "ops"), ("web-1", "anna", "web-1", "other"),
    ]  # fmt: skip
    assert all(row["received_at"] == AT for row in merges(store))


def test_whole_customers_are_merged_and_parted(store: Store) -> None:
    """bert has a card, anna a device; by whichever ids they are named, all are one, and then two as before."""
    merge(store, None, "anna", "device", by=None, at=AT)
    merge(store, None, "bert", "card", by=None, at=AT)
    before = identities_now(store, None)
    merge(store, None, "device", "card", by=None, at=AT)
    assert set(identities_now(store, None).values()) == {"anna"}
    with pytest.raises(RequestError, match="one customer already"):
        merge(store, None, "bert", "anna", by=None, at=AT)
    undo(store, None, "bert", by=None, at=AT)
    assert identities_now(store, None) == before == {"device": "anna", "card": "bert"}
    with pytest.raises(RequestError, match="no merge of nobody"):
        undo(store, None, "nobody", by=None, at=AT)


def test_what_is_merged_meanwhile_is_seen(store: Store, url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading and writing somebody else writes: by what each read, both would be right."""
    alone = store.alone

    def late() -> Any:
        monkeypatch.setattr(store, "alone", alone)
        with Store(url) as other:
            merge(other, None, "bert", "anna", by="first", at=AT)
        return alone()

    monkeypatch.setattr(store, "alone", late)
    with pytest.raises(RequestError, match="one customer already"):
        merge(store, None, "anna", "bert", by="second", at=AT)
    monkeypatch.setattr(store, "alone", late)
    with pytest.raises(RequestError, match="one customer already"):
        merge(store, None, "bert", "anna", by="third", at=AT)
    assert identities_now(store, None) == {"anna": "bert"}


def test_of_two_who_merge_at_once_one_is_refused(store: Store, url: sa.URL) -> None:
    ready = Barrier(2)

    def act(one: str, other: str) -> int:
        with Store(url) as own:
            refused = 0
            for n in range(8):
                ready.wait(60)
                try:
                    merge(own, None, f"{one}{n}", f"{other}{n}", by=one, at=AT)
                except RequestError:
                    refused += 1
            return refused

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(act, ("a", "b"), ("b", "a"))) == 8
    assert len(merges(store)) == len(identities_now(store, None)) == 8


def test_facts_of_a_customer_who_is_erased_meanwhile_are_not_taken(
    store: Store, url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = store.alone

    def late() -> Any:
        with Store(url) as other:
            buried(other, None, "anna", at=AT)
        return alone()

    monkeypatch.setattr(store, "alone", late)
    with pytest.raises(RequestError, match="erased"):
        take(store, None, "anna", CustomerChange(region="North"), AT)
    assert store.of("customers", ["anna"]) == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_who_was_who_before_a_merge_is_known_although_it_was_moved(store: Store, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    put(history, "identities", {"alias": "card", "customer_id": "anna"})
    first = identities_now(store, history)
    merge(store, history, "bert", "card", by=None, at=AT)
    merge(store, history, "bert", "web", by=None, at=AT + DAY)
    undo(store, history, "web", by=None, at=AT + 2 * DAY)
    for _ in range(2):
        seen = [identities_now(store, history, AT + n * DAY) for n in range(4)]
        both = {"card": "bert", "anna": "bert"}
        assert seen == [first, both, {**both, "web": "bert"}, both]
        compact(history, store)
    assert said_now(store, history, AT)["card"] == "anna" == history.identities()["card"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_was_said_before_comes_back_although_it_was_moved(store: Store, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    put(history, "identities", {"alias": "card", "customer_id": "anna"})
    store.record(
        {"identities": [{"alias": "x", "customer_id": "y", "received_at": AT}]}
    )  # so that there is something to move
    before = said_now(store, history)
    merge(store, history, "bert", "anna", by=None, at=AT)
    for _ in range(2):
        compact(history, store)
        assert identities_now(store, history)["card"] == "bert"
    undo(store, history, "card", by=None, at=AT)  # anna is what the last merge made another's
    compact(history, store)
    after = said_now(store, history)
    assert after == {**before, "anna": "anna"} and identities_now(store, history)["card"] == "anna"


NAMES = st.sampled_from("abcdefg")
SAID = st.lists(st.tuples(NAMES, NAMES), max_size=8)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAID, SAID, SAID, st.integers(0, 24), st.sets(NAMES, min_size=1, max_size=2))
def test_what_is_said_of_some_is_what_all_say_of_them(
    url: sa.URL, tmp_path_factory: pytest.TempPathFactory,
    filed: list[tuple[str, str]], moved: list[tuple[str, str]], told: list[tuple[str, str]], days: int, some: set[str],
) -> None:  # fmt: skip
    """Whatever a file said, was moved into the history, or came since; now, and before any of it."""
    home = tmp_path_factory.mktemp("some")
    history = History(home / "history")
    with Store(address(home, None)) as store:
        for number, (alias, customer_id) in enumerate([*moved, *told]):
            if number == len(moved):
                compact(history, store)
                if filed:
                    rows = [{"alias": one, "customer_id": other} for one, other in dict(filed).items()]
                    put(history, "identities", *rows)
            at = AT + number * DAY
            store.record(naming(said_now(store, history), [alias], customer_id, by=None, at=at))
        for until in (None, AT + days * DAY):
            everything = said_now(store, history, until)
            found = said_about(store, history, some, until)
            ends = canonical(everything)
            near = {other for name in some for other in ids_of(name, ends)}
            assert (
                {k: v for k, v in everything.items() if k in near}.items()
                <= found.items()
                <= everything.items()
            )
            for name in some:
                assert ids_now(store, history, name, until) == ids_of(name, ends)


@given(SAID, st.lists(SAID, max_size=5))
def test_who_is_who_is_kept_up_with(first: list[tuple[str, str]], later: list[list[tuple[str, str]]]) -> None:
    who, said = Identities(dict(first)), dict(first)
    for more in later:
        who.say(dict(more))
        said |= dict(more)
        anew = Identities(said)
        assert (who.said, who.aliases, who.others) == (anew.said, anew.aliases, anew.others)
        for name in "abcdefg":
            assert who.ids(who.own(name)) == ids_of(name, anew.aliases)


def test_one_is_told_without_looking_at_all_others(
    store: Store, url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"alias": f"web-{n}", "customer_id": f"c{n // 4}", "received_at": AT} for n in range(20_000)]
    store.record({"identities": rows, "merges": rows})
    with store.writing() as db:
        db.exec_driver_sql("ANALYZE")
    asked = list[Any]()
    select = store.select
    monkeypatch.setattr(store, "read", None)  # all of a table

    def noted(wanted: Any) -> list[Any]:
        asked.append(wanted)
        return select(wanted)

    monkeypatch.setattr(store, "select", noted)
    take(store, None, "c7", CustomerChange(identities=("login", "web-28")), AT)
    merge(store, None, "c8", "c9", by=None, at=AT)
    undo(store, None, "c9", by=None, at=AT)
    assert ids_now(store, None, "login", AT) == ("login",)
    assert ids_now(store, None, "login") == ("c7", "login", "web-28", "web-29", "web-30", "web-31")
    assert len(asked) > 10
    for wanted in asked:
        told = plan(store, wanted, url)
        assert "identities_by" in told and "Seq Scan" not in told and "SCAN identities" not in told, told


def test_a_change_of_one_leaves_all_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    who, looked = Identities({f"web-{n}": f"c{n // 4}" for n in range(1_000)}), list[int]()

    def noted(said: dict[str, str]) -> dict[str, str]:
        looked.append(len(said))
        return canonical(said)

    monkeypatch.setattr(identities, "canonical", noted)
    who.say({"login": "c7", "c8": "c9"})
    assert who.ids("c7") == ("c7", "login", "web-28", "web-29", "web-30", "web-31")
    assert len(who.ids("c9")) == 10 and who.own("web-32") == "c9"
    assert looked == [14]


def test_an_erased_customer_is_merged_with_nobody(store: Store) -> None:
    store.bury("anna", at=AT)
    with pytest.raises(RequestError, match="erased"):
        merge(store, None, "bert", "anna", by=None, at=AT)
    assert merges(store) == []


def listed(shop: Shop, who: str, placement: str = "buy_again", **asked: Any) -> list[str]:  # noqa: F811
    body = {"customer_id": who, "limit": 20, **asked}
    return [
        item["product_id"] for item in shop("POST", f"/v1/recommend/{placement}", json=body).json()["items"]
    ]


def unbought(shop: Shop, who: str) -> list[str]:  # noqa: F811
    return listed(shop, who, "trending", rules=[{"rule": "repeat", "after": "never"}])


def test_lists_honour_a_merge_after_training_and_its_undoing(shop: Shop) -> None:  # noqa: F811
    """What carl bought is nothing new to anna, as long as the two are one."""
    history = History(shop.home / "history")
    before = {who: unbought(shop, who) for who in ("anna", "carl")}
    assert {*before["anna"]} == {"rolls", "spelt", "gold", "towel"} and "butter" in before["carl"]
    for _ in range(2):
        merge(shop.store, history, "anna", "carl", by="ops", at=AT)
        shop.catch_up()
        assert {*unbought(shop, "anna")} == {"rolls", "gold"}
        assert unbought(shop, "carl") == unbought(shop, "anna")
        undo(shop.store, history, "carl", by="ops", at=AT)
        shop.catch_up()
        assert {who: unbought(shop, who) for who in ("anna", "carl")} == before


def test_whom_the_models_know_by_another_id_alone_keeps_what_they_bought(shop: Shop) -> None:  # noqa: F811
    before = listed(shop, "carl")
    merge(shop.store, History(shop.home / "history"), "web-new", "carl", by=None, at=AT)
    shop.catch_up()
    assert set(listed(shop, "web-new")) == set(before)


def test_the_route_records_who_said_it(shop: Shop) -> None:  # noqa: F811
    shop("PUT", "/v1/customers/bert", json={"identities": ["web-7", "card"]})
    told = [(row["alias"], row["customer_id"], row["formerly"]) for row in merges(shop.store)]
    assert told == [("web-7", "bert", None), ("card", "bert", "anna")]
    shop("PUT", "/v1/customers/bert", json={"identities": ["web-7"]})  # which changes nothing
    assert len(merges(shop.store)) == 2
    undo(shop.store, History(shop.home / "history"), "card", by="ops", at=AT)
    assert shop("GET", "/v1/customers/card").json()["identities"] == ["card"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("other", ["", "  ", "x\0y", "x" * 201])
def test_what_is_no_id_is_nobodys(store: Store, other: str) -> None:
    with pytest.raises(RequestError):
        merge(store, None, "anna", other, by=None, at=AT)
    assert identities_now(store, None) == {}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_merge_of_who_was_erased_is_not_taken_back(store: Store) -> None:
    merge(store, None, "anna", "web-1", by=None, at=AT)
    store.bury("anna", at=AT)
    with pytest.raises(RequestError, match="erased"):
        undo(store, None, "web-1", by=None, at=AT)
