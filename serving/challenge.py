"""A challenger: another version, served beside the champion to a share of the customers that a hash draws.

A home's `challenges.jsonl` says which ones there were, a row each, the last one last. It is written where champions are
made (`training.publish`) and read here. One runs until it is ended, or until there is another champion: it was meant to
be held against this one. Whatever is wrong with a challenger, the champion answers all.
"""

import json
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.experiments import is_held_back
from features.history import History
from serving import metrics
from serving.bundle import CHAMPION, BundleError, Edition, edition
from serving.engine import Engine
from serving.logs import why
from serving.overlay import Follower
from serving.schemas import Moment
from serving.store import Store, StoreError
from serving.swap import Refusal, Rewritten, made_of
from serving.wire import worded

FILE, CHAMPIONS = "challenges.jsonl", "champions.jsonl"
Share = Annotated[float, Field(gt=0, lt=1)]
Made = TypeVar("Made")
log = logging.getLogger("osclms.challenge")


class Challenge(BaseModel):
    """A row of the file. seed: another one draws anew; until: when it was ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    champion: str
    share: Share
    seed: int
    since: Moment
    until: Moment | None = None

    def draws(self, key: str) -> bool:
        """Whether who has this id, or what is asked by nobody of an id, is the challenger's: always the same."""
        return is_held_back(f"challenger|{self.seed}", key, self.share)


def challenges(home: Path) -> list[Challenge]:
    """All there were, oldest first. Raises BundleError for a file that is not understood."""
    path, found = home / FILE, list[Challenge]()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    for number, line in enumerate(lines, 1):
        try:
            found.append(Challenge.model_validate_json(line))
        except ValidationError as error:
            raise BundleError(f"{path}:{number} is no challenge: {worded(error.errors()[0])}") from error
    return found


def running(home: Path) -> Challenge | None:
    """The one that is on. Raises BundleError."""
    last = next(reversed(challenges(home)), None)
    if last is None or last.until is not None:
        return None
    try:
        champion = (home / CHAMPION).read_text().strip()
    except FileNotFoundError:
        return None
    return last if last.champion == champion and ended(home, last) is None else None


def ended(home: Path, of: Challenge) -> datetime | None:
    """When a challenge was over: when it was ended, or when there was another champion; None: it runs."""
    path = home / CHAMPIONS
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    others = (datetime.fromisoformat(row["at"]) for row in rows if row["version"] != of.champion)
    ends = [at for at in (of.until, *others) if at is not None and at >= of.since]
    return min(ends, default=None)


def answering(engine: Engine, placements: Collection[str]) -> Engine:
    """The engine, which has answered each of these placements once. Raises BundleError where it does not."""
    if missing := sorted(set(placements) - set(engine.placements)):
        raise BundleError(
            f"version {engine.version} does not answer {', '.join(missing)}: it cannot stand in"
        )
    asked, *_ = engine.sample().questions
    for placement in placements:
        try:
            engine.recommend(placement, asked, at=engine.data_until)
        except Exception as error:
            raise BundleError(
                f"version {engine.version} cannot answer {placement}: {type(error).__name__}"
            ) from error
    return engine


# --- beside a running service -----------------------------------------------------------------------------


class Named(NamedTuple):
    challenge: Challenge
    edition: Edition


class Beside(Generic[Made]):
    """Keeps what is served beside the champion as the home has it. For one thread, that which swaps champions too, so
    that there are never more than two of them: what is beside leaves before another is made."""

    def __init__(
        self, home: Path | None, *, make: Callable[[Path], Made], use: Callable[[Challenge | None, Made | None], None],
        drop: Callable[[Made], None],
    ) -> None:  # fmt: skip
        """`use` takes (None, None) where nothing is to be served beside any more."""
        self.home, self.make, self.use, self.drop = home, make, use, drop
        self.served: Named | None = None
        self.refusal = Refusal(None, None)

    def named(self) -> Named | None:
        found = running(self.home) if self.home else None
        return Named(found, edition(self.home / "bundles" / found.version)) if found and self.home else None

    def look(self) -> None:
        """Serve what is named now. One that cannot be served is logged, counted, and not tried again before it is
        another, or the shop's own file that is at fault is written anew."""
        try:
            found = self.named()
        except (BundleError, OSError) as error:
            log.error("no challenger is served: %s", why(error))
            return self.leave()
        if found == self.served or (found is not None and self.refusal.stands(found)):
            return None
        self.leave()
        if found is None:
            return None
        try:
            made = made_of(found.edition, self.make, self.drop)
            try:
                self.use(found.challenge, made)
            except Exception:
                self.drop(made)
                raise
        except (StoreError, Rewritten):
            return None  # the database is away, which is not its fault; or it is another by now
        except Exception as error:
            self.refusal = Refusal.of(found, error)
            metrics.CHALLENGER_REFUSED.inc()
            names = found.challenge.version
            log.error("version %s is not served beside the champion: %s", names, why(error))
            return None
        self.served = found
        log.info("version %s is served to %g of customers", found.challenge.version, found.challenge.share)
        return None

    def leave(self) -> None:
        """Serve nothing beside the champion, until the next look."""
        if self.served is not None:
            self.use(None, None)
            self.served = None


# --- for whoever asks beside the service ------------------------------------------------------------------


class Challenger(NamedTuple):
    """A challenger's engine, and whom it answers."""

    challenge: Challenge
    engine: Engine


def challenger(
    home: Path, store: Store, champion: Engine, *, placements: Path, clock: Callable[[], datetime]
) -> Challenger | None:  # fmt: skip
    """The one that is on, as it is now; None where there is none, it cannot be served, or it has learned from what came
    after the clock's moment."""
    try:
        found = running(home)
        if found is None:
            return None
        engine = Engine.load(home / "bundles" / found.version, placements=placements)
        if engine.data_until > clock():
            log.warning(
                "version %s has learned from what comes later: the champion answers all", found.version
            )
            return None
        engine = followed(answering(engine, champion.placements), home, store, placements, clock)
        return Challenger(found, engine)
    except Exception as error:  # whatever is wrong with it
        log.error("no challenger is asked, the champion answers all: %s", why(error))
        return None


def followed(
    engine: Engine, home: Path, store: Store, placements: Path, clock: Callable[[], datetime]
) -> Engine:
    """The engine with the catalogue as it is at this moment, and with what customers do. Raises PlacementsError."""
    follower = Follower(engine.bundle, store, History(home / "history"))
    engine = follower.look(engine) or engine
    engine.check(placements)
    engine.follow(store, identities=follower.identities, clock=clock, ledger=follower.history)
    return engine
