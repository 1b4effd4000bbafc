"""The dashboard in a real browser: what moves, what is seen, and what a keyboard reaches."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from slipway import tokens
from slipway.api.app import create_app
from slipway.database import Database
from slipway.launches.requests import find_active
from slipway.settings import Settings
from tests.browser import chromium, picture
from tests.launches.world import World
from tests.pages.fleet import ROOT, make_fleet
from tests.pages.serving import HereAndNow, serving
from tests.pages.yard import Yard

DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 760}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with chromium() as found:
        yield found


@contextmanager
def window(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page of a browser of its own. Whatever its console complains about fails the test."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def listen(message: ConsoleMessage) -> None:
        # A form that comes back with its problems is what the test wanted.
        if message.type in ("error", "warning") and "status of 422" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


def log_in(page: Page, url: str, token: str) -> None:
    """Paste a token."""
    page.goto(f"{url}/")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def check_width(page: Page) -> None:
    """Nothing is wider than the window."""
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1], f"{page.url} is {widths[0]} wide"


# --- With real servers ----------------------------------------------------------------------------


@pytest.fixture
def templates(world: World) -> World:
    """The library's templates, on the local cloud."""
    for name in ("hello-web", "base-linux", "images"):
        target = world.templates_dir / name
        shutil.copytree(ROOT / "templates" / name, target, dirs_exist_ok=True)
    return world


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_from_the_login_to_the_end_of_a_server(browser: Browser, templates: World) -> None:
    """Log in, launch hello-web through the form, watch it become operational without a reload,
    look at its audit; then, on a phone, run a script and take it down."""
    services = templates.services
    engine = HereAndNow(services)
    issued = tokens.create(
        services.database,
        services.clock,
        "anna",
        scopes=["launch", "write"],
        expires_in=None,
        actor="tests",
    )
    token = issued.value.get_secret_value()
    with (
        engine.running(),
        serving(create_app(services, engine)) as url,
        window(browser) as desk,
        window(browser, viewport=PHONE, has_touch=True) as phone,
    ):
        log_in(desk, url, token)
        desk.get_by_role("link", name="Launch a server").first.click()
        # The choice alone asks for the inputs.
        desk.get_by_label("ServerTemplate").select_option("hello-web")
        desk.get_by_label("GREETING").fill("Hello from the dashboard")
        desk.get_by_label("COLOR").select_option("teal")
        desk.get_by_label("API_TOKEN").fill("never-to-be-seen")
        expect(desk.get_by_label("Name")).to_have_value("hello-web-1")
        desk.get_by_role("button", name="Launch", exact=True).click()
        expect(desk.get_by_role("heading", level=1)).to_have_text("Launch of hello-web-1")
        # A page that is loaded anew forgets this.
        desk.evaluate("window.sameAsBefore = true")
        expect(desk.locator("#live")).to_have_text("Live")
        state = desk.locator("#state .badge")
        expect(state).to_have_text("operational")
        expect(desk).to_have_title("hello-web-1: operational · Slipway")
        expect(desk.locator("#timeline")).to_contain_text("Check the health")
        expect(desk.locator("#output")).to_contain_text("answers HTTP 200")
        expect(desk.locator("#facts")).to_contain_text("Hello from the dashboard")
        assert desk.evaluate("window.sameAsBefore")
        launch = find_active(services, "hello-web-1")
        assert launch is not None
        assert launch.requested_by == "token/anna (dashboard)"

        desk.locator("#actions").get_by_role("link", name="Audit").click()
        desk.get_by_role("button", name="Verify the chain").click()
        expect(desk.get_by_role("status")).to_contain_text("The chain holds")
        assert "never-to-be-seen" not in desk.content()

        log_in(phone, url, token)
        check_width(phone)
        phone.goto(f"{url}/servers/hello-web-1")
        check_width(phone)
        phone.get_by_role("link", name="Run … set-greeting").click()
        phone.get_by_label("GREETING").fill("Good evening")
        check_width(phone)
        phone.get_by_role("button", name="Run set-greeting").click()
        expect(phone.locator("#timeline")).to_contain_text("set-greeting")
        check_width(phone)
        expect(phone.locator("#timeline table").nth(1).locator("tbody tr")).to_have_class("ok")
        phone.get_by_role("link", name="Decommission …").click()
        check_width(phone)
        phone.get_by_role("button", name="Decommission hello-web-1").click()
        phone.evaluate("window.sameAsBefore = true")
        expect(phone.locator("#state .badge")).to_have_text("terminated")
        assert phone.evaluate("window.sameAsBefore")
        assert find_active(services, "hello-web-1") is None
    templates.verify(launch)


# --- With a made-up fleet -------------------------------------------------------------------------


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
            page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
            page.goto(url + address)
            check_width(page)
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert page.evaluate(CONTRAST) == [], f"{name}, {scheme}"
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
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
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(url + addresses(yard)[kind])
            if page.locator("#live").count():
                expect(page.locator("#live")).to_have_text("Live")
            picture(page, f"dashboard-{name}")
