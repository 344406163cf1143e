"""What each kind of trigger finds among everybody at a moment. A table: a new kind is a function and a row.

Each looks at what `Day` holds and nothing else, so that the same day gives the same occasions whenever it is asked. An
occasion is ripe `after` so many days, and past when it has been so for `within` days.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.catalog import PATH_SEPARATOR
from features.customers import BACK, BRINK, LAPSED, LEAST_GAP, LOYAL, Orders, favourite, lives
from features.interactions import DAY, runs
from lifecycle.day import Day
from lifecycle.occasions import PARTS, Find, Occasions, of
from lifecycle.programs import (
    Addition,
    Anniversary,
    Back,
    Broadcast,
    Cart,
    Due,
    Entered,
    FirstGap,
    Joined,
    Milestone,
    Ordered,
    Rhythm,
    Tier,
    Trigger,
    Waits,
)

Array = NDArray[Any]
Floats = NDArray[np.float64]
Chances = Callable[[Array], Floats]  # customers -> by main category how likely they buy of it
VISIT = DAY  # what was put in the cart so long before the last touch of it is of the same visit
COMEBACKS = 30  # who came back for a second order, at least so many to tell when people do
KINDRED = 20.0  # customers of everybody's that are counted beside those with the same main category
LATELY = 90 * DAY  # in which the favourites of a category are counted
OFFERED = 4  # of these
BLOCK = 20_000  # customers looked at together
CHOICES = 3  # categories that a customer is told of in turn


def found(day: Day, trigger: Trigger) -> Occasions:
    """The occasions of a trigger of any kind."""
    return TRIGGERS[trigger.kind](day, trigger)


def ripe(day: Day, trigger: Waits, moments: Floats | Array) -> tuple[Array, Floats]:
    """(places of the moments since which `after` has passed, and not yet `within` more; when each became ripe). NaN
    never does."""
    at = np.asarray(moments, np.float64) + trigger.after * DAY
    rows = np.flatnonzero((at < day.until) & (at >= day.until - trigger.within * DAY))
    return rows, at[rows]


def dates(day: Day, moments: Floats | Array) -> Array:
    """The store's calendar days of these moments."""
    when = pd.to_datetime(np.asarray(moments, np.int64), unit="s", utc=True).tz_convert(day.zone)
    return when.tz_localize(None).to_numpy().astype("datetime64[D]")


def written(days: Array) -> list[str]:
    """Days as ISO writes them."""
    return np.datetime_as_string(days).tolist() if len(days) else []


def midnights(day: Day, days: Array) -> Floats:
    """When these days begin in the store, in seconds."""
    zone = ZoneInfo(day.zone)
    each, place = np.unique(days, return_inverse=True)
    begins = [datetime.combine(of, time(), zone).timestamp() for of in each.astype(object)]
    return np.array(begins, np.float64)[place]


# --- orders -----------------------------------------------------------------------------------------------


def lines(day: Day) -> Array:
    """Where the lines of each order begin in `day.data`; the end of the last beside."""
    start = int(np.searchsorted(day.data.customer, 0))
    return np.append(start + np.flatnonzero(runs(day.data.order[start:])), len(day.data))


def order_ids(day: Day, rows: Array) -> list[str]:
    return day.data.orders.at(day.data.order[lines(day)[rows]])


def numbers(orders: Orders) -> Array:
    """The how manyth of its customer each order is."""
    return np.arange(len(orders.at)) - np.repeat(orders.start, orders.count) + 1


def buyers(day: Day) -> Array:
    """Of each order whose it is, as a row of `day.people`."""
    return day.person[day.orders.customer]


def held(day: Day, rows: Array) -> Iterator[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    """Of each of these orders (its products that may be recommended, all where none may; all its lines as a message
    shows them)."""
    begin, data = lines(day), day.data
    counts = begin[rows + 1] - begin[rows]
    each = np.repeat(begin[rows] - np.append(0, np.cumsum(counts)[:-1]), counts) + np.arange(counts.sum())
    items, quantity = data.item[each], data.quantity[each].tolist()
    titles = day.catalog.title
    shown = [
        {"quantity": round(n, 3), "title": titles[i]} for n, i in zip(quantity, items.tolist(), strict=True)
    ]
    for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True):
        own = items[end - count : end]
        eligible = own[day.catalog.eligible[own]]
        yield tuple(data.items.at(eligible if len(eligible) else own)), shown[end - count : end]


