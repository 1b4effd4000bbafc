"""The form for a new launch: choose a template, fill in what it asks for, see all problems at
once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import Response

from slipway.api.pages import acting, queries
from slipway.api.pages.fields import (
    Field,
    Filled,
    defaults_of,
    input_fields,
    new_key,
    place,
    problems_of,
    with_values,
)
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Site, Visit, check_form, read_form, see, site_of, text_of
from slipway.errors import CloudError, Conflict, InvalidInput, NotFound, Problem, SlipwayError
from slipway.launches.cloud_file import LOCAL
from slipway.launches.environments import get_environment, list_environments
from slipway.launches.requests import LaunchRequest
from slipway.servertemplates import ResolvedTemplate

#: Where the planner says a problem is → the field it is shown at.
_PLACES = {
    "server": "name",
    "name": "name",
    "cloud": "where",
    "region": "where",
    "instance type": "instance_type",
    "instance_type": "instance_type",
    "freeze": "freeze",
    "connect": "connect",
    "on_failure": "on_failure",
}
_OWN_FIELDS = ("name", "where", "instance_type", "freeze", "connect", "on_failure")
#: As many servers are offered as the source of an attribute.
_MOST_SUGGESTIONS = 50

Launcher = Annotated[Visitor, Depends(Visit("launch"))]
Form = Annotated[FormData, Depends(read_form)]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/launch")(ask_launch)
    router.post("/launch")(start_launch)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the form is about."""

    template: str
    #: A tag, revision or hash; empty for the working copy.
    version: str
    environment: str

    @property
    def ref(self) -> str:
        """``hello-web@prod``."""
        return f"{self.template}@{self.version}" if self.version else self.template


def ask_launch(
    request: Request,
    visitor: Launcher,
    template: str = "",
    version: str = "",
    environment: str = "",
    name: str = "",
) -> Response:
    """The form; without a template only the question which."""
    site = site_of(request)
    if version and version not in dict(versions_of(site, template)):
        # The template was changed in the form above, and the other one has no such version.
        version = ""
    chosen = Chosen(template=template, version=version, environment=environment)
    own = {"name": name or (_free_name(site, template) if template else "")}
    return _form(request, visitor, chosen, own, Filled(), key=new_key())


def start_launch(request: Request, visitor: Launcher, form: Form) -> Response:
    """Launch, or show the form again with every problem beside its field."""
    check_form(visitor, form)
    site = site_of(request)
    chosen = Chosen(
        template=text_of(form, "template"),
        version=text_of(form, "version"),
        environment=text_of(form, "environment"),
    )
    own = {field: text_of(form, field).strip() for field in _OWN_FIELDS}
    key = text_of(form, "key")
    try:
        declared = site.services.templates.get(chosen.ref).inputs
    except (InvalidInput, NotFound):
        declared = {}
    filled = Filled.read(declared, form)
    problems = list(filled.problems)
    cloud, _, region = own["where"].partition("/")
    try:
        asked = LaunchRequest(
            template=chosen.ref,
            name=own["name"],
            environment=chosen.environment or None,
            inputs=filled.plain,
            cloud=cloud,
            region=region or None,
            instance_type=own["instance_type"] or None,
            freeze=own["freeze"] or None,  # type: ignore[arg-type]
            connect=own["connect"] or None,  # type: ignore[arg-type]
            on_failure=own["on_failure"] or "keep",  # type: ignore[arg-type]
        )
        if problems:
            acting.check_launch(request, asked, secrets=filled.secrets)
        else:
            launch = acting.start_launch(request, visitor, form, asked, secrets=filled.secrets)
            return see(f"/launches/{launch.id}")
    except (InvalidInput, ValidationError) as error:
        problems += problems_of(error)
    except CloudError as error:
        # It cannot be asked now; what was filled in stays for another try.
        problems.append(Problem(where="cloud", what=str(error)))
    except Conflict as error:
        # Somebody took the name, or changed the template, between the check and the record.
        problems.append(Problem(where="server", what=str(error)))
    return _form(request, visitor, chosen, own, filled, key=key, problems=problems)


def versions_of(site: Site, template: str) -> list[tuple[str, str]]:
    """What can be launched of a template, as (value, text); first what a name alone means."""
    store = site.services.templates
    found = [("", "working copy")] if store.library().has(template) else []
    with contextlib.suppress(NotFound):
        versions = store.log(template)
        if not found:
            found = [("", f"newest: r{versions[0].number}")]
        tags = sorted((tag, each.number) for each in versions for tag in each.tags)
        found += [(tag, f"{tag} (r{number})") for tag, number in tags]
        found += [(f"r{each.number}", f"r{each.number}: {each.message}"[:70]) for each in versions]
    return found


