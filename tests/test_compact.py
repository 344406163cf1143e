"""From the database to the history: each row once, whenever it is killed."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from live import NOW, event, nursery, spelled

from features.history import History
from features.mapping import Mapping
from features.schema import TABLES
from features.sources import load
from serving.compact import Moved, compact
from serving.store import Store, address

LONG = 50


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "home" / "history")


def put(history: History, table: str, *rows: dict[str, Any]) -> None:
    """Load rows as a file."""
    file = history.folder.parent / f"{table}.csv"
    file.parent.mkdir(exist_ok=True)
    names = list(rows[0])
    file.write_text("\n".join([",".join(names), *(",".join(str(row[n]) for n in names) for row in rows)]))
    load(
        history,
        table,
        [file],
        Mapping.model_validate({"columns": {n: n for n in names}}),
        rejects_dir=file.parent,
    )


def received(**row: Any) -> dict[str, Any]:
    return {**row, "received_at": NOW}


def ids(history: History) -> list[str]:
    found: list[str] = history.events()["event_id"].to_pylist()
    return found


def row(history: History, table: str, key: str) -> dict[str, Any]:
    found = history.row(table, key)
    assert found is not None
    return {name: value for name, value in found.items() if value is not None}


def content(history: History) -> dict[str, bytes]:
    files = (path for path in history.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(history.folder)): path.read_bytes() for path in files}


# --- what becomes of it ---------------------------------------------------------------------------------


def test_events_are_moved_once(store: Store, history: History) -> None:
    store.add([event("e1", quantity=0.1, channel="web"), event("e2", days=40)])
    assert compact(history, store).tables["events"] == Moved(2, 2)
    assert ids(history) == ["e2", "e1"]
    assert compact(history, store).tables["events"] == Moved()
    store.add([event("e1", quantity=0.1, channel="web"), event("e3")])
    assert compact(history, store).tables["events"] == Moved(1, 1)
    assert sorted(ids(history)) == ["e1", "e2", "e3"]
    (found,) = (e for e in history.events().to_pylist() if e["event_id"] == "e1")
    given = {
        name: value
        for name, value in event("e1", quantity=0.1, channel="web").items()
        if name != "received_at"
    }
    assert {name: value for name, value in found.items() if value is not None} == given


def test_an_event_that_a_file_told_of_stays(store: Store, history: History) -> None:
    put(history, "events", {"event_id": "e1", "event_type": "view", "product_id": "milk", "occurred_at": NOW})
    store.add([event("e1"), event("e2")])
    assert compact(history, store).tables["events"] == Moved(2, 1)
    assert sorted(history.events()["product_id"].to_pylist()) == ["milk", "tea"]


def test_what_a_change_does_not_say_stays(store: Store, history: History) -> None:
    put(history, "products", {"product_id": "tea", "title": "Tea", "price": 2})
    store.append(
        "products", [received(product_id="tea", price=3.0), received(product_id="tea", in_stock=False)]
    )
    store.append("products", [received(product_id="tea", price=4.0, category=["food", "tea"])])
    assert compact(history, store).tables["products"] == Moved(3, 0, 1)
    known = {
        "product_id": "tea",
        "title": "Tea",
        "price": 4.0,
        "in_stock": False,
        "category": ["food", "tea"],
    }
    assert row(history, "products", "tea") == known
    store.append("products", [received(product_id="tea", in_stock=True)])
    compact(history, store)
    assert row(history, "products", "tea") == {**known, "in_stock": True}


def test_a_new_product_is_known_from_when_it_came(store: Store, history: History) -> None:
    store.append("products", [received(product_id="tea", title="Tea")])
    compact(history, store)
    assert row(history, "products", "tea") == {"product_id": "tea", "title": "Tea", "known_from": NOW}
    store.append("products", [{"product_id": "tea", "price": 2.0, "received_at": NOW + timedelta(days=1)}])
    compact(history, store)
    assert row(history, "products", "tea")["known_from"] == NOW


def test_a_product_that_is_moved_is_not_moved_again_over_a_later_list(store: Store, history: History) -> None:
    store.append("products", [received(product_id="tea", price=3.0)])
    compact(history, store)
    put(history, "products", {"product_id": "tea", "price": 5})
    compact(history, store)
    assert row(history, "products", "tea")["price"] == 5


def test_customers_identities_and_consents(store: Store, history: History) -> None:
    put(history, "customers", {"customer_id": "anna", "first_name": "Anna"})
    store.append("customers", [received(customer_id="anna", email="a@b.c"), received(customer_id="bert")])
    store.append(
        "identities", [received(alias="card", customer_id="bert"), received(alias="card", customer_id="anna")]
    )
    given = {"customer_id": "card", "channel": "email", "purpose": "marketing"}
    store.append(
        "consents", [received(**given, at=NOW, granted=True), received(**given, at=NOW, granted=False)]
    )
    store.append("consents", [received(**given, at=NOW - timedelta(days=1), granted=True)])
    compact(history, store)
    assert row(history, "customers", "anna") == {
        "customer_id": "anna",
        "first_name": "Anna",
        "email": "a@b.c",
    }
    assert history.aliases() == {"card": "anna"}
    assert history.table("consents")["granted"].to_pylist() == [True, False]


def test_two_databases_are_moved_each_by_its_own_marks(
    store: Store, history: History, tmp_path: Path
) -> None:
    with Store(address(tmp_path / "other", None)) as other:
        store.add([event("e1"), event("e2")])
        other.add([event("e3")])
        for database in (store, other, store, other):
            compact(history, database)
        assert sorted(ids(history)) == ["e1", "e2", "e3"]


def test_a_history_that_was_lost_comes_back(store: Store, history: History) -> None:
    store.add([event("e1"), event("e2", days=40)])
    compact(history, store)
    before = content(history)
    shutil.rmtree(history.folder)
    compact(history, store)
    assert content(history) == before


def test_an_older_copy_of_the_database_loses_nothing_that_came_since(
    tmp_path: Path, history: History
) -> None:
    with Store(address(tmp_path / "a", None)) as store:
        store.add([event("e1")])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with Store(address(tmp_path / "a", None)) as store:
        store.add([event("e2"), event("e3")])
        compact(history, store)
    with Store(address(tmp_path / "b", None)) as copy:
        copy.add([event(name, received_at=NOW + timedelta(days=1)) for name in ("e4", "e5", "e6")])
        compact(history, copy)
    assert sorted(ids(history)) == ["e1", "e2", "e3", "e4", "e5", "e6"]


def test_many_pages(store: Store, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.store.PAGE", 7)
    store.add([event(f"e{n}", days=n) for n in range(50)])
    assert compact(history, store).tables["events"] == Moved(50, 50)
    assert len(set(ids(history))) == 50


# --- the command ----------------------------------------------------------------------------------------


def ran(*words: object, settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OSCLMS_")}
    command = [sys.executable, "-m", "osclms", "compact", *map(str, words)]
    return subprocess.run(command, env={**clean, **settings}, capture_output=True, text=True)


def test_the_command_moves_what_came_in(store: Store, url: sa.URL, history: History) -> None:
    store.add([event("e1"), event("e2")])
    named = {"OSCLMS_DATABASE_URL": spelled(url)} if url.host or url.query else {}  # else the one in the home
    ended = ran("--home", history.folder.parent, "--json", settings=named)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["events"] == {"read": 2, "new": 2, "replaced": 0}
    assert sorted(ids(history)) == ["e1", "e2"]


def test_the_command_says_why_it_cannot() -> None:
    ended = ran(settings={"OSCLMS_DATABASE_URL": "mysql://me:secret@host/shop"})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("osclms: OSCLMS_DATABASE_URL names mysql")
    assert "secret" not in ended.stderr


# --- kill -9 --------------------------------------------------------------------------------------------


def fill(store: Store, history: History) -> None:
    """What is known already, and what is to be moved."""
    put(history, "events", {"event_id": "e1", "event_type": "view", "product_id": "tea", "occurred_at": NOW})
    put(history, "products", {"product_id": "tea", "title": "Tea"}, {"product_id": "oil", "title": "Oil"})
    store.add([event(f"e{n}", days=n / 10) for n in range(30)])
    store.append("products", [received(product_id="tea", price=3.0), received(product_id="milk", price=1.0)])


def homes(history: History, names: list[str]) -> list[Path]:
    made = [history.folder.parent.parent / "homes" / name for name in names]
    for home in made:
        shutil.copytree(history.folder, home / "history")
    return made


def check_all_or_nothing(store: Store, history: History, tries: dict[Path, int]) -> None:
    """After each kill the history is as before or as after, and compacting again makes it as after."""
    (whole,) = homes(history, ["whole"])
    compact(History(whole / "history"), store)
    after, before = state(History(whole / "history")), state(history)
    assert before != after and len(set(after["events"])) == len(after["events"]) == 30
    for home, code in tries.items():
        killed = History(home / "history")
        assert state(killed) in ([after] if code == 0 else [before, after]), home
        compact(killed, store)
        assert content(killed) == content(History(whole / "history")), home


def state(history: History) -> dict[str, Any]:
    tables = {
        name: history.table(name).to_pylist() for name in TABLES if name not in ("events", "promotions")
    }
    return {**tables, "events": ids(history), "marks": history.manifest.marks}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # it is read alone: the steps are the history's
def test_killed_at_each_durable_step_it_is_as_before_or_as_after(store: Store, history: History) -> None:
    fill(store, history)
    made = homes(history, [f"step_{n:02}" for n in range(20)])
    codes = nursery().ask("compact steps", spelled(store.url), [str(home) for home in made])
    assert codes == [-9] * codes.count(-9) + [0] * codes.count(0)
    assert codes.count(-9) >= 8 and codes[-1] == 0
    done = codes.count(-9) + 1
    check_all_or_nothing(store, history, dict(zip(made[:done], codes, strict=False)))


def check_instants(store: Store, history: History, count: int) -> None:
    """Until so many were killed: some are done before."""
    fill(store, history)
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance, tries = random.Random(seed), dict[Path, int]()
    while (killed := list(tries.values()).count(-9)) < count:
        assert len(tries) < 10 * count, f"{killed} of {len(tries)} killed"
        made = homes(history, [f"at_{n:03}" for n in range(len(tries), len(tries) + count)])
        instants = {str(home): chance.uniform(0, 1) for home in made}
        (whole,) = homes(history, [f"timed_{len(tries)}"])
        codes = nursery().ask("compact instants", spelled(store.url), instants, str(whole))
        tries |= dict(zip(made, codes, strict=True))
    check_all_or_nothing(store, history, tries)
    print(f"{killed} of {len(tries)} killed")


def test_killed_at_any_instant_it_is_as_before_or_as_after(store: Store, history: History) -> None:
    check_instants(store, history, 5)


@pytest.mark.long
def test_killed_at_many_instants_it_is_as_before_or_as_after(store: Store, history: History) -> None:
    check_instants(store, history, LONG)
