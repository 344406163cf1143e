"""All that a run knows of everybody at its moment: who they are, where they stand, what they did. Nothing of what
happened at or after the moment is in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.catalog import Catalog
from features.customers import Orders, facts, favourite
from features.history import History
from features.interactions import Ids, Interactions, compact, seconds, whole_and_part
from features.replenishment import due
from lifecycle import offers
from lifecycle.customers import known
from serving.consents import granted
from serving.scores import Scores
from serving.store import Store

TOLD = ("event_type", "value", "order_id", "message_id", "event_id")  # of acts
LOOK = timedelta(days=90)  # how far back events beside purchases are read
ACTS = ("view", "cart", "remove", "rating", "click", "open", "bounce", "complaint", "unsubscribe")
ADDRESS = {"email": "email", "sms": "phone", "push": "push_token", "post": "customer", "web": "customer",
           "app": "customer"}  # fmt: skip
CONTACTS = ("first_name", "email", "phone", "push_token", "locale", "time_zone", "region")


@dataclass(frozen=True)
class Day:
    """The store at a moment.

    people: a row a customer, in the order of `ids`: what `features.customers.facts` tells (NaN without an order, the
    stage prospect), category (of most purchases), CONTACTS (None unknown), agreed_at (seconds of the first
    consent to marketing, NaN none; agreed_email and so on: by channel), and the scores where there are any (churn,
    expected_spend).
    data: all that was bought, by which facts and occasions are told; eligible: what of it may be recommended, with the
    same customers, by which products are chosen and scores were learned.
    person: by customer of `data` the row of people. acts: events of ACTS within LOOK, oldest first, of known customers:
    person, event_type, product (item of the catalogue, −1), at (seconds), value, order_id, message_id, event_id.
    changes: `lifecycle.offers.changes` within LOOK.
    """

    at: datetime
    zone: str
    catalog: Catalog
    data: Interactions
    eligible: Interactions
    ids: Ids
    people: pd.DataFrame
    person: NDArray[np.int64]
    acts: pd.DataFrame
    changes: pd.DataFrame
    consents: Mapping[tuple[str, str], NDArray[np.int64]]  # (channel, purpose) -> people who agree, sorted
    asked: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # people, of personalisation
    last_event: datetime | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def until(self) -> int:
        return seconds(self.at)

    @cached_property
    def orders(self) -> Orders:
        return Orders.of(self.data)

    @cached_property
    def due(self) -> pd.DataFrame:
        """What everybody will want again, and may be told of: `features.replenishment.due`, with `person` beside."""
        found = due(self.eligible, self.catalog)
        return found.assign(person=self.person[found["customer"]])

    @cached_property
    def zones(self) -> tuple[NDArray[np.int64], list[ZoneInfo]]:
        """(by person the place of their time zone, the zones); the store's where none is known that is one."""
        codes, names = pd.factorize(self.people["time_zone"].fillna(self.zone))
        return codes, [zone_of(name, self.zone) for name in names]

    def personal(self, asked: bool) -> NDArray[np.bool_]:
        """By person whether lists may be made of what is known of them: who agreed on some channel, and, unless
        everybody has to be asked, who was not."""
        yes, said = (np.zeros(len(self.ids), bool) for _ in range(2))
        for who in (people for (_, purpose), people in self.consents.items() if purpose == "personalisation"):
            yes[who] = True
        said[self.asked] = True
        return yes if asked else yes | ~said


