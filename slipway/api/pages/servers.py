"""The list of servers, and the page of one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from slipway.api.pages import queries
from slipway.api.pages.acting import run_script
from slipway.api.pages.fields import Filled, input_fields, new_key, place
from slipway.api.pages.live import Changed, News, Watcher, state_mark, stream
from slipway.api.pages.queries import ServerFilter
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Site, Visit, check_form, read_form, see, site_of, text_of
from slipway.errors import InvalidInput, NotFound
from slipway.launches.inputs import shown_inputs, template_of
from slipway.launches.requests import find_launch
from slipway.records import Launch, LaunchStatus
from slipway.servertemplates import DeclaredInput
from slipway.spelling import nearest_or_all

#: Rows of a page.
PAGE = 30
#: Launches of one server that are shown.
HISTORY = 20

#: States to filter by, in the order of a server's life.
STATES = ("starting", *(status.value for status in LaunchStatus))

Reader = Annotated[Visitor, Depends(Visit("read"))]
Launcher = Annotated[Visitor, Depends(Visit("launch"))]
Form = Annotated[FormData, Depends(read_form)]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/servers")(list_servers)
    router.get("/live/servers")(servers_live)
    router.get("/servers/{name}")(show_server)
    router.get("/servers/{name}/run/{script}")(ask_script)
    router.post("/servers/{name}/run/{script}")(start_script)


class Wanted:
    """What the address of a list asks for."""

    def __init__(
        self,
        state: str = "",
        environment: str = "",
        template: str = "",
        text: str = "",
        after: str = "",
        before: str = "",
    ) -> None:
        self.filter = ServerFilter(
            state=state, environment=environment, template=template, text=text.strip()
        )
        self.after, self.before = after, before

    @property
    def given(self) -> dict[str, str]:
        """The filter as parts of an address."""
        wanted = self.filter
        found = {
            "state": wanted.state,
            "environment": wanted.environment,
            "template": wanted.template,
            "text": wanted.text,
        }
        return {name: value for name, value in found.items() if value}


Asked = Annotated[Wanted, Depends()]


def list_servers(request: Request, visitor: Reader, asked: Asked) -> Response:
    """Servers by name, a page at a time."""
    site = site_of(request)
    templates, environments = queries.names_in_use(site.services.database)
    page = _page(site, asked)
    return site.page(
        request,
        "servers.html",
        visitor,
        page=page,
        seen=state_mark(page),
        wanted=asked.filter,
        given=asked.given,
        given_after=asked.after,
        given_before=asked.before,
        choices={"states": STATES, "environments": environments, "templates": templates},
    )


def servers_live(request: Request, visitor: Reader, asked: Asked, seen: str = "") -> Response:
    """The same page, as it changes."""
    site = site_of(request)

    def make() -> Watcher:
        changed, any_change = Changed(seen), Changed("")

        def look_again() -> News:
            # Every few seconds in any case: what was committed late has an earlier time.
            beat = int(site.now().timestamp()) // 5
            if not any_change((queries.last_change(site.services.database), beat)):
                return News()
            page = _page(site, asked)
            if not changed(page):
                return News()
            text = site.part("servers.html", visitor, page=page, given=asked.given)
            return News(parts={"servers": text})

        return look_again

    return stream(request, make)


def show_server(request: Request, visitor: Reader, name: str) -> Response:
    """One server: what it is now, and its launches."""
    site = site_of(request)
    launch = _server(site, name)
    return site.page(
        request,
        "server.html",
        visitor,
        launch=launch,
        scripts=template_of(site.services, launch).operational,
        runnable=visitor.can("launch") and launch.status == LaunchStatus.OPERATIONAL,
        history=queries.history(site.services.database, name, limit=HISTORY),
    )


def ask_script(request: Request, visitor: Launcher, name: str, script: str) -> Response:
    """The form for one run of an operational script."""
    launch = _server(site_of(request), name)
    return _script_form(request, visitor, launch, script, Filled(), key=new_key())


def start_script(
    request: Request, visitor: Launcher, form: Form, name: str, script: str
) -> Response:
    """Run the script, unless something is to be mended first."""
    check_form(visitor, form)
    site = site_of(request)
    launch = _server(site, name)
    key = text_of(form, "key")
    filled = Filled.read(_declared(site, launch, script), form)
    # A run has no secrets of its own: what it is given is on record, credentials by name.
    filled.secrets.clear()
    try:
        run_script(request, visitor, form, launch.id, script, filled.plain)
    except InvalidInput as error:
        return _script_form(request, visitor, launch, script, filled, key=key, error=error)
    return see(f"/launches/{launch.id}#timeline")


def _page(site: Site, asked: Wanted) -> queries.Page:
    return queries.servers(
        site.services.database, asked.filter, after=asked.after, before=asked.before, limit=PAGE
    )


def _server(site: Site, name: str) -> Launch:
    """A server's active or else newest launch. Raises `NotFound`; an id is no name here."""
    launch = find_launch(site.services, name)
    if launch.server_name != name:
        raise NotFound(f"there is no server {name}")
    return launch


def _declared(site: Site, launch: Launch, script: str) -> dict[str, DeclaredInput]:
    """The inputs an operational script sees. Raises `NotFound`."""
    template = template_of(site.services, launch)
    if script not in template.operational:
        known = nearest_or_all(script, template.operational)
        raise NotFound(f"template {template.name} has no operational script {script}{known}")
    seen = template.operational[script].inputs
    return {name: template.inputs[name] for name in seen}


def _script_form(
    request: Request,
    visitor: Visitor,
    launch: Launch,
    script: str,
    filled: Filled,
    *,
    key: str,
    error: InvalidInput | None = None,
) -> Response:
    site = site_of(request)
    declared = _declared(site, launch, script)
    now = shown_inputs(site.services, launch)
    fields = input_fields(
        declared,
        filled,
        elsewhere={name: (now.get(name, ""), "the launch") for name in declared},
        credentials=site.services.vault.names(),
        takes_secrets=False,
    )
    problems = error.problems if error else ()
    return site.page(
        request,
        "script_run.html",
        visitor,
        status=422 if error else 200,
        launch=launch,
        script=script,
        description=template_of(site.services, launch).operational[script].description,
        fields=fields,
        problems=place(problems, fields),
        key=key,
    )
