"""A challenger is served to the customers that a hash draws, the champion to all others; a faulty one to nobody."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from running import AS_OF, start, stop
from test_compact import put
from test_earned import START, of
from test_osclms import Run
from test_osclms import run as run
from test_run import AT, with_programs
from test_swap import FILES, WITHIN, another, promoted

from features.history import History
from lifecycle import run as run_module
from lifecycle.drafts import Draft, draft
from lifecycle.measure.report import earned
from lifecycle.run import run as decide
from serving.bundle import BundleError
from serving.challenge import FILE, Beside, Challenge, challenges, ended, running
from serving.engine import Engine
from serving.store import DATA, Store, address

SEED, SHARE, N = 5, 0.4, 900
D = DATA["decisions"].c


def challenge(version: str = "2", **other: Any) -> Challenge:
    about = {"version": version, "champion": "1", "share": SHARE, "seed": SEED, "since": START, **other}
    return Challenge.model_validate(about)


def written(home: Path, *rows: Challenge) -> None:
    (home / FILE).write_text("".join(row.model_dump_json() + "\n" for row in rows))


def until(holds: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


@pytest.fixture
def home(shop_home: Path, tmp_path: Path) -> Path:
    home = Path(shutil.copytree(shop_home, tmp_path / "home"))
    another(home, "2")
    (another(home, "3") / "items.npy").unlink()
    return home


def test_a_service_answers_those_who_were_drawn_by_the_challenger(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bentoml").mkdir()
    written(home, challenge())
    server = start("serving.service:Service", tmp_path / "bentoml", {"home": str(home), "as_of": AS_OF})
    names = [str(n) for n in range(1, 41)]
    drawn = {name: challenge().draws(name) for name in names}
    assert 5 < sum(drawn.values()) < 35

    with httpx.Client(base_url=server.url, timeout=30) as http:

        def version(**asked: Any) -> str:
            return str(http.post("/v1/recommend/next_best", json=asked).json()["model_version"])

        def versions() -> dict[str, str]:
            lines = http.post("/v1/recommend/next_best/batch", json=names).text.splitlines()[:-1]
            return {
                n: json.loads(line)["answer"]["model_version"] for n, line in zip(names, lines, strict=True)
            }

        try:
            until(lambda: "2" in versions().values())
            assert versions() == {name: "2" if yes else "1" for name, yes in drawn.items()}
            one = next(name for name, yes in drawn.items() if yes)
            assert version(customer_id=one) == version(customer_id=one, product_ids=[]) == "2"
            lists = http.get("/v1/messages/thank_you", params={"customer_id": one, "agreed": True}).json()[
                "lists"
            ]
            assert {found["model_version"] for found in lists} == {"2"}
            shown = http.get("/v1/fragments/next_best.txt", params={"customer_id": one})
            assert shown.headers["OSCLMS-Model-Version"] == "2"
            strangers = [
                version(limit=limit) for limit in range(1, 41)
            ]  # each question by itself, and always alike
            assert 5 < strangers.count("2") < 35 and strangers == [version(limit=n) for n in range(1, 41)]
            text = http.get("/metrics").text
            assert 'osclms_challenger_share{version="2"} 0.4' in text
            assert all(
                f'osclms_list_items_count{{placement="next_best",version="{v}"}}' in text for v in "12"
            )

            written(home, challenge("3"))
            until(lambda: "osclms_challenger_refused_total 1.0" in http.get("/metrics").text)
            assert (
                set(versions().values()) == {"1"}
                and f"bundle {home}/bundles/3 lacks" in server.log.read_text()
            )

            written(home, challenge())  # still there as the next champion comes
            promoted(home, "2")
            until(lambda: set(versions().values()) == {"2"})
            assert "osclms_challenger_share{" not in http.get("/metrics").text
        finally:
            stop(server)


def test_what_cannot_stand_in_is_refused_and_the_command_says_what_is_on(home: Path, run: Run) -> None:
    for words, says in (
        (("3",), "lacks items.npy"), (("1",), "is the champion"), (("9",), "no version 9"),
        (("2", "--stop"), "not both"),
    ):  # fmt: skip
        ended = run("challenge", *words, "--home", home)
        assert ended.code and says in ended.err + ended.out, ended
    assert run("challenge", "--home", home, "--json").json == {"challenge": None} and not challenges(home)
    run("challenge", "2", "--home", home)
    again = run("challenge", "2", "--share", 0.3, "--home", home)
    assert "version 2 answers 30.00% of customers (seed 2)" in again.out
    first, second = challenges(home)
    assert first.until == second.since and running(home) == second and first.seed != second.seed
    assert "the champion answers all" in run("challenge", "--stop", "--home", home).out
    assert running(home) is None and challenges(home)[1].until
    (home / FILE).write_text("{}\n")
    with pytest.raises(BundleError, match=r"challenges.jsonl:1 is no challenge"):
        running(home)


def test_a_challenge_ends_with_its_champion(tmp_path: Path) -> None:
    (tmp_path / "champion").write_text("1\n")
    written(tmp_path, challenge())
    assert running(tmp_path) == challenge() and ended(tmp_path, challenge()) is None
    (tmp_path / "champion").write_text("4\n")
    rows = [("1", -3), ("4", 2), ("1", 5)]
    log = (json.dumps({"version": v, "at": (START + timedelta(days=day)).isoformat()}) for v, day in rows)
    (tmp_path / "champions.jsonl").write_text("\n".join(log) + "\n")
    assert running(tmp_path) is None and ended(tmp_path, challenge()) == START + timedelta(days=2)
    (tmp_path / "champion").write_text("1\n")  # put back: what was over stays over
    assert running(tmp_path) is None
    assert ended(tmp_path, challenge(until=START + timedelta(days=1))) == START + timedelta(days=1)


def test_there_are_never_more_than_two(tmp_path: Path) -> None:
    """What is beside the champion leaves before another is made, and what is refused is tried once."""
    (tmp_path / "champion").write_text("1\n")
    made, there, most = list[str](), set[str](), list[int]()

    def make(folder: Path) -> str:
        made.append(folder.name)
        if folder.name == "3":
            raise ValueError("household-4711")
        there.add(folder.name)
        most.append(len(there))
        return folder.name

    def use(named: Challenge | None, one: str | None) -> None:
        there.intersection_update({one})

    beside = Beside[str](tmp_path, make=make, use=use, drop=there.discard)
    for row in (
        challenge("2"),
        challenge("2"),
        challenge("4"),
        challenge("3"),
        challenge("3"),
        challenge("4"),
    ):
        written(tmp_path, row)
        beside.look()
    assert made == ["2", "4", "3", "4"] and max(most) == 1 and there == {"4"}
    (tmp_path / "champion").write_text("5\n")
    beside.look()
    assert not there


@FILES
def test_a_challenger_that_is_refused_for_a_file_is_tried_again_when_that_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, wrong: str, right: str, why: str, read: Any
) -> None:
    (tmp_path / "champion").write_text("1\n")
    written(tmp_path, challenge("2"))
    tried, used = list[str](), list[object]()

    def make(folder: Path) -> object:
        tried.append(folder.name)
        return read(tmp_path)

    beside = Beside[object](tmp_path, make=make, use=lambda _, made: used.append(made), drop=print)
    for text in (wrong, None, right, None):
        if text:
            (tmp_path / name).write_text(text)
        beside.look()
    assert tried == ["2", "2"] and len(used) == 1
    assert why in caplog.text


def test_a_run_says_which_version_made_each_message(
    written_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = with_programs(Path(shutil.copytree(written_home, tmp_path / "home")))
    another(home, "2")
    written(home, challenge())
    decide(home, None, AT, now=AT, only=["news"])
    with Store(address(home, None)) as store:
        rows = store.select(sa.select(D.customer_id, D.model_version).where(D.message_id.is_not(None)))
    assert {version for _, version in rows} == {"1", "2"}
    assert all(version == ("2" if challenge().draws(name) else "1") for name, version in rows)

    def fails(engine: Engine, **about: Any) -> Draft:
        if engine.version == "2":
            raise RuntimeError("out of order")
        return draft(engine, **about)

    monkeypatch.setattr(run_module, "draft", fails)
    other = f"sqlite:///{tmp_path}/other.db"
    decide(home, other, AT, now=AT, only=["news"])
    with Store(sa.make_url(other)) as store:
        anew = store.select(sa.select(D.customer_id, D.model_version).where(D.message_id.is_not(None)))
    assert sorted(anew) == sorted((name, "1") for name, _ in rows), (
        "the champion gives what the challenger cannot"
    )


# --- what it earned -----------------------------------------------------------------------------------------


def lives(of: Challenge) -> Iterator[dict[str, Any]]:
    """All look at something, some day; who was drawn to the challenger buys twice as often from then on."""
    rng = np.random.default_rng(8)
    for n in range(N):
        who, size, first = f"c{n}", float(np.exp(rng.normal(2, 0.6))), int(rng.integers(0, 10))
        at = START + timedelta(days=first, hours=6)
        yield {"event_id": f"look-{n}", "customer_id": who, "product_id": "tea", "event_type": "view",
               "occurred_at": at.isoformat(), "order_id": "", "quantity": "", "unit_price": ""}  # fmt: skip
        for day in range(-30, 45):
            often = 0.03 * (2 if of.draws(who) and day >= first else 1)
            if rng.random() < often:
                yield {"event_id": f"{who}-{day}", "customer_id": who, "product_id": "tea", "event_type": "order",
                       "occurred_at": (START + timedelta(days=day, hours=12)).isoformat(),
                       "order_id": f"o-{who}-{day}", "quantity": 1, "unit_price": round(size, 2)}  # fmt: skip


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lived")
    (home / "champion").write_text("1\n")
    nothing = challenge(seed=SEED + 1, since=START - timedelta(days=20), until=START)
    blind = challenge(version="3", seed=SEED + 2)
    written(home, nothing, blind, challenge())
    put(History(home / "history"), "events", *lives(challenge()))
    return home


def test_versions_are_compared_by_who_was_drawn_to_each(lived: Path, run: Run) -> None:
    doc = earned(lived, None, windows=(28,), by="version")
    found = of(doc, "version 2, challenge 3")
    measures = found["windows"]["28"]["measures"]
    drawn = sum(challenge().draws(f"c{n}") for n in range(N))
    assert (found["treated"], found["control"]) == (drawn, N - drawn) and not found["ratio"]["alarm"]
    assert measures["revenue"]["p"] < 0.01 and measures["revenue"]["ci95"][0] > 0
    assert of(doc, "version 3, challenge 2")["windows"]["28"]["measures"]["revenue"]["p"] > 0.05
    assert doc["left_out"] == ["version 2, challenge 1"] and found["arms"] == ["version 2", "version 1"]
    assert not found["warnings"]
    assert run("lift", "--by", "version", "--program", "all", "--home", lived).code


def test_lists_of_the_other_version_are_told(lived: Path, run: Run) -> None:
    held = [f"c{n}" for n in range(N) if not challenge().draws(f"c{n}")][:30]
    rows = [
        {"run_at": START + timedelta(days=11), "customer_id": who, "program": "news", "version": "1", "occasion": "1",
         "outcome": "message", "channel": "email", "message_id": f"m-{who}", "kind": "marketing",
         "model_version": "2", "received_at": datetime(2024, 4, 1, tzinfo=UTC)}
        for who in held
    ]  # fmt: skip
    with Store(address(lived, None)) as store:
        store.append("decisions", rows)
    shown = run("lift", "--by", "version", "--home", lived, "--window", 28, "--json")
    found = of(shown.json, "version 2, challenge 3")
    assert found["leak"]["reached"] == found["mixed"] == 30 and found["leak"]["alarm"]
    assert any("got version 2 after all" in said for said in found["warnings"])
    text = run("lift", "--by", "version", "--home", lived, "--window", 28).out
    assert "version 2 against version 1" in text
