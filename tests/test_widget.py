"""The widget on a shop's page: a real Chromium, a real network, and a small server in the service's place."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from chrome import sound_page
from conftest import CUSTOMER
from cryptography.fernet import Fernet
from playwright.sync_api import Browser, Page, expect
from running import ROOT, Server, shop, start, stop

from serving.keys import PUBLISHABLE, make
from serving.store import Store, address
from serving.tokens import CustomerToken, Tokens

SCRIPT = (ROOT / "serving" / "widget.js").read_text(encoding="utf-8")
ELEMENT = "osclms-recommendations"
SLOW = 0.6
ASKED, TOLD = "/v1/recommend/cart", "/v1/events"
ATTACK = "<img src=x onerror='window.hit=1'>"
Answer = tuple[float, int, Any]  # seconds to wait, status, JSON


def item(product_id: str, **about: Any) -> dict[str, Any]:
    return {
        "product_id": product_id, "title": f"Product {product_id}", "price": 1234.5, "currency": "EUR",
        "url": f"/p/{product_id}", "image_url": None, "score": 1.0, "source": "popular", "story": "Others like it",
        "because": [], "filled": False, "parts": None, **about,
    }  # fmt: skip


def listed(*items: dict[str, Any]) -> dict[str, Any]:
    return {"recommendation_id": "r1", "model_version": "1", "placement": "cart", "items": list(items)}


FULL = listed(*(item(str(n)) for n in range(1, 9)))
ANSWERS: dict[str, Answer] = {
    "rendered": (0, 200, FULL),
    "slow": (SLOW, 200, FULL),
    "empty": (0, 200, listed()),
    "slow and empty": (SLOW, 200, listed()),
    "error": (0, 500, {"error": "something went wrong here", "fields": []}),
    "no JSON": (0, 502, None),
    "another shape": (0, 200, {"items": [{"foo": 1}, None]}),
}


@dataclass
class Stall:
    """Serves a page, the script and one answer for every list; remembers what it is asked."""

    url: str = ""
    page: str = ""
    answer: Answer = ANSWERS["rendered"]
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    fetched: list[dict[str, str]] = field(default_factory=list)  # headers that the script was asked for with
    refuses: str = ""  # for which reason, events with a token
    keeps: str = "no-store"  # how long answers may be kept
    script: str = "comes"  # or fails, or hangs
    lasts: float = 0.0  # seconds that the script takes
    others: dict[str, Answer] = field(default_factory=dict)  # answers of other placements
    comes: threading.Event = field(default_factory=threading.Event)  # a script that hangs

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for asked, _, body in self.asked if asked == path]

    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies(TOLD) for event in body["events"]]


def handler(stall: Stall) -> type[BaseHTTPRequestHandler]:
    def told(body: str) -> tuple[int, Any]:
        events = json.loads(body)["events"]
        if not stall.refuses or not any("customer_token" in event for event in events):
            return 202, {}
        return 207, {"events": [{"index": n, "error": stall.refuses} for n in range(len(events))]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served = {"/": (stall.page, "text/html"), "/v1/widget.js": (SCRIPT, "text/javascript")}
            text, kind = served.get(self.path, ("<title>p</title>", "text/html"))
            hampered = self.path == "/v1/widget.js" and stall.script
            if hampered:
                stall.fetched.append(dict(self.headers.items()))
            time.sleep(stall.lasts if hampered else 0)
            if hampered == "hangs":
                stall.comes.wait(30)
            self.say(503 if hampered == "fails" else 200, kind, text.encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            stall.asked.append((self.path, dict(self.headers.items()), body))
            answer = stall.others.get(self.path, stall.answer)
            wait, status, value = answer if self.path != TOLD else (0, *told(body))
            time.sleep(wait)
            self.say(status, "application/json", b"<oops>" if value is None else json.dumps(value).encode())

        def say(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", stall.keeps)
            self.send_header("Set-Cookie", "who=somebody; Max-Age=60")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def open_stall() -> Iterator[Stall]:
    stall = Stall()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(stall)) as server:
        stall.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield stall
        stall.comes.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def stall() -> Iterator[Stall]:
    with open_stall() as stall:
        yield stall


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with sound_page(browser, 1000) as page:
        yield page


WATCH = """<script>
window.said = []; window.shifts = [];
const say = (event) => event.target.localName === "osclms-recommendations" && window.said.push(event.type);
for (const name of ["rendered", "empty", "error"]) document.addEventListener(name, say, true);
const note = (list) => window.shifts.push(...list.getEntries().map((entry) => entry.value));
new PerformanceObserver(note).observe({ type: "layout-shift", buffered: true });
</script>"""


def html(attributes: str = "", *, above: int = 0, script: str = "", style: str = "") -> str:
    """A shop's page: something above, the widget, something below."""
    return f"""<!doctype html><html lang="en"><head><title>Shop</title>{WATCH}
      <style>body {{ margin: 16px; font: 16px sans-serif }} {ELEMENT} {{ margin: 24px 0 }} {style}</style>
      <script src="/v1/widget.js" {script}></script></head><body><main><h1>Your cart</h1>
      <div style="height:{above}px"></div>
      <{ELEMENT} placement="cart" heading="Goes with it" {attributes}></{ELEMENT}>
      <p id="after">What follows.</p></main></body></html>"""


