"""The project beside its rivals: the same windows, the same questions, the same figures."""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import learners
from benchmarks.rivals import (
    ALL,
    BASKET,
    NEXT,
    NOVEL,
    SEARCHES,
    WITH_CUSTOMER,
    Cache,
    Files,
    Params,
    Run,
    Search,
    asked_by,
    digest_of,
    versions,
)
from features.catalog import Catalog, level
from features.history import History, Store
from serving.bundle import Bundle, Manifest, read_manifest, save_data
from training import jobs
from training.evaluate import Answers, Audit
from training.intervals import Interval, clustered_interval
from training.models.hybrid import by_code, item_features
from training.split import AUDITS, Data, Future, Row, Task, known, sampled
from training.train import MOST_QUESTIONS, SEED, Say, finished, revision, silent

ROWS: Mapping[str, Row] = {name: row for row in AUDITS if (name := f"{row.placement}.{row.task}") in ALL}
# What is told of a task; the first decides which trial is best.
FIGURES: Mapping[str, tuple[str, ...]] = {
    NEXT: ("ndcg", "recall"),
    NOVEL: ("ndcg",),
    BASKET: ("hit_rate",),
    WITH_CUSTOMER: ("hit_rate",),
}
OWN = "OSCLMS"
TRIALS = 8
LEVELS = 3
EVERY = 10**9
Intervals = dict[str, Interval]


class QualityError(RuntimeError):
    """Nothing can be measured; the message says what to do."""


# --- a window: what was known, and what came after ------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Questions about the days after a past, for us as tasks and for learners as files."""

    start: datetime
    end: datetime
    bundle: Bundle
    future: Future
    tasks: dict[str, Task]
    files: Files


def window_of(
    past: Data, later: Data, start: datetime, end: datetime, folder: Path, *, most: int | None = None
) -> Window:
    """At most so many questions of each task, drawn as a training draws them."""
    bundle = unfitted(past, start)
    future = Future.of(bundle, later, start, end)
    made = {name: row.make(bundle, future) for name, row in ROWS.items()}
    tasks = {name: task if most is None else sampled(task, most, seed=SEED) for name, task in made.items()}
    if not len(tasks[NEXT]):
        raise QualityError(
            f"no customer who bought before {start:%Y-%m-%d} bought again before {end:%Y-%m-%d}: choose other windows"
        )
    return Window(start, end, bundle, future, tasks, written(past, tasks, bundle, folder))


def unfitted(past: Data, until: datetime) -> Bundle:
    """A bundle without models: enough to ask questions of its future."""
    about = Manifest(
        version="", data_until=until, store=Store(), recipes={}, placements={}, fingerprint="", git_revision="",
        metrics={}, files={},
    )  # fmt: skip
    return Bundle(about, past.catalog, past.interactions, {})


def written(past: Data, tasks: Mapping[str, Task], bundle: Bundle, folder: Path) -> Files:
    """Files by which learners know a past and are asked."""
    folder.mkdir(parents=True, exist_ok=True)
    learners.save(arrays_of(past), folder / "past.npz")
    for name, task in tasks.items():
        learners.save(questions_of(name, task, bundle), folder / f"{name}.npz")
    content = b"".join((folder / f"{name}.npz").read_bytes() for name in ("past", *tasks))
    return Files(folder, digest_of(content))


def arrays_of(past: Data) -> learners.Past:
    data, catalog = past.interactions, past.catalog
    sizes = np.array([len(data.customers), len(data.orders), len(data.items)])
    features = item_features(catalog, np.bincount(data.item, minlength=len(data.items)) > 0)
    return learners.Past(
        data.customer, data.order, data.item, data.age(), data.quantity, data.paid, sizes, catalog.available,
        levels_of(catalog), features.data, features.indices, features.indptr,
    )  # fmt: skip


def levels_of(catalog: Catalog) -> np.ndarray:
    """A code for each of the first levels of each item's category path, −1 where it has none."""
    paths = catalog.categories
    names = [
        [level(path, depth) if path.count(" > ") >= depth - 1 else None for path in paths]
        for depth in range(1, LEVELS + 1)
    ]
    return np.column_stack([by_code(found, catalog.category) for found in names])


def questions_of(name: str, task: Task, bundle: Bundle) -> learners.Questions:
    """A stranger is asked for where the request names no customer."""
    held = [bundle.catalog.items.positions(request.product_ids) for request in task.requests]
    held = [np.unique(row[row >= 0]) for row in held]
    named = np.array([request.customer_id is not None for request in task.requests], bool)
    ends = np.cumsum([0, *(len(row) for row in held)])
    indices = np.concatenate([*held, np.empty(0, np.int32)])
    who = np.where(named, task.customer, -1)
    return learners.Questions(who, ends, indices, np.array(task.k), np.array(name != NOVEL))


