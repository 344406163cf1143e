"""Occasions: what a program's trigger finds among everybody at a moment, as columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifecycle.day import Day

Ints = NDArray[np.int64]
PARTS = "|"  # between the parts of a key that has one for each product


@dataclass(frozen=True)
class Occasions:
    """A row an occasion: person (row of `Day.people`), key (with the customer and the program it names the occasion for
    ever), at (when it became ripe, seconds; float64), products (ids that it is about), words (what a message may say of
    it: JSON values by name)."""

    person: Ints
    key: list[str]
    at: NDArray[np.float64]
    products: list[tuple[str, ...]] = field(default_factory=list)
    words: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, empty in (("products", tuple), ("words", dict)):
            if not getattr(self, name):
                object.__setattr__(self, name, [empty() for _ in self.key])

    def __len__(self) -> int:
        return len(self.person)

    def where(self, mask: NDArray[np.bool_]) -> "Occasions":
        places = np.flatnonzero(mask).tolist()
        return replace(
            self, person=self.person[places], at=self.at[places],
            **{name: [getattr(self, name)[place] for place in places] for name in ("key", "products", "words")},
        )  # fmt: skip


Find = Callable[[Day, Any], Occasions]  # (the day, the trigger's own settings)


def of(person: Sequence[int] | Ints, key: Sequence[str], at: Any, **more: Any) -> Occasions:
    return Occasions(np.asarray(person, np.int64), list(key), np.asarray(at, np.float64), **more)
