"""Learn, compare, audit, register, and promote what is better."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures import Future as Running
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from features.history import History
from features.interactions import DAY, seconds
from features.pairs import Tallies
from serving.bundle import (
    Bundle,
    BundleError,
    Manifest,
    load_data,
    read_manifest,
    save_data,
    write_manifest,
)
from serving.engine import Engine
from serving.placements import PLACEMENTS, Placement, models_in_use
from serving.ranker import PUBLISHED, RANKED, RANKED_SUFFIX, columns_for, has_ranker, is_published, ranked_by
from training import jobs
from training.card import PAGE, Card, card_html, examples_of, former_of, results_of
from training.defaults import defaults
from training.drift import drift
from training.evaluate import PRIMARY, Answers, Audit, gate_figures, index_recall
from training.gate import FIRST, REFRESHED, Check, Contest, Verdict, contest_of, decide
from training.insight import inspect
from training.models import Recipe, described, recipe_of
from training.rank import Ranking, label_cutoffs
from training.settings import Settings, read_settings, with_settings
from training.split import AUDITS, Data, cut, cut_short

if TYPE_CHECKING:
    from training.publish import Registry

T = TypeVar("T")

VALIDATION_DAYS = 30
MOST_QUESTIONS = 2_000  # a task asks at most so many in training; `osclms evaluate` asks all
# What can answer a customer by itself.
COMPARED = ("popular", "habit", "rhythm", "als", "bpr", "hybrid", "item_knn", "copurchase")
SLOW_FIRST = ("hybrid", "bpr", "als", "copurchase", "complements")
CHUNK = 1_000  # customers that a process ranks ahead at a time
SEED = 7
SHORT, FEW = 0.4, 3

Say = Callable[[str, int, int], None]  # what, done, of how many


def silent(what: str, done: int, of: int) -> None:
    """Say nothing."""


class TrainError(RuntimeError):
    """Training cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Side:
    """A bundle in the making: what is learned, from what. Without `data` it lies finished in `folder`.

    tallies: what all customers say of each item, where `data` says less. short: whether `data` is of some
    customers' last orders alone, and nobody's what they bought before.
    """

    folder: Path
    until: datetime
    recipes: Mapping[str, Recipe]
    placements: Mapping[str, Placement]
    data: Data | None
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    tallies: Tallies | None = None
    short: bool = False

    @property
    def configuration(self) -> dict[str, Any]:
        """What makes two bundles on the same data alike."""
        used = models_in_use(self.placements)
        return {
            "recipes": {name: described(r) for name, r in sorted(self.recipes.items()) if name in used},
            "placements": {name: asdict(p) for name, p in sorted(self.placements.items())},
            "rankings": {name: asdict(r) for name, r in sorted(self.rankings.items())},
        }


