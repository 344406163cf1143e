"""Programs stopped by hand, and let go on: records, of which the latest counts (`ledger.pauses`). A run reads them as
it begins, a delivery before each message."""

from datetime import datetime

from features.judge import Row
from lifecycle.programs import Program
from serving.store import Store

BY_HAND = "by hand"


def pause(store: Store, program: Program, *, reason: str | None, by: str | None, at: datetime) -> Row:
    """From now on nothing of the program is decided or sent."""
    return record(store, program, True, reason or BY_HAND, by, at)


def resume(store: Store, program: Program, *, by: str | None, at: datetime) -> Row:
    """The program goes on; what it would have written meanwhile is past, unless it catches up."""
    return record(store, program, False, BY_HAND, by, at)


def record(store: Store, program: Program, paused: bool, reason: str, by: str | None, at: datetime) -> Row:
    row = {"program": program.name, "customer_id": None, "paused": paused, "at": at, "reason": reason, "by": by,
           "received_at": at}  # fmt: skip
    store.append("pauses", [row])
    return row
