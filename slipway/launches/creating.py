"""From nothing to a running instance: exactly one per launch, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from slipway.audit import Note
from slipway.clouds.base import (
    TAG_EXPIRES,
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_SERVER,
    Cloud,
    Instance,
    InstanceSpec,
    InstanceState,
)
from slipway.errors import CapacityUnavailable, InstanceFailed, NotFound
from slipway.launches.phoning import calls_us, expect_agent, user_data_of
from slipway.launches.requests import client_token
from slipway.launches.services import Services
from slipway.launches.work import Work, recorded_result, step_key
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.spelling import nearest_or_all
from slipway.steps import StepRun
from slipway.watch.waiting import HOPELESS, Answer, Seen

#: Which of a launch's instances this is; EC2 does not tell the token of an instance.
TAG_GENERATION = "slipway:generation"

#: Listings of a cloud may lag: an instance is gone only when this many in a row do not show it.
ABSENT_LISTINGS = 3
ABSENT_PAUSE_S = 2.0


def cloud_of(services: Services, launch: Launch) -> Cloud:
    """The cloud a launch lives in. Raises `NotFound` when it is not configured any more."""
    cloud = services.clouds.get(launch.cloud)
    if cloud is None:
        raise NotFound(
            f"launch {launch.id} lives in cloud {launch.cloud}, which is not configured"
            f"{nearest_or_all(launch.cloud, services.clouds)}"
        )
    return cloud


def instances_of(services: Services, launch: Launch) -> Sequence[Instance]:
    """Every instance that was ever made for this launch and is still listed."""
    tags = {TAG_INSTALLATION: services.installation_id, TAG_LAUNCH: launch.id}
    return cloud_of(services, launch).list_instances(launch.region, tags=tags)


def create_instance(work: Work, run: StepRun) -> None:
    """Commit the intent, look for what an earlier try has made, then create with the same token.

    The token is a function of launch and generation, so a reply that was lost costs nothing: the
    next try finds the instance by tag, or gets it from the cloud by token when it is not listed
    yet.
    """
    services, launch = work.services, work.launch()
    instance: Instance | None = None
    how = "created"
    if launch.instance_id is not None:
        run.succeed(f"instance {launch.instance_id} was made before")
        return
    if launch.create_intended_at is None:
        # No intent on record: nobody can have tried before, so there is nothing to look for.
        now = services.clock.now()

        def intend(connection: sa.Connection) -> None:
            work.update(connection, create_intended_at=now)
            if calls_us(launch):
                expect_agent(services, connection, launch)

        # Not the whole of `creation`: what user data says of an agent is recorded with the intent.
        run.save({"token": _token(services, launch, run.result)}, also=intend)
    else:
        if calls_us(launch):
            services.identities.extend(launch.id, launch.generation)
        instance, how = _find(services, launch), "found, made by an earlier try"
    if instance is None:
        instance, how = _create(services, launch, run), "created"
    instance_id = instance.id
    run.succeed(
        f"instance {instance_id} {how}",
        result={"instance_id": instance_id, "state": instance.state.value, "how": how},
        also=lambda c: work.update(c, instance_id=instance_id),
    )


def creation(
    services: Services, launch: Launch, found: Mapping[str, Any]
) -> tuple[InstanceSpec, str]:
    """What to ask for and its token, going by what the step has ``found`` out so far."""
    spec = replace(instance_spec(services, launch), on_demand=bool(found.get("on_demand")))
    return spec, _token(services, launch, found)


def _token(services: Services, launch: Launch, found: Mapping[str, Any]) -> str:
    on_demand = bool(found.get("on_demand"))
    return client_token(services.installation_id, launch.id, launch.generation, on_demand=on_demand)


def _create(services: Services, launch: Launch, run: StepRun) -> Instance:
    """On the spot market, and on demand where that is allowed and there is no room for it."""
    cloud = cloud_of(services, launch)
    spec, token = creation(services, launch, run.result)
    try:
        return cloud.create_instance(spec, token=token)
    except CapacityUnavailable as error:
        if spec.on_demand or not cloud.capabilities.spot_fallback:
            raise
        why = str(error)
    # Decided and on record before it is tried: whoever tries again asks for the same.
    run.save(
        {"on_demand": True},
        notes=[
            Note(
                kind=AuditKind.INFO,
                summary="no room on the spot market, so the instance is made on demand",
                step=run.key,
                detail={"reason": why},
            )
        ],
    )
    spec, token = creation(services, launch, run.result)
    return cloud.create_instance(spec, token=token)


def next_generation(work: Work) -> bool:
    """Give a launch whose instance is gone for good another one; answers whether it did.

    For a resumed launch only: a token outlives its instance, so the old one would bring the dead
    instance back for ever.
    """
    launch = work.launch()
    if launch.instance_id is None:
        return False
    if not _is_gone(work, launch):
        if calls_us(launch):
            # Somebody has mended what kept the server from calling: its token counts again.
            work.services.identities.extend(launch.id, launch.generation)
        return False
    with work.driver.transaction() as connection:
        work.update(
            connection,
            generation=launch.generation + 1,
            create_intended_at=None,
            instance_id=None,
            private_ip=None,
            public_ip=None,
            host_key=None,
            outputs={},
        )
    work.generation += 1
    return True


def finish_running(work: Work, run: StepRun, answer: Answer) -> None:
    """Record what the watch saw. Raises `InstanceFailed` saying what the instance did instead of
    running."""
    notes = [
        Note(
            kind=AuditKind.INFO,
            summary=f"instance {answer.instance_id} is {sighting.state}",
            step=run.key,
            detail={
                "state": sighting.state.value,
                "seen_at": sighting.at.isoformat(timespec="milliseconds"),
                "reason": sighting.reason,
            },
        )
        for sighting in answer.sightings
    ]
    found = answer.last
    if found is None or answer.seen is Seen.LOST or found.state is not InstanceState.RUNNING:
        work.driver.note(*notes)
        raise InstanceFailed(_instead_of_running(answer))
    run.succeed(
        f"instance {found.id} runs at {found.address}",
        result={"private_ip": found.private_ip, "public_ip": found.public_ip},
        also=lambda c: work.update(
            c, private_ip=found.private_ip, public_ip=found.public_ip, ssh_port=found.ssh_port
        ),
        notes=notes,
    )


def _instead_of_running(answer: Answer) -> str:
    found = answer.last
    trouble = f"; the cloud cannot be asked now: {answer.problem}" if answer.problem else ""
    if found is None:
        return f"instance {answer.instance_id} was never listed by its cloud{trouble}"
    if answer.seen is Seen.LOST:
        return f"instance {found.id} is lost: the cloud has stopped listing it{trouble}"
    because = f": {found.state_reason}" if found.state_reason else ""
    return f"instance {found.id} is {found.state} instead of running{because}{trouble}"


def finish_launch(work: Work, run: StepRun) -> None:
    """The launch is operational; its step and its status change together."""
    run.succeed(
        f"server {work.server} is operational",
        also=lambda c: work.enter(c, LaunchStatus.OPERATIONAL),
    )


def _is_gone(work: Work, launch: Launch) -> bool:
    """Terminated, failed, or listed once and not any more."""
    try:
        recorded_result(work, generation_step(launch.generation, "wait-for-running"))
        was_listed = True
    except NotFound:
        was_listed = False
    for _ in range(ABSENT_LISTINGS):
        found = {instance.id: instance for instance in instances_of(work.services, launch)}
        instance = found.get(launch.instance_id or "")
        if instance is not None or not was_listed:
            return instance is not None and instance.state in HOPELESS
        work.services.clock.sleep(ABSENT_PAUSE_S)
    return True


def generation_step(generation: int, key: str) -> str:
    """The key of a step that belongs to an instance, told apart for a second one."""
    return step_key(key if generation == 1 else f"{key}#{generation}")


def _find(services: Services, launch: Launch) -> Instance | None:
    """The instance that an earlier try has made. One that a token would bring back is looked for
    once; without tokens it must not be missed for being too new to be listed."""
    has_tokens = cloud_of(services, launch).capabilities.client_tokens
    for left in reversed(range(1 if has_tokens else ABSENT_LISTINGS)):
        for instance in instances_of(services, launch):
            same = instance.tags.get(TAG_GENERATION) == str(launch.generation)
            if same and instance.state not in HOPELESS:
                return instance
        if left:
            services.clock.sleep(ABSENT_PAUSE_S)
    return None


def instance_spec(services: Services, launch: Launch) -> InstanceSpec:
    """What to create for a launch: the same at every try."""
    template = services.template(launch.template_name, launch.template_hash)
    return InstanceSpec(
        name=launch.server_name,
        region=launch.region,
        image_id=launch.image_id,
        instance_type=launch.instance_type,
        ssh_public_key=services.ssh_public_key,
        login_user=launch.login_user,
        user_data=user_data_of(services, launch) if calls_us(launch) else launch.user_data,
        root_disk_gib=template.settings.root_disk_gib,
        tags={
            **template.settings.tags,
            TAG_INSTALLATION: services.installation_id,
            TAG_LAUNCH: launch.id,
            TAG_GENERATION: str(launch.generation),
            TAG_SERVER: launch.server_name,
            TAG_EXPIRES: launch.expires_at.isoformat(timespec="seconds"),
        },
    )
