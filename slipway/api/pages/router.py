"""The pages as routes, for the API's process to include."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from slipway.api.pages import (
    audits,
    environments,
    launches,
    launching,
    login,
    overview,
    servers,
    templates,
)
from slipway.api.pages.rendering import SECURITY_HEADERS, STATIC
from slipway.api.pages.web import PageRoute, not_found_page, wants_html
from slipway.api.problems import on_http

#: Our own files, and what they are.
_FILES = {
    "slipway.css": "text/css",
    "slipway.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    # Of the blocks in Prefect's UI.
    "icon.png": "image/png",
    "blocks.html": "text/html",
}


def install(app: FastAPI) -> None:
    """Serve the dashboard beside the API's data for programs."""
    app.include_router(pages_router())
    app.add_exception_handler(HTTPStatus.NOT_FOUND, _nothing_there)


async def _nothing_there(request: Request, error: Exception) -> Response:
    """A page for people, a problem for programs."""
    if wants_html(request):
        return await not_found_page(request)
    return on_http(request, error)


def pages_router() -> APIRouter:
    """The pages for people."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    for area in (login, overview, servers, launches, launching, environments, templates, audits):
        area.register(router)
    router.get("/static/{name}")(static)
    return router


def static(request: Request, name: str) -> Response:
    """A file of ours. Our pages' addresses of it change with its content, so it may be kept for
    ever; what others have noted down does not."""
    if name not in _FILES:
        raise HTTPException(404, f"There is nothing at {request.url.path}.")
    kept = "max-age=31536000, immutable" if "v" in request.query_params else "max-age=3600"
    return FileResponse(
        STATIC / name,
        media_type=_FILES[name],
        headers={**SECURITY_HEADERS, "Cache-Control": f"public, {kept}"},
    )