def zone_of(name: str, otherwise: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(otherwise)


def day_of(history: History, store: Store, at: datetime, scores: Scores | None = None) -> Day:
    """The store at a moment, by a history into which all that came in live was moved, with what `scores` say of it.

    Raises HistoryError without events.
    """
    events, catalog = known(history, at)
    data, eligible = whole_and_part(events, items=catalog.items, keep=catalog.eligible, until=at)
    last_event = pc.max(events["occurred_at"]).as_py()
    del events  # of a large shop half a gigabyte
    pa.default_memory_pool().release_unused()
    gone = store.graves()
    data, eligible = (without(of, gone) for of in (data, eligible))
    acts = history.events(until=at, since=at - LOOK, types=ACTS)
    consents = history.table("consents").to_pandas()
    consents = consents[consents["at"] < at].sort_values("at", kind="stable")
    contacts = known_contacts(history)
    named = {
        *data.customers.at(range(len(data.customers))), *contacts.index, *consents["customer_id"].unique(),
        *(name for name in pc.unique(acts["customer_id"]).to_pylist() if name is not None),
    }  # fmt: skip
    everybody = Ids.of(name for name in named if not gone(name))
    consents = consents[everybody.positions(consents["customer_id"].tolist()) >= 0]
    person = everybody.positions(data.customers.at(range(len(data.customers)))).astype(np.int64)
    zone = history.store.time_zone
    day = Day(
        at=at, zone=zone, catalog=catalog, data=data, eligible=eligible.among(data.customers), ids=everybody,
        person=person,
        people=people_of(data, catalog, everybody, person, contacts, consents),
        acts=acts_of(acts, everybody, catalog), changes=offers.changes(store, catalog, at - LOOK, at),
        consents=agreeing(consents, everybody), asked=asked_of("personalisation", consents, everybody),
        last_event=last_event,
    )  # fmt: skip
    return day if scores is None else scored(day, scores)


def scored(day: Day, scores: Scores) -> Day:
    """The same with what these scores say, unless they were learned from what came after the day."""
    if day.until < seconds(scores.manifest.data_until):
        return day
    told, people = scores.of(day.eligible, day.catalog), day.people
    for name, values in (("churn", told.churn), ("expected_spend", told.spend)):
        if values is not None:
            column = np.full(len(people), np.nan)
            column[day.person] = values
            people = people.assign(**{name: column})
    chances = {} if told.buys is None else {"categories": (told.categories, told.buys)}
    return replace(day, people=people, scores=chances)


def without(data: Interactions, gone: Callable[[str], bool]) -> Interactions:
    """The same with nobody who is gone: what they bought is nobody's."""
    lost = [place for place, name in enumerate(data.customers.at(range(len(data.customers)))) if gone(name)]
    return compact(data.unnamed(np.isin(data.customer, lost))) if lost else data


def known_contacts(history: History) -> pd.DataFrame:
    """CONTACTS by customer: of each what the customer's own id says, and what is lacking there of the others'."""
    table = history.table("customers", columns=("customer_id", *CONTACTS)).to_pandas()
    aliases = history.aliases()
    own = table["customer_id"].map(lambda name: aliases.get(name, name))
    table = table.assign(own=own, other=own != table["customer_id"]).sort_values(
        ["own", "other"], kind="stable"
    )
    return table.groupby("own", sort=True)[list(CONTACTS)].first()


def people_of(
    data: Interactions, catalog: Catalog, everybody: Ids, person: NDArray[np.int64], contacts: pd.DataFrame,
    consents: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    found = facts(data, catalog)
    names = everybody.at(range(len(everybody)))
    people = found.set_axis(person).reindex(np.arange(len(everybody)))
    people["stage"] = people["stage"].fillna("prospect")
    code = np.full(len(everybody), -1)
    code[person] = favourite(catalog.parent, data)
    people["category"] = [catalog.parents[place] if place >= 0 else None for place in code]
    people["customer"] = names
    people = people.join(contacts.reindex(names).set_axis(people.index))
    granted = consents[consents["granted"] & (consents["purpose"] == "marketing")]
    people["agreed_at"] = first_of(granted, names)
    for channel in ADDRESS:
        people[f"agreed_{channel}"] = first_of(granted[granted["channel"] == channel], names)
    return people


def first_of(consents: pd.DataFrame, names: list[str]) -> NDArray[np.float64]:
    """Of each of these customers when the first of these consents was given, seconds; NaN none."""
    first = consents.groupby("customer_id")["at"].min().reindex(names)
    return np.where(first.isna(), np.nan, first.astype("int64") / 1e6)


def acts_of(events: pa.Table, everybody: Ids, catalog: Catalog) -> pd.DataFrame:
    found = pd.DataFrame(
        {
            "person": everybody.column(events["customer_id"]),
            "product": catalog.items.column(events["product_id"]),
            "at": events["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64),
            **{name: events[name].to_pandas() for name in TOLD},
        }
    )  # fmt: skip
    return found[found["person"] >= 0].reset_index(drop=True)


def agreeing(consents: pd.DataFrame, everybody: Ids) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Who agrees, by the last record of each channel and purpose. No record means no."""
    last = granted(consents)
    yes = last[last].reset_index()
    return {
        (str(channel), str(purpose)): np.sort(everybody.positions(of["customer_id"].tolist())).astype(np.int64)
        for (channel, purpose), of in yes.groupby(["channel", "purpose"], observed=True)
    }  # fmt: skip


def asked_of(purpose: str, consents: pd.DataFrame, everybody: Ids) -> NDArray[np.int64]:
    """Who said yes or no to a purpose, on whatever channel."""
    names = consents.loc[consents["purpose"] == purpose, "customer_id"].unique().tolist()
    return np.sort(everybody.positions(names)).astype(np.int64)
