"""The daily run, on the sample shop with made-up contacts."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import END
from live import new_database, nursery, place_postgres, postgres, spelled

from features.history import History
from lifecycle import run as module
from lifecycle.channels import Files
from lifecycle.day import day_of
from lifecycle.ledger import HOLDOUT, MADE, MESSAGE, Past
from lifecycle.occasions import PARTS
from lifecycle.outbox import once
from lifecycle.programs import policy, programs
from lifecycle.run import OWN, Candidate, Ran, RunError, moment_of, news, untold, was_told
from lifecycle.run import run as decide
from lifecycle.yamls import FileError
from serving.bundle import champion
from serving.engine import Engine
from serving.identities import merge
from serving.settings import Settings
from serving.store import DATA, DECISIONS, Store, address

AT = END + timedelta(hours=11)
LETTER = {"subject": "s", "title": "t", "body": "b"}
PROGRAMS: Mapping[str, Mapping[str, Any]] = {
    "thanks": {
        "trigger": {"kind": "order", "within": 12}, "kind": "transactional",
        "window": {"start": "00:00", "end": "23:59"},
        "shelves": [{"placement": "cross_sell", "about": "occasion", "minimum": 1}],
    },
    "news": {
        "trigger": {"kind": "broadcast", "on": "2018-01-01", "within": 30}, "holdout": 0.2,
        "shelves": [{"placement": "next_best", "limit": 3, "minimum": 1}],
    },
    "after": {"trigger": {"kind": "order", "within": 20}, "priority": 70, "shelves": [{"placement": "discover"}]},
    "lavish": {
        "trigger": {"kind": "order", "within": 9}, "priority": 80,
        "shelves": [{"placement": "cross_sell", "about": "occasion", "limit": 12, "minimum": 12,
                     "fallback_below": 0.0}],
    },
}  # fmt: skip


def with_programs(home: Path, programs: Mapping[str, Mapping[str, Any]] = PROGRAMS, **rules: Any) -> Path:
    """Programs of the home's own, beside those that ship."""
    (home / OWN).mkdir(exist_ok=True)
    for name, said in programs.items():
        texts = {"en": {**LETTER, "shelves": ["h"] * len(said["shelves"])}}
        (home / OWN / f"{name}.yaml").write_text(
            json.dumps({"name": name, "about": "for a test", "texts": texts, **said}), encoding="utf-8"
        )
    own = json.loads(policy(None).model_dump_json()) | rules
    (home / OWN / "policy.yaml").write_text(json.dumps(own), encoding="utf-8")
    return home


@pytest.fixture
def home(tmp_path: Path, written_home: Path) -> Path:
    return own_home(tmp_path / "shop", written_home)


def own_home(folder: Path, written_home: Path) -> Path:
    """One of its own: bundles and history are shared, as they are only read."""
    folder.mkdir()
    for name in ("bundles", "champion"):
        (folder / name).symlink_to(written_home / name)
    shutil.copytree(written_home / "history", folder / "history")
    return with_programs(folder)


def run(home: Path, url: str | None, at: datetime, *, now: datetime) -> Ran:
    return decide(home, url, at, now=now, only=tuple(PROGRAMS))


def decisions(where: Path | str) -> list[dict[str, Any]]:
    """All of them, in an order that does not hang on who decided them first."""
    url = address(where, None) if isinstance(where, Path) else sa.make_url(where)
    with Store(url) as store:
        names = [name for name in DECISIONS.names if name != "received_at"]
        rows = store.select(sa.select(*(DATA["decisions"].c[name] for name in names)))
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return sorted(found, key=lambda row: (row["run_at"], row["customer_id"], row["program"], row["occasion"]))


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    """But for what each database calls its messages."""
    return [{**row, "message_id": None} for row in a] == [{**row, "message_id": None} for row in b]


def outcomes(ran: Ran) -> Counter[str]:
    found: Counter[str] = Counter()
    for of in ran.outcomes.values():
        found.update(of)
    return found


