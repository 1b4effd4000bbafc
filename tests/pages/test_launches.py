"""The page of a launch, of its server, and what is done with them."""

from __future__ import annotations

import pytest

from slipway.errors import Conflict
from slipway.launches.work import take_up
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from slipway.steps import acquire
from tests.pages.document import Document, Element
from tests.pages.yard import Browser, Yard


def facts(element: Element) -> dict[str, str]:
    """Names and values."""
    return {
        pair.one("dt").text: pair.one("dd").text
        for pairs in element.all("dl", class_="pairs")
        for pair in pairs.all("div")
    }


def timeline(document: Document) -> list[tuple[str, str, list[str]]]:
    """Each step with how long it took and the tones of its bars."""
    return [
        (row.one("th").text, row.one("td", class_="took").text, classes(row))
        for row in document.by_id("timeline").all("tr")
        if row.all("td", class_="took")
    ]


def classes(element: Element) -> list[str]:
    return [bar.get("class") for bar in element.all("rect")]


def test_a_launch_that_came_up(yard: Yard, browser: Browser) -> None:
    """Its steps in time, what its script printed, its facts, and secrets only as hidden."""
    launch = yard.launch(inputs={"GREETING": "Good <day>"}, secrets={"TOKEN": "s3cr3t-value"})
    document = browser.open(f"/launches/{launch.id}")
    assert document.h1 == "Launch of web-1"
    assert document.by_id("state").text.startswith("operational after 9.0 s requested (done)")
    assert timeline(document) == [
        ("Resolve the inputs: succeeded", "1.0 s", ["ok"]),
        ("Create the instance: succeeded", "3.0 s", ["ok"]),
        ("Run script 10-say: succeeded", "5.0 s", ["ok"]),
    ]
    assert document.by_id("output").raw == "Hello\n"
    found = facts(document.by_id("facts"))
    assert found["GREETING"] == "Good <day>"
    assert found["TOKEN"] == "<hidden>"
    assert found["Launch"] == launch.id
    assert found["Instance"] == "i-1"
    assert found["Addresses"] == "192.0.2.1 SSH on port 22"
    assert found["url"] == "http://192.0.2.1/"
    links = document.links()
    assert links["web"] == f"/templates/web?at={launch.template_hash}"
    assert browser.open(links["web"]).h1 == "web"
    assert links["http://192.0.2.1/"] == "http://192.0.2.1/"
    assert document.buttons() == ["Decommission …", "Audit"]


def test_a_launch_in_the_middle(yard: Yard, browser: Browser) -> None:
    """The step that runs has no end yet, and the phases say where it is."""
    work = yard.take_up(yard.record())
    yard.drive(work, to=LaunchStatus.CONFIGURING, output=b"working ...")
    yard.clock.advance(90)
    work.driver.renew()
    document = browser.open(f"/launches/{work.launch_id}")
    assert timeline(document)[-1] == ("Run script 10-say: running", "1 min 30 s", ["run"])
    phases = document.by_id("state").one("ol").all("li")
    assert [phase.get("class") for phase in phases] == ["done"] * 4 + ["run", "todo"]
    assert phases[4].get("aria-current") == "step"
    assert document.by_id("output").raw == "working ..."
    assert document.buttons() == ["Cancel the launch", "Decommission …", "Audit"]


def test_a_launch_that_stranded(yard: Yard, browser: Browser) -> None:
    """The step that failed and why, once each; every attempt has its bar."""
    launch = yard.launch(to=LaunchStatus.STRANDED)
    document = browser.open(f"/launches/{launch.id}")
    card = document.by_id("state").one("div", class_="bad")
    assert card.all("p")[0].text == "Run script 10-say"
    assert card.all("p")[1].text == "script Say it ended with exit code 3"
    assert timeline(document)[-1] == ("Run script 10-say: failed", "5.0 s", ["bad"])
    assert {"Resume", "Decommission …"} <= set(document.buttons())
    yard.clock.advance(3600)
    work = yard.take_up(launch)
    work.reopen()
    yard.drive(work, to=LaunchStatus.OPERATIONAL, output=b"")
    document = browser.open(f"/launches/{launch.id}")
    step = "Run script 10-say: succeeded attempt 2"
    assert timeline(document)[-1] == (step, "5.0 s", ["bad", "ok"])
    assert "A pause of 1 h 0 min is left out of the picture." in document.text