def about_orders(day: Day, rows: Array, key: Sequence[str], at: Floats) -> Occasions:
    """Occasions about orders, by the row of each."""
    bought = list(held(day, rows))
    told = zip(
        order_ids(day, rows), written(dates(day, day.orders.at[rows])), numbers(day.orders)[rows].tolist(),
        bought, strict=True,
    )  # fmt: skip
    words = [
        {"order_id": order, "ordered_on": on, "nth": nth, "lines": shown}
        for order, on, nth, (_, shown) in told
    ]
    return of(buyers(day)[rows], key, at, products=[products for products, _ in bought], words=words)


def ordered(day: Day, trigger: Ordered) -> Occasions:
    """An occasion an order; it is about what was bought."""
    rows, at = ripe(day, trigger, day.orders.at)
    if trigger.nth:
        wanted = np.isin(numbers(day.orders)[rows], trigger.nth)
        rows, at = rows[wanted], at[wanted]
    return about_orders(day, rows, order_ids(day, rows), at)


def milestone(day: Day, trigger: Milestone) -> Occasions:
    orders = day.orders
    rows, at = ripe(day, trigger, orders.at)
    reached = np.isin(numbers(orders)[rows], trigger.orders)
    nth = numbers(orders)[rows[reached]].tolist()
    return of(buyers(day)[rows[reached]], list(map(str, nth)), at[reached], words=[{"nth": n} for n in nth])


def first_gap(day: Day, trigger: FirstGap) -> Occasions:
    """About the one order that there is, and named by it."""
    orders = day.orders
    low, high = comebacks(orders, day.until, (trigger.low, trigger.high))
    first = orders.at[orders.start].astype(np.float64)
    rows, at = ripe(day, trigger, np.where(orders.count == 1, first + low, np.nan))
    early = day.until <= first[rows] + high
    only = orders.start[rows[early]]
    return about_orders(day, only, order_ids(day, only), at[early])


def comebacks(orders: Orders, until: int, shares: Sequence[float]) -> Floats:
    """The seconds after the first order by which these shares of those who come back in the end have done so.

    The first t with F(t) ≥ share, F(t) = (1 − S(t)) / (1 − S(end)), S by Kaplan and Meier (1958) over the time from
    first to second order, in which who has not come back counts as censored. NaN where fewer than COMEBACKS came back.
    """
    again = orders.count > 1
    if again.sum() < COMEBACKS:
        return np.full(len(shares), np.nan)
    second = orders.at[np.where(again, orders.start + 1, orders.start)]
    wait = np.where(again, second, until) - orders.at[orders.start]
    moments, came = np.unique(wait[again], return_counts=True)
    waiting = len(wait) - np.searchsorted(np.sort(wait), moments)
    back = 1.0 - np.cumprod(1.0 - came / waiting)
    return moments[np.searchsorted(back, np.asarray(shares) * back[-1] - 1e-9)].astype(np.float64)


def tier(day: Day, trigger: Tier) -> Occasions:
    """The order by which spend reached a tier that it had been below just before; of several the highest counts."""
    orders, names = day.orders, sorted(trigger.tiers, key=lambda name: trigger.tiers[name])
    steps = np.array([trigger.tiers[name] for name in names])
    after = trailing(orders, trigger.days * DAY)
    now, before = (
        np.searchsorted(steps, np.round(of, 2), side="right") for of in (after, after - orders.paid)
    )
    rows, at = ripe(day, trigger, np.where(now > before, orders.at, np.nan))
    best = np.lexsort((at, now[rows], buyers(day)[rows]))
    best = best[np.append(np.diff(buyers(day)[rows][best]) != 0, True)[: len(best)]]
    rows, at = rows[best], at[best]
    reached = [names[place - 1] for place in now[rows].tolist()]
    key = [f"{name}:{on[:4]}" for name, on in zip(reached, written(dates(day, orders.at[rows])), strict=True)]
    return of(buyers(day)[rows], key, at, words=[{"tier": name} for name in reached])


def trailing(orders: Orders, span: int) -> Floats:
    """Spend of its customer in the time of that length that ends with each order."""
    if not len(orders.at):
        return np.zeros(0)
    since = orders.at - orders.at.min()
    wide = int(since.max()) + 2
    whose = orders.customer.astype(np.int64) * wide
    first = np.searchsorted(whose + since, whose + np.maximum(since - span, -1), side="right")
    total = np.append(0.0, np.cumsum(orders.paid))
    return total[1:] - total[first]


