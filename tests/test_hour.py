"""The hour of a message, learned from clicks."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hours import QUIET, at, program
from test_osclms import Run
from test_osclms import run as run
from test_run import AT, LETTER, own_home, with_programs
from test_run import decisions as decided

from lifecycle.choose.hour import SLOTS, WITHIN, Clicks, Hours, learned, open_slots
from lifecycle.choose.learner import Array
from lifecycle.run import run as decide
from serving.store import DATA, Store, address

DAY_SLOTS = (4, 5, 6, 7, 8, 9)
NOBODY = Clicks([], [], np.zeros(0, np.int64), np.zeros(0))


def likely_of(clicks: Clicks, who: str = "", stage: str | None = None) -> np.ndarray:
    return learned(clicks, floor=0.02, seed="7").probabilities(who, stage, DAY_SLOTS)


# --- when it may go out -----------------------------------------------------------------------------------


@given(
    minutes=st.integers(0, 60 * 24 * 366),
    zone=st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
    start=st.integers(0, 20),
    hours=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_slots_are_of_the_day_the_window_and_out_of_quiet_hours(
    minutes: int, zone: str, start: int, hours: int
) -> None:
    there = ZoneInfo(zone)
    send_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    own = program(start=f"{start:02}:30", end=f"{start + hours:02}:15")
    found = open_slots(own, QUIET, send_at, there)
    assert all(a.end <= b.begin for a, b in pairwise(found))
    for slot in found:
        begin, last = slot.begin.astimezone(there), (slot.end - timedelta(seconds=1)).astimezone(there)
        assert slot.begin >= send_at and begin.date() == last.date() == send_at.astimezone(there).date()
        assert all(moment.hour // 2 == slot.number for moment in (begin, last))
        assert max("08:00", f"{start:02}:30") <= f"{begin:%H:%M}"
        assert f"{last:%H:%M}" < min("21:00", f"{start + hours:02}:15")


def test_what_is_left_of_a_day_is_chosen_from() -> None:
    found = open_slots(program(), QUIET, at("2026-03-05T15:30+01:00"), ZoneInfo("Europe/Berlin"))
    assert [(slot.number, f"{slot.begin:%H:%M}", f"{slot.end:%H:%M}") for slot in found] == [
        (7, "14:30", "15:00"), (8, "15:00", "17:00"), (9, "17:00", "19:00"),
    ]  # fmt: skip


# --- learning ---------------------------------------------------------------------------------------------


def test_before_anything_is_known_slots_are_about_equally_likely() -> None:
    found = likely_of(NOBODY)
    assert found.sum() == pytest.approx(1) and found.min() > 0.5 / len(DAY_SLOTS)


def test_the_floor_is_kept_and_the_same_is_chosen_again() -> None:
    clicks = world(4_000, 3)
    hours = learned(clicks, floor=0.02, seed="7")
    slots = open_slots(program(), QUIET, at("2026-03-05T08:00+01:00"), ZoneInfo("Europe/Berlin"))
    for who, stage in (("p1", "loyal"), ("nobody", "new"), ("nobody", None)):
        found = hours.probabilities(who, stage, DAY_SLOTS)
        assert found.sum() == pytest.approx(1) and found.min() >= 0.02 - 1e-12
        once, again = (hours.choose(who, stage, slots, "key") for _ in range(2))
        told = json.loads(once.record)
        assert once == again and told["policy"] == hours.version and told["stage"] == stage
        slot = next(slot for slot in slots if slot.number == told["slot"])
        assert slot.begin <= once.send_at < slot.end
        assert sum(told["eligible"].values()) == pytest.approx(1, abs=1e-6)
    assert learned(clicks, floor=0.02, seed="7").version == hours.version
    assert learned(clicks, floor=0.02, seed="8").version != hours.version


def test_choices_are_as_frequent_as_their_probability_says() -> None:
    hours = learned(world(1_500, 3), floor=0.05, seed="7")
    slots = open_slots(program(), QUIET, at("2026-03-05T08:00+01:00"), ZoneInfo("Europe/Berlin"))
    told = [json.loads(hours.choose(f"q{n}", "loyal", slots, "key").record) for n in range(3_000)]
    expected = hours.probabilities("q", "loyal", [slot.number for slot in slots]) * len(told)
    found = np.bincount([of["slot"] for of in told], minlength=SLOTS)[[slot.number for slot in slots]]
    assert ((found - expected) ** 2 / expected).sum() < 25  # χ² of five degrees: p 0.0001


BEST = {"loyal": 9, "new": 5}  # the slot of each stage


def truth(stage: str, slot: int, person: int) -> float:
    """One in five of a stage clicks at another hour than the others."""
    best = BEST[stage] if person % 5 else 6
    return 0.24 if slot == best else 0.08


def world(messages: int, seed: int, hours: Hours | None = None) -> Clicks:
    """Messages to people of two stages, at an hour of chance, or of what was learned."""
    rng = np.random.default_rng(seed)
    person = rng.integers(400, size=messages)
    stage = [("loyal", "new")[n % 2] for n in person]
    likely = np.zeros((messages, SLOTS))
    for row, (n, of) in enumerate(zip(person, stage, strict=True)):
        likely[row, DAY_SLOTS] = hours.probabilities(f"p{n}", of, DAY_SLOTS) if hours else 1 / len(DAY_SLOTS)
    slot = (rng.random(messages)[:, None] > np.cumsum(likely, axis=1)).sum(axis=1).clip(max=SLOTS - 1)
    odds = [truth(of, int(s), int(n)) for of, s, n in zip(stage, slot, person, strict=True)]
    return Clicks([f"p{n}" for n in person], stage, slot, (rng.random(messages) < odds).astype(float), likely)


def test_it_finds_each_stages_hour_and_with_time_the_customers_own() -> None:
    known = world(8_000, 3)
    for stage, slot in BEST.items():
        found = likely_of(known, "nobody", stage)
        assert DAY_SLOTS[int(found.argmax())] == slot and found.max() > 0.7
    hours = learned(known, floor=0.02, seed="7")
    later, chance = world(8_000, 4, hours), world(8_000, 4)
    random, best = chance.clicked.mean(), 0.24
    assert (later.clicked.mean() - random) / (best - random) > 0.4
    own = np.array([int(name[1:]) % 5 == 0 for name in later.customer])
    at_six = later.slot == 6
    assert at_six[own].mean() > 1.5 * at_six[~own].mean(), "who clicks at another hour than their stage"


def test_where_hours_are_alike_none_is_given_up() -> None:
    rng = np.random.default_rng(3)
    slot = rng.choice(DAY_SLOTS, 6_000)
    clicked: Array = np.array(rng.random(6_000) < 0.1, np.float64)
    same = Clicks([f"p{n % 500}" for n in range(6_000)], ["new"] * 6_000, slot, clicked)
    assert likely_of(same, "nobody", "new").max() < 0.75


# --- in a run ---------------------------------------------------------------------------------------------

HOURLY = {
    "news": {
        "trigger": {"kind": "broadcast", "on": "2018-01-01", "within": 30}, "holdout": 0.2, "send_hour": "learned",
        "shelves": [{"placement": "next_best", "limit": 3, "minimum": 1}],
    }
}  # fmt: skip


def test_a_run_puts_the_hour_on_record_and_the_next_learns_from_clicks(
    run: Run, tmp_path: Path, written_home: Path
) -> None:
    home = with_programs(own_home(tmp_path / "shop", written_home), HOURLY)
    decide(home, None, AT, now=AT, only=("news",))
    made = [row for row in decided(home) if row["outcome"] in ("message", "holdout")]
    assert len(made) > 100 and {row["outcome"] for row in made} == {"message", "holdout"}
    slots = [json.loads(row["hour"]) for row in made]
    assert len({of["slot"] for of in slots}) > 3
    zone = ZoneInfo("America/New_York")
    assert all(row["local_day"] == f"{row['send_at'].astimezone(zone):%Y-%m-%d}" for row in made)
    first = {of["policy"] for of in slots}
    went_out(home, made)
    later = AT + WITHIN + timedelta(days=2)
    said = run("choose", "hours", "--home", home, "--as-of", later.isoformat(), "--json")
    told = said.json
    sent = [row for row in made if row["outcome"] == "message"]
    best = max(of["slot"] for of in slots)
    assert told["messages"] == len(sent)
    assert told["clicked"] == sum(
        of["slot"] == best for row, of in zip(made, slots, strict=True) if row in sent
    )
    assert {of["slot"]: of["rate"] for of in told["slots"]}[f"{best * 2:02}:00"] == 1.0
    assert "clicked" in run("choose", "hours", "--home", home, "--as-of", later.isoformat()).out
    with_programs(
        home,
        {"again": {**HOURLY["news"], "trigger": {"kind": "broadcast", "on": "2018-01-05", "within": 30}}},
    )
    decide(home, None, later, now=later, only=("again",))
    second = [json.loads(row["hour"]) for row in decided(home) if row["program"] == "again" and row["hour"]]
    assert len(second) > 50 and {of["policy"] for of in second} != first
    wide = [of for of in second if str(best) in of["eligible"]]
    assert np.mean([of["eligible"][str(best)] for of in wide]) > 0.5


def went_out(home: Path, made: list[dict[str, Any]]) -> None:
    """All is sent; whoever got it in the last slot clicks in it."""
    best = max(json.loads(row["hour"])["slot"] for row in made)
    with Store(address(home, None)) as store:
        sent = [row for row in made if row["outcome"] == "message"]
        for row in sent:
            store.append("deliveries", [{
                "message_id": row["message_id"], "customer_id": row["customer_id"], "state": "sent",
                "at": row["send_at"], "detail": None, "subject": None, "received_at": row["send_at"],
            }])  # fmt: skip
        clicks = [row for row in sent if json.loads(row["hour"])["slot"] == best]
        store.add([click(row["message_id"], row["send_at"] + timedelta(hours=3)) for row in clicks])
        late = AT + WITHIN + timedelta(days=2)
        store.add([{**click("none", late), "event_id": "last"}])


def click(message_id: str, when: datetime) -> dict[str, Any]:
    return {
        **dict.fromkeys(DATA["events"].c.keys()), "event_id": f"click-{message_id}", "event_type": "click",
        "product_id": "1029743", "message_id": message_id, "channel": "email", "occurred_at": when,
        "received_at": when,
    }  # fmt: skip


def test_without_messages_it_says_what_makes_some(run: Run, tmp_path: Path, written_home: Path) -> None:
    home = own_home(tmp_path / "shop", written_home)
    failed = run("choose", "hours", "--home", home)
    assert failed.code == 1 and "send_hour: learned" in failed.err


def test_an_orders_message_waits_for_no_hour() -> None:
    with pytest.raises(ValueError, match="send_hour"):
        program("transactional").model_validate(
            {"name": "one", "about": "x", "trigger": {"kind": "order"}, "kind": "transactional",
             "send_hour": "learned", "texts": {"en": LETTER}}
        )  # fmt: skip
