"""Templates and the headers every page goes out with."""

from __future__ import annotations

import functools
import hashlib
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context, Macro
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from slipway.api.pages.output import shown_output, slug, visible
from slipway.records import LaunchStatus

HTML = Path(__file__).parent / "html"
STATIC = Path(__file__).parent / "static"

#: No script and no style but the two files we serve, nothing from elsewhere, in nobody's frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: How a state looks: the tone of its colour and the picture beside the word.
_LOOKS: dict[str, str] = {
    LaunchStatus.OPERATIONAL: "ok",
    LaunchStatus.STRANDED: "bad",
    LaunchStatus.CANCELLED: "warn",
    LaunchStatus.DECOMMISSIONING: "end",
    LaunchStatus.TERMINATED: "gone",
    # Of steps.
    "succeeded": "ok",
    "failed": "bad",
    "cut": "warn",
}


def look(status: str) -> str:
    """``ok``, ``bad``, ``warn``, ``end``, ``gone``, or ``run`` for all that is on its way."""
    return _LOOKS.get(status, "run")


def seconds(duration_s: float | None) -> str:
    """``0.4 s``, ``2 min 5 s``, ``3 d 4 h``."""
    if duration_s is None:
        return ""
    if duration_s < 60:
        return f"{max(duration_s, 0):.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(at: datetime | None) -> str:
    """``2026-11-25 18:03:11 UTC``."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


@pass_context
def _ago(context: Context, at: datetime) -> Markup:
    """``3 min ago``, with the time itself at hand; the page's script keeps it true."""
    return _time(at, "ago", _age(context, at))


@pass_context
def _took(context: Context, since: datetime) -> Markup:
    """How long something goes on already."""
    past_s = max((context["now"] - since).total_seconds(), 0.0)
    return _time(since, "took", seconds(past_s) if past_s >= 60 else f"{past_s:.0f} s")


def _time(at: datetime, tick: str, text: str) -> Markup:
    return Markup('<time datetime="{}" title="{}" data-tick="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds"), moment(at), tick, text
    )


def _age(context: Context, at: datetime) -> str:
    past_s = int((context["now"] - at).total_seconds())
    if past_s < 5:
        return "just now"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if past_s >= size:
            return f"{past_s // size} {unit} ago"
    return f"{past_s} s ago"


def count(number: int, noun: str) -> str:
    """``1 server``, ``2 servers``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _finalize(value: Any) -> Any:
    """Everything that is printed goes through here: no name and no reason hides a character."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _exactly(value: object) -> Markup:
    """A value for a form field: escaped, and otherwise as it is, since it comes back."""
    return escape(str(value))


@functools.cache
def asset(name: str) -> str:
    """The address of a file of ours; another one when its content is."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def _query(**values: str) -> str:
    """``?a=1&b=2`` of what is not empty."""
    given = {name: value for name, value in values.items() if value}
    return f"?{urlencode(given)}" if given else ""


@functools.cache
def _environment() -> Environment:
    """The templates, each compiled when it is first used."""
    made = Environment(
        loader=FileSystemLoader(HTML),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        ago=_ago,
        took=_took,
        exactly=_exactly,
        look=look,
        moment=moment,
        output=shown_output,
        path=lambda text: quote(str(text), safe=""),
        path_of=lambda text: quote(str(text), safe="/"),
        seconds=seconds,
        slug=slug,
    )
    made.globals.update(asset=asset, count=count, query=_query)
    macros = made.get_template("macros.html").module
    made.globals.update(
        {name: macro for name, macro in vars(macros).items() if isinstance(macro, Macro)}
    )
    return made


class Renderer:
    """Makes pages and parts of pages."""

    def __init__(self) -> None:
        self._environment = _environment()

    def part(self, template: str, /, **context: Any) -> str:
        """The text of one template."""
        return self._environment.get_template(template).render(context)

    def page(
        self, request: Request, template: str, /, *, status: int = HTTPStatus.OK, **context: Any
    ) -> Response:
        """A whole page."""
        text = self.part(template, path=request.url.path, **context)
        return HTMLResponse(text, status_code=status, headers=SECURITY_HEADERS)
