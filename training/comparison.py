"""Two versions side by side: what they reached, and where their configurations differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serving.bundle import Manifest, read_manifest
from training.evaluate import METRICS
from training.intervals import Interval
from training.publish import Registry, RegistryError

CONFIGURATION = ("recipes", "placements", "rankings")


@dataclass(frozen=True)
class Pair:
    """One figure or setting of both versions; None where a version has none."""

    name: str
    first: Any
    second: Any

    @property
    def difference(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """intervals: of the placements' figures, where both versions have them."""

    versions: tuple[str, str]
    data_until: tuple[datetime, datetime]
    figures: tuple[Pair, ...]
    intervals: Mapping[str, tuple[Interval, Interval]]
    settings: tuple[Pair, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "versions": self.versions,
            "data_until": [at.isoformat() for at in self.data_until],
            "figures": {
                p.name: {"values": [p.first, p.second], "difference": p.difference}
                | ({"intervals": [vars(i) for i in both]} if (both := self.intervals.get(p.name)) else {})
                for p in self.figures
            },
            "configuration": {p.name: [p.first, p.second] for p in self.settings},
        }


def compare(home: Path, first: str, second: str) -> Comparison:
    """What two versions reached in their trainings. Raises RegistryError for a version that there is not."""
    registry = Registry(home)
    one, other = (manifest_of(registry, version) for version in (first, second))
    left, right = (intervals_of(registry.report(version)) for version in (first, second))
    return Comparison(
        (first, second),
        (one.data_until, other.data_until),
        tuple(pairs(one.metrics, other.metrics)),
        {name: (left[name], right[name]) for name in left if name in right},
        tuple(p for p in pairs(settings(one), settings(other)) if p.first != p.second),
    )


def manifest_of(registry: Registry, version: str) -> Manifest:
    known = registry.versions()
    if version not in known:
        raise RegistryError(
            f"there is no version {version}; known: {', '.join(known) or 'none, run `osclms train`'}"
        )
    folder = registry.bundles / version
    if not folder.exists():
        raise RegistryError(
            f"{folder} is gone, and with it the configuration of version {version}; its figures are in its run in "
            f"MLflow: compare others of {', '.join(v for v in known if (registry.bundles / v).exists())}"
        )
    return read_manifest(folder)


def intervals_of(report: Mapping[str, Any]) -> dict[str, Interval]:
    """By the names that the manifest uses; accuracy is the placement's primary figure."""
    found: dict[str, Interval] = {}
    for place, figures in report.get("placements", {}).items():
        named = (*METRICS, figures["primary"])
        spans = {name: Interval(**figures[name]) for name in named if name in figures}
        found |= {f"{place}.{name}": span for name, span in spans.items()}
        found[f"{place}.accuracy"] = spans[figures["primary"]]
    return found


def pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Pair]:
    for name in dict.fromkeys((*first, *second)):
        yield Pair(name, first.get(name), second.get(name))


def settings(manifest: Manifest) -> dict[str, Any]:
    """Every setting by its path, as `placements.next_best.sources.als:customer.weight`."""
    return dict(flat(manifest.model_dump(mode="json", include=set(CONFIGURATION)), ""))


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The plain values inside, by their paths; a source is named by what it asks, anything else by its place."""
    if isinstance(value, dict) and value:
        for name, inside in value.items():
            yield from flat(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(inside, dict) for inside in value):
        for place, inside in enumerate(value):
            named = f"{inside['model']}:{inside['asks']}" if "model" in inside else str(place)
            yield from flat(inside, f"{path}.{named}")
    else:
        yield path, value
