"""Who agreed to what: the records of a customer in history and store, and what holds by the last of them."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import pyarrow.compute as pc

from features.history import History
from features.judge import Row
from features.schema import CONSENTS
from serving.store import Store

PERSONALISATION = "personalisation"
Said = Mapping[tuple[str, str], Row]  # the latest record of each channel and purpose


def history_rows(history: History | None, table: str, ids: Sequence[str]) -> list[Row]:
    if history is None:
        return []
    if table == "events":
        return list(history.events_of(ids))
    return list(history.table(table, where=pc.field("customer_id").isin(list(ids))).to_pylist())


def consent_records(store: Store | None, history: History | None, ids: Sequence[str]) -> list[Row]:
    """Every record, oldest first, as it was received last."""
    live = store.of("consents", ids) if store else ()
    return records_in((*history_rows(history, "consents", ids), *live))


def records_in(rows: Iterable[Row]) -> list[Row]:
    known = {
        tuple(row[name] for name in CONSENTS.key[1:]): row for row in rows
    }  # whichever id it was given by
    return sorted(known.values(), key=lambda row: row["at"])


def consents_now(records: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """By channel and purpose the latest record. What is not in it was not agreed to."""
    return {(row["channel"], row["purpose"]): row for row in records}


def granted(records: pd.DataFrame) -> "pd.Series[bool]":
    """What holds by customer, channel and purpose, as the last record says; `records` are in order of time."""
    return records.groupby(["customer_id", "channel", "purpose"], observed=True)["granted"].last()


def personal(said: Said, opt_in: bool) -> bool:
    """Whether lists may be of what is known of a customer: who agreed on some channel, and, unless everybody has to be
    asked, who was not."""
    answers = [row["granted"] for (_, purpose), row in said.items() if purpose == PERSONALISATION]
    return any(answers) or not (opt_in or answers)


def declined(history: History | None) -> dict[str, bool]:
    """By the ids that a history tells to have ever said no to lists made of what is known of them: whether that holds,
    by what was said of this id alone."""
    if history is None:
        return {}
    columns = ["customer_id", "channel", "purpose", "at", "granted"]
    said = history.table("consents", columns, where=pc.field("purpose") == PERSONALISATION)
    ids = pc.unique(said.filter(pc.invert(said["granted"]))["customer_id"])
    records = said.filter(pc.is_in(said["customer_id"], ids)).to_pandas().sort_values("at", kind="stable")
    agrees = granted(records).groupby("customer_id", observed=True).any()
    return dict(zip(agrees.index.astype(str), (~agrees).tolist(), strict=True))
