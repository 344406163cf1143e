"""Whose turn it is: lists are computed one at a time, in the event loop of a worker.

Before each, the loop looks at what has come. So who comes to a full queue is refused at once and not after
those before it, and what is cheap (probes, metrics, the widget) never waits for more than one list.
"""

import asyncio
import time
from collections.abc import Callable
from math import exp, inf
from typing import TypeVar

from serving.wire import RequestError

WAITING = 64  # requests, in a worker; more, as long as all of them are answered soon
LATELY = 2.0  # seconds of work that say what a list takes
# one list counts as so many usual ones at most: of a machine that paused it says nothing of those behind it
USUAL = 10
# seconds of lists that may wait: in a queue that has just filled, and in one that has been full for STANDING seconds
BURST, SOON, STANDING = 2.5, 0.25, 10.0
LONGEST = 5.0  # seconds after which nobody waits for a list any more
# uvloop takes one new connection in a pass, so a list is paid for by a pass for each PASS seconds that it took
PASS, PASSES = 0.0005, 64
T = TypeVar("T")


class Turns:
    """The queue of one event loop."""

    def __init__(self, most: int = WAITING) -> None:
        self.most, self.waiting, self.passes = most, 0, 1
        self.since = 0.0  # when fewer than `most` waited last
        self.lock = asyncio.Lock()
        self.work, self.lists = 0.0, 0.0  # seconds of work lately, and lists that came of them

    @property
    def takes(self) -> float:
        """Seconds of a list lately; before the first, as long as is waited."""
        return self.work / self.lists if self.lists else BURST

    def took(self, spent: float) -> None:
        """Count a list of so many seconds; older ones fade as work is done, so that a slow moment counts as such."""
        counted = min(spent, USUAL * self.takes)
        fades = exp(-counted / LATELY)
        self.work, self.lists = self.work * fades + counted, self.lists * fades + 1

    async def compute(self, act: Callable[[], T]) -> T:
        """What `act` gives, in turn. Raises RequestError, 503, where too many wait for it to come soon.

        A queue that has been full for a while is of more than can be answered; one that has just filled is what a
        machine that paused left behind, and is answered a little later.
        """
        now = time.perf_counter()
        if self.waiting < self.most:
            self.since = now
        soon = BURST if now - self.since < STANDING else SOON
        if self.waiting >= self.most and self.waiting * self.takes > soon:
            raise too_many()
        self.waiting += 1
        try:
            return await self.patiently(act, until=now + LONGEST)
        finally:
            self.waiting -= 1

    async def patiently(self, act: Callable[[], T], until: float = inf) -> T:
        """The same for who would rather wait, behind those that are here. Raises RequestError, 503, where its turn
        comes after `until`."""
        async with self.lock:
            for _ in range(self.passes):
                await asyncio.sleep(0)  # the lock is held: what has come is read, and queues
            started = time.perf_counter()
            if started > until:
                raise too_many()
            try:
                return act()
            finally:
                spent = time.perf_counter() - started
                self.passes = 1 + min(int(spent / PASS), PASSES)
                self.took(spent)


def too_many() -> RequestError:
    return RequestError("service", "more requests than it can answer: ask again", 503, {"Retry-After": "1"})
