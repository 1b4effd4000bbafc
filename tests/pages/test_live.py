"""Pages that keep themselves up to date."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import Response

from slipway import tokens
from slipway.api.pages import launches, live, overview, servers
from slipway.api.pages.live import News, Watcher
from slipway.records import LaunchStatus
from tests.pages.document import Document
from tests.pages.yard import Browser, Yard

DEADLINE_S = 30.0

#: Opens a page and answers who looks for its news.
Watch = Callable[[str], Watcher]


@pytest.fixture
def watch(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Looks at the records when the test says so, and not once a second."""
    made: list[Watcher] = []

    def stream(_request: object, make: Callable[[], Watcher]) -> Response:
        made.append(make())
        return Response()

    for module in (launches, overview, servers):
        monkeypatch.setattr(module, "stream", stream)

    def open_page(address: str) -> Watcher:
        page = browser.open(address)
        assert browser.get(page.root.one("main").get("data-live")).status == 200
        return made.pop()

    return open_page


def texts(news: News) -> dict[str, str]:
    """The parts that were sent as they are read; each is whole markup."""
    documents = {name: Document(html) for name, html in news.parts.items()}
    assert [each.faults for each in documents.values() if each.faults] == []
    return {name: each.root.text for name, each in documents.items()}


def test_a_launch_moves_while_the_page_is_open(yard: Yard, watch: Watch) -> None:
    """State, steps, buttons, facts and title come as they change, and nothing before."""
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING)
    look = watch(f"/launches/{work.launch_id}")
    assert look() == News()
    run = work.begin("run-script:10-say", "Run script 10-say")
    run.succeed("it ran", also=lambda c: work.update(c, outputs={"url": "http://192.0.2.1/"}))
    with work.driver.transaction() as connection:
        work.enter(connection, LaunchStatus.OPERATIONAL)
    news = look()
    found = texts(news)
    assert found["state"].startswith("operational after 4.0 s")
    assert "Run script 10-say: succeeded" in found["timeline"]
    assert found["actions"] == "Decommission …Audit"
    assert "http://192.0.2.1/" in found["facts"]
    assert ("title", "web-1: operational · Slipway") in news.events
    assert look() == News()


def test_what_happened_before_the_stream_is_not_missed(yard: Yard, watch: Watch) -> None:
    """Between the page and its stream the launch has gone on: the first look tells."""
    launch = yard.record()
    address = f"/launches/{launch.id}"
    look = watch(address)
    work = yard.take_up(launch)
    yard.drive(work, to=LaunchStatus.CONFIGURING)
    news = look()
    assert texts(news)["state"].startswith("configuring")
    assert [name for name, _ in news.events] == ["title", "begin"]


def test_a_step_that_runs_grows(yard: Yard, watch: Watch) -> None:
    """Its bar is sent again every two seconds, alone."""
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING)
    look = watch(f"/launches/{work.launch_id}")
    look()
    yard.clock.advance(2)
    assert texts(look()).keys() == {"timeline"}
    assert look() == News()


def test_output_comes_as_it_is_printed(yard: Yard, watch: Watch) -> None:
    """Piece by piece behind what is there; that of another script takes its place."""
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING, output=b"one\n")
    look = watch(f"/launches/{work.launch_id}")
    look()

    def printed() -> list[tuple[str, str]]:
        found = []
        for name, html in look().events:
            if name in ("begin", "output"):
                document = Document(html)
                text = document.by_id("output").raw if name == "begin" else document.root.raw
                found.append((name, text))
        return found

    # The first time the whole end is sent: only from then on it is known what the page has.
    yard.say(work, "run-script:10-say", b"two <b>\n\x1b[3", offset=4)
    assert printed() == [("begin", "one\ntwo <b>\n")]
    yard.say(work, "run-script:10-say", b"1mred\x1b[0m\n", offset=15)
    yard.say(work, "run-script:10-say", b"four", offset=28)
    assert printed() == [("output", "red\n"), ("output", "four")]
    yard.say(work, "run-script:20-other", b"another script\n")
    assert printed() == [("begin", "another script\n")]
    assert printed() == []


