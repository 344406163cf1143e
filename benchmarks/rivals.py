"""Who is measured beside the project: libraries and what they may try, and the cache of what they answered."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.jobs import ONE_THREAD

ROOT = Path(__file__).resolve().parent.parent
CODE = (ROOT / "benchmarks" / "learners.py", ROOT / "serving" / "fitted.py")
PINS = ROOT / "benchmarks" / "rivals.txt"
APART = ROOT / ".venv-rivals" / "bin" / "python"  # the environment of those whose pins conflict with ours

NEXT, NOVEL = "next_best.purchases", "discover.novel"
BASKET, WITH_CUSTOMER = "cross_sell.basket", "cross_sell.basket_customer"
ALL = (NEXT, NOVEL, BASKET, WITH_CUSTOMER)
Space = Mapping[str, tuple[Any, ...]]
Params = dict[str, Any]

# The first value of each is tried first: the library's default, or what suits a history of repeats.
HISTORY: Space = {"value": ("log", "count", "binary"), "half_life": (0, 60, 120, 240, 30)}
TOGETHER: Space = {"basket": (3, 1, 10, 30)}


@dataclass(frozen=True)
class Search:
    """One learner, what it may try, and the tasks that it answers. `fixed`: settings that are no choice."""

    name: str
    library: str
    learner: str
    tasks: tuple[str, ...]
    space: Space
    fixed: Params = field(default_factory=dict)
    apart: bool = False

    def trials(self, most: int, *, seed: int) -> list[Params]:
        """So many different settings, or all there are: the first of each, then drawn. More begin with fewer."""
        sizes = [len(values) for values in self.space.values()]
        rng = np.random.default_rng([seed, *self.label.encode()])
        drawn = [n for n in rng.permutation(prod(sizes)).tolist() if n]
        places = zip(*np.unravel_index([0, *drawn[: most - 1]], sizes or (1,)), strict=True)
        return [
            {name: values[int(n)] for (name, values), n in zip(self.space.items(), place, strict=False)}
            for place in places
        ]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.fixed.get('rows', '')}"

    @property
    def python(self) -> Path:
        return APART if self.apart else Path(sys.executable)


def over(
    rows: str, name: str, library: str, learner: str, space: Space, *, apart: bool = False, **fixed: Any
) -> Search:
    """A search over what customers hold, for the tasks of a customer, or over baskets, for those of a stranger."""
    tasks = (BASKET,) if rows == "baskets" else (NEXT, NOVEL, WITH_CUSTOMER)
    own = space if rows == "baskets" else {**space, **TOGETHER}
    return Search(name, library, learner, tasks, own, {"rows": rows, **fixed}, apart)


def both(*args: Any, **fixed: Any) -> tuple[Search, Search]:
    return over("customers", *args, **fixed), over("baskets", *args, **fixed)


SEARCHES: tuple[Search, ...] = (
    Search(
        "popularity, last days", "baseline", "popularity", ALL,
        {"days": (28, 14, 7, 56, 90, 182, 365, 3), "by": ("buyers", "orders")},
    ),
    Search(
        "personal frequency", "baseline", "personal", ALL, {"by": ("orders", "units", "money")}, {"half_life": 0}
    ),
    Search(
        "personal frequency, recency-weighted", "baseline", "personal", ALL,
        {"half_life": (90, 30, 45, 60, 120, 180, 240, 365), "by": ("orders", "units", "money")},
    ),
    *both(
        "ALS", "implicit", "als",
        {**HISTORY, "factors": (64, 32, 128), "regularization": (0.01, 0.1, 1.0, 10.0), "alpha": (1.0, 5.0, 20.0)},
        iterations=15,
    ),
    *both(
        "BPR", "implicit", "bpr",
        {"days": (0, 182, 90), "factors": (64, 32, 128), "learning_rate": (0.01, 0.003, 0.03),
         "regularization": (0.01, 0.05, 0.1), "iterations": (50, 25, 100)},
    ),
    *both(
        "BM25 item-kNN", "implicit", "nearest",
        {**HISTORY, "K": (20, 100, 300), "K1": (1.2, 0.3, 3.0), "B": (0.75, 0.3, 0.95)}, by="bm25",
    ),
    *both("cosine item-kNN", "implicit", "nearest", {**HISTORY, "K": (20, 100, 300)}, by="cosine"),
    *(
        Search(
            name, "lightfm-next", "lightfm", ALL,
            {**HISTORY, "factors": (32, 16, 64), "epochs": (10, 5, 20), "learning_rate": (0.05, 0.02, 0.1),
             "max_sampled": (10, 30), **TOGETHER},
            {"with_features": with_features},
        )
        for name, with_features in (("LightFM WARP", False), ("LightFM WARP with features", True))
    ),
    *both(
        "EASE", "rectools", "ease",
        {**HISTORY, "regularization": (500.0, 20.0, 50.0, 100.0, 200.0), "items": (6_000, 3_000, 10_000),
         "published": (False, True)},
        apart=True,
    ),
    Search(
        "PureSVD", "rectools", "svd", (NEXT, NOVEL), {**HISTORY, "factors": (10, 32, 64, 128)}, apart=True
    ),
    Search(
        "ALS with features", "rectools", "als_features", (NEXT, NOVEL),
        {**HISTORY, "factors": (64, 32, 128), "regularization": (0.01, 0.1, 1.0, 10.0), "alpha": (1.0, 5.0, 20.0),
         "depth": (1, 2), "together": (False, True)},
        {"iterations": 15}, apart=True,
    ),
    Search(
        "PopularInCategory", "rectools", "popular_in_category", (NEXT, NOVEL),
        {"depth": (1, 2), "n_categories": (10, 5, 20), "mixing": ("rotate", "group"),
         "ratio": ("proportional", "equal"), "popularity": ("n_users", "n_interactions"), "days": (0, 14, 28, 90)},
        apart=True,
    ),
)  # fmt: skip


def present(search: Search) -> bool:
    return search.python.exists()


def versions(searches: Sequence[Search]) -> dict[str, str]:
    """The version of each library that is measured."""
    pinned = dict(line.split("==") for line in PINS.read_text().split())
    named = {s.library: s.apart for s in searches if s.library != "baseline"}
    return {name: pinned[name] if apart else version(name) for name, apart in named.items()}


# --- what was answered, kept ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A past and questions of what came after it, as learners read them."""

    folder: Path
    digest: str

    def questions(self, tasks: Sequence[str]) -> list[Path]:
        return [self.folder / f"{task}.npz" for task in tasks]


