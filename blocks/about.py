"""Where Prefect's UI finds the icon and the page about a block: our own API serves both."""

from __future__ import annotations

from pydantic import HttpUrl

from slipway.settings import Settings


def icon() -> HttpUrl:
    """The icon of every block of ours."""
    return _static("icon.png")


def page(section: str) -> HttpUrl:
    """What there is to know about a block."""
    return _static(f"blocks.html#{section}")


def _static(path: str) -> HttpUrl:
    # Prefect wants it on the class, so it is what this process is told when that is made.
    return HttpUrl(f"{Settings().api_url.rstrip('/')}/static/{path}")