def test_a_message_that_can_show_nothing_of_what_it_is_about_is_not_decided(home: Path) -> None:
    """As of an order of fuel alone, in a program that shows what was bought."""
    with_programs(
        home, {"stars": {"trigger": {"kind": "order", "within": 12}, "products": True, "shelves": []}}
    )
    decide(home, None, AT, now=AT, only=("stars",))
    with Store(address(home, None)) as store:
        day = day_of(History(home / "history"), store, AT)
    data, orders = day.data, day.data.orders.at(day.data.order)
    there = {order for order, fine in zip(orders, day.catalog.available[data.item], strict=True) if fine}
    made, not_made = (
        {row["occasion"] for row in decisions(home) if row["outcome"] in of} for of in (MADE, ("too_few",))
    )
    assert made and not_made and made <= there and not not_made & there


def test_everybody_eligible_is_written_to_or_it_is_said_why_not(home: Path) -> None:
    ran = run(home, None, AT, now=AT)
    rows = decisions(home)
    found = outcomes(ran)
    assert ran.eligible == sum(ran.members.values()) == len(rows)
    assert {"message", "holdout", "no_address", "no_consent", "outranked", "too_few"} <= set(found)
    assert found[MESSAGE] == ran.messages == sum(row["outcome"] == MESSAGE for row in rows)
    assert all((row["message_id"] is not None) == (row["outcome"] in MADE) for row in rows)
    agreed = with_consent(home)
    written = [row for row in rows if row["outcome"] in MADE]
    assert {row["customer_id"] for row in written if row["kind"] == "marketing"} <= agreed
    thanked = [row for row in written if row["program"] == "thanks"]
    shown = {row["customer_id"]: bool(json.loads(row["content"])["lists"]) for row in thanked}
    assert {*shown.values()} == {True, False}, "thanks need no consent, but for lists"
    assert all(has == (name in agreed) for name, has in shown.items())
    with Store(address(home, None)) as store:
        lists = [of for (of,) in store.select(sa.select(DATA["sends"].c.recommendation_id))]
    assert len(set(lists)) == len(lists) > 100, "a click tells by the list which message it was in"


def with_consent(home: Path) -> set[str]:
    """Who agreed to marketing by mail, by the last record each."""
    last: dict[str, bool] = {}
    for row in sorted(History(home / "history").table("consents").to_pylist(), key=lambda row: row["at"]):
        if (row["channel"], row["purpose"]) == ("email", "marketing") and row["at"] < AT:
            last[row["customer_id"]] = row["granted"]
    return {name for name, yes in last.items() if yes}


def test_a_run_made_again_decides_nothing_anew(home: Path) -> None:
    first = run(home, None, AT, now=AT)
    before = decisions(home)
    again = run(home, None, AT, now=AT + timedelta(hours=1))
    assert decisions(home) == before and again.as_dict() == first.as_dict()


def test_the_next_day_writes_about_nothing_twice_and_keeps_every_cap(home: Path) -> None:
    with_programs(home, caps={"email": [{"most": 1, "days": 2}, {"most": 2, "days": 6}]})
    for day in range(6):
        at = AT + timedelta(days=day)
        run(home, None, at, now=at)
    made = [row for row in decisions(home) if row["outcome"] in MADE]
    about = [(row["customer_id"], row["program"], row["occasion"]) for row in made]
    assert len(about) == len(set(about))
    days: dict[str, list[datetime]] = {}
    for row in made:
        if row["kind"] == "marketing":
            days.setdefault(row["customer_id"], []).append(datetime.fromisoformat(row["local_day"]))
    assert max(map(len, days.values())) == 2
    for of in days.values():
        assert all(abs((a - b).days) >= 2 for a, b in zip(sorted(of)[1:], sorted(of), strict=False))
    assert "cap" in {row["outcome"] for row in decisions(home)}


def test_a_list_shows_nothing_that_the_last_mail_showed(home: Path) -> None:
    for day in range(4):
        at = AT + timedelta(days=day)
        run(home, None, at, now=at)
    with Store(address(home, None)) as store:
        sends = [row for page in store.read("sends", 0, store.ends("sends")["sends"]) for row in page]
    by_customer: dict[str, list[set[str]]] = {}
    for row in sends:
        by_customer.setdefault(row["customer_id"], []).append(set(row["product_ids"]))
    several = [of for of in by_customer.values() if len(of) > 1]
    assert len(several) > 20
    assert all(not a & b for of in several for n, a in enumerate(of) for b in of[:n])


