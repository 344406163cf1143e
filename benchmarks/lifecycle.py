"""How fast the lifecycle layer works, on a shop made up here: `python -m benchmarks.lifecycle [STEP …]`.

A step is a row of STEPS. Seconds are of the process's own CPU, so that others on the machine count little.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa
from cryptography.fernet import Fernet

from features.history import Store
from features.interactions import EVENT_COLUMNS, seconds
from features.schema import EVENTS, PRODUCTS
from lifecycle.drafts import Draft, draft
from lifecycle.messages import About, compose
from lifecycle.programs import Program
from serving.bundle import Bundle, save_data
from serving.engine import Engine
from serving.links import Links
from serving.placements import PLACEMENTS, models_in_use
from serving.tokens import Tokens
from training import jobs
from training.models import RECIPES
from training.split import cut
from training.train import Side, seal

UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
CUSTOMERS, PRODUCTS_SOLD, BASKET, LEAST = 400, 300, 5, 4.0  # LEAST: CPU seconds that a figure is taken over
SHOWN = 6
ADDRESS = "https://osclms.example"
TEXTS = {
    "subject": "{% if first_name %}{{ first_name }}, {% endif %}your list for the week",
    "preheader": "{{ product }} and more",
    "title": "Hello {{ first_name }}",
    "body": "Here is what you may need next.\n\nPrices are today's, and all of it is in stock.",
    "button": "To the shop",
    "shelves": ["Next on your list"],
    "fallback": "Popular right now",
}
PROGRAM = Program.model_validate(
    {
        "name": "weekly", "about": "six products", "trigger": {"kind": "rhythm"},
        "shelves": [{"placement": "next_best", "limit": SHOWN, "minimum": SHOWN}], "texts": {"en": TEXTS},
    }
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """So many of something in so many seconds of CPU, and of the clock."""

    name: str
    done: int
    cpu: float
    wall: float
    goal: float | None = None

    def __str__(self) -> str:
        goal = f", goal {self.goal:,.0f}" if self.goal else ""
        by_clock = f"{self.done / self.wall:,.0f} by the clock"
        return f"{self.name}: {self.done / self.cpu:,.0f} a CPU second ({by_clock}{goal})"


def measured(name: str, rounds: Iterator[int], goal: float | None = None) -> Figure:
    """Over rounds that each tell how many they did, until LEAST seconds are spent."""
    cpu, wall, done = time.process_time(), time.perf_counter(), 0
    while time.process_time() - cpu < LEAST:
        done += next(rounds)
    return Figure(name, done, time.process_time() - cpu, time.perf_counter() - wall, goal)


@cache
def engine() -> Engine:
    """A shop whose customers buy a few things again and again; every product has an address and a picture."""
    goods = [
        {
            "product_id": str(n), "title": f"Product {n} of a middling length, 500 g", "category": ["all", str(n % 40)],
            "price": 1.0 + n % 90, "url": f"https://shop.example/products/{n}",
            "image_url": f"https://shop.example/pictures/{n}.jpg",
        }
        for n in range(PRODUCTS_SOLD)
    ]  # fmt: skip
    rows = [
        {
            "customer_id": str(c), "order_id": f"{c}-{week}",
            "product_id": str((c * 7 + item * item + week % 3) % PRODUCTS_SOLD), "event_type": "order",
            "occurred_at": UNTIL - timedelta(days=7 * week + 1, minutes=c), "quantity": 1.0,
            "unit_price": 2.0, "discount": 0.0,
        }
        for c in range(CUSTOMERS) for week in range(8) for item in range(BASKET)
    ]  # fmt: skip
    schema = pa.schema([EVENTS.schema.field(name) for name in EVENT_COLUMNS])
    data = cut(pa.Table.from_pylist(rows, schema), pa.Table.from_pylist(goods, PRODUCTS.schema), UNTIL)
    folder = Path(tempfile.mkdtemp())
    save_data(folder, data.catalog, data.interactions)
    recipes = {name: RECIPES[name] for name in models_in_use(PLACEMENTS)}
    for name, recipe in recipes.items():
        jobs.fit(folder, name, recipe, seconds(UNTIL))
    seal(
        Side(folder, UNTIL, recipes, PLACEMENTS, data), version="1", metrics={}, fingerprint="f" * 32,
        git_revision="none", store=Store("Bench", "EUR", "Europe/Berlin"),
    )  # fmt: skip
    return Engine(Bundle.load(folder))


def drafts() -> list[tuple[Draft, About]]:
    return [
        (drafted(str(c)), About(first_name="Zoë", locale="en-GB", unsubscribe_url=f"{ADDRESS}/u/{c}"))
        for c in range(CUSTOMERS)
    ]


def drafted(customer: str) -> Draft:
    return draft(engine(), PROGRAM, customer, (), {}, exclude=(), at=UNTIL)


def composing(links: Links | None) -> Iterator[int]:
    made = drafts()
    while True:
        for held, about in made:
            compose(engine(), PROGRAM, held, about, links=links, now=UNTIL)
        yield len(made)


def drafting() -> Iterator[int]:
    while True:
        yield len(drafts())


def messages() -> Iterator[Figure]:
    """Complete messages of SHOWN products: HTML, text and their links, from a draft; and drafts, by themselves."""
    sealed = Links(Tokens([Fernet.generate_key().decode()]), ADDRESS, "https://shop.example")
    yield measured(f"messages of {SHOWN} products, links sealed", composing(sealed), goal=300)
    yield measured(f"messages of {SHOWN} products, direct links", composing(None), goal=300)
    yield measured(f"drafts of {SHOWN} products", drafting())


STEPS: Mapping[str, Callable[[], Iterator[Figure]]] = {"messages": messages}


def main(names: list[str]) -> None:
    for name in names or STEPS:
        for figure in STEPS[name]():
            print(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
