"""The history: what it answers, and that it is as before or as after a load, whatever happens in between."""

import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.history import FORMAT, History, HistoryError, Store, canonical
from features.mapping import Mapping
from features.schema import EVENTS, TABLES
from features.sources import LoadError, load

EVENT = """
[columns]
event_id = "id"
event_type = "type"
occurred_at = "at"
customer_id = "who"
product_id = "what"
order_id = "id"
quantity = { value = 1 }
[products]
product_id = "what"
"""
TABLE = {
    "events": EVENT,
    "identities": '[columns]\nalias = "alias"\ncustomer_id = "who"\n',
    "customers": '[columns]\ncustomer_id = "who"\nemail = "email"\n',
    "products": '[columns]\nproduct_id = "what"\ntitle = "title"\nknown_from = "from"\n',
    "consents": '[columns]\ncustomer_id = "who"\nchannel = "channel"\npurpose = { value = "marketing" }\n'
    'granted = "granted"\nat = "at"\n',
}
FIRST = """id,type,at,who,what
e3,order,2017-02-28T23:59:59Z,anna,tea
e1,order,2017-01-01T10:00:00Z,anna,tea
e2,view,2017-01-01T10:00:00Z,,milk
"""
SECOND = """id,type,at,who,what
e4,order,2017-02-01T00:00:00Z,ben,milk
e5,return,2017-03-01T00:00:00Z,ben,jam
"""


def put(history: History, text: str, table: str = "events") -> None:
    home = history.folder.parent
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{table}.csv").write_text(text)
    mapping = Mapping.parse(TABLE[table])
    load(history, table, [home / f"{table}.csv"], mapping, rejects_dir=home / "rejects", max_rejects=0)


def ids(history: History, **asked: Any) -> list[str]:
    found: list[str] = history.events(**asked)["event_id"].to_pylist()
    return found


def state(history: History) -> Any:
    return history.events().to_pylist(), [history.table(t).to_pylist() for t in TABLES if t != "events"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "history")
    put(history, FIRST)
    return history


def day(month: int, number: int) -> datetime:
    return datetime(2017, month, number, tzinfo=UTC)


# --- reading ---------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_an_empty_history(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    assert history.events().schema == EVENTS.schema
    assert [history.table(t).num_rows for t in TABLES if t != "events"] == [0] * 5
    assert (history.span(), history.row("products", "tea"), history.resolve("anna")) == (None, None, "anna")
    assert (set(history.counts().values()), history.store) == ({0}, Store("store", "USD", "UTC"))
    assert len(history.fingerprint(day(1, 1))) == 32


def test_events_are_sorted_by_time_and_id(history: History) -> None:
    put(history, SECOND)
    assert ids(history) == ["e1", "e2", "e4", "e3", "e5"]
    assert history.span() == (datetime(2017, 1, 1, 10, tzinfo=UTC), day(3, 1))
    assert history.counts()["events"] == 5


def test_since_is_in_the_range_and_until_is_not(history: History) -> None:
    put(history, SECOND)
    assert ids(history, since=day(2, 1), until=day(3, 1)) == ["e4", "e3"]
    assert ids(history, until=day(2, 1)) == ["e1", "e2"]
    assert ids(history, since=day(3, 1)) == ["e5"]
    assert ids(history, since=day(3, 1) + timedelta(microseconds=1)) == []


def test_it_ends_with_its_last_purchase_whatever_else_happened_since(history: History) -> None:
    assert history.last_purchase() == day(3, 1) - timedelta(seconds=1)
    assert history.end() == day(3, 1)
    viewed = ("e6,view,2017-02-28T23:59:59.5Z,anna,tea", "e7,click,2017-05-01T10:00:00Z,anna,tea")
    put(history, "\n".join(("id,type,at,who,what", *viewed, "")))
    assert history.end() == day(3, 1)
    put(history, "id,type,at,who,what\ne8,return,2017-04-01T10:00:00.5Z,anna,tea\n")
    assert history.end() == datetime(2017, 4, 1, 10, 0, 1, tzinfo=UTC)
    assert history.span() == (datetime(2017, 1, 1, 10, tzinfo=UTC), datetime(2017, 5, 1, 10, tzinfo=UTC))


