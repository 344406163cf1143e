"""Trainings for real, on a small sample: stories of two homes, told once and looked at by every test.

A first training, a trainer killed half-way, the same training again, and one with a worse configuration.
In the other home the same configuration on newer data: once spoiled by its code, and once sound.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tiny
from conftest import SMALL

import osclms
from features.catalog import Catalog
from features.completejourney import mapping_of, source_folder
from features.history import History
from features.interactions import Interactions
from features.sources import load
from serving.bundle import Bundle, champion, read_manifest
from serving.engine import Engine
from serving.fitted import Candidates
from serving.placements import PLACEMENTS, Placement, models_in_use
from serving.schemas import RecommendRequest
from training import jobs
from training import train as module
from training.models import Recipe, Rhythm, described
from training.rank import Ranking
from training.split import AUDITS
from training.train import VALIDATION_DAYS, Side, TrainError, knows_no_less, rival_of, train

UNTIL = datetime(2017, 12, 1, tzinfo=UTC)
EARLY = datetime(2017, 11, 1, tzinfo=UTC)
END = datetime(2018, 1, 1, tzinfo=UTC)
STEP = 25  # every so many households
REVISION = "c0ffee"  # of git, whatever is committed meanwhile
DATA = ("customers", "items", "orders", "interactions.", "catalog")

KILLED = """
import os, sys
from datetime import datetime
from pathlib import Path
from conftest import SMALL
from training.train import train

def say(what, done, of):
    print(what, done, of, flush=True)

if __name__ == "__main__":
    until = datetime.fromisoformat(sys.argv[2])
    train(Path(sys.argv[1]), until=until, recipes=SMALL, rankings={}, say=say)
"""


SILENT = """
from training import jobs

if __name__ == "__main__":
    with jobs.workers(1) as pool:
        print(pool.submit(len, "abc").result())
"""


def purchases(first: int) -> pa.Table:
    """Of every STEP-th household of the demo data, from the `first` on."""
    events = pq.read_table(source_folder() / "transactions.parquet")
    kept = pa.array(sorted(pc.unique(events["household_id"]).to_pylist())[first::STEP])
    return events.filter(pc.is_in(events["household_id"], value_set=kept))


def load_small(home: Path) -> None:
    """Every STEP-th household of the demo data and the products that they bought."""
    history, products = History(home / "history"), pq.read_table(source_folder() / "products.parquet")
    events = purchases(0)
    products = products.filter(pc.is_in(products["product_id"], value_set=pc.unique(events["product_id"])))
    for table, rows in (("events", events), ("products", products)):
        pq.write_table(rows, home / f"{table}.parquet")
        load(history, table, [home / f"{table}.parquet"], mapping_of(table), rejects_dir=home / "rejects")


def worse(placements: Mapping[str, Placement]) -> dict[str, Placement]:
    """next_best of what is popular alone."""
    forgetful = replace(placements["next_best"], sources=placements["next_best"].sources[-1:])
    return {**placements, "next_best": forgetful}


def killed_half_way(home: Path) -> dict[str, Any]:
    """Start a training, kill −9 its process while recipes are being fitted; what is left of it."""
    script = home / "trainer.py"
    script.write_text(KILLED)
    trainer = subprocess.Popen(
        [sys.executable, script, home, UNTIL.isoformat()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert trainer.stdout is not None
    for line in trainer.stdout:
        if line.startswith("fitting recipes 1 "):
            break
    workers = psutil.Process(trainer.pid).children(recursive=True)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    _, left = psutil.wait_procs(workers, timeout=10)
    for worker in left:
        worker.kill()
    return {
        "workers": len(workers),
        "left": len(left),
        "staged": sorted(p.name for p in (home / "staging" / "train").iterdir()),
        "champion": (home / "champion").read_text(),
        "bundles": sorted(p.name for p in (home / "bundles").iterdir()),
        "items": len(Engine.load(champion(home)).recommend("next_best", RecommendRequest(), at=END).items),
    }


def tell(home: Path) -> None:
    """The story; what each training said goes to story.json."""
    load_small(home)
    story: dict[str, Any] = {}

    def trained(name: str, **how: Any) -> None:
        told: list[tuple[str, int, int]] = []
        outcome = train(
            home, until=UNTIL, recipes=SMALL, rankings={}, say=lambda *step: told.append(step), **how
        )
        served = (home / "champion").read_text().strip()
        story[name] = {**outcome.as_dict(), "metrics": outcome.metrics, "told": told, "champion": served}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "revision", lambda: REVISION)
        trained("first")
        story["killed"] = killed_half_way(home)
        trained("again")
        trained("worse", placements=worse(PLACEMENTS))
    (home / "story.json").write_text(json.dumps(story))


@pytest.fixture(scope="session")
def home(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Read, do not write."""
    return shared("trained", tell)


