"""Recipes: frozen hyper-parameters with one verb, `fit`, that returns finished arrays."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from training.models.als import Als, Bpr
from training.models.content import Content
from training.models.copurchase import Alternatives, Complements, CoPurchase
from training.models.ease import Ease, EaseBaskets
from training.models.habit import Habit
from training.models.hybrid import Hybrid
from training.models.itemknn import ItemKnn
from training.models.needs import EaseNeeds
from training.models.neighbours import TifuKnn, UpCf
from training.models.popular import Newest, Popular, PopularIn
from training.models.recipe import Recipe
from training.models.rhythm import Rhythm

RECIPES: dict[str, Recipe] = {
    "popular": Popular(),
    "newest": Newest(),
    "popular_in": PopularIn(),
    "habit": Habit(),
    "rhythm": Rhythm(),
    "als": Als(),
    "ease": Ease(),
    "upcf": UpCf(),
    "tifu": TifuKnn(),
    "ease_baskets": EaseBaskets(),
    "item_knn": ItemKnn(),
    "ease_needs": EaseNeeds(),
    "hybrid": Hybrid(),
    "content": Content(),
    "copurchase": CoPurchase(),
    "complements": Complements(),
    "alternatives": Alternatives(),
    "bpr": Bpr(),
}

CLASSES: dict[str, type[Recipe]] = {
    c.__name__: c
    for c in (
        Popular,
        Newest,
        PopularIn,
        Habit,
        Rhythm,
        Als,
        Bpr,
        Ease,
        EaseBaskets,
        EaseNeeds,
        UpCf,
        TifuKnn,
        ItemKnn,
        Hybrid,
        Content,
        CoPurchase,
        Complements,
        Alternatives,
    )
}


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe as the manifest keeps it: its class and its hyper-parameters."""
    return {"recipe": type(recipe).__name__, **asdict(recipe)}


def recipe_of(description: Mapping[str, Any]) -> Recipe:
    """The recipe that `described` wrote."""
    params = dict(description)
    return CLASSES[params.pop("recipe")](**params)


__all__ = [
    "RECIPES",
    "Als",
    "Alternatives",
    "Bpr",
    "CoPurchase",
    "Complements",
    "Content",
    "Ease",
    "EaseBaskets",
    "EaseNeeds",
    "Habit",
    "Hybrid",
    "ItemKnn",
    "Newest",
    "Popular",
    "PopularIn",
    "Recipe",
    "Rhythm",
    "TifuKnn",
    "UpCf",
    "described",
    "recipe_of",
]
