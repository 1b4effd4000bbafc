"""ServerTemplates: versions, inputs, scripts, differences."""

from __future__ import annotations

from slipway.servertemplates import TemplateStore
from tests.pages.yard import Browser, Yard

#: How a template that was never committed is listed.
NEW = ("Says it to the web.", "–", "–", "new")  # noqa: RUF001 - a dash stands for nothing
#: The row of an input: what it is, its default, what for.
COLOR = ["choice", "red", "– One of red, blue."]  # noqa: RUF001 - that dash again


def change(store: TemplateStore) -> None:
    """Another working copy than the one that was committed."""
    script = store.templates_dir / "web" / "scripts" / "say.sh"
    script.write_text(script.read_text().replace('echo "$GREETING"', 'echo "$GREETING, <you>"'))
    template = store.templates_dir / "web" / "template.yaml"
    template.write_text(template.read_text().replace("Says it", "Whispers it"))


def test_all_of_them(yard: Yard, browser: Browser) -> None:
    """With what each makes, its newest version, tags, and whether the working copy differs."""
    rows = browser.open("/templates").root.one("tbody").all("tr")
    assert [cell.text for cell in rows[0].all("td")] == [*NEW]
    yard.services.templates.commit("web", "The first", "anna")
    yard.services.templates.tag("web", "r1", "prod", actor="tests")
    rows = browser.open("/templates").root.one("tbody").all("tr")
    assert [cell.text for cell in rows[0].all("td")][1:] == ["r1, just now", "prod", "committed"]
    change(yard.services.templates)
    rows = browser.open("/templates").root.one("tbody").all("tr")
    assert rows[0].all("td")[-1].text == "changed"


def test_one_of_them(yard: Yard, browser: Browser) -> None:
    """Inputs with type, default and meaning; scripts; versions; each version by itself."""
    store = yard.services.templates
    store.commit("web", "The first", "anna")
    change(store)
    document = browser.open("/templates/web")
    assert "Whispers it to the web." in document.text
    rows = {row.one("th").text: row for row in document.root.all("tbody")[0].all("tr")}
    assert [cell.text for cell in rows["COLOR"].all("td")] == COLOR
    assert rows["TOKEN"].all("td")[0].text == "secret, optional"
    titles = [each.text for each in document.root.all("h3")]
    assert titles == ["Boot", "Operational", "Decommission"]
    links = document.links()
    assert links["Launch it"] == "/launch?template=web"
    old = browser.open(links["r1"])
    assert "Says it to the web." in old.text
    assert old.links()["Launch it"] == "/launch?template=web&version=r1"
    assert browser.get("/templates/nope").status == 404
    assert browser.get("/templates/web?at=r9").status == 404


def test_the_text_of_a_script(yard: Yard, browser: Browser) -> None:
    """As it is in that version, with everything there is to see in it."""
    store = yard.services.templates
    store.commit("web", "The first", "anna")
    change(store)
    script = store.templates_dir / "web" / "scripts" / "say.sh"
    script.write_bytes(script.read_bytes() + "# \u202e evil\n".encode())
    document = browser.open(browser.open("/templates/web").links()["Say it"])
    text = document.root.one("pre").raw
    assert text.startswith("#!/bin/bash\n# ---\n")
    assert 'echo "$GREETING, <you>"' in text
    assert "# ⟨U+202E⟩ evil\n" in text
    document = browser.open("/templates/web/scripts/10-say?at=r1")
    assert "<you>" not in document.root.one("pre").raw
    assert browser.get("/templates/web/scripts/nope").status == 404


def test_what_changed(yard: Yard, browser: Browser) -> None:
    """Between two versions, field by field and line by line."""
    store = yard.services.templates
    store.commit("web", "The first", "anna")
    change(store)
    form = browser.open("/templates/web").form("Compare")
    assert form.values == {"a": "r1", "b": "head"}
    document = browser.open(f"{form.action}?a=r1&b=head")
    assert document.h1 == "web@r1 → web@head"
    row = document.root.one("tbody").one("tr")
    assert row.text == "descriptionSays it to the web.Whispers it to the web."
    lines = document.root.one("pre", class_="diff")
    assert [each.text for each in lines.all("span", class_="gone")][-1] == '-echo "$GREETING"'
    assert [each.text for each in lines.all("span", class_="new")][-1] == '+echo "$GREETING, <you>"'
    same = browser.open("/templates/web/diff?a=r1&b=r1")
    assert "Both are the same content." in same.text
    assert browser.get("/templates/web/diff?a=r1&b=r7").status == 404
    assert browser.get("/templates/web/diff").status == 400
