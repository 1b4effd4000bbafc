"""The first page, and the list of servers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from slipway.api.pages import queries
from slipway.database import Database
from slipway.launches.environments import create_environment
from slipway.records import LaunchStatus
from tests.pages.document import Document
from tests.pages.yard import Browser, Yard


def tiles(document: Document) -> dict[str, str]:
    """The number of each state."""
    found = (tile.text.split() for tile in document.root.all("a", class_="tile"))
    return {label: number for number, label in found}


def test_servers_by_state(yard: Yard, browser: Browser) -> None:
    """Each server counts in one tile, and the tile leads to exactly these."""
    assert tiles(browser.open("/")) == dict.fromkeys(
        ("operational", "starting", "stranded", "cancelled", "decommissioning"), "0"
    )
    for number, to in enumerate(
        (
            LaunchStatus.OPERATIONAL,
            LaunchStatus.OPERATIONAL,
            LaunchStatus.CONFIGURING,
            LaunchStatus.REQUESTED,
            LaunchStatus.STRANDED,
            LaunchStatus.DECOMMISSIONING,
            LaunchStatus.TERMINATED,
        )
    ):
        yard.launch(f"web-{number}", to=to)
    document = browser.open("/")
    assert tiles(document) == {
        "operational": "2",
        "starting": "2",
        "stranded": "1",
        "cancelled": "0",
        "decommissioning": "1",
    }
    for tile in document.root.all("a", class_="tile"):
        rows = browser.open(tile.get("href")).root.all("th", scope="row")
        assert len(rows) == int(tile.text.split()[0]), tile.text


def test_what_needs_attention_comes_first(yard: Yard, browser: Browser) -> None:
    """A stranded server with its reason, a step that takes long, a launch that nobody drives, one
    that nobody took up; and nothing else."""
    assert "Nothing is stranded" in browser.open("/").text
    yard.launch("fine")
    yard.record("waits")
    lost = yard.take_up(yard.record("lost"))
    lost.begin("resolve-template", "Resolve the template", phase=LaunchStatus.PROVISIONING)
    lost.driver.release()
    slow = yard.take_up(yard.record("slow"))
    slow.begin("create-instance", "Create the instance", phase=LaunchStatus.PROVISIONING)
    yard.launch("bad", to=LaunchStatus.STRANDED, reason="script Say it ended with exit code 3")
    yard.clock.advance(50)
    assert [*attention(browser)] == ["bad"]
    yard.clock.advance(queries.LONG_STEP.total_seconds())
    slow.driver.renew()
    yard.record("fresh")
    assert attention(browser) == {
        "bad": "Run script 10-say: script Say it ended with exit code 3",
        "waits": "Nobody has taken it up since it was requested. Is a worker running?",
        "lost": "Nobody works on it any more; it was at: Resolve the template. It can be resumed.",
        "slow": "Create the instance takes long: 5 min 59 s so far.",
    }
    heading = browser.open("/").by_id("h-attention").text
    assert heading == "Needs attention 4"


def attention(browser: Browser) -> dict[str, str]:
    """What is said of each server, in order."""
    section = browser.open("/").by_id("attention")
    return {
        card.one("strong").text: card.all("p")[1].text for card in section.all("li", class_="card")
    }


def test_what_goes_on_and_what_has_happened(yard: Yard, browser: Browser) -> None:
    """Launches under way with their step, and the last changes, the newest first."""
    yard.launch("old")
    yard.clock.advance(60)
    work = yard.take_up(yard.record("new"))
    yard.drive(work, to=LaunchStatus.CONFIGURING)
    document = browser.open("/")
    assert document.by_id("under-way").one("li").text == "new configuring 4 s Run script 10-say"
    changes = [row.text for row in document.by_id("recent").all("li")]
    assert [row.split()[:2] for row in changes] == [["new", "configuring"], ["old", "operational"]]
    assert "requested by anna" in changes[0]


@pytest.fixture
def fleet(yard: Yard) -> Yard:
    """Servers in two environments."""
    for name in ("prod", "staging"):
        create_environment(yard.services.database, yard.clock, name, actor="tests")
    yard.launch("db-1", environment="prod")
    yard.launch("web-1", environment="prod")
    yard.launch("web-2", environment="staging", to=LaunchStatus.STRANDED, reason="no space left")
    yard.launch("old-1", to=LaunchStatus.TERMINATED)
    return yard


def test_servers_are_found(fleet: Yard) -> None:
    """By state, environment, template and any part of name, address and reason."""
    browser = fleet.browser()
    for query, names in {
        "": ["db-1", "web-1", "web-2"],
        "?environment=prod": ["db-1", "web-1"],
        "?state=stranded": ["web-2"],
        "?state=terminated": ["old-1"],
        "?text=WEB": ["web-1", "web-2"],
        "?text=no%20space": ["web-2"],
        "?text=192.0.2.1": ["db-1", "web-1", "web-2"],
        # What is a pattern to a database is a letter to a person.
        "?text=%25": [],
        "?text=_": [],
        "?template=web&environment=staging&state=stranded&text=web": ["web-2"],
        "?template=other": [],
        "?state=nonsense": [],
    }.items():
        document = browser.open(f"/servers{query}")
        assert [row.text for row in document.root.all("th", scope="row")] == names, query
    # The form shows what was asked for, so that it can be changed.
    values = browser.open("/servers?text=%25&environment=prod").form("Filter").values
    assert (values["text"], values["environment"]) == ("%", "prod")


def test_a_stranded_server_says_why(fleet: Yard) -> None:
    """The reason stands in the list, below its server."""
    document = fleet.browser().open("/servers?state=stranded")
    assert document.root.one("tr", class_="detail").text == "Run script 10-say: no space left"


def test_servers_come_in_pages(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and backwards each server is seen once, also when others come and go meanwhile."""
    monkeypatch.setattr("slipway.api.pages.servers.PAGE", 3)
    for number in range(8):
        yard.record(f"web-{number}")
    browser = yard.browser()
    pages, address = [], "/servers?text=web"
    while True:
        document = browser.open(address)
        pages.append([row.text for row in document.root.all("th", scope="row")])
        if len(pages) == 2:
            yard.record("web-00")
        links = document.links()
        if "Next →" not in links:
            break
        address = links["Next →"]
    assert pages == [["web-0", "web-1", "web-2"], ["web-3", "web-4", "web-5"], ["web-6", "web-7"]]
    back = []
    while "← Previous" in links:
        document = browser.open(links["← Previous"])
        back.append([row.text for row in document.root.all("th", scope="row")])
        links = document.links()
    assert back == [["web-3", "web-4", "web-5"], ["web-00", "web-1", "web-2"], ["web-0"]]


