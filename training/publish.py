"""Where runs are recorded and bundles become versions: MLflow on SQLite, and the files that serving reads.

The one file that imports mlflow. Everything lives below one folder, `$OSCLMS_HOME`:

    mlflow.db, mlruns/     runs, model versions, the alias `champion`, and the artifacts: the truth
    bundles/<version>/     a version's artifacts, whole or absent: what serving opens
    cards/<version>.html   a version's model card, for people
    champions.jsonl        who was champion, when and why: what `previous` reads
    champion               the version to serve: what serving reads at start; follows the alias
    challenges.jsonl       which versions were served beside it, to whom, when (`serving.challenge`)
    scores/<version>/      customers' fitted scores, and `scores/current`, which names those to tell

A file of a bundle and its artifact are one file by two names where the file system can: no file in either
place is ever written to again.

A promotion takes four steps, each of them atomic: folder, log, alias, file. Whichever a crash comes
after, `sync` finishes or takes back what was begun: the alias decides, the log and the file follow it.
"""

import json
import math
import os
import re
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from serving.challenge import FILE as CHALLENGES
from serving.challenge import Challenge, answering, challenges, running
from serving.engine import Engine
from serving.placements import FILE as PLACEMENTS

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
with warnings.catch_warnings():
    # mlflow 3.17 maps its tables with a loader that SQLAlchemy 2.1 deprecates.
    warnings.filterwarnings("ignore", "The ``noload`` loader", DeprecationWarning)
    from mlflow import MlflowClient, MlflowException
    from mlflow.artifacts import download_artifacts
    from mlflow.entities import Metric, Param
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

NAME = "osclms"  # of the experiment and of the registered model
CHAMPION = "champion"  # of the alias and of the file
VERDICT = "verdict"  # the tag of a version that holds what the gate said
PRUNED = "pruned"  # the tag of a version whose bundle was removed
CARDS = "cards"
ARTIFACT = "bundle"  # the folder of a run's artifacts that holds the bundle
LONGEST_PARAM = 5_000  # characters; MLflow cuts at 6,000 without a word
LOCK_SECONDS = 300.0


class RegistryError(Exception):
    """The registry cannot do that; the message says what to do instead."""


class TrainingBusy(RegistryError):
    """Another process is training in this home."""


class Drawing(Protocol):
    """What a matplotlib Figure can do; named here so that publishing need not import matplotlib."""

    def savefig(self, fname: Path, /) -> None: ...


Artifact = str | Path | Mapping[str, object] | list[object] | Drawing


