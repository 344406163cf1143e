"""What training does in processes of their own, one thread each: fit a recipe, audit a placement."""

import atexit
import os
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from multiprocessing import Pipe, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from features.interactions import seconds
from serving.bundle import Bundle, load_data
from serving.engine import Engine
from serving.fitted import save_fitted
from training import evaluate, rank
from training.evaluate import AIMS, Answers, Audit, answers_of
from training.models import Recipe
from training.rank import Ranking
from training.split import AUDITS, Data, Future, Task, novel, purchases, sampled

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}


@dataclass(frozen=True)
class Fit:
    """Which recipe was fitted, in how many CPU seconds."""

    name: str
    cpu: float


@dataclass(frozen=True)
class Later:
    """What happened from `start` on, before `end` where one is given, as the data before `until` in `folder` tells it.

    Each job reads it for itself: the arrays are mapped, and a path is quickly sent.
    """

    folder: Path
    until: datetime
    start: datetime
    end: datetime | None = None

    def future(self, bundle: Bundle) -> Future:
        known = Data(*load_data(self.folder, until=seconds(self.until)))
        return Future.of(bundle, known, self.start, self.end)


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that start afresh, pinned to a thread each; FAISS hangs in forked children."""
    kept = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def end_with_parent() -> None:
    """End this process once its parent is gone: a killed trainer takes no leave of its workers.

    A process that ends by itself dismisses its watch first. A thread that outlives the interpreter keeps what
    this module imports, and DuckDB complains on stderr about whoever keeps its types.
    """
    parent = parent_process()
    assert parent is not None
    gone = parent.sentinel
    dismissed, dismiss = Pipe(duplex=False)

    def watch() -> None:
        if gone in wait([gone, dismissed]):
            os._exit(1)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()

    def leave() -> None:
        dismiss.close()
        watcher.join()

    atexit.register(leave)


def fit(folder: Path, name: str, recipe: Recipe, until: int) -> Fit:
    """Fit a recipe on the data in a bundle's folder and save the arrays there."""
    began = time.process_time()
    catalog, interactions = load_data(folder, until=until)
    save_fitted(folder, name, recipe.fit(interactions, catalog))
    return Fit(name, time.process_time() - began)


def examples(folder: Path, later: Later, name: str, ranking: Ranking, path: Path) -> None:
    """What a bundle shows a ranker in a window's questions, and what of it was right, saved at `path`."""
    engine = Engine.load(folder)
    x, y = rank.examples(engine, name, later.future(engine.bundle), ranking)
    rank.save_examples(path, x, y)


def learn(paths: Sequence[Path], folder: Path, name: str, columns: Sequence[str], ranking: Ranking) -> Fit:
    """Learn a ranker from these examples and save it in a bundle's folder."""
    began = time.process_time()
    if ranker := rank.learn(paths, columns, ranking):
        ranker.save(folder, name)
    return Fit(f"{name} ranker", time.process_time() - began)


def rank_ahead(folder: Path, placement: str, part: slice, path: Path) -> None:
    """Rank a placement beforehand for some of the customers, into their rows of the array at `path`."""
    engine = Engine.load(folder)
    rows = np.lib.format.open_memmap(path, mode="r+")
    for customer in range(part.start, part.stop):
        rows[customer] = engine.ranking(placement, customer)
    rows.flush()


@dataclass(frozen=True)
class Attempt:
    """What a recipe reached by itself: a figure of each question, the customer who asked it (−1: a stranger),
    and the CPU seconds that it took."""

    values: NDArray[np.float64]
    customer: NDArray[np.int32]
    cpu: float

    @property
    def figure(self) -> float:
        return float(self.values.mean())


def attempt(folder: Path, later: Later, recipe: Recipe, aim: str, *, most: int, seed: int) -> Attempt:
    """Fit a recipe on the data in a bundle's folder and ask the model alone."""
    began = time.process_time()
    bundle, task = questions(folder, later, aim, most, seed)
    fitted = recipe.fit(bundle.interactions, bundle.catalog)
    answers = answers_of(fitted, bundle, task, owned=AIMS[aim].owned)
    return Attempt(answers.values(AIMS[aim].metric), task.customer, time.process_time() - began)


@cache
def questions(folder: Path, later: Later, aim: str, most: int, seed: int) -> tuple[Bundle, Task]:
    """The same for every attempt of this process."""
    bundle = Bundle.load(folder)
    return bundle, sampled(AIMS[aim].make(bundle, later.future(bundle)), most, seed=seed)


def questions_asked(folder: Path, later: Later, aim: str, *, most: int, seed: int) -> int:
    return len(questions(folder, later, aim, most, seed)[1])


def peak_mb() -> float:
    """What the largest process took at its peak, of this one and of its workers that have ended: resident
    memory in MB, pages that processes share counted in each."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # of the children the largest one, not their sum
    return max(resource.getrusage(who).ru_maxrss for who in both) / 1024


def audit(folder: Path, later: Later, row: int, *, most: int, seed: int) -> Audit | None:
    """One row of AUDITS through the engine on a bundle; None where the window asks no such question."""
    engine = Engine.load(folder)
    future = later.future(engine.bundle)
    return evaluate.audit(engine, AUDITS[row], future, at=later.start, most=most, seed=seed)


def recipe_answers(folder: Path, later: Later, name: str, *, most: int, seed: int) -> dict[str, Answers]:
    """What one model answers by itself to the purchases, and to the novel ones."""
    bundle = Engine.load(folder).bundle
    future = later.future(bundle)
    every = sampled(purchases(bundle, future), most, seed=seed)
    new = sampled(novel(bundle, future), most, seed=seed)
    model = bundle.models[name]
    return {
        "purchases": answers_of(model, bundle, every),
        "novel": answers_of(model, bundle, new, owned=False),
    }
