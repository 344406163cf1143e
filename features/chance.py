"""Chance that is a function: the same seed, purpose and keys always give the same number.

A number is a hash of what it is for and whom it concerns (counter-based, as Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"; the mixing is SplitMix64's, Steele et al. 2014). So nothing depends on the order in
which numbers are asked for: not on chunks, not on processes, not on how many others there are.
"""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, ndtri

Reals = NDArray[np.float64]
STEP, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Chance:
    seed: int

    def bits(self, what: str, *keys: Any) -> NDArray[np.uint64]:
        """64 random bits for each of the keys, whole numbers that are broadcast against each other."""
        with np.errstate(over="ignore"):
            found = mixed(np.uint64(zlib.crc32(what.encode())) + np.uint64(self.seed) * STEP)
            for key in keys:
                found = mixed(found + np.asarray(key).astype(np.uint64) * STEP)
        return np.asarray(found)

    def uniform(self, what: str, *keys: Any) -> Reals:
        """Above 0 and below 1."""
        return ((self.bits(what, *keys) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def happens(self, share: Reals | float, what: str, *keys: Any) -> NDArray[np.bool_]:
        return np.asarray(self.uniform(what, *keys) < share)

    def normal(self, what: str, *keys: Any) -> Reals:
        return np.asarray(ndtri(self.uniform(what, *keys)))

    def exponential(self, what: str, *keys: Any) -> Reals:
        """Of mean 1."""
        return np.asarray(-np.log(self.uniform(what, *keys)))

    def gamma(self, shape: ArrayLike, what: str, *keys: Any) -> Reals:
        """Of mean 1, so that the variance is 1 / shape."""
        return np.asarray(gammaincinv(shape, self.uniform(what, *keys)) / shape)

    def pick(self, weights: ArrayLike, what: str, *keys: Any) -> NDArray[np.int64]:
        """A place of `weights` for each of the keys, as likely as it weighs."""
        bounds = np.cumsum(np.asarray(weights, np.float64))
        return np.searchsorted(bounds[:-1], self.uniform(what, *keys) * bounds[-1], side="right")


def mixed(bits: Any) -> Any:
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))


def keys_of(texts: Iterable[str]) -> NDArray[np.uint64]:
    """A key for each text, the same on every machine."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8")


def spread(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For `counts[i]` rows of each i: whose row it is, and its number from 0."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
