"""`make bench-serving`: the service over sockets, beside the web layer beneath it and the peer that is written first.

All sides are up at once and asked in turns, so that a noisy minute hits all of them; figures are medians of the rounds,
ratios medians of the rounds' ratios. Each side has --workers of one thread. The home is only read: its champion is
served beside a database of the bench's own. Needs wrk (Debian: apt-get install wrk). `--soak MINUTES` instead asks one
service for so long, while events come in, and tells how many requests failed and how its memory grew.
"""

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import faiss
import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from benchmarks.bench import Figure, free_port, table, tree
from benchmarks.contest import QualityError, machine
from benchmarks.quality import write
from benchmarks.routing import Run, read
from benchmarks.sides import ANSWER
from benchmarks.steady import NUMBER, Told
from serving.bundle import BundleError, champion
from serving.door import now
from serving.engine import Engine
from serving.identities import Identities
from serving.keys import SECRET, make
from serving.metrics import counts_folder
from serving.schemas import RecommendRequest
from serving.store import Store, address
from training.train import revision

ROUNDS, SECONDS, CONNECTIONS = 5, 3.0, 32
WARM = 50  # questions
LENGTHS = range(6, 15)  # of lists, 10 in the mean
READ = 1 << 16  # bytes of a stream at a time
START = 300  # seconds that a server may take to come up
MARKS = ("<!-- serving: begin -->", "<!-- serving: end -->")
ROOT = Path(__file__).parent.parent
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUESTIONS, NEWS, CARTS, HELD = (
    2_000,
    200,
    500,
    3,
)  # of customers, of these with news, of carts and products in each
NEXT, CROSS = "/v1/recommend/next_best", "/v1/recommend/cross_sell"
EVENTS_A_SECOND, NAMELESS = 20, 0.9  # of a soak, and the share of them that nobody is named in
SCRIPT = """
local made, n = {{}}, 0
function init()
  local headers = {{["Content-Type"] = "application/json", ["Authorization"] = "Bearer {key}"}}
  for line in io.lines("{bodies}") do made[#made + 1] = wrk.format("POST", nil, headers, line) end
end
function request()
  n = n % #made + 1
  return made[n]
end
"""


class ServingError(RuntimeError):
    """Nothing can be measured; the message says what to do."""


@dataclass(frozen=True)
class Length:
    """How long the bench takes."""

    rounds: int = ROUNDS
    seconds: float = SECONDS
    workers: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True)
class Shop:
    """A home of the bench's own over somebody's champion, and what is asked of it: bodies, one a line."""

    home: Path
    engine: Engine
    key: str
    plain: Path  # customers without news
    fresh: Path  # the same at so many lengths that no list is remembered until it is asked for again
    news: Path  # customers with news
    carts: Path
    customers: tuple[str, ...]  # without news
    events: tuple[dict[str, object], ...]  # the news

    def environ(self, workers: int) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("OSCLMS_")}
        ours = {
            "HOME": str(self.home), "WORKERS": str(workers), "ASK_KEYS": "yes", "DRAIN": "0",
            "RATE_SECRET": "1000000/second",
        }  # fmt: skip
        answer = {ANSWER: str(self.home / "answer.json")} if (self.home / "answer.json").exists() else {}
        others = {**THREADS, **answer, "BENTOML_DO_NOT_TRACK": "True"}
        return kept | {f"OSCLMS_{name}": text for name, text in ours.items()} | others

    def headers(self, media_type: str = "application/json") -> dict[str, str]:
        return {"Content-Type": media_type, "Authorization": f"Bearer {self.key}"}


# --- what is asked ----------------------------------------------------------------------------------------


