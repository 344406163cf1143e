"""`make bench`: the whole path on the demo data, each figure beside its goal.

Works in a home of its own, so that what is there stays as it is: load, train on all before December, read
December through the engine, write every household's list, ask the engine one by one, start the service.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

CUTOFF, WINDOW = "2017-12-01", "2017-12-01:2018-01-01"
ROUNDS = 3
REQUESTS = 600
RANKED_AHEAD = 1_000  # customers
QUALITY = (
    ("next_best NDCG@10", "next_best.purchases", "ndcg", 0.445),
    ("cross_sell HitRate@10, no customer", "cross_sell.basket", "hit_rate", 0.125),
    ("cross_sell HitRate@10, with the customer", "cross_sell.basket_customer", "hit_rate", 0.18),
    ("cross_sell HitRate@10, complements, no customer", "cross_sell.complement", "hit_rate", 0.11),
    (
        "cross_sell HitRate@10, complements, with the customer",
        "cross_sell.complement_customer",
        "hit_rate",
        0.178,
    ),
    ("discover NDCG@10, novel", "discover.novel", "ndcg", 0.07),
    ("upsell HitRate@5, novel", "upsell.step_up", "hit_rate", 0.53),
    ("upsell HitRate@5, all", "upsell.step_up_any", "hit_rate", 0.655),
    ("who takes a step up, novel: AUC", "upsell.who", "auc", 0.79),
    ("needs that go with a basket, HitRate@10, no customer", "cross_sell.need", "hit_rate", 0.25),
    ("needs, HitRate@10, with the customer", "cross_sell.need_customer", "hit_rate", 0.31),
)


@dataclass(frozen=True)
class Figure:
    """A measured value beside its goal, which it must not exceed, or must reach where `least`."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal


@dataclass(frozen=True)
class Ran:
    """A finished command: its output, its wall seconds, and the memory of its processes at their peak."""

    text: str
    code: int
    wall: float
    largest_mb: float
    together_mb: float


def run(arguments: Sequence[str], home: Path) -> Ran:
    """`osclms …` as a process of its own, its whole tree watched."""
    began = time.perf_counter()
    process = subprocess.Popen(osclms(arguments), env=environment(home), stdout=subprocess.PIPE, text=True)
    peaks, done = [0.0, 0.0], Event()
    watcher = Thread(target=watch, args=(process.pid, peaks, done))
    watcher.start()
    text = process.communicate()[0]
    done.set()
    watcher.join()
    return Ran(text, process.returncode, time.perf_counter() - began, *peaks)


def osclms(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "osclms", *arguments]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "OSCLMS_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")}


def watch(pid: int, peaks: list[float], done: Event) -> None:
    """Keep the peaks of the tree's largest resident set and of their sum, which counts shared pages twice."""
    while not done.wait(0.1):
        sizes = [size for size in map(resident, tree(pid)) if size]
        peaks[:] = [max(peaks[0], max(sizes, default=0)), max(peaks[1], sum(sizes))]


def tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def load(home: Path) -> list[Figure]:
    ran = [run(["load", "completejourney"], fresh(home)) for _ in range(ROUNDS)]
    return [
        Figure("load, median of 3", float(np.median([r.wall for r in ran])), "s", 20),
        Figure("load, largest process", max(r.largest_mb for r in ran), "MB"),
    ]


