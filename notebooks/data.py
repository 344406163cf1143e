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
# # What is in the history
#
# Before a model is asked what a customer will want next, ask the history what it could know. Five questions
# decide which placements can be good here:
#
# 1. **How much is there**, and over what time?
# 2. **Do customers buy the same again?** Where they do, habit beats taste: `buy_again` and `next_best` live
#    on it.
# 3. **At what rhythm, and who is about to leave?** Lifecycle messages go by the stages below.
# 4. **How long is the tail?** A product bought twice has no neighbours to be recommended by.
# 5. **Is there anything dearer to step up to?** `upsell` needs prices, and products that serve one need.
#
# Everything is as of one moment, the end of what the champion has learned from; only the counts of rows look
# past it.
#
# Run `make run` once for a home with the demo data; then this, in Jupyter or as `python notebooks/data.py`. A
# relative `OSCLMS_HOME` is taken from the project's folder.

# %%
# %matplotlib inline
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import features
from features.catalog import PATH_SEPARATOR
from features.customers import STAGES, facts
from features.history import History
from lifecycle.support import measured, supported
from serving.bundle import champion, read_manifest
from serving.placements import PRICE_STEP
from training.defaults import Shape
from training.plots import BLUE, ORANGE
from training.split import known

pd.set_option("display.width", 150, "display.max_columns", 20, "display.max_colwidth", 70)
plt.rcParams.update({"figure.dpi": 80, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
home = Path(features.__file__).parents[1] / os.environ.get("OSCLMS_HOME", ".osclms")
history = History(home / "history")
until = read_manifest(champion(home)).data_until

# %% [markdown]
# ## How much, over what time
#
# The tables of the contract, row for row as they were loaded; [docs/data.md](../docs/data.md) says what they
# hold.

# %%
first, last = history.span()
print(f"{history.store.name}: events from {first:%Y-%m-%d} to {last:%Y-%m-%d}, in {history.store.currency}")
print(f"everything below is as of {until:%Y-%m-%d}")
display(pd.Series(history.counts(), name="rows").map("{:,}".format).to_frame())

# %% [markdown]
# Models see less than that: orders of products that may be recommended, one row for a customer, an order and
# a product, returns taken back. By these figures the settings of the recipes are chosen, where nobody chose
# any.

# %%
data = known(history, until)
catalog, bought = data.catalog, data.interactions
shape = Shape.of(bought)
told = {
    "customers": f"{shape.customers:,}",
    "products ever bought": f"{shape.items:,} of {len(catalog):,} in the catalogue",
    "orders": f"{shape.orders:,}, {shape.daily:,.0f} a day",
    "days between two orders of a customer, median": f"{shape.gap:.1f}",
    "share of purchases that repeat an earlier one": f"{shape.repeats:.1%}",
}
display(pd.Series(told, name="what models learn from").to_frame())

# %% [markdown]
# Orders a week, and when in the week. A dip at either end is a week that is not whole; a rise at the start is
# a panel that fills up: its first months know fewer customers than its last.

# %%
rows = pd.DataFrame(
    {
        "customer": bought.customer,
        "order": bought.order,
        "item": bought.item,
        "need": catalog.need[bought.item],
        "price": catalog.price[bought.item],
        "at": bought.at,
    }
)
rows["day"] = pd.to_datetime(rows["at"], unit="s", utc=True).dt.tz_convert(history.store.time_zone)
orders = rows.groupby("order").agg(day=("day", "first"), lines=("item", "size"))
weekly = orders.set_index("day").resample("W").size()
hours = pd.crosstab(orders["day"].dt.day_of_week, orders["day"].dt.hour)
hours = hours.reindex(index=range(7), columns=range(24), fill_value=0)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
left.plot(weekly.index.tz_localize(None), weekly, color=BLUE)
left.set(title="Orders a week", ylim=(0, None))
left.tick_params(axis="x", rotation=30)
right.imshow(hours, aspect="auto", cmap="Blues")
right.set_yticks(range(7), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
right.set(title="Orders by weekday and hour, store time", xlabel="hour")
display(figure)
plt.close(figure)

# %% [markdown]
# ## Do customers buy the same again?
#
# A bar is a month; its height is the share of purchases whose product the customer had bought before. It
# rises while the history fills, as early months cannot know what came before them, and then levels off.
# **That level is the part of what is bought that a list of old favourites can hope for; the rest is room for
# discovery.** The line is the same for needs: where it lies far above the bars, customers stay with a need
# and change the product, which is what `discover` and `upsell` can speak to.

# %%
mine = rows[rows["customer"] >= 0].sort_values("at", kind="stable")
mine["again"] = mine.duplicated(["customer", "item"])
mine["same need"] = mine.duplicated(["customer", "need"]) & (mine["need"] >= 0)
monthly = mine.groupby(mine["day"].dt.strftime("%Y-%m"))[["again", "same need"]].mean()
times = mine.groupby(["customer", "item"]).size().clip(upper=10).value_counts(normalize=True).sort_index()

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
left.bar(monthly.index, monthly["again"], color=BLUE, label="product bought before")
left.plot(monthly.index, monthly["same need"], color=ORANGE, marker="o", label="need bought before")
left.set(title="Share of purchases that repeat", ylim=(0, 1))
left.tick_params(axis="x", rotation=45)
left.legend(frameon=False, loc="upper left")
right.bar(times.index.astype(str), times, color=BLUE)
right.set(
    title="How often a customer buys a product", xlabel="times; the last bar: 10 and more", ylabel="share"
)
display(figure)
plt.close(figure)

# %% [markdown]
# ## Customers: stage and rhythm
#
# A customer's *gap* is the time within which they usually come back: nine in ten of the times between their
# orders are shorter. Where there are few it is pulled towards those of their main category, and these towards
# everybody's. Someone is on the *brink* when more than one and a half of that has passed since the last order,
# and *lapsed* after three; *won back* who came again after that. A weekly shopper is missed after a few weeks, a
# monthly one after months: one calendar rule for all would write to the wrong people.

# %%
customers = facts(bought, catalog)
by = customers.groupby("stage", observed=False)
stages = by[["recency", "frequency", "spend", "gap"]].median().round(1)
stages.columns = ["days since last", "orders", "spend", "usual gap"]
stages.insert(0, "customers", by.size())
stages["share of all spend"] = (by["spend"].sum() / customers["spend"].sum()).round(3)
display(stages)

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3))
axes[0].bar(STAGES, stages["customers"], color=BLUE)
axes[0].tick_params(axis="x", rotation=30)
axes[0].set(title="Customers by stage")
axes[1].hist(customers["gap"], bins=np.geomspace(0.5, customers["gap"].max(), 30), color=BLUE)
axes[1].set(title="Usual days between orders", xscale="log")
axes[2].hist(customers["frequency"], bins=np.geomspace(1, customers["frequency"].max(), 30), color=BLUE)
axes[2].set(title="Orders a customer", xscale="log")
display(figure)
plt.close(figure)

# %% [markdown]
# ## Products: how long is the tail?
#
# Recipes that learn from who bought what need buyers. What lies far right in the picture is recommended as a
# customer's own habit, or by its category, and hardly otherwise.

# %%
buyers = mine.groupby("item")["customer"].nunique().sort_values(ascending=False).to_numpy()
sold = rows["item"].value_counts().to_numpy()
print(f"{(buyers <= 2).mean():.0%} of the products ever bought have at most two buyers")
for top in (0.01, 0.1, 0.5):
    print(
        f"the top {top:.0%} of products make {sold[: round(top * len(sold))].sum() / sold.sum():.0%} of purchases"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3))