def visit(page: Page, stall: Stall, answer: str | Answer = "rendered", **about: Any) -> Page:
    stall.answer = ANSWERS[answer] if isinstance(answer, str) else answer
    stall.page = html(**about)
    page.goto(stall.url)
    return page


def said(page: Page) -> list[str]:
    page.wait_for_function("window.said.length", timeout=15_000)
    page.wait_for_timeout(150)  # for what should not come
    found: list[str] = page.evaluate("window.said")
    return found


def height(page: Page) -> float:
    found: float = page.evaluate(f"document.querySelector('{ELEMENT}').getBoundingClientRect().height")
    return found


OUTCOMES = {
    "rendered": "rendered",
    "slow": "rendered",
    "empty": "empty",
    "slow and empty": "empty",
    "error": "error",
    "no JSON": "error",
    "another shape": "error",
}
LOW = (
    f"{ELEMENT} {{ --osclms-row: 40px; --osclms-image: 10px }}"  # so that tests need not wait for it to close
)


# --- room ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", OUTCOMES)
def test_nothing_shifts_and_one_event_tells_how_it_ended(page: Page, stall: Stall, answer: str) -> None:
    visit(page, stall, answer, style=LOW)
    assert said(page) == [OUTCOMES[answer]]
    assert page.evaluate("window.shifts") == []
    assert (height(page) == 0) == (OUTCOMES[answer] != "rendered")


def test_lists_that_close_together_shift_nothing_when_one_is_done(page: Page, stall: Stall) -> None:
    other = f'<{ELEMENT} placement="other" style="--osclms-row: 90px"></{ELEMENT}><p id="after">'
    stall.answer, stall.page = ANSWERS["empty"], html(style=LOW).replace('<p id="after">', other)
    page.goto(stall.url)
    page.wait_for_function("window.said.length === 2", timeout=15_000)
    page.wait_for_timeout(150)
    assert page.evaluate("window.shifts") == []


@pytest.mark.parametrize("script", ["async", ""])
@pytest.mark.parametrize("between", ["", "<p>between</p>"])
def test_neighbours_that_come_to_life_after_the_first_paint_shift_nothing(
    page: Page, stall: Stall, between: str, script: str
) -> None:
    """With margins that collapse through them, and one of which nothing comes."""
    several = "".join(
        f'<{ELEMENT} placement="{name}" heading="{name}"></{ELEMENT}>{between}'
        for name in ("cart", "nope", "next_best")
    )
    stall.lasts, stall.others = 0.1, {"/v1/recommend/nope": ANSWERS["error"]}
    stall.page = f"""<!doctype html><html lang="en"><head><title>Shop</title>{WATCH}<style>{LOW}</style></head><body>
      <h1>Shop</h1>{several}<p>after</p><script src="/v1/widget.js" {script}></script></body></html>"""
    page.goto(stall.url)
    page.wait_for_function("window.said.length === 3", timeout=15_000)
    page.wait_for_function(
        f"[...document.querySelectorAll('{ELEMENT}')].filter((e) => e.offsetHeight > 60).length === 2"
    )
    assert page.evaluate("window.shifts") == []


def test_what_the_test_would_see_if_something_shifted(page: Page, stall: Stall) -> None:
    visit(page, stall, style=LOW)
    said(page)
    page.evaluate(f"document.querySelector('{ELEMENT}').remove()")
    page.wait_for_function("window.shifts.length")


def test_a_slow_list_takes_the_room_that_was_kept_for_it(page: Page, stall: Stall) -> None:
    visit(page, stall, "slow")
    page.wait_for_selector(f"{ELEMENT} .ghost")
    kept = height(page)
    assert said(page) == ["rendered"]
    assert height(page) == kept > 300


@pytest.mark.parametrize("answer", ["slow", "slow and empty"])
def test_an_element_that_comes_to_life_after_the_first_paint_shifts_nothing(
    page: Page, stall: Stall, answer: str
) -> None:
    visit(page, stall, answer, style=LOW, script="defer")
    assert said(page) == [OUTCOMES[answer]]
    page.wait_for_function(
        f"(wanted) => (document.querySelector('{ELEMENT}').offsetHeight > 60) === wanted",
        arg=answer == "slow",
    )
    assert page.evaluate("window.shifts") == []


def test_while_it_opens_it_lies_on_nothing(page: Page, stall: Stall) -> None:
    """Of the room that it takes the margins come first."""
    visit(page, stall, style=LOW, script="defer")
    over = f"""(() => {{
      const element = document.querySelector("{ELEMENT}"), after = document.querySelector("#after");
      const {{ bottom, height }} = element.getBoundingClientRect();
      return height > 10 && height < 40 ? String(bottom - after.getBoundingClientRect().top) : null;
    }})()"""
    assert float(page.wait_for_function(over, polling="raf").json_value()) <= 0
    assert said(page) == ["rendered"] and page.evaluate("window.shifts") == []


