"""Scores of a made-up shop whose truth is known: who has left, who is worth what, and that nothing sees the future."""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from test_docs import chapters
from typer.testing import CliRunner
from worlds import Event, shop

from features.behaviour import CATEGORY, CUSTOMER, NEVER, Usual, behaviour, in_parts, leanings
from features.history import History
from features.interactions import Interactions
from lifecycle.customers import scored, view
from lifecycle.pages import customer_page
from lifecycle.support import measured, supported
from osclms import app
from serving.people import erase
from serving.profile import Everybody, by_model, profile
from serving.scores import (
    CATEGORIES,
    CHURN,
    LEAST,
    SPEND,
    Scored,
    Scores,
    ScoresError,
    current,
    named,
    readable,
)
from serving.store import Store, address
from training.backtest import Examples, deciles, in_words, judge_categories, line
from training.intervals import auc_intervals
from training.publish import Registry
from training.scores import JUDGED, Shop, fit, fitted_on, lacking, main_categories
from training.split import Data, cut, known

DAYS = 28  # of the horizon in tests of the windows
Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def world(shared: Shared) -> Path:
    """What the commands of docs/scores.md make: files with the truth, and a home with scores. Read, do not write."""

    def make(folder: Path) -> None:
        with chdir(folder):
            for command in chapters()["docs/scores.md"]:
                done = CliRunner().invoke(app, shlex.split(command)[1:])
                assert done.exit_code == 0, (command, done.output)
        assert (folder / "scores.parquet").exists()

    return shared("scored", make)


@pytest.fixture(scope="session")
def home(world: Path) -> Path:
    return world / ".osclms-scored"


@pytest.fixture(scope="session")
def told(home: Path) -> dict[str, Any]:
    (report,) = (home / "mlruns").rglob("report.json")
    return dict(json.loads(report.read_text()))


@pytest.fixture(scope="session")
def end(home: Path) -> datetime:
    return scores_of(home).manifest.data_until


@pytest.fixture(scope="session")
def found(home: Path, end: datetime) -> Scored:
    return scored(home, end)


def scores_of(home: Path) -> Scores:
    scores = current(home)
    assert scores is not None
    return scores


def auc(of: Any, right: Any) -> float:
    return auc_intervals({"": of}, right, np.arange(len(of)), seed=1, resamples=2)[""].mean


# --- against the truth --------------------------------------------------------------------------------------


def test_churn_finds_who_has_really_left(world: Path, found: Scored, end: datetime) -> None:
    """Nearly all of them among those who would have come three times by now; who comes seldom may only be slow."""
    truth = truth_of(world, found)
    left, visits = (truth["left"] < end).to_numpy(), truth["rate"].to_numpy() * 91
    assert found.churn is not None and 0.2 < left.mean() < 0.8
    assert auc(found.churn, left) > 0.88
    assert auc(found.churn[visits > 3], left[visits > 3]) > 0.95
    assert found.churn[left].mean() > 2.5 * found.churn[~left].mean()


def truth_of(world: Path, found: Scored) -> Any:
    truth = pq.read_table(world / "worlds" / "scored" / "truth" / "customers.parquet").to_pandas()
    return truth.set_index("customer_id").reindex(found.customers.at(np.arange(len(found.customers))))


def test_spend_finds_who_is_worth_most(world: Path, found: Scored, end: datetime) -> None:
    """The rate of orders times their size, of those who have not left."""
    truth = truth_of(world, found)
    worth = truth["rate"] * truth["size"] * ~(truth["left"] < end)
    assert found.spend is not None and (found.spend >= 0).all()
    assert auc(found.spend, worth > worth.quantile(0.8)) > 0.85


def test_the_backtest_beats_plain_guesses_and_comes_true(told: Mapping[str, Any]) -> None:
    churn, spend, categories = (told["scores"][name] for name in (CHURN, SPEND, CATEGORIES))
    assert told["refused"] == {}
    assert churn["figures"]["auc"] > churn["figures"]["recency"] and churn["horizon"] % 7 == 0
    assert 0.8 < churn["figures"]["calibration_slope"] < 1.25
    assert churn["intervals"]["auc"]["low"] < churn["figures"]["auc"] < churn["intervals"]["auc"]["high"]
    assert spend["figures"]["rmse"] < spend["figures"]["naive_rmse"]
    actual = [row[1] for row in spend["deciles"]]
    assert actual[-1] > 4 * np.mean(actual[:3]) and spend["figures"]["rising_steps"] >= 7
    assert categories["figures"]["auc"] > categories["figures"]["last_bought"]
    assert categories["figures"]["new_auc"] > categories["figures"]["new_popularity"]