def fresh(home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    return home


def train(home: Path) -> list[Figure]:
    ran = run(["train", "--until", CUTOFF, "--json"], home)
    report = json.loads(ran.text)
    steps = ", ".join(f"{name} {took:.0f} s" for name, took in report["seconds"].items())
    return [
        Figure("train, evaluate and publish", ran.wall, "s", 480, note=f"{steps}; {report['reason'][:60]}…"),
        Figure("train, processes together at peak", ran.together_mb, "MB", 6 * 1024),
        Figure("train, largest process", ran.largest_mb, "MB"),
    ]


def quality(home: Path) -> list[Figure]:
    report = json.loads(run(["evaluate", "--window", WINDOW, "--json"], home).text)
    found = []
    for name, place, metric, goal in QUALITY:
        value = report["placements"][place][metric]
        found.append(Figure(name, value["mean"], "", goal, least=True, note=between(value)))
    for recipe in ("popular", "als", "rhythm"):
        value = report["recipes"][recipe]["purchases"]
        found.append(Figure(f"NDCG@10 of {recipe} by itself", value["mean"], "", note=between(value)))
    popular = popular_baskets(home)
    found.append(Figure("cross_sell HitRate@10 of popularity", popular, ""))
    worst = min(report["faiss_recall_at_10"].values())
    return [*found, Figure("FAISS recall@10 against exact search", worst, "", 0.95, least=True)]


def between(value: dict[str, float]) -> str:
    return f"[{value['low']:.4f}, {value['high']:.4f}]"


def popular_baskets(home: Path) -> float:
    """The basket task answered by `trending`, which is popularity alone."""
    from datetime import UTC, datetime

    from features.history import History
    from serving.bundle import champion
    from serving.engine import Engine
    from training.evaluate import audit_task
    from training.split import Future, Row, baskets, known

    engine = Engine.load(champion(home))
    start, end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in WINDOW.split(":"))
    future = Future.of(engine.bundle, known(History(home / "history"), end), start)
    task = baskets(engine.bundle, future)
    row = Row("trending", "basket", baskets, "hit_rate")
    return audit_task(engine, row, task, at=start, seed=7).figures["hit_rate"]


def bulk(home: Path) -> list[Figure]:
    target = home / "lists.parquet"
    ran = [run(["recommend", "next_best", "--all", "--out", str(target)], home) for _ in range(ROUNDS)]
    return [
        Figure(
            "next_best for all households in bulk, median of 3",
            float(np.median([r.wall for r in ran])),
            "s",
            10,
        )
    ]


def latency(home: Path) -> list[Figure]:
    """One request at a time in this process."""
    from serving.bundle import champion
    from serving.engine import Engine

    engine = Engine.load(champion(home))
    found = []
    for placement in engine.placements:
        took = np.sort(asked(engine, placement))
        median, p99 = float(np.median(took)), float(np.quantile(took, 0.99))
        goals = (4.0, 20.0) if placement in ("next_best", "cross_sell", "upsell") else (None, None)
        found.append(Figure(f"{placement} in process, median", median, "ms", goals[0]))
        found.append(Figure(f"{placement} in process, p99", p99, "ms", goals[1]))
    return found