@pytest.mark.parametrize(
    ("before", "made", "decided", "left"),
    [
        ((), (), (), "a|b|c"),
        (("a",), (), (), "b|c"),
        (("a|c",), (), (), "b"),
        (("a", "b|c"), (), (), None),
        (("a",), ("b|c",), ("b|c",), None),  # a run that goes on
        (("a",), (), ("b|c",), None),  # likewise, where a cap was in the way
        (("a",), ("b",), ("b",), "c"),  # c became due since
    ],
)
def test_of_several_products_each_is_told_of_once(
    before: tuple[str, ...], made: tuple[str, ...], decided: tuple[str, ...], left: str | None
) -> None:
    program = programs(None)["replenishment"]
    keys = {name: {(program.name, key.replace("|", PARTS)) for key in of}
            for name, of in (("before", before), ("made", made), ("decided", decided))}  # fmt: skip
    candidate = Candidate(program, 0, "a|b|c".replace("|", PARTS), 0.0, ("pa", "pb", "pc"), {})
    found = news(candidate, Past(keys["before"], keys["made"], keys["decided"]))
    assert (found.key.replace(PARTS, "|") if found else None) == left
    assert found is None or found.products == tuple(f"p{key}" for key in found.key.split(PARTS))
    assert (untold(candidate, keys["before"]) == []) == (before == ("a", "b|c"))


def test_of_the_categories_of_one_turn_one_is_written_about() -> None:
    program = programs(None)["category_addition"]
    ripe = AT.timestamp() - 3600
    other = Candidate(program, 0, "Tea", ripe, ("p",), {})
    told = {(program.name, "Coffee")}
    assert news(other, Past(told, last={program.name: AT - timedelta(days=60)})) == other
    assert news(other, Past(told, last={program.name: AT})) is None
    assert was_told(other, Past(told, last={program.name: AT})) and not was_told(other, Past())
    assert news(other._replace(program=programs(None)["cross_sell"]), Past(last={"cross_sell": AT}))


@pytest.mark.parametrize(
    ("window", "sent", "step"),  # win_back at 0, 21 and 60 days, each for 5; when steps went, by day
    [
        (1, {}, 1), (21, {}, 1), (64, {}, 1),  # whoever comes late begins with the first
        (21, {0: 4.9}, 2), (64, {0: 0.2, 21: 21.2}, 3), (64, {0: 22.0}, 2),
        (22, {0: 21.2}, None), (25, {0: 21.2}, None),  # not two at the time of one
        (64, {0: 1.0, 21: 22.0, 60: 60.5}, None),
    ],
)  # fmt: skip
def test_a_step_comes_after_the_one_before_was_sent(
    window: float, sent: Mapping[int, float], step: int | None
) -> None:
    program, since = programs(None)["win_back"], AT - timedelta(days=window)
    went = {(program.name, f"lapsed:{n}:a:b"): since + timedelta(days=on) for n, on in sent.items()}
    place = max(n for n in (0, 21, 60) if n <= window)
    candidate = Candidate(program, 0, f"lapsed:{place}:a:b", 0.0, (), {"step": 0, "ordered_on": "x"})
    past = Past(before=set(went), sent=went, at=AT)
    found = news(candidate, past)
    assert (found and found.words["step"]) == step and was_told(candidate, past) == (step is None)
    if found:
        assert found.key == f"lapsed:{(0, 21, 60)[found.words['step'] - 1]}:a:b"
        told = Past(before={*went, (program.name, found.key)}, sent=went, at=AT)
        assert news(candidate, told) is None, "decided, and not sent"


