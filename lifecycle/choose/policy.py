"""A policy: how likely each eligible arm is for a customer, and which it is. Plain arrays, named by their digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifecycle.choose.learner import DRAWS, Array, Belief

FORMAT = 1
CHUNK = 4_000  # decisions at a time


@dataclass(frozen=True)
class Policy:
    """Thompson sampling by `draws` of what programs add to silence, float32 [draws, programs, d + 1]: an arm is as
    likely as the share of draws in which it is the best of the eligible ones, and never less than the floor. Without
    draws, as before anything was learned, all are equally likely.

    arms: silence, then the programs. features: of the context, as `lifecycle.choose.context` makes them.
    """

    arms: tuple[str, ...]
    features: tuple[str, ...]
    draws: NDArray[np.float32]
    floor: float
    about: Mapping[str, Any]

    @classmethod
    def of(
        cls, belief: Belief | None, arms: Sequence[str], features: Sequence[str], *, floor: float, seed: int,
        draws: int = DRAWS, about: Mapping[str, Any] | None = None,
    ) -> "Policy":  # fmt: skip
        rng = np.random.default_rng(seed)
        nothing: NDArray[Any] = np.zeros((0, len(arms) - 1, len(features) + 1), np.float32)
        drawn = belief.draw(draws, rng) if belief else nothing
        return cls(tuple(arms), tuple(features), drawn, floor, about or {})

    def probabilities(self, x: Array, eligible: NDArray[np.bool_], again: NDArray[np.bool_]) -> Array:
        """[n, arms], each row summing to 1 over its eligible arms, of which silence is one."""
        count = eligible.sum(axis=1, keepdims=True)
        if not len(self.draws):
            return np.asarray(eligible / count)
        best = np.concatenate(
            [self._best(x[s], eligible[s], again[s]) for s in slices(len(x))] or [np.zeros(eligible.shape)]
        )
        floor = np.minimum(self.floor, 1 / count)
        return np.asarray(np.where(eligible, floor + (1 - floor * count) * best, 0.0))

    def _best(self, x: Array, eligible: NDArray[np.bool_], again: NDArray[np.bool_]) -> Array:
        """The share of draws in which each arm is the best of the eligible ones."""
        draws, programs, _ = self.draws.shape
        worth = np.zeros((len(x), draws, programs + 1), np.float32)
        flat = self.draws[:, :, :-1].reshape(draws * programs, -1)
        worth[:, :, 1:] = (x.astype(np.float32) @ flat.T).reshape(len(x), draws, programs)
        worth[:, :, 1:] += again[:, None, 1:] * self.draws[None, :, :, -1]
        worth[np.broadcast_to(~eligible[:, None, :], worth.shape)] = -np.inf
        first = worth.argmax(axis=2)
        cells = np.arange(len(x))[:, None] * (programs + 1) + first
        counts = np.bincount(cells.ravel(), minlength=len(x) * (programs + 1))
        return np.asarray(counts.reshape(len(x), programs + 1) / draws)

    @cached_property
    def version(self) -> str:
        """A name of all that decides."""
        told = json.dumps([FORMAT, self.arms, self.features, self.floor]).encode()
        return hashlib.blake2b(told + self.draws.tobytes(), digest_size=6).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write it to `folder`/VERSION.npz, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path, part = folder / f"{self.version}.npz", folder / f".{self.version}.part.npz"
        told = {
            "format": FORMAT, "arms": self.arms, "features": self.features, "floor": self.floor,
            "about": dict(self.about),
        }  # fmt: skip
        np.savez_compressed(part, draws=self.draws, told=np.array(json.dumps(told)))
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> "Policy":
        with np.load(path, allow_pickle=False) as kept:
            told = json.loads(str(kept["told"]))
            return cls(
                tuple(told["arms"]), tuple(told["features"]), kept["draws"], told["floor"], told["about"]
            )


def slices(count: int, size: int = CHUNK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def picked(probabilities: Array, uniforms: Array) -> NDArray[np.int64]:
    """The arm of each row that these numbers from 0 to 1 fall upon."""
    bounds = np.cumsum(probabilities, axis=1)
    found = (uniforms[:, None] * bounds[:, -1:] >= bounds).sum(axis=1)
    return np.asarray(np.minimum(found, probabilities.shape[1] - 1), np.int64)
