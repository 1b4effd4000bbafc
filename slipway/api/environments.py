"""``/v1/environments``: named sets of servers, with inputs and a freeze date they share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from slipway.api.acting import Writing
from slipway.api.auth import require
from slipway.api.launches import InputName, Inputs
from slipway.api.paging import ChangesSince, Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import NAME, EnvironmentName, Given
from slipway.errors import InvalidInput
from slipway.launches import listing
from slipway.launches.environments import (
    change_environment,
    create_environment,
    delete_environment,
    get_environment,
    literal_secrets,
)
from slipway.launches.listing import EnvironmentDetail
from slipway.launches.services import Services

router = APIRouter(prefix="/v1/environments", tags=["environments"])

_reading = [Depends(require("read"))]


class EnvironmentOut(BaseModel):
    """A named set of servers."""

    model_config = ConfigDict(title="Environment")

    name: str = Field(examples=["staging"])
    inputs: dict[str, Any] = Field(
        description="Values its servers get; a secret is the name of its credential.",
        examples=[{"GREETING": "hello", "TOKEN": "cred:staging-token"}],
    )
    freeze: date | None = Field(
        description="The day packages are frozen to.", examples=["2026-11-01"]
    )
    servers: list[str] = Field(description="Those that are up in it.", examples=[["web-1"]])
    created_at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])
    updated_at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])

    @classmethod
    def of(cls, detail: EnvironmentDetail) -> EnvironmentOut:
        """From its records."""
        found = detail.environment
        return cls(
            name=found.name,
            inputs=found.inputs,
            freeze=found.freeze,
            servers=list(detail.servers),
            created_at=found.created_at,
            updated_at=found.updated_at,
        )


class EnvironmentIn(Given):
    """A new environment."""

    name: str = Field(pattern=NAME, examples=["staging"])
    inputs: Inputs = Field(
        default_factory=dict,
        description="Values its servers get; a secret as cred:NAME.",
        examples=[{"GREETING": "hello", "TOKEN": "cred:staging-token"}],
    )
    freeze: date | None = Field(
        default=None,
        description="The day its servers' packages are frozen to; not later than yesterday.",
        examples=["2026-11-01"],
    )


class EnvironmentChange(Given):
    """What is to be different; what is not named stays as it is."""

    set: Inputs = Field(
        default_factory=dict, description="Inputs to set.", examples=[{"GREETING": "good day"}]
    )
    unset: list[InputName] = Field(
        default_factory=list, max_length=500, description="Inputs to take away.", examples=[[]]
    )
    freeze: date | None = Field(
        default=None, description="A new freeze date; null thaws it.", examples=["2026-11-01"]
    )


@router.get(
    "",
    operation_id="listEnvironments",
    dependencies=_reading,
    responses=responses(400, 401, 403, 410, 422),
)
def list_environments(
    services: TheServices,
    changes_since: ChangesSince = None,
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[EnvironmentOut]:
    """All environments by name, in full detail. One that was deleted is a change of kind
    `environment.deleted`."""
    place = f"environments {changes_since=}"
    after = read_marker(services, place, marker)
    found = listing.environment_page(
        services, after=after[0] if after else None, limit=limit, changed_since=changes_since
    )
    return page_of(
        services, place, found, key=lambda each: [each.environment.name], shown=EnvironmentOut.of
    )


@router.post(
    "",
    status_code=201,
    operation_id="createEnvironment",
    responses=responses(401, 403, 409, 413, 422),
)
def create(act: Writing, response: Response, body: EnvironmentIn) -> EnvironmentOut:
    """Make an environment."""
    services = act.services

    def make() -> str:
        _check(services, body.inputs)
        create_environment(
            services.database,
            services.clock,
            body.name,
            actor=act.who.actor,
            inputs=body.inputs,
            freeze=body.freeze,
            also=lambda connection: act.record(
                connection, body.name, f"environment {body.name} created"
            ),
        )
        return body.name

    name = act.once(make)
    response.headers["Location"] = f"/v1/environments/{name}"
    return _show(services, name)


@router.get(
    "/{name}",
    operation_id="getEnvironment",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_one_environment(services: TheServices, name: EnvironmentName) -> EnvironmentOut:
    """One environment."""
    return _show(services, name)


@router.patch(
    "/{name}",
    operation_id="changeEnvironment",
    responses=responses(401, 403, 404, 413, 422),
)
def change(act: Writing, name: EnvironmentName, body: EnvironmentChange) -> EnvironmentOut:
    """Set and unset inputs, freeze or thaw; servers that are up keep what they have."""
    services = act.services

    def make() -> str:
        _check(services, body.set)
        change_environment(
            services.database,
            services.clock,
            name,
            actor=act.who.actor,
            set_inputs=body.set,
            unset_inputs=tuple(body.unset),
            freeze=body.freeze,
            thaw="freeze" in body.model_fields_set and body.freeze is None,
            also=lambda connection: act.record(connection, name, f"environment {name} changed"),
        )
        return name

    return _show(services, act.once(make))


@router.delete(
    "/{name}",
    status_code=204,
    operation_id="deleteEnvironment",
    responses=responses(401, 403, 404, 409, 422),
)
def delete(act: Writing, name: EnvironmentName) -> None:
    """Remove an environment whose servers are all down."""

    def make() -> str:
        delete_environment(
            act.services.database,
            act.services.clock,
            name,
            actor=act.who.actor,
            also=lambda connection: act.record(connection, name, f"environment {name} deleted"),
        )
        return name

    act.once(make)


def _check(services: Services, inputs: Mapping[str, Any]) -> None:
    problems = literal_secrets(services.templates, inputs)
    if problems:
        raise InvalidInput(problems)


def _show(services: Services, name: str) -> EnvironmentOut:
    found = get_environment(services.database, name)
    return EnvironmentOut.of(listing.environment_detail(services, found))