def test_below_the_view_it_closes_at_once(page: Page, stall: Stall) -> None:
    page.add_init_script(
        """const ask = requestAnimationFrame; window.frames_asked = 0;
        window.requestAnimationFrame = (action) => (window.frames_asked++, ask(action));"""
    )
    visit(page, stall, "empty", above=1200)
    assert said(page) == ["empty"]
    assert (height(page), page.evaluate("window.frames_asked"), page.evaluate("window.shifts")) == (0, 0, [])


def test_who_wants_less_motion_keeps_blank_room_until_it_is_out_of_sight(page: Page, stall: Stall) -> None:
    page.emulate_media(reduced_motion="reduce")
    visit(page, stall, "empty", style=LOW + "body { padding-bottom: 3000px }")
    assert said(page) == ["empty"]
    assert height(page) > 60
    page.evaluate("scrollTo(0, 1500)")
    page.wait_for_function(f"document.querySelector('{ELEMENT}').offsetHeight === 0")
    assert page.evaluate("window.shifts") == []


def test_a_list_that_is_asked_for_anew_after_an_empty_one_opens_again(page: Page, stall: Stall) -> None:
    visit(page, stall, "empty", style=LOW)
    assert said(page) == ["empty"]
    stall.answer = ANSWERS["rendered"]
    page.evaluate(f"document.querySelector('{ELEMENT}').setAttribute('product-ids', '7, 8')")
    page.wait_for_function(f"document.querySelector('{ELEMENT}').style.length === 0")
    assert height(page) > 60
    assert page.evaluate("[window.said, window.shifts]") == [["empty", "rendered"], []]
    assert stall.bodies(ASKED)[-1] == {"product_ids": ["7", "8"]}


def test_only_the_last_of_several_questions_is_told_of(page: Page, stall: Stall) -> None:
    visit(page, stall, (3, 200, FULL), style=LOW)  # so long that a machine with much to do is not too late
    page.wait_for_selector(f"{ELEMENT} .ghost")
    stall.answer = ANSWERS["rendered"]
    page.evaluate(f"[3, 4].forEach((n) => document.querySelector('{ELEMENT}').setAttribute('limit', n))")
    assert said(page) == ["rendered"]
    assert [body.get("limit") for body in stall.bodies(ASKED)] == [None, 4]


def test_a_list_is_kept_within_the_page_for_as_long_as_the_service_says(page: Page, stall: Stall) -> None:
    page.clock.install()
    stall.keeps = "private, max-age=60"
    visit(page, stall)
    again = (
        f"document.querySelector('{ELEMENT}').replaceWith(document.querySelector('{ELEMENT}').cloneNode())"
    )
    other = f"document.querySelector('{ELEMENT}').setAttribute('product-ids', 7)"
    asked = []
    for number, act in enumerate(
        (
            "",
            again,
            f"document.querySelector('{ELEMENT}').refresh()",
            other,
            "OSCLMS.setConsent(true);" + again,
        ),
        1,
    ):
        page.evaluate(act)
        page.wait_for_function(f"window.said.length === {number}")
        asked.append(len(stall.bodies(ASKED)))
    assert asked == [1, 1, 2, 3, 4]
    page.clock.fast_forward(61_000)
    page.evaluate(again)
    page.wait_for_function("window.said.length === 6")
    assert len(stall.bodies(ASKED)) == 5
    assert set(page.evaluate("window.said")) == {"rendered"}


def test_a_list_that_may_not_be_kept_is_asked_for_each_time(page: Page, stall: Stall) -> None:
    visit(page, stall)
    said(page)
    page.evaluate(f"document.body.append(document.querySelector('{ELEMENT}').cloneNode())")
    page.wait_for_function("window.said.length === 2")
    assert len(stall.bodies(ASKED)) == 2


def test_a_lazy_list_asks_when_it_comes_near(page: Page, stall: Stall) -> None:
    visit(page, stall, attributes="lazy", above=2500)
    page.wait_for_timeout(200)
    assert stall.asked == []
    page.evaluate("scrollTo(0, 1500)")
    assert said(page) == ["rendered"]
    assert page.evaluate("window.shifts") == []


AROUND = {  # what stands around the element, and whether its margins meet those of its neighbours
    "siblings": "<p>before</p>{}<p id=after>after</p>",
    "last of its parent": "<section><p>before</p>{}</section><p id=after>after</p>",
    "before a fixed bar": "<section><p>before</p>{}</section><div style='position: fixed; bottom: 0; height: 40px; "
    "width: 100%'>bar</div><p id=after>after</p>",
    "text": "<p>before</p>{}text <b id=after>after</b>",
}


@pytest.mark.parametrize("answer", ["empty", "error"])
@pytest.mark.parametrize("around", AROUND)
def test_what_is_closed_takes_no_room_at_all(page: Page, stall: Stall, around: str, answer: str) -> None:
    element = f'<{ELEMENT} placement="cart" heading="Goes with it"></{ELEMENT}>'
    stall.answer, stall.page = ANSWERS[answer], html(style=LOW, script="defer")
    stall.page = re.sub(f"<{ELEMENT} .*</p>", AROUND[around].format(element), stall.page, flags=re.DOTALL)
    page.goto(stall.url)
    assert said(page) == [answer]
    top = "document.querySelector('#after').getBoundingClientRect().top"
    there = page.evaluate(top)
    assert page.evaluate("window.shifts") == []
    page.evaluate(f"document.querySelector('{ELEMENT}').remove()")
    assert page.evaluate(top) == there


