"""The wire: what a caller asks and what it gets. The pydantic models are also the OpenAPI document."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from features.schema import Channel
from serving.rules import Rules
from serving.wire import MAX_LIMIT, Wire

MAX_IDS = 500
MAX_QUANTITY = 1_000
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def in_utc(at: datetime) -> datetime:
    """A moment without a zone is UTC: the one reading that cannot depend on where the service runs."""
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{at.isoformat()} lies outside the years 1 to 9999 in UTC") from error


def in_words(given: object) -> object:
    """A moment is written out: pydantic alone would read a number, in text too, as seconds since 1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and ISO_DATE.match(given)):
        return given
    raise PydanticCustomError(
        "moment", "give an ISO 8601 date and time with its zone, such as 2018-01-02T09:30:00+01:00"
    )


Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Moment = Annotated[datetime, BeforeValidator(in_words), AfterValidator(in_utc)]


class CartLine(Wire):
    """So many of a product."""

    product_id: Id
    quantity: int = Field(1, ge=1, le=MAX_QUANTITY, strict=True)


def no_line(given: object) -> object:
    if isinstance(given, dict):
        raise PydanticCustomError(
            "cart_line", 'give an id, or {"product_id": …, "quantity": a whole number from 1 to 1000}'
        )
    return given


def line_of(given: object) -> object:
    """A line of a cart where it is one, else what was given."""
    try:
        return CartLine.model_validate(given) if isinstance(given, dict) else given
    except ValidationError:
        return given


ProductId = Annotated[Id, BeforeValidator(no_line, json_schema_input_type=Id | CartLine)]


class RecommendRequest(Wire):
    """All fields may be missing: a stranger with an empty basket gets a list too."""

    customer_id: Id | None = None
    customer_token: str | None = Field(
        None, max_length=2000, description="in its place, from a browser: a token that the shop's server made"
    )
    product_ids: tuple[ProductId, ...] = Field(
        (),
        max_length=MAX_IDS,
        description="the product looked at, or the basket; with quantities they weigh a stranger's products",
    )
    quantities: SkipJsonSchema[tuple[int, ...]] = Field((), exclude=True)  # of product_ids; none: one of each
    exclude: tuple[Id, ...] = Field((), max_length=MAX_IDS, description="never in the list")
    limit: int | None = Field(
        None, ge=1, le=MAX_LIMIT, strict=True, description="missing: the placement's own"
    )
    at: Moment | None = Field(None, description="answer as of this moment; missing: now")
    complements_only: bool | None = Field(
        None, strict=True, description="bar every need that product_ids serve; missing: the placement's own"
    )
    rules: Rules = Field((), description="over the catalogue, beside the placement's own policy")
    explain: bool = Field(
        False, strict=True, description="add what each source scored and what each rule removed"
    )

    @model_validator(mode="before")
    @classmethod
    def apart(cls, given: Any) -> Any:
        """Lines of the cart as ids and quantities; lines that are none stay, and are refused by their place."""
        if not isinstance(given, dict):
            return given
        if "quantities" in given:
            raise PydanticCustomError("quantities", "quantities stand in product_ids, beside each product")
        lines = given.get("product_ids")
        if not isinstance(lines, list | tuple) or not any(
            isinstance(line, dict | CartLine) for line in lines
        ):
            return given
        cart = [line_of(line) for line in lines[: MAX_IDS + 1]]
        ids = [line.product_id if isinstance(line, CartLine) else line for line in cart]
        counts = [line.quantity if isinstance(line, CartLine) else 1 for line in cart]
        return {**given, "product_ids": ids, "quantities": counts if max(counts) > 1 else ()}

    @field_serializer("product_ids")
    def lines(self, ids: tuple[str, ...]) -> tuple[str | dict[str, str | int], ...]:
        """As it is sent: a line where it is more than one."""
        if not self.quantities:
            return ids
        cart = zip(ids, self.quantities, strict=True)
        return tuple(name if n == 1 else {"product_id": name, "quantity": n} for name, n in cart)


class Question(RecommendRequest):
    """One of many: a request, and a name for its answer."""

    query_id: StrictStr | StrictInt | None = Field(None, description="comes back beside the answer")
    record: bool = Field(
        False, strict=True, description="true: the list is sent to the customer, and on record as such"
    )
    channel: Channel = Field("email", description="with record: where it is sent")


class Because(Wire):
    product_id: str
    title: str


