"""Events over the wire: what is answered is on disk, once, whenever the server is killed."""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from live import NOW, event, nursery, sent, spelled, stored
from running import start, stop

from features.history import History
from features.judge import Judge
from features.mapping import Mapping
from features.schema import EVENTS
from features.sources import load
from serving.events import MAX_EVENTS
from serving.store import Store

PATH = "/v1/events"
NDJSON = {"Content-Type": "application/x-ndjson"}
CLIENTS = 4
LONG = 50
PATIENCE = 60.0  # seconds for an answer


@pytest.fixture
def live(url: sa.URL) -> Iterator["Live"]:
    with Live(url) as served:
        yield served


class Live:
    """The route over a database, in a process of its own."""

    def __init__(self, url: sa.URL) -> None:
        self.url, self.port, self.pid = url, nursery().ask("listen"), 0

    def __enter__(self) -> "Live":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.kill()

    def start(self) -> None:
        self.pid = nursery().ask("serve", spelled(self.url), self.port)

    def kill(self) -> None:
        pid, self.pid = self.pid, 0
        os.kill(pid, signal.SIGKILL)
        assert nursery().ask("ended", pid) == -9

    def post(self, *events: Any) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}{PATH}", json={"events": events}, timeout=60)

    def lines(self, *lines: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{PATH}"
        return httpx.post(url, content="\n".join(lines), headers=NDJSON, timeout=60)


def statuses(response: httpx.Response) -> list[str]:
    answer = response.json()
    told = [line["status"] for line in answer["events"]]
    assert [line["index"] for line in answer["events"]] == list(range(len(told)))
    assert {
        name: told.count(name) for name in ("accepted", "duplicate", "rejected")
    }.items() <= answer.items()
    assert response.status_code == (207 if "rejected" in told else 200)
    return told


# --- what is answered -----------------------------------------------------------------------------------


def test_a_line_is_answered_by_what_became_of_it(live: Live) -> None:
    assert statuses(live.post(sent("e1"), sent("e2"), sent("e1"))) == ["accepted", "accepted", "duplicate"]
    again = live.post(sent("e2"), sent("e1", product_id="milk"), sent("e3"))
    assert statuses(again) == ["duplicate", "rejected", "accepted"]
    assert "other content" in again.json()["events"][1]["error"]
    with Store(live.url) as store:
        assert stored(store) == ["e1", "e2", "e3"]
        assert set(store.since("anna", NOW)["product_id"]) == {"tea"}


def test_lines_of_ndjson(live: Live) -> None:
    answer = live.lines(json.dumps(sent("e1")), "", "nope", json.dumps(sent("e2")), "[1]")
    assert statuses(answer) == ["accepted", "rejected", "accepted", "rejected"]
    assert answer.json()["events"][1]["error"] == "the line is not JSON"


def test_one_event_may_come_alone(live: Live) -> None:
    def post(given: Any) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{live.port}{PATH}", json=given, timeout=60)

    assert statuses(post(sent("e1"))) == ["accepted"] and statuses(live.post(sent("e1"))) == ["duplicate"]
    assert statuses(post({"event_id": "e2"})) == ["rejected"]


def test_nothing_is_nothing(live: Live) -> None:
    assert statuses(live.post()) == []


def test_text_is_read_as_a_files_cell_is(live: Live) -> None:
    live.post(sent(" e1 ", customer_id="\t anna\n", channel="  ", placement="a b"))
    with Store(live.url) as store:
        found = store.since("anna", NOW)
    assert (found["event_id"], found["channel"], found["placement"]) == (("e1",), (None,), ("a b",))
    assert statuses(live.post(sent("e1", placement="a b"))) == ["duplicate"]


def test_the_same_moment_in_another_zone_is_the_same_event(live: Live) -> None:
    there = (NOW + timedelta(hours=5)).replace(tzinfo=None).isoformat() + "+05:00"
    assert statuses(live.post(sent("e1"), {**sent("e1"), "occurred_at": there})) == ["accepted", "duplicate"]


WRONG: dict[str, tuple[Any, str]] = {
    # what is sent, and what the answer says of it
    "no object": (7, "event"),
    "unknown column": (sent("e1", colour="red"), "colour"),
    "no id": ({k: v for k, v in sent("e1").items() if k != "event_id"}, "event_id"),
    "null id": (sent("e1", event_id=None), "event_id is missing"),
    "blank id": (sent("e1", event_id=" \t"), "event_id is missing"),
    "number as id": (sent("e1", customer_id=7), "customer_id"),
    "yes as number": (sent("e1", quantity=True), "quantity"),
    "text as number": (sent("e1", quantity="1"), "quantity"),
    "no moment": ({**sent("e1"), "occurred_at": "soon"}, "occurred_at"),
    "seconds": ({**sent("e1"), "occurred_at": 1_700_000_000}, "occurred_at"),
    "no such day": ({**sent("e1"), "occurred_at": "2026-02-30"}, "occurred_at"),
    "the future": (sent("e1", days=-1.1), "occurred_at is more than a day ahead"),
    "NUL": (sent("e1", channel="a\0b"), "channel"),
}


def test_what_is_wrong_is_said_and_costs_no_other(live: Live) -> None:
    answer = live.post(*(given for given, _ in WRONG.values()), sent("fine"))
    assert statuses(answer) == ["rejected"] * len(WRONG) + ["accepted"]
    for (name, (_, says)), line in zip(WRONG.items(), answer.json()["events"], strict=False):
        assert says in line["error"], name
    with Store(live.url) as store:
        assert stored(store) == ["fine"]


def test_numbers_must_be_finite(live: Live) -> None:
    big = json.dumps(sent("e1", value=0.5)).replace("0.5", "1e999")
    odd = json.dumps(sent("e2", value=float("nan")))
    assert statuses(live.lines(big, odd, json.dumps(sent("e3", value=1e300)))) == [
        "rejected",
        "rejected",
        "accepted",
    ]


def test_as_many_as_may_be(live: Live) -> None:
    many = [sent(f"e{n}") for n in range(MAX_EVENTS)]
    assert statuses(live.post(*many)) == ["accepted"] * MAX_EVENTS


BROKEN: tuple[dict[str, Any], ...] = (
    {"event_type": "dance"},
    {"event_type": None},
    {"occurred_at": None},
    {"customer_id": "x" * 201},
    {"visit_id": "a\x1bb"},
    {"event_type": "order", "quantity": 1.0},
    {"event_type": "order", "order_id": "o"},
    {"event_type": "return", "quantity": 1.0, "product_id": None},
    {"quantity": 0.0},
    {"quantity": 1e9},
    {"unit_price": -0.01},
    {"unit_price": 1e12},
    {"discount": -1.0},
    {"occurred_at": NOW.replace(year=1969)},
    {"event_type": "order", "order_id": "o", "quantity": 2.0, "unit_price": 0.0},
    {"customer_id": "x" * 200, "product_id": None},
)


def test_an_event_is_judged_as_a_row_of_a_file_is(tmp_path: Path) -> None:
    rows = [event(f"e{n}", **wrong) for n, wrong in enumerate(BROKEN)]
    judged = Judge(EVENTS).reasons(rows)
    file, names = tmp_path / "rows.parquet", {name: name for name in EVENTS.names}
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS.schema), file)
    mapping = Mapping.model_validate({"columns": names})
    report = load(History(tmp_path), "events", [file], mapping, max_rejects=1, rejects_dir=tmp_path)
    assert report.loaded == judged.count(None) == 2
    reasons = [reason for reason in judged if reason]
    assert report.rejected == {reason: reasons.count(reason) for reason in reasons}


