"""Settings by the data: a grocer's as they stand, other shops' their own; and training on shops that lack much."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import END
from hypothesis import given
from hypothesis import strategies as st
from worlds import Event, products, shop

from features.completejourney import mapping_of, source_folder
from features.history import History
from features.interactions import EVENT_COLUMNS
from features.mapping import Mapping
from features.sources import load
from serving.placements import PLACEMENTS
from training.defaults import Shape, defaults, gap_of, steps, suited
from training.models import RECIPES, CoPurchase, Ease, EaseBaskets, Habit, Popular, Rhythm, TifuKnn
from training.rank import RANKINGS, Ranking
from training.settings import table_of
from training.split import Data, cut
from training.train import train
from training.tune import SPACES, inside, params_of

FEW = 4  # every so many of the sample's households
SOME = {name: PLACEMENTS[name] for name in ("next_best", "cross_sell", "upsell")}
ALONE = {"next_best": PLACEMENTS["next_best"]}
QUICK = {"next_best": Ranking(windows=1, rounds=10)}
LACKING: dict[str, tuple[str, ...]] = {
    "price": ("unit_price", "discount"),
    "brand": ("brand",),
    "category": ("category", "need"),
}


# --- settings by the data ---------------------------------------------------------------------------------


def regulars(gap: float, customers: int = 5, orders: int = 12) -> Data:
    """Customers who order every so many days, each time one product of three."""
    rows = [
        Event(f"c{c}", f"i{(c + n) % 3}", f"o{c}-{n}", c % 3 + n * gap)
        for c in range(customers)
        for n in range(orders)
    ]
    return shop(*rows, until=orders * gap + 3)


# as it stands where its last 30 days begin
CompleteJourney = Shape(customers=2_461, items=65_009, orders=129_709, days=335.5, gap=5.81, repeats=0.397)


def test_the_demo_shop_gets_the_recipes_as_they_stand() -> None:
    assert suited(CompleteJourney) == RECIPES


def test_a_tenth_of_it_orders_as_often_and_repeats_as_much(loaded_home: Path) -> None:
    history = History(loaded_home / "history")
    data = cut(history.events(until=END, columns=EVENT_COLUMNS), products(), END)
    shape = Shape.of(data.interactions)
    assert 4 < shape.gap < 7 and 0.3 < shape.repeats < 0.5
    assert (shape.customers, round(shape.days)) == (247, 365)
    found = defaults(data)
    assert found.rankings == RANKINGS
    changed = {name for name in RECIPES if found.recipes[name] != RECIPES[name]}
    assert changed == {"copurchase", "ease_baskets"}  # it has a tenth of the baskets


def test_the_shape_of_a_shop() -> None:
    data = regulars(10, customers=2, orders=4)
    assert Shape.of(data.interactions) == Shape(2, 3, 8, 43.0, 10.0, 2 / 8)


@pytest.mark.parametrize(
    ("gap", "half_life", "days"),
    [(1, 90, 14), (7, 90, 14), (9, 90, 14), (14, 180, 28), (30, 360, 56), (60, 720, 112), (400, 720, 112)],
)  # fmt: skip
def test_half_lives_follow_the_gap_between_orders_in_doublings(
    gap: float, half_life: float, days: float
) -> None:
    found = defaults(regulars(gap)).recipes
    assert found["habit"] == Habit(half_life)
    assert found["rhythm"] == Rhythm(half_life, window=min(half_life, 360) / 3)
    assert found["popular"] == Popular(days)
    assert found["ease"] == Ease(half_life=half_life * 120 / 90)


@pytest.mark.parametrize(
    ("orders", "regularization", "half_life"),
    [(142_000, 300, 120), (37_000, 75, 240), (11_000, 37.5, 480), (90, 9.375, 480)]
)  # fmt: skip
def test_fewer_baskets_are_trusted_more_and_remembered_longer(
    orders: int, regularization: float, half_life: float
) -> None:
    found = suited(replace(CompleteJourney, orders=orders, days=273.0))
    assert found["ease_baskets"] == EaseBaskets(regularization)
    assert found["copurchase"] == CoPurchase(half_life=half_life)


@pytest.mark.parametrize(("repeats", "own"), [(0.4, 0.7), (0.19, 0.7), (0.12, 0.5), (0.07, 0.3), (0.0, 0.3)])
def test_where_little_is_bought_again_others_say_more(repeats: float, own: float) -> None:
    assert suited(replace(CompleteJourney, repeats=repeats))["tifu"] == TifuKnn(own=own)


@given(st.integers(0, 10**7), st.floats(0, 4_000), st.floats(0, 1_000), st.floats(0, 1))
def test_any_shop_gets_recipes_that_the_settings_file_would_take(
    orders: int, days: float, gap: float, repeats: float
) -> None:
    for name, recipe in suited(Shape(9, 9, orders, days, gap, repeats)).items():
        table = asdict(recipe)
        assert table_of(name, table) == table
        assert name not in SPACES or inside(name, params_of(name, recipe))


def test_a_gap_is_the_median_of_customers_not_of_orders() -> None:
    often = [Event("often", "milk", f"a{n}", n) for n in range(50)]
    seldom = [Event(who, "milk", f"{who}{n}", 20 * n) for who in ("ann", "bob") for n in range(3)]
    guests = [Event(None, "milk", f"g{n}", n / 2) for n in range(80)]
    assert gap_of(shop(*often, *seldom, *guests, until=60).interactions) == 20


def test_one_order_each_tells_no_gap() -> None:
    once = shop(*(Event(f"c{n}", "milk", f"o{n}", n) for n in range(9)), until=10)
    shape = Shape.of(once.interactions)
    assert np.isnan(shape.gap) and shape.repeats == 0
    assert suited(shape)["habit"] == RECIPES["habit"]


def test_settings_change_in_few_steps() -> None:
    found = [steps(1.1**n, most=3) for n in range(-20, 40)]
    assert sorted(set(found)) == [0, 1, 2, 3] and found == sorted(found)


# --- training on shops that lack much ---------------------------------------------------------------------


def thinned(home: Path, sample: Path, *, days: float | None = None, without: Iterable[str] = ()) -> Path:
    """A part of the sample's households, without these columns, and the last so many days alone."""
    events = pq.read_table(sample / "events.parquet")
    kept = pa.array(sorted(pc.unique(events["household_id"]).to_pylist())[::FEW])
    events = events.filter(pc.is_in(events["household_id"], value_set=kept))
    if days is not None:
        last: datetime = pc.max(events["transaction_timestamp"]).as_py()
        events = events.filter(
            pc.greater(events["transaction_timestamp"], pa.scalar(last - timedelta(days=days)))
        )
    listed = pq.read_table(source_folder() / "products.parquet")
    listed = listed.filter(pc.is_in(listed["product_id"], value_set=pc.unique(events["product_id"])))
    for table, rows in (("events", events), ("products", listed)):
        pq.write_table(rows, home / f"{table}.parquet")
        mapping = mapping_of(table)
        columns = {name: column for name, column in mapping.columns.items() if name not in without}
        mapping = mapping.model_copy(update={"columns": columns})
        load(History(home / "history"), table, [home / f"{table}.parquet"], mapping, rejects_dir=home)
    return home


