"""Who is in an audience, why a customer is not, and what stops a program as a whole."""

from typing import Any

import pytest
from days import a_day
from worlds import Event, products

from lifecycle.audience import Reason, members, why
from lifecycle.breaker import tripped
from lifecycle.day import Day
from lifecycle.programs import Program

TEXT = {"subject": "s", "title": "t", "body": "b"}


def program(**said: Any) -> Program:
    told = {"name": "any", "about": "a test", "trigger": {"kind": "joined"}, "texts": {"en": TEXT}, **said}
    return Program.model_validate(told)


LISTED = products(
    {"product_id": "milk", "category": ["food", "dairy", "milk"]},
    {"product_id": "soap", "category": ["food-like", "soap", "soap"]},
)


@pytest.fixture
def day() -> Day:
    """ann has three orders and a spend of 6, bob one of 5; pia has never ordered."""
    rows = [Event("ann", "milk", f"o{on}", on) for on in (1, 5, 9)]
    contacts = {
        "ann": {"locale": "es-US", "region": "Ohio"},
        "bob": {"locale": "en"},
        "pia": {"locale": "est-EE"},
    }
    return a_day(*rows, Event("bob", "soap", "o", 2, price=5), until=10, contacts=contacts, listed=LISTED)


@pytest.mark.parametrize(
    ("audience", "inside"),
    [
        ({}, "ann bob pia"),
        ({"frequency": {"at_least": 3}}, "ann"),
        ({"frequency": {"below": 3}}, "bob"),
        ({"spend": {"at_least": 5, "below": 6}}, "bob"),
        ({"stage": ["active", "prospect"]}, "ann pia"),
        ({"stage": ["active"], "spend": {"below": 1}}, ""),
        ({"locale": ["es"]}, "ann"),
        ({"locale": ["en", "es-US"]}, "ann bob"),
        ({"region": ["Ohio"]}, "ann"),
        ({"category": ["food"]}, "ann"),
        ({"category": ["food > dairy", "food-like"]}, "ann bob"),
        ({"customer": ["pia"]}, "pia"),
        ({"churn": {"at_least": 0}}, ""),
    ],
)
def test_all_conditions_hold_for_who_is_inside(day: Day, audience: dict[str, Any], inside: str) -> None:
    mask = members(day, program(audience=audience))
    assert day.ids.at(mask.nonzero()[0]) == inside.split()
    for person in range(len(day.people)):
        assert all(reason.holds for reason in why(day, program(audience=audience), person)) == mask[person]


def test_why_says_each_condition_with_the_customers_value(day: Day) -> None:
    asked = program(
        audience={"frequency": {"at_least": 2, "below": 9}, "stage": ["lapsed", "brink"], "region": ["Ohio"]}
    )
    assert why(day, asked, 0) == [
        Reason("frequency is at least 2 and below 9", 3.0, True),
        Reason("stage is lapsed or brink", "active", False), Reason("region is Ohio", "Ohio", True),
    ]  # fmt: skip
    assert [reason.value for reason in why(day, asked, 2)] == [None, "prospect", None]


@pytest.mark.parametrize(
    ("size", "usual", "age", "fill", "reason"),
    [
        (300, (100, 100, 100), 7, 0.8, None),
        (301, (100, 100, 0, 100), 0, None, "an audience of 301, more than 3 times the usual 100"),
        (301, (100, 100), 0, None, None),
        (49, (1, 1, 1), 0, None, None),
        (50, (1, 1, 1), 0, None, "an audience of 50, more than 3 times the usual 1"),
        (50, (0, 0, 0), 0, None, None),
        (0, (), 7.25, None, "the newest event is 7.2 days old, more than 7: load what is new"),
        (0, (), 0, 0.81, "81% of the products are fill, more than 80%"),
    ],
)
def test_the_breaker_says_why_it_stops(
    size: float, usual: tuple[float, ...], age: float, fill: float | None, reason: str | None
) -> None:
    assert tripped(program(), size, usual, age, fill) == reason
