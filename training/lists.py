"""Lists of customers that lie in a home: recommended to, written for a mailing, or hashed for an ads platform; and
what loads refused. Whoever is erased is taken out of them."""

import csv
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.judge import Row
from serving.addresses import CONTACT, normal
from training.publish import replace

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
QUOTED = re.compile(r'"([^"]*)')
REJECTS, FRESH = "rejects", ".fresh"
WORDS = re.compile(r"[^\s,;|/\"']+")
APART = ",;\t|"
NAMED = ("customer_id", "alias")
Gone = Callable[[str], bool]
Sift = Callable[[Iterable[str], Callable[[str], object]], int]  # hands on what stays, tells how much does not


def lists_without(home: Path, gone: Gone, signs: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Take the erased out of every list; (how many lines they had, what could not be read). `signs`: see `signs_of`."""
    count, unread = 0, list[str]()
    for path in lists_in(home):
        clean = clean_rejects if path.parent == home / REJECTS else CLEAN[path.suffix.lower()]
        try:
            if path.is_symlink() or (clean is not clean_table and is_wide(path)):
                raise OSError("what it leads to is elsewhere, or in another encoding")
            count += clean(path, gone, signs)
        except (OSError, pa.ArrowException):
            unread.append(path.relative_to(home).as_posix())
            path.with_name(f".{path.name}{FRESH}").unlink(missing_ok=True)
    return count, tuple(unread)


def is_wide(path: Path) -> bool:
    """Whether a text is of two bytes or more a letter, as some tables are saved."""
    with path.open("rb") as file:
        begins = file.read(4_096)
    return begins.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in begins


def lists_in(home: Path) -> Iterator[Path]:
    """Every list in a home that is not in a folder of OURS, and the rejects."""
    yield from sorted((home / REJECTS).glob("*.csv"))
    yield from (path for path in others(home) if path.suffix.lower() in CLEAN)


def sweep(home: Path) -> None:
    """Remove what was half written when it was killed."""
    for path in [*others(home), *(home / REJECTS).glob("*")]:
        if path.name.startswith(".") and path.name.endswith(FRESH):
            path.unlink()


def others(home: Path) -> list[Path]:
    """Files that are in no folder of OURS."""
    return sorted(p for p in home.rglob("*") if p.relative_to(home).parts[0] not in OURS and p.is_file())


def clean_table(path: Path, gone: Gone, signs: Collection[str]) -> int:
    del signs  # a list of ours holds no address
    found = pq.read_table(path, partitioning=None)
    if "customer_id" not in found.column_names:
        return 0
    mask = [not (name and gone(str(name))) for name in found["customer_id"].to_pylist()]
    if not all(mask):
        fresh = path.with_name(f".{path.name}{FRESH}")
        pq.write_table(found.filter(pa.array(mask, pa.bool_())), fresh)
        replace(fresh, path)
    return len(mask) - sum(mask)


def clean_lines(path: Path, gone: Gone, signs: Collection[str]) -> int:
    del signs
    return sifted(path, lambda lines, keep: lines_without(lines, gone, keep))


def clean_list(path: Path, gone: Gone, signs: Collection[str]) -> int:
    return sifted(path, lambda lines, keep: without(lines, gone, signs, keep))


def clean_rejects(path: Path, gone: Gone, signs: Collection[str]) -> int:
    del signs
    return sifted(path, lambda lines, keep: rejects_without(lines, gone, keep))


CLEAN: Mapping[str, Callable[[Path, Gone, Collection[str]], int]] = {
    ".csv": clean_list,
    ".tsv": clean_list,
    ".txt": clean_list,
    ".ndjson": clean_lines,
    ".jsonl": clean_lines,
    ".parquet": clean_table,
}


def sifted(path: Path, sift: Sift) -> int:
    """Write a file anew with what `sift` hands on; how much it left out. Bytes that are no text stay as they are."""
    fresh = path.with_name(f".{path.name}{FRESH}")
    how: Any = {"newline": "", "errors": "surrogateescape"}
    with path.open(encoding="utf-8-sig", **how) as file, fresh.open("w", encoding="utf-8", **how) as out:
        count = sift(file, out.write)
    if count:
        shutil.copymode(path, fresh)
        replace(fresh, path)
    else:
        fresh.unlink()
    return count


def lines_without(lines: Iterable[str], gone: Gone, kept: Callable[[str], object]) -> int:
    """Hand on the lines whose object names none of the erased; of a line that is none, every word may be an id."""
    left_out = 0
    for line in lines:
        if any(map(gone, named_in(line))):
            left_out += 1
        else:
            kept(line)
    return left_out


def rejects_without(lines: Iterable[str], gone: Gone, kept: Callable[[str], object]) -> int:
    """The same of records, which hold a row that was refused as it came."""
    left_out = 0
    for raw, found in records(lines):
        if any(gone(word) for cell in found for word in words_of(cell)):
            left_out += 1
        else:
            kept(raw)
    return left_out


def named_in(line: str) -> Iterable[str]:
    """Whom a line of JSON names; where it is no object, all texts in it, and where it is no JSON, all words."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return [*words_of(line), *map(str.strip, QUOTED.findall(line))]
    if isinstance(found, dict):
        return [str(value) for name, value in found.items() if name.casefold() in NAMED and value is not None]
    return texts_in(found)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)
    else:
        yield str(value)


def object_in(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def words_of(cell: str) -> Iterator[str]:
    """What in a cell may be an id: all of it, its words, and those of the values where it is JSON."""
    for text in (cell, *map(str, (object_in(cell) or {}).values())):
        yield text.strip()
        yield from WORDS.findall(text)


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
    csv.field_size_limit(sys.maxsize)  # a reject holds its whole row
    held = iter(lines)
    first = next(held, "")
    apart = max(APART, key=first.count)
    taken = list[str]()

    def fed() -> Iterator[str]:
        for line in chain([first], held):
            taken.append(line)
            yield line

    for found in csv.reader(fed(), delimiter=apart):
        raw = "".join(taken)
        if len(taken) > 1 and raw.count('"') % 2:  # a quote that nobody closed holds no lines
            yield from ((line, [field.strip(' "\r\n') for field in line.split(apart)]) for line in taken)
        else:
            yield raw, [field.strip() for field in found]
        taken.clear()
