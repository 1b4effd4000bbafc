"""The dashboard in a real browser: what moves, what is seen, and what a keyboard reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from slipway.database import Database
from slipway.settings import Settings
from tests.browser import DESKTOP, PHONE, check_width, chromium, log_in, picture, window
from tests.pages.fleet import make_fleet
from tests.pages.serving import serving
from tests.pages.yard import Yard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Yard, str, str]]:
    """A fleet that stands still, its address, and a token."""
    directory = tmp_path_factory.mktemp("fleet")
    database = Database(f"sqlite:///{directory}/slipway.db")
    database.migrate()
    settings = Settings(state_dir=directory / "state", prefect_ui_url="http://127.0.0.1:4200")
    # Never used: the only browser here is a real one, which brings a loop of its own.
    yard = make_fleet(settings, database, directory, asyncio.Runner(), servers=8)
    with serving(yard.app) as url:
        yield yard, url, yard.token()
    database.close()


def addresses(yard: Yard) -> dict[str, str]:
    """Every kind of page."""
    stranded, going = yard.find("cache-2"), yard.find("hello-1")
    return {
        "overview": "/",
        "servers": "/servers",
        "server": "/servers/web-3",
        "launch": f"/launches/{going.id}",
        "stranded": f"/launches/{stranded.id}",
        "resumed": f"/launches/{yard.find('api-1').id}",
        "question": f"/launches/{stranded.id}/decommission",
        "new": "/launch?template=hello-web&environment=prod",
        "environments": "/environments",
        "environment": "/environments/prod",
        "templates": "/templates",
        "template": "/templates/hello-web",
        "script": "/templates/hello-web/scripts/50-install",
        "audit": "/audit",
        "search": "/audit?kind=error",
        "record": f"/audit/launch/{stranded.id}?verify=yes",
    }


#: Every text that is seen, with the contrast to what is behind it, where that is too little: 4.5,
#: or 3 for large letters (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [.2126, .7152, .0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgba('white');
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const a = light(rgba(style.color)) + .05, b = light(behind(element)) + .05;
    const contrast = Math.max(a, b) / Math.min(a, b);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    if (contrast < needed) poor.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
  }
  return poor;
}"""


#: What is pressed and is too small for a finger (WCAG 2.2, 2.5.8).
SMALL = """[...document.querySelectorAll('main button, main .button, main select, main input')]
  .filter((each) => each.type !== 'hidden' && each.checkVisibility())
  .filter((each) => each.getBoundingClientRect().height < 24)
  .map((each) => each.outerHTML)"""


@pytest.mark.slow
def test_everything_can_be_read_everywhere(browser: Browser, fleet: tuple[Yard, str, str]) -> None:
    """On every page every text stands out from its ground in both colour schemes, and on a phone
    nothing is wider than the screen or smaller than a finger."""
    yard, url, token = fleet
    with window(browser, reduced_motion="reduce", has_touch=True) as page:
        log_in(page, url, token)
        for name, address in addresses(yard).items():
            page.set_viewport_size(DESKTOP)
            page.goto(url + address)
            check_width(page)
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert page.evaluate(CONTRAST) == [], f"{name}, {scheme}"
            page.set_viewport_size(PHONE)
            check_width(page)
            assert page.evaluate(SMALL) == [], name


@pytest.mark.slow
def test_a_keyboard_reaches_everything(browser: Browser, fleet: tuple[Yard, str, str]) -> None:
    """The first stop leads past the header; every stop is seen; a part that is sent anew keeps the
    place of whoever is in it."""
    yard, url, token = fleet
    with window(browser) as page:
        log_in(page, url, token)
        page.goto(f"{url}/servers")
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for _ in range(12):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        link = page.get_by_role("link", name="cache-2")
        link.focus()
        expect(page.locator("#live")).to_have_text("Live")
        work = yard.take_up(yard.find("web-1"))
        yard.clock.advance(1)
        with work.driver.transaction() as connection:
            work.update(connection, public_ip="198.51.100.7")
        work.driver.release()
        expect(page.locator("#servers")).to_contain_text("198.51.100.7")
        expect(link).to_be_focused()


@pytest.mark.slow
def test_without_scripts(browser: Browser, fleet: tuple[Yard, str, str]) -> None:
    """Pages are whole, say that they do not move, and forms lead through a launch."""
    yard, url, token = fleet
    with window(browser, java_script_enabled=False) as page:
        log_in(page, url, token)
        expect(page.get_by_role("status")).to_have_text("Reload the page to see what is new.")
        page.get_by_role("link", name="Launch a server").click()
        page.get_by_label("ServerTemplate").select_option("hello-web")
        page.get_by_role("button", name="Go on").click()
        page.get_by_label("Name").fill("Not A Name")
        page.get_by_label("JOURNAL_MAX_MIB").fill("64")
        page.get_by_role("button", name="Launch", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("nothing was done")
        page.get_by_label("Name").fill("by-hand-1")
        page.get_by_role("button", name="Launch", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Launch of by-hand-1")
    assert yard.find("by-hand-1").inputs == {"JOURNAL_MAX_MIB": "64"}


@pytest.mark.slow
def test_pictures(browser: Browser, fleet: tuple[Yard, str, str]) -> None:
    """What the documentation shows can be drawn, and is small."""
    yard, url, token = fleet
    with window(browser) as page:
        log_in(page, url, token)
        for name, kind, size, scheme in (
            ("overview", "overview", DESKTOP, "light"),
            ("launch", "launch", DESKTOP, "light"),
            ("launch-dark", "launch", DESKTOP, "dark"),
            ("new", "new", DESKTOP, "light"),
            ("audit", "record", DESKTOP, "light"),
            ("phone", "stranded", PHONE, "light"),
        ):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(url + addresses(yard)[kind])
            if page.locator("#live").count():
                expect(page.locator("#live")).to_have_text("Live")
            picture(page, f"dashboard-{name}")
