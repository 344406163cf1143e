"""Which of the programs that could write to a customer today may: a table of policies, which say how likely it was."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from features.experiments import BUCKETS, bucket
from lifecycle.ledger import Past
from lifecycle.programs import Cap, Program


class Rival(NamedTuple):
    """A message that may be written: the place of its row, its program, when it became ripe."""

    row: int
    program: Program
    ripe: float


class Chosen(NamedTuple):
    row: int
    probability: float


class Stage(NamedTuple):
    """What a choice may look at: one customer, the moment of the run, and the programs that claim the customer by
    having written lately."""

    customer: str
    at: datetime
    seed: str
    claims: frozenset[str] = frozenset()


Choose = Callable[[Stage, Sequence[Rival]], Chosen | None]


def rank(program: Program, ripe: float) -> tuple[int, str, float]:
    """By which the fixed priority orders messages, the first first."""
    return -program.priority, program.name, ripe


def by_priority(stage: Stage, rivals: Sequence[Rival]) -> Chosen | None:
    """The highest priority, of equals the name that comes first, of one program the ripest."""
    first = min(rivals, key=lambda rival: rank(rival.program, rival.ripe), default=None)
    return Chosen(first.row, 1.0) if first else None


def at_random(stage: Stage, rivals: Sequence[Rival]) -> Chosen | None:
    """Each as likely as the others, by a hash of seed, moment, customer and program."""
    if not rivals:
        return None
    draw = bucket(f"{stage.seed}|{stage.at.isoformat()}|{len(rivals)}", stage.customer)
    ordered = sorted(rivals, key=lambda rival: (rival.program.name, rival.ripe))
    return Chosen(ordered[draw * len(rivals) // BUCKETS].row, 1 / len(rivals))


def one_story(stage: Stage, rivals: Sequence[Rival]) -> Chosen | None:
    """By priority; but while a program that claims a customer for days has just written, it alone may."""
    return by_priority(stage, [r for r in rivals if not stage.claims or r.program.name in stage.claims])


def claims(programs: Mapping[str, Program], past: Past, at: datetime) -> frozenset[str]:
    """The programs that wrote to a customer so lately that they claim them."""
    return frozenset(
        name
        for name, last in past.last.items()
        if name in programs and at - last < timedelta(days=programs[name].exclusive_days)
    )


POLICIES: Mapping[str, Choose] = {"priority": by_priority, "random": at_random, "exclusive": one_story}


def full(caps: Sequence[Cap], days: Sequence[date], day: date) -> Cap | None:
    """The first cap that leaves no room for a message of a day. Messages of later days count, too, so that no stretch
    of days ever holds more than a cap allows."""
    return next(
        (cap for cap in caps if sum(abs((other - day).days) < cap.days for other in days) >= cap.most), None
    )
