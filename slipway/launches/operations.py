"""Running an operational script on request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from slipway.errors import Conflict
from slipway.launches import inputs
from slipway.launches.inputs import Values
from slipway.launches.scripts import operational_key
from slipway.launches.services import Services
from slipway.launches.work import Work
from slipway.records import Launch, LaunchStatus
from slipway.servertemplates import InputLayer, ResolvedInputs, resolve_inputs


class OperationRequest(BaseModel):
    """One run of one operational script. Holds no secrets: those are named as ``cred:NAME``."""

    model_config = ConfigDict(extra="forbid", title="Run an operational script")

    server: str = Field(title="Server", description="Name of the server, or id of its launch.")
    script: str = Field(title="Script", description="One of the template's operational scripts.")
    inputs: dict[str, str | int | bool | list[str]] = Field(
        default_factory=dict,
        title="Inputs",
        description="Values for this run only; the launch's own stay as they are.",
    )
    key: str | None = Field(
        default=None,
        title="Idempotency key",
        description="Asking again with the same key does not run the script again.",
        max_length=48,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )


def check(services: Services, launch: Launch, request: OperationRequest) -> str:
    """The key of the script to run. Raises `Conflict` when the server is not operational and
    `InvalidInput` for an unknown script or input."""
    if launch.status != LaunchStatus.OPERATIONAL:
        raise Conflict(
            f"server {launch.server_name} is {launch.status}: operational scripts run on "
            "operational servers"
        )
    key = operational_key(inputs.template_of(services, launch), request.script)
    _given(services, launch, request)
    return key


def prepare(work: Work, request: OperationRequest) -> tuple[str, Values]:
    """The script's key and the values it gets: the launch's, with the request's on top."""
    services, launch = work.services, work.launch()
    key = check(services, launch, request)
    recorded = inputs.recorded(work)
    fresh, missing = inputs.resolve(services, _given(services, launch, request))
    if missing:
        raise Conflict(f"server {work.server}: {'; '.join(missing)}")
    # What the server was launched with stays, unless this request says otherwise: an environment
    # changed since then is for the next launch.
    plain, credentials = dict(recorded["plain"]), dict(recorded["credentials"])
    for name in request.inputs:
        plain.pop(name, None)
        credentials.pop(name, None)
        if name in fresh.plain:
            plain[name] = fresh.plain[name]
        if name in fresh.credentials:
            credentials[name] = fresh.credentials[name]
    values = inputs.load(work, {"plain": plain, "credentials": credentials})
    return key, values


def _given(services: Services, launch: Launch, request: OperationRequest) -> ResolvedInputs:
    """The request's own inputs, checked; those it does not give are not looked at: the server has
    what it was launched with. Raises `InvalidInput`."""
    declared = {
        name: declaration.model_copy(update={"required": False})
        for name, declaration in inputs.template_of(services, launch).inputs.items()
    }
    resolved = resolve_inputs(declared, [InputLayer(name="request", values=request.inputs)])
    return ResolvedInputs(inputs={name: resolved[name] for name in request.inputs})
