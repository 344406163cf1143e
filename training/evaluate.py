"""How good lists are: figures of ranked lists, recipes compared, and every placement audited through the engine."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from features.customers import facts
from serving.bundle import Bundle
from serving.engine import Chosen, Engine
from serving.fitted import Candidates, Fitted, Neighbors, held_by, top_k
from serving.index import recall
from serving.schemas import RecommendRequest, RecommendResponse
from training.intervals import Interval, auc_interval, clustered_interval
from training.split import Future, Row, Task, baskets, novel, purchases, sampled

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
CHUNK = 128  # customers whose scores of every item are held at once
RECALL_CUSTOMERS = 200
PRIMARY = ("next_best", "purchases")


# --- figures of ranked lists: hits is bool [questions, k], wanted how many right answers there are -------


def ndcg(hits: Hits, wanted: Counts) -> NDArray[np.float64]:
    """Binary gain discounted by log2(rank + 1), over the best that min(k, wanted) hits could give."""
    discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.append(0, np.cumsum(discount))[np.minimum(hits.shape[1], wanted)]
    return np.divide(hits @ discount, ideal, out=np.zeros(len(hits)), where=ideal > 0)


def recall_at(hits: Hits, wanted: Counts) -> NDArray[np.float64]:
    return np.asarray(hits.sum(axis=1) / np.maximum(wanted, 1))


def hit_rate(hits: Hits, wanted: Counts) -> NDArray[np.float64]:
    return np.asarray(hits.any(axis=1), np.float64)


def mrr(hits: Hits, wanted: Counts) -> NDArray[np.float64]:
    """One over the rank of the first hit, 0 without one."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def average_precision(hits: Hits, wanted: Counts) -> NDArray[np.float64]:
    """Precision at each hit, summed, over min(k, wanted)."""
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / np.maximum(np.minimum(hits.shape[1], wanted), 1)


METRICS: Mapping[str, Callable[[Hits, Counts], NDArray[np.float64]]] = {
    "ndcg": ndcg,
    "recall": recall_at,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "map": average_precision,
}


@dataclass(frozen=True)
class Answers:
    """The lists given to a task's questions: positions [questions, k], −1 where a list is short."""

    task: Task
    lists: NDArray[np.int64]

    @property
    def hits(self) -> Hits:
        pairs = zip(self.lists, self.task.truth, strict=True)
        return np.array([np.isin(row, truth[truth >= 0]) for row, truth in pairs]).reshape(self.lists.shape)

    @property
    def wanted(self) -> Counts:
        return np.array([len(truth) for truth in self.task.truth], np.int64)

    def values(self, metric: str) -> NDArray[np.float64]:
        """One figure a question."""
        return METRICS[metric](self.hits, self.wanted)

    def figure(self, metric: str, *, seed: int) -> Interval:
        """Mean over questions with its interval by bootstrap over customers."""
        return clustered_interval(self.values(metric), self.task.customer, seed=seed)


def padded(rows: Iterable[NDArray[np.integer]], k: int) -> NDArray[np.int64]:
    lists = [np.append(row[:k], np.full(max(0, k - len(row)), -1)) for row in rows]
    return np.array(lists, np.int64).reshape(-1, k)


# --- recipes, by themselves ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aim:
    """What a model by itself is measured by: questions, a figure of the answers, and whether what its customer
    owns may be answered."""

    make: Callable[[Bundle, Future], Task]
    metric: str
    owned: bool = True


AIMS: Mapping[str, Aim] = {
    "purchases": Aim(purchases, "ndcg"),
    "novel": Aim(novel, "ndcg", owned=False),
    "basket": Aim(baskets, "hit_rate"),
}


def answers_of(fitted: Fitted, bundle: Bundle, task: Task, *, owned: bool = True) -> Answers:
    """A model's own top k, without the engine. `owned=False` leaves out what the customer ever bought.

    A model whose scores come from what is held answers by the customer's purchases, or the basket asked with;
    what a basket holds is not in the answer.
    """
    return Answers(task, padded(ranked(fitted, bundle, task, owned), task.k))