@pytest.fixture(scope="session")
def story(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "story.json").read_text())
    return found


@dataclass(frozen=True)
class Spoiled(Rhythm):
    """Rhythm by name and parameters, the wrong way round in its code: what was bought least comes first."""

    def fit(self, data: Interactions, catalog: Catalog) -> Candidates:
        del catalog
        weights = data.matrix(lambda rows: np.ones(len(rows), np.float32))
        weights.data = 1 / weights.data
        return Candidates(weights)


Spoiled.__name__ = "Rhythm"
ONLY_NEXT_BEST = {"next_best": PLACEMENTS["next_best"]}


def tell_refreshed(home: Path) -> None:
    """A champion of EARLY, then the same configuration on all data; of each whom it was compared with."""
    load_small(home)
    recipes = {name: SMALL[name] for name in SMALL if name in models_in_use(ONLY_NEXT_BEST)}
    asked: list[Path] = []
    audits_of, told = module.audits_of, {}

    def trained(name: str, recipes: Mapping[str, Recipe], until: datetime | None) -> None:
        asked.clear()
        outcome = train(home, until=until, recipes=recipes, placements=ONLY_NEXT_BEST, rankings={})
        compared = outcome.verdict.comparison
        assert compared is not None
        told[name] = {
            "asked": [str(folder.relative_to(home)) for folder in asked],
            "low": compared.difference.low / compared.rival,
            "mean": compared.difference.mean / compared.rival,
            "champion": (home / "champion").read_text().strip(),
            **outcome.as_dict(),
        }

    def spied(pool: Any, folder: Path, *rest: Any, **how: Any) -> Any:
        asked.append(folder)
        return audits_of(pool, folder, *rest, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "revision", lambda: REVISION)
        patch.setattr(module, "audits_of", spied)
        trained("early", recipes, EARLY)
        trained("spoiled", {**recipes, "rhythm": Spoiled()}, None)
        trained("refreshed", recipes, None)
    (home / "story.json").write_text(json.dumps(told))


@pytest.fixture(scope="session")
def refreshed(shared: Callable[[str, Callable[[Path], None]], Path]) -> dict[str, Any]:
    home = shared("refreshed", tell_refreshed)
    found: dict[str, Any] = json.loads((home / "story.json").read_text())
    return found


# --- the story --------------------------------------------------------------------------------------------


def test_the_first_version_is_promoted_against_popular(story: dict[str, Any]) -> None:
    first = story["first"]
    assert first["promoted"] and first["version"] == first["champion"] == "1"
    assert first["reason"].startswith("promoted: next_best NDCG@10 ")
    assert first["reason"].endswith("is above 0, against Popular")


def test_it_learned_up_to_its_moment_and_was_judged_on_the_30_days_before(
    story: dict[str, Any], home: Path
) -> None:
    cutoff = UNTIL - timedelta(days=VALIDATION_DAYS)
    for version in ("1", "2", "3"):
        manifest = read_manifest(home / "bundles" / version)
        assert (manifest.version, manifest.data_until) == (version, UNTIL)
        assert Engine.load(home / "bundles" / version).history.at.max() < UNTIL.timestamp()
    assert story["first"]["data_until"] == UNTIL.isoformat()
    assert story["first"]["validation_from"] == cutoff.isoformat()


