"""Real MLflow on real SQLite files; the crashes are real kills."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from training import publish
from training.publish import Registry, RegistryError, TrainingBusy, create_database, training_lock


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def home(tmp_path: Path, template: Path) -> Path:
    folder = tmp_path / "a home"  # with a space, as people have them
    folder.mkdir()
    shutil.copy(template, folder)
    return folder


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home)


def bundle(folder: Path, version: str, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"version": version, "recipes": {"als": {}}}))
    (folder / "models" / "als").mkdir(parents=True)
    np.save(folder / "models" / "als" / "items.npy", np.full(size, int(version), np.uint8))
    return folder


def trained(registry: Registry, **changes: Any) -> str:
    """A version as a training leaves it: a run, its bundle, registered."""
    version = registry.next_version()
    run_id = registry.log_run(f"train {version}", **changes)
    source = bundle(registry.home / "work" / run_id, version)
    return registry.register(source, run_id=run_id, metrics={"ndcg@10": 0.42}, tags={"recipe": "als"})


def served(home: Path) -> str | None:
    """What the service would open; fails where that is no whole bundle."""
    if not (home / "champion").exists():
        return None
    version = (home / "champion").read_text().strip()
    whole(home, version)
    return version


def whole(home: Path, version: str) -> None:
    folder = home / "bundles" / version
    assert json.loads((folder / "manifest.json").read_text())["version"] == version
    assert np.load(folder / "models" / "als" / "items.npy").tolist() == [int(version)] * 1000


# Runs


def test_a_run_is_recorded_whole(registry: Registry, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("as they were")
    parent = registry.log_run("train")
    run_id = registry.log_run(
        "als",
        params={"factors": 64, "seed": 7},
        metrics={"ndcg@10": 0.42, "hits": 0.5},
        tags={"fingerprint": "ab12", "git_revision": "c0ffee", "data_until": "2017-12-01", "recipe": "als"},
        artifacts={
            "plots/recipes.png": Figure(),
            "report.md": "good",
            "audit.json": {"next_best": {"full": 1.0}},
            "notes.txt": notes,
        },
        parent=parent,
        seconds=90,
    )
    run = registry.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "als"
    assert 90_000 <= run.info.end_time - run.info.start_time <= 120_000
    assert run.data.params == {"factors": "64", "seed": "7"}
    assert run.data.metrics == {"ndcg_at_10": 0.42, "hits": 0.5}
    expected = {"fingerprint": "ab12", "git_revision": "c0ffee", "data_until": "2017-12-01", "recipe": "als"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.parentRunId"] == parent
    stored = Path(download_artifacts(artifact_uri=run.info.artifact_uri))
    assert (stored / "plots" / "recipes.png").read_bytes().startswith(b"\x89PNG")
    assert (stored / "report.md").read_text() == "good"
    assert json.loads((stored / "audit.json").read_text()) == {"next_best": {"full": 1.0}}
    assert (stored / "notes.txt").read_text() == "as they were"
    assert stored.is_relative_to(registry.home / "mlruns")


def test_many_and_long_params_are_kept(registry: Registry) -> None:
    params: dict[str, object] = {f"p{i}": i for i in range(250)} | {"long": "x" * 20_000}
    run = registry.client.get_run(registry.log_run("wide", params=params))
    assert len(run.data.params) == 251
    assert run.data.params["long"].endswith("… (whole in params.json)")
    stored = Path(download_artifacts(artifact_uri=f"{run.info.artifact_uri}/params.json"))
    assert json.loads(stored.read_text())["long"] == "x" * 20_000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_was_not_measured_is_refused(registry: Registry, value: float) -> None:
    with pytest.raises(RegistryError, match=r"ndcg = (nan|inf): a metric must be a finite number"):
        registry.log_run("als", metrics={"ndcg": value, "fine": 1.0})
    assert registry.client.search_runs([registry.experiment_id]) == []


def test_a_run_that_cannot_be_written_is_marked_failed(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        registry.log_run("als", artifacts={"a.txt": tmp_path / "missing"})
    (run,) = registry.client.search_runs([registry.experiment_id])
    assert run.info.status == "FAILED"


def test_a_home_opened_twice_is_one(registry: Registry, home: Path) -> None:
    again = Registry(home)
    assert again.experiment_id == registry.experiment_id
    assert trained(again) == "1"
    assert registry.versions() == ["1"]


def test_an_experiment_deleted_in_the_ui_comes_back(registry: Registry, home: Path) -> None:
    registry.client.delete_experiment(registry.experiment_id)
    assert trained(Registry(home)) == "1"


# Versions


def test_a_version_has_its_run_its_tags_and_a_whole_folder(registry: Registry, home: Path) -> None:
    assert registry.next_version() == "1"
    assert trained(registry) == "1"
    assert registry.next_version() == "2"
    version = registry.client.get_model_version("osclms", "1")
    assert version.run_id
    assert version.tags == {"ndcg_at_10": "0.42", "recipe": "als"}
    whole(home, "1")
    assert registry.champion() is None, "a version is no champion until it is promoted"


def test_a_bundle_of_another_number_is_refused_before_anything_is_written(
    registry: Registry, tmp_path: Path
) -> None:
    run_id = registry.log_run("train")
    with pytest.raises(RegistryError, match="says version 7, the next one here is 1: train again"):
        registry.register(bundle(tmp_path / "b", "7"), run_id=run_id)
    assert registry.client.list_artifacts(run_id) == []
    assert registry.versions() == []


def test_a_folder_without_a_manifest_is_no_bundle(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"manifest\.json is missing: .* is no bundle"):
        registry.register(tmp_path, run_id=registry.log_run("train"))


def test_a_deleted_version_keeps_its_number(registry: Registry) -> None:
    trained(registry), trained(registry)
    registry.client.delete_model_version("osclms", "2")
    assert registry.versions() == ["1"]
    assert trained(registry) == "3"


def test_registering_again_is_registering_once(registry: Registry, home: Path) -> None:
    trained(registry)
    (made,) = (home / "work").iterdir()  # named for its run
    shutil.rmtree(home / "bundles" / "1")
    assert registry.register(made, run_id=made.name) == "1"
    assert registry.versions() == ["1"]
    whole(home, "1")


def test_a_lost_database_is_noticed_before_an_hour_of_training(
    registry: Registry, home: Path, template: Path
) -> None:
    trained(registry)
    shutil.rmtree(home / "mlruns")
    elsewhere = home.parent / "restored"
    shutil.copytree(home, elsewhere)
    shutil.copy(template, elsewhere / "mlflow.db")
    with pytest.raises(RegistryError, match="knows no version 1: restore the database that made it, or move"):
        Registry(elsewhere).next_version()


def artifact(registry: Registry, version: str, name: str = "models/als/items.npy") -> Path:
    run = registry.client.get_run(str(registry.client.get_model_version("osclms", version).run_id))
    return registry.home / "mlruns" / run.info.run_id / "artifacts" / "bundle" / name


def test_a_bundle_takes_its_room_once(registry: Registry, home: Path) -> None:
    trained(registry)
    assert artifact(registry, "1").samefile(home / "bundles" / "1" / "models" / "als" / "items.npy")
    assert artifact(registry, "1", "manifest.json").samefile(home / "bundles" / "1" / "manifest.json")


def test_where_a_file_has_one_name_only_a_bundle_is_a_copy(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)

    monkeypatch.setattr(os, "link", refuses)
    trained(registry)
    whole(home, "1")
    assert not artifact(registry, "1").samefile(home / "bundles" / "1" / "models" / "als" / "items.npy")


def bundles(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "bundles").iterdir())


def with_artifacts(registry: Registry) -> list[str]:
    return [version for version in registry.versions() if artifact(registry, version).exists()]


def test_pruning_keeps_what_may_be_needed(registry: Registry, home: Path) -> None:
    for _ in range(7):
        trained(registry)
    for version in "1231456":  # what came between the two 1 was left
        registry.promote(version)
    removed = registry.prune(keep=1)
    assert bundles(home) == with_artifacts(registry) == ["4", "5", "6", "7"]
    folders = [str(home / "bundles" / version) for version in "123"]
    assert [line.removeprefix("removed ") for line in removed][:3] == folders and len(removed) == 6
    assert registry.prune(keep=1) == ()
    assert registry.versions() == list("1234567"), "what was measured stays"
    assert [registry.previous()[-1] for _ in range(2)] == ["file champion: 6 → 5", "file champion: 5 → 4"]
    assert registry.prune(keep=3) == (), "6 is still among the newest"


def test_a_lost_folder_comes_back_from_the_artifacts(registry: Registry, home: Path) -> None:
    trained(registry), trained(registry)
    shutil.rmtree(home / "bundles" / "2")
    assert "fetched bundle 2 from MLflow" in registry.promote("2")
    assert served(home) == "2"


def test_a_pruned_version_says_how_to_get_it_back(registry: Registry, home: Path) -> None:
    for _ in range(3):
        trained(registry)
    for key, value in {"data_until": "2017-12-01T00:00:00+00:00", "git_revision": "c0ffee"}.items():
        registry.client.set_model_version_tag("osclms", "1", key, value)
    registry.promote("2")
    registry.prune(keep=1)
    way = (
        "bundle 1 was pruned: `osclms train --until 2017-12-01T00:00:00+00:00` by the code of git revision c0ffee "
        "makes its like, which `osclms promote VERSION --force` takes; or promote one of 2, 3"
    )
    with pytest.raises(RegistryError, match=f"^{re.escape(way)}$"):
        registry.promote("1")
    assert registry.champion() == served(home) == "2"


def test_pruning_takes_what_a_dead_training_left(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bundle was among the artifacts already, and no version names it."""
    trained(registry)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(MlflowClient, "create_model_version", fails)
        trained(registry)
    left = [
        p for p in (home / "mlruns").glob("*/artifacts/bundle") if p != artifact(registry, "1").parents[2]
    ]
    assert registry.prune() == tuple(f"removed {path}" for path in left) and len(left) == 1
    assert with_artifacts(registry) == ["1"]


