"""Who belongs to which arm of an experiment: by hashing alone, so that nothing is kept and nobody moves.

FNV-1a (https://datatracker.ietf.org/doc/draft-eastlake-fnv/) over the seed, and over its result and the id, into
BUCKETS: hashed once, ids that differ in their last characters alone would lie side by side.
"""

from collections.abc import Mapping

BUCKETS = 10_000
OFFSET, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv1a(data: bytes, start: int = OFFSET) -> int:
    """64 bits."""
    code = start
    for byte in data:
        code = ((code ^ byte) * PRIME) & MASK
    return code


def draw(seed: str, name: str) -> int:
    """64 bits, the same whenever they are asked for."""
    first = fnv1a(f"{seed}|{name}".encode())
    return fnv1a(f"{first:016x}|{name}".encode())


def bucket(seed: str, name: str) -> int:
    """0 to BUCKETS − 1."""
    return draw(seed, name) % BUCKETS


def uniform(seed: str, name: str) -> float:
    """A number from 0 to 1."""
    return draw(seed, name) / 2**64


def is_held_back(seed: str, name: str, share: float) -> bool:
    """Whether this one is of the control group: `share` of all names are."""
    return bucket(seed, name) < round(share * BUCKETS)


def arm_of(seed: str, name: str, shares: Mapping[str, float]) -> str | None:
    """The arm that this one is of, by the share of each; None for the rest of the names."""
    place, upto = bucket(seed, name), 0.0
    for arm, share in shares.items():
        upto += share
        if place < round(upto * BUCKETS):
            return arm
    return None
