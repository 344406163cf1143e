"""The synthetic layer over the demo data: it says what it is, changes nothing twice, and no figure of purchases."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from worlds import contents

from features.catalog import Catalog
from features.contacts import SYNTHETIC
from features.generate import mapping_text
from features.history import History
from features.interactions import Interactions
from features.mapping import Mapping
from features.sources import LoadError, load
from features.synthetic import lay_over
from lifecycle.support import measured


def known(history: History) -> tuple[Any, ...]:
    """All that training reads of purchases, but for the attributes of products."""
    span = history.span()
    assert span is not None
    events = history.purchases(span[1])
    catalog = Catalog.of(history.table("products"), events, until=span[1])
    data = Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=span[1])
    rest = catalog.table.drop_columns(["attributes"])
    return span, dict(contents(data)), rest, history.table("promotions")


@pytest.fixture(scope="module")
def laid(loaded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[History, History]:
    """The history before and after."""
    home = tmp_path_factory.mktemp("laid")
    shutil.copytree(loaded_home / "history", home / "history")
    history = History(home / "history")
    reports = lay_over(history, seed=7, rejects_dir=home / "rejects")
    assert all(r.read and not r.rejected for r in reports)
    return History(loaded_home / "history"), history


def test_no_figure_of_purchases_moves(laid: tuple[History, History]) -> None:
    before, after = laid
    assert known(before) == known(after)
    figures = [measured(history) for history in laid]
    assert {n for n in figures[0] if figures[0][n] != figures[1][n]} == {"contacts", "consents"}
    assert figures[1]["contacts"] > 100 and figures[1]["consents"] > 200


def test_the_same_seed_twice_changes_nothing(laid: tuple[History, History], tmp_path: Path) -> None:
    home = tmp_path / "again"
    shutil.copytree(laid[1].folder, home / "history")
    history, manifest = History(home / "history"), laid[1].manifest
    again = lay_over(history, seed=7, rejects_dir=home / "rejects")
    assert all(r.known == r.read for r in again) and history.manifest == manifest


def test_everything_says_that_it_is_made_up(laid: tuple[History, History]) -> None:
    history = laid[1]
    events = history.events(types=("view", "cart"))
    assert len(events) > 500 and pc.unique(events["channel"]).to_pylist() == ["synthetic"]
    assert all(text.startswith("synthetic-") for text in events["visit_id"].unique().to_pylist())
    assert pc.unique(history.table("consents")["source"]).to_pylist() == ["synthetic"]
    for row in history.table("customers").to_pylist():
        made_up = json.loads(row["attributes"])["synthetic"]
        assert {"locale", "time_zone", "region"} - set(made_up) <= {"locale"}  # one household's is its own
        assert row["email"] is None or row["email"].rpartition("@")[2] in ("example.com", "example.org")
    stocks = [json.loads(text) for text in history.table("products")["attributes"].to_pylist()[:500]]
    assert all(about["stock"] > 0 and about["synthetic"] == ["stock"] for about in stocks)


def test_facts_on_record_stay(laid: tuple[History, History]) -> None:
    row = laid[1].row("customers", "1")
    assert row is not None and (row["first_name"], row["locale"]) == ("Zoë", "en-GB")
    assert row["last_name"] and "first_name" not in json.loads(row["attributes"])["synthetic"]


def test_views_and_carts_are_of_who_agreed_and_come_before_their_order(laid: tuple[History, History]) -> None:
    seen = laid[1].events(types=("view", "cart")).to_pandas()
    consents = laid[1].table("consents").to_pandas()
    web = consents[consents["channel"] == "web"]
    refused = web[~web["granted"]]["customer_id"]
    assert len(refused) > 10 and not seen["customer_id"].astype(str).isin(refused).any()
    orders = (
        laid[1].events(types=("order",)).to_pandas().groupby("order_id", observed=True)["occurred_at"].min()
    )
    orders.index = orders.index.astype(str)
    named = seen["visit_id"].astype(str).str.removeprefix("synthetic-").str[:-2]
    assert (seen["occurred_at"].to_numpy() < orders[named].to_numpy()).all()


def test_without_purchases_there_is_nothing_to_lay_it_over(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="holds no purchases"):
        lay_over(History(tmp_path / "history"), seed=7, rejects_dir=tmp_path / "rejects")


def test_who_really_said_no_is_not_made_to_say_yes(loaded_home: Path, tmp_path: Path) -> None:
    shutil.copytree(loaded_home / "history", tmp_path / "history")
    history = History(tmp_path / "history")
    names = pc.unique(history.events(types=("order",))["customer_id"]).drop_null().to_pylist()
    rows = "".join(f"{name},email,marketing,false,2016-01-01T00:00:00Z,till\n" for name in names)
    (tmp_path / "said.csv").write_text("customer_id,channel,purpose,granted,at,source\n" + rows)
    columns = ("customer_id", "channel", "purpose", "granted", "at", "source")
    mapping = Mapping.parse(mapping_text(columns))
    load(history, "consents", [tmp_path / "said.csv"], mapping, rejects_dir=tmp_path)
    lay_over(history, seed=7, rejects_dir=tmp_path)
    said = [
        row["source"]
        for row in history.table("consents").to_pylist()
        if (row["channel"], row["purpose"]) == ("email", "marketing")
    ]
    assert set(said) == {"till"} and len(said) == len(names)
    assert SYNTHETIC in history.table("consents")["source"].to_pylist()


def test_another_shop_gets_no_made_up_contacts(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    (tmp_path / "sales.csv").write_text("customer,order,at,product\nanna,1,2026-01-01T00:00:00Z,tea\n")
    mapping = Mapping.parse(
        '[store]\nname = "Corner"\n[columns]\ncustomer_id = "customer"\norder_id = "order"\n'
        'occurred_at = "at"\nproduct_id = "product"\nevent_type = { value = "order" }\n'
        "quantity = { value = 1 }\nunit_price = { value = 2 }\n"
    )
    load(history, "events", [tmp_path / "sales.csv"], mapping, rejects_dir=tmp_path)
    with pytest.raises(LoadError, match="is of Corner"):
        lay_over(history, seed=7, rejects_dir=tmp_path)
    assert history.counts()["customers"] == history.counts()["consents"] == 0
