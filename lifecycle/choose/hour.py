"""At which hour a message goes out: by when people click, in slots of two hours by the customer's own clock.

A message that was sent counts as clicked where a person clicked it within WITHIN of its hour. How much a slot adds is a
factor on how often the customer clicks anyway, shrunk from the customer's own to their stage's, from there to
everybody's, and from there to 1: a gamma prior of so many expected clicks at each step, as is usual for rates of rare
events (Gelman et al., Bayesian Data Analysis, 2.6). Slots are chosen by Thompson sampling from it, none less likely
than the floor, and how likely each was is put on record with the message.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from features.experiments import draw, uniform
from features.history import History
from features.interactions import seconds
from lifecycle.choose.estimate import ChooseError, Judged, judged, only
from lifecycle.choose.learner import Array, Rows
from lifecycle.choose.policy import picked
from lifecycle.hours import hours, local
from lifecycle.ledger import MESSAGE, Names
from lifecycle.measure.signs import acts, signs
from lifecycle.programs import Policy, Program
from serving.store import DATA, DECISIONS, Store

SLOT = 2  # hours
SLOTS = 24 // SLOT
WITHIN = timedelta(days=3)  # after a message's hour in which a click of it counts
LOOK = timedelta(weeks=52)  # messages before that are forgotten
EVERYBODY, STAGE, OWN = 20.0, 20.0, 5.0  # expected clicks that what is more general counts for
MESSAGES = 10.0  # of a customer's own rate: so many of everybody's
DRAWS = 200
D, SENT = DATA[DECISIONS.name].c, DATA["deliveries"].c


@dataclass(frozen=True)
class Clicks:
    """Messages that went out at an hour that was chosen, a row each: who, of which stage, in which slot, was it
    clicked; and for a look back the slots that were open and how likely each was, [n, SLOTS]."""

    customer: Sequence[str]
    stage: Sequence[str]
    slot: NDArray[np.int64]
    clicked: Array
    likely: Array = field(default_factory=lambda: np.zeros((0, SLOTS)))

    def __len__(self) -> int:
        return len(self.slot)


class Slot(NamedTuple):
    """A part of a day in which a message may go out."""

    number: int
    begin: datetime
    end: datetime


class Chosen(NamedTuple):
    send_at: datetime
    record: str  # JSON


@dataclass(frozen=True)
class Hours:
    """What was learned. effects: draws of how much more often a message is clicked in each slot, by stage and (None) of
    everybody, [DRAWS, SLOTS]; own: by customer the clicks and the expected clicks of each slot, [2, SLOTS]."""

    effects: Mapping[str | None, Array]
    own: Mapping[str, Array]
    floor: float
    seed: str

    @cached_property
    def version(self) -> str:
        """A name of all that decides."""
        told = json.dumps(
            [self.floor, self.seed, [str(stage) for stage in self.effects], [*self.own]]
        ).encode()
        arrays = b"".join(
            np.ascontiguousarray(of).tobytes() for of in (*self.effects.values(), *self.own.values())
        )
        return hashlib.blake2b(told + arrays, digest_size=6).hexdigest()

    def probabilities(self, customer: str, stage: str | None, slots: Sequence[int]) -> Array:
        """How likely each of these slots is: float64 [len(slots)], of a sum of 1."""
        places = np.array(slots)
        worth = self.effects.get(stage, self.effects[None])[:, places]
        if (own := self.own.get(customer)) is not None:
            clicks, expected = own[:, places]
            rng = np.random.default_rng(draw(f"hours|{self.seed}", customer))
            worth = rng.gamma(clicks + OWN * worth) / (expected + OWN)
        best = np.bincount(worth.argmax(axis=1), minlength=len(places)) / len(worth)
        floor = min(self.floor, 1 / len(places))
        return np.asarray(floor + (1 - floor * len(places)) * best)

    def choose(self, customer: str, stage: str | None, slots: Sequence[Slot], key: str) -> Chosen:
        """The slot of a message and a moment in it, the same however often it is asked for. `key`: which message."""
        likely = self.probabilities(customer, stage, [slot.number for slot in slots])
        place = int(picked(likely[None, :], np.array([uniform(f"hour|{self.seed}|{key}", customer)]))[0])
        slot = slots[place]
        whole = int((slot.end - slot.begin).total_seconds())
        late = int(uniform(f"minute|{self.seed}|{key}", customer) * whole)
        told = {
            "slot": slot.number, "stage": stage, "policy": self.version,
            "eligible": {s.number: round(float(p), 9) for s, p in zip(slots, likely, strict=True)},
        }  # fmt: skip
        return Chosen(slot.begin + timedelta(seconds=late), json.dumps(told, separators=(",", ":")))


# --- when it could go out ---------------------------------------------------------------------------------


def open_slots(program: Program, rules: Policy, send_at: datetime, zone: ZoneInfo) -> list[Slot]:
    """The slots of the day of `send_at`, from then on, in which the program may write, by the customer's clock."""
    day = send_at.astimezone(zone).date()
    first, last = (local(day, clock, zone) for clock in hours(program, rules))
    found = []
    for number in range(SLOTS):
        begin, end = local(day, time(number * SLOT), zone), beginning(day, number + 1, zone)
        begin, end = max(begin, first, send_at), min(end, last)
        if begin < end:
            found.append(Slot(number, begin, end))
    return found


