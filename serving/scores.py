"""Customers' scores: how likely they are gone, what they will spend, which categories they will buy of.

Models are files that training writes below `<home>/scores/<version>` and the file `current` names: LightGBM's text
and a manifest. They hold no id of a customer.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from features.behaviour import CATEGORY, CUSTOMER, LONG, Usual, behaviour, in_parts, leanings, main_category
from features.catalog import Catalog
from features.interactions import Floats, Ids, Interactions, moment, seconds

Array = NDArray[Any]
FORMAT = 1
FOLDER, CURRENT, MANIFEST, SUFFIX = "scores", "current", "manifest.json", ".trees.txt"
CHURN, SPEND, CATEGORIES = "churn", "spend", "categories"
# The least that each is learned from: customers with an order, and days of history.
LEAST: Mapping[str, Mapping[str, float]] = {
    CHURN: {"customers": 500, "days": 180},
    SPEND: {"customers": 500, "days": 360},
    CATEGORIES: {"customers": 500, "days": 180},
}
COLUMNS = {CHURN: CUSTOMER, SPEND: CUSTOMER, CATEGORIES: CATEGORY}
BY_CUSTOMER = ("churn", "spend", "buys", "had")
SPENT = CUSTOMER.index(f"spend_{LONG}")


log = logging.getLogger("osclms.scores")


class ScoresError(RuntimeError):
    """Scores that cannot be told; the message says what to do."""


class Score(BaseModel):
    """How one score is worked out: `link` of intercept + slope × what the trees say.

    horizon: days that it speaks of. floor: money; where there is any the trees correct the logarithm of what was spent
    in the last LONG days and of this. judged_from: the days from then on, as many as the horizon, were only judged by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizon: int
    link: Literal["logit", "log"]
    columns: tuple[str, ...]
    intercept: float
    slope: float
    floor: float | None = None
    categories: tuple[str, ...] = ()
    judged_from: datetime
    figures: dict[str, float]

    def start(self, x: Array) -> Array:
        """What the trees begin with for each row, before they say anything."""
        return np.zeros(len(x)) if self.floor is None else np.log(x[:, SPENT].astype(np.float64) + self.floor)

    def told(self, raw: Array) -> Floats:
        """The score for what start and trees say together."""
        line = self.intercept + self.slope * raw
        found = 1 / (1 + np.exp(-line)) if self.link == "logit" else np.exp(line)
        return found.astype(np.float32)