left.loglog(np.arange(1, len(buyers) + 1), buyers, color=BLUE)
left.set(title="Buyers of each product", xlabel="product, best first", ylabel="buyers")
right.hist(orders["lines"], bins=np.geomspace(1, orders["lines"].max() + 1, 30), color=BLUE)
right.set(title="Distinct products an order", xscale="log")
display(figure)
plt.close(figure)

# %% [markdown]
# ## Prices: is there a step up?
#
# A step up is a product for the same need, dearer by a bounded factor. Left, list prices of what was bought,
# a purchase each; right, how many such products there are for each product sold. A product without one is
# answered from the fill of `upsell`: products for the same need, then others.

# %%
low, high = PRICE_STEP
priced = rows[(rows["need"] >= 0) & (rows["price"] > 0)].drop_duplicates("item").sort_values("price")
steps = [
    np.searchsorted(price, high * price, side="right") - np.searchsorted(price, low * price)
    for price in (part.to_numpy() for _, part in priced.groupby("need")["price"])
]
steps = np.concatenate(steps)
print(f"{(steps > 0).mean():.0%} of the products sold have a dearer one, {low:g} to {high:g} times the price")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3))
positive = rows["price"][rows["price"] > 0]
left.hist(positive, bins=np.geomspace(*positive.quantile([0.001, 0.999]), 40), color=BLUE)
left.set(title=f"List prices of purchases, {history.store.currency}", xscale="log")
right.hist(steps, bins=np.linspace(0, np.quantile(steps, 0.95) + 1, 40), color=BLUE)
right.set(title="Steps up of each product", xlabel="dearer products for the same need")
display(figure)
plt.close(figure)