@contextmanager
def training_lock(home: Path) -> Iterator[None]:
    """One trainer at a time. The operating system holds the lock: however the process ends, it is free again.

    The pid in the file only tells people whom to ask; left over from a dead process it holds nothing.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "training.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingBusy(
            f"process {path.read_text().strip() or '?'} is training and holds {path}: wait for it, or stop it"
        ) from None
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


class Registry:
    """Runs, versions and the champion of one home folder.

    What changes versions or the champion takes `registry.lock` for its short while, apart from the training
    lock: a champion can be rolled back during a training.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.bundles = self.home / "bundles"
        self.bundles.mkdir(parents=True, exist_ok=True)
        self._database = self.home / "mlflow.db"
        self._lock = FileLock(self.home / "registry.lock", timeout=LOCK_SECONDS)
        with self._lock:
            create_database(self._database)
            self.client = MlflowClient(self.uri, self.uri)
            self.experiment_id = self._experiment()
            self._registered_model()

    @property
    def uri(self) -> str:
        """For `mlflow ui --backend-store-uri`."""
        return f"sqlite:///{self._database}"

    # Runs

    def log_run(
        self,
        name: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, object] | None = None,
        artifacts: Mapping[str, Artifact] | None = None,
        parent: str | None = None,
        seconds: float = 0.0,
    ) -> str:
        """Record a finished run in one call and return its id.

        `artifacts` maps a path to what to store there: text, a dict or list as JSON, a file, or a figure.
        `seconds` is how long the work took. Names lose what MLflow refuses: ndcg@10 becomes ndcg_at_10. A
        param too long for MLflow is cut; all of them are then whole in the artifact params.json.
        """
        _check_finite(metrics or {})
        labels = {_key(key): str(value) for key, value in (tags or {}).items()}
        if parent:
            labels["mlflow.parentRunId"] = parent
        began = _now_ms() - round(1000 * seconds)
        run_id: str = self.client.create_run(self.experiment_id, began, labels, name).info.run_id
        try:
            self._fill_run(run_id, params or {}, metrics or {}, artifacts or {})
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id)
        return run_id

    def add_to_run(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        artifacts: Mapping[str, Artifact] | None = None,
    ) -> None:
        """What was learned after a run was recorded, such as by its children."""
        _check_finite(metrics or {})
        self._fill_run(run_id, {}, metrics or {}, artifacts or {})

    def _fill_run(
        self,
        run_id: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        artifacts: Mapping[str, Artifact],
    ) -> None:
        texts = {_key(key): str(value) for key, value in params.items()}
        self.client.log_batch(
            run_id,
            [Metric(_key(key), float(value), _now_ms(), 0) for key, value in metrics.items()],
            [Param(key, _shorten(text)) for key, text in texts.items()],
        )
        if any(len(text) > LONGEST_PARAM for text in texts.values()):
            artifacts = {**artifacts, "params.json": dict(params)}
        if artifacts:
            self._log_artifacts(run_id, artifacts)

    def _log_artifacts(self, run_id: str, artifacts: Mapping[str, Artifact]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in artifacts.items():
                _write_artifact(Path(folder, path), content)
            self.client.log_artifacts(run_id, folder)

    # Versions

    def versions(self) -> list[str]:
        """Every version of the registry, oldest first."""
        return list(self._versions())

    def next_version(self) -> str:
        """The number that the next `register` will get; stays the same until then."""
        version = str(self._highest_version() + 1)
        if (folder := self.bundles / version).exists():
            raise RegistryError(
                f"{folder} exists, but {self._database} knows no version {version}: "
                f"restore the database that made it, or move {self.bundles} away"
            )
        return version

    def register(
        self,
        folder: Path,
        *,
        run_id: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> str:
        """Make the bundle in `folder` a version: its manifest must name `next_version()`.

        After a crash call it again with the same folder and run, or train again: a bundle folder is whole or
        absent, and a version whose folder is missing gets it from its artifacts when promoted.
        """
        version = bundle_version(folder)
        _check_finite(metrics or {})
        with self._lock:
            known = self._versions().get(version)
            if known is None or known.run_id != run_id:
                self._create_version(folder, version, run_id, {**(metrics or {}), **(tags or {})})
            self._fetch(version)
        return version

    def _create_version(self, folder: Path, version: str, run_id: str, tags: Mapping[str, object]) -> None:
        if version != (expected := self.next_version()):
            raise RegistryError(
                f"the bundle in {folder} says version {version}, the next one here is {expected}: train again"
            )
        self.client.log_artifacts(run_id, str(folder), ARTIFACT)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        fsync_tree(Path(download_artifacts(artifact_uri=source)))
        self.client.create_model_version(NAME, source, run_id, {_key(k): _tag(v) for k, v in tags.items()})

    def prune(self, keep: int = 5) -> tuple[str, ...]:
        """Remove the bundles, folder and artifacts, of all versions but the champion, the two before it and the
        `keep` newest; of trainings that died before theirs became a version, too. Says what it removed.

        Runs and figures stay, and with them what it takes to train such a version again.
        """
        with self._lock:
            known = self._versions()
            kept = {*self._trail()[-3:], *list(known)[-keep:], self.champion(), self._served()}
            kept |= {found.version} if (found := running(self.home)) else set()
            for version in known.keys() - kept:
                if PRUNED not in known[version].tags:
                    self.client.set_model_version_tag(NAME, version, PRUNED, "true")
            runs = {known[version].run_id for version in kept if version in known}
            folders = [p for p in _folders(self.bundles) if p.name not in kept and not p.name.startswith(".")]
            artifacts = [p for p in self._artifacts(ARTIFACT) if p.parent.parent.name not in runs]
            for folder in (*folders, *artifacts):
                _remove(folder)
        return tuple(f"removed {folder}" for folder in (*folders, *artifacts))

    def _artifacts(self, name: str) -> list[Path]:
        """What has this name among the artifacts of any run."""
        return sorted((self.home / "mlruns").glob(f"*/artifacts/{name}"))

    def keep_card(self, version: str, page: str) -> None:
        """Lay a version's model card where people find it."""
        cards = self.home / CARDS
        cards.mkdir(exist_ok=True)
        write_atomically(cards / f"{version}.html", page)

    def report(self, version: str) -> dict[str, Any]:
        """What the version's training wrote to its run; empty where there is no such file."""
        run = self.client.get_run(str(self._known(version).run_id))
        try:
            path = download_artifacts(artifact_uri=f"{run.info.artifact_uri}/report.json")
        except (MlflowException, OSError):
            return {}
        return dict(json.loads(Path(path).read_text()))

    def keep_scores(self, folder: Path, keep: int = 5) -> Path:
        """Move fitted scores to where serving finds them, by the version that their manifest names, and point at them;
        the newest so many stay. Readers have the ones before or these."""
        scores = self.home / "scores"
        target = scores / bundle_version(folder)
        with self._lock:
            scores.mkdir(exist_ok=True)
            fsync_tree(folder)
            replace(folder, target)
            write_atomically(scores / "current", f"{target.name}\n")
            for old in sorted(scores.glob("[0-9]*"), key=lambda p: int(p.name))[:-keep]:
                _remove(old)
        return target

    # The champion

    def champion(self) -> str | None:
        """The version that the alias names: the truth, which the file follows."""
        version = self.client.get_registered_model(NAME).aliases.get(CHAMPION)
        return None if version is None else str(version)

    def promote(self, version: str, *, force: bool = False) -> tuple[str, ...]:
        """Make this version the champion, fetching its bundle where that is missing. Says what changed.

        A version that the gate kept back, as its tag `verdict` says, needs `force`.
        """
        verdict = self._known(version).tags.get(VERDICT, "")
        if verdict.startswith("kept") and not force:
            raise RegistryError(
                f"the gate kept version {version} back ({verdict}): add --force to promote it"
            )
        with self._lock:
            return self._crown(version, "promoted")

    def previous(self) -> tuple[str, ...]:
        """Go back to the champion before this one; again, and further back. Says what changed."""
        with self._lock:
            synced = self.sync()
            known = self._versions()
            earlier = [version for version in self._trail()[:-1] if version in known]
            if not earlier:
                raise RegistryError(f"there is no champion before {self.champion()}: {self._way_out()}")
            return (*synced, *self._crown(earlier[-1], "rolled back"))

    def challenge(self, version: str, share: float, seed: int | None = None) -> Challenge:
        """Serve this version beside the champion to a share of the customers from now on, fetching its bundle where it
        is missing; what ran is over. Without a seed each challenge draws anew.

        Raises RegistryError for a version that there is not or that is the champion, BundleError for one that does not
        answer what the champion does. What policies name is looked for by who serves it, in the catalogue as it is.
        """
        with self._lock:
            champion, before = self._served(), challenges(self.home)
            if champion is None or version == champion:
                raise RegistryError(f"version {version} is the champion: name another to hold against it")
            if not (self.bundles / version).exists():
                self._fetch(version)
            theirs = Engine.load(self.bundles / champion, placements=self.home / PLACEMENTS).placements
            answering(Engine.load(self.bundles / version, placements=self.home / PLACEMENTS), theirs)
            made = Challenge(
                version=version, champion=champion, share=share, since=datetime.now(UTC),
                seed=len(before) + 1 if seed is None else seed,
            )  # fmt: skip
            self._write_challenges([*over(before, made.since), made])
        return made

    def end_challenge(self) -> bool:
        """The champion answers all again; whether anything ran."""
        with self._lock:
            before = challenges(self.home)
            after = over(before, datetime.now(UTC))
            self._write_challenges(after)
        return after != before

    def _write_challenges(self, rows: Sequence[Challenge]) -> None:
        lines = (row.model_dump_json(exclude_none=True) for row in rows)
        write_atomically(self.home / CHALLENGES, "".join(f"{line}\n" for line in lines))

    def sync(self) -> tuple[str, ...]:
        """Let the log and the file follow the alias, moved in MLflow or left by a crash. Says what changed.

        Where the alias is gone, what is served gets it back: a service never loses its champion.
        """
        with self._lock:
            champion = self.champion() or self._served()
            return () if champion is None else self._crown(champion, "synchronised")

    def repair(self) -> tuple[str, ...]:
        """Clear up after trainers that died, and `sync`. Call it first, and only under the training lock."""
        with self._lock:
            leftovers = [*sorted(self.bundles.glob(".tmp-*")), *self._artifacts(".tmp-*")]
            for folder in leftovers:
                shutil.rmtree(folder)
            dead = self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'")
            for run in dead:
                self.client.set_terminated(run.info.run_id, "KILLED")
            swept = [f"removed {folder}, left half-way" for folder in leftovers]
            ended = [f"marked run {run.info.run_id} as killed" for run in dead]
            return (*swept, *ended, *self.sync())

    def _crown(self, version: str, why: str) -> tuple[str, ...]:
        """Folder, log, alias, file, in this order; each is skipped where it already says so."""
        done = []
        if self._fetch(version):
            done.append(f"fetched bundle {version} from MLflow")
        if self._trail()[-1:] != [version]:
            self._remember(version, why)
        if (before := self.champion()) != version:
            self.client.set_registered_model_alias(NAME, CHAMPION, version)
            done.append(f"alias {CHAMPION}: {before or 'none'} → {version}")
        if (before := self._served()) != version:
            write_atomically(self.home / CHAMPION, f"{version}\n")
            done.append(f"file {CHAMPION}: {before or 'none'} → {version}")
        return tuple(done)

    def _fetch(self, version: str) -> bool:
        """Put the version's artifacts into its bundle folder, unless that is there. True where it was not."""
        known = self._known(version)
        folder, half = self.bundles / version, self.bundles / f".tmp-{version}"
        if folder.exists():
            return False
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(self._bundle_of(known), half, copy_function=link)
        if bundle_version(half) != version:
            raise RegistryError(
                f"{known.source} is not bundle {version} but {bundle_version(half)}: {self._way_out()}"
            )
        fsync_tree(half)
        replace(half, folder)
        return True

    def _bundle_of(self, known: ModelVersion) -> str:
        """The folder of the version's artifacts."""
        try:
            return str(download_artifacts(artifact_uri=known.source))
        except MlflowException as error:
            version, tags = known.version, known.tags
            if PRUNED not in tags:
                raise RegistryError(
                    f"bundle {version} is gone from {known.source}: {self._way_out()}"
                ) from error
            until, code = tags.get("data_until", "DATE"), tags.get("git_revision", "unknown")
            raise RegistryError(
                f"bundle {version} was pruned: `osclms train --until {until}` by the code of git revision {code} "
                f"makes its like, which `osclms promote VERSION --force` takes; or {self._way_out()}"
            ) from error

    # What the stores say

    def _known(self, version: str) -> ModelVersion:
        if found := self._versions().get(version):
            return found
        raise RegistryError(f"there is no version {version}: {self._way_out()}")

    def _way_out(self) -> str:
        known = ", ".join(v for v, found in self._versions().items() if PRUNED not in found.tags)
        return (
            f"promote one of {known}"
            if known
            else f"train first, or delete {self.home / CHAMPION} to start anew"
        )

    def _versions(self) -> dict[str, ModelVersion]:
        found = self.client.search_model_versions(f"name = '{NAME}'")
        return {str(v.version): v for v in sorted(found, key=lambda v: int(v.version))}

    def _highest_version(self) -> int:
        # MLflow hides deleted versions from every search, but counts on after them.
        with closing(sqlite3.connect(self._database)) as database:
            query = "SELECT coalesce(max(version), 0) FROM model_versions WHERE name = ?"
            return int(database.execute(query, [NAME]).fetchone()[0])

    def _served(self) -> str | None:
        path = self.home / CHAMPION
        return path.read_text().strip() if path.exists() else None

    def _trail(self) -> list[str]:
        """The champions, oldest first, this one last. One that comes back takes off those after it."""
        trail: list[str] = []
        for line in self._log().splitlines():
            version = json.loads(line)["version"]
            trail = [*trail[: trail.index(version)], version] if version in trail else [*trail, version]
        return trail

    def _remember(self, version: str, why: str) -> None:
        entry = {"version": version, "why": why, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        # Written anew each time: a line cut off by a crash would make the log unreadable.
        write_atomically(self.home / "champions.jsonl", f"{self._log()}{json.dumps(entry)}\n")

    def _log(self) -> str:
        path = self.home / "champions.jsonl"
        return path.read_text() if path.exists() else ""

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(NAME)
        if found is None:
            created: str = self.client.create_experiment(NAME, (self.home / "mlruns").as_uri())
            return created
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _registered_model(self) -> None:
        if not self.client.search_registered_models(f"name = '{NAME}'"):
            self.client.create_registered_model(NAME)


def create_database(path: Path) -> None:
    """MLflow's tables in a new SQLite file, unless there is one; whole or absent. Takes some seconds."""
    if path.exists():
        return
    for leftover in path.parent.glob(f"{path.name}.new*"):
        leftover.unlink()
    getLogger("mlflow.store.db.utils").setLevel(WARNING)  # it announces each new database on stderr
    fresh = path.with_name(f"{path.name}.new")
    store = SqlAlchemyStore(f"sqlite:///{fresh}", (path.parent / "mlruns").as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()
    replace(fresh, path)


def bundle_version(folder: Path) -> str:
    """What the manifest in this folder says."""
    path = folder / "manifest.json"
    if not path.exists():
        raise RegistryError(f"{path} is missing: {folder} is no bundle")
    return str(json.loads(path.read_text())["version"])


def over(rows: Sequence[Challenge], at: datetime) -> list[Challenge]:
    """The same challenges, of which none runs any more."""
    return [row if row.until else row.model_copy(update={"until": at}) for row in rows]


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old text or the new, also after a power cut."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    _fsync(fresh)
    replace(fresh, path)


def replace(source: Path, target: Path) -> None:
    """Rename, and see to it that the name is on the disk."""
    source.replace(target)
    _fsync(target.parent)


def link(source: str, target: str) -> str:
    """The same file by a second name, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def fsync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _remove(folder: Path) -> None:
    """Out of sight in one step, so that a folder half-removed never looks like a bundle."""
    hidden = folder.with_name(f".tmp-{folder.name}")
    replace(folder, hidden)
    shutil.rmtree(hidden)


def _write_artifact(path: Path, content: Artifact) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match content:
        case str():
            path.write_text(content)
        case Path():
            shutil.copyfile(content, path)
        case Mapping() | list():
            path.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False))
        case _:
            content.savefig(path)


def _check_finite(metrics: Mapping[str, float]) -> None:
    broken = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise RegistryError(
            f"{', '.join(broken)}: a metric must be a finite number; leave out what was not measured"
        )


def _key(name: str) -> str:
    """MLflow takes letters, digits and /_-.: in a name."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))


def _tag(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_PARAM else f"{text[:LONGEST_PARAM]}… (whole in params.json)"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
