"""Tongue: how things are said to somebody: in which language, with dates and prices as they are written there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

from features.history import Store
from lifecycle.texts import Missing, Money, short
from serving.placements import STORIES

WORDS: Mapping[str, Mapping[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "templates" / "words.yaml").read_text(encoding="utf-8")
)
OTHERWISE = "en"
DATES = ("ordered_on", "ends")  # what is a day or a moment, by name
CALLED = ("tier",)  # what texts may have words of their own for
MONEY = ("was", "is", "worth", "price")
SLOT = re.compile(r"\\{(\w+)\\}")
TOLD = {key: re.compile(SLOT.sub(r"(?P<\1>.+)", re.escape(text))) for key, text in STORIES.items()}


@dataclass(frozen=True)
class Tongue:
    """language: of the templates' own words. locale: how dates and prices are written. zone: whose days count."""

    language: str
    locale: str
    zone: str
    store: Store
    own: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, texts_in: str, wanted: str | None, zone: str | None, store: Store, own: Mapping[str, str] | None = None
    ) -> "Tongue":  # fmt: skip
        """For texts in one locale, and a customer who wants another: theirs counts where the language is the same.
        `own`: words of the texts' own, which go before those of the templates."""
        locale = known_locale(wanted)
        if locale is None or locale.language != texts_in.split("-")[0]:
            locale = known_locale(texts_in) or Locale(OTHERWISE)
        language = locale.language if locale.language in WORDS else OTHERWISE
        return cls(
            language, str(locale), zone if zone and is_zone(zone) else store.time_zone, store, own or {}
        )

    @property
    def words(self) -> Mapping[str, str]:
        name = short(self.store.name)
        if not self.own:
            return said_by(self.language, name)
        return {
            **said_by(self.language, name),
            **{of: text.replace("{store}", name) for of, text in self.own.items()},
        }

    def money(self, amount: float) -> Money:
        return Money.of(amount, lambda of: written(of, self.store.currency, self.locale))

    def day(self, at: str) -> str | None:
        """A day or a moment of ISO 8601, written out by the customer's calendar; None for what is neither."""
        try:
            when = date.fromisoformat(at) if len(at) == 10 else self.local(datetime.fromisoformat(at))
        except ValueError:
            return None
        return dated(when, self.locale)

    def local(self, at: datetime) -> date:
        return at.astimezone(ZoneInfo(self.zone)).date() if at.tzinfo else at.date()

    def story(self, told: str) -> str:
        """A list's story in this language and these words; nothing where it cannot be said."""
        if self.own.keys() & STORIES.keys():
            stories = STORIES if self.language == OTHERWISE else WORDS[self.language]["stories"]
            return retold(told, {**stories, **self.own}, self.locale)
        return told if self.language == OTHERWISE else translated(told, self.language, self.locale)

    def said(self, name: str, value: Any) -> Any:
        """What an occasion tells, as a text says it: by its name a day or a price, all text one line and cut."""
        match value:
            case Mapping():
                return {inner: self.said(inner, of) for inner, of in value.items()}
            case list() | tuple():
                return [self.said(name, of) for of in value]
            case None:
                return Missing(name, token=None)
            case str():
                if name in DATES:
                    return self.day(value) or Missing(name, token=None)
                return short(self.own.get(value, value) if name in CALLED else value)
            case int() | float() if name in MONEY and not isinstance(value, bool):
                return self.money(value)
            case float():
                return format_decimal(value, locale=self.locale)
        return value


@lru_cache(maxsize=1024)
def known_locale(tag: str | None) -> Locale | None:
    try:
        return Locale.parse(str(tag).replace("_", "-"), sep="-") if tag else None
    except (ValueError, UnknownLocaleError):
        return None


def spoken(wanted: str | None) -> str:
    """The language of WORDS for who wants a locale."""
    locale = known_locale(wanted)
    return locale.language if locale and locale.language in WORDS else OTHERWISE


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    try:
        return bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


@cache
def said_by(language: str, store: str) -> Mapping[str, str]:
    return {
        name: text.replace("{store}", store) for name, text in WORDS[language].items() if name != "stories"
    }


@lru_cache(maxsize=20_000)
def written(amount: float, currency: str, locale: str) -> str:
    return format_currency(amount, currency, locale=locale)


@lru_cache(maxsize=2048)
def dated(day: date, locale: str) -> str:
    return format_date(day, format="long", locale=locale)


@lru_cache(maxsize=20_000)
def translated(story: str, language: str, locale: str) -> str:
    """An English story of STORIES in another language; nothing where it is none of them."""
    return retold(story, WORDS[language]["stories"], locale)


def retold(story: str, stories: Mapping[str, str], locale: str) -> str:
    """An English story of STORIES in the words of others; nothing where it is none of them."""
    for key, pattern in TOLD.items():
        if found := pattern.fullmatch(story):
            slots = found.groupdict()
            if "last" in slots:
                slots["last"] = dated(datetime.strptime(slots["last"], "%d %B %Y").date(), locale)  # noqa: DTZ007
            return str(stories[key]).format(**slots)
    return ""
