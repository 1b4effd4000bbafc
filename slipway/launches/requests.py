"""Asking for a launch: checked whole, then recorded whole, or refused whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.exc import IntegrityError

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.clouds.base import Cloud
from slipway.errors import CloudError, Conflict, InvalidInput, NotFound, Problem
from slipway.ids import new_id
from slipway.launches.environments import check_freeze, get_environment
from slipway.launches.names import check_name
from slipway.launches.phoning import problems_with
from slipway.launches.services import Services
from slipway.lifecycle import PHASES, subject_of
from slipway.records import AuditKind, Environment, Launch, LaunchStatus, Server
from slipway.servertemplates import (
    Connect,
    ImageChoice,
    InputLayer,
    ResolvedInputs,
    ResolvedTemplate,
    resolve_inputs,
)
from slipway.spelling import nearest_or_all
from slipway.vault import REFERENCE

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_SERVERS = Server.__table__  # type: ignore[attr-defined]

#: What every cloud takes (EC2's limit, before encoding).
MAX_USER_DATA_BYTES = 16 * 1024

#: What a launch leaves behind may be swept this long after it was requested, unless it is in use.
EXPIRES_AFTER = timedelta(days=1)


class LaunchRequest(BaseModel):
    """One server to bring up. Holds no secrets: those are named as ``cred:NAME``."""

    model_config = ConfigDict(extra="forbid", title="Launch a server")

    template: str = Field(
        title="ServerTemplate",
        description="Name, or name@version: a tag (prod), a revision (r4) or the start of a hash. "
        "Without a version the working copy is launched, and committed so that it stays on record.",
        examples=["hello-web", "hello-web@prod"],
    )
    name: str = Field(
        title="Server name",
        description="Stable name of the server; lower-case letters, digits and hyphens.",
        examples=["web-1"],
    )
    environment: str | None = Field(
        default=None, title="Environment", description="Whose inputs and freeze date apply."
    )
    inputs: dict[str, str | int | bool | list[str]] = Field(
        default_factory=dict,
        title="Inputs",
        description="Values by input name. A secret is given as cred:NAME, an attribute of "
        "another server as SERVER.private_ip.",
        examples=[{"GREETING": "hello"}],
    )
    cloud: str = Field(default="local", title="Cloud")
    region: str | None = Field(
        default=None, title="Region", description="Empty: the cloud's first region."
    )
    instance_type: str | None = Field(
        default=None, title="Instance type", description="Empty: what the template says."
    )
    freeze: date | None = Field(
        default=None,
        title="Freeze date",
        description="Install packages as they were on this day; empty: what the template says.",
    )
    connect: Connect | None = Field(
        default=None,
        title="Connect",
        description="ssh: we log in; agent: the server calls us, for one that cannot be reached. "
        "Empty: what the template says.",
    )
    on_failure: Literal["keep", "terminate"] = Field(
        default="keep",
        title="When it strands",
        description="Keep the instance for a look, or terminate it.",
    )
    user_data: str = Field(
        default="",
        title="User data",
        description="What the instance is told at its first boot, 16 KiB at most. It can be read "
        "inside the server for ever: never a secret.",
    )
    key: str | None = Field(
        default=None,
        title="Idempotency key",
        description="Asking again with the same key finds the launch instead of making another.",
        max_length=128,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was found good, with everything it names looked up."""

    request: LaunchRequest
    template: ResolvedTemplate
    image: ImageChoice
    #: What the image map's selector stands for today.
    image_id: str
    instance_type: str
    region: str
    inputs: ResolvedInputs
    freeze: date | None
    connect: Connect
    #: Secrets that were handed over themselves, by input name.
    secrets: Mapping[str, SecretStr]


