"""Customers' scores: fitted on several pasts, calibrated on a later one, judged on days that neither knew.

A cutoff is half a horizon from the next, and a score's labels are what happened in one horizon from it on:

    cutoffs before the end, in half horizons    9 8 7 6   5   4           3   2            0
    the backtest                                learns    .   calibrates  .   is judged    .
    what is told afterwards                         7 6 5 4                   calibrates

So no label that is learned from, or calibrated by, reaches into the days that judge; what they were is read from data
that ends with them. What is told afterwards is the same, a horizon later.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.behaviour import CATEGORY, Usual, behaviour, leanings, main_category
from features.customers import LAPSED, Orders, facts
from features.history import History
from features.interactions import DAY, seconds
from serving.scores import (
    CATEGORIES,
    CHURN,
    COLUMNS,
    FOLDER,
    LEAST,
    MANIFEST,
    SPEND,
    SPENT,
    SUFFIX,
    Score,
    ScoresManifest,
    had,
)
from training.backtest import JUDGES, Examples, Judged, drawn, line, section
from training.card import page_html, told_at
from training.split import Data, cut
from training.train import SEED, Say, revision, silent

if TYPE_CHECKING:
    from training.publish import Registry

Array = NDArray[Any]
JUDGED, CALIBRATED, LEARNED = 2, 4, (6, 7, 8, 9)  # cutoffs of the backtest, in half horizons before the end
LATER = 2  # … by which what is told afterwards is later
SPEND_DAYS = 90
SHORTEST, LONGEST = 14, 91  # days of the horizon that a shop's rhythm sets
FEWEST = 50  # answers of either kind that each window must hold
MOST_CATEGORIES = 60
MOST_PAIRS = 400_000  # of customers and categories, learned from in a window
WORDS = {"customers": "customers with an order", "days": "days of history"}


class ScoresRefused(RuntimeError):
    """There is too little data for a score; the message says what there is and what is needed."""


@dataclass(frozen=True)
class Trees:
    """How a score is learned; the rest is LightGBM's. floor: the share of what is spent in the mean that stands for
    customers who spent nothing, where trees correct what was spent lately."""

    objective: str
    rounds: int
    link: str = "logit"
    leaves: int = 7
    least: int = 50
    rate: float = 0.04
    columns: float = 0.5
    ridge: float = 10.0
    floor: float | None = None
    seed: int = 7

    def fit(self, x: Array, y: Array, names: Sequence[str], start: Array | None) -> Any:
        """The same rows give the same trees."""
        import lightgbm

        params = {
            "objective": self.objective, "learning_rate": self.rate, "num_leaves": self.leaves,
            "min_data_in_leaf": self.least, "feature_fraction": self.columns, "bagging_fraction": 0.8,
            "bagging_freq": 1, "lambda_l2": self.ridge, "seed": self.seed, "deterministic": True,
            "force_row_wise": True, "num_threads": 1, "verbose": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(x, y, feature_name=list(names), init_score=start)
        return lightgbm.train(params, data, self.rounds)


# Chosen on windows that end before those which the figures of docs/scores.md are judged on.
TREES: Mapping[str, Trees] = {
    CHURN: Trees("binary", 100),
    SPEND: Trees("tweedie", 50, link="log", floor=0.05),
    CATEGORIES: Trees("binary", 60, leaves=15, least=100, rate=0.06, columns=0.4),
}


@dataclass(frozen=True)
class Fitted:
    score: Score
    trees: Any
    judged: Judged


@dataclass(frozen=True)
class Outcome:
    """What was fitted and what was refused, and why."""

    version: str | None
    data_until: datetime
    data: dict[str, float]
    fitted: dict[str, Fitted]
    refused: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "data_until": self.data_until.isoformat(),
            "data": self.data,
            "least": {name: dict(least) for name, least in LEAST.items()},
            "scores": {name: told(fitted) for name, fitted in self.fitted.items()},
            "refused": self.refused,
        }


def told(of: Fitted) -> dict[str, Any]:
    return {
        "horizon": of.score.horizon,
        "judged_from": of.score.judged_from.isoformat(),
        "figures": of.judged.figures,
        "intervals": {name: vars(i) for name, i in of.judged.intervals.items()},
        "deciles": [list(row) for row in of.judged.deciles],
        "by_category": {name: list(row) for name, row in of.judged.by_category.items()},
    }


# --- the whole ----------------------------------------------------------------------------------------------


def fit(
    home: Path,
    *,
    until: datetime | None = None,
    horizon: int | None = None,
    seed: int = SEED,
    say: Say = silent,
    history: History | None = None,
) -> Outcome:
    """Fit and judge each score on everything before `until` (the end of the data), log them, and let them be told.

    horizon: days of churn and categories; by default as the shop's rhythm has it. Where all are refused nothing
    changes. Raises TrainingBusy where another training runs.
    """
    from training.publish import Registry, training_lock  # mlflow takes seconds to import

    with training_lock(home):
        history = history or History(home / "history")
        outcome, about = history.at_once(lambda pinned: fitted(pinned, until, horizon, seed, say))
        if not outcome.fitted:
            return outcome
        outcome, registry = replace(outcome, version=next_version(home)), Registry(home)
        with tempfile.TemporaryDirectory(dir=made(home / "staging")) as work:
            folder = Path(work) / "scores"
            save(folder, outcome, about)
            log(registry, folder, outcome, about)
            registry.keep_scores(folder)
        return outcome


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def next_version(home: Path) -> str:
    known = [int(path.name) for path in (home / FOLDER).glob("[0-9]*")]
    return str(max(known, default=0) + 1)


def fitted(
    history: History, until: datetime | None, horizon: int | None, seed: int, say: Say
) -> tuple[Outcome, dict[str, str]]:
    last = history.end()
    end = min(until, last) if until else last
    events, products = history.purchases(end), history.table("products")
    shop = Shop(lambda moment: cut(events, products, moment), end)
    days = {**dict.fromkeys((CHURN, CATEGORIES), horizon or shop.horizon()), SPEND: SPEND_DAYS}
    refused = {name: why for name in TREES if (why := lacking(shop.figures, name, days[name]))}
    done: dict[str, Fitted] = {}
    for length in sorted({days[name] for name in TREES if name not in refused}):
        names = [name for name in TREES if days[name] == length and name not in refused]
        found, not_found = shop.learned(names, length, seed, say)
        done, refused = done | found, refused | not_found
    about = {"fingerprint": history.fingerprint(end), "git_revision": revision()}
    ordered = {name: done[name] for name in TREES if name in done}
    return Outcome(None, end, shop.figures, ordered, refused), about


def lacking(figures: Mapping[str, float], name: str, days: int) -> str:
    """What data is missing for a score of so many days, in words; nothing where there is enough."""
    least = {**LEAST[name], "days": max(LEAST[name]["days"], 4 * days)}
    short = [
        f"{WORDS[of]}: {figures[of]:,.0f}, at least {need:,.0f} needed"
        for of, need in least.items()
        if figures[of] < need
    ]
    return "; ".join(short)


# --- pasts, and what came after them ------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Which cutoffs learn, calibrate and judge, in half horizons before the end, and the data that tells what happened
    after them."""

    learned: tuple[int, ...]
    calibrated: int
    judged: int | None
    later: Data
    categories: tuple[str, ...]

    @property
    def cutoffs(self) -> set[int]:
        return {*self.learned, self.calibrated, *([self.judged] if self.judged else ())}


