"""``/v1/launches``: bringing servers up, taking them down, and what happens in between."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import ConfigDict, Field, SecretStr

from slipway.api.acting import Act, Launching
from slipway.api.auth import require
from slipway.api.models import LaunchOut, RunOut
from slipway.api.paging import ChangesSince, Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses
from slipway.api.state import ApiState, TheServices, TheState
from slipway.api.words import (
    CLOUD,
    ID,
    INPUT,
    NAME,
    SCRIPT,
    TEMPLATE,
    TEMPLATE_REF,
    Given,
    LaunchId,
)
from slipway.errors import NotFound
from slipway.launches import asking, listing
from slipway.launches.asking import CallBackRequest
from slipway.launches.listing import LaunchFilter
from slipway.launches.requests import LaunchRequest
from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from slipway.servertemplates import Connect

router = APIRouter(prefix="/v1/launches", tags=["launches"])

_reading = [Depends(require("read"))]

InputName = Annotated[str, Field(pattern=INPUT)]
Inputs = dict[InputName, str | int | bool | list[str]]


class CallBackIn(Given):
    """Where to tell what becomes of a launch."""

    url: str = Field(
        max_length=2048,
        description="Gets a POST when the launch is operational, stranded, cancelled or "
        "terminated. https, and reachable from everywhere.",
        examples=["https://example.org/hooks/slipway"],
    )
    secret: SecretStr | None = Field(
        default=None,
        description="`whsec_` and 24 to 64 random bytes in base64: messages are signed with it "
        "in the form of Standard Webhooks. Never shown again.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


class LaunchIn(Given):
    """One server to bring up."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"template": "hello-web@prod", "server": "web-1", "inputs": {"GREETING": "hello"}}
            ]
        }
    )

    template: str = Field(
        pattern=TEMPLATE_REF,
        description="Name, or name@version: a tag, a revision (r4) or the start of a hash. Without "
        "a version the working copy is launched, and committed so that it stays on record.",
        examples=["hello-web@prod"],
    )
    server: str = Field(pattern=NAME, description="Stable name of the server.", examples=["web-1"])
    environment: str | None = Field(
        default=None,
        pattern=NAME,
        description="Whose inputs and freeze date apply.",
        examples=["staging"],
    )
    inputs: Inputs = Field(
        default_factory=dict,
        description="Values by input name; another server's attribute as SERVER.private_ip, a "
        "stored secret as cred:NAME.",
        examples=[{"GREETING": "hello"}],
    )
    secrets: dict[InputName, SecretStr] = Field(
        default_factory=dict,
        description="Values of secret inputs that are not stored yet. Encrypted at once, never "
        "shown, and forgotten with the launch.",
        examples=[{"TOKEN": "hunter2"}],
    )
    cloud: str = Field(default="local", pattern=CLOUD, examples=["local"])
    region: str | None = Field(
        default=None,
        pattern=CLOUD,
        description="Null: the cloud's first region.",
        examples=["local"],
    )
    instance_type: str | None = Field(
        default=None,
        pattern=CLOUD,
        description="Null: what the template or its image map says.",
        examples=["local.small"],
    )
    connect: Connect | None = Field(
        default=None,
        description="`ssh`: we connect to the server; `agent`: it calls us, for one that cannot be "
        "reached. Null: what the template says.",
        examples=[None],
    )
    freeze: date | None = Field(
        default=None,
        description="Install packages as they were on this day. Null: what the template says.",
        examples=[None],
    )
    on_failure: Literal["keep", "terminate"] = Field(
        default="keep",
        description="What happens to the instance when the launch strands.",
        examples=["keep"],
    )
    user_data: str = Field(
        default="",
        max_length=16 * 1024,
        description="What the instance is told at first boot, 16 KiB at most. It can be read "
        "inside the server for ever: never a secret.",
        examples=[""],
    )
    callback: CallBackIn | None = Field(default=None, examples=[None])

    def request(self) -> LaunchRequest:
        """In the words of the domain. Without the secrets: they travel apart."""
        return LaunchRequest(
            template=self.template,
            name=self.server,
            environment=self.environment,
            inputs=self.inputs,
            cloud=self.cloud,
            region=self.region,
            instance_type=self.instance_type,
            connect=self.connect,
            freeze=self.freeze,
            on_failure=self.on_failure,
            user_data=self.user_data,
        )