class Recommendation(Wire):
    product_id: str
    title: str
    price: float | None
    currency: str
    url: str | None
    image_url: str | None
    score: float = Field(
        description="higher is better. Where a ranker was learned, how likely it is bought: by a customer who buys "
        "within the month (next_best, discover), in the same basket (cross_sell), when they next buy for that need "
        "(upsell); so scores of placements compare. Of a filled item, where no ranker was learned, and where a rule "
        "moves scores, comparable within one list only"
    )
    source: str = Field(description="the recipe that proposed it: rhythm, als, copurchase …")
    story: str = Field(description="one line for people: why it is here")
    because: tuple[Because, ...] = Field((), description="the products that led here")
    filled: bool = Field(
        False, description="true where the placement's own sources ran out, or had nothing worth offering"
    )
    parts: dict[str, float] | None = Field(None, description="with explain: what each source scored")

    @classmethod
    def known(cls, fields: dict[str, Any]) -> Self:
        """Of all fields, each right as it is: to check what we wrote ourselves takes longer than to write it. Made as
        pydantic makes it of a pickle."""
        made = cls.__new__(cls)
        made.__setstate__({"__dict__": fields, **EVERY_FIELD})
        return made


EVERY_FIELD = {
    "__pydantic_fields_set__": set(Recommendation.model_fields),
    "__pydantic_extra__": None,
    "__pydantic_private__": None,
}


class RecommendResponse(Wire):
    recommendation_id: str
    model_version: str
    placement: str
    items: tuple[Recommendation, ...]
    fallback_share: float = Field(
        0.0, description="share of the list that its placement's own sources did not give"
    )
    removed: dict[str, int] | None = Field(
        None,
        description="with explain: how many products cannot be had, and how many of the others each rule took out, one "
        "after the other",
    )


class PlacementAbout(Wire):
    name: str
    about: str
    asks: tuple[str, ...] = Field(description="what it asks with: customer, products or nobody")
    limit: int


class Placements(Wire):
    placements: tuple[PlacementAbout, ...]


class ProductAbout(Wire):
    product_id: str
    title: str
    price: float | None
    currency: str


class Products(Wire):
    products: tuple[ProductAbout, ...]


class NeedAbout(Wire):
    need: str = Field(description="as the catalogue names it")
    title: str
    score: float = Field(description="higher is better; comparable within one answer only")


class NeedsResponse(Wire):
    model_version: str
    placement: str
    needs: tuple[NeedAbout, ...] = Field(
        description="what else the basket may want, best first; none that it serves"
    )


class MessageAnswer(Wire):
    subject: str
    preheader: str = Field("", description="what a list of mails shows beside the subject")
    html: str
    text: str
    sms: str = Field("", description="empty where the program says nothing there")
    push: str = Field("", description="likewise")
    language: str = Field("en", description="of the template's own words")
    recommendation_ids: tuple[str, ...]
    lists: tuple[RecommendResponse, ...]
    may_send: bool | None = Field(
        None,
        description="whether the customer may be sent this on the program's channel now, by consent, address and "
        "pauses on record; null: nobody is named",
    )
    why: str = Field("", description="why, or why not")


class Redeem(Wire):
    code: str = Field(min_length=1, max_length=100)
    order_id: Id | None = Field(None, description="the order that it pays for; it may ask again")


class Redeemed(Wire):
    code: str
    worth: float
    currency: str
    program: str
    ends: datetime
    customer_id: str = Field(description="whom it was given to")
    order_id: str | None


class EventAnswer(Wire):
    index: int = Field(description="its place in what was sent, from 0")
    event_id: str | None
    status: Literal["accepted", "duplicate", "rejected"] = Field(
        description="accepted: stored, on disk; duplicate: stored before, as good as accepted; rejected: see error"
    )
    error: str | None = None


class EventsAnswer(Wire):
    accepted: int
    duplicate: int
    rejected: int
    events: tuple[EventAnswer, ...]


class ProductAnswer(Wire):
    index: int = Field(description="its place in what was sent, from 0")
    product_id: str | None
    status: Literal["accepted", "rejected"] = Field(
        description="accepted: stored, on disk; rejected: see error"
    )
    error: str | None = None


class ProductsAnswer(Wire):
    accepted: int
    rejected: int
    products: tuple[ProductAnswer, ...]


class CustomerAnswer(Wire):
    index: int = Field(description="its place in what was sent, from 0")
    customer_id: str | None
    status: Literal["accepted", "rejected"] = Field(
        description="accepted: all of it is stored, on disk; rejected: nothing of it, see error"
    )
    error: str | None = None


