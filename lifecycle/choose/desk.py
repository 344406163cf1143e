"""One customer's choice: which group chooses for them, how likely each arm is, which one it is, and what is put on
record of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from features.experiments import uniform
from features.judge import Row
from lifecycle.choose.context import again_of, as_text, columns_of, encoded
from lifecycle.choose.learner import SILENCE, Array
from lifecycle.choose.policy import Policy, picked
from lifecycle.programs import Choosers


class Asked(NamedTuple):
    """What is chosen among: `arms` are the eligible programs by priority, the first first; silence is one without
    being named. who: the id that says which group the customer is of."""

    customer: str
    who: str
    channel: str
    arms: Sequence[str]
    context: Mapping[str, Any]


class Choice(NamedTuple):
    chooser: str
    arm: str
    probability: float
    eligible: Mapping[str, float]  # every arm that could have been chosen, and how likely that was
    policy: str


@dataclass(frozen=True)
class Desk:
    """Chooses for all customers of a run, the same however often it is asked."""

    policy: Policy
    choosers: Choosers
    seed: str
    at: datetime

    def choose(self, asked: Asked) -> Choice:
        chooser = group_of(self.seed, asked.who, self.choosers)
        eligible = CHOOSERS[chooser](self.policy, asked)
        names = sorted(eligible)
        draw = uniform(f"choose|{self.seed}|{self.at.isoformat()}|{asked.channel}", asked.customer)
        place = int(picked(np.array([[eligible[name] for name in names]]), np.array([draw]))[0])
        version = self.policy.version if chooser == "learned" else chooser
        return Choice(chooser, names[place], eligible[names[place]], eligible, version)

    def row(self, asked: Asked, choice: Choice, *, held: bool, now: datetime) -> Row:
        return {
            "run_at": self.at, "customer_id": asked.customer, "channel": asked.channel, "chooser": choice.chooser,
            "arm": choice.arm, "probability": choice.probability,
            "eligible": json.dumps({name: round(p, 9) for name, p in choice.eligible.items()}, separators=(",", ":")),
            "context": as_text(asked.context), "policy": choice.policy, "seed": self.seed, "held": held,
            "received_at": now,
        }  # fmt: skip


def group_of(seed: str, customer: str, shares: Choosers) -> str:
    """Who chooses for a customer: by a hash, so that nobody moves."""
    names = tuple(CHOOSERS)
    share = np.array([[getattr(shares, name) for name in names]])
    return names[int(picked(share, np.array([uniform(f"choosers|{seed}", customer)]))[0])]


def by_learning(policy: Policy, asked: Asked) -> dict[str, float]:
    x = encoded(columns_of([asked.context]))
    may = {SILENCE, *asked.arms}
    eligible = np.array([[arm in may for arm in policy.arms]])
    found: Array = policy.probabilities(x, eligible, again_of([asked.context], policy.arms))[0]
    return {arm: float(p) for arm, p, yes in zip(policy.arms, found, eligible[0], strict=True) if yes}


def by_chance(policy: Policy, asked: Asked) -> dict[str, float]:
    names = (SILENCE, *asked.arms)
    return dict.fromkeys(names, 1 / len(names))


def by_priority(policy: Policy, asked: Asked) -> dict[str, float]:
    return {SILENCE: 0.0, **{name: float(not place) for place, name in enumerate(asked.arms)}}


def by_silence(policy: Policy, asked: Asked) -> dict[str, float]:
    return {SILENCE: 1.0, **dict.fromkeys(asked.arms, 0.0)}


CHOOSERS: Mapping[str, Callable[[Policy, Asked], dict[str, float]]] = {
    "learned": by_learning, "random": by_chance, "priority": by_priority, "silence": by_silence,
}  # fmt: skip
