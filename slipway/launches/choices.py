"""What a person can choose from when asking for a launch: for forms and drop-downs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from slipway.errors import CloudError, SlipwayError
from slipway.launches.environments import list_environments
from slipway.launches.inputs import template_of
from slipway.launches.requests import list_launches
from slipway.launches.services import Services
from slipway.lifecycle import PHASES
from slipway.records import (
    Credential,
    Environment,
    Launch,
    LaunchStatus,
    MirrorRepository,
    Server,
    TemplateTag,
    TemplateVersion,
)
from slipway.servertemplates import DeclaredInput, ResolvedTemplate

_SERVERS = Server.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_ENVIRONMENTS = Environment.__table__  # type: ignore[attr-defined]
_CREDENTIALS = Credential.__table__  # type: ignore[attr-defined]
_VERSIONS = TemplateVersion.__table__  # type: ignore[attr-defined]
_TAGS = TemplateTag.__table__  # type: ignore[attr-defined]
_MIRRORS = MirrorRepository.__table__  # type: ignore[attr-defined]

# What of the records shows in the choices. Built once: putting a statement together costs
# SQLAlchemy more than running it.
_FINGERPRINT = (
    # Not the phases of a launch on its way up: they make no difference to any form.
    sa.select(
        _LAUNCHES.c.server_name,
        _LAUNCHES.c.template_hash,
        _LAUNCHES.c.status.in_((*PHASES[:-1], LaunchStatus.STRANDED, LaunchStatus.CANCELLED)),
        _LAUNCHES.c.status == LaunchStatus.OPERATIONAL.value,
    )
    .where(_LAUNCHES.c.status != LaunchStatus.TERMINATED.value)
    .order_by(_LAUNCHES.c.server_name),
    sa.select(_SERVERS.c.name, _SERVERS.c.inputs).order_by(_SERVERS.c.name),
    sa.select(_ENVIRONMENTS.c.name, _ENVIRONMENTS.c.updated_at).order_by(_ENVIRONMENTS.c.name),
    sa.select(_CREDENTIALS.c.name)
    .where(_CREDENTIALS.c.launch_id.is_(None))
    .order_by(_CREDENTIALS.c.name),
    sa.select(_VERSIONS.c.name, _VERSIONS.c.hash).order_by(_VERSIONS.c.name, _VERSIONS.c.hash),
    sa.select(_TAGS).order_by(_TAGS.c.name, _TAGS.c.tag),
    sa.select(_MIRRORS.c.name).order_by(_MIRRORS.c.name),
)

_log = logging.getLogger("slipway.choices")

#: Revisions offered beside the tags; older ones are named by hand.
NEWEST_REVISIONS = 5


@dataclass(frozen=True, kw_only=True)
class TemplateChoice:
    """A template that can be launched, and what its working copy asks for."""

    name: str
    description: str
    #: How it can be referred to: its name, tags, newest revisions.
    references: tuple[str, ...]
    #: In the order they are asked for.
    inputs: Mapping[str, DeclaredInput] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CloudChoice:
    """A configured cloud."""

    name: str
    regions: tuple[str, ...]
    #: Empty when it does not tell.
    instance_types: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerChoice:
    """A server whose launch has not ended."""

    name: str
    status: LaunchStatus
    #: Names of the operational scripts of the version it was launched from.
    scripts: tuple[str, ...] = ()

    @property
    def resumable(self) -> bool:
        """Whether taking its launch up again makes sense."""
        unfinished = (*PHASES[:-1], LaunchStatus.STRANDED, LaunchStatus.CANCELLED)
        return self.status in unfinished


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Everything there is to choose from at one moment. Equal when nothing has changed."""

    templates: tuple[TemplateChoice, ...] = ()
    environments: tuple[str, ...] = ()
    #: Inputs that an environment or a declared server has a value for.
    given_inputs: frozenset[str] = frozenset()
    #: Names of stored secrets, never their values.
    credentials: tuple[str, ...] = ()
    clouds: tuple[CloudChoice, ...] = ()
    servers: tuple[ServerChoice, ...] = ()
    #: Names of the repositories that are mirrored.
    mirrors: tuple[str, ...] = ()


