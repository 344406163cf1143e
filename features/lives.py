"""Customers of a generated world: who they truly are, and what they then buy.

Everything is worked out for any set of customers by itself, as arrays: a row an order, or a line. Sums run over whole
numbers, so that a customer's life is the same, bit for bit, whoever else is in the set.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.chance import Reals, spread
from features.interactions import DAY
from features.worlds import COMPLEMENTS, MS, Places, World, cheaper, there, week_of

YEAR = 365.0
UNIT = 1_000_000  # of attention, in whole numbers
EVENNESS = 6.0  # gamma shape of how long a unit lasts
CANDIDATES = 3  # products that somebody looks at before taking one
MOST_PANTRY = 120  # needs
QUANTITY = (0.792, 0.145, 0.026, 0.016, 0.004, 0.004)  # of 1, 2, …: the demo's
MOST_QUANTITY = 40
MOST_EXTRAS = 100  # lines that nothing made due, in one order
MORE = 2_000  # turns from which on a line is one more of a need
FAR = 1 << 44  # more milliseconds, or attention, than a life has


class Program(NamedTuple):
    """How a kind of message truly works: all in logits, but for `pace`.

    pace: the order rate of who gets it, as a share of their own. A customer's own response to the message is normal
    around `message` with `spread`: some are driven away. An offer adds `offer` times their price sensitivity.
    """

    pace: float
    message: float
    spread: float
    offer: float


PROGRAMS = {
    "thank_you": Program(1.0, 0.10, 0.25, 0.15),
    "first_to_repeat": Program(0.8, 0.35, 0.40, 0.40),
    "cross_sell": Program(1.0, 0.15, 0.35, 0.25),
    "replenish": Program(1.0, 0.45, 0.45, 0.15),
    "on_the_brink": Program(0.4, 0.30, 0.60, 0.50),
    "win_back": Program(0.1, 0.25, 0.60, 0.70),
}
WITHIN = 7.0  # days, in which an order counts as a response


@dataclass(frozen=True)
class People:
    """True traits of some customers, a row each; times in business milliseconds (`Clock`)."""

    id: Places  # their number in the world
    rate: Reals  # orders a day
    regularity: Reals
    joined: Places
    left: Places
    established: NDArray[np.bool_]  # customers before the first day
    size: Reals  # of their orders, beside everybody's
    loyalty: Reals
    sensitivity: Reals  # to prices: an exponent
    web: Reals  # share of orders made on the web
    pantry: Places  # how many needs they may replenish
    interests: Reals  # [customers, categories], each row sums to 1

    def __len__(self) -> int:
        return len(self.id)


def people(world: World, who: Places) -> People:
    chance = world.chance
    new = chance.happens(world.joining, "new", who)
    joined = np.where(new, (chance.uniform("joined", who) * world.clock.end).astype(np.int64), 0)
    hazard = world.leaving / YEAR * chance.gamma(world.leaving_shape, "hazard", who)
    stay = chance.exponential("stay", who) / np.maximum(hazard, 1e-12) * DAY * MS
    loyal = chance.normal("loyalty", who)
    rate = world.orders / YEAR * chance.gamma(world.orders_shape, "rate", who)
    size = np.exp(world.customer_spread * chance.normal("size", who))
    pantry = world.pantry * size * np.exp(0.5 * chance.normal("pantry", who) - 0.2)
    return People(
        id=who,
        rate=np.maximum(rate, 1e-4),
        regularity=world.regularity * np.exp(0.4 * chance.normal("regularity", who)),
        joined=joined,
        left=joined + np.minimum(stay, FAR).astype(np.int64),
        established=~new,
        size=size,
        loyalty=1 / (1 + np.exp(-(np.log(world.loyalty / (1.0001 - world.loyalty) + 1e-9) + 0.8 * loyal))),
        sensitivity=np.exp(0.5 * chance.normal("sensitivity", who)),
        web=np.clip(2 * world.web * chance.uniform("web", who), 0, 1),
        pantry=np.clip(np.round(pantry), 0, MOST_PANTRY).astype(np.int64),
        interests=interests(world, who),
    )


def interests(world: World, who: Places) -> Reals:
    """A Dirichlet around the categories' weights: [customers, categories]."""
    of = np.bincount(world.shelf.category, world.shelf.need_weight, minlength=len(world.shelf.need_start) - 1)
    alpha = world.interests * len(of) * of / of.sum()
    held = np.flatnonzero(alpha)
    drawn = np.zeros((len(who), len(of)))
    drawn[:, held] = alpha[held] * world.chance.gamma(alpha[held], "interest", who[:, None], held)
    drawn[:, held[np.argmax(alpha[held])]] += 1e-9  # nobody is interested in nothing
    whole = drawn[:, 0].copy()
    for k in range(1, drawn.shape[1]):  # one after the other: the order of a sum is part of its last bits
        whole += drawn[:, k]
    return drawn / whole[:, None]