@dataclass(frozen=True)
class Plan:
    """What is to be learned. Recipes and rankings that are not given are chosen by the data; `settings` are what
    `tune` found for them. rival_windows: how many label windows the rankers of the champion ask for. compared:
    whether recipes that no placement asks are fitted, too, to hold the others against."""

    recipes: Mapping[str, Recipe] | None
    placements: Mapping[str, Placement]
    rankings: Mapping[str, Ranking] | None
    settings: Settings = field(default_factory=dict)
    rival_windows: int = 0
    compared: bool = True

    def settled(self, past: Data) -> tuple[Mapping[str, Recipe], Mapping[str, Ranking]]:
        """(recipes, rankings) as this past asks for them; it is the judged one, which knows no validation day."""
        chosen = defaults(past)
        recipes = with_settings(chosen.recipes if self.recipes is None else self.recipes, self.settings)
        if not self.compared:
            recipes = {name: r for name, r in recipes.items() if name in models_in_use(self.placements)}
        rankings = chosen.rankings if self.rankings is None else self.rankings
        return recipes, {name: r for name, r in rankings.items() if ranked_by(name)[0] in self.placements}


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
    settings: Settings = field(default_factory=dict)
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
            "settings": self.settings,
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
    recipes: Mapping[str, Recipe] | None = None,
    placements: Mapping[str, Placement] = PLACEMENTS,
    rankings: Mapping[str, Ranking] | None = None,
    compared: bool = True,
    unrivalled: bool = False,
    processes: int = 2,
    seed: int = SEED,
    say: Say = silent,
    history: History | None = None,
) -> Outcome:
    """Train on everything before `until` (the end of the data) and promote the version if the gate opens. `history` is
    the home's own where none is given. What is `unrivalled` is held against no champion, and left to be promoted.

    Recipes are fitted on the past before the last VALIDATION_DAYS, where they are compared and every
    placement is audited; those that a placement uses are fitted once more on everything: the version.
    Where no recipes are given they are chosen by the data, with what `tune` found in place of their own settings;
    those that no placement asks are fitted to be `compared` alone.
    Raises TrainError, and TrainingBusy where another training runs.
    """
    from training.publish import Registry, training_lock  # mlflow takes seconds to import

    with training_lock(home):
        settings = read_settings(home) if recipes is None else {}
        clock, registry = Clock(), Registry(home)
        history = history or History(home / "history")
        registry.repair()
        version, code = registry.next_version(), revision()
        work = fresh(home / "staging" / "train")
        champion = None if unrivalled else champion_of(registry.champion(), home)
        asked = windows_of(() if champion is None else champion.rankings.values())
        plan = Plan(recipes, placements, rankings, settings, asked, compared)
        past, full, labels, about = history.at_once(lambda pinned: read(pinned, until, work, plan))
        about["git_revision"] = code
        contest, rival = rival_of(past, champion, home, code)
        lessons = [(past, latest(labels, windows_of(map(asdict, past.rankings.values()))))]
        if rival is not None and rival is not past and rival.data is not None:
            lessons.append((rival, labels_for(rival, latest(labels, asked))))
        clock.lap("read")
        with jobs.workers(processes) as pool:
            fits = learned(pool, full, lessons, about, clock, say)
            newer = knows_no_less(full.until, history.end(), champion)
            outcome = judge(pool, past, full, contest, rival, fits, also=newer, seed=seed, say=say)
            clock.lap("evaluate")
            outcome = replace(outcome, version=version, settings=settings, seconds=clock.seconds)
            former = former_of(registry.bundles, registry.versions())
            card = card_of(pool, past, full, outcome, about, former, registry.bundles, seed=seed, say=say)
            clock.lap("card")
        outcome = replace(outcome, peak_mb=jobs.peak_mb())
        seal(full, version=outcome.version, metrics=outcome.metrics, **about)
        publish(registry, full, outcome, about, card_html(card), promote=not unrivalled)
        clock.lap("publish")
        shutil.rmtree(work)
        return outcome


def learned(
    pool: ProcessPoolExecutor,
    full: Side,
    lessons: Sequence[tuple[Side, Sequence[Side]]],
    about: Mapping[str, Any],
    clock: Clock,
    say: Say,
) -> list[jobs.Fit]:
    """Fit the version and every judged side, each with the pasts that its rankers learn on, and make its rankings."""
    judged = [side for side, _ in lessons]
    pasts = [side for _, sides in lessons for side in sides]
    fits = fit(pool, [full, *judged, *pasts], say)
    for side in (full, *judged, *pasts):
        seal(side, version=side.folder.name, metrics={}, **about)
    clock.lap("fit")
    fits += rank(pool, full, judged, {side.folder: sides for side, sides in lessons}, say)
    for side in (full, *judged):
        seal(side, version=side.folder.name, metrics={}, **about)
    clock.lap("rank")
    rank_ahead(pool, full, say)
    clock.lap("rank ahead")
    return fits


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def read(
    history: History,
    until: datetime | None,
    work: Path,
    plan: Plan,
) -> tuple[Side, Side, list[Side], dict[str, Any]]:
    """(the past that is judged, everything before `until`, the pasts that rankers learn on, what the manifests
    say of the data)."""
    last = history.end()
    end = min(until, last) if until else last
    about: dict[str, Any] = {"store": history.store, "fingerprint": history.fingerprint(end)}
    about["marks"] = history.manifest.marks
    past, full, *labels = map(stored, sides_of(history, end, work, plan))
    return past, full, labels, about