def test_a_launch_that_nobody_drives(yard: Yard, browser: Browser) -> None:
    """The page says so, and offers to resume it; not while somebody is at work."""
    launch = yard.launch(to=LaunchStatus.CONFIGURING)
    address = f"/launches/{launch.id}"
    assert "Nobody works on it" not in browser.open(address).text
    yard.clock.advance(20)
    document = browser.open(address)
    assert "Nobody works on it now" in document.text
    assert "Resume" in document.buttons()
    yard.take_up(launch)
    document = browser.open(address)
    assert "Nobody works on it" not in document.text
    assert "Resume" not in document.buttons()


def test_a_launch_leads_to_its_flow_run(yard: Yard, browser: Browser) -> None:
    """Where it has one."""
    launch = yard.record()
    assert "Flow run in Prefect" not in browser.open(f"/launches/{launch.id}").links()
    work = take_up(yard.services, launch.id, actor="driver", flow_run_id="0f3a")
    work.driver.release()
    links = browser.open(f"/launches/{launch.id}").links()
    assert links["Flow run in Prefect"] == "http://127.0.0.1:4200/runs/flow-run/0f3a"


def test_resuming(yard: Yard, browser: Browser) -> None:
    """The button hands the launch over again, in the name of the token."""
    launch = yard.launch(to=LaunchStatus.STRANDED)
    address = f"/launches/{launch.id}"
    page = browser.send(address, "Resume")
    assert (page.status, page.location) == (303, address)
    assert yard.handed() == [("resume_launch", {"launch": launch.id})]
    up = yard.launch("web-2")
    mark = browser.open("/").form("anna Log out").values
    page = browser.post(f"/launches/{up.id}/resume", mark)
    assert page.status == 409
    assert page.document.h1 == "Not now"
    assert "operational" in page.document.text


def test_cancelling(yard: Yard, browser: Browser) -> None:
    """The request is on record with who made it, and the page says that it was made."""
    launch = yard.launch(to=LaunchStatus.CONFIGURING)
    yard.take_up(launch)
    browser.send(f"/launches/{launch.id}", "Cancel the launch")
    assert yard.now(launch).cancel_requested_at == yard.clock.now()
    [asked] = [entry for entry in yard.entries(launch) if "cancel" in entry.summary]
    assert asked.actor == "token/anna (dashboard)"
    document = browser.open(f"/launches/{launch.id}")
    assert "Somebody asked to cancel this launch" in document.text
    assert "Cancel the launch" not in document.buttons()


def test_decommissioning_asks_first(yard: Yard, browser: Browser) -> None:
    """A page of its own says what it means and which scripts will run; only its button does it."""
    launch = yard.launch()
    links = browser.open(f"/launches/{launch.id}").links()
    asked = browser.open(links["Decommission …"])
    assert asked.h1 == "Decommission web-1?"
    assert "ends i-1 in fake / region-1 for good" in asked.text
    assert [each.text for each in asked.root.one("ol").all("li")] == ["Say it"]
    assert yard.handed() == []
    page = browser.send(links["Decommission …"], "Decommission web-1")
    assert page.location == f"/launches/{launch.id}"
    [(flow, parameters)] = yard.handed()
    assert flow == "decommission_server"
    assert parameters["server"] == launch.id


def test_nothing_is_done_with_what_is_gone(yard: Yard, browser: Browser) -> None:
    """A terminated launch has no buttons, and says so when asked all the same."""
    launch = yard.launch(to=LaunchStatus.TERMINATED)
    assert browser.open(f"/launches/{launch.id}").buttons() == ["Audit"]
    mark = browser.open("/").form("anna Log out").values
    for what in ("resume", "cancel", "decommission"):
        assert browser.post(f"/launches/{launch.id}/{what}", mark).status == 409
    assert yard.handed() == []


def test_the_page_of_a_server(yard: Yard, browser: Browser) -> None:
    """What it is now, every launch it had, and its operational scripts."""
    yard.launch(to=LaunchStatus.TERMINATED)
    yard.clock.advance(60)
    launch = yard.launch()
    document = browser.open("/servers/web-1")
    found = facts(document.root)
    assert found["Private address"] == "192.0.2.1"
    assert found["Instance"] == "i-1 in fake / region-1"
    assert found["Log in"] == "slipway ssh web-1"
    rows = document.root.one("tbody").all("tr")
    assert rows[0].one("th").text == launch.id
    assert [row.all("td")[0].text for row in rows] == ["operational", "terminated"]
    assert browser.get("/servers/" + launch.id).status == 404
    assert browser.get("/servers/nope").status == 404