def test_the_questions_are_answered_from_an_index(database: Database) -> None:
    """What open pages ask every second, and the lists, read no launch that has ended long ago."""
    asked: list[tuple[str, Any]] = []
    sa.event.listen(
        database._engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, values, *_: asked.append((statement, values)),
    )
    queries.last_change(database)
    queries.state_counts(database)
    queries.under_way(database, limit=8)
    queries.servers(database, queries.ServerFilter(state="stranded"), limit=50)
    selects = [each for each in asked if each[0].startswith("SELECT")]
    assert len(selects) == 4
    with database.reading() as connection:
        for statement, values in selects:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            plan = " ".join(str(row[3]) for row in rows)
            assert re.search("USING (COVERING )?INDEX (uq_launch_active|ix_launch_updated)", plan)


def test_the_cost_of_a_page_does_not_grow(
    yard: Yard, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a page of them, more servers do not make a page larger, nor have it ask more."""
    asked: list[str] = []
    sa.event.listen(
        yard.services.database._engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: asked.append(statement),
    )
    monkeypatch.setattr("slipway.api.pages.servers.PAGE", 8)
    monkeypatch.setattr("slipway.api.pages.audits.RECORDS", 8)
    costs = []
    for fleet in (range(10), range(10, 30)):
        for number in fleet:
            yard.record(f"web-{number:03}")
        asked.clear()
        sizes = [browser.open(address).size for address in ("/", "/servers", "/audit")]
        costs.append((sizes, len(asked)))
    (small, few), (large, more) = costs
    assert few == more
    assert all(abs(b - a) < 200 for a, b in zip(small, large, strict=True))