def beginning(day: Any, number: int, zone: ZoneInfo) -> datetime:
    return (
        local(day, time(number * SLOT), zone)
        if number < SLOTS
        else local(day + timedelta(days=1), time(), zone)
    )


# --- learning ---------------------------------------------------------------------------------------------


def learned(clicks: Clicks, *, floor: float, seed: str) -> Hours:
    """What these messages teach. Without any every slot is as good as the others."""
    rng = np.random.default_rng(draw("hours", seed) % 2**63)
    names, who = np.unique(np.asarray(clicks.customer, object), return_inverse=True)
    stages, stage = np.unique(np.asarray(clicks.stage, object).astype(str), return_inverse=True)
    sent = np.bincount(who, minlength=len(names)).astype(float)
    own = np.bincount(who, clicks.clicked, len(names))
    rate = float(clicks.clicked.mean()) if len(clicks) else 0.0
    base = ((own + MESSAGES * rate) / (sent + MESSAGES))[who]
    everybody = cells(np.zeros(len(clicks), np.int64), clicks, base, 1)[0]
    all_draws = rng.gamma(np.broadcast_to(everybody[0] + EVERYBODY, (DRAWS, SLOTS))) / (
        everybody[1] + EVERYBODY
    )
    effects: dict[str | None, Array] = {None: all_draws}
    for name, (of, expected) in zip(stages, cells(stage, clicks, base, len(stages)), strict=True):
        effects[str(name)] = rng.gamma(of + STAGE * all_draws) / (expected + STAGE)
    told = cells(who, clicks, base, len(names))
    return Hours(effects, dict(zip(names.tolist(), told, strict=True)), floor, seed)


def cells(group: NDArray[np.int64], clicks: Clicks, base: Array, groups: int) -> Array:
    """Clicks and expected clicks of each group in each slot: [groups, 2, SLOTS]."""
    place = group * SLOTS + clicks.slot
    both = [np.bincount(place, of, groups * SLOTS).reshape(groups, SLOTS) for of in (clicks.clicked, base)]
    return np.stack(both, axis=1)


def matured(store: Store, history: History, names: Names, at: datetime) -> Clicks:
    """The messages before a moment whose clicks are all known, by the last event that is."""
    last = history.known_span()[1]
    until = min(at, last or at) - WITHIN
    wanted = (
        sa.select(D.customer_id, D.message_id, D.send_at, D.hour)
        .where(D.hour.is_not(None), D.outcome == MESSAGE, D.send_at <= until, D.send_at > at - LOOK)
        .where(D.message_id.in_(sa.select(SENT.message_id).where(SENT.state == "sent")))
        .order_by(D.seq)
    )
    rows = list(store.select(wanted))
    messages = [row[1] for row in rows]
    frame = pd.DataFrame({"message_id": messages, "customer": messages, "outcome": MESSAGE})
    when = np.array([seconds(row[2]) for row in rows], np.int64)
    clicked = np.zeros(len(rows))
    if rows:
        found = signs(acts(store, history, at - LOOK), frame, messages)["clicked"]
        own = found.owner >= 0
        owner, moment = found.owner[own], found.at[own]
        timely = (moment >= when[owner]) & (moment < when[owner] + int(WITHIN.total_seconds()))
        clicked[owner[timely]] = 1.0
    told = [json.loads(row[3]) for row in rows]
    likely = np.zeros((len(rows), SLOTS))
    for place, of in enumerate(told):
        for slot, share in of["eligible"].items():
            likely[place, int(slot)] = share
    return Clicks(
        [names.own(row[0]) for row in rows], [str(of["stage"]) for of in told],
        np.array([of["slot"] for of in told], np.int64), clicked, likely,
    )  # fmt: skip


# --- telling ----------------------------------------------------------------------------------------------


def reported(clicks: Clicks) -> dict[str, Any]:
    """How often messages were clicked by slot, and what other ways of choosing it would have brought.

    Raises ChooseError without messages.
    """
    if not len(clicks):
        raise ChooseError(
            f"no message of a program with `send_hour: learned` was sent {WITHIN.days} days ago or before"
        )
    sent, clicked = (np.bincount(clicks.slot, of, SLOTS) for of in (np.ones(len(clicks)), clicks.clicked))
    slots = [
        {
            "slot": f"{n * SLOT:02}:00",
            "sent": int(sent[n]),
            "clicked": int(clicked[n]),
            "rate": clicked[n] / sent[n],
        }
        for n in np.flatnonzero(sent).tolist()
    ]
    return {
        "messages": len(clicks), "clicked": int(clicked.sum()), "days": WITHIN.days, "slots": slots,
        "policies": [judged_by(name, clicks).as_dict() for name in TARGETS],
    }  # fmt: skip


def judged_by(name: str, clicks: Clicks) -> Judged:
    rows, is_open = len(clicks), clicks.likely > 0
    nothing: NDArray[np.bool_] = np.zeros((rows, SLOTS), bool)
    told = Rows(
        np.ones((rows, 1)), is_open, nothing, clicks.slot, clicks.likely[np.arange(rows), clicks.slot],
        clicks.clicked, np.ones(rows),
    )  # fmt: skip
    return judged(name, told, clicks.customer, TARGETS[name](is_open))


def at_once(is_open: NDArray[np.bool_]) -> Array:
    return only(is_open.argmax(axis=1), SLOTS)


def by_chance(is_open: NDArray[np.bool_]) -> Array:
    return np.asarray(is_open / is_open.sum(axis=1, keepdims=True))


TARGETS = {"window": at_once, "random": by_chance}
