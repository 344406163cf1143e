"""Search for settings of recipes on days that training never judges by (Optuna).

`train` judges on the last days of the data. The search ends where they begin: it fits on the past before as many
days again, and measures on those. What it finds goes to recipes.toml, which `train` reads.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future as Running
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.history import History
from serving.bundle import save_data
from serving.placements import PLACEMENTS, Placement
from training import jobs
from training.defaults import defaults
from training.evaluate import AIMS
from training.intervals import Interval, clustered_interval
from training.models import Recipe, described
from training.settings import FILE, read_settings, with_settings, write_settings
from training.split import cut
from training.train import SEED, Say, Side, TrainError, fresh, judged_days, revision, seal, silent

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

    from training.publish import Registry

DATABASE = "tuning.db"
MINUTES = 10.0
MOST_QUESTIONS = 4_000
DIGITS = 3  # of a setting: what is tried is what is written


@dataclass(frozen=True)
class Span:
    """Values of one setting that are tried, both ends included; whole ones where both ends are."""

    low: float
    high: float
    log: bool = False


HALF_LIFE = Span(7.0, 1_000.0, log=True)
SPACES: Mapping[str, Mapping[str, Span]] = {
    "popular": {"days": Span(1.0, 365.0, log=True)},
    "rhythm": {
        "half_life": HALF_LIFE,
        "window": Span(7.0, 365.0, log=True),
        "common": Span(0.1, 20.0, log=True),
    },
    "als": {
        "factors": Span(8, 128, log=True),
        "regularization": Span(0.01, 100.0, log=True),
        "alpha": Span(0.1, 40.0, log=True),
        "half_life": HALF_LIFE,
    },
    "ease": {"regularization": Span(1.0, 1_000.0, log=True), "half_life": HALF_LIFE},
    "upcf": {
        "recent": Span(3, 100, log=True),
        "asymmetry": Span(0.0, 1.0),
        "locality": Span(1.0, 12.0),
        "neighbours": Span(30, 1_000, log=True),
    },
    "tifu": {
        "group": Span(1, 20),
        "within": Span(0.5, 1.0),
        "between": Span(0.3, 1.0),
        "own": Span(0.1, 1.0),
        "neighbours": Span(30, 1_000, log=True),
    },
    "copurchase": {"of_asked": Span(0.0, 1.0), "of_other": Span(0.0, 1.0), "half_life": HALF_LIFE},
    "ease_baskets": {"regularization": Span(3.0, 3_000.0, log=True), "items": Span(1_000, 10_000, log=True)},
}
# What a recipe is for: the first of these placements that asks it.
AIM_OF = {"next_best": "purchases", "buy_again": "purchases", "discover": "novel", "cross_sell": "basket"}


def aim_of(name: str, placements: Mapping[str, Placement]) -> str | None:
    """Which of AIMS a recipe is searched by; None where no placement that has one asks it."""
    used = (p for p in AIM_OF if p in placements and name in {s.model for s in placements[p].sources})
    first = next(used, None)
    return None if first is None else AIM_OF[first]


@dataclass(frozen=True)
class Found:
    """What the search for one recipe came to. `gain`: best − default on the same questions, where they differ."""

    name: str
    aim: str
    trials: int
    default: Recipe
    best: Recipe
    reached: dict[str, float]
    gain: Interval | None

    @property
    def better(self) -> bool:
        return self.gain is not None and self.gain.low > 0

    @property
    def settings(self) -> dict[str, Any]:
        """What the best sets otherwise than the default."""
        before, after = asdict(self.default), asdict(self.best)
        return {key: after[key] for key in SPACES[self.name] if after[key] != before[key]}

    def as_dict(self) -> dict[str, Any]:
        return {
            "aim": self.aim,
            "metric": AIMS[self.aim].metric,
            "trials": self.trials,
            "reached": self.reached,
            "gain": None if self.gain is None else vars(self.gain),
            "better": self.better,
            "settings": self.settings,
        }


@dataclass(frozen=True)
class Tuning:
    """A search: the days that it measured on, what it found, and what of it was written."""

    start: datetime
    end: datetime
    found: list[Found]
    unfinished: list[str]  # not even their defaults were measured in the time
    unasked: list[str]  # the window holds no question for them
    written: bool
    file: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "window": [self.start.isoformat(), self.end.isoformat()],
            "recipes": {f.name: f.as_dict() for f in self.found},
            "unfinished": self.unfinished,
            "unasked": self.unasked,
            "written": self.written,
            "file": str(self.file),
        }


@dataclass(frozen=True)
class Window:
    """A past to fit on, in a bundle's folder, and the days after it to measure on."""

    past: Path
    later: jobs.Later
    end: datetime
    recipes: Mapping[str, Recipe]
    fingerprint: str

    @property
    def start(self) -> datetime:
        return self.later.start