def ranked(fitted: Fitted, bundle: Bundle, task: Task, owned: bool) -> Iterator[NDArray[np.int64]]:
    data, n_items = bundle.interactions, len(bundle.catalog)
    for start in range(0, len(task), CHUNK):
        part = slice(start, start + CHUNK)
        who, asked = task.customer[part], task.requests[part]
        held = [
            known_items(bundle, r) if r.product_ids else np.unique(data.item[data.rows(int(c))])
            for r, c in zip(asked, who, strict=True)
        ]
        scores = fitted.of_customers(who, held_by(held, n_items))
        for row, had, request in zip(scores, held, asked, strict=True):
            allowed = bundle.catalog.available & (row > 0 if sparse_scores(fitted) else True)
            if request.product_ids or not owned:
                allowed[had] = False
            yield top_k(row, task.k, allowed)


def known_items(bundle: Bundle, request: RecommendRequest) -> NDArray[np.int32]:
    """Positions of what a request names, of what the bundle knows of it."""
    found = bundle.catalog.items.positions(request.product_ids)
    return np.unique(found[found >= 0])


def sparse_scores(fitted: Fitted) -> bool:
    """Whether a score of 0 means: no candidate."""
    return isinstance(fitted, Neighbors | Candidates)


# --- placements, through the shipped engine -----------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """What one placement answered to one task."""

    placement: str
    task_name: str
    primary: str
    answers: Answers
    figures: dict[str, float]
    intervals: dict[str, Interval]
    stages: dict[str, Interval]
    judges: str = "list"

    @property
    def name(self) -> str:
        return f"{self.placement}.{self.task_name}"

    @property
    def figure_name(self) -> str:
        return f"{self.primary}@{self.answers.task.k}" if self.primary in METRICS else self.primary


def audit(
    engine: Engine, row: Row, future: Future, *, at: datetime, seed: int, most: int | None = None
) -> Audit | None:
    """What the engine answers to one row of AUDITS, at most so many questions; None where there are none."""
    if row.placement not in engine.placements:
        return None
    task = row.make(engine.bundle, future)
    task = task if most is None else sampled(task, most, seed=seed)
    return (
        KINDS[row.judges](lifted(engine, row.placement, row.without), row, task, at=at, seed=seed)
        if len(task)
        else None
    )


def lifted(engine: Engine, placement: str, without: Sequence[str]) -> Engine:
    """The engine itself, or one whose placement does without some of its rules."""
    if not without:
        return engine
    own = engine.placements[placement]
    rules = tuple(rule for rule in own.rules if rule not in without)
    worth = None if "worth" in without else own.worth
    other = copy(engine)
    other.placements = {**engine.placements, placement: replace(own, rules=rules, worth=worth)}
    return other


def audit_task(engine: Engine, row: Row, task: Task, *, at: datetime, seed: int) -> Audit:
    requests = [request.model_copy(update={"limit": task.k}) for request in task.requests]
    responses = engine.recommend_many(row.placement, requests, at=at)
    find = engine.catalog.items.positions
    answers = Answers(task, padded((find([i.product_id for i in r.items]) for r in responses), task.k))
    intervals = {name: answers.figure(name, seed=seed) for name in METRICS}
    figures = {name: i.mean for name, i in intervals.items()} | beside_accuracy(
        engine, row.placement, answers, responses
    )
    figures["accuracy"] = figures[row.primary]
    stages = by_stage(engine.bundle, answers, row.primary, seed=seed)
    return Audit(row.placement, row.task, row.primary, answers, figures, intervals, stages)


