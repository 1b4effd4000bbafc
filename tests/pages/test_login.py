"""Who sees a page, and who may press what."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from fastapi.routing import APIRoute

from slipway import tokens
from slipway.api.pages import pages_router
from slipway.api.pages.web import inside
from slipway.database import Database
from slipway.errors import DatabaseUnavailable
from slipway.records import LaunchStatus
from tests.pages.yard import Browser, Yard

#: Open to everybody.
OPEN = {"/login", "/logout", "/static/{name}"}


def routes() -> Iterator[tuple[str, str]]:
    """Every page as (method, address)."""
    for route in pages_router().routes:
        assert isinstance(route, APIRoute)
        if route.path in OPEN:
            continue
        address = re.sub(r"\{[^}]*\}", "web-1", route.path)
        yield from ((method, address) for method in route.methods)


ROUTES = sorted(routes())
FORMS = [address for method, address in ROUTES if method == "POST"]


def test_there_are_routes() -> None:
    """The tests that go through all routes have some to go through."""
    assert len(ROUTES) > 25
    assert len(FORMS) >= 8


@pytest.fixture
def stranger(yard: Yard) -> Browser:
    """A browser that is not logged in."""
    return Browser(yard)


def test_nothing_is_seen_without_a_login(stranger: Browser) -> None:
    """Every page and every form of ours asks for a login first."""
    for method, address in ROUTES:
        page = stranger.get(address) if method == "GET" else stranger.post(address, {})
        assert page.status == 303, address
        assert page.location.startswith("/login?next="), address


def test_forms_of_others_are_refused(browser: Browser) -> None:
    """A form without the mark of a page of ours changes nothing, whatever the cookie says."""
    for address in FORMS:
        for given in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ä"}):
            page = browser.post(address, given)
            assert page.status == 403, address
            assert "reload the page" in page.document.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_forms_from_other_sites_are_refused(
    yard: Yard, browser: Browser, headers: dict[str, str]
) -> None:
    """Also with the right mark, and at the login, where there is none yet."""
    form = browser.open("/environments").form("Make it")
    page = browser.post("/environments", {**form.values, "name": "prod"}, **headers)
    assert page.status == 403
    page = Browser(yard).post("/login", {"token": yard.token(name="bob")}, **headers)
    assert page.status == 403
    assert browser.post("/environments", {**form.values, "name": "prod"}).status == 303


def test_a_mark_is_of_one_login(yard: Yard, browser: Browser) -> None:
    """What one login's page carries is of no use to another's."""
    mark = browser.open("/environments").form("Make it").values["csrf"]
    other = yard.browser(name="bob")
    assert other.post("/environments", {"name": "prod", "csrf": mark}).status == 403


def test_a_token_that_only_reads_changes_nothing(yard: Yard) -> None:
    """Every form is refused, also with the mark of a page."""
    reader = yard.browser("read", name="reader")
    mark = reader.open("/").form("reader Log out").values["csrf"]
    for address in FORMS:
        page = reader.post(address, {"csrf": mark})
        assert page.status == 403, address
        assert "which the token reader lacks" in page.document.text


def test_buttons_that_may_not_be_pressed_are_not_shown(yard: Yard) -> None:
    """Who only reads sees the same facts, and no button that would be refused."""
    launch = yard.launch("web-1", to=LaunchStatus.STRANDED)
    up = yard.launch("web-2")
    reader, launcher = yard.browser("read", name="reader"), yard.browser("launch", name="boss")
    address = f"/launches/{launch.id}"
    assert {"Resume", "Decommission …"} <= set(launcher.open(address).buttons())
    assert reader.open(address).buttons() == ["Audit"]
    assert "Run … greet" in launcher.open(f"/servers/{up.server_name}").buttons()
    assert "Run … greet" not in reader.open(f"/servers/{up.server_name}").buttons()
    assert "Launch a server" not in reader.open("/").links()
    # Launching is not writing.
    assert "Make it" not in launcher.open("/environments").buttons()
    for each in (f"{address}/decommission", "/launch", "/servers/web-2/run/greet"):
        assert reader.get(each).status == 403


def test_a_wrong_token_opens_nothing(yard: Yard, stranger: Browser) -> None:
    """Unknown, revoked and expired ones are told apart by nobody, and none is shown again."""
    good = yard.token(name="gone")
    tokens.revoke(yard.services.database, yard.clock, "gone", actor="tests")
    for token in ("slw_nonsense", "", good):
        page = stranger.post("/login", {"token": token, "next": "/servers"})
        assert page.status == 401
        assert "unknown, has expired or was revoked" in page.document.text
        assert not token or token not in page.html
        assert page.document.field("API token").get("value") == ""
        assert "set-cookie" not in page.response.headers
    assert stranger.get("/").status == 303


def test_the_cookie_is_kept_from_scripts_and_other_sites(yard: Yard, stranger: Browser) -> None:
    """It names the token, is signed, and is not the token."""
    value = yard.token()
    page = stranger.post("/login", {"token": value, "next": "/audit?kind=error"})
    assert page.location == "/audit?kind=error"
    [(name, cookie)] = SimpleCookie(page.response.headers["set-cookie"]).items()
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert not name.startswith("__Host-")
    assert value not in page.response.headers["set-cookie"]


def test_with_tls_the_cookie_travels_with_tls_only(yard: Yard) -> None:
    """And its name keeps others from setting it."""
    browser = Browser(yard, "https://slipway.example")
    page = browser.post("/login", {"token": yard.token(), "next": "/"})
    [(name, cookie)] = SimpleCookie(page.response.headers["set-cookie"]).items()
    assert cookie["secure"]
    assert name.startswith("__Host-")
    assert browser.get("/").status == 200


def test_a_cookie_cannot_be_made_up(yard: Yard, browser: Browser) -> None:
    """Any change to it, and it is nobody's."""
    [cookie] = browser.client.cookies.jar
    assert browser.get("/").status == 200
    body, _, signature = str(cookie.value).rpartition(".")
    for forged in (f"{body}.", f"{body}x.{signature}", f".{signature}", "", "x", f"{body}.\xe4"):
        page = Browser(yard).get("/", Cookie=f"{cookie.name}={forged}")
        assert page.status == 303, forged


