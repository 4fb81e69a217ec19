"""The page in a browser: it sorts, it fits, it can be read, and it asks for nothing."""

import itertools
import re
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium to open the page in")

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, page_file):
    """Open the page of ``report``; what it complained of and asked for is in ``page.heard``."""
    contexts = []

    def open_it(*, width=1400, scheme="light"):
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("dialog", lambda dialog: (page.heard.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.heard.append(request.url))
        page.goto(page_file.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()


def first_column(page, table):
    return page.locator(table).locator("tbody th").all_inner_texts()


COMPARISON = "#comparison table >> nth=0"


def heading(page, text):
    return page.locator(COMPARISON).locator("thead button", has_text=text)


def test_a_click_puts_the_best_first_and_a_second_the_worst(open_page, hostile_name):
    page = open_page()
    # Means over two seeds: 70.5, 95.5 and 10.0.
    assert first_column(page, COMPARISON) == ["random init", "MoCo v2", hostile_name]
    button = heading(page, "knn")
    button.click()
    assert first_column(page, COMPARISON) == ["MoCo v2", "random init", hostile_name]
    head = page.locator(COMPARISON).locator("th[aria-sort]")
    assert head.count() == 1
    assert head.get_attribute("aria-sort") == "descending"
    button.click()
    assert first_column(page, COMPARISON) == [hostile_name, "random init", "MoCo v2"]
    assert head.get_attribute("aria-sort") == "ascending"


def test_the_keyboard_sorts_as_the_mouse_does(open_page, hostile_name):
    page = open_page()
    heading(page, "knn").focus()
    page.keyboard.press("Enter")
    assert first_column(page, COMPARISON)[0] == "MoCo v2"
    page.keyboard.press("Space")
    assert first_column(page, COMPARISON)[0] == hostile_name
    # The column before it is that of the other probe, and before that the names'.
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert first_column(page, COMPARISON) == [hostile_name, "MoCo v2", "random init"]


def test_what_has_no_number_stays_last_in_either_direction(open_page, hostile_name):
    page = open_page()
    button = heading(page, "linear-lbfgs")
    for _ in range(2):
        button.click()
        assert first_column(page, COMPARISON)[-1] == hostile_name


def test_of_what_runs_cost_the_least_comes_first(open_page):
    page = open_page()
    table = "article >> nth=0 >> table >> nth=0"
    rows = first_column(page, table)
    assert len(rows) == 3
    page.locator(table).locator("thead button", has_text="wall time").click()
    # Of random init kNN takes 3 seconds, the others 1.5.
    assert "knn" in first_column(page, table)[-1]


def test_the_page_asks_for_nothing_and_does_not_complain(open_page, page_file):
    page = open_page()
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.locator("main button.zoom").first.click()
    page.locator("dialog .close").click()
    page.wait_for_timeout(100)
    others = [what for what in page.heard if not what.startswith("data:image/webp;base64,")]
    assert others == [page_file.as_uri()]


def test_a_name_and_an_error_are_text_and_never_markup(open_page, hostile_name):
    page = open_page()
    assert page.locator("article h3").all_inner_texts() == ["random init", "MoCo v2", hostile_name]
    assert page.locator("script").count() == 1
    assert "Loss is <nan> at step 3." in page.locator(".failures").first.inner_text()


def test_the_policy_stops_a_script_that_is_not_the_pages_own(open_page):
    page = open_page()
    page.evaluate(
        "const own = document.createElement('script'); own.textContent = 'window.ran = true';"
        "document.body.append(own)"
    )
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_never_scrolls_sideways(open_page, width):
    page = open_page(width=width)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # A table that is wider than a phone scrolls in its own box, which the keyboard reaches.
    box = page.locator(".scroll").first
    wide = box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert wide == (width == 360)
    assert box.get_attribute("tabindex") == "0"
    assert box.get_attribute("aria-label")


def test_every_picture_has_pixels_and_says_what_it_shows(open_page):
    page = open_page()
    page.evaluate(
        "for (const each of document.querySelectorAll('details')) each.open = true;"
        "for (const image of document.images) image.loading = 'eager'"
    )
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    images = page.evaluate(
        "[...document.images].map(image => [image.alt, image.naturalWidth, image.naturalHeight])"
    )
    # The heat map and the cost; of each encoder the first seed's three; of two a sensitivity.
    assert len(images) == 2 + 3 * 3 + 2
    assert all(len(alt) > 20 and width > 100 and height > 100 for alt, width, height in images)


def test_every_table_and_picture_gives_its_numbers(open_page):
    page = open_page()
    links = page.evaluate(
        "[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href])"
    )
    assert len(links) == page.locator("figure, table").count()
    assert all(href.startswith("data:text/csv") and name.endswith(".csv") for name, href in links)
    with page.expect_download() as waiting:
        page.locator("#comparison a[download]").first.click()
    assert "MoCo v2" in waiting.value.path().read_text()


def test_a_picture_opens_in_its_own_size_and_escape_closes_it(open_page):
    page = open_page(width=360)
    page.locator("#glance button.zoom").first.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog img")
    assert shown.evaluate("image => image.width") > 360
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert shown.count() == 0


# Ratio of contrast by WCAG 2.2 between an element's text and what lies behind it.
CONTRAST = """element => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((each) => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  const isClear = (each) => channels(getComputedStyle(each).backgroundColor)[3] === 0;
  while (behind.parentElement && isClear(behind)) behind = behind.parentElement;
  const [one, other] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
    .map(luminance).sort();
  return (other + 0.05) / (one + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_told_from_what_lies_behind_it(open_page, scheme):
    page = open_page(scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    for kind in (
        "h1",
        ".lead",
        "dt",
        "dd",
        "main a",
        "nav a",
        "td",
        "tbody th",
        ".note",
        "summary",
        ".failures li",
        ".better",
        ".worse",
        ".missing",
        "thead button",
    ):
        ratio = page.locator(kind).first.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{kind} in {scheme}: {ratio:.2f}"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")


def test_a_print_is_light_and_shows_everything_and_is_undone(open_page):
    page = open_page(scheme="dark")
    folded = page.locator("details:not([open])").count()
    assert folded > 3
    num_buttons = page.locator("thead button").count()
    page.emulate_media(media="print", color_scheme="dark")
    sync_api.expect(page.locator("details:not([open])")).to_have_count(0)
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert page.locator("h1").evaluate(CONTRAST) > 15
    assert not page.locator("nav").is_visible()
    # Buttons would be left out of headings that are repeated.
    assert page.locator("thead button").count() == 0
    page.emulate_media(media="screen", color_scheme="dark")
    sync_api.expect(page.locator("details:not([open])")).to_have_count(folded)
    assert page.locator("thead button").count() == num_buttons


def test_who_hears_or_tabs_through_the_page_finds_the_way(open_page):
    page = open_page()
    assert page.locator("html").get_attribute("lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav[aria-label]", "main"):
        assert page.locator(landmark).count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    targets = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
    )
    assert set(targets) <= set(ids)
    assert len(targets) >= 3 + 3 + 2
    # The first stop is the link that skips what stands above the tables, and it is seen.
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("link => link === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    assert skip.evaluate("link => getComputedStyle(link).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.url.endswith("#comparison")