def test_every_step_is_told_from_nothing_to_all(story: dict[str, Any]) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    for what, done, of in story["first"]["told"]:
        steps.setdefault(what, []).append((done, of))
    assert list(steps) == [
        "fitting recipes", "gathering examples", "learning rankers", "learning the version's rankers",
        "ranking ahead", "auditing placements", "comparing recipes", "drawing the card",
    ]  # fmt: skip
    assert steps["auditing placements"] == [(n, len(AUDITS)) for n in range(len(AUDITS) + 1)]


def test_a_killed_trainer_leaves_the_champion_as_it_was(story: dict[str, Any]) -> None:
    killed = story["killed"]
    assert "full" in killed["staged"]  # it was at work
    assert (killed["champion"], killed["bundles"]) == ("1\n", ["1"])
    assert killed["items"] == PLACEMENTS["next_best"].limit


def test_the_workers_of_a_killed_trainer_end_too(story: dict[str, Any]) -> None:
    assert story["killed"]["workers"] >= 2
    assert story["killed"]["left"] == 0


def test_workers_end_in_silence(tmp_path: Path) -> None:
    """DuckDB tells on stderr of whoever keeps its types beyond the interpreter's end."""
    script = tmp_path / "silent.py"
    script.write_text(SILENT)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("3\n", "")


def test_after_a_killed_trainer_the_next_one_works(story: dict[str, Any], home: Path) -> None:
    assert story["again"]["version"] == "2"
    assert not (home / "staging" / "train").exists()


def test_unchanged_on_the_same_data_it_is_promoted_as_no_worse(story: dict[str, Any]) -> None:
    again = story["again"]
    assert again["promoted"] and again["champion"] == "2"
    assert "difference 0.0000 [0.0000, 0.0000] is at least −" in again["reason"]
    assert again["reason"].endswith(
        "−2 % of the rival's, against itself: the champion's configuration is the same"
    )


def test_what_is_its_own_rival_is_fitted_once(story: dict[str, Any]) -> None:
    def fits(name: str) -> int:
        return max(of for what, _, of in story[name]["told"] if what == "fitting recipes")

    used = models_in_use(PLACEMENTS)
    assert fits("first") == fits("again") == len(SMALL) + len(used)
    assert fits("worse") == len(SMALL) + 2 * len(used)  # and the champion's configuration


def test_the_same_training_twice_makes_the_same_files_and_figures(story: dict[str, Any], home: Path) -> None:
    one, other = (read_manifest(home / "bundles" / version) for version in ("1", "2"))
    assert one.files == other.files and len(one.files) > 20
    assert one.model_copy(update={"version": "2"}) == other
    assert story["first"]["metrics"] == story["again"]["metrics"]
    assert story["first"]["placements"] == story["again"]["placements"]


def test_a_worse_configuration_is_kept_and_not_promoted(story: dict[str, Any], home: Path) -> None:
    poor = story["worse"]
    assert not poor["promoted"] and (poor["version"], poor["champion"]) == ("3", "2")
    assert poor["reason"].startswith("kept: next_best NDCG@10 ")
    assert "is not above 0, against the champion" in poor["reason"]
    assert (
        read_manifest(home / "bundles" / "3").placements["next_best"].sources
        == PLACEMENTS["next_best"].sources[-1:]
    )
    figure = "next_best.purchases.ndcg"
    assert poor["metrics"][figure] < 0.8 * story["again"]["metrics"][figure]


def test_what_is_kept_is_registered_all_the_same(home: Path) -> None:
    found = Engine.load(home / "bundles" / "3")
    assert found.version == "3"
    log = [json.loads(line) for line in (home / "champions.jsonl").read_text().splitlines()]
    assert [(entry["version"], entry["why"]) for entry in log] == [("1", "promoted"), ("2", "promoted")]