def test_in_a_grid_with_gaps_it_leaves_its_gap_until_nobody_looks(page: Page, stall: Stall) -> None:
    around = "<div style='display: grid; gap: 20px'><p>before</p>{}<p id=after>after</p></div>"
    plain = html(style=f"{LOW} body {{ padding-bottom: 3000px }}", script="defer").replace(
        '<p id="after">', "<p>"
    )
    stall.answer = ANSWERS["empty"]
    stall.page = ELEMENTS.sub(lambda found: around.format(found[0]), plain)
    page.goto(stall.url)
    assert said(page) == ["empty"] and height(page) == 0
    top = "document.querySelector('#after').getBoundingClientRect().top"
    there = page.evaluate(top)
    page.evaluate("scrollTo(0, 2000)")
    page.wait_for_function(f"document.querySelector('{ELEMENT}').style.display === 'none'")
    settle(page)
    page.evaluate("scrollTo(0, 0)")
    assert there - page.evaluate(top) == 20
    assert page.evaluate("window.shifts") == []


def test_one_that_was_closed_asks_again_where_it_is_put_anew(page: Page, stall: Stall) -> None:
    visit(page, stall, "empty", attributes="lazy", script="defer")
    assert said(page) == ["empty"]
    page.wait_for_function(f"document.querySelector('{ELEMENT}').style.display === 'none'")
    stall.answer = ANSWERS["rendered"]
    page.evaluate(f"document.querySelector('#after').before(document.querySelector('{ELEMENT}'))")
    page.wait_for_function("window.said.length === 2")
    assert said(page) == ["empty", "rendered"]
    page.wait_for_function(f"document.querySelector('{ELEMENT}').offsetHeight > 300")
    assert page.evaluate("window.shifts") == []


def test_lists_beside_each_other_open_as_fast_as_one(page: Page, stall: Stall) -> None:
    column = f'<div><{ELEMENT} placement="cart"></{ELEMENT}></div>'
    columns = (
        f"<div style='display: grid; grid-template-columns: repeat(2, minmax(0, 1fr))'>{column}{column}</div>"
    )
    stall.page = ELEMENTS.sub(columns, html(script="defer"))
    page.goto(stall.url)
    steps = page.evaluate(
        f"""async () => {{
          const elements = [...document.querySelectorAll("{ELEMENT}")];
          const heights = () => elements.map((element) => element.getBoundingClientRect().height);
          while (Math.min(...heights()) < 20) await new Promise(requestAnimationFrame);
          const before = heights();
          for (let frame = 0; frame < 20; frame++) await new Promise(requestAnimationFrame);
          return heights().map((height, place) => (height - before[place]) / 20);
        }}"""
    )
    assert len(steps) == 2 and min(steps) > 2
    page.wait_for_function(f"[...document.querySelectorAll('{ELEMENT}')].every((e) => e.style.length === 0)")
    assert page.evaluate("window.shifts") == []


def focused(page: Page) -> str | None:
    found: str | None = page.evaluate(
        f"document.querySelector('{ELEMENT}').shadowRoot.activeElement?.localName ?? null"
    )
    return found


def test_a_list_that_has_no_room_yet_is_nothing_to_the_keyboard(page: Page, stall: Stall) -> None:
    """Nor to a screen reader, and nobody has seen it."""
    page.emulate_media(reduced_motion="reduce")
    page.add_init_script("window.OSCLMS = { consent: true }")
    visit(page, stall, script="defer", style="body { padding-bottom: 3000px }")
    assert said(page) == ["rendered"] and height(page) == 0
    page.keyboard.press("Tab")
    assert focused(page) is None
    section = f"document.querySelector('{ELEMENT}').shadowRoot.firstElementChild"
    assert page.evaluate(f"{section}.inert")
    page.wait_for_timeout(1400)
    assert stall.events() == []
    page.evaluate("scrollTo(0, 2000)")
    page.wait_for_function(f"document.querySelector('{ELEMENT}').offsetHeight > 300")
    settle(page)
    with page.expect_response("**" + TOLD):
        page.evaluate("scrollTo(0, 0)")
    assert not page.evaluate(f"{section}.inert")
    assert page.evaluate("window.shifts") == []


@pytest.mark.parametrize("least", [30, 250])
def test_the_keyboard_moves_nothing_of_a_list_that_opens(page: Page, stall: Stall, least: int) -> None:
    visit(page, stall, script="defer")
    page.wait_for_function(
        f"(least) => document.querySelector('{ELEMENT}').offsetHeight > least", arg=least, polling="raf"
    )
    page.keyboard.press("Tab")
    host = f"document.querySelector('{ELEMENT}')"
    moved = f"[{host}.scrollTop, {host}.shadowRoot.querySelector('ul').scrollTop]"
    assert page.evaluate(moved) == [0, 0]
    page.wait_for_function(f"{host}.style.length === 0")
    assert page.evaluate(moved) == [0, 0]
    page.keyboard.press("Tab")
    assert focused(page) == "a"
    assert page.evaluate("window.shifts") == []


