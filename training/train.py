"""Learn, compare, audit, register, and promote what is better."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future as Running
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from features.history import History
from features.interactions import DAY, EVENT_COLUMNS, seconds
from serving.bundle import BundleError, Manifest, load_data, read_manifest, save_data, write_manifest
from serving.engine import Engine
from serving.placements import PLACEMENTS, Placement, models_in_use
from training import jobs
from training.evaluate import PRIMARY, Answers, Audit, gate_figures, index_recall
from training.gate import FIRST, REFRESHED, Check, Contest, Verdict, contest_of, decide
from training.models import RECIPES, Recipe, described, recipe_of
from training.split import AUDITS, Data, cut

if TYPE_CHECKING:
    from training.publish import Registry

T = TypeVar("T")

VALIDATION_DAYS = 30
MOST_QUESTIONS = 2_000  # a task asks at most so many in training; `osclms evaluate` asks all
COMPARED = ("popular", "habit", "als", "bpr", "hybrid", "copurchase")  # what can answer a customer by itself
SLOW_FIRST = ("hybrid", "bpr", "als", "copurchase", "complements")
SEED = 7

Say = Callable[[str, int, int], None]  # what, done, of how many


def silent(what: str, done: int, of: int) -> None:
    """Say nothing."""


class TrainError(RuntimeError):
    """Training cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Side:
    """A bundle in the making: what is learned, from what. Without `data` it lies finished in `folder`."""

    folder: Path
    until: datetime
    recipes: Mapping[str, Recipe]
    placements: Mapping[str, Placement]
    data: Data | None

    @property
    def configuration(self) -> dict[str, Any]:
        """What makes two bundles on the same data alike."""
        used = models_in_use(self.placements)
        return {
            "recipes": {name: described(r) for name, r in sorted(self.recipes.items()) if name in used},
            "placements": {name: asdict(p) for name, p in sorted(self.placements.items())},
        }


