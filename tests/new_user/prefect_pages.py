"""Prefect's newer UI as a person uses it: the one its front page leads to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from tests.browser import window

#: Its pages are busy; larger ones make large pictures.
SIZE: ViewportSize = {"width": 1120, "height": 720}

SENT_AT_MOST = 5


#: The picture of a run is drawn anew for each frame, which without a graphics card takes a whole
#: core; five frames a second are enough.
FEW_FRAMES = """
window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 200);
window.cancelAnimationFrame = clearTimeout;
"""


@contextmanager
def prefect_window(browser: Browser) -> Iterator[Page]:
    """A page for Prefect's UI. What its console complains about is not ours to mend."""
    with window(browser, ours=False, viewport=SIZE, reduced_motion="reduce") as page:
        page.add_init_script(FEW_FRAMES)
        yield page


def field(page: Page, title: str) -> Locator:
    """What belongs to the form's field with this title."""
    return page.get_by_label(re.compile(rf"^(Select )?{re.escape(title)}( \(Optional\))?$"))


def fill(page: Page, title: str, text: str) -> None:
    """Type into a field."""
    field(page, title).fill(text)


def pick(page: Page, title: str, value: str) -> list[str]:
    """Choose from a drop-down; answers all there was to choose from."""
    field(page, title).click()
    option = page.get_by_role("option", name=value, exact=True)
    option.wait_for()
    offered = page.get_by_role("option").all_inner_texts()
    option.click()
    return offered


def submitted(page: Page) -> dict[str, Any]:
    """Send the form; answers the flow run it has made. A server on SQLite that is busy says 503,
    and the form is there to be sent again."""
    for _ in range(SENT_AT_MOST):
        with page.expect_response(lambda answer: "create_flow_run" in answer.url) as answered:
            # By the keyboard: the note that the last one failed lies over the button.
            page.get_by_role("button", name="Submit").press("Enter")
        if answered.value.status != 503:
            break
    assert answered.value.status == 201, answered.value.text()
    found: dict[str, Any] = answered.value.json()
    return found


def open_run(page: Page, ui_url: str, flow_run: str) -> None:
    """The page of a flow run."""
    page.goto(f"{ui_url}/v2/runs/flow-run/{flow_run}")


def state(page: Page) -> Locator:
    """The badge with the state of the flow run whose page this is; the first, as its task runs
    have theirs."""
    return page.locator("main [data-slot=badge][class*=bg-state]").first


def open_menu(page: Page, item: str) -> None:
    """Choose from the menu of a flow run's page."""
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name=item).click()


def open_artifact(page: Page, key: str | re.Pattern[str]) -> None:
    """From the page of a flow run to the newest artifact of a key that begins like this."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("tabpanel").get_by_role("link", name=key).click()
    # The key's history; each entry is called by the first part of its id.
    page.get_by_role("link", name=re.compile(r"^[0-9a-f]{8}$")).first.click()


def open_form(page: Page, ui_url: str, deployment: str) -> None:
    """From the front page to the form, by what there is to click."""
    page.goto(ui_url)
    page.get_by_role("link", name="Deployments").click()
    # There are more than its list shows at a time.
    page.get_by_placeholder("Search deployments").fill(deployment)
    # The search sets the page's address a moment later, whichever page that is by then.
    expect(page).to_have_url(re.compile(rf"flowOrDeploymentName={re.escape(deployment)}\b"))
    page.get_by_title(deployment, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("heading", name="Parameters")).to_be_visible()
