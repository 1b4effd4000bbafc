"""Whatever strangers put into names, reasons, outputs and output is text on every page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlalchemy as sa

from slipway.launches.environments import create_environment
from slipway.records import Launch, LaunchStatus
from slipway.servertemplates import TemplateStore
from tests.pages.yard import Browser, Yard

#: Closes what it may stand in, opens what would run, turns the text around, and rings the bell.
HOSTILE = (
    "\"'></title></pre></textarea></option><script>alert(1)</script><img src=x onerror=a>"
    "{{70707*7007}}\u202e\x07\x1b]0;x\x07"
)
#: The same for what comes from servers: any bytes.
HOSTILE_BYTES = HOSTILE.encode() + b"\xff\xfe\x00\x1b[8mhidden\x1b[2J\r over\n"

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]


def addresses(launch: Launch) -> Iterator[str]:
    """Every page that shows something of a launch and what belongs to it."""
    yield from ("/", "/servers", "/servers?state=stranded", "/servers/web-1", "/audit")
    yield from (f"/launches/{launch.id}", f"/launches/{launch.id}/decommission")
    yield from (f"/audit/launch/{launch.id}", "/audit?kind=error", "/audit?actor=a")
    yield from ("/environments", "/environments/prod", "/launch?template=web&environment=prod")
    yield from ("/templates", "/templates/web", "/templates/web/diff?a=r1&b=head")
    yield from ("/servers/web-1/run/greet", "/templates/web/scripts/10-say")


def test_nothing_a_stranger_wrote_is_obeyed(yard: Yard, browser: Browser) -> None:
    """Names of people, reasons, outputs, addresses, inputs, messages and descriptions: no markup,
    no template, no control character; and all of it to be read."""
    make_hostile(yard.services.templates)
    create_environment(
        yard.services.database,
        yard.clock,
        "prod",
        actor="tests",
        inputs={"GREETING": HOSTILE, HOSTILE: "x"},
    )
    launch = yard.launch(
        "web-1",
        to=LaunchStatus.STRANDED,
        output=HOSTILE_BYTES,
        reason=HOSTILE,
        inputs={"UPSTREAM": f"text:{HOSTILE}".replace("\0", "")},
        actor=f"anna {HOSTILE}"[:128],
    )
    with yard.services.database.transaction() as connection:
        # What a cloud and a script have said; no status is touched.
        connection.execute(
            sa.update(_LAUNCHES).values(
                outputs={HOSTILE: HOSTILE, "url": f"javascript:alert(1)//{HOSTILE}"},
                instance_id="<b>i-1",
                private_ip="<b>192.0.2.1",
                environment="prod",
            )
        )
    seen = 0
    for address in addresses(launch):
        # What every page has to hold is checked there: no element has an attribute that runs.
        page = browser.get(address, largest_bytes=96 * 1024)
        assert page.status == 200, address
        assert "<script>alert" not in page.html, address
        assert "<img" not in page.html, address
        assert "{{70707*7007}}" in page.html or "495443949" not in page.document.text, address
        for element in page.document.root:
            # In a field stands what it will send again, exactly.
            seen_in = [each for name, each in element.attributes.items() if name != "value"]
            if element.tag != "textarea":
                seen_in += [child for child in element.children if isinstance(child, str)]
            assert not re.search("[\u202e\x07\x1b\0]", "".join(seen_in)), address
        scripts = page.document.root.all("script")
        assert [script.get("src").partition("?")[0] for script in scripts] == ["/static/slipway.js"]
        assert not [link for link in page.document.links().values() if "javascript" in link]
        seen += page.html.count("⟨U+202E⟩")
    assert seen > 25
    page = browser.get(f"/launches/{launch.id}")
    output = page.document.by_id("output").raw
    for shown in ("<script>alert(1)</script>", "␛]0;x␇", "hidden", "␛[2J", "␍\n over"):
        assert shown in output


def make_hostile(store: TemplateStore) -> None:
    """A template whose words are hostile, as far as templates take them."""
    words = HOSTILE.replace("\x07", "").replace("\x1b", "")
    template = store.templates_dir / "web" / "template.yaml"
    quoted = words.replace("'", "''")
    template.write_text(template.read_text().replace("Says it to the web.", f"'{quoted}'"))
    store.commit("web", HOSTILE, f"anna {HOSTILE}"[:120])
    script = store.templates_dir / "web" / "scripts" / "say.sh"
    script.write_text(script.read_text() + f"# {words}\n")


def test_addresses_are_text_too(yard: Yard, browser: Browser) -> None:
    """What stands in an address comes back as text, in fields, links and sentences."""
    quoted = "%22%27%3E%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE"
    yard.record("web-1")
    for address in (
        f"/servers?text={quoted}&environment={quoted}&after={quoted}&state={quoted}",
        f"/audit?text={quoted}&step={quoted}&actor={quoted}&since={quoted}&until={quoted}",
        f"/launch?template={quoted}&version={quoted}&environment={quoted}&name={quoted}",
        f"/launches/{quoted}",
        f"/servers/{quoted}",
        f"/servers/web-1/run/{quoted}",
        f"/environments/{quoted}",
        f"/templates/{quoted}?at={quoted}",
        f"/templates/web?at={quoted}",
        f"/templates/web/scripts/{quoted}",
        f"/templates/web/diff?a={quoted}&b={quoted}",
        f"/audit/{quoted}",
        f"/nowhere/{quoted}",
    ):
        page = browser.get(address, Accept="text/html")
        assert page.status in (200, 404), address
        assert "<script>alert" not in page.html, address
        assert "\u202e" not in page.document.text, address


def test_odd_addresses_are_no_surprise(browser: Browser) -> None:
    """Numbers that are none, markers that were never given, times out of any range."""
    for address in (
        "/audit?before=nonsense",
        "/audit?before=~",
        "/audit?since=9999-12-31T23:59:59-23:59",
        "/audit?until=0001-01-01T00:00:00%2B23:59",
        "/audit/launch/x?after=nonsense",
        "/audit/launch/x?after=99999999999999999999999",
        "/servers?after=%00",
        "/launches/%00",
        "/live/launches/nope",
    ):
        page = browser.get(address)
        assert page.status in (200, 400, 404), address
