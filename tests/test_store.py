"""The store: what is committed stays, once; on SQLite and on a real PostgreSQL."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import sqlalchemy as sa
from live import NOW, event, nursery, spelled, stored

from features.schema import TABLES
from serving import store as store_module
from serving.settings import Settings
from serving.store import (
    FILE,
    HEAD,
    LEDGERS,
    METADATA,
    MIGRATIONS,
    Mark,
    Outcome,
    Store,
    StoreError,
    address,
    micros,
)

ACCEPTED, DUPLICATE, CONFLICT = Outcome


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


# --- events ---------------------------------------------------------------------------------------------


def test_an_event_is_stored_once_however_often_it_comes(store: Store) -> None:
    tea, milk = event("e1"), event("e2", product_id="milk")
    assert store.add([tea, milk, tea]) == [ACCEPTED, ACCEPTED, DUPLICATE]
    again = {**tea, "received_at": NOW + timedelta(days=1)}
    assert store.add([again, event("e3")]) == [DUPLICATE, ACCEPTED]
    assert stored(store) == ["e1", "e2", "e3"]


def test_what_is_stored_stays_whatever_comes_by_its_id(store: Store) -> None:
    store.add([event("e1")])
    other = event("e1", product_id="milk")
    assert store.add([other, event("e2"), event("e2", quantity=2.0)]) == [CONFLICT, ACCEPTED, CONFLICT]
    assert store.since("anna", NOW)["product_id"] == ("tea", "tea")


def test_every_column_comes_back_as_it_went_in(store: Store) -> None:
    texts: dict[str, Any] = {
        c.name: f"{c.name} ü" for c in TABLES["events"].columns if c.name.endswith("_id")
    }
    whole = event("e1", **texts, quantity=1 / 3, unit_price=0.1, discount=0.0, value=-1e300, channel="web")
    whole |= {"event_id": "e1", "placement": "upsell", "occurred_at": NOW + timedelta(microseconds=1)}
    store.add([whole])
    (page,) = store.read("events", 0, 1)
    assert page == [{"seq": 1, **whole}]
    assert store.add([whole]) == [DUPLICATE]
    odd = [event(f"odd{value}", value=value) for value in (5e-324, -0.0, 1e308)]
    assert store.add(odd) == [ACCEPTED] * 3 and store.add(odd) == [DUPLICATE] * 3


def test_a_customers_events_of_a_range(store: Store) -> None:
    store.add([event("old", days=2), event("new"), event("mid", days=1), event("else", customer_id="bert")])
    assert store.since("anna", NOW - timedelta(days=1))["event_id"] == ("mid", "new")
    assert store.since("anna", NOW - timedelta(days=2), NOW)["event_id"] == ("old", "mid")
    assert store.since("anna", NOW)["occurred_at"] == (micros(NOW),)
    assert store.since("nobody", NOW)["event_id"] == ()


def test_a_failure_stores_nothing_and_tells_nothing(store: Store) -> None:
    with pytest.raises(StoreError) as failed:
        store.append("customers", [{"customer_id": "secret", "received_at": NOW}, {"customer_id": "secret"}])
    assert "secret" not in str(failed.value)
    assert store.changes().rows == {}
    store.append("customers", [{"customer_id": "anna", "received_at": NOW}])
    assert [row["customer_id"] for row in store.changes().rows["customers"]] == ["anna"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lost_connection_is_made_anew(url: sa.URL) -> None:
    with Store(url) as store, Store(url) as other:
        store.add([event("e1")])
        with other._engine.connect() as db:
            mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            db.exec_driver_sql(mine + "AND datname = current_database()")
        assert store.add([event("e2"), event("e1")]) == [ACCEPTED, DUPLICATE]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_that_stands_still_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HURRY", 0)
    with Store(store.url, hurry=True) as asked:
        asked.ends("events")
        assert asked._kept
        backend = asked._kept.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        os.kill(backend, signal.SIGSTOP)
        wakes = Timer(10, os.kill, (backend, signal.SIGCONT))
        wakes.start()
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match="Silent"):
                asked.ends("events")
            assert time.monotonic() - began < 5
            assert asked.ends("events") == {"events": 0}  # by another connection
        finally:
            wakes.cancel()
            os.kill(backend, signal.SIGCONT)


# --- ledgers and changes --------------------------------------------------------------------------------


def test_a_look_outlives_the_connection_that_was_kept_for_it(store: Store) -> None:
    assert store.ends("events") == {"events": 0}
    kept = store._kept
    assert kept is not None and kept.dbapi_connection is not None
    kept.dbapi_connection.close()
    assert store.ends("events") == {"events": 0}


def test_changes_are_told_once_in_their_order(store: Store) -> None:
    first = store.changes()
    assert (set(first.after.values()), first.rows) == ({0}, {})
    prices = [
        {"product_id": "tea", "price": p, "category": ["food", "tea"], "received_at": NOW} for p in (1.0, 2.0)
    ]
    store.append("products", prices)
    store.bury("carl", at=NOW)
    news = store.changes(first.after)
    assert [row["price"] for row in news.rows["products"]] == [1.0, 2.0]
    assert news.rows["products"][0]["category"] == ["food", "tea"]
    assert set(news.rows) == {"products", "tombstones"}
    assert store.changes(news.after).rows == {}
    assert len(store.changes(limit=1).rows["products"]) == 1
    rest = store.changes(store.changes(limit=1).after)
    assert [row["price"] for row in rest.rows["products"]] == [2.0]


def test_the_consents_are_a_ledger(store: Store) -> None:
    given = {"customer_id": "anna", "channel": "email", "purpose": "marketing", "at": NOW, "received_at": NOW}
    store.append("consents", [{**given, "granted": True}])
    store.append("consents", [{**given, "granted": False}])
    assert [row["granted"] for row in store.changes().rows["consents"]] == [True, False]


def test_who_was_erased_is_known_again_but_not_named(store: Store) -> None:
    store.bury("anna", at=NOW)
    store.bury("anna", at=NOW)
    assert store.buried(["anna", "bert"]) == {"anna"}
    assert store.buried([]) == set()
    (row,) = store.changes().rows["tombstones"]
    assert "anna" not in json.dumps(row, default=str)


def test_what_was_shown_to_whom(store: Store) -> None:
    shown = {"customer_id": "anna", "placement": "upsell", "product_ids": ["tea", "milk"], "received_at": NOW}
    store.append("sends", [{**shown, "at": NOW}, {**shown, "at": NOW - timedelta(days=9)}])
    assert store.shown("anna", NOW - timedelta(days=7))["product_ids"] == (["tea", "milk"],)


def test_a_mark_is_of_one_database(store: Store) -> None:
    assert store.marks()["events"] == Mark()
    store.add([event("e1"), event("e2")])
    mark = store.marks()["events"]
    assert mark == (2, micros(NOW))
    assert store.holds("events", mark) and store.holds("products", Mark())
    assert not store.holds("events", Mark(2, micros(NOW) + 1))
    assert not store.holds("events", Mark(3, micros(NOW)))


# --- the database ---------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_of_this_version(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), METADATA) == []
    assert all(table.names == LEDGERS[name].names for name, table in TABLES.items() if name in LEDGERS)


def test_the_chain_has_one_end() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_database_opened_again_is_the_same(store: Store, url: sa.URL) -> None:
    store.add([event("e1")])
    with Store(url) as again:
        assert (again.id, stored(again), again.buried(["anna"])) == (store.id, ["e1"], set())


def test_several_processes_may_open_a_new_database_at_once(url: sa.URL) -> None:
    assert nursery().ask("open", spelled(url), 8) == [0] * 8
    with Store(url) as store:
        assert len(set(stored(store))) == 8


def test_a_newer_database_is_refused(store: Store, url: sa.URL) -> None:
    with store._engine.connect() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'")
    with pytest.raises(StoreError, match=f"is at r9999, this version of OSCLMS knows up to {HEAD}"):
        Store(url)


def test_sqlite_syncs_each_commit(tmp_path: Path) -> None:
    with Store(address(tmp_path, None)) as store, store._engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no address", "OSCLMS_DATABASE_URL is no address"),
        ("mysql://host/name", "OSCLMS_DATABASE_URL names mysql"),
        ("postgresql://me:secret@127.0.0.1:1/shop", "127.0.0.1/shop cannot be used"),
        ("sqlite:////dev/null/store.db", "cannot be made"),
        ("sqlite:///store.db", "no file from the root"),
        ("sqlite://", "no file from the root"),
    ],
)
def test_a_database_that_cannot_be_is_told_without_its_password(given: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as refused:
        Store(address(None, given))
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database " * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(address(tmp_path, None))


def test_the_settings_name_the_database(tmp_path: Path) -> None:
    assert address(tmp_path, None).database == str(tmp_path / FILE)
    assert address(tmp_path, "postgres://host/shop").drivername == "postgresql+psycopg"
    found = Settings.read({"OSCLMS_DATABASE_URL": "postgresql://me:hush@host/shop"})
    assert "hush" not in repr(found)
    assert Settings(bundle=tmp_path).store() is None
    with pytest.raises(StoreError, match="set OSCLMS_HOME"):
        address(None, None)


def test_moments_are_exact() -> None:
    from serving.store import moment_of

    for moment in (NOW + timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=NOW.tzinfo)):
        assert moment_of(micros(moment)) == moment


# --- kill -9 --------------------------------------------------------------------------------------------


def test_killed_at_each_step_an_event_is_stored_whole_or_not(url: sa.URL) -> None:
    names = [f"e{n}" for n in range(16)]
    Store(url).close()
    codes = nursery().ask("add", spelled(url), names)
    assert codes == [-9] * codes.count(-9) + [0] * codes.count(0)
    assert codes.count(-9) >= 8 and codes[-1] == 0
    with Store(url) as store:
        before = stored(store)
        done = [name for name, code in zip(names, codes, strict=True) if code == 0]
        assert set(done) <= set(before) and len(before) < len(names)
        assert store.add([event(n) for n in names]) == [
            DUPLICATE if name in before else ACCEPTED for name in names
        ]
        assert sorted(stored(store)) == sorted(names)