def responses(world: World, them: People, program: str) -> tuple[Reals, Reals, Reals]:
    """The chance of an order within WITHIN days of a moment: without a message, with one, with an offer in it."""
    how = PROGRAMS[program]
    alone = np.clip(1 - np.exp(-them.rate * WITHIN * how.pace), 1e-6, 1 - 1e-6)
    logit = np.log(alone / (1 - alone))
    effect = how.message + how.spread * world.chance.normal(program, them.id)
    offered = effect + how.offer * them.sensitivity
    return alone, 1 / (1 + np.exp(-logit - effect)), 1 / (1 + np.exp(-logit - offered))


# --- orders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Orders:
    """Orders sorted by customer and time."""

    owner: Places  # place in People
    nth: Places
    at: Places  # business milliseconds
    attention: Places  # how large the visit is, in UNITs: 1 is the customer's usual
    start: Places  # first order of each customer, and the end

    def __len__(self) -> int:
        return len(self.owner)


def orders(world: World, them: People) -> Orders:
    """Each customer's orders, from joining to leaving. Who joins does so by an order."""
    chance, end = world.chance, np.minimum(them.left, world.clock.end)
    owner, nth = spread(most_orders(world, them))
    gap = chance.gamma(them.regularity[owner], "gap", them.id[owner], nth) / them.rate[owner] * DAY * MS
    gap[nth == 0] = np.where(them.established, begun(world, them), 0.0)
    at = them.joined[owner] + running(np.minimum(gap, FAR).astype(np.int64), owner)
    kept = at < end[owner]
    owner, nth, at = owner[kept], nth[kept], at[kept]
    noise = world.basket_spread * chance.normal("attention", them.id[owner], nth)
    attention = np.maximum(np.exp(noise) * UNIT, 1).astype(np.int64)
    return Orders(owner, nth, at, attention, np.searchsorted(owner, np.arange(len(them) + 1)))


def begun(world: World, them: People) -> Reals:
    """Milliseconds until the first order of who was a customer before: the rest of a gap that was under way.

    A moment falls into a gap the more likely the longer it is: such gaps are gamma-distributed of one shape more.
    """
    longer = them.regularity + 1
    gap = world.chance.gamma(longer, "begun gap", them.id) * longer / them.regularity
    return world.chance.uniform("begun", them.id) * gap / them.rate * DAY * MS


def most_orders(world: World, them: People) -> Places:
    """More orders than each will have but once in a million lives."""
    days = np.maximum(np.minimum(them.left, world.clock.end) - them.joined, 0) / (DAY * MS)
    mean = them.rate * days
    return np.ceil(mean + 6 * np.sqrt((mean + 1) / them.regularity)).astype(np.int64) + 8


def running(steps: Places, owner: Places) -> Places:
    """Sums of whole numbers along each owner's rows, sorted by owner."""
    total = np.cumsum(steps)
    first = np.searchsorted(owner, owner)
    return total - (total - steps)[first]


# --- what is replenished --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pantry:
    """Needs that customers replenish, a row each, sorted by customer."""

    owner: Places
    need: Places
    interval: Reals  # days that a unit lasts
    favourite: Places  # the product of the need that they like best


def pantry(world: World, them: People) -> Pantry:
    chance, shelf = world.chance, world.shelf
    owner, nth = spread(them.pantry)
    category = of_interest(world, them, owner, "pantry category", nth)
    need = shelf.of_category(category, chance.uniform("pantry need", them.id[owner], nth))
    once = np.unique(owner * shelf.needs + need)
    owner, need = np.divmod(once, shelf.needs)
    own = shelf.interval[need] * np.exp(0.4 * chance.normal("own interval", them.id[owner], need))
    interval = np.maximum(own, 1.2 / them.rate[owner])  # nobody replenishes sooner than they come
    return Pantry(owner, need, interval, favourite(world, them, owner, need))


