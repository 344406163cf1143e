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
# # Recipes and placements, measured
#
# Which recipe knows best what a customer will buy next? Is the difference more than chance? And what do the
# lists gain when a learned ranker orders what the recipes put forward?
#
# To find out, this notebook does on a small scale what `osclms train` does: it steps back to a moment in the
# past, learns from what came before, and asks about the month after. **No figure below is copied from
# anywhere: each is worked out here**, by the functions that training and `osclms evaluate` use, and by the
# engine that serves.
#
# Three rules keep such figures honest:
#
# - **Point in time.** What is learned, filtered or priced knows nothing from the cutoff on, not even which
#   products there will be. What is first sold in the month stays in the truth, as a miss.
# - **The whole catalogue is ranked**: the right answer is not hidden among a hundred random ones.
# - **A difference counts when its interval excludes 0.** Intervals are 95 % by bootstrap over customers; of
#   two answers to the same customer the difference is taken first (*paired*), so that what both share cancels
#   out.
#
# Take some minutes for it on the demo data; `QUESTIONS=100` in the environment makes it quicker, and its
# intervals wider.

# %%
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported
# %matplotlib inline
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import features
from features.customers import facts
from features.history import History
from features.pairs import item_facts
from serving.bundle import Bundle, champion, read_manifest
from serving.engine import Engine
from serving.placements import models_in_use
from serving.ranker import columns_of
from training.evaluate import answers_of, audit
from training.insight import insight
from training.intervals import clustered_interval, paired_interval
from training.models import recipe_of
from training.plots import by_history, placements_audited, recipes_compared, reliability
from training.rank import LESSONS, Ranking, examples, one_by_one
from training.split import AUDITS, Future, known, novel, purchases, sampled

warnings.filterwarnings("ignore", message="IProgress not found")  # of a progress bar that nobody asks for
pd.set_option("display.width", 150, "display.max_columns", 20, "display.max_colwidth", 90)
plt.rcParams.update({"figure.dpi": 80})
home = Path(features.__file__).parents[1] / os.environ.get("OSCLMS_HOME", ".osclms")
history = History(home / "history")
manifest = read_manifest(champion(home))
most, seed = int(os.environ.get("QUESTIONS", "1000")), 7

# %% [markdown]
# ## Three moments
#
# The champion has learned from everything before `until`. Its last 30 days are asked about; what answers
# knows the time before them alone. A month before that, rankers see what the recipes put forward, and what of
# it was then bought.

# %%
until = manifest.data_until
cutoff, earlier = until - timedelta(days=30), until - timedelta(days=60)
data = {at: known(history, at) for at in (earlier, cutoff, until)}
for at, what in (
    (earlier, "rankers learn from the days after it"),
    (cutoff, "questions are about the days after it"),
):
    known_then = data[at].interactions
    size = f"{len(known_then.customers):,} customers, {len(known_then.orders):,} orders"
    print(f"{at:%Y-%m-%d}: {size}; {what}")

# %% [markdown]
# ## Fit
#
# A recipe is a frozen set of hyper-parameters with one verb, `fit`, and what it returns are plain arrays:
# `Vectors`, `Neighbors` or `Candidates`. Below are the recipes of the champion, with its settings, that four
# placements ask for, fitted on both pasts. An `Engine` over them answers just as the service does.

# %%
placements = {name: manifest.placements[name] for name in ("next_best", "discover", "cross_sell", "upsell")}
recipes = {name: recipe_of(manifest.recipes[name]) for name in sorted(models_in_use(placements))}
engines, seconds = {}, {}
for at in (earlier, cutoff):
    catalog, interactions = data[at].catalog, data[at].interactions
    models = {}
    for name, recipe in recipes.items():
        began = time.process_time()
        models[name] = recipe.fit(interactions, catalog)
        seconds[name] = time.process_time() - began
    about = manifest.model_copy(update={"data_until": at, "placements": placements})
    engines[at] = Engine(Bundle(about, catalog, interactions, models, item_facts(catalog, interactions)))

