"""How customers' scores did on days that they were not learned from, beside plain guesses at the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from features.behaviour import CATEGORY, CUSTOMER, LONG
from serving.scores import CATEGORIES, CHURN, SPEND, SPENT, Score
from training import card
from training.intervals import Interval, auc, auc_intervals, paired_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
RESAMPLES = {"customers": 1_000, "pairs": 200}  # of an interval
FEWEST_IN_CATEGORY = 20  # who bought of it and who did not, below which it has no AUC


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to judge by. customer, category: places; new: who had never bought of it."""

    x: Array
    y: Array
    customer: Array
    category: Array
    new: Array


@dataclass(frozen=True)
class Judged:
    """How a score did on the days that judged it, beside a plain guess at the same.

    deciles: of tenths by the score, (mean score, mean truth, rows). by_category: (customers who bought of it for the
    first time, AUC of the score, of the last purchase, of the score among whom it is new, of breadth among these).
    """

    figures: dict[str, float]
    intervals: dict[str, Interval]
    deciles: tuple[tuple[float, float, int], ...]
    by_category: dict[str, tuple[float, ...]] = field(default_factory=dict)


def line(raw: Array, y: Array, link: str) -> tuple[float, float]:
    """(intercept, slope) of the generalised linear model of y on what trees say: logistic, or Poisson by a logarithm.

    By Newton's steps, each halved until it leads downhill, and a little drawn to (0, 1), so that there is an answer
    where one of them is never right.
    """
    x = np.column_stack([np.ones(len(raw)), raw])
    usual = np.array([0.0, 1.0])

    def loss(at: Array) -> float:
        eta = np.clip(x @ at, -30, 30)
        total = np.logaddexp(0, eta) if link == "logit" else np.exp(eta)
        return float((total - y * eta).sum() + ((at - usual) ** 2).sum() / 2)

    found, now = usual, loss(usual)
    for _ in range(100):
        eta = np.clip(x @ found, -30, 30)
        mean = 1 / (1 + np.exp(-eta)) if link == "logit" else np.exp(eta)
        weight = mean * (1 - mean) if link == "logit" else mean
        slope = x.T @ (y - mean) - (found - usual)
        step = np.linalg.solve(x.T @ (x * weight[:, None]) + np.eye(2), slope)
        while (then := loss(found + step)) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        found, now = found + step, then
        if np.abs(step).max() <= 1e-9:
            break
    return float(found[0]), float(found[1])


def judge_churn(predicted: Array, held: Examples, score: Score, seed: int) -> Judged:
    recency = held.x[:, CUSTOMER.index("recency")]
    intervals = auc_intervals(
        {"auc": predicted, "recency": recency},
        held.y,
        held.customer,
        seed=seed,
        resamples=RESAMPLES["customers"],
    )
    return Judged(calibration(predicted, held.y) | means(intervals), intervals, deciles(predicted, held.y))


def calibration(predicted: Array, y: Array) -> dict[str, float]:
    """How far probabilities come true: slope and intercept of the truth on their logit, 1 and 0 where they do."""
    inside = np.clip(predicted, 1e-6, 1 - 1e-6)
    intercept, slope = line(np.log(inside / (1 - inside)), y, "logit")
    return {
        "calibration_slope": slope, "calibration_intercept": intercept, "mean": float(predicted.mean()),
        "share": float(y.mean()), "brier": float(((predicted - y) ** 2).mean()), "rows": float(len(y)),
    }  # fmt: skip


def means(intervals: Mapping[str, Interval]) -> dict[str, float]:
    return {name.replace(" − ", "_above_"): i.mean for name, i in intervals.items()}


def judge_spend(predicted: Array, held: Examples, score: Score, seed: int) -> Judged:
    """Beside what was spent in the last LONG days, for as many days as the horizon has."""
    guess = held.x[:, SPENT].astype(np.float64) * score.horizon / LONG
    figures = {"mean": float(predicted.mean()), "share": float(held.y.mean()), "rows": float(len(held.y))}
    for name, of in (("", predicted), ("naive_", guess)):
        tenths = [actual for _, actual, _ in deciles(of, held.y)]
        figures |= {
            f"{name}rmse": float(np.sqrt(((of - held.y) ** 2).mean())),
            f"{name}mae": float(np.abs(of - held.y).mean()),
            f"{name}rising_steps": float(sum(a <= b for a, b in pairwise(tenths))),
            f"{name}rank_correlation": float(spearmanr(of, held.y).statistic),
        }
    figures["calibration_slope"] = line(np.log(np.maximum(predicted, 1e-6)), held.y, "log")[1]
    gain = paired_interval((guess - held.y) ** 2, (predicted - held.y) ** 2, seed=seed)
    return Judged(figures, {"squared error less than naive": gain}, deciles(predicted, held.y))