class DecommissionIn(Given):
    """Why a server is taken down."""

    reason: str = Field(
        default="",
        max_length=500,
        description="Kept with the launch for as long as it is listed.",
        examples=["replaced by web-2"],
    )


class RunIn(Given):
    """One run of an operational script."""

    script: str = Field(
        pattern=SCRIPT,
        description="One of the template's operational scripts.",
        examples=["set-greeting"],
    )
    inputs: Inputs = Field(
        default_factory=dict,
        description="Values for this run only; a secret as cred:NAME.",
        examples=[{"GREETING": "good evening"}],
    )


@router.get(
    "",
    operation_id="listLaunches",
    dependencies=_reading,
    responses=responses(400, 401, 403, 410, 422),
)
def list_launches(
    services: TheServices,
    status: Annotated[
        list[LaunchStatus] | None,
        Query(description="Only those in one of these states.", max_length=20),
    ] = None,
    server: Annotated[str | None, Query(pattern=NAME)] = None,
    environment: Annotated[str | None, Query(pattern=NAME)] = None,
    template: Annotated[str | None, Query(pattern=TEMPLATE)] = None,
    cloud: Annotated[str | None, Query(pattern=CLOUD)] = None,
    ended: Annotated[
        bool | None,
        Query(
            description="`true`: terminated ones only, however long ago; `false`: none of them. "
            "Not given: also those that were terminated lately, for 30 days unless the "
            "installation says otherwise."
        ),
    ] = None,
    changes_since: ChangesSince = None,
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[LaunchOut]:
    """Launches, the newest first, in full detail."""
    wanted = LaunchFilter(
        statuses=tuple(status or ()),
        server=server,
        environment=environment,
        template=template,
        cloud=cloud,
        ended=ended,
        changed_since=changes_since,
    )
    place = f"launches {wanted}"
    before = read_marker(services, place, marker)
    found = listing.launch_page(services, wanted, before=before[0] if before else None, limit=limit)
    return page_of(services, place, found, key=lambda each: [each.launch.id], shown=LaunchOut.of)


@router.post(
    "",
    status_code=201,
    operation_id="createLaunch",
    responses=responses(401, 403, 409, 413, 422, 503),
)
def create_launch(state: TheState, act: Launching, response: Response, body: LaunchIn) -> LaunchOut:
    """Bring a server up. The launch is on record with this answer, and goes on whatever becomes of
    this process or the engine; follow it at `/v1/launches/{id}/events`."""

    def make() -> str:
        callback = body.callback
        launch = asking.ask_launch(
            act.services,
            body.request(),
            actor=act.who.actor,
            secrets=body.secrets,
            callback=CallBackRequest(url=callback.url, secret=callback.secret)
            if callback
            else None,
            also=lambda connection, made: act.record(
                connection, made.id, f"launch of server {body.server} requested"
            ),
        )
        return launch.id

    launch_id = act.once(make)
    state.hand_over_soon()
    response.headers["Location"] = f"/v1/launches/{launch_id}"
    return _show(act.services, launch_id)


@router.get(
    "/{launch_id}",
    operation_id="getLaunch",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_one_launch(services: TheServices, launch_id: LaunchId) -> LaunchOut:
    """One launch, also one that ended long ago."""
    return _show(services, launch_id)


@router.post(
    "/{launch_id}/decommission",
    status_code=202,
    operation_id="decommissionLaunch",
    responses=responses(401, 403, 404, 409, 413, 422),
)
def decommission(
    state: TheState,
    act: Launching,
    launch_id: LaunchId,
    body: Annotated[DecommissionIn | None, Body()] = None,
) -> LaunchOut:
    """Run the decommission scripts, then end the instance for good. One that is still coming up is
    cancelled first."""
    reason = body.reason if body else ""

    def make() -> str:
        asking.ask_decommission(
            act.services,
            launch_id,
            actor=act.who.actor,
            reason=reason,
            also=lambda connection, launch: act.record(
                connection, launch.id, f"decommission of server {launch.server_name} requested"
            ),
        )
        return launch_id

    return _asked(state, act, act.once(make))


@router.post(
    "/{launch_id}/resume",
    status_code=202,
    operation_id="resumeLaunch",
    responses=responses(401, 403, 404, 409, 422),
)
def resume(state: TheState, act: Launching, launch_id: LaunchId) -> LaunchOut:
    """Take a launch up again that stranded, was cancelled, or lost its driver. Finished steps are
    skipped."""

    def make() -> str:
        asking.ask_resume(
            act.services,
            launch_id,
            actor=act.who.actor,
            also=lambda connection, launch: act.record(
                connection, launch.id, f"resuming of server {launch.server_name} requested"
            ),
        )
        return launch_id

    return _asked(state, act, act.once(make))


@router.post(
    "/{launch_id}/cancel",
    status_code=202,
    operation_id="cancelLaunch",
    responses=responses(401, 403, 404, 409, 422),
)
def cancel(state: TheState, act: Launching, launch_id: LaunchId) -> LaunchOut:
    """Stop a launch that is under way; the instance is kept. It is cancelled within seconds."""

    def make() -> str:
        asking.ask_cancel(
            act.services,
            launch_id,
            actor=act.who.actor,
            also=lambda connection, launch: act.record(
                connection, launch.id, f"cancelling of server {launch.server_name} requested"
            ),
        )
        return launch_id

    return _asked(state, act, act.once(make))


@router.get(
    "/{launch_id}/runs",
    operation_id="listRuns",
    dependencies=_reading,
    responses=responses(400, 401, 403, 404, 422),
)
def list_runs(
    services: TheServices, launch_id: LaunchId, limit: Limit = 100, marker: Marker = None
) -> Page[RunOut]:
    """The runs of operational scripts that were asked for through this API, the newest first."""
    get_launch(services, launch_id)
    place = f"runs {launch_id}"
    before = read_marker(services, place, marker)
    found = listing.run_page(services, launch_id, before=before[0] if before else None, limit=limit)
    return page_of(services, place, found, key=lambda each: [each.row.id], shown=RunOut.of)


@router.post(
    "/{launch_id}/runs",
    status_code=201,
    operation_id="createRun",
    responses=responses(401, 403, 404, 409, 413, 422),
)
def create_run(
    state: TheState, act: Launching, response: Response, launch_id: LaunchId, body: RunIn
) -> RunOut:
    """Run one of the template's operational scripts on a server that is up, once."""

    def make() -> str:
        row = asking.ask_script(
            act.services,
            launch_id,
            body.script,
            body.inputs,
            actor=act.who.actor,
            also=lambda connection, row: act.record(
                connection, row.id, f"run of script {body.script} on launch {launch_id} requested"
            ),
        )
        return row.id

    run_id = act.once(make)
    state.hand_over_soon()
    response.headers["Location"] = f"/v1/launches/{launch_id}/runs/{run_id}"
    return _show_run(act.services, launch_id, run_id)


@router.get(
    "/{launch_id}/runs/{run_id}",
    operation_id="getRun",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_one_run(
    services: TheServices,
    launch_id: LaunchId,
    run_id: Annotated[str, Path(pattern=ID, examples=["run-01hkx3v9q2m4c7d8e"])],
) -> RunOut:
    """One run of a script. What it printed is in the launch's audit, under its step."""
    return _show_run(services, launch_id, run_id)


def _asked(state: ApiState, act: Act, launch_id: str) -> LaunchOut:
    state.hand_over_soon()
    return _show(act.services, launch_id)


def _show(services: Services, launch_id: str) -> LaunchOut:
    return LaunchOut.of(listing.launch_detail(services, get_launch(services, launch_id)))


def _show_run(services: Services, launch_id: str, run_id: str) -> RunOut:
    found = listing.run_detail(services, launch_id, run_id)
    if found is None:
        raise NotFound(f"{subject_of(launch_id)} has no run {run_id}")
    return RunOut.of(found)