def collect_choices(
    services: Services, *, known: Choices | None = None, ask_clouds: bool = True
) -> Choices:
    """Read them from the records, the templates directory and the clouds. A template or a cloud
    that cannot be read is left out, and logged: the others are wanted all the same.

    ``known`` are the choices of an earlier time: a cloud that does not answer, or is not to be
    asked, is taken from there.
    """
    clouds = {each.name: each for each in known.clouds} if known else {}
    if ask_clouds:
        clouds = {
            name: cloud for name in services.clouds if (cloud := _cloud(services, name, clouds))
        }
    environments = list_environments(services.database)
    given = [*(each.inputs for each in environments), *_server_inputs(services)]
    return Choices(
        templates=tuple(_templates(services, clouds)),
        environments=tuple(each.name for each in environments),
        given_inputs=frozenset(name for inputs in given for name in inputs),
        credentials=tuple(services.vault.names()),
        clouds=tuple(clouds.values()),
        servers=tuple(_server(services, launch) for launch in list_launches(services)),
        mirrors=tuple(_mirrors(services)),
    )


def _mirrors(services: Services) -> list[str]:
    query = sa.select(_MIRRORS.c.name).order_by(_MIRRORS.c.name)
    with services.database.reading() as connection:
        return list(connection.execute(query).scalars())


def _server_inputs(services: Services) -> list[dict[str, Any]]:
    with services.database.reading() as connection:
        return list(connection.execute(sa.select(_SERVERS.c.inputs)).scalars())


def fingerprint(services: Services) -> str:
    """Changes whenever the choices may have, clouds aside; takes a few milliseconds."""
    found = hashlib.sha256()
    with services.database.reading() as connection:
        for query in _FINGERPRINT:
            found.update(repr(connection.execute(query).all()).encode())
    for path in sorted(services.settings.templates_dir.rglob("*")):
        status = path.stat()
        found.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return found.hexdigest()


def _templates(services: Services, clouds: Mapping[str, CloudChoice]) -> Iterable[TemplateChoice]:
    for summary in services.templates.list():
        name, newest = summary.name, summary.newest
        launchable = summary.working_copy not in ("invalid", "none")
        try:
            found = _current(services, name, launchable=launchable)
        except SlipwayError as error:
            _log.warning("template %s is not offered: %s", name, error)
            continue
        if found is None or found.image is None or not found.image.entries.keys() & clouds.keys():
            # Only a layer for others, nothing that was ever valid, or for clouds we do not have.
            continue
        references = [name] if launchable or summary.working_copy == "none" else []
        references += [f"{name}@{tag}" for tag in summary.tags]
        if newest is not None:
            oldest = max(newest.number - NEWEST_REVISIONS, 0)
            references += [f"{name}@r{number}" for number in range(newest.number, oldest, -1)]
        yield TemplateChoice(
            name=name,
            description=found.description,
            references=tuple(references),
            inputs=found.inputs_to_ask(),
        )


def _current(services: Services, name: str, *, launchable: bool) -> ResolvedTemplate | None:
    """The working copy where it is valid, else the newest version."""
    if launchable:
        return services.templates.head(name)
    versions = services.templates.log(name)
    return services.templates.get(versions[0].ref) if versions else None


def _cloud(services: Services, name: str, known: Mapping[str, CloudChoice]) -> CloudChoice | None:
    try:
        cloud = services.clouds[name]
        regions = tuple(cloud.regions())
        types = {each: None for region in regions for each in cloud.instance_types(region)}
    except CloudError as error:
        _log.warning("cloud %s does not say what there is to choose from: %s", name, error)
        return known.get(name)
    return CloudChoice(name=name, regions=regions, instance_types=tuple(types))


def _server(services: Services, launch: Launch) -> ServerChoice:
    status = LaunchStatus(launch.status)
    scripts: tuple[str, ...] = ()
    if status is LaunchStatus.OPERATIONAL:
        scripts = tuple(sorted(template_of(services, launch).operational))
    return ServerChoice(name=launch.server_name, status=status, scripts=scripts)
