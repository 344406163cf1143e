"""The data contract: every table, column, type and check, named once.

A check is a SQL predicate over the columns of one row; a row for which it is not true is rejected for the
reason beside it. Times are UTC to the microsecond, ids are strings, money is in the store's one currency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
TEXT = pa.string()
WORD = pa.dictionary(pa.int32(), pa.string())  # text whose values repeat: read as an Arrow dictionary
REAL = pa.float64()
FLAG = pa.bool_()
PATH = pa.list_(pa.string())
SQL = {
    TIME: "TIMESTAMPTZ",
    TEXT: "VARCHAR",
    WORD: "VARCHAR",
    REAL: "DOUBLE",
    FLAG: "BOOLEAN",
    PATH: "VARCHAR[]",
}

EVENT_TYPES = (
    *("order", "return", "view", "cart", "remove", "search", "impression", "click", "sent", "delivered"),
    *("open", "bounce", "complaint", "unsubscribe", "rating"),
)
PURCHASES = ("order", "return")  # what `Interactions` and `Catalog` are made of
Channel = Literal["email", "sms", "push", "web", "app", "store", "post", "phone"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
PURPOSES = ("marketing", "transactional", "personalisation")
ID_LENGTH = 200  # characters
ZONES = tuple((files("tzdata") / "zones").read_text(encoding="utf-8").split())  # names of time zones
SPACE = " \t\r\n\u00a0"  # what is trimmed off text; the last is a no-break space


@dataclass(frozen=True)
class Check:
    holds: str  # a SQL predicate; null counts as holding, as what is missing is `required`'s business
    reason: str


# DuckDB works out both sides of an AND, and refuses to tell the type of what is no JSON. It takes a comma before a
# bracket, and nan and inf for numbers: these are sought outside of quotes
AN_OBJECT = Check(
    "CASE WHEN json_valid(attributes) THEN json_type(attributes) = 'OBJECT' AND NOT regexp_matches("
    r"""regexp_replace(attributes, '"(\\.|[^"\\])*"', '""', 'g'), '(?i),\s*[]}]|nan|inf') """
    "ELSE attributes IS NULL END",
    "attributes is not a JSON object",
)


@dataclass(frozen=True)
class Column:
    name: str
    type: pa.DataType
    required: bool = False
    about: str = ""

    @property
    def is_id(self) -> bool:
        """Ids are at most 200 characters long and hold no control character."""
        return self.name.endswith("_id") or self.name == "alias"

    @property
    def there(self) -> tuple[Check, ...]:
        """That it is there, where it must be."""
        return (Check(f'"{self.name}" IS NOT NULL', f"{self.name} is missing"),) if self.required else ()

    @property
    def proper(self) -> tuple[Check, ...]:
        """That an id is one."""
        long = Check(f"length({self.name}) <= {ID_LENGTH}", f"{self.name} is longer than {ID_LENGTH}")
        control = f"NOT regexp_matches({self.name}, '[[:cntrl:]]')"
        return (long, Check(control, f"{self.name} holds a control character")) if self.is_id else ()


@dataclass(frozen=True)
class Table:
    """`key` names the columns that make a row one and the same: loading it again replaces it.

    Events are the exception: what happened does not change, so the first row of an `event_id` stays.
    A table with a `month` lies in one file for each UTC month of that column.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    checks: tuple[Check, ...] = ()
    month: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """The types in which the history hands the columns out."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns by which the rows are sorted: month first where there is one, then the key."""
        return tuple(dict.fromkeys((*filter(None, [self.month]), *self.key)))

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.required)