def fails(*_: object, **__: object) -> None:
    raise ZeroDivisionError


PRUNING = ((MlflowClient, "set_model_version_tag"), (publish, "replace"), (shutil, "rmtree"))


@pytest.mark.parametrize("step", PRUNING, ids=lambda step: step[1])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_pruning_that_is_cut_short_leaves_whole_bundles_and_is_finished_by_the_next(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], nth: int
) -> None:
    for _ in range(4):
        trained(registry)
    registry.promote("4")
    call, calls = getattr(*step), count(1)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(*step, lambda *a, **k: fails() if next(calls) == nth else call(*a, **k))
        registry.prune(keep=2)
    for version in bundles(home):
        if not version.startswith("."):
            whole(home, version)
    for version in with_artifacts(registry):
        assert (artifact(registry, version).parents[2] / "manifest.json").exists()
    registry.repair()
    registry.prune(keep=2)
    assert bundles(home) == with_artifacts(registry) == ["3", "4"]
    assert not list(home.glob("mlruns/*/artifacts/.tmp-*"))
    with pytest.raises(RegistryError, match="bundle 1 was pruned"):
        registry.promote("1")


# The champion


def test_promotion_moves_alias_and_file_and_says_so(registry: Registry, home: Path) -> None:
    trained(registry), trained(registry)
    assert registry.promote("1") == ("alias champion: none → 1", "file champion: none → 1")
    assert registry.promote("2") == ("alias champion: 1 → 2", "file champion: 1 → 2")
    assert registry.promote("2") == ()
    assert registry.champion() == served(home) == "2"
    assert (home / "champion").read_text() == "2\n"


