"""The pages of mirrored repositories: which days there are, what is in them, what changed."""

from __future__ import annotations

import calendar
import functools
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slipway.errors import NotFound
from slipway.mirrors.days import Day
from slipway.mirrors.site import LATEST, Folder, Site, day_of, when_of

#: Nothing but the page itself and the style in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

_MONTHS = 13


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def overview(site: Site, when: str) -> str:
    """Every repository with its days; below a time, the repositories that have a state of then.
    Raises `NotFound` for a time that is none."""
    names = site.days.repositories()
    if when:
        names = [name for name in names if _has(site, when, name)]
        if not names:
            raise NotFound(f"there is no repository with a state of {when}")
    shown = [{"name": name, "months": _months(site.days.history(name))} for name in names]
    page = _environment().get_template("overview.html")
    return page.render(repositories=shown, when=when, latest=LATEST)


def folder(site: Site, when: str, found: Folder) -> str:
    """A directory; the topmost one also says what changed and how to use it."""
    days: Sequence[Day] = ()
    if not found.path:
        days = site.resolve(when, found.repository).days
    page = _environment().get_template("folder.html")
    return page.render(
        folder=found, when=when, resolved=when_of(found.taken_at), days=days, day_of=day_of
    )


def _has(site: Site, when: str, name: str) -> bool:
    try:
        site.resolve(when, name)
    except NotFound:
        return False
    return True


def _months(history: Sequence[Day]) -> list[dict[str, Any]]:
    """The last months as calendars, the newest first; a day on which a state was taken tells what
    had changed."""
    taken: dict[date, int] = {}
    for day in history:
        number = sum(day.changes.get(kind, 0) for kind in ("added", "removed", "changed"))
        on = day_of(day.taken_at)
        taken[on] = taken.get(on, 0) + number
    months = sorted({(on.year, on.month) for on in taken}, reverse=True)[:_MONTHS]
    return [
        {"name": f"{calendar.month_name[month]} {year}", "weeks": list(_weeks(year, month, taken))}
        for year, month in months
    ]


def _weeks(year: int, month: int, taken: dict[date, int]) -> Iterator[list[dict[str, Any]]]:
    for week in calendar.Calendar().monthdatescalendar(year, month):
        yield [{"date": on, "inside": on.month == month, "changes": taken.get(on)} for on in week]
