"""ServerTemplates: versions, inputs, the text of scripts, and what changed between two versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from slipway.api.pages.fields import defaults_of
from slipway.api.pages.launching import versions_of
from slipway.api.pages.output import shown_file
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Visit, site_of
from slipway.errors import InvalidInput, NotFound
from slipway.servertemplates import HealthScript, ResolvedTemplate, Script

Reader = Annotated[Visitor, Depends(Visit("read"))]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/templates")(list_templates)
    router.get("/templates/{name}")(show_template)
    router.get("/templates/{name}/scripts/{key}")(show_script)
    router.get("/templates/{name}/diff")(show_diff)


def list_templates(request: Request, visitor: Reader) -> Response:
    """Every template with its newest version."""
    site = site_of(request)
    return site.page(request, "templates.html", visitor, templates=site.services.templates.list())


def show_template(request: Request, visitor: Reader, name: str, at: str = "") -> Response:
    """One version of a template, and the list of all."""
    site = site_of(request)
    store = site.services.templates
    has_head = store.library().has(name)
    try:
        versions = list(store.log(name))
    except NotFound:
        if not has_head:
            raise
        versions = []
    context: dict[str, Any] = {"broken": (), "resolved": None, "scripts": (), "defaults": {}}
    try:
        resolved = store.get(_ref(name, at))
    except InvalidInput as error:
        context["broken"] = [str(each) for each in error.problems]
    else:
        known = defaults_of(resolved.inputs)
        context |= {
            "resolved": resolved,
            "scripts": _scripts(resolved),
            "defaults": {each: known.get(each, ("", ""))[0] for each in resolved.inputs},
        }
    pins = [(value or "head", text) for value, text in versions_of(site, name)]
    return site.page(
        request,
        "template.html",
        visitor,
        name=name,
        pin=at,
        shown_as=at[:12] or ("working copy" if has_head else "newest version"),
        versions=versions,
        has_head=has_head,
        pins=pins if has_head else pins[1:],
        **context,
    )


def show_script(request: Request, visitor: Reader, name: str, key: str, at: str = "") -> Response:
    """A script's text, with every odd character to be seen."""
    site = site_of(request)
    resolved = site.services.templates.get(_ref(name, at))
    script = next((each for each in resolved.scripts() if each.key == key), None)
    if script is None:
        raise NotFound(f"template {name} has no script {key}")
    return site.page(
        request,
        "template_script.html",
        visitor,
        name=name,
        pin=at,
        script=script,
        text=shown_file(resolved.blobs[script.sha256]),
    )


def show_diff(request: Request, visitor: Reader, name: str, a: str, b: str) -> Response:
    """What changes from one version to another."""
    site = site_of(request)
    diff = site.services.templates.diff(_ref(name, a), _ref(name, b))
    return site.page(request, "template_diff.html", visitor, name=name, diff=diff)


def _ref(name: str, pin: str) -> str:
    return f"{name}@{pin}" if pin else name


def _scripts(resolved: ResolvedTemplate) -> list[tuple[str, list[tuple[str, Script]]]]:
    health = [each.script for each in resolved.health if isinstance(each, HealthScript)]
    groups = [
        ("Boot", [("", each) for each in resolved.boot]),
        ("Health", [("", each) for each in health]),
        ("Operational", list(resolved.operational.items())),
        ("Decommission", [("", each) for each in resolved.decommission]),
    ]
    return [(title, chosen) for title, chosen in groups if chosen]