def test_what_the_gate_kept_back_needs_force_but_may_be_gone_back_to(registry: Registry, home: Path) -> None:
    registry.promote(trained(registry))
    trained(registry)
    registry.client.set_model_version_tag("osclms", "2", "verdict", "kept: not better")
    with pytest.raises(
        RegistryError, match=r"the gate kept version 2 back \(kept: not better\): add --force"
    ):
        registry.promote("2")
    assert registry.champion() == served(home) == "1"
    registry.promote("2", force=True)
    registry.promote(trained(registry))
    registry.previous()
    assert registry.champion() == served(home) == "2"


def test_an_unknown_version_is_refused_by_name(registry: Registry, home: Path) -> None:
    with pytest.raises(RegistryError, match="there is no version 1: train first"):
        registry.promote("1")
    trained(registry), trained(registry)
    registry.promote("1")
    for unknown in ("3", "latest", "../1", ""):
        with pytest.raises(RegistryError, match=f"there is no version {unknown}: promote one of 1, 2"):
            registry.promote(unknown)
    assert registry.champion() == served(home) == "1"


def test_a_version_without_folder_and_artifacts_leaves_the_champion_alone(
    registry: Registry, home: Path
) -> None:
    trained(registry), trained(registry)
    registry.promote("1")
    shutil.rmtree(home / "bundles" / "2")
    shutil.rmtree(home / "mlruns")
    with pytest.raises(RegistryError, match=r"bundle 2 is gone from .*: promote one of 1, 2"):
        registry.promote("2")
    assert registry.champion() == served(home) == "1"


