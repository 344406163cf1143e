"""The engine as it is now, for whoever asks beside the service: a champion, and over it what its database was told."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from features.history import History
from serving.bundle import champion
from serving.engine import Engine
from serving.overlay import Follower
from serving.placements import FILE as PLACEMENTS
from serving.store import FILE as DATABASE
from serving.store import Store, address


class Current(NamedTuple):
    """An engine, and the customer behind each alias."""

    engine: Engine
    aliases: Mapping[str, str]


@contextmanager
def current(home: Path, database_url: str | None, *, clock: Callable[[], datetime]) -> Iterator[Current]:
    """What the service would answer with: the catalogue stays as it is at this moment, what customers do is read with
    each answer. Where there is no database, the champion alone.

    Raises BundleError, PlacementsError, StoreError.
    """
    engine, history = Engine.load(champion(home), placements=home / PLACEMENTS), History(home / "history")
    if not (database_url or (home / DATABASE).exists()):
        engine.check(home / PLACEMENTS)
        yield Current(engine, history.aliases())
        return
    with Store(address(home, database_url)) as store:
        follower = Follower(engine.bundle, store, history)
        engine = follower.look(engine) or engine
        engine.check(home / PLACEMENTS)
        engine.follow(store, identities=follower.identities, clock=clock, ledger=history)
        yield Current(engine, follower.identities.aliases)
