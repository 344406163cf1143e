"""Whether what `osclms lift` says is true: worlds whose truth is known, measured by the code that ships.

    python -m benchmarks.proof                     everything, an hour on one core
    python -m benchmarks.proof --runs 100 --customers 5000 20000    less of it
    python -m benchmarks.proof --write docs/measuring.md

A generated world (`features.worlds`) says how likely each customer orders within a week alone, and how large their
orders are. Both potential outcomes of each customer are drawn from it; an arm drawn by chance
says which one is seen.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from features.chance import Chance
from features.lives import people, responses
from features.worlds import World
from lifecycle.measure.groups import leaked
from lifecycle.measure.lift import Lift, Reals, compare, ratio

SIZES, SHARES, BUYERS = (5_000, 20_000, 100_000), (0.05, 0.1, 0.2, 0.5), (0.005, 0.02, 0.05)
DEFAULT = (20_000, 0.1)
EFFECTS = (0.0, 0.1, 0.5)
RUNS, DRAWS = 2_000, 399
LEAKS = (0.0, 0.02, 0.05, 0.2)
START, END = "<!-- proof -->", "<!-- /proof -->"
PRICE = 12.0  # of a line
VISIT = 0.9  # deviation of the logarithm of an order's value, beside its customer's own size


@dataclass(frozen=True)
class Shop:
    """Customers of a generated world: chance of an order in a week without a message, and the mean value of theirs."""

    alone: Reals
    size: Reals

    @classmethod
    def of(cls, customers: int, buyers: float, seed: int = 7) -> "Shop":
        """`buyers`: the share of customers who order within a week."""
        world = World(customers=customers, products=100, seed=seed, customer_spread=0.6)
        them = people(world, np.arange(customers))
        alone, _, _ = responses(world, them, "cross_sell")
        return cls(scaled(alone, buyers), PRICE * them.size * world.basket)

    def __len__(self) -> int:
        return len(self.alone)

    def outcomes(self, effect: float, seed: int) -> tuple[Reals, Reals]:
        """(spend of each customer were all treated, were none): the effect comes half by more buyers, half by larger
        orders. Who buys without a message buys with one, too."""
        chance, who, more = Chance(seed), np.arange(len(self)), (1 + effect) ** 0.5
        luck = chance.uniform("buys", who)
        value = self.size * np.exp(VISIT * chance.normal("value", who))
        return (
            np.where(luck < np.minimum(self.alone * more, 1), value * more, 0),
            np.where(luck < self.alone, value, 0),
        )


def scaled(alone: Reals, buyers: float) -> Reals:
    """The same customers, so rare that this share of them buys: hazards are scaled, in some steps."""
    hazard = -np.log1p(-alone)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if -np.expm1(-middle * hazard).mean() < buyers else (low, middle)
    return np.asarray(-np.expm1(-low * hazard))


class Case(NamedTuple):
    customers: int
    share: float
    buyers: float
    effect: float

    def __str__(self) -> str:
        return f"{self.customers:,} | {self.share:.0%} | {self.buyers:.1%} | {self.effect:+.0%}"


class Told(NamedTuple):
    """What many runs of a case came to."""

    case: Case
    runs: int
    refused: int
    losses: int  # rejections by sign
    wins: int
    covered: int
    welch: int

    @property
    def judged(self) -> int:
        return self.runs - self.refused

    def part(self, count: int) -> float:
        return count / max(self.judged, 1)


# --- 1 and 2: A/A tests, and true effects ---------------------------------------------------------------------


def arms(customers: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Who is of the control, as a new seed would draw them."""
    return np.asarray(np.random.default_rng([seed, 1]).random(customers) < share)


def experiment(shop: Shop, case: Case, seed: int, draws: int) -> tuple[Lift, float, float]:
    """(what the shipped code says, the truth for these very customers, Welch's p-value)."""
    treated, alone = shop.outcomes(case.effect, seed)
    held = arms(len(shop), case.share, seed)
    found = compare(treated[~held], alone[held], seed=seed, draws=draws)
    welch = 1.0
    if not found.refused:
        welch = float(stats.ttest_ind(treated[~held], alone[held], equal_var=False).pvalue)
    return found, float(treated.mean() - alone.mean()), welch


