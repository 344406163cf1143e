"""Requests at a constant rate, whatever becomes of them: `python -m benchmarks.steady URL BODIES --rate 200`.

An open loop: each request is due at its moment, and its time counts from then, so that a service that stops for a
second is late for all that came in that second, and not for one. Bodies are the lines of a file, sent in turn as
POST; `@N@` in one becomes a number of its own. Prints one JSON object. Sockets are spoken to as they are: a client
library would cost more than the service.
"""

import argparse
import asyncio
import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

TICK = 0.001  # seconds between two looks at what is due
MOST = 512  # connections
REST = 3.0  # seconds after which a connection is not used again: uvicorn closes it after five
PATIENCE = 10.0  # seconds that the last answers are waited for
NUMBER = b"@N@"


@dataclass(frozen=True)
class Told:
    """What became of the requests; times are milliseconds since each was due."""

    sent: int
    answered: int
    failed: int  # answered with anything but 200, or not at all
    refused: dict[str, int]  # of these, those that were answered, by status
    seconds: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Line(asyncio.Protocol):
    """A connection, one request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load, self.due, self.since, self.held, self.busy = load, 0.0, 0.0, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does alone
        self.load.lines.append(self)
        self.load.free(self)

    def ask(self, due: float, request: bytes) -> None:
        self.due, self.busy, self.held = due, True, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.busy and whole(self.held):
            self.busy = False
            self.load.done(self, self.held[9:12])

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


def whole(answer: bytes) -> bool:
    """Whether all of an answer with a Content-Length is here."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return len(answer) - end - 4 >= length


class Load:
    """Requests to one service, spread over as many connections as it takes."""

    def __init__(self, url: str, bodies: Sequence[bytes], rate: float, seconds: float, key: str = "") -> None:
        where = urlsplit(url)
        self.host, self.port = str(where.hostname), int(where.port or 80)
        bearer = f"Authorization: Bearer {key}\r\n" if key else ""
        self.head = (
            f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n{bearer}Content-Type: application/json\r\n"
        ).encode()
        self.bodies, self.rate, self.seconds = bodies, rate, seconds
        self.idle: list[Line] = []
        self.lines: list[Line] = []  # open
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.took: list[float] = []
        self.open, self.sent, self.gone = 0, 0, 0
        self.refused = Counter[str]()  # by status

    def request(self, number: int) -> bytes:
        body = self.bodies[number % len(self.bodies)].replace(NUMBER, str(number).encode())
        return b"%bContent-Length: %d\r\n\r\n%b" % (self.head, len(body), body)

    async def run(self) -> Told:
        self.loop = asyncio.get_running_loop()
        await asyncio.gather(*(self.connect() for _ in range(8)))
        self.began = self.loop.time()
        whole = int(self.rate * self.seconds)
        while self.sent < whole:
            due = min(int((self.loop.time() - self.began) * self.rate) + 1, whole)
            for number in range(self.sent, due):
                self.send(self.began + number / self.rate, self.request(number))
            self.sent = due
            await asyncio.sleep(TICK)
        await self.rest()
        for line in self.lines:
            line.transport.close()
        return self.told()

    def send(self, due: float, request: bytes) -> None:
        if line := self.fresh():
            line.ask(due, request)
            return
        self.waiting.append((due, request))
        if self.open < MOST:
            self.open += 1
            self.loop.create_task(self.connect(counted=True))

    def fresh(self) -> Line | None:
        """A connection that the service will not close just now, as it does with those that rest."""
        while self.idle:
            line = self.idle.pop()
            if self.loop.time() - line.since < REST:
                return line
            line.transport.close()
        return None

    async def connect(self, *, counted: bool = False) -> None:
        self.open += not counted
        try:
            await self.loop.create_connection(lambda: Line(self), self.host, self.port)
        except OSError:
            self.open -= 1

    def free(self, line: Line) -> None:
        if self.waiting:
            line.ask(*self.waiting.popleft())
        else:
            line.since = self.loop.time()
            self.idle.append(line)

    def done(self, line: Line, status: bytes) -> None:
        self.took.append(self.loop.time() - line.due)
        if status != b"200":
            self.refused[status.decode()] += 1
        self.free(line)

    def lost(self, line: Line) -> None:
        """A connection that was closed: what it was asked, if anything, stays without an answer."""
        self.open -= 1
        self.gone += line.busy
        self.lines.remove(line)
        if line in self.idle:
            self.idle.remove(line)

    async def rest(self) -> None:
        """Wait for the last answers, for a while."""
        until = self.loop.time() + PATIENCE
        while len(self.took) + self.gone < self.sent and self.loop.time() < until:
            await asyncio.sleep(0.01)

    def told(self) -> Told:
        took = 1000 * np.array(self.took or [np.nan])
        failed = self.refused.total() + self.sent - len(self.took)
        p50, p99 = np.quantile(took, [0.5, 0.99])
        seconds = self.loop.time() - self.began
        found = float(p50), float(p99), float(took.max())
        return Told(self.sent, len(self.took), failed, dict(self.refused), seconds, *found)


def steady(url: str, bodies: Sequence[bytes], rate: float, seconds: float, key: str = "") -> Told:
    return uvloop.run(Load(url, bodies, rate, seconds, key).run())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="a file of JSON bodies, one a line")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--key", default="", help="sent as Authorization: Bearer")
    given = parser.parse_args()
    bodies = given.bodies.read_bytes().splitlines()
    print(json.dumps(asdict(steady(given.url, bodies, given.rate, given.seconds, given.key))))


if __name__ == "__main__":
    main()