# --- without the service -------------------------------------------------------------------------------

HOST = "https://recommend.shop.example/"
BARE, ROOMY = re.findall(
    r"```html\n(.*?<script .*?</script>)",
    (ROOT / "docs" / "widget.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
PAGES = pytest.mark.parametrize("head", [BARE, ROOMY], ids=["bare", "roomy"])


PLAIN = '<script src="/v1/widget.js" ></script>'
ELEMENTS = re.compile(f"<{ELEMENT} .*</{ELEMENT}>")


def opened(page: Page, stall: Stall, head: str, script: str, several: int = 1, **about: Any) -> None:
    """A page as docs/widget.md recommends it, once it is there for people and for its own scripts."""
    plain = html(**about)
    assert HOST in head and PLAIN in plain
    stall.script, stall.page = script, plain.replace(PLAIN, head.replace(HOST, stall.url))
    stall.page = ELEMENTS.sub(lambda found: found[0] * several, stall.page)
    page.goto(stall.url, wait_until="domcontentloaded", timeout=10_000)
    expect(page.get_by_text("What follows.")).to_be_visible()


@PAGES
@pytest.mark.parametrize("answer", ["rendered", "empty"])
def test_a_page_as_recommended_shifts_nothing(page: Page, stall: Stall, head: str, answer: str) -> None:
    stall.answer = ANSWERS[answer]
    opened(page, stall, head, "comes")
    assert said(page) == [answer]
    wanted = "> 300" if answer == "rendered" else "=== 0"
    page.wait_for_function(f"document.querySelector('{ELEMENT}').offsetHeight {wanted}")
    assert page.evaluate("window.shifts") == []
    assert BARE.split(HOST)[1] in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["fails", "hangs"])
def test_a_page_whose_script_does_not_come_waits_for_nothing(page: Page, stall: Stall, script: str) -> None:
    opened(page, stall, BARE, script)
    assert (height(page), page.evaluate("window.said")) == (0, [])


HEIGHTS = f"[...document.querySelectorAll('{ELEMENT}')].map((e) => e.offsetHeight)"


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("script", ["fails", "hangs"])
def test_room_whose_script_does_not_come_closes_out_of_sight(
    page: Page, stall: Stall, script: str, width: int
) -> None:
    """Four lists one above the other, of which two and a half are in view."""
    page.set_viewport_size({"width": width, "height": 1200})
    page.clock.install()
    opened(page, stall, ROOMY, script, several=4, style="body { padding-bottom: 3000px }")
    page.clock.run_for(10_000)
    page.wait_for_function(f"{HEIGHTS}[3] === 0")
    assert min(page.evaluate(HEIGHTS)[:3]) > 300, "what is in view stays"
    page.evaluate("scrollTo(0, 2500)")
    page.wait_for_function(f"Math.max(...{HEIGHTS}) === 0")
    settle(page)
    page.evaluate("scrollTo(0, 0)")
    settle(page)
    assert page.evaluate("window.shifts") == []
    assert page.evaluate("window.said") == [] and page.evaluate("document.getAnimations()") == []


@pytest.mark.parametrize("above", [0, 1200])
def test_a_script_that_comes_after_its_room_was_given_up_shifts_nothing(
    page: Page, stall: Stall, above: int
) -> None:
    page.clock.install()
    opened(page, stall, ROOMY, "hangs", above=above)
    page.clock.run_for(10_000)
    page.wait_for_function(f"{HEIGHTS}[0] {'=== 0' if above else '> 300'}")
    stall.comes.set()
    assert said(page) == ["rendered"]
    page.wait_for_function(f"document.querySelector('{ELEMENT}').offsetHeight > 300")
    assert page.evaluate("window.shifts") == []


@pytest.mark.parametrize("room", ["", "min-height: 18em !important"], ids=["enough", "short"])
def test_room_follows_the_font_and_cuts_no_price(page: Page, stall: Stall, room: str) -> None:
    """Where there is too little of it, for who asks for less motion, pictures are smaller."""
    page.emulate_media(reduced_motion="reduce")
    opened(page, stall, ROOMY, "comes", style=f"body {{ font-size: 20px }} {ELEMENT} {{ {room} }}")
    assert said(page) == ["rendered"]
    bottom = "(e) => e.getBoundingClientRect().bottom"
    last = page.locator(f"{ELEMENT} .price").first.evaluate(bottom)
    assert 300 < last <= page.locator(ELEMENT).evaluate(bottom)
    assert height(page) == (18 if room else 23) * 20
    page.keyboard.press("Tab")
    assert focused(page) == "a"
    assert page.evaluate("window.shifts") == []


def test_of_room_that_shows_no_prices_nothing_is_told(page: Page, stall: Stall) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.add_init_script("window.OSCLMS = { consent: true }")
    opened(page, stall, ROOMY, "comes", style=f"{ELEMENT} {{ min-height: 6em !important }}")
    assert said(page) == ["rendered"]
    page.wait_for_timeout(1600)
    assert stall.events() == []


@PAGES
def test_neither_cookie_nor_address_of_the_page_goes_with_the_script(
    page: Page, stall: Stall, head: str
) -> None:
    """From another origin on the same host, where cookies are at home."""
    with open_stall() as shop:
        shop.page = html(f'endpoint="{shop.url}"').replace(PLAIN, head.replace(HOST, stall.url))
        page.goto(shop.url)
        assert said(page) == ["rendered"]
    assert [headers.keys() & {"Cookie", "Referer"} for headers in stall.fetched] == [set()]
    assert page.context.cookies(shop.url)


# --- what it shows ------------------------------------------------------------------------------------


def test_products_are_a_list_below_a_heading_that_the_keyboard_walks_through(
    page: Page, stall: Stall
) -> None:
    visit(page, stall, attributes='limit="8" locale="de-DE"')
    said(page)
    expect(page.get_by_role("region", name="Goes with it").get_by_role("listitem")).to_have_count(8)
    expect(page.get_by_role("heading", name="Goes with it", level=2)).to_be_visible()
    expect(page.get_by_role("listitem").first).to_have_text("Product 1Others like it1.234,50\xa0€")
    page.keyboard.press("Tab")
    first = page.evaluate(f"document.querySelector('{ELEMENT}').shadowRoot.activeElement.href")
    assert first == stall.url + "p/1"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(stall.url + "p/2")


PICTURED = (0, 200, listed(item("0", image_url="/0.png"), *FULL["items"]))
LINKLESS = (0, 200, listed(*(item(str(n), url=None) for n in range(12))))


@pytest.mark.parametrize(
    ("answer", "scheme", "style"),
    [
        (PICTURED, "light", ""),
        (PICTURED, "dark", ""),
        (LINKLESS, "light", ""),
        ("slow", "dark", ""),
        ("empty", "light", LOW),
    ],
    ids=["pictured", "dark", "linkless", "waiting", "empty"],
)
def test_axe_finds_nothing(page: Page, stall: Stall, answer: str | Answer, scheme: Any, style: str) -> None:
    page.emulate_media(color_scheme=scheme)
    visit(page, stall, answer, style=style + ":root { color-scheme: light dark }")
    if answer == "slow":
        page.wait_for_selector(f"{ELEMENT} .ghost")
    else:
        said(page)
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []


def test_what_comes_from_the_wire_is_text(page: Page, stall: Stall) -> None:
    bad = item("1", title=ATTACK, story=ATTACK, url="javascript:window.hit=1", image_url="javascript:window.hit=1",
               price=1.5, currency="not-money")  # fmt: skip
    other = [
        item(str(n), url=url)
        for n, url in enumerate(["data:text/html,x", " JaVaScRiPt:x", "http://", None], 2)
    ]
    visit(
        page,
        stall,
        (0, 200, listed(bad, *other, item("9", url="//shop.example/9"))),
        attributes=f'heading="{ATTACK}"',
    )
    said(page)
    assert page.locator(f"{ELEMENT} .title").all_text_contents()[0] == ATTACK
    assert page.locator(f"{ELEMENT} :is(img, script)").count() == 0
    assert page.locator(f"{ELEMENT} .price").first.inner_text() == "1.50 not-money"
    assert page.locator(f"{ELEMENT} a").evaluate_all("all => all.map(a => a.href)") == [
        "http://shop.example/9"
    ]
    assert page.evaluate("window.hit") is None


def test_the_ring_around_what_has_the_focus_covers_nothing(page: Page, stall: Stall) -> None:
    visit(page, stall, PICTURED)
    said(page)
    page.keyboard.press("Tab")
    ring, gaps = page.evaluate(
        f"""() => {{
          const link = document.querySelector("{ELEMENT}").shadowRoot.activeElement, style = getComputedStyle(link);
          const box = link.getBoundingClientRect();
          const inner = [...link.children].map((child) => child.getBoundingClientRect());
          const gap = (one) => [one.left - box.left, box.right - one.right, one.top - box.top, box.bottom - one.bottom];
          return [-parseFloat(style.outlineOffset), Math.min(...inner.flatMap(gap))];
        }}"""
    )
    assert 0 < ring < gaps


def test_parts_are_the_shops_to_dress(page: Page, stall: Stall) -> None:
    visit(page, stall, style=f"{ELEMENT}::part(title) {{ color: rgb(1, 2, 3) }}")
    said(page)
    expect(page.locator(f"{ELEMENT} .title").first).to_have_css("color", "rgb(1, 2, 3)")


# --- what it tells ------------------------------------------------------------------------------------

TOKEN = "opaque-token-of-somebody"


def test_before_consent_nobody_is_known_and_nothing_is_told(page: Page, stall: Stall) -> None:
    page.add_init_script(
        """const read = Element.prototype.getAttribute; window.read = [];
        Element.prototype.getAttribute = function (name) { window.read.push(name); return read.call(this, name); };"""
    )
    page.clock.install()
    visit(page, stall, attributes=f'customer-token="{TOKEN}"')
    page.wait_for_function("window.said.length")
    assert "placement" in page.evaluate("window.read")
    assert "customer-token" not in page.evaluate("window.read")
    page.clock.run_for(5000)
    page.locator(f"{ELEMENT} a").first.click()
    page.wait_for_url(stall.url + "p/1")
    assert [path for path, _, _ in stall.asked] == [ASKED]
    assert TOKEN not in str(stall.asked)


def test_nothing_is_stored_and_no_cookie_travels(page: Page, stall: Stall) -> None:
    visit(page, stall, attributes=f'customer-token="{TOKEN}"')  # whose answer sets a cookie
    said(page)
    page.evaluate("OSCLMS.setConsent(true)")
    page.evaluate(f"document.querySelector('{ELEMENT}').refresh()")
    page.wait_for_function("window.said.length === 2")
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    assert page.evaluate("indexedDB.databases().then((all) => all.length)") == 0
    assert [("Cookie" in headers, "Referer" in headers) for _, headers, _ in stall.asked] == [
        (False, False)
    ] * 2
    assert [body.get("customer_token") for body in stall.bodies(ASKED)] == [None, TOKEN]


def test_a_token_that_is_refused_gets_a_strangers_list(page: Page, stall: Stall) -> None:
    page.add_init_script("window.OSCLMS = { consent: true }")
    fault = {
        "error": "customer_token: too old",
        "fields": [{"field": "customer_token", "message": "too old"}],
    }
    visit(page, stall, (0, 400, fault), attributes=f'customer-token="{TOKEN}"', style=LOW)
    assert said(page) == ["error"]  # as the second answer is no better here
    assert [body.get("customer_token") for body in stall.bodies(ASKED)] == [TOKEN, None]


def consenting(page: Page, stall: Stall, **about: Any) -> Page:
    page.clock.install()
    visit(page, stall, **about)
    page.wait_for_function("window.said.length")
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    page.evaluate("OSCLMS.setConsent(true)")
    settle(page)
    return page


def settle(page: Page) -> None:
    """Until the browser has told what is in view: its observers keep no time that can be set."""
    page.wait_for_timeout(150)


def test_half_in_view_for_a_second_is_an_impression_once(page: Page, stall: Stall) -> None:
    consenting(page, stall, style="body { padding-bottom: 3000px }")
    page.clock.run_for(990)
    assert stall.events() == []
    with page.expect_response("**" + TOLD):
        page.clock.run_for(400)
    told = stall.events()
    assert [event["product_id"] for event in told] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]  # the sixth lies outside the row
    assert {(e["event_type"], e["recommendation_id"], e["placement"], e["channel"]) for e in told} == {
        ("impression", "r1", "cart", "web")
    }
    assert len({event["event_id"] for event in told}) == 5
    assert all(re.fullmatch(r"[0-9a-f]{32}", event["event_id"]) for event in told)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", event["occurred_at"]) for event in told)
    assert {frozenset(event) for event in told} == {
        frozenset(
            (
                "event_id",
                "event_type",
                "occurred_at",
                "product_id",
                "recommendation_id",
                "placement",
                "channel",
            )
        )
    }
    for place in (2000, 0):
        page.evaluate(f"scrollTo(0, {place})")
        settle(page)
    page.clock.run_for(5000)
    settle(page)
    assert len(stall.events()) == 5