def test_a_judge_may_be_asked_by_several_threads() -> None:
    judge = Judge(EVENTS)
    odd, even = ([event(f"e{n}", quantity=quantity) for n in range(40)] for quantity in (-1.0, 1.0))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(judge.reasons, [odd, even] * 20))
    assert found == [["quantity is not above 0"] * 40, [None] * 40] * 20


# --- kill -9 --------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What clients know: the ids that they sent, and those whose answer they got."""

    sent: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)


def client(
    port: int, name: str, chance: random.Random, over: threading.Event, lost: threading.Event, ledger: Ledger
) -> None:
    """Sends a few events at a time, those without an answer again, and some with one again."""
    waiting: list[str] = []
    done: list[str] = []
    count = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not lost.is_set() and not (over.is_set() and not waiting):
        if not over.is_set():
            waiting += [f"{name}-{count + n}" for n in range(chance.randint(1, 4))]
            count = int(waiting[-1].rsplit("-", 1)[1]) + 1
        again = chance.sample(done, min(len(done), chance.randint(0, 2)))
        ledger.sent.update(waiting)
        body = json.dumps({"events": [sent(event_id) for event_id in (*waiting, *again)]})
        try:
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            time.sleep(0.01)
            continue
        if response.status != 200:  # 503: nothing is known
            time.sleep(0.01)
            continue
        assert {line["status"] for line in answer["events"]} <= {"accepted", "duplicate"}, answer
        assert {line["status"] for line in answer["events"][len(waiting) :]} <= {"duplicate"}, answer
        ledger.told.update(waiting)
        done, waiting = [*done[-50:], *waiting], []
    connection.close()