def test_a_flood_of_output_is_skipped(
    yard: Yard, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more was printed than anybody can read, the page goes on at the end."""
    monkeypatch.setattr(launches, "MOST_PIECES", 5)
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING, output=b"0\n")
    look = watch(f"/launches/{work.launch_id}")
    yard.say(work, "run-script:10-say", b"1\n", offset=2)
    look()
    for number in range(2, 10):
        yard.say(work, "run-script:10-say", f"{number}\n".encode(), offset=2 * number)
    events = [event for event in look().events if event[0] != "title"]
    assert events[-1][0] == "begin"
    assert Document(events[-1][1]).by_id("output").raw.endswith("8\n9\n")


def test_a_long_output_begins_with_its_end(
    yard: Yard, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has the end from a whole line on, and says where all of it is."""
    monkeypatch.setattr(launches, "TAIL_BYTES", 30)
    launch = yard.launch(output=b"a line of output\n" * 5)
    document = browser.open(f"/launches/{launch.id}")
    assert document.by_id("output").raw == "a line of output\n"
    whole = browser.open(document.by_id("output-panel").one("a").get("href"))
    assert whole.root.one("pre", class_="output").raw == "a line of output\n" * 5


def test_a_launch_that_loses_its_driver_says_so(yard: Yard, watch: Watch) -> None:
    """Nothing is written then; the page notices all the same."""
    launch = yard.launch(to=LaunchStatus.CONFIGURING)
    work = yard.take_up(launch)
    look = watch(f"/launches/{launch.id}")
    yard.clock.advance(50)
    assert "state" not in look().parts
    yard.clock.advance(11)  # its lease of 60 s has run out
    found = texts(look())
    assert "Nobody works on it now" in found["state"]
    assert "Resume" in found["actions"]
    assert work.launch_id == launch.id


def test_the_overview_moves(yard: Yard, watch: Watch) -> None:
    """Numbers, what needs attention and what has happened come when any launch changes."""
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING)
    look = watch("/")
    assert look() == News()
    yard.clock.advance(1)
    with work.driver.transaction() as connection:
        work.enter(connection, LaunchStatus.OPERATIONAL)
    found = texts(look())
    assert found.keys() == {"states", "attention", "under-way", "recent"}
    assert "1 operational" in found["states"]
    assert look() == News()


def test_a_list_of_servers_moves(yard: Yard, watch: Watch) -> None:
    """Only when one of its own rows has changed."""
    yard.launch("web-1")
    look = watch("/servers?text=web-1")
    yard.launch("db-1")
    assert look() == News()
    work = yard.take_up(yard.find("web-1"))
    yard.clock.advance(1)
    with work.driver.transaction() as connection:
        work.update(connection, public_ip="198.51.100.7")
    assert "198.51.100.7" in texts(look())["servers"]


# --- The stream itself ----------------------------------------------------------------------------


class Wire:
    """An event stream as it comes over the wire."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Names and what they carry."""
        found = []
        for block in self.text.replace("\r\n", "\n").split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "event" in lines:
                found.append((lines["event"], json.loads(lines["data"])))
        return found


def listen(yard: Yard, browser: Browser, address: str, until: Callable[[Wire], bool]) -> Wire:
    """Open a stream as a browser does, and close it when enough was seen."""
    wire = Wire()

    async def run() -> None:
        request = browser.client.build_request("GET", address)
        asked = False
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                wire.status = message["status"]
                wire.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                wire.text += message.get("body", b"").decode()
                if until(wire):
                    gone.set()

        scope = {
            "type": "http",
            "method": "GET",
            "http_version": "1.1",
            "scheme": "http",
            "path": request.url.path,
            "raw_path": request.url.raw_path,
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": ("127.0.0.1", 4280),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        await asyncio.wait_for(yard.app(scope, receive, send), DEADLINE_S)

    yard.runner.run(run())
    return wire


def test_a_stream_on_the_wire(yard: Yard, browser: Browser) -> None:
    """It is an event stream that no proxy holds back, with parts as JSON; closing it ends it."""
    launch = yard.launch()
    wire = listen(
        yard, browser, f"/live/launches/{launch.id}", lambda wire: "swap" in dict(wire.events)
    )
    assert wire.status == 200
    assert wire.headers["content-type"].startswith("text/event-stream")
    assert wire.headers["x-accel-buffering"] == "no"
    assert wire.headers["cache-control"] == "no-store"
    carried = dict(wire.events)["swap"]
    assert carried["now"] == yard.clock.now().isoformat()
    assert carried["parts"].keys() == {"state", "actions", "timeline", "facts"}
    assert live.open_streams() == 0


def test_a_stream_ends_with_the_login(
    yard: Yard, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is not let in any more sees nothing more."""
    monkeypatch.setattr(live, "LOOK_S", 0.0)
    monkeypatch.setattr(live, "ASK_AGAIN_S", 0.0)
    launch = yard.launch()
    address = f"/live/launches/{launch.id}"

    def seen(wire: Wire) -> bool:
        if wire.events and yard.find_token("anna"):
            tokens.revoke(yard.services.database, yard.clock, "anna", actor="tests")
        return False

    wire = listen(yard, browser, address, seen)
    assert [name for name, _ in wire.events][-1] == "over"
    assert live.open_streams() == 0


def test_too_many_streams_are_refused(
    yard: Yard, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is one too many works without its stream."""
    monkeypatch.setattr(live, "MOST_STREAMS", 0)
    launch = yard.launch()
    assert browser.get(f"/launches/{launch.id}").status == 200
    assert browser.get(f"/live/launches/{launch.id}").status == 503