def ranking(home: Path) -> list[Figure]:
    """The trees of next_best over every candidate of a customer, by two processes at once, as publishing does it."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from serving.bundle import champion
    from serving.ranker import PUBLISHED, RANKED
    from training import jobs

    folder = champion(home)
    customers = min(RANKED_AHEAD, len(np.load(folder / "customers.npy", mmap_mode="r")))
    halves = [slice(n * customers // 2, (n + 1) * customers // 2) for n in range(2)]
    with tempfile.TemporaryDirectory() as work, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        path = Path(work) / "ranked.npy"
        np.lib.format.open_memmap(path, "w+", RANKED, (customers, PUBLISHED)).flush()
        took = []
        for part in [[slice(0, 5), slice(5, 10)], *[halves] * ROUNDS]:  # the first opens the bundle
            began = time.perf_counter()
            for job in [pool.submit(jobs.rank_ahead, folder, "next_best", half, path) for half in part]:
                job.result()
            took.append(time.perf_counter() - began)
    rate = customers / float(np.median(took[1:]))
    return [Figure("next_best ranked anew, customers a second on two cores", rate, "/s", 300, least=True)]


def news(home: Path) -> list[Figure]:
    """One request at a time of customers of whom an order came in since the bundle was made."""
    from serving.bundle import champion
    from serving.engine import Engine
    from serving.identities import Identities
    from serving.store import Store, address

    engine = Engine.load(champion(home))
    at, rng = engine.data_until, np.random.default_rng(7)
    customers = engine.history.customers.at(rng.integers(len(engine.history.customers), size=REQUESTS))
    products = engine.catalog.items.at(rng.integers(len(engine.catalog), size=REQUESTS))
    with tempfile.TemporaryDirectory() as work, Store(address(Path(work), None)) as store:
        engine.follow(store, identities=Identities(), clock=lambda: at + timedelta(days=1))
        took = []
        for n, (customer, product) in enumerate(zip(customers, products, strict=True)):
            order = {
                "event_id": f"bench-{n}", "event_type": "order", "customer_id": customer, "product_id": product,
                "order_id": f"bench-{n}", "quantity": 1.0, "unit_price": 1.0, "received_at": at,
                "occurred_at": at + timedelta(hours=1),
            }  # fmt: skip
            store.add([order])
            took.append(one(engine, "next_best", customer, (), at + timedelta(hours=2)))
    median, p99 = float(np.median(took)), float(np.quantile(took, 0.99))
    return [
        Figure("next_best when an order just came, median", median, "ms", 8),
        Figure("next_best when an order just came, p99", p99, "ms", 20),
    ]


def one(engine: Any, placement: str, customer: str, basket: tuple[str, ...], at: datetime) -> float:
    """Milliseconds of a request."""
    from serving.schemas import RecommendRequest

    began = time.perf_counter()
    engine.recommend(placement, RecommendRequest(customer_id=customer, product_ids=basket), at=at)
    return 1000 * (time.perf_counter() - began)


def asked(engine: Any, placement: str) -> list[float]:
    rng = np.random.default_rng(7)
    customers = engine.history.customers.at(rng.integers(len(engine.history.customers), size=REQUESTS))
    products = [p.product_id for p in engine.sample().products]
    with_products = "products" in engine.placements[placement].asks
    took = []
    for n, customer in enumerate(customers):
        basket = (products[n % len(products)],) if with_products else ()
        took.append(one(engine, placement, customer, basket, engine.data_until))
    return took[REQUESTS // 10 :]


def serve(home: Path) -> list[Figure]:
    return [
        Figure(
            "serve, until ready, median of 3", float(np.median([ready(home) for _ in range(ROUNDS)])), "s", 10
        )
    ]


def ready(home: Path) -> float:
    """Seconds from the command to a ready service, which is then stopped."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        osclms(["serve", "--port", str(port)]), env=environment(home), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not answers(f"http://127.0.0.1:{port}/readyz"):
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError("the service did not become ready")
            time.sleep(0.05)
        return time.perf_counter() - began
    finally:
        process.terminate()  # its workers have groups of their own and leave with it
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


STEPS: dict[str, Callable[[Path], list[Figure]]] = {
    "load": load,
    "train": train,
    "quality": quality,
    "bulk": bulk,
    "ranking": ranking,
    "latency": latency,
    "news": news,
    "serve": serve,
}


def table(figures: Sequence[Figure]) -> Table:
    shown = Table("figure", "measured", "goal", "", "note")
    for f in figures:
        goal = "" if f.goal is None else f"{'≥' if f.least else '≤'} {f.goal:g} {f.unit}"
        met = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[f.met]
        value = f"{f.value:.4f}" if not f.unit else f"{f.value:,.2f} {f.unit}"
        shown.add_row(f.name, value, goal, met, f.note)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "steps", nargs="*", help=f"only these of: {' '.join(STEPS)}; needs --home from an earlier run"
    )
    parser.add_argument(
        "--home", type=Path, help="keep the state here instead of in a folder that is removed"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (given.home or Path(folder) / "home").resolve()
        figures = [f for name in given.steps or STEPS for f in STEPS[name](home)]
    if given.json:
        print(json.dumps([{**vars(f), "met": f.met} for f in figures], indent=2))
    else:
        Console(width=160).print(table(figures))


if __name__ == "__main__":
    main()
