"""When a customer is due: shops of a few rows in which the answer is known, then rows that are recounted."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from worlds import Event, checkerboard, products, returned, shop

from benchmarks.quality import write
from benchmarks.replenishment import MARKS, page, read
from features.catalog import Catalog, content
from features.replenishment import HORIZON, LIKELY, Renewal, due
from training.split import Data

UNTIL = 200.0
NEEDS = ("coffee", "beans", "sofa", "salt")


def many(name: str, every: float, times: int, *, first: float = 0.0, customers: int = 40) -> list[Event]:
    """Customers who buy a product at a rhythm of their own making."""
    return [
        Event(f"{name}{c:02}", name, f"{name}-{c}-{n}", first + every * n + c / 100)
        for c in range(customers)
        for n in range(times)
    ]


REST = [*many("coffee", 20, 10), *many("sofa", 1, 1), *many("salt", 60, 3)]


class Due(NamedTuple):
    chance: float
    days: float


def told(*lines: Event, until: float = UNTIL, size: str = "16 oz") -> dict[tuple[str, str], Due]:
    """What is due of whom, by customer and product in words."""
    listed = [
        {"product_id": n, "need": "coffee" if n == "beans" else n, "size": size if n == "beans" else "16 oz"}
        for n in NEEDS
    ]
    data = shop(*REST, *lines, until=until, listed=products(*listed))
    found = due(data.interactions, data.catalog)
    who = data.interactions.customers.at(found["customer"].to_numpy())
    what = data.catalog.items.at(found["item"].to_numpy())
    figures = zip(found["chance"].tolist(), found["days"].tolist(), strict=True)
    return dict(zip(zip(who, what, strict=True), (Due(*of) for of in figures), strict=True))


def regular(*last: Event) -> tuple[Event, ...]:
    """Ann takes coffee every 20 days, last on day 180; and what else she takes."""
    return (*(Event("ann", "coffee", f"a{n}", 20 * n) for n in range(10)), *last)


def test_what_nobody_buys_again_is_never_due() -> None:
    found = told(*regular())
    sofas, coffee = ([of for (_, what), of in found.items() if what == name] for name in ("sofa", "coffee"))
    assert len(sofas) == 40 and all(of.chance < 0.1 for of in sofas)
    assert all(of.chance > LIKELY for of in coffee)
    assert told(Event("eve", "sofa", "e1", 199))["eve", "sofa"].chance < LIKELY


def test_a_shorter_rhythm_is_due_sooner_and_likelier() -> None:
    found = told(*regular())
    coffee, salt = (found[f"{name}00", name] for name in ("coffee", "salt"))
    assert coffee.days < salt.days and coffee.chance > salt.chance


def test_more_bought_lasts_longer() -> None:
    days = [
        told(*regular(Event("ann", "coffee", "last", 199, quantity=q)))["ann", "coffee"].days
        for q in (1, 3, 9)
    ]
    assert days[0] < days[1] < days[2]


def test_a_substitute_puts_it_off_and_a_larger_pack_of_it_further() -> None:
    without = told(*regular())["ann", "coffee"]
    beans = Event("ann", "beans", "last", 199.5)
    small, large = (told(*regular(beans), size=size)["ann", "coffee"] for size in ("16 oz", "64 oz"))
    other = told(*regular(Event("ann", "salt", "last", 199.5)))["ann", "coffee"]
    assert without.days < small.days < large.days
    assert other.days == pytest.approx(without.days)


def test_silence_speaks_against_it() -> None:
    early, late = (told(*regular(), until=until)["ann", "coffee"].chance for until in (200, 500))
    assert late < LIKELY < early


def test_who_bought_lately_is_not_counted_as_one_who_stays_away() -> None:
    """The same first purchases, seen shortly after them and long after them."""
    crowd = many("coffee", 20, 1, first=100)
    shares = []
    for until in (110, 400):
        data = shop(*crowd, Event("x", "coffee", "x1", 1), Event("x", "coffee", "x2", 9), until=until)
        shares.append(Renewal.of(data.interactions, data.catalog).again[0])
    assert shares[0] > 0.9 > 0.2 > shares[1]


def test_a_return_takes_back_its_purchase() -> None:
    found = told(*regular(Event("ann", "coffee", "last", 190), returned("ann", "coffee", "last", 195)))
    assert found == told(*regular())


def test_nothing_bought_is_nothing_due() -> None:
    for lines in ([], [Event(None, "milk", "o1", 1)]):
        data = shop(*lines, until=9)
        assert due(data.interactions, data.catalog).empty


def test_figures_are_probabilities_and_days_within_the_horizon() -> None:
    data: Data = checkerboard()
    found = due(data.interactions, data.catalog)
    assert found["chance"].between(0, 1).all() and found["days"].between(0, HORIZON).all()
    near = due(data.interactions, data.catalog, horizon=14)
    assert (near["chance"] <= found["chance"]).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("16 OZ", (16 * 28.35, "g")),
        ("12 pk/12 oz", (144 * 28.35, "g")),
        ("1.5 L", (1500, "ml")),
        ("6 x 1,5 l", (9000, "ml")),
        ("1,000 g", (1000, "g")),
        ("1,250 kg", (1_250_000, "g")),
        ("1 kg", (1000, "g")),
        ("1 lb", (453.6, "g")),
        ("33cl", (330, "ml")),
        ("8 fl. oz", (8 * 29.574, "ml")),
        (".5 l", (500, "ml")),
        ("1 dz", (12, "ct")),
        ("20 ct", (20, "ct")),
        ("1.2.3 g", (0, "")),
        ("pt", (0, "")),
        (None, (0, "")),
    ],
)
def test_sizes_are_read(size: str | None, expected: tuple[float, str]) -> None:
    amount, unit = content(size)
    assert unit == expected[1] and amount == pytest.approx(expected[0])


def test_a_pack_is_told_beside_the_middle_one_of_its_need_and_unit() -> None:
    rows = [
        ("a", "tea", "100 g"),
        ("b", "tea", "200 g"),
        ("c", "tea", "0,4 kg"),
        ("d", "tea", "20 ct"),
        ("e", None, "5 g"),
    ]
    listed = products(*({"product_id": p, "need": n, "size": s} for p, n, s in rows))
    catalog: Catalog = shop(until=1, listed=listed).catalog
    assert catalog.pack.tolist() == [0.5, 1, 2, 1, 1]


def test_the_measure_beats_both_rules_on_a_part_of_the_real_shop(loaded_home: Path, tmp_path: Path) -> None:
    reading = read(loaded_home, datetime(2017, 11, 2, tzinfo=UTC), 60)
    own = reading.errors["due date"]
    assert reading.pairs > 1000 and all(own < 0.8 * e for n, e in reading.errors.items() if n != "due date")
    assert abs(reading.soon["bought within 14 days"] - reading.soon["… expected"]) < 0.15
    for _, _, n, mean, share in reading.chances:
        assert n < 300 or np.isclose(mean, share, atol=0.1)
    file = tmp_path / "page.md"
    file.write_text("a\n<!-- figures of make bench-replenishment -->\nold\n<!-- end of figures -->\nz\n")
    write(file, page(reading), MARKS)
    assert "| due date | **" in file.read_text() and "old" not in file.read_text()
