"""Whose turn it is: lists are computed one at a time, in the event loop of a worker.

Before each, the loop looks at what has come. So who comes to a full queue is refused at once and not after
those before it, and what is cheap (probes, metrics, the widget) never waits for more than one list.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from serving.wire import RequestError

WAITING = 64  # requests, in a worker; more, as long as all of them are answered soon
SOON, LATELY = 0.25, 20  # seconds; lists
# one list counts as so many usual ones at most: of a machine that paused it says nothing of those behind it
USUAL = 4
BURST, STANDING = 1.0, 10.0  # seconds of lists that may wait in a queue that is younger than so many seconds
# uvloop takes one new connection in a pass, so a list is paid for by a pass for each PASS seconds that it took
PASS, PASSES = 0.0005, 64
T = TypeVar("T")


class Turns:
    """The queue of one event loop."""

    def __init__(self, most: int = WAITING) -> None:
        self.most, self.waiting, self.passes = most, 0, 1
        self.since = 0.0  # when the queue was empty last
        self.takes = SOON  # seconds of a list lately
        self.lock = asyncio.Lock()

    async def compute(self, act: Callable[[], T]) -> T:
        """What `act` gives, in turn. Raises RequestError, 503, where too many wait for it to come soon.

        A queue that has stood for a while is of more than can be answered; one that has just come is what a machine
        that paused left behind, and is answered a little later.
        """
        now = time.perf_counter()
        if not self.waiting:
            self.since = now
        soon = BURST if now - self.since < STANDING else SOON
        if self.waiting >= self.most and self.waiting * self.takes > soon:
            raise RequestError(
                "service", "more requests than it can answer: ask again", 503, {"Retry-After": "1"}
            )
        self.waiting += 1
        try:
            return await self.patiently(act)
        finally:
            self.waiting -= 1

    async def patiently(self, act: Callable[[], T]) -> T:
        """The same for who would rather wait, behind those that are here."""
        async with self.lock:
            for _ in range(self.passes):
                await asyncio.sleep(0)  # the lock is held: what has come is read, and queues
            started = time.perf_counter()
            try:
                return act()
            finally:
                spent = time.perf_counter() - started
                self.passes = 1 + min(int(spent / PASS), PASSES)
                self.takes += (min(spent, USUAL * self.takes) - self.takes) / LATELY