def plan_launch(
    services: Services, request: LaunchRequest, *, secrets: Mapping[str, SecretStr] | None = None
) -> Plan:
    """Look up everything a request names; creates nothing. Raises `InvalidInput` with every problem
    at once, and a retryable `CloudError` when nothing is wrong as far as can be seen and the cloud
    cannot be asked about the rest."""
    problems = check_name("server", request.name)
    if not problems:
        problems += _check_free(services, request.name)
    if (size := len(request.user_data.encode())) > MAX_USER_DATA_BYTES:
        what = f"it has {size} bytes; clouds take {MAX_USER_DATA_BYTES} at most"
        problems.append(Problem(where="user data", what=what))
    template, found = _template(services, request.template)
    problems += found
    environment, found = _environment(services, request.environment)
    problems += found
    freeze = request.freeze
    if freeze is not None:
        problems += check_freeze("freeze", freeze, services.clock)
    elif template is not None:
        freeze = template.freeze_date(environment.freeze if environment else None)
        if freeze is not None:
            problems += check_freeze(f"template {template.name}", freeze, services.clock)
    inputs: ResolvedInputs | None = None
    if template is not None:
        inputs, found = _inputs(services, template, environment, request, secrets or {})
        problems += found
    cloud, found = _cloud(services, request.cloud)
    problems += found
    region: str | None = None
    image: ImageChoice | None = None
    image_id, instance_type = "", ""
    try:
        region, found = _region(cloud, request.region)
        problems += found
        if template is not None and cloud is not None and region is not None:
            image, image_id, instance_type, found = _image(cloud, region, template, request)
            problems += found
    except CloudError as error:
        # It is no fault of the request; but what is, is told first.
        if not problems:
            raise
        problems.append(Problem(where=f"cloud {request.cloud}", what=str(error)))
    if template is not None and cloud is not None and image is not None:
        problems += _agent_problems(services, template, cloud, image, request)
    if problems or template is None or inputs is None or image is None or region is None:
        raise InvalidInput(problems)
    return Plan(
        request=request,
        template=template,
        image=image,
        image_id=image_id,
        instance_type=instance_type,
        region=region,
        inputs=inputs,
        freeze=freeze,
        connect=_connect(template, request),
        secrets=secrets or {},
    )


def plan_launches(
    services: Services,
    requests: Iterable[LaunchRequest],
    *,
    secrets: Mapping[str, SecretStr] | None = None,
) -> list[Plan]:
    """Plan several launches; the problems of all come at once. Raises what `plan_launch` does."""
    plans, problems = [], []
    away: CloudError | None = None
    names: set[str] = set()
    for request in requests:
        if request.name in names:
            problems.append(
                Problem(where=f"server {request.name}", what="this name is asked for twice")
            )
        names.add(request.name)
        try:
            plans.append(plan_launch(services, request, secrets=secrets))
        except InvalidInput as error:
            problems.extend(error.problems)
        except CloudError as error:
            away = error
    if problems:
        raise InvalidInput(dict.fromkeys(problems))
    if away is not None:
        raise away
    return plans


#: Something to do in the transaction that records a launch.
AlsoRecord = Callable[[sa.Connection, Launch], None]