def anniversary(day: Day, trigger: Anniversary) -> Occasions:
    """The last one that is ripe counts, where there were several."""
    orders = day.orders
    first = dates(day, orders.at[orders.start])
    here = dates(day, np.array([day.until - trigger.after * DAY]))
    year = here.astype("datetime64[Y]") - (kept(first, here) > here)
    years = (year - first.astype("datetime64[Y]")).astype(np.int64)
    on = kept(first, year)
    rows, at = ripe(day, trigger, np.where(years > 0, midnights(day, on), np.nan))
    keys = [name[:4] for name in written(on[rows])]
    words = [
        {"years": n, "ordered_on": since}
        for n, since in zip(years[rows].tolist(), written(first[rows]), strict=True)
    ]
    return of(buyers(day)[orders.start[rows]], keys, at, words=words)


def kept(first: Array, years: Array) -> Array:
    """The days of these years on which others are kept: 29 February on the 28th where there is none."""
    month = first.astype("datetime64[M]")
    months = (month - first.astype("datetime64[Y]").astype("datetime64[M]")).astype(np.int64)
    there = years.astype("datetime64[Y]").astype("datetime64[M]") + months
    last = (there + 1).astype("datetime64[D]") - 1
    return np.minimum(there.astype("datetime64[D]") + (first - month.astype("datetime64[D]")), last)


# --- time that passes -------------------------------------------------------------------------------------


def entered(day: Day, trigger: Entered) -> Occasions:
    """An occasion when the time of a step has come, of several the last, as long as the customer stands in the stage;
    an order begins a new episode. Which step is then written, `lifecycle.series` says."""
    since, order = turns(day)
    stage = day.people["stage"].to_numpy(str)
    since = np.where(np.isin(stage, trigger.stages), since, np.nan)
    ids = order_ids(day, np.maximum(order, 0)) if len(day.orders.at) else [""] * len(order)
    on = written(dates(day, day.orders.at[np.maximum(order, 0)])) if len(day.orders.at) else ids
    last = dict[int, tuple[int, float]]()
    for number, step in enumerate(trigger.steps, 1):
        rows, at = ripe(day, trigger, since + step * DAY)
        last.update(zip(rows.tolist(), ((number, moment) for moment in at.tolist()), strict=True))
    keys, words = [], []
    for person, (number, _) in last.items():
        made, step = order[person] >= 0, trigger.steps[number - 1]
        keys.append(f"{stage[person]}:{step:g}:{ids[person] if made else ''}")
        words.append({"step": number, "ordered_on": on[person] if made else None})
    return of([*last], keys, [moment for _, moment in last.values()], words=words)


def turns(day: Day) -> tuple[Floats, Array]:
    """By person since when they stand in their stage (seconds, NaN unknown), and the row of the order that made it, or
    after which it began; −1: none. Prospects stand there since they agreed to be written to."""
    orders, person = day.orders, day.person[day.orders.who]
    gap = np.maximum(day.people["gap"].to_numpy(np.float64)[person], LEAST_GAP)
    life = lives(orders, gap)
    made = {
        "new": orders.start, "won_back": life, "loyal": life + LOYAL - 1,
        "active": life + np.where(life > orders.start, BACK - 1, 1),
    }  # fmt: skip
    late = {"brink": BRINK, "lapsed": LAPSED}
    stage = day.people["stage"].to_numpy(str)
    order = np.full(len(stage), -1)
    since = np.where(stage == "prospect", day.people["agreed_at"].to_numpy(np.float64), np.nan)
    for name in (*made, *late):
        here = stage[person] == name
        rows = np.minimum(made.get(name, orders.last), orders.last)[here]
        order[person[here]] = rows
        since[person[here]] = orders.at[rows] + late.get(name, 0.0) * gap[here] * DAY
    return since, order


def rhythm(day: Day, trigger: Rhythm) -> Occasions:
    orders, person = day.orders, day.person[day.orders.who]
    gap = day.people["gap"].to_numpy(np.float64)[person]
    rows, at = ripe(day, trigger, orders.at[orders.last] + trigger.share * gap * DAY)
    last = orders.last[rows]
    words = [{"ordered_on": on} for on in written(dates(day, orders.at[last]))]
    return of(person[rows], order_ids(day, last), at, words=words)