def test_one_without_purchases_says_what_to_do(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    put(history, "id,type,at,who,what\ne1,view,2017-01-01T10:00:00Z,anna,tea\n")
    assert history.last_purchase() is None
    with pytest.raises(HistoryError, match="holds no orders: run `osclms load` first"):
        history.end()


def test_types_and_columns(history: History) -> None:
    put(history, SECOND)
    found = history.events(types=["order", "return"], columns=["quantity", "event_id"])
    assert found.column_names == ["quantity", "event_id"]
    assert found["event_id"].to_pylist() == ["e1", "e4", "e3", "e5"]
    assert history.events(until=day(1, 1), columns=["product_id"]).schema.names == ["product_id"]
    with pytest.raises(HistoryError, match="events has no column 'colour'; it has event_id"):
        history.events(columns=["colour"])


def test_months_outside_the_range_are_not_opened(history: History) -> None:
    (february,) = history.folder.glob("events/2017-02.*")
    february.write_bytes(b"broken")
    assert ids(history, until=day(2, 1)) == ["e1", "e2"]


def test_a_row_and_a_table_with_a_condition(history: History) -> None:
    put(history, "what,title,from\ntea,Tea,\nmilk,Milk,2017-01-01\n", "products")
    row = history.row("products", "tea")
    assert row and (row["title"], row["known_from"]) == ("Tea", None)
    assert history.row("products", "jam") is None
    assert history.table("products", ["product_id"], pc.field("title") == "Milk").to_pylist() == [
        {"product_id": "milk"}
    ]


moments = st.integers(0, 90 * 24).map(lambda hours: day(1, 1) + timedelta(hours=hours))


@settings(max_examples=5, deadline=None)
@given(st.lists(moments, min_size=1, max_size=30), moments, moments)
def test_a_range_is_what_a_filter_would_keep(
    tmp_path_factory: pytest.TempPathFactory, times: list[datetime], since: datetime, until: datetime
) -> None:
    history = History(tmp_path_factory.mktemp("home") / "history")
    rows = [f"e{n:02},order,{at.isoformat()},anna,tea\n" for n, at in enumerate(times)]
    put(history, "id,type,at,who,what\n" + "".join(rows))
    kept = sorted((at, f"e{n:02}") for n, at in enumerate(times) if since <= at < until)
    assert ids(history, since=since, until=until) == [event for _, event in kept]


# --- identities ------------------------------------------------------------------------------------------


def test_identities_resolve_through_chains_and_rewrite_nothing(history: History) -> None:
    before = set(content(history.folder)) - {"manifest.json"}
    put(history, "alias,who\nanna,anne\nanne,a1\nben,b1\n", "identities")
    assert history.events()["customer_id"].to_pylist() == ["a1", None, "a1"]
    assert (history.resolve("anna"), history.resolve("zoe")) == ("a1", "zoe")
    assert before < set(content(history.folder))


def test_merged_customers_are_one_value_of_the_dictionary(history: History) -> None:
    put(history, SECOND)
    put(history, "alias,who\nanna,a1\nben,a1\n", "identities")
    customers = history.events(columns=["customer_id"])["customer_id"].combine_chunks()
    assert customers.dictionary.to_pylist() == ["a1"]
    assert (
        history.events(columns=["customer_id"]).schema.field(0).type
        == EVENTS.schema.field("customer_id").type
    )


@pytest.mark.parametrize(
    ("identities", "ends"),
    [
        ({"a": "b", "b": "c"}, {"a": "c", "b": "c"}),
        ({"b": "a", "a": "b"}, {"b": "a"}),
        ({"z": "c", "c": "b", "b": "c"}, {"z": "b", "c": "b"}),
    ],
)
def test_circles_name_one_customer(identities: dict[str, str], ends: dict[str, str]) -> None:
    assert canonical(identities) == ends


names = st.sampled_from("abcdefg")


@settings(deadline=None)
@given(st.dictionaries(names, names))
def test_resolving_is_final_and_independent_of_order(identities: dict[str, str]) -> None:
    ends = canonical(identities)
    assert not set(ends.values()) & set(ends)
    assert canonical(dict(reversed(identities.items()))) == ends
    assert all(ends.get(a, a) == ends.get(b, b) for a, b in identities.items())


def test_what_an_alias_withdrew_counts(history: History) -> None:
    put(history, "who,channel,granted,at\na1,email,yes,2017-01-01\nanna,email,no,2017-02-01\n", "consents")
    put(history, "alias,who\nanna,a1\n", "identities")
    found = history.table("consents").to_pylist()
    assert [(c["customer_id"], c["granted"]) for c in found] == [("a1", True), ("a1", False)]


# --- the fingerprint -------------------------------------------------------------------------------------


def test_a_fingerprint_knows_nothing_of_what_comes_later(history: History) -> None:
    until = day(2, 28)
    put(history, "what,title,from\nnew,New,2017-01-05\n", "products")
    before = history.fingerprint(until)
    put(history, "id,type,at,who,what\ne9,order,2017-02-28T00:00:00Z,zoe,soap\n")
    put(history, "what,title,from\nlater,Later,2017-02-28\n", "products")
    put(history, "alias,who\nzoe,zoe2\n", "identities")
    assert history.fingerprint(until) == before
    assert history.fingerprint(until + timedelta(seconds=1)) != before


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("events", "id,type,at,who,what\ne9,order,2017-01-28T00:00:00Z,anna,tea\n"),
        ("products", "what,title,from\ntea,Green tea,\n"),
        ("identities", "alias,who\nanna,a1\n"),
    ],
)
def test_a_fingerprint_sees_what_changes_the_past(history: History, table: str, text: str) -> None:
    before = history.fingerprint(day(2, 28))
    put(history, text, table)
    assert history.fingerprint(day(2, 28)) != before


