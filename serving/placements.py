"""The table of placements: what each asks with, what may be in its list, and what it says.

A new placement is a new row. A list is the union of what its sources propose, ordered by the placement's learned
ranker, or by the weighted sum of the sources' scores where there is none; where it is short, `fill` is tried step
by step with one growing exclude-set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Asks = Literal["customer", "products", "nobody"]
PRICE_STEP = (1.10, 4.0)  # how much dearer a step up may be


@dataclass(frozen=True)
class Source:
    """One fitted model asked in one way.

    weight: of its scores, scaled to 0..1 among the candidates. take: how many it proposes; 0, it only scores.
    story: a key of STORIES.
    """

    model: str
    asks: Asks
    story: str
    weight: float = 1.0
    take: int = 80


@dataclass(frozen=True)
class Step:
    """One step of a fill: a source and the rules that hold for it."""

    source: Source
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """rules: names in RULES of the engine, for the placement's own sources.

    What is unavailable, excluded by the request or asked about is never in any list, filled or not.
    """

    name: str
    about: str
    asks: tuple[Asks, ...]
    sources: tuple[Source, ...]
    rules: tuple[str, ...] = ()
    fill: tuple[Step, ...] = ()
    limit: int = 10
    complements_only: bool = False

    @property
    def models(self) -> set[str]:
        every = {s.model for s in self.sources} | {step.source.model for step in self.fill}
        return every | ({"complements"} if "no_substitutes" in self.rules else set())


STORIES: Mapping[str, str] = {
    "regular": "One of your favourites: bought {times} times",
    "again": "Bought before, last on {last}",
    "taste": "Because you buy {because}",
    "like_you": "People like you buy it",
    "goes_with": "Goes with {because}",
    "step_up": "A step up from {because}",
    "similar": "Similar to {because}",
    "same_need": "Also chosen in {category}",
    "popular": "Popular with everybody right now",
    "bought": "Others bought it too",
    "first": "Be the first to try it",
    "new": "New, and already liked",
    "known": "You have bought it before",
}

POPULAR = Source("popular", "nobody", "popular")
RHYTHM = Source("rhythm", "customer", "again", take=2_000)
TASTE = (
    Source("als", "customer", "taste", weight=0.10, take=120),
    Source("ease", "customer", "like_you", weight=0.10),
    Source("tifu", "customer", "like_you", weight=0.10),
    Source("upcf", "customer", "like_you", weight=0.02),
)
ANYTHING = (Step(POPULAR, ("not_owned",)), Step(POPULAR))

PLACEMENTS: Mapping[str, Placement] = {
    p.name: p
    for p in (
        Placement(
            "next_best",
            "what this customer will want next, repeats allowed",
            ("customer",),
            (
                replace(RHYTHM, take=200),
                *TASTE,
                Source("popular", "nobody", "popular", weight=0.12, take=60),
            ),
            fill=(Step(RHYTHM), Step(POPULAR)),
        ),
        Placement(
            "cross_sell",
            "what goes with a product or a basket",
            ("products", "customer"),
            (
                Source("copurchase", "products", "goes_with", take=150),
                Source("rhythm", "customer", "again", weight=1.2, take=100),
                Source("ease_baskets", "products", "goes_with", weight=0.3, take=100),
                Source("ease", "customer", "like_you", weight=0.05, take=50),
            ),
            rules=("no_substitutes",),
            fill=(Step(POPULAR, ("no_substitutes",)), Step(POPULAR)),
        ),
        Placement(
            "upsell",
            "a dearer product for the same need",
            ("products", "customer"),
            (
                Source("als", "customer", "step_up"),
                Source("popular", "nobody", "step_up", weight=0.7),
                Source("alternatives", "products", "step_up", weight=0.5),
                Source("ease", "customer", "step_up", weight=0.2),
                Source("copurchase", "products", "step_up", weight=0.1),
            ),
            rules=("not_owned", "dearer"),
            fill=(
                Step(Source("popular", "nobody", "same_need"), ("not_owned", "same_need")),
                Step(Source("als", "customer", "taste"), ("not_owned",)),
                *ANYTHING,
            ),
        ),
        Placement(
            "discover",
            "next_best without what was ever bought",
            ("customer",),
            (*TASTE, Source("popular", "nobody", "popular", weight=0.03, take=60)),
            rules=("not_owned",),
            fill=(*ANYTHING[:1], Step(Source("popular", "nobody", "known"))),
        ),
        Placement(
            "buy_again",
            "what this customer bought before",
            ("customer",),
            (RHYTHM,),
            rules=("owned",),
            fill=(Step(POPULAR),),
        ),
        Placement(
            "similar",
            "products like this one",
            ("products",),
            (
                Source("content", "products", "similar"),
                Source("als", "products", "similar"),
            ),
            fill=(Step(Source("popular", "nobody", "same_need"), ("same_need",)), Step(POPULAR)),
        ),
        Placement("trending", "what sells most lately", ("nobody",), (POPULAR,), fill=(Step(POPULAR),)),
        Placement(
            "new_arrivals",
            "what is new and already bought",
            ("nobody",),
            (Source("newest", "nobody", "new"),),
            fill=(Step(POPULAR),),
        ),
    )
}


def models_in_use(placements: Mapping[str, Placement]) -> set[str]:
    """Names of the recipes that some placement asks."""
    return set().union(*(p.models for p in placements.values()))