def judge_categories(predicted: Array, held: Examples, score: Score, seed: int) -> Judged:
    """Within each category beside how lately it was bought; among those never bought also beside how popular each is
    with whom it is new, and how many categories the customer buys of."""
    last, popular, wide = (
        held.x[:, CATEGORY.index(name)] for name in ("own.last", "everybody.added", "customer.categories_90")
    )
    every, new = np.ones(len(held.y), bool), held.new
    asked = [(every, {"auc": predicted, "last_bought": -last})]
    if 0 < held.y[new].sum() < new.sum():
        asked.append((new, {"new_auc": predicted, "new_popularity": popular, "new_breadth": wide}))
    intervals = {
        name: found
        for rows, scores in asked
        for name, found in auc_intervals(
            {name: of[rows] for name, of in scores.items()}, held.y[rows], held.customer[rows],
            seed=seed, resamples=RESAMPLES["pairs"],
        ).items()
    }  # fmt: skip
    by_category = {
        f"{name}_by_category": within(of, held, rows)
        for rows, scores in asked
        for name, of in scores.items()
        if name != "new_popularity"  # it is one figure within a category
    }
    figures = {name: float(np.nanmean(of)) for name, of in by_category.items() if np.isfinite(of).any()}
    if len(asked) > 1:
        figures["new_calibration_slope"] = calibration(predicted[new], held.y[new])["calibration_slope"]
    first = np.bincount(held.category[new], held.y[new], minlength=len(score.categories))
    columns = zip(first.astype(int).tolist(), *(of.tolist() for of in by_category.values()), strict=True)
    return Judged(
        calibration(predicted, held.y) | means(intervals) | figures, intervals, deciles(predicted, held.y),
        dict(zip(score.categories, columns, strict=True)),
    )  # fmt: skip


def within(of: Array, held: Examples, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The AUC among the customers of each category; NaN where too few bought of it, or did not."""
    found = np.full(int(held.category.max()) + 1, np.nan)
    for place in range(len(found)):
        mask = rows & (held.category == place)
        right = held.y[mask].astype(bool)
        if min(right.sum(), (~right).sum()) >= FEWEST_IN_CATEGORY:
            level = np.unique(of[mask], return_inverse=True)[1]
            found[place] = auc(level, right, np.ones(len(right)))
    return found


def deciles(predicted: Array, y: Array) -> tuple[tuple[float, float, int], ...]:
    """(mean score, mean truth, rows) of ten equal parts by the score, the lowest first."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), 10)
    return tuple((float(predicted[p].mean()), float(y[p].mean()), len(p)) for p in parts if len(p))


JUDGES: Mapping[str, Callable[[Array, Examples, Score, int], Judged]] = {
    CHURN: judge_churn,
    SPEND: judge_spend,
    CATEGORIES: judge_categories,
}


# --- a page of it -------------------------------------------------------------------------------------------


class Words(NamedTuple):
    """What a score is called and says, what became true, its figure, that of the plain guess, and by how much it is
    better."""

    title: str
    says: str
    truth: str
    figure: str
    guess: str
    gain: str


TOLD: Mapping[str, Words] = {
    CHURN: Words("Churn", "probability of no order", "share without an order", "auc", "recency", "auc − recency"),
    SPEND: Words("Spend", "expected spend", "mean spend", "rmse", "naive_rmse", "squared error less than naive"),
    CATEGORIES: Words(
        "Categories", "probability of buying of it", "share who did", "new_auc", "new_popularity",
        "new_auc − new_popularity",
    ),
}  # fmt: skip
SAYS: Mapping[str, str] = {
    CHURN: "How likely a customer makes no order within the horizon, beside the days since the last order alone.",
    SPEND: "What customers are expected to spend within the horizon, beside what they spent in the last 90 days.",
    CATEGORIES: "How likely a customer buys of a main category within the horizon, beside how lately they did; of "
    "categories that they never bought of (new), beside how popular these are with whom they are new, and how many "
    "categories they buy of.",
}


def in_words(name: str, of: Judged) -> tuple[str, str, str, str]:
    """(figure, that of the plain guess, by how much it is better, calibration slope), each by its name."""
    words, gain = TOLD[name], of.intervals.get(TOLD[name].gain)
    label, slope = words.figure.replace("_", " "), f"{of.figures['calibration_slope']:.2f}"
    if gain is None:
        return f"{label} –", "–", "–", slope
    sure = f"{gain.mean:,.3f} [{gain.low:,.3f}, {gain.high:,.3f}]".replace("-", "−")
    return f"{label} {of.figures[words.figure]:,.3f}", f"{of.figures[words.guess]:,.3f}", sure, slope


def drawn(name: str, of: Judged) -> dict[str, "Figure"]:
    """Pictures of one score's tenths, by file name."""
    from training import plots

    title, says, truth, *_ = TOLD[name]
    return {
        f"{name}.calibration": plots.calibrated(of.deciles, title=title, about=says, truth=truth),
        f"{name}.lift": plots.lift(of.deciles, title=title, truth=truth),
    }


def section(name: str, of: Judged, horizon: int) -> "card.Section":
    title, says, truth, *_ = TOLD[name]
    figures = tuple((key.replace("_", " "), card.number(value)) for key, value in of.figures.items())
    sure = tuple((key.replace("_", " "), card.figure(i)) for key, i in of.intervals.items())
    tenths = tuple((f"{n:,}", card.number(a), card.number(b)) for a, b, n in of.deciles)
    tables = [
        card.Table(("", "mean, 95 % interval"), sure, "Beside a plain guess"),
        card.Table(("", "figure"), figures, "Figures"),
        card.Table(("rows", says, truth), tenths, "Tenths by the score, the lowest first"),
    ]
    if of.by_category:
        head = ("main category", "bought it first", "AUC", "last bought", "AUC, new", "breadth, new")
        rows = tuple((path, *map(card.number, row)) for path, row in of.by_category.items())
        tables.append(card.Table(head, rows, "By category"))
    pictures = tuple(card.picture(key, figure) for key, figure in drawn(name, of).items())
    return card.Section(f"{title}, {horizon} days", SAYS[name], tuple(tables), pictures)