fitted = engines[cutoff].models
kinds = {name: type(model).__name__ for name, model in fitted.items()}
table = pd.DataFrame({"arrays": kinds, "fit, CPU seconds": pd.Series(seconds).round(1)})
display(table.assign(recipe={name: repr(recipe) for name, recipe in recipes.items()}))

# %% [markdown]
# ## Recipes by themselves
#
# Two tasks. **Purchases**: the first ten that a recipe names, against all that the customer buys in the 30
# days, repeats included. **Novel**: what the customer ever bought is taken out of the list and of the truth.
# NDCG@10 rewards a hit more the higher it stands; 1 would be ten hits of ten.

# %%
bundle = engines[cutoff].bundle
future = Future.of(bundle, data[until], cutoff)
tasks = {
    name: sampled(make(bundle, future), most, seed=seed)
    for name, make in (("purchases", purchases), ("novel", novel))
}
alone = [
    name for name in ("popular", "rhythm", "als", "ease", "upcf", "tifu", "copurchase") if name in fitted
]
answers = {
    (name, task): answers_of(fitted[name], bundle, questions, owned=task == "purchases")
    for name in alone
    for task, questions in tasks.items()
}
figures = {pair: given.figure("ndcg", seed=seed) for pair, given in answers.items()}
display(pd.DataFrame({task: {name: str(figures[name, task]) for name in alone} for task in tasks}))

# %%
scores = {name: figures[name, "purchases"] for name in alone}
display(recipes_compared(scores, metric="NDCG@10", baseline="popular", customers=len(tasks["purchases"])))

# %%
scores = {name: figures[name, "novel"] for name in alone}
display(recipes_compared(scores, metric="novel NDCG@10", baseline="popular", customers=len(tasks["novel"])))

# %% [markdown]
# The two pictures differ, and that is why there are many recipes. Where purchases repeat, what a customer
# bought often and lately is hard to beat; of what is *novel* rhythm says nothing, and the recipes that look at
# other customers take over. A recipe that is good at the one need not be good at the other.
#
# Which lie apart by more than chance? Each recipe against `rhythm`, customer by customer:

# %%
differences = {
    name: paired_interval(
        answers[name, "purchases"].values("ndcg"), answers["rhythm", "purchases"].values("ndcg"), seed=seed
    )
    for name in alone
    if name != "rhythm"
}
told = {
    name: {"NDCG@10 over rhythm": str(gap), "more than chance": "no" if gap.low <= 0 <= gap.high else "yes"}
    for name, gap in differences.items()
}
display(pd.DataFrame(told).T)

# %% [markdown]
# ## For whom?
#
# An average hides who is served badly. By how many orders the customer had before the cutoff: newcomers are
# the ones whom a shop most wants to win, and the ones of whom a recipe knows least.

# %%
frequency = facts(bundle.interactions, bundle.catalog)["frequency"].to_numpy()[tasks["purchases"].customer]
leader = max(alone, key=lambda name: figures[name, "purchases"].mean)
values = answers[leader, "purchases"].values("ndcg")
display(by_history(frequency, values, recipe=leader, metric="NDCG@10", seed=seed))

# %% [markdown]
# ## Placements: what the recipes say together, and what a ranker makes of it
#
# A placement asks several recipes and takes the union of what they propose. Without a ranker it orders them
# by a weighted sum of the recipes' scores. A ranker, boosted trees over what is known of the customer, the
# product and the basket, learns that order: here from one earlier month, where training takes several.

# %%
earlier_future = Future.of(engines[earlier].bundle, data[cutoff], earlier)
rankers, learned = {}, {}
for name in placements:
    ranking = Ranking(**manifest.rankings.get(name, {}))
    x, y = examples(engines[earlier], name, earlier_future, ranking)
    rankers[name] = ranking.fit(x, y, columns_of(placements[name]))
    learned[name] = {
        "examples": len(y),
        "right": int(y.sum()),
        "columns": x.shape[1],
        "trees": ranking.rounds,
    }
