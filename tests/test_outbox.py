"""Delivery: each message that may still go goes once, others tell why not, and nothing is lost."""

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from live import NOW, event, nursery, spelled
from posted import HOUR, PROGRAMS, TEXTS, consent, decision, mails, person, program, sending, states
from test_compact import put
from tiny import GROCER, GROCERIES, UNTIL, bundle

from features.history import History
from lifecycle.channels import Away, Dead, Failed, Files, Parcel
from lifecycle.drafts import Draft, draft
from lifecycle.ledger import Names, seen
from lifecycle.outbox import once
from serving.addresses import is_suppressed, subject, suppress
from serving.engine import Engine
from serving.outgoing import BACKOFF, LEASE, due, take
from serving.people import erase
from serving.settings import Settings
from serving.store import DATA, Store, StoreError, address

ONE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture(scope="session")
def grocer(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(home: Path) -> None:
        bundle(home / "bundles" / "1", GROCERIES, GROCER)

    return shared("grocer home", make)


@pytest.fixture(scope="module")
def engine(grocer: Path) -> Engine:
    return Engine.load(grocer / "bundles" / "1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def opened(path: Path) -> EmailMessage:
    found = message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(found, EmailMessage)
    return found


# --- what goes ----------------------------------------------------------------------------------------------


@ONE
def test_what_is_due_goes_once_and_can_be_read(store: Store, engine: Engine, home: Path) -> None:
    person(store, first_name="Zoë")
    later = decision("m2", send_at=NOW + 2 * HOUR)
    store.append("decisions", [decision("m1"), later, decision("h1", outcome="holdout", message_id="h1")])
    assert sending(store, engine, home).as_dict()["sent"] == 1
    (path,) = mails(home)
    assert path.relative_to(home).as_posix() == "outbox/2026-03-05/hello/m1.eml"
    made = opened(path)
    assert (made["To"], made["Subject"]) == ("anna@mail.example", "Hello, Zoë")
    assert (made["Message-ID"], made["List-Id"]) == ("<m1@shop.example>", "<hello.shop.example>")
    assert made["Date"].datetime == NOW + HOUR and made["Auto-Submitted"] is None
    assert [part.get_content_type() for part in made.iter_parts()] == ["text/plain", "text/html"]
    assert made["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    raw = path.read_bytes()
    assert b"\r\nList-Unsubscribe: <https://go.shop.example/u/" in raw and raw.count(b"=?utf-8?") == 1
    assert max(map(len, raw.split(b"\r\n"))) < 998
    headers = raw.split(b"\r\n\r\n")[0].replace(b"To: anna@mail.example", b"")
    assert b"anna" not in headers
    assert sending(store, engine, home).as_dict()["sent"] == 0 and states(store, "m1") == ["taken", "sent"]
    assert sending(store, engine, home, after=3 * HOUR).sent == 1 and len(mails(home)) == 2
    assert "mail.example" not in json.dumps(store.of("deliveries", ["anna"]), default=str)


@ONE
def test_other_channels_are_files_of_json(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append(
        "decisions", [decision("m1", channel="sms"), decision("m2", channel="push", program="receipt")]
    )
    assert sending(store, engine, home).sent == 2
    sms, push = (json.loads(path.read_text()) for path in mails(home))
    assert (sms["text"], sms["parts"], sms["to"]) == (
        "Hello from Corner Reply STOP to end",
        1,
        "+1 200 555 0100",
    )
    assert sms["unsubscribe_url"].startswith("https://go.shop.example/u/")
    assert (push["title"], push["to"], push["unsubscribe_url"]) == ("Hello", "push-anna", None)


@ONE
def test_a_transactional_message_asks_for_no_consent(store: Store, engine: Engine, home: Path) -> None:
    person(store, agreed=False)
    store.append("decisions", [decision("m1", program="receipt"), decision("m2")])
    assert sending(store, engine, home).reasons == {"dropped: no consent": 1}
    made = opened(mails(home)[0])
    assert made["Auto-Submitted"] == "auto-generated" and made["List-Unsubscribe"] is None


LISTED = {
    "en": {**TEXTS["en"], "body": "{% if lists %}More{% else %}No more{% endif %}.", "shelves": ["Besides"]}
}
THANKS = program(
    "thanks", kind="transactional", trigger={"kind": "order"}, texts=LISTED,
    shelves=[{"placement": "next_best", "limit": 2, "minimum": 2}],
)  # fmt: skip


@ONE
def test_lists_in_an_orders_message_are_for_who_agrees_as_it_goes(
    store: Store, engine: Engine, home: Path
) -> None:
    """What is personal is so as far as it may be."""
    decided = draft(engine, THANKS, "anna", ("bread",), {}, exclude=(), at=UNTIL).model_dump_json()
    none = Draft(products=("bread",)).model_dump_json()
    names = ("agrees", "never", "withdrew", "late", "impersonal")
    for name in names:
        person(store, name, agreed=name not in ("never", "late"), email="a@mail.example")
        content = decided if name != "late" else none
        store.append(
            "decisions", [decision(name, name, program="thanks", kind="transactional", content=content)]
        )
    store.append("consents", [
        consent("withdrew", granted=False, **SINCE), consent("late", **SINCE),
        consent("impersonal", "web", False, purpose="personalisation", **SINCE),
    ])  # fmt: skip
    assert sending(store, engine, home, programs={"thanks": THANKS}).sent == len(names)
    texts = {path.stem: opened(path).get_body(("plain",)) for path in mails(home)}
    told = {name: part.get_content() for name, part in texts.items() if part}
    assert {name: "BESIDES" in text for name, text in told.items()} == {
        "agrees": True, "never": False, "withdrew": False, "late": False, "impersonal": False,
    }  # fmt: skip
    assert "POPULAR RIGHT NOW" in told["impersonal"]
    assert all(
        ("No more." in text) == ("RIGHT NOW" not in text and "BESIDES" not in text) for text in told.values()
    )


@ONE
def test_what_is_of_a_faulty_file_waits_and_nothing_else(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1"), decision("m2", program="receipt")])
    sound = {name: of for name, of in PROGRAMS.items() if name != "hello"}
    done = sending(store, engine, home, programs=sound, faulty={"hello": "line 2"})
    assert (done.sent, done.dropped, done.reasons) == (1, 0, {"waiting: paused: line 2": 1})
    assert sending(store, engine, home).sent == 1 and states(store, "m1") == ["taken", "sent"]


def test_a_faulty_file_of_the_shop_is_told_of_and_nothing_is_lost(home: Path) -> None:
    (home / "programs").mkdir(parents=True)
    (home / "programs" / "thank_you.yaml").write_text(
        "name: thank_you\ntrigger: {kind: broadcast, on: 2017-02-30}"
    )
    at = NOW + HOUR
    with Store(address(home, None)) as store:
        store.append("decisions", [decision("m1", program="thank_you")])
    done = once(home, None, Settings(home=home), {"email": Files(home)}, now=at, clock=lambda: at)
    (why,) = done.reasons
    assert done.waiting == 1 and "thank_you.yaml:2: '2017-02-30' is no timestamp" in why


# --- what does not -------------------------------------------------------------------------------------------


def pause(program: str | None, customer: str | None, paused: bool = True, **other: Any) -> dict[str, Any]:
    about = {"program": program, "customer_id": customer, "paused": paused, "reason": "why", "at": NOW}
    return {**about, "received_at": NOW, **other}


def said(table: str, *rows: dict[str, Any]) -> Callable[[Store], None]:
    return lambda store: store.append(table, rows)


def ordered(product: str, hours: float = 0.5, known: bool = False) -> Callable[[Store], None]:
    """An order; whether it was known when the message was decided."""
    about: dict[str, Any] = {"event_type": "order", "order_id": "o", "quantity": 1.0, "product_id": product}

    def happens(store: Store) -> None:
        store.add([event("e1", **about, occurred_at=NOW + hours * HOUR)])
        counted = {
            "content": Draft(products=("bread",), known={"order": 1, "ordered_product": 1}).model_dump_json()
        }
        if known:
            with store.writing() as db:
                db.execute(sa.update(DATA["decisions"]).values(counted))

    return happens


def dated(ends: datetime) -> Callable[[Store], None]:
    """A message that is about a time until then."""
    content = Draft(products=("bread",), ends=ends).model_dump_json()

    def happens(store: Store) -> None:
        with store.writing() as db:
            db.execute(sa.update(DATA["decisions"]).values(content=content))

    return happens


def barred(store: Store) -> None:
    suppress(
        store, {subject(store, "email", " Anna@MAIL.example"): "email"}, "bounce", at=NOW, received_at=NOW
    )


UNBOUGHT = Draft(products=("bread",), known={"order": 0, "ordered_product": 0}).model_dump_json()
SINCE: dict[str, Any] = {"at": NOW, "received_at": NOW}
CASES: tuple[tuple[str, Callable[[Store], None], str | None], ...] = (
    ("hello", lambda store: None, None),
    ("hello", said("consents", consent(granted=False, **SINCE)), "no consent"),
    ("hello", said("consents", consent(granted=False, **SINCE), consent(at=NOW + HOUR)), None),
    ("hello", said("consents", consent(channel="sms", granted=False, **SINCE)), None),
    ("hello", barred, "suppressed: bounce"),
    ("hello", said("pauses", pause("hello", "anna")), "paused: why"),
    ("hello", said("pauses", pause(None, "anna")), "paused: why"),
    ("hello", said("pauses", pause(None, None), pause(None, None, paused=False)), None),
    ("hello", said("pauses", pause(None, "anna", ends=NOW + 2 * HOUR)), "paused: why"),
    ("hello", said("pauses", pause(None, "anna", ends=NOW)), None),
    ("hello", said("pauses", pause("cart", None), pause("hello", "bert")), None),
    ("gone", ordered("milk"), "exit: ordered since"),
    ("gone", ordered("milk", -7, known=True), None),
    ("gone", ordered("milk", -7), "exit: ordered since"),
    ("gone", ordered("milk", -7 - 24 * 90), None),
    ("cart", ordered("bread", -7), "exit: ordered it since"),
    ("cart", ordered("milk", -7), None),
    ("cart", ordered("milk"), None),
    ("cart", ordered("bread"), "exit: ordered it since"),
    ("day", dated(NOW + HOUR), None),
    ("day", dated(NOW + HOUR / 2), "exit: its day has passed"),
    ("off", lambda store: None, "the program is off"),
    ("nowhere", lambda store: None, "there is no such program any more"),
)  # fmt: skip


@ONE
def test_what_is_so_as_it_goes_counts(store: Store, engine: Engine, home: Path) -> None:
    """Each case is a shop of its own; the other customer's message goes in all of them."""
    for n, (name, happens, why) in enumerate(CASES):
        with Store(address(home / str(n), None)) as shop:
            person(shop)
            person(shop, "bert")
            shop.append(
                "decisions",
                [decision("m1", program=name, content=UNBOUGHT), decision("m2", "bert", program="receipt")],
            )
            happens(shop)
            done = sending(shop, engine, home / str(n))
            assert done.sent == 1 + (why is None), (n, name, why, done)
            assert done.reasons == ({f"dropped: {why}": 1} if why else {}), (n, name, why)


@ONE
def test_a_message_has_its_time_and_needs_an_address(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    person(store, "bert", email=None)
    late = decision("m1", send_at=NOW - timedelta(days=3))
    store.append("decisions", [late, decision("m2", "bert", program="receipt")])
    done = sending(store, engine, home)
    assert done.reasons == {"dropped: too late": 1, "dropped: no address": 1}
    assert states(store, "m1") == ["taken", "dropped"] and sending(store, engine, home).reasons == {}


@ONE
def test_what_files_and_other_ids_say_counts(store: Store, engine: Engine, home: Path) -> None:
    history = History(home / "history")
    put(history, "customers", {"customer_id": "anna", "email": "anna@mail.example"})
    put(
        history,
        "identities",
        {"alias": "card", "customer_id": "anna"},
        {"alias": "b2", "customer_id": "bert"},
    )
    agreed = {"channel": "email", "purpose": "marketing", "granted": "true", "at": "2026-03-01T00:00:00Z"}
    put(history, "consents", *({"customer_id": name, **agreed} for name in ("card", "bert")))
    put(history, "events", {
        "event_id": "e1", "customer_id": "card", "event_type": "order", "occurred_at": "2026-03-05T11:00:00Z",
        "order_id": "o", "product_id": "milk", "quantity": 1,
    })  # fmt: skip
    store.append("customers", [{"customer_id": "b2", "email": "bert@mail.example", "received_at": NOW}])
    rows = [decision("m1"), decision("m2", program="gone"), decision("m3", "bert")]
    store.append("decisions", rows)
    store.append("consents", [consent("b2", granted=False, **SINCE)])
    done = sending(store, engine, home)
    assert (done.sent, done.reasons) == (1, {"dropped: exit: ordered since": 1, "dropped: no consent": 1})
    assert opened(mails(home)[0])["To"] == "anna@mail.example"


@ONE
def test_a_customers_fault_is_that_customers_alone(
    store: Store, engine: Engine, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    person(store)
    person(store, "bert", email="bert@a, b@c")
    rows = [decision("m1", content='{"words": 7, "anna": 1}'), decision("m2"), decision("m3", "bert")]
    store.append("decisions", rows)
    done = sending(store, engine, home)
    assert (done.sent, done.failed, done.dead) == (1, 1, 1)
    assert "hello: a message failed: ValidationError" in caplog.text
    assert not any(word in caplog.text for word in ("anna", "bert", "mail.example"))
    assert "bert" not in (home / "outbox" / "dead.ndjson").read_text() and states(store, "m3")[-1] == "dead"


@ONE
def test_of_two_who_became_one_one_message_goes(store: Store, engine: Engine, home: Path) -> None:
    """Of one program's marketing a day, and of one occasion; two orders are thanked for twice."""
    person(store)
    store.append("identities", [{"alias": "a2", "customer_id": "anna", "received_at": NOW}])
    on: dict[str, Any] = {"local_day": "2026-03-05"}
    thanks: dict[str, Any] = {**on, "program": "receipt"}
    store.append("decisions", [
        decision("m1", **on), decision("m2", "a2", **on), decision("m3", "a2", local_day="2026-03-06"),
        decision("r1", occasion="o", **thanks), decision("r2", "a2", occasion="o", **thanks),
        decision("r3", "a2", occasion="p", **thanks),
    ])  # fmt: skip
    done = sending(store, engine, home)
    assert done.reasons == {"dropped: merged: another of this goes to the same customer": 2}
    assert {path.stem for path in mails(home)} == {"m1", "m3", "r1", "r3"}


def test_what_was_not_sent_counts_against_nothing_and_may_come_again(
    store: Store, engine: Engine, home: Path
) -> None:
    """Where the cause can be mended; what the customer said or did ends the matter."""
    person(store)
    for name in ("bert", "carl"):
        person(store, name, agreed=name != "bert", email=None if name == "carl" else "b@mail.example")
    old = NOW - timedelta(days=4)
    store.append("decisions", [
        decision("sent", local_day="2026-03-05"), decision("late", local_day="2026-03-01", send_at=old),
        decision("off", program="off", local_day="2026-03-05"), decision("no", "bert", local_day="2026-03-05"),
        decision("nowhere", "carl", local_day="2026-03-05"),
        decision("open", send_at=NOW + 9 * HOUR, local_day="2026-03-06"),
    ])  # fmt: skip
    assert (sending(store, engine, home).sent, sending(store, engine, home).dropped) == (1, 0)
    names = ["anna", "bert", "carl"]
    past = seen(store, names, shown_since=NOW, run_at=NOW + 24 * HOUR, names=Names()).past
    assert past["anna"].before == {("hello", "sent"), ("hello", "open")}
    assert sorted(past["anna"].days["email"]) == [date(2026, 3, 5), date(2026, 3, 6)]
    assert [*past["anna"].sent] == [("hello", "sent")] and past["anna"].again["hello", "late"] == 1
    assert past["bert"].before == {("hello", "no")} and not past["bert"].days and not past["bert"].last
    assert not past["carl"].before and past["carl"].again == {("hello", "nowhere"): 1}
    store.append("decisions", [decision("late|1", occasion="late", run_at=NOW)])
    with pytest.raises(StoreError):
        store.append("decisions", [decision("no|1", "bert", occasion="no", run_at=NOW)])
    assert sending(store, engine, home).sent == 1


# --- again and again --------------------------------------------------------------------------------------


class Carrier:
    """Notes what it was given, and raises what it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.got = list(errors), list[Parcel]()

    def send(self, parcel: Parcel) -> None:
        self.got.append(parcel)
        if self.errors:
            raise self.errors.pop(0)

    def take_back(self, parcel: Parcel) -> None:
        return None

    def close(self) -> None:
        return None


@ONE
def test_what_fails_is_tried_again_after_longer_and_longer_rests(
    store: Store, engine: Engine, home: Path
) -> None:
    person(store)
    store.append("decisions", [decision("m1")])
    carrier, time = Carrier(*[Failed("DATA: 451")] * 99), [NOW]
    shared: dict[str, Any] = {"channels": {"email": carrier}, "clock": lambda: time[0]}
    for rest in BACKOFF:
        done = sending(store, engine, home, **shared)
        assert done.reasons == {"failed: DATA: 451": 1}
        time[0] += rest - timedelta(seconds=1)
        assert sending(store, engine, home, **shared).waiting == 1
        time[0] += timedelta(seconds=1)
    done = sending(store, engine, home, **shared)
    assert done.dead == 1 and len(carrier.got) == len(BACKOFF) + 1
    (line,) = (home / "outbox" / "dead.ndjson").read_text().splitlines()
    told = json.loads(line)
    assert told["message_id"] == "m1" and told["why"] == f"given up after {len(BACKOFF) + 1} tries: DATA: 451"
    assert "anna" not in line
    assert sending(store, engine, home, channels={"email": Carrier()}, clock=lambda: time[0] + HOUR).sent == 0


@ONE
def test_a_channel_that_is_away_is_not_asked_for_each_message(
    store: Store, engine: Engine, home: Path
) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(5)] + [decision("s1", channel="sms")])
    away, other = Carrier(Away("the server: gaierror")), Carrier()
    done = sending(store, engine, home, channels={"email": away, "sms": other})
    assert (len(away.got), len(other.got), done.failed, done.sent) == (1, 1, 5, 1)
    later = {"email": away, "sms": other}
    assert sending(store, engine, home, channels=later, clock=lambda: NOW + 9 * HOUR).sent == 5


@ONE
def test_an_address_that_is_none_is_never_written_to_again(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1"), decision("m2", program="receipt")])
    carrier = Carrier(Dead("RCPT: 550", bounced=True))
    done = sending(store, engine, home, channels={"email": carrier})
    assert done.reasons == {"dead: RCPT: 550": 1, "dropped: suppressed: bounce": 1}


def test_of_two_workers_one_has_a_message_until_it_dies(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(3)])
    numbers = [one.number for one in due(store, ["email"], NOW)]
    assert [one.row["message_id"] for one in take(store, numbers, at=NOW)] == ["m0", "m1", "m2"]
    assert take(store, numbers, at=NOW + LEASE - timedelta(seconds=1)) == []
    assert sending(store, engine, home, clock=lambda: NOW).waiting == 3
    assert sending(store, engine, home, clock=lambda: NOW + LEASE).sent == 3
    assert take(store, numbers, at=NOW + 2 * LEASE) == []


def test_workers_at_once_send_each_message_once(
    store: Store, url: sa.URL, engine: Engine, home: Path
) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n}", program="receipt") for n in range(120)])
    carrier = Carrier()

    def work(_: int) -> int:
        with Store(url) as own:
            return sending(own, engine, home, channels={"email": carrier}).sent

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == 120
    assert len(carrier.got) == len({parcel.message_id for parcel in carrier.got}) == 120


@ONE
def test_a_slow_worker_renews_what_it_holds(store: Store, engine: Engine, home: Path) -> None:
    """Each message takes more than a third of a lease; nobody else may have one meanwhile."""
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(4)])
    time, numbers = [NOW], [one.number for one in due(store, ["email"], NOW)]

    class Slow(Carrier):
        def send(self, parcel: Parcel) -> None:
            super().send(parcel)
            time[0] += LEASE * 0.4
            assert take(store, numbers, at=time[0]) == []

    slow = Slow()
    done = sending(store, engine, home, channels={"email": slow}, clock=lambda: time[0])
    assert (done.sent, done.waiting, len(slow.got)) == (4, 0, 4) and time[0] > NOW + LEASE


@ONE
def test_a_worker_that_slept_leaves_what_another_took(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision(f"m{n}") for n in range(3)])
    time, numbers = [NOW], [one.number for one in due(store, ["email"], NOW)]

    class Asleep(Carrier):
        def send(self, parcel: Parcel) -> None:
            super().send(parcel)
            time[0] += 2 * LEASE
            assert len(take(store, numbers[1:], at=time[0])) == 2

    asleep = Asleep()
    done = sending(store, engine, home, channels={"email": asleep}, clock=lambda: time[0])
    assert (done.sent, done.waiting, len(asleep.got)) == (1, 2, 1)


# --- kill -9 --------------------------------------------------------------------------------------------


def killed_at(url: sa.URL, grocer: Path, home: Path, seed: int, messages: int, times: int) -> None:
    """Workers are killed at random instants; at the end each message is one whole file, and sent once."""
    print(f"seed {seed}")
    chance, names = random.Random(seed), [f"s{seed}m{n}" for n in range(messages)]
    bundle = grocer / "bundles" / "1"
    with Store(url) as store:
        person(store, agreed=False)
        store.append("decisions", [decision(name, program="receipt") for name in names])
        files = sorted(chance.randrange(messages) for _ in range(times))
        instants = [(n, chance.uniform(0, 0.02)) for n in files]
        assert (
            nursery().ask("deliver instants", spelled(url), str(bundle), str(home), instants) == [-9] * times
        )
        later = NOW + HOUR + LEASE * (times + 1)
        sending(store, Engine.load(bundle), home, clock=lambda: later)
        assert all(states(store, name).count("sent") == 1 for name in names)
    whole = [path for path in mails(home) if not path.name.startswith(".")]
    assert sorted(path.stem for path in whole) == sorted(names)
    assert {opened(path)["Message-ID"] for path in whole} == {f"<{name}@shop.example>" for name in names}


@ONE
def test_killed_at_some_instants_nothing_is_lost(url: sa.URL, grocer: Path, home: Path) -> None:
    killed_at(url, grocer, home, 7, 12, 3)


@pytest.mark.long
def test_killed_at_many_instants_nothing_is_lost(url: sa.URL, grocer: Path, tmp_path: Path) -> None:
    """51 instants of each database, in seventeen shops."""
    for seed in random.SystemRandom().sample(range(10**6), 17):
        killed_at(url, grocer, tmp_path / str(seed), seed, 80, 3)


# --- what comes back --------------------------------------------------------------------------------------


def came(
    store: Store, name: str, kind: str, *, days: float = 0, message: str | None = "m1", **other: Any
) -> None:
    about = {"product_id": None, "customer_id": None, "message_id": message, "event_type": kind}
    store.add([event(name, days=days, **{**about, **other})])


def why(store: Store, name: str = "anna@mail.example", channel: str = "email") -> str | None:
    return is_suppressed(store, subject(store, channel, name))


@ONE
def test_hard_bounces_and_complaints_bar_the_address_that_was_written_to(
    store: Store, engine: Engine, home: Path
) -> None:
    for name in ("anna", "bert", "carl"):
        person(store, name)
    store.append("decisions", [decision(f"m{n}", name) for n, name in enumerate(("anna", "bert", "carl"))])
    assert sending(store, engine, home).sent == 3
    store.append("customers", [{"customer_id": "anna", "email": "new@mail.example", "received_at": NOW}])
    came(store, "f1", "bounce", message="m0", value=550.0)
    came(store, "f2", "complaint", message="m1")
    came(store, "f3", "bounce", message="m2", value=451.0)
    came(store, "f4", "open", message="m2")
    assert sending(store, engine, home).suppressed == 2 and sending(store, engine, home).suppressed == 0
    assert (why(store), why(store, "new@mail.example")) == ("bounce", None)
    assert (why(store, "bert@mail.example"), why(store, "carl@mail.example")) == ("complaint", None)
    rows = [row for page in store.read("suppressed", 0, 99) for row in page]
    assert "mail.example" not in json.dumps(rows, default=str) and len(rows) == 2
    store.append("decisions", [decision(f"n{n}", name) for n, name in enumerate(("anna", "bert"))])
    done = sending(store, engine, home)
    assert (done.sent, done.reasons) == (1, {"dropped: suppressed: complaint": 1})


@ONE
def test_three_soft_bounces_in_a_row_within_a_fortnight(store: Store, engine: Engine, home: Path) -> None:
    names = ("anna", "bert", "carl")
    for name in names:
        person(store, name)
    store.append(
        "decisions", [decision(f"{name}{n}", name, program="receipt") for name in names for n in range(3)]
    )
    assert sending(store, engine, home).sent == 9
    for n in range(3):
        came(store, f"a{n}", "bounce", message=f"anna{n}", days=5 - n, value=421.0)
        came(store, f"b{n}", "bounce", message=f"bert{n}", days=5 - n)
        came(store, f"c{n}", "bounce", message=f"carl{n}", days=20 - 9 * n)
    came(store, "b9", "delivered", message="bert1", days=3.5)
    assert sending(store, engine, home).suppressed == 1
    assert [why(store, f"{name}@mail.example") for name in names] == ["bounce", None, None]
    came(store, "b3", "bounce", message="bert0", days=1)
    assert sending(store, engine, home).suppressed == 0
    came(store, "b4", "bounce", message="bert0", days=0.5)
    assert sending(store, engine, home).suppressed == 1


@ONE
def test_what_names_no_message_goes_by_the_customer(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    came(store, "f1", "complaint", message=None, customer_id="anna", channel="sms")
    came(store, "f2", "bounce", message="elsewhere", customer_id="anna", value=5.1)
    came(store, "f3", "unsubscribe", message=None, customer_id="anna", channel="push")
    came(store, "f4", "complaint", message="elsewhere")
    for name, stars in (("r1", 3.0), ("r2", 2.0), ("r3", None)):
        came(store, name, "rating", message=None, customer_id="anna", value=stars)
    assert sending(store, engine, home).suppressed == 2
    assert why(store, "0012005550100", "sms") == "complaint" and why(store) == "bounce"
    (alert,), (rest,) = store.of("alerts", ["anna"]), store.of("pauses", ["anna"])
    assert (alert["kind"], alert["detail"], rest["reason"]) == ("low_rating", "2 of 5 stars", "2 of 5 stars")
    assert (
        rest["ends"] - rest["at"] == timedelta(days=60, hours=-1) and rest["program"] is None
    )  # since the rating
    last = store.of("consents", ["anna"])[-1]
    assert (last["channel"], last["granted"], last["source"]) == ("push", False, "unsubscribe event")


# --- erased -----------------------------------------------------------------------------------------------


@ONE
def test_nobody_comes_back_by_their_address(store: Store, engine: Engine, home: Path) -> None:
    person(store)
    store.append("decisions", [decision("m1")])
    erase(store, History(home / "history"), "anna", NOW)
    person(store, "stranger", email=" ANNA@mail.example", phone="001-200-5550100")
    rows = [decision("m2", "stranger", program="receipt"), decision("m3", "stranger", channel="sms")]
    store.append("decisions", rows)
    done = sending(store, engine, home)
    assert (done.sent, done.reasons) == (0, {"dropped: suppressed: erased": 2}) and states(store, "m1") == []
    assert len(PROGRAMS) == 6 and isinstance(NOW, datetime)