def test_artifacts_of_another_bundle_are_not_taken(registry: Registry, home: Path) -> None:
    trained(registry)
    shutil.rmtree(home / "bundles" / "1")
    (manifest,) = (home / "mlruns").rglob("manifest.json")
    manifest.write_text('{"version": "9"}')
    with pytest.raises(RegistryError, match="is not bundle 1 but 9"):
        registry.promote("1")
    assert not (home / "bundles" / "1").exists()


def test_a_folder_left_half_copied_is_not_in_the_way(registry: Registry, home: Path) -> None:
    trained(registry)
    (home / "bundles" / "1").rename(home / "bundles" / ".tmp-1")
    (home / "bundles" / ".tmp-1" / "models" / "als" / "items.npy").unlink()
    registry.promote("1")
    assert served(home) == "1"


def test_going_back_goes_further_back_each_time(registry: Registry, home: Path) -> None:
    for _ in range(4):
        registry.promote(trained(registry))
    assert [registry.previous()[-1] for _ in range(2)] == ["file champion: 4 → 3", "file champion: 3 → 2"]
    registry.promote("4")
    registry.previous()
    assert served(home) == "2", "3 was left for 2, so it is not what came before 4"
    registry.client.delete_model_version("osclms", "1")
    with pytest.raises(RegistryError, match="there is no champion before 2: promote one of 2, 3, 4"):
        registry.previous()
    log = [json.loads(line) for line in (home / "champions.jsonl").read_text().splitlines()]
    assert [(entry["version"], entry["why"]) for entry in log[-3:]] == [
        ("2", "rolled back"),
        ("4", "promoted"),
        ("2", "rolled back"),
    ]


def test_the_file_follows_an_alias_moved_in_mlflow(registry: Registry, home: Path) -> None:
    trained(registry), trained(registry)
    registry.promote("1")
    shutil.rmtree(home / "bundles" / "2")
    registry.client.set_registered_model_alias("osclms", "champion", "2")
    assert registry.sync() == ("fetched bundle 2 from MLflow", "file champion: 1 → 2")
    assert registry.sync() == ()
    assert registry.previous() == ("alias champion: 2 → 1", "file champion: 2 → 1")


def test_an_alias_deleted_in_mlflow_comes_back_from_what_is_served(registry: Registry) -> None:
    assert registry.sync() == ()
    registry.promote(trained(registry))
    registry.client.delete_registered_model_alias("osclms", "champion")
    assert registry.sync() == ("alias champion: none → 1",)