def test_only_what_a_placement_asks_is_in_the_bundle(home: Path) -> None:
    """bpr is among the recipes and used by no placement."""
    used = models_in_use(PLACEMENTS)
    assert "bpr" not in used
    assert set(Engine.load(champion(home)).models) == set(read_manifest(champion(home)).recipes) == used


def test_the_manifest_says_how_it_was_made(home: Path, story: dict[str, Any]) -> None:
    manifest = read_manifest(champion(home))
    assert manifest.recipes == {name: described(SMALL[name]) for name in manifest.recipes}
    assert manifest.placements == PLACEMENTS
    assert manifest.store.name == "Complete Journey"
    assert manifest.fingerprint == History(home / "history").fingerprint(UNTIL)
    assert manifest.metrics == story["again"]["metrics"]
    assert manifest.metrics["faiss.als.recall"] >= 0.95


# --- newer data -------------------------------------------------------------------------------------------


def test_on_newer_data_the_champions_own_bundle_is_the_rival(refreshed: dict[str, Any]) -> None:
    """It has not seen the days that both are asked about."""
    newer = refreshed["refreshed"]
    assert refreshed["early"]["champion"] == "1"
    assert refreshed["early"]["data_until"] < newer["validation_from"]
    assert newer["asked"] == ["staging/train/past", "bundles/1"]
    assert newer["promoted"] and newer["version"] == newer["champion"] == "3"
    assert newer["low"] > -0.02
    assert newer["reason"].startswith("promoted: next_best NDCG@10 ")
    assert newer["reason"].endswith(", −2 % of the rival's, against the champion")


def test_on_newer_data_a_candidate_that_its_code_has_spoiled_is_kept(refreshed: dict[str, Any]) -> None:
    """By its configuration it is the champion."""
    spoiled = refreshed["spoiled"]
    assert spoiled["asked"] == ["staging/train/past", "bundles/1"]
    assert not spoiled["promoted"] and (spoiled["version"], spoiled["champion"]) == ("2", "1")
    assert spoiled["low"] < spoiled["mean"] < -0.02
    assert spoiled["reason"].startswith("kept: next_best NDCG@10 ")
    assert "is not at least −" in spoiled["reason"]


def test_code_that_has_changed_is_named_in_the_reason(home: Path, tmp_path: Path) -> None:
    manifest = read_manifest(home / "bundles" / "2").model_copy(update={"git_revision": "0ld"})
    seen, unseen = (Side(tmp_path / "past", until, SMALL, PLACEMENTS, None) for until in (EARLY, UNTIL))
    changed = "(its code is git revision 0ld, the candidate's n3w)"
    contest, rival = rival_of(unseen, manifest, home, "n3w")
    assert (contest.rival, rival and rival.folder) == (f"the champion {changed}", home / "bundles" / "2")
    contest, rival = rival_of(seen, manifest, home, "n3w")
    assert contest.rival == f"itself: the champion's configuration is the same {changed}"
    assert rival is seen
    assert rival_of(unseen, manifest, home, "0ld")[0].rival == "the champion"


# --- what a training takes ----------------------------------------------------------------------------------


class Enough(Exception):
    """What a training had read when it was stopped."""


def read_by_training(home: Path) -> tuple[object, ...]:
    """The fingerprint and how many rows are learned from, of a training that is stopped at its first manifest."""

    def stop(side: Side, **about: Any) -> None:
        assert side.data is not None
        raise Enough(about["fingerprint"], len(side.data.interactions), len(side.data.catalog))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", lambda *anything: [])
        patch.setattr(module, "seal", stop)
        with pytest.raises(Enough) as read:
            train(home, recipes=SMALL, rankings={})
    return read.value.args


