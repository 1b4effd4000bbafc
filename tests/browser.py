"""A headless Chromium for tests that look at pages; `.ci/run` installs it where it may."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

#: Nothing but the page: no first-run pages, updates or look-ups of its maker's hosts. No sandbox,
#: as root has none and the pages are our own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: Pages that watch something ask for news every few seconds.
PATIENCE_MS = 60_000

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

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


def picture(page: Page, name: str) -> None:
    """Keep what the page shows as a picture of the documentation, when ``SLIPWAY_PICTURES`` is
    set; otherwise only see that it can be drawn."""
    drawn = page.screenshot(animations="disabled", caret="hide")
    assert len(drawn) <= LARGEST_PICTURE, f"{name} has {len(drawn)} bytes"
    if os.environ.get("SLIPWAY_PICTURES"):
        (PICTURES / f"{name}.png").write_bytes(drawn)
