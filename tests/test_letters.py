"""Every letter that ships, and one of every layout, in every language: what it says, that it arrives, how it looks."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import letters
import pytest
import tiny
from chrome import sound_page
from letters import CASES, EVERY, KNOWN, TEXTS, letter, program
from liquid.exceptions import LiquidError
from playwright.sync_api import Browser, Page
from pydantic import ValidationError
from running import PUBLIC_URL, SECRET, SHOP_URL
from test_messages import GOLDEN, kept

from lifecycle.layouts import LAYOUTS
from lifecycle.lengths import sms_parts
from lifecycle.letters import MAX_BYTES, check
from lifecycle.lint import faults_of_form
from lifecycle.messages import STOP, About, Message, NotSent, compose
from lifecycle.texts import UNKNOWN, closed, faults, filled
from lifecycle.tongue import WORDS, Tongue
from serving.engine import Engine
from serving.links import Links
from serving.placements import PLACEMENTS, STORIES
from serving.rules import Exclude
from serving.tokens import Tokens

LINKS = Links(Tokens([SECRET]), PUBLIC_URL, SHOP_URL)
WIDTHS = (360, 600)
PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"><rect width="400" height="300"/></svg>'
)
OVERLAPS = """() => {
  const rects = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const node = walker.currentNode, style = getComputedStyle(node.parentElement)
    if (!node.data.trim() || !node.parentElement.checkVisibility({opacityProperty: true})) continue
    const range = document.createRange()
    range.selectNodeContents(node)
    for (const r of range.getClientRects()) if (r.width > 1) rects.push([node.data.trim(), r])
  }
  for (const image of document.images) rects.push([image.alt, image.getBoundingClientRect()])
  const found = []
  for (let a = 0; a < rects.length; a++) for (let b = a + 1; b < rects.length; b++) {
    const [p, r] = rects[a], [q, s] = rects[b]
    const wide = Math.min(r.right, s.right) - Math.max(r.left, s.left)
    const high = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top)
    if (p !== q && wide > 2 && high > 3) found.push(`${p} | ${q}`)
  }
  return [document.documentElement.scrollWidth, found, rects.length]
}"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return letters.engine(tmp_path_factory.mktemp("letters") / "1")


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with sound_page(browser, WIDTHS[-1]) as page:
        page.route("**/*", lambda route: route.fulfill(content_type="image/svg+xml", body=PICTURE))
        yield page


def in_locale(name: str, locale: str) -> About:
    return replace(KNOWN, locale=locale)


# --- what they say ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_texts_are_as_kept(shop: Engine, name: str) -> None:
    """UPDATE_GOLDEN=1 writes them anew."""
    made = (letter(shop, EVERY[name], in_locale(name, locale)) for locale in EVERY[name].texts)
    parts = (f"Subject: {m.subject}\n{m.preheader}\n\n{m.text}\nSMS: {m.sms}\nPush: {m.push}\n" for m in made)
    kept(GOLDEN / "letters" / f"{name}.txt", f"\n{'=' * 80}\n\n".join(parts))


@pytest.mark.parametrize(("name", "locale"), CASES)
def test_letters_arrive_and_can_be_read(shop: Engine, name: str, locale: str) -> None:
    for about in (in_locale(name, locale), About(locale=locale, rate_url="https://x.example/r")):
        for links in (None, LINKS):
            assert check(letter(shop, EVERY[name], about, links).html) == []