def stored(side: Side) -> Side:
    """The side with its data saved in its folder and mapped from there, so that it takes no memory."""
    assert side.data is not None
    save_data(side.folder, side.data.catalog, side.data.interactions, side.tallies)
    data = Data(*load_data(side.folder, until=seconds(side.until)))
    return replace(side, data=data, tallies=None)


def sides_of(
    history: History,
    end: datetime,
    work: Path,
    plan: Plan,
) -> Iterator[Side]:
    """The past that is judged, everything before `end`, and the pasts that rankers learn on, the latest first.

    The past ends VALIDATION_DAYS earlier, or a quarter of the history earlier where that is shorter; each of
    the others as much before the next. What a customer alone decides is taught where a SHORT share of them is known
    by FEW orders at most, so that rankers meet newcomers also where most customers are old ones; what all say of an
    item stays what it was.
    """
    events = history.purchases(end)
    products = history.table("products")

    def before(moment: datetime) -> Data:
        return cut(events, products, moment, history.promoted(moment))

    whole = before(end)
    window = judged_days(whole, end)
    cutoff = (end - timedelta(days=window)).replace(microsecond=0)
    past = before(cutoff)
    recipes, rankings = plan.settled(past)

    def side(name: str, until: datetime, used: set[str], data: Data) -> Side:
        own = {n: r for n, r in recipes.items() if n in used}
        return Side(work / name, until, own, plan.placements, data, rankings)

    yield side("past", cutoff, set(recipes), past)
    yield side("full", end, models_in_use(plan.placements), whole)
    most = max(plan.rival_windows, windows_of(map(asdict, rankings.values())))
    for at in label_cutoffs(int(whole.interactions.at.min()), cutoff, window, most):
        at = at.replace(microsecond=0)
        known = before(at)
        label = side(f"label-{at:%Y-%m-%d}", at, set(recipes), known)
        label = replace(label, tallies=Tallies.with_nobody(known.interactions))
        short = replace(label, folder=work / f"short-{at:%Y-%m-%d}", short=True)
        if (made := taught(label)).rankings:
            yield made
        if (made := taught(short)).rankings:
            yield replace(made, data=cut_short(known, share=SHORT, most=FEW, seed=seconds(at)))


def judged_days(whole: Data, end: datetime) -> float:
    """How many of the last days before `end` a training judges by: a quarter of the history, or VALIDATION_DAYS."""
    if not len(whole.interactions):
        raise TrainError(
            f"nothing that may be recommended was bought before {end.isoformat()}: see `osclms check`"
        )
    days = (seconds(end) - int(whole.interactions.at.min())) / DAY
    return min(VALIDATION_DAYS, days / 4)


def taught(side: Side) -> Side:
    """The side with what the rankers that learn on it need and no more."""
    rankings = {
        name: r
        for name, r in side.rankings.items()
        if is_published(side.placements[ranked_by(name)[0]]) == side.short
    }
    ranked = {name: side.placements[name] for name in {ranked_by(r)[0]: None for r in rankings}}
    recipes = {n: r for n, r in side.recipes.items() if n in models_in_use(ranked)}
    return replace(side, placements=ranked, recipes=recipes, rankings=rankings)


def champion_of(version: str | None, home: Path) -> Manifest | None:
    """The champion's manifest; None where there is none, or none that this version of the code understands:
    what cannot be served or fitted any more must not keep its successor out."""
    if version is None:
        return None
    try:
        manifest = read_manifest(home / "bundles" / version)
        for params in manifest.recipes.values():
            recipe_of(params)
        for params in manifest.rankings.values():
            Ranking(**params)
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
    rankings = {name: Ranking(**params) for name, params in champion.rankings.items()}
    theirs = replace(
        past, folder=past.folder.with_name("rival"), recipes=recipes, placements=champion.placements, rankings=rankings
    )  # fmt: skip
    contest = contest_of(past.configuration, theirs.configuration)
    if contest is not REFRESHED:
        return contest, stored(theirs)
    was = champion.git_revision
    aside = "" if was == code else f" (its code is git revision {was}, the candidate's {code})"
    if champion.data_until > past.until:
        return replace(contest, rival=f"itself: the champion's configuration is the same{aside}"), past
    itself = replace(theirs, folder=home / "bundles" / champion.version, data=None)
    return replace(contest, rival=f"{contest.rival}{aside}"), itself