@dataclass(frozen=True)
class Run:
    """What a learner answered with some settings, and what its process took."""

    folder: Path

    def lists(self, task: str) -> NDArray[np.int64]:
        return np.load(self.folder / f"{task}.npy", allow_pickle=False)

    @property
    def cost(self) -> dict[str, float]:
        found: dict[str, float] = json.loads((self.folder / "cost.json").read_text())
        return found


class RivalError(RuntimeError):
    """A rival failed; the message says how."""


@dataclass(frozen=True)
class Cache:
    """Every run by what made it: the data and the questions, the settings, the learners' code, the library."""

    folder: Path

    def run(self, search: Search, params: Params, files: Files, tasks: Sequence[str] = ()) -> Run:
        """As it was kept, or run now: these tasks, or all that the search answers."""
        tasks = tuple(tasks) or search.tasks
        target = self.folder / self.key(search, params, files, tasks)
        if not (target / "cost.json").exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            half = target.with_name(f".tmp-{target.name}")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            started(search, params, files, tasks, half)
            half.rename(target)
        return Run(target)

    def key(self, search: Search, params: Params, files: Files, tasks: Sequence[str]) -> str:
        library = versions([search]) | ({"pins": PINS.read_text()} if search.apart else {})
        same = [files.digest, search.learner, {**search.fixed, **params}, tasks, code(), library]
        return digest_of(json.dumps(same, sort_keys=True).encode())


def started(search: Search, params: Params, files: Files, tasks: Sequence[str], out: Path) -> None:
    """Run a learner in a process of its own, one thread."""
    spec = json.dumps({"learner": search.learner, "params": {**search.fixed, **params}})
    command = [
        str(search.python), "-m", "benchmarks.learners", str(files.folder / "past.npz"),
        *map(str, files.questions(tasks)), "--spec", spec, "--out", str(out),
    ]  # fmt: skip
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if told.returncode:
        raise RivalError(f"{search.label} with {spec} failed:\n{told.stderr[-2000:]}")


@cache
def code() -> str:
    return digest_of(b"".join(path.read_bytes() for path in CODE))


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def asked_by(searches: Sequence[Search], task: str) -> Iterator[Search]:
    return (s for s in searches if task in s.tasks)
