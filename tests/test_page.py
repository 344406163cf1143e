"""The storefront page as people use it: a real Chromium against the real service."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chrome import sound_page
from playwright.sync_api import Browser, Page, Route, expect
from running import Server, shop

SHELVES = ("next_best", "cross_sell", "upsell")


@pytest.fixture(scope="session")
def server(shop_home: Path) -> Server:
    return shop(shop_home)


@pytest.fixture
def blank(browser: Browser) -> Iterator[Page]:
    with sound_page(browser, 1280) as page:
        yield page


@pytest.fixture
def page(blank: Page, server: Server) -> Page:
    return ready(blank, server)


def ready(page: Page, server: Server) -> Page:
    page.goto(server.url)
    page.wait_for_selector("body[data-ready]")
    return page


@contextmanager
def another_round(page: Page) -> Iterator[None]:
    """What is done inside makes the page ask anew; wait until it has all the answers."""
    seen = page.get_attribute("body", "data-ready")
    yield
    page.wait_for_selector(f'body:not([data-ready="{seen}"])')


def titles(page: Page, placement: str) -> list[str]:
    return page.locator(f"#shelf-{placement} .title").all_text_contents()


def test_three_lists_and_a_message_are_there_at_once(page: Page) -> None:
    for placement in SHELVES:
        assert len(titles(page, placement)) == 5
        expect(page.locator(f"#shelf-{placement} .timing")).to_have_text(
            re.compile(r"\d+ ms · engine [\d.]+ ms")
        )
    assert page.inner_text("#version")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", page.inner_text("#until"))
    expect(page.frame_locator("#mail-html").locator("body")).to_contain_text("Thank you")


def test_every_card_says_what_it_is_and_why(page: Page) -> None:
    for card in page.locator(".card").all():
        assert card.locator(".title").inner_text()
        assert card.locator(".story").inner_text()
        assert card.locator(".source").inner_text()


def test_another_household_gets_other_lists(page: Page) -> None:
    before = titles(page, "next_best")
    with another_round(page):
        page.select_option("#household", index=2)
    assert titles(page, "next_best") != before


def test_an_unknown_household_gets_a_list_that_says_so(page: Page) -> None:
    with another_round(page):
        page.fill("#typed", "nobody-we-know")
    assert len(titles(page, "next_best")) == 5
    expect(page.locator("#shelf-next_best .note")).to_contain_text("this is what sells")
    expect(page.frame_locator("#mail-html").locator("body")).to_contain_text("It is good to have you with us")


def test_a_product_is_found_and_chosen_by_keyboard_alone(page: Page) -> None:
    word = titles(page, "next_best")[0].split()[0]
    page.focus("#search")
    page.keyboard.type(word)
    expect(page.locator("#found [role=option]").first).to_contain_text(
        re.compile(re.escape(word), re.IGNORECASE)
    )
    page.keyboard.press("ArrowDown")
    expect(page.locator("#found [aria-selected=true]")).to_have_count(1)
    chosen = page.locator("#found [aria-selected=true]").inner_text().split("\n")[0].strip()
    with another_round(page):
        page.keyboard.press("Enter")
    expect(page.locator("#found")).to_be_hidden()
    assert page.input_value("#search") in chosen


def test_no_product_is_a_choice_too(page: Page) -> None:
    with another_round(page):
        page.click("#clear")
    assert len(titles(page, "cross_sell")) == 5


def test_a_word_that_no_title_has_says_so(page: Page) -> None:
    page.fill("#search", "zzzzzz")
    expect(page.locator("#found")).to_contain_text("No product has these words")


def test_a_card_is_a_way_on(page: Page) -> None:
    title = titles(page, "next_best")[1]
    with another_round(page):
        page.locator("#shelf-next_best .card").nth(1).press("Enter")
    assert page.input_value("#search") == title


def test_explain_shows_what_each_source_scored(page: Page) -> None:
    expect(page.locator(".parts")).to_have_count(0)
    with another_round(page):
        page.locator(".switch").click()
    assert page.locator(".parts").count() == page.locator(".card").count()


def test_the_text_part_is_a_click_away(page: Page) -> None:
    page.get_by_text("Text", exact=True).click()
    expect(page.locator("#mail-text")).to_contain_text("See you soon")
    expect(page.locator("#mail-html")).to_be_hidden()


HOSTILE = """{"recommendation_id": "r", "model_version": "1", "placement": "p", "items": [{
  "product_id": "1", "title": "<img src=x onerror='window.hit=1'>", "price": 1.5, "currency": "not-money",
  "url": null, "image_url": "javascript:window.hit=1", "score": 1, "source": "<b>s</b>", "story": "<i>x</i>",
  "because": [], "filled": false, "parts": {"<u>p</u>": 0.5}}]}"""


def test_what_comes_from_the_wire_is_text(blank: Page, server: Server) -> None:
    blank.route("**/v1/recommend/*", lambda route: answer(route, 200, HOSTILE))
    page = ready(blank, server)
    assert titles(page, "next_best") == ["<img src=x onerror='window.hit=1'>"]
    assert page.locator(".card :is(img, b, i, u)").count() == 0
    assert page.inner_text("#shelf-next_best .price") == "1.50 not-money"
    assert page.evaluate("window.hit") is None


def test_a_message_cannot_run_a_script(blank: Page, server: Server) -> None:
    message = '{"subject": "s", "html": "<p>hello</p><script>parent.hit=1</script>", "text": "t"}'
    blank.route("**/v1/messages/thank_you*", lambda route: answer(route, 200, message))
    page = ready(blank, server)
    expect(page.frame_locator("#mail-html").locator("p")).to_have_text("hello")
    assert page.evaluate("window.hit") is None


def test_an_error_is_shown_in_its_place_and_the_rest_stays(blank: Page, server: Server) -> None:
    fault = '{"error": "upsell is out to lunch", "fields": []}'
    blank.route("**/v1/recommend/upsell", lambda route: answer(route, 400, fault))
    page = ready(blank, server)
    expect(page.locator("#shelf-upsell [role=alert]")).to_have_text("upsell is out to lunch")
    assert len(titles(page, "next_best")) == 5


def test_a_service_that_is_gone_is_said_to_be(blank: Page, server: Server) -> None:
    blank.route("**/v1/**", lambda route: route.abort())
    page = ready(blank, server)
    for place in (*(f"#shelf-{placement} [role=alert]" for placement in SHELVES), "#mail-error"):
        expect(page.locator(place)).to_contain_text("does not answer")


def test_an_empty_list_is_said_to_be_empty(blank: Page, server: Server) -> None:
    empty = '{"recommendation_id": "r", "model_version": "1", "placement": "p", "items": []}'
    blank.route("**/v1/recommend/upsell", lambda route: answer(route, 200, empty))
    page = ready(blank, server)
    expect(page.locator("#shelf-upsell .note")).to_contain_text("Nothing can be shown")


def answer(route: Route, status: int, body: str) -> None:
    route.fulfill(status=status, content_type="application/json", body=body)


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_any_width(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched_from_elsewhere(blank: Page, server: Server) -> None:
    asked: list[str] = []
    blank.on("request", lambda request: asked.append(request.url))
    ready(blank, server)
    assert all(url.startswith((server.url, "data:", "about:")) for url in asked)
