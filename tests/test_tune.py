"""The search for settings: on its own days alone, on record, taken up again, and written only where it helps."""

import json
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import osclms
from features.completejourney import mapping_of, source_folder
from features.history import History
from features.mapping import Mapping
from features.sources import load
from serving.placements import PLACEMENTS
from training.intervals import Interval
from training.models import RECIPES, Als, Rhythm
from training.settings import FILE, read_settings
from training.train import TrainError
from training.tune import DATABASE, SPACES, Found, Tuning, aim_of, inside, params_of, rounded, tune

UNTIL = datetime(2017, 12, 1, tzinfo=UTC)
START, END = UNTIL - timedelta(days=60), UNTIL - timedelta(days=30)
STEP = 25  # every so many households
FORGETFUL = {**RECIPES, "rhythm": Rhythm(half_life=7.0)}
SEARCHED = ("rhythm", "copurchase")


def sample(home: Path, *, spoil: bool = False) -> Path:
    """What every STEP-th household bought; with `spoil`, other things in the days that training judges by."""
    events = pq.read_table(source_folder() / "transactions.parquet")
    kept = pa.array(sorted(pc.unique(events["household_id"]).to_pylist())[::STEP])
    events = events.filter(pc.is_in(events["household_id"], value_set=kept))
    if spoil:
        frame = events.to_pandas()
        late = frame["transaction_timestamp"].to_numpy() >= np.datetime64(END.replace(tzinfo=None))
        bought = frame.loc[late, "product_id"].to_numpy()
        frame.loc[late, "product_id"] = np.random.default_rng(1).permutation(bought)
        events = pa.Table.from_pandas(frame, schema=events.schema, preserve_index=False)
    pq.write_table(events, home / "events.parquet")
    load(
        History(home / "history"), "events", [home / "events.parquet"], mapping_of("events"), rejects_dir=home
    )
    return home


def search(home: Path, **how: Any) -> Tuning:
    return tune(home, SEARCHED, until=UNTIL, recipes=FORGETFUL, **how)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def first(home: Path, told: list[tuple[str, int, int]]) -> Tuning:
    """Five trials of each recipe; the default of rhythm forgets too soon."""
    return search(home, trials=5, say=lambda *step: told.append(step))


@pytest.fixture(scope="module")
def again(home: Path, first: Tuning) -> Tuning:
    """Taken up after a search that was killed with a trial under way."""
    for name in studies(home):
        if name.startswith("rhythm"):
            optuna.load_study(study_name=name, storage=storage(home)).ask()
    return search(home, trials=7)


def storage(home: Path) -> str:
    return f"sqlite:///{home / DATABASE}"


def studies(home: Path) -> list[str]:
    return sorted(optuna.get_all_study_names(storage(home)))


# --- what is searched -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_of_settings_that_exist_and_holds_the_defaults(name: str) -> None:
    kinds = {field.name: field.type for field in fields(RECIPES[name])}
    for key, span in SPACES[name].items():
        whole = isinstance(span.low, int) and isinstance(span.high, int)
        assert kinds[key] is (int if whole else float), key
    assert inside(name, params_of(name, RECIPES[name]))
    assert rounded(params_of(name, RECIPES[name])) == params_of(name, RECIPES[name])


def test_a_recipe_is_searched_by_what_it_is_for() -> None:
    aims = {name: aim_of(name, PLACEMENTS) for name in SPACES}
    assert aims == {
        "popular": "purchases", "rhythm": "purchases", "als": "purchases", "ease": "purchases", "upcf": "purchases",
        "tifu": "purchases", "copurchase": "basket", "ease_baskets": "basket",
    }  # fmt: skip
    assert aim_of("als", {"discover": PLACEMENTS["discover"]}) == "novel"
    assert aim_of("als", {"similar": PLACEMENTS["similar"]}) is None


# --- a search on real purchases ---------------------------------------------------------------------------


def test_it_measures_on_the_days_before_those_that_training_judges_by(first: Tuning) -> None:
    assert (first.start, first.end) == (START, END)
    assert [f.name for f in first.found] == list(SEARCHED)
    assert [f.trials for f in first.found] == [5, 5]
    assert not first.unfinished
    for found in first.found:
        assert found.reached["best"] >= found.reached["default"] > 0


def test_progress_is_told(first: Tuning, told: list[tuple[str, int, int]]) -> None:
    assert told[0] == ("trials", 0, 10) and ("trials", 10, 10) in told
    assert told[-1][0] == "comparing with defaults"


def test_what_is_better_is_written_and_what_is_not_is_left_out(home: Path, first: Tuning) -> None:
    rhythm = first.found[0]
    assert rhythm.better and rhythm.gain is not None and rhythm.gain.low > 0
    assert rhythm.best != rhythm.default == Rhythm(half_life=7.0)
    assert first.written
    assert read_settings(home) == {f.name: f.settings for f in first.found if f.better}
    assert f"# Found on {START:%Y-%m-%d} to {END:%Y-%m-%d}." in (home / FILE).read_text()


