"""After `osclms erase --finish` no file holds the erased, and all others are answered as before."""

import gzip
import hashlib
import json
import lzma
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from live import event
from posted import decision
from test_compact import put
from tiny import GROCER, UNTIL, bundle

from features.history import History
from features.mapping import Mapping
from features.sources import load
from serving.addresses import is_suppressed, subject
from serving.bulk import everybody
from serving.bundle import Bundle, BundleError, Manifest
from serving.compact import compact
from serving.engine import Engine
from serving.identities import Identities
from serving.outgoing import DEAD, OUTBOX
from serving.overlay import Overlay
from serving.people import erase, held
from serving.placements import PLACEMENTS
from serving.ranker import PUBLISHED, RANKED
from serving.schemas import RecommendRequest
from serving.store import PERSONAL, Store
from training.card import IN_WORDS, PAGE, Section, Table, page_html
from training.erase import blanked, finish
from training.lists import lists_without
from training.publish import Registry

WHO, CARD = "household-4711-erase", "card-4711-erase"
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
FIRST = "household-4710-first"  # of whom nothing goes
BASKETS = (
    (FIRST, "1", 0, "bread butter"), (FIRST, "2", 20, "bread milk"), (WHO, f"o-{WHO}", 5, "rolls butter"),
    (WHO, f"p-{WHO}", 25, "rolls soap"), ("zoe", "5", 10, "spelt milk soap"), ("zoe", "6", 50, "spelt bread towel"),
    ("household-4711-erase-not", "7", 52, "gold milk"), (None, "9", 55, "bread butter soap"),
)  # fmt: skip


def order(name: str, who: str, basket: str = "o") -> dict[str, Any]:
    about = {"event_type": "order", "quantity": 1, "unit_price": 2, "product_id": "bread"}
    return {
        "event_id": name,
        "customer_id": who,
        "occurred_at": "2026-01-05T12:00:00Z",
        "order_id": basket,
        **about,
    }


