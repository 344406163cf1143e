"""Generated worlds: the same seed the same files, a truth that is true, and a shop like shops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from worlds import Event, shop

from benchmarks.likeness import figures, purchases, table
from features import lives
from features.chance import Chance, keys_of, spread
from features.generate import FILLED, TRUTH, generate, load_world
from features.history import History
from features.lives import PROGRAMS, WITHIN
from features.worlds import World, WorldError, word

WORLD = World(customers=600, products=1_500, days=300, orders=40.0, leaving=0.5, seed=11)
DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(WORLD, tmp_path_factory.mktemp("world") / "one").folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[History, list[Any]]:
    home = folder.parent / "home"
    return History(home / "history"), load_world(
        folder, History(home / "history"), rejects_dir=home / "rejects"
    )


@pytest.fixture(scope="module")
def orders(loaded: tuple[History, list[Any]]) -> pd.DataFrame:
    """Lines bought, as the history hands them out."""
    return loaded[0].events(types=("order",)).to_pandas().astype({"customer_id": str, "product_id": str})


def read(folder: Path, name: str) -> pd.DataFrame:
    return pq.read_table(folder / f"{name}.parquet").to_pandas()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- chance -------------------------------------------------------------------------------------------------


def test_chance_is_a_function_of_its_keys() -> None:
    chance, keys = Chance(7), np.arange(100_000)
    drawn = chance.uniform("a", keys)
    assert np.array_equal(drawn[5:9], chance.uniform("a", keys[5:9]))
    assert drawn.min() > 0 and drawn.max() < 1
    assert abs(np.corrcoef(drawn, chance.uniform("b", keys))[0, 1]) < 0.015
    assert abs(np.corrcoef(drawn, Chance(8).uniform("a", keys))[0, 1]) < 0.015
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.015
    counts = np.bincount((drawn * 100).astype(int))
    assert (
        (counts - 1000) ** 2 / 1000
    ).sum() < 160  # χ² of 99 degrees of freedom: above it once in 10,000 times


def test_chance_has_the_distributions_it_names() -> None:
    chance, keys = Chance(7), np.arange(200_000)
    assert chance.normal("n", keys).std() == pytest.approx(1, abs=0.01)
    assert chance.exponential("e", keys).mean() == pytest.approx(1, abs=0.01)
    gamma = chance.gamma(4.0, "g", keys)
    assert (gamma.mean(), gamma.var()) == (pytest.approx(1, abs=0.01), pytest.approx(0.25, abs=0.01))
    assert np.bincount(chance.pick([1, 0, 3], "p", keys)) / len(keys) == pytest.approx(
        [0.25, 0, 0.75], abs=0.01
    )


def test_rows_are_spread_over_their_owners() -> None:
    owner, nth = spread(np.array([2, 0, 3]))
    assert (owner.tolist(), nth.tolist()) == ([0, 0, 2, 2, 2], [0, 1, 0, 1, 2])


def test_keys_are_of_the_text_alone() -> None:
    assert keys_of(["a", "b"])[1] == keys_of(["b"])[0] != keys_of(["a"])[0]


def test_names_differ() -> None:
    assert len({word(n) for n in range(10_000)}) == 10_000


# --- files --------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_world_byte_for_byte(tmp_path: Path) -> None:
    """At any chunk size and by any number of processes."""
    world = replace(WORLD, customers=110, products=300, days=120)
    made = [
        generate(world, tmp_path / str(n), chunk=chunk, part=40, processes=processes).folder
        for n, (chunk, processes) in enumerate([(500, 1), (7, 1), (16, 2)])
    ]
    first = contents(made[0])
    assert [len(c) for c in first.values() if c] and "events/00002.parquet" in first
    assert all(contents(other) == first for other in made[1:])
    other = contents(generate(replace(world, seed=12), tmp_path / "other", part=40).folder)
    assert other.keys() == first.keys()
    assert all(
        other[name] != first[name] for name in first if name.endswith(".parquet") and "categories" not in name
    )


def test_a_customer_is_the_same_in_a_larger_world(folder: Path, tmp_path: Path) -> None:
    fewer = generate(replace(WORLD, customers=40), tmp_path / "fewer").folder
    events = [read(f, "events/00000") for f in (folder, fewer)]
    last = events[1]["order_id"].dropna().str[1:9].max()
    same = events[0][events[0]["event_id"].str[1:9] <= last]
    assert len(events[1]) > 1_000
    pd.testing.assert_frame_equal(same.reset_index(drop=True), events[1][: len(same)])


def test_a_folder_with_something_in_it_is_left_alone(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(FileExistsError, match="is not empty"):
        generate(WORLD, folder)
    assert contents(folder) == before
    assert not list(folder.parent.glob("*.making"))


@pytest.mark.parametrize("wrong", [{"days": 0}, {"web": 1.5}, {"orders": -1.0}, {"regularity": float("nan")}])
def test_what_cannot_be_is_told_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(WorldError, match=next(iter(wrong))):
        replace(WORLD, **wrong)


@pytest.mark.parametrize(
    "least",
    [
        {"customers": 1, "products": 1, "days": 1},
        {"orders": 0.01, "web": 1.0},
        {"stockouts": 1.0, "anonymous": 1.0, "aliases": 1.0},
    ],
    ids=str,
)
def test_poor_worlds_are_written_and_loaded(least: dict[str, Any], tmp_path: Path) -> None:
    world = replace(World(customers=5, products=30, days=20), **least)
    made = generate(world, tmp_path / "world")
    reports = load_world(made.folder, History(tmp_path / "history"), rejects_dir=tmp_path / "rejects")
    assert sum(sum(r.rejected.values()) for r in reports) == 0
    assert History(tmp_path / "history").counts()["events"] == made.rows["events"]


# --- what is loaded -----------------------------------------------------------------------------------------


def test_it_loads_whole_and_without_the_truth(folder: Path, loaded: tuple[History, list[Any]]) -> None:
    history, reports = loaded
    assert [r.table for r in reports] == list(FILLED)
    assert all(r.read == r.loaded > 0 and not r.rejected and not r.left_out for r in reports)
    assert not any("truth" in str(p) for p in history.folder.rglob("*"))
    assert {f"truth/{p.stem}" for p in (folder / "truth").iterdir()} == set(TRUTH)
    assert json.loads((folder / "world.json").read_text())["seed"] == WORLD.seed


def test_aliases_and_nobody(folder: Path, loaded: tuple[History, list[Any]], orders: pd.DataFrame) -> None:
    raw = read(folder, "events/00000")
    nobody = read(folder, "truth/anonymous")
    assert set(raw[raw["customer_id"].isna() & (raw["event_type"] == "order")]["order_id"]) == set(
        nobody["order_id"]
    )
    share = nobody["order_id"].nunique() / raw["order_id"].nunique()
    assert share == pytest.approx(WORLD.anonymous, abs=0.008)
    identities = read(folder, "identities")
    assert identities["alias"].isin(raw["customer_id"]).all()
    assert not orders["customer_id"].isin(identities["alias"]).any()
    assert len(identities) == pytest.approx(WORLD.aliases * WORLD.customers, abs=25)


def test_addresses_lead_nowhere_and_consents_say_that_they_are_made_up(folder: Path) -> None:
    customers, consents = read(folder, "customers"), read(folder, "consents")
    assert customers["email"].dropna().str.fullmatch(r"[a-z.0-9]+@example\.(com|org)").all()
    assert customers["phone"].dropna().str.fullmatch(r"\+1 \d{3} 555 01\d\d").all()
    assert (
        customers["attributes"].str.contains("synthetic").all() and (consents["source"] == "synthetic").all()
    )
    mailed = consents[consents["channel"] == "email"]["customer_id"]
    assert mailed.isin(customers[customers["email"].notna()]["customer_id"]).all()
    assert 0.2 < (~consents["granted"]).mean() < 0.5
    assert consents["customer_id"].nunique() < len(customers)  # some were never asked


def test_only_who_agreed_is_watched_and_looks_come_first(folder: Path) -> None:
    raw, consents = read(folder, "events/00000"), read(folder, "consents")
    seen = raw[raw["event_type"].isin(["view", "cart"])]
    yes = consents[(consents["channel"] == "web") & consents["granted"]]["customer_id"]
    named = seen["customer_id"].dropna().str.replace("w", "c")
    assert len(seen) > 1_000 and named.isin(yes).all()
    bought = raw[raw["event_type"] == "order"].groupby("order_id")["occurred_at"].min()
    assert (seen["occurred_at"].to_numpy() < bought[seen["visit_id"].str[2:-2]].to_numpy()).all()


def test_nothing_is_bought_that_is_not_there(folder: Path, orders: pd.DataFrame) -> None:
    products = read(folder, "truth/products").set_index("product_id")
    of = products.loc[orders["product_id"]]
    at = orders["occurred_at"].to_numpy()
    assert not (at < of["launched"].to_numpy()).any() and not (at >= of["withdrawn"].to_numpy()).any()
    gone = read(folder, "truth/stockouts")
    pairs = orders.merge(gone, on="product_id")
    assert len(gone) > 100
    assert not ((pairs["starts"] <= pairs["occurred_at"]) & (pairs["occurred_at"] < pairs["ends"])).any()


def test_what_is_cheaper_is_on_offer_and_sells_better(folder: Path, orders: pd.DataFrame) -> None:
    offers = read(folder, "promotions")
    week = offers["starts"].iloc[0] - (offers["starts"].iloc[0] - offers["starts"].min())
    for frame, column in ((orders, "occurred_at"), (offers, "starts")):
        frame["week"] = (frame[column] - week) // (7 * DAY)
    known = orders.merge(
        offers[["product_id", "week"]], on=["product_id", "week"], how="left", indicator=True
    )
    offered = (known["_merge"] == "both").to_numpy()
    assert not (known["discount"].to_numpy()[~offered] > 0).any()
    assert (
        known["discount"].to_numpy()[offered] > 0
    ).mean() > 0.98  # of the cheapest a cent is not taken off
    assert offered.mean() > WORLD.offers
    listed = read(folder, "products").set_index("product_id")["price"]
    full = orders["unit_price"] + orders["discount"]
    assert full.to_numpy() == pytest.approx(listed[orders["product_id"]].to_numpy(), abs=0.011)


# --- the truth ----------------------------------------------------------------------------------------------


def ordered(folder: Path) -> pd.DataFrame:
    """The true customers with their orders, whoever they were told to be of, and the days that they had for them."""
    raw, truth = read(folder, "events/00000"), read(folder, "truth/customers").set_index("customer_id")
    bought = raw[raw["event_type"] == "order"].drop_duplicates("order_id")
    truth["orders"] = ("c" + bought["order_id"].str[1:9]).value_counts().reindex(truth.index, fill_value=0)
    truth["last"] = (
        bought.groupby("c" + bought["order_id"].str[1:9])["occurred_at"].max().reindex(truth.index)
    )
    first = pd.Timestamp(WORLD.start, tz="UTC")
    truth["days"] = (
        truth["left"].fillna(first + WORLD.days * DAY) - truth["joined"].fillna(first)
    ).dt.total_seconds() / 86_400
    return truth


def test_orders_come_at_the_true_rate(folder: Path) -> None:
    """Of who was a customer before, a stationary renewal process: the expected number is rate × days."""
    old = ordered(folder)
    old = old[old["joined"].isna()]
    expected = old["rate"] * old["days"]
    deviation = np.sqrt((expected / old["regularity"]).sum())
    assert abs(old["orders"].sum() - expected.sum()) < 4 * deviation
    often = expected > 5
    spread_of = np.sqrt((expected / old["regularity"]).to_numpy())
    z = ((old["orders"] - expected).to_numpy() / spread_of)[often.to_numpy()]
    assert often.sum() > 200 and 0.75 < z.std() < 1.3 and abs(z.mean()) < 4 / np.sqrt(often.sum())


def test_who_left_orders_no_more(folder: Path) -> None:
    truth = ordered(folder)
    gone = truth[truth["left"].notna()]
    assert 0.15 < len(gone) / len(truth) < 0.45
    assert not (gone["last"] >= gone["left"]).any()
    new = truth["joined"].notna()
    assert new.mean() == pytest.approx(WORLD.joining, abs=0.05)
    assert (truth["orders"][new] > 0).all()  # who joins does so by an order


def test_rates_are_gamma_distributed(folder: Path) -> None:
    rate = read(folder, "truth/customers")["rate"] * 365
    assert rate.mean() == pytest.approx(WORLD.orders, rel=4 / np.sqrt(len(rate)))
    assert np.quantile(rate, 0.5) == pytest.approx(WORLD.orders * np.log(2), rel=0.25)


def test_what_is_replenished_lasts_as_long_as_it_truly_does() -> None:
    """Where customers come often, the units of a need bought a day are 1 / interval."""
    world = replace(WORLD, customers=100, orders=250.0, orders_shape=20.0, leaving=0.0, joining=0.0)
    them = lives.people(world, np.arange(world.customers))
    made, kept = lives.orders(world, them), lives.pantry(world, them)
    due = lives.replenished(world, them, made, kept)
    rows = kept.owner * world.shelf.needs + kept.need
    bought = np.searchsorted(rows, made.owner[due.order] * world.shelf.needs + due.need)
    units, expected = np.bincount(bought, due.units, len(rows)), world.days / kept.interval
    assert expected.sum() > 5_000
    assert units.sum() == pytest.approx(expected.sum(), rel=0.05)
    many = expected > 8
    assert np.median(units[many] / expected[many]) == pytest.approx(1, abs=0.1)


def test_the_true_intervals_are_those_of_the_pantry(folder: Path) -> None:
    them = lives.people(WORLD, np.arange(WORLD.customers))
    told = read(folder, "truth/replenishment")["interval"].to_numpy()
    assert np.array_equal(told, lives.pantry(WORLD, them).interval)


def test_customers_buy_what_interests_them(folder: Path, orders: pd.DataFrame) -> None:
    paths = read(folder, "truth/categories")["category"].map(tuple).tolist()
    of = (
        read(folder, "products")
        .set_index("product_id")["category"]
        .map(lambda path: paths.index(tuple(path[:2])))
    )
    counts = pd.crosstab(orders["customer_id"], orders["product_id"].map(of))
    counts = counts[counts.sum(axis=1) > 200].reindex(columns=range(len(paths)), fill_value=0)
    truth = read(folder, "truth/customers").set_index("customer_id")["interests"].loc[counts.index]
    interests = np.stack(truth.tolist())
    assert interests.sum(axis=1) == pytest.approx(1, abs=1e-4)
    shares = counts.to_numpy() / counts.to_numpy().sum(axis=1, keepdims=True)
    assert np.corrcoef(shares.ravel(), interests.ravel())[0, 1] > 0.8


def test_responses_have_a_known_effect(folder: Path) -> None:
    truth = read(folder, "truth/responses")
    rates = read(folder, "truth/customers").set_index("customer_id")["rate"]
    assert len(truth) == WORLD.customers * len(PROGRAMS) and set(truth["program"]) == set(PROGRAMS)
    thanked = truth[truth["program"] == "thank_you"]
    alone = 1 - np.exp(-WITHIN * rates.loc[thanked["customer_id"]].to_numpy())
    assert thanked["alone"].to_numpy() == pytest.approx(alone, abs=1e-6)
    chances = truth[["alone", "message", "offer"]].to_numpy()
    assert (chances[:, 2] >= chances[:, 1]).all() and chances.min() >= 0 and chances.max() <= 1
    lift = (truth["message"] - truth["alone"]).groupby(truth["program"])
    assert (lift.mean() > 0).all() and (lift.min() < 0).all()  # some are driven away


# --- like a shop --------------------------------------------------------------------------------------------

BOUNDS = {  # with a catalogue this small everybody's purchases are denser than the demo's
    "customers with a second order": (0.9, 1.0),
    "lines an order, median": (3, 7),
    "lines an order, mean": (4.5, 9),
    "lines an order, standard deviation of the logarithm": (0.9, 1.25),
    "days between a customer's orders, median": (2.5, 7),
    "lines of a product bought before by the customer": (0.35, 0.65),
    "pairs of customer and product bought again": (0.18, 0.45),
    "days until a product is bought again, median": (12, 40),
    "Gini coefficient of products": (0.65, 0.9),
    "lines of the most bought tenth of products": (0.5, 0.85),
    "lines with a discount": (0.35, 0.6),
    "lines of one unit": (0.75, 0.95),
}


def test_it_is_like_a_shop(loaded: tuple[History, list[Any]]) -> None:
    data, catalog = purchases(loaded[0])
    found = figures(data, catalog.need)
    assert {n: v for n, v in found.items() if n in BOUNDS and not BOUNDS[n][0] <= v <= BOUNDS[n][1]} == {}
    assert BOUNDS.keys() <= found.keys()
    said: list[str] = []
    table([loaded[0].folder.parent], said.append)
    assert said[0] == "| | home |" and len(said) == 2 + len(found)


def test_a_shop_of_guests_or_of_nothing_has_figures_too() -> None:
    guests, empty = (shop(*lines, until=5).interactions for lines in ([Event(None, "milk", "o1", 1)], []))
    for data, lines in ((guests, 1), (empty, 0)):
        found = figures(data, np.zeros(len(data.items), np.int32))
        assert (found["customers"], found["purchase lines"]) == (0, lines)
        assert np.isnan(found["customers with a second order"])
    assert figures(guests, np.zeros(1, np.int32))["products bought once"] == 1


def test_popularity_falls_as_a_power_of_the_rank(folder: Path) -> None:
    shares = read(folder, "truth/products").merge(read(folder, "products")[["product_id", "need"]])
    large = shares[shares["need"] == shares["need"].value_counts().index[0]]["share"].sort_values(
        ascending=False
    )
    slope = np.polyfit(np.log(np.arange(1, len(large) + 1)), np.log(large), 1)[0]
    assert slope == pytest.approx(-WORLD.popularity, abs=1e-6) and large.sum() == pytest.approx(1)


def test_complements_share_baskets_beyond_chance(folder: Path, orders: pd.DataFrame) -> None:
    needs = read(folder, "products").set_index("product_id")["need"]
    pairs = orders.assign(need=orders["product_id"].map(needs))[["order_id", "need"]].drop_duplicates()
    names = sorted(needs.unique())
    held = np.zeros((pairs["order_id"].nunique(), len(names)))
    held[pd.factorize(pairs["order_id"])[0], np.searchsorted(names, pairs["need"])] = 1
    together, alone = held.T @ held / len(held), held.mean(axis=0)
    lift = together / np.outer(alone, alone)
    truth = read(folder, "truth/needs").set_index("need")["goes_with"]
    goes = np.zeros_like(lift, bool)
    for place, name in enumerate(names):
        goes[place, np.searchsorted(names, list(truth[name]))] = True
    off = ~np.eye(len(names), dtype=bool) & (alone > 0.01)[:, None] & (alone > 0.01)
    assert np.median(lift[goes & off]) > 1.1 * np.median(lift[~goes & off])