@pytest.mark.parametrize(("name", "locale"), CASES)
def test_what_is_not_known_leaves_no_gap(shop: Engine, name: str, locale: str) -> None:
    """Of an occasion that tells nothing there is no message, or one that needs nothing of it."""
    nobody, of = About(locale=locale, rate_url="https://x.example/r"), EVERY[name]
    made = letter(shop, of, nobody)
    with suppress(NotSent):
        made = letter(shop, of, nobody, words={})
    for said in (made.subject, made.preheader, made.text, made.sms, made.push):
        assert not re.search(r"None|null|\ue000|\{\{|%\}|,\s*[,.!]|\( *\)|(?<=\w) [.,]", said), said


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "Reply STOP to end"),
        (
            {
                "kind": "transactional",
                "trigger": {"kind": "order"},
                "texts": {"en": {**TEXTS, "body": "Thank you."}},
            },
            "",
        ),
        ({"texts": {"en": {**TEXTS, "sms": "Back! STOP ends this"}}}, ""),
        ({"texts": {"en": {**TEXTS, "words": {"stop": "STOP to 4711"}}}}, "STOP to 4711"),
        ({"texts": {"en": {**TEXTS, "sms": "Stop by for bread. " * 30}}}, "... Reply STOP to end"),
        (
            {"texts": {"en": {**TEXTS, "sms": "Bread is back, dear customer. " * 11 + "STOP ends this"}}},
            "Reply STOP to end",
        ),
        ({"texts": {"en": {**TEXTS, "sms": "NON-STOP deals"}}}, "NON-STOP deals Reply STOP to end"),
        ({"texts": {"en": {**TEXTS, "sms": ""}}}, ""),
    ],
)
def test_an_sms_of_marketing_says_how_to_end_these(shop: Engine, changes: dict[str, Any], end: str) -> None:
    of = program("lists", name="texted", **changes)
    sms = letter(shop, of, KNOWN).sms
    assert sms.endswith(end) and len(STOP.findall(sms)) == (of.kind == "marketing" and bool(sms))
    assert sms_parts(sms) <= 2


@pytest.mark.parametrize("name", EVERY)
def test_texts_name_what_there_is(name: str) -> None:
    assert faults(EVERY[name]) == []


# --- how they look ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "locale"), CASES)
def test_letters_look_right_on_narrow_and_wide_screens(
    shop: Engine, page: Page, tmp_path: Path, name: str, locale: str
) -> None:
    page.set_content(letter(shop, EVERY[name], in_locale(name, locale)).html)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        wide, overlaps, pieces = page.evaluate(OVERLAPS)
        assert wide <= width and overlaps == [] and pieces > 5
        page.screenshot(path=tmp_path / f"{width}.png")


