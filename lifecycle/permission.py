"""Permission: whether a customer may be sent a program's message, and what it may show, by what is on record of them.

Lists of products are promotion, also in a message that needs no consent: without one to marketing by its channel it
goes without its lists.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from features.history import History
from lifecycle.ledger import pauses
from lifecycle.programs import Policy, Program
from serving.addresses import CONTACT, is_suppressed, subject
from serving.consents import Said, consent_records, consents_now, personal
from serving.identities import ids_now
from serving.people import facts_of
from serving.store import Store


class Permission(NamedTuple):
    """may_send: whether the program may write to the customer on its channel; None where nobody is named. why, or why
    not. agreed: to marketing there. personal: whether lists may be of what is known of the customer."""

    may_send: bool | None
    why: str
    agreed: bool = True
    personal: bool = True


UNNAMED = Permission(None, "nobody is named")


def agreed(said: Said, channel: str) -> bool:
    """No record means no."""
    record = said.get((channel, "marketing"))
    return bool(record and record["granted"])


def permission(
    store: Store | None, history: History | None, program: Program, customer_id: str, rules: Policy, *, at: datetime,
    agrees: bool | None = None,
) -> Permission:  # fmt: skip
    """What is on record of a customer for a program now; `agrees`: the word of who keeps consents elsewhere. Raises
    StoreError."""
    ids = ids_now(store, history, customer_id) if store else (customer_id,)
    said = consents_now(consent_records(store, history, ids))
    agrees = agreed(said, program.channel) if agrees is None else agrees
    own = personal(said, rules.personalisation == "opt_in")
    if store is None:
        return Permission(False, "there is no database that knows addresses and pauses", agrees, own)
    facts = facts_of(store, history, ids)
    asked = Asked(store, program, ids, facts.get(CONTACT.get(program.channel, "")), agrees, at)
    why = next(filter(None, (check(asked) for check in CHECKS)), None)
    return Permission(why is None, why or fine(program), agrees, own)


def fine(program: Program) -> str:
    if program.kind == "marketing":
        return f"agreed to marketing by {program.channel}"
    return "it is transactional and needs no consent"


def without_lists(channel: str) -> str:
    """Why a message that needs no consent has no lists."""
    return f"without its lists: no consent to marketing by {channel}"


# --- why not ----------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    store: Store
    program: Program
    ids: Sequence[str]
    address: Any
    agreed: bool
    at: datetime


def no_address(asked: Asked) -> str | None:
    return None if asked.address else f"no address is known for {asked.program.channel}"


def suppressed(asked: Asked) -> str | None:
    why = is_suppressed(asked.store, subject(asked.store, asked.program.channel, asked.address))
    return f"the address is suppressed: {why}" if why else None


def no_consent(asked: Asked) -> str | None:
    needed = asked.program.kind == "marketing"
    return f"no consent to marketing by {asked.program.channel}" if needed and not asked.agreed else None


def paused(asked: Asked) -> str | None:
    found, marketing = pauses(asked.store, asked.at), asked.program.kind == "marketing"
    whys = (found.of(asked.program.name, name, marketing=marketing) for name in asked.ids)
    return next((f"paused: {why}" for why in whys if why), None)


CHECKS: tuple[Callable[[Asked], str | None], ...] = (no_address, suppressed, no_consent, paused)
