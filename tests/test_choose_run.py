"""A run that chooses by what was learned, on the sample shop with made-up contacts."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import END
from live import nursery
from test_run import AT, PROGRAMS, databases, decisions, own_home, run, same, with_programs  # noqa: F401
from typer.testing import CliRunner

from features.history import History
from features.interactions import Ids, Interactions, seconds
from lifecycle.choose.desk import group_of
from lifecycle.choose.past import FOLDER, brought, overlaps
from lifecycle.choose.policy import Policy
from lifecycle.choose.report import learned, reported
from lifecycle.measure.outcomes import Purchases, worths
from lifecycle.programs import Choosers
from lifecycle.run import run as decide
from osclms import app
from serving.store import CHOICES, DATA, Store, address

EVEN = {"learned": 0.4, "random": 0.2, "priority": 0.2, "silence": 0.2}
RULES: Mapping[str, Any] = {"choice": "learned", "choosers": EVEN, "control": 0.05, "choice_days": 1}


@pytest.fixture
def home(tmp_path: Path, written_home: Path) -> Path:
    return with_programs(own_home(tmp_path / "shop", written_home), **RULES)


def choices(where: Path | str) -> list[dict[str, Any]]:
    url = address(where, None) if isinstance(where, Path) else sa.make_url(where)
    names = [name for name in CHOICES.names if name != "received_at"]
    with Store(url) as store:
        rows = store.select(sa.select(*(DATA["choices"].c[name] for name in names)))
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return sorted(found, key=lambda row: (row["run_at"], row["customer_id"], row["channel"]))


def test_each_choice_is_on_record_and_is_what_becomes_of_the_customer(home: Path) -> None:
    run(home, None, AT, now=AT)
    rows, made = choices(home), decisions(home)
    assert len({row["customer_id"] for row in rows}) == len(rows) > 100
    assert set(Counter(row["chooser"] for row in rows)) == set(EVEN)
    by_customer: dict[str, list[dict[str, Any]]] = {}
    for row in made:
        if row["kind"] == "marketing":
            by_customer.setdefault(row["customer_id"], []).append(row)
    for row in rows:
        eligible = json.loads(row["eligible"])
        assert row["chooser"] == group_of("7", row["customer_id"], Choosers(**EVEN))
        assert abs(sum(eligible.values()) - 1) < 1e-6 and eligible[row["arm"]] == pytest.approx(
            row["probability"]
        )
        assert "silence" in eligible and len(eligible) > 1
        sent = [of for of in by_customer[row["customer_id"]] if of["outcome"] in ("message", "holdout")]
        assert [of["program"] for of in sent] == ([] if row["arm"] == "silence" else [row["arm"]])
        others = {
            of["program"]
            for of in by_customer[row["customer_id"]]
            if of["outcome"] in ("outranked", "silence")
        }
        assert others <= set(eligible)
    of_group = {name: {row["arm"] for row in rows if row["chooser"] == name} for name in EVEN}
    assert of_group["silence"] == {"silence"} and "silence" not in of_group["priority"]
    assert {"silence", "after", "news"} <= of_group["random"]
    controls = {row["customer_id"] for row in made if row["detail"] == "control"}
    assert controls and not controls & {row["customer_id"] for row in rows}


def test_made_again_it_chooses_nothing_anew(home: Path) -> None:
    run(home, None, AT, now=AT)
    before = choices(home), decisions(home)
    for only in (("news",), tuple(PROGRAMS)):
        run_of(home, only)
        assert (choices(home), decisions(home)) == before


def run_of(home: Path, only: tuple[str, ...]) -> None:
    decide(home, None, AT, now=AT, only=only)


def test_day_by_day_it_learns_from_what_has_matured_alone(home: Path) -> None:
    for day in range(3):
        at = AT + timedelta(days=day)
        run(home, None, at, now=at)
    with Store(address(home, None)) as store:
        store.add([order(f"o{n}", row["customer_id"], AT + timedelta(hours=3)) for n, row in enumerate(choices(home))
                   if row["run_at"] == AT and row["arm"] == "news"])  # fmt: skip
        store.add([order("last", "somebody", AT + timedelta(days=2, hours=1))])
    at = AT + timedelta(days=3)
    run(home, None, at, now=at)
    versions = {row["policy"] for row in choices(home) if row["run_at"] == at and row["chooser"] == "learned"}
    first = {row["policy"] for row in choices(home) if row["run_at"] == AT and row["chooser"] == "learned"}
    assert len(versions) == len(first) == 1 and versions != first
    before, policy = (Policy.load(home / FOLDER / f"{next(iter(of))}.npz") for of in (first, versions))
    assert before.about["choices"] == 0 and not len(before.draws)
    matured = [
        row for row in choices(home) if row["run_at"] <= AT + timedelta(days=1, hours=1) and not row["held"]
    ]
    assert policy.about["choices"] == len(matured)
    share = Counter(
        row["arm"] for row in choices(home) if row["run_at"] == at and row["chooser"] == "learned"
    )
    eligible = [json.loads(row["eligible"]) for row in choices(home) if row["run_at"] == at]
    assert all(min(of.values()) >= 0.01 - 1e-9 for of in eligible if len({*of.values()} - {0.0, 1.0}) > 1)
    assert sum(share.values()) > 10 and learned(home, None, at).version == policy.version
    told = reported(home, None, at)
    said = CliRunner().invoke(
        app, ["choose", "report", "--home", str(home), "--as-of", at.isoformat(), "--json"]
    )
    assert said.exit_code == 0 and json.loads(said.stdout) == json.loads(json.dumps(told, default=str))
    page = CliRunner().invoke(app, ["choose", "report", "--home", str(home), "--as-of", at.isoformat()])
    assert page.exit_code == 0 and "more than silence" in " ".join(page.stdout.split())
    assert told["matured"] <= told["choices"] == len(choices(home))
    assert {row["arm"] for row in told["groups"]["against"]["silence"]} == set(EVEN)
    assert [of["policy"] for of in told["policies"]] == ["priority", "random", "silence"]


def order(event_id: str, customer: str, at: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(DATA["events"].c.keys()), "event_id": event_id, "customer_id": customer,
        "event_type": "order", "product_id": "1029743", "order_id": event_id, "quantity": 1.0, "unit_price": 50.0,
        "discount": 0.0, "occurred_at": at, "received_at": at,
    }  # fmt: skip


def test_killed_and_resumed_it_chooses_the_same(home: Path, databases: Any) -> None:  # noqa: F811
    whole, cut = next(databases), next(databases)
    codes = nursery().ask("decide instants", str(home), {cut: 0.5}, whole, AT.isoformat())
    assert len(codes) == 1
    run(home, cut, AT, now=AT)
    assert choices(cut) == choices(whole) != [] and same(decisions(cut), decisions(whole))


def test_a_reward_is_what_was_bought_within_the_window(home: Path) -> None:
    events = History(home / "history").purchases(END)
    items = Ids.of({name for name in events["product_id"].to_pylist() if name})
    data = Interactions.from_events(events, items=items, keep=np.ones(len(items), bool), until=END)
    at = np.array([seconds(END - timedelta(days=20)), seconds(END - timedelta(days=50))])
    who, window = np.array([3, 5]), 10 * 86_400
    found = brought(data, worths(data, None), who, at, window)
    for person, moment, sum_ in zip(who, at, found, strict=True):
        mine = (data.customer == person) & (data.at >= moment) & (data.at < moment + window)
        assert sum_ == pytest.approx(data.paid[mine].sum())
    cost = np.full(len(items), np.nan)
    cost[data.item[0]] = 0.0
    assert worths(data, cost).sum() == pytest.approx(data.paid.sum(), rel=1e-6)
    cost[data.item[0]] = 5.0
    spent = Purchases.of(data, cost, data.customers.at(who)).total(at, at + window)
    assert spent["revenue"] == pytest.approx(found) and 0 < spent["revenue"].sum() != spent["margin"].sum()
    assert spent["margin"] == pytest.approx(brought(data, worths(data, cost), who, at, window))
    assert overlaps(["a", "a", "b"], ["email"] * 3, np.array([0, 4, 4]), 10).tolist() == [2, 2, 1]