@dataclass(frozen=True)
class Search:
    """One recipe's trials, of this call and of earlier ones."""

    name: str
    aim: str
    default: Recipe
    study: "Study"
    given: int  # settings that are tried before any is sought

    @property
    def done(self) -> int:
        return len(self.complete)

    @property
    def complete(self) -> "list[Any]":
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def ask(self) -> "Trial":
        return self.study.ask(spread(SPACES[self.name]))

    def recipe(self, params: Mapping[str, Any]) -> Recipe:
        return replace(self.default, **rounded(params))


def rounded(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v if isinstance(v, int) else float(f"{v:.{DIGITS}g}") for key, v in params.items()}


def spread(space: Mapping[str, Span]) -> "dict[str, BaseDistribution]":
    """The space in Optuna's terms."""
    from optuna.distributions import FloatDistribution, IntDistribution

    def of(span: Span) -> "BaseDistribution":
        if isinstance(span.low, int) and isinstance(span.high, int):
            return IntDistribution(span.low, span.high, log=span.log)
        return FloatDistribution(span.low, span.high, log=span.log)

    return {name: of(span) for name, span in space.items()}


def tune(
    home: Path,
    names: Sequence[str] = (),
    *,
    until: datetime | None = None,
    minutes: float = MINUTES,
    trials: int | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    placements: Mapping[str, Placement] = PLACEMENTS,
    processes: int = 2,
    seed: int = SEED,
    say: Say = silent,
) -> Tuning:
    """Search for better settings of these recipes, or of all in SPACES, and write those that are.

    It ends after so many minutes, or once each recipe has had so many trials, those of earlier calls counted: on
    the same data it goes on where it ended. A setting is written where the 95 % interval of what it gains over the
    recipe's default on the same questions lies above 0. Raises TrainError, and TrainingBusy where a training runs.
    """
    from training.publish import Registry, training_lock  # mlflow takes seconds to import

    with training_lock(home):
        over = Deadline(60 * minutes)
        before, history, registry = read_settings(home), History(home / "history"), Registry(home)
        registry.repair()
        work = fresh(home / "staging" / "tune")
        window = history.at_once(lambda pinned: read(pinned, until, work, recipes))
        run = registry.log_run(
            f"tune {window.start:%Y-%m-%d}",
            params={"window": f"{window.start} to {window.end}", "recipes": ", ".join(names or SPACES)},
            tags={
                "fingerprint": window.fingerprint,
                "git_revision": revision(),
                "data_until": window.end.isoformat(),
            },
        )
        with jobs.workers(processes) as pool:
            aims = aims_of(names, placements)
            asked = asked_by(pool, set(aims.values()), window, seed)
            searches = list(searched(home, {n: a for n, a in aims.items() if asked[a]}, window, before, seed))
            made = explore(pool, searches, window, registry, run, Goal(over, trials, processes, seed), say)
            ready = [s for s in searches if s.done >= s.given]
            found = list(judged(pool, ready, window, made, seed, say))
        settings = {name: table for name, table in before.items() if name not in {f.name for f in found}}
        settings |= {f.name: f.settings for f in found if f.better}
        about = f"Found on {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}."
        written = write_settings(home, settings, about=about)
        unfinished = [s.name for s in searches if s not in ready]
        unasked = [name for name, aim in aims.items() if not asked[aim]]
        tuning = Tuning(window.start, window.end, found, unfinished, unasked, written, home / FILE)
        registry.add_to_run(
            run,
            metrics={f"{f.name}.{which}": value for f in found for which, value in f.reached.items()},
            artifacts={"report.json": tuning.as_dict()},
        )
        shutil.rmtree(work)
        return tuning


