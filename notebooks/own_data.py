# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data
#
# From a CSV to lists in four commands: **load** with a mapping, **check** what the data supports, **train**,
# and ask. A small sample of the documentation comes first, to see a mapping at work and an honest *not
# enough*; then a larger file in the same form, made up here, goes the whole way.
#
# Everything lies in a temporary folder that is gone when the notebook ends. To do it with your own file, put
# its name and your mapping in place of the sample's; the home of your shop is then a folder that you keep, by
# `--home` or in `OSCLMS_HOME`.

# %%
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from IPython.display import display

import features
from features.history import History
from features.mapping import Mapping
from features.sources import load
from lifecycle.support import measured, supported
from serving.bundle import champion
from serving.engine import Engine
from serving.schemas import RecommendRequest

pd.set_option("display.width", 150, "display.max_columns", 20, "display.max_colwidth", 100)
samples = Path(features.__file__).parents[1] / "docs" / "samples"
folder = TemporaryDirectory(prefix="osclms-")
here = Path(folder.name)

# %% [markdown]
# ## A file, and the mapping that explains it
#
# A grocer's loyalty cards: one line for a product, a card and a day, no receipts, German dates and decimal
# commas. Nothing of this needs to be converted; the mapping says it. [docs/data.md](../docs/data.md) has
# every key.

# %%
mapping = samples / "grocer.toml"
lines = pd.read_csv(samples / "grocer.csv", sep=";", encoding="cp1252", dtype=str)
display(lines.head(3))
print(mapping.read_text())

# %% [markdown]
# ## Load
#
# `osclms load events grocer.csv --mapping grocer.toml`, here as the function behind it. Loaded twice, nothing
# changes: every row is known already, so a nightly job may send the whole file. Broken rows would be counted
# by reason and written to a file, and above 1 % of them the load would be refused as a whole.

# %%
small = History(here / "small" / "history")
for _ in range(2):
    print(
        load(small, "events", [samples / "grocer.csv"], Mapping.read(mapping), rejects_dir=here / "rejects")
    )
events = small.events(
    columns=("occurred_at", "customer_id", "order_id", "product_id", "quantity", "unit_price")
)
display(events.slice(0, 3).to_pandas())

# %% [markdown]
# Days have become moments in UTC, a card's purchases of a day in a branch one order, and a line's total a
# price for a unit.
#
# ## Check
#
# `osclms check` holds the data against the least that each placement asks for.

# %%
found = pd.DataFrame([vars(support) for support in supported(measured(small))]).set_index(["kind", "name"])
display(found.loc[["placement", "score"]])

# %% [markdown]
# A dozen customers are too few for most of it. Training would not fail on them; it would say so, and promote
# nothing.
#
# ## A larger file
#
# Made up, in the sample's columns: customers with favourites and a rhythm of their own, who mostly buy the
# same again, now and then try something, and take some products together. **It only shows the way from file
# to list: no figure that comes of it says anything about a real shop.**

# %%
rng = np.random.default_rng(7)
groups = {
    "Backwaren": ["Brötchen", "Roggenbrot", "Toast", "Croissant", "Kuchen"],
    "Milch": ["Vollmilch", "Butter", "Joghurt", "Gouda", "Quark"],
    "Vorrat": ["Nudeln", "Tomatensauce", "Reis", "Mehl", "Zucker"],
    "Getränke": ["Kaffee", "Tee", "Apfelsaft", "Wasser", "Bier"],
    "Obst": ["Äpfel", "Bananen", "Trauben", "Birnen", "Orangen"],
    "Haushalt": ["Spülmittel", "Schwämme", "Waschpulver", "Papier", "Seife"],
}
grades = {"": 1.0, "Bio-": 1.3, "Premium-": 1.8}
goods = [
    (f"{grade}{name}", group, name, round(price * factor, 2))
    for group, names in groups.items()
    for name, price in zip(names, rng.uniform(0.8, 5.0, len(names)).round(2), strict=True)
    for grade, factor in grades.items()
]
pairs = {"Nudeln": "Tomatensauce", "Kaffee": "Vollmilch", "Brötchen": "Butter", "Spülmittel": "Schwämme"}
first = {name: n for n, (_, _, name, _) in reversed(list(enumerate(goods)))}
together = {n: first[pairs[name]] for n, (_, _, name, _) in enumerate(goods) if name in pairs}

