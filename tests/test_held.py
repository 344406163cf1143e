"""What happens to messages that wait, and to those that a worker holds: pauses, erasures, slow servers, late orders."""

import asyncio
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from live import NOW, event
from posted import HOUR, decision, mails, person, sending, states
from running import free_port
from test_compact import put
from test_outbox import ONE, Carrier, engine, grocer, home, pause, store, why

from features.history import History
from lifecycle.channels import Dead, Files, Parcel, Smtp
from lifecycle.drafts import Draft
from lifecycle.outbox import VALID
from serving.engine import Engine
from serving.outgoing import LEASE, due, due_sql, take
from serving.people import erase
from serving.store import DATA, Store

assert all((engine, grocer, home, store))  # fixtures
SECOND = timedelta(seconds=1)


# --- paused -----------------------------------------------------------------------------------------------


@ONE
@pytest.mark.parametrize("program", ["hello", None])
def test_what_is_paused_when_it_is_due_waits(
    store: Store, engine: Engine, home: Path, program: str | None
) -> None:
    person(store)
    store.append("decisions", [decision("m1"), decision("m2", program="receipt")])
    store.append("pauses", [pause(program, None)])
    for _ in range(2):
        assert sending(store, engine, home).reasons == {"waiting: paused: why": 1}
    assert states(store, "m1") == [] and states(store, "m2") == ["taken", "sent"]
    store.append("pauses", [pause(program, None, paused=False, at=NOW + HOUR)])
    assert sending(store, engine, home, after=VALID).sent == 1


@ONE
def test_what_was_paused_for_too_long_is_too_late(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1")])
    store.append("pauses", [pause("hello", None)])
    assert sending(store, engine, home, after=VALID + SECOND).reasons == {"dropped: too late": 1}


@ONE
def test_a_pause_that_begins_meanwhile_gives_messages_back(store: Store, engine: Engine, home: Path) -> None:
    """It is read before each message; what waits has no lease that anybody would have to wait for."""
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(3)])

    class Pausing(Carrier):
        def send(self, parcel: Parcel) -> None:
            super().send(parcel)
            store.append("pauses", [pause("hello", None)])

    pausing = Pausing()
    done = sending(store, engine, home, channels={"email": pausing})
    assert (done.sent, done.reasons) == (1, {"waiting: paused: why": 2})
    assert states(store, "m1") == ["taken", "waiting"]
    store.append("pauses", [pause("hello", None, paused=False)])
    assert sending(store, engine, home).sent == 2


@ONE
def test_how_far_a_delivery_is_is_told(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n:02}", program="receipt") for n in range(60)])
    told: list[tuple[str, int, int | None]] = []
    sending(store, engine, home, channels={"email": Carrier()}, shown=lambda *of: told.append(of))
    assert told == [("messages", 50, 60), ("messages", 60, 60)]


# --- ordered, and nobody knew -----------------------------------------------------------------------------


def counted(**known: int) -> str:
    return Draft(products=("bread",), known=known).model_dump_json()


@ONE
def test_an_order_that_a_file_brings_late_ends_what_it_answers(
    store: Store, engine: Engine, home: Path
) -> None:
    history = History(home / "history")
    order = {"customer_id": "anna", "event_type": "order", "quantity": 1, "product_id": "milk"}
    put(
        history,
        "events",
        {**order, "event_id": "e1", "order_id": "o1", "occurred_at": "2026-03-04T10:00:00Z"},
    )
    person(store)
    rows = [decision("m1", program="gone", content=counted(order=1)),
            decision("m2", program="cart", content=counted(ordered_product=0)),
            decision("m3", program="gone", content=counted())]  # fmt: skip
    store.append("decisions", rows[:1])
    assert sending(store, engine, home).sent == 1
    put(
        history,
        "events",
        {**order, "event_id": "e2", "order_id": "o2", "occurred_at": "2026-03-04T11:00:00Z"},
    )
    again = decision("m4", program="gone", content=counted(order=1))
    store.append("decisions", [again, *rows[1:]])
    done = sending(store, engine, home)
    assert (done.sent, done.reasons) == (2, {"dropped: exit: ordered since": 1})
    assert states(store, "m4")[-1] == "dropped"