def template_names(site: Site) -> list[str]:
    """Every template that has a working copy or a version."""
    store = site.services.templates
    return sorted({*store.library().names(), *queries.committed_templates(site.services.database)})


def _form(
    request: Request,
    visitor: Visitor,
    chosen: Chosen,
    own: dict[str, str],
    filled: Filled,
    *,
    key: str,
    problems: Sequence[Problem] = (),
) -> Response:
    site = site_of(request)
    services = site.services
    names = template_names(site)
    context: dict[str, Any] = {
        "templates": names,
        "template": chosen.template,
        "version": chosen.version,
        "versions": versions_of(site, chosen.template),
        "environment": chosen.environment,
        "environments": [each.name for each in list_environments(services.database)],
        "broken": (),
        "problems": (),
    }
    if chosen.template:
        try:
            resolved = services.templates.get(chosen.ref)
        except InvalidInput as error:
            context["broken"] = [str(each) for each in error.problems]
        except NotFound as error:
            context["broken"] = [str(error)]
        else:
            context |= _fields(site, chosen, resolved, own, filled, problems)
            context["key"] = key
    status = HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK
    return site.page(request, "launch_new.html", visitor, status=status, **context)


def _fields(
    site: Site,
    chosen: Chosen,
    resolved: ResolvedTemplate,
    own: dict[str, str],
    filled: Filled,
    problems: Sequence[Problem],
) -> dict[str, Any]:
    services = site.services
    elsewhere = defaults_of(resolved.inputs)
    if chosen.environment:
        with contextlib.suppress(NotFound):
            found = get_environment(services.database, chosen.environment)
            source = f"environment {found.name}"
            elsewhere = with_values(elsewhere, found.inputs, source)
    inputs = input_fields(
        resolved.inputs_to_ask(),
        filled,
        elsewhere=elsewhere,
        credentials=services.vault.names(),
        servers=queries.some_servers(services.database, limit=_MOST_SUGGESTIONS),
    )
    options, trouble = _places(site, resolved)
    server = [
        Field(
            name="name",
            label="Name",
            value=own.get("name", ""),
            hint="Lower-case letters, digits and hyphens.",
            limits={"maxlength": 63},
            must=True,
        ),
        Field(
            name="where",
            label="Cloud and region",
            kind="select",
            value=own.get("where", ""),
            options=options,
            hint=trouble,
        ),
    ]
    more = [
        Field(
            name="instance_type",
            label="Instance type",
            value=own.get("instance_type", ""),
            hint="When empty: what the template or its image map says.",
            required=False,
        ),
        Field(
            name="freeze",
            label="Freeze date",
            kind="date",
            value=own.get("freeze", ""),
            hint="Packages as they were on that day. When empty: what the template says "
            f"({resolved.freeze}).",
            required=False,
        ),
        Field(
            name="connect",
            label="Connection",
            kind="select",
            value=own.get("connect", ""),
            options=[
                (
                    "",
                    [
                        ("", f"what the template says ({resolved.connect})"),
                        ("ssh", "we log in to it (ssh)"),
                        ("agent", "it calls us (agent)"),
                    ],
                )
            ],
            required=False,
        ),
        Field(
            name="on_failure",
            label="If it strands",
            kind="select",
            value=own.get("on_failure", "keep"),
            options=[
                ("", [("keep", "keep the instance for a look"), ("terminate", "terminate it")])
            ],
        ),
    ]
    summary = place(problems, [*server, *more, *inputs], _PLACES)
    return {
        "description": resolved.description,
        "server_fields": server,
        "more_fields": more,
        "more_open": any(each.problems or each.value not in ("", "keep") for each in more),
        "input_fields": inputs,
        "has_secrets": any(each.kind == "password" for each in inputs),
        "problems": summary,
    }


def _places(site: Site, resolved: ResolvedTemplate) -> tuple[list[Any], str]:
    """Clouds with their regions, and what is wrong with one that cannot be asked. First come those
    that the template has an image for, and among them the one that is taken where none is named."""
    entries = resolved.image.entries if resolved.image else {}
    groups, trouble = [], []
    for name in sorted(site.services.clouds):
        try:
            cloud = site.services.clouds[name]
            regions = cloud.regions()
        except SlipwayError as error:
            trouble.append(f"{name}: {error}.")
            continue
        has_image = name in entries or cloud.kind in entries
        note = "" if has_image else " (no image for this template)"
        offered = [(f"{name}/{region}", region) for region in regions]
        groups.append((not has_image, name != LOCAL, name + note, offered))
    return [group[2:] for group in sorted(groups)], " ".join(trouble)


def _free_name(site: Site, template: str) -> str:
    """The template's name with the first number that is free."""
    taken = queries.taken_names(site.services.database, template)
    number = 1
    while f"{template}-{number}" in taken:
        number += 1
    return f"{template}-{number}"