def record_launch(
    services: Services, plan: Plan, *, actor: str, also: AlsoRecord | None = None
) -> Launch:
    """Put a planned launch on record, with its secrets, in one transaction. Raises `Conflict` when
    the server's name was taken meanwhile."""
    request, now = plan.request, services.clock.now()
    # A working copy is committed, so that what was launched is on record for ever.
    pinned = services.templates.pin(request.template, author=actor)
    if pinned.hash != plan.template.hash:
        raise Conflict(f"template {plan.template.name} was changed meanwhile; ask again")
    launch_id = new_id("launch", now)
    references = {name: f"{REFERENCE}launch/{launch_id}/{name}" for name in plan.secrets}
    launch = Launch(
        id=launch_id,
        idempotency_key=request.key or launch_id,
        server_name=request.name,
        status=LaunchStatus.REQUESTED.value,
        template_name=plan.template.name,
        template_hash=plan.template.hash,
        template_ref=request.template,
        environment=request.environment,
        inputs={**request.inputs, **references},
        freeze=plan.freeze,
        user_data=request.user_data,
        on_failure=request.on_failure,
        cloud=request.cloud,
        region=plan.region,
        image_id=plan.image_id,
        instance_type=plan.instance_type,
        login_user=plan.image.user,
        connect=plan.connect,
        requested_by=actor,
        created_at=now,
        updated_at=now,
        expires_at=now + EXPIRES_AFTER,
    )
    note = Note(
        kind=AuditKind.STATUS,
        summary=f"launch of server {request.name} requested",
        detail={
            "to": LaunchStatus.REQUESTED.value,
            "server": request.name,
            "template": request.template,
            "template_hash": plan.template.hash,
            "environment": request.environment,
            "cloud": request.cloud,
            "region": plan.region,
            "image": {"selector": plan.image.image, "id": plan.image_id},
            "instance_type": plan.instance_type,
            "freeze": plan.freeze.isoformat() if plan.freeze else None,
            "connect": plan.connect,
            "on_failure": request.on_failure,
        },
    )
    try:
        with services.database.transaction() as connection:
            _declare_server(connection, services, request)
            connection.execute(sa.insert(_LAUNCHES).values(**launch.model_dump()))
            for name, value in plan.secrets.items():
                services.vault.put_in(
                    connection,
                    references[name].removeprefix(REFERENCE),
                    value,
                    launch_id=launch_id,
                )
            audit.append(connection, subject_of(launch_id), [note], actor=actor, at=now)
            note_change(
                connection,
                f"launch.{LaunchStatus.REQUESTED}",
                subject_of(launch_id),
                actor=actor,
                at=now,
                detail={"server": request.name, "to": LaunchStatus.REQUESTED.value},
            )
            if also is not None:
                also(connection, launch)
    except IntegrityError:
        found = find_by_key(services, launch.idempotency_key)
        if found is not None:
            return found
        raise Conflict(f"server {request.name} has a launch already") from None
    return launch


def request_launch(services: Services, request: LaunchRequest, *, actor: str) -> Launch:
    """The launch a request stands for: the one recorded under its key, or a new one."""
    if request.key is not None and (found := find_by_key(services, request.key)) is not None:
        return found
    return record_launch(services, plan_launch(services, request), actor=actor)


def find_by_key(services: Services, key: str) -> Launch | None:
    """The launch recorded under an idempotency key."""
    with services.database.reading() as connection:
        query = sa.select(_LAUNCHES).where(_LAUNCHES.c.idempotency_key == key)
        row = connection.execute(query).mappings().first()
    return Launch(**row) if row else None


def find_active(services: Services, server_name: str) -> Launch | None:
    """The one launch of a server that has not ended."""
    with services.database.reading() as connection:
        query = sa.select(_LAUNCHES).where(
            _LAUNCHES.c.server_name == server_name,
            _LAUNCHES.c.status != LaunchStatus.TERMINATED.value,
        )
        row = connection.execute(query).mappings().first()
    return Launch(**row) if row else None


def find_launch(services: Services, name_or_id: str) -> Launch:
    """A launch by its id, or a server's active or else newest one. Raises `NotFound`."""
    with services.database.reading() as connection:
        query = (
            sa.select(_LAUNCHES)
            .where(sa.or_(_LAUNCHES.c.id == name_or_id, _LAUNCHES.c.server_name == name_or_id))
            .order_by((_LAUNCHES.c.id == name_or_id).desc(), _LAUNCHES.c.created_at.desc())
        )
        row = connection.execute(query).mappings().first()
        if row is not None:
            return Launch(**row)
        names = connection.execute(sa.select(_SERVERS.c.name)).scalars().all()
    raise NotFound(f"there is no server {name_or_id}{nearest_or_all(name_or_id, names)}")


