"""Programs: to whom a message goes, when, about what, with which lists in it. Each is a file; none is code.

Those that ship lie in `lifecycle/programs`; a shop's own lie in `programs` in its home, and one of the same name
takes the place of a shipped one. `policy.yaml` beside them says what holds for all.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from features.customers import GROUP_NAMES, STAGES
from features.experiments import arm_of, is_held_back
from lifecycle.yamls import FileError, read
from serving.rules import Exclude
from serving.wire import faults_told, worded

SHIPPED = Path(__file__).parent / "programs"
POLICY = "policy.yaml"
NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
PAGE = r"^(/([^/\s<>\"\\][^\s<>\"\\]*)?)?$"  # a path, of no other host, that a link may hold
LOCALE = re.compile(r"[a-z]{2,3}(-[A-Z][A-Za-z]{1,7})?")
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Days = Annotated[float, Field(ge=0, le=400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["marketing", "transactional"]
OWED = ("order",)  # triggers whose message the customer is owed, agreed to marketing or not
Template = Literal["lists", "order", "hero", "rating", "voucher"]
Channel = Literal["email", "sms", "push", "post", "web", "app"]
Stage = Annotated[str, AfterValidator(lambda name: one_of(name, STAGES))]


def one_of(name: str, known: tuple[str, ...]) -> str:
    if name not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return name


def ascending(days: tuple[float, ...]) -> tuple[float, ...]:
    if any(after <= before for before, after in pairwise(days)):
        raise ValueError("each step must be later than the one before: put the days in order, each once")
    return days


def apart(tiers: Mapping[str, float]) -> Mapping[str, float]:
    if len(set(tiers.values())) < len(tiers):
        raise ValueError("two tiers begin at the same spend: nobody would ever reach one of them")
    return tiers


def clock(value: object) -> object:
    """09:30 as YAML gives it: text, or (unquoted) a number in base 60."""
    if isinstance(value, int) and 60 <= value < 24 * 60:
        return time(value // 60, value % 60)
    if isinstance(value, int | float):
        raise ValueError(f"{value} is no time of day: write it as 09:30")
    return value


Clock = Annotated[time, BeforeValidator(clock)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- when: what a program waits for -----------------------------------------------------------------------


class Waits(Strict):
    """What every trigger has: `after` so many days an occasion is ripe, and for `within` days more it is written about;
    what is older is past, as after a late import."""

    after: Annotated[float, Field(ge=0, le=400)] = 0
    within: Annotated[float, Field(gt=0, le=400)] = 2


class Joined(Waits):
    """The customer agreed to marketing on `channel`, where none is named on that of the program, for the first time."""

    kind: Literal["joined"]
    channel: Channel | None = None


class Ordered(Waits):
    """An order; `nth`: only the customer's orders of these numbers."""

    kind: Literal["order"]
    nth: tuple[PositiveInt, ...] = ()


class FirstGap(Waits):
    """A customer's only order, from the quantile `low` to the quantile `high` of the days after which those who come
    back do so; who has not come back yet counts as censored."""

    kind: Literal["first_gap"]
    low: Share = 0.4
    high: Share = 0.75

    @model_validator(mode="after")
    def opens(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low is {self.low:g}, not below high, {self.high:g}: nobody is ever between them"
            )
        return self


