"""Programs' files checked before they run: their form, the texts in them, and whether what they name exists."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lifecycle.programs import POLICY, SHIPPED, Policy, Program, files, policy
from lifecycle.sense import never_open, senseless, unheeded
from lifecycle.texts import LIQUID, faults, fields, parsed
from lifecycle.triggers import PRODUCTS, WORDS
from lifecycle.yamls import FileError, line_of, lines_of, read

EVERYWHERE = (
    "store", "first_name", "product", "price", "link", "products", "lists"
)  # names that every text may use  # fmt: skip


class Fault(NamedTuple):
    path: Path
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.says}"


def all_files(own: Path) -> list[Path]:
    """Files that ship, and those in a shop's own folder."""
    folders = (SHIPPED, own)
    return [
        *(path for of in folders for path in files(of)),
        *(p for of in folders if (p := of / POLICY).exists()),
    ]


def faults_in(paths: Iterable[Path], placements: Collection[str], own: Path | None = None) -> list[Fault]:
    """Everything that is wrong with these files, by line; `own`: the folder with a shop's policy."""
    rules = policy_of(own)
    return [Fault(path, line, says) for path in paths for line, says in faults_of(path, placements, rules)]


def policy_of(own: Path | None) -> Policy:
    """The shop's; the shipped one where that is not understood, which is a fault of its own file."""
    try:
        return policy(own)
    except FileError:
        return policy(None)


def faults_of(path: Path, placements: Collection[str], rules: Policy) -> list[tuple[int, str]]:
    try:
        if path.name == POLICY:
            read(path, Policy)
            return []
        program = read(path, Program)
    except FileError as error:
        return error.faults
    lines = lines_of(path)
    found = [
        *faults_of_form(program, placements),
        *(fault for name in program.variants for fault in faults_of_variant(name, program, placements)),
        *never_open(program, rules),
        *unheeded(program, rules),
        *([("name", f"is {program.name}, the file says {path.stem}")] if program.name != path.stem else ()),
    ]
    return sorted((line_of(place(where), lines), f"{where}: {says}") for where, says in found)


def faults_of_form(program: Program, placements: Collection[str]) -> list[tuple[str, str]]:
    return [
        *(faults(program, names(program)) or unknown_filters(program)),
        *unknown_placements(program, placements),
        *about_nothing(program),
        *senseless(program),
    ]


def faults_of_variant(name: str, program: Program, placements: Collection[str]) -> Iterator[tuple[str, str]]:
    """Those that the program as it stands has not."""
    known = faults_of_form(program, placements)
    for where, says in faults_of_form(program.form(name), placements):
        if (where, says) not in known:
            yield f"variants.{name}.{where}", says


def names(program: Program) -> tuple[str, ...]:
    """What the texts of a program may name."""
    own = tuple(WORDS[program.trigger.kind])
    return (
        *EVERYWHERE, *own, *(("more_lines",) if "lines" in own else ()), *(("voucher",) if program.voucher else ()),
    )  # fmt: skip


def unknown_filters(program: Program) -> Iterator[tuple[str, str]]:
    for locale, texts in program.texts.items():
        for field, text in fields(texts):
            for name in sorted({*parsed(text).analyze().filters} - {*LIQUID.filters}):
                yield f"texts.{locale}.{field}", f"there is no filter {name!r}"


def unknown_placements(program: Program, known: Collection[str]) -> Iterator[tuple[str, str]]:
    for number, shelf in enumerate(program.shelves):
        if shelf.placement not in known:
            yield (
                f"shelves.{number}.placement",
                f"there is no placement {shelf.placement!r}; known: {', '.join(known)}",
            )


def about_nothing(program: Program) -> Iterator[tuple[str, str]]:
    """What asks for products of an occasion that has none."""
    if program.trigger.kind in PRODUCTS:
        return
    why = f"an occasion of the kind {program.trigger.kind} is about no product; those that are: {', '.join(PRODUCTS)}"
    for number, shelf in enumerate(program.shelves):
        if shelf.about != "customer":
            yield f"shelves.{number}.about", why
    if program.products:
        yield "products", why
    if "ordered_product" in program.exit:
        yield "exit", why


def place(where: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in where.split("."))