# --- rivals -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reached:
    """What one came to in one task. `tune`, `test`: a figure's interval by metric; `answers`: those of the test."""

    tune: Intervals
    test: Intervals
    answers: Answers
    params: Params = field(default_factory=dict)
    trials: int = 0
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    search: Search
    params: Params
    run: Run


@dataclass(frozen=True)
class Competitor:
    name: str
    library: str
    reached: dict[str, Reached]


def figures(answers: Answers, task: str) -> Intervals:
    return {metric: answers.figure(metric, seed=SEED) for metric in FIGURES[task]}


def compete(
    searches: Sequence[Search],
    tune: Window,
    test: Window,
    cache: Cache,
    *,
    trials: int,
    processes: int = 1,
    say: Say = silent,
) -> list[Competitor]:
    """Every rival at its best: chosen on the tuning window task by task, then fitted once for the test."""
    plan = [
        (search, params, search.tasks) for search in searches for params in search.trials(trials, seed=SEED)
    ]
    runs = run_all(plan, tune, cache, processes, "tuning rivals", say)
    tried = [Trial(search, params, run) for (search, params, _), run in zip(plan, runs, strict=True)]
    best = {(name, task): best_of(tried, name, task, tune) for name, task in contests(searches, (tune, test))}
    won = [t for t in tried if t in best.values()]
    again = [(t.search, t.params, tuple(task for (_, task), b in best.items() if b is t)) for t in won]
    finals = run_all(again, test, cache, processes, "rivals in the test", say)
    found: dict[str, dict[str, Reached]] = {}
    for (name, task), first in best.items():
        reached = reached_by(first, finals[won.index(first)], task, tune, test)
        found.setdefault(name, {})[task] = replace(
            reached, trials=sum(t.search is first.search for t in tried)
        )
    libraries = {s.name: s.library for s in searches}
    return [Competitor(name, libraries[name], tasks) for name, tasks in found.items()]


def run_all(
    plan: Sequence[tuple[Search, Params, tuple[str, ...]]],
    window: Window,
    cache: Cache,
    processes: int,
    what: str,
    say: Say,
) -> list[Run]:
    """Every setting of the plan asked its tasks about a window, so many processes at once."""
    runs = []
    with ThreadPoolExecutor(processes) as pool:
        waiting = [pool.submit(cache.run, s, params, window.files, tasks) for s, params, tasks in plan]
        try:
            for done, job in enumerate(waiting):
                say(what, done, len(plan))
                runs.append(job.result())
        finally:
            pool.shutdown(cancel_futures=True)
    say(what, len(plan), len(plan))
    return runs


def contests(searches: Sequence[Search], windows: Sequence[Window]) -> Iterator[tuple[str, str]]:
    """(rival, task) for all that it can answer, of what every window asks."""
    tasks = [task for task in ALL if all(len(window.tasks[task]) for window in windows)]
    names = dict.fromkeys(s.name for s in searches)
    return ((n, task) for n in names for task in tasks if any(s.name == n for s in asked_by(searches, task)))


def best_of(tried: Sequence[Trial], name: str, task: str, tune: Window) -> Trial:
    """The trial with the highest first figure, the earliest of equals."""
    own = [t for t in tried if t.search.name == name and task in t.search.tasks]
    means = [answered(t.run, task, tune).values(FIGURES[task][0]).mean() for t in own]
    return own[int(np.argmax(means))]


def answered(run: Run, task: str, window: Window) -> Answers:
    return Answers(window.tasks[task], run.lists(task))


def reached_by(best: Trial, final: Run, task: str, tune: Window, test: Window) -> Reached:
    first, answers = answered(best.run, task, tune), answered(final, task, test)
    params = {**best.search.fixed, **best.params}
    return Reached(figures(first, task), figures(answers, task), answers, params, cost=final.cost)


# --- the project ----------------------------------------------------------------------------------------------


def version_until(home: Path, until: datetime) -> Path:
    """The newest bundle that was trained on all before this moment."""
    folders = sorted((p for p in (home / "bundles").glob("[0-9]*")), key=lambda p: int(p.name), reverse=True)
    for folder in folders:
        if read_manifest(folder).data_until == until:
            return folder
    raise QualityError(
        f"no version in {home} ends at {until:%Y-%m-%d}: `osclms train --until {until:%Y-%m-%d}` first, or add --train"
    )


def audits_of(
    folder: Path, window: Window, whole: Data, work: Path, *, processes: int = 1, say: Say = silent
) -> list[Audit]:
    """What the engine answers to every question of the window, `whole` being all that was known at its end."""
    later = jobs.Later(work, window.end, window.start)
    save_data(later.folder, whole.catalog, whole.interactions)
    rows = [n for n, row in enumerate(AUDITS) if row in ROWS.values()]
    with jobs.workers(processes) as pool:
        running = [pool.submit(jobs.audit, folder, later, n, most=EVERY, seed=SEED) for n in rows]
        return [found for found in finished(running, "asking the project", say) if found is not None]