# --- nothing sees the future --------------------------------------------------------------------------------


def altered(events: pa.Table, at: datetime) -> pa.Table:
    """The same, but from `at` on two of three events never happened, and the others cost ten times as much."""
    late = pc.greater_equal(events["occurred_at"], pa.scalar(at, pa.timestamp("us", tz="UTC")))
    number = np.arange(len(events))
    kept = events.filter(pa.array(~np.asarray(late) | (number % 3 == 0)))
    late = np.asarray(pc.greater_equal(kept["occurred_at"], pa.scalar(at, pa.timestamp("us", tz="UTC"))))
    price = np.where(late, 10.0, 1.0) * kept["unit_price"].to_numpy()
    return kept.set_column(kept.column_names.index("unit_price"), "unit_price", pa.array(price))


def rows_of(shop_: Shop, names: tuple[str, ...]) -> dict[tuple[int, int, str], Examples]:
    return dict(shop_.rows(names, shop_.runs(DAYS), DAYS, 7, lambda what, done, of: None))


def test_the_backtest_is_taught_nothing_of_the_days_that_judge_it(home: Path, end: datetime) -> None:
    """Whatever happens in them, what is learned from, calibrated by and looked at stays; what is judged by changes."""
    history = History(home / "history")
    events, products = history.purchases(end), history.table("products")
    judged_from = Shop(lambda at: cut(events, products, at), end).at(JUDGED, DAYS)
    other = altered(events, judged_from)
    first, second = (
        rows_of(Shop(lambda at, of=of: cut(of, products, at), end), (CHURN, SPEND, CATEGORIES))  # type: ignore[misc]
        for of in (events, other)
    )
    assert first.keys() == second.keys()
    ours = [key for key in first if key[0] == 0]
    assert {n for _, n, _ in ours} > {JUDGED}
    for key in ours:
        a, b = first[key], second[key]
        assert np.array_equal(a.x, b.x, equal_nan=True) and np.array_equal(a.customer, b.customer)
        assert np.array_equal(a.y, b.y) == (key[1] != JUDGED), key
    shipped = [key for key in first if key[0] == 1]
    assert not all(np.array_equal(first[key].y, second[key].y) for key in shipped)


def test_nothing_is_told_of_a_moment_before_the_end_of_what_was_learned(home: Path, end: datetime) -> None:
    with pytest.raises(ScoresError, match="osclms scores fit --until DATE"):
        scored(home, end - timedelta(days=1))
    name = known(History(home / "history"), end).interactions.customers.at([0])[0]
    before = view(home, None, name, end - timedelta(days=1)).profile
    now = view(home, None, name, end).profile
    assert before and before.scores is None and now and now.scores is not None


def test_scores_of_a_later_moment_know_the_silence_since(home: Path, found: Scored, end: datetime) -> None:
    later = scored(home, end + timedelta(days=60))
    assert found.churn is not None and later.churn is not None
    assert later.churn.mean() > found.churn.mean() + 0.1


# --- one function for all, and for one ----------------------------------------------------------------------


def test_one_customers_scores_are_those_of_the_batch(home: Path, found: Scored, end: datetime) -> None:
    data, scores = known(History(home / "history"), end), scores_of(home)
    usual = Usual.of(data.interactions, data.catalog, scores.categories)
    for place, part in enumerate(in_parts(data.interactions, 1)):
        if place % 97 == 0:
            alone = scores.of(part, data.catalog, usual)
            for name in ("churn", "spend", "buys", "had"):
                assert np.array_equal(getattr(alone, name)[0], getattr(found, name)[place]), name