# --- writing ---------------------------------------------------------------------------------------------


def test_a_load_leaves_no_file_but_what_the_manifest_names(history: History) -> None:
    put(history, SECOND)
    assert set(content(history.folder)) == {"manifest.json", *history.manifest.paths}
    assert not list((history.folder.parent / "staging").glob("*"))


def test_two_loaders_at_once(history: History) -> None:
    with history.loading(), pytest.raises(HistoryError, match=r"another load into .* is running: wait"):
        put(History(history.folder), SECOND)
    put(history, SECOND)
    assert history.counts()["events"] == 5


def test_a_reader_outlives_a_load_that_replaces_its_files(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = history.manifest
    put(history, SECOND)
    manifests = iter([stale])
    live = History.manifest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(History, "manifest", property(lambda self: next(manifests, None) or live(self)))
    assert len(ids(history)) == 5


def test_reads_at_once_tell_of_one_state_whatever_is_loaded_between_them(history: History) -> None:
    """The load leaves January as it is, so only the second read looks for a file that is gone."""
    loads = iter([SECOND])

    def read(pinned: History) -> Any:
        january = ids(pinned, until=day(2, 1))
        for text in loads:
            put(history, text)
        return january, ids(pinned), pinned.span(), pinned.fingerprint(day(4, 1)), pinned.counts()["events"]

    before = history.fingerprint(day(4, 1))
    january, every, span, fingerprint, count = history.at_once(read)
    assert (january, every) == (["e1", "e2"], ["e1", "e2", "e4", "e3", "e5"])
    assert span == history.span() and fingerprint == history.fingerprint(day(4, 1)) != before
    assert count == 5


def test_reads_at_once_that_need_no_file_that_is_gone_are_of_the_state_before(history: History) -> None:
    """February's file is replaced only after it was read; January's stays."""

    def read(pinned: History) -> Any:
        february = ids(pinned)
        put(history, SECOND)
        return february, ids(pinned, until=day(2, 1)), pinned.counts()["events"], pinned.store

    assert history.at_once(read) == (["e1", "e2", "e3"], ["e1", "e2"], 3, history.store)
    assert history.counts()["events"] == 5


def test_a_history_that_never_keeps_still_is_told(history: History) -> None:
    moments = (day(2, 1) + timedelta(hours=n) for n in range(10))

    def read(pinned: History) -> Any:
        moment = next(moments)
        put(history, f"id,type,at,who,what\n{moment:%d-%H},order,{moment.isoformat()},anna,tea\n")
        return ids(pinned)

    with pytest.raises(HistoryError, match="kept changing while it was read: read again when the loads are"):
        history.at_once(read)


def test_a_missing_file_is_an_error_that_says_what_to_do(history: History) -> None:
    next(iter(history.folder.glob("events/2017-02.*"))).unlink()
    with pytest.raises(HistoryError, match="names files that are not there: restore"):
        history.events()


def test_another_format_is_an_error_that_says_what_to_do(history: History) -> None:
    manifest = history.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(HistoryError, match=r"is format 99, this version reads 2: remove .*history and load"):
        history.counts()


def test_a_refused_load_leaves_the_folder_byte_for_byte(history: History) -> None:
    before = content(history.folder)
    with pytest.raises(LoadError):
        put(history, SECOND + "e6,dance,2017-01-01T00:00:00Z,anna,tea\n")
    assert content(history.folder) == before


# --- kill -9 ---------------------------------------------------------------------------------------------
# One process imports everything and forks a child for each try, in a home of its own: `steps` children kill
# themselves right before their n-th durable step, `instants` children are killed from outside after a part of the time
# that the last took which was not killed, as the first is not.

NURSERY = """
import os, signal, sys, time
import pandas, pyarrow.dataset  # which a first load would import
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from features import history as module
from features.history import History
from test_history import SECOND, put

class Step:
    def __init__(self, last): self.left = last
    def before(self, act):
        def step(*args, **options):
            self.left -= 1
            if self.left < 0: os.kill(os.getpid(), signal.SIGKILL)
            return act(*args, **options)
        return step

def child(home, last):
    if last is not None:
        step = Step(last)
        module._sync = step.before(module._sync)
        Path.replace = step.before(Path.replace)
        Path.unlink = step.before(Path.unlink)
    put(History(home / "history"), SECOND)

def fork(home, last=None):
    pid = os.fork()
    if pid == 0:
        try:
            child(home, last)
            os._exit(0)
        finally:
            os._exit(3)
    return pid

mode, homes, took = sys.argv[3], [Path(name) for name in sys.argv[4:]], None
for number, home in enumerate(homes):
    began = time.perf_counter()
    pid = fork(home, number if mode == "steps" else None)
    if mode == "instants" and took:
        time.sleep(float(home.name.split("_")[1]) * took)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        took = time.perf_counter() - began  # so that a machine that grows faster is killed in time, too
    print(code, flush=True)
"""


def killed(tmp_path: Path, history: History, mode: str, names: list[str]) -> list[tuple[int, Path]]:
    """Homes like that of `history` in which a load was killed, each with its exit code, 0 if it was done."""
    homes = [tmp_path / "homes" / name for name in names]
    for home in homes:
        shutil.copytree(history.folder, home / "history")
    root = Path(__file__).parent
    command = [sys.executable, "-c", NURSERY, str(root.parent), str(root), mode, *map(str, homes)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(zip(map(int, found.stdout.split()), homes, strict=True))


def check_all_or_nothing(tmp_path: Path, history: History, tries: list[tuple[int, Path]]) -> None:
    before = state(history)
    whole = History(tmp_path / "whole" / "history")
    shutil.copytree(history.folder, whole.folder)
    put(whole, SECOND)
    after = state(whole)
    assert before != after
    for code, home in tries:
        found = state(History(home / "history"))
        assert found in ([after] if code == 0 else [before, after]), (code, home)
        put(History(home / "history"), SECOND)
        assert content(home / "history") == content(whole.folder), home


def test_killed_at_each_durable_step_it_is_as_before_or_as_after(tmp_path: Path, history: History) -> None:
    tries = killed(tmp_path, history, "steps", [f"step_{n:02}" for n in range(16)])
    codes = [code for code, _ in tries]
    assert codes == [-9] * codes.count(-9) + [0] * codes.count(0)
    assert codes.count(-9) >= 12
    assert codes[-1] == 0
    check_all_or_nothing(tmp_path, history, tries)


def test_killed_at_any_instant_it_is_as_before_or_as_after(tmp_path: Path, history: History) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    parts = [random.Random(seed + n).random() for n in range(16)]
    tries = killed(tmp_path, history, "instants", [f"at_{part:.12f}" for part in parts])
    assert [code for code, _ in tries].count(-9) >= 3
    check_all_or_nothing(tmp_path, history, tries)


def test_a_file_of_before_a_column_came_is_read_and_added_to(history: History) -> None:
    """As one of consents, which once did not tell what the person read."""
    put(history, "who,channel,granted,at\nanna,email,yes,2017-01-01\n", "consents")
    before, old = history.manifest, pq.read_table(history.files("consents")[0], partitioning=None)
    pq.write_table(old.drop_columns(["text", "version"]), history.files("consents")[0])
    assert history.table("consents").to_pylist()[0]["text"] is None
    assert len(history.table("consents", where=pc.field("customer_id") == "anna")) == 1
    put(history, "who,channel,granted,at\nanna,email,no,2017-01-01\nbert,email,no,2017-02-01\n", "consents")
    found = history.table("consents")
    assert found["granted"].to_pylist() == [False, False] and found.schema == TABLES["consents"].schema
    assert history.manifest != before