def test_who_is_held_back_is_not_written_to_and_moves_nowhere(home: Path) -> None:
    run(home, None, AT, now=AT)
    arms: dict[str, set[str]] = {}
    for row in decisions(home):
        if row["program"] == "news" and row["outcome"] in MADE:
            arms.setdefault(row["outcome"], set()).add(row["customer_id"])
    assert 0.1 < len(arms[HOLDOUT]) / (len(arms[HOLDOUT]) + len(arms[MESSAGE])) < 0.4  # 0.05 + 0.95 × 0.2
    with Store(address(home, None)) as store:
        sends = [row for page in store.read("sends", 0, store.ends("sends")["sends"]) for row in page]
    ghosts = {row["message_id"] for row in decisions(home) if row["outcome"] == HOLDOUT}
    assert ghosts and not ghosts & {row["message_id"] for row in sends}


def test_each_gets_a_variant_and_keeps_it(home: Path) -> None:
    """As many as its share, apart from who is held back; what is decided and what is sent are of the variant."""
    variants = {"one": {"share": 0.4, "shelves": [{"placement": "discover", "limit": 2, "minimum": 1}]},
                "other": {"share": 0.3, "texts": {"en": {"subject": "other"}}}}  # fmt: skip
    with_programs(home, {**PROGRAMS, "news": {**PROGRAMS["news"], "variants": variants}})
    run(home, None, AT, now=AT)
    rows = [row for row in decisions(home) if row["program"] == "news" and row["outcome"] in MADE]
    program = programs(home / OWN)["news"]
    assert all(
        row["variant"] == program.variant_of(policy(home / OWN).seed, row["customer_id"]) for row in rows
    )
    assert {row["variant"] for row in rows if row["outcome"] == HOLDOUT} > {None}
    everybody = {row["customer_id"] for row in decisions(home) if row["program"] == "news"}
    drawn = Counter(program.variant_of(policy(home / OWN).seed, name) for name in everybody)
    assert 0.3 < drawn["one"] / len(everybody) < 0.5 and 0.2 < drawn["other"] / len(everybody) < 0.4
    many = Counter(row["variant"] for row in rows)
    lists = {variant: {of["placement"] for row in rows if row["variant"] == variant
                       for of in json.loads(row["content"])["lists"]} for variant in many}  # fmt: skip
    assert lists == {None: {"next_best"}, "one": {"discover"}, "other": {"next_best"}}
    hands = {"email": Files(home)}
    once(
        home,
        None,
        Settings.read({}),
        hands,
        now=AT + timedelta(hours=12),
        clock=lambda: AT + timedelta(hours=12),
    )
    named = {row["message_id"]: row["variant"] for row in rows}
    subjects = {(named[path.stem], message_from_bytes(path.read_bytes())["Subject"])
                for path in home.glob("outbox/*/news/*.eml")}  # fmt: skip
    assert subjects == {(None, "s"), ("one", "s"), ("other", "other")}


def test_what_goes_wrong_for_one_customer_is_theirs_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Engine.recommend
    broken = next(
        row["customer_id"] for row in dry(home) if row["program"] == "news" and row["outcome"] == MESSAGE
    )

    def failing(self: Engine, placement: str, request: Any, *, at: datetime) -> Any:
        if request.customer_id == broken:
            raise ZeroDivisionError(f"secret of {broken}")
        return whole(self, placement, request, at=at)

    monkeypatch.setattr(Engine, "recommend", failing)
    run(home, None, AT, now=AT)
    failed = [row for row in decisions(home) if row["outcome"] == "failed"]
    assert {row["customer_id"] for row in failed} == {broken}
    assert all(row["detail"] == "ZeroDivisionError" for row in failed)
    assert "secret" not in caplog.text and "ZeroDivisionError" in caplog.text


def test_who_declined_personalisation_is_shown_what_is_popular(home: Path) -> None:
    names = sorted({row["customer_id"] for row in dry(home) if row["program"] == "news"})
    with Store(address(home, None)) as store:
        store.append("consents", [
            {"customer_id": name, "channel": "web", "purpose": "personalisation", "granted": False,
             "at": AT - timedelta(hours=1), "source": "test", "received_at": AT}
            for name in names
        ])  # fmt: skip
    run(home, None, AT, now=AT)
    lists = [
        json.loads(row["content"])["lists"]
        for row in decisions(home)
        if row["program"] == "news" and row["content"]
    ]
    shown = {tuple(item["product_id"] for item in of["items"]) for found in lists for of in found}
    sources = {item["source"] for found in lists for of in found for item in of["items"]}
    assert len(lists) > 20 and sources <= {"popular", "newest"} and len(shown) < len(lists) / 2