def test_the_profile_tells_what_the_file_says(
    home: Path, found: Scored, end: datetime, tmp_path: Path
) -> None:
    names = found.customers.at(np.arange(len(found.customers)))
    assert found.churn is not None and found.spend is not None and found.buys is not None
    place = int(np.argsort(found.churn)[len(names) // 2])
    told = view(home, None, names[place], end)
    assert told.profile and told.profile.scores
    scores = told.profile.scores
    assert scores.churn == pytest.approx(found.churn[place], abs=1e-4)
    assert scores.spend == pytest.approx(found.spend[place], abs=0.01)
    best = int(np.argmax(found.buys[place]))
    assert (scores.categories[0].category, scores.spend_days) == (found.categories[best], 90)
    new = {of.category for of in scores.additions}
    assert not new & {c for c, had in zip(found.categories, found.had[place], strict=True) if had}
    page = Console(record=True, width=150, file=StringIO())
    page.print(*customer_page(told))
    assert "likely in" in page.export_text()


def test_a_service_tells_the_same_by_what_a_model_knows(home: Path, found: Scored, end: datetime) -> None:
    data, scores = known(History(home / "history"), end), scores_of(home)
    held = [scores]
    everybody = Everybody(data.catalog, data.interactions, "UTC", scores=lambda: held[0])
    name = found.customers.at([11])[0]
    told = profile(everybody, by_model(everybody, [name], [], end), []).scores
    assert told is not None and found.churn is not None and found.spend is not None
    assert (told.churn, told.spend) == pytest.approx((found.churn[11], found.spend[11]), abs=0.01)
    assert everybody.usual(data.interactions.until, scores) is everybody.usual(
        data.interactions.until, scores
    )
    churn = scores.manifest.scores[CHURN]
    about = {
        "version": "2",
        "scores": {CHURN: churn},
        "refused": {SPEND: "days of history: 300, at least 360 needed"},
    }
    held[0] = replace(scores, manifest=scores.manifest.model_copy(update=about))
    told = profile(everybody, by_model(everybody, [name], [], end), []).scores
    assert told is not None and (told.version, told.spend, told.spend_days, told.categories) == (
        "2",
        None,
        None,
        (),
    )
    assert told.churn == pytest.approx(found.churn[11], abs=1e-4) and set(everybody.usuals) == {"2"}


def test_who_has_no_order_has_no_score(home: Path, end: datetime) -> None:
    data, scores = known(History(home / "history"), end), scores_of(home)
    rows = data.interactions
    gone = rows.unnamed(rows.customer == 3)
    told = scores.of(gone, data.catalog)
    assert told.churn is not None and told.spend is not None and told.buys is not None
    assert np.isnan(told.churn[3]) and np.isnan(told.spend[3]) and np.isnan(told.buys[3]).all()
    assert np.isfinite(np.delete(told.churn, 3)).all()
    nothing = History(home / "history").purchases(end).slice(0, 0)
    none = Interactions.from_events(nothing, items=rows.items, keep=data.catalog.eligible, until=end)
    told = scores.of(none, data.catalog, usual_of(data, scores))
    assert told.churn is not None and told.buys is not None
    assert len(told.churn) == 0 and told.buys.shape == (0, len(scores.categories))


def usual_of(data: Data, scores: Scores) -> Usual:
    return Usual.of(data.interactions, data.catalog, scores.categories)


def test_numbers_by_hand() -> None:
    """Ann comes every ten days, the last time twenty days ago; Ben came once."""
    kinds = (
        {"product_id": "milk", "category": ["food", "dairy", "milk"]},
        {"product_id": "soap", "category": ["home", "care", "soap"]},
    )
    from worlds import products

    data = shop(
        *(Event("ann", "milk", f"a{n}", 10.0 * n, price=4.0, discount=1.0) for n in range(4)),
        Event("ann", "soap", "a3", 30.0), Event("ben", "soap", "b0", 45.0),
        until=50, listed=products(*kinds),
    )  # fmt: skip
    names = ("food > dairy", "home > care")
    usual = Usual.of(data.interactions, data.catalog, names)
    mine = behaviour(data.interactions, data.catalog, usual)
    ann, ben = (dict(zip(CUSTOMER, row.tolist(), strict=True)) for row in mine)
    assert (ann["recency"], ann["tenure"], ann["pause"], ann["pace"], ann["slower"]) == (20, 50, 20, 10, 1)
    assert (ann["orders_30"], ann["orders_90"], ann["weeks"], ann["evenness"]) == (2, 4, 4, 0)
    assert (ann["spend_90"], ann["lines_90"], ann["categories_90"], ann["order"]) == (18, 5, 2, 4.5)
    assert ann["deal_90"] == pytest.approx(4 / 22)
    assert np.isnan([ben["pace"], ben["slower"], ben["evenness"]]).all() and ben["pause"] == 5
    pairs = leanings(data.interactions, data.catalog, usual, mine)
    of = {(c, n): dict(zip(CATEGORY, pairs[c, n].tolist(), strict=True)) for c in (0, 1) for n in (0, 1)}
    assert (of[0, 0]["own.last"], of[0, 0]["own.gap"], of[0, 0]["own.late"]) == (20, 10, 2)
    assert (of[0, 0]["own.orders_30"], of[0, 0]["own.orders_90"], of[0, 0]["own.share"]) == (
        2, 4, pytest.approx(0.8),
    )  # fmt: skip
    assert of[1, 0]["own.last"] == NEVER and np.isnan(of[1, 0]["own.gap"])
    assert (of[1, 0]["own.kin"], of[0, 0]["customer.recency"]) == (1, 20)
    # both are active; lately milk was bought by ann, who had bought it before, soap by both, who had not
    assert usual.lately.tolist() == [0.5, 1.0] and usual.again.tolist() == [1.0, 0.0]
    assert usual.added.tolist() == [0.0, 1.0]


# --- too little data ----------------------------------------------------------------------------------------


def test_what_there_is_too_little_data_for_is_refused_in_words(
    home: Path, end: datetime, tmp_path: Path
) -> None:
    shutil.copytree(home / "history", tmp_path / "history")
    young = fit(tmp_path, until=end - timedelta(days=400 - 150))
    assert young.version is None and young.fitted == {} and set(young.refused) == set(LEAST)
    assert "days of history: 150, at least 180 needed" in young.refused[CHURN]
    assert named(tmp_path) is None and readable(tmp_path) is None
    with pytest.raises(ScoresError, match="run `osclms scores fit`"):
        scored(tmp_path, end)
    enough = {"customers": 500.0, "days": 200.0}
    assert not lacking(enough, CHURN, 42) and not lacking(enough, CATEGORIES, 50)
    assert lacking(enough, CHURN, 60) == "days of history: 200, at least 240 needed"
    assert lacking({"customers": 499.0, "days": 400.0}, SPEND, 90) == (
        "customers with an order: 499, at least 500 needed"
    )
    needs = {s.name: s for s in supported(measured(History(home / "history"))) if s.kind == "score"}
    assert set(LEAST) <= set(needs) and all(needs[name].supported for name in LEAST)


def test_too_few_answers_of_a_kind_are_refused() -> None:
    n = 400
    rows = Examples(
        np.zeros((n, len(CUSTOMER)), np.float32), np.arange(n) < 30, np.arange(n), np.zeros(n, int), np.zeros(n, bool)
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="in the days to learn from: 30, at least 50 needed"):
        fitted_on(CHURN, [rows], rows, 28, (), datetime(2026, 1, 1, tzinfo=UTC))


def test_one_category_is_no_choice(home: Path, end: datetime) -> None:
    data = known(History(home / "history"), end)
    names = main_categories(data, 91)
    assert 2 < len(names) <= len(data.catalog.parents) and list(names) == sorted(names)
    few = next(in_parts(data.interactions, 40))
    assert main_categories(Data(data.catalog, few), 91) == ()


# --- at rest ------------------------------------------------------------------------------------------------


def test_nobodys_id_is_in_the_files_and_a_run_tells_all(
    home: Path, found: Scored, told: Mapping[str, Any]
) -> None:
    folder = named(home)
    assert folder is not None and told["version"] == folder.name
    names = found.customers.at(np.arange(len(found.customers)))
    artifacts = [p for p in (home / "mlruns").rglob("*") if p.is_file()]
    for path in (*folder.iterdir(), *artifacts):
        text = path.read_bytes()
        assert not any(name.encode() in text for name in names[:50]), path
    assert {"scores.html", "churn.lift.png", "manifest.json", "report.json"} <= {p.name for p in artifacts}
    page = next(p for p in artifacts if p.name == "scores.html").read_text()
    assert page.count("<img") == 6 and "Churn" in page


def test_the_newest_are_told_and_a_few_stay(tmp_path: Path, home: Path) -> None:
    shutil.copytree(home / "scores", tmp_path / "scores")
    registry = object.__new__(Registry)
    registry.home = tmp_path
    from filelock import FileLock

    registry._lock = FileLock(tmp_path / "registry.lock")
    for version in range(2, 8):
        fresh = tmp_path / "fresh"
        shutil.copytree(home / "scores" / "1", fresh)
        about = json.loads((fresh / "manifest.json").read_text())
        (fresh / "manifest.json").write_text(json.dumps({**about, "version": str(version)}))
        assert registry.keep_scores(fresh).name == str(version)
        assert scores_of(tmp_path).manifest.version == str(version)
    assert sorted(p.name for p in (tmp_path / "scores").glob("[0-9]*")) == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("churn.trees.txt", "no trees", "is damaged"),
        ("manifest.json", "{", "cannot be read"),
        ("manifest.json", '{"format": 9}', "is format 9"),
    ],
)
def test_damaged_scores_are_told_and_a_service_goes_on(
    home: Path, tmp_path: Path, file: str, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home / "scores", tmp_path / "scores")
    (tmp_path / "scores" / "1" / file).write_text(text)
    with pytest.raises(ScoresError, match=says):
        current(tmp_path)
    assert readable(tmp_path) is None and says in caplog.text and readable(None) is None


