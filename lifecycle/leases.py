"""Leases: messages that a worker has taken stay its own for as long as it lives, however slow its channel is."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Event, Lock, Thread
from types import TracebackType

from serving import outgoing
from serving.outgoing import Taken
from serving.store import Store, StoreError

BEATS = 3  # how often in a lease it is renewed
log = logging.getLogger("osclms.outbox")


class Held:
    """Messages that were taken together. While this is entered another thread renews the leases of those not done."""

    def __init__(
        self, store: Store, taken: Sequence[Taken], lease: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self.store, self.lease, self.clock, self.since = store, lease, clock, clock()
        self.held = {one.message_id: one for one in taken}
        self.lock, self.ended = Lock(), Event()
        self.thread = Thread(target=self.beat, name="leases", daemon=True)

    def __enter__(self) -> "Held":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()

    def beat(self) -> None:
        while not self.ended.wait(self.lease.total_seconds() / BEATS):
            try:
                self.renew()
            except StoreError as error:  # asked again at the next beat, and by `has` in the end
                log.warning("leases: %s", error)

    def renew(self) -> None:
        with self.lock:
            at = self.clock()
            still = outgoing.renew(self.store, [*self.held.values()], at=at) if self.held else []
            self.held, self.since = {one.message_id: one for one in still}, at

    def has(self, one: Taken) -> bool:
        """Whether a message is still this worker's: after a long time, as of a machine that slept, the database is
        asked."""
        if self.clock() >= self.since + self.lease / BEATS:
            self.renew()
        return one.message_id in self.held

    def done(self, one: Taken) -> None:
        with self.lock:
            self.held.pop(one.message_id, None)