def due_again(day: Day, trigger: Due) -> Occasions:
    """About what comes due on one day, likeliest first; named by each product and how often it was bought, so that a
    cycle is written about once. It is ripe `days` before the pair's usual gap since the need was served is over."""
    likely = day.due[day.due["chance"] >= trigger.chance]
    moments = likely["served"] + np.maximum(likely["gap"] - trigger.days, 0.0) * DAY
    rows, at = ripe(day, trigger, moments.to_numpy(np.float64))
    likely = likely.iloc[rows].assign(ripe=at, on=(at // DAY).astype(np.int64))
    likely = likely.sort_values(["person", "on", "chance", "item"], ascending=[True, True, False, True])
    groups = likely.groupby(["person", "on"])
    likely = likely[(groups.cumcount() < trigger.most).to_numpy()]
    names = day.data.items.at(likely["item"].to_numpy())
    first = np.flatnonzero(~likely.duplicated(["person", "on"]).to_numpy())
    lead = likely.iloc[first]
    keys = [f"{name}:{n}" for name, n in zip(names, likely["times"].tolist(), strict=True)]
    key = [PARTS.join(part) for part in parted(keys, first)]
    products = [tuple(part) for part in parted(names, first)]
    return of(lead["person"].to_numpy(), key, lead["ripe"].to_numpy(), products=products)


def parted(values: Sequence[str], first: Array) -> Iterator[Sequence[str]]:
    """The values in runs that begin at these places."""
    for start, end in pairwise([*first.tolist(), len(values)]):
        yield values[start:end]


def joined(day: Day, trigger: Joined) -> Occasions:
    column = f"agreed_{trigger.channel}" if trigger.channel else "agreed_at"
    rows, at = ripe(day, trigger, day.people[column].to_numpy(np.float64))
    return of(rows, ["joined"] * len(rows), at)


def broadcast(day: Day, trigger: Broadcast) -> Occasions:
    begins = datetime.combine(trigger.on, time(), ZoneInfo(day.zone)).timestamp()
    rows, at = ripe(day, trigger, np.full(len(day.people), begins))
    return of(rows, [trigger.on.isoformat()] * len(rows), at)


# --- categories -------------------------------------------------------------------------------------------


def addition(day: Day, trigger: Addition) -> Occasions:
    """Looked for every `rest` days from the first order on; about what sells best of the category."""
    orders = day.orders
    first = orders.at[orders.start].astype(np.float64)
    rest = trigger.rest * DAY
    turn = np.floor((day.until - 1 - trigger.after * DAY - first) / rest)
    rows, at = ripe(day, trigger, np.where(turn > 0, first + turn * rest, np.nan))
    code, chance = (found.ravel() for found in likeliest(day, orders.who[rows]))
    rows, at = np.repeat(rows, CHOICES), np.repeat(at, CHOICES)
    there = chance >= max(trigger.chance, 1e-12)
    code, best, names = code[there].tolist(), favourites(day), day.catalog.parents
    return of(
        day.person[orders.who[rows[there]]], [names[c] for c in code], at[there],
        products=[best.get(c, ()) for c in code], words=[{"category": spoken(names[c])} for c in code],
    )  # fmt: skip


def spoken(path: str) -> str:
    """A category as it is named in a sentence."""
    name = path.split(PATH_SEPARATOR)[-1]
    return name.title() if name.isupper() else name


def likeliest(day: Day, customers: Array) -> tuple[Array, Floats]:
    """(the CHOICES main categories that each of these customers never bought of and is likeliest to, first the
    likeliest; how likely that is): [customers, CHOICES], so that one is left when another was written about.

    By `day.scores["categories"]`, the pair of `Scored.categories` and `Scored.buys`, where there is that; else by the
    share of customers with the same main category who bought of it, with KINDRED of everybody's beside them."""
    chances = told_chances(day) if "categories" in day.scores else kindred_chances(day)
    code, chance = np.zeros((len(customers), CHOICES), np.int64), np.zeros((len(customers), CHOICES))
    for start in range(0, len(customers) if len(day.catalog.parents) else 0, BLOCK):
        part = customers[start : start + BLOCK]
        table, every = np.where(owned(day, part), 0.0, chances(part)), np.arange(len(part))
        for turn in range(CHOICES):
            best = table.argmax(axis=1)
            code[start : start + BLOCK, turn] = best
            chance[start : start + BLOCK, turn] = table[every, best]
            table[every, best] = 0.0
    return code, chance


def owned(day: Day, customers: Array) -> NDArray[np.bool_]:
    """Whether each of these customers ever bought of each main category."""
    place = np.full(len(day.data.customers) + 1, -1)  # the last is of nobody
    place[customers] = np.arange(len(customers))
    row, category = place[day.data.customer], day.catalog.parent[day.data.item]
    known = (row >= 0) & (category >= 0)
    had = np.zeros((len(customers), len(day.catalog.parents)), bool)
    had[row[known], category[known]] = True
    return had


def told_chances(day: Day) -> Chances:
    names, buys = day.scores["categories"]
    place = {name: n for n, name in enumerate(names)}
    column = np.array([place.get(name, len(names)) for name in day.catalog.parents], np.int64)
    padded = np.hstack([np.nan_to_num(buys), np.zeros((len(buys), 1))])  # what is not scored is not likely
    return lambda customers: padded[customers][:, column]


def kindred_chances(day: Day) -> Chances:
    data, n = day.eligible, len(day.catalog.parents)
    main = favourite(day.catalog.parent, data)
    category = day.catalog.parent[data.item]
    known = (data.customer >= 0) & (category >= 0)
    pairs = np.unique(data.customer[known].astype(np.int64) * n + category[known])
    who, bought = pairs // max(n, 1), pairs % max(n, 1)
    shared = np.bincount(main[who] * n + bought, minlength=n * n).reshape(n, n)
    size = np.bincount(main[main >= 0], minlength=n)
    every = shared.sum(axis=0) / max(size.sum(), 1)
    table = np.vstack(
        [(shared + KINDRED * every) / (size[:, None] + KINDRED), every]
    )  # the last: main unknown
    return lambda customers: table[main[customers]]


def favourites(day: Day) -> dict[int, tuple[str, ...]]:
    """By main category what most orders of late held, OFFERED of those that can be bought."""
    late = day.eligible.item[day.eligible.at >= day.until - LATELY]
    sold = np.bincount(late, minlength=len(day.catalog))
    items = np.flatnonzero((sold > 0) & (day.catalog.parent >= 0) & day.catalog.available)
    items = items[np.lexsort((items, -sold[items], day.catalog.parent[items]))]
    first = np.flatnonzero(runs(day.catalog.parent[items]))
    codes = day.catalog.parent[items][first].tolist()
    return {
        code: tuple(best[:OFFERED])
        for code, best in zip(codes, parted(day.data.items.at(items), first), strict=False)
    }


# --- what was looked at -----------------------------------------------------------------------------------


def left_cart(day: Day, trigger: Cart) -> Occasions:
    """What lay in the cart when it was touched last, unless something was ordered since."""
    acts = day.acts[day.acts["event_type"].isin(("cart", "remove")) & (day.acts["product"] >= 0)]
    touched = acts.groupby("person")["at"].max().reindex(np.arange(len(day.people))).to_numpy(np.float64)
    acts = acts.drop_duplicates(["person", "product"], keep="last")
    person, at = acts["person"].to_numpy(), acts["at"].to_numpy()
    inside = (at > last_orders(day)[person]) & (at > touched[person] - VISIT)
    acts = acts[inside & (acts["event_type"] == "cart").to_numpy()].sort_values(
        ["person", "at"], kind="stable"
    )
    first = np.flatnonzero(runs(acts["person"].to_numpy()))
    person = acts["person"].to_numpy()[first]
    products = list(parted(day.catalog.items.at(acts["product"].to_numpy()), first))
    rows, when = ripe(day, trigger, touched[person])
    return of(
        person[rows], [f"{touched[p]:.0f}" for p in person[rows]], when,
        products=[tuple(products[row]) for row in rows.tolist()],
    )  # fmt: skip


def last_orders(day: Day) -> Floats:
    """By person when they ordered last, −∞ where they never did."""
    found = np.full(len(day.people), -np.inf)
    found[day.person[day.orders.who]] = day.orders.at[day.orders.last]
    return found


def back_again(day: Day, trigger: Back) -> Occasions:
    """An occasion a product and change, as long as it still holds and the product was not bought since the look."""
    news = NEWS[trigger.what](day.changes, trigger.drop)
    news = news.iloc[ripe(day, trigger, news["at"].to_numpy(np.float64))[0]]
    looks = day.acts.loc[day.acts["event_type"].isin(("view", "cart")), ["person", "product", "at"]]
    pairs = looks.merge(news, on="product", suffixes=("_look", ""))
    near = (pairs["at_look"] < pairs["at"]) & (pairs["at_look"] >= pairs["at"] - trigger.looked * DAY)
    pairs = pairs[near].drop_duplicates(["person", "product", "at"], keep="last")
    bought = last_bought(day, pairs["person"].to_numpy(), pairs["product"].to_numpy())
    pairs = pairs[bought < pairs["at_look"].to_numpy()]
    names = day.catalog.items.at(pairs["product"].to_numpy())
    return of(
        pairs["person"].to_numpy(), [f"{n}:{at:.0f}" for n, at in zip(names, pairs["at"], strict=True)],
        pairs["at"].to_numpy(np.float64) + trigger.after * DAY, products=[(name,) for name in names],
        words=[NEWS_WORDS[trigger.what](row) for row in pairs.itertuples()],
    )  # fmt: skip


def restocked(changes: pd.DataFrame, drop: float) -> pd.DataFrame:
    """When products came back that are still there."""
    told = changes[(changes["product"] >= 0) & changes["in_stock"].notna()]
    there = told.groupby("product")["in_stock"].transform("last") == True  # noqa: E712
    return told[there & (told["was_in_stock"] == False) & (told["in_stock"] == True)]  # noqa: E712


def reduced(changes: pd.DataFrame, drop: float) -> pd.DataFrame:
    """When products became so much cheaper that still are."""
    told = changes[(changes["product"] >= 0) & changes["price"].notna()].astype({"price": float})
    before = told["price_before"].astype(float) * (1 - drop) + 1e-9
    last = told.groupby("product")["price"].transform("last")
    return told[(told["price"] <= before) & (last <= before)]


NEWS = {"stock": restocked, "price": reduced}
NEWS_WORDS: Mapping[str, Any] = {
    "stock": lambda row: {"was": None, "is": None},
    "price": lambda row: {"was": float(row.price_before), "is": float(row.price)},
}


def last_bought(day: Day, person: Array, product: Array) -> Floats:
    """When these people bought these products last, −∞ where they never did."""
    place, n = np.full(len(day.people), -1), len(day.data.items)
    place[day.person] = np.arange(len(day.person))
    asked, where = np.unique(place[person].astype(np.int64) * n + product, return_inverse=True)
    key = np.where(day.data.customer >= 0, day.data.customer.astype(np.int64) * n + day.data.item, -1)
    rows = np.flatnonzero(np.isin(key, asked[asked >= 0]))
    found = np.full(len(asked), -np.inf)
    np.maximum.at(found, np.searchsorted(asked, key[rows]), day.data.at[rows])
    return found[where]


TRIGGERS: Mapping[str, Find] = {
    "joined": joined,
    "order": ordered,
    "first_gap": first_gap,
    "stage": entered,
    "rhythm": rhythm,
    "due": due_again,
    "category": addition,
    "cart": left_cart,
    "back": back_again,
    "anniversary": anniversary,
    "milestone": milestone,
    "tier": tier,
    "broadcast": broadcast,
}
LINES = [{"quantity": 2.0, "title": "Whole milk"}, {"quantity": 1.0, "title": "Rye bread"}]
ORDER_WORDS = {
    "order_id": "4711", "ordered_on": "2026-03-01", "nth": 2,
    "lines": LINES,
}  # fmt: skip
WORDS: Mapping[str, Mapping[str, Any]] = {  # what a message may say of an occasion, with an example of each
    "joined": {},
    "order": ORDER_WORDS,
    "first_gap": {**ORDER_WORDS, "nth": 1},
    "stage": {"step": 1, "ordered_on": "2026-03-01"},
    "rhythm": {"ordered_on": "2026-03-01"},
    "due": {},
    "category": {"category": "Frozen Pizza"},
    "cart": {},
    "back": {"was": 3.99, "is": 2.99},
    "anniversary": {"years": 2, "ordered_on": "2024-03-01"},
    "milestone": {"nth": 10},
    "tier": {"tier": "gold"},
    "broadcast": {},
}
PRODUCTS = (
    "order",
    "first_gap",
    "due",
    "category",
    "cart",
    "back",
)  # kinds whose occasions are about products