# %% [markdown]
# ## Products by need
#
# A *need* is what a product is bought for; products of one need can stand for each other. High repeat is a
# staple, for `buy_again`; low repeat among many products is where `discover` has something to say; a wide
# span of prices is where `upsell` has.

# %%
by = mine[mine["need"] >= 0].groupby("need")
prices = by["price"].quantile([0.1, 0.5, 0.9]).unstack().round(2)
needs = pd.DataFrame(
    {
        "purchases": by.size(),
        "customers": by["customer"].nunique(),
        "products": by["item"].nunique(),
        "repeat the product": by["again"].mean().round(2),
        "cheap": prices[0.1],
        "middle": prices[0.5],
        "dear": prices[0.9],
    }
)
needs.index = [catalog.needs[code] for code in needs.index]
biggest = needs.sort_values("purchases", ascending=False).head(15)
display(biggest)

# %%
figure, axes = plt.subplots(figsize=(8, 4))
shown = needs[needs["purchases"] >= needs["purchases"].quantile(0.75)]
size = 2 + 150 * shown["purchases"] / shown["purchases"].max()
axes.scatter(shown["products"], shown["repeat the product"], s=size, alpha=0.4)
for place, (name, need) in enumerate(biggest.head(6).iterrows()):
    at = (need["products"], need["repeat the product"])
    above_or_below = (4, 8 if place % 2 else -12)
    axes.annotate(
        name.split(PATH_SEPARATOR)[-1].lower(),
        at,
        xytext=above_or_below,
        textcoords="offset points",
        fontsize=8,
    )
axes.set(title="Needs: choice and repeat; size is purchases", xscale="log", xlabel="products bought")
axes.set(ylabel="share of purchases that repeat the product")
display(figure)
plt.close(figure)

# %% [markdown]
# ## What this history supports
#
# The same as `osclms check`: each placement, program and score against the least that it needs. It counts the
# whole history as loaded.

# %%
found = supported(measured(history))
table = pd.DataFrame([vars(support) for support in found])
display(table.assign(supported=np.where(table["supported"], "yes", "no")).set_index(["kind", "name"]))

# %% [markdown]
# Next: [models](models.ipynb) compares recipes on days that they have not seen,
# [placements](placements.ipynb) explains one customer's lists, and [own_data](own_data.ipynb) does all this
# with a file of your own.