def test_a_glance_is_no_impression(page: Page, stall: Stall) -> None:
    consenting(page, stall, style="body { padding-bottom: 3000px }")
    page.clock.run_for(990)
    page.evaluate("scrollTo(0, 2000)")
    settle(page)
    page.clock.run_for(5000)
    settle(page)
    assert stall.events() == []


def test_less_than_half_in_view_is_no_impression(page: Page, stall: Stall) -> None:
    page.set_viewport_size({"width": 1000, "height": 250})  # the row begins at 121 and is 304 high
    consenting(page, stall)
    page.clock.run_for(5000)
    settle(page)
    assert stall.events() == []


def test_a_click_is_told_before_the_page_is_left(page: Page, stall: Stall) -> None:
    outlives: list[bool] = []
    page.expose_function("keeps", lambda kept: outlives.append(kept))
    page.add_init_script(
        """const ask = fetch; window.fetch = (url, options) => {
          if (url.endsWith("/v1/events")) keeps(options.keepalive === true);
          return ask(url, options);
        };"""
    )
    consenting(page, stall)
    page.locator(f"{ELEMENT} a").nth(1).click()
    page.wait_for_url(stall.url + "p/2")
    assert [(e["event_type"], e["product_id"]) for e in stall.events()] == [("click", "2")]
    assert outlives == [True]


