"""Hot swap: a promoted champion is served within seconds, without one failed or mixed request."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TypeVar

from serving import metrics
from serving.bundle import BundleError
from serving.store import StoreError

EVERY = 2.0  # seconds between two looks at the file that names the champion
Made = TypeVar("Made")
log = logging.getLogger("osclms.swap")


def watch(
    served: Path,
    *,
    find: Callable[[], Path],
    make: Callable[[Path], Made],
    use: Callable[[Made], None],
    ended: Event,
    every: float = EVERY,
) -> None:
    """Look for another champion than the one served, until `ended` is set; make it, and only then use it.

    One that cannot be made stays unserved until another takes its place: the old one goes on, and
    osclms_champion_refused says so. Where the database is away it is tried again.
    """
    refused: Path | None = None
    while not ended.wait(every):
        try:
            folder = find()
        except (BundleError, OSError):
            continue  # nothing is named for now: what is served goes on
        if folder in (served, refused):
            continue
        try:
            made = make(folder)
        except StoreError:
            continue  # the database is away, which is not the champion's fault
        except Exception as error:  # whatever is wrong with it, what is served goes on
            refused = folder
            metrics.REFUSED.inc()
            # only our own errors tell their message: another's may hold what a customer sent
            told = str(error) if isinstance(error, BundleError) else type(error).__name__
            log.error("version %s is not served, version %s goes on: %s", folder.name, served.name, told)
        else:
            use(made)
            log.info("version %s is served in place of %s", folder.name, served.name)
            served, refused = folder, None
