"""A generated shop: what it is made of, its shelf and its clock.

Nothing here is learned from anybody's data. Where a parameter follows a figure of the demo data (Complete Journey)
or a source, it says so; docs/worlds.md lays the figures side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.chance import Chance, Reals, spread
from features.interactions import DAY, seconds

Places = NDArray[np.int64]
WEEK = 7 * DAY
MS = 1000  # milliseconds a second: times are whole, so that sums are exact in any chunk


class WorldError(ValueError):
    """No world can be made so; the message names the parameter."""


@dataclass(frozen=True)
class World:
    """What a world is made of. `docs/worlds.md` says where each figure comes from.

    Customers' orders are a Pareto/NBD story (Schmittlein, Morrison & Colombo 1987; Fader & Hardie 2005): rates and
    hazards of leaving are gamma-distributed among customers, gaps are gamma-distributed within one.
    """

    customers: int = 10_000
    products: int = 5_000
    days: int = 400
    seed: int = 7
    start: str = "2025-01-06"  # a Monday
    # orders
    orders: float = 66.0  # a year, of the mean customer while a customer
    orders_shape: float = 1.0  # gamma shape of rates: 1 is as unequal as the demo's
    regularity: float = 0.95  # gamma shape of the median customer's gaps: 1 is a Poisson process
    leaving: float = 0.06  # a year: the mean customer's hazard of leaving for good
    leaving_shape: float = 0.8  # gamma shape of these hazards
    joining: float = 0.08  # share of customers whose first order falls into the days
    season: float = 0.02  # of the year's best month above the mean
    # baskets
    basket: float = 2.6  # lines that nothing made due, in the median order of the median customer
    basket_spread: float = (
        1.2  # standard deviation of the logarithm of an order's size, around its customer's
    )
    customer_spread: float = 0.4  # … of customers' own sizes
    pantry: float = 22.0  # needs that the mean customer replenishes
    interval: float = 30.0  # days, in which the median need is used up
    interval_spread: float = 0.6  # standard deviation of its logarithm, needs among each other
    complements: float = 0.12  # chance that a line brings one of a need that goes with it
    variety: float = 0.15  # … one more product of its own need
    loyalty: float = 0.65  # chance of the mean customer to take their favourite of a need
    interests: float = 0.5  # how alike customers' interests are: the Dirichlet's weight of a category
    # shelf
    need_size: float = 30.0  # products a need
    need_spread: float = 1.75  # standard deviation of the logarithm of needs' weights
    popularity: float = 1.25  # Zipf exponent of products within a need
    launched: float = 0.12  # share of products that come within the days
    withdrawn: float = 0.06  # … that go
    stockouts: float = 0.01  # share of a product's weeks in which it is away
    offers: float = 0.4  # share of a product's weeks in which it is cheaper
    depth: float = 0.24  # the median offer's part of the list price
    # the rest of what shops know
    returns: float = 0.01  # share of lines
    anonymous: float = 0.03  # share of orders that name no customer
    aliases: float = 0.08  # share of customers who have a second id
    web: float = 0.3  # share of orders made on the web
    stores: int = 10

    def __post_init__(self) -> None:
        for names, least, most in BOUNDS:
            for name in names:
                value = getattr(self, name)
                if not least <= value <= most:
                    raise WorldError(f"{name} is {value:g}: it must lie between {least:g} and {most:g}")

    @classmethod
    def of(cls, sets: Mapping[str, float], **given: int | str) -> "World":
        """A world of these parameters; those in `sets` by name, as whole numbers where they are counts."""
        known = {f.name: f.type for f in fields(cls) if f.name != "start"}
        for name in sets:
            if name not in known:
                raise WorldError(f"a world has no parameter {name!r}; it has {', '.join(known)}")
        for name, value in sets.items():
            if known[name] is int and value != round(value, 0):
                raise WorldError(f"{name} is a whole number, not {value:g}")
        return cls(**{**given, **{n: int(v) if known[n] is int else v for n, v in sets.items()}})  # type: ignore[arg-type]

    @cached_property
    def chance(self) -> Chance:
        return Chance(self.seed)

    @cached_property
    def first(self) -> int:
        """The first second, since 1970 UTC."""
        return seconds(datetime.fromisoformat(self.start).replace(tzinfo=UTC))

    @property
    def end(self) -> int:
        """The first second after it."""
        return self.first + self.days * DAY

    @property
    def weeks(self) -> int:
        return -(-self.days // 7)

    @cached_property
    def clock(self) -> "Clock":
        return Clock.of(self)

    @cached_property
    def shelf(self) -> "Shelf":
        return Shelf.of(self)


BOUNDS: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("customers", "products", "stores"), 1, 1e8),
    (("days",), 1, 20_000),
    (("seed",), 0, 2**63 - 1),
    (
        (
            *("season", "complements", "variety", "loyalty", "launched", "withdrawn", "stockouts", "offers"),
            *("depth", "returns", "anonymous", "aliases", "web", "joining"),
        ),
        0,
        1,
    ),
    (("orders_shape", "regularity", "leaving_shape", "interests"), 0.01, 100),
    (("orders", "interval", "need_size"), 0.01, 1e5),
    (("basket", "pantry"), 0, 100),
    (("basket_spread",), 0, 3),
    (("leaving", "customer_spread", "interval_spread", "need_spread", "popularity"), 0, 5),
)

# --- when ---------------------------------------------------------------------------------------------------

# the demo data's orders, from Monday and from midnight, in thousandths
WEEKDAYS = (141, 128, 124, 123, 134, 167, 183)
HOURS = (7, 3, 2, 2, 1, 1, 3, 7, 13, 25, 44, 63, 73, 76, 78, 82, 93, 105, 99, 81, 63, 42, 25, 12)


@dataclass(frozen=True)
class Clock:
    """Business time: it runs fast in busy hours and stands nearly still at night.

    What happens evenly in business time has the weekdays, hours and season of a shop in real time.
    """

    hours: NDArray[np.int64]  # business milliseconds at the beginning of each hour
    first: int

    @classmethod
    def of(cls, world: World) -> "Clock":
        days = [datetime.fromtimestamp(world.first, UTC) + timedelta(days=n) for n in range(world.days)]
        weekday = np.array(WEEKDAYS)[[day.weekday() for day in days]] * 7 / sum(WEEKDAYS)
        of_year = np.array([day.timetuple().tm_yday for day in days])
        season = 1 + world.season * np.cos(
            2 * np.pi * (of_year - 355) / 365.25
        )  # at its best before Christmas
        pace = (weekday * season)[:, None] * np.array(HOURS) * 24 / sum(HOURS)
        steps = np.round(pace.ravel() * 3600 * MS).astype(np.int64)
        return cls(np.concatenate([[0], np.cumsum(steps)]), world.first)

    @property
    def end(self) -> int:
        return int(self.hours[-1])

    def seconds(self, business: Places) -> Places:
        """Real seconds since 1970 UTC of business milliseconds; what lies beyond the end is the end."""
        at = np.interp(business, self.hours, np.arange(len(self.hours)) * 3600.0)
        return self.first + at.astype(np.int64)


# --- what is sold -------------------------------------------------------------------------------------------

STEPS = np.array([0.6, 0.8, 1.0, 1.3, 1.8])  # of a need's price
STEP_SHARES = (0.15, 0.25, 0.3, 0.2, 0.1)
PACKS = ("100 g", "250 g", "500 g", "1 kg", "2 l")
COMPLEMENTS = 3  # needs that go with a need
SEASONAL = 0.15  # share of needs that have a season
SYLLABLES = (
    "ba",
    "ko",
    "mi",
    "ra",
    "te",
    "lu",
    "san",
    "do",
    "vel",
    "ni",
    "gor",
    "pa",
    "shi",
    "mel",
    "tu",
    "fen",
)


@dataclass(frozen=True)
class Shelf:
    """Needs in categories, products in needs: arrays by place. Products of a need lie side by side.

    A need's products are the places start[n]:start[n + 1]; `bounds` rises from n to n + 1 along them by popularity,
    `need_bounds` alike along the needs of a category, so that one search picks within any of them.
    """

    category: Places  # of each need
    need_weight: Reals
    need_start: Places  # needs of category k
    need_bounds: Reals
    interval: Reals  # days, of each need
    partners: Places  # [needs, COMPLEMENTS]
    peak: Reals  # week of the year at which a need is most wanted, NaN where it has no season
    start: Places
    need: Places  # of each product
    bounds: Reals
    share: Reals  # of a product in its need
    brand: Places
    step: Places
    pack: Places
    price: Reals
    launched: Places  # second; the world's first where it was always there
    withdrawn: Places  # second; far off where it stays

    @classmethod
    def of(cls, world: World) -> "Shelf":
        chance, needs = world.chance, max(min(world.products, round(world.products / world.need_size)), 1)
        place = np.arange(needs)
        category = np.sort(chance.pick(1 / np.arange(1, categories(needs) + 1), "category", place))
        weight = np.exp(world.need_spread * chance.normal("need", place))
        sizes = shared(world.products, weight**0.6)
        need, rank = spread(sizes)
        start = np.concatenate([[0], np.cumsum(sizes)])
        share: Reals = np.asarray((rank + 1.0) ** -world.popularity, np.float64)
        share = np.divide(share, np.add.reduceat(share, start[:-1])[need], dtype=np.float64)
        product = np.arange(world.products)
        step, pack = chance.pick(STEP_SHARES, "step", product), chance.pick([1] * len(PACKS), "pack", product)
        base = 2.2 * np.exp(0.75 * chance.normal("price", place))  # the demo's median is 1.93
        price = base[need] * STEPS[step] * (0.7 + 0.15 * pack) * np.exp(0.08 * chance.normal("odd", product))
        need_start = np.searchsorted(category, np.arange(categories(needs) + 1))
        span, life = world.end - world.first, chance.uniform("life", product)
        new = chance.happens(world.launched, "launched", product)
        gone = chance.happens(world.withdrawn, "withdrawn", product) & ~new
        return cls(
            category=category,
            need_weight=weight,
            need_start=need_start,
            need_bounds=rising(weight, need_start),
            interval=world.interval * np.exp(world.interval_spread * chance.normal("interval", place)),
            partners=(
                place[:, None] + 1 + chance.pick(weight, "partner", place[:, None], np.arange(COMPLEMENTS))
            )
            % needs,
            peak=np.where(
                chance.happens(SEASONAL, "seasonal", place), 52 * chance.uniform("peak", place), np.nan
            ),
            start=start,
            need=need,
            bounds=rising(share, start),
            share=share,
            brand=category[need] * 12 + chance.pick(1 / np.arange(1, 13), "brand", product),
            step=step,
            pack=pack,
            price=np.maximum(np.round(price, 2), 0.05),
            launched=np.where(new, world.first + (life * span).astype(np.int64), world.first),
            withdrawn=np.where(gone, world.first + (life * span).astype(np.int64), np.iinfo(np.int64).max),
        )

    @property
    def needs(self) -> int:
        return len(self.category)

    def of_need(self, need: Places, uniform: Reals) -> Places:
        """A product of each need, as likely as it is popular."""
        found = np.searchsorted(self.bounds, need + uniform, side="right")
        return np.clip(found, self.start[need], self.start[need + 1] - 1)

    def of_category(self, category: Places, uniform: Reals) -> Places:
        """A need of each category, as likely as it weighs. A category without needs gives its neighbour's."""
        found = np.searchsorted(self.need_bounds, category + uniform, side="right")
        return np.minimum(found, self.needs - 1)