# --- the command line ---------------------------------------------------------------------------------------


def test_scores_by_the_file_leave_out_who_was_erased(
    home: Path, found: Scored, end: datetime, tmp_path: Path
) -> None:
    for name in ("history", "scores"):
        (tmp_path / name).symlink_to(home / name)
    name = found.customers.at([5])[0]
    with Store(address(tmp_path, None)) as store:
        erase(store, History(home / "history"), name, end)
    for suffix in ("parquet", "ndjson"):
        to = tmp_path / f"scores.{suffix}"
        done = CliRunner().invoke(
            app, ["scores", "write", str(to), "--as-of", end.isoformat(), "--home", str(tmp_path), "--json"]
        )
        assert done.exit_code == 0, done.output
        rows = (
            pq.read_table(to).to_pylist()
            if suffix == "parquet"
            else [json.loads(row) for row in to.read_text().splitlines()]
        )
        assert json.loads(done.stdout)["customers"] == len(rows) == len(found.customers) - 1
        assert name not in {row["customer_id"] for row in rows}
        assert set(rows[0]) == {"customer_id", "churn", "spend", *(f"buys {c}" for c in found.categories)}
        assert found.churn is not None and rows[0]["churn"] == pytest.approx(float(found.churn[0]), abs=1e-6)


def test_the_command_says_what_was_refused(home: Path, tmp_path: Path, end: datetime) -> None:
    (tmp_path / "history").symlink_to(home / "history")
    young = (end - timedelta(days=300)).date().isoformat()
    done = CliRunner().invoke(app, ["scores", "fit", "--until", young, "--home", str(tmp_path)])
    assert done.exit_code == 0 and "churn is refused: " in done.output and "needed" in done.output