def test_consent_that_is_taken_back_ends_it(page: Page, stall: Stall) -> None:
    consenting(page, stall, attributes=f'customer-token="{TOKEN}"')
    page.evaluate("OSCLMS.setConsent(false)")
    settle(page)
    page.clock.run_for(5000)
    page.evaluate(f"document.querySelector('{ELEMENT}').refresh()")
    page.wait_for_function("window.said.length === 2")
    assert stall.events() == []
    assert TOKEN not in str(stall.asked)


def test_what_is_refused_for_its_token_is_told_of_nobody(page: Page, stall: Stall) -> None:
    page.add_init_script("window.OSCLMS = { consent: true }")
    consenting(page, stall, attributes=f'customer-token="{TOKEN}"')
    stall.refuses = "customer_token: too old"
    with page.expect_response(lambda answer: TOLD in answer.url and answer.status == 202):
        page.clock.run_for(1400)
    first, again = stall.bodies(TOLD)
    assert {event.pop("customer_token") for event in first["events"]} == {TOKEN}
    assert again["events"] == first["events"]


def test_a_token_that_is_gone_from_the_page_is_told_no_more(page: Page, stall: Stall) -> None:
    page.add_init_script("window.OSCLMS = { consent: true }")
    page.add_init_script(
        "addEventListener('rendered', (event) => event.target.removeAttribute('customer-token'), true)"
    )
    consenting(page, stall, attributes=f'customer-token="{TOKEN}"')
    assert [body.get("customer_token") for body in stall.bodies(ASKED)] == [TOKEN]
    with page.expect_response("**" + TOLD):
        page.clock.run_for(1400)
    assert not any("customer_token" in event for event in stall.events())