@pytest.mark.parametrize("name", [f"all_{layout}" for layout in LAYOUTS])
def test_letters_are_dark_where_that_is_wanted(shop: Engine, page: Page, name: str) -> None:
    """By the brightness of what stands behind and before each text."""
    page.set_content(letter(shop, EVERY[name]).html)
    for scheme, brightest in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        ratios = page.evaluate(CONTRAST)
        assert min(ratios.values()) >= 4.5, (
            scheme,
            min(ratios, key=ratios.__getitem__),
            min(ratios.values()),
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == brightest
    page.emulate_media(color_scheme="light")


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((of) => of / 255)
      .map((of) => of <= 0.03928 ? of / 12.92 : ((of + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const of = getComputedStyle(node).backgroundColor
      if (!of.endsWith(", 0)") && of !== "transparent") return of
    }
    return "rgb(255, 255, 255)"
  }
  const found = {}, walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement
    if (!node.data.trim() || !parent.checkVisibility({opacityProperty: true})) continue
    const [a, b] = [light(getComputedStyle(parent).color), light(ground(parent))]
    found[node.data.trim()] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
  }
  return found
}"""


# --- what the check finds -----------------------------------------------------------------------------

BROKEN = {
    "lang": (r' lang="en"', ""),
    "title": (r"<title>[^<]*", "<title>"),
    "preheader": (r'(<div style="display:none[^>]*>)[^<]*', r"\1"),
    "color-scheme": (r'name="color-scheme"', 'name="x"'),
    "dark": (r"prefers-color-scheme: dark", "print"),
    "role": (r' role="presentation"', ""),
    "alt": (r' alt="[^"]*"', ""),
    "variable": (r"background-color:#eef0f5", "background-color:var(--x)"),
    "bytes": (r"</body>", "x" * MAX_BYTES + "</body>"),
    "styles": (r"</style>", "/*" + "x" * 16_000 + "*/</style>"),
    "script": (r"</body>", "<script>1</script></body>"),
    "href": (r'href="https:', 'href="javascript:'),
    "printed": (r"Back,", "None"),
}


@pytest.mark.parametrize("part", BROKEN)
def test_what_is_broken_is_found(shop: Engine, part: str) -> None:
    whole = letter(shop, EVERY["all_hero"]).html
    broken = re.sub(*BROKEN[part], whole)
    assert broken != whole
    assert any(part in fault for fault in check(broken)), check(broken)


# --- what is shown ------------------------------------------------------------------------------------


def without(shop: Engine, *gone: str) -> Engine:
    engine = Engine(shop.bundle)
    engine.available = shop.available.copy()
    engine.available[shop.catalog.items.positions(gone)] = False
    return engine


def ids(made: Message) -> list[list[str]]:
    return [[item.product_id for item in found.items] for found in made.lists]


LISTED = program("lists", products=False, rating=False, voucher=None, shelves=[{"placement": "next_best", "limit": 3}],
                 texts={"en": {"subject": "s", "title": "t", "body": "b", "shelves": ["h"]}})  # fmt: skip


def test_what_is_gone_gives_way_to_the_next_of_its_list(shop: Engine) -> None:
    made = letters.drafted(shop, LISTED, ())
    held = [item.product_id for item in made.lists[0].items]
    assert len(held) == 6
    engine = without(shop, held[1])
    message = compose(engine, LISTED, made, KNOWN, links=None, now=tiny.UNTIL)
    assert ids(message) == [[held[0], held[2], held[3]]]


@pytest.mark.parametrize(
    ("placement", "source", "filled", "own"),
    [
        ("new_arrivals", "newest", False, True),
        ("new_arrivals", "popular", True, False),
        ("trending", "popular", False, True),
        ("next_best", "newest", False, False),
        ("next_best", "als", False, True),
    ],
)
def test_a_list_of_what_it_is_for_keeps_its_heading(
    shop: Engine, placement: str, source: str, filled: bool, own: bool
) -> None:
    said = {"subject": "s", "title": "t", "body": "b", "shelves": ["Our heading"], "fallback": "Popular"}
    asked = program("lists", products=False, rating=False, voucher=None,
                    shelves=[{"placement": placement, "limit": 3}], texts={"en": said})  # fmt: skip
    made = letters.drafted(shop, LISTED, ())
    items = tuple(i.model_copy(update={"source": source, "filled": filled}) for i in made.lists[0].items)
    held = made.lists[0].model_copy(update={"placement": placement, "items": items})
    shown = made.model_copy(update={"lists": (held,)})
    text = compose(shop, asked, shown, KNOWN, links=None, now=tiny.UNTIL).text.lower()
    assert ("our heading" in text, "\npopular" in text) == (own, not own)


@pytest.mark.parametrize(
    ("sources", "heading"),
    [
        (("copurchase", "ease_baskets", "rhythm"), "our heading"), (("copurchase", "rhythm", "rhythm"), "for you"),
        (("copurchase", "popular", "popular"), "for you"), (("popular", "popular", "popular"), "popular"),
    ],
)  # fmt: skip
def test_a_list_is_headed_by_what_most_of_it_is(shop: Engine, sources: tuple[str, ...], heading: str) -> None:
    said = {"subject": "s", "title": "t", "body": "b", "shelves": ["Our heading"], "fallback": "Popular"}
    asked = program("lists", products=False, rating=False, voucher=None,
                    shelves=[{"placement": "cross_sell", "limit": 3}], texts={"en": said})  # fmt: skip
    made = letters.drafted(shop, LISTED, ())
    items = tuple(
        i.model_copy(update={"source": of}) for i, of in zip(made.lists[0].items, sources, strict=False)
    )
    held = made.lists[0].model_copy(update={"placement": "cross_sell", "items": items})
    text = compose(
        shop, asked, made.model_copy(update={"lists": (held,)}), KNOWN, links=None, now=tiny.UNTIL
    ).text
    assert f"\n{heading}\n" in text.lower()


def test_what_goes_with_a_product_does_not_stand_in_for_it(shop: Engine) -> None:
    """Not as fill either: rolls are never bought with spelt loaf, and are bread, too."""
    asked = program("lists", products=False, rating=False, voucher=None,
                    shelves=[{"placement": "cross_sell", "about": "occasion", "limit": 12}],
                    texts={"en": {"subject": "s", "title": "t", "body": "b", "shelves": ["h"]}})  # fmt: skip
    barred = shop.substitutes("cross_sell", ["gold"])
    assert barred >= {"rolls", "spelt"} and shop.substitutes("next_best", ["gold"]) == set()
    made = letters.drafted(shop, asked, ("gold",))
    assert made.lists[0].items and not {item.product_id for item in made.lists[0].items} & barred
    shown = ids(compose(shop, asked, made, KNOWN, links=None, now=tiny.UNTIL))[0]
    assert len(shown) >= 3 and not {*shown} & barred


def test_texts_may_have_words_of_their_own(shop: Engine) -> None:
    """A tier's name, the templates' own words, and stories."""
    own = {"Gold": "Oro", "unsubscribe": "Baja", "regular": "Favorito de usted: {times}"}
    asked = letters.program("lists", trigger={"kind": "tier", "tiers": {"Gold": 5}}, rating=False, products=False,
                            shelves=[{"placement": "buy_again"}], voucher=None,
                            texts={"es": {"subject": "Nivel {{ tier }}", "title": "t", "body": "b", "shelves": ["h"],
                                          "words": own}})  # fmt: skip
    made = compose(shop, asked, letters.drafted(shop, asked, ()), KNOWN, links=None, now=tiny.UNTIL)
    assert made.subject == "Nivel Oro" and "Baja" in made.text and "Favorito de usted: 3" in made.text
    assert faults_of_form(asked, PLACEMENTS) == []
    wrong = asked.model_copy(update={"texts": {"es": asked.texts["es"].model_copy(update={"words": {
        "gld": "x", "regular": "{often}"}})}})  # fmt: skip
    says = [says for _, says in faults_of_form(wrong, PLACEMENTS)]
    assert "nothing is called 'gld'" in says[0] and says[1] == "regular: there is no often" and len(says) == 2


def test_a_price_can_be_calculated_with(shop: Engine) -> None:
    price = Tongue.of("en", "en-GB", None, shop.store).money(2.5)
    text = "Two for {{ price | times: 2 }}, less {{ price | minus: 0.5 | round }}."
    assert filled(text, {"price": price}) == "Two for €5.00, less €2.00."
    assert filled("Two{{ price | times: 2 }}. {{ 3 | plus: price }}", UNKNOWN) == "Two."
    with pytest.raises(LiquidError):
        filled("{{ was | times: 2 }}", UNKNOWN)


def test_a_list_that_is_too_short_is_filled_and_says_so(shop: Engine) -> None:
    made = letters.drafted(shop, LISTED, ())
    held = made.lists[0]
    cut = made.model_copy(update={"lists": (held.model_copy(update={"items": held.items[:4]}),)})
    engine = without(shop, *(item.product_id for item in held.items[:2]))
    found = compose(engine, LISTED, cut, KNOWN, links=None, now=tiny.UNTIL).lists[0]
    assert [item.product_id for item in found.items[:2]] == [item.product_id for item in held.items[2:4]]
    assert len(found.items) == 3 and found.items[2].filled and found.fallback_share > 0


def test_what_fills_a_list_is_for_anybody_and_keeps_its_rules(shop: Engine) -> None:
    """It repeats neither the list's own, what is gone of it included, nor what the message is about, nor what is
    kept out."""
    made = letters.drafted(shop, LISTED, ("soap",))
    held = made.lists[0]
    cut = held.model_copy(update={"items": held.items[:3]})
    gone = [item.product_id for item in cut.items[:2]]
    engine = without(shop, *gone)

    def filled(**changed: object) -> list[str]:
        some = made.model_copy(update={"lists": (cut,), **changed})
        found = compose(engine, LISTED, some, KNOWN, links=None, now=tiny.UNTIL).lists[0]
        assert found.items[0].product_id == cut.items[2].product_id
        return [item.product_id for item in found.items if item.filled]

    first = filled()
    assert len(first) == 2 and not {*first} & {*gone, "soap", cut.items[2].product_id}
    rule = Exclude(rule="exclude", attribute="category", values=(str(tiny.GROCER[first[0]]["category"][0]),))
    barred = filled(rules=(rule,))
    assert first[0] not in barred


def test_a_list_below_its_minimum_is_not_sent(shop: Engine) -> None:
    strict = LISTED.model_copy(update={"shelves": (LISTED.shelves[0].model_copy(update={"minimum": 3}),)})
    made = letters.drafted(shop, strict, ())
    engine = without(shop, *(item.product_id for item in made.lists[0].items))
    with pytest.raises(NotSent, match=r"next_best: \d of at least 3 products"):
        compose(engine, strict, made, KNOWN, links=None, now=tiny.UNTIL)


def test_what_it_is_about_is_looked_at_again(shop: Engine) -> None:
    about = EVERY["all_lists"]
    made = letters.drafted(shop, about)
    with pytest.raises(NotSent, match="nothing of what it is about"):
        compose(without(shop, "bread", "butter"), about, made, KNOWN, links=None, now=tiny.UNTIL)
    message = compose(without(shop, "bread"), about, made, KNOWN, links=None, now=tiny.UNTIL)
    assert message.subject == "Butter is back, Zoë" and "€4.00" in message.text


def test_what_does_not_cost_less_any_more_is_not_said_to(shop: Engine) -> None:
    words = {**letters.WORDS, "was": 2.0, "is": 1.0}
    with pytest.raises(NotSent, match="does not cost less"):
        letter(shop, EVERY["all_lists"], words=words)
    made = letter(shop, EVERY["all_lists"], words=words | {"was": 2.5})
    assert "It costs €2.00, it was €2.50." in made.text, "by the catalogue, not by what was told"


def test_a_program_that_asks_for_other_lists_by_now_is_not_sent(shop: Engine) -> None:
    made = letters.drafted(shop, LISTED, ())
    with pytest.raises(NotSent, match="other lists"):
        compose(shop, EVERY["all_lists"], made, KNOWN, links=None, now=tiny.UNTIL)


def test_stars_need_somewhere_to_lead(shop: Engine) -> None:
    with pytest.raises(NotSent, match="OSCLMS_PUBLIC_URL"):
        letter(shop, EVERY["all_rating"], About())
    made = letter(shop, EVERY["all_rating"])
    assert [f"?stars={n}" in made.html and f"{n}/5: " in made.text for n in range(1, 6)] == [True] * 5


def test_a_text_that_cannot_be_filled_is_not_sent(shop: Engine) -> None:
    texts = {"en": {"subject": "{{ frist_name }}", "title": "t", "body": "b", "shelves": ["h"]}}
    wrong = program("lists", products=False, rating=False, shelves=[{"placement": "next_best"}], texts=texts)
    with pytest.raises(NotSent, match="frist_name"):
        compose(shop, wrong, letters.drafted(shop, wrong), KNOWN, links=None, now=tiny.UNTIL)
    assert [field for field, _ in faults(wrong)] == ["texts.en.subject"]


# --- links --------------------------------------------------------------------------------------------


def test_sealed_links_name_the_product_and_nobody(shop: Engine) -> None:
    made = letter(shop, EVERY["all_lists"], links=LINKS)
    urls = re.findall(rf'href="{re.escape(PUBLIC_URL)}/r/([^"]+)"', made.html)
    clicks = [LINKS.read(token, at=tiny.UNTIL) for token in urls]
    assert {"bread", "butter"} <= {click.product_id for click in clicks}
    assert [click.placement for click in clicks][:2] == ["all_lists", "all_lists"]
    assert "anna" not in "".join(click.model_dump_json() for click in clicks)


def test_direct_links_tell_the_shops_analytics_where_they_stood(shop: Engine) -> None:
    tags = "utm_source=corner&amp;utm_medium=email&amp;utm_campaign=all_lists"
    assert f'href="https://shop.example/bread?{tags}"' in letter(shop, EVERY["all_lists"]).html


def test_the_button_leads_to_the_page_that_the_program_names(shop: Engine) -> None:
    cart, tags = (
        program("lists", page="/cart?open=1"),
        "utm_source=corner&amp;utm_medium=email&amp;utm_campaign=all_lists",
    )
    for products in (("bread",), ("bread", "butter")):
        made = compose(shop, cart, letters.drafted(shop, cart, products), KNOWN, links=LINKS, now=tiny.UNTIL)
        assert f'href="https://shop.example/cart?open=1&amp;{tags}"' in made.html
    for elsewhere in ("cart", "//evil.example", "https://evil.example"):
        with pytest.raises(ValidationError, match="page"):
            program("lists", page=elsewhere)


def test_what_an_unsubscribe_needs_is_with_the_message(shop: Engine) -> None:
    made = letter(shop, EVERY["all_lists"])
    assert made.unsubscribe_url == KNOWN.unsubscribe_url == "https://osclms.example/u/abc"
    assert made.unsubscribe_url in made.html and made.unsubscribe_url in made.text


# --- languages and texts ------------------------------------------------------------------------------


def test_every_language_has_every_word_and_story() -> None:
    for language, words in WORDS.items():
        assert {*words} - {"stories"} == {*WORDS["en"]}, language
        assert language == "en" or {*words["stories"]} == {*STORIES}, language


def test_stories_are_told_in_the_letters_language(shop: Engine) -> None:
    said = letter(shop, EVERY["all_lists"], in_locale("", "fr-CA")).text
    assert not any(story.split("{")[0].strip() in said for story in STORIES.values())
    assert "Prix" not in said and re.search(r"\d,\d\d\s€", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://shop.example/?n={{ first_name | url_encode }}&p=1", "https://shop.example/?n=&p=1"),
        ("Hello {{ first_name }}, look", "Hello, look"),
        ("Hello, {{ first_name }}!", "Hello!"),
        ("{{ first_name }}, your cart", "Your cart"),
        ("Merci, {{ first_name }} !", "Merci !"),
        ("Hi {{ first_name | default: 'you' }}.", "Hi you."),
        ("{% if first_name %}x{% else %}y{% endif %}", "y"),
        ("{% for line in lines %}x{% endfor %}.", "."),
        ("a {{ voucher.code | default: 'x' }} b", "a x b"),
        ("{% unless ordered_on %}a{% endunless %}", "a"),
        ("no Liquid }} here", "no Liquid }} here"),
    ],
)
def test_what_is_missing_leaves_no_gap(text: str, said: str) -> None:
    assert closed(filled(text, UNKNOWN)) == said


@pytest.mark.parametrize(
    "text", ["Thanks for {{ years }} years", "{{ voucher.code }}", "on {{ ordered_on }}"]
)
def test_what_a_text_cannot_do_without_is_said(shop: Engine, text: str) -> None:
    texts = {"en": {"subject": "s", "title": "t", "body": text, "shelves": ["h"]}}
    of = program("lists", products=False, rating=False, shelves=[{"placement": "next_best"}], texts=texts)
    with pytest.raises(
        NotSent, match=r"texts.en: '(years|voucher|ordered_on)' is named, and nothing is known"
    ):
        letter(shop, of, words={})


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in (1..1000) %}{% for b in (1..1000) %}x{% endfor %}{% endfor %}",
        "{% include 'words.yaml' %}",
        "{{ store | nothing }}",
        "{% if %}",
        "{{ store.__class__ }}",
    ],
)
def test_liquid_has_limits(text: str) -> None:
    with pytest.raises(LiquidError):
        filled(text, {"store": "Corner"})