def test_no_message_shows_a_sensitive_category(home: Path) -> None:
    engine = Engine.load(champion(home))
    taken = sorted(
        {engine.catalog.categories[code].split(" > ")[0] for code in engine.catalog.category if code >= 0}
    )
    with_programs(home, sensitive=[name for name in taken if name != "GROCERY"])
    run(home, None, AT, now=AT)
    rows = decisions(home)
    drafts = [json.loads(row["content"]) for row in rows if row["content"]]
    shown = {item["product_id"] for of in drafts for shelf in of["lists"] for item in shelf["items"]}
    shown |= {product for of in drafts for product in of["products"]}
    codes = engine.catalog.category[engine.catalog.items.positions(sorted(shown))]
    assert len(shown) > 100
    assert {engine.catalog.categories[code].split(" > ")[0] for code in codes if code >= 0} == {"GROCERY"}
    assert any(row["outcome"] == "sensitive" for row in rows)


def test_who_was_erased_is_written_to_no_more_and_nobody_gets_their_orders(home: Path) -> None:
    before = dry(home)
    lost = sorted({row["customer_id"] for row in before})[:3]
    theirs = {row["occasion"] for row in before if row["customer_id"] in lost and row["program"] != "news"}
    with Store(address(home, None)) as store:
        for name in lost:
            store.bury(name, at=AT - timedelta(hours=1))
    run(home, None, AT, now=AT)
    rows = decisions(home)
    assert not {row["customer_id"] for row in rows} & set(lost)
    assert theirs and not {row["occasion"] for row in rows} & theirs
    assert len(rows) > 0.95 * len(before)


def test_one_program_first_leaves_all_others_to_be_decided(home: Path) -> None:
    whole = dry(home)
    decide(home, None, AT, now=AT, only=["thanks"])
    ran = run(home, None, AT, now=AT)
    rows = decisions(home)
    assert {(row["customer_id"], row["program"], row["occasion"]) for row in rows} == {
        (row["customer_id"], row["program"], row["occasion"]) for row in whole
    }
    assert ran.eligible == len(rows)


def test_who_became_one_is_one_to_caps_and_occasions(home: Path) -> None:
    run(home, None, AT, now=AT)
    thanked = [row for row in decisions(home) if row["program"] == "thanks" and row["outcome"] == MESSAGE]
    alias = thanked[0]["customer_id"]
    own = next(row["customer_id"] for row in thanked if row["customer_id"] != alias)
    later = AT + timedelta(hours=2)
    with Store(address(home, None)) as store:
        merge(store, History(home / "history"), own, alias, by="test", at=later)
    run(home, None, later + timedelta(hours=1), now=later + timedelta(hours=1))
    again = [row for row in decisions(home) if row["run_at"] > later and row["outcome"] in MADE]
    assert thanked[0]["occasion"] not in {row["occasion"] for row in again if row["program"] == "thanks"}
    assert alias not in {row["customer_id"] for row in decisions(home) if row["run_at"] > later}