sold = []
for card in range(45):
    favourites, gap = rng.choice(len(goods), 9, replace=False), rng.uniform(3, 14)
    for day in np.cumsum(rng.exponential(gap, 40)):
        basket = set(rng.choice(favourites, rng.integers(2, 6), replace=False).tolist())
        basket |= set(rng.integers(len(goods), size=rng.integers(0, 2)).tolist())
        basket |= {together[n] for n in basket & together.keys() if rng.random() < 0.6}
        sold += [(int(day), f"K{card:04}", n) for n in sorted(basket) if day < 110]

days = pd.Timestamp("2025-01-01") + pd.to_timedelta([day for day, _, _ in sold], unit="D")
bought = pd.DataFrame(
    [goods[n] for _, _, n in sold], columns=["Bezeichnung", "Warengruppe", "Untergruppe", "Summe"]
)
bought.insert(0, "Datum", days.strftime("%d.%m.%Y"))
bought = bought.assign(Filiale="Mitte", Menge=1, Rabatt=0.0)
bought["Karte"], bought["Artikel"] = [card for _, card, _ in sold], [1000 + n for _, _, n in sold]
bought.to_csv(here / "larger.csv", sep=";", decimal=",", encoding="cp1252", index=False)
display(bought.head(3))

# %% [markdown]
# The same mapping, from the command line this time: what you would type, with `OSCLMS_HOME` naming a fresh
# folder.

# %%
osclms = [sys.executable, "-m", "osclms"]
narrow = {**os.environ, "COLUMNS": "110", "FORCE_COLOR": "", "OSCLMS_HOME": "shop"}
loading = [*osclms, "load", "events", "larger.csv", "--mapping", str(mapping)]
done = subprocess.run(loading, cwd=here, env=narrow, capture_output=True, text=True, check=True)
print(done.stdout)

# %% [markdown]
# ## Train
#
# `osclms train --quick` compares the recipes on the last 30 days, asks every placement through the engine
# that would ship, and lets the gate decide: the first version must beat popularity, customer by customer, by
# more than chance. `--quick` teaches the rankers from fewer months. It ends with 0 where the version was
# promoted and with 3 where the gate kept it back.

# %%
training = [*osclms, "train", "--quick"]
done = subprocess.run(training, cwd=here, env=narrow, capture_output=True, text=True, check=False)
print(done.stdout or done.stderr)
print("ended with", done.returncode)

# %% [markdown]
# Look at the recipes first. A shop where habit leads lives on repeat purchases; one where popularity is close
# to everything else has customers who are much alike, or too few purchases to tell them apart. Then the
# gate's reason, in the last lines.
#
# ## Ask
#
# What was promoted answers. `filled` would mark what a placement's own sources did not propose.

# %%
engine = Engine.load(champion(here / "shop"))
customer = engine.sample().customers[0]
order = engine.order(customer, None)
print(
    "learned rankers order",
    ", ".join(engine.rankers) or "nothing: there were too few right answers to learn from",
)
print(f"customer {customer}, after {', '.join(line.product.title for line in order.lines)}")
basket = tuple(line.product.product_id for line in order.lines)
for placement in ("next_best", "cross_sell", "upsell"):
    of = basket[:1] if placement == "upsell" else basket
    asked = RecommendRequest(
        customer_id=customer, product_ids=() if placement == "next_best" else of, limit=5
    )
    items = engine.recommend(placement, asked, at=engine.data_until).items
    listed = pd.DataFrame([item.model_dump() for item in items], index=range(1, len(items) + 1))
    display(listed[["title", "price", "story", "source", "filled"]].rename_axis(placement))

# %% [markdown]
# From here: `osclms serve` answers on a port, `osclms recommend next_best --all --out lists.parquet` by the
# file, and a nightly `osclms load` and `osclms train` keep it fresh. `osclms tune` searches for settings that
# suit the shop.

# %%
folder.cleanup()
print("the temporary folder is gone:", not here.exists())
