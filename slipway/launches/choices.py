"""What a person can choose from when asking for a launch: for forms and drop-downs."""

from __future__ import annotations

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
from slipway.records import Launch, LaunchStatus, Server
from slipway.servertemplates import DeclaredInput, ResolvedTemplate

_SERVERS = Server.__table__  # type: ignore[attr-defined]

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


def collect_choices(services: Services) -> Choices:
    """Read them from the records, the templates directory and the clouds. A template or a cloud
    that cannot be read is left out, and logged: the others are wanted all the same."""
    environments = list_environments(services.database)
    given = [*(each.inputs for each in environments), *_server_inputs(services)]
    return Choices(
        templates=tuple(_templates(services)),
        environments=tuple(each.name for each in environments),
        given_inputs=frozenset(name for inputs in given for name in inputs),
        credentials=tuple(services.vault.names()),
        clouds=tuple(_clouds(services)),
        servers=tuple(_server(services, launch) for launch in list_launches(services)),
    )


def _server_inputs(services: Services) -> list[dict[str, Any]]:
    with services.database.reading() as connection:
        return list(connection.execute(sa.select(_SERVERS.c.inputs)).scalars())


def _templates(services: Services) -> Iterable[TemplateChoice]:
    for summary in services.templates.list():
        name, newest = summary.name, summary.newest
        launchable = summary.working_copy not in ("invalid", "none")
        try:
            found = _current(services, name, launchable=launchable)
        except SlipwayError as error:
            _log.warning("template %s is not offered: %s", name, error)
            continue
        if found is None or found.image is None:
            # Only a layer for others, or nothing that was ever valid.
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
            inputs=found.inputs,
        )


def _current(services: Services, name: str, *, launchable: bool) -> ResolvedTemplate | None:
    """The working copy where it is valid, else the newest version."""
    if launchable:
        return services.templates.head(name)
    versions = services.templates.log(name)
    return services.templates.get(versions[0].ref) if versions else None


def _clouds(services: Services) -> Iterable[CloudChoice]:
    for name, cloud in services.clouds.items():
        try:
            regions = tuple(cloud.regions())
            types = {each: None for region in regions for each in cloud.instance_types(region)}
        except CloudError as error:
            _log.warning("cloud %s is not offered: %s", name, error)
            continue
        yield CloudChoice(name=name, regions=regions, instance_types=tuple(types))


def _server(services: Services, launch: Launch) -> ServerChoice:
    status = LaunchStatus(launch.status)
    scripts: tuple[str, ...] = ()
    if status is LaunchStatus.OPERATIONAL:
        scripts = tuple(sorted(template_of(services, launch).operational))
    return ServerChoice(name=launch.server_name, status=status, scripts=scripts)