def test_a_shop_without_prices_brands_and_categories_is_trained(loaded_home: Path, tmp_path: Path) -> None:
    """Upsell, which needs prices, is asked nothing and stands aside."""
    lacking = [column for columns in LACKING.values() for column in columns]
    home = thinned(tmp_path, loaded_home, without=lacking)
    outcome = train(home, placements=SOME, rankings=QUICK, processes=1)
    assert outcome.verdict.promote, outcome.verdict.reason
    assert {a.placement for a in outcome.audits} == {"next_best", "cross_sell"}


@pytest.mark.long
@pytest.mark.parametrize("lacking", LACKING)
def test_a_shop_that_lacks_one_of_them_is_trained(lacking: str, loaded_home: Path, tmp_path: Path) -> None:
    outcome = train(thinned(tmp_path, loaded_home, without=LACKING[lacking]))
    assert outcome.verdict.promote, outcome.verdict.reason


def test_sixty_days_are_judged_by_fifteen_and_taught_by_as_many(loaded_home: Path, tmp_path: Path) -> None:
    told: list[str] = []
    outcome = train(
        thinned(tmp_path, loaded_home, days=60), placements=ALONE, rankings={"next_best": Ranking(rounds=10)},
        processes=1, say=lambda what, done, of: told.append(f"{what} {of}"),
    )  # fmt: skip
    assert outcome.verdict.promote or outcome.verdict.reason.startswith("kept: ")
    assert round((outcome.data_until - outcome.cutoff) / timedelta(days=1)) == 15
    assert "gathering examples 2" in told  # of the judged days, and of the only window before them


def test_a_handful_of_customers_is_told_that_it_is_too_little(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    rows = [f"c{c},i{(c + n) % 3},o{c}-{n},2026-0{1 + n}-1{c}" for c in range(5) for n in range(6)]
    file.write_text("\n".join(["who,what,order,on", *rows]))
    mapping = Mapping.model_validate(
        {
            "columns": {
                "customer_id": "who", "product_id": "what", "order_id": "order", "occurred_at": "on",
                "event_type": {"value": "order"}, "quantity": {"value": "1"},
            }
        }
    )  # fmt: skip
    load(History(tmp_path / "history"), "events", [file], mapping, rejects_dir=tmp_path)
    outcome = train(tmp_path, placements=ALONE, rankings={}, processes=1)
    assert not outcome.verdict.promote
    assert "customers are too few to tell, 30 are needed: load more data" in outcome.verdict.reason
