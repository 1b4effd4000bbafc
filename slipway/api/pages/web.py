"""What all pages share: who may see one, reading forms, and problems as pages."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from slipway.api.pages.rendering import SECURITY_HEADERS, Renderer
from slipway.api.pages.sessions import Sessions, Visitor, comes_from_us
from slipway.api.problems import status_of
from slipway.api.state import state_of
from slipway.errors import DatabaseUnavailable, InvalidInput, SlipwayError
from slipway.launches.services import Services

#: A form longer than this is none of ours.
LONGEST_FORM_BYTES = 1024 * 1024

_log = logging.getLogger("slipway.api.pages")


class NotLoggedIn(Exception):
    """A page needs a login first."""


class Refused(Exception):
    """The visitor may not do this; the message says why."""


class Site:
    """The dashboard of one API: what its handlers work with."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.renderer = Renderer()

    @cached_property
    def sessions(self) -> Sessions:
        """Made at first use: it reads the vault's key, which may not be there before."""
        return Sessions(self.services)

    def now(self) -> datetime:
        """The time pages tell."""
        return self.services.clock.now()

    def page(
        self,
        request: Request,
        template: str,
        visitor: Visitor | None,
        /,
        *,
        status: int = HTTPStatus.OK,
        **context: Any,
    ) -> Response:
        """A whole page."""
        return self.renderer.page(
            request, template, status=status, visitor=visitor, now=self.now(), **context
        )

    def part(self, template: str, visitor: Visitor | None, /, **context: Any) -> str:
        """A part of a page, as it is sent when it changes."""
        return self.renderer.part(f"parts/{template}", visitor=visitor, now=self.now(), **context)

    def problem(
        self, request: Request, visitor: Visitor | None, status: int, *sentences: str
    ) -> Response:
        """A page that says what went wrong."""
        return self.page(
            request,
            "problem.html",
            visitor,
            status=status,
            title=_TITLES.get(status, HTTPStatus(status).phrase),
            sentences=sentences,
            back=_back(request),
        )


_TITLES = {
    400: "This cannot be read",
    403: "Not allowed",
    404: "Not found",
    409: "Not now",
    422: "The input was refused",
    500: "Something went wrong in Slipway",
    503: "It cannot be done now",
}


def site_of(request: Request) -> Site:
    """The dashboard a request came to; made with the first one."""
    state = request.app.state
    found: Site | None = getattr(state, "slipway_pages", None)
    if found is None:
        found = state.slipway_pages = Site(state_of(request).services)
    return found


class Visit:
    """A dependency: the visitor, if logged in and allowed to."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def __call__(self, request: Request) -> Visitor:
        """Raises `NotLoggedIn` or `Refused`."""
        visitor = site_of(request).sessions.visitor(request)
        if visitor is None:
            raise NotLoggedIn
        if not visitor.can(self.scope):
            raise Refused(
                f"This needs the scope {self.scope}, which the token {visitor.name} lacks."
            )
        return visitor


async def read_form(request: Request) -> FormData:
    """The form that was sent. Raises `Refused` for one that is not from a page of ours."""
    site = site_of(request)
    if not comes_from_us(request, site.services):
        raise Refused("The form was sent from another site.")
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > LONGEST_FORM_BYTES:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
    return await request.form(max_fields=2000)


def check_form(visitor: Visitor, form: FormData) -> None:
    """Raises `Refused` unless the form is from a page that this visitor was shown."""
    given = form.get("csrf")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
        raise Refused("The form is from another login. Go back, reload the page and try again.")


def text_of(form: FormData, name: str) -> str:
    """A field's text, its line ends as they are everywhere but in forms."""
    value = form.get(name, "")
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""


def see(address: str) -> Response:
    """Go on to a page after something was done."""
    return RedirectResponse(address, HTTPStatus.SEE_OTHER, SECURITY_HEADERS)


class PageRoute(APIRoute):
    """A route whose problems are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the handler."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return await handle(request)
            except NotLoggedIn:
                return _to_login(request)
            except Refused as error:
                return await _problem(request, HTTPStatus.FORBIDDEN, str(error))
            except InvalidInput as error:
                return await _problem(request, 422, *(str(each) for each in error.problems))
            except DatabaseUnavailable:
                # Nor can it be asked whose request this is.
                sentence = "The database does not answer. Try again."
                return site_of(request).problem(request, None, 503, sentence)
            except SlipwayError as error:
                status, _ = status_of(error)
                if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                    _log.error("a page failed", exc_info=error)
                return await _problem(request, status, _sentence(str(error)))
            except RequestValidationError:
                return await _problem(request, 400, "The address has a part that makes no sense.")
            except HTTPException as error:
                return await _problem(request, error.status_code, str(error.detail))

        return handle_page


async def not_found_page(request: Request) -> Response:
    """For addresses that nobody knows, when a browser asks."""
    return await _problem(request, HTTPStatus.NOT_FOUND, f"There is nothing at {request.url.path}.")


def wants_html(request: Request) -> bool:
    """Whether a browser asks for a page, rather than a program for data."""
    return "text/html" in request.headers.get("accept", "")


async def _problem(request: Request, status: int, *sentences: str) -> Response:
    site = site_of(request)
    visitor = await run_in_threadpool(site.sessions.visitor, request)
    return site.problem(request, visitor, status, *sentences)


def _to_login(request: Request) -> Response:
    site = site_of(request)
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        # A link from elsewhere: the browser keeps the cookie to itself, and sends it when a page
        # of ours asks for the same address again.
        return site.renderer.page(request, "again.html")
    address = request.url.path
    if request.method != "GET":
        address = "/"
    elif request.url.query:
        address += f"?{request.url.query}"
    return see(f"/login?next={quote(address, safe='')}")


def inside(address: str) -> str:
    """An address of ours, or the first page: nobody is sent elsewhere after a login."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not address.startswith("/") or "\\" in address:
        return "/"
    return "/" if address.startswith("//") else address


def _back(request: Request) -> str:
    """Where the visitor came from, if that was a page of ours."""
    found = urlsplit(request.headers.get("referer", ""))
    if found.netloc != request.headers.get("host") or found.path == request.url.path:
        return ""
    return inside(found.path + (f"?{found.query}" if found.query else ""))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
