"""What pages have done: the same as the API's own routes, recorded under the visitor's token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from fastapi import Request
from pydantic import SecretStr
from starlette.datastructures import FormData

from slipway.api.acting import Act
from slipway.api.pages.sessions import Visitor
from slipway.api.state import state_of
from slipway.errors import InvalidInput
from slipway.launches import asking, environments
from slipway.launches.requests import LaunchRequest, plan_launch
from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.records import Launch


def start_launch(
    request: Request,
    visitor: Visitor,
    form: FormData,
    asked: LaunchRequest,
    *,
    secrets: Mapping[str, SecretStr],
) -> Launch:
    """Record a launch and have it driven. Raises `InvalidInput` with every problem, a retryable
    `CloudError` when the cloud cannot be asked now, and `Conflict` when the server's name was taken
    meanwhile."""
    act = _act(request, visitor, form)

    def make() -> str:
        launch = asking.ask_launch(
            act.services,
            asked,
            actor=visitor.actor,
            secrets=secrets,
            also=lambda connection, made: act.record(
                connection, made.id, f"launch of server {made.server_name} requested"
            ),
        )
        return launch.id

    launch_id = act.once(make)
    state_of(request).hand_over_soon()
    return get_launch(act.services, launch_id)


def check_launch(
    request: Request, asked: LaunchRequest, *, secrets: Mapping[str, SecretStr]
) -> None:
    """Raises what `start_launch` does before it records anything."""
    plan_launch(state_of(request).services, asked, secrets=secrets)


def resume(request: Request, visitor: Visitor, form: FormData, launch_id: str) -> None:
    """Have a launch taken up again. Raises `Conflict` for one that cannot be."""
    act = _act(request, visitor, form)
    asking.ask_resume(
        act.services,
        launch_id,
        actor=visitor.actor,
        also=lambda connection, launch: act.record(
            connection, launch.id, f"resuming of server {launch.server_name} requested"
        ),
    )
    state_of(request).hand_over_soon()


def cancel(request: Request, visitor: Visitor, form: FormData, launch_id: str) -> None:
    """Have a launch stopped. Raises `Conflict` for one that is not under way."""
    act = _act(request, visitor, form)
    asking.ask_cancel(
        act.services,
        launch_id,
        actor=visitor.actor,
        also=lambda connection, launch: act.record(
            connection, launch.id, f"cancelling of server {launch.server_name} requested"
        ),
    )


def decommission(request: Request, visitor: Visitor, form: FormData, launch_id: str) -> None:
    """Have a server taken down. Raises `Conflict` for one that is gone."""
    act = _act(request, visitor, form)
    asking.ask_decommission(
        act.services,
        launch_id,
        actor=visitor.actor,
        also=lambda connection, launch: act.record(
            connection, launch.id, f"decommission of server {launch.server_name} requested"
        ),
    )
    state_of(request).hand_over_soon()


def run_script(
    request: Request,
    visitor: Visitor,
    form: FormData,
    launch_id: str,
    script: str,
    inputs: Mapping[str, Any],
) -> None:
    """Have an operational script run, once. Raises `InvalidInput` and `Conflict`."""
    act = _act(request, visitor, form)

    def make() -> str:
        row = asking.ask_script(
            act.services,
            launch_id,
            script,
            inputs,
            actor=visitor.actor,
            also=lambda connection, made: act.record(
                connection, made.id, f"run of script {script} on launch {launch_id} requested"
            ),
        )
        return row.id

    act.once(make)
    state_of(request).hand_over_soon()


def create_environment(
    request: Request,
    visitor: Visitor,
    form: FormData,
    name: str,
    inputs: Mapping[str, Any],
    freeze: date | None,
) -> None:
    """Make an environment. Raises `InvalidInput`, and `Conflict` when the name is taken."""
    act = _act(request, visitor, form)
    _no_literal_secrets(act.services, inputs)
    environments.create_environment(
        act.services.database,
        act.services.clock,
        name,
        actor=visitor.actor,
        inputs=inputs,
        freeze=freeze,
        also=lambda connection: act.record(connection, name, f"environment {name} created"),
    )


def change_environment(
    request: Request,
    visitor: Visitor,
    form: FormData,
    name: str,
    inputs: Mapping[str, Any],
    gone: Sequence[str],
    freeze: date | None,
) -> None:
    """Set and take away inputs; without a freeze date it is thawed. Raises `InvalidInput`."""
    act = _act(request, visitor, form)
    _no_literal_secrets(act.services, inputs)
    environments.change_environment(
        act.services.database,
        act.services.clock,
        name,
        actor=visitor.actor,
        set_inputs=inputs,
        unset_inputs=tuple(gone),
        freeze=freeze,
        thaw=freeze is None,
        also=lambda connection: act.record(connection, name, f"environment {name} changed"),
    )


def delete_environment(request: Request, visitor: Visitor, form: FormData, name: str) -> None:
    """Remove an environment. Raises `Conflict` while one of its servers is up."""
    act = _act(request, visitor, form)
    environments.delete_environment(
        act.services.database,
        act.services.clock,
        name,
        actor=visitor.actor,
        also=lambda connection: act.record(connection, name, f"environment {name} deleted"),
    )


def _act(request: Request, visitor: Visitor, form: FormData) -> Act:
    """The act a form stands for. A form that makes something carries a key: sent twice as it is,
    it is done once; sent again with other values, it is another act."""
    services = state_of(request).services
    mark = ""
    if form.get("key"):
        given = sorted((name, str(value)) for name, value in form.multi_items() if name != "csrf")
        # Keyed, because a form may hold secrets, and short ones could be guessed from a plain hash.
        key = services.vault.derive_key("dashboard forms")
        text = json.dumps([request.url.path, given]).encode()
        mark = hmac.new(key, text, "sha256").hexdigest()
    return Act(
        services=services,
        who=visitor.principal,
        key=f"page-{mark}" if mark else None,
        request_hash=mark,
        call=f"{request.method} {request.url.path}"[:256],
    )


def _no_literal_secrets(services: Services, inputs: Mapping[str, Any]) -> None:
    problems = environments.literal_secrets(services.templates, inputs)
    if problems:
        raise InvalidInput(problems)
