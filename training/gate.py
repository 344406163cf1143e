"""The gate: may this candidate become champion? Figures in, a verdict and its reasons out."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from operator import eq, ge

import numpy as np
from numpy.typing import ArrayLike

from training.intervals import Interval, paired_interval

FEWEST_CUSTOMERS = 30

Figures = Mapping[str, Mapping[str, float]]
"""What an audit measured: placement (or `index`) → figure → value."""


class Exit(IntEnum):
    """How `osclms train` ends; 2 is a wrong command line, which typer answers itself."""

    PROMOTED = 0
    FAILED = 1
    KEPT = 3
    BUSY = 4


@dataclass(frozen=True)
class Contest:
    """Against whom a candidate has to prove itself, and by how much.

    `bound` is a share of the rival's mean: the whole 95 % interval of the difference must lie above it. A new
    configuration must be better. The old one on newer data need only not be worse: it is wanted because the
    data is newer, which the past cannot show. So where both get nothing right at all, the newer one wins.
    """

    rival: str
    bound: float


FIRST = Contest("Popular", 0.0)
CHANGED = Contest("the champion", 0.0)
REFRESHED = Contest("the champion", -0.02)


def contest_of(candidate: object, champion: object | None) -> Contest:
    """Which contest two configurations make; None: there is no champion. They are compared as JSON."""
    if champion is None:
        return FIRST
    return REFRESHED if _as_json(candidate) == _as_json(champion) else CHANGED


@dataclass(frozen=True)
class Guard:
    """A figure that must hold at every place that measured it, and at one place at least.

    With `of_champion` the bound is a share of the champion's figure on the same past: every place where the
    champion has the figure needs it, and places that it does not have pass. NaN holds nowhere.
    """

    name: str
    figure: str
    relation: str
    bound: float
    of_champion: bool = False


RELATIONS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "≥": (ge, "below"),
    "=": (eq, "not"),
}

GUARDS = (
    Guard("share of full lists", "full_lists", "≥", 0.99),
    Guard("lists that break a rule", "violations", "=", 0),
    Guard("recall@10 of the index", "index_recall", "≥", 0.95),
    Guard("coverage", "coverage", "≥", 0.5, of_champion=True),
    Guard("accuracy", "accuracy", "≥", 0.95, of_champion=True),
)


@dataclass(frozen=True)
class Check:
    """One thing that the gate looked at, as half a sentence."""

    holds: bool
    says: str


@dataclass(frozen=True)
class Comparison:
    """Candidate and rival on the same customers."""

    metric: str
    candidate: float
    rival: float
    difference: Interval

    def __str__(self) -> str:
        return f"{self.metric} {self.rival:.4f} → {self.candidate:.4f}, difference {self.difference}"


@dataclass(frozen=True)
class Verdict:
    """`checks` holds all that was looked at; the reason tells what decided."""

    promote: bool
    reason: str
    comparison: Comparison | None
    checks: tuple[Check, ...]


def decide(
    contest: Contest,
    *,
    metric: str,
    candidate: ArrayLike,
    rival: ArrayLike,
    figures: Figures,
    champion_figures: Figures | None = None,
    guards: tuple[Guard, ...] = GUARDS,
    also: tuple[Check, ...] = (),
    seed: int,
) -> Verdict:
    """Weigh the primary metric of the same customers, row by row, then every guard-rail, then `also`.

    `champion_figures` are the champion's on the same past; None: there is no champion.
    """
    enough = _enough(len(np.asarray(candidate)))
    compared = compare(metric, candidate, rival, seed=seed) if enough.holds else None
    first = _won(contest, compared) if compared else enough
    railed = (check for guard in guards for check in guarded(guard, figures, champion_figures))
    checks = (first, *railed, *also)
    failed = [check.says for check in checks if not check.holds]
    reason = f"kept: {'; '.join(failed)}" if failed else f"promoted: {first.says}"
    return Verdict(not failed, reason, compared, checks)


def compare(metric: str, candidate: ArrayLike, rival: ArrayLike, *, seed: int) -> Comparison:
    difference = paired_interval(candidate, rival, seed=seed)
    return Comparison(metric, _mean(candidate), _mean(rival), difference)


def guarded(guard: Guard, figures: Figures, champion: Figures | None) -> Iterator[Check]:
    """The checks that one guard-rail makes, a place each."""
    if guard.of_champion:
        for place, theirs in _measured(champion or {}, guard.figure):
            bound = guard.bound * theirs
            yield _guard_check(
                guard, place, figures, bound, f", {_short(100 * guard.bound)} % of the champion's"
            )
        return
    places = [place for place, _ in _measured(figures, guard.figure)]
    if not places:
        yield Check(False, f"{guard.name} was not measured anywhere")
    for place in places:
        yield _guard_check(guard, place, figures, guard.bound, "")


def _guard_check(guard: Guard, place: str, figures: Figures, bound: float, note: str) -> Check:
    ours = figures.get(place, {}).get(guard.figure)
    if ours is None:
        return Check(False, f"{place}: {guard.name} was not measured, as it was for the champion")
    holds, otherwise = RELATIONS[guard.relation]
    if holds(ours, bound):
        return Check(True, f"{place}: {guard.name} {_short(ours)} {guard.relation} {_short(bound)}{note}")
    return Check(False, f"{place}: {guard.name} {_short(ours)} is {otherwise} {_short(bound)}{note}")


def _measured(figures: Figures, figure: str) -> list[tuple[str, float]]:
    return [(place, values[figure]) for place, values in figures.items() if figure in values]


def _enough(customers: int) -> Check:
    if customers >= FEWEST_CUSTOMERS:
        return Check(True, f"{customers} customers were measured")
    return Check(
        False, f"{customers} customers are too few to tell, {FEWEST_CUSTOMERS} are needed: load more data"
    )


def _won(contest: Contest, compared: Comparison) -> Check:
    low, bound = compared.difference.low, contest.bound * compared.rival
    if contest.bound == 0:
        holds, wanted = low > 0, "above 0"
    else:
        share = f"{_short(100 * contest.bound)} % of the rival's"
        holds, wanted = low >= bound, f"at least {_short(bound)}, {share}"
    return Check(holds, f"{compared} is {'' if holds else 'not '}{wanted}, against {contest.rival}")


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, dtype=np.float64).mean())


def _short(value: float) -> str:
    return f"{value + 0.0:.4g}".replace("-", "−")  # adding 0.0 takes the sign off a zero


def _as_json(configuration: object) -> object:
    return json.loads(json.dumps(configuration, default=str))
