"""The part of docs/programs.md that the models tell themselves: `python -m lifecycle.handbook` writes it anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from lifecycle.programs import Trigger, Waits
from lifecycle.triggers import PRODUCTS, WORDS

PAGE = Path(__file__).parent.parent / "docs" / "programs.md"
MARKS = ("<!-- made by python -m lifecycle.handbook -->", "<!-- end of what is made -->")
KINDS: tuple[type[Waits], ...] = get_args(get_args(Trigger)[0])


def fresh(page: str) -> str:
    """The page with its part made anew."""
    before, rest = page.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n\n{chr(10).join(triggers())}\n{MARKS[1]}{after}"


def triggers() -> Iterator[str]:
    """Each kind of trigger: what it waits for, its settings, what a text may say of it."""
    for model in KINDS:
        kind = get_args(model.model_fields["kind"].annotation)[0]
        yield f"### {kind}\n\n{' '.join((model.__doc__ or '').split())}\n"
        own = {
            name: of for name, of in model.model_fields.items() if name not in {*Waits.model_fields, "kind"}
        }
        if own:
            yield "Settings: " + ", ".join(f"`{name}` ({told(of)})" for name, of in own.items()) + ".\n"
        words = ", ".join(f"`{name}`" for name in WORDS[kind]) or "nothing more"
        yield f"About {'products' if kind in PRODUCTS else 'no product'}. Texts may say: {words}.\n"


def told(field: FieldInfo) -> str:
    return "required" if field.is_required() else plain(field.default)


def plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(plain, value)) or "all"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


if __name__ == "__main__":
    PAGE.write_text(fresh(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
