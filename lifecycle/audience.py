"""Audiences: who meets all conditions of a program at a moment, and which of them a customer does not meet."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.catalog import PATH_SEPARATOR
from lifecycle.day import Day
from lifecycle.programs import Condition, Program, Range

Mask = NDArray[np.bool_]


class Reason(NamedTuple):
    """condition: in words. value: the customer's, None where it is not known, which holds no condition."""

    condition: str
    value: float | str | None
    holds: bool


def members(day: Day, program: Program) -> Mask:
    """By row of `day.people` whether all conditions hold."""
    inside = np.ones(len(day.people), bool)
    for name, condition in program.audience.items():
        inside &= holds(day.people, name, condition)
    return inside


def why(day: Day, program: Program, person: int) -> list[Reason]:
    """What each condition makes of one customer."""
    one = day.people.iloc[[person]]
    return [
        Reason(spoken(name, condition), value(one, name), bool(holds(one, name, condition)[0]))
        for name, condition in program.audience.items()
    ]


def holds(people: pd.DataFrame, name: str, condition: Condition) -> Mask:
    if name not in people:
        return np.zeros(len(people), bool)
    if isinstance(condition, Range):
        return within(people[name].to_numpy(np.float64), condition)
    words = people[name].astype("object").where(people[name].notna(), None)
    known = {
        word: any(ALIKE.get(name, same)(word, one) for one in condition) for word in words.unique() if word
    }
    return words.map(lambda word: known.get(word, False)).to_numpy(bool)


def within(values: NDArray[np.float64], condition: Range) -> Mask:
    """Whether figures lie in a range; what is not known (NaN) does not."""
    low = -np.inf if condition.at_least is None else condition.at_least
    high = np.inf if condition.below is None else condition.below
    return (values >= low) & (values < high)


def same(word: str, one: str) -> bool:
    return word == one


def of_language(word: str, one: str) -> bool:
    """es-US is es, too."""
    return word.replace("_", "-") == one or word.replace("_", "-").startswith(f"{one}-")


def beneath(word: str, one: str) -> bool:
    """A category lies in those above it."""
    return word == one or word.startswith(one + PATH_SEPARATOR)


ALIKE: Mapping[str, Callable[[str, str], bool]] = {"locale": of_language, "category": beneath}


def spoken(name: str, condition: Condition) -> str:
    """A condition in words."""
    if not isinstance(condition, Range):
        return f"{name} is {' or '.join(condition)}"
    parts = (("at least", condition.at_least), ("below", condition.below))
    return f"{name} is " + " and ".join(f"{says} {bound:g}" for says, bound in parts if bound is not None)


def value(one: pd.DataFrame, name: str) -> Any:
    found = one[name].iloc[0] if name in one else None
    if found is None or pd.isna(found):
        return None
    return float(found) if isinstance(found, (int, float, np.number)) else str(found)