def tried(case: Case, runs: int = RUNS, draws: int = DRAWS, seed: int = 0) -> Told:
    shop, counts = Shop.of(case.customers, case.buyers), np.zeros(5, np.int64)
    for run in range(runs):
        found, truth, welch = experiment(shop, case, seed + run, draws)
        if found.ci95 is None or found.p is None or found.difference is None:
            counts[0] += 1
            continue
        low, high = found.ci95
        rejects = found.p <= 0.05
        counts[1:] += (rejects and found.difference < 0, rejects and found.difference > 0, low <= truth <= high,
                       welch <= 0.05)  # fmt: skip
    done = Told(case, runs, *map(int, counts))
    print(done, file=sys.stderr, flush=True)
    return done


def cases(effects: Sequence[float], sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    for effect in effects:
        for customers in sizes:
            for share in SHARES:
                for buyers in BUYERS:
                    yield Case(customers, share, buyers, effect)


# --- 3: the ratio alarm ---------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    what: str
    runs: int
    alarms: int


def alarms(customers: int, share: float, lost: float, side: str, runs: int, seed: int = 0) -> Sizes:
    """Alarms where one side lost this share of its customers."""
    found = 0
    for run in range(runs):
        held = arms(customers, share, seed + run)
        hit = held if side == "control" else ~held
        there = ~(hit & (np.random.default_rng([seed + run, 2]).random(customers) < lost))
        control = int((held & there).sum())
        found += ratio((int(there.sum()) - control, control), (1 - share, share)).alarm
    says = f"{lost:.0%} of the {side} lost" if lost else "nothing lost"
    return Sizes(f"{customers:,}, control {share:.0%}: {says}", runs, found)


def sizes(clean: int = 1_000, lossy: int = 100) -> Iterator[Sizes]:
    for customers, share in ((50_000, 0.5), (200_000, 0.1)):
        for side in ("control", "treated"):
            yield alarms(customers, share, 0.05, side, lossy)
        yield alarms(customers, share, 0.0, "control", clean)


# --- 4: a control that leaks ----------------------------------------------------------------------------------


class Leak(NamedTuple):
    share: float
    runs: int
    alarms: int
    shrunk: float  # the mean difference, as a part of the true one


def leaking(share: float, runs: int, *, customers: int = 20_000, seed: int = 0) -> Leak:
    """A control of which this share gets the messages: how often it is told, and what becomes of the difference."""
    case = Case(customers, 0.2, 0.05, 0.5)
    shop, alarms, found, true = Shop.of(customers, case.buyers), 0, 0.0, 0.0
    for run in range(runs):
        treated, alone = shop.outcomes(case.effect, seed + run)
        held = arms(customers, case.share, seed + run)
        reached = held & Chance(seed + run).happens(share, "leak", np.arange(customers))
        seen = np.where(held & ~reached, alone, treated)
        alarms += leaked(int(held.sum()), int((held & reached).sum()))["alarm"]
        found += float(seen[~held].mean() - seen[held].mean())
        true += float(treated.mean() - alone.mean())
    return Leak(share, runs, alarms, found / true)


# --- the report -----------------------------------------------------------------------------------------------


def per_cent(value: float) -> str:
    return f"{100 * value:.1f} %"


def lift_table(found: Sequence[Told]) -> str:
    rows = [
        "| customers | control | buyers | true effect | refused | rejected: losses | wins | together | Welch's t | "
        "intervals that cover |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for of in found:
        parts = (
            per_cent(of.part(n)) for n in (of.losses, of.wins, of.losses + of.wins, of.welch, of.covered)
        )
        cells = [per_cent(of.refused / of.runs), *(parts if of.judged else ["–"] * 5)]
        rows.append(f"| {of.case} | {' | '.join(cells)} |")
    return "\n".join(rows)


def sizes_table(found: Sequence[Sizes]) -> str:
    rows = [
        "| customers | runs | alarms |",
        "|---|--:|--:|",
        *(f"| {s.what} | {s.runs:,} | {s.alarms} |" for s in found),
    ]
    return "\n".join(rows)


def leak_table(found: Sequence[Leak]) -> str:
    rows = [
        "| control that was treated after all | runs | told | difference found, of the true one |",
        "|--:|--:|--:|--:|",
    ]
    return "\n".join(
        [*rows, *(f"| {of.share:.0%} | {of.runs} | {of.alarms} | {of.shrunk:.2f} |" for of in found)]
    )


def faults(
    aa: Sequence[Told], effects: Sequence[Told], sized: Sequence[Sizes], leaky: Sequence[Leak]
) -> list[str]:
    """Goals that were missed, a line each. A case of which more than half is refused is told, not judged."""
    judged = [of for of in aa if of.judged * 2 > of.runs]
    said = [f"A/A {of.case}: {per_cent(of.part(of.losses + of.wins))} rejected" for of in judged
            if not 0.035 <= of.part(of.losses + of.wins) <= 0.065]  # fmt: skip
    said += [f"{of.case}: {per_cent(of.part(of.covered))} covered" for of in effects
             if of.judged * 2 > of.runs and of.part(of.covered) < 0.93]  # fmt: skip
    said += [f"{of.case}: {per_cent(of.refused / of.runs)} refused" for of in (*aa, *effects)
             if of.case[:2] == DEFAULT and of.refused > 0.05 * of.runs]  # fmt: skip
    said += [f"{of.what}: {of.alarms} alarms of {of.runs}" for of in sized
             if (of.alarms > 0.005 * of.runs if "nothing" in of.what else of.alarms < 0.98 * of.runs)]  # fmt: skip
    said += [f"leak of {of.share:.0%}: told {of.alarms} of {of.runs}" for of in leaky
             if of.alarms != (of.runs if of.share else 0)]  # fmt: skip
    return said


def text(
    aa: Sequence[Told], effects: Sequence[Told], sized: Sequence[Sizes], leaky: Sequence[Leak], took: float
) -> str:
    missed = faults(aa, effects, sized, leaky)
    every, refused = (sum(getattr(of, name) for of in (*aa, *effects)) for name in ("runs", "refused"))
    parts = (
        f"{every:,} experiments, {refused:,} of them refused, in {took / 60:.0f} minutes.",
        "Goals missed: " + ("none." if not missed else "; ".join(missed) + "."),
        "### A/A tests", lift_table(aa), "### True effects", lift_table(effects),
        "### Sizes of arms", sizes_table(sized), "### Leaky controls", leak_table(leaky),
    )  # fmt: skip
    return "\n\n".join(parts)


def written(path: Path, said: str) -> None:
    """Put it between the two marks of a page."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n\n{said}\n\n{END}{after}", encoding="utf-8")


def spread(task: Callable[[Case], Told], of: Sequence[Case], processes: int) -> list[Told]:
    if processes < 2:
        return [task(case) for case in of]
    with get_context("spawn").Pool(processes) as pool:
        return pool.map(task, of, chunksize=1)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--runs", type=int, default=RUNS)
    asked.add_argument("--customers", type=int, nargs="+", default=list(SIZES))
    asked.add_argument("--processes", type=int, default=1)
    asked.add_argument("--write", type=Path)
    given = asked.parse_args()
    began = time.perf_counter()
    task = partial(tried, runs=given.runs)
    aa = spread(task, list(cases((0.0,), given.customers)), given.processes)
    effects = spread(task, list(cases(EFFECTS[1:], given.customers)), given.processes)
    sized = list(sizes(max(given.runs // 2, 1), min(max(given.runs // 20, 1), 100)))
    leaky = [leaking(share, min(given.runs, 100)) for share in LEAKS]
    said = text(aa, effects, sized, leaky, time.perf_counter() - began)
    print(said)
    if given.write:
        written(given.write, said)
    return 1 if faults(aa, effects, sized, leaky) else 0


if __name__ == "__main__":
    raise SystemExit(main())