def read(
    history: History, until: datetime | None, work: Path, recipes: Mapping[str, Recipe] | None
) -> Window:
    """The past and the days after it, in files. What came after those days is known by its length alone."""
    last = history.end()
    end = min(until, last) if until else last
    events = history.purchases(end)
    products = history.table("products")
    days = timedelta(days=judged_days(cut(events, products, end), end))
    stop, start = ((end - n * days).replace(microsecond=0) for n in (1, 2))
    past, known = (cut(events, products, moment, history.promoted(moment)) for moment in (start, stop))
    if not len(past.interactions) or len(past.interactions) == len(known.interactions):
        raise TrainError(
            f"nothing was bought before {start.isoformat()}, or nothing from then to {stop.isoformat()}, so there is "
            "nothing to measure on: load purchases over a longer time; see `osclms check`"
        )
    fingerprint = history.fingerprint(stop)
    save_data(work / "past", past.catalog, past.interactions)
    seal(
        Side(work / "past", start, {}, {}, past), version="past", metrics={}, store=history.store,
        fingerprint=fingerprint, git_revision=revision(),
    )  # fmt: skip
    save_data(work / "later", known.catalog, known.interactions)
    own = defaults(known).recipes if recipes is None else recipes
    return Window(work / "past", jobs.Later(work / "later", stop, start), stop, own, fingerprint)


def aims_of(names: Sequence[str], placements: Mapping[str, Placement]) -> dict[str, str]:
    """The aim of each of these recipes, or of all in SPACES that have one."""
    found = {name: aim for name in names or SPACES if (aim := aim_of(name, placements)) is not None}
    if missing := set(names) - found.keys():
        raise TrainError(
            f"no placement that can be measured asks {', '.join(sorted(missing))}: name other recipes"
        )
    return found


def asked_by(pool: ProcessPoolExecutor, aims: Iterable[str], window: Window, seed: int) -> dict[str, int]:
    """How many questions of each kind the window holds."""
    running = {
        aim: pool.submit(jobs.questions_asked, window.past, window.later, aim, most=MOST_QUESTIONS, seed=seed)
        for aim in aims
    }
    return {aim: job.result() for aim, job in running.items()}