class Shop:
    """A history up to its end, read as of any moment before."""

    def __init__(self, read: Callable[[datetime], Data], end: datetime) -> None:
        self.read, self.end, self.full = lru_cache(maxsize=2)(read), end, read(end)

    @property
    def start(self) -> int:
        data = self.full.interactions
        return int(data.at.min(initial=data.until))

    @property
    def figures(self) -> dict[str, float]:
        customers = len(Orders.of(self.full.interactions).who)
        return {"customers": float(customers), "days": (seconds(self.end) - self.start) / DAY}

    def horizon(self) -> int:
        """Whole weeks that are LAPSED usual gaps of the middle customer, and a quarter of the history at most; told by
        the first three quarters of it, which no judged day lies in."""
        quarter = self.figures["days"] / 4
        past = self.full.interactions.before(seconds(self.end - timedelta(days=quarter)))
        gap = facts(past, self.full.catalog)["gap"].median() if len(past) else SHORTEST
        return max(7 * int(min(LAPSED * gap, LONGEST, quarter) // 7), SHORTEST)

    def at(self, halves: int, days: int) -> datetime:
        return (self.end - timedelta(days=days * halves / 2)).replace(microsecond=0)

    def learned(
        self, names: Sequence[str], days: int, seed: int, say: Say
    ) -> tuple[dict[str, Fitted], dict[str, str]]:
        """(scores, why others were refused) of one horizon: a past is read once for all of them."""
        runs = self.runs(days)
        rows = dict(self.rows(names, runs, days, seed, say))
        done, refused = {}, {}
        for place, name in enumerate(names):
            say("fitting scores", place, len(names))
            try:
                done[name] = self.one(name, runs, rows, days, seed)
            except ScoresRefused as error:
                refused[name] = str(error)
        say("fitting scores", len(names), len(names))
        return done, refused

    def runs(self, days: int) -> tuple[Run, Run]:
        """The backtest, and what is told afterwards; windows that teach have a horizon of past at least."""
        whole = [n for n in range(1, LEARNED[-1] + 1) if seconds(self.at(n, days)) - self.start >= days * DAY]
        past, earlier = (self.read(self.at(n, days)) for n in (JUDGED, CALIBRATED))
        backtest = tuple(n for n in LEARNED if n in whole)
        shipped = tuple(n - LATER for n in LEARNED if n - LATER in whole)
        return (
            Run(backtest, CALIBRATED, JUDGED, past, main_categories(earlier, days)),
            Run(shipped, JUDGED, None, self.full, main_categories(past, days)),
        )

    def rows(
        self, names: Sequence[str], runs: Sequence[Run], days: int, seed: int, say: Say
    ) -> Iterator[tuple[tuple[int, int, str], Examples]]:
        """Examples by run, cutoff and score."""
        moments = sorted({n for run in runs for n in run.cutoffs})
        for place, halves in enumerate(moments):
            say("reading pasts", place, len(moments))
            seen = Seen.of(self.read(self.at(halves, days)))
            for number, run in enumerate(runs):
                if halves in run.cutoffs:
                    later = self.full if halves == run.judged else run.later
                    most = None if halves == run.judged else MOST_PAIRS
                    for name in names:
                        if name == CATEGORIES:
                            rows = seen.pairs(later, days, run.categories, most, seed)
                        else:
                            rows = seen.customers(name, later, days)
                        yield (number, halves, name), rows
        say("reading pasts", len(moments), len(moments))

    def one(
        self,
        name: str,
        runs: Sequence[Run],
        rows: Mapping[tuple[int, int, str], Examples],
        days: int,
        seed: int,
    ) -> Fitted:
        """A score, judged by its like of a horizon before."""
        if name == CATEGORIES and (fewest := min(len(run.categories) for run in runs)) < 2:
            raise ScoresRefused(
                f"main categories of {FEWEST} customers and more: {fewest}, at least 2 needed"
            )
        judged_from = self.at(JUDGED, days)
        made = []
        for number, run in enumerate(runs):
            parts = [rows[number, n, name] for n in run.learned]
            calibration = rows[number, run.calibrated, name]
            made.append(fitted_on(name, parts, calibration, days, run.categories, judged_from))
        held = rows[0, JUDGED, name]
        enough(name, held, "judge by")
        (backtest, trees), (score, kept) = made
        predicted = scored(backtest, trees, held.x)
        judged = JUDGES[name](predicted, held, backtest, seed)
        return Fitted(score.model_copy(update={"figures": judged.figures}), kept, judged)


def main_categories(data: Data, days: int) -> tuple[str, ...]:
    """The main categories that most customers bought of in the last so many days, FEWEST at least, in order of name."""
    names, rows = tuple(data.catalog.parents), data.interactions
    late = (rows.customer >= 0) & (rows.age() <= days)
    place = main_category(data.catalog, names)[rows.item[late]]
    pairs = np.unique(rows.customer[late].astype(np.int64) * (len(names) + 1) + place)
    buyers = np.bincount(pairs % (len(names) + 1), minlength=len(names) + 1)[: len(names)]
    best = np.argsort(-buyers, kind="stable")[:MOST_CATEGORIES]
    return tuple(sorted(names[n] for n in best if buyers[n] >= FEWEST))


@dataclass(frozen=True)
class Seen:
    """What is seen of the customers at the end of `data`: x as `behaviour` has it; who: those with an order."""

    data: Data
    usual: Usual
    x: Array
    who: Array

    @classmethod
    def of(cls, data: Data) -> "Seen":
        usual = Usual.of(data.interactions, data.catalog)
        x = behaviour(data.interactions, data.catalog, usual)
        return cls(data, usual, x, np.flatnonzero(~np.isnan(x[:, 0])))

    def customers(self, name: str, later: Data, days: int) -> Examples:
        """A row a customer, and what `later` says that they did in the days after."""
        y = ANSWERS[name](*happened(self.data, later, days))[self.who]
        n = len(self.who)
        return Examples(self.x[self.who], y, self.who, np.zeros(n, np.int64), np.zeros(n, bool))

    def pairs(
        self, later: Data, days: int, categories: tuple[str, ...], most: int | None, seed: int
    ) -> Examples:
        """A row a customer and category; at most so many, of customers drawn by chance."""
        rows, catalog, who, width = self.data.interactions, self.data.catalog, self.who, len(categories)
        if most is not None and len(who) * width > most:
            who = np.sort(np.random.default_rng(seed).choice(who, most // width, replace=False))
        usual = Usual.of(rows, catalog, categories, norms=self.usual.norms, renewal=self.usual.renewal)
        x = leanings(rows, catalog, usual, self.x)[who]
        return Examples(
            x.reshape(-1, len(CATEGORY)), bought_of(self.data, later, days, categories)[who].ravel(),
            np.repeat(who, width), np.tile(np.arange(width), len(who)), ~had(rows, catalog, categories)[who].ravel(),
        )  # fmt: skip


def after(data: Data, later: Data, at: Array, customer: Array, days: int) -> tuple[NDArray[np.bool_], Array]:
    """(which rows of `later` lie in the days after `data`, of its own customers; these customers)."""
    ids = later.interactions.customers
    known = data.interactions.customers.positions(ids.at(np.arange(len(ids))))
    who = np.append(known, np.int32(-1))[customer]
    end = data.interactions.until
    inside = (at >= end) & (at < end + days * DAY) & (who >= 0)
    return inside, who[inside]


def happened(data: Data, later: Data, days: int) -> tuple[Array, Array]:
    """(orders, money) of each customer of `data` in the days after it."""
    orders, n = Orders.of(later.interactions), len(data.interactions.customers)
    inside, who = after(data, later, orders.at, orders.customer, days)
    return np.bincount(who, minlength=n), np.bincount(who, orders.paid[inside], minlength=n)


def bought_of(data: Data, later: Data, days: int, categories: tuple[str, ...]) -> NDArray[np.bool_]:
    """Whether each customer of `data` bought of each category in the days after it."""
    rows = later.interactions
    inside, who = after(data, later, rows.at, rows.customer, days)
    place = main_category(later.catalog, categories)[rows.item[inside]]
    found = np.zeros((len(data.interactions.customers), len(categories)), bool)
    found[who[place >= 0], place[place >= 0]] = True
    return found


ANSWERS: Mapping[str, Callable[[Array, Array], Array]] = {
    CHURN: lambda orders, money: orders == 0,
    SPEND: lambda orders, money: money,
}


# --- learning -----------------------------------------------------------------------------------------------


def fitted_on(
    name: str,
    parts: Sequence[Examples],
    calibration: Examples,
    days: int,
    categories: tuple[str, ...],
    judged_from: datetime,
) -> tuple[Score, Any]:
    """The score that these windows teach, set right by a later one."""
    x, y = (np.concatenate([getattr(part, of) for part in parts]) for of in ("x", "y"))
    enough(name, replace(parts[0], x=x, y=y), "learn from")
    enough(name, calibration, "calibrate by")
    recipe = TREES[name]
    floor = None if recipe.floor is None else max(float(recipe.floor * x[:, SPENT].mean()), 0.01)
    score = Score(
        horizon=days, link=recipe.link, columns=COLUMNS[name], intercept=0.0, slope=1.0, floor=floor,
        categories=categories if name == CATEGORIES else (), judged_from=judged_from, figures={},
    )  # fmt: skip
    trees = recipe.fit(x, y, COLUMNS[name], score.start(x) if floor else None)
    raw = score.start(calibration.x) + trees.predict(calibration.x, raw_score=True, num_threads=1)
    intercept, slope = line(raw, calibration.y, recipe.link)
    return score.model_copy(update={"intercept": intercept, "slope": slope}), trees


def scored(score: Score, trees: Any, x: Array) -> Array:
    return score.told(score.start(x) + trees.predict(x, raw_score=True, num_threads=1)).astype(np.float64)


def enough(name: str, rows: Examples, what: str) -> None:
    """Raise ScoresRefused where there are too few answers of either kind."""
    some = int((rows.y > 0).sum())
    fewest = min(some, len(rows.y) - some) if name != SPEND else some
    if fewest < FEWEST:
        raise ScoresRefused(f"{OUTCOMES[name]} in the days to {what}: {fewest:,}, at least {FEWEST} needed")


OUTCOMES = {
    CHURN: "customers who came back, or stayed away,",
    SPEND: "customers who spent anything",
    CATEGORIES: "customers who bought of a category, or did not,",
}


# --- keeping ------------------------------------------------------------------------------------------------


def save(folder: Path, outcome: Outcome, about: Mapping[str, str]) -> None:
    """Write the files that serving reads: trees by score, and the manifest."""
    folder.mkdir()
    for name, of in outcome.fitted.items():
        (folder / f"{name}{SUFFIX}").write_text(of.trees.model_to_string())
    manifest = ScoresManifest(
        version=str(outcome.version), data_until=outcome.data_until, **about, data=outcome.data,
        least={name: dict(least) for name, least in LEAST.items()},
        scores={name: of.score for name, of in outcome.fitted.items()}, refused=outcome.refused,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")


def log(registry: "Registry", folder: Path, outcome: Outcome, about: Mapping[str, str]) -> None:
    """A run with every figure, the page and its pictures, and the files themselves."""
    figures = {
        f"{name}.{key}": v for name, of in outcome.fitted.items() for key, v in of.judged.figures.items()
    }
    registry.log_run(
        f"scores {outcome.data_until:%Y-%m-%d}",
        params={
            name: asdict(TREES[name]) | {"horizon": of.score.horizon} for name, of in outcome.fitted.items()
        },
        metrics=figures,
        tags={**about, "data_until": outcome.data_until.isoformat(), "kind": "scores"},
        artifacts={
            "report.json": outcome.as_dict(),
            "scores.html": page(outcome),
            **{
                f"{key}.png": p
                for name, of in outcome.fitted.items()
                for key, p in drawn(name, of.judged).items()
            },
            **{f"scores/{path.name}": path for path in sorted(folder.iterdir())},
        },
    )


def page(outcome: Outcome) -> str:
    """Every score on the days that judged it, on one page."""
    about = {"Data until": told_at(outcome.data_until)}
    about |= {WORDS[name].capitalize(): f"{value:,.0f}" for name, value in outcome.data.items()}
    about |= {f"Refused: {name}": why for name, why in outcome.refused.items()}
    says = "Each learned from earlier windows, was calibrated on a later one, and is judged on days that neither knew."
    parts = (section(name, of.judged, of.score.horizon) for name, of in outcome.fitted.items())
    return page_html("Customers' scores", says, about, parts)