def test_a_champion_deleted_in_mlflow_is_told_with_the_way_out(registry: Registry) -> None:
    trained(registry), trained(registry)
    registry.promote("2")
    registry.client.delete_model_version("osclms", "2")
    with pytest.raises(RegistryError, match="there is no version 2: promote one of 1"):
        registry.sync()
    registry.promote("1")
    assert registry.sync() == ()


# Crashes

STEPS = (
    (MlflowClient, "create_run"),
    (MlflowClient, "log_artifacts"),
    (MlflowClient, "create_model_version"),
    (MlflowClient, "set_registered_model_alias"),
    (MlflowClient, "set_terminated"),
    (shutil, "copytree"),
    (shutil, "copyfile"),
    (os, "link"),
    (publish, "fsync_tree"),
    (publish, "write_atomically"),
    (publish, "replace"),
)
"""What leaves a trace on the disk: owner and name of each call."""


def counting(kill_at: int) -> Callable[[], int]:
    """Wrap every step so that the process dies as the `kill_at`-th begins; returns how many have begun."""
    begun = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal begun
            begun += 1
            if begun == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return step

    for owner, name in STEPS:
        setattr(owner, name, wrap(getattr(owner, name)))
    return lambda: begun


def train(home: Path) -> None:
    trained(Registry(home))


def promote(home: Path) -> None:
    shutil.rmtree(home / "bundles" / "1", ignore_errors=True)
    Registry(home).promote("1")


def go_back(home: Path) -> None:
    Registry(home).previous()


def follow(home: Path) -> None:
    registry = Registry(home)
    shutil.rmtree(home / "bundles" / "1", ignore_errors=True)
    registry.client.set_registered_model_alias("osclms", "champion", "1")
    registry.sync()


def die(work: Callable[[Path], None], home: Path, kill_at: int, steps: Any) -> None:
    begun = counting(kill_at)
    with training_lock(home):
        work(home)
    steps.value = begun()