@ONE
def test_an_order_that_is_told_twice_is_one(store: Store, engine: Engine, home: Path) -> None:
    """It lies in a file and in the database, as after `osclms compact`, and a line of it comes in late."""
    history = History(home / "history")
    order = {
        "customer_id": "anna",
        "event_type": "order",
        "quantity": 1,
        "product_id": "milk",
        "order_id": "o1",
    }
    put(history, "events", {**order, "event_id": "e1", "occurred_at": "2026-03-04T10:00:00Z"})
    person(store)
    at = datetime(2026, 3, 4, 10, tzinfo=UTC)
    lines = [{**order, "event_id": name, "occurred_at": at, "received_at": NOW} for name in ("e1", "e2")]
    store.add([{**event(""), **line, "quantity": 1.0} for line in lines])
    store.append("decisions", [decision("m1", program="gone", content=counted(order=1))])
    assert sending(store, engine, home).sent == 1


@ONE
def test_files_that_change_while_messages_go_are_read_anew(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n:02}") for n in range(60)])
    no = {"customer_id": "anna", "channel": "email", "purpose": "marketing", "granted": "false",
          "at": "2026-03-05T12:30:00Z"}  # fmt: skip

    class Loading(Carrier):
        def send(self, parcel: Parcel) -> None:
            super().send(parcel)
            if len(self.got) == 50:
                put(History(home / "history"), "consents", no)

    done = sending(store, engine, home, channels={"email": Loading()})
    assert (done.sent, done.reasons) == (50, {"dropped: no consent": 10})


# --- erased -----------------------------------------------------------------------------------------------


def personal(store: Store) -> list[str]:
    """What became of messages, row by row, and reasons of suppression."""
    found = [row["state"] for row in store.of("deliveries", ["anna"])]
    return found + [row["reason"] for page in store.read("suppressed", 0, 99) for row in page]


@pytest.mark.parametrize("when", ["before", "after", "bounced"])
def test_who_is_erased_while_a_worker_holds_their_message(
    store: Store, url: sa.URL, engine: Engine, home: Path, when: str
) -> None:
    """The erasure is another thread's, with a connection of its own, and commits while the worker is in the message
    before (`before`), or in theirs: nothing goes out after it, and nothing is put on record."""
    person(store, "bert")
    person(store)
    store.append("decisions", [decision("m1", "bert"), decision("m2", "anna")])
    reached, erased = Event(), Event()

    def erasing() -> None:
        assert reached.wait(30)
        with Store(url) as own:
            erase(own, History(home / "history"), "anna", NOW)
        erased.set()

    class Stopping(Files):
        got: ClassVar[list[str]] = []

        def send(self, parcel: Parcel) -> None:
            self.got.append(parcel.to)
            if parcel.message_id == ("m1" if when == "before" else "m2"):
                reached.set()
                assert erased.wait(30)
            if when == "bounced" and parcel.message_id == "m2":
                raise Dead("RCPT: 550", bounced=True)
            super().send(parcel)

    Stopping.got = []
    thread = Thread(target=erasing)
    thread.start()
    sending(store, engine, home, channels={"email": Stopping(home)})
    thread.join()
    assert Stopping.got == ["bert@mail.example", "anna@mail.example"][: 1 + (when != "before")]
    assert [path.stem for path in mails(home)] == ["m1"] and not (home / "outbox" / "dead.ndjson").exists()
    assert personal(store) == ["taken", *["erased"] * 3]
    assert sending(store, engine, home, clock=lambda: NOW + 2 * LEASE).reasons == {}


