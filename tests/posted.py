"""A shop's messages for tests: programs, decisions that are due, and whom they are for."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from live import NOW
from running import PUBLIC_URL, SECRET, SHOP_URL

from lifecycle.channels import Carrier, Files
from lifecycle.drafts import Draft
from lifecycle.outbox import Delivered, deliver
from lifecycle.programs import Program
from serving.engine import Engine
from serving.links import Links
from serving.store import Store
from serving.tokens import Tokens

LINKS = Links(Tokens([SECRET]), PUBLIC_URL, SHOP_URL)
HOUR = timedelta(hours=1)
TEXTS = {
    "en": {
        "subject": "Hello{% if first_name %}, {{ first_name }}{% endif %}",
        "title": "Hello",
        "body": "Something for you.",
        "sms": "Hello from Corner",
        "push": "Something for you",
    }
}


def program(name: str = "hello", **other: Any) -> Program:
    about = {"name": name, "about": "a test", "trigger": {"kind": "joined"}, "texts": TEXTS, **other}
    return Program.model_validate(about)


PROGRAMS = {
    "hello": program(),
    "receipt": program("receipt", kind="transactional", trigger={"kind": "order"}),
    "gone": program("gone", exit=["order"]),
    "cart": program("cart", exit=["ordered_product"]),
    "day": program("day", exit=["passed"]),
    "off": program("off", enabled=False),
}


def decision(name: str, customer: str = "anna", **other: Any) -> dict[str, Any]:
    """A message by the program `hello`, due at NOW and decided six hours before."""
    kind = PROGRAMS[other["program"]].kind if other.get("program") in PROGRAMS else "marketing"
    return {
        "run_at": NOW - 6 * HOUR, "customer_id": customer, "program": "hello", "version": "v1", "occasion": name,
        "outcome": "message", "channel": "email", "message_id": name, "send_at": NOW, "kind": kind,
        "content": Draft(products=("bread",)).model_dump_json(), "received_at": NOW - 6 * HOUR, **other,
    }  # fmt: skip


def person(store: Store, name: str = "anna", *, agreed: bool = True, **facts: Any) -> None:
    """A customer with an address, who agreed to e-mail a day before NOW."""
    known = {
        "email": f"{name}@mail.example",
        "phone": "+1 200 555 0100",
        "push_token": f"push-{name}",
        **facts,
    }
    store.append("customers", [{"customer_id": name, **known, "received_at": NOW}])
    if agreed:
        store.append("consents", [consent(name, channel) for channel in ("email", "sms", "push")])


def consent(name: str = "anna", channel: str = "email", granted: bool = True, **other: Any) -> dict[str, Any]:
    at = NOW - 24 * HOUR
    return {
        "customer_id": name, "channel": channel, "purpose": "marketing", "granted": granted, "at": at,
        "received_at": at, **other,
    }  # fmt: skip


def sending(
    store: Store, engine: Engine, home: Path, *, channels: Mapping[str, Carrier] | None = None,
    after: timedelta = HOUR, clock: Callable[[], Any] | None = None, **other: Any,
) -> Delivered:  # fmt: skip
    """`deliver` so long after NOW."""
    carriers = channels or dict.fromkeys(("email", "sms", "push"), Files(home))
    given: dict[str, Any] = {"programs": PROGRAMS, "links": LINKS, "domain": "shop.example", **other}
    return deliver(store, engine, home, now=NOW + after, channels=carriers, clock=clock, **given)


def states(store: Store, message: str) -> list[str]:
    """What became of a message, row by row."""
    found = [row for page in store.read("deliveries", 0, 1 << 60) for row in page]
    return [row["state"] for row in found if row["message_id"] == message]


def mails(home: Path) -> list[Path]:
    return sorted((home / "outbox").glob("*/*/*"))
