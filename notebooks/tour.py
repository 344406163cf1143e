# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A tour: what is in the data, what the champion answers
# Run `make run` once; then this, in Jupyter by Jupytext or as `python notebooks/tour.py`.

# %%
import os
from pathlib import Path

import pandas as pd

from features.customers import facts
from features.history import History
from serving.bundle import champion
from serving.engine import Engine
from serving.schemas import RecommendRequest

pd.set_option("display.width", 140, "display.max_columns", 12)
home = Path(os.environ.get("OSCLMS_HOME", ".osclms"))

# %% [markdown]
# ## The history

# %%
history = History(home / "history")
print(pd.Series(history.counts(), name="rows").to_frame())
print("from", *history.span() or (), sep="\n")

# %% [markdown]
# ## The customers, as of the end of what the champion learned from

# %%
engine = Engine.load(champion(home))
customers = facts(engine.history)
print(customers.groupby("stage", observed=True)[["recency", "frequency", "spend", "gap"]].median().round(1))

# %% [markdown]
# ## Three lists for one of them

# %%
customer = engine.sample().customers[0]
product = engine.sample().products[0].product_id
for placement in ("next_best", "cross_sell", "upsell"):
    asked = RecommendRequest(customer_id=customer, product_ids=(product,), limit=5)
    items = engine.recommend(placement, asked, at=engine.data_until).items
    print(
        placement,
        pd.DataFrame([i.model_dump() for i in items])[["title", "price", "story", "source"]],
        sep="\n",
    )