def knows_no_less(end: datetime, last: datetime, champion: Manifest | None) -> tuple[Check, ...]:
    """A version that ends before the champion does is for measuring, not for serving; unless it knows all that there
    is until `last`, as who bought last was erased."""
    if champion is None:
        return ()
    theirs = champion.data_until
    says = f"it knows all before {end.isoformat()}, the champion all before {theirs.isoformat()}"
    return (Check(end >= min(theirs, last), says),)


def fit(pool: ProcessPoolExecutor, sides: Sequence[Side], say: Say) -> list[jobs.Fit]:
    """Fit every recipe of every side, the slow ones first."""
    wanted = [(side, name) for side in sides for name in side.recipes]
    wanted.sort(key=lambda w: SLOW_FIRST.index(w[1]) if w[1] in SLOW_FIRST else len(SLOW_FIRST))
    running = [pool.submit(jobs.fit, s.folder, n, s.recipes[n], seconds(s.until)) for s, n in wanted]
    return finished(running, "fitting recipes", say)


def windows_of(rankings: Iterable[Mapping[str, Any]]) -> int:
    """How many label windows rankings, as a manifest keeps them, ask for."""
    return max((int(r["windows"]) for r in rankings), default=0)


def latest(labels: Sequence[Side], windows: int) -> list[Side]:
    """The sides of the latest so many windows."""
    ends = sorted({side.until for side in labels})[-windows:] if windows else []
    return [side for side in labels if side.until in ends]


def labels_for(rival: Side, labels: Sequence[Side]) -> list[Side]:
    """The same pasts for the rival's recipes."""
    made = []
    for at in labels:
        folder = at.folder.with_name(f"rival-{at.folder.name}")
        theirs = replace(
            at, folder=folder, recipes=rival.recipes, placements=rival.placements, rankings=rival.rankings
        )
        side = taught(theirs)
        made += [stored(side)] if side.rankings else []
    return made


def rank(
    pool: ProcessPoolExecutor,
    full: Side,
    judged: Sequence[Side],
    lessons: Mapping[Path, Sequence[Side]],
    say: Say,
) -> list[jobs.Fit]:
    """Learn every ranker of every side from what was put forward in windows before its end, and then bought.

    `judged`: the past of the version, and the rival's where one is fitted; `lessons`: what each learns on.

    What followed a window's past is read from data that ends with the judged past, so that nothing known only
    later, such as a return, says what was right. The version learns from the judged past's window as well.
    """
    past = judged[0]
    made: dict[tuple[Path, str], Path] = {}
    running: list[Running[None]] = []

    def ask(side: Side, later: jobs.Later, name: str) -> None:
        path = past.folder.with_name(f"{side.folder.name}.{name}.npz")
        made[side.folder, name] = path
        running.append(pool.submit(jobs.examples, side.folder, later, name, side.rankings[name], path))

    for sides in lessons.values():
        moments = sorted({past.until, *(side.until for side in sides)})
        for side in sides:
            end = moments[moments.index(side.until) + 1]
            for name in side.rankings:
                ask(side, jobs.Later(past.folder, past.until, side.until, end), name)
    for name in past.rankings:
        ask(past, jobs.Later(full.folder, full.until, past.until), name)
    finished(running, "gathering examples", say)
    pasts = [(side, lessons[side.folder]) for side in judged]
    fits = finished(learning(pool, pasts, made), "learning rankers", say)
    # the version gets no ranker that was not judged
    known = {name: r for name, r in full.rankings.items() if has_ranker(past.folder, name)}
    shipped = replace(full, rankings=known)
    pasts = [(shipped, [past, *lessons[past.folder]])]
    return fits + finished(learning(pool, pasts, made), "learning the version's rankers", say)


def learning(
    pool: ProcessPoolExecutor,
    taught: Sequence[tuple[Side, Sequence[Side]]],
    made: Mapping[tuple[Path, str], Path],
) -> list[Running[jobs.Fit]]:
    """A job for each ranker of each side, from the examples of the latest windows that it asks for."""
    running = []
    for side, sides in taught:
        for name, ranking in side.rankings.items():
            paths = [made[s.folder, name] for s in sides if (s.folder, name) in made][: ranking.windows]
            columns = columns_for(name, side.placements)
            running += [pool.submit(jobs.learn, paths, side.folder, name, columns, ranking)] if paths else []
    return running


