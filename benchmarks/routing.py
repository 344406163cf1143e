"""Which way of routing: the same answer from each, in turns, so that a noisy minute hits all of them.

    python -m benchmarks.routing            # about three minutes; needs wrk (Debian: apt-get install wrk)

The answer is ten items without a model behind it: measured is the way from socket to handler and back.
One worker, one wrk thread, 32 connections. Prints a table of medians for docs/decisions.md.
"""

import gc
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.schemas import Recommendation, RecommendRequest, RecommendResponse

ROUNDS = 3
SECONDS = 4
CONNECTIONS = 32
PATH = "/v1/recommend/next_best"
BODY = '{"customer_id": "1", "product_ids": ["2", "3"]}'
TUNED: dict[str, Any] = {
    "workers": 1,
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
    "tracing": {"excluded_urls": ".*"},
}

ANSWER = RecommendResponse(
    recommendation_id="r",
    model_version="1",
    placement="next_best",
    items=tuple(
        Recommendation(
            product_id=str(n),
            title=f"Product {n}",
            price=n + 0.99,
            currency="USD",
            url=None,
            image_url=None,
            score=1 / (n + 1),
            source="habit",
            story="due again",
        )
        for n in range(10)
    ),
)


async def recommend(request: Request) -> Response:
    RecommendRequest.model_validate_json(await request.body())
    return Response(ANSWER.model_dump_json(), media_type="application/json")


bare = Starlette(routes=[Route("/v1/recommend/{placement}", recommend, methods=["POST"])])


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Not a Starlette instance, whose routes BentoML matches twice: to see whether it may, and to route."""
    await bare(scope, receive, send)


class Nothing:
    """A service with nothing of its own: its routes are mounted."""


class Frozen:
    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)


class Api:
    @bentoml.api(route=PATH)  # type: ignore[untyped-decorator]
    async def next_best(self, request: RecommendRequest) -> RecommendResponse:
        return ANSWER


class FrozenApi(Frozen, Api):
    pass


def mounted(app: Any, base: type) -> Any:
    return bentoml.asgi_app(app, path="/")(type("App", (base,), {}))


Typed = bentoml.service(FrozenApi, name="typed", **TUNED)
Mounted = bentoml.service(mounted(bare, Frozen), name="mounted", **TUNED)
Plain = bentoml.service(mounted(plain, Frozen), name="plain", **TUNED)
TypedDefault = bentoml.service(type("DefaultApi", (Api,), {}), name="typed_default", workers=1)
MountedDefault = bentoml.service(mounted(bare, Nothing), name="mounted_default", workers=1)


@dataclass(frozen=True)
class Side:
    name: str
    command: tuple[str, ...]
    body: str = BODY


def uvicorn(app: str) -> tuple[str, ...]:
    return ("-m", "uvicorn", f"benchmarks.routing:{app}", "--no-access-log", "--log-level", "error", "--port")


def bento(service: str) -> tuple[str, ...]:
    return ("-m", "bentoml", "serve", f"benchmarks.routing:{service}", "--host", "127.0.0.1", "--port")


WRAPPED = f'{{"request": {BODY}}}'
SIDES = (
    Side("Starlette on uvicorn, no BentoML", uvicorn("bare")),
    Side("BentoML, plain ASGI app mounted", bento("Plain")),
    Side("BentoML, Starlette app mounted", bento("Mounted")),
    Side("BentoML, typed async api", bento("Typed"), WRAPPED),
    Side("BentoML as it comes, Starlette app mounted", bento("MountedDefault")),
    Side("BentoML as it comes, typed async api", bento("TypedDefault"), WRAPPED),
)


@dataclass(frozen=True)
class Run:
    per_second: float
    p99_ms: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(side: Side) -> Iterator[str]:
    """The address of a running server, stopped with everything that it started."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        process = subprocess.Popen(
            (sys.executable, *side.command, str(port)),
            env={**os.environ, "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait(url := f"http://127.0.0.1:{port}{PATH}", side.body)
            yield url
        finally:
            process.terminate()  # BentoML then ends its workers, which are sessions of their own
            process.wait()


def wait(url: str, body: str, seconds: float = 60) -> None:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(request, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def load(url: str, body: str) -> Run:
    """One run of wrk. An answer other than 2xx makes the run void."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method='POST' wrk.body='{body}' wrk.headers['Content-Type']='application/json'")
        script.flush()
        command = ("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", script.name, url)
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report:
        raise RuntimeError(f"{url} answered with errors:\n{report}")
    return read(report)


def read(report: str) -> Run:
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", report)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", report)
    if rate is None or tail is None:
        raise RuntimeError(f"wrk reported something else:\n{report}")
    return Run(float(rate[1]), float(tail[1]) * units[tail[2]])


def main() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    os.chdir(Path(__file__).parent.parent)
    runs: dict[str, list[Run]] = {side.name: [] for side in SIDES}
    with ExitStack() as stack:
        targets = [(side, stack.enter_context(serving(side))) for side in SIDES]
        for _ in range(ROUNDS):
            for side, url in targets:
                runs[side.name].append(load(url, side.body))
    print("| | requests a second | p99 ms |\n|---|--:|--:|")
    for name, found in runs.items():
        rate = statistics.median(run.per_second for run in found)
        p99 = statistics.median(run.p99_ms for run in found)
        print(f"| {name} | {rate:,.0f} | {p99:.1f} |")


if __name__ == "__main__":
    main()
