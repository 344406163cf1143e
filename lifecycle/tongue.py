"""Tongue: how things are said to somebody: in which language, with dates and prices as they are written there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
from lifecycle.texts import Missing, short
from serving.placements import STORIES

WORDS: Mapping[str, Mapping[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "templates" / "words.yaml").read_text(encoding="utf-8")
)
OTHERWISE = "en"
DATES = ("ordered_on", "ends")  # what is a day or a moment, by name
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

    @classmethod
    def of(cls, texts_in: str, wanted: str | None, zone: str | None, store: Store) -> "Tongue":
        """For texts in one locale, and a customer who wants another: theirs counts where the language is the same."""
        locale = known_locale(wanted)
        if locale is None or locale.language != texts_in.split("-")[0]:
            locale = known_locale(texts_in) or Locale(OTHERWISE)
        language = locale.language if locale.language in WORDS else OTHERWISE
        return cls(language, str(locale), zone if zone and is_zone(zone) else store.time_zone, store)

    @property
    def words(self) -> Mapping[str, str]:
        return said_by(self.language, short(self.store.name))

    def money(self, amount: float) -> str:
        return written(amount, self.store.currency, self.locale)

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
        """A list's story in this language; nothing where it cannot be said."""
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
                return (self.day(value) or Missing(name, token=None)) if name in DATES else short(value)
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
    for key, pattern in TOLD.items():
        if found := pattern.fullmatch(story):
            slots = found.groupdict()
            if "last" in slots:
                slots["last"] = dated(datetime.strptime(slots["last"], "%d %B %Y").date(), locale)  # noqa: DTZ007
            return str(WORDS[language]["stories"][key]).format(**slots)
    return ""
