"""What a policy that was never tried would have brought, from decisions of which it is known how likely they were.

Three estimates of its mean reward a decision, w being how much likelier the policy was to choose what was chosen:

    IPS    mean(w · reward)                                     Horvitz & Thompson 1952
    SNIPS  sum(w · reward) / sum(w)                             Hájek 1971; Swaminathan & Joachims 2015
    DR     mean(model of the policy + w · (reward − model))     Dudík, Langford & Li 2011

The model is the learner's mean, fitted without the customers whom it judges. Where the policy tells how likely the
chosen arm was, and not the others, the model is one of the customer alone, which is as unbiased, as w is 1 on average.
Intervals are normal ones around it, of sums by customer. What rests on few decisions is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.experiments import bucket
from lifecycle.choose.learner import Array, Rows, fit, summed

LEAST, FEW = 100, 1_000  # decisions that the effective sample size is held against
FOLDS = 5
Z = 1.959964


class ChooseError(ValueError):
    """A log of choices cannot be judged; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A mean reward a decision with its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """What a policy would have brought. effective: the effective sample size, sum(w)² / sum(w²); mean_weight is about 1
    where the logged probabilities are right. estimates is empty where `refused` says why."""

    policy: str
    decisions: int
    effective: float
    mean_weight: float
    largest_weight: float
    logged: Estimate  # what the decisions brought as they were made
    estimates: Mapping[str, Estimate]
    refused: str | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judged(name: str, rows: Rows, who: Sequence[str], target: Array, *, whole: bool = True) -> Judged:
    """Judge a policy by rows that it might have chosen otherwise. who: the customer of each. target: how likely each
    arm is under the policy, [n, arms]; not `whole`: of the chosen arm alone, in its column.

    Raises ChooseError without rows, or where the policy chooses what was never possible.
    """
    if not len(rows):
        raise ChooseError("there are no decisions to judge by")
    if (rows.probability <= 0).any():
        raise ChooseError("a decision was made that was impossible: its probability is 0")
    place, groups = np.arange(len(rows)), np.unique(np.asarray(who), return_inverse=True)[1]
    weight = target[place, rows.chosen] / rows.probability
    effective = float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0
    about: dict[str, Any] = {
        "policy": name, "decisions": len(rows), "effective": effective, "mean_weight": float(weight.mean()),
        "largest_weight": float(weight.max()), "logged": around(rows.reward, groups),
    }  # fmt: skip
    if effective < LEAST:
        why = f"the effective sample size is {effective:.0f}, below {LEAST}: the log says too little of this policy"
        return Judged(**about, estimates={}, refused=why)
    model, expected = modelled(rows, who, target, whole)
    found = {
        "IPS": around(weight * rows.reward, groups),
        "SNIPS": ratio(weight, rows.reward, groups),
        "DR": around(expected + weight * (rows.reward - model), groups),
    }
    return Judged(**about, estimates=found, warnings=tuple(warned(effective, weight, groups)))


def warned(effective: float, weight: Array, groups: NDArray[np.int64]) -> list[str]:
    mean, told = around(weight, groups), list[str]()
    if effective < FEW:
        told.append(f"the effective sample size is {effective:.0f}, below {FEW:,}: intervals are rough")
    if not mean.low <= 1 <= mean.high and abs(mean.value - 1) > 0.02:
        told.append(
            f"weights average {mean.value:.3f} and not 1: the logged probabilities are wrong, or the policy chooses "
            "what was never chosen"
        )
    return told


def around(values: Array, groups: NDArray[np.int64]) -> Estimate:
    """The mean, with an interval that takes a customer's decisions as one."""
    mean = float(values.mean())
    return interval(mean, values - mean, groups, float(len(values)))


def ratio(weight: Array, reward: Array, groups: NDArray[np.int64]) -> Estimate:
    mean = float(weight @ reward / weight.sum())
    return interval(mean, weight * (reward - mean), groups, float(weight.sum()))


def interval(mean: float, parts: Array, groups: NDArray[np.int64], total: float) -> Estimate:
    sums = np.bincount(groups, weights=parts)
    count = len(sums)
    error = float(np.sqrt((sums**2).sum() * count / max(count - 1, 1))) / total
    return Estimate(mean, mean - Z * error, mean + Z * error)


def modelled(rows: Rows, who: Sequence[str], target: Array, whole: bool) -> tuple[Array, Array]:
    """(what the model expects of the chosen arm, what it expects of the policy), of each row by the other customers."""
    fold = np.array([bucket("fold", name) % FOLDS for name in who])
    chosen, policy = np.zeros(len(rows)), np.zeros(len(rows))
    for one in np.unique(fold):
        mine = fold == one
        if mine.all():
            continue
        expected = predicted(fit(summed(rows.where(~mine))), rows.where(mine))
        if whole:
            chosen[mine] = expected[np.arange(mine.sum()), rows.chosen[mine]]
            policy[mine] = (expected * target[mine]).sum(axis=1)
        else:
            chosen[mine] = policy[mine] = (expected * rows.eligible[mine]).sum(axis=1) / rows.eligible[
                mine
            ].sum(axis=1)
    return chosen, policy


def predicted(belief: Any, rows: Rows) -> Array:
    """The reward that is expected of each arm, [n, arms]."""
    effects = belief.effects(belief.mean)
    base = np.column_stack([rows.x, rows.eligible[:, 1:]]) @ belief.base()
    added = rows.x @ effects[:, :-1].T + rows.again[:, 1:] * effects[:, -1]
    return np.asarray(base[:, None] + np.column_stack([np.zeros(len(rows)), added]))


# --- policies that can be asked about ---------------------------------------------------------------------


def chance(rows: Rows, arms: Sequence[str], order: Sequence[str]) -> Array:
    return np.asarray(rows.eligible / rows.eligible.sum(axis=1, keepdims=True))


def silence(rows: Rows, arms: Sequence[str], order: Sequence[str]) -> Array:
    return only(np.zeros(len(rows), np.int64), len(arms))


def priority(rows: Rows, arms: Sequence[str], order: Sequence[str]) -> Array:
    """The first in the order that is eligible; silence where none is. Raises ChooseError for a name that is in none."""
    if missing := sorted(set(arms[1:]) - set(order)):
        raise ChooseError(
            f"no program is called {', '.join(missing)}: a fixed priority cannot be told of the log's arms"
        )
    ranked = [arms.index(name) for name in order if name in arms]
    found = rows.eligible[:, ranked]
    return only(np.where(found.any(axis=1), np.array(ranked)[found.argmax(axis=1)], 0), len(arms))


def only(arm: NDArray[np.int64], arms: int) -> Array:
    return np.eye(arms)[arm]


TARGETS: Mapping[str, Callable[[Rows, Sequence[str], Sequence[str]], Array]] = {
    "priority": priority, "random": chance, "silence": silence,
}  # fmt: skip


def judged_by_name(
    name: str, rows: Rows, who: Sequence[str], arms: Sequence[str], order: Sequence[str]
) -> Judged:
    """One of TARGETS. Raises ChooseError for another name, too."""
    if name not in TARGETS:
        raise ChooseError(f"no policy is called {name!r}; known: {', '.join(TARGETS)}")
    return judged(name, replace(rows, weight=np.ones(len(rows))), who, TARGETS[name](rows, list(arms), order))