@ONE
def test_a_message_of_the_erased_is_not_taken(store: Store, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1"), decision("m2")])
    numbers = [one.number for one in due(store, ["email"], NOW)]
    erase(store, History(home / "history"), "anna", NOW)
    assert due(store, ["email"], NOW) == [] == take(store, numbers, at=NOW)
    assert states(store, "m1") == [] and why(store) == "erased"


# --- held by a slow worker ---------------------------------------------------------------------------------


class Slow:
    """A mail server that takes longer for a message than a lease is."""

    def __init__(self) -> None:
        self.asked, self.go, self.took = Event(), Event(), list[str]()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.asked.set()
        while not self.go.is_set():
            await asyncio.sleep(0.02)
        self.took.append(message_from_bytes(envelope.content)["Message-ID"])
        return "250 OK"


@ONE
def test_what_a_slow_server_takes_is_handed_over_once(
    store: Store, url: sa.URL, engine: Engine, home: Path
) -> None:
    """Two workers, by the time of day, while one message outlasts several leases."""
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(3)])
    box, port, lease = Slow(), free_port(), 2 * SECOND
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    how: dict[str, Any] = {"lease": lease, "clock": lambda: datetime.now(UTC), "sender": "hello@shop.example"}

    def work() -> None:
        with Store(url) as own:
            carrier = Smtp(f"smtp://127.0.0.1:{port}")
            sending(own, engine, home, channels={"email": carrier}, **how)
            carrier.close()

    worker, other = Thread(target=work), Carrier()
    worker.start()
    assert box.asked.wait(30)
    since = datetime.now(UTC)
    while datetime.now(UTC) < since + 1.5 * lease:
        assert sending(store, engine, home, channels={"email": other}, **how).waiting == 3
    box.go.set()
    worker.join()
    server.stop()
    assert other.got == [] and sorted(box.took) == [f"<m{n}@shop.example>" for n in range(3)]
    assert all(states(store, f"m{n}").count("sent") == 1 for n in range(3))


# --- found ------------------------------------------------------------------------------------------------

MANY = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})",
    "postgresql": "WITH n(i) AS (SELECT generate_series(1, {many}))",
}
FILL = (
    "INSERT INTO decisions (run_at, customer_id, program, version, occasion, outcome, channel, message_id, send_at, "
    "kind, received_at, settled_at) {numbers} SELECT {at}, 'bert', 'hello', 'v1', 'o' || i, 'message', 'email', "
    "'s' || i, {at}, 'marketing', {at}, {at} FROM n"
)


def fill(store: Store, url: sa.URL, many: int) -> None:
    """So many messages that are done, and 50 that are due."""
    at, name = int(NOW.timestamp() * 1_000_000), url.get_backend_name()
    numbers = MANY[name].format(many=many)
    sql = FILL.format(numbers=numbers, at=at)
    with store.writing() as db:
        db.exec_driver_sql(sql)
    store.append("decisions", [decision(f"m{n}", send_at=NOW) for n in range(50)])
    with store.writing() as db:
        db.exec_driver_sql("ANALYZE")


def plan(store: Store, wanted: "sa.Select[Any]", url: sa.URL) -> str:
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[url.get_backend_name()]
    with store.writing() as db:
        sql = wanted.compile(db.engine, compile_kwargs={"literal_binds": True})
        return "\n".join(" ".join(map(str, row)) for row in db.exec_driver_sql(f"{explain} {sql}"))


def test_what_is_due_is_found_among_what_is_done(store: Store, url: sa.URL) -> None:
    fill(store, url, 20_000)
    assert len(due(store, ["email", "sms"], NOW)) == 50
    told = plan(store, due_sql(["email", "sms"], NOW), url)
    assert "messages_open" in told and "Seq Scan" not in told and "SCAN decisions" not in told, told


def test_what_is_done_is_not_due_again(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1"), decision("m2", send_at=NOW - 2 * VALID)])
    assert sending(store, engine, home).sent == 1
    rows = store.select(sa.select(DATA["decisions"].c.settled_at))
    assert all(at is not None for (at,) in rows) and due(store, ["email"], NOW + HOUR) == []


# --- late -------------------------------------------------------------------------------------------------


@ONE
def test_what_could_not_go_on_time_waits_for_its_hours_and_for_room(
    store: Store, engine: Engine, home: Path
) -> None:
    """Two of marketing that lay while no worker ran: neither goes at night, one goes a day."""
    person(store, time_zone="UTC")
    store.append("decisions", [decision("m1"), decision("m2"), decision("m3", program="receipt")])
    midnight = timedelta(days=1) - timedelta(hours=NOW.hour, minutes=NOW.minute)
    night = sending(store, engine, home, after=midnight + 3 * HOUR)
    assert (night.sent, night.reasons) == (0, {"waiting: out of hours": 3})
    day = sending(store, engine, home, after=midnight + 12 * HOUR)
    assert (day.sent, day.reasons) == (2, {"waiting: cap: 1 in 1 day": 1})
    assert sending(store, engine, home, after=midnight + 36 * HOUR).sent == 1