def of_interest(world: World, them: People, owner: Places, what: str, *keys: Places) -> Places:
    """A category for each row, as its customer is interested."""
    below = np.cumsum(them.interests, axis=1)
    drawn = world.chance.uniform(what, them.id[owner], *keys)
    found = np.zeros(len(owner), np.int64)
    for k in range(below.shape[1] - 1):
        found += below[owner, k] < drawn
    return found


def dues(world: World, them: People, kept: Pantry) -> tuple[Places, Places, Places]:
    """When each row of the pantry runs out: (row, business milliseconds, units bought then)."""
    chance = world.chance
    span = np.maximum(world.clock.end - them.joined[kept.owner], 0) / (DAY * MS)
    row, nth = spread(np.ceil(1.5 * span / kept.interval).astype(np.int64) + 4)
    key = them.id[kept.owner[row]], kept.need[row], nth
    units = 1 + chance.pick(QUANTITY, "units", *key)
    shape = EVENNESS + (nth == 0)  # at first something is there, opened some time ago: as `begun`
    lasts = kept.interval[row] * DAY * MS * chance.gamma(shape, "lasts", *key) * shape / EVENNESS
    lasted = np.where(nth == 0, lasts * chance.uniform("open", *key), lasts)
    before = np.where(nth == 0, 1, np.concatenate([[1], units[:-1]]) if len(units) else units)
    at = them.joined[kept.owner[row]] + running(np.minimum(lasted * before, FAR).astype(np.int64), row)
    within = at < world.clock.end
    return row[within], at[within], units[within]


def caught(world: World, them: People, made: Orders, owner: Places, at: Places, *keys: Places) -> Places:
    """The order in which each of these is thought of: the sooner the larger the orders are. Where none is, the end."""
    upto = running(made.attention, made.owner)
    before = np.searchsorted(made.owner * FAR + made.at, owner * FAR + at)
    held = before > made.start[owner]
    seen = np.where(held, np.append(upto, 0)[before - 1], 0)
    patience = (0.7 * UNIT * world.chance.exponential("patience", them.id[owner], *keys)).astype(np.int64)
    found = np.searchsorted(made.owner * FAR + upto, owner * FAR + seen + patience, side="right")
    found = np.maximum(found, before)
    return np.where(found < made.start[owner + 1], found, len(made))


# --- lines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lines:
    """What is bought: sorted by order and product, each once in an order."""

    order: Places
    product: Places
    quantity: Places
    off: Reals  # part of the list price


@dataclass(frozen=True)
class Wanted:
    """What goes into orders, as needs; `turn` tells several of one need in an order apart, 0 is what was due."""

    order: Places
    need: Places
    units: Places
    turn: Places

    def plus(self, other: "Wanted") -> "Wanted":
        both = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Wanted(*map(np.concatenate, both))


def lines(world: World, them: People, made: Orders, kept: Pantry) -> Lines:
    at = world.clock.seconds(made.at)
    of = wanted(world, them, made, kept, at)
    product = taken(world, them, made, of, at[of.order])
    bought = product >= 0
    merged, first = np.unique(of.order[bought] * world.products + product[bought], return_inverse=True)
    quantity = np.zeros(len(merged), np.int64)
    np.add.at(quantity, first, of.units[bought])
    order, product = np.divmod(merged, world.products)
    off = cheaper(world, product, week_of(world, at[order]))
    return Lines(order, product, np.minimum(quantity, MOST_QUANTITY), off)


def taken(world: World, them: People, made: Orders, of: Wanted, at: Places) -> Places:
    """The product that serves each need: the favourite where it is there and the customer loyal, else another."""
    who = made.owner[of.order]
    key = made.nth[of.order], of.need, of.turn
    liked = favourite(world, them, who, of.need)
    loyal = world.chance.happens(them.loyalty[who], "loyal", them.id[who], *key)
    loyal &= (of.turn < MORE) & there(world, liked, at)
    return np.where(loyal, liked, chosen(world, them, who, of.need, at, made.nth[of.order], of.turn))