# --- figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["logit", "log"])
def test_a_line_finds_the_coefficients_that_made_it(link: str) -> None:
    rng = np.random.default_rng(3)
    raw = rng.normal(0, 1, 40_000)
    line_of = -0.5 + 1.5 * raw
    y = rng.random(len(raw)) < 1 / (1 + np.exp(-line_of)) if link == "logit" else rng.poisson(np.exp(line_of))
    assert line(raw, y, link) == pytest.approx((-0.5, 1.5), abs=0.05)
    assert all(np.isfinite(line(raw, raw > 0, "logit"))), "what is told apart wholly has an answer, too"


@pytest.mark.parametrize("mean", [-8, -5, 0, 3, 8])
@pytest.mark.parametrize("spread", [1, 6])
def test_a_line_is_found_however_far_it_lies(mean: float, spread: float) -> None:
    """Where whole steps of Newton's go astray."""
    rng = np.random.default_rng(5)
    raw = rng.normal(mean, spread, 40_000)
    true = (-1 - mean / 2, 0.5)
    y = rng.random(len(raw)) < 1 / (1 + np.exp(-(true[0] + true[1] * raw)))
    assert line(raw, y, "logit") == pytest.approx(true, abs=0.25 if spread == 1 else 0.1)


def test_tenths_and_differences_by_hand() -> None:
    score = np.arange(20) / 20
    assert deciles(score, score > 0.7)[0] == (0.025, 0.0, 2) and deciles(score, score > 0.7)[-1][1] == 1.0
    right = np.arange(20) >= 10
    found = auc_intervals({"good": score, "bad": -score}, right, np.arange(20), seed=1, resamples=50)
    assert (found["good"].mean, found["bad"].mean, found["good − bad"].mean) == (1.0, 0.0, 1.0)


def test_categories_that_nobody_is_new_to_have_no_figure_of_newness(home: Path) -> None:
    rng, n = np.random.default_rng(5), 200
    x = rng.random((2 * n, len(CATEGORY))).astype(np.float32)
    held = Examples(
        x, rng.random(2 * n) < 0.4, np.repeat(np.arange(n), 2), np.tile([0, 1], n), np.zeros(2 * n, bool)
    )
    score = scores_of(home).manifest.scores[CATEGORIES].model_copy(update={"categories": ("a", "b")})
    judged = judge_categories(rng.random(2 * n), held, score, 7)
    assert "new_auc" not in judged.figures and in_words(CATEGORIES, judged)[0] == "new auc –"
