"""What does a policy that learns lose against one that knows? In made-up shops, half a year long.

    python -m benchmarks.regret --write docs/choosing.md

Customers of a made-up shop can be written to by some of seven programs each week. What a program changes, the shop
knows and no policy does: the truth is what everybody would have brought on average, whatever they bought by chance.
Learner, policy and draws are those that ship (`lifecycle.choose`); a reward is learned from two weeks after its
decision. Each policy lives its own half-year: who writes more has customers who are more tired.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky

from benchmarks.quality import write
from features.customers import STAGES
from lifecycle.choose.context import FEATURES, SIDES, encoded
from lifecycle.choose.learner import DRAWS, SILENCE, Array, Rows, Sums, faded, fit, summed
from lifecycle.choose.policy import Policy, picked

WEEKS, PROGRAMS, DELAY = 26, 7, 2
SIZES, SEEDS = (1_000, 4_000, 20_000), 10
MARGIN, TAIL = 10.0, 1.0  # mean of what they bring, its logarithm's deviation
FLOOR = 0.01
MARKS = ("<!-- figures of make bench-choose -->", "<!-- end of figures -->")


@dataclass(frozen=True)
class World:
    """differ: how far a program's worth differs among customers, as a standard deviation of the share that it changes;
    unlike: the same of what customers bring anyway (in logarithms); tired: the share that each message of the last
    four weeks takes; buyers: the share who buy within a window, untouched; turns: whether programs are worth something
    else after week 13; new: the week from which the best program is there."""

    differ: float
    unlike: float = 0.5
    tired: float = 0.03
    buyers: float = 0.15
    turns: bool = False
    new: int = 0


WORLDS: Mapping[str, World] = {
    "strong": World(differ=0.30),
    "weak": World(differ=0.10),
    "none": World(differ=0.0, unlike=0.0, tired=0.0),
    "drift": World(differ=0.15, turns=True),
    "new": World(differ=0.10, new=10),
    "rare": World(differ=0.10, buyers=0.05),
}


@dataclass
class Shop:
    """A world with its customers, at one time: what it is like is drawn once, what happens is drawn week by week."""

    world: World
    columns: dict[str, NDArray[Any]]
    usual: Array  # of each customer the chance to buy, untouched
    worth: tuple[Array, Array]  # [PROGRAMS, FEATURES] of the share that a program adds, in each half
    open: Array  # of each customer and program how likely it could write in a week
    sent: NDArray[np.int64]  # the arm of the last four weeks, [n, 4], 0 silence
    rng: np.random.Generator

    @classmethod
    def of(cls, world: World, size: int, seed: int) -> "Shop":
        rng = np.random.default_rng([seed, 1])
        columns = {
            "stage": rng.choice(len(STAGES), size, p=[0.05, 0.15, 0.25, 0.25, 0.12, 0.13, 0.05]),
            **{name: rng.integers(1, 4, size) for name in "rfm"},
            "side": rng.integers(0, SIDES, size),
        }
        scores = np.column_stack([columns[name] for name in "rfm"]) - 2.0
        lift = world.unlike * (scores @ [0.6, 0.6, 0.3] + 0.3 * rng.standard_normal(size))
        usual = world.buyers * np.exp(lift) / np.exp(lift).mean()
        halves = tuple(worths(world, rng) for _ in range(2))
        # two of the programs write to those who buy more anyway
        keen = np.where(np.arange(PROGRAMS) < 2, 1.0, 0.0) * (world.unlike > 0)
        odds = -0.2 + rng.normal(0, 0.4, PROGRAMS) + keen * lift[:, None] / max(world.unlike, 1e-9)
        return cls(
            world, columns, usual, (halves[0], halves[1] if world.turns else halves[0]), 1 / (1 + np.exp(-odds)),
            np.zeros((size, 4), np.int64), np.random.default_rng([seed, 2]),
        )  # fmt: skip

    def week(self, week: int) -> "Week":
        """Who could be written to by what, and what each arm is worth to them."""
        written = self.sent > 0
        messages = written.sum(axis=1)
        since = np.where(written.any(axis=1), 7.0 * (1 + written.argmax(axis=1)), np.inf)
        x = encoded(self.columns | {"rest": since, "messages": messages})
        eligible = np.column_stack([np.ones(len(x), bool), self.rng.random(self.open.shape) < self.open])
        eligible[:, PROGRAMS] &= week >= self.world.new
        again = (self.sent[:, :, None] == np.arange(PROGRAMS + 1)).any(axis=1)
        again[:, 0] = False
        still = x.copy()
        still[:, FEATURES.index("rest") :] = 0  # who is tired is told apart, below
        change = still @ self.worth[week >= WEEKS // 2].T - self.world.tired * messages[:, None]
        buys = self.usual[:, None] * np.clip(1 + np.column_stack([np.zeros(len(x)), change]), 0, None)
        return Week(x, eligible, again, np.minimum(buys, 1))

    def goes_on(self, week: "Week", chosen: NDArray[np.int64], probability: Array) -> Rows:
        rows = np.arange(len(chosen))
        bought = self.rng.random(len(rows)) < week.buys[rows, chosen]
        spent = MARGIN * np.exp(TAIL * self.rng.standard_normal(len(rows)) - TAIL**2 / 2)
        self.sent = np.column_stack([chosen, self.sent[:, :-1]])
        return Rows(
            week.x, week.eligible, week.again, chosen, probability, bought * spent, np.ones(len(rows))
        )


def worths(world: World, rng: np.random.Generator) -> Array:
    """What programs add, by feature: a mean of each, and of three features of each how it hangs on them."""
    worth = np.zeros((PROGRAMS, len(FEATURES)))
    worth[:, 0] = rng.normal(0.10, 0.20, PROGRAMS)
    if world.new:
        worth[-1, 0] = max(worth[:, 0].max() + 0.1, 0.4)
    for program in range(PROGRAMS):
        for name in rng.choice(
            ("recency", "frequency", "money", "stage lapsed", "stage new", "favourite 1"), 3, False
        ):
            scale = (
                1.2 if name in ("recency", "frequency", "money") else 2.5
            )  # one over its standard deviation
            worth[program, FEATURES.index(name)] = rng.normal(0, world.differ * scale / np.sqrt(3))
    return worth


@dataclass(frozen=True)
class Week:
    x: Array
    eligible: NDArray[np.bool_]
    again: NDArray[np.bool_]
    buys: Array  # [n, arms], the chance to buy


# --- policies ---------------------------------------------------------------------------------------------

Player = Callable[
    [Week, Sequence[Rows], int], Array
]  # what is known of a week, and of the past -> probabilities
Watch = Callable[[Array, NDArray[np.bool_], NDArray[np.int64]], None]


def oracle(week: Week, past: Sequence[Rows], seed: int) -> Array:
    return certain(np.where(week.eligible, week.buys, -1).argmax(axis=1))


def at_random(week: Week, past: Sequence[Rows], seed: int) -> Array:
    return np.asarray(week.eligible / week.eligible.sum(axis=1, keepdims=True))


def certain(arm: NDArray[np.int64]) -> Array:
    return np.eye(PROGRAMS + 1)[arm]


def fixed(order: Sequence[int]) -> Player:
    """The first of these programs that is eligible; silence where none is."""

    def play(week: Week, past: Sequence[Rows], seed: int) -> Array:
        ranked = week.eligible[:, list(order)]
        return certain(np.where(ranked.any(axis=1), np.array(order)[ranked.argmax(axis=1)], 0))

    return play


ARMS = (SILENCE, *(f"program {place}" for place in range(1, PROGRAMS + 1)))


class Learner:
    """What ships, on sums week by week. `blind`: it sees no context and nothing of who else was eligible."""

    def __init__(self, *, blind: bool = False) -> None:
        self.blind, self.sums = blind, list[Sums]()

    def __call__(self, week: Week, past: Sequence[Rows], seed: int) -> Array:
        self.sums += [summed(self.seen(rows)) for rows in past[len(self.sums) :]]
        ages = [float(age) for age in range(len(self.sums), 0, -1)]
        belief = fit(faded(self.sums, ages)) if self.sums else None
        features = FEATURES[:1] if self.blind else FEATURES
        policy = Policy.of(belief, ARMS, features, floor=FLOOR, seed=seed)
        again = week.again & (not self.blind)
        return policy.probabilities(week.x[:, : len(features)], week.eligible, again)

    def seen(self, rows: Rows) -> Rows:
        return replace(rows, x=rows.x[:, :1], again=rows.again & False) if self.blind else rows


class Linear:
    """Thompson sampling with a linear model for each arm, each by itself: LinTS (Agrawal & Goyal 2013)."""

    def __init__(self) -> None:
        self.sums = list[Sums]()

    def __call__(self, week: Week, past: Sequence[Rows], seed: int) -> Array:
        self.sums += [summed(rows) for rows in past[len(self.sums) :]]
        if not self.sums:
            return at_random(week, past, seed)
        total = faded(self.sums, [0.0] * len(self.sums))
        noise, rng, width = total.square / total.count.sum(), np.random.default_rng(seed), total.width
        worth = np.full((*week.eligible.shape, DRAWS), -np.inf)
        for arm in range(PROGRAMS + 1):
            upper = cholesky(total.grams[arm][:width, :width] / noise + np.eye(width))
            mean = np.linalg.solve(upper.T @ upper, total.cross[arm][:width] / noise)
            drawn = mean[:, None] + np.linalg.solve(upper, rng.standard_normal((width, DRAWS)))
            worth[:, arm] = np.where(week.eligible[:, arm, None], week.x @ drawn, -np.inf)
        best = worth.argmax(axis=1)
        share = np.stack([(best == arm).mean(axis=1) for arm in range(PROGRAMS + 1)], axis=1)
        count = week.eligible.sum(axis=1, keepdims=True)
        return np.where(week.eligible, FLOOR + (1 - FLOOR * count) * share, 0.0)


def players(world: World, size: int, seed: int) -> dict[str, Player]:
    """All that are compared; fixed priorities by what programs are truly worth on average in the first half-year's
    middle, so that the best is the best that nobody could have known."""
    shop = Shop.of(world, size, seed)
    worth = np.mean(
        [shop.week(week).buys.mean(axis=0)[1:] for week in (WEEKS // 4, WEEKS - WEEKS // 4)], axis=0
    )
    best = (np.argsort(-worth) + 1).tolist()
    return {
        "random": at_random, "oracle": oracle, "learned": Learner(), "without context": Learner(blind=True),
        "LinTS": Linear(), "best priority": fixed(best), "worst priority": fixed(best[::-1]),
    }  # fmt: skip


# --- half a year ------------------------------------------------------------------------------------------


def lived(world: World, size: int, seed: int, player: Player, watch: Watch = lambda p, e, c: None) -> float:
    """What the decisions of half a year were worth on average, in money a customer and week."""
    shop, past, worth = Shop.of(world, size, seed), list[Rows](), 0.0
    for number in range(WEEKS):
        week = shop.week(number)
        probability = player(week, past[: max(number - DELAY + 1, 0)], seed * 1_000 + number)
        chosen = picked(probability, shop.rng.random(size))
        rows = np.arange(size)
        worth += MARGIN * float(week.buys[rows, chosen].mean()) / WEEKS
        watch(probability, week.eligible, chosen)
        past.append(shop.goes_on(week, chosen, probability[rows, chosen]))
    return worth


def gained(world: World, size: int, seed: int, names: Sequence[str] = ()) -> dict[str, float]:
    """Of the gap from random to oracle the share that each player takes; `gap`: how wide it is, in the random one's."""
    found = {
        name: lived(world, size, seed, player)
        for name, player in players(world, size, seed).items()
        if not names or name in names
    }
    low, gap = found["random"], found["oracle"] - found["random"]
    return {name: (of - low) / gap for name, of in found.items()} | {"gap": gap / low}


def table(sizes: Sequence[int], seeds: int, worlds: Sequence[str]) -> str:
    """Means over seeds with their standard errors, in Markdown."""
    names = ("learned", "without context", "LinTS", "best priority", "worst priority", "gap")
    lines = [f"| world | customers a week | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for world in worlds:
        for size in sizes:
            found = [gained(WORLDS[world], size, seed) for seed in range(seeds)]
            of = {name: np.array([one[name] for one in found]) for name in names}
            cells = [f"{v.mean():.2f} ± {v.std(ddof=1) / np.sqrt(len(v)):.2f}" for v in of.values()]
            lines.append(f"| {world} | {size:,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=tuple(WORLDS))
    parser.add_argument("--write", type=Path, help="a page, into whose marked part the table goes")
    asked = parser.parse_args()
    began = perf_counter()
    told = table(asked.sizes, asked.seeds, asked.worlds)
    print(f"{(perf_counter() - began) / 60:.0f} minutes")
    if asked.write:
        write(asked.write, told, MARKS)


if __name__ == "__main__":
    main()