def shop(home: Path, folder: Path) -> Shop:
    """The champion of a home, served from `folder`, with questions about its own customers and baskets."""
    (folder / "champion").write_text((home / "champion").read_text())
    for name in ("bundles", "history", "placements.toml"):
        if (home / name).exists():
            (folder / name).symlink_to(home / name)
    engine = Engine.load(champion(folder))
    rng = np.random.default_rng(7)
    known = np.flatnonzero(np.diff(engine.history.start) > 0)
    if len(known) < 2:
        raise ServingError(f"{home} knows too few customers to ask about")
    ids = engine.history.customers.at(rng.permutation(known))
    few = min(NEWS, len(ids) // 2)
    plain, news = ids[few : few + QUESTIONS], ids[:few]
    with Store(address(folder, None)) as store:
        key = make(store, SECRET, at=now())
    questions = partial(lined, folder)
    return Shop(
        folder,
        engine,
        key,
        questions("plain", [{"customer_id": one} for one in plain]),
        questions("fresh", [{"customer_id": one, "limit": limit} for limit in LENGTHS for one in plain]),
        questions("news", [{"customer_id": one} for one in news]),
        questions("carts", carts(engine, rng)),
        tuple(plain),
        tuple(bought(engine, one, rng) for one in news),
    )


def lined(folder: Path, name: str, bodies: Sequence[Mapping[str, object]]) -> Path:
    path = folder / f"{name}.ndjson"
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return path


def carts(engine: Engine, rng: np.random.Generator) -> Sequence[Mapping[str, object]]:
    """What lay together in baskets of known customers, the first products of each."""
    data = engine.history
    by_order, start = data.order_rows
    large = np.flatnonzero((np.diff(start) >= HELD) & (data.customer[by_order[start[:-1]]] >= 0))
    found = []
    for order in rng.permutation(large)[:CARTS].tolist():
        rows = by_order[start[order] :][:HELD]
        customer = data.customers.at(data.customer[rows[:1]])[0]
        found.append({"customer_id": customer, "product_ids": engine.catalog.items.at(data.item[rows])})
    if not found:
        raise ServingError(f"no basket holds {HELD} products")
    return found


def bought(engine: Engine, customer: str, rng: np.random.Generator) -> dict[str, object]:
    """An order of an hour ago, of something that sells."""
    item = int(rng.choice(engine.ordered("popular")[:500]))
    price = float(np.nan_to_num(engine.catalog.price[item], nan=1.0))
    return {
        "event_id": f"bench-{customer}", "event_type": "order", "order_id": f"bench-{customer}", "quantity": 1,
        "customer_id": customer, "product_id": engine.catalog.items.at([item])[0], "unit_price": round(price, 2),
        "occurred_at": (now() - timedelta(hours=1)).isoformat(),
    }  # fmt: skip


# --- servers ----------------------------------------------------------------------------------------------


@contextmanager
def up(shop: Shop, command: Sequence[str], workers: int) -> Iterator[tuple[str, int]]:
    """The address of a running server and its process id; it is stopped with all that it started."""
    port = free_port()
    counts = counts_folder(shop.home, port)
    environ = {**shop.environ(workers), "BENTOML_HOME": str(counts)}
    log = shop.home / f"log-{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT, env=environ, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + START
        while not serves(shop, url):
            if process.poll() is not None or time.monotonic() > until:
                raise ServingError(f"{' '.join(command)} did not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        stop(process)
        shutil.rmtree(counts)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """A server and its workers, which BentoML makes leaders of sessions."""
    alive = tree(process.pid)
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def serves(shop: Shop, url: str) -> bool:
    try:
        return post(shop, url + NEXT, {"customer_id": shop.customers[0]}) != b""
    except OSError:
        return False


def post(shop: Shop, url: str, body: object) -> bytes:
    asked = Request(url, json.dumps(body).encode(), shop.headers())
    with urlopen(asked, timeout=30) as answer:
        found: bytes = answer.read()
    return found


def uvicorn(app: str, workers: int) -> list[str]:
    tuned = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    return ["uvicorn", f"benchmarks.sides:{app}", "--workers", str(workers), *tuned]


SERVICE = ("bentoml", "serve", "serving.service:Service")
CONSTANT = ("bentoml", "serve", "benchmarks.constant:Constant")


# --- load -------------------------------------------------------------------------------------------------


def peak(shop: Shop, url: str, bodies: Path, seconds: float) -> Run:
    """As many requests as are answered, by wrk. An answer other than 2xx makes it void."""
    script = shop.home / "wrk.lua"
    script.write_text(SCRIPT.format(key=shop.key, bodies=bodies))
    command = (
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{max(round(seconds), 1)}s",
        "--latency",
        "-s",
        script,
        "--timeout",
        "30s",
        url,
    )
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise ServingError(f"{url} did not answer all that it was asked:\n{report}")
    return read(report)


def constant_rate(shop: Shop, url: str, bodies: Path, rate: float, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.steady", url, str(bodies), "--rate", f"{rate:.3f}"]
    command += ["--seconds", str(seconds), "--key", shop.key]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def ended(load: "subprocess.Popen[str]") -> Told:
    told, _ = load.communicate()
    if load.returncode:
        raise ServingError("the load generator failed")
    return Told(**json.loads(told))


def in_process(shop: Shop, engine: Engine, placement: str, bodies: Path, seconds: float) -> float:
    """CPU seconds of a list, asked of the engine in this process."""
    asked = [RecommendRequest.model_validate_json(line) for line in bodies.read_bytes().splitlines()]
    for one in asked[:WARM]:
        engine.recommend(placement, one, at=now())  # first uses are not measured, as they are not over HTTP
    done, until = 0, time.perf_counter() + seconds
    began = time.process_time()
    while time.perf_counter() < until:
        engine.recommend(placement, asked[done % len(asked)], at=now())
        done += 1
    return (time.process_time() - began) / done


def batch_rate(shop: Shop, url: str) -> float:
    """Customers a second of one call for all of them, read as it comes."""
    where = urlsplit(url)
    body = "".join(json.dumps({"customer_id": one, "limit": 10}) + "\n" for one in shop.customers)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=600)
    began = time.perf_counter()
    connection.request("POST", NEXT + "/batch", body, shop.headers("application/x-ndjson"))
    answer, parts = connection.getresponse(), list[bytes]()
    while part := answer.read1(READ):  # line by line this client would be slower than the service
        parts.append(part)
    took = time.perf_counter() - began
    lines = b"".join(parts).splitlines()
    told = json.loads(lines[-1])
    if (told["answered"], len(lines)) != (len(shop.customers), len(shop.customers) + 1):
        raise ServingError(f"a batch was not answered whole: {told}")
    return len(shop.customers) / took


def implicit_rate(shop: Shop) -> float:
    """Customers a second of implicit's `recommend` of many at once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sides"]
    told = subprocess.run(command, cwd=ROOT, env=shop.environ(1), capture_output=True, text=True, check=True)
    return float(json.loads(told.stdout))


def memory_mb(pid: int) -> float:
    """What a process and its children hold, shared pages shared out among who holds them."""
    return sum(pss_kb(process.pid) for process in tree(pid)) / 1024


def pss_kb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0.0  # it has ended
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


# --- figures ----------------------------------------------------------------------------------------------


def measured(shop: Shop, length: Length, workers: int) -> list[Figure]:
    with ExitStack() as stack:

        def run(*command: str) -> str:
            return stack.enter_context(up(shop, command, workers))[0]

        ours = run(*SERVICE)
        (shop.home / "answer.json").write_bytes(post(shop, ours + NEXT, {"customer_id": shop.customers[-1]}))
        bare, peer = run(*uvicorn("bare", workers)), run(*uvicorn("peer", workers))
        sides = {
            "bare": (bare + NEXT, shop.plain),
            "constant": (run(*CONSTANT) + NEXT, shop.plain),
            "next_best": (ours + NEXT, shop.plain),
            "fresh": (ours + NEXT, shop.fresh),
            "peer": (peer + NEXT, shop.plain),
            "cart": (ours + CROSS, shop.carts),
            "news": (ours + NEXT, shop.news),
        }
        post(shop, ours + "/v1/events", {"events": shop.events})
        rates, cpu = rounds(shop, sides, length, workers)
        tails = [tail(shop, name, *sides[name], median(rates[name]) / 2, length) for name in GOALS_MS]
        bulk = [(batch_rate(shop, ours), implicit_rate(shop)) for _ in range(length.rounds)]
    found = [*speed(rates, cpu, workers), *(figure for of in tails for figure in of)]
    return [*found, *of_bulk(bulk), *memory(shop, length)]


def rounds(
    shop: Shop, sides: Mapping[str, tuple[str, Path]], length: Length, workers: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(requests a second of each side, CPU seconds in process of what is ranked live), round by round."""
    engine = shop.engine
    store = Store(address(shop.home, None), hurry=True)
    engine.follow(store, identities=Identities(), clock=now)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in LIVE}
    for url, bodies in sides.values():
        peak(shop, url, bodies, 1)  # every worker has answered once
    for _ in range(length.rounds):
        for name, (url, bodies) in sides.items():
            rates[name].append(peak(shop, url, bodies, length.seconds).per_second)
            if name in LIVE:
                cpu[name].append(in_process(shop, engine, LIVE[name], bodies, length.seconds / 2))
    store.close()
    return rates, cpu


PLACED = {
    "next_best": (NEXT, "plain.ndjson"),
    "cart": (CROSS, "carts.ndjson"),
    "news": (NEXT, "news.ndjson"),
}
SHARES = {"next_best": 0.3, "cart": 0.1, "news": 0.1}  # of each one's peak, in a soak
LIVE = {"cart": "cross_sell", "news": "next_best"}
GOALS_MS = {"next_best": 20.0, "cart": 40.0, "news": 40.0}
TITLES = {
    "bare": "Starlette on uvicorn, the same bytes",
    "constant": "one answer through our route",
    "next_best": "next_best of a customer without news",
    "fresh": "the same, a list that was not asked for before",
    "peer": "FastAPI and implicit's recommend",
    "cart": "cross_sell of a cart",
    "news": "next_best of a customer with news",
}
RATIOS = (
    ("constant", "bare", 0.20),
    ("next_best", "bare", 0.12),
    ("fresh", "bare", 0.12),
    ("next_best", "peer", 1.0),
    ("fresh", "peer", 1.0),
)


def speed(
    rates: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]], workers: int
) -> list[Figure]:
    found = [Figure(TITLES[name], median(of), "/s", note=spread(of)) for name, of in rates.items()]
    for one, other, goal in RATIOS:
        ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
        found.append(
            Figure(
                f"{TITLES[one]} × {TITLES[other]}", median(ratios), "×", goal, least=True, note=spread(ratios)
            )
        )
    for name, took in cpu.items():
        ratios = [rate / workers * seconds for rate, seconds in zip(rates[name], took, strict=True)]
        note = f"{1000 * median(took):.2f} ms of CPU in process"
        about = f"{TITLES[name]}, a core's rate × its CPU time"
        found.append(Figure(about, median(ratios), "×", 0.8, least=True, note=note))
    return found


