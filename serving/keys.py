"""Keys: who may ask the service for what. Made once, shown once, stored as a digest.

A key is 32 random bytes, so that a plain SHA-256 hides it; a slow hash is for what people think up.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event

from serving.store import EPOCH, FOREVER, Store, StoreError

EVERY = 2.0  # seconds between two looks at the keys: so long an ended one may still be good
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")
# Scopes: what may be asked for. `open` asks for no key; `customers` is naming them by their ids.
OPEN, LISTS, EVENTS, CUSTOMERS, ALL = "open", "lists", "events", "customers", "all"
PUBLISHABLE, SECRET = "publishable", "secret"
KINDS: Mapping[str, frozenset[str]] = {
    PUBLISHABLE: frozenset({OPEN, LISTS, EVENTS}),
    SECRET: frozenset({OPEN, LISTS, EVENTS, CUSTOMERS, ALL}),
}
SIGNS = {PUBLISHABLE: "pk", SECRET: "sk"}


class KeysError(ValueError):
    """A key that cannot be made or ended as asked; the message says the way out."""


@dataclass(frozen=True)
class Key:
    """What is known of a key; not the key."""

    key_id: str
    kind: str
    origins: tuple[str, ...] = ()
    about: str | None = None
    made: datetime = EPOCH
    ends: datetime | None = None

    def good(self, at: datetime) -> bool:
        return self.ends is None or at < self.ends

    def may(self, scope: str) -> bool:
        return scope in KINDS[self.kind]

    @property
    def space(self) -> str:
        """What ids of its events begin with where they are kept: a page takes none that a till will use."""
        return "" if self.may(ALL) else f"{self.key_id}:"


def make(
    store: Store,
    kind: str,
    *,
    at: datetime,
    origins: Sequence[str] = (),
    about: str | None = None,
    ends: datetime | None = None,
) -> str:
    """A new key, stored as its digest: who asked for it is the only one to see it."""
    if kind not in KINDS:
        raise KeysError(f"there is no kind {kind!r}; known: {', '.join(KINDS)}")
    named = [origin.lower().rstrip("/") for origin in origins]
    if wrong := [origin for origin in named if not ORIGIN.fullmatch(origin)]:
        raise KeysError(f"{wrong[0]!r} is no origin such as https://shop.example")
    if bool(named) != (kind == PUBLISHABLE):
        raise KeysError("a publishable key needs the origins of its pages (--origin), a secret one has none")
    if ends is not None and ends <= at:
        raise KeysError(f"{ends.isoformat()} is over: name an end to come")
    key_id = secrets.token_hex(4)
    key = f"osclms_{SIGNS[kind]}_{key_id}_{secrets.token_urlsafe(32)}"
    row = {"key_id": key_id, "kind": kind, "digest": digest(key), "origins": named, "about": about}
    store.append("keys", [{**row, "ends": ends, "received_at": at}])
    return key


def end(store: Store, key_id: str, *, at: datetime) -> Key:
    """Let a key end then."""
    rows = {row["key_id"]: row for page in store.read("keys", 0, FOREVER) for row in page}
    if key_id not in rows:
        raise KeysError(f"there is no key {key_id!r}; `osclms keys list` names them")
    ended = {**rows[key_id], "ends": at}
    store.append("keys", [ended])
    return key_of(ended)


def read(store: Store) -> dict[str, Key]:
    """All keys by their digests, in the order in which they were made."""
    rows = [row for page in store.read("keys", 0, FOREVER) for row in page]
    return {row["digest"]: key_of(row) for row in rows}  # the latest row of a key counts


def key_of(row: Mapping[str, object]) -> Key:
    about = {name: row[name] for name in ("key_id", "kind", "about", "ends")}
    return Key(**about, origins=tuple(row["origins"]), made=row["received_at"])  # type: ignore[arg-type]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keyring:
    """The keys of a store, as they were when last looked at. Without a store there are none."""

    def __init__(self, store: Store | None = None) -> None:
        """Raises StoreError."""
        self.store, self.keys = store, read(store) if store else {}

    def find(self, key: str, *, at: datetime) -> Key | None:
        found = self.keys.get(digest(key))
        return found if found and found.good(at) else None

    def good(self, *, at: datetime) -> list[Key]:
        return [key for key in self.keys.values() if key.good(at)]

    def knows(self, origin: str, *, at: datetime) -> bool:
        """Whether any key is for pages of this origin."""
        return any(origin in key.origins for key in self.good(at=at))

    def follow(self, ended: Event, every: float = EVERY) -> None:
        """Look again and again, until `ended` is set. While the database is away the keys stay as they were."""
        while self.store and not ended.wait(every):
            try:
                self.keys = read(self.store)
            except StoreError:
                continue
