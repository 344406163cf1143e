"""Which program may write, and how many messages a customer gets."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lifecycle.choice import POLICIES, Rival, Stage, claims, full
from lifecycle.ledger import Past
from lifecycle.programs import Cap, Program

NOW, DAY = datetime(2026, 3, 5, 11, tzinfo=UTC), date(2026, 3, 5)


def program(name: str, priority: int = 50, **more: Any) -> Program:
    texts = {"en": {"subject": "s", "title": "t", "body": "b"}}
    said = {
        "name": name,
        "about": "a program",
        "trigger": {"kind": "order"},
        "priority": priority,
        "texts": texts,
    }
    return Program.model_validate(said | more)


BACK, DUE, CART = program("win_back", 40), program("replenish", 60), program("cart", 80, exclusive_days=7)


def rivals(*programs: Program) -> list[Rival]:
    return [Rival(row, of, float(row)) for row, of in enumerate(programs)]


def picked(policy: str, *programs: Program, customer: str = "anna", **about: Any) -> tuple[str, float] | None:
    found = POLICIES[policy](Stage(customer, NOW, "7", **about), rivals(*programs))
    return (programs[found.row].name, found.probability) if found else None


def test_the_highest_priority_writes_and_of_equals_the_first_name() -> None:
    assert picked("priority", BACK, DUE, CART) == ("cart", 1.0)
    assert picked("priority", program("two"), program("one")) == ("one", 1.0)


def test_at_random_each_is_as_likely_and_stays_chosen() -> None:
    names = [picked("random", BACK, DUE, CART, customer=f"c{n}") for n in range(3_000)]
    assert {found[1] for found in names if found} == {1 / 3}
    counts = [sum(found is not None and found[0] == of.name for found in names) for of in (BACK, DUE, CART)]
    assert all(900 < count < 1_100 for count in counts)  # 1,000 ± 4 standard deviations
    assert picked("random", CART, DUE, BACK) == picked("random", BACK, DUE, CART)


def test_a_program_claims_a_customer_for_its_days() -> None:
    past = Past(last={"cart": NOW - timedelta(days=6), "replenish": NOW - timedelta(hours=1)})
    claimed = claims({"cart": CART, "replenish": DUE}, past, NOW)
    assert claimed == {"cart"}
    assert picked("exclusive", BACK, DUE, claims=claimed) is None
    assert picked("exclusive", BACK, CART, claims=claimed) == ("cart", 1.0)
    assert claims({"cart": CART}, past, NOW + timedelta(days=1)) == frozenset()


CAPS = st.lists(st.builds(Cap, most=st.integers(1, 4), days=st.integers(1, 10)), max_size=3)


@given(CAPS, st.lists(st.integers(0, 40), max_size=60))
def test_no_stretch_of_days_holds_more_than_a_cap_allows(caps: list[Cap], asked: list[int]) -> None:
    sent: list[date] = []
    for number in asked:  # in any order: a message may be planned for a later day before one for a sooner
        day = DAY + timedelta(days=number)
        if not full(caps, sent, day):
            sent.append(day)
    for cap in caps:
        for start in {*sent}:
            within = [day for day in sent if 0 <= (day - start).days < cap.days]
            assert len(within) <= cap.most


def test_a_cap_leaves_room_again() -> None:
    week = [Cap(most=1, days=7)]
    assert full(week, [DAY], DAY + timedelta(days=6)) == week[0]
    assert full(week, [DAY], DAY + timedelta(days=7)) is None