def spread(values: Sequence[float]) -> str:
    return f"{min(values):,.4g} to {max(values):,.4g} in {len(values)} rounds"


def tail(shop: Shop, name: str, url: str, bodies: Path, rate: float, length: Length) -> list[Figure]:
    """p99 at a constant rate, the median of three runs; one failed request is one too many."""
    told = [ended(constant_rate(shop, url, bodies, rate, 2 * length.seconds)) for _ in range(3)]
    note = f"at {rate:,.0f}/s, half of its peak; p50 {median(one.p50_ms for one in told):.1f} ms"
    p99 = median(one.p99_ms for one in told)
    failed = sum(one.failed for one in told)
    return [
        Figure(f"{TITLES[name]}, p99", p99, "ms", GOALS_MS[name], note=note),
        Figure(f"{TITLES[name]}, failed at that rate", failed, "requests", 0),
    ]


def of_bulk(bulk: Sequence[tuple[float, float]]) -> list[Figure]:
    ours, theirs = zip(*bulk, strict=True)
    ratio = [a / b for a, b in bulk]
    return [
        Figure(
            "next_best of all customers without news, streamed",
            median(ours),
            "customers/s",
            note=spread(ours),
        ),
        Figure(
            "implicit's recommend in batches, no HTTP", median(theirs), "customers/s", note=spread(theirs)
        ),
        Figure("streamed × implicit's batches", median(ratio), "×", 0.3, least=True, note=spread(ratio)),
    ]