def rank_ahead(pool: Executor, side: Side, say: Say) -> None:
    """Make every customer's ranking of the placements whose ranking a customer alone decides."""
    assert side.data is not None
    customers, running = len(side.data.interactions.customers), []
    for name, row in side.placements.items():
        if has_ranker(side.folder, name) and is_published(row):
            path = side.folder / f"{name}{RANKED_SUFFIX}"
            np.lib.format.open_memmap(path, "w+", RANKED, (customers, PUBLISHED)).flush()
            parts = (slice(n, min(n + CHUNK, customers)) for n in range(0, customers, CHUNK))
            running += [pool.submit(jobs.rank_ahead, side.folder, name, part, path) for part in parts]
    finished(running, "ranking ahead", say)


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
        rankings={name: asdict(r) for name, r in side.rankings.items()},
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


def card_of(
    pool: ProcessPoolExecutor,
    past: Side,
    full: Side,
    outcome: Outcome,
    about: Mapping[str, Any],
    former: Manifest | None,
    bundles: Path,
    *,
    seed: int,
    say: Say,
) -> Card:
    """What the model card tells: of the judged past, whose rankers have not seen the days they are looked at in, and
    of the data against the version before."""
    later = jobs.Later(full.folder, full.until, past.until)
    looked = [pool.submit(inspect, past.folder, later, name, seed=seed) for name in past.rankings]
    drifted = (
        None
        if former is None
        else pool.submit(
            drift,
            former.version,
            former.data_until,
            bundles / former.version,
            full.folder,
            full.until,
            seed=seed,
        )
    )
    bundle = Bundle.load(past.folder)
    results = tuple(results_of(bundle, outcome.audits, seed=seed))
    examples = examples_of(bundle, primary(outcome.audits).answers, seed=seed)
    baselines = {
        name: {task: a.figure("ndcg", seed=SEED) for task, a in tasks.items()}
        for name, tasks in outcome.recipes.items()
    }
    found = zip(past.rankings, finished(looked, "drawing the card", say), strict=True)
    assert full.data is not None
    data = full.data.interactions
    size = {"Customers": len(data.customers), "Products": len(data.items), "Orders": len(data.orders)}
    return Card(
        outcome.version, about["store"].name, full.until, past.until, about["git_revision"], about["fingerprint"], size,
        outcome.verdict, results, baselines, {name: seen for name, seen in found if seen}, examples,
        drifted.result() if drifted else None, outcome.recall, {name: repr(r) for name, r in past.recipes.items()},
        tuple(outcome.fits), dict(outcome.seconds),
    )  # fmt: skip


def publish(
    registry: "Registry", full: Side, outcome: Outcome, about: Mapping[str, Any], card: str, *, promote: bool
) -> None:
    """A run for the training and one for each recipe, the bundle as a version, its card, and the alias if it won and is
    to `promote`."""
    from training import plots

    tags = {
        "fingerprint": about["fingerprint"], "git_revision": about["git_revision"],
        "data_until": full.until.isoformat(), "verdict": outcome.verdict.reason,
    }  # fmt: skip
    report = outcome.as_dict()
    names = {name: tasks["purchases"].figure("ndcg", seed=SEED) for name, tasks in outcome.recipes.items()}
    customers = len(outcome.recipes["popular"]["purchases"].task)
    told: tuple[str, ...] = ("accuracy", "coverage", "filled")
    audits = {a.name: {k: a.figures[k] for k in told if k in a.figures} for a in outcome.audits}
    run = registry.log_run(
        f"train {full.until:%Y-%m-%d}",
        params={"recipes": full.configuration["recipes"], "validation_from": outcome.cutoff.isoformat()},
        metrics=outcome.metrics,
        tags=tags,
        artifacts={
            "report.json": report,
            PAGE: card,
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
    registry.keep_card(outcome.version, card)
    if promote and outcome.verdict.promote:
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
