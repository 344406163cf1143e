"""Audiences for advertising platforms: hashes of the e-mail addresses of those who agreed to marketing by e-mail."""

import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.history import History
from lifecycle.audience import members
from lifecycle.channels import write_whole
from lifecycle.day import Day, agreeing, day_of
from lifecycle.ledger import suppressed
from lifecycle.programs import Policy, Program, policy
from lifecycle.run import OWN, arm_of
from lifecycle.triggers import found
from serving import addresses
from serving.compact import compact
from serving.scores import readable
from serving.store import Store

CONSENT, NOBODY = ("email", "marketing"), np.empty(0, np.int64)


def write_audience(home: Path, store: Store, program: Program, file: Path, *, at: datetime) -> int:
    """Write the addresses of a program's audience at a moment, a SHA-256 in hex a line; how many.

    Raises HistoryError.
    """
    history = History(home / "history")
    compact(history, store)
    day = day_of(history, store, at, readable(home))
    records = history.table("consents").to_pandas().sort_values("at", kind="stable")
    still = agreeing(records[day.ids.positions(records["customer_id"].tolist()) >= 0], day.ids)
    lines = hashes(day, store, program, still.get(CONSENT, NOBODY), policy(home / OWN))
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def hashes(day: Day, store: Store, program: Program, still: NDArray[np.int64], rules: Policy) -> list[str]:
    """Of addresses as platforms compare them: trimmed, in small letters; of those for whom the program has an occasion.
    None of who took back their consent, nor of who is held back, whom ads would treat after all, nor of an address that
    is never written to again. `still`: who agrees by now, whatever the day."""
    person = found(day, program.waits).person
    person = np.unique(person[members(day, program)[person]])
    person = np.intersect1d(person, np.intersect1d(day.consents.get(CONSENT, NOBODY), still))
    mails = (
        day.people["email"]
        .iloc[[p for p in person if not arm_of(rules, program, day.ids.at([p])[0])]]
        .dropna()
    )
    gone = suppressed(store)
    fine = {addresses.mail(one) for one in mails if addresses.subject(store, "email", one) not in gone}
    return sorted(hashlib.sha256(one.encode()).hexdigest() for one in fine)
