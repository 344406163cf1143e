"""Letters that arrive and can be read: what is wrong with the HTML of one, for whatever program it opens."""

import re
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

MAX_BYTES = 102_000  # clients clip what is longer
MAX_STYLE = 16_000  # some drop a longer head's styles
FORBIDDEN = ("script", "form", "iframe", "object", "embed", "link", "video", "audio", "svg", "input")
WEB = ("https://", "http://")
LEFT = re.compile(r"\{\{|\{%|\bNone\b|\bnull\b|\ue000")
VARIABLE = re.compile(r"var\(|(?:^|[;{\s])--[\w-]+\s*:")
Attributes = Mapping[str, str | None]


class Reader(HTMLParser):
    """What of a letter is looked at. tags: every one with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.styles: list[str] = []
        self.said: list[str] = []
        self.inside: list[str] = []
        self.hidden: list[str] = []  # what is hidden before anything is said: what lists of mails show
        self.title = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.tags.append((tag, about))
        if tag in ("title", "style", "body", "div"):
            self.inside.append("hidden" if "display:none" in (about.get("style") or "") else tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("title", "style", "body", "div") and self.inside:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        where = self.inside[-1] if self.inside else ""
        if where == "title":
            self.title += data
        elif where == "style":
            self.styles.append(data)
        elif where == "hidden":
            self.hidden.append(data.strip())
        elif data.strip():
            self.said.append(data.strip())

    def all(self, tag: str) -> list[Attributes]:
        return [about for name, about in self.tags if name == tag]


def check(html: str) -> list[str]:
    """What would keep a letter from arriving, or from being read; empty where nothing would."""
    reader = Reader()
    reader.feed(html)
    return [fault for rule in RULES for fault in rule(html, reader)]


def size(html: str, letter: Reader) -> Iterator[str]:
    bytes_, style = len(html.encode()), sum(len(text.encode()) for text in letter.styles)
    if bytes_ > MAX_BYTES:
        yield f"{bytes_:,} bytes: clients clip what has more than {MAX_BYTES:,}"
    if style > MAX_STYLE:
        yield f"{style:,} bytes of styles in the head: at most {MAX_STYLE:,}"


def head(html: str, letter: Reader) -> Iterator[str]:
    if not any(about.get("lang") for about in letter.all("html")):
        yield "html: no lang"
    if not letter.title.strip():
        yield "title: none"
    if not any(letter.hidden):
        yield "preheader: none, a list of mails shows whatever comes first"


def dark(html: str, letter: Reader) -> Iterator[str]:
    schemes = [about.get("content") for about in letter.all("meta") if about.get("name") == "color-scheme"]
    if not any("dark" in (scheme or "") for scheme in schemes):
        yield "meta: no color-scheme with dark"
    if not any("prefers-color-scheme: dark" in text for text in letter.styles):
        yield "style: nothing for prefers-color-scheme: dark"


def markup(html: str, letter: Reader) -> Iterator[str]:
    for tag in sorted({tag for tag, _ in letter.tags} & {*FORBIDDEN}):
        yield f"{tag}: clients remove it"
    if any(about.get("role") != "presentation" for about in letter.all("table")):
        yield "table: one without role=presentation, which is read aloud as data"
    if any(not (about.get("alt") or "").strip() for about in letter.all("img")):
        yield "img: one without alt"
    inline = (str(about["style"]) for _, about in letter.tags if about.get("style"))
    if any(VARIABLE.search(text) for text in (*letter.styles, *inline)):
        yield "style: a CSS variable, which clients drop with its declaration"
    if any("@import" in text or "url(" in text for text in letter.styles):
        yield "style: fetches something"


def addresses(html: str, letter: Reader) -> Iterator[str]:
    for tag, name in (("a", "href"), ("img", "src")):
        found = (str(about.get(name) or "") for about in letter.all(tag))
        if any(not url.lower().startswith(WEB) for url in found):
            yield f"{tag}: one whose {name} is no http(s) address"


def words(html: str, letter: Reader) -> Iterator[str]:
    left: set[Any] = {
        found[0] for text in (letter.title, *letter.hidden, *letter.said) if (found := LEFT.search(text))
    }
    for mark in sorted(left):
        yield f"{mark!r} is printed"


RULES: tuple[Callable[[str, Reader], Iterator[str]], ...] = (size, head, dark, markup, addresses, words)