def project(
    version: str, audits: Sequence[Audit], recorded: Mapping[str, Intervals], test: Window
) -> Competitor:
    """The engine's answers in the test window, and what its training recorded of the tuning window."""
    found = {}
    for made in audits:
        if list(made.answers.task.requests) != list(test.tasks[made.name].requests):
            raise QualityError(f"{made.name} asks version {version} otherwise than the rivals: train it anew")
        figured = figures(made.answers, made.name)
        found[made.name] = Reached(recorded.get(made.name, {}), figured, made.answers)
    return Competitor(OWN, version, found)


def recorded_of(report: Mapping[str, Any], tune_until: datetime, until: datetime) -> dict[str, Intervals]:
    """What a training measured on the days from `tune_until` to `until`; nothing where it judged by other days."""
    judged = (report.get("validation_from"), report.get("data_until"))
    if judged != (tune_until.isoformat(), until.isoformat()):
        return {}
    placed = report["placements"]
    return {
        task: {metric: Interval(**placed[task][metric]) for metric in metrics}
        for task, metrics in FIGURES.items()
        if task in placed
    }


# --- all of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Everybody in the same windows, the project first. `about`: under which circumstances."""

    own: Competitor
    rivals: list[Competitor]
    about: dict[str, Any]

    def ahead(self, rival: Competitor, task: str) -> Interval:
        """The project's first figure less the rival's, question by question."""
        ours, theirs = (c.reached[task].answers for c in (self.own, rival))
        metric = FIGURES[task][0]
        return clustered_interval(ours.values(metric) - theirs.values(metric), ours.task.customer, seed=SEED)

    def as_dict(self) -> dict[str, Any]:
        return {**self.about, "results": [self.told(c) for c in (self.own, *self.rivals)]}

    def told(self, one: Competitor) -> dict[str, Any]:
        tasks = {
            task: {
                "settings": r.params,
                "trials": r.trials,
                "tune": {m: asdict(i) for m, i in r.tune.items()},
                "test": {m: asdict(i) for m, i in r.test.items()},
                "project_ahead": asdict(self.ahead(one, task)) if one is not self.own else None,
                **r.cost,
            }
            for task, r in one.reached.items()
        }
        return {"name": one.name, "library": one.library, "tasks": tasks}


def compare(
    home: Path,
    tune_until: datetime,
    until: datetime,
    end: datetime,
    *,
    searches: Sequence[Search] = SEARCHES,
    trials: int = TRIALS,
    processes: int = 1,
    say: Say = silent,
) -> Comparison:
    from training.publish import Registry  # mlflow takes seconds to import

    if not tune_until < until < end:
        raise QualityError("the windows must follow each other: --tune-until before --until before --end")
    folder, cache = version_until(home, until), Cache(home / "quality" / "runs")
    now, before, whole = History(home / "history").at_once(
        lambda history: (known(history, until), known(history, tune_until), known(history, end))
    )
    tune = window_of(before, now, tune_until, until, home / "quality" / "tune", most=MOST_QUESTIONS)
    test = window_of(now, whole, until, end, home / "quality" / "test")
    rivals = compete(searches, tune, test, cache, trials=trials, processes=processes, say=say)
    audits = audits_of(folder, test, whole, home / "quality" / "later", processes=processes, say=say)
    manifest = read_manifest(folder)
    report = Registry(home).report(manifest.version)
    own = project(manifest.version, audits, recorded_of(report, tune_until, until), test)
    return Comparison(own, rivals, about_of(manifest, report, tune, test, searches, trials))


def about_of(
    manifest: Manifest,
    report: Mapping[str, Any],
    tune: Window,
    test: Window,
    searches: Sequence[Search],
    trials: int,
) -> dict[str, Any]:
    return {
        "tune": [tune.start.isoformat(), tune.end.isoformat()],
        "test": [test.start.isoformat(), test.end.isoformat()],
        "questions": {task: [len(tune.tasks[task]), len(test.tasks[task])] for task in ALL},
        "store": manifest.store.name,
        "fingerprint": manifest.fingerprint,
        "customers": len(test.bundle.interactions.customers),
        "products": len(test.bundle.catalog),
        "trials": trials,
        "revision": revision(),
        "version": {"version": manifest.version, "revision": manifest.git_revision},
        "training": {"seconds": sum(report.get("seconds", {}).values()), "peak_mb": report.get("peak_mb")},
        "machine": machine(),
        "libraries": versions(searches),
    }


def machine() -> str:
    """Cores and their kind, nothing else of where this runs."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{os.cpu_count()} cores of {named[1].strip() if named else platform.machine()}"