def test_a_login_ends(yard: Yard, browser: Browser) -> None:
    """After twelve hours, and at once when its token is revoked or has lost its time."""
    yard.clock.advance(12 * 3600 - 1)
    assert browser.get("/").status == 200
    yard.clock.advance(1)
    assert browser.get("/").status == 303
    other = yard.browser(name="bob")
    tokens.revoke(yard.services.database, yard.clock, "bob", actor="tests")
    assert other.get("/").status == 303


def test_logging_out(browser: Browser) -> None:
    """The browser forgets the cookie."""
    page = browser.send("/", "anna Log out")
    assert (page.status, page.location) == (303, "/login")
    assert browser.get("/").status == 303


def test_after_the_login_goes_on_where_it_was_wanted(yard: Yard, stranger: Browser) -> None:
    """The address with its query comes back, and only one of ours."""
    page = stranger.get("/servers?state=stranded&text=a%26b")
    form = stranger.open(page.location).form("Log in")
    page = stranger.post("/login", {**form.values, "token": yard.token()})
    assert page.location == "/servers?state=stranded&text=a%26b"
    # Logged in already: the form is not asked for again.
    assert stranger.get("/login?next=/audit").location == "/audit"


@pytest.mark.parametrize(
    "address",
    [
        "http://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "evil",
        "",
    ],
)
def test_nobody_is_sent_elsewhere(address: str) -> None:
    """An address that is not ours becomes the first page."""
    assert inside(address) == "/"


def test_a_link_from_elsewhere_finds_the_login(yard: Yard, browser: Browser) -> None:
    """The browser keeps a strict cookie from the first request; a page of ours asks again."""
    address = "/servers?state=stranded"
    page = Browser(yard).get(address, **{"Sec-Fetch-Site": "cross-site"})
    assert page.status == 200
    [refresh] = page.document.root.all("meta", **{"http-equiv": "refresh"})
    assert refresh.get("content") == "0"
    # What comes then is from our own page.
    assert Browser(yard).get(address, **{"Sec-Fetch-Site": "same-origin"}).status == 303
    assert browser.get(address, **{"Sec-Fetch-Site": "same-origin"}).status == 200


def test_a_database_that_is_away(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page says so in a sentence, though nobody can be asked whose login it is."""

    @contextlib.contextmanager
    def away(_: Database) -> Iterator[None]:
        raise DatabaseUnavailable("the database cannot be used now: db.example refuses")
        yield

    monkeypatch.setattr(Database, "reading", away)
    page = browser.get("/")
    assert page.status == 503
    assert "The database does not answer. Try again." in page.document.text
    assert "db.example" not in page.document.text
