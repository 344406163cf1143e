"""Scores for customers whom the fitted models have not seen, from what they bought since, look at, or ask with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.interactions import sorted_set
from serving.fitted import NOTHING, Array, Fitted, Neighbors, Vectors

Scores = NDArray[np.float32]
HALF_LIFE = 90.0  # days, in which an own purchase counts half as much


@dataclass(frozen=True)
class Lead:
    """What speaks for a customer: items, with the days since each was bought; 0 for what is only looked at.

    own: how many of them, from the first on, are purchases.
    """

    items: Array = field(default_factory=lambda: NOTHING[0])
    age: Array = field(default_factory=lambda: NOTHING[1])
    own: int = 0

    def __bool__(self) -> bool:
        return len(self.items) > 0

    def faded(self, half_life: float, own: bool = False) -> tuple[Array, Array]:
        """(the items, sorted; what counts for each of them, faded) of all that speaks, or of purchases alone."""
        end = self.own if own else len(self.items)
        items, place = np.unique(self.items[:end], return_inverse=True)
        return items, np.bincount(place, np.exp2(-self.age[:end] / half_life), minlength=len(items))


@dataclass(frozen=True)
class Newcomers:
    """models: as fitted. recipes: by model, how it was fitted, as the manifest has it."""

    models: Mapping[str, Fitted]
    recipes: Mapping[str, Mapping[str, Any]]
    grams: dict[str, Array] = field(default_factory=dict)

    def vector(self, name: str, lead: Lead) -> Scores | None:
        """The vector that ALS gives to a customer of these purchases while its items stay as they are.

        None where nothing speaks for the customer, and of models that are no ALS. Source: Hu, Koren, Volinsky 2008,
        eq. 4, with the confidence and the regularisation of the recipe.
        """
        recipe, model = self.recipes.get(name, {}), self.models[name]
        if recipe.get("recipe") != "Als" or not lead:
            return None
        assert isinstance(model, Vectors)
        items, weight = lead.faded(recipe["half_life"])
        confidence = recipe["alpha"] * np.log1p(weight)
        near = model.items[items].astype(np.float64)
        left = self.gram(name, model) + (near.T * (confidence - 1)) @ near
        left[np.diag_indices_from(left)] += recipe["regularization"]
        return np.linalg.solve(left, confidence @ near).astype(np.float32)

    def gram(self, name: str, model: Vectors) -> Array:
        if name not in self.grams:
            items = model.items.astype(np.float64)
            self.grams[name] = items.T @ items
        return self.grams[name]

    def stored(self, name: str, lead: Lead) -> tuple[Array, Scores]:
        """(items, scores), by position, in place of the answers that a model keeps of those whom it saw."""
        return STAND_INS.get(name, nothing)(self, lead) if lead else NOTHING

    def own(self, lead: Lead) -> tuple[Array, Scores]:
        """The customer's own purchases, faded."""
        items, weight = lead.faded(HALF_LIFE, own=True)
        return items, weight.astype(np.float32)

    def beside(self, lead: Lead) -> tuple[Array, Scores]:
        """What lies in baskets beside what speaks for the customer."""
        model = self.models.get("ease_baskets")
        return model.of_items(sorted_set(lead.items)) if isinstance(model, Neighbors) else NOTHING


def nothing(_: Newcomers, __: Lead) -> tuple[Array, Scores]:
    return NOTHING


# by the model that keeps answers: what answers in its place
STAND_INS: Mapping[str, Callable[[Newcomers, Lead], tuple[Array, Scores]]] = {
    "rhythm": Newcomers.own,
    "habit": Newcomers.own,
    "ease": Newcomers.beside,
}