@dataclass(frozen=True)
class Outcome:
    """What a training did. `seconds` by step; `peak_mb` as `jobs.peak_mb` tells it."""

    version: str
    data_until: datetime
    cutoff: datetime
    verdict: Verdict
    recipes: dict[str, dict[str, Answers]]
    audits: list[Audit]
    recall: dict[str, float]
    fits: list[jobs.Fit]
    trained: dict[str, Recipe] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure by one name, as the manifest and MLflow keep them."""
        placed = {f"{a.name}.{name}": value for a in self.audits for name, value in a.figures.items()}
        return placed | {f"faiss.{name}.recall": value for name, value in self.recall.items()}

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "promoted": self.verdict.promote,
            "reason": self.verdict.reason,
            "data_until": self.data_until.isoformat(),
            "validation_from": self.cutoff.isoformat(),
            "recipes": recipe_dicts(self.recipes),
            "placements": as_dicts(self.audits),
            "faiss_recall_at_10": self.recall,
            "seconds": {k: round(v, 1) for k, v in self.seconds.items()},
            "peak_mb": round(self.peak_mb),
        }


def recipe_dicts(recipes: Mapping[str, Mapping[str, Answers]]) -> dict[str, Any]:
    """Recipes as JSON: NDCG of each task with its interval."""
    return {
        name: {task: vars(a.figure("ndcg", seed=SEED)) for task, a in tasks.items()}
        for name, tasks in recipes.items()
    }


def as_dicts(audits: Sequence[Audit]) -> dict[str, Any]:
    """Audits as JSON: each figure with its interval, the primary one by stage too."""
    return {
        a.name: {
            "questions": len(a.answers.task),
            "k": a.answers.task.k,
            "primary": a.primary,
            **{name: vars(i) for name, i in a.intervals.items()},
            **{name: v for name, v in a.figures.items() if name not in a.intervals},
            "by_stage": {stage: vars(i) for stage, i in a.stages.items()},
        }
        for a in audits
    }


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.at = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.at = now - self.at, now


def train(
    home: Path,
    *,
    until: datetime | None = None,
    recipes: Mapping[str, Recipe] = RECIPES,
    placements: Mapping[str, Placement] = PLACEMENTS,
    processes: int = 2,
    seed: int = SEED,
    say: Say = silent,
) -> Outcome:
    """Train on everything before `until` (the end of the data) and promote the version if the gate opens.

    Recipes are fitted on the past before the last VALIDATION_DAYS, where they are compared and every
    placement is audited; those that a placement uses are fitted once more on everything: the version.
    Raises TrainError, and TrainingBusy where another training runs.
    """
    from training.publish import Registry, training_lock  # mlflow takes seconds to import

    with training_lock(home):
        clock, history, registry = Clock(), History(home / "history"), Registry(home)
        registry.repair()
        version, code = registry.next_version(), revision()
        work = fresh(home / "staging" / "train")
        past, full, about = history.at_once(lambda pinned: read(pinned, until, work, recipes, placements))
        about["git_revision"] = code
        champion = champion_of(registry.champion(), home)
        contest, rival = rival_of(past, champion, home, code)
        making = [full, past]
        if rival is not None and rival is not past and rival.data is not None:
            making.append(rival)
        clock.lap("read")
        with jobs.workers(processes) as pool:
            fits = fit(pool, making, say)
            for side in making:
                seal(side, version=side.folder.name, metrics={}, **about)
            clock.lap("fit")
            newer = knows_no_less(full.until, champion)
            outcome = judge(pool, past, full, contest, rival, fits, also=newer, seed=seed, say=say)
            clock.lap("evaluate")
        outcome = replace(outcome, version=version, seconds=clock.seconds, peak_mb=jobs.peak_mb())
        seal(full, version=outcome.version, metrics=outcome.metrics, **about)
        publish(registry, full, outcome, about)
        clock.lap("publish")
        shutil.rmtree(work)
        return outcome


def end_of(history: History) -> datetime:
    """The first whole second after the last event."""
    span = history.span()
    if span is None:
        raise TrainError(f"{history.folder} holds no events: run `osclms load` first")
    return span[1].replace(microsecond=0) + timedelta(seconds=1)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def read(
    history: History,
    until: datetime | None,
    work: Path,
    recipes: Mapping[str, Recipe],
    placements: Mapping[str, Placement],
) -> tuple[Side, Side, dict[str, Any]]:
    """(the past that is judged, everything before `until`, what the manifests say of the data)."""
    last = end_of(history)
    end = min(until, last) if until else last
    about = {"store": history.store, "fingerprint": history.fingerprint(end)}
    past, full = map(stored, sides_of(history, end, work, recipes, placements))
    return past, full, about


def stored(side: Side) -> Side:
    """The side with its data saved in its folder and mapped from there, so that it takes no memory."""
    assert side.data is not None
    save_data(side.folder, side.data.catalog, side.data.interactions)
    return replace(side, data=Data(*load_data(side.folder, until=seconds(side.until))))


def sides_of(
    history: History,
    end: datetime,
    work: Path,
    recipes: Mapping[str, Recipe],
    placements: Mapping[str, Placement],
) -> tuple[Side, Side]:
    """(the past that is judged, everything before `end`). The past ends VALIDATION_DAYS earlier, or a quarter
    of the history earlier where that is shorter."""
    events = history.events(until=end, types=("order", "return"), columns=EVENT_COLUMNS)
    products = history.table("products")
    whole = cut(events, products, end)
    if not len(whole.interactions):
        raise TrainError(
            f"nothing that may be recommended was bought before {end.isoformat()}: see `osclms check`"
        )
    days = (seconds(end) - int(whole.interactions.at.min())) / DAY
    cutoff = (end - timedelta(days=min(VALIDATION_DAYS, days / 4))).replace(microsecond=0)
    early = cut(events, products, cutoff)
    used = {name: recipes[name] for name in recipes if name in models_in_use(placements)}
    full = Side(work / "full", end, used, placements, whole)
    return Side(work / "past", cutoff, recipes, placements, early), full


def champion_of(version: str | None, home: Path) -> Manifest | None:
    """The champion's manifest; None where there is none, or none that this version of the code understands:
    what cannot be served or fitted any more must not keep its successor out."""
    if version is None:
        return None
    try:
        manifest = read_manifest(home / "bundles" / version)
        for params in manifest.recipes.values():
            recipe_of(params)
    except (BundleError, KeyError, TypeError):
        return None
    return manifest


def rival_of(past: Side, champion: Manifest | None, home: Path, code: str) -> tuple[Contest, Side | None]:
    """What the candidate is held against on the same past.

    The champion's configuration is fitted anew where it differs. Where it is the same, the champion itself is
    the rival if it has not seen the validation days; if it has, the candidate is what it would be. Code that
    has changed since is no other configuration, but the reason names it.
    """
    if champion is None:
        return FIRST, None
    recipes = {name: recipe_of(params) for name, params in champion.recipes.items()}
    theirs = Side(past.folder.with_name("rival"), past.until, recipes, champion.placements, past.data)
    contest = contest_of(past.configuration, theirs.configuration)
    if contest is not REFRESHED:
        return contest, stored(theirs)
    was = champion.git_revision
    aside = "" if was == code else f" (its code is git revision {was}, the candidate's {code})"
    if champion.data_until > past.until:
        return replace(contest, rival=f"itself: the champion's configuration is the same{aside}"), past
    itself = replace(theirs, folder=home / "bundles" / champion.version, data=None)
    return replace(contest, rival=f"{contest.rival}{aside}"), itself


def knows_no_less(end: datetime, champion: Manifest | None) -> tuple[Check, ...]:
    """A version that ends before the champion does is for measuring, not for serving."""
    if champion is None:
        return ()
    theirs = champion.data_until
    says = f"it knows all before {end.isoformat()}, the champion all before {theirs.isoformat()}"
    return (Check(end >= theirs, says),)


def fit(pool: ProcessPoolExecutor, sides: Sequence[Side], say: Say) -> list[jobs.Fit]:
    """Fit every recipe of every side, the slow ones first."""
    wanted = [(side, name) for side in sides for name in side.recipes]
    wanted.sort(key=lambda w: SLOW_FIRST.index(w[1]) if w[1] in SLOW_FIRST else len(SLOW_FIRST))
    running = [pool.submit(jobs.fit, s.folder, n, s.recipes[n], seconds(s.until)) for s, n in wanted]
    return finished(running, "fitting recipes", say)


def finished(running: Sequence[Running[T]], what: str, say: Say) -> list[T]:
    """Results in order, telling how many are done."""
    results = []
    for done, job in enumerate(running):
        say(what, done, len(running))
        results.append(job.result())
    say(what, len(running), len(running))
    return results


def seal(side: Side, *, version: str, metrics: Mapping[str, float], **about: Any) -> Manifest:
    recipes = {name: described(recipe) for name, recipe in side.recipes.items()}
    return write_manifest(
        side.folder, version=version, data_until=side.until, recipes=recipes, placements=dict(side.placements),
        metrics=dict(metrics), **about,
    )  # fmt: skip


def judge(
    pool: ProcessPoolExecutor,
    past: Side,
    full: Side,
    contest: Contest,
    rival: Side | None,
    fits: list[jobs.Fit],
    *,
    also: tuple[Check, ...] = (),
    seed: int,
    say: Say,
) -> Outcome:
    """Compare recipes, audit every placement, and decide. The outcome has no version yet."""
    engine = Engine.load(past.folder)
    later = jobs.Later(full.folder, full.until, past.until)
    compared = [name for name in COMPARED if name in past.recipes]
    alone = [
        pool.submit(jobs.recipe_answers, past.folder, later, name, most=MOST_QUESTIONS, seed=seed)
        for name in compared
    ]
    ours = audits_of(pool, past.folder, later, seed=seed, say=say)
    enough(ours, past, full)
    theirs = ours
    if rival is not None and rival is not past:
        theirs = audits_of(pool, rival.folder, later, seed=seed, say=say)
    recipes = asked(dict(zip(compared, finished(alone, "comparing recipes", say), strict=True)))
    found = index_recall(engine, seed=seed)
    against = by_customer(recipes["popular"]["purchases"] if rival is None else primary(theirs).answers)
    candidate = by_customer(primary(ours).answers)
    both = sorted(candidate.keys() & against.keys())
    verdict = decide(
        contest,
        metric="next_best NDCG@10",
        candidate=[candidate[c] for c in both],
        rival=[against[c] for c in both],
        figures=gate_figures(ours, found, doubt=True),
        champion_figures=None if rival is None else gate_figures(theirs, {}),
        also=also,
        seed=seed,
    )
    return Outcome("", full.until, past.until, verdict, recipes, ours, found, fits, dict(past.recipes))


def audits_of(
    pool: ProcessPoolExecutor, folder: Path, later: jobs.Later, *, seed: int, say: Say
) -> list[Audit]:
    """Every row of AUDITS asked of the bundle in `folder`, in processes of their own."""
    rows = range(len(AUDITS))
    running = [pool.submit(jobs.audit, folder, later, n, most=MOST_QUESTIONS, seed=seed) for n in rows]
    return [audit for audit in finished(running, "auditing placements", say) if audit is not None]


def enough(audits: Sequence[Audit], past: Side, full: Side) -> None:
    if not any((a.placement, a.task_name) == PRIMARY for a in audits):
        raise TrainError(
            f"no customer who bought before {past.until.isoformat()} bought again before {full.until.isoformat()}, so "
            "nothing can be judged: load purchases of known customers over a longer time; see `osclms check`"
        )


def asked(recipes: Mapping[str, dict[str, Answers]]) -> dict[str, dict[str, Answers]]:
    """Without the tasks that had no question."""
    return {name: {task: a for task, a in tasks.items() if len(a.task)} for name, tasks in recipes.items()}


def primary(audits: Sequence[Audit]) -> Audit:
    return next(a for a in audits if (a.placement, a.task_name) == PRIMARY)


def by_customer(answers: Answers) -> dict[str, float]:
    """NDCG by customer id."""
    asked = (str(request.customer_id) for request in answers.task.requests)
    return dict(zip(asked, answers.values("ndcg").tolist(), strict=True))


def revision() -> str:
    """The git revision of this code, with `+` where the tree differs from it; unknown outside a checkout."""
    here = Path(__file__).parent
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],  # noqa: S607
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.stdout.strip() or "unknown"


def publish(registry: "Registry", full: Side, outcome: Outcome, about: Mapping[str, Any]) -> None:
    """A run for the training and one for each recipe, the bundle as a version, and the alias if it won."""
    from training import plots

    tags = {
        "fingerprint": about["fingerprint"], "git_revision": about["git_revision"],
        "data_until": full.until.isoformat(), "verdict": outcome.verdict.reason,
    }  # fmt: skip
    report = outcome.as_dict()
    names = {name: tasks["purchases"].figure("ndcg", seed=SEED) for name, tasks in outcome.recipes.items()}
    customers = len(outcome.recipes["popular"]["purchases"].task)
    audits = {a.name: {k: a.figures[k] for k in ("accuracy", "coverage", "filled")} for a in outcome.audits}
    run = registry.log_run(
        f"train {full.until:%Y-%m-%d}",
        params={"recipes": full.configuration["recipes"], "validation_from": outcome.cutoff.isoformat()},
        metrics=outcome.metrics,
        tags=tags,
        artifacts={
            "report.json": report,
            "recipes.png": plots.recipes_compared(
                names, metric="NDCG@10", baseline="popular", customers=customers
            ),
            "placements.png": plots.placements_audited(audits, title="Placements through the engine"),
        },
    )
    for name, recipe in outcome.trained.items():
        log_recipe(registry, name, recipe, outcome, tags, run)
    registry.register(
        full.folder, run_id=run, metrics={PRIMARY[0]: outcome.metrics[".".join(PRIMARY) + ".ndcg"]}, tags=tags
    )
    if outcome.verdict.promote:
        registry.promote(outcome.version)
    registry.prune()


def log_recipe(
    registry: "Registry", name: str, recipe: Recipe, outcome: Outcome, tags: Mapping[str, Any], parent: str
) -> None:
    """A recipe's params, CPU seconds, figures and a plot of them."""
    from training import plots

    spent = [f.cpu for f in outcome.fits if f.name == name]
    metrics = {"fit_cpu_seconds": max(spent, default=0.0)}
    artifacts = {}
    for task, answers in outcome.recipes.get(name, {}).items():
        metrics |= {
            f"{task}.{metric}": float(answers.values(metric).mean())
            for metric in ("ndcg", "recall", "hit_rate")
        }
        artifacts[f"{task}.png"] = plots.hits_by_rank(answers.hits, recipe=name)
    registry.log_run(
        name, params=described(recipe), metrics=metrics, tags={**tags, "recipe": name}, artifacts=artifacts,
        parent=parent, seconds=sum(spent),
    )  # fmt: skip
