"""Lists of customers that lie in a home as text: written for a mailing, or hashed for an ads platform. Whoever is
erased is taken out of them, by fields that are theirs as a whole."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from features.judge import Row
from serving.addresses import CONTACT, normal

OURS = (  # folders of a home that other hands clean, or that hold nobody
    *(
        "history",
        "bundles",
        "rejects",
        "outbox",
        "staging",
        "mlruns",
        "cards",
        "programs",
        "scores",
        "choices",
    ),
)
SUFFIXES = (".csv", ".txt")
APART = re.compile(r"[,;\t|]")
NAMED = ("customer_id", "alias")
Gone = Callable[[str], bool]


def text_lists(home: Path) -> Iterator[Path]:
    """Every file of text in a home that is not in a folder of OURS."""
    for path in sorted(home.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file() and path.relative_to(home).parts[0] not in OURS:
            yield path


def signs_of(facts: Iterable[Row]) -> set[str]:
    """By what a list names who has these facts: addresses, as they are and as they are compared, and their hashes."""
    said = {(channel, row[fact]) for row in facts for channel, fact in CONTACT.items() if row.get(fact)}
    plain = {text for channel, address in said for text in (address.strip(), normal(channel, address))}
    return plain | {hashlib.sha256(text.encode()).hexdigest() for text in plain}


def without(lines: list[str], gone: Gone, signs: Collection[str]) -> list[str]:
    """The lines that name none of the erased. An id counts in a column of that name or as a line by itself, as
    elsewhere it may be a number of anything; an address, or its hash, wherever it stands."""
    head = fields(lines[0]) if lines else []
    columns = [place for place, name in enumerate(head) if name.lower() in NAMED]

    def names(line: str) -> bool:
        found = fields(line)
        ids = (
            [found[place] for place in columns if place < len(found)] if columns else found[: len(found) == 1]
        )
        return any(map(gone, filter(None, ids))) or any(field in signs for field in found)

    return [line for line in lines if not names(line)]


def fields(line: str) -> list[str]:
    return [field.strip().strip('"').strip() for field in APART.split(line)]