@pytest.mark.parametrize("known", [True, False])
def test_what_is_told_of_the_customers_own_list_names_them_by_their_token(
    page: Page, stall: Stall, known: bool
) -> None:
    if known:
        page.add_init_script("window.OSCLMS = { consent: true }")
    consenting(page, stall, attributes=f'customer-token="{TOKEN}"')
    with page.expect_response("**" + TOLD):
        page.clock.run_for(1400)
    assert [body.get("customer_token") for body in stall.bodies(ASKED)] == [TOKEN if known else None]
    assert {event.get("customer_token") for event in stall.events()} == {TOKEN if known else None}


def test_a_key_goes_into_a_header(page: Page, stall: Stall) -> None:
    visit(page, stall, attributes='key="public-1"', style=LOW)
    said(page)
    assert [headers.get("Authorization") for _, headers, _ in stall.asked] == ["Bearer public-1"]


# --- with the service itself --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server(shop_home: Path) -> Server:
    return shop(shop_home)


def test_the_service_serves_it_and_answers_it(page: Page, server: Server) -> None:
    """On the front page, whose Content-Security-Policy forbids all that is inline."""
    page.goto(server.url)
    page.evaluate(
        """() => new Promise((done) => {
          const script = Object.assign(document.createElement("script"), { src: "/v1/widget.js", onload: done });
          document.head.append(script);
        })"""
    )
    page.evaluate(
        "document.body.insertAdjacentHTML('afterbegin', '<osclms-recommendations placement=trending limit=3>')"
    )
    expect(page.locator(f"{ELEMENT} [role=list] li")).to_have_count(3)
    expect(page.locator(f"{ELEMENT} .price").first).to_have_text(re.compile(r"^\$\d+\.\d\d$"))


def test_it_works_on_a_page_of_another_origin(page: Page, server: Server, stall: Stall) -> None:
    """As in a shop: the page is of one origin, the script and the lists are of another."""
    stall.page = html(f"endpoint={server.url}").replace('placement="cart"', 'placement="trending" limit="2"')
    stall.page = stall.page.replace('src="/v1/widget.js"', f'src="{server.url}/v1/widget.js"')
    page.goto(stall.url)
    assert said(page) == ["rendered"]
    expect(page.locator(f"{ELEMENT} [role=list] li")).to_have_count(2)
    assert stall.asked == []


def test_a_page_of_another_origin_with_a_key_of_its_own(
    page: Page, stall: Stall, shop_home: Path, tmp_path: Path
) -> None:
    """The real service, which asks for keys: the list is the customer's, and what was seen is stored as theirs."""
    home, secret = tmp_path / "home", Fernet.generate_key().decode()
    shutil.copytree(shop_home, home)
    origin, now = stall.url.rstrip("/"), datetime.now(UTC)
    with Store(address(home, None)) as store:
        key, before = make(store, PUBLISHABLE, at=now, origins=[origin]), store.ends("events")["events"]
    (tmp_path / "bentoml").mkdir()
    asked = {"home": str(home), "ask_keys": "yes", "secret": secret}
    service = start("serving.service:Service", tmp_path / "bentoml", asked)
    try:
        token = Tokens([secret]).seal(CustomerToken(customer_id=CUSTOMER), at=now)
        page.add_init_script("window.OSCLMS = { consent: true }")
        stall.page = (
            html(f'key="{key}" customer-token="{token}" product-ids="1082185"')
            .replace('placement="cart"', 'placement="cross_sell"')
            .replace('src="/v1/widget.js"', f'src="{service.url}/v1/widget.js"')
        )
        page.goto(stall.url)
        assert said(page) == ["rendered"] and page.evaluate("window.shifts") == []
        assert page.locator(f"{ELEMENT} [role=list] li").count() > 2
        with page.expect_response("**" + TOLD) as told:
            page.wait_for_timeout(1_200)
        assert told.value.status == 200 and told.value.json()["rejected"] == 0
        with Store(address(home, None)) as store:
            told_of = store.read("events", before, store.ends("events")["events"])
            rows = [row for part in told_of for row in part]
        assert {(row["event_type"], row["customer_id"]) for row in rows} == {("impression", CUSTOMER)}
        stall.page = stall.page.replace(key, "osclms_p_00000000_of_nobody")
        page.goto(stall.url)
        assert said(page) == ["error"] and height(page) == 0
    finally:
        stop(service)