def wanted(world: World, them: People, made: Orders, kept: Pantry, at: Places) -> Wanted:
    due = replenished(world, them, made, kept)
    base = due.plus(extras(world, them, made, at, np.bincount(due.order, minlength=len(made))))
    return base.plus(brought(world, them, made, base))


def replenished(world: World, them: People, made: Orders, kept: Pantry) -> Wanted:
    row, at, units = dues(world, them, kept)
    need = kept.need[row]
    order = caught(world, them, made, kept.owner[row], at, need, at)
    held = order < len(made)
    order, need, units = order[held], need[held], units[held]
    return Wanted(order, need, units, np.zeros_like(order))


def extras(world: World, them: People, made: Orders, at: Places, due: Places) -> Wanted:
    """What nothing made due: by interest, and by the time of the year. An order holds something."""
    chance, shelf = world.chance, world.shelf
    size = np.minimum(world.basket * them.size[made.owner] * made.attention / UNIT, MOST_EXTRAS)
    count = np.floor(size + chance.uniform("extras", them.id[made.owner], made.nth)).astype(np.int64)
    order, nth = spread(np.where(due > 0, count, np.maximum(count, 1)))
    owner, key = made.owner[order], (made.nth[order], nth)
    category = of_interest(world, them, owner, "category", *key)
    need = shelf.of_category(category, chance.uniform("need", them.id[owner], *key))
    season = 0.5 + 0.5 * np.cos(2 * np.pi * (week_of_year(at[order]) - shelf.peak[need]) / 52)
    kept = (nth == 0) | ~(chance.uniform("season", them.id[owner], *key) > season)
    return Wanted(order[kept], need[kept], np.ones_like(order[kept]), nth[kept] + 1)


def week_of_year(at: Places) -> Reals:
    return (at / DAY % YEAR) / 7


def brought(world: World, them: People, made: Orders, base: Wanted) -> Wanted:
    """What comes along with others in the same order: of needs that go with theirs, and more of the same need."""
    key = them.id[made.owner[base.order]], made.nth[base.order], base.need, base.turn
    which = (world.chance.uniform("which", *key) * COMPLEMENTS).astype(np.int64)
    more = [
        Wanted(base.order[some], need[some], np.ones_like(need[some]), base.turn[some] + turn)
        for what, share, need, turn in (
            ("brought", world.complements, world.shelf.partners[base.need, which], 1_000),
            ("more", world.variety, base.need, MORE),
        )
        for some in [world.chance.happens(share, what, *key)]
    ]
    return more[0].plus(more[1])


def favourite(world: World, them: People, owner: Places, need: Places) -> Places:
    """The product of a need that a customer likes best of those they once tried."""
    best = np.full(len(owner), -1, np.int64)
    most = np.full(len(owner), -np.inf)
    for n in range(CANDIDATES):
        product = world.shelf.of_need(need, world.chance.uniform("tried", them.id[owner], need, n))
        liking = taste(world, them, owner, product, world.shelf.price[product])
        best, most = np.where(liking > most, product, best), np.maximum(liking, most)
    return best


def chosen(world: World, them: People, owner: Places, need: Places, at: Places, *turn: Places) -> Places:
    """The product taken of a need at a moment, by taste, price, offers and mood; −1 where none seen is there."""
    best = np.full(len(owner), -1, np.int64)
    most = np.full(len(owner), -np.inf)
    week = week_of(world, at)
    for n in range(CANDIDATES):
        key = them.id[owner], need, *turn, n
        product = world.shelf.of_need(need, world.chance.uniform("seen", *key))
        price = world.shelf.price[product] * (1 - cheaper(world, product, week))
        mood = world.chance.uniform("mood", *key)
        liking = taste(world, them, owner, product, price) + 1.5 * mood
        liking = np.where(there(world, product, at), liking, -np.inf)
        best, most = np.where(liking > most, product, best), np.maximum(liking, most)
    return best


def taste(world: World, them: People, owner: Places, product: Places, price: Reals) -> Reals:
    """How much a customer likes a product at a price: their own view of its brand, less what the price costs them."""
    brand = world.chance.uniform("brand", them.id[owner], world.shelf.brand[product])
    return 2 * brand - them.sensitivity[owner] * np.log(price)