def categories(needs: int) -> int:
    return int(np.clip(needs // 8, 1, 40))


def shared(total: int, weights: Reals) -> Places:
    """`total` things in parts of at least one, nearly as the weights have it."""
    spare = total - len(weights)
    bounds = np.round(spare * np.cumsum(weights) / weights.sum()).astype(np.int64)
    return 1 + np.diff(bounds, prepend=0)


def rising(weights: Reals, start: Places) -> Reals:
    """Along each part start[i]:start[i + 1] from above i to i + 1, by the weights."""
    total = np.concatenate([[0.0], np.cumsum(weights)])
    part = np.repeat(np.arange(len(start) - 1), np.diff(start))
    inside = (total[1:] - total[start[part]]) / (total[start[part + 1]] - total[start[part]])
    return part + inside


def word(number: int) -> str:
    """A name that can be spoken; another number, another name."""
    rest, low = divmod(number, len(SYLLABLES) ** 3)
    digits = [low * 2477 % len(SYLLABLES) ** 3]  # an odd factor: numbers in a row sound different
    for _ in range(2):
        digits[:1] = divmod(digits[0], len(SYLLABLES))
    return "".join(SYLLABLES[digit] for digit in digits).title() + (f" {rest}" if rest else "")


# --- what a product costs and whether it is there ------------------------------------------------------------


def week_of(world: World, at: Places) -> Places:
    return (at - world.first) // WEEK


def cheaper(world: World, product: Places, week: Places) -> Reals:
    """The part of the list price that is taken off a product in a week: 0 without an offer."""
    chance = world.chance
    on = chance.happens(world.offers, "offer", product, week)
    depth = world.depth * np.exp(0.5 * (chance.uniform("depth", product, week) - 0.5) * 3)
    return np.where(on, np.minimum(depth, 0.7), 0.0)


def there(world: World, product: Places, at: Places) -> NDArray[np.bool_]:
    """Whether a product can be bought: launched, not withdrawn, and in stock that week."""
    shelf = world.shelf
    sold = (shelf.launched[product] <= at) & (at < shelf.withdrawn[product])
    return sold & ~away(world, product, week_of(world, at))


def away(world: World, product: Places, week: Places) -> NDArray[np.bool_]:
    return world.chance.happens(world.stockouts, "away", product, week)
