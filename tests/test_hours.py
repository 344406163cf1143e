"""When a message may go out, by clocks that are changed."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.hours import opens
from lifecycle.programs import WEEK, Policy, Program, Window

QUIET = Policy(quiet_from=time(21), quiet_until=time(8))


def program(kind: str = "marketing", **window: Any) -> Program:
    said = {
        "name": "one", "about": "a program", "trigger": {"kind": "order"}, "kind": kind, "window": window,
        "texts": {"en": {"subject": "s", "title": "t", "body": "b"}},
    }  # fmt: skip
    return Program.model_validate(said)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "zone", "window", "opened"),
    [
        ("2026-03-05T05:00-05:00", "America/New_York", {}, "2026-03-05T09:00-05:00"),
        ("2026-03-05T12:34-05:00", "America/New_York", {}, "2026-03-05T12:34-05:00"),
        ("2026-03-05T20:00-05:00", "America/New_York", {}, "2026-03-06T09:00-05:00"),
        # clocks go forward on 8 March 2026 there: nine o'clock is an hour sooner
        ("2026-03-07T23:00-05:00", "America/New_York", {}, "2026-03-08T09:00-04:00"),
        # and back on 1 November: it is an hour later
        ("2026-10-31T23:00-04:00", "America/New_York", {}, "2026-11-01T09:00-05:00"),
        ("2026-03-28T22:00+01:00", "Europe/Berlin", {}, "2026-03-29T09:00+02:00"),
        ("2026-10-24T22:00+02:00", "Europe/Berlin", {}, "2026-10-25T09:00+01:00"),
        # half an hour, on Lord Howe Island
        ("2026-04-04T22:00+11:00", "Australia/Lord_Howe", {}, "2026-04-05T09:00+10:30"),
        ("2026-10-03T22:00+10:30", "Australia/Lord_Howe", {}, "2026-10-04T09:00+11:00"),
        ("2026-03-05T12:00+01:00", "Europe/Berlin", {"days": ("mon",)}, "2026-03-09T09:00+01:00"),
    ],
)
def test_the_window_is_by_the_customers_clock(
    now: str, zone: str, window: dict[str, Any], opened: str
) -> None:
    assert opens(program(**window), QUIET, at(now), ZoneInfo(zone)) == at(opened)


def test_an_hour_that_is_left_out_is_as_much_later() -> None:
    early = program("transactional", start=time(2, 30), end=time(4))
    found = opens(early, QUIET, at("2026-03-29T00:00+01:00"), ZoneInfo("Europe/Berlin"))
    assert found == at("2026-03-29T03:30+02:00")


def test_quiet_hours_are_for_marketing() -> None:
    night: dict[str, Any] = {"start": time(0), "end": time(23, 59)}
    zone = ZoneInfo("Europe/Berlin")
    now = at("2026-03-05T22:30+01:00")
    assert opens(program("transactional", **night), QUIET, now, zone) == now
    assert opens(program(**night), QUIET, now, zone) == at("2026-03-06T08:00+01:00")


def test_where_no_hour_is_left_nothing_opens() -> None:
    never = program(start=time(5), end=time(7))
    assert opens(never, QUIET, at("2026-03-05T00:00+01:00"), ZoneInfo("Europe/Berlin")) is None


ZONES = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu")


@given(
    st.integers(0, 365 * 24 * 60),
    st.sampled_from(ZONES),
    st.integers(0, 22),
    st.integers(1, 23),
    st.sets(st.sampled_from(WEEK), min_size=1),
)
def test_what_opens_is_in_the_window_and_out_of_quiet_hours(
    minutes: int, zone: str, start: int, length: int, days: set[str]
) -> None:
    window = Window(start=time(start), end=time(min(start + length, 23), 59), days=tuple(sorted(days)))
    one = program().model_copy(update={"window": window})
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    found = opens(one, QUIET, moment, ZoneInfo(zone))
    if found is None:
        assert window.end <= QUIET.quiet_until or window.start >= QUIET.quiet_from
        return
    there = found.astimezone(ZoneInfo(zone))
    assert found >= moment and WEEK[there.weekday()] in days
    assert max(window.start, QUIET.quiet_until) <= there.time() < min(window.end, QUIET.quiet_from)