def listed(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def one_of(column: str, words: Sequence[str]) -> Check:
    return Check(f"{column} IN ({listed(words)})", f"{column} is not one of {' '.join(words)}")


def below(most: float, *columns: str) -> tuple[Check, ...]:
    """What is so large is a misread separator or an id in the wrong column, and would outweigh all the rest."""
    return tuple(Check(f"{column} < {most:.0f}", f"{column} is {most:,.0f} or more") for column in columns)


MOST_UNITS, MOST_MONEY = 1e9, 1e12  # a year's pay is 10⁹ in some currencies

EVENTS = Table(
    "events",
    key=("event_id",),
    month="occurred_at",
    columns=(
        Column("event_id", TEXT, True, "unique; derived from the row where the source has none"),
        Column("customer_id", WORD, about="missing: an anonymous basket"),
        Column(
            "product_id", WORD, about="missing only for events about no product, such as a visit or a message"
        ),
        Column("event_type", WORD, True, "order, return, view, cart, click …"),
        Column("occurred_at", TIME, True, "UTC"),
        Column("order_id", WORD, about="the basket; required for an order"),
        Column("quantity", REAL, about="> 0 and < 10⁹, also for a return"),
        Column("unit_price", REAL, about="paid for a unit, after discount, ≥ 0 and < 10¹²"),
        Column(
            "discount", REAL, about="taken off a unit, ≥ 0 and < 10¹²; list price = unit_price + discount"
        ),
        Column("value", REAL, about="what the type says: stars of a rating, seconds of a view"),
        Column("channel", WORD),
        Column("store_id", WORD),
        Column("visit_id", WORD),
        Column("recommendation_id", TEXT),
        Column("placement", WORD),
        Column("message_id", TEXT),
    ),
    checks=(
        one_of("event_type", EVENT_TYPES),
        Check("quantity > 0 AND isfinite(quantity)", "quantity is not above 0"),
        Check("unit_price >= 0 AND isfinite(unit_price)", "unit_price is below 0"),
        Check("discount >= 0 AND isfinite(discount)", "discount is below 0"),
        *below(MOST_UNITS, "quantity"),
        *below(MOST_MONEY, "unit_price", "discount"),
        Check("event_type NOT IN ('order', 'return') OR product_id IS NOT NULL", "product_id is missing"),
        Check("event_type NOT IN ('order', 'return') OR quantity IS NOT NULL", "quantity is missing"),
        Check("event_type <> 'order' OR order_id IS NOT NULL", "order_id is missing"),
        Check("occurred_at >= TIMESTAMPTZ '1970-01-01 00:00:00+00'", "occurred_at is before 1970"),
    ),
)

PRODUCTS = Table(
    "products",
    key=("product_id",),
    columns=(
        Column("product_id", TEXT, True),
        Column("title", TEXT),
        Column("category", PATH, about="path, root first"),
        Column(
            "need",
            TEXT,
            about="what it is bought for: products of one need stand for each other; missing means the whole path",
        ),
        Column("brand", TEXT),
        Column(
            "price", REAL, about="list price now; where missing, the median list price of recent purchases"
        ),
        Column("cost", REAL),
        Column("size", TEXT),
        Column("url", TEXT, about="http or https, or a path of the shop's own"),
        Column("image_url", TEXT, about="http or https, or a path of the shop's own"),
        Column("in_stock", FLAG, about="missing means yes"),
        Column("group_id", TEXT, about="variants of one style share it"),
        Column("eligible", FLAG, about="may be recommended; missing means yes"),
        Column("attributes", TEXT, about="a JSON object"),
        Column("known_from", TIME, about="when the product was first known; missing means always"),
        Column(
            "derived",
            FLAG,
            about="true: read from events by the history itself, until a product list names it",
        ),
    ),
    checks=(
        Check("price >= 0 AND isfinite(price)", "price is below 0"),
        Check("cost >= 0 AND isfinite(cost)", "cost is below 0"),
        *below(MOST_MONEY, "price", "cost"),
        Check(r"regexp_matches(url, '^(https?://|/)[^\s]*$')", "url is neither http(s) nor a path"),
        Check(
            r"regexp_matches(image_url, '^(https?://|/)[^\s]*$')", "image_url is neither http(s) nor a path"
        ),
        AN_OBJECT,
    ),
)

CUSTOMERS = Table(
    "customers",
    key=("customer_id",),
    columns=(
        Column("customer_id", TEXT, True),
        Column("first_name", TEXT),
        Column("last_name", TEXT),
        Column("email", TEXT),
        Column("phone", TEXT),
        Column("push_token", TEXT),
        Column("locale", TEXT, about="BCP 47, as en-US"),
        Column("time_zone", TEXT, about="IANA, as Europe/Berlin; missing means the store's"),
        Column("region", TEXT),
        Column("attributes", TEXT, about="a JSON object"),
    ),
    checks=(
        Check(r"regexp_matches(email, '^[^@\s]+@[^@\s]+$')", "email is no address"),
        Check(f"time_zone IN ({listed(ZONES)})", "time_zone is no IANA name, as Europe/Berlin"),
        AN_OBJECT,
    ),
)

IDENTITIES = Table(
    "identities",
    key=("alias",),
    columns=(
        Column("alias", TEXT, True),
        Column("customer_id", TEXT, True, "the alias itself: a customer of its own, as before a merge"),
    ),
)

CONSENTS = Table(
    "consents",
    key=("customer_id", "channel", "purpose", "at"),
    columns=(
        Column("customer_id", TEXT, True),
        Column("channel", TEXT, True, " ".join(CHANNELS)),
        Column("purpose", TEXT, True, " ".join(PURPOSES)),
        Column("granted", FLAG, True, "the latest record counts; no record means no"),
        Column("at", TIME, True),
        Column("source", TEXT, about="where it was given: a form, a till, an import"),
        Column("text", TEXT, about="what the person read then, word for word"),
        Column("version", TEXT, about="of that text"),
    ),
    checks=(one_of("channel", CHANNELS), one_of("purpose", PURPOSES)),
)

PROMOTIONS = Table(
    "promotions",
    key=("starts", "product_id", "store_id", "kind"),
    month="starts",
    columns=(
        Column("product_id", WORD, True),
        Column("store_id", WORD, about="missing means every store"),
        Column("starts", TIME, True),
        Column("ends", TIME, True, "the first moment after it"),
        Column("kind", WORD, True, "mailer, display, price …, with a detail after a colon: mailer:A"),
        Column("known_at", TIME, True, "when the plan was known; used only where this is before the cutoff"),
    ),
    checks=(Check("ends > starts", "ends is not after starts"),),
)

TABLES: dict[str, Table] = {
    t.name: t for t in (EVENTS, PRODUCTS, CUSTOMERS, IDENTITIES, CONSENTS, PROMOTIONS)
}

RECEIVED = Column("received_at", TIME, True, "when a row that came in live was received")
# what is asked beyond the contract of rows that come in live, with `received_at` beside their columns
ON_RECEIPT: dict[str, tuple[Check, ...]] = {
    "events": (Check("occurred_at <= received_at + INTERVAL 1 DAY", "occurred_at is more than a day ahead"),),
    "consents": (  # one of a later day would outlive what is said until then
        Check(
            '"at" <= received_at + INTERVAL 5 MINUTE',
            "at is in the future: say when it was given, or leave it out",
        ),
    ),
}
