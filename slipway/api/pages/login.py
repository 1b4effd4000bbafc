"""Logging in with a token, and out again."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr
from starlette.datastructures import FormData
from starlette.responses import Response

from slipway.api.pages.web import check_form, inside, read_form, see, site_of, text_of

Form = Annotated[FormData, Depends(read_form)]


def register(router: APIRouter) -> None:
    """Add the routes; these alone are for everybody."""
    router.get("/login")(ask_login)
    router.post("/login")(log_in)
    router.post("/logout")(log_out)


def ask_login(request: Request, next: str = "/") -> Response:  # noqa: A002 - the address says so
    """The form, or on to where the visitor wanted to go."""
    site = site_of(request)
    if site.sessions.visitor(request) is not None:
        return see(inside(next))
    return site.page(request, "login.html", None, next=inside(next), problem="")


def log_in(request: Request, form: Form) -> Response:
    """Exchange a token for a cookie."""
    site = site_of(request)
    address = inside(text_of(form, "next"))
    response = see(address)
    if site.sessions.log_in(request, response, SecretStr(text_of(form, "token").strip())) is None:
        # Which of the three it is would help whoever found the token somewhere.
        problem = "This token is unknown, has expired or was revoked."
        return site.page(
            request,
            "login.html",
            None,
            status=HTTPStatus.UNAUTHORIZED,
            next=address,
            problem=problem,
        )
    return response


def log_out(request: Request, form: Form) -> Response:
    """Take the cookie back."""
    site = site_of(request)
    visitor = site.sessions.visitor(request)
    if visitor is not None:
        check_form(visitor, form)
    response = see("/login")
    site.sessions.log_out(request, response)
    return response
