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
# # One customer's lists, explained
#
# A list is only worth sending if someone can say why each product is in it. This notebook takes one customer
# of the champion's and opens up what they would see: what each list says and where it comes from, how the
# score is made, what the rules keep out, what a stranger gets, and the lists inside a message.
#
# For a **marketer**, the stories, the rules and the message are the interesting parts; for an **ML
# engineer**, the parts of the scores and what the rankers rest on.

# %%
# %matplotlib inline
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display

import features
from features.catalog import PATH_SEPARATOR
from features.customers import facts
from lifecycle.messages import About
from lifecycle.previews import preview
from lifecycle.programs import programs
from serving.bundle import champion
from serving.engine import Engine
from serving.schemas import RecommendRequest
from training.evaluate import lifted
from training.insight import grouped
from training.plots import BLUE

pd.set_option("display.width", 170, "display.max_columns", 20, "display.max_colwidth", 80)
plt.rcParams.update({"figure.dpi": 80, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
home = Path(features.__file__).parents[1] / os.environ.get("OSCLMS_HOME", ".osclms")
engine = Engine.load(champion(home))
at, columns = engine.data_until, ["product_id", "title", "price", "story", "source", "score"]

# %% [markdown]
# ## Who is asking
#
# A customer with a middling number of purchases, so that the lists are neither trivial nor a shot in the
# dark, as of the end of what the champion has learned from.

# %%
customer = engine.sample().customers[0]
position = engine.history.customers.positions([customer])[0]
print(f"customer {customer}, as of {at:%Y-%m-%d}, answered by version {engine.version}")
display(facts(engine.history, engine.catalog).iloc[[position]].round(1).set_index(pd.Index([customer])))

# %% [markdown]
# What they buy most, and their last order, whose products are the basket below.

# %%
rows = engine.history.rows(position)
bought = pd.DataFrame({"item": engine.history.item[rows], "at": engine.history.at[rows]})
often = bought.groupby("item").agg(times=("at", "size"), last=("at", "max"))
often = often.sort_values("times", ascending=False, kind="stable").head(8)
often.insert(0, "title", [engine.catalog.title[item] for item in often.index])
often["last"] = pd.to_datetime(often["last"], unit="s").dt.strftime("%Y-%m-%d")
display(often.set_index("title"))
order = engine.order(customer, None)
print(f"the last order, of {order.at:%Y-%m-%d}:")
print(*(f"{line.quantity:g} × {line.product.title}" for line in order.lines[:8]), sep="\n")
basket = tuple(line.product.product_id for line in order.lines)

# %% [markdown]
# ## next_best: what they will want next
#
# Each item names the recipe that speaks for it most (`source`) and says why in one line (`story`). Read the
# stories as a customer would: is each true, and would you say it to them? Products may share a title and
# differ in brand or price: the id tells them apart.

# %%
asked = RecommendRequest(customer_id=customer, limit=10, explain=True)
items = engine.recommend("next_best", asked, at=at).items
listed = pd.DataFrame([item.model_dump() for item in items], index=range(1, len(items) + 1))
display(listed[columns])

# %% [markdown]
# With `explain=True` each item carries its **parts**: what each recipe contributed. Where a ranker orders the
# placement, the score is the probability of a purchase in the window that it was taught, and the parts share
# it out by the recipes' weighted scores: a reading aid, as the ranker looks at much more than these.

# %%
parts = pd.DataFrame([item.parts or {} for item in items])
parts.index = [f"{n}. {item.title[:32]}" for n, item in enumerate(items, 1)]
figure, axes = plt.subplots(figsize=(9, 3.6))
parts[::-1].plot.barh(stacked=True, ax=axes, colormap="tab10", width=0.7)
axes.set(title="next_best: the score, shared out by who speaks for the product", xlabel="score")
axes.legend(frameon=False, fontsize=8)
display(figure)
plt.close(figure)

# %% [markdown]
# ## The same customer, every placement
#
# Which recipes speak in which list. `buy_again` is rhythm alone and `trending` popularity alone; the
# interesting ones are those where several have a say.

# %%
lists = {
    name: engine.recommend(
        name, RecommendRequest(customer_id=customer, product_ids=basket[:1], limit=10), at=at
    ).items
    for name in engine.placements
}
speakers = [(name, item.source) for name, given in lists.items() for item in given]
sources = pd.DataFrame(speakers, columns=["placement", "source"])
display(pd.crosstab(sources["placement"], sources["source"]).loc[list(lists)])
first = {name: {"first item": given[0].title, "its story": given[0].story} for name, given in lists.items()}
display(pd.DataFrame(first).T)

# %% [markdown]
# ## cross_sell: what goes with the basket
#
# Asked with the last order. *Goes with* names the product in the basket that leads there; *bought before* is
# rhythm, which has a say here too: what a customer adds to most baskets, they add to this one.

# %%
asked = RecommendRequest(customer_id=customer, product_ids=basket[:20], limit=8)
display(
    pd.DataFrame([item.model_dump() for item in engine.recommend("cross_sell", asked, at=at).items])[columns]
)

# %% [markdown]
# ## What the rules keep out
#
# A rule is a promise that no score can break. With `explain=True` an answer tells in `removed` how many
# products each rule took out, one after the other; here for this customer and their favourite product.
#
# - `no_substitutes`: products for a need that is served already, unless they lie in one basket more often
#   than chance. Who has milk in the cart needs no other milk.
# - `not_owned`: what the customer ever bought. `owned`: what they never did.
# - `dearer`: what is not for the same need, or not a bounded step dearer.

# %%
favourite = engine.catalog.items.at([often.index[0]])[0]
asked = RecommendRequest(customer_id=customer, product_ids=(favourite,), explain=True)
removed = {name: engine.recommend(name, asked, at=at).removed for name in engine.placements}
print(f"beside {often['title'].iloc[0]}, of {engine.n_available:,} available products:")
display(pd.DataFrame(removed).T.fillna(0).astype(int))

# %% [markdown]
# And what would be listed without: the same question to the engine as it ships, and to one that does without
# the rule, made by the function that audits use. Where the columns hardly differ, the scores know the rule by
# themselves; it is there for the day when they do not.

# %%
with_and_without = {}
for name, rule in (("cross_sell", "no_substitutes"), ("upsell", "dearer"), ("upsell", "not_owned")):
    for lift, answering in (("", engine), (f" without {rule}", lifted(engine, name, (rule,)))):
        given = answering.recommend(name, asked.model_copy(update={"limit": 5}), at=at).items
        with_and_without[name + lift] = [f"{item.title} ({item.price})" for item in given]
display(pd.DataFrame.from_dict(with_and_without, orient="index").T.fillna(""))

# %% [markdown]
# A request may bring rules of its own, over any attribute of the catalogue. They filter before the best are
# chosen, so the list stays full. Without the category that most of the customer's list comes from, and with
# more variety:

# %%
plain = engine.recommend("next_best", RecommendRequest(customer_id=customer, limit=8), at=at).items
paths = (
    engine.catalog.table["category"]
    .take(engine.catalog.items.positions([i.product_id for i in plain]))
    .to_pylist()
)
top = pd.Series([path.split(PATH_SEPARATOR)[0] for path in paths if path]).mode()[0]
rules = {
    "as it ships": [],
    f"without {top}": [{"rule": "exclude", "attribute": "category", "values": [top]}],
    "with more variety": [{"rule": "diverse", "by": 0.5}],
}
ruled = {
    name: RecommendRequest.model_validate({"customer_id": customer, "limit": 8, "rules": given})
    for name, given in rules.items()
}
titles = {
    name: [i.title for i in engine.recommend("next_best", of, at=at).items] for name, of in ruled.items()
}
display(pd.DataFrame.from_dict(titles, orient="index").T.fillna(""))

# %% [markdown]
# ## What the rankers rest on
#
# The share of what all splits of the trees gained in learning, by what the columns are about: the ten largest
# of each ranker. `discover` cannot look at what the customer did with the very product, as what they own is
# barred.
#
# Gain tells what a ranker looks at, not what its absence would cost; [models](models.ipynb) shuffles columns
# to see that.

# %%
figure, axes = plt.subplots(2, 2, figsize=(11, 6.4))
for (name, ranker), panel in zip(engine.rankers.items(), axes.flat, strict=False):
    gain = ranker.model.feature_importance("gain")
    groups = grouped(ranker.columns, engine.placements[name])
    shares = {group: gain[of].sum() / gain.sum() for group, of in groups.items()}
    pd.Series(shares).sort_values().tail(10).plot.barh(ax=panel, color=BLUE, title=name)
display(figure)
plt.close(figure)

# %% [markdown]
# ## A stranger, and an unknown product
#
# Nothing is an error because someone is unknown: the list falls back, step by step, on what holds for
# everybody, and says so: `filled` marks what the placement's own sources did not propose. With nobody's own
# purchases to go by, `cross_sell` still answers from the basket.

# %%
stranger = {
    "next_best": engine.recommend("next_best", RecommendRequest(customer_id="nobody", limit=3), at=at),
    "cross_sell": engine.recommend("cross_sell", RecommendRequest(product_ids=(favourite,), limit=3), at=at),
    "upsell": engine.recommend("upsell", RecommendRequest(product_ids=("unknown",), limit=3), at=at),
}
told = [{"placement": name} | item.model_dump() for name, given in stranger.items() for item in given.items]
display(pd.DataFrame(told)[["placement", *columns[:-1], "filled"]])

# %% [markdown]
# ## In a message
#
# The thank-you e-mail for the last order embeds two lists: what goes with the order, asked without the
# customer so that its heading holds, and what is next for them. The lists repeat neither the order nor each
# other. First the text part, then the HTML part as a mail program shows it.

# %%
thanks = programs(None)["thank_you"]
message = preview(engine, thanks, About(), customer_id=customer, order_id=None, links=None, at=at, now=at)
print(f"Subject: {message.subject}", message.text, sep="\n\n")

# %%
frame = (
    '<div><iframe sandbox srcdoc="{}" width="640" height="900" style="border: 1px solid #ccc"></iframe></div>'
)
display(HTML(frame.format(escape(message.html))))
