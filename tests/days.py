"""Days of a store written as rows: what was bought, put in carts, changed and agreed to, before a moment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from worlds import START, Event, day, events, products

from features.catalog import Catalog
from features.customers import facts, favourite
from features.interactions import DAY, Ids, Interactions, seconds, whole_and_part
from lifecycle.day import CONTACTS, Day

Act = tuple[str, str, str, float]  # customer, type, product, day
Change = tuple[str, float, Mapping[str, Any]]  # product, day, what was said of it before and now
ACTS = ("person", "event_type", "product", "at", "value", "order_id", "message_id", "event_id")
CHANGES = ("product_id", "at", "price_before", "price", "was_in_stock", "in_stock")


def moment(on: float) -> int:
    return seconds(START) + round(on * DAY)


def a_day(
    *bought: Event, until: float, acts: Sequence[Act] = (), changes: Sequence[Change] = (),
    agreed: Mapping[str, float] | None = None, contacts: Mapping[str, Mapping[str, Any]] | None = None,
    consents: Mapping[tuple[str, str], Sequence[str]] | None = None,
    listed: pa.Table | None = None, zone: str = "UTC", **more: Any,
) -> Day:  # fmt: skip
    """What is known before day `until`; whatever lies after it is left out here, as `day_of` does."""
    told = events(*bought)
    end = moment(until)
    catalog = Catalog.of(products() if listed is None else listed, told, until=day(until))
    data, eligible = whole_and_part(told, items=catalog.items, keep=catalog.eligible, until=day(until))
    agreed = {who: on for who, on in (agreed or {}).items() if moment(on) < end}
    acts = [act for act in sorted(acts, key=lambda act: act[3]) if moment(act[3]) < end]
    changes = [change for change in sorted(changes, key=lambda change: change[1]) if moment(change[1]) < end]
    buyers = data.customers.at(range(len(data.customers)))
    ids = Ids.of([*buyers, *agreed, *(who for who, *_ in acts), *(contacts or ())])
    person = ids.positions(buyers).astype(np.int64)
    found = Day(
        at=day(until), zone=zone, catalog=catalog, data=data, eligible=eligible.among(data.customers), ids=ids,
        person=person,
        people=people(data, catalog, ids, person, agreed, contacts or {}), acts=acts_of(acts, ids, catalog),
        changes=changes_of(changes, catalog),
        consents={key: np.sort(ids.positions(list(who))) for key, who in (consents or {}).items()},
        last_event=day(until), **more,
    )  # fmt: skip
    main = favourite(catalog.parent, data)
    category = np.full(len(ids), -1)
    category[person] = main
    found.people["category"] = [catalog.parents[code] if code >= 0 else None for code in category]
    return found


def people(
    data: Interactions, catalog: Catalog, ids: Ids, person: np.ndarray, agreed: Mapping[str, float],
    contacts: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:  # fmt: skip
    found = facts(data, catalog).set_axis(person).reindex(np.arange(len(ids)))
    found["stage"] = found["stage"].fillna("prospect")
    names = ids.at(range(len(ids)))
    found["customer"] = names
    for column in CONTACTS:
        found[column] = pd.Series([contacts.get(name, {}).get(column) for name in names], dtype=object)
    found["agreed_at"] = [float(moment(agreed[name])) if name in agreed else np.nan for name in names]
    found["agreed_email"], found["agreed_sms"] = found["agreed_at"], np.nan
    return found


def acts_of(acts: Sequence[Act], ids: Ids, catalog: Catalog) -> pd.DataFrame:
    rows = [
        (int(ids.positions([who])[0]), kind, int(catalog.items.positions([product])[0]), moment(on), *[None] * 4)
        for who, kind, product, on in acts
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(ACTS)).astype({"person": int, "product": int, "at": int})


def changes_of(changes: Sequence[Change], catalog: Catalog) -> pd.DataFrame:
    rows = [
        {**dict.fromkeys(CHANGES), "product_id": product, "at": moment(on), **said}
        for product, on, said in changes
    ]
    found = pd.DataFrame(rows, columns=list(CHANGES))
    return found.assign(product=catalog.items.positions(found["product_id"].tolist())).astype({"at": int})