def searched(
    home: Path,
    aims: Mapping[str, str],
    window: Window,
    before: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> Iterator[Search]:
    """A study for each recipe, begun or taken up again. It starts with the default, and with what was found before."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{home.resolve() / DATABASE}")
    for name, aim in aims.items():
        default = window.recipes[name]
        study = optuna.create_study(
            storage=storage, study_name=study_name(name, aim, default, window, seed), direction="maximize",
            load_if_exists=True,
        )  # fmt: skip
        given = [params_of(name, default)]
        earlier = params_of(name, with_settings({name: default}, before)[name])
        if earlier != given[0] and inside(name, earlier):
            given.append(earlier)
        if not study.trials:
            for params in given:
                study.enqueue_trial(params)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # of a search that was stopped
        # sown anew by how far it came, as the same seed would draw the same settings again
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        yield Search(name, aim, default, study, len(given))


def params_of(name: str, recipe: Recipe) -> dict[str, Any]:
    return {key: getattr(recipe, key) for key in SPACES[name]}


def inside(name: str, params: Mapping[str, Any]) -> bool:
    """Whether the search can come to these settings."""
    return all(span.low <= params[key] <= span.high for key, span in SPACES[name].items())


def study_name(name: str, aim: str, default: Recipe, window: Window, seed: int) -> str:
    """Trials are of one study where they can be compared: the same data, questions and space."""
    space = {key: asdict(span) for key, span in SPACES[name].items()}
    same = json.dumps([window.fingerprint, described(default), space, MOST_QUESTIONS, seed])
    digest = hashlib.blake2b(same.encode(), digest_size=6).hexdigest()
    return f"{name}, {aim} of {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}, {digest}"


class Deadline:
    """So many seconds from now on."""

    def __init__(self, length: float) -> None:
        self.length, self.began = length, time.monotonic()

    @property
    def passed(self) -> float:
        return min(time.monotonic() - self.began, self.length)

    @property
    def over(self) -> bool:
        return self.passed >= self.length


@dataclass(frozen=True)
class Goal:
    """When the search ends, and how it runs."""

    deadline: Deadline
    trials: int | None
    processes: int
    seed: int


Made = dict[Recipe, jobs.Attempt]


def explore(
    pool: ProcessPoolExecutor,
    searches: Sequence[Search],
    window: Window,
    registry: "Registry",
    run: str,
    goal: Goal,
    say: Say,
) -> Made:
    """Try settings, a round of every recipe at a time, so that each search is the same on any number of processes
    but one with fewer recipes than processes."""
    made: Made = {}
    width = max(1, goal.processes // max(1, len(searches)))
    tell_progress(searches, goal, say)
    while not goal.deadline.over:
        asked = [(s, s.ask()) for s in searches for _ in range(min(width, left(s, goal)))]
        if not asked:
            break
        running = [
            (s, trial, submit(pool, s, s.recipe(trial.params), window, goal.seed)) for s, trial in asked
        ]
        for search, trial, job in running:
            finish(search, trial, job, made, registry, run, goal)
            tell_progress(searches, goal, say)
    return made


def left(search: Search, goal: Goal) -> int:
    """How many more trials the recipe may have."""
    return goal.processes if goal.trials is None else max(0, goal.trials - search.done)


def submit(
    pool: ProcessPoolExecutor, search: Search, recipe: Recipe, window: Window, seed: int
) -> "Running[jobs.Attempt]":
    return pool.submit(
        jobs.attempt, window.past, window.later, recipe, search.aim, most=MOST_QUESTIONS, seed=seed
    )  # fmt: skip


def finish(
    search: Search,
    trial: "Trial",
    job: "Running[jobs.Attempt]",
    made: Made,
    registry: "Registry",
    run: str,
    goal: Goal,
) -> None:
    """Put a trial on record; one that has not begun when the time is over is given up."""
    from optuna.trial import TrialState

    if goal.deadline.over and job.cancel():
        search.study.tell(trial, state=TrialState.FAIL)
        return
    recipe, attempt = search.recipe(trial.params), job.result()
    made[recipe] = attempt
    search.study.tell(trial, attempt.figure)
    registry.log_run(
        f"{search.name} {trial.number}",
        params=described(recipe),
        metrics={f"{search.aim}.{AIMS[search.aim].metric}": attempt.figure, "cpu_seconds": attempt.cpu},
        tags={"recipe": search.name, "study": search.study.study_name},
        parent=run,
        seconds=attempt.cpu,
    )


def tell_progress(searches: Sequence[Search], goal: Goal, say: Say) -> None:
    if goal.trials is None:
        say("seconds of the search", round(goal.deadline.passed), round(goal.deadline.length))
    else:
        say("trials", sum(min(s.done, goal.trials) for s in searches), goal.trials * len(searches))


def judged(
    pool: ProcessPoolExecutor, searches: Sequence[Search], window: Window, made: Made, seed: int, say: Say
) -> Iterator[Found]:
    """Each recipe's best setting against its default, question by question. What an earlier call tried is asked
    again."""
    best = {s.name: s.recipe(s.study.best_trial.params) for s in searches}
    pairs = [(s, recipe) for s in searches for recipe in (s.default, best[s.name])]
    running = {r: submit(pool, s, r, window, seed) for s, r in pairs if r not in made}
    known = made | {r: job.result() for r, job in running.items()}
    for done, search in enumerate(searches, 1):
        say("comparing with defaults", done, len(searches))
        ours, theirs = known[best[search.name]], known[search.default]
        same = best[search.name] == search.default
        gain = None if same else clustered_interval(ours.values - theirs.values, ours.customer, seed=seed)
        reached = {"default": theirs.figure, "best": ours.figure}
        yield Found(search.name, search.aim, search.done, search.default, best[search.name], reached, gain)
