"""What a choice looks at, as it was known at the run's moment: written down with the choice, and read from there."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.customers import STAGES
from features.experiments import fnv1a
from lifecycle.choose.learner import Array

LATELY = 28  # days
SIDES = 8  # favourites are hashed into so many: a number for each category of a shop would be too many
FORGOTTEN = 7.0  # days in which the memory of a message fades by two thirds
FEATURES = (
    "one", *(f"stage {name}" for name in STAGES), "recency", "frequency", "money",
    *(f"favourite {place}" for place in range(SIDES)), "rest", "messages",
)  # fmt: skip


def encoded(columns: Mapping[str, NDArray[Any]]) -> Array:
    """Contexts by column as numbers, [n, FEATURES]: stage (place in STAGES), r, f, m (1 to 3, 0 unknown), side (of
    the favourite, −1 unknown), rest (days since the last message, inf without one), messages (within LATELY days)."""
    scores = np.column_stack([columns[name] for name in ("r", "f", "m")]).astype(float)
    return np.column_stack([
        np.ones(len(scores)),
        columns["stage"][:, None] == np.arange(len(STAGES)),
        np.where(scores > 0, scores - 2, 0),
        columns["side"][:, None] == np.arange(SIDES),
        np.exp(-columns["rest"].astype(float) / FORGOTTEN),
        np.log2(1 + columns["messages"].astype(float)),
    ])  # fmt: skip


def written_down(
    about: Mapping[str, Any], days: Sequence[date], last: Mapping[str, datetime], today: date, at: datetime
) -> dict[str, Any]:
    """A customer's context: the facts of them, the days of their messages, and when each program wrote last."""
    before = [(today - day).days for day in days if day <= today]
    return {
        "stage": about["stage"],
        **{name: 0 if about[name] != about[name] else int(about[name]) for name in ("r", "f", "m")},
        "favourite": about["category"], "rest": min(before, default=None),
        "messages": sum(day < LATELY for day in before),
        "again": sorted(name for name, when in last.items() if timedelta() <= at - when < timedelta(days=LATELY)),
    }  # fmt: skip


def columns_of(contexts: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """What was written down, by the columns that `encoded` takes."""
    return {
        "stage": np.array([STAGES.index(of["stage"]) if of["stage"] in STAGES else -1 for of in contexts]),
        **{name: np.array([of[name] for of in contexts]) for name in ("r", "f", "m")},
        "side": np.array([side(of["favourite"]) for of in contexts]),
        "rest": np.array([np.inf if of["rest"] is None else of["rest"] for of in contexts], float),
        "messages": np.array([of["messages"] for of in contexts]),
    }


def side(favourite: str | None) -> int:
    return -1 if favourite is None else fnv1a(favourite.encode()) % SIDES


def again_of(contexts: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> NDArray[np.bool_]:
    """Which of these arms wrote to each of them lately."""
    place = {name: at for at, name in enumerate(arms)}
    found = np.zeros((len(contexts), len(arms)), bool)
    for row, of in enumerate(contexts):
        found[row, [place[name] for name in of["again"] if name in place]] = True
    return found


def as_text(context: Mapping[str, Any]) -> str:
    return json.dumps(context, separators=(",", ":"), ensure_ascii=False)
