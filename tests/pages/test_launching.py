"""The form for a new launch, as somebody without scripts goes through it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pydantic import SecretStr

from slipway.errors import CloudUnavailable
from slipway.launches.environments import create_environment
from tests.pages.document import Document
from tests.pages.test_launches import problems
from tests.pages.yard import Browser, Yard

FORM = "/launch?template=web"


def options(document: Document, label: str) -> list[str]:
    """What a drop-down offers."""
    return [option.text for option in document.field(label).all("option")]


def test_from_the_template_to_the_launch(yard: Yard, browser: Browser) -> None:
    """Choose a template, fill in what it asks for, and be at the page of the launch."""
    document = browser.open("/launch")
    assert options(document, "ServerTemplate") == ["choose …", "web"]
    form = document.form("Go on")
    assert (form.method, form.action) == ("get", "/launch")
    document = browser.open(FORM)
    assert document.field("Name").get("value") == "web-1"
    assert options(document, "Cloud and region") == ["region-1"]
    assert options(document, "COLOR") == ["red (default)", "red", "blue"]
    assert options(document, "LOUD") == ["false (default)", "true", "false"]
    assert document.field("COUNT").get("type") == "number"
    assert document.field("COUNT").get("max") == "9"
    assert document.field("GREETING").get("placeholder") == "Hello"
    page = browser.send(
        FORM,
        "Launch",
        **{"input.GREETING": "Moin", "input.NAMES": "anna\r\n\r\nbob\r\n", "input.COLOR": "blue"},
    )
    launch = yard.find("web-1")
    assert (page.status, page.location) == (303, f"/launches/{launch.id}")
    assert launch.inputs == {"GREETING": "Moin", "NAMES": ["anna", "bob"], "COLOR": "blue"}
    assert launch.requested_by == "token/anna (dashboard)"
    [(flow, parameters)] = yard.handed()
    assert flow == "launch_server"
    assert parameters["request"]["name"] == "web-1"
    # The next one is offered another name.
    assert browser.open(FORM).field("Name").get("value") == "web-2"


def test_what_is_left_empty_is_left_to_others(yard: Yard, browser: Browser) -> None:
    """An environment's values are shown and not copied: they would win over a change of it."""
    create_environment(
        yard.services.database,
        yard.clock,
        "prod",
        actor="tests",
        inputs={"GREETING": "Welcome", "COLOR": "blue"},
    )
    address = f"{FORM}&environment=prod"
    document = browser.open(address)
    assert document.field("GREETING").get("placeholder") == "Welcome"
    assert "When empty: Welcome (environment prod)." in document.text
    assert options(document, "COLOR")[0] == "blue (environment prod)"
    browser.send(address, "Launch")
    launch = yard.find("web-1")
    assert launch.environment == "prod"
    assert launch.inputs == {}


def test_every_problem_stands_beside_its_field(yard: Yard, browser: Browser) -> None:
    """All at once, with what was typed; nothing is recorded."""
    page = browser.send(
        FORM,
        "Launch",
        name="Web 1",
        freeze="2126-01-01",
        instance_type="smal",
        **{"input.GREETING": "x" * 50, "input.COUNT": "many", "input.UPSTREAM": "nowhere"},
    )
    assert page.status == 422
    found = problems(page.document)
    assert found == {
        "Name": "A name is 1 to 63 lower-case letters, digits and hyphens, with a letter or digit "
        "at both ends, such as web-1",
        "Instance": "Cloud fake has no smal in region-1; did you mean 'small'?",
        "Freeze": "Freeze date 2126-01-01 is not in the past; the newest day that is complete is "
        "yesterday",
        "GREETING": "50 characters is more than the maximum of 40",
        "COUNT": "'many' is not a whole number",
        "UPSTREAM": "'nowhere' is not SERVER.ATTRIBUTE (attributes: private_ip, public_ip, name, "
        "outputs.KEY; a fixed value is written text:VALUE)",
    }
    document = page.document
    assert document.by_id("problems").one("h2").text == "6 things to mend; nothing was done"
    assert document.field("Name").get("value") == "Web 1"
    assert document.field("COUNT").get("value") == "many"
    # Whoever is told of a mistake in there has to see it.
    assert "open" in document.by_id("more").attributes
    assert yard.handed() == []
    # The same form, mended.
    form = document.form("Launch")
    mended = {"name": "web-1", "freeze": "", "instance_type": "", "input.GREETING": "Hi"}
    mended |= {"input.COUNT": "3", "input.UPSTREAM": ""}
    assert browser.post("/launch", {**form.values, **mended}).status == 303
    assert yard.find("web-1").inputs == {"GREETING": "Hi", "COUNT": "3"}