class CustomersAnswer(Wire):
    accepted: int
    rejected: int
    customers: tuple[CustomerAnswer, ...]


class Stored(Wire):
    customer_id: str
    facts: int = Field(description="how many facts were said")
    identities: int
    consents: int


class OrdersAbout(Wire):
    """Orders of which anything was paid for and kept."""

    count: int
    first: datetime | None
    last: datetime | None
    spend: float = Field(description="in the store's currency, what was returned taken back")
    by_month: dict[str, int] = Field(
        description="by months of the store, from the first to the moment, the last three years at most"
    )


class Rfm(Wire):
    recency: float = Field(description="days since the last order")
    frequency: int = Field(description="orders")
    spend: float
    gap: float = Field(description="days within which they usually come back")
    r: int = Field(description="1 to 3, 3 the best")
    f: int
    m: int
    group: str


class Favourites(Wire):
    category: str | None = Field(description="of the last order")
    store_id: str | None = Field(description="where most orders were made")
    brand: str | None = Field(description="of most purchases")
    price_band: str | None = Field(description="low, middle or high: of most purchases, within their need")


class DueAbout(Wire):
    product_id: str
    title: str
    due: datetime = Field(description="by when they will have bought it, as likely as not, if they do")
    chance: float = Field(description="that they buy it within 60 days")


class CategoryAbout(Wire):
    category: str = Field(description="a main category: the one above the finest")
    chance: float = Field(description="that they buy of it within `category_days`")


class ScoresAbout(Wire):
    """What models fitted by `osclms scores fit` say; a score that was refused for want of data is null, or empty."""

    version: str
    churn: float | None = Field(description="how likely they make no order within `churn_days`")
    churn_days: int | None
    spend: float | None = Field(
        description="expected within `spend_days`, in the store's currency, of what may be recommended"
    )
    spend_days: int | None
    categories: tuple[CategoryAbout, ...] = Field(description="the most likely, best first")
    additions: tuple[CategoryAbout, ...] = Field(
        description="the most likely of those that they never bought of, best first"
    )
    category_days: int | None


class Profile(Wire):
    as_of: datetime
    known_by: str = Field(
        description="history: by all that happened; model: the service has no history, and knows orders as the model "
        "learned them, of what may be recommended and was not sent back, with what came in live; all else only as it "
        "came in live"
    )
    orders: OrdersAbout
    events: dict[str, int] = Field(description="how many, by type")
    messages: dict[str, int] = Field(description="lists shown or sent, by placement")
    last_message: datetime | None
    stage: str = Field(description="by orders of what may be recommended, as the model knows the products")
    stages: dict[str, str] = Field(
        description="by month of the store, as it was at the month's end, the last three years at most; without a "
        "history of the months alone that ended since the model learned"
    )
    rfm: Rfm | None
    favourites: Favourites
    due: tuple[DueAbout, ...] = Field(description="what they will want again, soonest first")
    scores: ScoresAbout | None = Field(
        None, description="null where none were fitted, or they were learned from what came after the moment"
    )


class CustomerAbout(Wire):
    """All that is held of a customer; who is unknown, or was erased, has nothing."""

    customer_id: str = Field(description="the customer's own id, by whichever they were asked for")
    identities: tuple[str, ...] = Field(description="other ids of this customer, in the order of text")
    facts: dict[str, Any] = Field(
        description="as said last of the customer's own id; what is lacking there, of their other ids, in order"
    )
    consents: tuple[dict[str, Any], ...] = Field(
        description="what holds now, by channel and purpose: the latest record; what has none was not agreed to"
    )
    consent_records: tuple[dict[str, Any], ...]
    orders: tuple[dict[str, Any], ...] = Field(
        description="each with its lines, returns among them, oldest first"
    )
    events: tuple[dict[str, Any], ...] = Field(description="all else that happened, oldest first")
    sends: tuple[dict[str, Any], ...] = Field(description="the lists that were shown or sent")
    ledgers: dict[str, tuple[dict[str, Any], ...]] = Field(
        {}, description="by name the rows of what was decided, delivered, paused, alerted, given and redeemed"
    )
    profile: Profile | None = Field(None, description="what it comes to; missing, where nothing is held")


class Erased(Wire):
    erased: int = Field(description="how many ids the customer had")


class FieldError(Wire):
    field: str
    message: str


class ErrorBody(Wire):
    """Every error, one shape."""

    error: str
    fields: tuple[FieldError, ...] = ()


JsonObject = dict[str, Any]
