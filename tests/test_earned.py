"""What programs of a home earned: arms by its decisions, outcomes by its purchases, counted again here by hand."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_compact import put
from test_osclms import Run
from test_osclms import run as run

from features.experiments import is_held_back
from features.history import History
from lifecycle.measure.report import earned, planned
from lifecycle.run import OWN
from serving.store import Store, address
from training.earned import page

START, DAYS, N = datetime(2024, 3, 1, tzinfo=UTC), 60, 900
PROGRAMS = {"news": 0.2, "back": 0.3}
Doc = dict[str, Any]


def program(name: str, holdout: float) -> str:
    return (
        f"name: {name}\nabout: for a test\ntrigger: {{kind: broadcast, on: 2024-03-01, within: 30}}\n"
        f"holdout: {holdout}\nmetric: revenue\nmetric_days: 28\nshelves: [{{placement: next_best}}]\n"
        "texts: {en: {subject: s, title: t, body: b, shelves: [h]}}\n"
    )


def arm(name: str, who: str) -> tuple[str, str | None]:
    if is_held_back("control|7", who, 0.1):
        return "holdout", "control"
    held = is_held_back(f"{name}|7", who, PROGRAMS.get(name, 0))
    return ("holdout", "program") if held else ("message", None)


def decision(who: str, name: str, day: int, **other: Any) -> dict[str, Any]:
    outcome, detail = arm(name, who)
    return {
        "run_at": START + timedelta(days=day), "customer_id": who, "program": name, "version": "1",
        "occasion": f"{day}", "outcome": outcome, "detail": detail, "channel": "email",
        "message_id": f"{name}-{who}-{day}", "send_at": START + timedelta(days=day), "local_day": "2024-03-01",
        "kind": "marketing", "content": None, "policy": "priority", "probability": 1.0, "received_at": START, **other,
    }  # fmt: skip


def orders() -> Iterator[dict[str, Any]]:
    """Some buy before and after; who got news buys more."""
    draw = random.Random(3)
    for n in range(N):
        who, size = f"c{n}", draw.lognormvariate(2, 0.8)
        often = 0.03 * (1.6 if arm("news", who)[0] == "message" else 1)
        for day in range(-60, DAYS):
            if draw.random() < (often if day >= 0 else 0.03):
                price = round(size * draw.lognormvariate(0, 0.3), 2)
                yield {
                    "event_id": f"{who}-{day}", "customer_id": who, "product_id": draw.choice(["tea", "salt"]),
                    "event_type": "order", "occurred_at": (START + timedelta(days=day, hours=12)).isoformat(),
                    "order_id": f"o-{who}-{day}", "quantity": 1, "unit_price": price,
                }  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("earned")
    history = History(home / "history")
    put(history, "events", *orders())
    put(history, "products", {"product_id": "tea", "cost": 2.0}, {"product_id": "salt", "cost": 1.0})
    put(history, "identities", {"alias": "card-1", "customer_id": "c1"})
    (home / OWN).mkdir()
    for name, share in PROGRAMS.items():
        (home / OWN / f"{name}.yaml").write_text(program(name, share))
    (home / OWN / "policy.yaml").write_text("control: 0.1\nseed: 7\n")
    rows = [decision(f"c{n}", "news", n % 3) for n in range(N)]
    rows += [decision(f"c{n}", "news", 10 + n % 3) for n in range(0, N, 2)]  # the first one counts
    rows += [decision(f"c{n}", "back", 50) for n in range(N)]  # of which no window ends
    rows += [decision("c2", "thanks", 0, kind="transactional", outcome="message", detail=None)]
    with Store(address(home, None)) as store:
        store.append("decisions", rows)
    return home


@pytest.fixture
def home(bare: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bare, tmp_path / "home"))


def of(doc: Doc, name: str) -> Doc:
    return next(of for of in doc["programs"] if of["program"] == name)


def by_hand(days: int) -> dict[bool, list[float]]:
    """Revenue a customer in the days after their first decision about news, by whether they were written to."""
    spent: dict[str, float] = {}
    for row in orders():
        who = row["customer_id"]
        first = START + timedelta(days=int(who[1:]) % 3)
        if first <= datetime.fromisoformat(row["occurred_at"]) < first + timedelta(days=days):
            spent[who] = spent.get(who, 0) + row["unit_price"]
    found: dict[bool, list[float]] = {True: [], False: []}
    for n in range(N):
        outcome, detail = arm("news", f"c{n}")
        if detail != "control":
            found[outcome == "message"].append(spent.get(f"c{n}", 0.0))
    return found


def test_a_program_is_compared_with_its_own_control(home: Path) -> None:
    doc = earned(home, None, windows=(7, 28, 90))
    news = of(doc, "news")
    expected = by_hand(28)
    assert (news["treated"], news["control"]) == (len(expected[True]), len(expected[False]))
    found = news["windows"]["28"]["measures"]["revenue"]
    for side, arm_is in (("treated", True), ("control", False)):
        assert found[side]["mean"] == pytest.approx(sum(expected[arm_is]) / len(expected[arm_is]), rel=1e-5)
        assert found[side]["buyers"] == sum(value > 0 for value in expected[arm_is])
    assert found["p"] < 0.05 and found["ci95"][0] > 0 and found["reduction"] > 0
    assert found["incremental"] == pytest.approx(found["difference"] * news["treated"])
    assert news["windows"]["90"]["matured"] == [0, 0] and "90 days" in news["windows"]["90"]["why"]
    assert set(news["windows"]["28"]["measures"]) == {"revenue", "conversion", "orders", "margin"}
    assert not news["ratio"]["alarm"] and not news["leak"]["reached"] and not news["warnings"]
    assert news["p_adjusted"] == pytest.approx(found["p"]) and of(doc, "back")["p_adjusted"] is None
    assert of(doc, "all")["control"] == sum(arm("news", f"c{n}")[1] == "control" for n in range(N))
    assert "never sum" in doc["warnings"][0] and "thanks" not in {p["program"] for p in doc["programs"]}
    assert earned(home, None, windows=(7, 28, 90)) == doc


def test_the_future_of_a_window_changes_nothing_in_it(home: Path) -> None:
    before = of(earned(home, None, only="news", windows=(7,)), "news")["windows"]
    late = {
        "customer_id": "c5", "product_id": "tea", "event_type": "order", "quantity": 1, "unit_price": 9_000,
        "occurred_at": (START + timedelta(days=20)).isoformat(), "order_id": "late", "event_id": "late",
    }  # fmt: skip
    put(History(home / "history"), "events", late)
    assert of(earned(home, None, only="news", windows=(7,)), "news")["windows"] == before
    assert of(earned(home, None, only="news", windows=(28,)), "news")["windows"] != before


def test_looks_and_days_end_where_the_window_does(home: Path) -> None:
    news = of(earned(home, None, only="news", windows=(28,)), "news")
    found = news["windows"]["28"]["measures"]["revenue"]["treated"]["mean"]
    assert len(news["by_day"]["treated"]) == 28 and news["by_day"]["treated"][-1] == pytest.approx(found)
    plain = news["windows"]["28"]["measures"]["revenue"]["unadjusted"]
    last = news["looks"][-1]
    assert last["incremental"] == pytest.approx(plain["difference"] * news["treated"])
    assert last["band95"][0] < plain["ci95"][0] * news["treated"]  # wider, as it holds at every look


def test_a_time_takes_its_decisions_alone(home: Path) -> None:
    doc = earned(
        home, None, since=START + timedelta(days=10), until=START + timedelta(days=20), windows=(28,)
    )
    news = of(doc, "news")
    assert news["treated"] + news["control"] == sum(
        arm("news", f"c{n}")[1] != "control" for n in range(0, N, 2)
    )
    assert doc["left_out"] == ["back"]
    nothing = earned(home, None, since=START + timedelta(days=500), windows=(28,))
    assert not nothing["programs"] and "nothing can be measured" in nothing["warnings"][0]
    assert "nothing can be measured" in page(nothing)


def test_a_home_without_decisions_is_told(home: Path) -> None:
    (home / "store.db").unlink()
    doc = earned(home, None, windows=(28,))
    assert not doc["programs"] and "nothing can be measured" in doc["warnings"][0]


def test_a_leaky_control_is_told(home: Path) -> None:
    held = [n for n in range(N) if arm("news", f"c{n}") == ("holdout", "program")][:12]
    sent = [{"message_id": f"news-c{n}-{n % 3}", "customer_id": f"c{n}", "state": "sent", "at": START,
             "detail": None, "subject": None, "received_at": START} for n in held[:6]]  # fmt: skip
    opened = [
        {"event_id": f"open-{n}", "customer_id": f"c{n}", "event_type": "open", "channel": "email",
         "occurred_at": (START + timedelta(days=5)).isoformat(), "message_id": f"news-c{n}-{n % 3}"}
        for n in held[6:]
    ]  # fmt: skip
    put(History(home / "history"), "events", *opened)
    with Store(address(home, None)) as store:
        store.append("deliveries", sent)
    news = of(earned(home, None, only="news", windows=(28,)), "news")
    assert news["leak"]["reached"] == 12 and news["leak"]["alarm"]
    assert any("the control leaks: 12" in said for said in news["warnings"])


def test_lost_decisions_set_off_the_alarm(home: Path) -> None:
    (home / OWN / "news.yaml").write_text(program("news", 0.35))  # as if a part of the control were lost
    news = of(earned(home, None, only="news", windows=(28,)), "news")
    assert news["ratio"]["alarm"] and "Believe no figure" in news["warnings"][0]
    assert any("share or the seed was changed" in said for said in news["ratio"]["causes"])


def test_one_that_holds_nobody_back_says_what_it_is_compared_with(home: Path) -> None:
    (home / OWN / "whole.yaml").write_text(program("whole", 0.0))
    rows = [decision(f"c{n}", "whole", 1) for n in range(N)]
    with Store(address(home, None)) as store:
        store.append("decisions", rows)
    found = of(earned(home, None, only="whole", windows=(28,)), "whole")
    assert "universal control" in found["note"] and found["ratio"] and not found["ratio"]["alarm"]


def test_who_became_one_keeps_the_first_arm_and_is_told(home: Path) -> None:
    treated = next(n for n in range(N) if arm("news", f"c{n}")[0] == "message" and n % 3 == 0)
    held = next(n for n in range(N) if arm("news", f"c{n}") == ("holdout", "program") and n % 3 == 1)
    before = of(earned(home, None, only="news", windows=(28,)), "news")
    put(History(home / "history"), "identities", {"alias": f"c{held}", "customer_id": f"c{treated}"})
    found = of(earned(home, None, only="news", windows=(28,)), "news")
    assert (found["treated"], found["control"]) == (before["treated"], before["control"] - 1)
    assert found["mixed"] == 1 and found["leak"]["reached"] == 0


def test_who_was_erased_is_in_no_arm(home: Path) -> None:
    with Store(address(home, None)) as store:
        store.bury("c4", at=START)
    found = of(earned(home, None, only="news", windows=(28,)), "news")
    before = sum(arm("news", f"c{n}")[1] != "control" for n in range(N))
    assert found["treated"] + found["control"] == before - (arm("news", "c4")[1] != "control")


def test_a_plan_says_what_would_be_found(home: Path) -> None:
    rows = planned(home, 10_000, windows=(28,))["plans"]
    assert [row["share"] for row in rows] == [0.05, 0.1, 0.2, 0.5]
    found = [row["detectable"] for row in rows]
    assert found == sorted(found, reverse=True) and rows[0]["detectable"] / rows[0]["mean"] == rows[0]["lift"]
    assert planned(home, 20, windows=(28,))["plans"][0]["refused"]


def test_the_command_writes_page_and_run(home: Path, run: Run, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    ended = run("lift", "--home", home, "--window", "7,28", "--out", tmp_path / "out")
    assert ended.code == 0 and "news" in ended.out and "never sum" in ended.out
    assert "clicked" not in ended.out and ended.out.count("too early") == 1  # of `back`
    text = (tmp_path / "out" / "lift.html").read_text()
    assert (
        text.count("data:image/svg+xml") >= 3
        and "<script" not in text
        and "c1" not in text.split("<h1>")[1][:200]
    )
    assert run("lift", "--home", home, "--program", "news", "--json").json["programs"][0]["program"] == "news"
    assert "detectable" in str(run("lift", "--home", home, "--plan", 5_000, "--json").json)
    assert run("lift", "--home", home, "--plan", 5_000).code == 0
    client = MlflowClient(f"sqlite:///{home.resolve() / 'mlflow.db'}")
    (logged,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert logged.data.metrics["news.p"] < 0.05
    assert {f.path for f in client.list_artifacts(logged.info.run_id)} == {"lift.html", "lift.json"}


def test_no_customer_is_named(home: Path) -> None:
    import json

    told = json.dumps(earned(home, None, windows=(28,)))
    assert not any(f'"c{n}"' in told for n in range(N))
