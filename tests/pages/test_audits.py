"""The audit browser."""

from __future__ import annotations

import json

import sqlalchemy as sa

from slipway import audit
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from tests.pages.document import Document
from tests.pages.yard import Browser, Yard


def said(document: Document) -> list[str]:
    """The summaries of a record's page, in order."""
    return [each.text for each in document.root.all("span", class_="said")]


def test_records_are_listed(yard: Yard, browser: Browser) -> None:
    """Launches by their last change, and the records that are about something else."""
    first = yard.launch("web-1")
    yard.clock.advance(60)
    yard.launch("web-2")
    document = browser.open("/audit")
    table = document.root.one("table")
    assert [row.text for row in table.all("th", scope="row")] == ["web-2", "web-1"]
    assert str(len(yard.entries(first))) in table.all("tr")[2].text
    others = document.root.one("section", **{"aria-labelledby": "h-others"})
    assert any(link.text.startswith("token/") for link in others.all("a"))
    assert [row.text for row in browser.open("/audit?text=B-1").root.all("th", scope="row")] == [
        "web-1"
    ]


def test_a_record_is_shown_whole(yard: Yard, browser: Browser) -> None:
    """Every entry in order with who, what and when; output as text; detail at hand."""
    launch = yard.launch(output=b"Hello <b>world</b>\n\x1b[31mred\x1b[0m \xff\n")
    entries = yard.entries(launch)
    document = browser.open(f"/audit/launch/{launch.id}")
    assert document.h1 == "Audit of web-1"
    assert said(document) == [entry.summary for entry in entries]
    [output] = document.root.all("pre", class_="output")
    assert output.raw == "Hello <b>world</b>\nred \ufffd\n"
    assert output.one("span", class_="c1").text == "red"
    first = document.by_id("e1")
    assert "anna" in first.text
    assert json.loads(first.one("pre", class_="source").raw)["template"] == "web"


def test_entries_are_filtered(yard: Yard, browser: Browser) -> None:
    """By kind, step, actor and time, within one record."""
    launch = yard.launch()
    record = f"/audit/launch/{launch.id}"

    def found(query: str) -> list[str]:
        return said(browser.open(f"{record}?{query}"))

    assert found("kind=output") == ["6 bytes of output"]
    assert found("step=create-instance") == ["Create the instance", "instance i-1 created"]
    assert found("kind=info&step=create-instance") == ["instance i-1 created"]
    assert found("actor=ANN") == ["launch of server web-1 requested"]
    # The clock stands at 00:00:09 on the first of January.
    assert found("kind=section&since=2026-01-01T00:00:02") == ["Run script 10-say"]
    assert found("kind=section&until=2026-01-01T00:00:01") == ["Resolve the inputs"]
    document = browser.open(f"{record}?since=yesterday")
    assert "yesterday is not a time" in document.text


def test_a_long_record_comes_in_pages(yard: Yard, browser: Browser) -> None:
    """No entry is on two pages or on none, and much output ends a page early."""
    launch = yard.launch(to=LaunchStatus.CONFIGURING)
    work = yard.take_up(launch)
    sent = 6
    for _ in range(6):
        yard.say(work, "run-script:10-say", b"x" * 30_000, offset=sent)
        sent += 30_000
    seen, address = [], f"/audit/launch/{launch.id}"
    pages = 0
    while address:
        page = browser.get(address, largest_bytes=160 * 1024)
        document = page.document
        seen += [int(each.text) for each in document.root.all("a", class_="seq")]
        address, pages = document.links().get("Next →", ""), pages + 1
    assert seen == [entry.seq for entry in yard.entries(launch)]
    assert pages == 2


def test_a_search_over_all_records(yard: Yard, browser: Browser) -> None:
    """Entries of many servers, the newest first, each leading to its place in its record."""
    yard.launch("web-1", to=LaunchStatus.STRANDED, reason="no space left on <disk>")
    yard.clock.advance(60)
    yard.launch("web-2", to=LaunchStatus.STRANDED, reason="script Say it ended with exit code 9")
    yard.launch("web-3")
    document = browser.open("/audit?kind=error")
    rows = document.root.one("tbody").all("tr")
    assert [row.one("th").text.split()[0] for row in rows] == ["web-2", "web-1"]
    assert rows[1].all("td")[2].text == "no space left on <disk>"
    target = browser.open(rows[1].one("a").get("href"))
    assert said(target)[0] == "no space left on <disk>"
    assert "2 entries in the 3 records that changed last" in document.text
    narrowed = browser.open("/audit?kind=error&until=2026-01-01T00:00:30")
    assert [row.text.split()[0] for row in narrowed.root.all("th", scope="row")] == ["web-1"]
    assert "0 entries" in browser.open("/audit?actor=nobody").text


def test_the_chain_is_verified(yard: Yard, browser: Browser) -> None:
    """A button says that it holds, with its head; or which entry was changed."""
    launch = yard.launch()
    address = f"/audit/launch/{launch.id}"
    form = browser.open(address).form("Verify the chain")
    assert form.values == {"verify": "yes"}
    document = browser.open(f"{address}?verify=yes")
    held = audit.verify(yard.services.database, subject_of(launch.id))
    assert f"All {held.entries} entries are as they were written" in document.text
    assert held.head in document.text
    with yard.services.database.transaction() as connection:
        connection.execute(sa.text("UPDATE audit_entry SET summary = 'nothing' WHERE seq = 3"))
    document = browser.open(f"{address}?verify=yes")
    card = document.root.one("div", class_="card")
    assert "bad" in card.get("class")
    assert "The chain does not hold" in card.text
    assert "entry 3 was changed after it was written" in card.text


def test_a_record_is_exported(yard: Yard, browser: Browser) -> None:
    """As JSON lines, complete enough to verify elsewhere, to be saved and not shown."""
    launch = yard.launch()
    link = browser.open(f"/audit/launch/{launch.id}").links()["Export"]
    response = browser.get(link).response
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["content-disposition"].startswith("attachment; ")
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert rows == list(audit.export(yard.services.database, subject_of(launch.id)))


def test_there_is_no_such_record(browser: Browser) -> None:
    """A page that says so."""
    for address in ("/audit/launch/nope", "/audit/nope", "/audit/launch/nope/export"):
        assert browser.get(address).status == 404
