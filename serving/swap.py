"""Hot swap: a promoted champion is served within seconds, without one failed or mixed request."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar

from serving import metrics
from serving.bundle import BundleError, Edition, edition
from serving.logs import why
from serving.misread import Misread, Writing, writing
from serving.store import StoreError

EVERY = 2.0  # seconds between two looks at the file that names the champion
Made = TypeVar("Made")
log = logging.getLogger("osclms.swap")


class Rewritten(Exception):
    """A bundle was put in the place of the one that was being read: half of what was read may be of either."""


class Refusal(NamedTuple):
    """What could not be served, and the shop's own file that it was refused for, as it was then; None: no such file."""

    refused: Any
    file: Writing | None

    @classmethod
    def of(cls, what: Any, error: Exception) -> "Refusal":
        return cls(what, error.writing if isinstance(error, Misread) else None)

    def stands(self, found: Any) -> bool:
        """Whether this would be refused again: it is the same, and so is the file."""
        return found == self.refused and (self.file is None or self.file == writing(self.file.path))


def watch(
    served: Edition,
    *,
    find: Callable[[], Path],
    make: Callable[[Path], Made],
    use: Callable[[Made], None],
    drop: Callable[[Made], None] = lambda _: None,
    beside: Callable[[], None] = lambda: None,
    ended: Event,
    every: float = EVERY,
) -> None:
    """Look for another champion than the one served, until `ended` is set; make it, and only then use it. One that was
    written anew, as erasure does, is another.

    `beside` is called at each look, by the same thread. What was made and is not used after all is dropped. One that
    cannot be made stays unserved until another takes its place, or the shop's own file that is at fault is written
    anew: the old one goes on, and osclms_champion_refused says so. Where the database is away it is tried again.
    """
    refusal = Refusal(None, None)
    while not ended.wait(every):
        beside()
        try:
            found = edition(find())
        except (BundleError, OSError):
            continue  # nothing is named for now: what is served goes on
        if found in (served, Edition(served.folder)) or refusal.stands(found):
            continue  # the second is just being put in its place
        try:
            use(made_of(found, make, drop))  # and keep no hold on it
        except (StoreError, Rewritten):
            continue  # the database is away, which is not the champion's fault; or it is another by now
        except Exception as error:  # whatever is wrong with it, what is served goes on
            refusal = Refusal.of(found, error)
            metrics.REFUSED.inc()
            names = found.folder.name, served.folder.name
            log.error("version %s is not served, version %s goes on: %s", *names, why(error))
        else:
            log.info("version %s is served in place of %s", found.folder.name, served.folder.name)
            served, refusal = found, Refusal(None, None)


def made_of(found: Edition, make: Callable[[Path], Made], drop: Callable[[Made], None]) -> Made:
    """What is made of a bundle that lay there all the while. Raises Rewritten, and what `make` raises."""
    try:
        made = make(found.folder)
    except Exception as error:
        raise error if edition(found.folder) == found else Rewritten from error
    if edition(found.folder) != found:
        drop(made)
        raise Rewritten
    return made