def test_running_a_script(yard: Yard, browser: Browser) -> None:
    """The form shows what the server was launched with; what is left empty stays."""
    launch = yard.launch(inputs={"GREETING": "Moin"})
    address = browser.open("/servers/web-1").links()["Run … greet"]
    document = browser.open(address)
    assert document.field("GREETING").get("placeholder") == "Moin"
    assert document.form("Run greet").values["input.GREETING"] == ""
    page = browser.send(address, "Run greet", **{"input.GREETING": "Hi", "input.COUNT": "3"})
    assert page.location == f"/launches/{launch.id}#timeline"
    [(flow, parameters)] = yard.handed()
    assert flow == "run_operational_script"
    request = parameters["request"]
    assert request["inputs"] == {"GREETING": "Hi", "COUNT": "3"}
    assert (request["server"], request["script"]) == (launch.id, "greet")


def test_a_script_with_wrong_inputs_is_not_run(yard: Yard, browser: Browser) -> None:
    """Every problem stands beside its field, and what was typed is still there."""
    yard.launch()
    address = "/servers/web-1/run/greet"
    page = browser.send(address, "Run greet", **{"input.GREETING": "x" * 41, "input.COUNT": "12"})
    assert page.status == 422
    assert problems(page.document) == {
        "GREETING": "41 characters is more than the maximum of 40",
        "COUNT": "12 is more than the maximum of 9",
    }
    assert page.document.field("COUNT").get("value") == "12"
    assert yard.handed() == []


def problems(document: Document) -> dict[str, str]:
    """What is said beside each field; each also stands in the summary, and leads to its field."""
    found = {}
    summary = document.by_id("problems")
    links = [link.get("href") for link in summary.all("a")]
    for label in document.root.all("label"):
        box = label.parent
        assert box is not None
        for problem in box.all("p", class_="problem"):
            field = document.by_id(label.get("for"))
            assert field.get("aria-invalid") == "true"
            assert problem.get("id") in field.get("aria-describedby").split()
            assert f"#{field.get('id')}" in links
            found[label.text.split()[0]] = problem.text
    return found


def test_a_script_runs_on_a_server_that_is_up(yard: Yard, browser: Browser) -> None:
    """The page of another one does not offer it, and a form sent all the same is refused."""
    yard.launch(to=LaunchStatus.STRANDED)
    document = browser.open("/servers/web-1")
    assert "They run while the server is operational." in document.text
    page = browser.send("/servers/web-1/run/greet", "Run greet")
    assert page.status == 409
    assert browser.get("/servers/web-1/run/nope").status == 404


def test_many_runs_of_scripts_do_not_fill_the_page(yard: Yard, browser: Browser) -> None:
    """The last ones are drawn; the others are counted."""
    launch = yard.launch()
    driver = acquire(
        yard.services.database, yard.clock, subject_of(launch.id), actor="x", lease_s=60
    )
    for number in range(12):
        driver.begin(f"operational:greet:{number}", f"Run script greet {number}").succeed("it ran")
    document = browser.open(f"/launches/{launch.id}")
    assert len(document.by_id("timeline").all("table")) == 9
    assert "4 earlier runs of operational scripts" in document.text
    assert "Run script greet 11" in document.text


def test_problems_are_pages(yard: Yard, browser: Browser) -> None:
    """Nothing there, not now, not allowed: each with a sentence and a way back."""
    page = browser.get("/launches/nope", Referer="http://127.0.0.1:4280/servers?state=stranded")
    assert page.status == 404
    assert page.document.h1 == "Not found"
    assert page.document.text.startswith("Not found There is no launch nope.")
    assert page.document.links()["Go back"] == "/servers?state=stranded"
    # A page of somebody else is not where to go back to.
    page = browser.get("/launches/nope", Referer="http://evil.example/")
    assert "Go back" not in page.document.links()


def test_nothing_there_is_a_page_for_people(browser: Browser) -> None:
    """A browser gets a page, a program a problem."""
    page = browser.get("/nowhere", Accept="text/html,*/*")
    assert page.status == 404
    assert page.document.text.startswith("Not found There is nothing at /nowhere.")
    page = browser.get("/nowhere")
    assert page.response.headers["content-type"] == "application/problem+json"


def test_an_error_of_ours_keeps_its_words_to_itself(
    yard: Yard, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict found deep below is a page with its sentence."""

    def refuse(*_: object, **__: object) -> None:
        raise Conflict("server web-1 is being worked on now")

    monkeypatch.setattr("slipway.api.pages.acting.resume", refuse)
    launch = yard.launch(to=LaunchStatus.STRANDED)
    page = browser.send(f"/launches/{launch.id}", "Resume")
    assert page.status == 409
    assert "Server web-1 is being worked on now." in page.document.text
