"""Something to sweep, and a sweep of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.sweep_orphans import SweepRequest, sweep_orphans
from slipway.clouds.base import (
    TAG_EXPIRES,
    TAG_INSTALLATION,
    TAG_LAUNCH,
    InstanceSpec,
    InstanceState,
)
from slipway.clouds.local import DEFAULT_IMAGE
from tasks.services import use_services
from tests.launches.world import DEADLINE_S, World


@pytest.fixture
def left(world: World) -> Iterator[str]:
    """An instance whose launch nobody knows, and that has expired."""
    expired = world.services.clock.now() - timedelta(hours=1)
    tags = {
        TAG_INSTALLATION: world.services.installation_id,
        TAG_LAUNCH: "launch-lost",
        TAG_EXPIRES: expired.isoformat(),
    }
    spec = InstanceSpec(
        name="x", region="local", image_id=DEFAULT_IMAGE, instance_type="local.small",
        ssh_public_key=world.services.ssh_public_key, login_user="admin", tags=tags,
    )  # fmt: skip
    made = world.cloud.create_instance(spec, token=uuid.uuid4().hex).id
    yield made
    world.cloud.terminate("local", made)


def state_of(world: World, instance_id: str) -> InstanceState:
    """What became of the only instance of this installation."""
    tags = {TAG_INSTALLATION: world.services.installation_id}
    [found] = world.cloud.list_instances("local", tags=tags)
    assert found.id == instance_id
    return found.state


def sweep(
    world: World,
    request: SweepRequest,
    answer: Callable[[asyncio.Future[Any]], Awaitable[None]] | None = None,
) -> State[Any]:
    """Run the flow to its end; ``answer`` runs beside it."""

    async def both() -> State[Any]:
        flow = asyncio.ensure_future(sweep_orphans(request, return_state=True))
        if answer is not None:
            await answer(flow)
        return await asyncio.wait_for(flow, DEADLINE_S)

    with use_services(world.services):
        return asyncio.run(both())
