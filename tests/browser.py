"""A headless Chromium for tests that look at pages; `.ci/run` installs it where it may."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

DESKTOP: ViewportSize = {"width": 1280, "height": 860}
PHONE: ViewportSize = {"width": 360, "height": 760}

#: Nothing but the page: no first-run pages, updates or look-ups of its maker's hosts. No sandbox,
#: as root has none and the pages are from this machine.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nor what a page itself would load from elsewhere.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: Pages that watch something ask for news every few seconds.
PATIENCE_MS = 60_000

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
#: Asked here, because no test sees the variables of whoever runs it.
DRAWN_ANEW = bool(os.environ.get("SLIPWAY_PICTURES"))

#: Bytes a picture of the documentation may have.
LARGEST_PICTURE = 150_000


def executable() -> str | None:
    """Debian's Chromium, or another one that is on PATH."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the block. Skips the test, saying why, where there is none."""
    found = executable()
    if found is None:
        pytest.skip("there is no chromium on PATH; on Debian: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def window(browser: Browser, *, ours: bool = True, **options: Any) -> Iterator[Page]:
    """A page of a browser of its own. Whatever its console complains about fails the test, where
    the pages are ours."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def listen(message: ConsoleMessage) -> None:
        # A form that comes back with its problems is what the test wanted.
        if message.type in ("error", "warning") and "status of 422" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    try:
        yield page
        if ours:
            assert complaints == []
    finally:
        context.close()


def log_in(page: Page, url: str, token: str) -> None:
    """Come into the dashboard by pasting a token."""
    page.goto(f"{url}/")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def check_width(page: Page) -> None:
    """Nothing is wider than the window."""
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1], f"{page.url} is {widths[0]} wide"


def picture(page: Page, name: str) -> None:
    """Keep what the page shows as a picture of the documentation, when ``SLIPWAY_PICTURES`` is
    set; otherwise only see that it can be drawn."""
    drawn = page.screenshot(animations="disabled", caret="hide")
    assert len(drawn) <= LARGEST_PICTURE, f"{name} has {len(drawn)} bytes"
    if DRAWN_ANEW:
        (PICTURES / f"{name}.png").write_bytes(drawn)