@pytest.fixture
def home(tmp_path: Path, shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A home in which many files hold the customer: history, rejects, a version with its artifacts, a list."""
    return Path(shutil.copytree(shared("erase", fill_home), tmp_path / "home"))


def fill_home(home: Path) -> None:
    history = History(home / "history")
    put(history, "events", order("h1", WHO), order("h2", CARD, f"till {CARD}"), order("h3", "zoe"))
    put(
        history, "events", {**order("h4", WHO), "occurred_at": "2025-06-01T00:00:00Z"}
    )  # a month of their own
    put(
        history,
        "customers",
        {"customer_id": WHO, "email": f"{WHO}@b.c"},
        {"customer_id": "zoe", "email": "z@b.c"},
    )
    put(history, "identities", {"alias": CARD, "customer_id": WHO}, {"alias": "z", "customer_id": "zoe"})
    broken = home / "broken.csv"
    columns = ("customer_id", "event_id", "event_type", "occurred_at")
    rows = (f"{who},{name},dance,2026-01-01" for who, name in ((WHO, "r1"), ("zoe", "r2")))
    broken.write_text("\n".join([",".join(columns), *rows]))
    mapping = Mapping.model_validate({"columns": {n: n for n in columns}})
    load(history, "events", [broken], mapping, max_rejects=1, rejects_dir=home / "rejects")
    for file in home.glob("*.csv"):
        file.unlink()  # the sources are not ours
    publish(home)
    lists = [json.dumps({"customer_id": who, "rank": 1}) for who in (WHO, "zoe")]
    fill_outbox(home)
    (home / "lists.ndjson").write_text("".join(f"{line}\n" for line in lists))
    (home / "for ads").mkdir()
    torn = (lists[0], "", f'["{WHO}"]', f'{{"customer_id":"{WHO}', f'"{CARD}"', "[" * 9_999, lists[1])
    (home / "for ads" / "torn.ndjson").write_bytes("\n".join(torn).encode() + b"\n\xff\n")
    pq.write_table(pa.table({"customer_id": [WHO, "zoe"]}), home / "for ads" / "lists.parquet")
    (home / "for ads" / "open.txt").write_text(f'{WHO}\nzoe\n"' + "x" * 200_000)
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in (f"{WHO}@b.c", "z@b.c")]
    (home / "for ads" / "audience.txt").write_text("".join(f"{line}\n" for line in hashes))
    (home / "mailing.csv").write_text(f'rank;customer_id\n1;"{WHO}"\n2;zoe\n')
    told = (
        f'"Doe, Jane",{WHO},-',
        f'"Doe,\nher phone 555",{WHO},-',
        '"Roe, Z",zoe,-',
        f"X,9,{WHO.upper()}@B.C",
    )
    text = "\n".join(("\ufeffname,customer_id,mail", *told, ""))
    (home / "for ads" / "quoted.csv").write_text(text, encoding="utf-8")


def publish(home: Path) -> None:
    registry, made = Registry(home), home / "made"
    bundle(made, BASKETS, GROCER, version="1")
    customers = len(np.load(made / "customers.npy"))
    np.save(
        made / "next_best.ranked.npy", np.full((customers, PUBLISHED), np.array((1, 0.5, 0, (2, 9)), RANKED))
    )
    words = Section(IN_WORDS, "", (Table(("bought",), (("Rolls",),)),))
    card = page_html("version 1", "", {}, [words])
    registry.register(made, run_id=registry.log_run("train", artifacts={PAGE: card}))
    registry.keep_card("1", card)
    registry.promote("1")
    shutil.rmtree(made)


@pytest.fixture
def store(url: sa.URL, home: Path) -> Iterator[Store]:
    with Store(url) as opened:
        fill(opened, History(home / "history"))
        yield opened


def fill(store: Store, history: History) -> None:
    """Rows of the customer, some of them moved into the history, the last of them the last that was."""
    store.add([event("e1", customer_id="zoe"), event("e2", customer_id=WHO), event("e3", customer_id=CARD)])
    agreed = {"channel": "email", "purpose": "marketing", "granted": True, "at": NOW, "received_at": NOW}
    store.append("consents", [{"customer_id": name, **agreed} for name in ("zoe", WHO)])
    store.append("products", [{"product_id": "bread", "price": 2.5, "received_at": NOW}])
    compact(history, store)
    store.append(
        "customers", [{"customer_id": name, "region": "x", "received_at": NOW} for name in ("zoe", WHO)]
    )
    store.append("identities", [{"alias": f"web-{CARD}", "customer_id": CARD, "received_at": NOW}])
    sent = {"at": NOW, "product_ids": ["milk"], "received_at": NOW}
    store.append("sends", [{"customer_id": name, **sent} for name in ("zoe", WHO)])
    fill_letters(store)


def fill_letters(store: Store) -> None:
    """Of each of two customers a message that went out, one that never will, a pause, an alert and a voucher used."""
    at = {"at": NOW, "received_at": NOW}
    for name, number in (("zoe", 1), (WHO, 2)):
        who = {"customer_id": name, "program": "hello"}
        about = {**who, "message_id": f"m{number}"}
        store.append("decisions", [decision(f"m{number}", name), decision(f"d{number}", name)])
        store.append("deliveries", [{**about, "state": "sent", **at}])
        store.append("pauses", [{**who, "paused": True, "reason": "low", **at}])
        store.append(
            "alerts", [{**about, "alert_id": f"a{number}", "open": True, "kind": "low_rating", **at}]
        )
        store.append(
            "vouchers", [{**about, "code": f"c{number}", "worth": 5.0, "ends": NOW, "received_at": NOW}]
        )
        store.append("redeemed", [{**who, "code": f"c{number}", **at}])


def fill_outbox(home: Path) -> None:
    """The files of these messages, one of them half written by a worker that was killed."""
    folder = home / OUTBOX / "2026-03-05" / "hello"
    folder.mkdir(parents=True)
    for name, who in (
        ("m1.eml", "z"),
        ("m2.eml", WHO),
        (".m2.eml.4711", WHO),
        ("d2.json", WHO),
        ("m22.eml", "z"),
    ):
        (folder / name).write_text(f"To: {who}@b.c\n")
    lines = (json.dumps({"message_id": name, "why": "given up"}) for name in ("d1", "d2"))
    (home / OUTBOX / DEAD).write_text("".join(f"{line}\n" for line in lines) + "cut\n")


# --- where an id may lie ------------------------------------------------------------------------------------


def holding(home: Path, *names: str) -> dict[str, str]:
    """Every file below the home that holds one of these, read as what it is and as bytes."""
    found = {}
    for path in (p for p in home.rglob("*") if p.is_file()):
        text = b"\n".join(read(path))
        for name in names:
            if mentions(text, name) or name in path.name:
                found[str(path.relative_to(home))] = name
    return found


def mentions(text: bytes, name: str) -> bool:
    return name.encode() in text.replace(f"{name}-not".encode(), b"")  # another customer, whose id begins so


def read(path: Path) -> Iterator[bytes]:
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
    if path.suffix == ".npy":
        yield repr(np.load(path).ravel().tolist()).encode()
    if path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())


def rows_of(store: Store, *names: str) -> int:
    return sum(len(store.of(table, names)) for table in PERSONAL if table != "merges")


# --- what becomes of it -------------------------------------------------------------------------------------


def answers(home: Path) -> list[Any]:
    """What everybody else is told."""
    engine = Engine.load(home / "bundles" / "1")
    who = (None, FIRST, "zoe", "household-4711-erase-not")
    return [
        engine.recommend(name, RecommendRequest(customer_id=c, product_ids=("soap",)), at=UNTIL).items
        for name in PLACEMENTS
        for c in who
    ]


def facts_with_news(home: Path) -> list[Any]:
    """What rankers are told of products where one came after the bundle learned."""
    base = Bundle.load(home / "bundles" / "1")
    overlay = Overlay(base)
    overlay.say([{"product_id": "new", "category": ["food"], "price": 3.0}])
    made: list[Any] = overlay.bundle(base).facts.tolist()
    assert len(made) == len(base.catalog) + 1
    return made


def test_no_file_holds_the_erased_and_all_others_are_answered_as_before(home: Path, store: Store) -> None:
    before, history, ids = answers(home), History(home / "history"), (WHO, CARD, f"web-{CARD}")
    told = facts_with_news(home)
    in_files = holding(home, WHO, CARD)
    wanted = (
        "history/events",
        "history/customers",
        "history/identities",
        "history/consents",
        "rejects",
        "lists",
        "mailing.csv",
        "outbox/2026-03-05/hello/m2.eml",
    )
    for place in (*wanted, "bundles/1/customers.npy", "bundles/1/orders.npy", "mlruns"):
        assert any(name.startswith(place) for name in in_files), place
    assert rows_of(store, *ids) == 13
    assert any(name.startswith("store.db") for name in in_files) == (store.url.get_backend_name() == "sqlite")
    assert erase(store, history, CARD, NOW).erased == 3
    engine = Engine.load(home / "bundles" / "1")
    assert WHO in dict(everybody(engine, None))
    engine.follow(store, identities=Identities(), clock=lambda: NOW)
    assert WHO not in dict(everybody(engine, None)) and WHO not in engine.sample().customers
    done = finish(home, store, at=NOW)
    assert (done.bundles, done.rows, done.lines, done.cards) == (2, 13, 17, 2) and done.files >= 5
    pages = [home / "cards" / "1.html", *(home / "mlruns").glob("*/artifacts/card.html")]
    assert len(pages) == 2 and not any("Rolls" in page.read_text() for page in pages)
    assert holding(home, WHO, CARD) == {} and rows_of(store, *ids) == 0
    assert finish(home, store, at=NOW).as_dict() == {
        "ids": 0,
        "files": 0,
        "rows": 0,
        "bundles": 0,
        "cards": 0,
        "lines": 0,
        "unread": (),
    }
    assert answers(home) == before
    assert repr(facts_with_news(home)) == repr(told)  # not a number is like itself
    assert (home / "lists.ndjson").read_text().count("\n") == 1 and store.buried(ids) == set(ids)
    torn = (home / "for ads" / "torn.ndjson").read_bytes()
    assert torn.splitlines()[1:] == [b"[" * 9_999, b'{"customer_id": "zoe", "rank": 1}', b"\xff"]
    assert pq.read_table(home / "for ads" / "lists.parquet").to_pylist() == [{"customer_id": "zoe"}]
    assert (home / "for ads" / "open.txt").read_text() == 'zoe\n"' + "x" * 200_000
    assert (home / "mailing.csv").read_text() == "rank;customer_id\n2;zoe\n"
    assert (home / "for ads" / "quoted.csv").read_text() == 'name,customer_id,mail\n"Roe, Z",zoe,-\n'
    (kept,) = (home / "for ads" / "audience.txt").read_text().splitlines()
    assert kept == hashlib.sha256(b"z@b.c").hexdigest()
    assert left_of(home) == ["d1", "m1.eml", "m22.eml"] and rows_of(store, "zoe") == 11
    gone = [subject(store, "email", f"{WHO}@b.c"), subject(store, "email", "z@b.c")]
    assert [is_suppressed(store, one) for one in gone] == ["erased", None]
    zoe = held(store, history, "zoe")
    assert {name: len(rows) for name, rows in zoe.ledgers.items()}["decisions"] == 2
    assert (zoe.facts, len(zoe.orders), len(zoe.events), len(zoe.sends)) == (
        {"email": "z@b.c", "region": "x"}, 1, 1, 1,
    )  # fmt: skip
    check_bundles(home)
    check_marks(history, store)


def left_of(home: Path) -> list[str]:
    """The messages among the dead, and the files of others."""
    lines = (home / OUTBOX / DEAD).read_text().splitlines()
    dead = [json.loads(line)["message_id"] for line in lines if line.startswith("{")]
    return dead + sorted(path.name for path in (home / OUTBOX).glob("*/*/*"))


def check_bundles(home: Path) -> None:
    """Where the erased was, nobody is; the artifacts are the bundle."""
    made = Bundle.load(home / "bundles" / "1")
    engine = Engine(made)
    (gone,) = np.flatnonzero(np.diff(made.interactions.start) == 0)
    assert engine.position(WHO) == -1 and not any(of["item"][gone][0] >= 0 for of in made.rankings.values())
    assert {name for name, _ in everybody(engine, 3)} == {FIRST, "zoe", "household-4711-erase-not"}
    assert sorted(engine.sample().customers) == sorted({FIRST, "zoe", "household-4711-erase-not"})
    bought = made.interactions.matrix(lambda of: np.ones(len(of)))[[gone]]
    for name in ("als", "ease", "tifu", "upcf", "rhythm", "content"):
        model = made.models[name]
        scores = model.of_customers(np.array([gone]), bought)
        assert not np.any(scores - model.arrays().get("bias", np.float32(0))), name
    (artifacts,) = (home / "mlruns").glob("*/artifacts/bundle")
    for file in artifacts.iterdir():
        assert file.read_bytes() == (home / "bundles" / "1" / file.name).read_bytes()
    assert Manifest.model_validate_json((artifacts / "manifest.json").read_text()) == made.manifest


def check_marks(history: History, store: Store) -> None:
    """What was moved is not moved again, and what came since is."""
    put(history, "products", {"product_id": "bread", "price": 9})
    compact(history, store)
    listed = history.row("products", "bread")
    assert listed is not None and listed["price"] == 9
    assert sorted(history.events()["event_id"].to_pylist()) == ["e1", "h3"]


def test_who_comes_back_in_a_file_is_erased_again(home: Path, store: Store) -> None:
    erase(store, History(home / "history"), WHO, NOW)
    finish(home, store, at=NOW)
    put(History(home / "history"), "events", order("h9", WHO))
    put(History(home / "history"), "identities", {"alias": "another-card", "customer_id": WHO})
    for file in home.glob("*.csv"):
        file.unlink()
    assert finish(home, store, at=NOW).ids == 2
    assert holding(home, WHO, CARD, "another-card") == {} and store.buried(["another-card"])


def test_ids_stay_in_order_whoever_goes() -> None:
    ids = np.array([b"a", b"ab", b"b", b"c"])
    once = blanked(ids, np.array([True, False, True, True]))
    assert once.tolist() == [b"\x01", b"ab", b"ab\x01", b"ab\x01\x01"]
    twice = blanked(once, np.array([False, True, False, False]))
    assert twice.tolist() == [b"\x01" * n for n in (1, 2, 3, 4)]
    assert np.all(twice[1:] > twice[:-1]) and np.all(once[1:] > once[:-1])


class Killed(BaseException):
    """In place of a signal: nothing after it is done."""


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_killed_at_each_step_it_is_run_again(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase(store, History(home / "history"), WHO, NOW)
    left = [0]

    def dies(act: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return act(*args, **options)

        return step

    steps = ((Path, "replace"), (shutil, "rmtree"), (Store, "forget"), (Store, "shred"), (np, "save"))
    tries = 0
    for tries in range(60):
        left[0] = tries
        with monkeypatch.context() as patched:
            for where, name in steps:
                patched.setattr(where, name, dies(getattr(where, name)))
            try:
                finish(home, store, at=NOW)
                break
            except Killed:
                pass
        assert any((home / "bundles" / name).exists() for name in ("1", ".old-1"))
    assert tries > 15 and holding(home, WHO, CARD) == {} and rows_of(store, WHO, CARD) == 0
    assert not list(home.rglob(".old-*")) and not list(home.rglob(".tmp-*"))
    assert len(answers(home)) == 4 * len(PLACEMENTS)


def test_a_bundle_of_an_older_format_is_written_anew_too(home: Path, store: Store) -> None:
    """Of rankings that held less, and by a manifest that this version does not serve."""
    folder = home / "bundles" / "1"
    older = np.zeros((len(np.load(folder / "customers.npy")), PUBLISHED), [("item", "<i4"), ("score", "<f4")])
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in (folder / "next_best.ranked.npy", folder / "manifest.json"):
        path.unlink()  # it is also an artifact
    np.save(folder / "next_best.ranked.npy", older)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 4}))
    erase(store, History(home / "history"), WHO, NOW)
    assert finish(home, store, at=NOW).bundles == 2 and holding(home, WHO, CARD) == {}
    assert json.loads((folder / "manifest.json").read_text())["format"] == 4
    assert (np.load(folder / "next_best.ranked.npy")["item"] == -1).any(axis=1).sum() == 1


def spoil(path: Path, content: bytes) -> None:
    path.unlink()  # it is also an artifact
    path.write_bytes(content)


def test_a_damaged_bundle_does_not_become_a_sound_one(home: Path, store: Store) -> None:
    path = home / "bundles" / "1" / "als.vectors.customers.npy"
    spoil(path, path.read_bytes()[:-1] + b"\x7e")
    erase(store, History(home / "history"), WHO, NOW)
    assert finish(home, store, at=NOW).bundles == 2 and holding(home, WHO, CARD) == {}
    with pytest.raises(BundleError, match=r"als\.vectors\.customers\.npy is not what was written"):
        Bundle.load(home / "bundles" / "1")


@pytest.mark.parametrize("name", ["customers.npy", "interactions.item.npy"])
def test_a_bundle_that_cannot_be_read_is_named_and_keeps_nothing_else(
    home: Path, store: Store, name: str
) -> None:
    spoil(path := home / "bundles" / "1" / name, b"")
    erase(store, History(home / "history"), WHO, NOW)
    done = finish(home, store, at=NOW)
    assert (done.bundles, done.unread) == (1, ("bundles/1",)) and path.read_bytes() == b""
    path.unlink()
    assert {Path(at).parts[:2] for at in holding(home, WHO, CARD)} <= {("bundles", "1")}
    assert rows_of(store, WHO, CARD) == 0 and not list(home.rglob(".tmp-*"))


def test_lists_are_read_as_people_leave_them(tmp_path: Path) -> None:
    """Hidden, in capitals, with a quote that nobody closed, as other JSON; who is not erased stays."""
    gone = {"bob", "anna smith", "None"}.__contains__
    texts = {
        ".hidden.csv": ("customer_id,name\n1,x\nbob,y\n", "customer_id,name\n1,x\n"),
        "A.CSV": ("customer_id\nbob\nzoe\n", "customer_id\nzoe\n"),
        "open.csv": ('customer_id,name\n1,"open\nbob,x\nzoe,y\n', 'customer_id,name\n1,"open\nzoe,y\n'),
        "lines.ndjson": (
            '{"customer_id":"zoe"}\n{"Customer_ID":"bob"}\n["anna smith"]\n'
            '[{"who":"bob"}]\n{"customer_id":"anna smith\n',
            '{"customer_id":"zoe"}\n',
        ),
    }
    for name, (text, _) in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "wide.txt").write_bytes("bob\n".encode("utf-16"))
    (tmp_path / "linked.txt").symlink_to(tmp_path / "A.CSV")
    for name in ("sheet.xlsx", "bad.csv.gz", "table.parquet.gz", "mailing.gz", "all.rar"):
        (tmp_path / name).write_bytes(b"bob")
    with gzip.open(tmp_path / "lists.ndjson.gz", "wt") as file:
        file.write('{"customer_id":"bob"}\n{"customer_id":"zoe"}\n')
    with lzma.open(tmp_path / "cut.txt.xz", "wt") as file:
        file.write("bob\n" * 9_999)
    (tmp_path / "cut.txt.xz").write_bytes((tmp_path / "cut.txt.xz").read_bytes()[:80])
    unread = (
        "all.rar",
        "bad.csv.gz",
        "cut.txt.xz",
        "linked.txt",
        "mailing.gz",
        "sheet.xlsx",
        "table.parquet.gz",
        "wide.txt",
    )
    assert lists_without(tmp_path, gone, set()) == (8, unread)
    packed = (tmp_path / "lists.ndjson.gz").read_bytes()
    assert gzip.decompress(packed) == b'{"customer_id":"zoe"}\n'
    assert {name: (tmp_path / name).read_text() for name in texts} == {
        n: left for n, (_, left) in texts.items()
    }
    assert not list(tmp_path.glob("*.fresh"))


def test_what_cannot_be_read_is_named_and_keeps_nothing_else(home: Path, store: Store) -> None:
    for name in ("for ads/x.parquet", "x.parquet"):
        (home / name).write_text(WHO)
    assert finish(home, store, at=NOW).unread == ()  # nobody was erased yet
    (home / ".x.ndjson.fresh").write_text(WHO)  # of one that was killed
    erase(store, History(home / "history"), WHO, NOW)
    done = finish(home, store, at=NOW)
    assert done.unread == ("for ads/x.parquet", "x.parquet") and done.ids == 3
    for name in done.unread:
        (home / name).unlink()
    assert holding(home, WHO, CARD) == {} and rows_of(store, WHO, CARD) == 0
