"""Prefect's newer UI as a person uses it: the one its front page leads to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect


def field(page: Page, title: str) -> Locator:
    """What belongs to the form's field with this title."""
    return page.get_by_label(re.compile(rf"^(Select )?{re.escape(title)}( \(Optional\))?$"))


def pick(page: Page, title: str, value: str) -> list[str]:
    """Choose from a drop-down; answers all there was to choose from."""
    field(page, title).click()
    option = page.get_by_role("option", name=value, exact=True)
    option.wait_for()
    offered = page.get_by_role("option").all_inner_texts()
    option.click()
    return offered


def started(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """The flow run that the browser created."""
    with page.expect_response(lambda answer: "create_flow_run" in answer.url) as answered:
        act()
    assert answered.value.status == 201, answered.value.text()
    found: dict[str, Any] = answered.value.json()
    return found


def open_form(page: Page, ui_url: str, deployment: str) -> None:
    """From the front page to the form, by what there is to click."""
    page.goto(ui_url)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_title(deployment, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("heading", name="Parameters")).to_be_visible()