def test_a_search_goes_on_where_it_ended(home: Path, first: Tuning, again: Tuning) -> None:
    assert [f.trials for f in again.found] == [7, 7]
    for before, after in zip(first.found, again.found, strict=True):
        assert after.reached["best"] >= before.reached["best"]
        assert after.reached["default"] == before.reached["default"]
    assert len(studies(home)) == len(SEARCHED)
    for name in studies(home):
        trials = optuna.load_study(study_name=name, storage=storage(home)).trials
        states = [trial.state.name for trial in trials]
        assert states.count("COMPLETE") == 7 and states.count("RUNNING") == 0
        assert states.count("FAIL") == name.startswith("rhythm")  # the one that was killed
        assert len({json.dumps(trial.params) for trial in trials}) > 5


def test_every_trial_is_a_run_below_its_search(home: Path, first: Tuning, again: Tuning) -> None:
    from training.publish import Registry

    registry = Registry(home)
    runs = registry.client.search_runs([registry.experiment_id])
    parents = {run.info.run_id: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    assert len(parents) == 2
    assert {run.info.run_name for run in parents.values()} == {f"tune {START:%Y-%m-%d}"}
    below = [run for run in runs if run.info.run_id not in parents]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == set(parents)
    assert len(below) == 14 and {run.data.tags["recipe"] for run in below} == set(SEARCHED)
    searches = [run for run in below if run.data.tags["recipe"] == "rhythm"]
    assert all({*SPACES["rhythm"], "recipe"} == set(run.data.params) for run in searches)
    best = max(run.data.metrics["purchases.ndcg"] for run in searches)
    assert best == pytest.approx(again.found[0].reached["best"])
    for run in parents.values():
        assert "rhythm.best" in run.data.metrics
        assert "report.json" in {file.path for file in registry.client.list_artifacts(run.info.run_id)}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_it_never_sees_the_days_that_training_judges_by(first: Tuning, tmp_path: Path) -> None:
    """With other purchases in those days it finds the same, by the same trials."""
    other = search(sample(tmp_path, spoil=True), trials=5)
    differs = ("file",)
    ours, theirs = ({k: v for k, v in t.as_dict().items() if k not in differs} for t in (first, other))
    assert ours == theirs
    assert read_settings(tmp_path) == {f.name: f.settings for f in first.found if f.better}


def test_without_time_nothing_is_found_and_the_file_stays(home: Path, again: Tuning) -> None:
    before = (home / FILE).read_text()
    ended = tune(home, ["popular", "rhythm"], until=UNTIL, minutes=0)
    assert ended.unfinished == ["popular", "rhythm"] and not ended.found and not ended.written
    assert (home / FILE).read_text() == before


def test_the_command_line(
    home: Path, again: Tuning, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(osclms.out, "width", 200)
    words = ["tune", "rhythm", "--trials", "2", "--until", "2017-12-01", "--home", str(home)]
    for more, says in (([], "gain with 95 % interval"), (["--json"], '"unfinished": []')):
        monkeypatch.setattr(sys, "argv", ["osclms", *words, *more])
        with pytest.raises(SystemExit) as ended:
            osclms.main()
        assert not ended.value.code
        assert says in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["osclms", "tune", "bpr", "--home", str(home)])
    with pytest.raises(SystemExit) as ended:
        osclms.main()
    assert ended.value.code == 2
    assert "'bpr' cannot be searched for" in capsys.readouterr().err


# --- what is not written, and what cannot be searched ------------------------------------------------------


def found(low: float) -> Found:
    best = replace(Als(), alpha=2.0)
    return Found("als", "purchases", 3, Als(), best, {}, Interval(low + 0.01, low, low + 0.02))


def test_only_a_gain_whose_whole_interval_is_above_zero_counts() -> None:
    assert found(0.001).better
    assert not found(0.0).better and not found(-0.001).better
    assert not replace(found(0.001), gain=None).better
    assert found(0.001).settings == {"alpha": 2.0}


def test_where_baskets_hold_one_product_nothing_is_asked_of_what_goes_together(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    rows = [f"c{c},i{(c + n) % 3},o{c}-{n},2026-0{1 + n}-1{c}" for c in range(5) for n in range(6)]
    file.write_text("\n".join(["who,what,order,on", *rows]))
    columns = {
        "customer_id": "who", "product_id": "what", "order_id": "order", "occurred_at": "on",
        "event_type": {"value": "order"}, "quantity": {"value": "1"},
    }  # fmt: skip
    mapping = Mapping.model_validate({"columns": columns})
    load(History(tmp_path / "history"), "events", [file], mapping, rejects_dir=tmp_path)
    ended = tune(tmp_path, ["rhythm", "copurchase"], trials=1, processes=1)
    assert ended.unasked == ["copurchase"] and [f.name for f in ended.found] == ["rhythm"]
    with pytest.raises(TrainError, match="no placement that can be measured asks als: name other recipes"):
        tune(tmp_path, ["als"], placements={"similar": PLACEMENTS["similar"]})


def test_days_without_purchases_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "history").symlink_to(home / "history")
    with pytest.raises(TrainError, match="nothing that may be recommended was bought before 2016"):
        tune(tmp_path, ["rhythm"], until=datetime(2016, 1, 1, tzinfo=UTC))