def list_launches(
    services: Services, *, environment: str | None = None, ended: bool = False
) -> list[Launch]:
    """Launches by server name; ``ended`` includes the terminated ones."""
    query = sa.select(_LAUNCHES).order_by(_LAUNCHES.c.server_name, _LAUNCHES.c.created_at)
    if not ended:
        query = query.where(_LAUNCHES.c.status != LaunchStatus.TERMINATED.value)
    if environment is not None:
        query = query.where(_LAUNCHES.c.environment == environment)
    with services.database.reading() as connection:
        return [Launch(**row) for row in connection.execute(query).mappings()]


def launches_of_run(
    services: Services, flow_run_id: str, parameters: Mapping[str, Any]
) -> list[Launch]:
    """The launches on their way up that a flow run drives, or was to drive and has not taken up."""
    requests = [parameters.get("request"), *(parameters.get("requests") or [])]
    keys = [request["key"] for request in requests if request and request.get("key")]
    query = sa.select(_LAUNCHES).where(
        _LAUNCHES.c.status.in_(PHASES[:-1]),
        sa.or_(
            _LAUNCHES.c.flow_run_id == flow_run_id,
            sa.and_(_LAUNCHES.c.flow_run_id.is_(None), _LAUNCHES.c.idempotency_key.in_(keys)),
        ),
    )
    with services.database.reading() as connection:
        return [Launch(**row) for row in connection.execute(query).mappings()]


def client_token(
    installation_id: str, launch_id: str, generation: int, *, on_demand: bool = False
) -> str:
    """What makes creating twice yield one instance: the same for the same launch and generation,
    and another one once it was decided that it is made on demand, as a token is for one set of
    parameters. EC2 takes at most 64 characters."""
    text = f"{installation_id}/{launch_id}/{generation}" + ("/on-demand" if on_demand else "")
    return hashlib.sha256(text.encode()).hexdigest()


def input_layers(
    environment: Environment | None,
    server: Server | None,
    inputs: Mapping[str, Any],
) -> list[InputLayer]:
    """The values of a launch from weakest to strongest."""
    layers = []
    if environment is not None:
        name = f"environment {environment.name}"
        layers.append(InputLayer(name=name, values=environment.inputs, shared=True))
    if server is not None and server.inputs:
        name = f"server {server.name}"
        layers.append(InputLayer(name=name, values=server.inputs, shared=True))
    layers.append(InputLayer(name="launch request", values=inputs))
    return layers


def get_server(services: Services, name: str) -> Server | None:
    """The declared server, if there is one."""
    with services.database.reading() as connection:
        row = connection.execute(sa.select(_SERVERS).where(_SERVERS.c.name == name))
        found = row.mappings().first()
    return Server(**found) if found else None


def server_names(services: Services) -> list[str]:
    """The names of all declared servers, in order."""
    with services.database.reading() as connection:
        query = sa.select(_SERVERS.c.name).order_by(_SERVERS.c.name)
        return list(connection.execute(query).scalars())


def _declare_server(connection: sa.Connection, services: Services, request: LaunchRequest) -> None:
    known = connection.execute(
        sa.select(_SERVERS.c.name).where(_SERVERS.c.name == request.name)
    ).first()
    if known is None:
        connection.execute(
            sa.insert(_SERVERS).values(
                name=request.name,
                environment=request.environment,
                inputs={},
                created_at=services.clock.now(),
            )
        )
    else:
        connection.execute(
            sa.update(_SERVERS)
            .where(_SERVERS.c.name == request.name)
            .values(environment=request.environment)
        )


def _check_free(services: Services, name: str) -> list[Problem]:
    active = find_active(services, name)
    if active is None:
        return []
    return [
        Problem(
            where=f"server {name}",
            what=f"this name is in use: its launch {active.id} is {active.status}; "
            f"decommission it first or choose another name",
        )
    ]


def _template(services: Services, reference: str) -> tuple[ResolvedTemplate | None, list[Problem]]:
    try:
        return services.templates.get(reference), []
    except InvalidInput as error:
        return None, list(error.problems)
    except NotFound as error:
        return None, [Problem(where=f"template {reference}", what=str(error))]


