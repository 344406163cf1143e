"""What training does in processes of their own, one thread each: fit a recipe, audit a placement."""

import atexit
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import Pipe, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

from serving.bundle import load_data
from serving.engine import Engine
from serving.fitted import save_fitted
from training import evaluate
from training.evaluate import Answers, Audit, answers_of
from training.models import Recipe
from training.split import AUDITS, Future, novel, purchases, sampled

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}


@dataclass(frozen=True)
class Fit:
    """How a recipe was fitted: CPU seconds and the process's peak memory in MB so far."""

    name: str
    cpu: float
    peak_mb: float


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
    return Fit(name, time.process_time() - began, peak_mb())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def audit(folder: Path, future: Future, row: int, *, at: datetime, most: int, seed: int) -> Audit | None:
    """One row of AUDITS through the engine on a bundle; None where the window asks no such question."""
    return evaluate.audit(Engine.load(folder), AUDITS[row], future, at=at, most=most, seed=seed)


def recipe_answers(folder: Path, future: Future, name: str, *, most: int, seed: int) -> dict[str, Answers]:
    """What one model answers by itself to the purchases, and to the novel ones."""
    bundle = Engine.load(folder).bundle
    every = sampled(purchases(bundle, future), most, seed=seed)
    new = sampled(novel(bundle, future), most, seed=seed)
    model = bundle.models[name]
    return {
        "purchases": answers_of(model, bundle, every),
        "novel": answers_of(model, bundle, new, owned=False),
    }
