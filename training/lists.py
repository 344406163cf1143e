"""Lists of customers that lie in a home as text: written for a mailing, or hashed for an ads platform. Whoever is
erased is taken out of them, by fields that are theirs as a whole."""

import csv
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
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
APART = ",;\t|"
NAMED = ("customer_id", "alias")
Gone = Callable[[str], bool]


def text_lists(home: Path) -> Iterator[Path]:
    """Every file of text in a home that is not in a folder of OURS."""
    for path in sorted(home.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file() and path.relative_to(home).parts[0] not in OURS:
            yield path


def signs_of(facts: Iterable[Row]) -> set[str]:
    """By what a list names who has these facts: addresses, as they are and as they are compared, and their hashes; all
    in small letters."""
    said = {(channel, row[fact]) for row in facts for channel, fact in CONTACT.items() if row.get(fact)}
    plain = {text for channel, address in said for text in (address.strip(), normal(channel, address))}
    return {text.casefold() for text in plain} | {hashlib.sha256(text.encode()).hexdigest() for text in plain}


def without(lines: Iterable[str], gone: Gone, signs: Collection[str], kept: Callable[[str], object]) -> int:
    """Hand to `kept` the records that name none of the erased; how many do. An id counts in a column of that name or
    as a line by itself, as elsewhere it may be a number of anything; an address, or its hash, wherever it stands."""
    columns: list[int] | None = None
    left_out = 0
    for raw, found in records(lines):
        if columns is None:
            columns = [place for place, name in enumerate(found) if name.casefold() in NAMED]
        own = (
            [found[place] for place in columns if place < len(found)] if columns else found[: len(found) == 1]
        )
        if any(map(gone, filter(None, own))) or any(field.casefold() in signs for field in found):
            left_out += 1
        else:
            kept(raw)
    return left_out


def records(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each record as it stands and its fields, whose quotes may hold what parts others, and ends of lines. The sign
    that most often stands in the first line parts them."""
    held = iter(lines)
    first = next(held, "")
    apart = max(APART, key=first.count)
    taken = list[str]()

    def fed() -> Iterator[str]:
        for line in chain([first], held):
            taken.append(line)
            yield line

    for found in csv.reader(fed(), delimiter=apart):
        yield "".join(taken), [field.strip() for field in found]
        taken.clear()