def test_a_load_during_a_training_makes_no_mixture(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lands right after the fingerprint was taken; another one right after the events were read."""
    history = History(tmp_path / "history")
    shutil.copytree(home / "history", history.folder)
    states = [read_by_training(tmp_path)]
    for number, name in enumerate(("fingerprint", "events"), 1):
        pq.write_table(purchases(first=number), tmp_path / f"{name}.parquet")
        lands = iter([tmp_path / f"{name}.parquet"])
        with monkeypatch.context() as patch:
            patch.setattr(History, name, followed_by(getattr(History, name), history, lands))
            during = read_by_training(tmp_path)
        assert next(lands, None) is None
        states.append(read_by_training(tmp_path))
        assert states[-2] != states[-1]
        assert during in states[-2:]


def followed_by(act: Callable[..., Any], history: History, lands: Iterator[Path]) -> Callable[..., Any]:
    """The same, and then a load of the file that is next, if any is."""

    def acts(self: History, *asked: Any, **options: Any) -> Any:
        found = act(self, *asked, **options)
        for file in lands:
            load(history, "events", [file], mapping_of("events"), rejects_dir=file.parent)
        return found

    return acts


def test_what_is_learned_from_lies_in_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the memory of the process that waits for the fits."""
    (tmp_path / "history").symlink_to(home / "history")
    sides: list[Side] = []

    def stop(pool: object, making: list[Side], say: object) -> None:
        sides.extend(making)
        raise Enough

    monkeypatch.setattr(module, "fit", stop)
    with pytest.raises(Enough):
        train(tmp_path, until=UNTIL, recipes=SMALL)
    assert len(sides) == 8  # of them three pasts for rankers, and those with newcomers
    for side in sides:
        assert side.data is not None
        file = side.data.interactions.item.base
        assert isinstance(file, np.memmap) and Path(str(file.filename)).parent == side.folder


def test_each_sides_rankers_learn_from_as_many_windows_as_they_ask_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate in a hurry meets the champion's configuration at its full strength."""
    (tmp_path / "history").symlink_to(home / "history")
    manifest = read_manifest(home / "bundles" / "1")
    thorough = manifest.model_copy(update={"rankings": {"next_best": asdict(Ranking(windows=3))}})
    monkeypatch.setattr(module, "champion_of", lambda version, home: thorough)
    names: list[str] = []

    def stop(pool: object, making: list[Side], say: object) -> None:
        names.extend(side.folder.name[: len("rival-label")] for side in making)
        raise Enough

    monkeypatch.setattr(module, "fit", stop)
    with pytest.raises(Enough):
        train(tmp_path, until=UNTIL, recipes=SMALL, rankings={"next_best": Ranking(windows=1)})
    assert [sum(name.startswith(of) for name in names) for of in ("short", "rival-short")] == [1, 3]


def hold(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def test_the_peak_is_that_of_the_largest_process_whatever_it_did() -> None:
    before = round(jobs.peak_mb())
    with jobs.workers(1) as pool:
        pool.submit(hold, before + 100).result()
    assert before + 100 < jobs.peak_mb() < 2 * before + 500


# --- what MLflow holds ------------------------------------------------------------------------------------


def test_every_training_is_a_run_with_a_run_for_each_recipe(home: Path, story: dict[str, Any]) -> None:
    from training.publish import Registry

    registry = Registry(home)
    runs = {run.info.run_id: run for run in registry.client.search_runs([registry.experiment_id])}
    parents = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 3
    assert {run.data.tags["verdict"] for run in parents} == {
        story[n]["reason"] for n in ("first", "again", "worse")
    }
    for parent in parents:
        assert {"fingerprint", "git_revision", "data_until", "verdict"} <= set(parent.data.tags)
        assert parent.data.metrics["next_best.purchases.ndcg"] > 0
        plots = {file.path for file in registry.client.list_artifacts(parent.info.run_id)}
        assert {"report.json", "card.html", "recipes.png", "placements.png", "bundle"} <= plots
        children = {
            run.info.run_name: run
            for run in runs.values()
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        }
        assert set(children) == set(SMALL)  # also what is compared and in no bundle
        als = children["als"]
        assert als.data.params == {name: str(value) for name, value in described(SMALL["als"]).items()}
        assert {"fit_cpu_seconds", "purchases.ndcg", "novel.ndcg"} <= set(als.data.metrics)
        assert als.data.tags["recipe"] == "als"
        pictures = {file.path for file in registry.client.list_artifacts(als.info.run_id)}
        assert {"purchases.png", "novel.png"} <= pictures
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_every_version_has_a_card_that_names_no_customer(home: Path) -> None:
    """The card of the first tells nothing of drift, the second's is held against the first."""
    first, second, third = ((home / "cards" / f"{n}.html").read_text() for n in (1, 2, 3))
    assert "The data against" not in first
    assert "The data against version 1" in second and "The data against version 2" in third
    assert "customer 1<small>" in first and "customer 10<small>" in first


def test_every_training_is_a_version_and_the_champion_has_the_alias(
    home: Path, story: dict[str, Any]
) -> None:
    from training.publish import NAME, Registry

    registry = Registry(home)
    assert registry.versions() == ["1", "2", "3"]
    assert registry.champion() == "2"
    kept = registry.client.get_model_version(NAME, "3")
    assert kept.tags["verdict"] == story["worse"]["reason"]
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM model_versions").fetchone() == (3,)


# --- readings, on what came after ---------------------------------------------------------------------------


def test_a_reading_of_the_unseen_month(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line, of one placement: other placements are asked alike."""
    words = [
        "evaluate",
        "--window",
        "2017-12-01:2018-01-01",
        "--placement",
        "next_best",
        "--home",
        str(home),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["osclms", *words])
    with pytest.raises(SystemExit) as ended:
        osclms.main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == "2" and list(found["placements"]) == ["next_best.purchases"]
    asked = found["placements"]["next_best.purchases"]
    events = History(home / "history").events(
        since=UNTIL, until=END, types=("order",), columns=("customer_id", "unit_price")
    )
    buyers = set(events.to_pandas().query("unit_price > 0")["customer_id"].astype(str))
    known = set(Engine.load(champion(home)).history.customers.values.astype(str).tolist())
    assert (
        abs(asked["questions"] - len(buyers & known)) <= 1
    )  # one may have bought what is not recommended alone
    assert asked["ndcg"]["low"] < asked["ndcg"]["mean"] < asked["ndcg"]["high"]
    assert asked["ndcg"]["mean"] > 0.2 and asked["violations"] == 0


# --- what cannot be trained ---------------------------------------------------------------------------------


def test_a_second_trainer_is_told_who_is_at_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from training.publish import TrainingBusy, training_lock

    with training_lock(tmp_path):
        with pytest.raises(TrainingBusy, match=r"is training and holds .*: wait for it, or stop it"):
            train(tmp_path)
        monkeypatch.setattr(sys, "argv", ["osclms", "train", "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            osclms.main()
    assert ended.value.code == 4
    assert capsys.readouterr().err.startswith("osclms: process ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["training.lock"]


def test_a_moment_before_all_purchases_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "history").symlink_to(home / "history")
    with pytest.raises(TrainError, match="nothing that may be recommended was bought before 2016"):
        train(tmp_path, until=datetime(2016, 1, 1, tzinfo=UTC))
    assert not (tmp_path / "champion").exists()


def test_a_version_of_all_there_is_may_end_before_a_champion_whose_last_buyer_was_erased(
    tmp_path: Path,
) -> None:
    tiny.bundle(tmp_path / "1", tiny.GROCERIES, tiny.GROCER)
    champion = Bundle.load(tmp_path / "1").manifest
    theirs, day = champion.data_until, timedelta(days=1)
    told = [
        knows_no_less(end, last, champion)[0].holds
        for end, last in ((theirs, theirs), (theirs - day, theirs), (theirs - day, theirs - day))
    ]
    assert told == [True, False, True] and knows_no_less(theirs, theirs, None) == ()