def audit_offers(engine: Engine, row: Row, task: Task, *, at: datetime, seed: int) -> Audit:
    """Whom a placement offers something: those who take it? Its lists are judged as they are, the filled apart.

    auc: of the probability that the customer takes a step. offered: share of the questions that got an offer.
    precision: share of these where a step was taken; lift: over the share in all questions.
    """
    made = audit_task(engine, replace(row, primary="hit_rate"), task, at=at, seed=seed)
    own = engine.placements[row.placement]
    asks = [engine.ask(own, request) for request in task.requests]
    known = [engine.likely(own, ask) for ask in asks]
    likely = np.array([p or 0.0 for p in known])
    offered = np.array([engine.enough(own, p) for p in known], np.float64)
    taken, who = made.answers.wanted > 0, task.customer
    intervals = {"auc": auc_interval(likely, taken, who, seed=seed), **made.intervals}
    intervals["offered"] = clustered_interval(offered, who, seed=seed)
    figures = made.figures | {name: intervals[name].mean for name in ("auc", "offered")}
    if offered.any() and taken.any():
        got = offered > 0
        intervals["precision"] = clustered_interval(taken[got].astype(float), who[got], seed=seed)
        figures["precision"] = intervals["precision"].mean
        figures["lift"] = figures["precision"] / float(taken.mean())
    figures["accuracy"] = figures[row.primary]
    stage = stage_of(engine.bundle, who)
    stages = {
        str(s): auc_interval(likely[stage == s], taken[stage == s], who[stage == s], seed=seed)
        for s in np.unique(stage)
    }
    return replace(
        made, primary=row.primary, figures=figures, intervals=intervals, stages=stages, judges=row.judges
    )


def audit_needs(engine: Engine, row: Row, task: Task, *, at: datetime, seed: int) -> Audit:
    """Lists of needs: the same figures as of products; coverage counts needs."""
    code = {need: n for n, need in enumerate(engine.catalog.needs)}
    found = (
        engine.needs(row.placement, r.model_copy(update={"limit": task.k}), at=at).needs
        for r in task.requests
    )
    lists = [np.array([code[n.need] for n in of], np.int64) for of in found]
    answers = Answers(task, padded(lists, task.k))
    intervals = {name: answers.figure(name, seed=seed) for name in METRICS}
    figures = {name: i.mean for name, i in intervals.items()} | beside_needs(engine, row, task, lists)
    figures |= {"accuracy": figures[row.primary], "coverage": float(len(np.unique(answers.lists)))}
    stages = by_stage(engine.bundle, answers, row.primary, seed=seed)
    return Audit(row.placement, row.task, row.primary, answers, figures, intervals, stages, row.judges)


def beside_needs(
    engine: Engine, row: Row, task: Task, lists: Sequence[NDArray[np.int64]]
) -> dict[str, float]:
    """Fullness, and lists that name a need twice, one that the basket serves, or one that nothing serves."""
    own = engine.placements[row.placement]
    needs = engine.needs_of(own)
    asked = [needs.asked(engine.ask(own, request).products) for request in task.requests]
    open_ = [int(needs.served.sum()) - int(needs.served[of].sum()) for of in asked]
    full = [len(of) >= min(task.k, possible) for of, possible in zip(lists, open_, strict=True)]
    wrong = [
        len(set(of.tolist())) < len(of) or np.isin(of, served).any() or not needs.served[of].all()
        for of, served in zip(lists, asked, strict=True)
    ]
    return {"full_lists": float(np.mean(full)), "violations": float(sum(wrong))}


KINDS: Mapping[str, Callable[..., Audit]] = {
    "list": audit_task,
    "needs": audit_needs,
    "offer": audit_offers,
}


def beside_accuracy(
    engine: Engine, placement: str, answers: Answers, responses: Sequence[RecommendResponse]
) -> dict[str, float]:
    """Coverage, exposure, variety, novelty, fullness, and lists that break a rule."""
    shown = answers.lists[answers.lists >= 0]
    filled = [item.filled for response in responses for item in response.items]
    possible = np.array(
        [longest(engine, placement, request, answers.task.k) for request in answers.task.requests]
    )
    lengths = (answers.lists >= 0).sum(axis=1)
    return {
        "coverage": float(len(np.unique(shown))),
        "gini": gini(np.bincount(shown, minlength=len(engine.catalog))[engine.available]),
        "entropy": float(np.mean([entropy(engine.catalog.category[row[row >= 0]]) for row in answers.lists])),
        "novel_share": novel_share(engine.bundle, answers),
        "full_lists": float(np.mean(lengths >= possible)),
        "filled": float(np.mean(filled)) if filled else 0.0,
        "violations": float(sum(map(violations(engine, placement), answers.task.requests, responses))),
    }