def test_a_secret_is_never_shown_again(yard: Yard, browser: Browser) -> None:
    """Neither in the form that came back with problems, nor anywhere once it is stored."""
    secret = "hunter2-and-more"
    document = browser.open(FORM)
    assert document.field("TOKEN").get("type") == "password"
    assert document.field("TOKEN").get("autocomplete") == "new-password"
    page = browser.send(FORM, "Launch", name="Wrong", **{"input.TOKEN": secret})
    assert page.status == 422
    assert secret not in page.html
    assert page.document.field("TOKEN").get("value") == ""
    assert yard.services.vault.names() == []
    page = browser.send(FORM, "Launch", **{"input.TOKEN": secret})
    launch = yard.find("web-1")
    reference = f"cred:launch/{launch.id}/TOKEN"
    assert launch.inputs == {"TOKEN": reference}
    stored = yard.services.vault.get(reference.removeprefix("cred:"))
    assert stored.get_secret_value() == secret
    assert secret not in str(yard.handed())
    for address in (page.location, "/servers/web-1", f"/audit/launch/{launch.id}"):
        assert secret not in browser.get(address).html
    database = Path(yard.services.settings.state_dir).parent / "slipway.db"
    assert secret.encode() not in database.read_bytes()


def test_a_stored_credential_is_chosen_by_name(yard: Yard, browser: Browser) -> None:
    """It stays where it is; both at once is a problem beside the field."""
    assert "cred.TOKEN" not in browser.open(FORM).form("Launch").values
    yard.services.vault.put("web-token", SecretStr("stored-somewhere"))
    assert options(browser.open(FORM), "TOKEN, stored") == ["none", "web-token"]
    page = browser.send(FORM, "Launch", **{"cred.TOKEN": "web-token", "input.TOKEN": "typed"})
    assert problems(page.document) == {"TOKEN": "Type it or choose a stored one, not both"}
    assert "typed" not in page.html
    browser.send(FORM, "Launch", **{"cred.TOKEN": "web-token"})
    assert yard.find("web-1").inputs == {"TOKEN": "cred:web-token"}


def test_pressed_twice_it_is_one_launch(yard: Yard, browser: Browser) -> None:
    """The same form finds the launch of the first time; a changed one is another launch."""
    values = browser.open(FORM).form("Launch").values
    first = browser.post("/launch", values)
    again = browser.post("/launch", values)
    assert again.location == first.location
    assert len(yard.handed()) == 1
    other = browser.post("/launch", {**values, "name": "web-2"})
    assert other.location not in (first.location, "")
    assert len(yard.handed()) == 2


def test_a_name_in_use_is_a_problem(yard: Yard, browser: Browser) -> None:
    """Also when it was free while the form was filled in."""
    values = browser.open(FORM).form("Launch").values
    taken = yard.record("web-1")
    page = browser.post("/launch", values)
    assert page.status == 422
    assert problems(page.document)["Name"].startswith(
        f"This name is in use: its launch {taken.id} is requested"
    )


def test_versions_are_offered(yard: Yard, browser: Browser) -> None:
    """The working copy, tags and revisions; a launch is of the one that was chosen."""
    store = yard.services.templates
    store.commit("web", "The first", "anna")
    store.tag("web", "r1", "prod", actor="tests")
    document = browser.open(f"{FORM}&version=prod")
    assert options(document, "Version") == ["working copy", "prod (r1)", "r1: The first"]
    browser.send(f"{FORM}&version=prod", "Launch")
    assert yard.find("web-1").template_ref == "web@prod"
    # Another template was chosen in the form above, and has no such version.
    assert browser.open(f"{FORM}&version=nope").form("Launch").values["version"] == ""


def test_more_than_the_usual(yard: Yard, browser: Browser) -> None:
    """Size, freeze date and what happens when it strands travel with the launch."""
    browser.send(FORM, "Launch", instance_type="large", freeze="2025-12-24", on_failure="terminate")
    launch = yard.find("web-1")
    assert launch.instance_type == "large"
    assert launch.freeze == date(2025, 12, 24)
    assert launch.on_failure == "terminate"


def test_a_template_that_is_broken_says_so(yard: Yard, browser: Browser) -> None:
    """With every problem, and without a form that could not be sent."""
    path = yard.services.templates.templates_dir / "web" / "template.yaml"
    path.write_text(path.read_text() + "colour: blue\n")
    document = browser.open(FORM)
    assert "web cannot be launched as it is" in document.text
    assert "colour" in document.text
    assert [button for button in document.buttons() if button == "Launch"] == []
    assert "invalid" in browser.open("/templates").text
    assert "colour" in browser.open("/templates/web").text


def test_a_cloud_that_cannot_be_asked(yard: Yard, browser: Browser) -> None:
    """Is left out, with the reason."""
    yard.cloud.fail_next("regions", CloudUnavailable("fake does not answer"))
    document = browser.open(FORM)
    assert "fake: fake does not answer." in document.text
    assert options(document, "Cloud and region") == []


def test_the_usual_cloud_comes_first(yard: Yard, browser: Browser) -> None:
    """What is chosen when nothing is chosen is what the command line would take."""
    yard.services.clouds["local"] = yard.cloud  # type: ignore[index]
    found = browser.open(FORM).field("Cloud and region").all("option")
    assert [each.get("value") for each in found] == ["local/region-1", "fake/region-1"]


@pytest.mark.parametrize("version", ["", "r1"])
def test_a_template_that_is_gone(yard: Yard, browser: Browser, version: str) -> None:
    """Is not found, with what there is; the form goes on with another."""
    document = browser.open(f"/launch?template=nope&version={version}")
    assert "there is no template 'nope'" in document.text
    assert "web" in options(document, "ServerTemplate")