def memory(shop: Shop, length: Length) -> list[Figure]:
    found = []
    for workers in length.workers:
        with up(shop, SERVICE, workers) as (url, pid):
            for path, bodies in PLACED.values():
                peak(shop, url + path, shop.home / bodies, 1)
            found.append(Figure(f"memory (PSS), {workers} worker{'s' * (workers > 1)}", memory_mb(pid), "MB"))
    return found


# --- soak -------------------------------------------------------------------------------------------------


def soak(shop: Shop, minutes: float, workers: int) -> list[Figure]:
    """Lists at half of what is reached while events come in; memory after a tenth of the time and at the end."""
    seconds = 60 * minutes
    with up(shop, SERVICE, workers) as (url, pid):
        post(shop, url + "/v1/events", {"events": shop.events})
        events = lined(shop.home, "told", told(shop))
        places = {name: (url + path, shop.home / bodies) for name, (path, bodies) in PLACED.items()}
        rates = {name: SHARES[name] * peak(shop, *place, 5).per_second for name, place in places.items()}
        loads = [constant_rate(shop, *places[name], rate, seconds) for name, rate in rates.items()]
        loads.append(constant_rate(shop, url + "/v1/events", events, EVENTS_A_SECOND, seconds))
        time.sleep(seconds / 10)
        early = memory_mb(pid)
        became = [ended(load) for load in loads]
        late = memory_mb(pid)
    titles = [*(TITLES[name] for name in rates), "events"]
    growth = Figure(
        "memory (PSS), growth", 100 * (late / early - 1), "%", note=f"{early:,.0f} to {late:,.0f} MB"
    )
    return [*(f for title, of in zip(titles, became, strict=True) for f in soaked(title, of)), growth]