ranked = Engine(replace(bundle, rankers=rankers))
display(pd.DataFrame(learned).T)

# %% [markdown]
# Both engines get the same questions through `recommend`, rules and fill included. `upsell` is asked by a
# customer's usual product and right when the dearer one that they then took for the first time is among five;
# `cross_sell` by a basket with one product hidden.

# %%
rows = [row for row in AUDITS if (row.placement, row.task) in {
    ("next_best", "purchases"), ("discover", "novel"), ("cross_sell", "basket_customer"), ("upsell", "step_up")
}]  # fmt: skip
audits = {
    (row.placement, way): audit(engine, row, future, at=cutoff, seed=seed, most=most)
    for row in rows
    for way, engine in (("weighted sum", engines[cutoff]), ("ranker", ranked))
}
told = {}
for row in rows:
    both = [audits[row.placement, way] for way in ("weighted sum", "ranker")]
    before, after = (one.answers.values(row.primary) for one in both)
    gain = clustered_interval(after - before, both[0].answers.task.customer, seed=seed)
    told[row.placement] = {
        "figure": f"{row.primary}@{both[0].answers.task.k}",
        "asked": len(before),
        **{way: str(audits[row.placement, way].intervals[row.primary]) for way in ("weighted sum", "ranker")},
        "gain by the ranker": str(gain),
    }
display(pd.DataFrame(told).T)

# %%
shown = {
    f"{name}, {way}": {
        figure: one.figures[figure] for figure in ("accuracy", "coverage", "gini", "novel_share")
    }
    for (name, way), one in audits.items()
}
display(placements_audited(shown, title="Through the engine, by weighted sum and by ranker"))

# %% [markdown]
# Accuracy is not all. *Coverage* counts the distinct products over all lists, *gini* says how unevenly they
# are shown (1: one product has it all), *novel share* is the part of the shown products that the customer
# never bought. A gain in accuracy that is paid for with much lower coverage shows everybody the same.
#
# And by the customers' stage, with the ranker:

# %%
table = {name: {stage: str(i) for stage, i in audits[name, "ranker"].stages.items()} for name in placements}
display(pd.DataFrame(table).T.fillna(""))

# %% [markdown]
# ## Do the ranker's probabilities come true?
#
# A ranker's score is the probability that the customer buys the product in the window. If it says 10 %, one
# in ten should be bought: dots on the line. Below the line it promises too much. Its month of learning is not
# the month asked about, so a season shows here first.

# %%
name = "next_best"
task = sampled(LESSONS[name].ask(bundle, future), min(most, 200), seed=seed)
asked = list(one_by_one(ranked, name, task, 1.0, np.random.default_rng(seed)))
seen = insight(rankers[name], placements[name], asked, seed=seed)
print(f"{seen.candidates:,} candidates of {seen.questions:,} customers")
print(f"{seen.expected:,.0f} purchases expected by the ranker, {seen.bought:,.0f} made")
display(reliability([(b.predicted, b.bought, b.n) for b in seen.bins], title=name))

# %% [markdown]
# What does it rest on? *Gain* is what the splits on these columns won in learning; *NDCG lost* what ranking
# the candidates loses when their values are shuffled. Columns that tell the same cover for each other, so a
# small loss is no proof that a recipe could go.

# %%
groups = {
    g.name: {"share of gain": round(g.gain, 3), "NDCG lost, shuffled": str(g.ndcg_lost)} for g in seen.groups
}
display(pd.DataFrame(groups).T)

# %% [markdown]
# The same for every version, over all questions, is in its model card (`.osclms/cards/VERSION.html`). What is
# better here is not yet better in the shop: bought in the past is not the same as bought because it was
# shown.
