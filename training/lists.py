"""Lists of customers that lie in a home: recommended to, written for a mailing, or hashed for an ads platform; and
what loads refused. Whoever is erased is taken out of them."""

import bz2
import csv
import gzip
import hashlib
import json
import lzma
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.judge import Row
from serving.addresses import CONTACT, normal
from training.publish import replace

# folders of a home that other hands clean, or that hold nobody
OURS = (
    "history", "bundles", "rejects", "outbox", "staging", "mlruns", "cards", "programs", "scores", "choices",
)  # fmt: skip
QUOTED = re.compile(r'"([^"]*)')
REJECTS, FRESH, TABLE = "rejects", ".fresh", ".parquet"
PACKED: Mapping[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# what may hold lists, and is not opened
SEALED = (
    ".zip", ".zst", ".7z", ".rar", ".lz4", ".tar", ".tgz", ".tbz2", ".txz", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods",
)  # fmt: skip
WORDS = re.compile(r"[^\s,;|/\"']+")
APART = ",;\t|"
NAMED = ("customer_id", "alias")
Gone = Callable[[str], bool]
Sift = Callable[
    [Iterable[str], Gone, Collection[str]], Iterator[tuple[str, bool]]
]  # records, and whether each goes


def lists_without(home: Path, gone: Gone, signs: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Take the erased out of every list; (how many lines they had, what could not be read). `signs`: see `signs_of`."""
    count, unread = 0, list[str]()
    for path in lists_in(home):
        try:
            if path.is_symlink():
                raise OSError("what it leads to is elsewhere")
            kind, packed = kind_of(path)
            if kind == TABLE and not packed:
                count += clean_table(path, gone)
            elif kind in SIFTS:
                sift = refused if path.parent == home / REJECTS else SIFTS[kind]
                count += clean_text(path, PACKED[packed], sift, gone, signs)
            else:
                raise OSError("it is not opened")
        except (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException):
            unread.append(path.relative_to(home).as_posix())
            fresh_of(path).unlink(missing_ok=True)
    return count, tuple(unread)


def fresh_of(path: Path) -> Path:
    """Where what takes a file's place is written first."""
    return path.with_name(f".{path.name}{FRESH}")


def kind_of(path: Path) -> tuple[str, str]:
    """(what kind of list it is by its name, what it is packed by)."""
    packed = last if (last := path.suffix.lower()) in PACKED else ""
    return (path.with_suffix("") if packed else path).suffix.lower(), packed


def is_wide(path: Path, opened: Callable[..., Any]) -> bool:
    """Whether a text is of two bytes or more a letter, as some tables are saved."""
    with opened(path, "rb") as file:
        begins: bytes = file.read(4_096)
    return begins.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in begins


def lists_in(home: Path) -> Iterator[Path]:
    """Every list in a home that is not in a folder of OURS, and the rejects."""
    yield from sorted((home / REJECTS).glob("*.csv"))
    for path in others(home):
        kind, packed = kind_of(path)
        if packed or kind in (*SIFTS, TABLE, *SEALED):
            yield path


def sweep(home: Path) -> None:
    """Remove what was half written when it was killed."""
    for path in [*others(home), *(home / REJECTS).glob("*")]:
        if path.name.startswith(".") and path.name.endswith(FRESH):
            path.unlink()


def others(home: Path) -> list[Path]:
    """Files that are in no folder of OURS."""
    return sorted(p for p in home.rglob("*") if p.relative_to(home).parts[0] not in OURS and p.is_file())


def clean_table(path: Path, gone: Gone) -> int:
    found = pq.read_table(path, partitioning=None)
    if "customer_id" not in found.column_names:
        return 0
    mask = [not (name and gone(str(name))) for name in found["customer_id"].to_pylist()]
    if not all(mask):
        pq.write_table(found.filter(pa.array(mask, pa.bool_())), fresh_of(path))
        replace(fresh_of(path), path)
    return len(mask) - sum(mask)


def clean_text(path: Path, opened: Callable[..., Any], sift: Sift, gone: Gone, signs: Collection[str]) -> int:
    """Write a file anew without the records that go; how many. Bytes that are no text stay as they are."""
    if is_wide(path, opened):
        raise OSError("it is in another encoding")
    fresh, left_out = fresh_of(path), 0
    how: Any = {"newline": "", "errors": "surrogateescape"}
    with (
        opened(path, "rt", encoding="utf-8-sig", **how) as file,
        opened(fresh, "wt", encoding="utf-8", **how) as out,
    ):
        for raw, goes in sift(file, gone, signs):
            left_out += goes
            if not goes:
                out.write(raw)
    if left_out:
        shutil.copymode(path, fresh)
        replace(fresh, path)
    else:
        fresh.unlink()
    return left_out


def lines_of_json(lines: Iterable[str], gone: Gone, signs: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Lines: those go whose object names one of the erased; of a line that is none, every word may be an id."""
    del signs  # a list of ours holds no address
    for line in lines:
        yield line, any(map(gone, named_in(line)))


def refused(lines: Iterable[str], gone: Gone, signs: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Records that hold a row that a load refused, as it came."""
    del signs
    for raw, found in records(lines):
        yield raw, any(gone(word) for cell in found for word in words_of(cell))


def listed(lines: Iterable[str], gone: Gone, signs: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Records, of which those go that name one of the erased. An id counts in a column of that name or as a line by
    itself, as elsewhere it may be a number of anything; an address, or its hash, wherever it stands."""
    columns: list[int] | None = None
    for raw, found in records(lines):
        if columns is None:
            columns = [place for place, name in enumerate(found) if name.casefold() in NAMED]
        own = (
            [found[place] for place in columns if place < len(found)] if columns else found[: len(found) == 1]
        )
        yield raw, any(map(gone, filter(None, own))) or any(field.casefold() in signs for field in found)


SIFTS: Mapping[str, Sift] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), listed),
    **dict.fromkeys((".ndjson", ".jsonl"), lines_of_json),
}


def named_in(line: str) -> Iterable[str]:
    """Whom a line of JSON names; where it is no object, all texts in it, and where it is no JSON, all words."""
    found = json_in(line)
    if found is None:
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


def json_in(text: str) -> Any:
    """What a text says as JSON; None where it says nothing, or is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def words_of(cell: str) -> Iterator[str]:
    """What in a cell may be an id: all of it, its words, and those of the values where it is JSON."""
    found = json_in(cell)
    for text in (cell, *map(str, found.values() if isinstance(found, dict) else ())):
        yield text.strip()
        yield from WORDS.findall(text)


def signs_of(facts: Iterable[Row]) -> set[str]:
    """By what a list names who has these facts: addresses, as they are and as they are compared, and their hashes; all
    in small letters."""
    said = {(channel, row[fact]) for row in facts for channel, fact in CONTACT.items() if row.get(fact)}
    plain = {text for channel, address in said for text in (address.strip(), normal(channel, address))}
    return {text.casefold() for text in plain} | {hashlib.sha256(text.encode()).hexdigest() for text in plain}


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
