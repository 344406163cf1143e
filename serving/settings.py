"""What the environment says, read once at the edge. A name or value that is not understood is refused."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)

from serving.bundle import BundleError, champion
from serving.door import RATES, Door, Meter, shared
from serving.keys import PUBLISHABLE, SECRET, Keyring
from serving.placements import FILE as PLACEMENTS
from serving.rules import OTHER
from serving.schemas import Moment
from serving.store import Store, address
from serving.tokens import Tokens
from serving.traces import LOG, Traces, known
from serving.turns import WAITING
from serving.wire import worded

PREFIX = "OSCLMS_"
CARRIED = Path(__file__).parent.parent / "bundle"  # beside the packages in a bento
WEB = re.compile(r"https?://[^\s<>\"\\?#]+", re.IGNORECASE)
SMTP = re.compile(r"smtps?://(?:[^\s/@]+@)?(?:[\w.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?/?")
SENDER = re.compile(r"(?:[^<>@\r\n]* )?<[^<>@\s]+@[\w.-]+>|[^<>@\s]+@[\w.-]+")
POSTAL = 200  # letters of an address at most
DEFAULT_HOME = Path(".osclms")
OwnAttribute = Annotated[str, Field(pattern=f"^{re.escape(OTHER)}.")]


class SettingsError(ValueError):
    """An environment variable is not understood; the message names it and says what is."""


def iso(text: object) -> object:
    """2018-01-01 or 2018-01-01T09:30+01:00; not the bare numbers that pydantic would read as seconds."""
    return datetime.fromisoformat(text) if isinstance(text, str) else text


def keys(secret: SecretStr | None) -> SecretStr | None:
    """One key or more with commas between. What is wrong is said without saying the secret."""
    if secret is not None:
        try:
            tokens_of(secret)
        except ValueError as error:
            raise ValueError(
                "must be 32 bytes as url-safe base64 (Fernet.generate_key()), or such with commas"
            ) from error
    return secret


def tokens_of(secret: SecretStr) -> Tokens:
    return Tokens([key.strip() for key in secret.get_secret_value().split(",")])


def web(url: str | None) -> str | None:
    if url is not None and not WEB.fullmatch(url):
        raise ValueError("must be an http or https address")
    return url


def smtp(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and not SMTP.fullmatch(secret.get_secret_value()):
        raise ValueError("must be an address such as smtp://host:25 or smtps://user:password@host")
    return secret


def sender(text: str | None) -> str | None:
    if text is not None and not SENDER.fullmatch(text):
        raise ValueError("must be an address such as Corner Shop <hello@shop.example>")
    return text


def postal(text: str | None) -> str | None:
    if text is not None and not (text.isprintable() and text.strip() and len(text) <= POSTAL):
        raise ValueError(
            f"must be an address in one line of at most {POSTAL} letters: Corner Shop, 1 Market Street, …"
        )
    return text and " ".join(text.split())


def rate(text: str) -> str:
    try:
        shared(text, 1)
    except ValueError as error:
        raise ValueError("must be a rate such as 300/minute or 20/second") from error
    return text


def parted(text: object) -> object:
    """Words with commas between."""
    return [word.strip() for word in text.split(",") if word.strip()] if isinstance(text, str) else text


def exporter(name: str) -> str:
    if name not in (names := known()):
        raise ValueError(f"no exporter of this name is installed; known: {', '.join(names)}")
    return name


class Settings(BaseModel):
    """OSCLMS_HOME, OSCLMS_BUNDLE, OSCLMS_DATABASE_URL, OSCLMS_AS_OF, OSCLMS_WORKERS; OSCLMS_SECRET for
    customers' tokens, and with OSCLMS_PUBLIC_URL and OSCLMS_SHOP_URL for the links of mails. OSCLMS_ASK_KEYS
    asks for keys on loopback too; OSCLMS_RATE_SECRET and OSCLMS_RATE_PUBLISHABLE say how often; OSCLMS_WAITING
    how many requests may wait for a worker, OSCLMS_DRAIN how many seconds one goes on that is to end;
    OSCLMS_PUBLIC_ATTRIBUTES which of the shop's own attributes of products pages may name in rules;
    OSCLMS_LOG_REQUESTS that each request is logged, OSCLMS_TRACE_SHARE what share of them is traced, and
    OSCLMS_TRACE_TO where to. Messages leave from OSCLMS_MAIL_FROM by OSCLMS_SMTP_URL, or by OSCLMS_WEBHOOK_URL,
    signed with OSCLMS_WEBHOOK_SECRET; their footers tell OSCLMS_MAIL_ADDRESS, where the shop is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = None
    bundle: Path | None = None
    database_url: SecretStr | None = None
    as_of: Annotated[Moment, BeforeValidator(iso)] | None = None
    workers: PositiveInt = 1
    secret: Annotated[SecretStr | None, AfterValidator(keys)] = None
    public_url: Annotated[str | None, AfterValidator(web)] = None
    shop_url: Annotated[str | None, AfterValidator(web)] = None
    mail_from: Annotated[str | None, AfterValidator(sender)] = None
    mail_address: Annotated[str | None, AfterValidator(postal)] = None
    smtp_url: Annotated[SecretStr | None, AfterValidator(smtp)] = None
    webhook_url: Annotated[str | None, AfterValidator(web)] = None
    webhook_secret: Annotated[SecretStr | None, Field(min_length=16)] = None
    ask_keys: bool = False
    rate_secret: Annotated[str, AfterValidator(rate)] = RATES[SECRET]
    rate_publishable: Annotated[str, AfterValidator(rate)] = RATES[PUBLISHABLE]
    waiting: PositiveInt = WAITING
    drain: Annotated[float, Field(ge=0, le=600)] = 1.0
    public_attributes: Annotated[tuple[OwnAttribute, ...], BeforeValidator(parted)] = ()
    log_requests: bool = False
    trace_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    trace_to: Annotated[str, AfterValidator(exporter)] = LOG

    @model_validator(mode="after")
    def links_need_all(self) -> Self:
        if self.public_url and not (self.secret and self.shop_url):
            raise ValueError(
                "needs OSCLMS_SECRET, to sign links with, and OSCLMS_SHOP_URL, where they may end"
            )
        return self

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        ours = ((name, text) for name, text in environ.items() if name.startswith(PREFIX) and text)
        try:
            return cls.model_validate({name[len(PREFIX) :].lower(): text for name, text in ours})
        except ValidationError as error:
            raise SettingsError(explained(error)) from error

    def tokens(self) -> Tokens | None:
        return tokens_of(self.secret) if self.secret else None

    def door(self, store: Store | None) -> Door:
        """The door by the keys of a store, for one of the workers. Raises StoreError."""
        rates = {SECRET: self.rate_secret, PUBLISHABLE: self.rate_publishable}
        return Door(Keyring(store), Meter(rates, self.workers), self.ask_keys)

    def traces(self) -> Traces | None:
        """What traces requests; None where none are to be."""
        return Traces(self.trace_share, known()[self.trace_to]()) if self.trace_share else None

    def absolute(self) -> dict[str, str]:
        """The folders given, as environment variables that mean the same from any working directory."""
        given = {"HOME": self.home, "BUNDLE": self.bundle}
        return {PREFIX + name: str(path.absolute()) for name, path in given.items() if path is not None}

    def folder(self) -> Path:
        """The bundle to serve: the champion at home, else the one named, else the one carried along.

        Raises BundleError where there is none.
        """
        if self.home is not None:
            return champion(self.home)
        carried = self.bundle or CARRIED
        if carried.is_dir():
            return carried
        if self.bundle is not None:
            raise BundleError(f"OSCLMS_BUNDLE names {self.bundle}, which is no folder: correct or unset it")
        return champion(DEFAULT_HOME)

    def placements(self) -> Path | None:
        """The shop's own table of placements, if its home has one."""
        home = self.state()
        return home / PLACEMENTS if home else None

    def programs(self) -> Path | None:
        """The folder of the shop's own programs, if it has a home."""
        home = self.state()
        return home / "programs" if home else None

    def state(self) -> Path | None:
        """The home that is read and written beside the bundle. A carried bundle comes without one."""
        return self.home or (None if self.bundle or CARRIED.is_dir() else DEFAULT_HOME)

    def history(self) -> Path | None:
        """The history that profiles are read from."""
        home = self.state()
        return home / "history" if home and (home / "history").is_dir() else None

    def store(self) -> Store | None:
        """The database for what comes in live; None where there is neither a home nor one named."""
        named = self.database_url.get_secret_value() if self.database_url else None
        return Store(address(self.state(), named)) if named or self.state() else None


def explained(error: ValidationError) -> str:
    known = ", ".join(PREFIX + name.upper() for name in Settings.model_fields)
    faults = (f"{PREFIX}{str((e['loc'] or ('public_url',))[0]).upper()}: {worded(e)}" for e in error.errors())
    return f"{'; '.join(faults)} (known: {known})"