def soaked(title: str, of: Told) -> list[Figure]:
    note = f"{of.sent / of.seconds:,.1f}/s for {of.seconds / 60:.1f} minutes; p50 {of.p50_ms:.1f} ms"
    answers = "; ".join(f"{count:,} answered {status}" for status, count in of.refused.items())
    return [
        Figure(f"{title}, sent", of.sent, "requests", note=note),
        Figure(f"{title}, failed", of.failed, "requests", 0, note=answers),
        Figure(f"{title}, p99", of.p99_ms, "ms", note=f"worst {of.worst_ms:,.0f} ms"),
    ]


def told(shop: Shop) -> Sequence[Mapping[str, object]]:
    """Views, most of them by nobody in particular; each has an id of its own when it is sent."""
    rng, found = np.random.default_rng(7), []
    products = [event["product_id"] for event in shop.events]
    for n in range(1_000):
        view = {
            "event_id": f"soak-{NUMBER.decode()}", "event_type": "view", "product_id": products[n % len(products)],
            "occurred_at": datetime.now(UTC).isoformat(),
        }  # fmt: skip
        named = {"customer_id": shop.events[n % len(shop.events)]["customer_id"]}
        found.append({"events": [view | (named if rng.random() > NAMELESS else {})]})
    return found


# --- the command ------------------------------------------------------------------------------------------


def markdown(figures: Sequence[Figure], notes: Sequence[str]) -> str:
    rows = [("", "measured", "goal", ""), ("---", "--:", "--:", "---"), *(row(of) for of in figures)]
    return "\n".join([*(f"- {note}" for note in notes), "", *(f"| {' | '.join(cells)} |" for cells in rows)])


def row(figure: Figure) -> tuple[str, str, str, str]:
    goal = "" if figure.goal is None else f"{'≥' if figure.least else '≤'} {figure.goal:g}"
    missed = " **missed**" if figure.met is False else ""
    value = f"{figure.value:,.0f}" if abs(figure.value) >= 100 else f"{figure.value:,.3g}"
    return figure.name, f"{value} {figure.unit}", goal + missed, figure.note


def notes(shop: Shop, workers: int) -> list[str]:
    engine = shop.engine
    return [
        f"Data: {engine.store.name}, {len(engine.history.customers):,} customers, {len(engine.catalog):,} products.",
        f"{workers} worker{'s' * (workers > 1)} a side, wrk with one thread and {CONNECTIONS} connections.",
        f"Measured at git revision {revision()} on {machine()}.",
    ]


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    home = Path(os.environ.get("OSCLMS_HOME", ".osclms"))
    parser.add_argument("--home", type=Path, default=home, help="a home with a champion (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of each side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of all sides (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each side's turn (%(default)s)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="ask for so long instead")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def bench(given: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    if shutil.which("wrk") is None:
        raise ServingError("wrk is missing: apt-get install wrk")
    os.environ.update(THREADS)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="osclms-bench-") as folder:
        found = shop(given.home.resolve(), Path(folder))
        if given.soak:
            return soak(found, given.soak, given.workers), notes(found, given.workers)
        length = replace(Length(), rounds=given.rounds, seconds=given.seconds)
        return measured(found, length, given.workers), notes(found, given.workers)


def main() -> None:
    given = options().parse_args()
    try:
        figures, about = bench(given)
        if given.write:
            write(given.write, markdown(figures, about), MARKS)
    except (ServingError, QualityError, BundleError) as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps([{**vars(f), "met": f.met} for f in figures], indent=2))
    else:
        Console(width=160).print(table(figures), *about, sep="\n")


if __name__ == "__main__":
    main()