def _environment(services: Services, name: str | None) -> tuple[Environment | None, list[Problem]]:
    if name is None:
        return None, []
    try:
        return get_environment(services.database, name), []
    except NotFound as error:
        return None, [Problem(where="environment", what=str(error))]


def _cloud(services: Services, name: str) -> tuple[Cloud | None, list[Problem]]:
    cloud = services.clouds.get(name)
    if cloud is not None:
        return cloud, []
    what = f"there is no cloud {name}{nearest_or_all(name, services.clouds)}"
    return None, [Problem(where="cloud", what=what)]


def _region(cloud: Cloud | None, name: str | None) -> tuple[str | None, list[Problem]]:
    if cloud is None:
        return None, []
    try:
        regions = cloud.regions()
    except CloudError as error:
        if error.retryable:
            raise
        return None, [Problem(where=f"cloud {cloud.name}", what=str(error))]
    if name is None:
        return regions[0], []
    if name in regions:
        return name, []
    what = f"cloud {cloud.name} has no region {name}{nearest_or_all(name, regions)}"
    return None, [Problem(where="region", what=what)]


def _connect(template: ResolvedTemplate, request: LaunchRequest) -> Connect:
    return request.connect or template.connect


def _agent_problems(
    services: Services,
    template: ResolvedTemplate,
    cloud: Cloud,
    image: ImageChoice,
    request: LaunchRequest,
) -> list[Problem]:
    """What stands in the way of a server that calls us; nothing where we log in."""
    if _connect(template, request) != "agent":
        return []
    found = list(problems_with(services.settings, cloud, image))
    if request.user_data:
        what = "this server calls us, which takes its user data: leave it out"
        found.append(Problem(where="user data", what=what))
    return found


def _image(
    cloud: Cloud, region: str, template: ResolvedTemplate, request: LaunchRequest
) -> tuple[ImageChoice | None, str, str, list[Problem]]:
    where = f"template {template.name}"
    try:
        image = template.image_choice(cloud.name, region, kind=cloud.kind)
    except InvalidInput as error:
        return None, "", "", list(error.problems)
    except NotFound as error:
        return None, "", "", [Problem(where=where, what=str(error))]
    if image.os != "linux":
        what = f"its image for {cloud.name} is {image.os}; only linux servers can be launched"
        return image, "", "", [Problem(where=where, what=what)]
    try:
        image_id = cloud.resolve_image(region, image.image).id
        known = cloud.instance_types(region)
    except (NotFound, CloudError) as error:
        if error.retryable:
            raise
        return image, "", "", [Problem(where=f"{where}: image {image.image}", what=str(error))]
    instance_type = request.instance_type or image.instance_type or ""
    if not instance_type:
        what = "neither the request, the template nor the image map names one"
        return image, image_id, "", [Problem(where="instance type", what=what)]
    if known and instance_type not in known:
        what = f"cloud {cloud.name} has no {instance_type} in {region}"
        what += nearest_or_all(instance_type, known)
        return image, image_id, "", [Problem(where="instance type", what=what)]
    return image, image_id, instance_type, []


def _inputs(
    services: Services,
    template: ResolvedTemplate,
    environment: Environment | None,
    request: LaunchRequest,
    secrets: Mapping[str, SecretStr],
) -> tuple[ResolvedInputs | None, list[Problem]]:
    server = get_server(services, request.name)
    layers = input_layers(environment, server, {**request.inputs, **secrets})
    try:
        resolved = resolve_inputs(template.inputs, layers)
    except InvalidInput as error:
        return None, list(error.problems)
    problems = [
        Problem(
            where=f"input {found.name} ({found.source})",
            what=f"there is no credential {found.credential}; "
            f"store it with 'slipway credential set {found.credential}'",
        )
        for found in resolved.inputs.values()
        if found.credential is not None and not services.vault.has(found.credential)
    ]
    return resolved, problems