def longest(engine: Engine, placement: str, request: RecommendRequest, k: int) -> int:
    """How long a list can be: k, or how many products and style groups are neither excluded nor asked about."""
    allowed = engine.allowed((), engine.ask(engine.placements[placement], request), Chosen())
    group = engine.catalog.group[allowed] if engine.has_groups else np.empty(0, np.int32)
    variants = int((group >= 0).sum()) - len(np.unique(group[group >= 0]))
    return min(k, int(np.count_nonzero(allowed)) - variants)


def violations(engine: Engine, placement: str) -> Callable[..., int]:
    """Counts a list that repeats a product, shows what is unavailable, excluded or asked about, or, outside
    its fill, what its customer owns where the placement forbids it."""
    forbids_owned = "not_owned" in engine.placements[placement].rules

    def broken(request: object, response: RecommendResponse) -> int:
        ids = [item.product_id for item in response.items]
        ask = engine.ask(engine.placements[placement], request)  # type: ignore[arg-type]
        items = engine.catalog.items.positions(ids)
        own = items[[not item.filled for item in response.items]]
        barred = np.concatenate([ask.products, ask.exclude])
        wrong = len(set(ids)) < len(ids) or not engine.available[items].all() or np.isin(items, barred).any()
        return int(wrong or (forbids_owned and np.isin(own, ask.owned).any()))

    return broken


def gini(exposure: NDArray[np.int64]) -> float:
    """0: every product shown alike; 1: one product has it all."""
    n, total = len(exposure), exposure.sum()
    if not total:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(exposure) / (n * total))


def entropy(categories: NDArray[np.int32]) -> float:
    """Bits of category variety within one list."""
    share = np.unique(categories, return_counts=True)[1] / max(1, len(categories))
    return float(-(share * np.log2(share)).sum())


def novel_share(bundle: Bundle, answers: Answers) -> float:
    """Share of shown products that the customer never bought; strangers left out."""
    data = bundle.interactions
    pairs = [
        (row[row >= 0], c) for row, c in zip(answers.lists, answers.task.customer, strict=True) if c >= 0
    ]
    new = [~np.isin(items, data.item[data.rows(int(c))]) for items, c in pairs]
    return float(np.concatenate(new).mean()) if new else 1.0


def by_stage(bundle: Bundle, answers: Answers, metric: str, *, seed: int) -> dict[str, Interval]:
    """The primary figure by the customer's stage at the cutoff; strangers are prospects."""
    stage = stage_of(bundle, answers.task.customer)
    values, who = answers.values(metric), answers.task.customer
    return {
        str(s): clustered_interval(values[stage == s], who[stage == s], seed=seed) for s in np.unique(stage)
    }


def stage_of(bundle: Bundle, customer: NDArray[np.int32]) -> NDArray[np.str_]:
    """The stage of each customer at the cutoff (`features.customers`); −1 is a prospect."""
    return np.append(facts(bundle.interactions, bundle.catalog)["stage"].to_numpy(str), "prospect")[customer]


def index_recall(engine: Engine, *, seed: int) -> dict[str, float]:
    """Recall@10 of each FAISS index that customers ask against exact search, over sampled customers.

    Products ask among all items, by exact search.
    """
    asked = {
        source.model
        for row in engine.placements.values()
        for source in row.asked
        if source.asks == "customer"
    }
    n = len(engine.history.customers)
    who = np.random.default_rng(seed).choice(n, min(n, RECALL_CUSTOMERS), replace=False)
    return {name: recall(index, who) for name, index in engine.indexes.items() if name in asked}


def gate_figures(
    audits: Sequence[Audit], recalls: Mapping[str, float], *, doubt: bool = False
) -> dict[str, dict[str, float]]:
    """Place → figure → value, as the gate weighs them.

    With `doubt` a placement's accuracy is the upper end of its interval: a rail breaks only where even that
    is too low, as a few hundred questions cannot tell 5 % apart.
    """
    indexes = {f"index.{name}": {"index_recall": value} for name, value in recalls.items()}
    placed = {
        a.name: a.figures | ({"accuracy": a.intervals[a.primary].high} if doubt else {}) for a in audits
    }
    return placed | indexes
