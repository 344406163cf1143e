"""What each program is worth to whom, learned from what was chosen and what came of it.

The reward of a decision is what this customer brings without a message, plus what the chosen program adds to that:

    reward = base · z + [a message] (all · y + own_k · x) + noise

x is the context, beginning with a 1; z is x with the programs that were eligible, as who has left a cart buys more than
others, written to or not; y is x and whether this program wrote lately. Silence adds nothing: programs are worth what
they add to it. All coefficients have normal priors around 0, and what is one program's own is so drawn to what all
programs have in common. How wide the priors of each kind of coefficient are is learned (MacKay 1992): where customers
do not differ, what programs are worth to one kind of customer shrinks to nothing, and what is left is a plain mean a
program. The learner needs sums alone, so that a hundred thousand decisions are fitted in a fraction of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Array = NDArray[np.float64]
SILENCE = "silence"  # the arm that stands first
DRAWS = 200
BOLDNESS = 0.5  # of the spread of what is believed, with which it is drawn: less looks around less
HALF_LIFE = 26.0  # weeks
ROUNDS = 25
BELIEF = 4.0  # coefficients that the guesses below count for
GUESSES = {"base": 0.5, "all": 0.3, "own": 0.2, "with": 0.05}  # of standard deviations, in mean rewards
CAP = 0.995  # of the rewards above 0: what is above this quantile counts as it


@dataclass(frozen=True)
class Rows:
    """Decisions: aligned arrays.

    x: context, its first column 1, float64 [n, d]. eligible: [n, 1 + programs], silence first. again: whether the
    program wrote lately, [n, 1 + programs]. chosen: place of the arm. probability: how likely it was. reward, weight.
    """

    x: Array
    eligible: NDArray[np.bool_]
    again: NDArray[np.bool_]
    chosen: NDArray[np.int64]
    probability: Array
    reward: Array
    weight: Array

    def __len__(self) -> int:
        return len(self.x)

    def where(self, rows: Any) -> "Rows":
        return Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Sums:
    """All that is learned from of some decisions, by the chosen arm: weights, and the weighted sums of (z, again) with
    themselves and with the reward. Sums of two sets of decisions add up to those of both."""

    count: Array  # [arms]
    grams: Array  # [arms, u, u]
    cross: Array  # [arms, u]
    square: float
    width: int  # of x

    @classmethod
    def of(cls, rows: Rows) -> "Sums":
        arms = rows.eligible.shape[1]
        u = np.column_stack([rows.x, rows.eligible[:, 1:], rows.again[np.arange(len(rows)), rows.chosen]])
        weighted, by = u * rows.weight[:, None], [rows.chosen == arm for arm in range(arms)]
        return cls(
            np.array([rows.weight[which].sum() for which in by]),
            np.array([weighted[which].T @ u[which] for which in by]),
            np.array([weighted[which].T @ rows.reward[which] for which in by]),
            float(rows.weight @ rows.reward**2),
            rows.x.shape[1],
        )

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count, self.grams + other.grams, self.cross + other.cross,
            self.square + other.square, self.width,
        )  # fmt: skip

    def times(self, share: float) -> "Sums":
        return replace(
            self, count=self.count * share, grams=self.grams * share, cross=self.cross * share,
            square=self.square * share,
        )  # fmt: skip

    @property
    def mean(self) -> float:
        """The mean reward."""
        return float(self.cross[:, 0].sum() / max(self.count.sum(), 1e-12))


@dataclass(frozen=True)
class Belief:
    """What is believed of the coefficients: normal, with this mean and precision.

    mean: [base, all, own_1, … own_P]. upper: Cholesky factor of the precision. spread: of each kind of coefficient the
    standard deviation of its prior; noise: that of a reward.
    """

    mean: Array
    upper: Array
    spread: dict[str, float]
    noise: float
    width: int
    programs: int

    def effects(self, mean: Array) -> Array:
        """Of coefficients [..., D] what each program adds: [..., P, d + 1], for x and whether it wrote lately."""
        d, base = self.width, self.width + self.programs
        shared = mean[..., base : base + d + 1]
        own = mean[..., base + d + 1 :].reshape(*mean.shape[:-1], self.programs, d)
        padded = np.concatenate([own, np.zeros((*own.shape[:-1], 1))], axis=-1)
        return np.asarray(shared[..., None, :] + padded)

    def base(self) -> Array:
        return self.mean[: self.width + self.programs]

    def draw(self, draws: int, rng: np.random.Generator) -> NDArray[Any]:
        """What programs add by so many draws: float32 [draws, P, d + 1]."""
        free = solve_triangular(self.upper, rng.standard_normal((len(self.mean), draws)), check_finite=False)
        return self.effects(self.mean + BOLDNESS * free.T).astype(np.float32)


def assembled(sums: Sums) -> tuple[Array, Array]:
    """The normal equations of all coefficients: ([D, D], [D])."""
    d, programs = sums.width, len(sums.count) - 1
    base, size = d + programs, d + programs + d + 1 + programs * d
    left, right = np.zeros((size, size)), np.zeros(size)
    left[:base, :base] = sums.grams[:, :base, :base].sum(axis=0)
    right[:base] = sums.cross[:, :base].sum(axis=0)
    for arm in range(1, programs + 1):
        # where the coefficients stand that this arm uses, and which of its sums go with them
        own = slice(base + d + 1 + (arm - 1) * d, base + d + 1 + arm * d)
        at = np.r_[base : base + d + 1, own]
        of = np.r_[0:d, base, 0:d]
        left[np.ix_(at, at)] += sums.grams[arm][np.ix_(of, of)]
        crossed = sums.grams[arm][:base][:, of]
        left[:base, at] += crossed
        left[at, :base] += crossed.T
        right[at] += sums.cross[arm][of]
    return left, right


def kinds(width: int, programs: int) -> NDArray[np.str_]:
    """Of each coefficient its kind, whose prior it has: "flat" for what everybody brings."""
    base = ["flat", *["base"] * (width - 1 + programs)]
    shared, own = ["all", *["with"] * width], ["own", *["with"] * (width - 1)]
    return np.array([*base, *shared, *own * programs])


def fit(sums: Sums) -> Belief:
    """What these decisions teach. Nothing in it is by chance."""
    width, programs = sums.width, len(sums.count) - 1
    left, right = assembled(sums)
    kind, total = kinds(width, programs), max(float(sums.count.sum()), 1.0)
    scale = abs(sums.mean) or 1.0
    noise = max(sums.square / total - sums.mean**2, (0.01 * scale) ** 2)
    guess = {name: (share * scale) ** 2 for name, share in GUESSES.items()}
    spread = {**guess, "flat": (1e3 * scale) ** 2}
    for _ in range(ROUNDS):
        prior = 1 / np.array([spread[name] for name in kind])
        factor = cho_factor(left / noise + np.diag(prior), check_finite=False)
        mean = cho_solve(factor, right / noise, check_finite=False)
        # of each coefficient how much of it the decisions told, 0 to 1
        told = 1 - prior * inverse_diagonal(factor[0])
        for name, own in guess.items():
            which = kind == name
            spread[name] = (mean[which] @ mean[which] + BELIEF * own) / (told[which].sum() + BELIEF)
        residual = sums.square - 2 * mean @ right + mean @ left @ mean
        noise = max(residual / max(total - told.sum(), 1.0), (0.01 * scale) ** 2)
    return Belief(
        mean, np.triu(factor[0]), {name: float(np.sqrt(of)) for name, of in spread.items()},
        float(np.sqrt(noise)), width, programs,
    )  # fmt: skip


def inverse_diagonal(upper: Array) -> Array:
    """The diagonal of (UᵀU)⁻¹."""
    inverse = solve_triangular(np.triu(upper), np.eye(len(upper)), check_finite=False)
    return np.asarray((inverse**2).sum(axis=1))


def capped(reward: Array, quantile: float = CAP) -> Array:
    """Rewards, the few largest of which count as less, as a single one would outweigh hundreds."""
    above = reward[reward > 0]
    return np.minimum(reward, np.quantile(above, quantile)) if len(above) else reward


def summed(rows: Rows) -> Sums:
    """What is learned from a week's decisions."""
    return Sums.of(replace(rows, reward=capped(rows.reward)))


def faded(sums: Sequence[Sums], ages: Sequence[float]) -> Sums:
    """One of several weeks', each counting half as much for every HALF_LIFE that it is older."""
    parts = [part.times(0.5 ** (age / HALF_LIFE)) for part, age in zip(sums, ages, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
