"""Environments: looked at, made, changed and deleted."""

from __future__ import annotations

from datetime import date
from typing import Any

from slipway.launches.environments import create_environment, get_environment
from slipway.records import Environment
from tests.pages.test_launches import problems
from tests.pages.yard import Browser, Yard


def make(yard: Yard, name: str = "prod", **more: Any) -> None:
    create_environment(yard.services.database, yard.clock, name, actor="tests", **more)


def now(yard: Yard, name: str = "prod") -> Environment:
    return get_environment(yard.services.database, name)


def test_all_of_them(yard: Yard, browser: Browser) -> None:
    """With what each is frozen to, and how many servers it has; the number leads to them."""
    assert "There are no environments." in browser.open("/environments").text
    make(yard, inputs={"GREETING": "Hi"}, freeze=date(2025, 12, 24))
    make(yard, "staging")
    yard.launch("web-1", environment="prod")
    document = browser.open("/environments")
    rows = document.root.one("tbody").all("tr")
    assert [cell.text for cell in rows[0].all("td")][:3] == ["2025-12-24", "1", "1"]
    assert rows[1].text.startswith("staging")
    servers = browser.open(rows[0].all("a")[1].get("href"))
    assert [row.text for row in servers.root.all("th", scope="row")] == ["web-1"]


def test_making_one(yard: Yard, browser: Browser) -> None:
    """With inputs, one a line, and a freeze date."""
    page = browser.send(
        "/environments",
        "Make it",
        name="prod",
        freeze="2025-12-24",
        inputs="GREETING=Hi = there\r\n\r\n TOKEN = cred:web-token \r\n",
    )
    assert (page.status, page.location) == (303, "/environments/prod")
    made = now(yard)
    assert made.inputs == {"GREETING": "Hi = there", "TOKEN": "cred:web-token"}
    assert made.freeze == date(2025, 12, 24)


def test_what_is_wrong_with_a_new_one(yard: Yard, browser: Browser) -> None:
    """Beside its fields; a line that may be a secret in the wrong place is not repeated."""
    page = browser.send("/environments", "Make it", name="Prod!", inputs="s3cr3t-value\nA=1\nA=2")
    assert page.status == 422
    found = problems(page.document)
    assert found["Inputs"] == "Write NAME=VALUE, such as GREETING=hello It is given twice"
    page = browser.send("/environments", "Make it", name="Prod!", freeze="2126-01-01")
    found = problems(page.document)
    assert found["Name"].startswith("A name is 1 to 63 lower-case letters")
    assert "is not in the past" in found["Freeze"]
    make(yard)
    page = browser.send("/environments", "Make it", name="prod")
    assert problems(page.document) == {"Name": "Environment prod exists already"}


def test_a_secret_is_not_written_into_one(yard: Yard, browser: Browser) -> None:
    """An input that is a secret of some template takes a credential's name only, and what was
    typed is not kept."""
    page = browser.send("/environments", "Make it", name="prod", inputs="TOKEN=hunter2-and-more")
    assert page.status == 422
    assert "TOKEN is a secret of template web" in page.document.by_id("problems").text
    make(yard)
    page = browser.send(
        "/environments/prod", "Save", **{"name.0": "TOKEN", "new.0": "hunter2-and-more"}
    )
    assert page.status == 422
    assert now(yard).inputs == {}


def test_changing_one(yard: Yard, browser: Browser) -> None:
    """What is different is set, what is emptied is gone, what is new is there; the rest stays as
    it was, types and all."""
    make(yard, inputs={"A": "1", "B": "2", "COUNT": 3, "NAMES": ["x", "y"], "EMPTY": ""})
    page = browser.send(
        "/environments/prod",
        "Save",
        freeze="2025-12-24",
        **{"value.A": "one", "value.B": "", "name.0": "C", "new.0": "4"},
    )
    assert page.status == 303
    changed = now(yard)
    assert changed.inputs == {"A": "one", "C": "4", "COUNT": 3, "NAMES": ["x", "y"], "EMPTY": ""}
    assert changed.freeze == date(2025, 12, 24)
    browser.send("/environments/prod", "Save", freeze="")
    assert now(yard).freeze is None


def test_what_is_wrong_with_a_change(yard: Yard, browser: Browser) -> None:
    """Everything at once, beside its fields, and nothing is changed."""
    make(yard, inputs={"A": "1"})
    page = browser.send(
        "/environments/prod",
        "Save",
        freeze="2126-01-01",
        **{"value.A": "2", "name.0": "A", "new.0": "3", "new.1": "nameless"},
    )
    assert page.status == 422
    document = page.document
    assert document.field("A").get("value") == "2"
    assert "there is an input of that name" in document.by_id("problems").text.lower()
    assert "without a name" in document.by_id("problems").text
    assert now(yard).inputs == {"A": "1"}


def test_two_people_at_once(yard: Yard, browser: Browser) -> None:
    """Whoever saves second is told, instead of taking back what the first has done."""
    make(yard, inputs={"A": "1"})
    mine = browser.open("/environments/prod").form("Save").values
    yard.clock.advance(5)
    theirs = yard.browser(name="bob")
    assert theirs.send("/environments/prod", "Save", **{"value.A": "theirs"}).status == 303
    page = browser.post("/environments/prod", {**mine, "value.A": "mine"})
    assert page.status == 409
    assert "changed by somebody else" in page.document.text
    assert now(yard).inputs == {"A": "theirs"}


def test_deleting_one(yard: Yard, browser: Browser) -> None:
    """It asks first, and does not while a server is up."""
    make(yard)
    yard.launch("web-1", environment="prod")
    address = browser.open("/environments/prod").links()["Delete …"]
    page = browser.send(address, "Delete prod")
    assert page.status == 409
    assert "Environment prod has servers that are up: web-1" in page.document.text
    make(yard, "empty")
    assert browser.send("/environments/empty/delete", "Delete empty").location == "/environments"
    assert browser.get("/environments/empty").status == 404


def test_who_may_not_write_reads(yard: Yard) -> None:
    """The same facts without the form."""
    make(yard, inputs={"GREETING": "Hi"})
    document = yard.browser("read", name="reader").open("/environments/prod")
    assert "GREETING Hi".replace(" ", "") in document.text.replace(" ", "")
    assert document.buttons() == []