class ScoresManifest(BaseModel):
    """What was fitted, from what, and what was refused and why. Holds no moment but those of the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    version: str
    data_until: datetime
    fingerprint: str
    git_revision: str
    least: dict[str, dict[str, float]]
    data: dict[str, float]  # what there was of it
    scores: dict[str, Score]
    refused: dict[str, str]


@dataclass(frozen=True)
class Scored:
    """Scores of customers at one moment, in the order of `customers`; None where a score was refused when it was
    fitted, NaN for who has no order.

    churn: how likely they make no order in the days of its horizon. spend: money that they are expected to spend in
    those of its own, of what may be recommended. buys: how likely they buy of each of `categories` within those of
    theirs, float32 [customers, categories]; had: whether they ever did.
    """

    customers: Ids
    at: int
    churn: Floats | None
    spend: Floats | None
    categories: tuple[str, ...]
    buys: Floats | None
    had: NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Fitted scores."""

    manifest: ScoresManifest
    trees: Mapping[str, Any]

    def of(self, data: Interactions, catalog: Catalog, usual: Usual | None = None) -> Scored:
        """Scores of all `data.customers` as of `data.until`, held against what is usual, by default among themselves.

        Raises ScoresError for a moment before `data_until`: they were learned from what came after it.
        """
        self.check(data.until)
        usual = Usual.of(data, catalog, self.categories) if usual is None else usual
        parts = [self.part(part, catalog, usual) for part in in_parts(data)]
        joined = {name: together([getattr(part, name) for part in parts]) for name in BY_CUSTOMER}
        return replace(parts[0], customers=data.customers, **joined)

    def check(self, until: int) -> None:
        if until < seconds(self.manifest.data_until):
            raise ScoresError(
                f"scores {self.manifest.version} were learned from all before {self.manifest.data_until.isoformat()} "
                f"and say nothing of {moment(until).isoformat()}: fit them with `osclms scores fit --until DATE`"
            )

    @property
    def categories(self) -> tuple[str, ...]:
        """The main categories that are scored."""
        known = self.manifest.scores.get(CATEGORIES)
        return known.categories if known else ()

    def horizon(self, name: str) -> int | None:
        """Days that a score speaks of; None where it was refused."""
        return self.manifest.scores[name].horizon if name in self.manifest.scores else None

    def part(self, data: Interactions, catalog: Catalog, usual: Usual) -> Scored:
        mine = behaviour(data, catalog, usual)
        churn, spend = (self.one(name, mine) for name in (CHURN, SPEND))
        buys = self.buys(data, catalog, usual, mine) if self.categories else None
        owned = had(data, catalog, self.categories)
        return Scored(data.customers, data.until, churn, spend, self.categories, buys, owned)

    def buys(self, data: Interactions, catalog: Catalog, usual: Usual, mine: Floats) -> Floats | None:
        pairs = leanings(data, catalog, usual, mine).reshape(-1, len(CATEGORY))
        found = self.one(CATEGORIES, pairs)
        return None if found is None else without_order(found.reshape(len(mine), len(self.categories)), mine)

    def one(self, name: str, x: Floats) -> Floats | None:
        """One score of these rows; None where it was refused."""
        if name not in self.manifest.scores:
            return None
        score = self.manifest.scores[name]
        if not len(x):
            return np.empty(0, np.float32)  # LightGBM takes no matrix without rows
        found = score.told(score.start(x) + self.trees[name].predict(x, raw_score=True, num_threads=1))
        return found if name == CATEGORIES else without_order(found, x)

    @classmethod
    def load(cls, folder: Path) -> "Scores":
        """Open fitted scores. Raises ScoresError where they are damaged, or of another format."""
        manifest = read_manifest(folder)
        for name, score in manifest.scores.items():
            if score.columns != COLUMNS.get(name):
                raise ScoresError(
                    f"{folder} looks at other columns than this version: run `osclms scores fit`"
                )
        return cls(manifest, {name: trees_of(folder / f"{name}{SUFFIX}") for name in manifest.scores})


def together(parts: Sequence[Array | None]) -> Any:
    """Rows of several parts as one; None where they are."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def without_order(found: Floats, mine: Floats) -> Floats:
    """NaN for customers of whom no order is known."""
    found[np.isnan(mine[:, 0])] = np.nan
    return found


def had(data: Interactions, catalog: Catalog, categories: tuple[str, ...]) -> NDArray[np.bool_]:
    """Whether each customer ever bought of each category: bool [customers, categories]."""
    found = np.zeros((len(data.customers), len(categories)), bool)
    place = main_category(catalog, categories)[data.item]
    rows = (data.customer >= 0) & (place >= 0)
    found[data.customer[rows], place[rows]] = True
    return found


def trees_of(path: Path) -> Any:
    import lightgbm

    try:
        return lightgbm.Booster(model_str=path.read_text())
    except (OSError, lightgbm.basic.LightGBMError) as error:
        raise ScoresError(f"{path} is damaged ({error}): run `osclms scores fit`") from error


def read_manifest(folder: Path) -> ScoresManifest:
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text())
        if raw.get("format") != FORMAT:
            raise ScoresError(
                f"{path} is format {raw.get('format')}, this version reads {FORMAT}: run `osclms scores fit`"
            )
        return ScoresManifest.model_validate(raw)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise ScoresError(f"{path} cannot be read ({error}): run `osclms scores fit`") from error


def named(home: Path) -> Path | None:
    """The folder that the file `current` names; None where nothing was fitted."""
    try:
        return home / FOLDER / (home / FOLDER / CURRENT).read_text().strip()
    except FileNotFoundError:
        return None


opened = lru_cache(maxsize=2)(Scores.load)


def current(home: Path) -> Scores | None:
    """The scores of a home as they are now; None where nothing was fitted. Raises ScoresError."""
    folder = named(home)
    return None if folder is None else opened(folder)


def readable(home: Path | None) -> Scores | None:
    """The same for a service, whose other answers go on: what cannot be read is nothing, and the log says why."""
    try:
        return None if home is None else current(home)
    except ScoresError as error:
        log.error("scores are not told: %s", error)
        return None