def test_a_faulty_file_stops_its_program_alone(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does the program that ships by its name write in its place; a faulty policy stops all."""
    (home / OWN / "thank_you.yaml").write_text("name: thank_you\nabuot: a fault\n", encoding="utf-8")
    ran = decide(home, None, AT, now=AT, only=(*PROGRAMS, "thank_you"))
    assert "thank_you.yaml:2: abuot" in ran.stopped["thank_you"] and ran.messages
    assert "thank_you.yaml:2" in ran.as_dict()["programs"]["thank_you"]["stopped"]
    assert "thank_you" not in {row["program"] for row in decisions(home)}
    assert "thank_you.yaml:2" in caplog.text
    (home / OWN / "policy.yaml").write_text("sede: 7", encoding="utf-8")
    with pytest.raises(FileError, match=r"policy.yaml:1: sede"):
        decide(home, None, AT, now=AT)


def test_a_pause_that_was_made_since_the_moment_holds(home: Path) -> None:
    with Store(address(home, None)) as store:
        store.append("pauses", [
            {"program": "news", "customer_id": None, "paused": True, "at": AT + timedelta(minutes=10),
             "reason": "test", "by": None, "received_at": AT}
        ])  # fmt: skip
    ran = run(home, None, AT, now=AT + timedelta(minutes=30))
    assert ran.stopped == {"news": "test"} and MESSAGE not in ran.outcomes["news"]


def dry(home: Path) -> list[dict[str, Any]]:
    """What a run would decide, in a database that is thrown away."""
    url = f"sqlite:///{home.parent / 'dry.db'}"
    run(home, url, AT, now=AT)
    return decisions(url)


def test_what_happens_later_changes_nothing(home: Path, tmp_path: Path) -> None:
    before = dry(home)
    with Store(address(home, None)) as store:
        customers = sorted({row["customer_id"] for row in before})[:40]
        store.add([
            {
                **dict.fromkeys((*DATA["events"].c.keys(),)), "event_id": f"later{n}", "customer_id": name,
                "event_type": "order", "product_id": "1029743", "order_id": f"later{n}", "quantity": 50.0,
                "unit_price": 1.0, "discount": 0.0, "occurred_at": AT + timedelta(minutes=n), "received_at": AT,
            }
            for n, name in enumerate(customers)
        ])  # fmt: skip
        store.append("consents", [
            {"customer_id": name, "channel": "email", "purpose": "marketing", "granted": False,
             "at": AT + timedelta(hours=1), "source": "test", "received_at": AT}
            for name in customers
        ])  # fmt: skip
    run(home, None, AT, now=AT)
    assert same(decisions(home), before)


def test_a_model_that_knows_more_than_the_run_is_refused(home: Path) -> None:
    with pytest.raises(RunError, match="osclms train --until"):
        run(home, None, END - timedelta(days=1), now=AT)


def test_a_day_is_the_stores_own(home: Path) -> None:
    assert moment_of(home, "2018-01-02") == datetime(2018, 1, 2, 11, tzinfo=UTC)  # 06:00 in New York
    assert moment_of(home, "2018-07-02") == datetime(2018, 7, 2, 10, tzinfo=UTC)
    with pytest.raises(RunError, match="2018-01-02"):
        moment_of(home, "yesterday")


# --- killed, and at once ----------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path, shared: Any) -> Iterator[str]:
    """Addresses of empty databases of one kind."""
    numbers = iter(range(10_000))

    def fresh() -> Iterator[str]:
        while True:
            if request.param == "sqlite":
                yield f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"
            else:
                yield spelled(address(None, new_database(postgres(shared("postgres", place_postgres)))))

    return fresh()


def killed(home: Path, databases: Iterator[str], tries: int, seed: int) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    whole, urls = next(databases), {next(databases): draw.random() for _ in range(tries)}
    codes = nursery().ask("decide instants", str(home), urls, whole, AT.isoformat())
    assert codes.count(-9) >= tries // 2
    expected = decisions(whole)
    assert sum(row["outcome"] == MESSAGE for row in expected) > 50
    for url in urls:
        run(home, url, AT, now=AT)
        assert same(decisions(url), expected)


def test_killed_and_resumed_a_run_decides_the_same(
    home: Path, databases: Iterator[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(home, databases, tries=3, seed=random.SystemRandom().randrange(10**6))


@pytest.mark.long
def test_killed_at_many_instants(home: Path, databases: Iterator[str]) -> None:
    killed(home, databases, tries=50, seed=random.SystemRandom().randrange(10**6))


def test_two_runs_at_once_decide_nobody_twice(home: Path, databases: Iterator[str]) -> None:
    whole, url = next(databases), next(databases)
    run(home, whole, AT, now=AT)
    assert nursery().ask("decide at once", str(home), url, AT.isoformat(), 2) == [0, 0]
    assert same(decisions(url), decisions(whole))


def test_chunks_are_of_several_customers() -> None:
    assert 50 <= module.CHUNK <= 1_000