@pytest.fixture(scope="session")
def spawn() -> Any:
    """Children that have mlflow imported already and share nothing with this process."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["pytest", "matplotlib.figure", "training.publish"])
    return context


def steps_until_death(spawn: Any, work: Callable[[Path], None], home: Path, kill_at: int) -> int | None:
    """None: it was killed; else how many steps the whole work takes."""
    steps = spawn.Value("i", -1)
    child = spawn.Process(target=die, args=(work, home, kill_at, steps))
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return int(steps.value) if child.exitcode == 0 else None


@pytest.mark.parametrize("work", [train, promote, go_back, follow], ids=lambda work: work.__name__)
def test_whenever_it_is_killed_the_next_training_finds_order(
    work: Callable[[Path], None], spawn: Any, registry: Registry, home: Path
) -> None:
    for _ in range(2):
        registry.promote(trained(registry))
    for kill_at in range(1, 100):
        steps = steps_until_death(spawn, work, home, kill_at)
        assert served(home) in registry.versions(), "what is served is whole at every moment"
        orderly(registry)
        if steps is not None:
            assert steps == kill_at - 1 >= 4, "every step was died at"
            return
    raise AssertionError("too many steps")


def orderly(registry: Registry) -> None:
    """After a crash: repaired, agreeing, silent when asked again, and fit for work."""
    with training_lock(registry.home):
        registry.repair()
        assert registry.champion() == served(registry.home) == registry._trail()[-1]
        assert registry.repair() == ()
        assert not list(registry.bundles.glob(".tmp-*"))
        statuses = {run.info.status for run in registry.client.search_runs([registry.experiment_id])}
        assert statuses <= {"FINISHED", "KILLED"}
        registry.promote(trained(registry))


def test_a_database_half_made_is_made_anew(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db.new").write_text("half")
    (tmp_path / "mlflow.db.new-journal").write_text("half")
    monkeypatch.setattr(publish, "SqlAlchemyStore", lambda uri, root: copied(template, uri))
    create_database(tmp_path / "mlflow.db")
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]
    assert Registry(tmp_path).versions() == []


class copied:
    """Stands in for the store that makes the tables, as `template` has them."""

    def __init__(self, template: Path, uri: str) -> None:
        target = Path(uri.removeprefix("sqlite:///"))
        assert not target.exists()
        shutil.copy(template, target)
        self.engine = self

    def dispose(self) -> None: ...


# Locks


@contextmanager
def holder(home: Path) -> Iterator[int]:
    """A forked child that holds the lock; it is killed at the end, however the test ends."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with training_lock(home):
            os.write(writer, b"!")
            signal.pause()
        os._exit(1)
    try:
        assert os.read(reader, 1) == b"!"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_second_trainer_is_told_who_holds_the_lock_until_that_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        says = f"process {pid} is training and holds {tmp_path / 'training.lock'}: wait for it, or stop it"
        with pytest.raises(TrainingBusy, match=says), training_lock(tmp_path):
            pass
    assert (tmp_path / "training.lock").read_text() == f"{pid}\n", "the text of the dead is still there"
    with training_lock(tmp_path):
        assert (tmp_path / "training.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), training_lock(tmp_path):
        raise ZeroDivisionError
    with training_lock(tmp_path):
        pass


def test_a_rollback_works_during_a_training(registry: Registry, home: Path) -> None:
    for _ in range(2):
        registry.promote(trained(registry))
    with training_lock(home):
        Registry(home).previous()
    assert served(home) == "1"


def promote_often(home: Path, version: str) -> None:
    registry = Registry(home)
    for _ in range(10):
        registry.promote(version)


def test_promotions_at_the_same_time_agree(registry: Registry, home: Path, spawn: Any) -> None:
    trained(registry), trained(registry)
    children = [spawn.Process(target=promote_often, args=(home, version)) for version in "12"]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert registry.champion() == served(home) == registry._trail()[-1]


# Stock MLflow, from outside


def test_stock_mlflow_resolves_the_champion(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(registry)
    registry.promote(trained(registry))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    got = Path(download_artifacts(artifact_uri="models:/osclms@champion", dst_path=str(tmp_path / "got")))
    assert json.loads((got / "manifest.json").read_text())["version"] == "2"
    assert (got / "models" / "als" / "items.npy").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def server(registry: Registry) -> Iterator[str]:
    """`mlflow server` over the registry's database; yields its address."""
    port = free_port()
    arguments = ["--backend-store-uri", registry.uri, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *arguments],
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(address: str, process: "subprocess.Popen[str]") -> None:
    for _ in range(900):
        try:
            ask(address)
            return
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    raise AssertionError(f"{address} did not answer in 90 s")


def ask(address: str, body: dict[str, object] | None = None, **query: str) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}?{urlencode(query)}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        content: bytes = answer.read()
        return content


def test_the_mlflow_ui_shows_everything_and_can_move_the_champion(
    registry: Registry, server: str, home: Path
) -> None:
    registry.promote(trained(registry, metrics={"ndcg@10": 0.42}, artifacts={"report.md": "good"}))
    api = f"{server}/api/2.0/mlflow"
    experiment = json.loads(ask(f"{api}/experiments/get-by-name", experiment_name="osclms"))["experiment"]
    (run,) = json.loads(ask(f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]}))["runs"]
    assert run["data"]["metrics"][0]["key"] == "ndcg_at_10"
    run_id = run["info"]["run_id"]
    alias = json.loads(ask(f"{api}/registered-models/alias", name="osclms", alias="champion"))[
        "model_version"
    ]
    assert (alias["version"], alias["run_id"]) == ("1", run_id)
    listed = json.loads(ask(f"{api}/artifacts/list", run_id=run_id, path="bundle"))["files"]
    assert [file["path"] for file in listed] == ["bundle/manifest.json", "bundle/models"]
    assert ask(f"{server}/get-artifact", run_uuid=run_id, path="report.md") == b"good"

    trained(registry)
    ask(f"{api}/registered-models/alias", {"name": "osclms", "alias": "champion", "version": "2"})
    assert registry.sync() == ("file champion: 1 → 2",)
    assert served(home) == "2"