class Entered(Waits):
    """One of `stages` was reached; `steps`: one message so many days after that, each, as long as the customer stands
    in it. A step comes after the one before it was sent: who was not written to at its time begins with the first at
    that of a later one. An order begins a new episode."""

    kind: Literal["stage"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    steps: Annotated[tuple[Days, ...], Field(min_length=1), AfterValidator(lambda days: ascending(days))] = (
        0,
    )


class Rhythm(Waits):
    """So large a share of the customer's usual gap has passed since the last order."""

    kind: Literal["rhythm"]
    share: PositiveFloat = 0.9


class Due(Waits):
    """Products of which the customer's own gap, shrunk to the product's, is over within `days`, and that they buy again
    as likely as `chance` or more; what comes due on one day, at most `most`. Once a cycle."""

    kind: Literal["due"]
    days: PositiveFloat = 5
    chance: Share = 0.5
    most: PositiveInt = 3


class Addition(Waits):
    """The main category that a customer never bought of and is likeliest to, at least by `chance`. It is looked for
    every `rest` days from the first order on; once a category."""

    kind: Literal["category"]
    chance: Share = 0.1
    rest: PositiveFloat = 60  # days between two of these


class Cart(Waits):
    """A cart was left with something in it. Any later order takes it back."""

    kind: Literal["cart"]


class Back(Waits):
    """A product that the customer looked at, or put in the cart, within `looked` days before is in stock again, or
    cheaper by the share `drop` and more, and still is. Who bought it since hears nothing."""

    kind: Literal["back"]
    what: Literal["stock", "price"]
    drop: Share = 0.1
    looked: PositiveFloat = 60


class Anniversary(Waits):
    """The day of the year of the first order; 29 February is kept on the 28th where there is none."""

    kind: Literal["anniversary"]


class Milestone(Waits):
    """The order by which the customer has so many."""

    kind: Literal["milestone"]
    orders: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class Tier(Waits):
    """Spend within `days` reached a tier, by name, the highest counts. Once a tier and year."""

    kind: Literal["tier"]
    days: PositiveInt = 365
    tiers: Annotated[Mapping[str, PositiveFloat], Field(min_length=1), AfterValidator(lambda of: apart(of))]


class Broadcast(Waits):
    """Everybody in the audience, once, from this day on."""

    kind: Literal["broadcast"]
    on: date


Trigger = Annotated[
    Joined | Ordered | FirstGap | Entered | Rhythm | Due | Addition | Cart | Back | Anniversary | Milestone | Tier
    | Broadcast,
    Field(discriminator="kind"),
]  # fmt: skip


# --- who --------------------------------------------------------------------------------------------------


class Range(Strict):
    at_least: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def says_something(self) -> Self:
        if self.at_least is None and self.below is None:
            raise ValueError("needs at_least or below")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise ValueError(
                f"at_least is {self.at_least:g}, not below {self.below:g}: nobody is ever in between"
            )
        return self


Condition = Range | tuple[str, ...]
FIGURES = ("recency", "frequency", "spend", "tenure", "gap", "r", "f", "m", "churn", "expected_spend")
WORDS: Mapping[str, tuple[str, ...] | None] = {  # None: any text
    "stage": STAGES,
    "group": GROUP_NAMES,
    "region": None,
    "locale": None,
    "category": None,
    "customer": None,
}


def conditions(given: Mapping[str, Condition]) -> Mapping[str, Condition]:
    for name, condition in given.items():
        one_of(name, (*FIGURES, *WORDS))
        if isinstance(condition, Range) != (name in FIGURES):
            form = "at_least or below" if name in FIGURES else "a list of words"
            raise ValueError(f"{name} takes {form}")
        if condition == ():
            raise ValueError(f"{name} is an empty list, which holds for nobody: name a word, or leave it out")
        for word in condition if isinstance(condition, tuple) and WORDS[name] else ():
            one_of(word, WORDS[name] or ())
    return given


# --- what -------------------------------------------------------------------------------------------------


class Shelf(Strict):
    """A list in a message. It asks the placement with the customer, with the products of the occasion, or with both."""

    placement: str
    about: Literal["customer", "occasion", "both"] = "customer"
    limit: Annotated[int, Field(ge=1, le=12)] = 4
    minimum: Annotated[int, Field(ge=0, le=12)] = 0
    fallback_below: Share = 1.0  # above this share of fill the list counts as none

    @model_validator(mode="after")
    def can_be(self) -> Self:
        if self.minimum > self.limit:
            raise ValueError(f"minimum is {self.minimum}, above limit, {self.limit}")
        return self


class Texts(Strict):
    """What a message says in one language, in Liquid. `shelves`: the heading of each list; `fallback`: where nothing in
    it is about this customer or occasion. `words`: what else it calls things, by name: tiers, the templates' own words,
    the stories of lists."""

    subject: str
    preheader: str = ""
    title: str
    body: str
    button: str = ""
    shelves: tuple[str, ...] = ()
    fallback: str = ""
    sms: str = ""
    push: str = ""
    words: Mapping[str, str] = {}


class Brief(Strict):
    """What a writer is told: hook, what draws a reader in; story, what the message is to tell."""

    hook: str = ""
    story: str = ""


class Voucher(Strict):
    """A code that can be used once."""

    worth: PositiveFloat
    days: Annotated[PositiveInt, Field(le=3650)] = 30

    def said(self, code: str, at: datetime) -> dict[str, Any]:
        """What a message says of one that is given at a moment."""
        return {"code": code, "worth": self.worth, "ends": (at + timedelta(days=self.days)).isoformat()}


class Window(Strict):
    """When a message may go out, by the customer's own clock."""

    start: Clock = time(9)
    end: Clock = time(20)
    days: tuple[str, ...] = WEEK

    @model_validator(mode="after")
    def is_one(self) -> Self:
        for day in self.days:
            one_of(day, WEEK)
        if not self.days or self.start >= self.end:
            raise ValueError("a window needs a day, and an end after its start")
        return self


class Breaker(Strict):
    """What stops a program: an audience over `times` its usual, a history older than so many days, lists with more than
    this share of fill."""

    times: PositiveFloat = 3
    least: PositiveInt = 50  # an audience below this never trips
    history_days: PositiveFloat = 7
    fallback: Share = 0.8


class Variant(Strict):
    """What a share of the customers gets instead, to find out which does better: the fields it names take the place of
    the program's. `texts` are laid over the program's, language by language and field by field."""

    share: Annotated[float, Field(gt=0, le=1)]
    template: Template | None = None
    shelves: tuple[Shelf, ...] | None = None
    texts: Mapping[str, Mapping[str, Any]] = {}


Name = Annotated[str, Field(pattern=r"[a-z][a-z0-9_]{0,39}")]


def within_one(given: Mapping[str, Variant]) -> Mapping[str, Variant]:
    if sum(of.share for of in given.values()) > 1 + 1e-9:
        raise ValueError("the shares of variants are above 1 together")
    return given


class Program(Strict):
    """A file of `programs`."""

    name: Annotated[str, Field(pattern=NAME.pattern)]
    about: str
    brief: Brief = Brief()
    enabled: bool = True
    trigger: Trigger
    audience: Annotated[Mapping[str, Condition], AfterValidator(conditions)] = {}
    exit: tuple[Literal["order", "ordered_product", "passed"], ...] = ()
    missed: Literal["skip", "catch_up"] = "skip"
    channel: Channel = "email"
    kind: Kind = "marketing"
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    exclusive_days: Annotated[int, Field(ge=0, le=365)] = 0
    window: Window = Window()
    send_hour: Literal["window", "learned"] = "window"  # as soon as the window is open, or when people click
    holdout: Share = 0.0
    metric: Literal["orders", "revenue", "margin"] = "revenue"
    metric_days: PositiveInt = 28
    template: Template = "lists"
    products: bool = False  # what the occasion is about is shown, before the lists
    page: Annotated[str, Field(pattern=PAGE, max_length=200)] = ""  # of the shop, where the button leads
    shelves: tuple[Shelf, ...] = ()
    voucher: Voucher | None = None
    rating: bool = False  # asks for stars
    breaker: Breaker = Breaker()
    variants: Annotated[Mapping[Name, Variant], AfterValidator(within_one)] = {}
    seed: int | None = (
        None  # another one draws anew who is held back and who gets which variant; None: the shop's
    )
    draw: str = ""  # another word draws anew who gets which variant
    texts: Annotated[Mapping[str, Texts], Field(min_length=1)]

    @model_validator(mode="after")
    def fits(self) -> Self:
        for locale, texts in self.texts.items():
            if not LOCALE.fullmatch(locale):
                raise ValueError(f"texts.{locale}: a locale is such as en or pt-BR")
            if len(texts.shelves) != len(self.shelves):
                raise ValueError(
                    f"texts.{locale}: {len(texts.shelves)} headings for {len(self.shelves)} shelves"
                )
        if self.kind == "transactional" and self.trigger.kind not in OWED:
            raise ValueError(
                f"kind: only what waits for {', '.join(OWED)} is transactional, not for {self.trigger.kind}: consent, "
                "caps and quiet hours would not hold; write kind: marketing"
            )
        if self.kind == "transactional" and self.send_hour == "learned":
            raise ValueError("send_hour: a transactional message waits for no better hour")
        if self.kind == "transactional" and self.holdout:
            raise ValueError("a transactional message has no holdout")
        for name in self.variants:
            try:
                self.form(name)
            except ValueError as error:
                raise ValueError(f"variants.{name}: {what_is_wrong(error)}") from error
        return self

    def form(self, variant: str | None) -> Self:
        """The program as who gets a variant gets it; None: as it stands. Raises KeyError for one that there is not."""
        if variant is None:
            return self
        of, said = self.variants[variant], self.model_dump(mode="json", exclude={"variants"})
        for name, value in of.model_dump(mode="json", exclude={"share", "texts"}, exclude_none=True).items():
            said[name] = value
        for locale, texts in of.texts.items():
            said["texts"][locale] = {**said["texts"].get(locale, {}), **texts}
        return type(self).model_validate(said)

    @cached_property
    def waits(self) -> Trigger:
        """Its trigger; of one that waits for a consent it is known on which channel."""
        if isinstance(self.trigger, Joined) and self.trigger.channel is None:
            return self.trigger.model_copy(update={"channel": self.channel})
        return self.trigger

    @cached_property
    def bare(self) -> Self:
        """The program without its lists, as who did not agree to promotion gets what needs no consent."""
        texts = {locale: of.model_copy(update={"shelves": ()}) for locale, of in self.texts.items()}
        return self.model_copy(update={"shelves": (), "texts": texts})

    def promoting(self, agreed: bool) -> Self:
        """The program for who agreed to marketing on its channel, or did not."""
        return self if agreed or self.kind == "marketing" else self.bare

    @cached_property
    def forms(self) -> Mapping[str | None, "Program"]:
        """Every form of it: as it stands, and by variant."""
        return {name: self.form(name) for name in (None, *self.variants)}

    def variant_of(self, seed: int, customer_id: str) -> str | None:
        """The variant that a customer gets, the same for ever; None: the program as it stands."""
        shares = {name: of.share for name, of in self.variants.items()}
        return arm_of(f"variant|{self.name}|{self.draw}|{self.seed_or(seed)}", customer_id, shares)

    def holds_back(self, seed: int, customer_id: str) -> bool:
        """Whether a customer is of its own control, the same for ever. `seed`: the shop's."""
        return is_held_back(f"{self.name}|{self.seed_or(seed)}", customer_id, self.holdout)

    def seed_or(self, seed: int) -> int:
        return seed if self.seed is None else self.seed

    @cached_property
    def version(self) -> str:
        """A name of what the file says: the same for equal files."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=6).hexdigest()


def what_is_wrong(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    told = ((".".join(map(str, of["loc"])), worded(of)) for of in faults_told(error))
    return "; ".join(": ".join(filter(None, pair)) for pair in told)


# --- what holds for all -----------------------------------------------------------------------------------


class Cap(Strict):
    """At most so many messages in so many of the customer's own days."""

    most: PositiveInt
    days: PositiveInt

    def __str__(self) -> str:
        return f"{self.most} in {self.days} day{'s' if self.days > 1 else ''}"


class Choosers(Strict):
    """The shares of customers for whom what was learned chooses, chance, the fixed priority, and silence."""

    learned: Share = 0.7
    random: Share = 0.1
    priority: Share = 0.1
    silence: Share = 0.1

    @model_validator(mode="after")
    def are_all(self) -> Self:
        if abs(self.learned + self.random + self.priority + self.silence - 1) > 1e-6:
            raise ValueError("the shares of choosers must add up to 1")
        return self


class Policy(Strict):
    """policy.yaml, which holds for every program.

    caps: by channel, counting marketing. Quiet hours are by the customer's clock. choice: among programs that compete
    for one customer. control: the share that no marketing is sent to. low_rating: this and less pauses promotion to the
    customer for rating_days. repeat_days: what a mail showed is not shown again for so long. personalisation:
    whose lists are of what is popular: those who said no to it (opt_out), or all who did not say yes (opt_in).
    sensitive: categories, by their path, of which no message shows anything.
    """

    caps: Mapping[str, tuple[Cap, ...]] = {}
    quiet_from: Clock = time(21)
    quiet_until: Clock = time(8)
    choice: Literal["priority", "random", "exclusive", "learned"] = "priority"
    choosers: Choosers = Choosers()  # of a learned choice
    choice_floor: Annotated[float, Field(gt=0, le=0.1)] = 0.01  # no arm of a learned choice is less likely
    choice_reward: Literal["margin", "revenue"] = "margin"
    choice_days: Annotated[int, Field(ge=1, le=90)] = 14  # after a choice, in which its reward is counted
    seed: int = 7
    control: Share = 0.0
    low_rating: PositiveFloat = 2
    rating_days: PositiveInt = 60
    repeat_days: PositiveInt = 14  # what a mail showed is not shown again for so long
    personalisation: Literal["opt_in", "opt_out"] = "opt_out"
    sensitive: tuple[str, ...] = ()
    brand_voice: str = ""
    run_at: Clock = time(6)

    @property
    def rules(self) -> tuple[Exclude, ...]:
        """What every list of a message keeps to."""
        said = (
            Exclude(rule="exclude", attribute="category", values=self.sensitive) if self.sensitive else None
        )
        return (said,) if said else ()

    @model_validator(mode="after")
    def channels_are_known(self) -> Self:
        for channel in self.caps:
            one_of(channel, get_args(Channel))
        return self


def programs(folder: Path | None) -> dict[str, Program]:
    """Every program that is understood by its name: those that ship, and over them those in `folder`."""
    return known(folder)[0]


def known(folder: Path | None) -> tuple[dict[str, Program], dict[str, str]]:
    """(`programs`, of each of the others what is wrong with its file). Of a name that a shop's own file has the
    shipped program is never among them, whether the shop's is understood or not."""
    paths = {path.stem: path for path in (*files(SHIPPED), *(files(folder) if folder else ()))}
    found, faulty = dict[str, Program](), dict[str, str]()
    for name, path in paths.items():
        try:
            found[name] = named(path)
        except FileError as error:
            faulty[name] = "its file is not understood: " + "; ".join(str(error).splitlines())
    return found, faulty


def named(path: Path) -> Program:
    """The program in a file that is called as it is. Raises FileError."""
    program = read(path, Program)
    if program.name != path.stem:
        raise FileError(path, [(1, f"name: is {program.name}, the file says {path.stem}")])
    return program


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.yaml") if path.name != POLICY)


def policy(folder: Path | None) -> Policy:
    own = folder / POLICY if folder else None
    return read(own if own and own.exists() else SHIPPED / POLICY, Policy)


def locale_for(texts: Mapping[str, Any], wanted: str | None, otherwise: str = "en") -> str:
    """Of the locales of a program that of the customer, of its language, the usual one, or the first."""
    tag = (wanted or "").replace("_", "-")
    options = (tag, tag.split("-")[0], otherwise)
    return next((one for one in options if one in texts), next(iter(texts)))