class Clients:
    """Clients at work on a port, from `with` to its end; then each gets its last answers."""

    def __init__(self, port: int, seed: int) -> None:
        self.over, self.lost = threading.Event(), threading.Event()  # the end, and an end without an answer
        self.ledgers = [Ledger() for _ in range(CLIENTS)]
        self.threads = [
            threading.Thread(
                target=client,
                args=(port, f"{seed}-{n}", random.Random(seed + n), self.over, self.lost, ledger),
            )
            for n, ledger in enumerate(self.ledgers)
        ]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is not None:
            self.lost.set()
        self.over.set()
        for thread in self.threads:
            thread.join()

    def wait(self) -> None:
        """Until one more answer has come."""
        told, end = len(self.told), time.monotonic() + PATIENCE
        while len(self.told) == told and time.monotonic() < end:
            time.sleep(0.001)

    @property
    def sent(self) -> set[str]:
        return {event_id for ledger in self.ledgers for event_id in ledger.sent.copy()}

    @property
    def told(self) -> set[str]:
        return {event_id for ledger in self.ledgers for event_id in ledger.told.copy()}


def check_kills(url: sa.URL, instants: int) -> None:
    """A server killed so often under load has lost nothing that it answered, and stored nothing twice."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance, served = random.Random(seed), Live(url)
    with Store(url) as store, served:
        with Clients(served.port, seed) as clients:
            for _ in range(instants):
                if chance.random() < 0.8:  # else perhaps while it starts
                    clients.wait()
                time.sleep(chance.uniform(0, 0.3))
                served.kill()
                told, found = clients.told, stored(store)
                assert told <= set(found), f"lost {told - set(found)}"
                assert len(found) == len(set(found))
                served.start()
        assert sorted(stored(store)) == sorted(clients.sent) == sorted(clients.told)
    print(f"{instants} kills, {len(clients.sent):,} events")


def test_a_server_killed_under_load_loses_nothing_that_it_answered(url: sa.URL) -> None:
    check_kills(url, 5)


@pytest.mark.long
def test_a_server_killed_at_many_instants_loses_nothing_that_it_answered(url: sa.URL) -> None:
    check_kills(url, LONG)


@pytest.mark.long
def test_workers_of_the_service_killed_at_many_instants_lose_nothing(
    url: sa.URL, shop_home: Path, tmp_path: Path
) -> None:
    """The whole service with two workers, which BentoML starts anew."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    settings = {"home": str(shop_home), "database_url": spelled(url), "workers": "2"}
    server = start("serving.service:Service", tmp_path, settings)
    try:
        with Store(url) as store:
            with Clients(httpx.URL(server.url).port or 0, seed) as clients:
                for _ in range(LONG):
                    if chance.random() < 0.8:
                        clients.wait()
                    time.sleep(chance.uniform(0, 1.0))
                    workers = psutil.Process(server.process.pid).children(recursive=True)
                    chance.choice(workers).kill()
                    told, found = clients.told, stored(store)
                    assert told <= set(found), f"lost {told - set(found)}"
            assert sorted(stored(store)) == sorted(clients.sent) == sorted(clients.told)
    finally:
        stop(server)
